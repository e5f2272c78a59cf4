"""Which layers a backward pass runs through: those between a trained weight and the results that the loss is computed of."""

from collections.abc import Callable, Iterable, Sequence
from typing import Any

from torch import Tensor as Result

from lamina.errors import InputError
from lamina.tracing import values
from lamina.tracing.emitter import Operation
from lamina.workload import Tensor, replace


def follow(operations: Sequence[Operation], records: list[Tensor], results: Iterable[int], storages: set[int]) -> None:
    """Take the gradient from the records of all tensors that lead to none of the results (by number, or by storage), in
    place."""
    wanted = set(results)
    for operation in reversed(operations):
        given = [records[i] for i in operation.inputs if records[i].requires_grad]
        if wanted.isdisjoint(operation.outputs):
            outputs = [records[i] for i in operation.outputs if records[i].requires_grad]
            # What is written through one view of a storage is read through others.
            in_place = operation.kind != "view" and {x.storage for x in outputs} & {x.storage for x in given} & storages
            if not in_place:
                for x in outputs:
                    records[x.id] = replace(x, requires_grad=False)
                continue
        wanted.update([x.id for x in given])
        storages.update([x.storage for x in given])


def chosen(loss: Callable[[Any], Any], result: Any) -> list[Result]:
    """What the loss is computed of."""
    try:
        found = values.tensors(loss(result))
    except (AttributeError, LookupError, TypeError) as error:
        raise InputError(f"loss= does not fit what the forward returns: {type(error).__name__}: {error}") from error
    if not found:
        raise InputError("loss= picks no tensor from what the forward returns")
    return found
