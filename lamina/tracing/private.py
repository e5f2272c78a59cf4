"""Every name that torch does not promise to keep, in one place, each with the reason why no public one will do."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from contextlib import AbstractContextManager
from types import FrameType
from typing import Any

import torch
from torch import nn
from torch._C import _functorch  # type: ignore[attr-defined]
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_flatten, tree_leaves, tree_map_only, tree_unflatten

__all__ = ["tree_flatten", "tree_leaves", "tree_map_only", "tree_unflatten"]  # `torch.utils.pytree` came with 2.11


def address(tensor: torch.Tensor) -> int:
    """Which allocation a tensor lies in: the address of the storage's C++ object. `data_ptr()` is 0 for all on the meta
    device. A sparse tensor lies in several, and a lazy one in none: each is known
    by itself."""
    try:
        return tensor.untyped_storage()._cdata
    except (NotImplementedError, RuntimeError, ValueError):
        return id(tensor)


def memory(tensor: torch.Tensor) -> int:
    """The bytes of that allocation; of a sparse tensor those of its indices and values."""
    if tensor.layout is torch.strided:
        return tensor.untyped_storage().nbytes()
    if tensor.layout is torch.sparse_coo:
        return tensor._indices().nbytes + tensor._values().nbytes
    by_rows = tensor.layout in (torch.sparse_csr, torch.sparse_bsr)
    first, second = (tensor.crow_indices(), tensor.col_indices()) if by_rows else (tensor.ccol_indices(), tensor.row_indices())
    return first.nbytes + second.nbytes + tensor.values().nbytes


def specified(tensor: torch.Tensor) -> int:
    """How many elements of a sparse tensor are stored."""
    return (tensor._values() if tensor.layout is torch.sparse_coo else tensor.values()).numel()


# ---- modules --------------------------------------------------------------------------------------------------------


def original(module: Any) -> Any:
    """What `torch.compile` was given, or the module itself: the class of compiled modules is in `torch._dynamo`, which takes
    seconds to import."""
    return module._orig_mod if is_compiled(module) else module


def is_wrapper(kind: type) -> bool:
    """Whether a class of tensors is made of other tensors (torch.utils._python_dispatch.is_traceable_wrapper_subclass)."""
    return hasattr(kind, "__tensor_flatten__")


def is_compiled(module: Any) -> bool:
    """Whether it is what `torch.compile(module)` returns."""
    return type(module).__name__ == "OptimizedModule"


def called_module(frame: FrameType) -> nn.Module | None:
    """The module whose call a frame of the Python stack is: errors have such frames, and their hooks are over."""
    return frame.f_locals["self"] if frame.f_code is nn.Module._call_impl.__code__ else None


# ---- operators ------------------------------------------------------------------------------------------------------

# The classes of `torch.ops.aten.add.Tensor` and of `torch.ops.aten.add`: torch has no public name for them.
Operator = torch._ops.OpOverload
OperatorPacket = torch._ops.OpOverloadPacket
# A function made by `torch.library.custom_op` keeps its operator here.
CUSTOM_OPERATOR = "_opoverload"


class DispatchMode(TorchDispatchMode):
    """torch's documentation of extending it names this class, though its module is private."""

    @classmethod
    def _should_skip_dynamo(cls) -> bool:
        return False  # else torch wraps `__torch_dispatch__`, whose first call then imports the compiler: a second


def hide(mode: DispatchMode) -> bool:
    """Take a mode off the stack, if it is on top; `show` puts it back. A context manager would take longer than a rule."""
    if not torch._C._len_torch_dispatch_stack():
        return False
    top = torch._C._pop_torch_dispatch_stack(None)
    if top is mode:
        return True
    show(top)
    return False


def is_on_top(mode: DispatchMode) -> bool:
    count = torch._C._len_torch_dispatch_stack()
    return bool(count) and torch._C._get_dispatch_stack_at(count - 1) is mode


def show(mode: DispatchMode) -> None:
    torch._C._push_on_torch_dispatch_stack(mode)


def unoptimized() -> AbstractContextManager[None]:
    """Scripted code runs as it was written: torch does not export this name from `torch.jit`, though it documents it."""
    return torch.jit.optimized_execution(False)  # pyright: ignore[reportPrivateImportUsage]


# Calls no function mode: what a dispatch mode runs for another would come back to it.
no_function_modes = torch._C.DisableTorchFunction
# What torch makes of a tensor that Python has made: no work.
detach = torch.ops.aten.detach.default
NOTHING = {torch.ops.aten.lift_fresh.default, detach, torch.ops.aten.alias.default}


# Operators that take functions.
cond = torch.ops.higher_order.cond
while_loop = torch.ops.higher_order.while_loop
flex_attention = torch.ops.higher_order.flex_attention


# ---- transforms -----------------------------------------------------------------------------------------------------

