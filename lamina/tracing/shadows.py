"""A trace with values: the forward runs on real tensors, each of which has a shadow on the meta device. Operations are recorded
on the shadows, by the same rules; those whose result's shape depends on values run first, and their shadows follow."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from lamina.errors import InputError
from lamina.tracing import aten_shapes, meta_ops, private
from lamina.tracing.aten_kinds import classify
from lamina.tracing.emitter import Emitter
from lamina.tracing.refusals import NeedsValues
from lamina.tracing.values import tensors
from lamina.workload import Kind, Loops

Record = Callable[[Any, tuple[Any, ...], dict[str, Any]], Any]
NAME = "_lamina_shadow"


def cast(tensor: Tensor, shadow: Tensor) -> None:
    """From here on this is the tensor's shadow, as long as it lives."""
    setattr(tensor, NAME, shadow)


def shadow(tensor: Tensor) -> Tensor:
    """The tensor's shadow; a weight, a buffer or a constant is its own. Of a nested one it is that of its rows."""
    if tensor.is_nested and tensor.layout is not torch.strided:
        tensor = getattr(tensor, "_values")  # noqa: B009 - an attribute of its class
    return getattr(tensor, NAME, tensor)


class Operators(private.DispatchMode):
    """What the operators of an operation on real tensors cost."""

    def __init__(self, t: Emitter):
        super().__init__()
        self.t = t
        self.kinds: list[Kind] = []
        self.loops: list[Loops] = []
        self.ops: dict[str, int] = {}
        self.unknown: list[tuple[str, Any, Any]] = []
        self.free = 0

    def __torch_dispatch__(self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        result = func(*args, **kwargs)
        if func in aten_shapes.COUNTED:
            _, kind, loops, ops = aten_shapes.COUNTED[func](self.t, *args, **kwargs)
        else:
            kind, loops, ops = classify(func.overloadpacket.__name__, args, kwargs, result)
        if kind == "other":
            given = [tuple(x.shape) for x in tensors((args, kwargs))]
            self.unknown.append((str(func), given, [tuple(x.shape) for x in tensors(result)]))
        self.free += kind in ("view", "copy", "embedding")
        self.kinds.append(kind)
        self.loops += loops
        for key, count in ops.items():
            self.ops[key] = self.ops.get(key, 0) + count
        return result


def run(t: Emitter, func: Any, args: tuple[Any, ...], kwargs: dict[str, Any], record: Record) -> Any:
    """Run an operation, and record it on the shadows."""
    shadowed: tuple[Any, dict[str, Any]] = private.tree_map_only(Tensor, shadow, (args, kwargs))
    try:
        found = record(func, *shadowed)
    except NeedsValues:
        return _first(t, func, args, kwargs)
    with torch.no_grad():
        result = func(*args, **kwargs)
    reals, metas = tensors(result), tensors(found)
    if len(reals) != len(metas):
        name = getattr(func, "__name__", str(func))
        raise InputError(f"{t.where()}: {name} makes {len(reals)} tensors of values, and {len(metas)} of shapes")
    for real, meta in zip(reals, metas, strict=True):
        if real.shape != meta.shape and not real.numel():  # statistics that a kernel on the CPU leaves out
            meta = t.new(tuple(real.shape), real.dtype)
            t.ledger.register(meta, False)
        if real.shape != meta.shape:
            name = getattr(func, "__name__", str(func))
            raise InputError(f"{t.where()}: {name} makes {tuple(real.shape)} of values, and {tuple(meta.shape)} of shapes")
        if real is not meta:
            cast(real, meta)
    return result


def _first(t: Emitter, func: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
    """An operation whose result's shape depends on values."""
    operators = Operators(t)
    given = tensors((args, kwargs))
    with torch.no_grad(), operators:
        result = func(*args, **kwargs)
    outputs = [x for x in tensors(result) if all(x is not y for y in given)]
    for x in outputs:
        if x.layout is torch.strided:  # a sparse tensor's elements are counted by itself
            cast(x, t.new(tuple(x.shape), x.dtype))
    kind: Kind = min(operators.kinds, key=meta_ops.ORDER.index) if operators.kinds else "copy"
    name = getattr(getattr(func, "overloadpacket", func), "__name__", "operation").strip("_")
    counts = len(operators.kinds) - operators.free - len(operators.unknown), operators.free
    t.emit(
        kind, name, map(shadow, given), [*map(shadow, outputs)], tuple(operators.loops), operators.ops,
        saved=[*map(shadow, given), *map(shadow, outputs)], operators=counts,
    )  # fmt: skip
    t.unknown(operators.unknown)
    return result
