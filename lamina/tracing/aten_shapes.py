"""ATen operators with a shape rule of their own: their meta kernels are written in Python and take a second to import.

A rule returns the result's stand-in, its kind, loop nests and other arithmetic, or NotImplemented to let the kernel run.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from lamina import operators
from lamina.operators import elementwise_ops, reduction_ops
from lamina.tracing.aten_kinds import classify
from lamina.tracing.emitter import Emitter
from lamina.workload import Loops

aten = torch.ops.aten


def _convolution(t: Emitter, x, w, bias, stride, padding, dilation, transposed, output_padding, groups, *_: Any):
    axes = w.dim() - 2
    stride, padding, dilation, extra = (operators.per_axis(v, axes) for v in (stride, padding, dilation, output_padding))
    xs, ws = tuple(x.shape), tuple(w.shape)
    if transposed:
        shape, nest = operators.transposed_convolution(xs, ws, stride, padding, extra, dilation, groups)
    else:
        shape, nest = operators.convolution(xs, ws, stride, padding, dilation, groups)
    return t.new(shape, x.dtype), "conv", (nest,), {"add": math.prod(shape)} if bias is not None else {}


def _product(left: int, right: int) -> Callable[..., Any]:
    """mm, bmm and their adding forms; `left` and `right` are the places of the factors."""

    def product(t: Emitter, *args: Any, **_: Any) -> Any:
        a, b = tuple(args[left].shape), tuple(args[right].shape)
        shape, nest = operators.matmul(a, b)
        ops = {"add": math.prod(shape)} if left else {}
        return t.new(shape, args[left].dtype), "matmul", (nest,), ops

    return product


def _adding_batches(t: Emitter, base: Tensor, a: Tensor, b: Tensor, **_: Any) -> Any:
    """addbmm: the products of a batch, summed."""
    (groups, rows, inner), columns = a.shape, b.shape[2]
    nest = Loops(N=rows, M=columns, C=groups * inner)
    return t.new((rows, columns), a.dtype), "matmul", (nest,), {"add": rows * columns}


def _integers(t: Emitter, a: Tensor, b: Tensor, **_: Any) -> Any:
    """_int_mm: int8 factors, int32 sums."""
    shape, nest = operators.matmul(tuple(a.shape), tuple(b.shape))
    return t.new(shape, torch.int32), "matmul", (nest,), {}


def _writing(rule: Callable[..., Any]) -> Callable[..., Any]:
    """The form of a product that writes to `out` or to its first operand."""

    def writing(t: Emitter, *args: Any, out: Tensor | None = None, **kwargs: Any) -> Any:
        result, *cost = rule(t, *args, **kwargs)
        target = args[0] if out is None else out
        if target.shape != result.shape:
            raise operators.ShapeError(f"cannot write {tuple(result.shape)} into {tuple(target.shape)}")
        return target, *cost

    return writing


def _grouped(t: Emitter, a: Tensor, b: Tensor, offs: Tensor | None = None, *_: Any, **options: Any) -> Any:
    """_grouped_mm: products of uneven groups, as a mixture of experts makes them. Where the groups divide the rows, the
    inner axis or the columns, their sum is that of the whole axis."""
    x, w = tuple(a.shape), tuple(b.shape)
    if x[-1] != w[-2]:
        raise operators.ShapeError(f"cannot multiply {x} by {w} in groups")
    groups = offs.shape[0] if offs is not None else 1
    shape = (x[-2], w[-1]) if len(x) != len(w) else (groups if len(x) == 2 else x[0], x[-2], w[-1])
    nest = Loops(N=x[-2], G=x[0] if len(x) == len(w) == 3 else 1, M=w[-1], C=x[-1])
    return t.new(shape, options.get("out_dtype") or a.dtype), "matmul", (nest,), {}


def _index(t: Emitter, x: Tensor, indices: list[Tensor | None]) -> Any:
    places = [i for i, index in enumerate(indices) if index is not None]
    chosen = [index for index in indices if index is not None]
    if any(index.dtype == torch.bool for index in chosen):
        return NotImplemented
    wide = operators.broadcast(*(tuple(index.shape) for index in chosen))
    rest = [size for i, size in enumerate(x.shape) if i not in places]
    start = places[0] if places == list(range(places[0], places[-1] + 1)) else 0
    return t.new((*rest[:start], *wide, *rest[start:]), x.dtype), "copy", (), {}


def _cat(t: Emitter, tensors: list[Tensor], dim: int = 0) -> Any:
    parts = [x for x in tensors if x.dim() != 1 or x.numel()]
    if not parts:  # empty vectors only
        return NotImplemented
    shape = list(parts[0].shape)
    shape[dim] = sum(x.shape[dim] for x in parts)
    return t.new(tuple(shape), parts[0].dtype), "copy", (), {}


def _pointwise(name: str) -> Callable[..., Any]:
    """Arithmetic on floating-point tensors of one type; anything else (promotion, comparisons) is left to torch."""

    def pointwise(t: Emitter, *args: Any, **kwargs: Any) -> Any:
        tensors = [x for x in args if isinstance(x, Tensor)]
        if len({x.dtype for x in tensors}) > 1 or not tensors[0].is_floating_point() or tensors[0].device.type != "meta":
            return NotImplemented
        shape = operators.broadcast(*(tuple(x.shape) for x in tensors))
        return t.new(shape, tensors[0].dtype), "elementwise", (), elementwise_ops(name, math.prod(shape))

    return pointwise


def _power(t: Emitter, x: Tensor, exponent: Any, **kwargs: Any) -> Any:
    if not x.is_floating_point() or x.device.type != "meta" or isinstance(exponent, complex):
        return NotImplemented
    return t.new(tuple(x.shape), x.dtype), "elementwise", (), operators.power_ops(x.numel(), exponent)


def _reduction(name: str) -> Callable[..., Any]:
    def reduction(t: Emitter, x: Tensor, dim: Any = None, keepdim: bool = False, **kwargs: Any) -> Any:
        if kwargs or not x.is_floating_point() or x.device.type != "meta":
            return NotImplemented
        dims = range(x.dim()) if not dim else [d % x.dim() for d in ([dim] if isinstance(dim, int) else dim)]
        kept = [1 if i in dims else size for i, size in enumerate(x.shape) if keepdim or i not in dims]
        out = t.new(tuple(kept), x.dtype)
        return out, "elementwise", (), reduction_ops(name, x.numel(), out.numel())

    return reduction


def _random_like(t: Emitter, x: Tensor, *, dtype: Any = None, **_: Any) -> Any:
    return t.new(tuple(x.shape), dtype or x.dtype), "copy", (), {}


def _filled(t: Emitter, x: Tensor, *_: Any, **__: Any) -> Any:
    return x, "copy", (), {}


_ADDED = 0  # a bag's mode
_FAST = (torch.float32, torch.float16, torch.bfloat16)


def _embedding_bag(t: Emitter, weight: Tensor, indices: Tensor, offsets: Tensor, *options: Any, **named: Any) -> Any:
    """What the CPU's kernel returns beside the bags (aten/src/ATen/native/EmbeddingBag.cpp): for each word its bag, worked out
    with room for one more, unless bags are added the fast way; the words that were largest, or a number a bag."""
    args = (weight, indices, offsets, *options)
    out, bags, sizes, largest = aten._embedding_bag.default(*args, **named)
    if t.device == "cpu":
        given: tuple[Any, ...] = (*options, *(False, _ADDED, False, None, False, -1)[len(options) :])
        fast = given[1] == _ADDED and given[5] < 0 and weight.dtype in _FAST and weight.stride(1) == 1
        bags = t.new((0 if fast else bags.numel() + 1,), bags.dtype)[:-1]
        largest = largest if largest.numel() else t.new(tuple(sizes.shape), sizes.dtype)
    result = (out, bags, sizes, largest)
    return result, *classify("_embedding_bag", args, named, result)


# Products, by the name of their operator.
PRODUCTS: dict[str, Callable[..., Any]] = {
    **dict.fromkeys(("mm", "bmm", "mv", "dot", "vdot"), _product(0, 1)),
    **dict.fromkeys(("addmm", "baddbmm", "addmv"), _product(1, 2)),
    "addbmm": _adding_batches,
    "_int_mm": _integers,
}

# Their operators, which are counted where they run on real values too.
COUNTED: dict[Any, Callable[..., Any]] = {
    **{getattr(aten, name).default: rule for name, rule in PRODUCTS.items()},
    **{getattr(aten, name).out: _writing(rule) for name, rule in PRODUCTS.items()},
    **{getattr(aten, f"{name}_").default: _writing(PRODUCTS[name]) for name in ("addmm", "baddbmm", "addmv", "addbmm")},
}

RULES: dict[Any, Callable[..., Any]] = {
    aten.convolution.default: _convolution,
    aten._convolution.default: _convolution,  # of torch.jit.trace
    **COUNTED,
    aten._grouped_mm.default: _grouped,
    **dict.fromkeys((aten._embedding_bag.default, aten._embedding_bag_forward_only.default), _embedding_bag),
    aten.index.Tensor: _index,
    aten.cat.default: _cat,
    **{getattr(aten, name).Tensor: _pointwise(name) for name in ("add", "sub", "mul", "div")},
    **{
        getattr(aten, name).default: _pointwise(name)
        for name in ("neg", "abs", "exp", "log", "sqrt", "rsqrt", "reciprocal", "erf")
    },
    aten.pow.Tensor_Scalar: _power,
    aten.sum.dim_IntList: _reduction("sum"),
    aten.rand_like.default: _random_like,
    aten.randn_like.default: _random_like,
    aten.normal_.default: _filled,
    aten.uniform_.default: _filled,
    aten.bernoulli_.float: _filled,
    aten.exponential_.default: _filled,
    aten.mean.dim: _reduction("mean"),
}
