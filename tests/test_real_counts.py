"""The independent counter itself, against arithmetic: what it must see, forward and backward, and what it refuses."""

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from tests.real_counts import Products, count


class Cut(nn.Module):
    """Two layers, the second of which gives the first no gradient."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.second = nn.Linear(4, 4), nn.Linear(4, 4)

    def forward(self, x: Tensor) -> Tensor:
        return self.second(self.first(x).detach())


class Attends(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.ones(8))

    def forward(self, x: Tensor) -> Tensor:
        q = x * self.weight
        return F.scaled_dot_product_attention(q, q, q)


CONV = 8 * 8 * 8 * 3 * 9  # 3 to 8 channels, 3x3, of 10x10 pixels
LSTM = 4 * 3 * (4 * 5 * 6 + 4 * 5 * 5)  # 4 steps of 3: four gates of 5 from 6 inputs and 5 states
CASES = {
    "the first layer's input needs no gradient": (nn.Conv2d(3, 8, 3), (1, 3, 10, 10), CONV, CONV),
    "a transposed convolution in groups": (
        nn.ConvTranspose2d(4, 6, 3, 2, groups=2),
        (1, 4, 5, 5),
        25 * 4 * 3 * 9,
        25 * 4 * 3 * 9,
    ),
    "two layers": (nn.Sequential(nn.Linear(4, 5), nn.Linear(5, 2)), (3, 4), 3 * 30, 3 * (20 + 2 * 10)),
    "no gradient through a detach": (Cut(), (2, 4), 64, 32),
    # Of the states' product the first step has no gradient to the state before it, and the inputs need none.
    "an LSTM": (nn.LSTM(6, 5), (4, 3, 6), LSTM, LSTM + 3 * 3 * 4 * 5 * 5),
    "attention is taken apart": (Attends(), (1, 2, 7, 8), 2 * 2 * 7 * 7 * 8, 4 * 2 * 7 * 7 * 8),
}


@pytest.mark.parametrize("case", CASES)
def test_against_arithmetic(case: str) -> None:
    module, shape, macs, backward = CASES[case]
    torch.manual_seed(0)
    found = count(module, torch.randn(shape))
    assert (found.macs, found.backward_macs) == (macs, backward)
    assert found.parameters == sum(p.numel() for p in module.parameters())


def test_a_kernel_that_hides_products_is_refused() -> None:
    with torch.no_grad(), pytest.raises(NotImplementedError, match="may hide products"), Products():
        F.scaled_dot_product_attention(*(torch.randn(1, 2, 8, 16) for _ in range(3)))
    with pytest.raises(NotImplementedError, match=r"trilinear.* may hide products"):
        count(nn.Bilinear(3, 4, 5), torch.randn(2, 3), torch.randn(2, 4))
