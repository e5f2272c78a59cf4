"""Output shapes of operations, broadcasting, and what can be seen in another shape without a copy."""

import math
from collections.abc import Sequence
from functools import lru_cache

from lamina import units
from lamina.errors import InputError

Shape = tuple[int, ...]
Padding = tuple[int | tuple[int, int], ...]  # per spatial axis; a pair (before, after) where it is not symmetric


class ShapeError(InputError):
    """Shapes that do not fit an operation; the tracer puts the layer's name in front."""


def shape_text(shape: Sequence[int]) -> str:
    """As messages show it: 1x3x224x224, or "scalar"."""
    return units.shape(tuple(shape)) or "scalar"


def per_axis(value: int | Sequence[int], axes: int) -> Shape:
    """torch's settings: one number for all axes, or one per axis."""
    if isinstance(value, int):
        return (value,) * axes
    values = tuple(value)
    return values * axes if len(values) == 1 else values


def resolve_padding(padding: int | str | Sequence[int], kernel: Shape, dilation: Shape) -> Padding:
    """One entry per axis; "same" padding of an odd total is a (before, after) pair, of which the second is larger."""
    if padding == "valid":
        return (0,) * len(kernel)
    if padding == "same":
        totals = [d * (k - 1) for k, d in zip(kernel, dilation, strict=True)]
        return tuple(t // 2 if t % 2 == 0 else (t // 2, t - t // 2) for t in totals)
    assert not isinstance(padding, str)
    return per_axis(padding, len(kernel))


def window_count(size: int, kernel: int, stride: int, padding: int | tuple[int, int], dilation: int, ceil: bool = False) -> int:
    """How many windows fit along one axis. With `ceil` a last window may hang over the end, if it starts inside the
    input or the padding before it (torch's rule)."""
    before, after = padding if isinstance(padding, tuple) else (padding, padding)
    span = size + before + after - dilation * (kernel - 1) - 1
    count = (span + (stride - 1 if ceil else 0)) // stride + 1
    if ceil and (count - 1) * stride >= size + before:
        count -= 1
    return count


def adaptive_reads(x: Shape, output: Shape) -> int:
    """How many values the windows of adaptive pooling read of x (..., H, W) for an output (H', W'): along each axis window i
    is [i·size/windows, (i+1)·size/windows) rounded outwards, so that windows may share values."""

    def along(size: int, windows: int) -> int:
        return sum(-(-(i + 1) * size // windows) - i * size // windows for i in range(windows))

    axes = len(output)
    return math.prod(x[:-axes]) * math.prod(along(n, m) for n, m in zip(x[-axes:], output, strict=True))


def reduced(x: Shape, dim: int | Sequence[int] | None, keep: bool) -> Shape:
    """The shape after a reduction over `dim` (None or nothing: over everything)."""
    dims = range(len(x)) if dim is None or dim == () or dim == [] else [dim] if isinstance(dim, int) else dim
    if any(not -max(len(x), 1) <= d < max(len(x), 1) for d in dims):
        raise ShapeError(f"there is no axis {dim} in {shape_text(x)}")
    gone = {d % len(x) for d in dims} if x else set()
    return tuple([1 if i in gone else size for i, size in enumerate(x) if keep or i not in gone])


def pooling(x: Shape, kernel: Shape, stride: Shape, padding: Shape, dilation: Shape, ceil: bool) -> Shape:
    """(..., H, W) to the pooled shape."""
    axes = len(kernel)
    if len(x) < axes + 1:
        raise ShapeError(f"{axes}-D pooling takes (N, C, ...), got {shape_text(x)}")
    output = tuple(
        [window_count(s, k, t, p, d, ceil) for s, k, t, p, d in zip(x[-axes:], kernel, stride, padding, dilation, strict=True)]
    )
    if min(output) < 1:
        raise ShapeError(f"a {shape_text(kernel)} pooling window does not fit into {shape_text(x)}: the image is too small")
    return (*x[:-axes], *output)


@lru_cache(4096)
def copied(shape: Shape, stride: Shape, wanted: Shape) -> Shape | None:
    """The shape after a reshape to `wanted` (one -1 is what is left) that cannot do without a copy; None for one that can,
    or does not fit."""
    known = math.prod([n for n in wanted if n >= 0])
    if sum([n < 0 for n in wanted]) == 1 and known:
        wanted = tuple([math.prod(shape) // known if n == -1 else n for n in wanted])
    fits = min(wanted, default=0) > 0 and math.prod(wanted) == math.prod(shape)
    return wanted if fits and not viewable(shape, stride, wanted) else None


def viewable(shape: Shape, stride: Shape, wanted: Shape) -> bool:
    """Whether elements that lie so in memory can be seen in another shape of as many elements (none of them zero) without
    a copy: each run of axes that lies densely must be a run of the wanted axes."""
    axes = [(n, step) for n, step in zip(shape, stride, strict=True) if n != 1]
    rest = [n for n in wanted if n != 1]
    run = 1
    for place in reversed(range(len(axes))):
        n, step = axes[place]
        run *= n
        if place and axes[place - 1][1] == step * n:
            continue
        while run > 1:
            if not rest or run % rest[-1]:
                return False
            run //= rest.pop()
    return not rest


@lru_cache(4096)
def elementwise_strides(shape: Shape, operands: tuple[tuple[Shape, Shape], ...]) -> Shape:
    """How the result of an elementwise operation lies: densely, its axes in the order of the operands' strides, of which the
    first operand that tells two axes apart decides (aten/src/ATen/TensorIterator.cpp, `reorder_dimensions`). `operands`
    are (shape, strides)."""
    steps = []
    for sizes, strides in operands:
        added = len(shape) - len(sizes)
        seen = [0 if n != m else step for n, m, step in zip(sizes, shape[added:], strides, strict=True)]
        steps.append([*(0,) * added, *seen])

    def order(a: int, b: int) -> int:
        for strides in steps:
            if strides[a] and strides[b]:
                if strides[a] != strides[b]:
                    return strides[a] - strides[b]
                if shape[a] > shape[b]:
                    return 1
        return 0

    axes = list(reversed(range(len(shape))))  # the fastest first
    for place in range(1, len(axes)):
        here = place
        for before in reversed(range(place)):
            found = order(axes[before], axes[here])
            if found > 0:
                axes[before], axes[here] = axes[here], axes[before]
                here = before
            elif found < 0:
                break
    result, run = [0] * len(shape), 1
    for axis in axes:
        result[axis] = run
        run *= max(1, shape[axis])
    return tuple(result)


def batched_copy(shape: Shape, stride: Shape, batch: Shape) -> int:
    """torch.matmul sees each factor (..., rows, columns), broadcast over `batch`, as (batches, rows, columns): the elements of
    the copy that it works on and keeps, where the strides do not allow that."""
    wide, added = (*batch, *shape[-2:]), len(batch) + 2 - len(shape)
    steps = [0 if n != m else step for n, m, step in zip(shape, wide[added:], stride, strict=True)]
    seen = (math.prod(batch), *shape[-2:])
    return math.prod(wide) if copied(wide, (*(0,) * added, *steps), seen) else 0


def folded_copy(shape: Shape, stride: Shape) -> int:
    """The same for (..., features), of which a linear layer sees (rows, features)."""
    return math.prod(shape) if copied(shape, stride, (-1, shape[-1])) else 0


@lru_cache(4096)
def broadcast(*shapes: Shape) -> Shape:
    """NumPy's broadcasting."""
    axes = max(map(len, shapes))
    padded = [(1,) * (axes - len(s)) + s for s in shapes]
    result = []
    for sizes in zip(*padded, strict=True):
        wide = {s for s in sizes if s != 1}
        if len(wide) > 1:
            raise ShapeError(f"shapes do not broadcast: {' and '.join(map(shape_text, shapes))}")
        result.append(wide.pop() if wide else 1)
    return tuple(result)
