"""torch.cond and torch.while_loop, operators that take functions, which run as the rest of the forward does; and autograd's
own, which a trace refuses."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager
from typing import Any, Protocol

import torch

from lamina.errors import InputError
from lamina.tracing import blame, private
from lamina.tracing.emitter import Emitter
from lamina.tracing.ledger import Ledger
from lamina.tracing.refusals import NeedsValues
from lamina.tracing.values import tensors


class Forward(Protocol):
    """What a trace is to such an operator."""

    emitter: Emitter
    ledger: Ledger
    real: bool  # whether it has values

    def resumed(self, functions: bool = True) -> AbstractContextManager[None]:
        """Within, code is recorded as the rest of the forward is, or only the operators that torch comes to."""
        ...

    def rehearsed(self, function: Callable[..., Any], args: Sequence[Any]) -> int:
        """The MACs of a call, which leaves no record."""
        ...

    def transformed(self, func: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        """Run what goes through torch.vmap, torch.func.grad and their like."""
        ...


def _cond(forward: Forward, pred: Any, true_fn: Callable[..., Any], false_fn: Callable[..., Any], operands: Any = ()) -> Any:
    """The branch that the condition takes, or if nobody knows it the one of more MACs."""
    try:
        with forward.resumed():
            taken = bool(pred)
    except NeedsValues:
        first, second = (forward.rehearsed(branch, operands) for branch in (true_fn, false_fn))
        taken = first >= second
        counts = (first, second) if taken else (second, first)
        forward.emitter.note(
            f"torch.cond is counted by its dearer branch, the {'first' if taken else 'second'}: "
            f"{counts[0]:,} MACs, the other {counts[1]:,}"
        )
    with forward.resumed():
        return (true_fn if taken else false_fn)(*operands)


def _while_loop(
    forward: Forward, cond_fn: Callable[..., Any], body_fn: Callable[..., Any], carried: Any, others: Any = (), **_: Any
) -> Any:
    """As often as the condition says, which has to be known: counted by integers or constants of the forward's own."""
    with forward.resumed():
        while cond_fn(*carried, *others):
            carried = body_fn(*carried, *others)
    return tuple(carried)


def _backward(function: Callable[..., Any], name: str) -> Callable[..., Any]:
    """Of what a transform has wrapped torch has the gradient (torch.func.vjp), of the rest of a forward not."""

    def backward(forward: Forward, *args: Any, **kwargs: Any) -> Any:
        if any(map(private.is_wrapped, tensors(args))):
            if not forward.real:
                args, kwargs = private.tree_map_only(torch.Tensor, forward.ledger.plain, (args, kwargs))
            with forward.resumed(functions=False):
                return forward.transformed(function, args, kwargs)
        raise InputError(
            f"{forward.emitter.where()}: {name} needs what torch notes of a forward, which a trace does not make: take the "
            f"gradient by torch.func.grad or torch.func.vjp, which are counted; at {blame.calling_line()}"
        )

    return backward


OPERATORS: dict[Any, Callable[..., Any]] = {
    private.cond: _cond,
    private.while_loop: _while_loop,
    torch.autograd.grad: _backward(torch.autograd.grad, "torch.autograd.grad"),
    torch.autograd.backward: _backward(torch.autograd.backward, "torch.autograd.backward"),
    torch.Tensor.backward: _backward(torch.Tensor.backward, "backward"),
}
