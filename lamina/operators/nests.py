"""Loop nests of products, with the shapes of their results: convolutions, matrix products, attention, recurrences."""

import math
from collections.abc import Sequence

from lamina.operators.shapes import Padding, Shape, ShapeError, broadcast, shape_text, window_count
from lamina.workload import Loops

Operands = tuple[int | str, ...]  # of a nest: the input, the weight and the output, by number or name


def convolution(
    x: Shape, w: Shape, stride: Shape, padding: Padding, dilation: Shape, groups: int, operands: Operands = ()
) -> tuple[Shape, Loops]:
    """x (N, C, H, ...) or unbatched (C, H, ...), w (M, C/groups, R, ...): the output's shape and the loop nest."""
    axes = len(w) - 2
    if len(x) not in (axes + 1, axes + 2):
        raise ShapeError(f"a {axes}-D convolution takes {axes + 2} axes (N, C, ...), got {shape_text(x)}")
    channels, sizes = x[-axes - 1], x[-axes:]
    if channels != w[1] * groups:
        raise ShapeError(f"expects {w[1] * groups} input channels, got {channels} (input {shape_text(x)})")
    output = tuple([window_count(s, k, t, p, d) for s, k, t, p, d in zip(sizes, w[2:], stride, padding, dilation, strict=True)])
    if min(output) < 1:
        raise ShapeError(f"a {shape_text(w[2:])} filter does not fit into the input {shape_text(x)}: the image is too small")
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
    operands: Operands = (),
) -> tuple[Shape, Loops]:
    """x (N, C, H, ...), w (C, M/groups, R, ...). The nest runs over the input's pixels: N·H·W·C·(M/groups)·R·S MACs."""
    axes = len(w) - 2
    channels, sizes, batch = x[-axes - 1], x[-axes:], x[: -axes - 1]
    if channels != w[0]:
        raise ShapeError(f"expects {w[0]} input channels, got {channels} (input {shape_text(x)})")
    output = tuple(
        (s - 1) * t - 2 * p + d * (k - 1) + o + 1
        for s, k, t, p, o, d in zip(sizes, w[2:], stride, padding, output_padding, dilation, strict=True)
    )
    if min(output) < 1:
        raise ShapeError(f"a transposed {shape_text(w[2:])} filter gives no output for {shape_text(x)}: the image is too small")
    return (*batch, w[1] * groups, *output), transposed_nest(x, w, stride, padding, dilation, groups, operands)


