"""Convolutions, linear layers, matrix products."""

from __future__ import annotations

import math
from functools import lru_cache
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

from lamina import operators
from lamina.operators import Shape, per_axis
from lamina.tracing import private
from lamina.tracing.emitter import Emitter
from lamina.tracing.rules.table import rule
from lamina.workload import Kind, Loops, replace

# Repeated blocks have the same shapes: shape and nest (without operands) of each are computed once.
_linear = lru_cache(4096)(operators.linear)
_matmul = lru_cache(4096)(operators.matmul)


@lru_cache(4096)
def _convolution(x: Shape, w: Shape, stride: Any, padding: Any, dilation: Any, groups: int) -> tuple[Shape, Loops]:
    dilations, steps = per_axis(dilation, len(w) - 2), per_axis(stride, len(w) - 2)
    return operators.convolution(x, w, steps, operators.resolve_padding(padding, w[2:], dilations), dilations, groups)


def _fixed(setting: Any) -> Any:
    return tuple(setting) if isinstance(setting, list) else setting


@rule(torch.conv1d, torch.conv2d, torch.conv3d)
def convolution(t: Emitter, input: Tensor, weight: Tensor, bias=None, stride=1, padding=0, dilation=1, groups=1) -> Tensor:
    w = tuple(weight.shape)
    operands = t.operands(input, weight, bias)
    try:
        shape, nest = _convolution(tuple(input.shape), w, stride, padding, dilation, groups)
    except TypeError:  # a list of numbers
        shape, nest = _convolution(tuple(input.shape), w, *map(_fixed, (stride, padding, dilation)), groups)
    out = t.new(shape, input.dtype)
    ops = {"add": math.prod(shape)} if bias is not None else {}
    nests = (replace(nest, operands=operands),)
    return t.emit("conv", f"conv{len(w) - 2}d", (input, weight, bias), out, nests, ops, saved=(input, weight))


@rule(torch.conv_transpose1d, torch.conv_transpose2d, torch.conv_transpose3d)
def transposed_convolution(
    t: Emitter, input: Tensor, weight: Tensor, bias=None, stride=1, padding=0, output_padding=0, groups=1, dilation=1
) -> Tensor:
    w = tuple(weight.shape)
    axes = len(w) - 2
    steps, pads, extra, dilations = (per_axis(v, axes) for v in (stride, padding, output_padding, dilation))
    operands = t.operands(input, weight, bias)
    shape, nest = operators.transposed_convolution(tuple(input.shape), w, steps, pads, extra, dilations, groups, operands)
    out = t.new(shape, input.dtype)
    ops = {"add": math.prod(shape)} if bias is not None else {}
    return t.emit("conv", f"conv_transpose{axes}d", (input, weight, bias), out, (nest,), ops, saved=(input, weight))


def _folded(x: Tensor) -> int:
    """The bytes of a linear layer's copy of its input."""
    return operators.folded_copy(tuple(x.shape), x.stride()) * x.element_size()


@rule(F.linear)
def linear(t: Emitter, input: Tensor, weight: Tensor, bias=None) -> Tensor:
    if weight.layout is not torch.strided:
        return _sparse_product(t, input, weight, "linear", (*input.shape[:-1], weight.shape[0]), bias)
    operands = t.operands(input, weight, bias)
    shape, nest = _linear(tuple(input.shape), tuple(weight.shape))
    out = t.new(shape, input.dtype)
    ops = {"add": math.prod(shape)} if bias is not None else {}
    nests = (replace(nest, operands=operands),)
    saved, copy = t.ledger.factors(input, weight), 0
    if saved[0] is input and not input.is_contiguous() and weight.dim() == 2:
        copy = _folded(input)
        saved = (copy or input, saved[1])
    return t.emit("linear", "linear", (input, weight, bias), out, nests, ops, saved=saved, workspace=copy)


@rule(torch.matmul, Tensor.matmul, Tensor.__matmul__, torch.linalg.matmul)
def matmul(t: Emitter, input: Tensor, other: Tensor, *, out=None, out_dtype=None) -> Tensor:
    """With one of the module's weights it is a linear layer."""
    if input.layout is not torch.strided or other.layout is not torch.strided:
        return _sparse_product(t, input, other, "matmul", operators.matmul(tuple(input.shape), tuple(other.shape))[0])
    if out is not None or out_dtype is not None or not (input.is_meta or other.is_meta or t.ledger.is_weight(input, other)):
        return NotImplemented
    operands = t.operands(input, other)
    shape, nest = _matmul(tuple(input.shape), tuple(other.shape))
    result = t.new(shape, input.dtype)
    kind: Kind = "linear" if t.ledger.is_weight(input, other) else "matmul"
    saved, copies = t.ledger.factors(input, other), 0
    if input.dim() > 2 and other.dim() > 2:
        copied = [operators.batched_copy(tuple(x.shape), x.stride(), shape[:-2]) * x.element_size() for x in (input, other)]
        saved = tuple([bytes if bytes and isinstance(x, Tensor) else x for x, bytes in zip(saved, copied, strict=True)])
        copies = sum(copied)
    elif input.dim() > 2 and saved[0] is input:
        copies = _folded(input)
        saved = (copies or input, saved[1])
    elif other.dim() > 2 and saved[1] is other:
        copies = _folded(other.mT)
        saved = (saved[0], copies or other)
    nests = (replace(nest, operands=operands),)
    return t.emit(kind, "matmul", (input, other), result, nests, saved=saved, workspace=copies)


