"""The table of ATen operators that are more than a name, which other files fill: a rule takes a call's shapes."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from lamina.operators import Shape
from lamina.workload import Kind, Loops

Cost = tuple[Kind, tuple[Loops, ...], dict[str, int]]


@dataclass(slots=True)
class Call:
    """One call of an operator, with the shapes of its tensors."""

    name: str
    args: Sequence[Any]
    kwargs: dict[str, Any]
    given: list[Shape]
    outputs: list[Shape]

    @property
    def size(self) -> int:
        """The elements of the first tensor that is given."""
        return math.prod(self.given[0]) if self.given else 0

    @property
    def elements(self) -> int:
        """The elements of the first output."""
        return math.prod(self.outputs[0]) if self.outputs else 0

    def arg(self, place: int, default: Any = None) -> Any:
        return self.args[place] if place < len(self.args) else default


RULES: dict[str, Callable[[Call], Cost]] = {}


def rule(*names: str) -> Callable[[Callable[[Call], Cost]], Callable[[Call], Cost]]:
    def register(function: Callable[[Call], Cost]) -> Callable[[Call], Cost]:
        RULES.update(dict.fromkeys(names, function))
        return function

    return register
