"""What eager execution allocates for an operation beside its inputs and outputs, at most at once, where that is more than what
it keeps: bytes of tensors. What a kernel takes from its own allocator is not in it."""

from lamina.operators.arithmetic import GATES

# Values of a hidden unit alive in one step of a cell made of other operations, the cell before included.
_STEP = {"rnn_tanh": 2, "rnn_relu": 2, "gru": 5, "lstm": 8}
# The same of a single cell beside its results: the products of the input and of the state, and what is made of them.
_CELL = {"rnn_tanh": 2, "rnn_relu": 2, "gru": 7, "lstm": 6}


def cell_workspace(cell: str, values: int) -> int:
    """Of one step of a cell, in `values` of one gate."""
    return _CELL[cell] * values


def onednn_lstm_workspace(output: int, state: int, layers: int, directions: int, copied: int = 0) -> int:
    """Of an LSTM by oneDNN: `output` of one direction, one `state`, and a copy of the input where there is one. Each layer's
    result is alive with its input's; both directions' with their join; the last states with all of them stacked."""
    both, states = output * directions, 2 * directions * state
    joined = both if directions == 2 else 0
    during = [(both if layer else 0) + both + joined + states * (layer + 1) for layer in range(layers)]
    end = both + joined + 2 * states * layers
    return copied + max(*during, end) - both - states * layers


def recurrent_workspace(cell: str, units: int, output: int, state: int, layers: int, directions: int, copied: bool) -> int:
    """Of one made of other operations: `units` of one gate over all steps, the `output` of one direction, one hidden `state`.
    The products of the input are made for all steps first (and again with the bias, if the input is `copied`); the steps'
    results wait to be stacked."""
    gates, both = GATES[cell] * units, output * directions
    width = output * state // units if units else 0  # of a state that a projection has passed
    last = width + (state if cell == "lstm" else 0)
    step = gates + output - width + _STEP[cell] * state
    join = gates + (6 if directions == 2 else 2) * output
    during = []
    for layer in range(layers):
        products = 2 * gates if copied and not layer else gates
        if directions == 2:  # those of the other direction, while the first one's are there
            products += gates + 2 * output
        during.append((both if layer else 0) + layer * directions * last + max(join, step, products))
    return max(during) - both - layers * directions * last
