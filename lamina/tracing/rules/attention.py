"""Attention: torch's one function of it, by the kernel that eager execution takes, and its fused inference kernels."""

from __future__ import annotations

import math
import sys
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

from lamina import operators
from lamina.tracing import private
from lamina.tracing.emitter import Emitter
from lamina.tracing.rules.table import rule
from lamina.workload import Loops

CPU = torch.device("cpu")


@rule(F.scaled_dot_product_attention)
def attention(
    t: Emitter, query, key, value, attn_mask=None, dropout_p=0.0, is_causal=False, scale=None, enable_gqa=False
) -> Tensor:
    """Dense, whether causal or not; `attributes` say how a causal mask lies (`Workload.causal_exact` counts by it)."""
    q, k, v = tuple(query.shape), tuple(key.shape), tuple(value.shape)
    mask = attn_mask if isinstance(attn_mask, Tensor) else None
    attributes: dict[str, Any] = {"causal": bool(is_causal)}
    if is_causal:
        attributes["aligned"] = "top left"
    if type(mask).__name__ == "CausalBias":  # torch.nn.attention.bias: a mask without elements
        lower = getattr(mask, "variant").name == "LOWER_RIGHT"  # noqa: B009
        attributes, mask = {"causal": True, "aligned": "bottom right" if lower else "top left"}, None
    names = t.operands(query, key, value, mask)
    shape, nests = operators.attention(q, k, v, (t.operand(query), t.operand(key), t.operand(value), names[-1]), enable_gqa)
    ops = operators.attention_ops(q, k[-2], mask is not None)
    if dropout_p:
        ops = operators.sum_of(ops, operators.dropout_ops(math.prod(q[:-1]) * k[-2]))
    fused = _is_fused(t, query, key, value, mask, dropout_p)
    learned = mask is not None and t.thread.differentiates and t.ledger.is_differentiable(mask)
    trains = fused and (t.device == "cuda" or not learned)
    out = _laid_out(t, shape, query, fused)
    saved, _ = (_fused if trains else _composed)(t, query, key, value, mask, out, dropout_p > 0)
    _, workspace = (_fused if fused else _composed)(t, query, key, value, mask, out, dropout_p > 0)
    name, given = "scaled_dot_product_attention", (query, key, value, mask)
    return t.emit("matmul", name, given, out, nests, ops, saved, attributes, workspace=workspace)


@rule(Tensor.device.__get__)  # type: ignore[attr-defined]
def device(t: Emitter, input: Tensor) -> torch.device:
    """The stand-in's own. FlexAttention refuses the meta device, and is told the CPU."""
    return CPU if private.is_flex_attention(sys._getframe(3)) else input.device


@rule(private.flex_attention)
def flex_attention(t: Emitter, query, key, value, score_mod, block_mask, scale, kernel_options, *_: Any) -> Any:
    """Its compiled kernel, which keeps no scores; dense, as attention under any other mask is."""
    q = tuple(query.shape)
    k, v = ((q[0], *x.shape[1:]) for x in (key, value))  # one batch of keys may serve all queries
    names = t.operands(query, key, value)
    shape, nests = operators.attention(q, k, v, (*names[:2], t.operand(value), names[-1]), True)
    blocks = [x for x in block_mask if isinstance(x, Tensor)]
    counts = [x for x in blocks[::2][:2] if not x.is_meta]
    share = ""
    if counts and blocks[1].numel() > 1:
        share = f"; its mask asks for {sum(int(x.sum()) for x in counts)} of {blocks[1].numel()} blocks"
    t.note(f"FlexAttention is counted dense, by its compiled kernel{share}")
    out = _laid_out(t, shape, query, True)
    statistics = [t.new(shape[:-1], torch.float32) for _ in range(2)]  # the logarithm of each row's sum, its maximum
    ops = operators.attention_ops(q, k[-2], True)
    saved = (query, key, value, out, statistics[0])
    results = (out, *statistics)
    return t.emit("matmul", "flex_attention", (query, key, value), results, nests, ops, saved, {"causal": False})


