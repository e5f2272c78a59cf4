"""What an ATen operator is, by its name: its kind, and its arithmetic other than products.

Whatever is in none of the tables is unknown, and listed as such.
"""

from __future__ import annotations

import math
from typing import Any

from torch import Tensor

from lamina import operators
from lamina.operators import ACTIVATIONS, CUMULATIVE, ELEMENTWISE, REDUCTIONS
from lamina.tracing import aten_backward  # noqa: F401 - fills the table
from lamina.tracing.aten_table import RULES, Call, Cost, rule
from lamina.tracing.values import tensors

VIEWS = {
    "view", "_unsafe_view", "alias", "as_strided", "detach", "diagonal", "expand", "lift_fresh", "narrow", "permute", "select",
    "slice", "split", "split_with_sizes", "squeeze", "t", "transpose", "unbind", "unfold", "unsqueeze", "view_as_complex",
    "view_as_real", "_reshape_alias", "chunk", "movedim", "real", "imag", "_conj", "lift", "_neg_view", "resolve_conj",
    "resolve_neg", "unsafe_split", "unsafe_chunk", "unsafe_split_with_sizes", "set", "_shape_as_tensor",
    "_record_function_enter", "_record_function_enter_new", "_record_function_exit",
    "_linalg_check_errors", "_assert_async", "_assert_scalar", "_assert_tensor_metadata", "is_same_size",
    "_has_same_storage_numel",
}  # fmt: skip
COPIES = {
    "_to_copy", "arange", "cat", "clone", "constant_pad_nd", "contiguous", "copy", "empty", "empty_like", "empty_strided",
    "fill", "flip", "full", "full_like", "gather", "index", "index_put", "index_select", "linspace", "new_empty", "new_full",
    "new_ones", "new_zeros", "ones", "ones_like", "pixel_shuffle", "pixel_unshuffle", "reflection_pad1d", "reflection_pad2d",
    "reflection_pad3d", "repeat", "replication_pad1d", "replication_pad2d", "replication_pad3d", "roll", "scalar_tensor",
    "scatter", "slice_scatter", "select_scatter", "diagonal_scatter", "stack", "eye", "zero", "zeros", "zeros_like",
    "upsample_nearest1d", "upsample_nearest2d", "upsample_nearest3d", "_upsample_nearest_exact1d",
    "_upsample_nearest_exact2d", "_upsample_nearest_exact3d", "_local_scalar_dense", "repeat_interleave", "tile", "im2col",
    "randperm", "rand", "randn", "rand_like", "randn_like", "randint", "randint_like", "random", "normal", "uniform",
    "exponential", "multinomial", "bernoulli", "empty_permuted", "new_empty_strided", "triu_indices", "tril_indices",
    "nonzero", "nonzero_static", "col2im", "index_copy", "index_fill", "_index_put_impl", "_unsafe_index", "_unsafe_index_put",
    "masked_select", "masked_scatter", "take", "put", "diag_embed", "complex", "native_channel_shuffle", "channel_shuffle",
    "rot90", "max_unpool2d", "max_unpool3d", "_pack_padded_sequence", "logspace", "lift_fresh_copy", "fill_diagonal",
    "block_diag", "hann_window", "_efficientzerotensor", "resize", "_jagged_to_padded_dense_forward",
    "_padded_dense_to_jagged_forward", "_new_zeros_with_same_feature_meta",
}  # fmt: skip
# Activations that ATen calls otherwise than `operators` does.
ACTIVATION_NAMES = {"_prelu_kernel": "prelu", "rrelu_with_noise": "rrelu", "log_sigmoid_forward": "log_sigmoid"}


def classify(name: str, args: Any, kwargs: dict[str, Any], result: Any) -> Cost:
    """Kind, loops and other arithmetic of an operator that is known by name; kind "other" is unknown."""
    name = name.removesuffix("_") if not name.endswith("__") else name
    call = Call(
        name, args, kwargs, [tuple(x.shape) for x in tensors((args, kwargs))], [tuple(x.shape) for x in tensors(result)]
    )
    if name in RULES:
        return RULES[name](call)
    if "scaled_dot_product" in name:
        return _attention(call)
    activation = ACTIVATION_NAMES.get(name, name)
    if activation in ACTIVATIONS:
        return "activation", (), operators.activation_ops(activation, call.elements)
    if name in ELEMENTWISE:
        return "elementwise", (), operators.elementwise_ops(name, call.elements)
    if name in CUMULATIVE:
        return "elementwise", (), operators.times(CUMULATIVE[name], call.elements)
    if name in REDUCTIONS:
        return "elementwise", (), operators.reduction_ops(name, call.size, call.elements)
    if name in VIEWS:
        return "view", (), {}
    return ("copy" if name in COPIES else "other"), (), {}


