"""What each ONNX operator costs: one small function of a node's shapes, or a row of a table.

An operator that stands in no table is listed as unknown by whoever asks.
"""

import math
from collections.abc import Callable
from dataclasses import dataclass, field

from lamina.cost import formulas
from lamina.cost.formulas import ACTIVATION_OPS, Shape, ShapeError, times
from lamina.cost.onnx_values import FLOATS, QUANTISED, Node
from lamina.workload import Kind, Loops, Part


@dataclass(slots=True)
class Cost:
    """What a rule says of a node."""

    kind: Kind
    loops: tuple[Loops, ...] = ()
    ops: dict[str, int] = field(default_factory=dict)


Rule = Callable[[Node], Cost]
RULES: dict[str, Rule] = {}


def rule(*ops: str) -> Callable[[Rule], Rule]:
    def register(function: Rule) -> Rule:
        RULES.update((op, function) for op in ops)
        return function

    return register


# ---- which inputs are parameters ------------------------------------------------------------------------------------

_QUANTISED_GEMM: dict[int, Part] = {0: "weight", 3: "weight", 6: "bias"}
_RECURRENT: dict[int, Part] = {1: "weight", 2: "weight", 3: "bias", 7: "weight"}
# A constant of whatever origin that feeds one of these inputs is a parameter.
WEIGHTS: dict[str, dict[int, Part]] = {
    **dict.fromkeys(("Conv", "ConvTranspose", "FusedConv", "NhwcConv", "NhwcFusedConv"), {1: "weight", 2: "bias"}),
    **dict.fromkeys(("Attention.com.microsoft", "QAttention"), {1: "weight", 2: "bias"}),
    **dict.fromkeys(("MatMul", "FusedMatMul", "TransposeMatMul", "Einsum", "MatMulInteger"), {0: "weight", 1: "weight"}),
    **dict.fromkeys(("Gemm", "FusedGemm"), {0: "weight", 1: "weight", 2: "bias"}),
    **dict.fromkeys(("RNN", "LSTM", "GRU"), _RECURRENT),
    **dict.fromkeys(("BatchNormalization", "InstanceNormalization", "LayerNormalization"), {1: "norm", 2: "norm"}),
    **dict.fromkeys(("GroupNormalization", "GroupNorm"), {1: "norm", 2: "norm"}),
    **dict.fromkeys(("RMSNormalization", "SimplifiedLayerNormalization"), {1: "norm"}),
    **dict.fromkeys(("BiasGelu", "FastGelu", "BiasSplitGelu", "BiasSoftmax"), {1: "bias"}),
    **dict.fromkeys(("PRelu", "ConvInteger"), {1: "weight"}),
    **dict.fromkeys(("Gather", "GatherBlockQuantized"), {0: "weight"}),
    "CausalConvWithState": {1: "weight", 2: "bias"},
    "DeformConv": {1: "weight", 3: "bias"},
    "QLinearConv": {3: "weight", 8: "bias"},
    "QLinearMatMul": {0: "weight", 3: "weight"},
    "QGemm": _QUANTISED_GEMM,
    "DynamicQuantizeMatMul": {1: "weight", 4: "bias"},
    "MatMulIntegerToFloat": {0: "weight", 1: "weight", 6: "bias"},
    "DynamicQuantizeLSTM": _RECURRENT,
    "MatMulNBits": {1: "weight", 5: "bias"},
    "MultiHeadAttention": {3: "bias"},
    "SkipLayerNormalization": {2: "norm", 3: "norm", 4: "bias"},
    "SkipSimplifiedLayerNormalization": {2: "norm", 3: "bias"},
    "EmbedLayerNormalization": {2: "weight", 3: "weight", 4: "weight", 5: "norm", 6: "norm"},
}
# An initializer of more than one element that feeds one of these beside an activation is a parameter too: a bias after a
# product, a position embedding, a class token. The constants of other operators (a mean to subtract, a mask) are not.
BESIDE = {"Add", "Mul", "Sum", "Concat", "QLinearAdd", "QLinearMul", "QLinearConcat"}


# ---- convolutions ---------------------------------------------------------------------------------------------------


