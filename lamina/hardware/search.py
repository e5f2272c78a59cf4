"""The best tiling of a nest in the declared space (space.py), exactly, without looking at each.

What a tiling costs splits into what crosses the array's edge, which depends on the spatial factors and the register tile
("inner"), and what crosses the buffer's, which depends only on how many buffer tiles each dimension has ("outer"). The two
meet in three places: the buffer must hold the tile, a tensor that is stationary over the buffer's loops is fetched once for
each buffer tile, and loops that stay stationary through both storeys are one run. Inner and outer candidates are evaluated
each for itself with NumPy; their sum, with the meeting places at their best, is a lower bound; only pairs below the best
known tiling are evaluated in full. The lower bounds are admissible, so the result is the optimum of the space.
"""

import contextlib
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property
from typing import Literal, get_args

import numpy as np

from lamina.errors import InputError
from lamina.hardware import space
from lamina.hardware.accelerator import Accelerator, allowed
from lamina.hardware.counts import ALL, Model, Traffic, Vector, Vectors, View, cost
from lamina.hardware.mapping import Evaluation, Tiling, evaluate
from lamina.hardware.nest import DIMS, Nest

Objective = Literal["energy", "cycles", "edp"]
OBJECTIVES: tuple[Objective, ...] = get_args(Objective)
BLOCK = 1 << 15  # pairs that are evaluated at a time


@dataclass(frozen=True)
class Found:
    """The best tiling of a nest: of which dataflow, and its cost."""

    dataflow: str
    tiling: Tiling
    evaluation: Evaluation


def score(objective: Objective, energy: Vector, cycles: Vector) -> tuple[Vector, Vector]:
    """What is minimised, and what decides between equals."""
    if objective == "energy":
        return energy, cycles
    return (cycles, energy) if objective == "cycles" else (energy * cycles, energy)


def search(nest: Nest, accelerator: Accelerator, objective: Objective = "energy", dataflow: str = "all") -> Found:
    """The best tiling of one repeat of the nest, optimal within the declared space of the dataflows asked for ("flexible"
    takes all that the accelerator's registers can express, "all" those that it names)."""
    best: Found | None = None
    if objective == "cycles":  # many tilings take the fewest cycles: a product of both that is small prunes most of them
        with contextlib.suppress(InputError):
            best = search(nest, accelerator, "edp", dataflow)
    outer = None  # is the same for all dataflows
    for name in candidates(accelerator, dataflow):
        one = Search(nest, accelerator, name, objective, outer)
        best = one.run(best) or best
        outer = one.outer
    if best is None:
        names = ", ".join(level.name for level in accelerator.level[1:])
        raise InputError(
            f"no tiling of {described(nest)} fits {accelerator.name} with {dataflow}: {names} are too small for it"
        )
    return best


def candidates(accelerator: Accelerator, dataflow: str) -> tuple[str, ...]:
    """The dataflows whose spaces are searched: an array that is flexible may run any of the fixed ones too."""
    names = allowed(accelerator, dataflow)
    if "flexible" not in names:
        return names
    fixed = []
    for name in ("ws", "os", "nlr", "rs"):
        try:
            space.expressible(accelerator, name)
        except InputError:
            continue
        fixed.append(name)
    return (*fixed, "flexible")  # the small spaces first: their best prunes the large one


def described(nest: Nest) -> str:
    return "a nest of " + ", ".join(f"{dim} {size}" for dim, size in nest.bounds.items() if size > 1)