def _attention(c: Call) -> Cost:
    """Of fused kernels: query, key and value, then a mask as some of them take it."""
    q, k, v = (tuple(x.shape) for x in c.args[:3])
    mask = any(isinstance(x, Tensor) and tuple(x.shape[-2:]) == (q[-2], k[-2]) for x in (*c.args[3:], *c.kwargs.values()))
    return "matmul", operators.attention(q, k, v)[1], operators.attention_ops(q, k[-2], mask)


@rule("elu")
def _elu(c: Call) -> Cost:
    """SELU is ELU with a scale."""
    return "activation", (), operators.activation_ops("selu" if c.arg(2, 1) != 1 else "elu", c.elements)


@rule("clamp")
def _clamp(c: Call) -> Cost:
    bounds = sum(x is not None for x in c.args[1:3])
    return "elementwise", (), operators.clamp_ops(c.elements, bounds or 1)  # by keyword: one


@rule("pow")
def _power(c: Call) -> Cost:
    exponent = c.arg(1)
    known = isinstance(exponent, (int, float)) and isinstance(c.args[0], Tensor)
    return "elementwise", (), operators.power_ops(c.elements, exponent if known else None)


@rule("norm", "linalg_vector_norm")
def _vector_norm(c: Call) -> Cost:
    order = c.arg(1, 2)
    ops = operators.vector_norm_ops(c.size, c.elements, 2 if order is None else float(order))
    return "elementwise", (), ops


@rule("_weight_norm_interface")
def _weight_norm(c: Call) -> Cost:
    """v·(g/|v|), row by row."""
    rows = math.prod(c.given[1])
    ops = operators.sum_of(operators.vector_norm_ops(c.size, rows, 2.0), {"div": rows, "mul": c.size})
    return "elementwise", (), ops


@rule("nll_loss_forward", "nll_loss2d_forward")
def _log_likelihood(c: Call) -> Cost:
    return "elementwise", (), operators.log_likelihood_ops(math.prod(c.given[1]), c.elements, c.arg(3, 1) == 1)


