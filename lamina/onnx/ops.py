"""What each ONNX operator costs: one small function of a node's shapes, or a row of a table.

An operator that stands in no table is listed as unknown by whoever asks.
"""

import math
from collections.abc import Callable
from dataclasses import dataclass, field

from lamina import operators
from lamina.onnx.values import FLOATS, QUANTISED, Node
from lamina.operators import ACTIVATION_OPS, ShapeError, times
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


# ---- norms, activations, pools --------------------------------------------------------------------------------------


@rule("BatchNormalization")
def _batch_norm(n: Node) -> Cost:
    shape = n.shape(0)
    channels = n.shape(1)[0]
    if len(shape) > 1 and shape[1] != channels:
        raise ShapeError(f"expects {channels} channels, got {shape[1]}")
    return Cost("norm", (), operators.normalisation_ops(math.prod(shape), channels, bool(n.get("training_mode", 0)), True))


def norm(n: Node, rows: int, affine: bool = True) -> Cost:
    return Cost("norm", (), operators.normalisation_ops(math.prod(n.shape(0)), rows, True, affine))


@rule("LayerNormalization")
def _layer_norm(n: Node) -> Cost:
    shape = n.shape(0)
    axis = n.get("axis", -1) % max(1, len(shape))
    fits = n.shape(1)
    if operators.broadcast(fits, shape[axis:]) != shape[axis:]:
        raise ShapeError(f"layer norm over {operators._x(fits)} does not fit the input {operators._x(shape)}")
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
RULES["LRN"] = lambda n: Cost("norm", (), operators.response_norm_ops(math.prod(n.shape(0)), n.get("size", 1)))


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
        raise ShapeError(f"has no axis {axis} (input {operators._x(shape)})")
    length = math.prod(shape[axis:]) if opset < 13 and not loss else shape[axis] if shape else 1
    if n.op == "Hardmax":
        return Cost("softmax", (), {"compare": elements})
    return Cost("softmax", (), operators.softmax_ops(elements, elements // max(1, length)))


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
        raise ShapeError(f"cannot make {operators._x(after)} of {operators._x(before)}")
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
