"""ONNX Runtime's own operators (com.microsoft): the shapes of their outputs, which the standard does not know, and their
costs. The source of both is ONNX Runtime's docs/ContribOperators.md."""

import math
from collections.abc import Callable

from lamina import operators
from lamina.onnx.costs import Cost, norm, rule
from lamina.onnx.products import attend, channels_first, convolve, product
from lamina.onnx.values import Node, packed_bits
from lamina.operators import Shape, ShapeError, shape_text
from lamina.workload import Loops

Outputs = list[tuple[Shape | None, str]]
SHAPES: dict[str, Callable[[Node], Outputs]] = {}


def shapes(*ops: str) -> Callable[[Callable[[Node], Outputs]], Callable[[Node], Outputs]]:
    def register(function: Callable[[Node], Outputs]) -> Callable[[Node], Outputs]:
        SHAPES.update((op, function) for op in ops)
        return function

    return register


# ---- elementwise, norms, pools --------------------------------------------------------------------------------------


@shapes("BiasGelu", "FastGelu", "QuickGelu", "Gelu", "BiasSoftmax", "QLinearSigmoid", "QLinearLeakyRelu", "QLinearSoftmax",
        "RotaryEmbedding", "GroupNorm")  # fmt: skip
def _same(n: Node) -> Outputs:
    return [(n.shape(0), n.value(0).dtype)]


@shapes("QLinearAdd", "QLinearMul")
def _quantised_binary(n: Node) -> Outputs:
    return [(operators.broadcast(n.shape(0), n.shape(3)), n.value(0).dtype)]


@shapes("QuantizeLinear")
def _quantise(n: Node) -> Outputs:
    return [(n.shape(0), n.value(2).dtype if n.has(2) else "uint8")]


@shapes("DequantizeLinear")
def _dequantise(n: Node) -> Outputs:
    return [(n.shape(0), n.value(1).dtype)]


@shapes("QLinearConcat")
def _quantised_concat(n: Node) -> Outputs:
    """Scale and shift of the output, then three inputs per part."""
    parts = [n.shape(i) for i in range(2, len(n.inputs), 3)]
    axis = n.get("axis", 0) % len(parts[0])
    if len({(*s[:axis], *s[axis + 1 :]) for s in parts}) > 1:
        raise ShapeError(f"cannot concatenate {' and '.join(map(shape_text, parts))} along axis {axis}")
    return [((*parts[0][:axis], sum(s[axis] for s in parts), *parts[0][axis + 1 :]), n.value(2).dtype)]


@shapes("QLinearAveragePool", "NhwcMaxPool")
def _pool(n: Node) -> Outputs:
    shape, kernel = n.shape(0), tuple(n.get("kernel_shape", ()))
    last = n.op == "NhwcMaxPool" or bool(n.get("channels_last", 0))
    axes = len(kernel)
    pads = tuple(n.get("pads", (0,) * 2 * axes))
    pairs = tuple(zip(pads[:axes], pads[axes:], strict=True))
    steps, dilations = tuple(n.get("strides", (1,) * axes)), tuple(n.get("dilations", (1,) * axes))
    first = (shape[0], shape[-1], *shape[1:-1]) if last else shape
    out = operators.pooling(first, kernel, steps, pairs, dilations, bool(n.get("ceil_mode", 0)))  # type: ignore[arg-type]
    return [((out[0], *out[2:], out[1]) if last else out, n.value(0).dtype)]


@shapes("QLinearGlobalAveragePool")
def _global_pool(n: Node) -> Outputs:
    shape = n.shape(0)
    ones = (1,) * (len(shape) - 2)
    return [((shape[0], *ones, shape[-1]) if n.get("channels_last", 0) else (*shape[:2], *ones), n.value(0).dtype)]


@shapes("SimplifiedLayerNormalization")
def _rms(n: Node) -> Outputs:
    shape = n.shape(0)
    axis = n.get("axis", -1) % len(shape)
    return [(shape, n.value(0).dtype), ((*shape[:axis], *(1,) * (len(shape) - axis)), "float32")]


@shapes("SkipLayerNormalization", "SkipSimplifiedLayerNormalization")
def _skip_shapes(n: Node) -> Outputs:
    """The output, mean and 1/deviation (for training), and the sum before the norm."""
    shape, dtype = n.shape(0), n.value(0).dtype
    if operators.broadcast(shape, n.shape(1)) != shape:
        raise ShapeError(f"cannot add {shape_text(n.shape(1))} to {shape_text(shape)}")
    rows = (*shape[:-1], 1)
    return [(shape, dtype), (rows, "float32"), (rows, "float32"), (shape, dtype)]


