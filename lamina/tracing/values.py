"""Which tensors keep their values in a trace. All others are on the meta device, and have shapes only."""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import fields, is_dataclass
from typing import Any

import torch
from torch import Tensor

from lamina.tracing import private

META = torch.device("meta")
SMALL = 1 << 18  # elements: an integer tensor up to this size keeps its values


def keeps_values(tensor: Tensor) -> bool:
    """Whether an input keeps its values: a small one of integers, which a forward may read (token ids, lengths)."""
    return not (tensor.is_meta or tensor.is_floating_point() or tensor.is_complex() or tensor.numel() > SMALL)


def is_large(shapes: Sequence[Sequence[int]]) -> bool:
    """Whether a result of operands of these shapes may be too large for a trace, which allocates nothing that is not
    small."""
    axes = max(map(len, shapes), default=0)
    wide = [max(shape[-i] for shape in shapes if len(shape) >= i) for i in range(1, axes + 1)]
    return any(math.prod(shape) > SMALL for shape in (*shapes, wide))


def assume(tensor: Tensor) -> None:
    """Mark a real tensor whose values are made up, so that whoever reads one is found out."""
    tensor._lamina_assumed = True  # type: ignore[attr-defined]


def is_assumed(tensor: Tensor) -> bool:
    return hasattr(tensor, "_lamina_assumed")


@contextmanager
def same_seed() -> Iterator[None]:
    """Leave torch's generator as it is."""
    before = torch.default_generator.get_state()
    try:
        yield
    finally:
        torch.default_generator.set_state(before)


def tensors(value: Any) -> list[Tensor]:
    """The tensors in nested containers, dataclasses that torch does not know included."""
    found: list[Tensor] = []
    for leaf in private.tree_leaves(value):
        if isinstance(leaf, Tensor):
            found.append(leaf)
        elif is_dataclass(leaf) and not isinstance(leaf, type):
            found += tensors([getattr(leaf, field.name) for field in fields(leaf)])
    return found


def unique(values: Iterable[Tensor]) -> list[Tensor]:
    """Each tensor once, in order."""
    return list({id(x): x for x in values}.values())
