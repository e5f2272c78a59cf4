"""The counts of mapping.py for many tilings of the declared space at once, by the letters of candidates.py: what crosses the
array's edge ("inner") and what crosses the buffers' ("outer"). tests/hardware hold that both files agree.
"""

import itertools
import math
from collections.abc import Sequence

import numpy as np

from lamina.hardware import space
from lamina.hardware.candidates import Traffic, Vector, Vectors, View, cost
from lamina.hardware.mapping import window
from lamina.hardware.nest import TENSORS, Axis
from lamina.hardware.room import Room


class Model(Room):
    """The counts of one nest on one accelerator, as one dataflow uses it."""

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
            words = self._crossing(X, still and self.low != X, {} if still else later, view, b, joined)
            self._carry(traffic, X, words)
        return traffic

    def least(self, view: View) -> tuple[Vector, Vector]:
        """Lower bounds of energy and cycles under any order of the buffer's loops: at most one tensor is stationary, and
        windows slide along every axis. Each tensor counts as both, stationary and moving, once."""
        traffic = Traffic({}, {}, self._cycles(self.accelerator.systolic, view, None, True), _product(view.w, self.live))
        later = self.sliding(view)
        energy: Vector = float(self.nest.macs)
        saved: Vector = 0.0
        for X in TENSORS:
            kept, moved = Traffic({}, {}), Traffic({}, {})
            self._carry(kept, X, self._crossing(X, self.low != X, {}, view, None, True))
            self._carry(moved, X, self._crossing(X, False, later, view, None, True))
            moving = cost(self.accelerator, moved)[0]
            energy, saved = energy + moving, np.maximum(saved, moving - cost(self.accelerator, kept)[0])
            traffic = traffic.plus(kept)
        return energy - saved, cost(self.accelerator, traffic)[1]

    def sliding(self, view: View) -> dict[str, Vector]:
        """By dimension: how many register tiles follow another one, were every loop over an axis innermost."""
        return {dim: view.m[dim] - view.w[dim] for dim in space.AXES if dim in view.s}

    def fewest(self, X: str) -> float:
        """Elements of a tensor that any tiles touch: fewer than its size where a window skips some in its strides."""
        total = self.plain[X]
        if self.nest.windowed == X:
            total *= math.prod(self.fewest_along(axis) for axis in self.nest.axes)
        return total

    def fewest_along(self, axis: Axis) -> int:
        P, R = self._axis(axis)
        return min(window(axis, P, R, *tiles) for tiles in itertools.product((1, P), (1, R)))

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
                each, together = self.windows(axis, view, later)
                moved, served = moved * each, served * together
        return moved, served, first, final

    def _axis(self, axis: Axis) -> tuple[int, int]:
        return getattr(self.nest, axis.outer), getattr(self.nest, axis.inner)

    def windows(self, axis: Axis, view: View, later: dict[str, Vector]) -> tuple[Vector, Vector]:
        """Elements along an axis that all register tiles bring, and that are read for them."""
        P, R = self._axis(axis)
        if P == R == 1:
            return 1, 1
        total = window(axis, P, R, view.m[axis.outer], view.m[axis.inner])
        apart = view.n[axis.outer]
        if self.low == self.nest.windowed:
            along_p, along_q = self._windows(view.r)
            slides = along_q <= along_p if axis.outer == "Q" else along_p < along_q
            steps = window(axis, P, R, P, view.m[axis.inner])
            steps = steps - (P - view.m[axis.outer]) * self._overlap(axis, axis.outer, view, -axis.stride + 1)
            total, apart = np.where(slides, steps, total), np.where(slides, view.t[axis.outer], apart)
        else:
            for walk, number in later.items():
                if walk in (axis.outer, axis.inner):
                    moving = axis.stride if walk == axis.outer else axis.dilation
                    advance = (view.r[walk] - 1 - view.a[walk]) * moving + 1
                    total = total - number * self._overlap(axis, walk, view, advance)
        if not self.accelerator.window_multicast:
            return total, total
        across = (view.s[axis.outer] > 1) | (view.s[axis.inner] > 1)
        return total, np.where(across, window(axis, P, R, apart, view.n[axis.inner]), total)

    def _overlap(self, axis: Axis, walk: str, view: View, advance: Vector) -> Vector:
        """Elements that a window shares with the one before it, summed over the tiles of the axis's other dimension; `advance`
        is what it would share if each of those had one element."""
        standing = axis.dilation if walk == axis.outer else axis.stride
        other = axis.inner if walk == axis.outer else axis.outer
        if getattr(self.nest, other) == 1:
            return 0  # windows of one element never share any
        size, tile = getattr(self.nest, other), view.r[other]
        full = np.floor(size / tile)
        left = size - full * tile
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
        if X is None or not self.register[X] or self.low == X:
            return np.zeros(len(places))
        some = view.take(places)
        words: Vector = self.plain[X]
        if self.nest.windowed == X:
            for axis in self.nest.axes:
                words = words * self.windows(axis, some, {})[1]
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
                spared = (moving - cost(self.accelerator, kept)[0]) * self.may_fit_buffers(view.dd, X)
                energy, saved = energy + moving, np.maximum(saved, spared)
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