def transposed_nest(
    x: Shape, w: Shape, stride: Shape, padding: Padding, dilation: Shape, groups: int, operands: Operands = ()
) -> Loops:
    """Of a transposed convolution, whose output's size is known from elsewhere."""
    axes = len(w) - 2
    if len(x) not in (axes + 1, axes + 2) or x[-axes - 1] != w[0] or w[0] % groups:
        raise ShapeError(f"a transposed convolution of {shape_text(x)} by {shape_text(w)} in {groups} groups does not fit")
    batch = x[0] if len(x) == axes + 2 else 1
    return Loops(batch, groups, w[1], w[0] // groups, x[-axes:], w[2:], stride, padding, dilation, True, 1, operands)


def linear(x: Shape, w: Shape, operands: Operands = ()) -> tuple[Shape, Loops]:
    """x (..., C), w (M, C)."""
    if x[-1] != w[-1]:
        raise ShapeError(f"takes {w[-1]:,} features, got {x[-1]:,} (input {shape_text(x)})")
    nest = Loops(N=math.prod(x[:-1]), M=w[0] if len(w) > 1 else 1, C=x[-1], operands=operands)
    return (*x[:-1], *w[:-1]), nest


def matmul(a: Shape, b: Shape, operands: Operands = ()) -> tuple[Shape, Loops]:
    """torch.matmul's rules: vectors become matrices, batch axes broadcast. A batch on the left alone is rows of one
    product (a linear layer); otherwise the batch is G."""
    rows, inner = (1, a[0]) if len(a) == 1 else a[-2:]
    depth, columns = (b[0], 1) if len(b) == 1 else b[-2:]
    if inner != depth:
        raise ShapeError(f"cannot multiply {shape_text(a)} by {shape_text(b)}: {inner} against {depth}")
    batch = broadcast(a[:-2], b[:-2])
    shape = (*batch, *(() if len(a) == 1 else (rows,)), *(() if len(b) == 1 else (columns,)))
    if len(b) <= 2:
        return shape, Loops(N=math.prod(batch) * rows, M=columns, C=inner, operands=operands)
    return shape, Loops(N=rows, G=math.prod(batch), M=columns, C=inner, operands=operands)


def attention(
    q: Shape, k: Shape, v: Shape, operands: Operands = (0, 0, 0, 0), grouped: bool = True
) -> tuple[Shape, tuple[Loops, Loops]]:
    """softmax(q kᵀ) v with q (..., H, L, E), k (..., H', S, E), v (..., H', S, F): its two products, dense (causal or
    not). Queries may share keys and values (`grouped`): H is then a multiple of H', and every query head is counted.
    `operands` are those of query, key, value and output."""
    if min(len(q), len(k), len(v)) < 2:
        raise ShapeError(f"attention takes (..., length, features), got {shape_text(q)}, {shape_text(k)}, {shape_text(v)}")
    (*lead, length, width), (*key_lead, span, depth), (*value_lead, rows, _) = q, k, v
    if grouped and lead and key_lead and value_lead and lead[-1] % key_lead[-1] == 0 == lead[-1] % value_lead[-1]:
        key_lead[-1] = value_lead[-1] = lead[-1]
    try:
        batch = broadcast(tuple(lead), tuple(key_lead), tuple(value_lead))
    except ShapeError:
        batch = None
    if batch is None or width != depth or span != rows:
        raise ShapeError(f"attention shapes do not fit: query {shape_text(q)}, key {shape_text(k)}, value {shape_text(v)}")
    groups = math.prod(batch)
    query, key, value, output = operands
    scores = Loops(N=length, G=groups, M=span, C=q[-1], operands=(query, key, "scores"))
    return (*batch, length, v[-1]), (scores, Loops(N=length, G=groups, M=v[-1], C=span, operands=("scores", value, output)))


def recurrent(
    runs: Sequence[tuple[int, int]], gates: int, inputs: int, hidden: int, projected: int, operands: Operands
) -> tuple[Loops, ...]:
    """One direction of one layer of an RNN (1 gate), GRU (3) or LSTM (4): all gates' products with the input at once,
    then step by step with the hidden state; and with a projection (`projected` > 0) one more product per step.

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


def experts(rows: int, width: int, first: int, inner: int, gated: bool, operands: Operands) -> tuple[Loops, ...]:
    """The layers of the experts in a mixture, for `rows` tokens, each as often as it has experts: from `width` to `first`
    features (2 · inner where one product makes value and gate), from `inner` back to `width`, and where the gate has weights
    of its own (`gated`) from `width` to `inner`. `operands` are those of the input, the three weights and the output."""
    x, up, down, gate, output = operands
    nests = (
        Loops(N=rows, M=first, C=width, operands=(x, up, "hidden")),
        Loops(N=rows, M=width, C=inner, operands=("hidden", down, output)),
    )
    return (*nests, Loops(N=rows, M=inner, C=width, operands=(x, gate, "hidden"))) if gated else nests


def causal_convolution(x: Shape, w: Shape, operands: Operands = ()) -> Loops:
    """x (N, C, L), w (C, 1, R): each channel with its own filter, which sees nothing that comes later."""
    if len(x) != 3 or len(w) != 3 or w[:2] != (x[1], 1):
        raise ShapeError(f"a causal convolution of {shape_text(x)} by {shape_text(w)} does not fit")
    return Loops(x[0], x[1], 1, 1, x[2:], w[2:], (1,), ((w[2] - 1, 0),), (1,), operands=operands)


def linear_attention(
    q: Shape, k: Shape, v: Shape, heads: int, shared: int, delta: bool, operands: Operands = ("query", "key", "value", "output")
) -> tuple[Loops, ...]:
    """q (N, L, heads · E), k (N, L, shared · E), v (N, L, shared · F). Each head has a state (E, F), to which a step adds key
    by value, and from which each query reads; the `delta` rules also read it with the key."""
    if min(heads, shared) < 1 or q[2] % heads or k[2] % shared or v[2] % shared:
        raise ShapeError(f"{', '.join(map(shape_text, (q, k, v)))} are not divisible into {heads} and {shared} heads")
    size, width, steps = k[2] // shared, v[2] // shared, q[1]
    query, key, value, output = operands
    written = Loops(N=size, G=q[0] * shared, M=width, C=1, times=steps, operands=(key, value, "state"))
    read = Loops(N=1, G=q[0] * heads, M=width, C=size, times=steps, operands=(query, "state", output))
    error = Loops(N=1, G=q[0] * shared, M=width, C=size, times=steps, operands=(key, "state", "error"))
    return (written, read, error) if delta else (written, read)


# ---- einsum ---------------------------------------------------------------------------------------------------------


def einsum(
    equation: str, shapes: Sequence[Shape], operands: Operands, output: int | str = "output"
) -> tuple[tuple[Loops, ...], dict[str, int]]:
    """The products of an equation, two factors at a time from left to right: labels of both are the batch (G) or summed (C).
    Without a sum it is a multiplication, not a product, and of one factor a sum; these are the other arithmetic."""
    terms, wanted, sizes = _parsed(equation, shapes)

    def volume(labels: set[str]) -> int:
        return math.prod(sizes[x] for x in labels)

    nests: list[Loops] = []
    ops: dict[str, int] = {}
    now = terms[0]
    for place, other in enumerate(terms[1:], 1):
        later = wanted.union(*terms[place + 1 :])
        both, summed = now & other & later, (now & other) - later
        rows, columns = (now - other) & later, (other - now) & later
        if summed:
            names = (operands[0] if place == 1 else "intermediate", operands[place], output)
            nests.append(Loops(volume(rows), volume(both), volume(columns), volume(summed), operands=names))
        else:
            ops["mul"] = ops.get("mul", 0) + volume((now | other) & later)
        now = (now | other) & later
    if len(terms) == 1:
        ops["add"] = max(volume(now) - volume(now & wanted), 0)
    return tuple(nests), ops


def _parsed(equation: str, shapes: Sequence[Shape]) -> tuple[list[set[str]], set[str], dict[str, int]]:
    """The labels of each factor, those of the result, and the size of each; axes under an ellipsis are .1, .2, … from the
    last on."""
    equation = equation.replace(" ", "")
    left, arrow, out = equation.partition("->")
    terms = left.split(",")
    if len(terms) != len(shapes):
        raise ShapeError(f"equation {equation!r} has {len(terms)} terms for {len(shapes)} inputs")
    sizes: dict[str, int] = {}
    sets: list[set[str]] = []
    for term, shape in zip(terms, shapes, strict=True):
        dots = len(shape) - len(term.replace("...", ""))
        before, found, after = term.partition("...")
        labels = [*before, *((f".{dots - i}" for i in range(dots)) if found else ()), *after]
        if len(labels) != len(shape):
            raise ShapeError(f"equation {equation!r} does not fit an input {shape_text(shape)}")
        for label, size in zip(labels, shape, strict=True):
            if sizes.setdefault(label, size) not in (size, 1) and size != 1:
                raise ShapeError(f"equation {equation!r}: {label} is {sizes[label]} and {size}")
            sizes[label] = max(sizes[label], size) if size and sizes[label] else 0
        sets.append(set(labels))
    wild = {x for x in sizes if x[0] == "."}
    wanted = wild | (set(out.replace(".", "")) if arrow else {x for x in sizes if left.count(x) == 1})
    return sets, wanted, sizes
