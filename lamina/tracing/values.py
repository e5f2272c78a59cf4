"""Which tensors keep their values in a trace, and the tensors in nested containers."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any

import torch
from torch import Tensor

META = torch.device("meta")
SMALL = 1 << 18  # elements: an integer tensor up to this size keeps its values


def tensors(value: Any) -> Iterable[Tensor]:
    if isinstance(value, Tensor):
        yield value
    elif isinstance(value, (tuple, list)):
        for item in value:
            yield from tensors(item)
    elif isinstance(value, dict):
        yield from tensors(tuple(value.values()))


def mapped(value: Any, function: Callable[[Tensor], Any]) -> Any:
    if isinstance(value, Tensor):
        return function(value)
    if isinstance(value, (tuple, list)):
        return type(value)([mapped(v, function) for v in value])
    if isinstance(value, dict):
        return {k: mapped(v, function) for k, v in value.items()}
    return value


def unique(values: Iterable[Tensor]) -> list[Tensor]:
    return list({id(x): x for x in values}.values())


def assume(x: Tensor) -> None:
    """Mark a real tensor whose values are made up, so that whoever reads one is found out."""
    x._lamina_assumed = True  # type: ignore[attr-defined]


def is_assumed(x: Any) -> bool:
    return hasattr(x, "_lamina_assumed")
