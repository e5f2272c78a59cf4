"""How a loop nest is laid over an accelerator, and what that costs: accesses, cycles, energy, and what bounds it.

The counts are those of a nest of loops in lockstep, exact for tiles that do not divide: a tile at the edge moves its own
elements and no more, while the array waits for its largest tile. For tiles that divide they are Timeloop's (Parashar
et al., ISPASS 2019).
"""

import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field

from lamina.errors import InputError
from lamina.hardware.accelerator import Accelerator
from lamina.hardware.nest import DIMS, TENSORS, Axis, Nest


@dataclass(frozen=True)
class Loop:
    """A loop over tiles of one dimension; `spatial` ones run on different processing elements at the same time."""

    dim: str
    bound: int
    spatial: bool = False


@dataclass(frozen=True)
class Tier:
    """A memory level: which tensors it keeps ("WIO"), and the loops that walk over its tile, outermost first."""

    level: str
    keeps: str
    loops: tuple[Loop, ...] = ()


@dataclass(frozen=True)
class Tiling:
    """Tiers from the outermost memory to the one nearest to the multiplier. (The field calls it a mapping.)"""

    tiers: tuple[Tier, ...]

    def loops(self, dim: str | None = None) -> list[Loop]:
        return [loop for tier in self.tiers for loop in tier.loops if dim in (None, loop.dim)]


@dataclass
class Accesses:
    """Elements of one tensor at one level, over all instances: `reads` towards the multiplier (of outputs, partial sums
    read back), `fills` written from the level above, `updates` of outputs written from below."""

    reads: int = 0
    fills: int = 0
    updates: int = 0

    @property
    def total(self) -> int:
        return self.reads + self.fills + self.updates


@dataclass
class Evaluation:
    """One repeat of a nest under a tiling. `accesses` by level and tensor; "network" are the elements that cross between
    the array and what feeds it, one for each element that a processing element receives or sends. Energy is in units of
    one multiply-accumulate; `terms` are the cycles that the array and each port would need alone; the largest is the bound.
    """

    macs: int
    active: int  # processing elements with work
    steps: int  # of the array, without filling and draining a systolic one
    utilisation: float  # MACs per cycle and processing element
    cycles: float
    energy: float
    bound: str
    accesses: dict[str, dict[str, Accesses]]
    energies: dict[str, float]
    terms: dict[str, float] = field(default_factory=dict)


# ---- counting -----------------------------------------------------------------------------------------------------


def visits(size: int, loops: list[tuple[int, bool]], tile: int) -> int:
    """How often a tile is visited: the loops over one dimension of `size` elements, outermost first, each (bound, whether
    its iterations count). Tiles past the end do not exist. `tile` is what one iteration of the innermost loop holds."""
    if not loops:
        return 1
    (_, counts), rest = loops[0], loops[1:]
    inner = tile * math.prod(bound for bound, _ in rest)
    if not counts:
        return visits(min(size, inner), rest, tile)  # the first tile is the largest: it holds what the others visit
    full, left = divmod(size, inner)
    return full * visits(inner, rest, tile) * (full > 0) + (visits(left, rest, tile) if left else 0)


def window(axis: Axis, outer: int, inner: int, outer_tiles: int, inner_tiles: int) -> int:
    """Elements that all pairs of tiles touch along an axis: the sum over tiles of (p - 1) stride + (r - 1) dilation + 1,
    for `outer` positions in so many tiles and `inner` taps in so many."""
    return (
        inner_tiles * axis.stride * outer
        + outer_tiles * axis.dilation * inner
        + outer_tiles * inner_tiles * (1 - axis.stride - axis.dilation)
    )


