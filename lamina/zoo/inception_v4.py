"""Inception v4. C. Szegedy, S. Ioffe, V. Vanhoucke, A. Alemi, "Inception-v4, Inception-ResNet and the impact of residual
connections on learning", arXiv 1602.07261, Figures 3 to 9; Table 1 for the filters of the first reduction.

Where a 1x7 is beside a 7x1 (1x3 beside 3x1), their order is that of the authors' code, which public weights need.
"""

import math
from dataclasses import dataclass

import torch
from torch import Tensor, nn


@dataclass(frozen=True)
class Config:
    depths: tuple[int, int, int] = (4, 7, 3)  # Figure 9: modules A, B and C
    # Figure 3: the three convolutions of the plain stem, the strided one, the 1x1 (and 1x7, 7x1) and 3x3, the last one
    stem: tuple[int, int, int, int, int, int, int] = (32, 32, 64, 96, 64, 96, 192)
    a: tuple[int, int, int] = (96, 64, 96)  # Figure 4: 1x1 (and pool projection, 3x3 outputs); 3x3 reduce; 3x3
    reduction_a: tuple[int, int, int, int] = (192, 224, 256, 384)  # Figure 7 and Table 1: k, l, m, n
    b: tuple[int, int, int, int, int] = (384, 192, 224, 256, 128)  # Figure 5: 1x1; reduce; inner; last; pool projection
    reduction_b: tuple[int, int, int] = (192, 256, 320)  # Figure 8: 3x3; reduce and 1x7; 7x1 and 3x3
    c: tuple[int, int, int, int] = (256, 384, 448, 512)  # Figure 6: all outputs; reduce; 3x1; 1x3
    dropout: float = 0.2  # Figure 9: keep 0.8
    num_classes: int = 1000
    in_channels: int = 3
    img_size: int = 299


