"""Figures as formulas of the batch and of the bytes of a number, so that a page can change both and need not ask.

A network's figures are, with few exceptions, a + b n + c s + d n s for a batch of n and numbers of s bytes: weights have no n,
counts no s. Traces at two batches and two types give the four; a fifth trace says whether they hold. Nothing is assumed: where
a batch of one is executed in another way than larger ones, or float32 in another way than other types (a ViT's class token is
expanded for a batch alone; the Transformer's positions are converted), each regime has formulas of its own, and where none hold
there is no such knob.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cache
from typing import Generic, TypeVar

from lamina.errors import LaminaError
from lamina.workload import Tensor, Workload

Formula = int | list[int]  # a constant, or [a, b, c, d]
Dimension = int | list[int]  # a constant, or [a, b]: a + b n
At = Callable[[int, str], Workload]  # the network's trace at a batch and a type

T = TypeVar("T", int, str)
BYTES = {"float32": 4, "bfloat16": 2, "float16": 2, "float64": 8}


@dataclass(frozen=True)
class Axis(Generic[T]):
    """Two points to take formulas from, one to check them at, and where they hold: batches from the first to the second (None:
    any), or the types named."""

    points: tuple[T, T]
    check: T
    holds: tuple[T | None, ...]


ANY_BATCH = Axis((1, 2), 3, (1, None))
ONE, MORE = Axis((1, 1), 1, (1, 1)), Axis((2, 3), 5, (2, None))
ANY_TYPE = Axis(("float32", "bfloat16"), "float64", tuple(BYTES))
WIDE, OTHERS = Axis(("float32", "float32"), "float32", ("float32",)), Axis(("float64", "bfloat16"), "float16", tuple(BYTES)[1:])
# The fewest regimes that hold are taken: what follows is worse.
PLANS: tuple[tuple[tuple[Axis[int], Axis[str]], ...], ...] = (
    ((ANY_BATCH, ANY_TYPE),),
    ((ONE, ANY_TYPE), (MORE, ANY_TYPE)),
    ((ANY_BATCH, WIDE), (ANY_BATCH, OTHERS)),
    ((ONE, WIDE), (MORE, WIDE), (ONE, OTHERS), (MORE, OTHERS)),
    ((ONE, ANY_TYPE),),
    ((ANY_BATCH, WIDE),),
    ((ONE, WIDE), (MORE, WIDE)),
)


@dataclass(frozen=True)
class Regime:
    """One network where its figures have formulas: `grid[i][j]` is its trace at batch i and type j of the two axes."""

    grid: tuple[tuple[Workload, Workload], tuple[Workload, Workload]]
    batch: Axis[int]
    dtype: Axis[str]

    @property
    def first(self) -> Workload:
        return self.grid[0][0]

    @property
    def sizes(self) -> tuple[int, int]:
        """Bytes of a number of the two types."""
        one, other = self.dtype.points
        return BYTES.get(one, 0), BYTES.get(other, 0)

    def formula(self, figure: Callable[[Workload], int]) -> Formula:
        """`figure` of the network at every batch and type. Raises `ValueError` where no formula in whole numbers gives it."""
        if self.grid[0][0] is self.grid[1][1]:
            return figure(self.first)
        return fit([[figure(w) for w in row] for row in self.grid], self.batch.points, self.sizes)

    def formulas(self, figures: Callable[[Workload], Sequence[int]]) -> list[Formula]:
        """`formula` of each of several figures at once."""
        if self.grid[0][0] is self.grid[1][1]:
            return list(figures(self.first))
        (a, b), (c, d) = [[figures(w) for w in row] for row in self.grid]
        return [fit(((w, x), (y, z)), self.batch.points, self.sizes) for w, x, y, z in zip(a, b, c, d, strict=True)]

    def dimensions(self, figures: Callable[[Workload], Sequence[int]]) -> list[Dimension]:
        """`figures`, which no type changes, at every batch."""
        return [found if isinstance(found, int) else found[:2] for found in self.formulas(figures)]


def fit(values: Sequence[Sequence[int]], batches: tuple[int, int], sizes: tuple[int, int]) -> Formula:
    """[a, b, c, d] of a + b n + c s + d n s from `values[i][j]` at n = `batches[i]` and s = `sizes[j]`, or the constant that
    they all are. Where an axis has one point, its two values are equal and its coefficients 0."""
    (one_wide, one_narrow), (two_wide, two_narrow) = values
    if one_wide == one_narrow == two_wide == two_narrow:
        return one_wide
    (n, more), (wide, narrow) = batches, sizes
    across, down = more - n or 1, wide - narrow or 1
    d, rest = divmod((two_wide - one_wide) - (two_narrow - one_narrow), across * down)
    b, odd = divmod(two_narrow - one_narrow, across)
    c, left = divmod(one_wide - one_narrow, down)
    if rest or odd or left:
        raise ValueError("no whole numbers give these values")
    b, c = b - d * narrow, c - d * n
    return [one_wide - b * n - c * wide - d * n * wide, b, c, d]


def value(formula: Formula, batch: int, size: float) -> float:
    """The figure at a batch, with numbers of `size` bytes."""
    if isinstance(formula, int):
        return formula
    a, b, c, d = formula
    return a + b * batch + c * size + d * batch * size


def alone(workload: Workload) -> Regime:
    """The one trace: nothing can be changed in it."""
    batch = next((t.shape[0] for t in workload.inputs if t.shape), 1)
    grid = ((workload, workload), (workload, workload))
    return Regime(grid, Axis((batch, batch), batch, (batch, batch)), Axis(("", ""), "", ()))


def regimes(at: At, figures: Callable[[Workload], Sequence[int]]) -> tuple[list[Regime], str]:
    """The network at every batch and type, as far as formulas hold for each of its `figures`; and why not everywhere."""
    once, why = cache(at), ""
    for plan in PLANS:
        found = []
        for batch, dtype in plan:
            try:
                (a, b), (c, d) = [[once(n, name) for name in dtype.points] for n in batch.points]
                regime = Regime(((a, b), (c, d)), batch, dtype)
                reason = _difference(regime, once(batch.check, dtype.check), figures)
            except LaminaError as error:
                regime, reason = None, str(error)
            if reason or regime is None:
                why = why or reason
                break
            found.append(regime)
        if len(found) == len(plan):
            whole = any(b.holds[1] is None for b, _ in plan) and any(len(t.holds) > 1 for _, t in plan)
            return found, "" if whole else why
    return [], why


def _difference(regime: Regime, check: Workload, figures: Callable[[Workload], Sequence[int]]) -> str:
    """Why formulas of the regime do not give the figures of `check`; empty where they do."""
    shape = _outline(check)
    traces = [w for row in regime.grid for w in row]
    if any(_outline(w) != shape for w in traces):
        return "its operations depend on the batch or on the type"
    n, size = regime.batch.check, BYTES[regime.dtype.check]
    for one, a, b, c, d in zip(figures(check), *map(figures, traces), strict=True):
        try:
            formula = fit(((a, b), (c, d)), regime.batch.points, regime.sizes)
        except ValueError:
            return "its figures are not linear in the batch and the bytes of a number"
        if value(formula, n, size) != one:
            return "its figures are not linear in the batch and the bytes of a number"
    return ""


def _outline(workload: Workload) -> tuple:
    """What no batch and no type may change within a regime."""

    def rank(tensors: Sequence[Tensor]) -> tuple[int, ...]:
        return tuple(len(t.shape) for t in tensors)

    layers = tuple((x.name, x.op, rank(x.inputs), rank(x.outputs), len(x.loops), len(x.weights)) for x in workload.layers)
    return layers, tuple((life.born, life.freed) for life in workload.lifetimes), len(workload.edges)
