"""The records of `lamina.workload`, made faster than by themselves: a trace makes thousands.

A frozen dataclass sets each field by object.__setattr__, most of what it costs to make one. These set them on a plain class
of the same slots, and then make the instance one of the record's class: a quarter of the time, and the same object.
"""

from collections.abc import Callable
from dataclasses import fields, make_dataclass
from typing import Any, TypeVar

from lamina.workload import Layer, Lifetime, Loops, Tensor, Weight

R = TypeVar("R")


def _maker(record: type[R]) -> Callable[..., R]:
    """A function of all the record's fields, in order."""
    names = [field.name for field in fields(record)]  # type: ignore[arg-type]
    draft: Any = make_dataclass(f"_{record.__name__}", names, slots=True)

    def make(*values: Any) -> R:
        made = draft(*values)
        made.__class__ = record
        return made

    return make


tensor = _maker(Tensor)
weight = _maker(Weight)
loops = _maker(Loops)
layer = _maker(Layer)
lifetime = _maker(Lifetime)


def named(nest: Loops, operands: tuple[int | str, ...]) -> Loops:
    """The nest with other operands: those that repeated layers share are computed once."""
    n = nest
    return loops(n.N, n.G, n.M, n.C, n.output, n.filter, n.stride, n.padding, n.dilation, n.transposed, n.times, operands)
