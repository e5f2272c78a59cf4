"""What moves data and computes nothing: concatenation, padding, views, copies, look-ups, conversions."""

from __future__ import annotations

import math
from collections.abc import Callable
from operator import attrgetter, itemgetter
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F
from torch.nn.parameter import is_lazy

from lamina import operators
from lamina.operators import ShapeError
from lamina.tracing import meta_ops, private
from lamina.tracing.emitter import Emitter
from lamina.tracing.rules.table import RULES, rule
from lamina.tracing.values import META, SMALL, assume, tensors

_SHAPE, _DTYPE = attrgetter("shape"), attrgetter("dtype")


@rule(torch.cat, torch.concat, torch.concatenate)
def cat(t: Emitter, tensors, dim: int = 0, *, out=None, axis: int | None = None) -> Tensor:
    parts = list(tensors)
    shapes: list[tuple[int, ...]] = list(map(_SHAPE, parts))
    kinds = set(shapes)
    if (0,) in kinds:  # torch skips empty vectors
        parts = [x for x, shape in zip(parts, shapes, strict=True) if shape != (0,)]
        shapes = [shape for shape in shapes if shape != (0,)]
        kinds.remove((0,))
    if out is not None or not parts or not (parts[0].is_meta or any(x.is_meta for x in parts) or t.ledger.is_weight(*parts)):
        return NotImplemented
    if len(set(map(_DTYPE, parts))) > 1:
        return NotImplemented
    first = tuple(shapes[0])
    place = (dim if axis is None else axis) % len(first)
    around = first[:place], first[place + 1 :]
    for shape in kinds:
        if len(shape) != len(first) or (shape[:place], shape[place + 1 :]) != around:
            raise ShapeError(f"cannot concatenate {' and '.join(map(operators.shape_text, shapes))} along axis {place}")
    shape = (*around[0], sum(map(itemgetter(place), shapes)), *around[1])
    return t.emit("copy", "cat", parts, t.new(shape, parts[0].dtype), attributes={"dim": place})


