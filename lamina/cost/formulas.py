"""Counts as pure functions of shapes: output shapes, loop nests, and other arithmetic. No torch here."""

import math
from collections.abc import Sequence

from lamina.errors import InputError
from lamina.workload import Loops

Shape = tuple[int, ...]


class ShapeError(InputError):
    """Shapes that do not fit an operation; the tracer puts the layer's name in front."""


def per_axis(value: int | Sequence[int], axes: int) -> Shape:
    """torch's "one number for all axes, or one an axis"."""
    if isinstance(value, int):
        return (value,) * axes
    values = tuple(value)
    return values * axes if len(values) == 1 else values


def resolve_padding(padding: int | str | Sequence[int], kernel: Shape, dilation: Shape) -> tuple[int | tuple[int, int], ...]:
    """One entry an axis; "same" padding of an even extent is a (before, after) pair with the larger part behind."""
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


def convolution(
    x: Shape, w: Shape, stride: Shape, padding: tuple[int | tuple[int, int], ...], dilation: Shape, groups: int, operands=()
) -> tuple[Shape, Loops]:
    """x (N, C, H, ...) or unbatched (C, H, ...), w (M, C/groups, R, ...): the output's shape and the loop nest."""
    axes = len(w) - 2
    if len(x) not in (axes + 1, axes + 2):
        raise ShapeError(f"a {axes}-D convolution takes {axes + 2} axes (N, C, ...), got {_x(x)}")
    channels, sizes = x[-axes - 1], x[-axes:]
    if channels != w[1] * groups:
        raise ShapeError(f"expects {w[1] * groups} input channels, got {channels} (input {_x(x)})")
    output = tuple([window_count(s, k, t, p, d) for s, k, t, p, d in zip(sizes, w[2:], stride, padding, dilation, strict=True)])
    if min(output) < 1:
        raise ShapeError(f"a {_x(w[2:])} filter does not fit into the input {_x(x)}: the picture is too small")
    batch = x[: -axes - 1]
    nest = Loops(
        batch[0] if batch else 1, groups, w[0] // groups, w[1], output, w[2:], stride, padding, dilation, operands=operands
    )
    return (*batch, w[0], *output), nest


def transposed_convolution(
    x: Shape,
    w: Shape,
    stride: Shape,
    padding: Shape,
    output_padding: Shape,
    dilation: Shape,
    groups: int,
    operands=(),
) -> tuple[Shape, Loops]:
    """x (N, C, H, ...), w (C, M/groups, R, ...). The nest runs over the input's pixels: N·H·W·C·(M/groups)·R·S MACs."""
    axes = len(w) - 2
    channels, sizes, batch = x[-axes - 1], x[-axes:], x[: -axes - 1]
    if channels != w[0]:
        raise ShapeError(f"expects {w[0]} input channels, got {channels} (input {_x(x)})")
    output = tuple(
        (s - 1) * t - 2 * p + d * (k - 1) + o + 1
        for s, k, t, p, o, d in zip(sizes, w[2:], stride, padding, output_padding, dilation, strict=True)
    )
    if min(output) < 1:
        raise ShapeError(f"a transposed {_x(w[2:])} filter gives no output for {_x(x)}: the picture is too small")
    nest = Loops(
        batch[0] if batch else 1, groups, w[1], channels // groups, sizes, w[2:], stride, padding, dilation, True, 1, operands
    )
    return (*batch, w[1] * groups, *output), nest


def linear(x: Shape, w: Shape, operands=()) -> tuple[Shape, Loops]:
    """x (..., C), w (M, C)."""
    if x[-1] != w[-1]:
        raise ShapeError(f"takes {w[-1]:,} features, got {x[-1]:,} (input {_x(x)})")
    nest = Loops(N=math.prod(x[:-1]), M=w[0] if len(w) > 1 else 1, C=x[-1], operands=operands)
    return (*x[:-1], *w[:-1]), nest


def matmul(a: Shape, b: Shape, operands=()) -> tuple[Shape, Loops]:
    """torch.matmul's rules: vectors become matrices, batch axes broadcast. A batch on the left alone is rows of one
    product (a linear layer); otherwise the batch is G."""
    rows, inner = (1, a[0]) if len(a) == 1 else a[-2:]
    depth, columns = (b[0], 1) if len(b) == 1 else b[-2:]
    if inner != depth:
        raise ShapeError(f"cannot multiply {_x(a)} by {_x(b)}: {inner} against {depth}")
    batch = broadcast(a[:-2], b[:-2])
    shape = (*batch, *(() if len(a) == 1 else (rows,)), *(() if len(b) == 1 else (columns,)))
    if len(b) <= 2:
        return shape, Loops(N=math.prod(batch) * rows, M=columns, C=inner, operands=operands)
    return shape, Loops(N=rows, G=math.prod(batch), M=columns, C=inner, operands=operands)


