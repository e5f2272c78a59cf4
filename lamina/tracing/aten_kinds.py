"""What an ATen operator is, by its name: its kind, and the arithmetic that is no product.

Whatever is in none of the tables is unknown, and listed as such.
"""

from __future__ import annotations

import math
from typing import Any

from lamina import operators
from lamina.operators import ACTIVATION_OPS, ELEMENTWISE, REDUCTIONS, times
from lamina.tracing.values import tensors
from lamina.workload import Kind, Loops

VIEWS = {
    "view", "_unsafe_view", "alias", "as_strided", "detach", "diagonal", "expand", "lift_fresh", "narrow", "permute", "select",
    "slice", "split", "split_with_sizes", "squeeze", "t", "transpose", "unbind", "unfold", "unsqueeze", "view_as_complex",
    "view_as_real", "_reshape_alias", "chunk", "movedim", "real", "imag", "_conj", "lift", "_neg_view", "resolve_conj",
    "resolve_neg", "unsafe_split", "unsafe_chunk", "unsafe_split_with_sizes", "set", "_shape_as_tensor",
    "_linalg_check_errors", "_assert_async", "_assert_scalar", "_assert_tensor_metadata",
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
    "block_diag", "hann_window", "_efficientzerotensor", "resize",
}  # fmt: skip
SCATTERED = {"index_add", "scatter_add", "scatter_reduce", "index_reduce", "_embedding_bag", "_embedding_bag_forward_only"}
NORMS = {
    "native_batch_norm": True, "_native_batch_norm_legit": True, "_native_batch_norm_legit_no_training": False,
    "cudnn_batch_norm": True, "native_layer_norm": True, "native_group_norm": True, "_fused_rms_norm": True, "batch_norm": True,
    "_batch_norm_with_update": True, "_batch_norm_no_update": False,
}  # fmt: skip
POOLS = {
    "max_pool2d_with_indices": "compare", "max_pool3d_with_indices": "compare", "avg_pool2d": "add", "avg_pool3d": "add",
    "avg_pool1d": "add", "_adaptive_avg_pool2d": "add", "_adaptive_avg_pool3d": "add", "adaptive_max_pool2d": "compare",
    "adaptive_max_pool3d": "compare", "fractional_max_pool2d": "compare", "fractional_max_pool3d": "compare",
}  # fmt: skip
# Interpolation: the values that one output is made of.
TAPS = {
    "upsample_linear1d": 2, "upsample_bilinear2d": 4, "upsample_trilinear3d": 8, "upsample_bicubic2d": 16,
    "grid_sampler_2d": 4, "grid_sampler_3d": 8,
}  # fmt: skip


def classify(name: str, args: Any, result: Any) -> tuple[Kind, tuple[Loops, ...], dict[str, int]]:
    """Kind, loops and other arithmetic of an operator that is known by name; kind "other" is unknown."""
    name = name.removesuffix("_") if not name.endswith("__") else name
    outputs = list(tensors(result))
    elements = outputs[0].numel() if outputs else 0
    given = [tuple(x.shape) for x in tensors(args)]
    size = math.prod(given[0]) if given else 0
    if "scaled_dot_product" in name:
        q, k, v = (tuple(x.shape) for x in args[:3])
        _, nests = operators.attention(q, k, v)
        return "matmul", nests, operators.softmax_ops(math.prod(q[:-1]) * k[-2], math.prod(q[:-1]))
    if name in ACTIVATION_OPS:
        return "activation", (), times(ACTIVATION_OPS[name], elements)
    if name in ELEMENTWISE:
        return "elementwise", (), times(ELEMENTWISE[name], elements)
    if name in REDUCTIONS:
        ops = times(REDUCTIONS[name], size)
        return "elementwise", (), ops | ({"div": elements} if name in ("mean", "var", "var_mean", "std") else {})
    if name in ("_softmax", "_log_softmax", "_safe_softmax"):
        rows = size // max(1, args[0].shape[args[1]] if args[0].dim() else 1)
        return "softmax", (), operators.softmax_ops(size, rows)
    if name in NORMS:
        statistics = outputs[1].numel() if len(outputs) > 1 and outputs[1].numel() else args[0].shape[1]
        return "norm", (), operators.normalisation_ops(size, statistics, NORMS[name], True)
    if name in POOLS:
        axes = 0 if "adaptive" in name else int(next(c for c in name if c.isdigit()))
        window = math.prod(operators.per_axis(args[1], axes)) if axes and "fractional" not in name else 0
        return "pool", (), {POOLS[name]: elements * (window - 1) if window else max(size - elements, 0)}
    if name in TAPS:
        return "elementwise", (), {"mul": TAPS[name] * elements, "add": (TAPS[name] - 1) * elements}
    if name in ("_upsample_bilinear2d_aa", "_upsample_bicubic2d_aa"):  # the window grows as the picture shrinks
        reach = 2 if "bicubic" in name else 1
        taps = [2 * math.ceil(reach * max(1, n / m)) + 1 for n, m in zip(given[0][-2:], outputs[0].shape[-2:], strict=True)]
        return "elementwise", (), {"mul": sum(taps) * elements, "add": sum(taps) * elements}
    if name in ("_fft_c2c", "_fft_r2c", "_fft_c2r"):
        return "elementwise", (), _fft_ops(max(size, elements), [max(given[0][d], outputs[0].shape[d]) for d in args[1]])
    if name in ("_cdist_forward", "_pdist_forward"):
        return "elementwise", (), {"add": 2 * elements * given[0][-1], "mul": elements * given[0][-1]}
    if name in SCATTERED:
        return "embedding" if "embedding" in name else "elementwise", (), {"add": max(x.numel() for x in tensors(args))}
    if name in ("native_dropout", "dropout"):
        return "elementwise", (), {"mul": size, "compare": size}
    if name in ("embedding", "embedding_renorm"):
        return "embedding", (), {}
    if name in VIEWS:
        return "view", (), {}
    if name in COPIES:
        return "copy", (), {}
    return "other", (), {}


def _fft_ops(elements: int, lengths: list[int]) -> dict[str, int]:
    """The textbook's radix-2 transform: per axis of length L, L/2·log2 L butterflies of four real products and six sums,
    for a real or a complex tensor (a library may do with fewer)."""
    stages = sum(max(1, math.ceil(math.log2(n))) if n > 1 else 0 for n in lengths)
    return {"mul": 2 * elements * stages, "add": 3 * elements * stages}
