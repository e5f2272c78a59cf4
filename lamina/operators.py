"""Counts as pure functions of shapes: output shapes, loop nests, and other arithmetic. No torch here."""

import math
from collections.abc import Sequence
from functools import lru_cache

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


def attention(
    q: Shape, k: Shape, v: Shape, operands: tuple[int | str, ...] = (0, 0, 0, 0), grouped: bool = True
) -> tuple[Shape, tuple[Loops, Loops]]:
    """softmax(q kᵀ) v with q (..., H, L, E), k (..., H', S, E), v (..., H', S, F): its two products, dense (causal or
    not). Queries may share keys and values (`grouped`): H is then a multiple of H', and every query head is counted.
    `operands` are those of query, key, value and output."""
    if min(len(q), len(k), len(v)) < 2:
        raise ShapeError(f"attention takes (..., length, features), got {_x(q)}, {_x(k)}, {_x(v)}")
    (*lead, length, width), (*key_lead, span, depth), (*value_lead, rows, _) = q, k, v
    if grouped and lead and key_lead and value_lead and lead[-1] % key_lead[-1] == 0 == lead[-1] % value_lead[-1]:
        key_lead[-1] = value_lead[-1] = lead[-1]
    try:
        batch = broadcast(tuple(lead), tuple(key_lead), tuple(value_lead))
    except ShapeError:
        batch = None
    if batch is None or width != depth or span != rows:
        raise ShapeError(f"attention shapes do not fit: query {_x(q)}, key {_x(k)}, value {_x(v)}")
    groups = math.prod(batch)
    query, key, value, output = operands
    scores = Loops(N=length, G=groups, M=span, C=q[-1], operands=(query, key, "scores"))
    return (*batch, length, v[-1]), (scores, Loops(N=length, G=groups, M=v[-1], C=span, operands=("scores", value, output)))


def recurrent(
    runs: Sequence[tuple[int, int]], gates: int, inputs: int, hidden: int, projected: int, operands: Sequence[int | str]
) -> tuple[Loops, ...]:
    """One direction of one layer of an RNN (1 gate), GRU (3) or LSTM (4): all gates' products with the input at once,
    then step by step with the hidden state; and with a projection (`projected` > 0) one more product a step.

    `runs` are (steps, sequences): one for a rectangular batch, one for each length of a packed one. `operands` name the
    input and the two or three weights.
    """
    state = projected or hidden
    total = sum(steps * batch for steps, batch in runs)
    nests = [Loops(N=total, M=gates * hidden, C=inputs, operands=(operands[0], operands[1], "gates"))]
    for steps, batch in runs:
        nests.append(Loops(N=batch, M=gates * hidden, C=state, times=steps, operands=("state", operands[2], "gates")))
        if projected:
            nests.append(Loops(N=batch, M=projected, C=hidden, times=steps, operands=("cell", operands[3], "state")))
    return tuple(nests)


def recurrent_ops(gates: int, elements: int, biased: bool) -> dict[str, int]:
    """What the gates cost beside their products, for `elements` hidden units over all steps. An LSTM has three sigmoids,
    two tanh, three products and a sum; a GRU two sigmoids, a tanh, three products and two sums; an RNN a tanh."""
    sigmoids, hyperbolic, products, sums = {4: (3, 2, 3, 1), 3: (2, 1, 3, 2), 1: (0, 1, 0, 0)}[gates]
    return {
        "add": elements * (sums + gates + (2 * gates if biased else 0) + sigmoids + 2 * hyperbolic),
        "mul": elements * products,
        "exp": elements * (sigmoids + hyperbolic),
        "div": elements * (sigmoids + hyperbolic),
    }


