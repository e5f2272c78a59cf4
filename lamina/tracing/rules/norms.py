"""Norms, softmax, dropout, pooling."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

from lamina import operators
from lamina.operators import ShapeError, per_axis
from lamina.tracing.emitter import Emitter
from lamina.tracing.rules.table import rule


@rule(F.batch_norm)
def batch_norm(
    t: Emitter, input, running_mean, running_var, weight=None, bias=None, training=False, momentum=0.1, eps=1e-5
) -> Tensor:
    shape = tuple(input.shape)
    if len(shape) < 2:
        raise ShapeError(f"batch norm takes (N, C, ...), got {shape}")
    channels = shape[1]
    expected = weight if weight is not None else running_mean
    if expected is not None and expected.shape[0] != channels:
        raise ShapeError(f"expects {expected.shape[0]} channels, got {channels}")
    out = t.new(shape, input.dtype)
    ops = operators.normalisation_ops(math.prod(shape), channels, weight is not None, bias is not None, training)
    statistics = operators.statistics_kept(channels) if training else 0
    return t.emit("norm", "batch_norm", (input, weight, bias), out, (), ops, (input, statistics), workspace=statistics)


@rule(F.layer_norm)
def layer_norm(t: Emitter, input: Tensor, normalized_shape, weight=None, bias=None, eps=1e-5) -> Tensor:
    shape = tuple(input.shape)
    inner: tuple[int, ...] = tuple(normalized_shape)
    if shape[-len(inner) :] != inner:
        raise ShapeError(f"layer norm over {inner} does not fit the input {shape}")
    out = t.new(shape, input.dtype)
    rows = math.prod(shape[: -len(inner)])
    ops = operators.normalisation_ops(math.prod(shape), rows, weight is not None, bias is not None)
    kept = operators.statistics_kept(rows)
    return t.emit("norm", "layer_norm", (input, weight, bias), out, (), ops, (input, kept), workspace=kept)


@rule(F.local_response_norm)
def local_response_norm(t: Emitter, input: Tensor, size: int, alpha=1e-4, beta=0.75, k=1.0) -> Tensor:
    out = t.new(tuple(input.shape), input.dtype)
    n = input.numel()
    bytes = n * input.element_size()
    padded = bytes // input.shape[1] * (input.shape[1] + size - 1)
    ops = operators.response_norm_ops(n, size)
    # Eager torch holds the padded squares, the base and the power while it makes the output: two maps more than that.
    saved = (input, padded, bytes, bytes)
    attributes = {"size": size, "alpha": alpha, "beta": beta, "k": k}
    return t.emit("norm", "local_response_norm", (input,), out, (), ops, saved, attributes, workspace=2 * bytes)


@rule(F.group_norm, torch.group_norm)
def group_norm(t: Emitter, input: Tensor, num_groups: int, weight=None, bias=None, eps=1e-5, cudnn_enabled=True) -> Tensor:
    shape = tuple(input.shape)
    if len(shape) < 2 or shape[1] % num_groups or (weight is not None and weight.shape[0] != shape[1]):
        raise ShapeError(f"group norm in {num_groups} groups does not fit the input {shape}")
    out, rows = t.new(shape, input.dtype), shape[0] * num_groups
    ops = operators.normalisation_ops(math.prod(shape), rows, weight is not None, bias is not None)
    kept = operators.statistics_kept(rows)
    return t.emit("norm", "group_norm", (input, weight, bias), out, (), ops, (input, kept), workspace=kept)


@rule(F.rms_norm, torch.rms_norm)
def rms_norm(t: Emitter, input: Tensor, normalized_shape, weight=None, eps=None) -> Tensor:
    shape, inner = tuple(input.shape), tuple(normalized_shape)
    if shape[-len(inner) :] != inner:
        raise ShapeError(f"RMS norm over {inner} does not fit the input {shape}")
    out, n = t.new(shape, input.dtype), math.prod(shape)
    rows = n // math.prod(inner)
    ops = operators.normalisation_ops(n, rows, weight is not None, shift=False, centred=False)
    workspace = statistics = operators.statistics_kept(rows, centred=False)
    saved = [input, statistics]
    if t.device == "cpu":  # made of other operations: the normalised values are a factor
        normalised = n * input.element_size() if weight is not None else 0
        saved.append(normalised)
        workspace += normalised or statistics
    return t.emit("norm", "rms_norm", (input, weight), out, (), ops, saved, workspace=workspace)


def _softmax(name: str) -> Callable[..., Any]:
    def softmax(t: Emitter, input: Tensor, dim=None, _stacklevel: Any = 3, dtype=None) -> Tensor:
        kind = dtype or (_stacklevel if isinstance(_stacklevel, torch.dtype) else input.dtype)  # torch.softmax(x, dim, dtype)
        out = t.new(tuple(input.shape), kind)
        n = input.numel()
        length = input.shape[dim] if dim is not None and input.dim() else 1
        return t.emit("softmax", name, (input,), out, (), operators.softmax_ops(n, n // max(1, length)), (out,))

    return softmax


rule(F.softmax, torch.softmax, Tensor.softmax)(_softmax("softmax"))
rule(F.log_softmax, torch.log_softmax, Tensor.log_softmax)(_softmax("log_softmax"))


@rule(F.dropout, torch.dropout)
def dropout(t: Emitter, input: Tensor, p: float = 0.5, training: bool = True, inplace: bool = False) -> Tensor:
    if not training or p == 0:
        return input
    out = input if inplace else t.elementwise(tuple(input.shape), input.dtype, input)
    n = input.numel()
    kept = operators.dropout_kept(n, input.element_size(), t.device)
    return t.emit("elementwise", "dropout", (input,), out, (), operators.dropout_ops(n), (kept,))


# ---- pooling ----------------------------------------------------------------------------------------------------


def _max_pool(axes: int) -> Callable[..., Any]:
    def max_pool(
        t: Emitter, input, kernel_size, stride=None, padding=0, dilation=1, ceil_mode=False, return_indices=False
    ) -> Tensor:
        if return_indices or not input.is_meta:
            return NotImplemented
        kernel = per_axis(kernel_size, axes)
        steps = per_axis(stride, axes) if stride else kernel
        pads = per_axis(padding, axes)
        shape = operators.pooling(tuple(input.shape), kernel, steps, pads, per_axis(dilation, axes), ceil_mode)
        out = t.new(shape, input.dtype)
        n = math.prod(shape)
        ops = operators.pool_ops("max", n * math.prod(kernel), n)
        attributes = {"kernel": kernel, "stride": steps, "padding": pads, "ceil": ceil_mode}
        return t.emit("pool", f"max_pool{axes}d", (input,), out, (), ops, (input, 8 * n), attributes, 8 * n)  # int64 indices

    return max_pool


def _avg_pool(axes: int) -> Callable[..., Any]:
    def avg_pool(
        t: Emitter, input, kernel_size, stride=None, padding=0, ceil_mode=False, count_include_pad=True, divisor_override=None
    ) -> Tensor:
        if not input.is_meta:
            return NotImplemented
        kernel = per_axis(kernel_size, axes)
        steps = per_axis(stride, axes) if stride else kernel
        pads = per_axis(padding, axes)
        shape = operators.pooling(tuple(input.shape), kernel, steps, pads, (1,) * axes, ceil_mode)
        out = t.new(shape, input.dtype)
        n = math.prod(shape)
        ops = operators.pool_ops("mean", n * math.prod(kernel), n, divided=divisor_override != 1)
        attributes = {"kernel": kernel, "stride": steps, "padding": pads, "ceil": ceil_mode}
        return t.emit("pool", f"avg_pool{axes}d", (input,), out, (), ops, (input,), attributes)

    return avg_pool


for _axes in (1, 2, 3):
    rule(getattr(torch, f"max_pool{_axes}d"), getattr(F, f"max_pool{_axes}d"))(_max_pool(_axes))
    rule(getattr(F, f"avg_pool{_axes}d"))(_avg_pool(_axes))


def _adaptive_avg_pool(axes: int) -> Callable[..., Any]:
    def adaptive_avg_pool(t: Emitter, input: Tensor, output_size) -> Tensor:
        if not input.is_meta:
            return NotImplemented
        x = tuple(input.shape)
        if len(x) < axes + 1:
            raise ShapeError(f"{axes}-D pooling takes (N, C, ...), got {x}")
        wanted = (output_size,) * axes if isinstance(output_size, int) else tuple(output_size)
        sizes = tuple([before if size is None else size for before, size in zip(x[-axes:], wanted, strict=True)])
        out = t.new((*x[:-axes], *sizes), input.dtype)
        name, ops = f"adaptive_avg_pool{axes}d", operators.pool_ops("mean", operators.adaptive_reads(x, sizes), out.numel())
        saved = () if math.prod(sizes) == 1 else (input,)  # to one pixel torch takes the mean, which keeps nothing
        return t.emit("pool", name, (input,), out, (), ops, saved, {"output": sizes})

    return adaptive_avg_pool


for _axes in (1, 2, 3):
    rule(getattr(F, f"adaptive_avg_pool{_axes}d"))(_adaptive_avg_pool(_axes))
