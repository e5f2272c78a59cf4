"""Activations, arithmetic with broadcasting, comparisons, reductions."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

from lamina import operators
from lamina.operators import KEEPS, KEPT_IN_PLACE, ShapeError, activation_ops, elementwise_ops
from lamina.tracing import private
from lamina.tracing.emitter import Emitter
from lamina.tracing.rules.table import RULES, rule


def _found(name: str) -> list[Any]:
    """The functions of this name in torch and its method; none where torch has none."""
    return [getattr(home, name) for home in (torch, Tensor) if hasattr(home, name)]


def _is_float(x: Tensor) -> bool:
    return x.is_meta and (x.is_floating_point() or x.is_complex())


# ---- activations ------------------------------------------------------------------------------------------------


def _activation(name: str, flag: int | None = None) -> None:
    """`flag` is the place of `inplace` among the settings of torch.nn.functional's form."""
    keeps = KEEPS[name]

    def emit(t: Emitter, input: Tensor, inplace: bool) -> Any:
        if not _is_float(input):
            return NotImplemented
        out = input if inplace else t.elementwise(tuple(input.shape), input.dtype, input)
        saved: tuple[Tensor | int, ...] = (input,) if keeps == "input" else (out,)
        if inplace and keeps == "input" and name in KEPT_IN_PLACE:
            saved = (input.numel() * input.element_size(),)
        return t.emit("activation", name, (input,), out, (), activation_ops(name, input.numel()), saved)

    def activation(t: Emitter, input: Tensor, *settings: Any, **options: Any) -> Any:
        return NotImplemented if options.get("out") is not None else emit(t, input, False)

    def in_place(t: Emitter, input: Tensor, *settings: Any, **options: Any) -> Any:
        return emit(t, input, True)

    def functional(t: Emitter, input: Tensor, *settings: Any, inplace: bool = False, **options: Any) -> Any:
        return emit(t, input, bool(settings[flag]) if flag is not None and len(settings) > flag else inplace)

    for home in (torch, Tensor, private.functional):
        for suffix, function in (("", activation), ("_", in_place)):
            if hasattr(home, name + suffix):
                RULES[getattr(home, name + suffix)] = function
    if hasattr(F, name):
        RULES[getattr(F, name)] = functional
    if hasattr(F, f"{name}_"):
        RULES[getattr(F, f"{name}_")] = in_place


for _name, _flag in (
    ("relu", 0), ("relu6", 0), ("hardtanh", 2), ("leaky_relu", 1), ("silu", 0), ("elu", 1), ("hardsigmoid", 0),
    ("hardswish", 0), ("mish", 0), ("sigmoid", None), ("tanh", None), ("gelu", None), ("softplus", None), ("selu", 0),
    ("celu", 1),
):  # fmt: skip
    _activation(_name, _flag)


# ---- arithmetic -------------------------------------------------------------------------------------------------


def _result(a: Any, b: Any, quotient: bool) -> torch.dtype:
    """torch's type promotion."""
    same = isinstance(a, Tensor) and isinstance(b, Tensor) and a.dtype == b.dtype
    dtype = a.dtype if same else torch.result_type(a, b)
    integer = not (dtype.is_floating_point or dtype.is_complex)
    return torch.get_default_dtype() if quotient and integer else dtype