def adaptive_reads(size: int, windows: int) -> int:
    """How many values the windows of adaptive pooling read along one axis: window i is [i·size/windows, (i+1)·…) rounded
    outwards, so that windows may share values."""
    return sum(-(-(i + 1) * size // windows) - i * size // windows for i in range(windows))


def reduced(x: Shape, dim: int | Sequence[int] | None, keep: bool) -> Shape:
    """The shape after a reduction over `dim` (None or nothing: over everything)."""
    dims = range(len(x)) if dim is None or dim == () or dim == [] else [dim] if isinstance(dim, int) else dim
    if any(not -max(len(x), 1) <= d < max(len(x), 1) for d in dims):
        raise ShapeError(f"there is no axis {dim} in {_x(x)}")
    gone = {d % len(x) for d in dims} if x else set()
    return tuple([1 if i in gone else size for i, size in enumerate(x) if keep or i not in gone])


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
    "mish": {"exp": 3, "add": 4, "div": 1, "mul": 1},
    "selu": {"compare": 1, "exp": 1, "add": 1, "mul": 2},
    "celu": {"compare": 1, "exp": 1, "add": 1, "mul": 1, "div": 1},
}
# Operators by name (in-place and overloads alike): the arithmetic of one output element.
ELEMENTWISE: dict[str, dict[str, int]] = {
    **dict.fromkeys(
        ("add", "sub", "rsub", "neg", "abs", "round", "floor", "ceil", "trunc", "frac", "sign", "sgn", "__lshift__",
         "__rshift__", "bitwise_left_shift", "bitwise_right_shift"),
        {"add": 1},
    ),
    **dict.fromkeys(("mul", "square", "deg2rad", "rad2deg", "conj_physical", "ldexp"), {"mul": 1}),
    **dict.fromkeys(("addcmul", "lerp"), {"mul": 1, "add": 1}),
    "addcdiv": {"mul": 1, "add": 1, "div": 1},
    **dict.fromkeys(("div", "reciprocal", "remainder", "fmod", "floor_divide"), {"div": 1}),
    **dict.fromkeys(
        ("exp", "exp2", "log", "log2", "log10", "log1p", "expm1", "sin", "cos", "tan", "asin", "acos", "atan", "sinh", "cosh",
         "asinh", "acosh", "atanh", "sinc", "erf", "erfc", "erfinv", "atan2", "pow", "log_sigmoid_forward", "logaddexp",
         "xlogy", "special_xlog1py", "logit", "angle"),
        {"exp": 1},
    ),
    "polar": {"exp": 2, "mul": 2},
    "affine_grid_generator": {"mul": 3, "add": 2},
    "hypot": {"mul": 2, "add": 1, "sqrt": 1},
    **dict.fromkeys(("_prelu_kernel", "rrelu_with_noise"), {"compare": 1, "mul": 1}),
    "glu": {"exp": 1, "add": 1, "div": 1, "mul": 1},
    **dict.fromkeys(("softshrink", "hardshrink"), {"compare": 2, "add": 1}),
    **dict.fromkeys(("sigmoid_backward", "tanh_backward"), {"add": 1, "mul": 2}),
    **dict.fromkeys(("sqrt", "rsqrt"), {"sqrt": 1}),
    **dict.fromkeys(
        ("maximum", "minimum", "clamp", "clamp_min", "clamp_max", "where", "masked_fill", "eq", "ne", "lt", "le", "gt", "ge",
         "isnan", "isinf", "logical_and", "logical_or", "logical_not", "logical_xor", "bitwise_and", "bitwise_or",
         "bitwise_not", "bitwise_xor", "__and__", "__or__", "__xor__", "threshold", "tril", "triu", "fmax", "fmin", "isposinf",
         "isneginf", "isfinite", "signbit", "nan_to_num", "heaviside", "copysign", "isin", "bucketize",
         "searchsorted"),
        {"compare": 1},
    ),
}  # fmt: skip
# Reductions: the arithmetic of one input element.
REDUCTIONS: dict[str, dict[str, int]] = {
    **dict.fromkeys(("sum", "nansum", "mean", "cumsum", "count_nonzero", "trace", "bincount", "histc"), {"add": 1}),
    **dict.fromkeys(("prod", "cumprod"), {"mul": 1}),
    **dict.fromkeys(("norm", "linalg_vector_norm"), {"mul": 1, "add": 1}),
    **dict.fromkeys(("var", "var_mean", "std", "std_mean"), {"add": 3, "mul": 1}),
    **dict.fromkeys(
        ("amax", "amin", "aminmax", "_aminmax", "max", "min", "argmax", "argmin", "any", "all", "sort", "topk", "argsort",
         "cummax", "cummin", "_cummax_helper", "_cummin_helper", "kthvalue", "median", "nanmedian", "mode", "equal", "_unique2",
         "unique_dim", "unique_consecutive"),
        {"compare": 1},
    ),
    **dict.fromkeys(("mse_loss", "smooth_l1_loss", "huber_loss"), {"add": 2, "mul": 1}),
    **dict.fromkeys(("nll_loss_forward", "nll_loss2d_forward"), {"add": 1}),
    **dict.fromkeys(("binary_cross_entropy", "binary_cross_entropy_with_logits"), {"exp": 2, "add": 2, "mul": 2}),
    **dict.fromkeys(("logsumexp", "logcumsumexp", "_logcumsumexp"), {"exp": 1, "add": 1}),
}  # fmt: skip


def times(counts: dict[str, int], elements: int) -> dict[str, int]:
    return {kind: n * elements for kind, n in counts.items()}


def _x(shape: Sequence[int]) -> str:
    return "x".join(map(str, shape)) or "scalar"
