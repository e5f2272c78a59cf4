"""Operators of torchvision's own: the same count from shapes and from values."""

import pytest
import torch
from torch import nn

torchvision = pytest.importorskip("torchvision", reason="needs torchvision: make peers", exc_type=ImportError)

from lamina.tracing.tracer import trace  # noqa: E402


class Deformable(nn.Module):
    def __init__(self):
        super().__init__()
        self.offsets, self.conv = nn.Conv2d(6, 18, 3, padding=1), torchvision.ops.DeformConv2d(6, 4, 3, padding=1)

    def forward(self, x):
        return self.conv(x, self.offsets(x))


@pytest.mark.parametrize("values", [False, True])
def test_deformable_convolution(values):
    """Two convolutions of 3x3 filters on 8x8 pixels: 18 and 4 filters of 6 channels."""
    work = trace(Deformable(), torch.rand(1, 6, 8, 8), values=values)
    assert (work.macs, work.coverage.unknown) == ((18 + 4) * 6 * 9 * 64, ())


@pytest.mark.parametrize("values", [False, True])
def test_roi_align(values):
    """7x7 values of 6 channels, each the mean of 2x2 samples of four points: 16 products and 15 sums a value."""
    boxes = torch.tensor([[0.0, 0, 4, 4]])
    work = trace(lambda x: torchvision.ops.roi_align(x, [boxes], 7), torch.rand(1, 6, 8, 8), values=values)
    (layer,) = [layer for layer in work.layers if layer.op == "roi_align"]
    assert (layer.ops["mul"], layer.ops["add"], work.coverage.unknown) == (16 * 294, 15 * 294, ())


def test_suppression_of_boxes():
    """Four boxes: six pairs, a quotient each."""
    boxes, scores = torch.rand(4, 4).cumsum(1), torch.rand(4)
    work = trace(lambda b, s: torchvision.ops.nms(b, s, 0.5), boxes, scores, values=True)
    assert (work.layers[-1].ops["div"], work.coverage.unknown) == (6, ())