class Conv(nn.Sequential):
    """Convolution (no bias), batch norm and rectifier. `kernel` is (height, width) or one side; without `valid` ("V" in the
    figures) the output keeps the size of the input."""

    def __init__(self, in_channels: int, filters: int, kernel: int | tuple[int, int], stride: int = 1, valid: bool = False):
        super().__init__()
        height, width = (kernel, kernel) if isinstance(kernel, int) else kernel
        padding = (0, 0) if valid else (height // 2, width // 2)
        self.conv = nn.Conv2d(in_channels, filters, (height, width), stride, padding, bias=False)
        self.bn = nn.BatchNorm2d(filters, eps=0.001)
        self.relu = nn.ReLU(inplace=True)


class AvgPool(nn.AvgPool2d):
    """3x3 average of the pixels that exist: the padding does not count."""

    def __init__(self):
        super().__init__(3, stride=1, padding=1, count_include_pad=False)


class Branches(nn.Module):
    """Branches that see the same input, concatenated. (B, C, H, W) to (B, sum of their outputs, H', W')."""

    def __init__(self, channels: int, *branches: nn.Module):
        super().__init__()
        self.channels = channels  # of the output
        self.names = [f"branch{i}" for i in range(len(branches))]
        for name, branch in zip(self.names, branches, strict=True):
            self.add_module(name, branch)

    def forward(self, x: Tensor) -> Tensor:
        return torch.cat([self.get_submodule(name)(x) for name in self.names], dim=1)


class Split(nn.Module):
    """The end of Figure 6's branches: a 1x3 and a 3x1 side by side. (B, C, H, W) to (B, 2 filters, H, W)."""

    def __init__(self, in_channels: int, filters: int):
        super().__init__()
        self.wide = Conv(in_channels, filters, (1, 3))
        self.high = Conv(in_channels, filters, (3, 1))

    def forward(self, x: Tensor) -> Tensor:
        return torch.cat([self.wide(x), self.high(x)], dim=1)


class Stem(nn.Sequential):
    """Figure 3. (B, 3, 299, 299) to (B, 384, 35, 35); the grid is halved, and the branches split, three times."""

    def __init__(self, config: Config):
        super().__init__()
        c1, c2, c3, strided, reduce, wide, last = config.stem
        self.conv1 = Conv(config.in_channels, c1, 3, stride=2, valid=True)  # (B, 32, 149, 149)
        self.conv2 = Conv(c1, c2, 3, valid=True)  # (B, 32, 147, 147)
        self.conv3 = Conv(c2, c3, 3)  # (B, 64, 147, 147)
        n = c3 + strided
        self.split1 = Branches(n, nn.MaxPool2d(3, stride=2), Conv(c3, strided, 3, stride=2, valid=True))  # (B, 160, 73, 73)
        self.split2 = Branches(  # (B, 192, 71, 71)
            2 * wide,
            nn.Sequential(Conv(n, reduce, 1), Conv(reduce, wide, 3, valid=True)),
            nn.Sequential(
                Conv(n, reduce, 1),
                Conv(reduce, reduce, (1, 7)),
                Conv(reduce, reduce, (7, 1)),
                Conv(reduce, wide, 3, valid=True),
            ),
        )
        n = 2 * wide
        self.split3 = Branches(n + last, Conv(n, last, 3, stride=2, valid=True), nn.MaxPool2d(3, stride=2))  # (B, 384, 35, 35)


def inception_a(channels: int, out: int, reduce: int, n3x3: int) -> Branches:
    """Figure 4. (B, 384, 35, 35) to (B, 384, 35, 35)."""
    return Branches(
        2 * out + 2 * n3x3,
        Conv(channels, out, 1),
        nn.Sequential(Conv(channels, reduce, 1), Conv(reduce, n3x3, 3)),
        nn.Sequential(Conv(channels, reduce, 1), Conv(reduce, n3x3, 3), Conv(n3x3, n3x3, 3)),
        nn.Sequential(AvgPool(), Conv(channels, out, 1)),
    )


def reduction_a(channels: int, k: int, l: int, m: int, n: int) -> Branches:  # noqa: E741 (the paper's letters)
    """Figure 7. (B, 384, 35, 35) to (B, 1024, 17, 17)."""
    return Branches(
        n + m + channels,
        Conv(channels, n, 3, stride=2, valid=True),
        nn.Sequential(Conv(channels, k, 1), Conv(k, l, 3), Conv(l, m, 3, stride=2, valid=True)),
        nn.MaxPool2d(3, stride=2),
    )


def inception_b(channels: int, n1x1: int, reduce: int, inner: int, last: int, proj: int) -> Branches:
    """Figure 5. (B, 1024, 17, 17) to (B, 1024, 17, 17)."""
    return Branches(
        n1x1 + 2 * last + proj,
        Conv(channels, n1x1, 1),
        nn.Sequential(Conv(channels, reduce, 1), Conv(reduce, inner, (1, 7)), Conv(inner, last, (7, 1))),
        nn.Sequential(
            Conv(channels, reduce, 1),
            Conv(reduce, reduce, (7, 1)),
            Conv(reduce, inner, (1, 7)),
            Conv(inner, inner, (7, 1)),
            Conv(inner, last, (1, 7)),
        ),
        nn.Sequential(AvgPool(), Conv(channels, proj, 1)),
    )


def reduction_b(channels: int, n3x3: int, reduce: int, last: int) -> Branches:
    """Figure 8. (B, 1024, 17, 17) to (B, 1536, 8, 8)."""
    return Branches(
        n3x3 + last + channels,
        nn.Sequential(Conv(channels, n3x3, 1), Conv(n3x3, n3x3, 3, stride=2, valid=True)),
        nn.Sequential(
            Conv(channels, reduce, 1),
            Conv(reduce, reduce, (1, 7)),
            Conv(reduce, last, (7, 1)),
            Conv(last, last, 3, stride=2, valid=True),
        ),
        nn.MaxPool2d(3, stride=2),
    )


def inception_c(channels: int, out: int, reduce: int, high: int, wide: int) -> Branches:
    """Figure 6. (B, 1536, 8, 8) to (B, 1536, 8, 8)."""
    return Branches(
        6 * out,
        Conv(channels, out, 1),
        nn.Sequential(Conv(channels, reduce, 1), Split(reduce, out)),
        nn.Sequential(Conv(channels, reduce, 1), Conv(reduce, high, (3, 1)), Conv(high, wide, (1, 3)), Split(wide, out)),
        nn.Sequential(AvgPool(), Conv(channels, out, 1)),
    )


class Net(nn.Module):
    """(B, 3, H, W) to logits (B, num_classes). The last pool is global: any image size from 75 is legal."""

    def __init__(self, config: Config):
        super().__init__()
        if config.img_size < 75:
            raise ValueError(f"img_size {config.img_size} is too small: the unpadded layers need 75 to leave a pixel")
        self.config = config
        self.stem = Stem(config)
        channels = self.stem.split3.channels
        a = []
        for _ in range(config.depths[0]):
            a.append(inception_a(channels, *config.a))
            channels = a[-1].channels
        self.a = nn.Sequential(*a)
        self.reduction_a = reduction_a(channels, *config.reduction_a)
        channels = self.reduction_a.channels
        b = []
        for _ in range(config.depths[1]):
            b.append(inception_b(channels, *config.b))
            channels = b[-1].channels
        self.b = nn.Sequential(*b)
        self.reduction_b = reduction_b(channels, *config.reduction_b)
        channels = self.reduction_b.channels
        c = []
        for _ in range(config.depths[2]):
            c.append(inception_c(channels, *config.c))
            channels = c[-1].channels
        self.c = nn.Sequential(*c)
        self.avgpool = nn.AdaptiveAvgPool2d(1)
        self.drop = nn.Dropout(config.dropout)
        self.fc = nn.Linear(channels, config.num_classes)

    def init_weights(self) -> None:
        """The paper is silent. The authors' code draws convolutions by He's rule, from a normal that is cut at two standard
        deviations (the 1.3 makes up for the cut), as is the last layer here; biases are zero and batch norms the identity."""
        for module in self.modules():
            if isinstance(module, (nn.Conv2d, nn.Linear)):
                std = math.sqrt(1.3 * 2 / module.weight[0].numel())
                nn.init.trunc_normal_(module.weight, std=std, a=-2 * std, b=2 * std)
                if module.bias is not None:
                    nn.init.zeros_(module.bias)
            elif isinstance(module, nn.BatchNorm2d):
                module.reset_parameters()

    def forward(self, x: Tensor) -> Tensor:
        x = self.a(self.stem(x))  # (B, 384, 35, 35)
        x = self.b(self.reduction_a(x))  # (B, 1024, 17, 17)
        x = self.c(self.reduction_b(x))  # (B, 1536, 8, 8)
        return self.fc(self.drop(self.avgpool(x).flatten(1)))


VARIANTS = {"inception_v4": Config()}
