"""The outer half of the search: how many buffer tiles each dimension has, in which order they come, and what that moves."""

from functools import cached_property

import numpy as np

from lamina.hardware import space
from lamina.hardware.candidates import Objective, Traffic, Vectors, View, cost, score
from lamina.hardware.counts import Model
from lamina.hardware.nest import DIMS

Best = tuple[float, float]  # what is minimised, and what decides between equals


def promising(best: Best, first: np.ndarray, second: np.ndarray) -> np.ndarray:
    """Where scores are better than the best."""
    more = 1 + 1e-12  # sums in another order differ in the last digits: a gain below that is none
    return (first * more < best[0]) | ((first < best[0] * more) & (second * more < best[1]))


class Grid:
    """All numbers of buffer tiles whose tiles may fit, with lower bounds of what each adds under any order."""

    def __init__(self, model: Model, objective: Objective):
        self.model = model
        self.objective: Objective = objective
        whole = {dim for dim in DIMS if dim in space.WHOLE or not model.parts.buffers}
        counts = [np.array([1] if dim in whole else space.ceilings(getattr(model.nest, dim)), np.int64) for dim in model.live]
        grid = np.meshgrid(*counts, indexing="ij", copy=False)
        dd = Vectors({dim: axis.ravel() for dim, axis in zip(model.live, grid, strict=True)})
        self.dd = dd.at(np.flatnonzero(model.may_fit_buffers(dd)))
        view = View(model.nest, dd=self.dd)
        self.energy, self.cycles = (np.broadcast_to(part, len(view)) for part in model.outer_least(view))

    def __len__(self) -> int:
        return len(self.energy)

    def first(self, number: int) -> "Outer":
        """The most promising ones."""
        key = score(self.objective, self.energy, self.cycles)[0]
        some = np.argpartition(key, number)[:number] if number < len(self) else np.arange(len(self))
        return Outer(self.model, self.objective, self.dd.at(some))

    def below(self, best: Best, energy: float, cycles: float) -> "Outer":
        """Those that may beat the best beside inner candidates of at least so much energy and so many cycles."""
        first, second = score(self.objective, energy + self.energy, np.maximum(cycles, self.cycles))
        return Outer(self.model, self.objective, self.dd.at(np.flatnonzero(promising(best, first, second))))


class Outer:
    """Outer candidates, each number of tiles in every order that it can have. Ascending by the objective."""

    def __init__(self, model: Model, objective: Objective, dd: Vectors):
        self.model = model
        self.objective: Objective = objective
        view, found = View(model.nest, dd=dd), []
        for k, order in enumerate(space.orders(model.nest.transposed)):
            held = np.flatnonzero(model.valid(order, dd) & model.may_fit_buffers(dd, order.stationary))
            if len(held):
                found.append((held, np.full(len(held), k), model.outer(order, view.take(held))))
        if not found:  # no tile is small enough for the buffers
            found.append((np.zeros(0, np.int64), np.zeros(0, np.int64), model.outer(space.Order(None), view)))
        place, orders, traffics = zip(*found, strict=True)
        traffic = Traffic.concatenate(traffics)
        energy, cycles = cost(model.accelerator, traffic)
        key, _ = score(objective, energy, cycles)
        rank = np.argsort(key)
        self.order, self.key = np.concatenate(orders)[rank], key[rank]
        self.energy, self.cycles, self.traffic = energy[rank], cycles[rank], traffic.take(rank)
        self.dd = dd.at(np.concatenate(place)[rank])

    def __len__(self) -> int:
        return len(self.order)

    @cached_property
    def least_energy(self) -> float:
        return float(self.energy.min(initial=np.inf))

    @cached_property
    def least_cycles(self) -> float:
        return float(self.cycles.min(initial=np.inf))

    def affordable(self, best: Best, energy: float) -> int:
        """How many may beat the best beside an inner candidate of at least so much energy: the first ones, for they ascend."""
        limit = best[0] - energy if self.objective == "energy" else best[0]
        return int(np.searchsorted(self.key, limit + 1e-9 * abs(best[0]), "right"))

    def of(self, order: space.Order, number: int) -> np.ndarray:
        """Of the first entries, so many, those whose own order keeps the same tensor stationary."""
        known = space.orders(self.model.nest.transposed)
        same = [x.stationary == order.stationary and x.empty == order.empty for x in known]
        return np.flatnonzero(np.array(same)[self.order[:number]])