@rule("_softmax", "_log_softmax", "_safe_softmax")
def _softmax(c: Call) -> Cost:
    length = c.given[0][c.args[1]] if c.given[0] else 1
    return "softmax", (), operators.softmax_ops(c.size, c.size // max(1, length))


# Norms: whether they measure what they norm by, where no argument says so, and the places of scale and shift.
NORMS: dict[str, tuple[bool, int, int]] = {
    **dict.fromkeys(
        ("native_batch_norm", "_native_batch_norm_legit", "cudnn_batch_norm", "batch_norm", "_batch_norm_with_update",
         "native_group_norm"),
        (True, 1, 2),
    ),
    **dict.fromkeys(("_native_batch_norm_legit_no_training", "_batch_norm_no_update"), (False, 1, 2)),
    "native_layer_norm": (True, 2, 3),
}  # fmt: skip


@rule(*NORMS)
def _norm(c: Call) -> Cost:
    measured, scale, shift = NORMS[c.name]
    measured = next((x for x in c.args if isinstance(x, bool)), measured)  # the first setting that is one: training
    found = math.prod(c.outputs[1]) if len(c.outputs) > 1 else 0
    statistics = found or c.given[0][1]
    ops = operators.normalisation_ops(c.size, statistics, c.arg(scale) is not None, c.arg(shift) is not None, measured)
    return "norm", (), ops


@rule("_fused_rms_norm")
def _rms_norm(c: Call) -> Cost:
    rows = c.size // max(1, math.prod(c.args[1]))
    return "norm", (), operators.normalisation_ops(c.size, rows, c.arg(2) is not None, shift=False, centred=False)


@rule("max_pool2d_with_indices", "max_pool3d_with_indices", "fractional_max_pool2d", "fractional_max_pool3d")
def _max_pool(c: Call) -> Cost:
    window = math.prod(operators.per_axis(c.args[1], 3 if "3d" in c.name else 2))
    return "pool", (), operators.pool_ops("max", c.elements * window, c.elements)


@rule("avg_pool1d", "avg_pool2d", "avg_pool3d")
def _average_pool(c: Call) -> Cost:
    window = math.prod(operators.per_axis(c.args[1], int(c.name[-2])))
    return "pool", (), operators.pool_ops("mean", c.elements * window, c.elements, divided=c.arg(6) != 1)


@rule("_adaptive_avg_pool2d", "_adaptive_avg_pool3d", "adaptive_max_pool2d", "adaptive_max_pool3d")
def _adaptive_pool(c: Call) -> Cost:
    reads = operators.adaptive_reads(c.given[0], c.outputs[0][-int(c.name[-2]) :])
    return "pool", (), operators.pool_ops("max" if "max" in c.name else "mean", reads, c.elements)


# Interpolation: the values that one output is made of.
POINTS = {"upsample_linear1d": 2, "upsample_bilinear2d": 4, "upsample_trilinear3d": 8, "upsample_bicubic2d": 16}


@rule(*POINTS)
def _interpolate(c: Call) -> Cost:
    return "elementwise", (), operators.interpolation_ops(c.elements, POINTS[c.name])


@rule("grid_sampler_2d", "grid_sampler_3d")
def _grid_sample(c: Call) -> Cost:
    """By mode: linear, nearest, cubic."""
    points = {0: 2, 1: 1, 2: 4}[c.arg(2, 0)] ** int(c.name[-2])
    return ("elementwise", (), operators.interpolation_ops(c.elements, points)) if points > 1 else ("copy", (), {})


@rule("_upsample_bilinear2d_aa", "_upsample_bicubic2d_aa")
def _antialiased(c: Call) -> Cost:
    """The window grows as the image shrinks."""
    reach = 2 if "bicubic" in c.name else 1
    taps = [2 * math.ceil(reach * max(1, n / m)) + 1 for n, m in zip(c.given[0][-2:], c.outputs[0][-2:], strict=True)]
    return "elementwise", (), {"mul": sum(taps) * c.elements, "add": sum(taps) * c.elements}


# ---- torchvision's


@rule("nms")
def _suppression(c: Call) -> Cost:
    """Every pair of boxes: their overlap's corners and sides, its area over that of both."""
    boxes = c.given[0][0]
    pairs = boxes * (boxes - 1) // 2
    areas = {"add": 2 * boxes, "mul": boxes}
    return "elementwise", (), operators.sum_of(areas, {"compare": 7 * pairs, "add": 4 * pairs, "mul": pairs, "div": pairs})


@rule("roi_align")
def _roi_align(c: Call) -> Cost:
    """Each value is the mean of ratio x ratio samples, of four points each; 2 x 2 where the regions' size decides."""
    samples = (c.args[5] if c.args[5] > 0 else 2) ** 2
    reads = operators.interpolation_ops(c.elements * samples, 4)
    return "pool", (), operators.sum_of(reads, operators.pool_ops("mean", c.elements * samples, c.elements))


@rule("deform_conv2d")
def _deformable(c: Call) -> Cost:
    """A convolution of samples at offsets, four points each, which a mask may weigh."""
    steps, pads, dilations, groups = tuple(c.args[5:7]), tuple(c.args[7:9]), tuple(c.args[9:11]), c.args[11]
    _, nest = operators.convolution(c.given[0], c.given[1], steps, pads, dilations, groups)
    sampled = c.given[0][0] * c.given[0][1] * math.prod(c.given[1][2:]) * math.prod(c.outputs[0][2:])
    ops = operators.sum_of(operators.interpolation_ops(sampled, 4), {"mul": sampled if c.args[13] else 0}, {"add": c.elements})
    return "conv", (nest,), ops


@rule("affine_grid_generator")
def _affine_grid(c: Call) -> Cost:
    return "elementwise", (), operators.interpolation_ops(c.elements, c.given[0][-1])  # each coordinate from all, and 1


@rule("_fft_c2c", "_fft_r2c", "_fft_c2r")
def _transform(c: Call) -> Cost:
    lengths = [max(c.given[0][axis], c.outputs[0][axis]) for axis in c.args[1]]
    return "elementwise", (), operators.fft_ops(max(c.size, c.elements), lengths)


@rule("_cdist_forward", "_pdist_forward")
def _distances(c: Call) -> Cost:
    order = c.arg(2 if c.name == "_cdist_forward" else 1, 2)
    return "elementwise", (), operators.distance_ops(c.elements, c.given[0][-1], float(order))


@rule("index_add", "scatter_add", "scatter_reduce", "index_reduce")
def _scatter(c: Call) -> Cost:
    reduce = next((x for x in c.args if isinstance(x, str)), "add")
    return "elementwise", (), operators.scatter_ops(math.prod(c.given[-1]), reduce)


@rule("_embedding_bag", "_embedding_bag_forward_only")
def _embedding_bag(c: Call) -> Cost:
    """The table, the words, and where each bag of them starts."""
    mode = ("sum", "mean", "max")[c.arg(4, 0)]
    return "embedding", (), operators.bag_ops(math.prod(c.given[1]), c.outputs[0][0], c.given[0][1], mode)


@rule("native_dropout", "dropout")
def _dropout(c: Call) -> Cost:
    return "elementwise", (), operators.dropout_ops(c.size)


@rule("embedding", "embedding_renorm")
def _embedding(c: Call) -> Cost:
    return "embedding", (), {}
