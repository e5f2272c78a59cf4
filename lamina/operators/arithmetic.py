"""Arithmetic other than products: counts by kind (add, mul, exp, sqrt, compare, div), from the definition of each operation.

A subtraction, an absolute value and a rounding count as one add, any transcendental function as one exp. Joining n values
to one (a sum, a maximum) takes n - 1 operations. A count is what the definition needs: implementations may do more or less.
"""

import math
from collections.abc import Mapping, Sequence
from typing import NamedTuple

Ops = dict[str, int]


def times(counts: Mapping[str, int], elements: int) -> Ops:
    return {kind: n * elements for kind, n in counts.items()}


def sum_of(*parts: Mapping[str, int]) -> Ops:
    total: Ops = {}
    for part in parts:
        for kind, n in part.items():
            total[kind] = total.get(kind, 0) + n
    return total


# ---- activations ----------------------------------------------------------------------------------------------------

_SIGMOID = {"exp": 1, "add": 1, "div": 1}  # 1 / (1 + e^-x)
_TANH = {"exp": 1, "add": 2, "div": 1}  # 1 - 2 / (e^2x + 1)
_SOFTPLUS = {"exp": 2, "add": 1}  # log(1 + e^x)
_ELU = {"compare": 1, "exp": 1, "add": 1, "mul": 1}  # x if x > 0 else α (e^x - 1)
_SILU = sum_of(_SIGMOID, {"mul": 1})  # x · sigmoid(x)

# One element of the output, by the name that torch gives the activation.
ACTIVATIONS: dict[str, Ops] = {
    "relu": {"compare": 1},
    "threshold": {"compare": 1},
    "relu6": {"compare": 2},
    "hardtanh": {"compare": 2},
    "leaky_relu": {"compare": 1, "mul": 1},
    "prelu": {"compare": 1, "mul": 1},
    "rrelu": {"compare": 1, "mul": 1},
    "sigmoid": _SIGMOID,
    "log_sigmoid": _SOFTPLUS,  # -log(1 + e^-x), whose signs are free as the sigmoid's is
    "tanh": _TANH,
    "softplus": _SOFTPLUS,
    "softsign": {"add": 2, "div": 1},  # x / (1 + |x|)
    "silu": _SILU,
    "quick_gelu": sum_of(_SILU, {"mul": 1}),  # x · sigmoid(αx)
    "gelu": {
        "exp": 1,
        "add": 2,
        "div": 1,
        "mul": 4,
    },  # either form, as x · sigmoid(x (a + bx²))
    "elu": _ELU,
    "selu": sum_of(_ELU, {"mul": 1}),  # λ elu(x)
    "celu": sum_of(_ELU, {"div": 1}),  # x if x > 0 else α (e^(x/α) - 1)
    "mish": sum_of(_SOFTPLUS, _TANH, {"mul": 1}),  # x · tanh(softplus(x))
    "hardsigmoid": {"compare": 2, "add": 1, "div": 1},  # min(max(x + 3, 0), 6) / 6
    "hardswish": {"compare": 2, "add": 1, "mul": 1, "div": 1},
    "softshrink": {"compare": 2, "add": 1},
    "hardshrink": {"compare": 2, "add": 1},
    "glu": _SILU,  # a · sigmoid(b)
    "swiglu": sum_of(_SILU, {"mul": 1}),  # a · sigmoid(a) · b
}


def activation_ops(name: str, elements: int) -> Ops:
    return times(ACTIVATIONS[name], elements)


# ---- elementwise ----------------------------------------------------------------------------------------------------