def _binary(name: str, comparison: bool = False) -> dict[str, Callable[..., Any]]:
    """An operator with broadcasting, in three forms."""
    keeps = KEEPS[name]

    def emit(t: Emitter, a: Any, b: Any, inplace: bool = False) -> Any:
        first, second = isinstance(a, Tensor), isinstance(b, Tensor)
        if not ((first and a.is_meta) or (second and b.is_meta)) or isinstance(b, (list, tuple)):
            return NotImplemented  # small real tensors keep their values
        if first and second:
            tensors: tuple[Tensor, ...] = (a, b)
            x, y = tuple(a.shape), tuple(b.shape)
            shape = x if x == y else operators.broadcast(x, y)
        else:
            tensors = (a,) if first else (b,)
            shape = tuple(tensors[0].shape)
        if inplace:
            if shape != tuple(a.shape):
                raise ShapeError(f"{name}_ cannot write {shape} into {tuple(a.shape)}")
            if not a.is_meta:
                return NotImplemented
            out = a
        else:
            out = t.elementwise(shape, torch.bool if comparison else _result(a, b, name == "div"), *tensors)
        saved: tuple[Tensor | int, ...] = ()
        if len(tensors) == 2 and keeps != "nothing":
            saved = tensors if keeps == "both" else t.ledger.factors(a, b)
            if keeps == "divisor":
                saved = (saved[0], b)
        elif keeps == "divisor" and not first:  # a number over a tensor: torch keeps the tensor's reciprocal
            saved = (math.prod(shape) * b.element_size(),)
        return t.emit("elementwise", name, tensors, out, (), elementwise_ops(name, math.prod(shape)), saved)

    def forward(t: Emitter, a: Any, b: Any, *, alpha: float = 1, out=None, rounding_mode=None) -> Any:
        return NotImplemented if out is not None or rounding_mode is not None else emit(t, a, b)

    def in_place(t: Emitter, a: Any, b: Any, *, alpha: float = 1) -> Any:
        if a.is_meta and t.ledger.is_own(a):
            return a  # a module updates its own buffer (batches seen): not part of the network's arithmetic
        return emit(t, a, b, True)

    def reverse(t: Emitter, a: Any, b: Any) -> Any:
        return emit(t, b, a)

    return {"forward": forward, "in_place": in_place, "reverse": reverse}


def _register(forms: dict[str, Callable[..., Any]], *names: str) -> None:
    """Under torch.name and Tensor.name; __iname__ and name_ are in place, __rname__ is reversed."""
    for name in names:
        in_place = name.startswith("__i") or (name[-1] == "_" != name[0])
        form = "reverse" if name.startswith("__r") else "in_place" if in_place else "forward"
        for function in _found(name):
            RULES[function] = forms[form]


_register(_binary("add"), "add", "__add__", "__radd__", "__iadd__", "add_")
_register(_binary("sub"), "sub", "subtract", "__sub__", "__rsub__", "__isub__", "sub_")
_register(_binary("mul"), "mul", "multiply", "__mul__", "__rmul__", "__imul__", "mul_")
_register(_binary("div"), "div", "divide", "true_divide", "__truediv__", "__rtruediv__", "__itruediv__", "div_")
_register(_binary("maximum"), "maximum")
_register(_binary("minimum"), "minimum")
for _name in ("eq", "ne", "lt", "le", "gt", "ge", "logical_and", "logical_or"):
    _register(_binary(_name, comparison=True), _name, f"__{_name}__")


def _unary(name: str) -> None:
    """exp, sqrt, ...: one result an element, of floating-point tensors."""

    def unary(t: Emitter, input: Tensor, *, out=None) -> Any:
        if out is not None or not _is_float(input):
            return NotImplemented
        result = t.elementwise(tuple(input.shape), input.dtype, input)
        if input.is_complex() and name == "abs":
            return NotImplemented
        saved = {"nothing": (), "input": (input,), "output": (result,)}[KEEPS[name]]
        return t.emit("elementwise", name, (input,), result, (), elementwise_ops(name, input.numel()), saved)

    for spelling in (name, f"__{name}__"):
        for function in _found(spelling):
            RULES[function] = unary


for _name in (
    "exp", "sqrt", "rsqrt", "reciprocal", "log", "sin", "cos", "abs", "erf", "square", "log1p", "neg", "floor", "ceil", "round",
):  # fmt: skip
    _unary(_name)


@rule(torch.pow, Tensor.pow, Tensor.__pow__)
def power(t: Emitter, input: Any, exponent: Any, *, out=None) -> Any:
    if out is not None or isinstance(exponent, (Tensor, complex)) or not isinstance(input, Tensor) or not _is_float(input):
        return NotImplemented
    result = t.elementwise(tuple(input.shape), input.dtype, input)
    return t.emit("elementwise", "pow", (input,), result, (), operators.power_ops(input.numel(), exponent), (input,))


