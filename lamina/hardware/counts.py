"""The counts of mapping.py for many tilings of the declared space at once: one element of an array is one tiling.

Per dimension of D iterations: s elements side by side, each with a register tile of r; an array tile is a = s r, and there
are n = D / a of them (rounded up) in dd buffer tiles. m counts register tiles, k those that are the first of their element
within a buffer tile, w those within the first array tile, t the array's steps. tests/hardware hold that both files agree.
One file, for its counts share their intermediate arrays; parted, each would be computed again or handed around.
"""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

import numpy as np

from lamina.errors import InputError
from lamina.hardware import space
from lamina.hardware.accelerator import Accelerator, Level
from lamina.hardware.mapping import window
from lamina.hardware.nest import DIMS, TENSORS, Axis, Nest

ALL = "WIO"  # a stationary tensor in lower bounds: each of them, as if each had its own best order
Vector = Any  # an array of float64 or int64, or one number for all


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

    def _each(self, function: Callable[[str, int], Vector]) -> Vectors:
        return Vectors({dim: function(dim, getattr(self.nest, dim)) for dim in self.s})

    @cached_property
    def a(self) -> Vectors:
        return self._each(lambda dim, D: self.s[dim] * self.r[dim])

    @cached_property
    def n(self) -> Vectors:
        return self._each(lambda dim, D: -(-D // self.a[dim]))

    @cached_property
    def m(self) -> Vectors:
        return self._each(lambda dim, D: -(-D // self.r[dim]))

    @cached_property
    def w(self) -> Vectors:
        return self._each(lambda dim, D: np.minimum(self.s[dim], self.m[dim]))

    @cached_property
    def t(self) -> Vectors:
        return self._each(lambda dim, D: D // self.a[dim] * self.r[dim] + np.minimum(self.r[dim], D % self.a[dim]))

    @cached_property
    def k(self) -> Vectors:
        def first(dim: str, D: int) -> Vector:
            dd = self.dd[dim]
            last = D - (dd - 1) * self.a[dim] * -(-self.n[dim] // dd)
            return (dd - 1) * self.s[dim] + np.minimum(self.s[dim], -(-last // self.r[dim]))

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


class Model:
    """The counts of one nest on one accelerator, as one dataflow uses it."""

    def __init__(self, nest: Nest, accelerator: Accelerator, parts: space.Storeys):
        self.nest, self.accelerator, self.parts = nest, accelerator, parts
        if accelerator.systolic and accelerator.systolic not in space.KEEPS[parts.dataflow]:
            raise InputError(f"{accelerator.name} is a systolic array that keeps {accelerator.systolic}: it cannot run"
                             f" {parts.dataflow}")  # fmt: skip
        self.live = live(nest)
        self.buffer: dict[str, Level | None] = {X: parts.keeper(parts.buffers, X) for X in TENSORS}
        self.register: dict[str, Level | None] = {X: parts.keeper(parts.registers, X) for X in TENSORS}
        self.inside = space.capacities(accelerator, parts.registers, "".join(X for X in TENSORS if self.register[X]))
        self.shared = space.capacities(accelerator, parts.buffers, "".join(X for X in TENSORS if self.buffer[X]))
        self.limits = {tensor: held for tensors, held in self.inside for tensor in tensors}
        self.irrelevant = {X: [d for d in nest.irrelevant(X) if getattr(nest, d) > 1] for X in TENSORS}
        self.plain = {X: float(math.prod(getattr(nest, dim) for dim in nest.plain[X])) for X in TENSORS}
        self.size = {X: float(nest.size(X)) for X in TENSORS}
        self._tiles: dict[tuple[tuple[int, ...], ...], np.ndarray] = {}

    # ---- what fits ----

    def held(self, tensor: str, tile: Vectors) -> Vector:
        nest = self.nest
        total = math.prod([tile[dim] for dim in nest.plain[tensor] if getattr(nest, dim) > 1], start=1)
        if tensor == nest.windowed:
            for axis in nest.axes:
                if getattr(nest, axis.outer) > 1 or getattr(nest, axis.inner) > 1:
                    total = total * ((tile[axis.outer] - 1) * axis.stride + (tile[axis.inner] - 1) * axis.dilation + 1)
        return total

    def _fits(self, tile: Vectors, groups: list[tuple[str, int]]) -> np.ndarray:
        good = np.ones(len(next(iter(tile.values()))), bool)
        for tensors, capacity in groups:
            good &= sum(self.held(tensor, tile) for tensor in tensors) <= capacity
        return good

    def fits_buffers(self, tile: Vectors) -> np.ndarray:
        return self._fits(tile, self.shared)

    def register_tiles(self, options: tuple[tuple[int, ...], ...]) -> np.ndarray:
        """All tiles of these sizes that the registers hold, one row each."""
        if options not in self._tiles:
            grid = np.meshgrid(*(np.array(sizes, np.int64) for sizes in options), indexing="ij", copy=False)
            tile = Vectors({dim: axis.ravel() for dim, axis in zip(self.live, grid, strict=True)})
            rows = np.stack([tile[dim] for dim in self.live], axis=1)
            self._tiles[options] = rows[self._fits(tile, self.inside)]
        return self._tiles[options]

    # ---- orders ----

    def valid(self, order: space.Order, bounds: Vectors) -> np.ndarray:
        """`space.valid` for many bounds."""
        some = {dim: axis > 1 for dim, axis in bounds.items()}
        none = np.zeros(len(next(iter(some.values()))), bool)
        loops = _any(some, self.live, none)
        if order.empty:
            return ~loops
        if order.stationary is None:
            return some.get("G", none)
        if order.last:
            return some.get(order.last, none)
        run = self.nest.irrelevant(order.stationary)
        blocked = _any(some, [dim for dim in run if dim in space.AXES], none)
        return _any(some, [dim for dim in run if dim not in space.AXES], none) & ~blocked

    def possible(self, order: space.Order, view: View) -> np.ndarray:
        """Whether the buffer's loops can have this order at all, given how many array tiles there are."""
        some = {dim: axis > 1 for dim, axis in view.n.items()}
        none = np.zeros(len(view), bool)
        if order.stationary is None or order.last:
            return some.get(order.last or "G", none)
        return _any(some, [dim for dim in self.nest.irrelevant(order.stationary) if dim not in space.AXES], none)

    # ---- between the array and what feeds it ----

    def inner(
        self, order: space.Order, view: View, b: Vectors | None, joined: bool, outside: np.ndarray | None = None
    ) -> Traffic:
        """What crosses the array's edge, and within. Without `b`, the bounds of the buffer's loops, a lower bound: one buffer
        tile, and the best that a window could save."""
        macs = float(self.nest.macs)
        traffic = Traffic({}, {}, self._cycles(order, view, b, joined), _product(view.w, self.live), macs)
        later = self._later(order, view, b, joined, outside)
        for X in TENSORS:
            moved, served, first, final = self._crossing(X, order, view, b, joined, later)
            parent = (self.buffer[X] or self.parts.outside).name
            register = self.register[X]
            traffic.read("network", moved)
            if X != "O":
                traffic.read(parent, served)
                if register:
                    traffic.write(register.name, moved)
                    traffic.read(register.name, macs)
                continue
            traffic.write(parent, served)
            traffic.read(parent, np.maximum(0, served - final))
            if register:
                traffic.write(register.name, np.maximum(0, moved - first) + macs)
                traffic.read(register.name, np.maximum(0, macs - first))
        return traffic

    def _crossing(
        self, X: str, order: space.Order, view: View, b: Vectors | None, joined: bool, later: dict[str, Vector]
    ) -> tuple[Vector, Vector, Vector, Vector]:
        """Words that move to or from the elements, words that are read or written at the parent, and of the outputs the first
        visits of both kinds."""
        nest, dims, shared = self.nest, self.irrelevant[X], self.accelerator.window_multicast
        windowed = nest.windowed == X
        first = final = 0.0
        if X == "O":
            first = self.plain[X] * _product(view.w, dims)
            final = self.plain[X]
            if windowed:
                for axis in nest.axes:
                    sizes, tiles = self._axis(axis), (view.w[axis.outer], view.w[axis.inner])
                    first = first * window(axis, *sizes, *tiles)
                    final = final * window(axis, *sizes, *((1, 1) if shared else tiles))
        if not self.register[X]:
            moved, served = float(nest.macs), self.plain[X] * _product(view.t, dims)
            if windowed:
                for axis in nest.axes:
                    P, R = self._axis(axis)
                    served = served * (window(axis, P, R, view.t[axis.outer], view.t[axis.inner]) if shared else P * R)
            return moved, served, first, final
        still = order.stationary in (X, ALL)
        if not still:
            moved, served = self.plain[X] * _product(view.m, dims), self.plain[X] * _product(view.n, dims)
        elif joined or b is None:
            moved, served = self.plain[X] * _product(view.w, dims), self.plain[X]
        else:
            moved, served = self.plain[X] * _product(view.k, dims), self.plain[X] * _product(view.dd, dims)
        if windowed:
            for axis in nest.axes:
                each, together = self._window(axis, view, {} if order.stationary == X else later)
                moved, served = moved * each, served * together
        return moved, served, first, final

    def _axis(self, axis: Axis) -> tuple[int, int]:
        return getattr(self.nest, axis.outer), getattr(self.nest, axis.inner)

    def _window(self, axis: Axis, view: View, later: dict[str, Vector]) -> tuple[Vector, Vector]:
        """Elements along an axis that all register tiles bring, and that are read for them."""
        P, R = self._axis(axis)
        if P == R == 1:
            return 1, 1
        total = window(axis, P, R, view.m[axis.outer], view.m[axis.inner])
        for walk, number in later.items():
            if walk in (axis.outer, axis.inner):
                total = total - number * self._overlap(axis, walk, view)
        if not self.accelerator.window_multicast:
            return total, total
        across = (view.s[axis.outer] > 1) | (view.s[axis.inner] > 1)
        return total, np.where(across, window(axis, P, R, view.n[axis.outer], view.n[axis.inner]), total)

    def _overlap(self, axis: Axis, walk: str, view: View) -> Vector:
        moving, standing = (axis.stride, axis.dilation) if walk == axis.outer else (axis.dilation, axis.stride)
        other = axis.inner if walk == axis.outer else axis.outer
        if getattr(self.nest, other) == 1:
            return 0  # windows of one element never share any
        size, tile = getattr(self.nest, other), view.r[other]
        full, left = size // tile, size % tile
        advance = (view.r[walk] - 1 - view.a[walk]) * moving + 1
        whole = np.maximum(0, advance + (tile - 1) * standing)
        return full * whole + np.where(left > 0, np.maximum(0, advance + (left - 1) * standing), 0)

    def _later(
        self, order: space.Order, view: View, b: Vectors | None, joined: bool, outside: np.ndarray | None
    ) -> dict[str, Vector]:
        """By dimension: how many register tiles follow another one in a loop that is innermost, so that a window slides."""
        walks = [order.last] if order.last else []
        if joined and b is None and order.stationary:
            run = DIMS if order.stationary == ALL else self.nest.irrelevant(order.stationary)
            walks = [dim for dim in run if dim in space.AXES]
        walks = [dim for dim in walks if getattr(self.nest, dim) > 1]
        if b is None:
            return {dim: view.m[dim] - view.w[dim] for dim in walks}
        found = {dim: view.m[dim] - view.k[dim] for dim in walks}
        if joined and not walks and outside is not None:
            still = self.valid(space.Order(None, None, True), b)  # no loops at the buffer: those outside decide
            known = space.orders(self.nest.transposed)
            for dim in {last for i in np.unique(outside) if (last := known[int(i)].last)}:
                if getattr(self.nest, dim) > 1:
                    ours = np.isin(outside, [i for i, other in enumerate(known) if other.last == dim]) & still
                    found[dim] = np.where(ours, view.m[dim] - view.w[dim], 0)
        return found

    def _cycles(self, order: space.Order, view: View, b: Vectors | None, joined: bool) -> Vector:
        steps = _product(view.t, self.live)
        kind = self.accelerator.systolic
        if kind is None:
            return steps
        rows, columns = self.accelerator.array
        folds: Vector = 1.0
        for dim in self.live:
            if order.stationary not in (kind, ALL) or dim not in self.irrelevant[kind]:
                folds = folds * view.n[dim]
            elif b is not None and not joined:
                folds = folds * view.dd[dim]
        return steps + folds * ((1 if kind == "O" else 2) * rows + columns - 2) - 1

    # ---- what a stationary tensor adds for each buffer tile ----

    def refetch(self, order: space.Order, view: View, places: np.ndarray) -> np.ndarray:
        """Energy for each further time that what is stationary over the buffer's loops is brought again, at least."""
        X = order.stationary
        if X is None or not self.register[X]:
            return np.zeros(len(places))
        some = view.take(places)
        words: Vector = self.plain[X]
        if self.nest.windowed == X:
            for axis in self.nest.axes:
                words = words * self._window(axis, some, {})[1]
        cost = self.accelerator.cost((self.buffer[X] or self.parts.outside).name)
        times = 2 if X == "O" and self.nest.windowed != "O" else 1  # partial sums are written and read back
        return np.broadcast_to(words * cost * times, len(places))

    def refetched(self, order: space.Order, dd: Vectors) -> np.ndarray:
        """How often it is brought, for each outer candidate."""
        X = order.stationary
        return np.broadcast_to(_product(dd, self.irrelevant[X]) if X else 1.0, len(next(iter(dd.values()))))

    # ---- between the buffers and what is outside ----

    def outer(self, order: space.Order, view: View) -> Traffic:
        """What crosses the buffers' edge for each number of buffer tiles."""
        zero = np.zeros(len(view))
        traffic, outside = Traffic({}, {}, zero), self.parts.outside.name
        traffic.read(outside, zero)
        traffic.write(outside, zero)
        for X in TENSORS:
            level = self.buffer[X]
            if level is None:
                continue
            moved = self.plain[X] * (1.0 if order.stationary == X else _product(view.dd, self.irrelevant[X]))
            if self.nest.windowed == X:
                for axis in self.nest.axes:
                    moved = moved * self._outer_axis(axis, view, order if order.stationary != X else None)
            moved = moved + zero
            if X == "O":
                traffic.write(outside, moved)
                traffic.read(outside, np.maximum(0, moved - self.size[X]))
                traffic.write(level.name, np.maximum(0, moved - self.size[X]))
            else:
                traffic.read(outside, moved)
                traffic.write(level.name, moved)
        return traffic

    def _outer_axis(self, axis: Axis, view: View, order: space.Order | None) -> Vector:
        P, R = self._axis(axis)
        total = window(axis, P, R, view.dd[axis.outer], view.dd[axis.inner])
        if order is not None and order.last == axis.outer:  # the filter is whole, so only the positions walk
            total = total - (view.dd[axis.outer] - 1) * max(0, (R - 1) * axis.dilation + 1 - axis.stride)
        return total


def _any(some: dict[str, np.ndarray], dims: Sequence[str], none: np.ndarray) -> np.ndarray:
    """Where one of the dimensions has a loop."""
    for dim in dims:
        if dim in some:
            none = none | some[dim]
    return none


def _product(values: Vectors, dims: Sequence[str]) -> Vector:
    return math.prod([values[dim] for dim in dims], start=1.0)


def cost(model: Model, traffic: Traffic) -> tuple[Vector, Vector]:
    """Energy and cycles. Of inner or outer traffic alone: what it adds to the energy, and cycles that it needs at least."""
    accelerator = model.accelerator
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
