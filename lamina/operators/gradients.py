"""Arithmetic of the backward pass where a forward computes gradients itself (torch.func.grad): counts by kind, from the
derivative of each operation."""

from lamina.operators.arithmetic import ACTIVATIONS, Ops, sum_of, times

_SIGMOID, _SOFTPLUS, _TANH = (ACTIVATIONS[name] for name in ("sigmoid", "softplus", "tanh"))

# One element of the gradient, by what torch calls the operation.
GRADIENTS: dict[str, Ops] = {
    **dict.fromkeys(("threshold", "hardshrink", "softshrink", "hardtanh"), {"compare": 1}),  # passed on, or not
    "leaky_relu": {"compare": 1, "mul": 1},
    "rrelu_with_noise": {"mul": 1},
    "_prelu_kernel": {"compare": 1, "mul": 2},  # by the slope, and the slope's own
    "sigmoid": {"add": 1, "mul": 2},  # s (1 - s)
    "tanh": {"add": 1, "mul": 2},  # 1 - t²
    "logit": {"add": 1, "mul": 1, "div": 1},  # 1 / (x (1 - x))
    "elu": {"compare": 1, "exp": 1, "mul": 2},  # α eˣ
    "silu": sum_of(_SIGMOID, {"add": 2, "mul": 3}),  # s (1 + x (1 - s))
    "gelu": {"exp": 2, "add": 2, "mul": 5},  # Φ(x) + x φ(x)
    "mish": sum_of(_SOFTPLUS, _TANH, _SIGMOID, {"add": 2, "mul": 4}),  # t + x s (1 - t²)
    "softplus": sum_of(_SIGMOID, {"mul": 1}),
    "log_sigmoid": sum_of(_SIGMOID, {"mul": 1}),
    "hardsigmoid": {"compare": 2, "mul": 1},
    "hardswish": {"compare": 2, "add": 1, "mul": 2, "div": 1},  # (2x + 3) / 6
    "native_dropout": {"mul": 2},
    "mse_loss": {"add": 1, "mul": 2},
    **dict.fromkeys(("smooth_l1_loss", "huber_loss"), {"add": 1, "compare": 2, "mul": 1, "div": 1}),
    "binary_cross_entropy": {"add": 2, "mul": 2, "div": 1},  # (p - y) / (p (1 - p))
    "soft_margin_loss": sum_of(_SIGMOID, {"mul": 2}),
}
GLU = sum_of(_SIGMOID, {"add": 1, "mul": 4})  # of both halves: s, and a s (1 - s)


def softmax_gradient_ops(elements: int, rows: int, logarithm: bool) -> Ops:
    """y (g - Σ g y), or of its logarithm g - eʸ Σ g."""
    sums = {"add": 2 * elements - rows}
    return sum_of(sums, {"exp": elements, "mul": elements} if logarithm else {"mul": 2 * elements})


def norm_gradient_ops(
    elements: int, statistics: int, scale: bool, shift: bool, measured: bool = True, centred: bool = True
) -> Ops:
    """rstd (g - mean g - x̂ mean(g x̂)) with g the gradient times the scale; the scale's own is Σ g x̂, the shift's Σ g. RMS
    norm is not `centred`; with given statistics (not `measured`) only g is left."""
    parts: list[Ops] = [times({"mul": 1}, elements)]  # by rstd
    if scale or measured:
        parts.append(times({"add": 1 if centred else 0, "mul": 1}, elements))  # x̂ again
    if measured:
        means = 2 if centred else 1
        parts += [times({"add": 2 * means, "mul": 2}, elements), times({"div": means}, statistics)]
    if scale:
        parts.append(times({"mul": 2, "add": 1}, elements))
    if shift:
        parts.append(times({"add": 1}, elements))
    return sum_of(*parts)
