"""The space of tilings that a search looks through, declared: every member can be written out, and `tilings` does.

Three storeys: the memory outside, the buffers that all elements share, the registers inside an element. A storey may have
several levels, as long as no tensor is in two of them. For each dimension of D iterations

- `spatial` runs over processing elements, at the fewest passes (f = D / passes, rounded up); a side of the array carries one
  loop, or two where the first leaves room, and in a flexible array two of N, G, M and C divide a side among them in every way
  in which neither could have fewer passes. Which dimensions may lie where is what a dataflow says;
- the register tile is a ceiling D / k of what one element has to do, within what its registers hold;
- the buffer tile is a ceiling of the array's tiles, within what the buffers hold; R and S are whole in it;
- the loops of each storey have one of a few orders. Each dimension but G is irrelevant to exactly one tensor, and only the
  innermost run of loops that a tensor does not depend on saves anything, so an order is that run and its last loop;
- one of the tensors of a storey may lie low, below the loops over what it depends on, and hold a part of its tile (the field
  speaks of uneven mappings: Mei et al., ZigZag, IEEE TC 70(8), 2021). In the registers of a flexible array that is one element,
  or one window that slides along P or Q; in the buffers the array's tile, times the innermost run where loops come before that
  run that the tensor does not depend on, unless the loops outside keep the tensor where it is. Loops that are relevant to two
  tensors could lie above both, but then the third does not depend on them: they may as well be of its run in the storey above.
"""

import itertools
import math
from collections.abc import Iterator
from dataclasses import dataclass, replace
from functools import cache, lru_cache

from lamina.errors import InputError
from lamina.hardware.accelerator import KEEPS, Accelerator, Level, expressible
from lamina.hardware.mapping import Loop, Tier, Tiling
from lamina.hardware.nest import DIMS, TENSORS, Nest

Factors = dict[str, int]  # by dimension
WHOLE = ("R", "S")  # never split outside the buffer
AXES = ("P", "Q", "R", "S")
# Which dimensions a dataflow lays along rows and columns; row stationary has a rule of its own.
SIDES = {"ws": ("CRS", "M"), "os": ("NGMPQ", "NGMPQ"), "nlr": ("CRS", "M"), "flexible": ("NGMCPQRS", "NGMCPQRS")}
SHARING = "NGMC"  # of a flexible array those that may divide a side: more, and a search of a batch takes five times as long
# Which dimensions a register tile may have; R and S are whole or one, except that row stationary has S alone.
REGISTERS = {"ws": "MCRS", "os": "NMQ", "nlr": "", "rs": "MCS", "flexible": "NMCQRS"}


@dataclass(frozen=True)
class Storeys:
    """The accelerator's levels in three storeys, as one dataflow uses them; `keeps` are the tensors in its registers, and `low`
    is the one of them, if any, that lies low there. `share`: two loops may divide a side of the array among them."""

    outside: Level
    buffers: tuple[Level, ...]
    registers: tuple[Level, ...]
    dataflow: str
    keeps: str
    low: str | None = None
    share: bool = False

    def keeper(self, levels: tuple[Level, ...], tensor: str) -> Level | None:
        if levels == self.registers and tensor not in self.keeps:
            return None
        return next((level for level in levels if tensor in level.keeps), None)


def storeys(accelerator: Accelerator, dataflow: str) -> list[Storeys]:
    """The ways to use the levels: one, or for the flexible dataflow one for each choice of what the registers keep, and of what
    lies low in them, in an order in which what is found first prunes most of what follows."""
    expressible(accelerator, dataflow)
    buffers = tuple(level for level in accelerator.level[1:] if not level.inside)
    registers = tuple(level for level in accelerator.level if level.inside)
    for group in (buffers, registers):
        kept = "".join(level.keeps for level in group)
        if len(set(kept)) < len(kept):
            names = ", ".join(level.name for level in group)
            raise InputError(
                f"{accelerator.name}: the search knows one shared and one inner storey of memories, and two of {names} keep the"
                " same tensor"
            )
    choices = [KEEPS[dataflow]]
    if dataflow == "flexible":
        can = [tensor for tensor in TENSORS if any(tensor in level.keeps for level in registers)]
        choices = ["".join(some) for size in (0, 1, 2, 3) for some in itertools.combinations(can, size)]
    if accelerator.systolic:
        choices = [keeps for keeps in choices if accelerator.systolic in keeps]
    if not choices:
        raise InputError(f"{accelerator.name} is a systolic array that keeps {accelerator.systolic}: it cannot run {dataflow}")
    found = []
    for keeps in choices:
        lows = [X for X in keeps if accelerator.systolic != X] if dataflow == "flexible" and len(keeps) > 1 else []
        parts = Storeys(accelerator.level[0], buffers, registers, dataflow, keeps, share=dataflow == "flexible")
        found += [replace(parts, low=low) for low in (None, *lows)]
    return found


