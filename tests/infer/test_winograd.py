"""Winograd's convolutions against torch's direct ones, in double precision."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn
from torch.nn import functional as F

from lamina.infer import winograd

pytestmark = pytest.mark.skipif(not winograd.available(), reason="needs a C++ compiler")


@settings(max_examples=80, deadline=None)
@given(
    batch=st.integers(1, 3),
    channels=st.integers(1, 40),
    filters=st.integers(1, 40),
    size=st.tuples(st.integers(4, 15), st.integers(4, 15)),
    padding=st.tuples(st.integers(0, 2), st.integers(0, 2)),
    bias=st.booleans(),
    relu=st.booleans(),
    pool=st.booleans(),
    last=st.booleans(),
)
def test_equals_the_direct_convolution(batch, channels, filters, size, padding, bias, relu, pool, last):
    torch.manual_seed(channels * filters)
    conv = nn.Conv2d(channels, filters, 3, padding=padding, bias=bias)
    x = torch.randn(batch, channels, *size)
    expected = F.conv2d(x.double(), conv.weight.double(), None if conv.bias is None else conv.bias.double(), padding=padding)
    expected = expected.relu() if relu else expected
    expected = F.max_pool2d(expected, 2) if pool else expected
    given = x.contiguous(memory_format=torch.channels_last) if last else x
    with torch.inference_mode():
        found = winograd.Winograd(conv, relu, pool)(given)
    assert found.shape == expected.shape
    assert (found - expected).abs().max() <= 2e-5 * max(1.0, expected.abs().max().item())


def test_splits_its_work_into_parts(monkeypatch):
    conv, x = nn.Conv2d(8, 8, 3, padding=1), torch.randn(2, 8, 21, 17)
    with torch.inference_mode():
        whole = winograd.Winograd(conv)(x)
        monkeypatch.setattr(winograd, "WORKING_SET", 36 * 4 * 16 * 3)  # three tiles at a time
        assert torch.allclose(winograd.Winograd(conv)(x), whole, atol=1e-5)


def test_no_image_gives_no_answer():
    with torch.inference_mode():
        assert winograd.Winograd(nn.Conv2d(4, 8, 3, padding=1))(torch.randn(0, 4, 9, 9)).shape == (0, 8, 9, 9)


def test_lets_what_is_not_a_number_through():
    x = torch.randn(1, 4, 8, 8)
    x[0, 0, 5, 5] = float("nan")
    conv = nn.Conv2d(4, 4, 3, padding=1)
    with torch.inference_mode():
        assert winograd.Winograd(conv, relu=True)(x)[0, :, 5, 5].isnan().all()


@pytest.mark.parametrize(
    "conv",
    [
        nn.Conv2d(4, 4, 3, stride=2),
        nn.Conv2d(4, 4, 3, groups=2),
        nn.Conv2d(4, 4, 3, dilation=2),
        nn.Conv2d(4, 4, 5),
        nn.Conv2d(4, 4, (3, 1)),
        nn.Conv2d(4, 4, 3, padding=1, padding_mode="reflect"),
        nn.Conv2d(4, 4, 3).double(),
    ],
)
def test_other_convolutions_are_not_its(conv):
    assert not winograd.fits(conv)
    with pytest.raises(ValueError, match="3x3"):
        winograd.Winograd(conv)


def test_filters_are_the_papers():
    """Section 4.3: the transform of a filter of which only the centre is 1 is the outer product of G's second column."""
    weight = torch.zeros(1, 1, 3, 3)
    weight[0, 0, 1, 1] = 1
    column = torch.tensor([0, -1 / 6, 1 / 6, 1 / 12, -1 / 12, 0])
    assert torch.allclose(winograd.filters(weight)[:, 0, 0].view(6, 6), torch.outer(column, column))