def _is_fused(t: Emitter, q: Tensor, k: Tensor, v: Tensor, mask: Tensor | None, dropout: float) -> bool:
    """Whether torch has a kernel for it: aten/src/ATen/native/transformers/sdp_utils_cpp.cpp for the CPU, where a mask that a
    gradient flows to has none either. On a GPU (whose
    kernels differ by type, head and mask; the memory-efficient one takes all of these) only the axes decide."""
    if not q.dim() == k.dim() == v.dim() == 4:
        return False
    if t.device == "cuda":
        return True
    if dropout or not q.shape[-1] == k.shape[-1] == v.shape[-1] or any(x.stride(-1) != 1 for x in (q, k, v)):
        return False
    return mask is None or mask.dim() in (2, 4)


def _laid_out(t: Emitter, shape: tuple[int, ...], query: Tensor, fused: bool) -> Tensor:
    """The result: fused kernels lay it out as the query lies."""
    if not fused or shape != tuple(query.shape):
        return t.new(shape, query.dtype)
    order = sorted(range(4), key=query.stride().__getitem__, reverse=True)
    return t.new(tuple([shape[axis] for axis in order]), query.dtype).permute([order.index(axis) for axis in range(4)])


def _fused(
    t: Emitter, q: Tensor, k: Tensor, v: Tensor, mask: Tensor | None, out: Tensor, dropout: bool
) -> tuple[tuple[Tensor | int, ...], int]:
    """What a fused kernel keeps, and the bytes that it needs beside its result."""
    kept = operators.attention_kept(math.prod(q.shape[:-1]))
    added: tuple[Tensor | int, ...] = (mask,) if mask is not None else ()
    number = _as_numbers(mask, q.element_size())
    return (q, k, v, out, kept, *((number,) if number else added), operators.SEED_KEPT if dropout else 0), kept + number


def _as_numbers(mask: Tensor | None, itemsize: int) -> int:
    """The bytes of a mask of booleans as one of numbers, which is what is added to the scores."""
    return mask.numel() * itemsize if mask is not None and mask.dtype == torch.bool else 0