# The level of the innermost of torch.vmap, torch.func.grad and their like that is running; None outside of them.
transform_level = _functorch.maybe_current_level
# Whether a tensor is wrapped by one of them, which may be over.
is_wrapped = _functorch.is_functorch_wrapped_tensor
# Within, no gradients below those of the transforms: what they wrap is not differentiated by torch meanwhile.
below_autograd = torch._C._AutoDispatchBelowAutograd


# Where operators are written in Python: what they call there is no operation of the forward.
KERNELS = ("torch._meta_registrations", "torch._decomp", "torch._refs", "torch._prims", "torch._inductor")


def is_within_kernel(frame: FrameType | None) -> bool:
    """Whether an operator's Python code is running, as far as torch's own frames go up."""
    while frame is not None:
        name = frame.f_globals.get("__name__", "")
        if not name.startswith("torch."):
            return False
        if name.startswith(KERNELS):
            return True
        frame = frame.f_back
    return False


def is_flex_attention(frame: FrameType) -> bool:
    """Whether the Python of torch's FlexAttention is running, which asks for its tensors' device."""
    return frame.f_globals.get("__name__") == "torch.nn.attention.flex_attention"


def refuses_subclass(error: BaseException | None) -> bool:
    """Whether torch could not make a tensor of a subclass, by its plain constructor: under any dispatch mode it wants an
    object that Python does not know yet (torch.nn.attention.bias)."""
    return isinstance(error, RuntimeError) and "already associated to a python object" in str(error)


def refuses_device(error: BaseException | None) -> bool:
    """Whether torch's backward pass met a gradient on the meta device for a weight on another."""
    return isinstance(error, RuntimeError) and "expected device" in str(error) and "meta" in str(error)


def refuses_to_compile(error: BaseException | None) -> bool:
    """Whether torch wanted to compile an operator that takes functions, under the modes of a trace."""
    return type(error).__module__.startswith("torch._dynamo") or "found no compiled frames" in str(error)


def with_autograd() -> AbstractContextManager[Any]:
    """Gradients are possible within, also where a dispatch mode is running, which torch calls below them."""
    below = torch._C._dispatch_tls_local_exclude_set()
    above = below.remove(torch._C.DispatchKey.AutogradFunctionality)
    return torch._C._ForceDispatchKeyGuard(torch._C._dispatch_tls_local_include_set(), above)  # type: ignore[return-value]


def is_composite(operator: Any) -> bool:
    """Whether torch makes an operator of others: in inference mode it reaches a dispatch mode as it is."""
    key = torch._C.DispatchKey.CompositeImplicitAutograd
    return torch._C._dispatch_has_kernel_for_dispatch_key(operator.name(), key)


def writes(operator: Any) -> bool:
    """Whether an operator changes one of its arguments."""
    return operator._schema.is_mutable


def written(operator: Any, args: Sequence[Any], kwargs: Mapping[str, Any]) -> list[torch.Tensor]:
    """The tensors that a call of an operator changes."""
    places = [(place, x) for place, x in enumerate(operator._schema.arguments) if x.alias_info and x.alias_info.is_write]
    return [x for x in tree_leaves([args[i] if i < len(args) else kwargs.get(x.name) for i, x in places]) if x is not None]


# ---- functions that a mode sees -------------------------------------------------------------------------------------

# What `torch.no_grad()` and its like call: a function mode sees this one and not them.
set_grad_enabled = torch._C._set_grad_enabled
# Where torch.nn.functional has gelu, softplus and other functions of C++ from.
functional = torch._C._nn  # type: ignore[attr-defined]
# How `Tensor.to` reads its arguments, in all their orders: (device, dtype, non_blocking, memory format).
parse_to = torch._C._nn._parse_to  # type: ignore[attr-defined]
# An assertion that `torch.fx` can see.
check = torch._assert
# What torch.nn.utils.rnn calls for packed sequences.
pack_padded_sequence = torch._pack_padded_sequence  # type: ignore[attr-defined]
pad_packed_sequence = torch._pad_packed_sequence  # type: ignore[attr-defined]
# The fused inference kernels of nn.MultiheadAttention and nn.TransformerEncoderLayer.
native_multi_head_attention = torch._native_multi_head_attention  # type: ignore[attr-defined]
transformer_encoder_layer = torch._transformer_encoder_layer_fwd  # type: ignore[attr-defined]


def parameters(module: nn.Module) -> Mapping[str, nn.Parameter | None]:
    """A module's own parameters: torch's generators of them take ten times as long, for each of a network's modules."""
    return module._parameters


def children(module: nn.Module) -> Mapping[str, nn.Module | None]:
    """The same of the modules in it; one that has two names comes twice."""
    return module._modules


def buffers(module: nn.Module) -> Mapping[str, torch.Tensor | None]:
    """The same of its buffers."""
    return module._buffers


def asks_for_modes(function: Any) -> list[str]:
    """The names by which a function that torch writes in Python asks whether a mode is watching."""
    return [name for name in getattr(function, "__globals__", {}) if name.startswith("has_torch_function")]
