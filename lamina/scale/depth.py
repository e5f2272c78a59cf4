"""Depth: a residual block is a step of the forward Euler method, x + h F(x), and more blocks are more steps.

| operator | what | class |
|---|---|---|
| split | each block becomes m copies with a step of h / m | consistent, order 1 (pre-norm or pre-activation) |
| zero | new blocks whose last layer is zero | exact |
| interpolate | blocks at new places of the same time, weights by linear interpolation, step h / m | approximate |
| stack | the blocks over again, at the same step | approximate |
| random | new blocks with first weights (a control) | approximate |
| coarsen | every other block, or the mean of neighbours, with the step of both | approximate; left inverse of split |

E. Haber et al., "Learning across scales" (arXiv 1703.02009); B. Chang et al., "Multi-level residual networks from dynamical
systems view" (arXiv 1710.10348: split and interpolation); T. Chen, I. Goodfellow, J. Shlens, "Net2Net" (arXiv 1511.05641) and
C. Wu et al., "LLaMA Pro" (arXiv 2401.02415: zero insertion of copies); W. Du et al. (arXiv 2405.15319: stacking).

The step is folded into the last layer of each branch (or into its last batch norm), so that a grown network is one of its
class. Averages of neighbours take hidden units in the order in which they stand: independently trained blocks order theirs
differently.
"""

from collections.abc import Sequence
from dataclasses import dataclass

from lamina.errors import InputError
from lamina.scale.plan import Class, Origin, Step, blend, scaled
from lamina.scale.structure import Block, Family, Stack

OPERATORS = ("split", "zero", "interpolate", "interpolate_left", "stack", "random")
COARSEN = ("coarsen", "mean")


@dataclass(frozen=True)
class Place:
    """A block of the new stack: old blocks by number, with coefficients that sum to one, at `step` times their step. Without
    old blocks it has first weights; with a step of zero it is the identity, and learns."""

    terms: tuple[tuple[int, float], ...]
    step: float = 1.0


def deepen(family: Family, factor: int | Sequence[int], operator: str = "split") -> tuple[Family, Step]:
    """`factor` times as many blocks, or so many in each stack. Raises `InputError` naming the stack."""
    if operator not in OPERATORS:
        raise InputError(f"depth: no operator {operator!r}; there are {', '.join(OPERATORS)}")
    stacks = family.stacks()
    targets = [_target(stack, factor, operator, i, len(stacks)) for i, stack in enumerate(stacks)]
    places = [_places(stack, target, operator) for stack, target in zip(stacks, targets, strict=True)]
    if all(len(p) == len(s.blocks) for p, s in zip(places, stacks, strict=True)):
        fixed = next((b.fixed for s in stacks for b in s.blocks if b.fixed), "nothing is to be added")
        raise InputError(f"{family.name}: {operator} adds no block: {fixed}; zero insertion can follow any block")
    return _change(family, stacks, places, "depth", operator, _claim(operator, stacks))


def coarsen(family: Family, factor: int, operator: str = "coarsen") -> tuple[Family, Step]:
    """One block, with the step of all, for each `factor` blocks. Blocks that change the shape stay."""
    if operator not in COARSEN:
        raise InputError(f"depth: no operator {operator!r} to shrink; there are {', '.join(COARSEN)}")
    stacks = family.stacks()
    places = []
    for stack in stacks:
        first = _fixed(stack)
        count = len(stack.blocks) - first
        if count % factor:
            after = f" after {stack.blocks[first - 1].path}, which changes the shape," if first else ""
            number = f"{count} block{'s' if count != 1 else ''}"
            raise InputError(f"{stack.path} has {number}{after} and not a multiple of {factor}: grow it first")
        kept = [Place(((i, 1.0),)) for i in range(first)]
        for start in range(first, len(stack.blocks), factor):
            group = range(start, start + (factor if operator == "mean" else 1))
            kept.append(Place(tuple((i, 1 / len(group)) for i in group), float(factor)))
        places.append(kept)
    return _change(family, stacks, places, "depth", operator, "approximate")


def with_step(family: Family, step: float) -> tuple[Family, Step]:
    """The same blocks at `step` times their step: another function, near the identity for small steps."""
    stacks = family.stacks()
    places = [[Place(((i, 1.0),), 1.0 if b.fixed else step) for i, b in enumerate(stack.blocks)] for stack in stacks]
    return _change(family, stacks, places, "depth", "step", "approximate")


def _claim(operator: str, stacks: Sequence[Stack]) -> Class:
    if operator == "split":
        return "consistent" if all(stack.kind == "pre" for stack in stacks) else "approximate"
    return "exact" if operator == "zero" else "approximate"


