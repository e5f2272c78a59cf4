"""Many tilings at once: one element of an array is one tiling. Their factors by dimension, the words that they move, and what
those cost.

Per dimension of D iterations: s elements side by side, each with a register tile of r; an array tile is a = s r, and there
are n = D / a of them (rounded up) in dd buffer tiles. m counts register tiles, k those that are the first of their element
within a buffer tile, w those within the first array tile, t the array's steps.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any, Literal, get_args

import numpy as np

from lamina.hardware.accelerator import Accelerator
from lamina.hardware.nest import DIMS, Nest

Vector = Any  # an array of float64 (of whole numbers) or int64, or one number for all
Objective = Literal["energy", "cycles", "edp"]
OBJECTIVES: tuple[Objective, ...] = get_args(Objective)


def over(above: Vector, below: Vector) -> Vector:
    """above / below, rounded up. Exact for whole numbers far below 2 ** 53, and several times as fast as dividing integers."""
    return np.ceil(above / below)


class Vectors(dict[str, Vector]):
    """Numbers by dimension; a dimension of one iteration has one of everything, and is left out."""

    def __missing__(self, dim: str) -> int:
        return 1

    def at(self, places: np.ndarray) -> "Vectors":
        return Vectors({dim: axis[places] for dim, axis in self.items()})


def live(nest: Nest) -> list[str]:
    """The dimensions that have something to tile (one at least, so that there is something to count)."""
    return [dim for dim in DIMS if getattr(nest, dim) > 1] or ["N"]


@dataclass
class View:
    """Candidates: what is known of each, by dimension."""

    nest: Nest
    s: Vectors = field(default_factory=Vectors)
    r: Vectors = field(default_factory=Vectors)
    dd: Vectors = field(default_factory=Vectors)

    def __len__(self) -> int:
        return len(next(iter((self.s or self.dd).values())))

    def take(self, places: np.ndarray) -> "View":
        return View(self.nest, self.s.at(places), self.r.at(places), self.dd.at(places))

    def beside(self, dd: Vectors) -> "View":
        return View(self.nest, self.s, self.r, dd)

    @staticmethod
    def concatenate(views: "Sequence[View]") -> "View":
        def joined(parts: list[Vectors]) -> Vectors:
            return Vectors({dim: np.concatenate([part[dim] for part in parts]) for dim in parts[0]})

        return View(views[0].nest, joined([v.s for v in views]), joined([v.r for v in views]))

    def _each(self, function: Callable[[str, int], Vector]) -> Vectors:
        return Vectors({dim: function(dim, getattr(self.nest, dim)) for dim in self.s})

    @cached_property
    def a(self) -> Vectors:
        return self._each(lambda dim, D: self.s[dim] * self.r[dim])

    @cached_property
    def n(self) -> Vectors:
        return self._each(lambda dim, D: over(D, self.a[dim]))

    @cached_property
    def m(self) -> Vectors:
        return self._each(lambda dim, D: over(D, self.r[dim]))

    @cached_property
    def w(self) -> Vectors:
        return self._each(lambda dim, D: np.minimum(self.s[dim], self.m[dim]))

    @cached_property
    def t(self) -> Vectors:
        def steps(dim: str, D: int) -> Vector:
            full = np.floor(D / self.a[dim])
            return full * self.r[dim] + np.minimum(self.r[dim], D - full * self.a[dim])

        return self._each(steps)

    @cached_property
    def k(self) -> Vectors:
        def first(dim: str, D: int) -> Vector:
            dd = self.dd[dim]
            last = D - (dd - 1) * self.a[dim] * over(self.n[dim], dd)
            return (dd - 1) * self.s[dim] + np.minimum(self.s[dim], over(last, self.r[dim]))

        return self._each(first)


@dataclass
class Traffic:
    """Words at each level; of the array its cycles, its elements in use and its MACs (0, 1 and 0 outside of it)."""

    reads: dict[str, Vector]
    writes: dict[str, Vector]
    cycles: Vector = 0.0
    active: Vector = 1.0
    macs: float = 0.0

    def read(self, level: str, words: Vector) -> None:
        self.reads[level] = self.reads.get(level, 0.0) + words

    def write(self, level: str, words: Vector) -> None:
        self.writes[level] = self.writes.get(level, 0.0) + words

    def take(self, places: np.ndarray) -> "Traffic":
        """The same of some candidates."""

        def some(words: dict[str, Vector]) -> dict[str, Vector]:
            return {level: v[places] if np.ndim(v) else v for level, v in words.items()}

        cycles, active = (v[places] if np.ndim(v) else v for v in (self.cycles, self.active))
        return Traffic(some(self.reads), some(self.writes), cycles, active, self.macs)

    def plus(self, other: "Traffic") -> "Traffic":
        """Inner and outer together."""
        both = Traffic(dict(self.reads), dict(self.writes), self.cycles, self.active, self.macs)
        for level, words in other.reads.items():
            both.read(level, words)
        for level, words in other.writes.items():
            both.write(level, words)
        return both

    @staticmethod
    def concatenate(parts: Sequence["Traffic"]) -> "Traffic":
        def joined(words: list[dict[str, Vector]]) -> dict[str, Vector]:
            return {level: np.concatenate([part[level] for part in words]) for level in words[0]}

        zero = np.concatenate([p.cycles for p in parts])
        return Traffic(joined([p.reads for p in parts]), joined([p.writes for p in parts]), zero)


def cost(accelerator: Accelerator, traffic: Traffic) -> tuple[Vector, Vector]:
    """Energy and cycles. Of inner or outer traffic alone: what it adds to the energy, and cycles that it needs at least."""
    energy: Vector = traffic.macs
    cycles: Vector = traffic.cycles
    for level in {*traffic.reads, *traffic.writes}:
        reads, writes = traffic.reads.get(level, 0.0), traffic.writes.get(level, 0.0)
        energy = energy + accelerator.cost(level) * (reads + writes)
        for port, words in (("", reads + writes), ("read", reads), ("write", writes)):
            width = accelerator.width(level, port)
            if width:
                share = traffic.active if level in accelerator.inside else 1
                cycles = np.maximum(cycles, words / share * accelerator.element_bytes(level) / width)
    return energy, cycles


def score(objective: Objective, energy: Vector, cycles: Vector) -> tuple[Vector, Vector]:
    """What is minimised, and what decides between equals."""
    if objective == "energy":
        return energy, cycles
    return (cycles, energy) if objective == "cycles" else (energy * cycles, energy)