# One element of the output, by torch's name for the operator (in-place forms and overloads alike).
ELEMENTWISE: dict[str, Ops] = {
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
         "asinh", "acosh", "atanh", "sinc", "erf", "erfc", "erfinv", "atan2", "pow", "logaddexp", "xlogy", "special_xlog1py",
         "logit", "angle"),
        {"exp": 1},
    ),
    "polar": {"exp": 2, "mul": 2},
    "hypot": {"mul": 2, "add": 1, "sqrt": 1},
    "rotary_embedding": {"mul": 2, "add": 1},  # one coordinate of a turned pair
    "sqrt": {"sqrt": 1},
    "rsqrt": {"sqrt": 1, "div": 1},
    **dict.fromkeys(
        ("maximum", "minimum", "clamp_min", "clamp_max", "where", "masked_fill", "eq", "ne", "lt", "le", "gt", "ge",
         "isnan", "isinf", "logical_and", "logical_or", "logical_not", "logical_xor", "bitwise_and", "bitwise_or",
         "bitwise_not", "bitwise_xor", "__and__", "__or__", "__xor__", "tril", "triu", "fmax", "fmin", "isposinf",
         "isneginf", "isfinite", "signbit", "nan_to_num", "heaviside", "copysign", "isin", "bucketize", "searchsorted"),
        {"compare": 1},
    ),
    "quantize": {"div": 1, "add": 2, "compare": 2},  # scale, round, shift, saturate
    "dequantize": {"add": 1, "mul": 1},
    "dynamic_quantize": {"div": 1, "add": 2, "compare": 4},  # the range, then as above
}  # fmt: skip
# Sums and products of all elements so far along an axis: of one element.
CUMULATIVE: dict[str, Ops] = {
    "cumsum": {"add": 1},
    "cumprod": {"mul": 1},
    **dict.fromkeys(("cummax", "cummin", "_cummax_helper", "_cummin_helper"), {"compare": 1}),
    **dict.fromkeys(("logcumsumexp", "_logcumsumexp"), {"exp": 1, "add": 1}),
}


def elementwise_ops(name: str, elements: int) -> Ops:
    return times(ELEMENTWISE[name], elements)


def clamp_ops(elements: int, bounds: int) -> Ops:
    """Against one bound or two."""
    return {"compare": bounds * elements}


def power_ops(elements: int, exponent: float | None) -> Ops:
    """x to a constant: a square and a cube are products, a square root is one; any other power, or one that is not known,
    is one exp."""
    known: dict[float, Ops] = {
        1.0: {}, 2.0: {"mul": 1}, 3.0: {"mul": 2}, 0.5: {"sqrt": 1}, -0.5: {"sqrt": 1, "div": 1}, -1.0: {"div": 1},
        -2.0: {"mul": 1, "div": 1},
    }  # fmt: skip
    return times({"exp": 1} if exponent is None else known.get(float(exponent), {"exp": 1}), elements)


def dropout_ops(elements: int) -> Ops:
    """Keep or drop each element, and scale what is kept."""
    return {"mul": elements, "compare": elements}


def interpolation_ops(elements: int, points: int) -> Ops:
    """Each of the output's elements a weighted sum of `points` values."""
    return {"mul": points * elements, "add": (points - 1) * elements}


def scatter_ops(updates: int, reduce: str = "add") -> Ops:
    """Values that are added (multiplied, compared) to places of a tensor; "none" writes them."""
    kind = {"none": None, "add": "add", "sum": "add", "mean": "add", "mul": "mul", "prod": "mul"}.get(reduce, "compare")
    return {kind: updates} if kind else {}


# ---- reductions -----------------------------------------------------------------------------------------------------


class Reduction(NamedTuple):
    """What becomes of each element, how n of them become one (by n - 1 of these), and what becomes of each result."""

    each: Ops
    join: Ops
    last: Ops


_SUM, _PRODUCT, _EXTREME = {"add": 1}, {"mul": 1}, {"compare": 1}
_VARIANCE = Reduction({"add": 1, "mul": 1}, {"add": 2}, {"div": 2})  # the mean, differences squared, their mean

