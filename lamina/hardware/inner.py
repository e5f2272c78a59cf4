"""The inner half of the search: spatial factors and register tiles, grown one dimension after another. What does not fit, or
cannot be better than the best tiling known however it grows, is left out with all that would grow from it.
"""

import math
from collections.abc import Callable, Iterator

import numpy as np

from lamina.hardware import space
from lamina.hardware.candidates import Vector, Vectors, View, over
from lamina.hardware.counts import Model
from lamina.hardware.nest import TENSORS

Promising = Callable[[Vector, Vector], np.ndarray]  # of lower bounds of energy and cycles
MOST = 1 << 17  # that are grown at a time
ORDER = "RSMCNPQG"  # what bounds the others' sizes most comes first


class Tiles:
    """Spatial factors `s` with register tiles `r` of the dimensions that have been grown so far."""

    def __init__(self, model: Model, s: Vectors, r: Vectors):
        self.model, self.s, self.r = model, s, r

    def __len__(self) -> int:
        return len(next(iter(self.s.values())))

    def take(self, places: np.ndarray) -> "Tiles":
        return Tiles(self.model, self.s.at(places), self.r.at(places))

    def grown(self, dim: str) -> "Tiles":
        """The same with every size of one more dimension."""
        model, places, sizes = self.model, [], []
        for factor in np.unique(self.s[dim]):
            options = space.register_options(model.nest, model.parts, {dim: int(factor)}, model.limits)[dim]
            held = np.flatnonzero(self.s[dim] == factor)
            places.append(np.repeat(held, len(options)))
            sizes.append(np.tile(np.array(options, np.float64), len(held)))
        place = np.concatenate(places)
        return Tiles(model, self.s.at(place), Vectors({**self.r.at(place), dim: np.concatenate(sizes)}))

    def fit(self) -> np.ndarray:
        """Whether the registers hold what has been grown, and the buffers the array's tile of it."""
        nest = self.model.nest
        array = {dim: np.minimum(getattr(nest, dim), self.s[dim] * self.r[dim]) for dim in self.s}
        return self.model.fits_registers(self.r) & self.model.fits_buffers(Vectors(array))

    # ---- lower bounds ----

    def _rooms(self) -> list[tuple[set[str], Vector]]:
        """Dimensions to come, and how large the product of their sizes may become beside what has been grown: for each tensor
        that the registers keep those that it has at least as many elements as, positions of a window included."""
        model, nest, rooms = self.model, self.model.nest, []
        for tensors, capacity in model.inside:
            held = {X: 1.0 if model.low == X else model.held(X, self.r) for X in tensors}
            for X in (X for X in tensors if model.low != X):
                dims = [dim for dim in (*nest.plain[X], *("PQ" if nest.windowed == X else "")) if dim in self.s]
                grown = _product(self.r, [dim for dim in dims if dim in self.r])
                left = np.maximum(1, np.floor((capacity - sum(held.values()) + held[X]) / grown))
                rooms.append(({dim for dim in dims if dim not in self.r}, left))
        return rooms

    def _largest(self, rooms: list[tuple[set[str], Vector]]) -> Vectors:
        """The sizes of the dimensions to come that the registers have room for, each were it alone."""
        sizes = Vectors()
        for dim in (dim for dim in self.s if dim not in self.r):
            limits = [room for dims, room in rooms if dim in dims] if dim in self.model.growing else [1.0]
            sizes[dim] = over(getattr(self.model.nest, dim), self.s[dim])
            for limit in limits:
                sizes[dim] = np.minimum(sizes[dim], limit)
        return sizes

    def _tiles(self, number: Vectors, size: Vectors, dims: list[str], rooms: list[tuple[set[str], Vector]]) -> Vector:
        """How many tiles dimensions have together at least: `number` of each were it alone, and not fewer than their `size`
        over the room that there is for their product."""
        least = _product(number, dims)
        later = [dim for dim in dims if dim not in self.r]
        for together, room in rooms if len(later) > 1 else ():
            if together.issuperset(later):
                grown = _product(number, [dim for dim in dims if dim in self.r])
                least = np.maximum(least, grown * _product(size, later) / room)
        return least

    def least(self) -> tuple[Vector, Vector]:
        """Lower bounds of energy and cycles, whatever the dimensions to come: `Model.least` in plainer form, in which windows
        bring each element once."""
        model, nest, price = self.model, self.model.nest, self.model.accelerator.cost
        rooms = self._rooms() if len(self.r) < len(self.s) else []
        r = Vectors(self.r | self._largest(rooms))
        bounds = Vectors({dim: float(getattr(nest, dim)) for dim in model.live})
        passes = Vectors({dim: over(D, self.s[dim]) for dim, D in bounds.items()})
        m = Vectors({dim: over(D, r[dim]) for dim, D in bounds.items()})
        n = Vectors({dim: over(D, self.s[dim] * r[dim]) for dim, D in bounds.items()})
        w = Vectors({dim: np.minimum(self.s[dim], m[dim]) for dim in bounds})
        shares = Vectors({dim: D / self.s[dim] for dim, D in bounds.items()})
        energy: Vector = float(nest.macs)
        saved: Vector = 0.0
        windows = self._windows()
        for X in TENSORS:
            once, dims = model.fewest(X), model.irrelevant[X]
            parent = price((model.buffer[X] or model.parts.outside).name)
            if not model.register[X]:
                served = once * _product(passes, dims)
                again = np.maximum(0, served - once) if X == "O" and nest.windowed != X else 0.0
                energy = energy + nest.macs * price("network") + (served + again) * parent
                continue
            still = self._kept(X, once * _product(w, dims), once, w, parent)
            each, together = windows if nest.windowed == X else (once, once)
            moved = each * (self._tiles(m, bounds, dims, rooms) if X != "O" else _product(m, dims))
            moving = self._kept(X, moved, together * self._tiles(n, shares, dims, rooms), w, parent)
            energy = energy + moving
            if model.low != X:
                saved = np.maximum(saved, moving - still)
        return energy - saved, _product(passes, model.live)

    def _windows(self) -> tuple[Vector, Vector]:
        """Elements that windows bring, sliding along every axis, and that are read for them; of an axis that has not been grown
        as few as there can be."""
        model = self.model
        moved = served = model.plain[model.nest.windowed]
        for axis in model.nest.axes:
            dims = [dim for dim in (axis.outer, axis.inner) if dim in self.s]
            if all(dim in self.r for dim in dims):
                view = View(model.nest, Vectors({dim: self.s[dim] for dim in dims}), self.r)
                each, together = model.windows(axis, view, model.sliding(view) if dims else {})
            else:
                each = together = model.fewest_along(axis)
            moved, served = moved * each, served * together
        return moved, served

    def _kept(self, X: str, moved: Vector, served: Vector, w: Vectors, parent: float) -> Vector:
        """Energy of a tensor that the registers keep."""
        model, macs = self.model, float(self.model.nest.macs)
        register, once, dims = model.register[X], model.fewest(X), model.irrelevant[X]
        assert register is not None
        price = model.accelerator.cost(register.name)
        energy = moved * model.accelerator.cost("network") + served * parent
        if X != "O":
            return energy + (moved + macs) * price
        if model.nest.windowed == "O":  # how many of its visits are first ones the windows say
            return energy + macs * price
        first = once * _product(w, dims)
        largest = once * _product(self.s, dims)
        energy = energy + np.maximum(0, served - once) * parent
        return energy + (np.maximum(0, moved - first) + macs + np.maximum(0, macs - largest)) * price


def _product(values: Vectors, dims: list[str]) -> Vector:
    return math.prod([values[dim] for dim in dims], start=1.0)


def tiles(model: Model, promising: Promising) -> Iterator[Tiles]:
    """All that may be better than the best tiling known, some at a time."""
    order = sorted(model.live, key=ORDER.index)
    spreads = space.spatial(model.nest, model.accelerator, model.parts)
    s = Vectors({dim: np.array([spread.get(dim, 1) for spread in spreads], np.float64) for dim in model.live})
    none = s.at(np.zeros(0, np.int64))
    yield Tiles(model, none, none)
    stack = [Tiles(model, s, Vectors())]
    while stack:
        some = stack.pop()
        some = some.take(np.flatnonzero(promising(*some.least())))
        if len(some) > MOST:
            stack += [some.take(places) for places in np.array_split(np.arange(len(some)), -(-len(some) // MOST))]
            continue
        if len(some.r) == len(order):
            yield some.take(np.flatnonzero(np.broadcast_to(model.wanted(some.r), len(some))))
        elif len(some):
            some = some.grown(order[len(some.r)])
            stack.append(some.take(np.flatnonzero(some.fit())))
