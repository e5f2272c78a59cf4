"""Shape rules for the commonest operations, as people write them: no kernel runs, not even a meta kernel.

A rule has the signature of the operation it stands for, with the tracer in front, and returns the result's stand-in, or
NotImplemented to fall through. Whoever adds one adds nothing else: `aten` agrees with it, and a test says so.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor
from torch.nn import functional as F

from lamina.cost import formulas
from lamina.cost.formulas import ACTIVATION_OPS, ShapeError, per_axis, times

if TYPE_CHECKING:
    from lamina.cost.trace import Tracer

RULES: dict[Any, Callable[..., Any]] = {}


def rule(*functions: Any) -> Callable[[Callable[..., Any]], Callable[..., Any]]:
    def register(function: Callable[..., Any]) -> Callable[..., Any]:
        RULES.update((f, function) for f in functions)
        return function

    return register


# Questions about a tensor, answered by the stand-in itself.
TRANSPARENT: set[Any] = {
    Tensor.size, Tensor.dim, Tensor.ndimension, Tensor.numel, Tensor.nelement, Tensor.__len__, Tensor.stride,
    Tensor.is_contiguous, Tensor.is_floating_point, Tensor.is_complex, Tensor.element_size, Tensor.storage_offset,
    Tensor.get_device, Tensor.data_ptr, Tensor.__hash__, Tensor.__repr__, Tensor.__format__, Tensor.untyped_storage,
    torch.is_floating_point, torch.is_complex, torch.numel, torch.is_tensor, torch.is_grad_enabled,
}  # fmt: skip


# ---- convolutions and products ----------------------------------------------------------------------------------


@rule(torch.conv1d, torch.conv2d, torch.conv3d)
def convolution(t: Tracer, input: Tensor, weight: Tensor, bias=None, stride=1, padding=0, dilation=1, groups=1) -> Tensor:
    w = tuple(weight.shape)
    axes = len(w) - 2
    dilations = per_axis(dilation, axes)
    pads = formulas.resolve_padding(padding, w[2:], dilations)
    steps, operands = per_axis(stride, axes), t.operands(input, weight, bias)
    shape, nest = formulas.convolution(tuple(input.shape), w, steps, pads, dilations, groups, operands)
    out = t.new(shape, input.dtype)
    ops = {"add": math.prod(shape)} if bias is not None else {}
    return t.emit("conv", f"conv{axes}d", (input, weight, bias), out, (nest,), ops, saved=(input, weight))


@rule(torch.conv_transpose1d, torch.conv_transpose2d, torch.conv_transpose3d)
def transposed_convolution(
    t: Tracer, input: Tensor, weight: Tensor, bias=None, stride=1, padding=0, output_padding=0, groups=1, dilation=1
) -> Tensor:
    w = tuple(weight.shape)
    axes = len(w) - 2
    steps, pads, extra, dilations = (per_axis(v, axes) for v in (stride, padding, output_padding, dilation))
    operands = t.operands(input, weight, bias)
    shape, nest = formulas.transposed_convolution(tuple(input.shape), w, steps, pads, extra, dilations, groups, operands)
    out = t.new(shape, input.dtype)
    ops = {"add": math.prod(shape)} if bias is not None else {}
    return t.emit("conv", f"conv_transpose{axes}d", (input, weight, bias), out, (nest,), ops, saved=(input, weight))


@rule(F.linear)
def linear(t: Tracer, input: Tensor, weight: Tensor, bias=None) -> Tensor:
    shape, nest = formulas.linear(tuple(input.shape), tuple(weight.shape), t.operands(input, weight, bias))
    out = t.new(shape, input.dtype)
    ops = {"add": math.prod(shape)} if bias is not None else {}
    return t.emit("linear", "linear", (input, weight, bias), out, (nest,), ops, saved=(input, weight))


@rule(torch.matmul, torch.mm, torch.bmm, Tensor.matmul, Tensor.mm, Tensor.bmm, Tensor.__matmul__)
def matmul(t: Tracer, input: Tensor, other: Tensor, *, out=None) -> Tensor:
    if out is not None:
        return NotImplemented
    shape, nest = formulas.matmul(tuple(input.shape), tuple(other.shape), t.operands(input, other))
    result = t.new(shape, input.dtype)
    return t.emit("matmul", "matmul", (input, other), result, (nest,), saved=(input, other))


@rule(F.scaled_dot_product_attention)
def attention(
    t: Tracer, query, key, value, attn_mask=None, dropout_p=0.0, is_causal=False, scale=None, enable_gqa=False
) -> Tensor:
    q, k, v = tuple(query.shape), tuple(key.shape), tuple(value.shape)
    mask = attn_mask if isinstance(attn_mask, Tensor) else None
    names = t.operands(query, key, value, mask)
    shape, nests = formulas.attention(q, k, v, (t.operand(query), t.operand(key), t.operand(value), names[-1]))
    rows = math.prod(q[:-1])
    ops = formulas.softmax_ops(rows * k[-2], rows)
    ops["mul"] = math.prod(q)  # by 1/sqrt(d)
    ops["add"] += rows * k[-2] if mask is not None else 0
    saved = (query, key, value, rows * 4)  # fused kernels keep the row sums in fp32 and recompute the scores
    name, attributes = "scaled_dot_product_attention", {"causal": bool(is_causal)}
    out = t.new(shape, query.dtype)
    return t.emit("matmul", name, (query, key, value, mask), out, nests, ops, saved, attributes, workspace=rows * 4)


# ---- norms ------------------------------------------------------------------------------------------------------


@rule(F.batch_norm)
def batch_norm(
    t: Tracer, input, running_mean, running_var, weight=None, bias=None, training=False, momentum=0.1, eps=1e-5
) -> Tensor:
    shape = tuple(input.shape)
    if len(shape) < 2:
        raise ShapeError(f"batch norm takes (N, C, ...), got {shape}")
    channels = shape[1]
    expected = weight if weight is not None else running_mean
    if expected is not None and expected.shape[0] != channels:
        raise ShapeError(f"expects {expected.shape[0]} channels, got {channels}")
    out = t.new(shape, input.dtype)
    ops = formulas.normalisation_ops(math.prod(shape), channels, training, weight is not None)
    statistics = 2 * 4 * channels if training else 0  # mean and 1/deviation in fp32
    return t.emit("norm", "batch_norm", (input, weight, bias), out, (), ops, (input, statistics), workspace=statistics)


@rule(F.layer_norm)
def layer_norm(t: Tracer, input: Tensor, normalized_shape, weight=None, bias=None, eps=1e-5) -> Tensor:
    shape = tuple(input.shape)
    inner: tuple[int, ...] = tuple(normalized_shape)
    if shape[-len(inner) :] != inner:
        raise ShapeError(f"layer norm over {inner} does not fit the input {shape}")
    out = t.new(shape, input.dtype)
    rows = math.prod(shape[: -len(inner)])
    ops = formulas.normalisation_ops(math.prod(shape), rows, True, weight is not None)
    return t.emit("norm", "layer_norm", (input, weight, bias), out, (), ops, (input, 2 * 4 * rows), workspace=2 * 4 * rows)


@rule(F.local_response_norm)
def local_response_norm(t: Tracer, input: Tensor, size: int, alpha=1e-4, beta=0.75, k=1.0) -> Tensor:
    out = t.new(tuple(input.shape), input.dtype)
    n = input.numel()
    bytes = n * input.element_size()
    ops = formulas.response_norm_ops(n, size)
    # Eager torch holds the pooled squares, the base and the power while it makes the output: two maps more than that.
    saved = (input, bytes, bytes, bytes)
    attributes = {"size": size, "alpha": alpha, "beta": beta, "k": k}
    return t.emit("norm", "local_response_norm", (input,), out, (), ops, saved, attributes, workspace=2 * bytes)


# ---- activations ------------------------------------------------------------------------------------------------


def _activation(name: str, keeps: str, *functions: Any) -> None:
    """`keeps` says what the backward pass needs: the input or the output."""

    def activation(t: Tracer, input: Tensor, *settings: Any, inplace: bool = False, **options: Any) -> Tensor:
        if options.get("out") is not None:
            return NotImplemented
        out = input if inplace else t.new(tuple(input.shape), input.dtype)
        saved = (input,) if keeps == "input" else (out,)
        return t.emit("activation", name, (input,), out, (), times(ACTIVATION_OPS[name], input.numel()), saved)

    def in_place(t: Tracer, input: Tensor, *settings: Any) -> Tensor:
        return activation(t, input, inplace=True)

    def with_flag(t: Tracer, input: Tensor, inplace: bool = False) -> Tensor:
        return activation(t, input, inplace=inplace)

    for function in functions:
        last = getattr(function, "__name__", "")
        wrapper = with_flag if function in (F.relu, F.relu6, F.silu) else in_place if last.endswith("_") else activation
        RULES[function] = wrapper


_activation("relu", "output", F.relu, torch.relu, torch.relu_, Tensor.relu, Tensor.relu_)
_activation("relu6", "input", F.relu6)
_activation("sigmoid", "output", torch.sigmoid, torch.sigmoid_, Tensor.sigmoid, Tensor.sigmoid_, F.sigmoid)
_activation("tanh", "output", torch.tanh, torch.tanh_, Tensor.tanh, Tensor.tanh_, F.tanh)
_activation("silu", "input", F.silu)
_activation("gelu", "input", F.gelu)


@rule(F.softmax, torch.softmax, Tensor.softmax)
def softmax(t: Tracer, input: Tensor, dim=None, _stacklevel=3, dtype=None) -> Tensor:
    out = t.new(tuple(input.shape), dtype or input.dtype)
    n = input.numel()
    length = input.shape[dim] if dim is not None and input.dim() else 1
    return t.emit("softmax", "softmax", (input,), out, (), formulas.softmax_ops(n, n // max(1, length)), (out,))


@rule(F.dropout, torch.dropout)
def dropout(t: Tracer, input: Tensor, p: float = 0.5, training: bool = True, inplace: bool = False) -> Tensor:
    if not training or p == 0:
        return input
    out = input if inplace else t.new(tuple(input.shape), input.dtype)
    n = input.numel()
    return t.emit("elementwise", "dropout", (input,), out, (), {"mul": n, "compare": n}, (n,))  # a mask of one byte each


# ---- pooling ----------------------------------------------------------------------------------------------------


def _max_pool(axes: int) -> Callable[..., Any]:
    def max_pool(
        t: Tracer, input, kernel_size, stride=None, padding=0, dilation=1, ceil_mode=False, return_indices=False
    ) -> Tensor:
        if return_indices:
            return NotImplemented
        kernel = per_axis(kernel_size, axes)
        steps = per_axis(stride, axes) if stride else kernel
        pads = per_axis(padding, axes)
        shape = formulas.pooling(tuple(input.shape), kernel, steps, pads, per_axis(dilation, axes), ceil_mode)
        out = t.new(shape, input.dtype)
        n = math.prod(shape)
        ops = {"compare": n * (math.prod(kernel) - 1)}
        attributes = {"kernel": kernel, "stride": steps, "padding": pads, "ceil": ceil_mode}
        return t.emit("pool", f"max_pool{axes}d", (input,), out, (), ops, (input, 8 * n), attributes, 8 * n)  # int64 indices

    return max_pool


def _avg_pool(axes: int) -> Callable[..., Any]:
    def avg_pool(
        t: Tracer, input, kernel_size, stride=None, padding=0, ceil_mode=False, count_include_pad=True, divisor_override=None
    ) -> Tensor:
        kernel = per_axis(kernel_size, axes)
        steps = per_axis(stride, axes) if stride else kernel
        pads = per_axis(padding, axes)
        shape = formulas.pooling(tuple(input.shape), kernel, steps, pads, (1,) * axes, ceil_mode)
        out = t.new(shape, input.dtype)
        n = math.prod(shape)
        ops = {"add": n * (math.prod(kernel) - 1)} | ({} if divisor_override == 1 else {"div": n})
        attributes = {"kernel": kernel, "stride": steps, "padding": pads, "ceil": ceil_mode}
        return t.emit("pool", f"avg_pool{axes}d", (input,), out, (), ops, (input,), attributes)

    return avg_pool


for _axes in (1, 2, 3):
    RULES[getattr(torch, f"max_pool{_axes}d")] = RULES[getattr(F, f"max_pool{_axes}d")] = _max_pool(_axes)
    RULES[getattr(F, f"avg_pool{_axes}d")] = _avg_pool(_axes)


@rule(F.adaptive_avg_pool2d)
def adaptive_avg_pool2d(t: Tracer, input: Tensor, output_size) -> Tensor:
    x = tuple(input.shape)
    wanted = (output_size, output_size) if isinstance(output_size, int) else output_size
    sizes = tuple(x[i - 2] if size is None else size for i, size in enumerate(wanted))
    out = t.new((*x[:-2], *sizes), input.dtype)
    windows = [sum(math.ceil((i + 1) * n / m) - i * n // m for i in range(m)) for n, m in zip(x[-2:], sizes, strict=True)]
    reads, n = math.prod(x[:-2]) * math.prod(windows), math.prod(out.shape)
    attributes = {"output": sizes}
    return t.emit("pool", "adaptive_avg_pool2d", (input,), out, (), {"add": reads - n, "div": n}, (input,), attributes)


# ---- elementwise ------------------------------------------------------------------------------------------------


def _pointwise(name: str, op: str, keeps: str, *functions: Any) -> None:
    """Binary arithmetic with broadcasting; `keeps` is "none", "both", or "other" as the backward pass needs."""

    def pointwise(t: Tracer, input: Any, other: Any, *, alpha: float = 1, out=None, rounding_mode=None) -> Any:
        if out is not None or rounding_mode is not None:
            return NotImplemented
        return _binary(t, input, other, False)

    def in_place(t: Tracer, input: Any, other: Any, *, alpha: float = 1) -> Any:
        if t.is_own(input):
            return input  # a module updates its own buffer (batches seen): not part of the network's arithmetic
        return _binary(t, input, other, True)

    def reverse(t: Tracer, input: Any, other: Any) -> Any:
        return _binary(t, other, input, False)

    def _binary(t: Tracer, a: Any, b: Any, inplace: bool) -> Any:
        tensors = [x for x in (a, b) if isinstance(x, Tensor)]
        if (len(tensors) == 2 and a.dtype != b.dtype) or (len(tensors) == 1 and not tensors[0].is_floating_point()):
            return NotImplemented  # type promotion: left to torch
        if all(x.device.type != "meta" for x in tensors):
            return NotImplemented  # a small real tensor keeps its value
        shape = formulas.broadcast(*(tuple(x.shape) for x in tensors))
        if inplace and shape != tuple(a.shape):
            raise ShapeError(f"{name}_ cannot write {shape} into {tuple(a.shape)}")
        out = a if inplace else t.new(shape, tensors[0].dtype)
        saved = {"none": (), "both": tuple(tensors), "other": tuple(tensors[1:])}[keeps]
        saved = saved if len(tensors) == 2 or keeps == "other" else ()
        return t.emit("elementwise", name, tensors, out, (), {op: math.prod(shape)}, saved)

    for function in functions:
        last = function.__name__
        RULES[function] = (
            reverse
            if last.startswith("__r")
            else in_place
            if last.startswith("__i") or (last.endswith("_") and last[0] != "_")
            else pointwise
        )


_pointwise("add", "add", "none", torch.add, Tensor.add, Tensor.__add__, Tensor.__radd__, Tensor.__iadd__, Tensor.add_)
_pointwise("sub", "add", "none", torch.sub, Tensor.sub, Tensor.__sub__, Tensor.__rsub__, Tensor.__isub__, Tensor.sub_)
_pointwise("mul", "mul", "both", torch.mul, Tensor.mul, Tensor.__mul__, Tensor.__rmul__, Tensor.__imul__, Tensor.mul_)
_pointwise("div", "div", "other", torch.div, Tensor.div, Tensor.__truediv__, Tensor.__itruediv__, Tensor.div_)


# ---- moving data ------------------------------------------------------------------------------------------------


@rule(torch.cat, torch.concat, torch.concatenate)
def cat(t: Tracer, tensors, dim: int = 0, *, out=None, axis: int | None = None) -> Tensor:
    parts = [x for x in tensors if x.dim() != 1 or x.numel()]  # torch skips empty vectors
    dim = dim if axis is None else axis
    shapes = [tuple(x.shape) for x in parts]
    if out is not None or not parts or len({x.dtype for x in parts}) > 1:
        return NotImplemented
    place = dim % len(shapes[0])
    if len({(*s[:place], *s[place + 1 :]) for s in shapes}) > 1:
        raise ShapeError(f"cannot concatenate {' and '.join(map(formulas._x, shapes))} along axis {place}")
    shape = (*shapes[0][:place], sum(s[place] for s in shapes), *shapes[0][place + 1 :])
    return t.emit("copy", "cat", parts, t.new(shape, parts[0].dtype), attributes={"dim": place})


@rule(F.pad)
def pad(t: Tracer, input: Tensor, pad: list[int], mode: str = "constant", value: float | None = None) -> Tensor:
    shape = list(input.shape)
    for i in range(len(pad) // 2):
        shape[-1 - i] += pad[2 * i] + pad[2 * i + 1]
    return t.emit("copy", "pad", (input,), t.new(tuple(shape), input.dtype), attributes={"pad": tuple(pad)})


def view(function: Callable[..., Any], name: str) -> Callable[..., Any]:
    """Shape changes run as they are: on the meta device they are C++ and cost a microsecond. A result in its input's
    storage is a view; in a storage of its own it is a copy (reshape of a transposed tensor)."""

    def run(t: Tracer, input: Any, *args: Any, **kwargs: Any) -> Any:
        if not isinstance(input, Tensor) or any(isinstance(a, Tensor) for a in args):
            return NotImplemented
        if name == "getitem" and not _is_basic(args[0]):
            return NotImplemented
        source = t.meta(input) if t.is_own(input) and input.is_floating_point() else input
        if source.device.type != "meta":
            return NotImplemented
        out = function(source, *args, **kwargs)
        parts = (out,) if isinstance(out, Tensor) else tuple(out)
        shared = all(p.untyped_storage()._cdata == source.untyped_storage()._cdata for p in parts)
        if any(p is input for p in parts):  # nothing happened
            return out
        t.emit("view" if shared else "copy", name, (input,), parts)
        return out

    return run


def _is_basic(index: Any) -> bool:
    items = index if isinstance(index, tuple) else (index,)
    return all(i is None or i is Ellipsis or (isinstance(i, (int, slice)) and not isinstance(i, bool)) for i in items)


for _name in (
    "flatten", "unflatten", "reshape", "permute", "transpose", "squeeze", "unsqueeze", "chunk", "split", "unbind", "narrow",
    "movedim", "select", "expand", "expand_as", "view", "view_as", "contiguous", "t", "detach", "swapaxes", "clone",
):  # fmt: skip
    for _home in (torch, Tensor):
        if hasattr(_home, _name):
            RULES[getattr(_home, _name)] = view(getattr(_home, _name), _name)
RULES[Tensor.__getitem__] = view(Tensor.__getitem__, "getitem")