def overlap(axis: Axis, walk: str, tiles: Mapping[str, int], step: int, other: int) -> int:
    """Elements that a tile shares with the one before it when `walk` advances by `step`, summed over the tiles of the
    axis's `other` dimension (of that size)."""
    moving, standing = (axis.stride, axis.dilation) if walk == axis.outer else (axis.dilation, axis.stride)
    standing_dim = axis.inner if walk == axis.outer else axis.outer
    full, left = divmod(other, tiles[standing_dim])
    shared = [(tiles[walk] - 1 - step) * moving + (size - 1) * standing + 1 for size in (tiles[standing_dim], left)]
    return full * max(0, shared[0]) + (max(0, shared[1]) if left else 0)


class _Boundary:
    """What crosses between a tier that keeps a tensor and the next one below that does (or the multiplier)."""

    def __init__(self, nest: Nest, tiling: Tiling, tensor: str, parent: int, child: int):
        self.nest, self.tensor = nest, tensor
        tiers = tiling.tiers
        above = [(i, loop) for i, tier in enumerate(tiers[:child]) for loop in tier.loops if loop.bound > 1]
        below = [loop for tier in tiers[child:] for loop in tier.loops]
        self.tile = {dim: math.prod(loop.bound for loop in below if loop.dim == dim) for dim in DIMS}
        self.above, self.parent = above, parent
        walk = [k for k, (_, loop) in enumerate(above) if not loop.spatial]
        self.stripped: set[int] = set()
        if child < len(tiers):  # the multiplier keeps nothing, so nothing is stationary in it
            for k in reversed(walk):
                if above[k][1].dim in nest.relevant[tensor]:
                    break
                self.stripped.add(k)
        self.innermost = walk[-1] if walk and not self.stripped else None

    def count(self, dim: str, merge: set[int]) -> int:
        """Visits along one dimension, with the loops `merge` (places in `above`) not counted."""
        loops = [(loop.bound, k not in merge) for k, (_, loop) in enumerate(self.above) if loop.dim == dim]
        return visits(getattr(self.nest, dim), loops, self.tile[dim])

    def spatial(self) -> set[int]:
        """Places of the spatial loops between the two tiers."""
        return {k for k, (i, loop) in enumerate(self.above) if loop.spatial and i >= self.parent}

    def temporal(self) -> set[int]:
        return {k for k, (_, loop) in enumerate(self.above) if not loop.spatial}

    def elements(self, merge: set[int], slide: bool, shared: bool) -> int:
        """Elements that move, with the loops `merge` over irrelevant dimensions not counted. `slide`: a window that moves
        along the innermost loop brings only what is new. `shared`: one read serves all elements of a window that
        neighbours on the array have in common."""
        nest, tensor = self.nest, self.tensor
        total = math.prod(getattr(nest, dim) for dim in nest.plain[tensor])
        total *= math.prod(self.count(dim, merge) for dim in nest.irrelevant(tensor))
        if tensor == nest.windowed:
            for axis in nest.axes:
                total *= self._axis(axis, merge, slide, shared)
        return total

    def _axis(self, axis: Axis, merge: set[int], slide: bool, shared: bool) -> int:
        nest, spatial = self.nest, self.spatial()
        sizes = getattr(nest, axis.outer), getattr(nest, axis.inner)
        across = any(self.above[k][1].dim in (axis.outer, axis.inner) for k in spatial)
        ignored = (merge - spatial) | (spatial if shared else set())
        ignored = {k for k in ignored if self.above[k][1].dim in (axis.outer, axis.inner)}
        total = window(axis, *sizes, self.count(axis.outer, ignored), self.count(axis.inner, ignored))
        if not slide or self.innermost is None or (shared and across):
            return total
        walk = self.above[self.innermost][1].dim
        if walk not in (axis.outer, axis.inner):
            return total
        inside = [loop.bound for _, loop in self.above[self.innermost + 1 :] if loop.dim == walk]
        step = self.tile[walk] * math.prod(inside)
        later = self.count(walk, set()) - self.count(walk, {self.innermost})
        other = sizes[1] if walk == axis.outer else sizes[0]
        return total - later * overlap(axis, walk, self.tile, step, other)


