"""What each ONNX operator costs: one small function of a node's shapes, or a row of a table.

An operator that stands in no table is listed as unknown by whoever asks.
"""

import math
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

from lamina import operators
from lamina.onnx.dtypes import FLOATS, QUANTISED
from lamina.onnx.values import Node
from lamina.operators import ShapeError, shape_text
from lamina.workload import Kind, Loops


@dataclass(slots=True)
class Cost:
    """What a rule says of a node."""

    kind: Kind
    loops: tuple[Loops, ...] = ()
    ops: dict[str, int] = field(default_factory=dict)
    attributes: dict[str, Any] = field(default_factory=dict)  # that the node does not say itself


Rule = Callable[[Node], Cost]
RULES: dict[str, Rule] = {}


def rule(*ops: str) -> Callable[[Rule], Rule]:
    def register(function: Rule) -> Rule:
        RULES.update((op, function) for op in ops)
        return function

    return register


# ---- norms, activations, pools --------------------------------------------------------------------------------------


@rule("BatchNormalization")
def _batch_norm(n: Node) -> Cost:
    shape = n.shape(0)
    channels = n.shape(1)[0]
    if len(shape) > 1 and shape[1] != channels:
        raise ShapeError(f"expects {channels} channels, got {shape[1]}")
    measured = bool(n.get("training_mode", 0))
    return Cost("norm", (), operators.normalisation_ops(math.prod(shape), channels, measured=measured))


def norm(n: Node, rows: int, scale: bool = True, shift: bool = True, centred: bool = True) -> Cost:
    return Cost("norm", (), operators.normalisation_ops(math.prod(n.shape(0)), rows, scale, shift, centred=centred))


def _rows(n: Node) -> int:
    shape = n.shape(0)
    return math.prod(shape[: n.get("axis", -1) % max(1, len(shape))])


@rule("LayerNormalization")
def _layer_norm(n: Node) -> Cost:
    shape = n.shape(0)
    axis = n.get("axis", -1) % max(1, len(shape))
    fits = n.shape(1)
    if operators.broadcast(fits, shape[axis:]) != shape[axis:]:
        raise ShapeError(f"layer norm over {shape_text(fits)} does not fit the input {shape_text(shape)}")
    return norm(n, _rows(n), shift=n.has(2))


RULES["RMSNormalization"] = lambda n: norm(n, _rows(n), shift=False, centred=False)
RULES["SimplifiedLayerNormalization"] = RULES["RMSNormalization"]
RULES["InstanceNormalization"] = lambda n: norm(n, math.prod(n.shape(0)[:2]))
RULES["GroupNormalization"] = lambda n: norm(n, n.shape(0)[0] * n.get("num_groups", 1))
RULES["MeanVarianceNormalization"] = lambda n: norm(n, n.shape(0)[1] if len(n.shape(0)) > 1 else 1, False, False)
RULES["LRN"] = lambda n: Cost("norm", (), operators.response_norm_ops(math.prod(n.shape(0)), n.get("size", 1)))


@rule("LpNormalization")
def _lp_norm(n: Node) -> Cost:
    shape = n.shape(0)
    elements, rows = math.prod(shape), math.prod(shape) // max(1, shape[n.get("axis", -1)] if shape else 1)
    ops = operators.vector_norm_ops(elements, rows, n.get("p", 2))
    return Cost("norm", (), operators.sum_of(ops, {"div": elements}))


# ONNX's activations by the names that `operators` knows.
ACTIVATIONS: dict[str, str] = {
    "Relu": "relu", "LeakyRelu": "leaky_relu", "PRelu": "prelu", "Sigmoid": "sigmoid", "Tanh": "tanh", "Elu": "elu",
    "Celu": "celu", "Selu": "selu", "Softplus": "softplus", "HardSigmoid": "hardsigmoid", "HardSwish": "hardswish",
    "Gelu": "gelu", "QuickGelu": "quick_gelu", "Softsign": "softsign", "Mish": "mish", "ThresholdedRelu": "threshold",
    "Shrink": "softshrink", "SwiGLU": "swiglu", "QLinearSigmoid": "sigmoid", "QLinearLeakyRelu": "leaky_relu",
}  # fmt: skip


@rule("BiasGelu", "FastGelu")
def _biased_gelu(n: Node) -> Cost:
    elements = math.prod(n.output())
    bias = {"add": elements} if n.has(1) else {}
    return Cost("activation", (), operators.sum_of(operators.activation_ops("gelu", elements), bias))


@rule("Swish")
def _swish(n: Node) -> Cost:
    """x · sigmoid(αx)."""
    name = "silu" if n.get("alpha", 1.0) == 1 else "quick_gelu"
    return Cost("activation", (), operators.activation_ops(name, math.prod(n.output())))