@rule("SkipLayerNormalization", "SkipSimplifiedLayerNormalization")
def _skip_norm(n: Node) -> Cost:
    shape = n.shape(0)
    elements, rows = math.prod(shape), math.prod(shape[:-1])
    simplified = n.op.startswith("SkipSimplified")
    cost = norm(n, rows, shift=not simplified and n.has(3), centred=not simplified)
    sums = 2 if n.has(3 if simplified else 4) else 1
    cost.ops = operators.sum_of(cost.ops, {"add": sums * elements})
    return cost


@rule("GroupNorm")
def _group_norm(n: Node) -> Cost:
    return norm(n, n.shape(0)[0] * n.get("groups", 1))


@shapes("EmbedLayerNormalization")
def _embed_shapes(n: Node) -> Outputs:
    """Token ids (batch, length); tables of words, positions and, where there are any, segments."""
    out = (*n.shape(0), n.shape(2)[-1])
    dtype = n.value(2).dtype
    return [(out, dtype), (n.shape(0)[:1], "int32"), (out, dtype)]


@rule("EmbedLayerNormalization")
def _embed(n: Node) -> Cost:
    rows, width = math.prod(n.shape(0)), n.shape(2)[-1]
    sums = {"add": rows * width * (2 if n.has(4) else 1)}
    return Cost("norm", (), operators.sum_of(operators.normalisation_ops(rows * width, rows), sums))


# ---- convolutions and products --------------------------------------------------------------------------------------


@shapes("FusedConv")
def _conv_shapes(n: Node) -> Outputs:
    return [(convolve(n, n.shape(0), n.shape(1), 1, 2)[0], n.value(0).dtype)]


@shapes("NhwcConv", "NhwcFusedConv")
def _nhwc_shapes(n: Node) -> Outputs:
    shape, _ = convolve(n, *channels_first(n), 1, 2)
    return [((shape[0], *shape[2:], shape[1]), n.value(0).dtype)]


@shapes("FusedGemm")
def _gemm_shapes(n: Node) -> Outputs:
    a, b = n.shape(0), n.shape(1)
    return [((a[-1] if n.get("transA", 0) else a[0], b[0] if n.get("transB", 0) else b[-1]), n.value(0).dtype)]


def _turned(n: Node, i: int, letter: str) -> Shape:
    shape = n.shape(i)
    if n.get(f"transBatch{letter}", 0) and len(shape) > 2:
        shape = (*shape[1:-1], shape[0], shape[-1])
    return (*shape[:-2], shape[-1], shape[-2]) if n.get(f"trans{letter}", 0) and len(shape) > 1 else shape


def _fused_matmul(n: Node) -> tuple[Shape, Cost]:
    return product(n, _turned(n, 0, "A"), _turned(n, 1, "B"))


def _quantised_gemm(n: Node) -> tuple[Shape, Cost]:
    a, b = n.shape(0), n.shape(3)
    return product(n, a[::-1] if n.get("transA", 0) else a, b[::-1] if n.get("transB", 0) else b, 0, 3, n.has(6))


def _packed_matmul(n: Node) -> tuple[Shape, Cost]:
    """The weight is packed: its size is in the attributes K and N."""
    shape, nest = operators.linear(n.shape(0), (n.get("N", 0), n.get("K", 0)), (n.ref(0), n.ref(1), n.result))
    ops = {"add": math.prod(shape) if n.has(5) else 0, "mul": n.get("N", 0) * n.get("K", 0)}  # weights are scaled back
    return shape, Cost("linear", (nest,), ops)


