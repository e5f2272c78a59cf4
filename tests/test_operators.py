"""Shapes and counts against torch itself, and by hand."""

import pytest
import torch
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from torch.nn import functional as F

from lamina import operators
from lamina.operators import ShapeError
from lamina.workload import Loops

sizes = st.integers(1, 3)


@given(st.integers(1, 12), sizes, sizes, st.integers(0, 2), sizes, sizes, sizes)
@settings(deadline=None, max_examples=150)
def test_convolution_is_torch_s(side, k, stride, pad, dilation, groups, m):
    x, w = torch.empty(2, 2 * groups, side, side + 1), torch.empty(m * groups, 2, k, k)
    span = dilation * (k - 1) + 1
    if side + 2 * pad < span:
        with pytest.raises(ShapeError, match="too small"):
            operators.convolution(tuple(x.shape), tuple(w.shape), (stride,) * 2, (pad,) * 2, (dilation,) * 2, groups)
        return
    shape, nest = operators.convolution(tuple(x.shape), tuple(w.shape), (stride,) * 2, (pad,) * 2, (dilation,) * 2, groups)
    y = F.conv2d(x, w, stride=stride, padding=pad, dilation=dilation, groups=groups)
    assert shape == tuple(y.shape)
    assert nest.macs == y.numel() * 2 * k * k


@given(st.integers(1, 6), sizes, sizes, st.integers(0, 1), sizes, sizes)
@settings(deadline=None, max_examples=100)
def test_transposed_convolution_is_torch_s(side, k, stride, pad, groups, m):
    x, w = torch.empty(2, 2 * groups, side, side), torch.empty(2 * groups, m, k, k)
    extra = min(stride - 1, 1)
    assume((side - 1) * stride - 2 * pad + k + extra > 0)
    args = (stride,) * 2, (pad,) * 2, (extra,) * 2, (1, 1), groups
    shape, nest = operators.transposed_convolution(tuple(x.shape), tuple(w.shape), *args)
    assert shape == tuple(F.conv_transpose2d(x, w, stride=stride, padding=pad, output_padding=extra, groups=groups).shape)
    assert nest.macs == x.numel() * m * k * k  # every input value meets its group's m filters
    assert nest.transposed


@given(st.integers(1, 14), st.integers(1, 4), st.integers(1, 4), st.booleans(), st.data())
@settings(deadline=None, max_examples=200)
def test_pooling_is_torch_s(side, k, stride, ceil, data):
    pad = data.draw(st.integers(0, k // 2))
    assume(side + 2 * pad >= k)
    ours = operators.pooling((1, 2, side), (k,), (stride,), (pad,), (1,), ceil)
    assert ours == tuple(F.max_pool1d(torch.rand(1, 2, side), k, stride, pad, ceil_mode=ceil).shape)


@given(st.lists(st.integers(1, 3), min_size=1, max_size=4), st.lists(st.integers(1, 3), min_size=1, max_size=4))
@settings(deadline=None, max_examples=200)
def test_matmul_is_torch_s(a, b):
    try:
        y = torch.empty(a) @ torch.empty(b)
    except RuntimeError:
        with pytest.raises(ShapeError):
            operators.matmul(tuple(a), tuple(b))
        return
    shape, nest = operators.matmul(tuple(a), tuple(b))
    assert shape == tuple(y.shape)
    assert nest.macs == y.numel() * a[-1]


@given(st.lists(st.integers(1, 3), max_size=4), st.lists(st.integers(1, 3), max_size=4))
@settings(deadline=None)
def test_broadcast_is_torch_s(a, b):
    try:
        expected = tuple(torch.broadcast_shapes(tuple(a), tuple(b)))
    except RuntimeError:
        with pytest.raises(ShapeError):
            operators.broadcast(tuple(a), tuple(b))
        return
    assert operators.broadcast(tuple(a), tuple(b)) == expected


def test_same_padding():
    for k in (1, 2, 3, 4):
        pads = operators.resolve_padding("same", (k, k), (2, 1))
        shape, _ = operators.convolution((1, 1, 9, 9), (1, 1, k, k), (1, 1), pads, (2, 1), 1)
        assert shape == (1, 1, 9, 9)  # torch's "same" keeps the size; it puts the larger part of an odd total behind
        assert pads == tuple(
            (d * (k - 1)) // 2 if d * (k - 1) % 2 == 0 else (d * (k - 1) // 2, d * (k - 1) // 2 + 1) for d in (2, 1)
        )


def test_attention_counts_both_products():
    shape, (scores, values) = operators.attention((2, 8, 10, 16), (2, 2, 12, 16), (2, 2, 12, 32))
    assert shape == (2, 8, 10, 32)
    assert (scores.macs, values.macs) == (2 * 8 * 10 * 12 * 16, 2 * 8 * 10 * 12 * 32)
    with pytest.raises(ShapeError, match="do not fit"):
        operators.attention((1, 4, 8), (1, 4, 7), (1, 4, 7))


def test_macs_of_a_nest():
    assert Loops(N=2, G=3, M=5, C=7, output=(11, 13), filter=(3, 1), times=4).macs == 4 * 2 * 3 * 5 * 7 * 11 * 13 * 3
    assert operators.linear((4, 6, 8), (3, 8))[1].macs == 4 * 6 * 8 * 3
    with pytest.raises(ShapeError, match="takes 8 features, got 7"):
        operators.linear((4, 7), (3, 8))


@given(
    st.lists(st.tuples(st.integers(1, 4), st.booleans()), min_size=1, max_size=5),
    st.data(),
)
def test_viewable_is_torch_s(axes, data):
    """Of tensors whose axes are cut and exchanged."""
    sizes = [n for n, _ in axes]
    x = torch.empty([n + cut for n, cut in axes], device="meta")[tuple(slice(n) for n in sizes)]
    x = x.permute(data.draw(st.permutations(range(len(sizes)))))
    parts = [p for n in data.draw(st.permutations(sizes)) for p in ((2, 2) if n == 4 and data.draw(st.booleans()) else (n,))]
    wanted = []
    for part in parts:  # neighbours put together, and ones in between
        if wanted and data.draw(st.booleans()):
            wanted[-1] *= part
        else:
            wanted += [1, part] if data.draw(st.booleans()) else [part]
    shared = x.reshape(wanted).untyped_storage()._cdata == x.untyped_storage()._cdata
    assert operators.viewable(tuple(x.shape), x.stride(), tuple(wanted)) == shared
