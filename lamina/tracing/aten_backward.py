"""ATen operators of backward passes, which a forward reaches that computes gradients itself: torch.func.grad and its like."""

from __future__ import annotations

import math

from lamina import operators
from lamina.operators import GLU, GRADIENTS
from lamina.tracing.aten_table import Call, Cost, rule
from lamina.workload import replace

# What a product of a backward pass is made of is itself made in the backward pass.
MADE = ("intermediate", "intermediate", "intermediate")


@rule(*(f"{name}_backward" for name in GRADIENTS))
def _elementwise(c: Call) -> Cost:
    return "elementwise", (), operators.times(GRADIENTS[c.name.removesuffix("_backward")], c.elements)


@rule("glu_backward")
def _gated(c: Call) -> Cost:
    return "elementwise", (), operators.times(GLU, c.elements // 2)


@rule("_softmax_backward_data", "_log_softmax_backward_data")
def _softmax(c: Call) -> Cost:
    length = c.given[0][c.args[2]] if c.given[0] else 1
    return "elementwise", (), operators.softmax_gradient_ops(c.size, c.size // max(1, length), "log" in c.name)


# ---- products


@rule("convolution_backward")
def _convolution(c: Call) -> Cost:
    """For each gradient that is asked for, as many products as the forward pass has."""
    (grad, x, w), (stride, padding, dilation, transposed, _, groups, mask) = c.given[:3], c.args[4:11]
    axes = len(w) - 2
    steps, pads, dilations = (operators.per_axis(v, axes) for v in (stride, padding, dilation))
    if transposed:
        nest = operators.transposed_nest(x, w, steps, pads, dilations, groups, MADE)
    else:
        _, nest = operators.convolution(x, w, steps, pads, dilations, groups, MADE)
    return "conv", (nest,) * (mask[0] + mask[1]), {"add": math.prod(grad) if mask[2] else 0}


@rule(
    *(f"_scaled_dot_product_{kernel}_attention{device}_backward" for kernel, device in (
        ("flash", ""), ("flash", "_for_cpu"), ("efficient", ""), ("cudnn", ""))),
)  # fmt: skip
def _attention(c: Call) -> Cost:
    """Two products for each of the forward pass; scores that a kernel computes again are no part of the definition."""
    q, k, v = c.given[1:4]
    nests = tuple(replace(nest, operands=MADE) for nest in operators.attention(q, k, v)[1])
    scores = math.prod(q[:-1]) * k[-2]
    ops = operators.softmax_gradient_ops(scores, math.prod(q[:-1]), False)
    return "matmul", nests * 2, operators.sum_of(ops, {"mul": math.prod(q)})


# ---- norms


@rule("native_layer_norm_backward", "_fused_rms_norm_backward")
def _layer_norm(c: Call) -> Cost:
    mask, centred = c.args[-1], "layer" in c.name
    rows = c.size // max(1, math.prod(c.args[2]))
    ops = operators.norm_gradient_ops(c.size, rows, mask[1], centred and mask[2], centred=centred)
    return "norm", (), ops


@rule("native_group_norm_backward")
def _group_norm(c: Call) -> Cost:
    batch, groups, mask = c.args[5], c.args[8], c.args[9]
    return "norm", (), operators.norm_gradient_ops(c.size, batch * groups, mask[1], mask[2])


@rule("native_batch_norm_backward", "cudnn_batch_norm_backward", "batch_norm_backward")
def _batch_norm(c: Call) -> Cost:
    training = next((x for x in c.args if isinstance(x, bool)), True)
    mask = next((x for x in c.args if isinstance(x, (list, tuple))), (True, True, True))
    return "norm", (), operators.norm_gradient_ops(c.size, c.given[1][1], mask[1], mask[2], training)


# ---- pools, interpolation


@rule(
    *(f"max_pool{n}d_with_indices_backward" for n in (2, 3)), *(f"adaptive_max_pool{n}d_backward" for n in (2, 3)),
    *(f"{kind}_pad{n}d_backward" for kind in ("reflection", "replication") for n in (1, 2, 3)),
    *(f"upsample_nearest{n}d_backward" for n in (1, 2, 3)), *(f"_upsample_nearest_exact{n}d_backward" for n in (1, 2, 3)),
    *("embedding_dense_backward", "_embedding_bag_dense_backward", "unfold_backward", "index_select_backward"),
)  # fmt: skip
def _added(c: Call) -> Cost:
    """Each element of the gradient is added to where it came from."""
    return "elementwise", (), {"add": c.size}


@rule("avg_pool2d_backward", "avg_pool3d_backward", "_adaptive_avg_pool2d_backward", "_adaptive_avg_pool3d_backward")
def _average_pool(c: Call) -> Cost:
    """Each element of the gradient, divided, is added to its whole window."""
    axes = int(c.name[-11])
    if "adaptive" in c.name:
        reads = operators.adaptive_reads(c.given[1], c.given[0][-axes:])
    else:
        reads = c.size * math.prod(operators.per_axis(c.args[2], axes))
    return "elementwise", (), {"div": c.size, "add": reads}


POINTS = {"upsample_linear1d": 2, "upsample_bilinear2d": 4, "upsample_trilinear3d": 8, "upsample_bicubic2d": 16}


@rule(*(f"{name}_backward" for name in POINTS))
def _interpolate(c: Call) -> Cost:
    points = POINTS[c.name.removesuffix("_backward")]
    return "elementwise", (), {"mul": points * c.size, "add": points * c.size}


@rule("grid_sampler_2d_backward", "grid_sampler_3d_backward")
def _grid_sample(c: Call) -> Cost:
    """To the image and to the grid."""
    points = 2 ** int(c.name.removesuffix("d_backward")[-1])
    return "elementwise", (), {"mul": 2 * points * c.size, "add": 2 * points * c.size}


# ---- losses, distances, weights


@rule("nll_loss_backward", "nll_loss2d_backward")
def _log_likelihood(c: Call) -> Cost:
    """One value a row."""
    return "elementwise", (), {"mul": math.prod(c.given[2])}


@rule("_cdist_backward")
def _distances(c: Call) -> Cost:
    width = c.given[1][-1]
    return "elementwise", (), {"add": 2 * c.size * width, "mul": c.size * width, "div": c.size}


@rule("_weight_norm_interface_backward")
def _weight_norm(c: Call) -> Cost:
    rows = math.prod(c.given[2])
    return "elementwise", (), {"mul": 3 * c.size + rows, "add": 2 * c.size, "div": 3 * rows}


# ---- what moves values only


@rule("slice_backward", "select_backward", "diagonal_backward", "value_selecting_reduction_backward")
def _moved(c: Call) -> Cost:
    return "copy", (), {}