PRODUCTS: dict[str, tuple[Callable[[Node], tuple[Shape, Cost]], Callable[[Node], str]]] = {
    "FusedMatMul": (_fused_matmul, lambda n: n.value(0).dtype),
    "TransposeMatMul": (_fused_matmul, lambda n: n.value(0).dtype),
    "QGemm": (_quantised_gemm, lambda n: n.value(0).dtype if n.has(7) else "float32"),
    "DynamicQuantizeMatMul": (lambda n: product(n, n.shape(0), n.shape(1), bias=n.has(4)), lambda n: "float32"),
    "MatMulIntegerToFloat": (lambda n: product(n, n.shape(0), n.shape(1), bias=n.has(6)), lambda n: n.value(2).dtype),
    "MatMulNBits": (_packed_matmul, lambda n: n.value(0).dtype),
}
for _op, (_function, _dtype) in PRODUCTS.items():
    SHAPES[_op] = lambda n, f=_function, d=_dtype: [(f(n)[0], d(n))]
    rule(_op)(lambda n, f=_function: f(n)[1])


@shapes("GatherBlockQuantized")
def _gather_shapes(n: Node) -> Outputs:
    data, axis = n.shape(0), n.get("gather_axis", 0) % len(n.shape(0))
    packed = 8 // max(packed_bits(n), 1) if n.value(0).dtype == "uint8" else 1
    whole = (*data[:-1], data[-1] * packed)
    return [((*whole[:axis], *n.shape(1), *whole[axis + 1 :]), n.value(2).dtype)]


@shapes("DynamicQuantizeLSTM")
def _lstm_shapes(n: Node) -> Outputs:
    steps, batch, _ = n.shape(0)
    directions, hidden, _ = n.shape(2)
    state = ((directions, batch, hidden), "float32")
    return [((steps, directions, batch, hidden), "float32"), state, state]


# ---- mixtures of experts --------------------------------------------------------------------------------------------


@shapes("MoE", "QMoE")
def _experts_shapes(n: Node) -> Outputs:
    return [(n.shape(0), n.value(0).dtype)]


@rule("MoE", "QMoE")
def _experts(n: Node) -> Cost:
    """Each token goes to k of the experts, whose weights are (experts, first, width), (experts, width, inner) and, where the
    gate has its own, (experts, inner, width); quantised ones are packed along the last axis."""
    places = (2, 5, 8) if n.op == "QMoE" else (2, 4, 6)
    packed = 8 // max(packed_bits(n), 1) if n.op == "QMoE" else 1
    shape, number, k = n.shape(0), n.shape(1)[-1], n.get("k", 1)
    sizes = [(*n.shape(i)[:-1], n.shape(i)[-1] * packed) for i in places if n.has(i)]
    width, tokens = shape[-1], math.prod(shape[:-1])
    _, first, features = sizes[0]
    _, back, inner = sizes[1]
    if features != width or back != width or first not in (inner, 2 * inner) or any(s[0] != number for s in sizes):
        raise ShapeError(f"experts of {' and '.join(map(shape_text, sizes))} do not fit the input {shape_text(shape)}")
    rows = tokens * k
    names = [n.ref(i) if n.has(i) else "none" for i in places]
    nests = operators.experts(rows, width, first, inner, n.has(places[2]), (n.ref(0), *names, n.result))
    name = str(n.get("activation_type", "relu")).lower()
    biases = sum(rows * m for i, m in zip(places, (first, width, inner), strict=True) if n.has(i + (2 if packed > 1 else 1)))
    ops = operators.sum_of(
        operators.routing_ops(tokens, number),
        operators.activation_ops(name, rows * inner) if name in operators.ACTIVATIONS else {},
        {"mul": rows * width, "add": (rows - tokens) * width + biases},  # what the experts say, weighted
    )
    return Cost("linear", nests, ops, {"k": k, "of": number})


# ---- attention ------------------------------------------------------------------------------------------------------


def _heads(n: Node, width: int, name: str = "num_heads") -> tuple[int, int]:
    """How many heads, and the size of each."""
    number = n.get(name, 0)
    if number < 1 or width % number:
        raise ShapeError(f"{width} channels are not divisible into {number} heads")
    return number, width // number