@rule(F.pad)
def pad(t: Emitter, input: Tensor, pad: list[int], mode: str = "constant", value: float | None = None) -> Tensor:
    if not input.is_meta:
        return NotImplemented
    shape = list(input.shape)
    for i in range(len(pad) // 2):
        shape[-1 - i] += pad[2 * i] + pad[2 * i + 1]
    saved = (input,) if mode in ("reflect", "replicate") else ()
    return t.emit("copy", "pad", (input,), t.new(tuple(shape), input.dtype), saved=saved, attributes={"pad": tuple(pad)})


@rule(torch.stack)
def stack(t: Emitter, tensors, dim: int = 0, *, out=None) -> Any:
    parts = list(tensors)
    if out is not None or not parts or not any(x.is_meta for x in parts) or len({x.dtype for x in parts}) > 1:
        return NotImplemented
    shapes = {tuple(x.shape) for x in parts}
    if len(shapes) > 1:
        raise ShapeError(f"cannot stack {' and '.join(map(operators.shape_text, sorted(shapes)))}")
    shape = list(shapes.pop())
    shape.insert(dim % (len(shape) + 1), len(parts))
    return t.emit("copy", "stack", parts, t.new(tuple(shape), parts[0].dtype), attributes={"dim": dim})


# ---- views ------------------------------------------------------------------------------------------------------


def view(function: Callable[..., Any], name: str) -> Callable[..., Any]:
    """Shape changes run as they are: on the meta device they are C++ and cost a microsecond. A result in its input's
    storage is a view; in a storage of its own it is a copy (reshape of a transposed tensor)."""
    like = name.endswith("_as")  # the other tensor lends its shape only
    detached = name in ("detach", "data")

    def run(t: Emitter, input: Any, *args: Any, **kwargs: Any) -> Any:
        if not isinstance(input, Tensor) or (name == "data" and is_lazy(input)):
            return NotImplemented
        if name == "getitem":
            if not _is_basic(args[0]):
                return NotImplemented
        elif args and not like and isinstance(args[0], Tensor):
            return NotImplemented
        source = input
        if not input.is_meta:
            if not input.is_floating_point() or not t.ledger.is_own(input):
                return NotImplemented
            source = t.ledger.meta(input)
        if source.requires_grad:  # a weight on the meta device
            with torch.no_grad():
                out = function(source, *args, **kwargs)
        else:
            out = function(source, *args, **kwargs)
        if isinstance(out, Tensor):
            if out is input:  # nothing happened
                return out
            shared = private.address(out) == private.address(source)
            whole = shared and out.numel() == source.numel() and t.ledger.is_own(source)
            if whole and not (detached and t.ledger.is_differentiable(input)):
                return out  # the whole weight in another form is that weight
            return t.emit("view" if shared else "copy", name, (input,), out, detached=detached)
        address = private.address(source)
        shared = all(private.address(part) == address for part in out)
        t.emit("view" if shared else "copy", name, (input,), tuple(out))
        return out

    return run


def _is_basic(index: Any) -> bool:
    for i in index if isinstance(index, tuple) else (index,):
        if not (i is None or i is Ellipsis or (isinstance(i, (int, slice)) and not isinstance(i, bool))):
            return False
        if isinstance(i, slice) and (isinstance(i.start, Tensor) or isinstance(i.stop, Tensor)):
            return False
    return True


for _name in (
    "flatten", "unflatten", "reshape", "permute", "transpose", "squeeze", "unsqueeze", "chunk", "split", "unbind", "narrow",
    "movedim", "moveaxis", "select", "expand", "expand_as", "view", "view_as", "reshape_as", "contiguous", "t", "detach",
    "swapaxes", "swapdims", "clone", "broadcast_to", "ravel", "unfold", "diagonal", "tensor_split", "split_with_sizes",
    "view_as_real", "view_as_complex", "adjoint", "repeat", "tile", "flip",
):  # fmt: skip
    for _home in (torch, Tensor):
        if hasattr(_home, _name):
            RULES[getattr(_home, _name)] = view(getattr(_home, _name), _name)
_AS_VIEW: dict[Any, Callable[..., Any]] = {
    f: view(f, name) for f, name in ((torch.roll, "roll"), (Tensor.__getitem__, "getitem"))
}
_AS_VIEW |= {f: RULES[f] for f in (Tensor.reshape, Tensor.contiguous)}
for _name in ("T", "mT", "H", "mH", "data", "real", "imag"):
    RULES[getattr(Tensor, _name).__get__] = view(getattr(Tensor, _name).__get__, _name)


# What copies is made here: torch's meta kernels of a copy are written in Python, and take ten to thirty times as long.


@rule(torch.reshape, Tensor.reshape)
def reshape(t: Emitter, input: Tensor, *shape: Any, **kwargs: Any) -> Any:
    wanted = tuple(shape[0]) if len(shape) == 1 and isinstance(shape[0], (tuple, list)) else shape
    if input.is_meta and not kwargs and not input.is_contiguous() and all([type(n) is int for n in wanted]):
        copied = operators.copied(tuple(input.shape), input.stride(), wanted)
        if copied is not None:
            return t.emit("copy", "reshape", (input,), t.new(copied, input.dtype))
    return _AS_VIEW[Tensor.reshape](t, input, *shape, **kwargs)


@rule(Tensor.contiguous)
def contiguous(t: Emitter, input: Tensor, **kwargs: Any) -> Any:
    if not input.is_meta or kwargs or input.is_contiguous():
        return _AS_VIEW[Tensor.contiguous](t, input, **kwargs)
    return t.emit("copy", "contiguous", (input,), t.new(tuple(input.shape), input.dtype))


@rule(torch.roll, Tensor.roll)
def roll(t: Emitter, input: Tensor, shifts: Any, dims: Any = ()) -> Any:
    axes = (dims,) if isinstance(dims, int) else tuple(dims)
    count = 1 if isinstance(shifts, int) else len(shifts)
    fits = len(axes) == count and all(-input.dim() <= axis < input.dim() for axis in axes)
    if not fits or not input.is_meta or not input.is_contiguous():
        return _AS_VIEW[torch.roll](t, input, shifts, dims)
    return t.emit("copy", "roll", (input,), t.new(tuple(input.shape), input.dtype))


@rule(Tensor.__getitem__)
def getitem(t: Emitter, input: Tensor, index: Any) -> Any:
    if type(index) is not Tensor:
        return _AS_VIEW[Tensor.__getitem__](t, input, index)
    if index.dtype not in (torch.int64, torch.int32) or not input.dim() or not (input.is_meta or t.ledger.is_weight(input)):
        return NotImplemented
    return t.emit("copy", "getitem", (input, index), t.new((*index.shape, *input.shape[1:]), input.dtype), saved=(index,))


@rule(Tensor.__setitem__)
def setitem(t: Emitter, input: Tensor, index: Any, value: Any) -> Any:
    """Writing a part in place: the rest of the tensor stays, so that it is both an input and the output."""
    if not input.is_meta or not _is_basic(index) or t.ledger.is_own(input):
        return NotImplemented
    if isinstance(value, Tensor):
        with torch.no_grad():
            part = tuple(input[index].shape)
        if operators.broadcast(part, tuple(value.shape)[-max(1, len(part)) :]) != part:
            raise ShapeError(f"cannot write {tuple(value.shape)} into {part}")
        t.emit("copy", "setitem", (input, value), input)
        return None
    places = index if isinstance(index, tuple) else (index,)
    if len(places) > input.dim() or not all([type(i) is slice for i in places]):  # slices are always there
        with torch.no_grad():
            input[index]
    t.emit("copy", "setitem", (input,), input)
    return None


@rule(Tensor.detach_)
def detach_(t: Emitter, input: Tensor) -> Any:
    if not input.is_meta or t.ledger.is_own(input):
        return NotImplemented
    return t.emit("view", "detach", (input,), input, detached=True)


@rule(private.check)
def check(t: Emitter, condition: Any, message: Any) -> Any:
    return NotImplemented if isinstance(condition, Tensor) else private.check(condition, message)


# ---- conversions ------------------------------------------------------------------------------------------------


def _converted(t: Emitter, input: Tensor, dtype: torch.dtype | None, name: str, copy: bool = False) -> Any:
    """A tensor of another type is a copy; on another device it stays where it is: a trace has one device, and small
    integer tensors keep their values."""
    if (dtype is None or dtype == input.dtype) and not copy:
        return input
    dtype = dtype or input.dtype
    if not input.is_meta and not t.ledger.is_own(input):
        return meta_ops.run(t, Tensor.to, (input, dtype), {"copy": copy})
    return t.emit("copy", name, (input,), t.elementwise(tuple(input.shape), dtype, input))


@rule(Tensor.to)
def to(t: Emitter, input: Tensor, *args: Any, **kwargs: Any) -> Any:
    copy = bool(kwargs.pop("copy", False)) or (len(args) > 2 and args[-1] is True and len(args) == 4)
    if args and isinstance(args[0], Tensor):
        return _converted(t, input, args[0].dtype, "to", copy)
    if "other" in kwargs:
        return _converted(t, input, kwargs["other"].dtype, "to", copy)
    return _converted(t, input, private.parse_to(*args, **kwargs)[1], "to", copy)


@rule(Tensor.type_as)
def type_as(t: Emitter, input: Tensor, other: Tensor) -> Any:
    return _converted(t, input, other.dtype, "type_as")


@rule(Tensor.cpu, Tensor.cuda)
def to_device(t: Emitter, input: Tensor, *args: Any, **kwargs: Any) -> Tensor:
    return input


@rule(Tensor.requires_grad_)
def requires_grad_(t: Emitter, input: Tensor, requires_grad: bool = True) -> Tensor:
    t.ledger.set_requires_grad(input, requires_grad)
    return input


def _cast(name: str, dtype: torch.dtype) -> None:
    def cast(t: Emitter, input: Tensor, memory_format: Any = None) -> Any:
        return _converted(t, input, dtype, name)

    RULES[getattr(Tensor, name)] = cast


for _name, _dtype in (
    ("float", torch.float32), ("double", torch.float64), ("half", torch.float16), ("bfloat16", torch.bfloat16),
    ("int", torch.int32), ("long", torch.int64), ("bool", torch.bool),
):  # fmt: skip
    _cast(_name, _dtype)


# ---- look-ups and choices ---------------------------------------------------------------------------------------


@rule(F.embedding)
def embedding(
    t: Emitter, input: Tensor, weight: Tensor, padding_idx=None, max_norm=None, norm_type=2.0, scale_grad_by_freq=False,
    sparse=False,
) -> Any:  # fmt: skip
    if max_norm is not None:
        return NotImplemented
    if weight.dim() != 2:
        raise ShapeError(f"an embedding's table has two axes, got {tuple(weight.shape)}")
    out = t.new((*input.shape, weight.shape[1]), weight.dtype)
    return t.emit("embedding", "embedding", (input, weight), out, saved=(input,))


@rule(torch.embedding)
def plain_embedding(t: Emitter, weight: Tensor, input: Tensor, *_: Any, **__: Any) -> Any:
    return embedding(t, input, weight)


def _routing(t: Emitter, shape: tuple[int, ...], k: int, of: int) -> tuple[Tensor, dict[str, Any]]:
    """Which k of `of` values a row chooses: unknown in a trace. Choices take turns, so that code which reads them (a
    mixture of experts that gathers each expert's tokens) does the right total work, spread evenly."""
    attributes = {"k": k, "of": of}
    if t.real or math.prod(shape) > SMALL:
        return t.new(shape, torch.int64), attributes
    rows = math.prod(shape) // max(k, 1)
    indices = (torch.arange(rows).mul_(k).unsqueeze_(1) + torch.arange(k)).remainder_(of).reshape(shape)
    assume(indices)
    return indices, attributes


@rule(torch.topk, Tensor.topk)
def topk(t: Emitter, input: Tensor, k: int, dim: int = -1, largest=True, sorted=True, *, out=None) -> Any:
    if out is not None or not input.is_meta or not input.dim():
        return NotImplemented
    place, shape = dim % input.dim(), list(input.shape)
    if k > shape[place]:
        raise ShapeError(f"there are no {k} largest of {shape[place]} values")
    of, shape[place] = shape[place], k
    values = t.new(tuple(shape), input.dtype)
    if place == len(shape) - 1:
        indices, attributes = _routing(t, tuple(shape), k, of)
    else:
        indices, attributes = t.new(tuple(shape), torch.int64), {"k": k, "of": of}
    ops = operators.reduction_ops("topk", input.numel(), values.numel())
    t.emit("elementwise", "topk", (input,), (values, indices), (), ops, (indices,), attributes)
    return torch.return_types.topk((values, indices))


@rule(torch.argmax, Tensor.argmax)
def argmax(t: Emitter, input: Tensor, dim=None, keepdim: bool = False, *, out=None) -> Any:
    if out is not None or not input.is_meta or dim is None or dim % input.dim() != input.dim() - 1:
        return NotImplemented
    indices, attributes = _routing(t, operators.reduced(tuple(input.shape), dim, keepdim), 1, input.shape[-1])
    ops = operators.reduction_ops("argmax", input.numel(), indices.numel())
    return t.emit("elementwise", "argmax", (input,), indices, (), ops, (), attributes)


def _histogram(input: Tensor, bins: int, min: float, max: float) -> Tensor:
    return torch.histc(input.double(), bins, min, max).to(input.dtype)


@rule(torch.histc, Tensor.histc)
def histc(t: Emitter, input: Tensor, bins: int = 100, min: float = 0, max: float = 0, *, out=None) -> Any:
    """Of whole numbers too, which torch has on GPUs only (how many tokens each expert gets)."""
    if input.is_meta or input.is_floating_point() or out is not None:
        return NotImplemented
    return meta_ops.run(t, _histogram, (input, bins, min, max), {})


# ---- new tensors ------------------------------------------------------------------------------------------------


def _factory(function: Callable[..., Any]) -> Callable[..., Any]:
    """New tensors are on the meta device, except the small ones that a forward may read: integers and constants wherever
    they are asked for (a mask on the device of an input), others where no device, or a real one, is named."""
    constant = function in (torch.ones, torch.zeros, torch.full, torch.eye, torch.linspace, torch.arange)

    def run(t: Emitter, *args: Any, **kwargs: Any) -> Any:
        if kwargs.get("out") is not None or kwargs.get("layout", torch.strided) is not torch.strided:
            return NotImplemented
        options = {k: v for k, v in kwargs.items() if k not in ("device", "pin_memory")}
        if any(isinstance(a, Tensor) for a in args):
            return NotImplemented
        with torch.no_grad():
            shape = function(*args, **options, device=META)
        on_meta = torch.device(kwargs.get("device") or torch.get_default_device()).type == "meta"
        whole = not (shape.is_floating_point() or shape.is_complex())
        if shape.numel() <= SMALL and (constant or whole or not on_meta):
            return meta_ops.run(t, function, args, options | {"device": "cpu"})
        return t.emit("copy", function.__name__, (), shape)

    return run


for _name in ("zeros", "ones", "empty", "full", "arange", "eye", "linspace", "rand", "randn"):
    RULES[getattr(torch, _name)] = _factory(getattr(torch, _name))


def _new(name: str) -> None:
    def new(t: Emitter, input: Tensor, *size: Any, dtype=None, device=None, **_: Any) -> Any:
        if not input.is_meta or device is not None:
            return NotImplemented
        sizes = size[0] if size and not isinstance(size[0], int) else size
        return t.emit("copy", name, (), t.new(tuple(sizes), dtype or input.dtype))

    RULES[getattr(Tensor, name)] = new


def _like(function: Callable[..., Any]) -> None:
    def like(t: Emitter, input: Tensor, *_: Any, dtype=None, device=None, **__: Any) -> Any:
        if not input.is_meta or device is not None:
            return NotImplemented
        return t.emit("copy", function.__name__, (), t.new(tuple(input.shape), dtype or input.dtype))

    RULES[function] = like


for _name in ("new_zeros", "new_ones", "new_empty"):
    _new(_name)
for _function in (torch.zeros_like, torch.ones_like, torch.empty_like, torch.full_like):
    _like(_function)


@rule(torch.tensor)
def tensor(t: Emitter, data: Any, *, dtype=None, device=None, requires_grad=False, pin_memory=False) -> Any:
    """A constant keeps its value."""
    if any(x.is_meta for x in tensors(data)):
        return NotImplemented
    with torch.no_grad():
        out = torch.tensor(data.detach() if isinstance(data, Tensor) else data, dtype=dtype, device="cpu")
    t.ledger.identify(out)
    return out