def _fixed(stack: Stack) -> int:
    """How many blocks at the beginning change the shape."""
    return sum(bool(block.fixed) for block in stack.blocks)


def _target(stack: Stack, factor: int | Sequence[int], operator: str, place: int, stacks: int) -> int:
    count, free = len(stack.blocks), len(stack.blocks) - _fixed(stack)
    if isinstance(factor, int):
        return count * factor if operator in ("zero", "random") else count - free + free * factor
    if len(factor) != stacks:
        raise InputError(f"depth: {stacks} stacks of blocks, and {len(factor)} numbers")
    if factor[place] < count:
        raise InputError(f"{stack.path} has {count} blocks and cannot grow to {factor[place]}: give at least as many")
    return factor[place]


def _places(stack: Stack, target: int, operator: str) -> list[Place]:
    first, count = _fixed(stack), len(stack.blocks)
    old, new = count - first, target - first
    kept = [Place(((i, 1.0),)) for i in range(first)]
    if operator in ("zero", "random"):
        return _inserted(stack, target, operator)
    if new > old and not old:
        raise InputError(f"{stack.path}: {stack.blocks[0].fixed}, and there is no other to {operator}; zero can follow it")
    if operator == "stack":
        return kept + [Place(((first + j % old, 1.0),)) for j in range(new)]
    if operator == "split":
        counts = _spread(old, new)
        return kept + [Place(((first + i, 1.0),), 1 / m) for i, m in enumerate(counts) for _ in range(m)]
    for j in range(new):
        centre = (j + 0.5) * old / new - 0.5 if operator == "interpolate" else j * old / new
        t = min(max(centre, 0.0), old - 1.0)
        i, share = int(t), t - int(t)
        terms = ((first + i, 1.0),) if share == 0 else ((first + i, 1 - share), (first + i + 1, share))
        kept.append(Place(terms, old / new))
    return kept


def _spread(old: int, new: int) -> list[int]:
    """How many new blocks each old one becomes: as equal as can be."""
    return [new * (i + 1) // old - new * i // old for i in range(old)]


def _inserted(stack: Stack, target: int, operator: str) -> list[Place]:
    """New blocks behind old ones. A zero one is a copy of the block it follows, or of the nearest that keeps the shape."""
    first, count = _fixed(stack), len(stack.blocks)
    places = []
    for i, copies in enumerate(_spread(count, target)):
        template = max(i, first)
        terms = ((template, 1.0),) if template < count and operator == "zero" else ()
        places += [Place(((i, 1.0),)), *[Place(terms, 0.0 if operator == "zero" else 1.0)] * (copies - 1)]
    return places


def _change(
    family: Family, stacks: Sequence[Stack], places: Sequence[Sequence[Place]], axis: str, operator: str, claim: Class
) -> tuple[Family, Step]:
    other = family.with_depths([len(p) for p in places])
    names = list(other.build().state_dict())
    fresh = None
    origins: dict[str, Origin] = {}
    changed = []
    for stack, row in zip(stacks, places, strict=True):
        for j, place in enumerate(row):
            prefix = f"{stack.path}.{j}."
            block = [name.removeprefix(prefix) for name in names if name.startswith(prefix)]
            if not place.terms:
                fresh = fresh or other.fresh()
            last = _last(stack.blocks[place.terms[0][0]] if place.terms else stack.blocks[0])
            for rest in block:
                name = prefix + rest
                if place.terms:
                    origins[name] = _origin(stack, place, rest, rest in last)
                else:
                    value = fresh[name] if fresh else None
                    zero = place.step == 0 and rest in last
                    origins[name] = Origin((), lambda v=value, z=zero: v.clone().zero_() if z else v.clone())
            if len(place.terms) != 1 or place.step != 1 or place.terms[0][0] != j:
                changed.append(prefix.rstrip("."))
    return other, Step(axis, operator, claim, origins, tuple(changed), order=1 if claim == "consistent" else None)


def _last(block: Block) -> set[str]:
    return {name.removeprefix(f"{block.path}.") for name in block.last}


def _origin(stack: Stack, place: Place, rest: str, last: bool) -> Origin:
    """A branch of h times the size: its last layer is scaled, and the gradient of all before it is h times its own."""
    terms = [(f"{stack.blocks[i].path}.{rest}", c) for i, c in place.terms]
    value, gradient = (place.step, float(place.step != 0)) if last else (1.0, place.step)
    if len(terms) == 1:
        return scaled(terms[0][0], value, gradient)
    return blend(terms, value, gradient)