# ---- the whole ----------------------------------------------------------------------------------------------------


def evaluate(nest: Nest, tiling: Tiling, accelerator: Accelerator, check: bool = True) -> Evaluation:
    """What one repeat of the nest costs under a tiling. `check`: refuse a tiling that does not cover the nest, that keeps
    more than a level holds, or that uses more processing elements than there are."""
    if check:
        refuse(nest, tiling, accelerator)
    accesses: dict[str, dict[str, Accesses]] = {}
    for tier in tiling.tiers:  # a level has several tiers where its tensors' tiles lie at different depths of the nest
        accesses.setdefault(tier.level, {}).update({tensor: Accesses() for tensor in tier.keeps})
    network = {tensor: Accesses() for tensor in TENSORS}
    for tensor in TENSORS:
        holders = [i for i, tier in enumerate(tiling.tiers) if tensor in tier.keeps]
        for parent, child in zip(holders, [*holders[1:], len(tiling.tiers)], strict=True):
            _cross(nest, tiling, accelerator, tensor, (parent, child), accesses, network)
    accesses["network"] = network
    return _sum(nest, tiling, accelerator, accesses)


def _cross(
    nest: Nest, tiling: Tiling, accelerator: Accelerator, tensor: str, pair: tuple[int, int],
    accesses: dict[str, dict[str, Accesses]], network: dict[str, Accesses],
) -> None:  # fmt: skip
    parent, child = pair
    border = _Boundary(nest, tiling, tensor, parent, child)
    spatial, shared = border.spatial(), accelerator.window_multicast
    moved = border.elements(border.stripped, True, False)  # by all instances of the child
    served = border.elements(border.stripped | spatial, True, shared)  # after multicast, or spatial reduction
    source = accesses[tiling.tiers[parent].level][tensor]
    target = accesses[tiling.tiers[child].level][tensor] if child < len(tiling.tiers) else Accesses()
    if tensor == "O":
        temporal = border.temporal()
        source.updates += served
        source.reads += max(0, served - border.elements(temporal | spatial, False, shared))
        target.fills += max(0, moved - border.elements(temporal, False, False))
    else:
        source.reads += served
        target.fills += moved
    inside = accelerator.inside
    if tiling.tiers[parent].level not in inside and (child == len(tiling.tiers) or tiling.tiers[child].level in inside):
        network[tensor].reads += moved


def _sum(nest: Nest, tiling: Tiling, accelerator: Accelerator, accesses: dict[str, dict[str, Accesses]]) -> Evaluation:
    border = _Boundary(nest, tiling, "W", 0, len(tiling.tiers))  # every loop, down to the multiplier
    spatial, temporal = {k for k, (_, loop) in enumerate(border.above) if loop.spatial}, border.temporal()
    steps = math.prod(border.count(dim, spatial) for dim in DIMS)
    active = math.prod(border.count(dim, temporal) for dim in DIMS)
    terms = {"array": float(steps + ramp(nest, tiling, accelerator))}
    energies = {"multiply": float(nest.macs)}
    for level, tensors in accesses.items():
        energies[level] = accelerator.cost(level) * sum(a.total for a in tensors.values())
        reads = sum(a.reads for a in tensors.values())
        writes = sum(a.fills + a.updates for a in tensors.values())
        for port, words in (("", reads + writes), (" read", reads), (" write", writes)):
            width = accelerator.width(level, port.strip())
            if width:
                share = active if level in accelerator.inside else 1
                terms[level + port] = words / share * accelerator.element_bytes(level) / width
    bound = max(terms, key=lambda name: terms[name])
    cycles = terms[bound]
    return Evaluation(
        macs=nest.macs, active=active, steps=steps, utilisation=nest.macs / (cycles * accelerator.elements), cycles=cycles,
        energy=sum(energies.values()), bound=bound, accesses=accesses, energies=energies, terms=terms,
    )  # fmt: skip