def attention(q: Shape, k: Shape, v: Shape, operands=(0, 0, 0, 0)) -> tuple[Shape, tuple[Loops, Loops]]:
    """softmax(q kᵀ) v with q (..., H, L, E), k (..., H', S, E), v (..., H', S, F): its two products, dense (causal or
    not). Grouped queries share keys: H is a multiple of H', and every query head is counted. `operands` are those of
    query, key, value and output."""
    if q[-1] != k[-1] or k[-2] != v[-2]:
        raise ShapeError(f"attention shapes do not fit: query {_x(q)}, key {_x(k)}, value {_x(v)}")
    groups, length, span = math.prod(q[:-2]), q[-2], k[-2]
    query, key, value, output = operands
    scores = Loops(N=length, G=groups, M=span, C=q[-1], operands=(query, key, "scores"))
    return (*q[:-1], v[-1]), (scores, Loops(N=length, G=groups, M=v[-1], C=span, operands=("scores", value, output)))


def pooling(x: Shape, kernel: Shape, stride: Shape, padding: Shape, dilation: Shape, ceil: bool) -> Shape:
    """(..., H, W) to the pooled shape."""
    axes = len(kernel)
    if len(x) < axes + 1:
        raise ShapeError(f"{axes}-D pooling takes (N, C, ...), got {_x(x)}")
    output = tuple(
        [window_count(s, k, t, p, d, ceil) for s, k, t, p, d in zip(x[-axes:], kernel, stride, padding, dilation, strict=True)]
    )
    if min(output) < 1:
        raise ShapeError(f"a {_x(kernel)} pooling window does not fit into {_x(x)}: the picture is too small")
    return (*x[:-axes], *output)


def broadcast(*shapes: Shape) -> Shape:
    """NumPy's broadcasting."""
    axes = max(map(len, shapes))
    padded = [(1,) * (axes - len(s)) + s for s in shapes]
    result = []
    for sizes in zip(*padded, strict=True):
        wide = {s for s in sizes if s != 1}
        if len(wide) > 1:
            raise ShapeError(f"shapes do not broadcast: {' and '.join(map(_x, shapes))}")
        result.append(wide.pop() if wide else 1)
    return tuple(result)


def normalisation_ops(elements: int, statistics: int, measured: bool, affine: bool) -> dict[str, int]:
    """x̂ = (x - mean) / sqrt(var + eps), then scale and shift, for `statistics` means and variances. With given
    statistics (batch norm in evaluation) scale and shift fold into one multiply and one add an element; `measured` ones
    cost a sum, a subtraction, a square and a sum more."""
    if not measured:
        return {"add": elements + statistics, "mul": elements, "sqrt": statistics, "div": statistics}
    affine_ops = elements if affine else 0
    return {
        "add": 3 * elements + affine_ops + statistics,
        "mul": 2 * elements + affine_ops,
        "sqrt": statistics,
        "div": 3 * statistics,
    }


def softmax_ops(elements: int, rows: int) -> dict[str, int]:
    """Subtract the maximum, exponentiate, sum, divide."""
    return {"compare": elements - rows, "add": 2 * elements - rows, "exp": elements, "div": elements}


def response_norm_ops(elements: int, size: int) -> dict[str, int]:
    """x / (k + α·mean of squares over `size` channels)^β: the power is counted as one exp."""
    return {"mul": 2 * elements, "add": size * elements, "exp": elements, "div": 2 * elements}


# Other arithmetic of one element: sigmoid is 1/(1+exp(-x)), tanh is 1-2/(exp(2x)+1), GELU and SiLU x times a sigmoid-like.
ACTIVATION_OPS: dict[str, dict[str, int]] = {
    "relu": {"compare": 1},
    "relu6": {"compare": 2},
    "hardtanh": {"compare": 2},
    "leaky_relu": {"compare": 1, "mul": 1},
    "sigmoid": {"exp": 1, "add": 1, "div": 1},
    "tanh": {"exp": 1, "add": 2, "div": 1},
    "silu": {"exp": 1, "add": 1, "div": 1, "mul": 1},
    "gelu": {"exp": 1, "add": 2, "div": 1, "mul": 4},
    "elu": {"compare": 1, "exp": 1, "add": 1, "mul": 1},
    "softplus": {"exp": 2, "add": 1},
    "hardsigmoid": {"compare": 2, "add": 1, "div": 1},
    "hardswish": {"compare": 2, "add": 1, "mul": 1, "div": 1},
}


def times(counts: dict[str, int], elements: int) -> dict[str, int]:
    return {kind: n * elements for kind, n in counts.items()}


def _x(shape: Sequence[int]) -> str:
    return "x".join(map(str, shape)) or "scalar"
