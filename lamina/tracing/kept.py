"""What torch keeps for the backward pass of an operation that has no rule: the operation is run again on the meta device
with gradients on, and torch itself is asked what it saves."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

from lamina.tracing import private
from lamina.tracing.emitter import Emitter
from lamina.tracing.values import META, tensors


class _Result(torch.autograd.Function):
    """A tensor that lies in memory as another one does, is a result, and so may be written in place."""

    @staticmethod
    def forward(ctx: Any, seed: Tensor, like: Tensor) -> Tensor:  # pyright: ignore[reportIncompatibleMethodOverride]
        return torch.empty_strided(like.shape, like.stride(), dtype=like.dtype, device=META)

    @staticmethod
    def backward(ctx: Any, *gradients: Any) -> Any:
        raise NotImplementedError  # nobody goes back


def kept(
    t: Emitter, func: Any, args: Sequence[Any], kwargs: Mapping[str, Any], result: Any, wrote: bool
) -> list[Tensor | int] | None:
    """The tensors among the operation's arguments and results that are saved, and the bytes of each other storage; None if
    that cannot be found out: the operation needs values, or is somebody else's Python and `wrote` to a tensor, which may be
    one that is not among its arguments."""
    if wrote and not _is_torchs(func):
        return None
    stand_ins: dict[int, Tensor] = {}  # by the id of the original
    originals: dict[int, Tensor] = {}  # by address
    seed = torch.empty((), device=META, requires_grad=True)

    def stand_in(x: Tensor) -> Tensor:
        grows = (x.is_floating_point() or x.is_complex()) and t.ledger.is_differentiable(x)
        if not x.dim() and not x.is_meta and not grows:
            return x  # a number
        if id(x) not in stand_ins:
            found = _Result.apply(seed, x) if grows else torch.empty_strided(x.shape, x.stride(), dtype=x.dtype, device=META)
            stand_ins[id(x)] = found
            originals[private.address(found)] = x
        return stand_ins[id(x)]

    saved: list[Tensor] = []

    def keep(x: Tensor) -> Tensor:
        saved.append(x)
        return x

    hooks = torch.autograd.graph.saved_tensors_hooks(keep, lambda x: x)  # which torch.func.grad refuses
    try:
        with private.with_autograd(), torch.enable_grad(), hooks:
            args, kwargs = private.tree_map_only(Tensor, stand_in, (tuple(args), dict(kwargs)))
            again = func(*args, **kwargs)
    except (RuntimeError, NotImplementedError, TypeError, ValueError):
        return None
    for found, x in zip(tensors(again), tensors(result), strict=False):
        originals.setdefault(private.address(found), x)
    storages = {private.address(x): x for x in saved}
    return [originals.get(address, x.untyped_storage().nbytes()) for address, x in storages.items()]


def _is_torchs(func: Any) -> bool:
    """Whether it writes to its arguments only."""
    module = getattr(func, "__module__", None) or getattr(getattr(func, "__objclass__", None), "__module__", None) or ""
    return module.split(".")[0] in ("torch", "builtins") or isinstance(func, private.Operator)