class Outer:
    """How many buffer tiles each dimension has, in which order they come, and what that moves. Ascending by the objective."""

    def __init__(self, model: Model, objective: Objective):
        nest = model.nest
        self.model = model
        whole = {dim for dim in DIMS if dim in space.WHOLE or not model.parts.buffers}
        counts = [np.array([1] if dim in whole else space.ceilings(getattr(nest, dim)), np.int64) for dim in model.live]
        grid = np.meshgrid(*counts, indexing="ij", copy=False)
        dd = Vectors({dim: axis.ravel() for dim, axis in zip(model.live, grid, strict=True)})
        least = Vectors({dim: -(-getattr(nest, dim) // axis) for dim, axis in dd.items()})
        dd = dd.at(np.flatnonzero(model.fits_buffers(least)))
        view = View(nest, dd=dd)
        found = []
        for k, order in enumerate(space.orders(nest.transposed)):
            held = np.flatnonzero(model.valid(order, dd))
            if len(held):
                found.append((held, np.full(len(held), k), model.outer(order, view.take(held))))
        if not found:  # no tile is small enough for the buffers
            found.append((np.zeros(0, np.int64), np.zeros(0, np.int64), model.outer(space.Order(None), view)))
        place, orders, traffics = zip(*found, strict=True)
        traffic = Traffic.concatenate(traffics)
        energy, time = cost(model, traffic)
        rank = np.lexsort((time, energy) if objective == "energy" else (energy, energy * time))
        self.order = np.concatenate(orders)[rank]
        self.energy, self.cycles, self.traffic = energy[rank], time[rank], traffic.take(rank)
        self.dd = dd.at(np.concatenate(place)[rank])

    def __len__(self) -> int:
        return len(self.order)

    @cached_property
    def least_energy(self) -> float:
        return float(self.energy.min(initial=np.inf))

    @cached_property
    def least_cycles(self) -> float:
        return float(self.cycles.min(initial=np.inf))

    def of(self, order: space.Order) -> np.ndarray:
        """The entries whose own order keeps the same tensor stationary."""
        known = space.orders(self.model.nest.transposed)
        same = [x.stationary == order.stationary and x.empty == order.empty for x in known]
        return np.flatnonzero(np.array(same)[self.order])


class Search:
    """One nest, one accelerator, one dataflow."""

    def __init__(self, nest: Nest, accelerator: Accelerator, dataflow: str, objective: Objective, outer: Outer | None = None):
        self.nest, self.accelerator, self.dataflow = nest, accelerator, dataflow
        self.objective: Objective = objective
        self.model = Model(nest, accelerator, space.storeys(accelerator, dataflow))
        self.outer = Outer(self.model, objective) if outer is None else outer
        self.best: tuple[float, float] = (np.inf, np.inf)
        self.chosen: tuple[int, int, int] | None = None  # inner, outer, order of the buffer's loops

    def run(self, incumbent: Found | None) -> Found | None:
        """The best tiling if it beats the incumbent."""
        if incumbent is not None:
            energy, cycles = incumbent.evaluation.energy, incumbent.evaluation.cycles
            first, second = score(self.objective, np.float64(energy), np.float64(cycles))
            self.best = (float(first), float(second))
        self.inner = self._inner()
        if np.isfinite(self.best[0]) and len(self.inner):  # one bound for all orders, before one for each
            traffic = self.model.inner(space.Order(ALL), self.inner, None, True)
            energy, cycles = (np.broadcast_to(part, len(self.inner)) for part in cost(self.model, traffic))
            bound = self._combined(energy, cycles, self.outer.least_energy, self.outer.least_cycles)
            self.inner = self.inner.take(np.flatnonzero(self._promising(*bound)))
        if len(self.outer) and len(self.inner):
            for kind, order in self._bounds():
                self._sweep(kind, order)
        return self._found() if self.chosen is not None else None

    # ---- candidates ----

    def _inner(self) -> View:
        """All spatial factors and register tiles that the registers hold."""
        model, spreads, registers = self.model, [], []
        for spread in space.spatial(self.nest, self.accelerator, self.dataflow):
            options = space.register_options(self.nest, self.dataflow, spread, model.limits)
            tiles = model.register_tiles(tuple(options[dim] for dim in model.live))
            registers.append(tiles)
            spreads.append(np.broadcast_to(np.array([[spread.get(dim, 1) for dim in model.live]]), tiles.shape))
        register, spread = np.ascontiguousarray(np.concatenate(registers).T), np.ascontiguousarray(np.concatenate(spreads).T)
        view = View(self.nest, Vectors(zip(model.live, spread, strict=True)), Vectors(zip(model.live, register, strict=True)))
        tile = Vectors({dim: np.minimum(getattr(self.nest, dim), axis) for dim, axis in view.a.items()})
        return view.take(np.flatnonzero(model.fits_buffers(tile)))

    def _bounds(self) -> Iterator[tuple[str, int]]:
        """Lower bounds of every inner candidate under each order of the buffer's loops; joined ones first, then by promise.

        "apart": the buffer's loops decide what is stationary. "joined": all loops of the buffer are of one stationary run
        that goes on outside.
        """
        self.lower: dict[tuple[str, int], tuple[Vector, Vector, Vector, Vector]] = {}
        for k, order in enumerate(space.orders(self.nest.transposed)):
            traffic = self.model.inner(order, self.inner, None, True)
            energy, cycles = (np.broadcast_to(part, len(self.inner)) for part in cost(self.model, traffic))
            first, second = self._combined(energy, cycles, self.outer.least_energy, self.outer.least_cycles)
            self.lower["joined", k] = (first, second, energy, cycles)
            possible = self.model.possible(order, self.inner)
            if not order.empty and possible.any():
                self.lower["apart", k] = (np.where(possible, first, np.inf), second, energy, cycles)
        # joined runs are few and quick to go through, and give an incumbent that prunes the others
        yield from sorted(self.lower, key=lambda key: (key[0] == "apart", float(self.lower[key][0].min(initial=np.inf))))

    def _combined(self, energy: Vector, cycles: Vector, more: Vector | float, time: Vector | float) -> tuple[Vector, Vector]:
        """A lower bound of the score of inner and outer together: energies add, times are at least the longer one."""
        return score(self.objective, energy + more, np.maximum(cycles, time))

    # ---- pairs ----

    def _promising(self, first: Vector, second: Vector) -> np.ndarray:
        more = 1 + 1e-12  # sums in another order differ in the last digits: a gain below that is none
        return (first * more < self.best[0]) | ((first < self.best[0] * more) & (second * more < self.best[1]))

    def _sweep(self, kind: str, k: int) -> None:
        first, second, energy, cycles = self.lower[kind, k]
        left = np.flatnonzero(self._promising(first, second) & np.isfinite(first))
        left = left[np.lexsort((second[left], first[left]))]
        order = space.orders(self.nest.transposed)[k]
        if kind == "joined":
            return self._joined(left, order, k, energy, cycles)
        block, at = 16, 0
        while at < len(left):
            some = left[at : at + block]
            some = some[self._promising(first[some], second[some])]
            if not len(some):
                break  # ascending: none that follows is better
            self._pair(some, order, k, energy, cycles)
            at += block
            block = min(block * 2, 4096)

    def _pair(self, inner: np.ndarray, order: space.Order, k: int, energy: Vector, cycles: Vector) -> None:
        """All promising pairs of a few inner candidates with outer ones, in an order that prunes."""
        outer = self.outer
        bound, other = self._combined(energy[inner].min(), cycles[inner].min(), outer.energy, outer.cycles)
        near = np.flatnonzero(self._promising(bound, other))
        refetch = self.model.refetch(order, self.inner, inner)
        factor = self.model.refetched(order, outer.dd)
        step = max(1, (1 << 20) // len(inner))
        for at in range(0, len(near), step):
            some = near[at : at + step]
            total = energy[inner][:, None] + refetch[:, None] * (factor[some] - 1)
            first, second = self._combined(total, cycles[inner][:, None], outer.energy[some], outer.cycles[some])
            i, o = np.nonzero(self._promising(first, second))
            rank = np.lexsort((second[i, o], first[i, o]))
            self._evaluate(inner[i[rank]], some[o[rank]], "apart", k, energy, cycles)

    def _joined(self, left: np.ndarray, order: space.Order, k: int, energy: Vector, cycles: Vector) -> None:
        """Pairs whose buffer loops are all of one run that is innermost outside too: every other dimension has as many buffer
        tiles as array tiles."""
        run = self.nest.irrelevant(order.stationary) if order.stationary else ()
        fixed = [dim for dim in self.model.live if dim not in run]
        held = self.outer.of(order)
        if not len(held) or not len(left):
            return
        keys, looked = np.zeros(len(held), np.int64), np.zeros(len(left), np.int64)
        for dim in fixed:
            size = getattr(self.nest, dim) + 1
            keys = keys * size + self.outer.dd[dim][held]
            looked = looked * size + self.inner.n[dim][left]
        held = held[np.argsort(keys, kind="stable")]
        keys, number = np.unique(keys, return_counts=True)
        start = np.cumsum(number) - number
        least = [np.minimum.reduceat(value[held], start) for value in (self.outer.energy, self.outer.cycles)]
        group = np.minimum(np.searchsorted(keys, looked), len(keys) - 1)
        some = keys[group] == looked
        left, group = left[some], group[some]
        first, second = self._combined(energy[left], cycles[left], least[0][group], least[1][group])
        rank = np.lexsort((second, first))
        block, at = 8, 0
        while at < len(rank):
            chosen = rank[at : at + block]
            at, block = at + block, min(block * 2, 1024)
            chosen = chosen[self._promising(first[chosen], second[chosen])]
            if not len(chosen):
                break  # ascending: none that follows is better
            several = number[group[chosen]]
            offset = np.arange(several.sum()) - np.repeat(np.cumsum(several) - several, several)
            outer = held[np.repeat(start[group[chosen]], several) + offset]
            self._evaluate(np.repeat(left[chosen], several), outer, "joined", k, energy, cycles)

    def _evaluate(self, inner: np.ndarray, outer: np.ndarray, kind: str, k: int, energy: Vector, cycles: Vector) -> None:
        """Evaluate pairs in full, block by block, most promising first, and keep the best."""
        block, at = 512, 0
        while at < len(inner):
            i, o = inner[at : at + block], outer[at : at + block]
            at, block = at + block, min(2 * block, BLOCK)
            first, second = self._combined(energy[i], cycles[i], self.outer.energy[o], self.outer.cycles[o])
            near = np.flatnonzero(self._promising(first, second))
            if len(near):
                self._exact(i[near], o[near], kind, k)

    def _exact(self, inner: np.ndarray, outer: np.ndarray, kind: str, k: int) -> None:
        model, order = self.model, space.orders(self.nest.transposed)[k]
        dd, n = self.outer.dd.at(outer), self.inner.n.at(inner)
        b = Vectors({dim: -(-n[dim] // dd[dim]) for dim in model.live})
        good = np.ones(len(inner), bool)
        for dim in model.live:  # the buffer's tiles must be ceilings of the array's
            good &= -(-n[dim] // b[dim]) == dd[dim]
        tile = {dim: np.minimum(getattr(self.nest, dim), self.inner.a[dim][inner] * b[dim]) for dim in model.live}
        good &= model.fits_buffers(Vectors(tile))
        ordered = model.valid(order, b)
        if kind == "joined" and order.last is None:  # no loops at the buffer: those outside decide alone
            ordered |= model.valid(space.Order(None, None, True), b)
        good &= ordered
        keep = np.flatnonzero(good)
        if not len(keep):
            return
        inner, outer = inner[keep], outer[keep]
        view = self.inner.take(inner).beside(dd.at(keep))
        traffic = model.inner(order, view, b.at(keep), kind == "joined", self.outer.order[outer])
        traffic = traffic.plus(self.outer.traffic.take(outer))
        first, second = score(self.objective, *cost(model, traffic))
        at = np.lexsort((second, first))[0]
        if (first[at], second[at]) < self.best:
            self.best, self.chosen = (float(first[at]), float(second[at])), (int(inner[at]), int(outer[at]), k)

    # ---- the result ----

    def _found(self) -> Found:
        assert self.chosen is not None
        i, o, k = self.chosen
        known = space.orders(self.nest.transposed)
        one = dict.fromkeys(DIMS, 1)
        spread = one | {dim: int(axis[i]) for dim, axis in self.inner.s.items()}
        register = one | {dim: int(axis[i]) for dim, axis in self.inner.r.items()}
        buffer = one | {dim: int(-(-axis[i] // self.outer.dd[dim][o])) for dim, axis in self.inner.n.items()}
        if all(bound == 1 for bound in buffer.values()):  # of a joined run nothing is left at the buffer
            k = next(place for place, order in enumerate(known) if order.empty)
        tiling = space.build(self.nest, self.model.parts, spread, register, buffer, known[int(self.outer.order[o])], known[k])
        return Found(self.dataflow, tiling, evaluate(self.nest, tiling, self.accelerator))
