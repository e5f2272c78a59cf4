"""Nested tensors of torch's jagged layout, in a trace with values: all rows of all sequences are one tensor, which operations
run on as on any other. Attention alone looks at where each sequence begins."""

from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

from lamina import operators
from lamina.errors import InputError
from lamina.tracing import refusals
from lamina.tracing.emitter import Emitter
from lamina.tracing.shadows import cast, shadow
from lamina.tracing.values import META
from lamina.workload import Loops


def _lengths(x: Any) -> Tensor:
    """Of the sequences."""
    return x.offsets().diff() if x.lengths() is None else x.lengths()


def attention(t: Emitter, query: Tensor, key: Tensor, value: Tensor, *args: Any, **kwargs: Any) -> Tensor:
    """Each sequence by itself, dense: its queries with its keys."""
    with torch.no_grad():
        result: Any = F.scaled_dot_product_attention(query, key, value, *args, **kwargs)
    real = getattr(result, "_values")  # noqa: B009 - an attribute of its class
    rows = torch.empty_strided(real.shape, real.stride(), dtype=real.dtype, device=META)
    cast(real, rows)
    pairs = int((_lengths(query) * _lengths(key)).sum())
    heads, width, depth = query.shape[1], query.shape[-1], value.shape[-1]
    given = [shadow(x) for x in (query, key, value)]
    names = t.operands(*given)
    nests = (
        Loops(N=pairs, G=heads, C=width, operands=(*names[:2], "scores")),
        Loops(N=pairs, G=heads, M=depth, operands=("scores", t.operand(given[2]), names[-1])),
    )
    queries = heads * int(_lengths(query).sum())
    ops = operators.sum_of(operators.softmax_ops(heads * pairs, queries), {"mul": queries * width})
    saved = (*given, rows, operators.attention_kept(queries))
    t.emit("matmul", "scaled_dot_product_attention", given, rows, nests, ops, saved)
    return result


def enter(t: Emitter, value: Any) -> Tensor:
    """What the forward gets for a nested input: itself, if there are values."""
    if not t.real or value.layout is torch.strided:
        raise InputError(refusals.of_layout(t, "an input", "nested"))
    rows = value.values()
    stand_in = torch.empty_strided(rows.shape, rows.stride(), dtype=value.dtype, device=META)
    cast(getattr(value, "_values"), stand_in)  # noqa: B009 - an attribute of its class
    t.ledger.enter(stand_in, value.requires_grad)
    return value
