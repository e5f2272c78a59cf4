"""A plan says where each tensor of a grown network comes from: a linear map of tensors of the old one.

The same map, with factors of its own, carries an optimizer's moments: where a weight is copied r times and its reader is
shared out, each copy sees a share of the old gradient.
"""

import zlib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Literal

import torch
from torch import Tensor

Class = Literal["exact", "consistent", "approximate"]
STRENGTH: dict[Class, int] = {"approximate": 0, "consistent": 1, "exact": 2}

# What breaks the symmetry of equal copies. Shares lie evenly between these two, over their number: 0.6 and 0.4 for two copies.
# Adam divides a gradient's scale out, so that shares alone leave copies equal under it: the columns that read equal copies
# also get a random part that sums to zero over them, of this size relative to the weight's root mean square.
SHARES = (1.2, 0.8)
NOISE = 0.05
CHUNK = 2**16  # random numbers drawn at a time, so that they take no memory beside large weights


@dataclass(frozen=True)
class Select:
    """Take `index` along `dim`, times `scale` for each entry; a gradient takes the same entries times `gradient`."""

    dim: int
    index: Tensor
    scale: Tensor | None = None
    gradient: Tensor | None = None

    def apply(self, value: Tensor, factors: Tensor | None, power: int = 1) -> Tensor:
        taken = value.index_select(self.dim, self.index.to(value.device))
        if factors is None:
            return taken
        shape = [1] * taken.dim()
        shape[self.dim] = -1
        return taken.mul_(factors.to(taken.device, taken.dtype).pow(power).reshape(shape))


@dataclass(frozen=True)
class Origin:
    """`value` makes the tensor from the old ones of `names`; `moment(power, *old)` makes the first (power 1) or second
    (power 2) moment of its gradient from theirs. Without `moment` an optimizer starts anew on it."""

    names: tuple[str, ...]
    value: Callable[..., Tensor]
    moment: Callable[..., Tensor] | None = None


def keep(name: str) -> Origin:
    return Origin((name,), lambda t: t, lambda power, t: t)


def scaled(name: str, scale: float, gradient: float) -> Origin:
    return Origin((name,), lambda t: t * scale if t.is_floating_point() else t, lambda power, t: t * gradient**power)


def select(name: str, taken: Select, noise: float = 0.0, copies: int = 1, run: int = 1) -> Origin:
    """With `noise`, what was taken `copies` times, in runs of `run` entries (a head, a group), gets a random part that sums to
    zero over the copies."""

    def value(t: Tensor) -> Tensor:
        chosen = taken.apply(t, taken.scale)
        if noise and copies > 1:
            size = noise * float(torch.linalg.vector_norm(t)) / t.numel() ** 0.5
            add_null_noise(chosen.unflatten(taken.dim, (-1, copies, run)), taken.dim, size, name)
        return chosen

    return Origin((name,), value, lambda power, t: taken.apply(t, taken.gradient, power))


def blend(terms: Sequence[tuple[str, float]], scale: float, gradient: float) -> Origin:
    """The sum of the named tensors times their coefficients, times `scale`."""
    coefficients = [c for _, c in terms]

    def mix(tensors: tuple[Tensor, ...], factor: float) -> Tensor:
        if not tensors[0].is_floating_point():
            return tensors[0]
        return torch.stack([c * t for c, t in zip(coefficients, tensors, strict=True)]).sum(0) * factor

    return Origin(tuple(n for n, _ in terms), lambda *ts: mix(ts, scale), lambda power, *ts: mix(ts, gradient**power))


def mapped(name: str, function: Callable[[Tensor], Tensor]) -> Origin:
    """A linear map whose transpose is not at hand: moments start anew."""
    return Origin((name,), function)


def add_null_noise(value: Tensor, dim: int, size: float, name: str) -> None:
    """Add to `value`, in place, random numbers of standard deviation `size` that sum to zero over its axis `dim` + 1, a part of
    its axis `dim` at a time; they are drawn by the name alone."""
    generator = torch.Generator().manual_seed(zlib.crc32(name.encode()))
    step = max(1, CHUNK * value.shape[dim] // value.numel())
    for part in value.split(step, dim):
        drawn = torch.randn(part.shape, generator=generator).to(value.dtype)
        drawn -= drawn.mean(dim + 1, keepdim=True)
        part.add_(drawn.to(value.device), alpha=size)


def shares(copies: int) -> Tensor:
    """How what is read from equal copies is shared out: unequal, summing to one."""
    first, last = SHARES
    return torch.linspace(first, last, copies, dtype=torch.float64) / copies if copies > 1 else torch.ones(1)


def duplicated(count: int, copies: int) -> Tensor:
    """0, 0, 1, 1, 2, 2, ...: each of `count` entries `copies` times in a row."""
    return torch.arange(count).repeat_interleave(copies)


@dataclass(frozen=True)
class Step:
    """One operator at work on one axis: the tensors that it changes (the others stay), and what it claims."""

    axis: str
    operator: str
    exactness: Class
    origins: Mapping[str, Origin]
    layers: tuple[str, ...]  # what it changed
    order: int | None = None  # of a consistent one
    note: str = ""


@dataclass(frozen=True)
class Plan:
    steps: tuple[Step, ...] = ()

    def then(self, step: Step) -> "Plan":
        return replace(self, steps=(*self.steps, step))

    def value(self, name: str, old: Mapping[str, Tensor]) -> Tensor:
        """The new tensor `name`."""
        return self._value(name, old, len(self.steps))

    def _value(self, name: str, old: Mapping[str, Tensor], stage: int) -> Tensor:
        if stage == 0:
            return old[name]
        origin = self.steps[stage - 1].origins.get(name)
        if origin is None:
            return self._value(name, old, stage - 1)
        return origin.value(*(self._value(n, old, stage - 1) for n in origin.names))

    def moment(self, name: str, old: Callable[[str], Tensor | None], power: int) -> Tensor | None:
        """The moment of the new tensor's gradient; None where it starts anew."""
        return self._moment(name, old, power, len(self.steps))

    def _moment(self, name: str, old: Callable[[str], Tensor | None], power: int, stage: int) -> Tensor | None:
        if stage == 0:
            return old(name)
        origin = self.steps[stage - 1].origins.get(name)
        if origin is None:
            return self._moment(name, old, power, stage - 1)
        if origin.moment is None:
            return None
        parts = [self._moment(n, old, power, stage - 1) for n in origin.names]
        if any(part is None for part in parts):
            return None
        return origin.moment(power, *parts)

    def sources(self, name: str) -> set[str]:
        """The old tensors that the new tensor `name` is made of."""
        names = {name}
        for step in reversed(self.steps):
            names = {n for name in names for n in (step.origins[name].names if name in step.origins else (name,))}
        return names