def _projected(n: Node) -> tuple[Shape, Shape, Shape, int]:
    """Query, key and value of attention with its projections, by heads, and the width of the projection. The input is
    (B, L, C), the weight (C, query + key + value)."""
    x, w = n.shape(0), n.shape(1)
    if len(x) != 3 or len(w) != 2 or x[2] != w[0]:
        raise ShapeError(f"{n.op} takes (B, L, C) and (C, projections), got {shape_text(x)} and {shape_text(w)}")
    widths = n.get("qkv_hidden_sizes", None) or (w[1] // 3,) * 3
    if sum(widths) != w[1]:
        raise ShapeError(f"projections of {widths} do not add up to the weight's {w[1]}")
    place = 8 if n.op == "QAttention" else 4
    past = n.shape(place)[-2] if n.has(place) else 0
    (heads, size), (_, value) = _heads(n, widths[0]), _heads(n, widths[2])
    length = x[1] + past
    return (x[0], heads, x[1], size), (x[0], heads, length, size), (x[0], heads, length, value), w[1]


@shapes("Attention", "QAttention")
def _projected_shapes(n: Node) -> Outputs:
    q, k, v, _ = _projected(n)
    dtype = n.value(3).dtype if n.op == "QAttention" else n.value(0).dtype
    return [((q[0], q[2], q[1] * v[3]), dtype), ((2, *k), dtype)]


@rule("Attention.com.microsoft", "QAttention")
def _projected_attention(n: Node) -> Cost:
    q, k, v, width = _projected(n)
    x = n.shape(0)
    rows = x[0] * x[1]
    project = Loops(N=rows, M=width, C=x[2], operands=(n.ref(0), n.ref(1), "projections"))
    _, products = operators.attention(q, k, v, ("projections", "projections", "projections", n.result))
    ops = operators.attention_ops(q, k[-2], n.has(5) or (n.op == "Attention" and n.has(3)))
    return Cost("linear", (project, *products), operators.sum_of(ops, {"add": rows * width} if n.has(2) else {}))


def _separate(n: Node) -> tuple[Shape, Shape, Shape]:
    """Query, key and value of attention without projections, by heads: (B, L, C) each, or packed into the query
    (B, L, H, 3, E) or the key (B, S, H, 2, E), or already by heads (B, H, S, E)."""
    q = n.shape(0)
    if len(q) == 5:
        heads = (q[0], q[2], q[1], q[4])
        k = v = heads
    else:
        number, size = _heads(n, q[2])
        heads, k = (q[0], number, q[1], size), n.shape(1)
        if len(k) == 5:
            k = v = (k[0], k[2], k[1], k[4])
        else:
            v = n.shape(2)
            k = k if len(k) == 4 else (k[0], number, k[1], k[2] // number)
            v = v if len(v) == 4 else (v[0], number, v[1], v[2] // number)
    past = n.shape(6)[2] if n.has(6) else 0
    return heads, (*k[:2], k[2] + past, k[3]), (*v[:2], v[2] + past, v[3])


@shapes("MultiHeadAttention")
def _separate_shapes(n: Node) -> Outputs:
    (b, h, length, _), k, v = _separate(n)
    dtype = n.value(0).dtype
    return [((b, length, h * v[3]), dtype), (k, dtype), (v, dtype)]


@rule("MultiHeadAttention")
def _separate_attention(n: Node) -> Cost:
    packed = len(n.shape(0)) == 5
    key = 0 if packed else 1
    return attend(n, *_separate(n), (0, key, key if packed or not n.has(2) else 2), n.has(5))


def _grouped(n: Node) -> tuple[Shape, Shape, Shape, int]:
    """Query, key and value of grouped-query attention, by heads, and the length that the cache will have. Without a key
    the query holds all three. The cache has room for its second-last size, and is as full as `total_sequence_length`
    says, or else as the past and the new tokens fill it."""
    q, kv = n.shape(0), n.get("kv_num_heads", 0)
    if kv < 1:
        raise ShapeError("lacks kv_num_heads")
    number = n.get("num_heads", 0)
    size = q[2] // (number + 2 * kv) if not n.has(1) else _heads(n, q[2])[1]
    past = n.shape(3)[2] if n.has(3) else 0
    total = n.data(6)
    span = int(total.reshape(-1)[0]) if total is not None and total.size else past + q[1]
    keys = (q[0], kv, span, size)
    return (q[0], number, q[1], size), keys, keys, max(span, past)


@shapes("GroupQueryAttention")
def _grouped_shapes(n: Node) -> Outputs:
    q, k, _, room = _grouped(n)
    dtype, cache = n.value(0).dtype, (*k[:2], room, k[3])
    return [((q[0], q[2], q[1] * q[3]), dtype), (cache, dtype), (cache, dtype)]


@rule("GroupQueryAttention")
def _grouped_attention(n: Node) -> Cost:
    q, k, v, _ = _grouped(n)
    return attend(n, q, k, v, (0, 1, 2) if n.has(1) else (0, 0, 0))