REDUCTIONS: dict[str, Reduction] = {
    **dict.fromkeys(("sum", "nansum", "trace", "bincount", "histc"), Reduction({}, _SUM, {})),
    "count_nonzero": Reduction({"compare": 1}, _SUM, {}),
    "mean": Reduction({}, _SUM, {"div": 1}),
    "prod": Reduction({}, _PRODUCT, {}),
    **dict.fromkeys(("var", "var_mean"), _VARIANCE),
    **dict.fromkeys(("std", "std_mean"), Reduction(_VARIANCE.each, _VARIANCE.join, {"div": 2, "sqrt": 1})),
    **dict.fromkeys(("amax", "amin", "max", "min", "argmax", "argmin", "any", "all", "_is_any_true", "_is_all_true"),
                    Reduction({}, _EXTREME, {})),
    **dict.fromkeys(("aminmax", "_aminmax"), Reduction({}, {"compare": 2}, {})),
    # An order of the elements: at least one comparison each.
    **dict.fromkeys(
        ("sort", "topk", "argsort", "kthvalue", "median", "nanmedian", "mode", "equal", "_unique2", "unique_dim",
         "unique_consecutive"),
        Reduction(_EXTREME, {}, {}),
    ),
    "logsumexp": Reduction({"exp": 1}, _SUM, {"exp": 1}),
    "log_sum": Reduction({}, _SUM, {"exp": 1}),
    "sum_square": Reduction({"mul": 1}, _SUM, {}),
    **dict.fromkeys(("mse_loss", "smooth_l1_loss", "huber_loss"), Reduction({"add": 2, "mul": 1}, {}, {})),
    **dict.fromkeys(("binary_cross_entropy", "binary_cross_entropy_with_logits"),
                    Reduction({"exp": 2, "add": 2, "mul": 2}, {}, {})),
}  # fmt: skip


def reduction_ops(name: str, elements: int, outputs: int) -> Ops:
    """`elements` reduced to `outputs`."""
    row = REDUCTIONS[name]
    return sum_of(times(row.each, elements), times(row.join, max(elements - outputs, 0)), times(row.last, outputs))


def vector_norm_ops(elements: int, outputs: int, order: float = 2) -> Ops:
    """(Σ |x|^p)^(1/p) of `elements` in `outputs` vectors; the largest or smallest |x| for p = ±∞."""
    joined = max(elements - outputs, 0)
    if math.isinf(order):
        return {"add": elements, "compare": joined}
    if order == 2:
        return {"mul": elements, "add": joined, "sqrt": outputs}
    if order == 1:
        return {"add": elements + joined}
    if order == 0:
        return {"compare": elements, "add": joined}
    return {"add": elements + joined, "exp": elements + outputs}


def distance_ops(pairs: int, width: int, order: float = 2) -> Ops:
    """The norm of the difference of `pairs` vectors."""
    return sum_of({"add": pairs * width}, vector_norm_ops(pairs * width, pairs, order))


def pool_ops(kind: str, reads: int, outputs: int, order: float = 2, divided: bool = True) -> Ops:
    """`outputs` windows that read `reads` values in all: their maximum ("max"), mean ("mean", a sum where nothing is
    `divided`) or norm ("norm")."""
    joined = max(reads - outputs, 0)
    if kind == "max":
        return {"compare": joined}
    if kind == "norm":
        return vector_norm_ops(reads, outputs, order)
    return {"add": joined, "div": outputs} if divided else {"add": joined}


def bag_ops(rows: int, bags: int, width: int, mode: str = "sum") -> Ops:
    """The embeddings of `rows` words, joined to `bags`."""
    return reduction_ops({"max": "amax"}.get(mode, mode), rows * width, bags * width)


# ---- norms, softmax -------------------------------------------------------------------------------------------------