@rule(torch.addcmul, Tensor.addcmul)
def addcmul(t: Emitter, input: Tensor, tensor1: Tensor, tensor2: Tensor, *, value=1, out=None) -> Any:
    tensors = (input, tensor1, tensor2)
    if out is not None or not any([x.is_meta for x in tensors]) or len({x.dtype for x in tensors}) > 1:
        return NotImplemented
    result = t.elementwise(operators.broadcast(*[tuple(x.shape) for x in tensors]), input.dtype, *tensors)
    ops = elementwise_ops("addcmul", result.numel())
    return t.emit("elementwise", "addcmul", tensors, result, (), ops, t.ledger.factors(tensor1, tensor2))


@rule(torch.clamp, Tensor.clamp, torch.clip, Tensor.clip, Tensor.clamp_min, Tensor.clamp_max)
def clamp(t: Emitter, input: Tensor, *bounds: Any, min=None, max=None, out=None) -> Any:
    if out is not None or not _is_float(input) or any(isinstance(x, Tensor) for x in (*bounds, min, max)):
        return NotImplemented
    result = t.elementwise(tuple(input.shape), input.dtype, input)
    ops = operators.clamp_ops(input.numel(), sum(x is not None for x in (*bounds, min, max)))
    return t.emit("elementwise", "clamp", (input,), result, (), ops, (input,))


def _masked_fill(inplace: bool) -> Callable[..., Any]:
    def masked_fill(t: Emitter, input: Tensor, mask: Tensor, value: Any) -> Any:
        if not input.is_meta or mask.dtype != torch.bool:
            return NotImplemented
        shape = operators.broadcast(tuple(input.shape), tuple(mask.shape))
        if inplace and shape != tuple(input.shape):
            raise ShapeError(f"masked_fill_ cannot write {shape} into {tuple(input.shape)}")
        out = input if inplace else t.elementwise(shape, input.dtype, input)
        given = (input, mask, value) if isinstance(value, Tensor) else (input, mask)
        return t.emit("elementwise", "masked_fill", given, out, (), elementwise_ops("masked_fill", math.prod(shape)), (mask,))

    return masked_fill


rule(torch.masked_fill, Tensor.masked_fill)(_masked_fill(False))
rule(Tensor.masked_fill_)(_masked_fill(True))


@rule(torch.where)
def where(t: Emitter, condition: Tensor, input: Any = None, other: Any = None, *, out=None) -> Any:
    if out is not None or input is None or other is None:
        return NotImplemented
    tensors = [x for x in (condition, input, other) if isinstance(x, Tensor)]
    if not any(x.is_meta for x in tensors):
        return NotImplemented
    shape = operators.broadcast(*(tuple(x.shape) for x in tensors))
    if not isinstance(input, Tensor) and not isinstance(other, Tensor):
        return NotImplemented
    result = t.elementwise(shape, _result(input, other, False), *tensors)
    return t.emit("elementwise", "where", tensors, result, (), elementwise_ops("where", math.prod(shape)), (condition,))


@rule(Tensor.where)
def where_method(t: Emitter, input: Tensor, condition: Tensor, other: Any) -> Any:
    return where(t, condition, input, other)


def _reduction(name: str) -> None:
    def reduction(
        t: Emitter, input: Tensor, dim: Any = None, keepdim: bool = False, *, dtype=None, out=None, axis: Any = None
    ) -> Any:
        dim = axis if dim is None else dim
        if out is not None or not _is_float(input) or isinstance(keepdim, torch.dtype) or isinstance(dim, torch.dtype):
            return NotImplemented
        shape = operators.reduced(tuple(input.shape), dim, keepdim)
        result = t.new(shape, dtype or input.dtype)
        ops = operators.reduction_ops(name, input.numel(), result.numel())
        return t.emit("elementwise", name, (input,), result, (), ops, (input, result) if name in ("amax", "amin") else ())

    for function in _found(name):
        RULES[function] = reduction


for _name in ("sum", "mean", "amax", "amin"):
    _reduction(_name)
