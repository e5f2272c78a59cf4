"""An independent counter: what torch really multiplies, on real CPU tensors, forward and in a backward pass that is really run.

Nothing of Lamina is used here. A `TorchDispatchMode` sees every ATen operator that autograd and the composite functions come
to; fused kernels are taken apart (attention by its plain form, recurrent layers without oneDNN, no fast paths), so that what is
left are matrix products and convolutions, whose multiply-accumulates follow from the sizes of the tensors in hand.
"""

import math
import warnings
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

aten = torch.ops.aten


def product(a: Tensor, b: Tensor) -> int:
    """(..., n, k) times (..., k, m), or with vectors."""
    columns = b.shape[-1] if b.dim() > 1 else 1
    return a.numel() * columns


def filtered(x: Tensor, weight: Tensor, output: Tensor, transposed: bool) -> int:
    """A convolution: each weight of a filter meets each of the batch's output pixels, or, transposed, each input pixel."""
    pixels = x if transposed else output
    return pixels.shape[0] * math.prod(pixels.shape[2:]) * weight.numel()


def convolution(args: tuple[Any, ...], result: Any) -> int:
    return filtered(args[0], args[1], result, args[6])


def convolution_backward(args: tuple[Any, ...], result: Any) -> int:
    """As many as forward for each of the gradients of input and weight that is asked for."""
    gradient, x, weight = args[:3]
    transposed, wanted = args[7], args[10]
    return (bool(wanted[0]) + bool(wanted[1])) * filtered(x, weight, gradient, transposed)


def grouped(args: tuple[Any, ...], result: Any) -> int:
    """Rows that belong to one matrix each (T, K) x (E, K, N), or, for the weights' gradient, (K, T) x (T, N)."""
    a, b = args[:2]
    return a.numel() * b.shape[-1] if a.dim() == 2 else b.numel() * a.shape[-2]


PRODUCTS: dict[Any, tuple[str, Callable[[tuple[Any, ...], Any], int]]] = {
    aten.convolution.default: ("conv", convolution),
    aten._convolution.default: ("conv", convolution),
    aten.convolution_overrideable.default: ("conv", convolution),
    aten.convolution_backward.default: ("conv", convolution_backward),
    aten.mm.default: ("linear", lambda args, result: product(args[0], args[1])),
    aten.addmm.default: ("linear", lambda args, result: product(args[1], args[2])),
    aten.mv.default: ("linear", lambda args, result: product(args[0], args[1])),
    aten.addmv.default: ("linear", lambda args, result: product(args[1], args[2])),
    aten.dot.default: ("matmul", lambda args, result: args[0].numel()),
    aten.vdot.default: ("matmul", lambda args, result: args[0].numel()),
    aten.bmm.default: ("matmul", lambda args, result: product(args[0], args[1])),
    aten.baddbmm.default: ("matmul", lambda args, result: product(args[1], args[2])),
    aten.addbmm.default: ("matmul", lambda args, result: product(args[1], args[2])),
    aten._grouped_mm.default: ("matmul", grouped),
}
# Kernels that do products of their own: what is not taken apart must not pass unseen.
FUSED = ("scaled_dot_product", "attention", "mkldnn", "lstm", "gru", "rnn", "transformer_encoder", "trilinear", "aten.linear")


@dataclass(frozen=True)
class Product:
    """One product that ran: its kind, and the storages of its operands, by their address."""

    kind: str
    macs: int
    operands: tuple[int, ...]


class Products(TorchDispatchMode):
    """The products that run under it. A fused kernel that would hide products raises NotImplementedError."""

    def __init__(self) -> None:
        super().__init__()
        self.found: list[Product] = []

    @property
    def macs(self) -> int:
        return sum(product.macs for product in self.found)

    def of(self, kind: str) -> list[Product]:
        return [product for product in self.found if product.kind == kind]

    def __torch_dispatch__(self, function: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        result = function(*args, **(kwargs or {}))
        packet = getattr(function, "_overloadpacket", function)
        name = str(function)
        base = name.removesuffix(".out")
        known = PRODUCTS.get(function)
        if known is None and base != name:
            known = PRODUCTS.get(getattr(packet, "default", None))
        if known is not None:
            kind, count = known
            operands = tuple(x.untyped_storage().data_ptr() for x in args if isinstance(x, Tensor))
            self.found.append(Product(kind, count(args, result), operands))
        elif any(part in name for part in FUSED) and "upsample" not in name:
            raise NotImplementedError(f"{name} may hide products")
        return result


@contextmanager
def taken_apart(module: nn.Module) -> Iterator[None]:
    """Without fused kernels: attention by its plain form, recurrent layers without oneDNN, no fast paths."""
    fast = torch.backends.mha.get_fastpath_enabled()
    with ExitStack() as stack:
        stack.enter_context(sdpa_kernel(SDPBackend.MATH))
        if any(isinstance(m, nn.RNNBase) for m in module.modules()):
            stack.enter_context(warnings.catch_warnings())
            warnings.simplefilter("ignore")  # the flags below speak of GPUs
            stack.enter_context(torch.backends.mkldnn.flags(enabled=False))
        torch.backends.mha.set_fastpath_enabled(False)
        try:
            yield
        finally:
            torch.backends.mha.set_fastpath_enabled(fast)


@dataclass(frozen=True)
class Counts:
    parameters: int
    macs: int
    backward_macs: int


def gradients_of(result: Any) -> list[Tensor]:
    """The tensors of a result, however nested, that a gradient flows from, each once."""
    values = result.to_tuple() if hasattr(result, "to_tuple") else result
    found = [t for t in tree_leaves(values) if isinstance(t, Tensor) and t.requires_grad and t.is_floating_point()]
    return list({id(t): t for t in found}.values())


def count(module: nn.Module, *inputs: Any, **options: Any) -> Counts:
    """The counts of one call of a real module on real tensors, in its own mode, and of the gradients of the sum of all
    its results. The module's buffers may change; it is for nothing else afterwards."""
    with taken_apart(module), torch.enable_grad():
        with Products() as forward:
            result = module(*inputs, **options)
        ends = gradients_of(result)
        with Products() as behind:
            if ends:
                torch.autograd.backward(ends, [torch.ones_like(t) for t in ends])
    parameters = sum(p.numel() for p in module.parameters())
    return Counts(parameters, forward.macs, behind.macs)