def normalisation_ops(
    elements: int, statistics: int, scale: bool = True, shift: bool = True, measured: bool = True, centred: bool = True
) -> Ops:
    """x̂ = (x - mean) / sqrt(var + eps), for `statistics` means and variances, then scale and shift. With given statistics
    (batch norm in evaluation) all of it is one multiplication and one addition per element. RMS norm, which is not
    `centred`, has no mean: x̂ = x / sqrt(mean of squares + eps)."""
    if not measured:
        return {"add": elements + statistics, "mul": elements, "sqrt": statistics, "div": statistics}
    sums = 3 * elements - statistics if centred else elements  # of x, of its differences and of their squares; eps
    return {
        "add": sums + (elements if shift else 0),
        "mul": 2 * elements + (elements if scale else 0),
        "sqrt": statistics,
        "div": (3 if centred else 2) * statistics,
    }


def softmax_ops(elements: int, rows: int) -> Ops:
    """Subtract the maximum, exponentiate, sum, divide."""
    return {"compare": elements - rows, "add": 2 * elements - rows, "exp": elements, "div": elements}


def routing_ops(tokens: int, experts: int) -> Ops:
    """The probabilities of all experts for each token, and the choice among them."""
    return sum_of(softmax_ops(tokens * experts, tokens), reduction_ops("topk", tokens * experts, tokens))


def attention_ops(query: Sequence[int], span: int, mask: bool = False) -> Ops:
    """What attention computes beside its products: queries (..., L, E) scaled, a mask added to the scores (..., L, span) if
    there is one, and their softmax."""
    rows = math.prod(query[:-1])
    scaled = {"mul": math.prod(query), "add": rows * span if mask else 0}
    return sum_of(softmax_ops(rows * span, rows), scaled)


def log_likelihood_ops(rows: int, outputs: int, mean: bool) -> Ops:
    """The negative log-likelihood of `rows` chosen classes: one value each, negated, then joined to `outputs`."""
    return {"add": 2 * rows - outputs, "div": outputs if mean else 0}


def response_norm_ops(elements: int, size: int) -> Ops:
    """x / (k + α·mean of squares over `size` channels)^β: the power is counted as one exp."""
    return {"mul": 2 * elements, "add": size * elements, "exp": elements, "div": 2 * elements}


# ---- recurrence, transforms -----------------------------------------------------------------------------------------

# One hidden unit and step: the activations of the gates, and what joins them.
_CELLS: dict[str, Ops] = {
    "rnn_tanh": _TANH,
    "rnn_relu": ACTIVATIONS["relu"],
    # r, z = sigmoids; n = tanh(... + r·...); h = (1 - z)·n + z·h
    "gru": sum_of({"mul": 3, "add": 2}, times(_SIGMOID, 2), _TANH),
    # i, f, o = sigmoids; g = tanh; c = f·c + i·g; h = o·tanh(c)
    "lstm": sum_of({"mul": 3, "add": 1}, times(_SIGMOID, 3), times(_TANH, 2)),
}
GATES = {"rnn_tanh": 1, "rnn_relu": 1, "gru": 3, "lstm": 4}


def recurrent_ops(cell: str, units: int, biased: bool, peepholes: bool = False) -> Ops:
    """What the gates of an RNN, GRU or LSTM cost beside their products, for `units` hidden units over all steps: each gate
    is the sum of two products and, if `biased`, of two biases. Three of an LSTM's gates may see its cell by a weight each."""
    gates = {"add": GATES[cell] * (3 if biased else 1)}
    seen = {"mul": 3, "add": 3} if peepholes else {}
    return times(sum_of(gates, seen, _CELLS[cell]), units)


def fft_ops(elements: int, lengths: Sequence[int]) -> Ops:
    """The textbook's radix-2 transform: per axis of length L, L/2·log2 L butterflies of four real products and six sums,
    for a real or a complex tensor (a library may do with fewer)."""
    stages = sum(max(1, math.ceil(math.log2(n))) if n > 1 else 0 for n in lengths)
    return {"mul": 2 * elements * stages, "add": 3 * elements * stages}
