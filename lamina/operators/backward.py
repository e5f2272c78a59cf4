"""What eager execution keeps of an operation for its backward pass, beside what it has to allocate anyway."""

from collections.abc import Sequence
from typing import Literal

from lamina.workload import Device

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

_PAGE, _CACHE_LINE = 4096, 64
_FLOAT32 = 4  # statistics are kept in fp32, whatever the network's type is


def statistics_kept(statistics: int, centred: bool = True) -> int:
    """The bytes of a norm's means and reciprocals of deviations (of the latter alone, if it is not `centred`)."""
    return (2 if centred else 1) * _FLOAT32 * statistics


SEED_KEPT = 16  # bytes: a fused kernel's dropout is drawn again from its generator's seed and offset


def attention_kept(rows: int) -> int:
    """The bytes that a fused kernel keeps beside query, key, value and output: the logarithm of each row's sum. The scores
    are computed again."""
    return _FLOAT32 * rows


def dropout_kept(elements: int, itemsize: int, device: Device) -> int:
    """The bytes of the mask: one each on a GPU; on a CPU, where dropout is a product, numbers of the tensor's own type."""
    return elements if device == "cuda" else elements * itemsize


# The values of a hidden unit and step that a cell made of other operations keeps beside the states: the gates, the copies of
# what is multiplied in place, and what they make (aten/src/ATen/native/RNN.cpp). A plain RNN keeps its states alone.
_CELL_KEEPS = {"rnn_tanh": 0, "rnn_relu": 0, "gru": 6, "lstm": 5}
# The fused cells of a GPU keep the gates in one workspace (aten/src/ATen/native/cuda/RNN.cu).
_FUSED_CELL_KEEPS = {"rnn_tanh": 0, "rnn_relu": 0, "gru": 5, "lstm": 4}


def cell_kept(cell: str, units: int, device: Device) -> int:
    """The values that one step of `units` hidden units keeps beside its input, its states and, for a plain RNN, its result."""
    return units * (_FUSED_CELL_KEEPS if device == "cuda" else _CELL_KEEPS)[cell]


def recurrent_kept(cell: str, runs: Sequence[tuple[int, int]], hidden: int, projected: int = 0) -> int:
    """The values that a layer of one direction keeps beside its input and first state, made of other operations: `runs` are
    (steps, sequences), the first state is that of the first run's sequences."""
    units, first = hidden * sum(steps * batch for steps, batch in runs), hidden * runs[0][1]
    if cell.startswith("rnn"):
        return units
    state = units - first
    if cell == "gru":
        return cell_kept(cell, units, "cpu") + state
    states = state + (units + state * projected // hidden if projected else state)  # of a projection, its input too
    return cell_kept(cell, units, "cpu") + states


def onednn_lstm_kept(steps: int, batch: int, features: int, hidden: int, itemsize: int) -> int:
    """The bytes of the workspace of oneDNN's LSTM, which torch takes on CPUs, for a layer of one direction: gates, results,
    states and room for the gradients of states, each from the start of a page, in rows padded to whole cache lines
    (oneDNN 3, src/cpu/rnn/rnn_utils.cpp: `set_conf`, `set_offsets`)."""
    places = steps * batch
    states = 2 * (steps + 1) * batch  # of a layer and of what precedes it, and before each step
    wide = max(features, hidden)
    parts = (
        places * _padded(4 * hidden, itemsize) * itemsize,
        places * _padded(hidden, itemsize) * itemsize,
        states * _padded(wide, itemsize) * itemsize,
        states * _padded(wide, _FLOAT32) * _FLOAT32,
        states * _padded(wide, _FLOAT32) * _FLOAT32,
        states * hidden * itemsize,
        states * hidden * _FLOAT32,
    )
    return sum(-(-part // _PAGE) * _PAGE for part in parts)


def _padded(length: int, itemsize: int) -> int:
    """A row of so many numbers fills cache lines, and no multiple of 256 numbers (`get_good_ld`)."""
    line = _CACHE_LINE // itemsize
    padded = -(-length // line) * line
    return padded + line if padded % 256 == 0 else padded
