"""The counts of mapping.py for many tilings of the declared space at once, by the letters of candidates.py: what crosses the
array's edge ("inner") and what crosses the buffers' ("outer"). tests/hardware hold that both files agree.
"""

import itertools
import math
from collections.abc import Sequence

import numpy as np

from lamina.hardware import space
from lamina.hardware.accelerator import Accelerator, Level
from lamina.hardware.candidates import Traffic, Vector, Vectors, View, cost, live
from lamina.hardware.mapping import window
from lamina.hardware.nest import TENSORS, Axis, Nest


class Model:
    """The counts of one nest on one accelerator, as one dataflow uses it."""

    def __init__(self, nest: Nest, accelerator: Accelerator, parts: space.Storeys):
        self.nest, self.accelerator, self.parts = nest, accelerator, parts
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
        """All tiles of these sizes that the registers hold, one row for each live dimension."""
        if options not in self._tiles:
            grid = np.meshgrid(*(np.array(sizes, np.float64) for sizes in options), indexing="ij", copy=False)
            tile = Vectors({dim: axis.ravel() for dim, axis in zip(self.live, grid, strict=True)})
            fitting = np.flatnonzero(self._fits(tile, self.inside))
            self._tiles[options] = np.stack([tile[dim][fitting] for dim in self.live])
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
        cycles = self._cycles(order.stationary, view, b, joined)
        traffic = Traffic({}, {}, cycles, _product(view.w, self.live), float(self.nest.macs))
        later = self._later(order, view, b, joined, outside)
        for X in TENSORS:
            still = order.stationary == X
            self._carry(traffic, X, self._crossing(X, still, {} if still else later, view, b, joined))
        return traffic

    def least(self, view: View) -> tuple[Vector, Vector]:
        """Lower bounds of energy and cycles under any order of the buffer's loops: at most one tensor is stationary, and
        windows slide along every axis. Each tensor counts as both, stationary and moving, once."""
        traffic = Traffic({}, {}, self._cycles(self.accelerator.systolic, view, None, True), _product(view.w, self.live))
        later = {dim: view.m[dim] - view.w[dim] for dim in space.AXES if getattr(self.nest, dim) > 1}
        energy: Vector = float(self.nest.macs)
        saved: Vector = 0.0
        for X in TENSORS:
            kept, moved = Traffic({}, {}), Traffic({}, {})
            self._carry(kept, X, self._crossing(X, True, {}, view, None, True))
            self._carry(moved, X, self._crossing(X, False, later, view, None, True))
            moving = cost(self.accelerator, moved)[0]
            energy, saved = energy + moving, np.maximum(saved, moving - cost(self.accelerator, kept)[0])
            traffic = traffic.plus(kept)
        return energy - saved, cost(self.accelerator, traffic)[1]

    def floor(self, spread: space.Factors) -> tuple[float, float]:
        """Lower bounds of energy and cycles for spatial factors, whatever the register tile: every tensor moves once, one that
        the registers do not keep for every step of the array."""
        nest, price = self.nest, self.accelerator.cost
        energy = macs = float(nest.macs)
        passes = Vectors({dim: -(-getattr(nest, dim) // spread.get(dim, 1)) for dim in self.live})
        for X in TENSORS:
            register, parent, once = self.register[X], price((self.buffer[X] or self.parts.outside).name), self._fewest(X)
            if register:
                first = self.plain[X] * math.prod(spread.get(dim, 1) for dim in self.irrelevant[X])
                reads = macs if X != "O" else 0.0 if nest.windowed == "O" else max(0.0, macs - first)
                energy += once * (price("network") + parent) + (reads + (macs if X == "O" else once)) * price(register.name)
                continue
            served = once if nest.windowed == X else self.plain[X] * _product(passes, self.irrelevant[X])
            again = max(0.0, served - once) if X == "O" else 0.0
            energy += macs * price("network") + (served + again) * parent
        return energy, _product(passes, self.live)

    def _fewest(self, X: str) -> float:
        """Elements of a tensor that any tiles touch: fewer than its size where a window skips some in its strides."""
        total = self.plain[X]
        if self.nest.windowed == X:
            for axis in self.nest.axes:
                P, R = self._axis(axis)
                total *= min(window(axis, P, R, *tiles) for tiles in itertools.product((1, P), (1, R)))
        return total

    def _carry(self, traffic: Traffic, X: str, words: tuple[Vector, Vector, Vector, Vector]) -> None:
        """Add one tensor's crossing to what each level moves."""
        moved, served, first, final = words
        macs = float(self.nest.macs)
        parent = (self.buffer[X] or self.parts.outside).name
        register = self.register[X]
        traffic.read("network", moved)
        if X != "O":
            traffic.read(parent, served)
            if register:
                traffic.write(register.name, moved)
                traffic.read(register.name, macs)
            return
        traffic.write(parent, served)
        traffic.read(parent, np.maximum(0, served - final))
        if register:
            traffic.write(register.name, np.maximum(0, moved - first) + macs)
            traffic.read(register.name, np.maximum(0, macs - first))

    def _crossing(
        self, X: str, still: bool, later: dict[str, Vector], view: View, b: Vectors | None, joined: bool
    ) -> tuple[Vector, Vector, Vector, Vector]:
        """Words that move to or from the elements, words that are read or written at the parent, and of the outputs the first
        visits of both kinds. `still`: the buffer's innermost loops leave the tensor where it is."""
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
        if not still:
            moved, served = self.plain[X] * _product(view.m, dims), self.plain[X] * _product(view.n, dims)
        elif joined or b is None:
            moved, served = self.plain[X] * _product(view.w, dims), self.plain[X]
        else:
            moved, served = self.plain[X] * _product(view.k, dims), self.plain[X] * _product(view.dd, dims)
        if windowed:
            for axis in nest.axes:
                each, together = self._window(axis, view, later)
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
        full = np.floor(size / tile)
        left = size - full * tile
        advance = (view.r[walk] - 1 - view.a[walk]) * moving + 1
        whole = np.maximum(0, advance + (tile - 1) * standing)
        return full * whole + np.where(left > 0, np.maximum(0, advance + (left - 1) * standing), 0)

    def _later(
        self, order: space.Order, view: View, b: Vectors | None, joined: bool, outside: np.ndarray | None
    ) -> dict[str, Vector]:
        """By dimension: how many register tiles follow another one in a loop that is innermost, so that a window slides."""
        walks = [order.last] if order.last else []
        if joined and b is None and order.stationary:
            walks = [dim for dim in self.nest.irrelevant(order.stationary) if dim in space.AXES]
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

    def _cycles(self, stationary: str | None, view: View, b: Vectors | None, joined: bool) -> Vector:
        steps = _product(view.t, self.live)
        kind = self.accelerator.systolic
        if kind is None:
            return steps
        rows, columns = self.accelerator.array
        folds: Vector = 1.0
        for dim in self.live:
            if stationary != kind or dim not in self.irrelevant[kind]:
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
        traffic = self._nothing(view)
        for X in TENSORS:
            if self.buffer[X]:
                self._fill(traffic, X, self._brought(X, order.stationary == X, (order.last,), view))
        return traffic

    def outer_least(self, view: View) -> tuple[Vector, Vector]:
        """Lower bounds of its energy and cycles under any order of the loops outside, as `least` has them of the inner ones."""
        traffic = self._nothing(view)
        energy: Vector = 0.0
        saved: Vector = 0.0
        for X in TENSORS:
            if self.buffer[X]:
                kept, moved = Traffic({}, {}), Traffic({}, {})
                self._fill(kept, X, self._brought(X, True, (), view))
                self._fill(moved, X, self._brought(X, False, space.AXES, view))
                moving = cost(self.accelerator, moved)[0]
                energy, saved = energy + moving, np.maximum(saved, moving - cost(self.accelerator, kept)[0])
                traffic = traffic.plus(kept)
        return energy - saved, cost(self.accelerator, traffic)[1]

    def _nothing(self, view: View) -> Traffic:
        zero, outside = np.zeros(len(view)), self.parts.outside.name
        return Traffic({outside: zero}, {outside: zero}, zero)

    def _fill(self, traffic: Traffic, X: str, moved: Vector) -> None:
        """Add one tensor's words between its buffer and what is outside."""
        outside, level = self.parts.outside.name, self.buffer[X]
        assert level is not None
        if X == "O":
            again = np.maximum(0, moved - self.size[X])
            traffic.write(outside, moved)
            traffic.read(outside, again)
            traffic.write(level.name, again)
        else:
            traffic.read(outside, moved)
            traffic.write(level.name, moved)

    def _brought(self, X: str, still: bool, lasts: Sequence[str | None], view: View) -> Vector:
        """Words of a tensor that the buffer's tiles bring; a window slides along the `lasts` (the filter is whole, so only the
        positions walk)."""
        moved = self.plain[X] * (1.0 if still else _product(view.dd, self.irrelevant[X]))
        if self.nest.windowed == X:
            for axis in self.nest.axes:
                P, R = self._axis(axis)
                total = window(axis, P, R, view.dd[axis.outer], view.dd[axis.inner])
                if not still and axis.outer in lasts:
                    total = total - (view.dd[axis.outer] - 1) * max(0, (R - 1) * axis.dilation + 1 - axis.stride)
                moved = moved * total
        return moved + np.zeros(len(view))


def _any(some: dict[str, np.ndarray], dims: Sequence[str], none: np.ndarray) -> np.ndarray:
    """Where one of the dimensions has a loop."""
    for dim in dims:
        if dim in some:
            none = none | some[dim]
    return none


def _product(values: Vectors, dims: Sequence[str]) -> Vector:
    return math.prod([values[dim] for dim in dims], start=1.0)
