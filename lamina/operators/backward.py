"""What eager execution keeps of an operation for its backward pass, beside what it has to allocate anyway."""

from typing import Literal

Kept = Literal["nothing", "input", "output", "both", "factors", "divisor"]

# Of activations and elementwise operations: the input or the output, both inputs, the factors (each if a gradient flows to
# the other), or the divisor (and what is divided, if a gradient flows to that).
KEEPS: dict[str, Kept] = {
    **dict.fromkeys(("relu", "sigmoid", "tanh"), "output"),
    **dict.fromkeys(
        ("relu6", "hardtanh", "leaky_relu", "silu", "elu", "hardsigmoid", "hardswish", "mish", "gelu", "softplus", "selu",
         "celu"),
        "input",
    ),
    **dict.fromkeys(("exp", "sqrt", "rsqrt", "reciprocal"), "output"),
    **dict.fromkeys(("log", "sin", "cos", "abs", "erf", "square", "log1p"), "input"),
    **dict.fromkeys(("neg", "floor", "ceil", "round", "add", "sub", "eq", "ne", "lt", "le", "gt", "ge", "logical_and",
                     "logical_or"), "nothing"),
    **dict.fromkeys(("maximum", "minimum"), "both"),
    "mul": "factors",
    "div": "divisor",
}  # fmt: skip
# In place these keep a copy of their input; the others make do with their output.
KEPT_IN_PLACE = {"silu", "hardswish", "hardsigmoid", "hardtanh", "mish", "relu6"}

_FLOAT32 = 4  # statistics are kept in fp32, whatever the network's type is


def statistics_kept(statistics: int, centred: bool = True) -> int:
    """The bytes of a norm's means and reciprocals of deviations (of the latter alone, if it is not `centred`)."""
    return (2 if centred else 1) * _FLOAT32 * statistics


def attention_kept(rows: int) -> int:
    """The bytes that a fused kernel keeps beside query, key, value and output: the logarithm of each row's sum. The scores
    are computed again."""
    return _FLOAT32 * rows


def dropout_kept(elements: int) -> int:
    """The bytes of a mask of one byte each."""
    return elements


def recurrent_kept(gates: int, units: int) -> int:
    """The values kept of `units` hidden units over all steps: each gate's, and an LSTM's cells."""
    return units * (gates + (1 if gates == 4 else 0))
