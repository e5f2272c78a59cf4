"""Operators that their users describe: a custom kernel, or one that has no rule here.

>>> with register(torch.ops.mylib.mix, lambda x, w: (x[:-1] + w[:1], Loops(N=x[0], M=w[0], C=w[1]))):
...     workload = trace(model, example)
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch

from lamina.errors import InputError
from lamina.tracing import private
from lamina.tracing.emitter import Emitter
from lamina.tracing.values import tensors as tensors_in
from lamina.workload import Kind, Loops, replace

RULES: dict[Any, Registration] = {}


class Registration:
    """What `register` returns: `remove()` undoes it, and as a context manager it lasts for the block."""

    def __init__(self, shapes: Callable[..., Any], kind: Kind, functions: tuple[Any, ...]):
        self.shapes, self.functions = shapes, functions
        self.kind: Kind = kind
        self.before = {function: RULES.get(function) for function in functions}
        RULES.update(dict.fromkeys(functions, self))

    def remove(self) -> None:
        """Forget the registration; one that it replaced holds again."""
        for function, before in self.before.items():
            if RULES.get(function) is self:
                if before is None:
                    del RULES[function]
                else:
                    RULES[function] = before

    def __enter__(self) -> Registration:
        return self

    def __exit__(self, *_: Any) -> None:
        self.remove()


def register(op: Any, shapes: Callable[..., Any], kind: Kind = "matmul") -> Registration:
    """Say what an operator costs, for all traces until the returned `Registration` is removed.

    `op` is `torch.ops.library.name` (all its overloads, or one of them), a `torch.library.custom_op`, or any function of
    torch. `shapes` is called as the operator is, with each tensor's shape (a tuple) in the tensor's place, and returns
    `(output, cost)`: `output` is a shape, a list of shapes, or None for what the operator's meta (fake) kernel says; `cost`
    is a number of MACs, a `Loops`, or a list of `Loops`. Outputs have the first floating-point argument's type. A name that
    is registered twice is what the second says, until that is removed.
    """
    op = getattr(op, private.CUSTOM_OPERATOR, op)
    functions: tuple[Any, ...] = (op,)
    if isinstance(op, private.OperatorPacket):
        functions += tuple(getattr(op, name) for name in op.overloads())
    elif isinstance(op, private.Operator) and len(op.overloadpacket.overloads()) == 1:
        functions += (op.overloadpacket,)
    elif not callable(op):
        raise InputError(f"{op!r} is no operator: give torch.ops.LIBRARY.NAME, a custom_op or a function of torch")
    return Registration(shapes, kind, functions)


def apply(t: Emitter, func: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
    """Count a registered operator as one layer."""
    rule = RULES[func]
    name = getattr(func, "__name__", str(func)).split(".")[0]
    tensors = tensors_in((args, kwargs))
    shown_args, shown_kwargs = private.tree_map_only(torch.Tensor, lambda x: tuple(x.shape), (args, kwargs))
    try:
        output, cost = rule.shapes(*shown_args, **shown_kwargs)
    except (TypeError, ValueError) as error:
        text = f"the function that describes {name} must take its arguments and give (output, cost)"
        raise InputError(f"{t.where()}: {text}: {error}") from error
    nests = (Loops(N=cost),) if isinstance(cost, int) else (cost,) if isinstance(cost, Loops) else tuple(cost)
    if output is None:
        moved_args, moved_kwargs = private.tree_map_only(torch.Tensor, t.ledger.meta, (args, kwargs))
        with torch.no_grad():
            result = func(*moved_args, **moved_kwargs)
    else:
        single = not output or isinstance(output[0], int)
        dtype = next((x.dtype for x in tensors if x.is_floating_point()), torch.get_default_dtype())
        results = [t.new(tuple(shape), dtype) for shape in ([output] if single else output)]
        result = results[0] if single else tuple(results)
    outputs = tensors_in(result)
    names: Sequence[int | str] = [t.operand(x) for x in tensors[:2]]
    if len(nests) == 1 and not nests[0].operands and len(names) == 2:
        nests = (replace(nests[0], operands=(*names, len(t.ledger.tensors))),)
    t.emit(rule.kind, name, tensors, outputs, nests, saved=(*tensors, *outputs))
    return result
