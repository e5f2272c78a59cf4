"""What an operation costs, said once: pure functions of shapes and settings, which both front ends ask.

- `shapes`: output shapes, broadcasting, and what can be viewed without a copy.
- `nests`: the loop nests of products (`Loops`), from which MACs follow.
- `arithmetic`: all other arithmetic (`ops`): additions, multiplications, exponentials (any transcendental function is one),
  square roots, comparisons and divisions.
- `backward`: what eager execution keeps of an operation for its backward pass.
- `gradients`: the arithmetic of backward passes that a forward runs itself.
- `workspace`: what it allocates meanwhile.

Elementwise operations, activations and reductions are rows of tables by the name that torch gives them; a front end says
which of its own names means which row.
"""

from lamina.operators.arithmetic import (
    ACTIVATIONS,
    CUMULATIVE,
    ELEMENTWISE,
    GATES,
    REDUCTIONS,
    activation_ops,
    attention_ops,
    bag_ops,
    clamp_ops,
    distance_ops,
    dropout_ops,
    elementwise_ops,
    fft_ops,
    interpolation_ops,
    log_likelihood_ops,
    normalisation_ops,
    pool_ops,
    power_ops,
    recurrent_ops,
    reduction_ops,
    response_norm_ops,
    routing_ops,
    scatter_ops,
    softmax_ops,
    sum_of,
    times,
    vector_norm_ops,
)
from lamina.operators.backward import (
    KEEPS,
    KEPT_IN_PLACE,
    SEED_KEPT,
    attention_kept,
    cell_kept,
    dropout_kept,
    onednn_lstm_kept,
    recurrent_kept,
    statistics_kept,
)
from lamina.operators.gradients import GLU, GRADIENTS, norm_gradient_ops, softmax_gradient_ops
from lamina.operators.nests import (
    Operands,
    attention,
    causal_convolution,
    convolution,
    einsum,
    experts,
    linear,
    linear_attention,
    matmul,
    recurrent,
    transposed_convolution,
    transposed_nest,
)
from lamina.operators.shapes import (
    Padding,
    Shape,
    ShapeError,
    adaptive_reads,
    batched_copy,
    broadcast,
    copied,
    elementwise_strides,
    folded_copy,
    per_axis,
    pooling,
    reduced,
    resolve_padding,
    shape_text,
    viewable,
    window_count,
)
from lamina.operators.workspace import cell_workspace, onednn_lstm_workspace, recurrent_workspace

__all__ = [
    "ACTIVATIONS", "CUMULATIVE", "ELEMENTWISE", "GATES", "GLU", "GRADIENTS", "KEEPS", "KEPT_IN_PLACE", "REDUCTIONS",
    "SEED_KEPT", "Operands", "Padding", "Shape", "ShapeError", "activation_ops", "adaptive_reads", "attention",
    "attention_kept", "attention_ops", "bag_ops", "batched_copy", "broadcast", "causal_convolution", "cell_kept",
    "cell_workspace", "clamp_ops", "convolution", "copied", "distance_ops", "dropout_kept", "dropout_ops", "einsum",
    "elementwise_ops", "elementwise_strides", "experts", "fft_ops", "folded_copy", "interpolation_ops", "linear",
    "linear_attention", "log_likelihood_ops", "matmul", "norm_gradient_ops", "normalisation_ops", "onednn_lstm_kept",
    "onednn_lstm_workspace", "per_axis", "pool_ops", "pooling", "power_ops", "recurrent", "recurrent_kept", "recurrent_ops",
    "recurrent_workspace", "reduced", "reduction_ops", "resolve_padding", "response_norm_ops", "routing_ops", "scatter_ops",
    "shape_text", "softmax_gradient_ops", "softmax_ops", "statistics_kept", "sum_of", "times", "transposed_convolution",
    "transposed_nest", "vector_norm_ops", "viewable", "window_count",
]  # fmt: skip