@rule("Softmax", "LogSoftmax", "Hardmax", "QLinearSoftmax", "BiasSoftmax")
def _softmax(n: Node) -> Cost:
    """Up to opset 12 all axes from `axis` on are one; from 13 on it is the one axis."""
    shape, opset = n.shape(0), n.opset if n.domain == "" else 13
    elements = math.prod(shape)
    axis = n.get("axis", 1 if opset < 13 else -1)
    if shape and not -len(shape) <= axis < len(shape):
        raise ShapeError(f"has no axis {axis} (input {shape_text(shape)})")
    length = math.prod(shape[axis:]) if opset < 13 else shape[axis] if shape else 1
    rows = elements // max(1, length)
    if n.op == "Hardmax":
        return Cost("softmax", (), operators.reduction_ops("argmax", elements, rows))
    bias = {"add": elements} if n.op == "BiasSoftmax" else {}
    return Cost("softmax", (), operators.sum_of(operators.softmax_ops(elements, rows), bias))


@rule("SoftmaxCrossEntropyLoss", "NegativeLogLikelihoodLoss")
def _loss(n: Node) -> Cost:
    """Classes are the second axis; the targets, the second input, have no such axis."""
    elements, rows = math.prod(n.shape(0)), math.prod(n.shape(1))
    likelihood = operators.log_likelihood_ops(rows, math.prod(n.output()), n.get("reduction", "mean") == "mean")
    if n.op == "NegativeLogLikelihoodLoss":
        return Cost("elementwise", (), likelihood)
    return Cost("softmax", (), operators.sum_of(operators.softmax_ops(elements, rows), likelihood))


POOLS = {
    "MaxPool": "max", "NhwcMaxPool": "max", "AveragePool": "mean", "QLinearAveragePool": "mean", "LpPool": "norm",
    "GlobalMaxPool": "max", "GlobalAveragePool": "mean", "QLinearGlobalAveragePool": "mean", "GlobalLpPool": "norm",
}  # fmt: skip


@rule(*POOLS)
def _pool(n: Node) -> Cost:
    elements = math.prod(n.output())
    reads = math.prod(n.shape(0)) if "Global" in n.op else elements * math.prod(n.get("kernel_shape", ()))
    return Cost("pool", (), operators.pool_ops(POOLS[n.op], reads, elements, n.get("p", 2)))


RULES["MaxUnpool"] = lambda n: Cost("pool")

# ---- everything else ------------------------------------------------------------------------------------------------

# ONNX's operators by the names that `operators` knows: those that map elements, and those that reduce them.
ELEMENTWISE: dict[str, str] = {
    "Add": "add", "Sub": "sub", "Neg": "neg", "Abs": "abs", "Round": "round", "Floor": "floor", "Ceil": "ceil", "Sign": "sign",
    "QLinearAdd": "add", "Mul": "mul", "QLinearMul": "mul", "Div": "div", "Reciprocal": "reciprocal", "Mod": "fmod",
    "Exp": "exp", "Log": "log", "Erf": "erf", "Sin": "sin", "Cos": "cos", "Tan": "tan", "Asin": "asin", "Acos": "acos",
    "Atan": "atan", "Sinh": "sinh", "Cosh": "cosh", "Asinh": "asinh", "Acosh": "acosh", "Atanh": "atanh", "HannWindow": "cos",
    "HammingWindow": "cos", "BlackmanWindow": "cos", "Sqrt": "sqrt", "Where": "where", "QLinearWhere": "where", "Equal": "eq",
    "Greater": "gt", "GreaterOrEqual": "ge", "Less": "lt", "LessOrEqual": "le", "And": "logical_and", "Or": "logical_or",
    "Xor": "logical_xor", "Not": "logical_not", "IsNaN": "isnan", "IsInf": "isinf", "BitwiseAnd": "bitwise_and",
    "BitwiseOr": "bitwise_or", "BitwiseXor": "bitwise_xor", "BitwiseNot": "bitwise_not", "BitShift": "__lshift__",
    "Trilu": "triu", "QuantizeLinear": "quantize", "DequantizeLinear": "dequantize",
    "DynamicQuantizeLinear": "dynamic_quantize", "RotaryEmbedding": "rotary_embedding",
}  # fmt: skip
REDUCTIONS: dict[str, str] = {
    "ReduceSum": "sum", "ReduceMean": "mean", "QLinearReduceMean": "mean", "ReduceProd": "prod", "ReduceMax": "amax",
    "ReduceMin": "amin", "ArgMax": "argmax", "ArgMin": "argmin", "TopK": "topk", "ReduceLogSum": "log_sum",
    "ReduceLogSumExp": "logsumexp", "ReduceSumSquare": "sum_square",
}  # fmt: skip
CUMULATIVE: dict[str, str] = {"CumSum": "cumsum", "CumProd": "cumprod"}
VIEWS = {"Reshape", "Squeeze", "Unsqueeze", "Flatten", "Identity", "Shape", "Size", "BitCast"}
COPIES = {
    "Bernoulli", "Cast", "CastLike", "CenterCropPad", "Col2Im", "Compress", "Concat", "ConcatFromSequence", "Constant",
    "ConstantOfShape", "DepthToSpace", "Expand", "EyeLike", "Gather", "GatherElements", "GatherND", "Multinomial", "NonZero",
    "OneHot", "Optional", "OptionalGetElement", "OptionalHasElement", "Pad", "QLinearConcat", "RandomNormal",
    "RandomNormalLike", "RandomUniform", "RandomUniformLike", "Range", "ReverseSequence", "Scatter", "SequenceAt",
    "SequenceConstruct", "SequenceEmpty", "SequenceErase", "SequenceInsert", "SequenceLength", "Slice", "SpaceToDepth",
    "Split", "SplitToSequence", "TensorScatter", "Tile", "Transpose",
}  # fmt: skip
RANDOM = {"RandomNormal", "RandomNormalLike", "RandomUniform", "RandomUniformLike", "Bernoulli", "Multinomial"}