@cache
def ceilings(size: int) -> tuple[int, ...]:
    """All values of size / k rounded up, ascending: the tiles that no smaller tile with as many passes replaces."""
    found, k = [], 1
    while True:
        tile = -(-size // k)
        found.append(tile)
        if tile == 1:
            return tuple(reversed(found))
        k = -(-size // (tile - 1))


def fewest(size: int, side: int) -> int:
    """The smallest factor that covers `size` in as few passes as `side` elements can."""
    return -(-size // -(-size // side))


# ---- the array ----------------------------------------------------------------------------------------------------


def spatial(nest: Nest, accelerator: Accelerator, parts: Storeys) -> list[Factors]:
    """The factors by dimension that a dataflow allows; dimensions of factor 1 are left out."""
    return _spatial(nest, accelerator.array, parts.dataflow, parts.share)


@lru_cache(16)
def _spatial(nest: Nest, array: tuple[int, int], dataflow: str, share: bool) -> list[Factors]:
    rows, columns = array
    if dataflow == "rs":
        found = _row_stationary(nest, rows, columns)
    else:
        found = []
        for first in _side({}, nest, SIDES[dataflow][0], rows, share):
            found += _side(first, nest, SIDES[dataflow][1], columns, share)
    unique = {tuple(sorted(factors.items())): factors for factors in found}
    return [unique[key] for key in sorted(unique)]


def _side(placed: Factors, nest: Nest, dims: str, side: int, share: bool) -> list[Factors]:
    """Everything that one side can carry besides what is placed: one loop, or two if the first leaves room. With `share` two
    of `SHARING` divide the side among them in every way in which neither could have fewer passes beside the other."""
    found = []
    for first in dims:
        one = _place(placed, nest, first, side)
        room = side * math.prod(placed.values()) // math.prod(one.values())
        others = [_place(one, nest, second, room) for second in dims if second != first] if room > 1 else []
        found += [two for two in others if two != one] or [one]
        for second in SHARING[SHARING.index(first) + 1 :] if share and first in SHARING else "":
            found += _shared(placed, nest, first, second, side)
    return found or [placed]


def _shared(placed: Factors, nest: Nest, first: str, second: str, side: int) -> Iterator[Factors]:
    for room in range(2, side // 2 + 1):
        one = _place(placed, nest, first, side // room)
        left = side * math.prod(placed.values()) // math.prod(one.values())
        two = _place(one, nest, second, left)
        if one not in (placed, two):
            yield two


def _place(placed: Factors, nest: Nest, dim: str, side: int) -> Factors:
    size = -(-getattr(nest, dim) // placed.get(dim, 1))
    factor = fewest(size, side)
    return {**placed, dim: placed.get(dim, 1) * factor} if factor > 1 else placed


def _row_stationary(nest: Nest, rows: int, columns: int) -> list[Factors]:
    """Sets of R x e elements (a set wider than the array is folded), and r · t sets for other channels and filters: Chen et
    al., IEEE JSSC 52(1), 2017, section IV."""
    found = []
    R = fewest(nest.R, rows)
    for e in ceilings(nest.P):
        height = R * -(-e // columns)
        if height > rows:
            continue
        sets = rows // height * max(1, columns // e)
        for r in ceilings(nest.C):
            if r <= sets:
                t = fewest(nest.M, sets // r)
                found.append({dim: f for dim, f in (("R", R), ("P", e), ("C", r), ("M", t)) if f > 1})
    return found


# ---- tiles --------------------------------------------------------------------------------------------------------


def register_options(nest: Nest, parts: Storeys, factors: Factors, limits: dict[str, int]) -> dict[str, tuple[int, ...]]:
    """The sizes that each dimension of a register tile may have, before the capacities are looked at: more than one for those
    that a tensor depends on that does not lie low, and for those of a window that does."""
    options: dict[str, tuple[int, ...]] = {dim: (1,) for dim in DIMS}
    bounding = [X for X in TENSORS if X in limits and parts.low != X]
    for dim in REGISTERS[parts.dataflow]:
        left = -(-getattr(nest, dim) // factors.get(dim, 1))
        sizes = ceilings(left)
        if parts.dataflow == "rs" and dim == "S":
            options[dim] = (left,) if left <= limits.get("I", left) else sizes
        elif dim in WHOLE:
            options[dim] = (1, left) if left > 1 else (1,)
        else:
            options[dim] = sizes
        free = left if parts.low == nest.windowed and dim in AXES else 1
        most = max((limits[tensor] for tensor in bounding if dim in nest.relevant[tensor]), default=free)
        options[dim] = tuple(size for size in options[dim] if size <= most) or (1,)
    return options


def capacities(accelerator: Accelerator, levels: tuple[Level, ...], keeps: str) -> list[tuple[str, int]]:
    """Groups of tensors and the elements that they may have together, for the tensors that are kept."""
    groups = []
    for level in levels:
        for tensors, held in accelerator.capacities(level.name):
            used = "".join(tensor for tensor in tensors if tensor in keeps)
            if used:
                groups.append((used, held))
    return groups


def lowered(nest: Nest, tensor: str, tile: Factors) -> Factors:
    """What is left of a register tile below the loops over what a tensor depends on, for a tensor that lies low: one element of
    it, or of the tensor that the filter's window slides over one window, whole along the axis that it does not slide along (P
    or Q, whichever leaves less)."""
    if tensor != nest.windowed:
        return {**tile, **dict.fromkeys(nest.plain[tensor], 1)}
    windows = [{**tile, **dict.fromkeys((*nest.plain[tensor], walk), 1)} for walk in "QP"]
    return min(windows, key=lambda window: nest.size(tensor, window))


def lowable(nest: Nest, parts: Storeys) -> tuple[str, ...]:
    """The tensors that may lie low in the buffers: not what a window slides over, for it would slide no longer."""
    kept = [tensor for tensor in TENSORS if parts.keeper(parts.buffers, tensor)]
    sliding = any(getattr(nest, dim) > 1 for dim in AXES)
    return tuple(X for X in kept if len(kept) > 1 and not (sliding and nest.windowed == X))


# ---- orders -------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Order:
    """The innermost run of a storey's loops: those that `stationary` does not depend on, with `last` innermost (None: none
    of the axes' loops is). Without a stationary tensor G is innermost, or there are no loops."""

    stationary: str | None
    last: str | None = None
    empty: bool = False


@cache
def orders(transposed: bool) -> tuple[Order, ...]:
    nest = Nest(transposed=transposed)
    found = []
    for tensor in TENSORS:
        lasts = [dim for dim in nest.irrelevant(tensor) if dim in AXES]
        found += [Order(tensor, last) for last in (*lasts, None)]
    return (*found, Order(None), Order(None, None, True))


def valid(order: Order, nest: Nest, bounds: Factors) -> bool:
    """Whether loops of these bounds have this order, and not another one that costs the same."""
    if order.empty or all(bound == 1 for bound in bounds.values()):
        return order.empty and all(bound == 1 for bound in bounds.values())
    if order.stationary is None:
        return bounds["G"] > 1
    run = nest.irrelevant(order.stationary)
    if order.last:
        return bounds[order.last] > 1
    return all(bounds[dim] == 1 for dim in run if dim in AXES) and any(bounds[dim] > 1 for dim in run)


def innermost(order: Order, nest: Nest) -> tuple[str, ...]:
    """The dimensions of an order's run."""
    return nest.irrelevant(order.stationary) if order.stationary else ("G",)


def arrange(order: Order, nest: Nest, bounds: Factors) -> tuple[Loop, ...]:
    """The loops of a storey, outermost first."""
    run = innermost(order, nest)
    inner = [dim for dim in run if dim != order.last] + ([order.last] if order.last else [])
    outer = [dim for dim in DIMS if dim not in inner]
    return tuple(Loop(dim, bounds[dim]) for dim in (*outer, *inner) if bounds[dim] > 1)


# ---- members ------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Member:
    """The choices that make a tiling: factors along the array, the register tile, the bounds of the buffer's loops, the orders
    of the loops outside and at the buffer, and what lies low there."""

    spread: Factors
    register: Factors
    buffer: Factors
    outer: Order
    inner: Order
    low: str | None = None

    @property
    def array(self) -> Factors:
        """The array's tile."""
        return {dim: self.spread.get(dim, 1) * self.register[dim] for dim in DIMS}

    def above(self, nest: Nest, low: str) -> list[str]:
        """The dimensions whose loops at the buffer are above a tensor that lies low: those that it depends on, but for the
        innermost run where loops come before it that it does not depend on."""
        apart = any(self.buffer[dim] > 1 for dim in nest.irrelevant(low))
        run = innermost(self.inner, nest) if apart else ()
        return [dim for dim in DIMS if dim in nest.relevant[low] and dim not in run]


def build(nest: Nest, parts: Storeys, member: Member) -> Tiling:
    """The tiling of these choices."""
    outside = {dim: -(-getattr(nest, dim) // (size * member.buffer[dim])) for dim, size in member.array.items()}
    outer = arrange(member.outer, nest, outside)
    across = tuple(Loop(dim, factor, True) for dim, factor in member.spread.items() if factor > 1)
    element = tuple(Loop(dim, member.register[dim]) for dim in DIMS if member.register[dim] > 1)
    shared = arrange(member.inner, nest, member.buffer)
    first: list[Loop] = []  # the loops above what lies low in the buffers, and in the registers
    if member.low:
        above = member.above(nest, member.low)
        first = [loop for loop in shared if loop.dim in above]
    rest = (*(loop for loop in shared if loop not in first), *across)
    tiers = [Tier(parts.outside.name, "WIO", outer if parts.buffers else (*outer, *rest))]
    tiers += _storey(parts, parts.buffers, member.low, tuple(first), rest)
    left = lowered(nest, parts.low, member.register) if parts.low else member.register
    first = [loop for loop in element if left[loop.dim] < loop.bound]
    rest = tuple(loop for loop in element if loop not in first)
    tiers += _storey(parts, parts.registers, parts.low, tuple(first), rest)
    return Tiling(tuple(tiers))


def _storey(
    parts: Storeys, levels: tuple[Level, ...], low: str | None, first: tuple[Loop, ...], rest: tuple[Loop, ...]
) -> list[Tier]:
    """The tiers of a storey: the `first` loops are above the tensor that lies low, the rest below."""
    tiers, level = [], parts.keeper(levels, low) if low else None
    for one in levels:
        keeps = "".join(tensor for tensor in one.keeps if parts.keeper(levels, tensor) and tensor != low)
        if keeps or one != level:
            tiers.append(Tier(one.name, keeps))
    if level and low:
        tiers[-1] = replace(tiers[-1], loops=first)
        tiers.append(Tier(level.name, low))
    return [*tiers[:-1], replace(tiers[-1], loops=rest)] if tiers else []


def lows(nest: Nest, parts: Storeys, groups: list[tuple[str, int]], member: Member) -> list[str | None]:
    """What may lie low in the buffers so that they hold the tile; None where they hold it as it is."""
    array = member.array
    tile = {dim: min(getattr(nest, dim), array[dim] * member.buffer[dim]) for dim in DIMS}
    found: list[str | None] = [None] if _fits(nest, tile, groups) else []
    for X in () if member.inner.empty else lowable(nest, parts):
        below = tile | {dim: min(tile[dim], array[dim]) for dim in member.above(nest, X)}
        if member.outer.stationary != X and below != tile and _fits(nest, tile, groups, {X: below}):
            found.append(X)
    return found


def tilings(nest: Nest, accelerator: Accelerator, dataflow: str) -> Iterator[Tiling]:
    """Every member of the space, one by one: what the search is checked against on small nests."""
    for parts in storeys(accelerator, dataflow):
        yield from _tilings(nest, accelerator, parts)


def _tilings(nest: Nest, accelerator: Accelerator, parts: Storeys) -> Iterator[Tiling]:
    kept = "".join(tensor for tensor in TENSORS if parts.keeper(parts.registers, tensor))
    buffered = "".join(tensor for tensor in TENSORS if parts.keeper(parts.buffers, tensor))
    inside = capacities(accelerator, parts.registers, kept)
    shared = capacities(accelerator, parts.buffers, buffered)
    limits = {tensor: held for tensors, held in inside for tensor in tensors}
    for spread in spatial(nest, accelerator, parts):
        options = register_options(nest, parts, spread, limits)
        for sizes in itertools.product(*(options[dim] for dim in DIMS)):
            register = dict(zip(DIMS, sizes, strict=True))
            if not _fits(nest, register, inside, {parts.low: lowered(nest, parts.low, register)} if parts.low else {}):
                continue
            yield from _buffered(nest, parts, spread, register, shared)


def _buffered(
    nest: Nest, parts: Storeys, spread: Factors, register: Factors, shared: list[tuple[str, int]]
) -> Iterator[Tiling]:
    tiles = {dim: -(-getattr(nest, dim) // (spread.get(dim, 1) * register[dim])) for dim in DIMS}
    choices = [(tiles[dim],) if dim in WHOLE or not parts.buffers else ceilings(tiles[dim]) for dim in DIMS]
    for bounds in itertools.product(*choices):
        buffer = dict(zip(DIMS, bounds, strict=True))
        outside = {dim: -(-tiles[dim] // buffer[dim]) for dim in DIMS}
        for outer, inner in itertools.product(orders(nest.transposed), repeat=2):
            if valid(outer, nest, outside) and valid(inner, nest, buffer):
                member = Member(spread, register, buffer, outer, inner)
                for low in lows(nest, parts, shared, member):
                    yield build(nest, parts, replace(member, low=low))


def _fits(nest: Nest, tile: Factors, groups: list[tuple[str, int]], low: dict[str, Factors] | None = None) -> bool:
    """Whether memories hold a tile; `low` has what is held of it by a tensor that lies low."""
    low = low or {}
    return all(sum(nest.size(tensor, low.get(tensor, tile)) for tensor in tensors) <= held for tensors, held in groups)
