"""The best tiling of a nest in the declared space (space.py), exactly, without looking at each.

What a tiling costs splits into what crosses the array's edge, which depends on the spatial factors and the register tile
("inner"), and what crosses the buffer's, which depends only on how many buffer tiles each dimension has ("outer"). The two
meet in three places: the buffer must hold the tile, a tensor that is stationary over the buffer's loops is fetched once for
each buffer tile, and loops that stay stationary through both storeys are one run. Inner and outer candidates are evaluated
each for itself with NumPy; their sum, with the meeting places at their best, is a lower bound; only pairs below the best
known tiling are evaluated in full. The lower bounds are admissible, so the result is the optimum of the space.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace

import numpy as np

from lamina.errors import InputError
from lamina.hardware import space
from lamina.hardware.accelerator import Accelerator, allowed
from lamina.hardware.candidates import OBJECTIVES as OBJECTIVES
from lamina.hardware.candidates import Objective, Vector, Vectors, View, cost, over, score
from lamina.hardware.counts import Model
from lamina.hardware.inner import tiles
from lamina.hardware.mapping import Evaluation, Tiling, evaluate
from lamina.hardware.nest import DIMS, Nest
from lamina.hardware.outer import Best, Grid, Outer, promising

BLOCK = 1 << 15  # pairs that are evaluated at a time
SEEDS = 256, 2048  # inner and outer candidates that are looked at before the others


@dataclass(frozen=True)
class Found:
    """The best tiling of a nest: of which dataflow, and its cost."""

    dataflow: str
    tiling: Tiling
    evaluation: Evaluation


def search(nest: Nest, accelerator: Accelerator, objective: Objective = "energy", dataflow: str = "all") -> Found:
    """The best tiling of one repeat of the nest, optimal within the declared space of the dataflows asked for ("flexible"
    takes all that the accelerator's registers can express, "all" those that it names)."""
    found = optimum(nest, accelerator, [parts for name in candidates(accelerator, dataflow)
                                        for parts in space.storeys(accelerator, name)], objective)  # fmt: skip
    if found is None:
        names = ", ".join(level.name for level in accelerator.level[1:])
        raise InputError(
            f"no tiling of {described(nest)} fits {accelerator.name} with {dataflow}: {names} are too small for it"
        )
    return found


def optimum(nest: Nest, accelerator: Accelerator, parts: Sequence[space.Storeys], objective: Objective) -> Found | None:
    """The best tiling of the spaces of these storeys; None where nothing fits."""
    found: Found | None = None
    best: Best = (np.inf, np.inf)
    if objective == "cycles":  # many tilings take the fewest cycles: a product of both that is small prunes most of them
        found = optimum(nest, accelerator, parts, "edp")
        if found is None:
            return None
        best = found.evaluation.cycles, found.evaluation.energy
    grid, holder = Grid(Model(nest, accelerator, parts[0]), objective), None  # the grid is the same for all
    narrow = [replace(some, share=False) for some in parts if not some.low]
    wide = [[some for some in parts if some.share and (len(some.keeps) == 3) == most] for most in (False, True)]
    for group in (narrow, *wide) if len(grid) else ():  # what few find prunes the many
        best, holder = _group(nest, accelerator, group, grid, best, holder)
    return holder.found() if holder is not None else found


def _group(
    nest: Nest, accelerator: Accelerator, parts: Sequence[space.Storeys], grid: Grid, best: Best, holder: "Search | None"
) -> tuple[Best, "Search | None"]:
    """The best score of these storeys' spaces, and the search that has its tiling; or those given."""
    searches: list[Search] = []
    number = SEEDS[1]
    outer = grid.first(number)
    for some in parts:  # the most promising candidates first: what they find prunes the others
        one = Search(nest, accelerator, some, grid, best)
        if len(one.everything):
            searches.append(one)
            best, holder = _through([one], outer, best, holder, True)
    while searches and not np.isfinite(best[0]) and number < len(grid):
        number *= 8
        best, holder = _through(searches, grid.first(number), best, holder, True)
    if searches:
        energy, cycles = (min(float(getattr(one, name).min()) for one in searches) for name in ("energy", "cycles"))
        best, holder = _through(searches, grid.below(best, energy, cycles), best, holder, False)
    return best, holder


def _through(
    searches: Sequence["Search"], outer: Outer, best: Best, holder: "Search | None", seeds: bool
) -> tuple[Best, "Search | None"]:
    """Run all searches with these outer candidates: the best score, and the search that has its tiling."""
    for one in searches:
        before, best = best, one.run(outer, best, seeds)
        holder = one if best != before else holder
    return best, holder


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


class Search:
    """One nest, one accelerator, one way to use its levels."""

    def __init__(self, nest: Nest, accelerator: Accelerator, parts: space.Storeys, grid: Grid, best: Best):
        self.nest, self.accelerator, self.parts = nest, accelerator, parts
        self.objective: Objective = grid.objective
        self.model = Model(nest, accelerator, parts)
        self.best = best
        self.everything, self.energy, self.cycles = self._inner(float(grid.energy.min()), float(grid.cycles.min()))
        self.chosen: tuple[View, Vectors, int, int] | None = None  # inner, outer, orders of the loops outside and at the buffer

    def run(self, outer: Outer, best: Best, seeds: bool) -> Best:
        """Go through the inner candidates, or the most promising ones alone, with these outer ones: the best score now."""
        self.outer, self.best = outer, best
        bound = self._combined(self.energy, self.cycles, outer.least_energy, outer.least_cycles)
        if seeds and len(self.everything) > SEEDS[0]:
            some = np.argpartition(bound[0], SEEDS[0])[: SEEDS[0]]
        else:
            some = np.flatnonzero(promising(self.best, *bound))
        self.inner = self.everything.take(some)
        if len(self.inner) and len(outer):
            for kind, order in self._bounds():
                self._sweep(kind, order)
        return self.best

    # ---- candidates ----

    def _inner(self, outer_energy: float, outer_cycles: float) -> tuple[View, np.ndarray, np.ndarray]:
        """All spatial factors and register tiles that the levels hold and that may beat the best beside so much outside, with
        lower bounds of their energy and cycles."""
        found = []

        def near(energy: Vector, cycles: Vector) -> np.ndarray:
            return self._promising(*self._combined(energy, cycles, outer_energy, outer_cycles))

        for some in tiles(self.model, near):
            view = View(self.nest, some.s, some.r)
            energy, cycles = (np.broadcast_to(part, len(view)) for part in self.model.least(view))
            left = np.flatnonzero(near(energy, cycles))
            found.append((view.take(left), energy[left], cycles[left]))
        views, energies, cycles = zip(*found, strict=True)
        return View.concatenate(views), np.concatenate(energies), np.concatenate(cycles)

    def _bounds(self) -> Iterator[tuple[str, int]]:
        """Lower bounds of every inner candidate under each order of the buffer's loops; joined ones first, then by promise.

        "apart": the buffer's loops decide what is stationary. "joined": all loops of the buffer are of one stationary run
        that goes on outside.
        """
        self.lower: dict[tuple[str, int], tuple[Vector, Vector, Vector, Vector]] = {}
        for k, order in enumerate(space.orders(self.nest.transposed)):
            traffic = self.model.inner(order, self.inner, None, True)
            energy, cycles = (np.broadcast_to(part, len(self.inner)) for part in cost(self.accelerator, traffic))
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
        return promising(self.best, first, second)

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
        outer, least = self.outer, energy[inner].min()
        number = outer.affordable(self.best, least)
        bound, other = self._combined(least, cycles[inner].min(), outer.energy[:number], outer.cycles[:number])
        near = self._roomy(np.flatnonzero(self._promising(bound, other)), inner)
        refetch = self.model.refetch(order, self.inner, inner)
        step = max(1, (1 << 20) // len(inner))
        for at in range(0, len(near), step):
            some = near[at : at + step]
            dd = outer.dd.at(some)
            i, o = self._dividing(inner, dd)
            total = energy[inner[i]] + refetch[i] * (self.model.refetched(order, dd)[o] - 1)
            first, second = self._combined(total, cycles[inner[i]], outer.energy[some[o]], outer.cycles[some[o]])
            left = np.flatnonzero(self._promising(first, second))
            left = left[np.lexsort((second[left], first[left]))]
            self._evaluate(inner[i[left]], some[o[left]], "apart", k, energy, cycles)

    def _roomy(self, outer: np.ndarray, inner: np.ndarray) -> np.ndarray:
        """The outer candidates whose smallest tiles the buffers hold beside the smallest array tiles of these inner ones."""
        model, dd = self.model, self.outer.dd.at(outer)
        array = Vectors({dim: axis[inner].min() for dim, axis in self.inner.a.items()})
        tile = Vectors({dim: np.maximum(over(getattr(self.nest, dim), axis), array[dim]) for dim, axis in dd.items()})
        good = model.fits_buffers(tile) | model.fits_buffers_low(None, tile, array, self.outer.order[outer])
        return outer[good]

    def _dividing(self, inner: np.ndarray, dd: Vectors) -> tuple[np.ndarray, np.ndarray]:
        """The pairs of inner and outer candidates, by their places, in which the buffer's tiles are ceilings of the array's:
        few are. Inner candidates with as many array tiles are looked at together."""
        key = np.zeros(len(inner), np.int64)
        for dim in self.model.live:
            key = key * (getattr(self.nest, dim) + 1) + self.inner.n[dim][inner].astype(np.int64)
        _, first, group = np.unique(key, return_index=True, return_inverse=True)
        good = np.ones((len(first), len(next(iter(dd.values())))), bool)
        for dim in self.model.live:
            numbers, row = np.unique(self.inner.n[dim][inner[first]], return_inverse=True)
            counts, column = np.unique(dd[dim], return_inverse=True)
            loops = over(numbers[:, None], counts)
            good &= (over(numbers[:, None], loops) == counts)[row][:, column]
        row, outer = np.nonzero(good)
        size = np.bincount(group)
        members = np.argsort(group, kind="stable")[_ranges(np.cumsum(size)[row] - size[row], size[row])]
        return members, np.repeat(outer, size[row])

    def _joined(self, left: np.ndarray, order: space.Order, k: int, energy: Vector, cycles: Vector) -> None:
        """Pairs whose buffer loops are all of one run that is innermost outside too: every other dimension has as many buffer
        tiles as array tiles."""
        run = self.nest.irrelevant(order.stationary) if order.stationary else ()
        fixed = [dim for dim in self.model.live if dim not in run]
        held = self.outer.of(order, self.outer.affordable(self.best, energy[left].min())) if len(left) else left
        if not len(held):
            return
        keys, looked = np.zeros(len(held), np.int64), np.zeros(len(left), np.int64)
        for dim in fixed:
            size = getattr(self.nest, dim) + 1
            keys = keys * size + self.outer.dd[dim][held]
            looked = looked * size + self.inner.n[dim][left].astype(np.int64)
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
            outer = held[_ranges(start[group[chosen]], several)]
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
        b = Vectors({dim: over(n[dim], dd[dim]) for dim in model.live})
        good = np.ones(len(inner), bool)
        for dim in model.live:  # the buffer's tiles must be ceilings of the array's
            good &= over(n[dim], b[dim]) == dd[dim]
        array = self.inner.a.at(inner)
        tile = Vectors({dim: np.minimum(getattr(self.nest, dim), array[dim] * b[dim]) for dim in model.live})
        fits = model.fits_buffers(tile)
        if model.lowable:
            fits |= model.fits_buffers_low(order, tile, array, self.outer.order[outer])
        good &= fits
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
        first, second = score(self.objective, *cost(self.accelerator, traffic))
        at = np.lexsort((second, first))[0]
        if (first[at], second[at]) < self.best:
            self.best = (float(first[at]), float(second[at]))
            i, o = inner[at : at + 1], outer[at : at + 1]
            self.chosen = (self.inner.take(i), self.outer.dd.at(o), int(self.outer.order[o[0]]), k)

    # ---- the result ----

    def found(self) -> Found:
        assert self.chosen is not None
        inner, dd, outside, k = self.chosen
        known = space.orders(self.nest.transposed)
        one = dict.fromkeys(DIMS, 1)
        spread = one | {dim: int(axis[0]) for dim, axis in inner.s.items()}
        register = one | {dim: int(axis[0]) for dim, axis in inner.r.items()}
        buffer = one | {dim: int(over(axis[0], dd[dim][0])) for dim, axis in inner.n.items()}
        if all(bound == 1 for bound in buffer.values()):  # of a joined run nothing is left at the buffer
            k = next(place for place, order in enumerate(known) if order.empty)
        member = space.Member(spread, register, buffer, known[outside], known[k])
        member = replace(member, low=space.lows(self.nest, self.parts, self.model.shared, member)[0])
        tiling = space.build(self.nest, self.parts, member)
        return Found(self.parts.dataflow, tiling, evaluate(self.nest, tiling, self.accelerator))


def _ranges(start: np.ndarray, number: np.ndarray) -> np.ndarray:
    """start[0], start[0] + 1, ... so many, then those from start[1], and so on."""
    return np.repeat(start - np.cumsum(number) + number, number) + np.arange(number.sum())