def _windows(n: Node, axes: int, kernel: Shape, sizes: Shape) -> tuple[Shape, tuple[int | tuple[int, int], ...], Shape]:
    """Strides, padding and dilations of a node, with `auto_pad` resolved."""
    steps, dilations = tuple(n.get("strides", (1,) * axes)), tuple(n.get("dilations", (1,) * axes))
    pads = tuple(n.get("pads", (0,) * 2 * axes))
    if (len(steps), len(dilations), len(pads), len(sizes)) != (axes, axes, 2 * axes, axes):
        raise ShapeError(f"strides, dilations or pads do not fit {axes} spatial axes (input {formulas._x(n.shape(0))})")
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
        raise ShapeError(f"says kernel_shape {formulas._x(kernel)}, and its weight is {formulas._x(w)}")
    if n.get("group", 1) < 1 or w[0] % n.get("group", 1):
        raise ShapeError(f"{w[0]} filters do not part into {n.get('group', 1)} groups")


def convolve(n: Node, x: Shape, w: Shape, weight: int, bias: int) -> tuple[Shape, Cost]:
    """A convolution of (N, C, ...) with (M, C/groups, ...), whose inputs `weight` and `bias` are."""
    axes = len(w) - 2
    if axes < 1 or len(x) != len(w):
        raise ShapeError(f"a convolution takes (N, C, ...) and (M, C, ...), got {formulas._x(x)} and {formulas._x(w)}")
    _check_kernel(n, w)
    steps, pads, dilations = _windows(n, axes, w[2:], x[2:])
    operands = (n.ref(0), n.ref(weight), n.result)
    shape, nest = formulas.convolution(x, w, steps, pads, dilations, n.get("group", 1), operands)
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
        raise ShapeError(f"a transposed convolution of {formulas._x(x)} by {formulas._x(w)} in {groups} groups does not fit")
    pads = tuple(n.get("pads", (0,) * 2 * axes))
    both = tuple(a if a == b else (a, b) for a, b in zip(pads[:axes], pads[axes:], strict=True))
    steps, dilations = tuple(n.get("strides", (1,) * axes)), tuple(n.get("dilations", (1,) * axes))
    operands = (n.ref(0), n.ref(1), n.result)
    nest = Loops(x[0], groups, w[1], w[0] // groups, x[2:], w[2:], steps, both, dilations, True, 1, operands)
    return Cost("conv", (nest,), {"add": math.prod(n.output())} if n.has(2) else {})


# ---- products -------------------------------------------------------------------------------------------------------


def product(n: Node, a: Shape, b: Shape, left: int = 0, right: int = 1, bias: bool = False) -> tuple[Shape, Cost]:
    """`formulas.matmul` of two inputs; a linear layer if one of them is a constant."""
    shape, nest = formulas.matmul(a, b, (n.ref(left), n.ref(right), n.result))
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
        raise ShapeError(f"Gemm takes two matrices, got {formulas._x(a)} and {formulas._x(b)}")
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
            raise ShapeError(f"equation {equation!r} does not fit an input {formulas._x(shape)}")
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
        raise ShapeError(f"{n.op} takes three axes each, got {formulas._x(x)}, {formulas._x(w)}, {formulas._x(r)}")
    if n.op == "DynamicQuantizeLSTM":
        w, r = (w[0], w[2], w[1]), (r[0], r[2], r[1])
    steps, batch = x[:2] if n.get("layout", 0) == 0 else (x[1], x[0])
    gates = {"RNN": 1, "GRU": 3}.get(n.op, 4)
    if x[2] != w[2] or w[1] != r[1] or w[1] != gates * r[2]:
        raise ShapeError(f"{n.op} weights {formulas._x(w)} and {formulas._x(r)} do not fit the input {formulas._x(x)}")
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
    _, nests = formulas.attention(q, k, v, (n.ref(places[0]), n.ref(places[1]), n.ref(places[2]), n.result))
    rows = math.prod(q[:-1])
    ops = formulas.softmax_ops(rows * k[-2], rows)
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
            raise ShapeError(f"attention takes (B, L, heads · size), got {formulas._x(shape)} with {name} {number}")
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
        raise ShapeError(f"{formulas._x(q)}, {formulas._x(k)} and {formulas._x(v)} do not part into {heads} and {shared} heads")
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
        raise ShapeError(f"a causal convolution of {formulas._x(x)} by {formulas._x(w)} does not fit")
    operands = (n.ref(0), n.ref(1), n.result)
    nest = Loops(x[0], x[1], 1, 1, x[2:], w[2:], (1,), ((w[2] - 1, 0),), (1,), operands=operands)
    return _with_activation(n, Cost("conv", (nest,), {"add": math.prod(x)} if n.has(2) else {}), x)


@rule("AffineGrid")
def _affine_grid(n: Node) -> Cost:
    theta, grid = n.shape(0), n.output()
    operands = ("grid", n.ref(0), n.result)
    nest = Loops(N=math.prod(grid[1:-1]), G=grid[0], M=theta[1], C=theta[2], operands=operands)
    return Cost("matmul", (nest,))


# ---- norms, activations, pools --------------------------------------------------------------------------------------


@rule("BatchNormalization")
def _batch_norm(n: Node) -> Cost:
    shape = n.shape(0)
    channels = n.shape(1)[0]
    if len(shape) > 1 and shape[1] != channels:
        raise ShapeError(f"expects {channels} channels, got {shape[1]}")
    return Cost("norm", (), formulas.normalisation_ops(math.prod(shape), channels, bool(n.get("training_mode", 0)), True))


def norm(n: Node, rows: int, affine: bool = True) -> Cost:
    return Cost("norm", (), formulas.normalisation_ops(math.prod(n.shape(0)), rows, True, affine))


@rule("LayerNormalization")
def _layer_norm(n: Node) -> Cost:
    shape = n.shape(0)
    axis = n.get("axis", -1) % max(1, len(shape))
    fits = n.shape(1)
    if formulas.broadcast(fits, shape[axis:]) != shape[axis:]:
        raise ShapeError(f"layer norm over {formulas._x(fits)} does not fit the input {formulas._x(shape)}")
    return norm(n, math.prod(shape[:axis]))


@rule("RMSNormalization", "SimplifiedLayerNormalization")
def _rms_norm(n: Node) -> Cost:
    """x / sqrt(mean of squares + eps), then the scale."""
    shape = n.shape(0)
    rows, elements = math.prod(shape[: n.get("axis", -1) % max(1, len(shape))]), math.prod(shape)
    return Cost("norm", (), {"mul": 3 * elements, "add": elements, "sqrt": rows, "div": 2 * rows})


RULES["InstanceNormalization"] = lambda n: norm(n, math.prod(n.shape(0)[:2]))
RULES["GroupNormalization"] = lambda n: norm(n, n.shape(0)[0] * n.get("num_groups", 1))
RULES["MeanVarianceNormalization"] = lambda n: norm(n, n.shape(0)[1] if len(n.shape(0)) > 1 else 1, False)
RULES["LRN"] = lambda n: Cost("norm", (), formulas.response_norm_ops(math.prod(n.shape(0)), n.get("size", 1)))


@rule("LpNormalization")
def _lp_norm(n: Node) -> Cost:
    shape = n.shape(0)
    elements, rows = math.prod(shape), math.prod(shape) // max(1, shape[n.get("axis", -1)] if shape else 1)
    return Cost("norm", (), {"mul": elements, "add": elements - rows, "sqrt": rows, "div": elements})


ACTIVATIONS: dict[str, dict[str, int]] = {
    "Relu": ACTIVATION_OPS["relu"], "LeakyRelu": ACTIVATION_OPS["leaky_relu"], "PRelu": ACTIVATION_OPS["leaky_relu"],
    "Sigmoid": ACTIVATION_OPS["sigmoid"], "Tanh": ACTIVATION_OPS["tanh"], "Elu": ACTIVATION_OPS["elu"],
    "Celu": ACTIVATION_OPS["elu"], "Selu": ACTIVATION_OPS["elu"], "Softplus": ACTIVATION_OPS["softplus"],
    "HardSigmoid": ACTIVATION_OPS["hardsigmoid"], "HardSwish": ACTIVATION_OPS["hardswish"], "Gelu": ACTIVATION_OPS["gelu"],
    "Swish": ACTIVATION_OPS["silu"], "QuickGelu": ACTIVATION_OPS["silu"], "Softsign": {"add": 1, "compare": 1, "div": 1},
    "Mish": {"exp": 3, "add": 3, "div": 1, "mul": 1}, "ThresholdedRelu": {"compare": 1}, "Shrink": {"compare": 2, "add": 1},
    "BiasGelu": {**ACTIVATION_OPS["gelu"], "add": 3}, "FastGelu": {"exp": 1, "add": 3, "div": 1, "mul": 4},
    "SwiGLU": {"exp": 1, "add": 1, "div": 1, "mul": 2},
    "QLinearSigmoid": ACTIVATION_OPS["sigmoid"], "QLinearLeakyRelu": ACTIVATION_OPS["leaky_relu"],
}  # fmt: skip


@rule("Softmax", "LogSoftmax", "Hardmax", "QLinearSoftmax", "BiasSoftmax", "SoftmaxCrossEntropyLoss")
def _softmax(n: Node) -> Cost:
    """Up to opset 12 all axes from `axis` on are one; from 13 on it is the one axis."""
    shape, opset = n.shape(0), n.opset if n.domain == "" else 13
    elements = math.prod(shape)
    loss = n.op == "SoftmaxCrossEntropyLoss"
    axis = 1 if loss else n.get("axis", 1 if opset < 13 else -1)
    if shape and not -len(shape) <= axis < len(shape):
        raise ShapeError(f"has no axis {axis} (input {formulas._x(shape)})")
    length = math.prod(shape[axis:]) if opset < 13 and not loss else shape[axis] if shape else 1
    if n.op == "Hardmax":
        return Cost("softmax", (), {"compare": elements})
    return Cost("softmax", (), formulas.softmax_ops(elements, elements // max(1, length)))


@rule("MaxPool", "AveragePool", "LpPool", "QLinearAveragePool", "NhwcMaxPool")
def _pool(n: Node) -> Cost:
    elements, window = math.prod(n.output()), math.prod(n.get("kernel_shape", ()))
    extra = elements * max(window - 1, 0)
    ops = {"compare": extra} if "Max" in n.op else {"add": extra, "div": elements}
    if n.op == "LpPool":
        ops = {"mul": elements * window, "add": extra, "exp": elements}
    return Cost("pool", (), ops)


@rule("GlobalMaxPool", "GlobalAveragePool", "GlobalLpPool", "QLinearGlobalAveragePool")
def _global_pool(n: Node) -> Cost:
    reads, elements = math.prod(n.shape(0)), math.prod(n.output())
    if "Max" in n.op:
        return Cost("pool", (), {"compare": reads - elements})
    ops = {"mul": reads, "exp": elements} if "Lp" in n.op else {"div": elements}
    return Cost("pool", (), {"add": reads - elements, **ops})


RULES["MaxUnpool"] = lambda n: Cost("pool")

# ---- everything else ------------------------------------------------------------------------------------------------

# The arithmetic of one output element.
ELEMENTWISE: dict[str, dict[str, int]] = {
    **dict.fromkeys(("Add", "Sub", "Neg", "Abs", "Round", "Floor", "Ceil", "Sign", "QLinearAdd", "NegativeLogLikelihoodLoss"),
                    {"add": 1}),
    **dict.fromkeys(("Mul", "QLinearMul"), {"mul": 1}),
    **dict.fromkeys(("Div", "Reciprocal", "Mod"), {"div": 1}),
    **dict.fromkeys(
        ("Exp", "Log", "Pow", "Erf", "Sin", "Cos", "Tan", "Asin", "Acos", "Atan", "Sinh", "Cosh", "Asinh", "Acosh", "Atanh",
         "HannWindow", "HammingWindow", "BlackmanWindow"),
        {"exp": 1},
    ),
    "Sqrt": {"sqrt": 1},
    **dict.fromkeys(
        ("Clip", "Where", "Equal", "Greater", "GreaterOrEqual", "Less", "LessOrEqual", "And", "Or", "Xor", "Not", "IsNaN",
         "IsInf", "BitwiseAnd", "BitwiseOr", "BitwiseXor", "BitwiseNot", "BitShift", "Trilu", "Bernoulli", "QLinearWhere"),
        {"compare": 1},
    ),
    "QuantizeLinear": {"div": 1, "add": 2, "compare": 2},  # scale, round, shift, saturate
    "DequantizeLinear": {"add": 1, "mul": 1},
}  # fmt: skip
# The arithmetic of one input element.
REDUCTIONS: dict[str, dict[str, int]] = {
    **dict.fromkeys(("ReduceSum", "ReduceMean", "ReduceL1", "ReduceLogSum", "CumSum", "QLinearReduceMean"), {"add": 1}),
    **dict.fromkeys(("ReduceProd", "CumProd"), {"mul": 1}),
    **dict.fromkeys(("ReduceL2", "ReduceSumSquare"), {"add": 1, "mul": 1}),
    "ReduceLogSumExp": {"exp": 1, "add": 1},
    **dict.fromkeys(("ReduceMax", "ReduceMin", "ArgMax", "ArgMin", "TopK"), {"compare": 1}),
    "DynamicQuantizeLinear": {"compare": 4, "div": 1, "add": 2},  # the range, then as QuantizeLinear
}
VIEWS = {"Reshape", "Squeeze", "Unsqueeze", "Flatten", "Identity", "Shape", "Size", "BitCast"}
COPIES = {
    "Cast", "CastLike", "CenterCropPad", "Col2Im", "Compress", "Concat", "Constant", "ConstantOfShape", "DepthToSpace",
    "Expand", "EyeLike", "Gather", "GatherElements", "GatherND", "NonZero", "OneHot", "Pad", "QLinearConcat", "RandomNormal",
    "RandomNormalLike", "RandomUniform", "RandomUniformLike", "Range", "ReverseSequence", "Scatter", "ScatterElements",
    "ScatterND", "Slice", "SpaceToDepth", "Split", "TensorScatter", "Tile", "Transpose",
    "SequenceConstruct", "SequenceEmpty", "SequenceInsert", "SequenceErase", "SequenceAt", "SequenceLength",
    "SplitToSequence", "ConcatFromSequence", "Optional", "OptionalGetElement", "OptionalHasElement",
}  # fmt: skip
RANDOM = {"RandomNormal", "RandomNormalLike", "RandomUniform", "RandomUniformLike", "Bernoulli", "Multinomial"}


@rule("Reshape")
def _reshape(n: Node) -> Cost:
    before, after = n.shape(0), n.output()
    if math.prod(before) != math.prod(after):
        raise ShapeError(f"cannot make {formulas._x(after)} of {formulas._x(before)}")
    return Cost("view")


@rule("Gather", "GatherBlockQuantized")
def _gather(n: Node) -> Cost:
    """Rows of a table of parameters are an embedding, all else is a copy."""
    table = n.value(0)
    numbers = table.constant and bool(table.sources) and (table.dtype in FLOATS or table.dtype in QUANTISED)
    return Cost("embedding" if numbers and len(table.shape or ()) > 1 and n.get("axis", 0) == 0 else "copy")


@rule("Dropout")
def _dropout(n: Node) -> Cost:
    training = n.data(2)
    if training is None or not training.any():
        return Cost("view")
    return Cost("elementwise", (), {"mul": math.prod(n.shape(0)), "compare": math.prod(n.shape(0))})


@rule("Max", "Min", "Sum", "Mean")
def _variadic(n: Node) -> Cost:
    elements = math.prod(n.output())
    ops = {"compare" if n.op in ("Max", "Min") else "add": (len(n.inputs) - 1) * elements}
    return Cost("elementwise", (), ops | ({"div": elements} if n.op == "Mean" else {}))


@rule("Resize", "Upsample", "GridSample")
def _interpolate(n: Node) -> Cost:
    """Nearest neighbours are copied; linear takes 2 an axis, cubic 4, along the axes that change their size."""
    x, out = n.shape(0), n.output()
    mode = str(n.get("mode", "nearest" if n.op != "GridSample" else "linear"))
    if mode == "nearest":
        return Cost("copy")
    axes = len(x) - 2 if n.op == "GridSample" else sum(a != b for a, b in zip(x, out, strict=True))
    points, elements = (4 if "cubic" in mode else 2) ** axes, math.prod(out)
    return Cost("elementwise", (), {"mul": points * elements, "add": (points - 1) * elements})


@rule("RotaryEmbedding")
def _rotary(n: Node) -> Cost:
    elements = math.prod(n.shape(0))
    return Cost("elementwise", (), {"mul": 2 * elements, "add": elements})


def cost(n: Node) -> Cost | None:
    """What the node costs; None if its operator is unknown."""
    found = RULES.get(f"{n.op}.{n.domain}") or RULES.get(n.op)
    if found is not None:
        return found(n)
    if n.op in VIEWS:
        return Cost("view")
    if n.op in COPIES:
        return Cost("copy")
    if n.op in ACTIVATIONS:
        return Cost("activation", (), times(ACTIVATIONS[n.op], math.prod(n.output())))
    if n.op in ELEMENTWISE:
        return Cost("elementwise", (), times(ELEMENTWISE[n.op], math.prod(n.output())))
    if n.op in REDUCTIONS:
        ops = times(REDUCTIONS[n.op], math.prod(n.shape(0)))
        extra = {"ReduceMean": "div", "QLinearReduceMean": "div", "ReduceL2": "sqrt", "ReduceLogSum": "exp"}.get(n.op)
        return Cost("elementwise", (), ops | ({extra: math.prod(n.output())} if extra else {}))
    return None


def weight_inputs(n: Node) -> dict[int, Part]:
    return WEIGHTS.get(f"{n.op}.{n.domain}") or ({} if n.op == "Attention" else WEIGHTS.get(n.op, {}))