def ramp(nest: Nest, tiling: Tiling, accelerator: Accelerator) -> int:
    """Cycles that a systolic array of R rows and C columns fills and drains: for T steps between two changes of what is
    stationary, a fold takes 2R + C + T - 2 cycles with stationary weights or inputs and R + C + T - 2 with stationary
    outputs, the last one cycle less (Samajdar et al., ISPASS 2020, and SCALE-Sim's reports)."""
    if accelerator.systolic is None:
        return 0
    rows, columns = accelerator.array
    holder = max((i for i, tier in enumerate(tiling.tiers) if accelerator.systolic in tier.keeps), default=0)
    border = _Boundary(nest, tiling, accelerator.systolic, 0, holder)
    spatial = {k for k, (_, loop) in enumerate(border.above) if loop.spatial}
    folds = math.prod(border.count(dim, border.stripped | spatial) for dim in DIMS)
    return folds * ((1 if accelerator.systolic == "O" else 2) * rows + columns - 2) - 1


def refuse(nest: Nest, tiling: Tiling, accelerator: Accelerator) -> None:
    """Raise `InputError` where the tiling cannot be: uncovered loops, too large tiles, too many processing elements."""
    sides = 1
    for dim in DIMS:
        covered = math.prod(loop.bound for loop in tiling.loops(dim))
        if covered < getattr(nest, dim):
            raise InputError(f"the tiling covers {covered} of {getattr(nest, dim)} iterations of {dim}")
    for loop in tiling.loops():
        sides *= loop.bound if loop.spatial else 1
    if sides > accelerator.elements:
        raise InputError(f"the tiling uses {sides} processing elements, and {accelerator.name} has {accelerator.elements}")
    held: dict[tuple[str, str], int] = {}
    for i, tier in enumerate(tiling.tiers):
        below = [loop for lower in tiling.tiers[i:] for loop in lower.loops]
        tile = {dim: min(getattr(nest, dim), math.prod(x.bound for x in below if x.dim == dim)) for dim in DIMS}
        held |= {(tier.level, tensor): nest.size(tensor, tile) for tensor in tier.keeps}
    for level in {level for level, _ in held}:
        for tensors, capacity in accelerator.capacities(level):
            total = sum(held.get((level, tensor), 0) for tensor in tensors)
            if total > capacity:
                raise InputError(f"{level} holds {capacity} elements of {tensors}, and the tiling keeps {total} there")


def written(tiling: Tiling, indent: str = "  ") -> str:
    """The tiling as a loop nest that can be read from top to bottom."""
    lines, depth = [], 0
    for tier in tiling.tiers:
        keeps = ", ".join({"W": "weights", "I": "inputs", "O": "outputs"}[tensor] for tensor in tier.keeps)
        lines.append(f"{indent * depth}{tier.level} keeps {keeps or 'nothing'}")
        for loop in _visible(tier.loops):
            lines.append(f"{indent * depth}{'parallel for' if loop.spatial else 'for'} {loop.dim.lower()} in {loop.bound}")
            depth += 1
    return "\n".join([*lines, f"{indent * depth}multiply-accumulate"])


def brief(tiling: Tiling) -> str:
    """The tiling in one line: "DRAM M4 C2 | buffer P14 Q14 | array M16 C12 | registers S3"."""
    parts = []
    for tier in tiling.tiers:
        for spatial in (False, True):
            loops = [loop for loop in _visible(tier.loops) if loop.spatial == spatial]
            if loops:
                name = "array" if spatial else tier.level
                parts.append(f"{name} {' '.join(f'{loop.dim}{loop.bound}' for loop in loops)}")
    return " | ".join(parts) or "one step"


def _visible(loops: Iterable[Loop]) -> list[Loop]:
    return [loop for loop in loops if loop.bound > 1]
