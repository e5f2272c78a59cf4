"""ONNX operators that multiply and accumulate: convolutions, products, recurrences and attention, as loop nests."""

import math

from lamina import operators
from lamina.onnx.ops import Cost, rule
from lamina.onnx.values import Node
from lamina.operators import ACTIVATION_OPS, Shape, ShapeError, times
from lamina.workload import Loops

# ---- convolutions ---------------------------------------------------------------------------------------------------


def _windows(n: Node, axes: int, kernel: Shape, sizes: Shape) -> tuple[Shape, tuple[int | tuple[int, int], ...], Shape]:
    """Strides, padding and dilations of a node, with `auto_pad` resolved."""
    steps, dilations = tuple(n.get("strides", (1,) * axes)), tuple(n.get("dilations", (1,) * axes))
    pads = tuple(n.get("pads", (0,) * 2 * axes))
    if (len(steps), len(dilations), len(pads), len(sizes)) != (axes, axes, 2 * axes, axes):
        raise ShapeError(f"strides, dilations or pads do not fit {axes} spatial axes (input {operators._x(n.shape(0))})")
    if min((*steps, *dilations, *kernel)) < 1:
        raise ShapeError("strides, dilations and filter sizes are 1 or more")
    pairs = list(zip(pads[:axes], pads[axes:], strict=True))
    if n.get("auto_pad", "NOTSET").startswith("SAME"):
        spans = [
            max((math.ceil(s / t) - 1) * t + d * (k - 1) + 1 - s, 0)
            for s, t, d, k in zip(sizes, steps, dilations, kernel, strict=True)
        ]
        upper = n.get("auto_pad", "") == "SAME_UPPER"
        pairs = [(s // 2, s - s // 2) if upper else (s - s // 2, s // 2) for s in spans]
    elif n.get("auto_pad", "NOTSET") == "VALID":
        pairs = [(0, 0)] * axes
    return steps, tuple(before if before == after else (before, after) for before, after in pairs), dilations


def _check_kernel(n: Node, w: Shape) -> None:
    kernel = n.get("kernel_shape", w[2:])
    if tuple(kernel) != w[2:]:
        raise ShapeError(f"says kernel_shape {operators._x(kernel)}, and its weight is {operators._x(w)}")
    if n.get("group", 1) < 1 or w[0] % n.get("group", 1):
        raise ShapeError(f"{w[0]} filters do not part into {n.get('group', 1)} groups")


def convolve(n: Node, x: Shape, w: Shape, weight: int, bias: int) -> tuple[Shape, Cost]:
    """A convolution of (N, C, ...) with (M, C/groups, ...), whose inputs `weight` and `bias` are."""
    axes = len(w) - 2
    if axes < 1 or len(x) != len(w):
        raise ShapeError(f"a convolution takes (N, C, ...) and (M, C, ...), got {operators._x(x)} and {operators._x(w)}")
    _check_kernel(n, w)
    steps, pads, dilations = _windows(n, axes, w[2:], x[2:])
    operands = (n.ref(0), n.ref(weight), n.result)
    shape, nest = operators.convolution(x, w, steps, pads, dilations, n.get("group", 1), operands)
    return shape, Cost("conv", (nest,), {"add": math.prod(shape)} if n.has(bias) else {})


@rule("Conv", "FusedConv")
def _conv(n: Node) -> Cost:
    shape, cost = convolve(n, n.shape(0), n.shape(1), 1, 2)
    if n.has(3):  # Z, added before the activation
        cost.ops["add"] = cost.ops.get("add", 0) + math.prod(shape)
    return _with_activation(n, cost, shape)


@rule("NhwcConv", "NhwcFusedConv")
def _nhwc_conv(n: Node) -> Cost:
    shape, cost = convolve(n, *channels_first(n), 1, 2)
    return _with_activation(n, cost, shape)


def channels_first(n: Node) -> tuple[Shape, Shape]:
    """Input and weight of a channels-last convolution, whose weight files keep either way round."""
    x, w = n.shape(0), n.shape(1)
    last = w[-1] * n.get("group", 1) == x[-1] and tuple(n.get("kernel_shape", w[1:-1])) == w[1:-1]
    return (x[0], x[-1], *x[1:-1]), (w[0], w[-1], *w[1:-1]) if last else w


def _with_activation(n: Node, cost: Cost, shape: Shape) -> Cost:
    name = str(n.get("activation", "")).lower()
    for kind, count in times(ACTIVATION_OPS.get(name, {}), math.prod(shape)).items():
        cost.ops[kind] = cost.ops.get(kind, 0) + count
    return cost


@rule("ConvInteger")
def _conv_integer(n: Node) -> Cost:
    return convolve(n, n.shape(0), n.shape(1), 1, 99)[1]


@rule("QLinearConv")
def _quantised_conv(n: Node) -> Cost:
    return convolve(n, n.shape(0), n.shape(3), 3, 8)[1]


@rule("DeformConv")
def _deformable_conv(n: Node) -> Cost:
    shape, cost = convolve(n, n.shape(0), n.shape(1), 1, 3)
    sampled = math.prod(shape[2:]) * math.prod(n.shape(1)[2:]) * math.prod(n.shape(0)[:2])  # bilinear, of four neighbours
    cost.ops = {"mul": 4 * sampled, "add": 3 * sampled + cost.ops.get("add", 0)}
    return cost


@rule("ConvTranspose")
def _transposed_conv(n: Node) -> Cost:
    x, w = n.shape(0), n.shape(1)
    axes, groups = len(w) - 2, n.get("group", 1)
    if axes < 1 or len(x) != len(w) or groups < 1 or x[1] != w[0] or w[0] % groups:
        raise ShapeError(f"a transposed convolution of {operators._x(x)} by {operators._x(w)} in {groups} groups does not fit")
    pads = tuple(n.get("pads", (0,) * 2 * axes))
    both = tuple(a if a == b else (a, b) for a, b in zip(pads[:axes], pads[axes:], strict=True))
    steps, dilations = tuple(n.get("strides", (1,) * axes)), tuple(n.get("dilations", (1,) * axes))
    operands = (n.ref(0), n.ref(1), n.result)
    nest = Loops(x[0], groups, w[1], w[0] // groups, x[2:], w[2:], steps, both, dilations, True, 1, operands)
    return Cost("conv", (nest,), {"add": math.prod(n.output())} if n.has(2) else {})


# ---- products -------------------------------------------------------------------------------------------------------


def product(n: Node, a: Shape, b: Shape, left: int = 0, right: int = 1, bias: bool = False) -> tuple[Shape, Cost]:
    """`operators.matmul` of two inputs; a linear layer if one of them is a constant."""
    shape, nest = operators.matmul(a, b, (n.ref(left), n.ref(right), n.result))
    linear = n.value(left).constant or n.value(right).constant
    return shape, Cost("linear" if linear else "matmul", (nest,), {"add": math.prod(shape)} if bias else {})


@rule("MatMul", "MatMulInteger")
def _matmul(n: Node) -> Cost:
    return product(n, n.shape(0), n.shape(1))[1]


@rule("QLinearMatMul")
def _quantised_matmul(n: Node) -> Cost:
    return product(n, n.shape(0), n.shape(3), 0, 3)[1]


@rule("Gemm", "FusedGemm")
def _gemm(n: Node) -> Cost:
    a, b = n.shape(0), n.shape(1)
    if len(a) != 2 or len(b) != 2:
        raise ShapeError(f"Gemm takes two matrices, got {operators._x(a)} and {operators._x(b)}")
    a, b = a[::-1] if n.get("transA", 0) else a, b[::-1] if n.get("transB", 0) else b
    return product(n, a, b, bias=n.has(2))[1]


@rule("Einsum")
def _einsum(n: Node) -> Cost:
    """Two factors at a time, from left to right: labels of both are batch or summed; without a sum it is no product."""
    equation = n.get("equation", "").replace(" ", "")
    left, arrow, out = equation.partition("->")
    terms, shapes = left.split(","), [n.shape(i) for i in range(len(n.inputs))]
    if len(terms) != len(shapes):
        raise ShapeError(f"equation {equation!r} has {len(terms)} terms for {len(shapes)} inputs")
    sizes: dict[str, int] = {}
    sets: list[set[str]] = []
    for term, shape in zip(terms, shapes, strict=True):
        dots = len(shape) - len(term.replace("...", ""))
        wild = [f".{dots - i}" for i in range(dots)]
        before, found, after = term.partition("...")
        labels = [*before, *(wild if found else ()), *after]
        if len(labels) != len(shape):
            raise ShapeError(f"equation {equation!r} does not fit an input {operators._x(shape)}")
        for label, size in zip(labels, shape, strict=True):
            if sizes.setdefault(label, size) not in (size, 1) and size != 1:
                raise ShapeError(f"equation {equation!r}: {label} is {sizes[label]} and {size}")
            sizes[label] = max(sizes[label], size) if size and sizes[label] else 0
        sets.append(set(labels))
    wanted = {x for x in sizes if x[0] == "."} | set(out.replace(".", ""))
    if not arrow:
        wanted = {x for x in sizes if x[0] == "." or left.count(x) == 1}

    def volume(labels: set[str]) -> int:
        return math.prod(sizes[x] for x in labels)

    nests: list[Loops] = []
    ops: dict[str, int] = {}
    now = sets[0]
    for place, other in enumerate(sets[1:], 1):
        later = wanted.union(*sets[place + 1 :])
        both, summed = now & other & later, (now & other) - later
        rows, columns = (now - other) & later, (other - now) & later
        if summed:
            operands = (n.ref(0) if place == 1 else "intermediate", n.ref(place), n.result)
            nests.append(Loops(volume(rows), volume(both), volume(columns), volume(summed), operands=operands))
        else:
            ops["mul"] = ops.get("mul", 0) + volume((now | other) & later)
        now = (now | other) & later
    if len(sets) == 1:
        ops["add"] = max(volume(now) - volume(now & wanted), 0)
    linear = any(v is not None and v.constant for v in n.inputs)
    return Cost(("linear" if linear else "matmul") if nests else "elementwise" if ops.get("mul") else "copy", tuple(nests), ops)


@rule("RNN", "LSTM", "GRU", "DynamicQuantizeLSTM")
def recurrent(n: Node) -> Cost:
    """The gate products of a step, for the input and for the state; as many steps as the sequence is long. W is
    (directions, gates · hidden, features), R (directions, gates · hidden, hidden); quantised ones are transposed."""
    x, w, r = n.shape(0), n.shape(1), n.shape(2)
    if len(x) != 3 or len(w) != 3 or len(r) != 3:
        raise ShapeError(f"{n.op} takes three axes each, got {operators._x(x)}, {operators._x(w)}, {operators._x(r)}")
    if n.op == "DynamicQuantizeLSTM":
        w, r = (w[0], w[2], w[1]), (r[0], r[2], r[1])
    steps, batch = x[:2] if n.get("layout", 0) == 0 else (x[1], x[0])
    gates = {"RNN": 1, "GRU": 3}.get(n.op, 4)
    if x[2] != w[2] or w[1] != r[1] or w[1] != gates * r[2]:
        raise ShapeError(f"{n.op} weights {operators._x(w)} and {operators._x(r)} do not fit the input {operators._x(x)}")
    nests = []
    for _ in range(w[0]):
        nests.append(Loops(N=batch, M=w[1], C=w[2], times=steps, operands=(n.ref(0), n.ref(1), "gates")))
        nests.append(Loops(N=batch, M=w[1], C=r[2], times=steps, operands=("state", n.ref(2), n.result)))
    cells = steps * batch * w[0] * r[2]
    sigmoids, tanhs, mul, add = {"RNN": (0, 1, 0, 0), "GRU": (2, 1, 3, 2)}.get(n.op, (3, 2, 3, 1))
    ops = {"mul": mul * cells, "add": (add + gates + (2 * gates if n.has(3) else 0)) * cells}
    for counts, often in ((ACTIVATION_OPS["sigmoid"], sigmoids), (ACTIVATION_OPS["tanh"], tanhs)):
        for kind, count in counts.items():
            ops[kind] = ops.get(kind, 0) + count * often * cells
    return Cost("linear", tuple(nests), ops)


def attend(n: Node, q: Shape, k: Shape, v: Shape, places: tuple[int, int, int] = (0, 1, 2), mask: bool = False) -> Cost:
    """Attention's two products and its softmax, dense, of (B, H, L, E), (B, H', S, E) and (B, H', S, F)."""
    if q[1] % max(k[1], 1) or k[1] != v[1]:
        raise ShapeError(f"{q[1]} query heads do not share {k[1]} key and {v[1]} value heads")
    _, nests = operators.attention(q, k, v, (n.ref(places[0]), n.ref(places[1]), n.ref(places[2]), n.result))
    rows = math.prod(q[:-1])
    ops = operators.softmax_ops(rows * k[-2], rows)
    ops["mul"] = math.prod(q)
    ops["add"] += rows * k[-2] if mask else 0
    return Cost("matmul", nests, ops)


@rule("Attention")
def _attention(n: Node) -> Cost:
    def heads(i: int, name: str) -> Shape:
        shape = n.shape(i)
        if len(shape) == 4:
            return shape
        number = n.get(name, 0)
        if len(shape) != 3 or number < 1 or shape[2] % number:
            raise ShapeError(f"attention takes (B, L, heads · size), got {operators._x(shape)} with {name} {number}")
        return (shape[0], number, shape[1], shape[2] // number)

    q, k, v = heads(0, "q_num_heads"), heads(1, "kv_num_heads"), heads(2, "kv_num_heads")
    past = n.shape(4)[2] if n.has(4) else 0
    return attend(n, q, (*k[:2], k[2] + past, k[3]), (*v[:2], v[2] + past, v[3]), mask=n.has(3))


@rule("LinearAttention")
def _linear_attention(n: Node) -> Cost:
    """A state (key size, value size) a head, to which a step adds key by value, and from which each query reads; the delta
    rules also read it with the key."""
    q, k, v = n.shape(0), n.shape(1), n.shape(2)
    heads, shared = n.get("q_num_heads", 0), n.get("kv_num_heads", 0)
    if min(heads, shared) < 1 or q[2] % heads or k[2] % shared or v[2] % shared:
        raise ShapeError(
            f"{operators._x(q)}, {operators._x(k)} and {operators._x(v)} do not part into {heads} and {shared} heads"
        )
    size, width, steps = k[2] // shared, v[2] // shared, q[1]
    written = Loops(N=size, G=q[0] * shared, M=width, C=1, times=steps, operands=(n.ref(1), n.ref(2), "state"))
    read = Loops(N=1, G=q[0] * heads, M=width, C=size, times=steps, operands=(n.ref(0), "state", n.result))
    nests = (written, read)
    if "delta" in n.get("update_rule", "gated_delta"):
        nests += (Loops(N=1, G=q[0] * shared, M=width, C=size, times=steps, operands=(n.ref(1), "state", "error")),)
    return Cost("matmul", nests)


@rule("CausalConvWithState")
def _causal_conv(n: Node) -> Cost:
    x, w = n.shape(0), n.shape(1)
    if len(x) != 3 or len(w) != 3 or w[:2] != (x[1], 1):
        raise ShapeError(f"a causal convolution of {operators._x(x)} by {operators._x(w)} does not fit")
    operands = (n.ref(0), n.ref(1), n.result)
    nest = Loops(x[0], x[1], 1, 1, x[2:], w[2:], (1,), ((w[2] - 1, 0),), (1,), operands=operands)
    return _with_activation(n, Cost("conv", (nest,), {"add": math.prod(x)} if n.has(2) else {}), x)


@rule("AffineGrid")
def _affine_grid(n: Node) -> Cost:
    theta, grid = n.shape(0), n.output()
    operands = ("grid", n.ref(0), n.result)
    nest = Loops(N=math.prod(grid[1:-1]), G=grid[0], M=theta[1], C=theta[2], operands=operands)
    return Cost("matmul", (nest,))