def _composed(
    t: Emitter, q: Tensor, k: Tensor, v: Tensor, mask: Tensor | None, out: Tensor, dropout: bool
) -> tuple[tuple[Tensor | int, ...], int]:
    """The same of attention made of other operations (_scaled_dot_product_attention_math): the products of scaled copies of
    query and key, the softmax, the dropped softmax, and value, 16-bit numbers as fp32."""
    size = max(4, q.element_size()) if q.is_floating_point() else q.element_size()
    batch = q.shape[:-2]
    queries, keys = size * q.numel(), size * math.prod((*batch, *k.shape[-2:]))
    scores = size * math.prod((*batch, q.shape[-2], k.shape[-2]))
    values: Tensor | int = v
    if size != v.element_size() or v.shape[:-2] != batch:
        values = size * math.prod((*batch, *v.shape[-2:]))
    elif v.dim() > 2:
        values = operators.batched_copy(tuple(v.shape), v.stride(), tuple(batch)) * size or v
    by_scores, by_values = (any(map(t.ledger.is_differentiable, x)) for x in ((q, k), (v,)))
    if mask is not None:
        by_scores = by_scores or t.ledger.is_differentiable(mask)
    saved: tuple[Tensor | int, ...] = (
        queries if t.ledger.is_differentiable(k) else 0,
        keys if t.ledger.is_differentiable(q) else 0,
        scores if by_scores or by_values else 0,
        operators.dropout_kept(scores // size, size, t.device) if dropout and by_scores else 0,
        scores if dropout and by_values else 0,
        values if by_scores else 0,
    )
    number = _as_numbers(mask, size)
    copied = values if isinstance(values, int) else 0
    result = size * out.numel()
    whole = queries + number + max(keys + scores, (4 if dropout else 2) * scores, scores + copied + result)
    return saved, whole - result


# ---- torch's fused inference kernels, which it takes outside of a trace only; whoever calls them by name is counted too


def _attention_block(t: Emitter, x: Tensor, heads: int, qkv: Tensor, out: Tensor) -> tuple[tuple[Loops, ...], dict[str, int]]:
    """The four nests of multi-head self-attention on x (B, L, E), and the arithmetic beside."""
    batch, length, width = x.shape
    rows, place = batch * length, (t.operand(x), t.operand(qkv), t.operand(out))
    scores = (batch, heads, length, width // heads)
    _, (first, second) = operators.attention(scores, scores, scores, ("query", "key", "value", "heads"))
    nests = (
        Loops(N=rows, M=3 * width, C=width, operands=(place[0], place[1], "query, key and value")),
        first,
        second,
        Loops(N=rows, M=width, C=width, operands=("heads", place[2], "output")),
    )
    biases = {"add": 4 * rows * width}
    return nests, operators.sum_of(operators.attention_ops(scores, length), biases)


@rule(private.native_multi_head_attention)
def native_attention(
    t: Emitter, query, key, value, embed_dim, num_head, qkv_weight, qkv_bias, proj_weight, proj_bias, mask=None,
    need_weights=True, average_attn_weights=True, mask_type=None,
):  # fmt: skip
    if query is not key or key is not value:
        return NotImplemented  # torch has no such kernel either
    nests, ops = _attention_block(t, query, num_head, qkv_weight, proj_weight)
    batch, length, _ = query.shape
    out = t.new(tuple(query.shape), query.dtype)
    shape = (batch, length, length) if average_attn_weights else (batch, num_head, length, length)
    outputs = (out, t.new(shape, query.dtype)) if need_weights else (out,)
    given = (query, qkv_weight, qkv_bias, proj_weight, proj_bias, mask)
    workspace = query.element_size() * (4 * query.numel() + batch * num_head * length * length)
    t.emit("linear", "native_multi_head_attention", given, outputs, nests, ops, workspace=workspace)
    return outputs if need_weights else (out, None)


@rule(private.transformer_encoder_layer)
def encoder_layer(
    t: Emitter, src, embed_dim, num_heads, qkv_weight, qkv_bias, proj_weight, proj_bias, use_gelu, norm_first, eps,
    norm_weight_1, norm_bias_1, norm_weight_2, norm_bias_2, ffn_weight_1, ffn_bias_1, ffn_weight_2, ffn_bias_2, mask=None,
    mask_type=None,
) -> Tensor:  # fmt: skip
    nests, ops = _attention_block(t, src, num_heads, qkv_weight, proj_weight)
    rows, width, inner = src.shape[0] * src.shape[1], src.shape[2], ffn_weight_1.shape[0]
    nests += (
        Loops(N=rows, M=inner, C=width, operands=("attended", t.operand(ffn_weight_1), "hidden")),
        Loops(N=rows, M=width, C=inner, operands=("hidden", t.operand(ffn_weight_2), "output")),
    )
    total = operators.sum_of(
        ops,
        operators.activation_ops("gelu" if use_gelu else "relu", rows * inner),
        operators.normalisation_ops(2 * rows * width, 2 * rows),
        {"add": rows * (inner + 3 * width)},  # the second half's biases and two shortcuts
    )
    given = (
        src, qkv_weight, qkv_bias, proj_weight, proj_bias, norm_weight_1, norm_bias_1, norm_weight_2, norm_bias_2,
        ffn_weight_1, ffn_bias_1, ffn_weight_2, ffn_bias_2, mask,
    )  # fmt: skip
    out = t.new(tuple(src.shape), src.dtype)
    workspace = src.element_size() * max(4 * rows * width + src.shape[0] * num_heads * src.shape[1] ** 2, rows * inner)
    return t.emit("linear", "transformer_encoder_layer_fwd", given, out, nests, total, workspace=workspace)
