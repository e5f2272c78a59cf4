"""Which of many tiles the memories hold, by the letters of candidates.py: space.py's rules for many tilings at once."""

import math
from collections.abc import Mapping

import numpy as np

from lamina.hardware import space
from lamina.hardware.accelerator import Accelerator, Level
from lamina.hardware.candidates import Vector, Vectors, live, over
from lamina.hardware.nest import TENSORS, Nest


class Room:
    """What one nest takes of one accelerator's memories, as one dataflow uses them."""

    def __init__(self, nest: Nest, accelerator: Accelerator, parts: space.Storeys):
        self.nest, self.accelerator, self.parts = nest, accelerator, parts
        self.live = live(nest)
        self.buffer: dict[str, Level | None] = {X: parts.keeper(parts.buffers, X) for X in TENSORS}
        self.register: dict[str, Level | None] = {X: parts.keeper(parts.registers, X) for X in TENSORS}
        self.inside = space.capacities(accelerator, parts.registers, "".join(X for X in TENSORS if self.register[X]))
        self.shared = space.capacities(accelerator, parts.buffers, "".join(X for X in TENSORS if self.buffer[X]))
        self.limits = {tensor: held for tensors, held in self.inside for tensor in tensors}
        self.low, self.lowable = parts.low, space.lowable(nest, parts)
        options = space.register_options(nest, parts, {}, self.limits)
        self.growing = [dim for dim in self.live if options[dim] != (1,)]  # what a register tile may have more than one of
        self.irrelevant = {X: [d for d in nest.irrelevant(X) if getattr(nest, d) > 1] for X in TENSORS}
        self.plain = {X: float(math.prod(getattr(nest, dim) for dim in nest.plain[X])) for X in TENSORS}
        self.size = {X: float(nest.size(X)) for X in TENSORS}

    def held(self, tensor: str, tile: Vectors) -> Vector:
        nest = self.nest
        total = math.prod([tile[dim] for dim in nest.plain[tensor] if getattr(nest, dim) > 1], start=1)
        if tensor == nest.windowed:
            for axis in nest.axes:
                if getattr(nest, axis.outer) > 1 or getattr(nest, axis.inner) > 1:
                    total = total * ((tile[axis.outer] - 1) * axis.stride + (tile[axis.inner] - 1) * axis.dilation + 1)
        return total

    def _fits(self, tile: Vectors, groups: list[tuple[str, int]], low: Mapping[str, Vector]) -> np.ndarray:
        good = np.ones(len(next(iter(tile.values()))), bool)
        for tensors, capacity in groups:
            good &= sum(low[tensor] if tensor in low else self.held(tensor, tile) for tensor in tensors) <= capacity
        return good

    def fits_buffers(self, tile: Vectors) -> np.ndarray:
        return self._fits(tile, self.shared, {})

    def may_fit_buffers(self, dd: Vectors, stationary: str | None = None) -> np.ndarray:
        """Whether the buffers may hold a tile of so many, as it is or with one of the tensors low, which then cannot be the
        one that the loops outside keep where it is."""
        tile = Vectors({dim: over(getattr(self.nest, dim), axis) for dim, axis in dd.items()})
        good = self.fits_buffers(tile)
        for X in self.lowable:
            good |= (stationary != X) & self._fits(tile, self.shared, {X: 1.0})
        return good

    def fits_buffers_low(self, order: space.Order | None, tile: Vectors, array: Vectors, outside: np.ndarray) -> np.ndarray:
        """`space.lows` for many tiles: whether one of the tensors can lie low, so that the buffers hold the tile. `array` is
        the array's tile, `outside` the places of the orders of the loops outside. Without an order of the buffer's loops as
        if all could be above the tensor."""
        known, good = space.orders(self.nest.transposed), np.zeros(len(outside), bool)
        run = space.innermost(order, self.nest) if order else ()
        small = {dim: np.minimum(tile[dim], array[dim]) for dim in tile}
        for X in self.lowable:
            movable = np.array([other.stationary != X for other in known])[outside]
            apart = _any([tile[dim] > small[dim] for dim in self.irrelevant[X]])
            above = {dim: small[dim] for dim in tile if dim in self.nest.relevant[X]}
            above |= {dim: np.where(apart, tile[dim], small[dim]) for dim in run if dim in above}
            good |= movable & self._fits(tile, self.shared, {X: self.held(X, Vectors(tile | above))})
        return good

    def fits_registers(self, tile: Vectors) -> np.ndarray:
        return self._fits(tile, self.inside, {self.low: self._lowered(self.low, tile)} if self.low else {})

    def wanted(self, tile: Vectors) -> Vector:
        """Where a register tile is not the same, and does not cost the same, in other storeys with less in the registers. A
        tensor that lies low has nothing to save where its tile is as small as that anyway. And where no tensor's is, one can
        always lie low at no cost: one that the buffer's loops do not leave where it is, and that no window slides over."""
        small = {X: self.held(X, tile) <= self._lowered(X, tile) for X in TENSORS if self.register[X]}
        if self.low:
            return ~small[self.low]
        sliding = len(small) == 2 and self.nest.windowed in small and any(dim in space.AXES for dim in self.live)
        if self.parts.dataflow != "flexible" or self.accelerator.systolic or len(small) < 2 or sliding:
            return True
        return sum(small.values()) > 0

    def _windows(self, tile: Vectors) -> tuple[Vector, Vector]:
        """Elements of what lies low of a tensor that a window slides over, as it slides along P and along Q."""
        (strip, box), (other, whole) = (
            (taps, taps + (tile[axis.outer] - 1) * axis.stride)
            for axis in self.nest.axes
            for taps in [(tile[axis.inner] - 1) * axis.dilation + 1]
        )
        return strip * whole, box * other

    def _lowered(self, X: str, tile: Vectors) -> Vector:
        """The size of `space.lowered` for many tiles."""
        return np.minimum(*self._windows(tile)) if self.nest.windowed == X else np.float64(1)


def _any(conditions: list[np.ndarray]) -> Vector:
    return np.any(conditions, axis=0) if conditions else False