@rule("Reshape")
def _reshape(n: Node) -> Cost:
    before, after = n.shape(0), n.output()
    if math.prod(before) != math.prod(after):
        raise ShapeError(f"cannot make {shape_text(after)} of {shape_text(before)}")
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
    return Cost("elementwise", (), operators.dropout_ops(math.prod(n.shape(0))))


@rule("Max", "Min", "Sum", "Mean")
def _variadic(n: Node) -> Cost:
    """The reduction of several tensors to one."""
    elements, name = math.prod(n.output()), {"Max": "amax", "Min": "amin", "Sum": "sum", "Mean": "mean"}[n.op]
    return Cost("elementwise", (), operators.reduction_ops(name, len(n.inputs) * elements, elements))


@rule("Clip")
def _clip(n: Node) -> Cost:
    """Its bounds were attributes before opset 11."""
    bounds = sum(n.has(i) or name in n.attributes for i, name in ((1, "min"), (2, "max")))
    return Cost("elementwise", (), operators.clamp_ops(math.prod(n.output()), bounds))


@rule("Pow")
def _power(n: Node) -> Cost:
    exponent = n.data(1)
    known = float(exponent.reshape(-1)[0]) if exponent is not None and exponent.size == 1 else None
    return Cost("elementwise", (), operators.power_ops(math.prod(n.output()), known))


@rule("ReduceL1", "ReduceL2")
def _vector_norm(n: Node) -> Cost:
    return Cost("elementwise", (), operators.vector_norm_ops(math.prod(n.shape(0)), math.prod(n.output()), int(n.op[-1])))


@rule("ScatterElements", "ScatterND")
def _scatter(n: Node) -> Cost:
    ops = operators.scatter_ops(math.prod(n.shape(2)), n.get("reduction", "none"))
    return Cost("elementwise" if ops else "copy", (), ops)


@rule("Resize", "Upsample", "GridSample")
def _interpolate(n: Node) -> Cost:
    """Nearest neighbours are copied; linear takes 2 an axis, cubic 4, along the axes that change their size."""
    x, out = n.shape(0), n.output()
    mode = str(n.get("mode", "nearest" if n.op != "GridSample" else "linear"))
    if mode == "nearest":
        return Cost("copy")
    axes = len(x) - 2 if n.op == "GridSample" else sum(a != b for a, b in zip(x, out, strict=True))
    ops = operators.interpolation_ops(math.prod(out), (4 if "cubic" in mode else 2) ** axes)
    return Cost("elementwise", (), ops)


@rule("AffineGrid")
def _affine_grid(n: Node) -> Cost:
    """Each coordinate from all coordinates and 1."""
    return Cost("elementwise", (), operators.interpolation_ops(math.prod(n.output()), n.shape(0)[2]))


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
        return Cost("activation", (), operators.activation_ops(ACTIVATIONS[n.op], math.prod(n.output())))
    if n.op in ELEMENTWISE:
        return Cost("elementwise", (), operators.elementwise_ops(ELEMENTWISE[n.op], math.prod(n.output())))
    if n.op in CUMULATIVE:
        return Cost("elementwise", (), operators.times(operators.CUMULATIVE[CUMULATIVE[n.op]], math.prod(n.output())))
    if n.op in REDUCTIONS:
        reduced = operators.reduction_ops(REDUCTIONS[n.op], math.prod(n.shape(0)), math.prod(n.output()))
        return Cost("elementwise", (), reduced)
    return None