@rule(torch.mm, torch.bmm, Tensor.mm, Tensor.bmm)
def plain_matmul(t: Emitter, input: Tensor, mat2: Tensor, *, out=None, out_dtype=None) -> Tensor:
    return matmul(t, input, mat2, out=out, out_dtype=out_dtype)


@rule(Tensor.__rmatmul__)
def reversed_matmul(t: Emitter, input: Tensor, other: Tensor) -> Tensor:
    return matmul(t, other, input)


@rule(torch.addmm, Tensor.addmm)
def addmm(t: Emitter, input: Tensor, mat1: Tensor, mat2: Tensor, **options: Any) -> Tensor:
    return _adding_matmul(t, input, mat1, mat2, **options)


@rule(torch.baddbmm, Tensor.baddbmm)
def baddbmm(t: Emitter, input: Tensor, batch1: Tensor, batch2: Tensor, **options: Any) -> Tensor:
    return _adding_matmul(t, input, batch1, batch2, **options)


def _adding_matmul(
    t: Emitter, input: Tensor, a: Tensor, b: Tensor, *, beta=1, alpha=1, out=None, out_dtype: torch.dtype | None = None
) -> Tensor:
    """beta·input + alpha·a·b."""
    if a.layout is not torch.strided or b.layout is not torch.strided:
        return _sparse_product(t, a, b, "addmm", operators.matmul(tuple(a.shape), tuple(b.shape))[0], input)
    if out is not None or out_dtype is not None or a.dim() != b.dim():
        return NotImplemented
    shape, nest = operators.matmul(tuple(a.shape), tuple(b.shape), t.operands(a, b, input))
    if operators.broadcast(tuple(input.shape), shape) != shape:
        raise operators.ShapeError(f"cannot add {tuple(input.shape)} to the product {shape}")
    kind: Kind = "linear" if t.ledger.is_weight(input, a, b) else "matmul"
    result, ops = t.new(shape, a.dtype), {"add": math.prod(shape)}
    return t.emit(
        kind, "addmm" if a.dim() == 2 else "baddbmm", (input, a, b), result, (nest,), ops, saved=t.ledger.factors(a, b)
    )


def _sparse_product(t: Emitter, a: Tensor, b: Tensor, name: str, shape: Shape, added: Tensor | None = None) -> Any:
    """Of a sparse matrix whose elements are known and a dense one: each stored element with a row or a column of that."""
    sparse, dense = (a, b) if a.layout is not torch.strided else (b, a)
    if sparse.is_meta or sparse.is_nested or dense.layout is not torch.strided or sparse.dim() != 2:
        return NotImplemented
    # a (n, k) with b (k, m), or a (..., n, k) with a linear layer's weight (m, k): all of the dense one but k
    shared = dense.shape[0 if dense is b else -1] if dense.dim() else 1
    nest = Loops(N=private.specified(sparse), M=dense.numel() // max(1, shared), operands=t.operands(a, b, added))
    kind: Kind = "linear" if t.ledger.is_weight(a, b) else "matmul"
    ops = {"add": math.prod(shape)} if added is not None else {}
    return t.emit(kind, name, (a, b, added), t.new(shape, dense.dtype), (nest,), ops, saved=t.ledger.factors(a, b))


@rule(torch.sparse.mm)
def sparse_mm(t: Emitter, input: Tensor, mat2: Tensor, reduce: str | None = None) -> Any:
    return matmul(t, input, mat2) if reduce in (None, "sum") else NotImplemented


@rule(torch.sparse.addmm)
def sparse_addmm(t: Emitter, mat: Tensor, mat1: Tensor, mat2: Tensor, *, beta=1.0, alpha=1.0) -> Any:
    return _adding_matmul(t, mat, mat1, mat2)


@rule(torch.mv, Tensor.mv)
def mv(t: Emitter, input: Tensor, vec: Tensor, *, out=None) -> Any:
    return matmul(t, input, vec, out=out) if input.layout is not torch.strided else NotImplemented


@rule(torch.bilinear, F.bilinear)
def bilinear(t: Emitter, input1: Tensor, input2: Tensor, weight: Tensor, bias=None) -> Tensor:
    """y_m = x1ᵀ W_m x2: W times x2, then its product with x1."""
    m, first, second = weight.shape
    rows = math.prod(input1.shape[:-1])
    if (input1.shape[-1], input2.shape[-1]) != (first, second) or input1.shape[:-1] != input2.shape[:-1]:
        raise operators.ShapeError(f"takes {first} and {second} features, got {tuple(input1.shape)} and {tuple(input2.shape)}")
    names = t.operands(input2, weight, input1, bias)
    nests = (
        Loops(N=rows, M=m * first, C=second, operands=(names[0], names[1], "intermediate")),
        Loops(N=m, G=rows, C=first, operands=("intermediate", t.operand(input1), names[-1])),
    )
    out = t.new((*input1.shape[:-1], m), input1.dtype)
    ops = {"add": rows * m} if bias is not None else {}
    return t.emit("linear", "bilinear", (input1, input2, weight, bias), out, nests, ops, (input1, input2))
