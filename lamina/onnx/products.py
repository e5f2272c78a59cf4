"""ONNX operators that multiply and accumulate: convolutions, products, recurrences and attention, as loop nests."""

import math

from lamina import operators
from lamina.onnx.costs import Cost, rule
from lamina.onnx.values import Node
from lamina.operators import ACTIVATIONS, Padding, Shape, ShapeError, shape_text

# ---- convolutions ---------------------------------------------------------------------------------------------------


def _windows(n: Node, axes: int, kernel: Shape, sizes: Shape) -> tuple[Shape, Padding, Shape]:
    """Strides, padding and dilations of a node, with `auto_pad` resolved."""
    steps, dilations = tuple(n.get("strides", (1,) * axes)), tuple(n.get("dilations", (1,) * axes))
    pads = tuple(n.get("pads", (0,) * 2 * axes))
    if (len(steps), len(dilations), len(pads), len(sizes)) != (axes, axes, 2 * axes, axes):
        raise ShapeError(f"strides, dilations or pads do not fit {axes} spatial axes (input {shape_text(n.shape(0))})")
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
        raise ShapeError(f"says kernel_shape {shape_text(kernel)}, and its weight is {shape_text(w)}")
    if n.get("group", 1) < 1 or w[0] % n.get("group", 1):
        raise ShapeError(f"{w[0]} filters are not divisible into {n.get('group', 1)} groups")


def convolve(n: Node, x: Shape, w: Shape, weight: int, bias: int) -> tuple[Shape, Cost]:
    """A convolution of (N, C, ...) with (M, C/groups, ...), whose inputs `weight` and `bias` are."""
    axes = len(w) - 2
    if axes < 1 or len(x) != len(w):
        raise ShapeError(f"a convolution takes (N, C, ...) and (M, C, ...), got {shape_text(x)} and {shape_text(w)}")
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
    if name in ACTIVATIONS:
        cost.ops = operators.sum_of(cost.ops, operators.activation_ops(name, math.prod(shape)))
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
    cost.ops = operators.sum_of(cost.ops, operators.interpolation_ops(sampled, 4))
    return cost


@rule("ConvTranspose")
def _transposed_conv(n: Node) -> Cost:
    x, w = n.shape(0), n.shape(1)
    axes = len(w) - 2
    if axes < 1 or len(x) != len(w) or n.get("group", 1) < 1:
        raise ShapeError(f"a transposed convolution of {shape_text(x)} by {shape_text(w)} does not fit")
    pads = tuple(n.get("pads", (0,) * 2 * axes))
    both = tuple(a if a == b else (a, b) for a, b in zip(pads[:axes], pads[axes:], strict=True))
    steps, dilations = tuple(n.get("strides", (1,) * axes)), tuple(n.get("dilations", (1,) * axes))
    operands = (n.ref(0), n.ref(1), n.result)
    nest = operators.transposed_nest(x, w, steps, both, dilations, n.get("group", 1), operands)
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
        raise ShapeError(f"Gemm takes two matrices, got {shape_text(a)} and {shape_text(b)}")
    a, b = a[::-1] if n.get("transA", 0) else a, b[::-1] if n.get("transB", 0) else b
    return product(n, a, b, bias=n.has(2))[1]


@rule("Einsum")
def _einsum(n: Node) -> Cost:
    places = range(len(n.inputs))
    names = tuple(n.ref(i) for i in places)
    nests, ops = operators.einsum(n.get("equation", ""), [n.shape(i) for i in places], names, n.result)
    linear = any(v is not None and v.constant for v in n.inputs)
    return Cost(("linear" if linear else "matmul") if nests else "elementwise" if ops.get("mul") else "copy", nests, ops)


@rule("RNN", "LSTM", "GRU", "DynamicQuantizeLSTM")
def _recurrent(n: Node) -> Cost:
    """x (steps, batch, features). W is (directions, gates · hidden, features), R (directions, gates · hidden, hidden);
    quantised ones are transposed."""
    x, w, r = n.shape(0), n.shape(1), n.shape(2)
    if len(x) != 3 or len(w) != 3 or len(r) != 3:
        raise ShapeError(f"{n.op} takes three axes each, got {shape_text(x)}, {shape_text(w)}, {shape_text(r)}")
    if n.op == "DynamicQuantizeLSTM":
        w, r = (w[0], w[2], w[1]), (r[0], r[2], r[1])
    steps, batch = x[:2] if n.get("layout", 0) == 0 else (x[1], x[0])
    functions = [str(f).lower() for f in n.get("activations", ())]
    cell = {"RNN": "rnn_relu" if functions[:1] == ["relu"] else "rnn_tanh", "GRU": "gru"}.get(n.op, "lstm")
    gates, hidden = operators.GATES[cell], r[2]
    if x[2] != w[2] or w[1] != r[1] or w[1] != gates * hidden:
        raise ShapeError(f"{n.op} weights {shape_text(w)} and {shape_text(r)} do not fit the input {shape_text(x)}")
    nests = operators.recurrent([(steps, batch)], gates, x[2], hidden, 0, (n.ref(0), n.ref(1), n.ref(2)))
    ops = operators.recurrent_ops(cell, steps * batch * w[0] * hidden, n.has(3), n.op == "LSTM" and n.has(7))
    return Cost("linear", nests * w[0], ops)


def attend(n: Node, q: Shape, k: Shape, v: Shape, places: tuple[int, int, int] = (0, 1, 2), mask: bool = False) -> Cost:
    """Attention's two products and its softmax, dense, of (B, H, L, E), (B, H', S, E) and (B, H', S, F)."""
    if q[1] % max(k[1], 1) or k[1] != v[1]:
        raise ShapeError(f"{q[1]} query heads do not share {k[1]} key and {v[1]} value heads")
    _, nests = operators.attention(q, k, v, (n.ref(places[0]), n.ref(places[1]), n.ref(places[2]), n.result))
    return Cost("matmul", nests, operators.attention_ops(q, k[-2], mask))


@rule("Attention")
def _attention(n: Node) -> Cost:
    def heads(i: int, name: str) -> Shape:
        shape = n.shape(i)
        if len(shape) == 4:
            return shape
        number = n.get(name, 0)
        if len(shape) != 3 or number < 1 or shape[2] % number:
            raise ShapeError(f"attention takes (B, L, heads · size), got {shape_text(shape)} with {name} {number}")
        return (shape[0], number, shape[1], shape[2] // number)

    q, k, v = heads(0, "q_num_heads"), heads(1, "kv_num_heads"), heads(2, "kv_num_heads")
    past = n.shape(4)[2] if n.has(4) else 0
    return attend(n, q, (*k[:2], k[2] + past, k[3]), (*v[:2], v[2] + past, v[3]), mask=n.has(3))


@rule("LinearAttention")
def _linear_attention(n: Node) -> Cost:
    heads, shared = n.get("q_num_heads", 0), n.get("kv_num_heads", 0)
    delta = "delta" in n.get("update_rule", "gated_delta")
    operands = (n.ref(0), n.ref(1), n.ref(2), n.result)
    return Cost("matmul", operators.linear_attention(n.shape(0), n.shape(1), n.shape(2), heads, shared, delta, operands))


@rule("CausalConvWithState")
def _causal_conv(n: Node) -> Cost:
    x = n.shape(0)
    nest = operators.causal_convolution(x, n.shape(1), (n.ref(0), n.ref(1), n.result))
    return _with_activation(n, Cost("conv", (nest,), {"add": math.prod(x)} if n.has(2) else {}), x)
