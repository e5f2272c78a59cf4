"""A loop nest as the mapping model sees it: eight bounds, and which of them each tensor depends on."""

import math
from collections.abc import Mapping
from dataclasses import dataclass, replace
from functools import cached_property

from lamina.errors import InputError
from lamina.workload import Loops

DIMS: tuple[str, ...] = ("N", "G", "M", "C", "P", "Q", "R", "S")
TENSORS: tuple[str, ...] = ("W", "I", "O")  # weight (or the second factor of a matrix product), input, output


@dataclass(frozen=True)
class Axis:
    """A spatial axis: `outer` walks over output positions in steps of `stride`, `inner` over filter taps in steps of
    `dilation`. A tile of p positions and r taps touches (p - 1) stride + (r - 1) dilation + 1 elements of the tensor
    that the window slides over."""

    outer: str
    inner: str
    stride: int = 1
    dilation: int = 1


@dataclass(frozen=True)
class Nest:
    """Bounds by letter: N batch, G groups, M output and C input channels, P x Q output positions, R x S filter taps. A
    transposed convolution runs over input positions, so its window slides over the output. `repeats` runs it again.
    """

    N: int = 1
    G: int = 1
    M: int = 1
    C: int = 1
    P: int = 1
    Q: int = 1
    R: int = 1
    S: int = 1
    stride: tuple[int, int] = (1, 1)
    dilation: tuple[int, int] = (1, 1)
    transposed: bool = False
    repeats: int = 1

    def __post_init__(self) -> None:
        for dim in DIMS:
            if getattr(self, dim) < 1:
                raise InputError(f"a loop nest with {dim} = {getattr(self, dim)}: every bound is 1 or more")

    @property
    def bounds(self) -> dict[str, int]:
        return {dim: getattr(self, dim) for dim in DIMS}

    @property
    def macs(self) -> int:
        """Of one repeat."""
        return math.prod(self.bounds.values())

    @cached_property
    def axes(self) -> tuple[Axis, Axis]:
        return (Axis("P", "R", self.stride[0], self.dilation[0]), Axis("Q", "S", self.stride[1], self.dilation[1]))

    @property
    def windowed(self) -> str:
        """The tensor that the filter's window slides over."""
        return "O" if self.transposed else "I"

    @cached_property
    def plain(self) -> dict[str, tuple[str, ...]]:
        """The dimensions that each tensor depends on one by one; those of the axes come besides for the windowed one."""
        if self.transposed:
            return {"W": ("G", "M", "C", "R", "S"), "I": ("N", "G", "C", "P", "Q"), "O": ("N", "G", "M")}
        return {"W": ("G", "M", "C", "R", "S"), "I": ("N", "G", "C"), "O": ("N", "G", "M", "P", "Q")}

    @cached_property
    def relevant(self) -> dict[str, frozenset[str]]:
        """All dimensions that each tensor depends on."""
        both = frozenset("PQRS")
        return {X: frozenset(self.plain[X]) | (both if self.windowed == X else frozenset()) for X in TENSORS}

    def irrelevant(self, tensor: str) -> tuple[str, ...]:
        return tuple(dim for dim in DIMS if dim not in self.relevant[tensor])

    def size(self, tensor: str, tile: Mapping[str, int] | None = None) -> int:
        """Elements of the tensor that a tile touches, by default the whole nest."""
        tile = self.bounds if tile is None else tile
        total = math.prod(tile[dim] for dim in self.plain[tensor])
        if tensor == self.windowed:
            for axis in self.axes:
                total *= (tile[axis.outer] - 1) * axis.stride + (tile[axis.inner] - 1) * axis.dilation + 1
        return total

    def unrolled(self) -> "Nest":
        """The matrix product that the convolution is once its input is unrolled (im2col): N·P·Q x C·R·S x M per group."""
        return Nest(N=self.N * self.P * self.Q, G=self.G, M=self.M, C=self.C * self.R * self.S, repeats=self.repeats)


def from_loops(loops: Loops) -> Nest:
    """The nest of one of a layer's loop nests.

    The last two spatial axes are P, Q and R, S. Of a 3-D convolution the first axis joins N (its output) and C (its
    filter): weights and outputs stay exact, and what neighbouring windows share along that axis is not credited.
    """
    outer, inner = loops.output, loops.filter
    extra = max(0, len(outer) - 2)
    pad = 2 - min(2, len(outer))
    P, Q = (1,) * pad + tuple(outer[extra:])
    R, S = (1,) * pad + tuple(inner[extra:])
    stride = (1,) * pad + tuple(loops.stride[extra:])
    dilation = (1,) * pad + tuple(loops.dilation[extra:])
    return Nest(
        N=loops.N * math.prod(outer[:extra]), G=loops.G, M=loops.M, C=loops.C * math.prod(inner[:extra]), P=P, Q=Q, R=R, S=S,
        stride=(stride[0], stride[1]), dilation=(dilation[0], dilation[1]), transposed=loops.transposed, repeats=loops.times,
    )  # fmt: skip


def once(nest: Nest) -> Nest:
    """The nest without its repeats: what the search looks at, so that equal shapes are searched once."""
    return replace(nest, repeats=1)
