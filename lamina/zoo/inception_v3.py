"""Inception v2 and v3. C. Szegedy, V. Vanhoucke, S. Ioffe, J. Shlens, Z. Wojna, "Rethinking the Inception architecture for
computer vision", arXiv 1512.00567, Table 1 and Figures 5 to 7 and 10.

`inception_v3` is the network of the authors' code and of all public weights: it keeps a 5x5 in the 35x35 modules and a pool
in front of them, and has four 17x17 modules.

`inception_v2` is a reconstruction of section 6. The rows of Table 1, the numbers of modules, their branches and their outputs
are the paper's; the filters inside are in no text at hand ("model.txt"), and are those that v3 has in the same place. It has
52 convolutions on its longest path: the paper's 42 layers, if a 1x7 and the 7x1 after it count as one. (BN-Inception, also
called v2 by many, is `bn_inception`.)
"""

import math
from dataclasses import dataclass

import torch
from torch import Tensor, nn

# Rows (filters, side, stride, padding), with 0 filters for a max pool. The last of v2 is not marked as padded in Table 1, but
# has outputs of 35x35 there.
STEM_V2 = ((32, 3, 2, 0), (32, 3, 1, 0), (64, 3, 1, 1), (0, 3, 2, 0), (80, 3, 1, 0), (192, 3, 2, 0), (288, 3, 1, 1))
STEM_V3 = ((32, 3, 2, 0), (32, 3, 1, 0), (64, 3, 1, 1), (0, 3, 2, 0), (80, 1, 1, 0), (192, 3, 1, 0), (0, 3, 2, 0))


@dataclass(frozen=True)
class Config:
    stem: tuple[tuple[int, int, int, int], ...] = STEM_V3
    # 35x35 modules: 1x1; 5x5 reduce, 5x5; double 3x3 reduce, double 3x3; pool projection
    a: tuple[tuple[int, int, int, int, int, int], ...] = (
        (64, 48, 64, 64, 96, 32),
        (64, 48, 64, 64, 96, 64),
        (64, 48, 64, 64, 96, 64),
    )
    wide_filter: int = 5  # side of the "5x5" branch: 3 in Figure 5, where another 3x3 makes up for it
    reduction_a: tuple[int, int, int, int] = (0, 384, 64, 96)  # 3x3 reduce (0: none), 3x3; double 3x3 reduce, double 3x3
    # 17x17 modules: 1x1; the inner filters of both 7x7 branches, their outputs; pool projection
    b: tuple[tuple[int, int, int, int], ...] = tuple((192, inner, 192, 192) for inner in (128, 160, 160, 192))
    reduction_b: tuple[int, int, int, int] = (192, 320, 192, 192)  # as above, the last with a 1x7, a 7x1 and a 3x3
    reduction_filter: int = 7  # side of the middle of the second reduction: 3 in Figure 10
    # 8x8 modules: 1x1; 3x3 reduce; double 3x3 reduce; each half of a split; pool projection
    c: tuple[tuple[int, int, int, int, int], ...] = 2 * ((320, 384, 448, 384, 192),)
    dropout: float = 0.2
    aux: bool = False  # the auxiliary head, for training
    num_classes: int = 1000
    in_channels: int = 3
    img_size: int = 299


class Conv(nn.Sequential):
    """Convolution (no bias), batch norm and rectifier. `kernel` is (height, width) or one side; without `padding` the output
    keeps the size of the input, as far as the stride lets it."""

    def __init__(
        self, in_channels: int, filters: int, kernel: int | tuple[int, int], stride: int = 1, padding: int | None = None
    ):
        super().__init__()
        height, width = (kernel, kernel) if isinstance(kernel, int) else kernel
        around = (height // 2, width // 2) if padding is None else (padding, padding)
        self.conv = nn.Conv2d(in_channels, filters, (height, width), stride, around, bias=False)
        self.bn = nn.BatchNorm2d(filters, eps=0.001)
        self.relu = nn.ReLU(inplace=True)


class InceptionA(nn.Module):
    """Figure 5. (B, C, 35, 35) to (B, n1x1 + n5x5 + ndouble + proj, 35, 35)."""

    def __init__(self, side: int, channels: int, n1x1: int, r5x5: int, n5x5: int, rdouble: int, ndouble: int, proj: int):
        super().__init__()
        self.channels = n1x1 + n5x5 + ndouble + proj
        self.branch1x1 = Conv(channels, n1x1, 1)
        self.branch5x5_1 = Conv(channels, r5x5, 1)
        self.branch5x5_2 = Conv(r5x5, n5x5, side)
        self.branch3x3dbl_1 = Conv(channels, rdouble, 1)
        self.branch3x3dbl_2 = Conv(rdouble, ndouble, 3)
        self.branch3x3dbl_3 = Conv(ndouble, ndouble, 3)
        self.pool = nn.AvgPool2d(3, stride=1, padding=1)
        self.branch_pool = Conv(channels, proj, 1)

    def forward(self, x: Tensor) -> Tensor:
        branches = [
            self.branch1x1(x),
            self.branch5x5_2(self.branch5x5_1(x)),
            self.branch3x3dbl_3(self.branch3x3dbl_2(self.branch3x3dbl_1(x))),
            self.branch_pool(self.pool(x)),
        ]
        return torch.cat(branches, dim=1)


class InceptionB(nn.Module):
    """Figure 6 with n = 7. (B, C, 17, 17) to (B, n1x1 + 2 n7x7 + proj, 17, 17)."""

    def __init__(self, channels: int, n1x1: int, inner: int, n7x7: int, proj: int):
        super().__init__()
        self.channels = n1x1 + 2 * n7x7 + proj
        self.branch1x1 = Conv(channels, n1x1, 1)
        self.branch7x7_1 = Conv(channels, inner, 1)
        self.branch7x7_2 = Conv(inner, inner, (1, 7))
        self.branch7x7_3 = Conv(inner, n7x7, (7, 1))
        self.branch7x7dbl_1 = Conv(channels, inner, 1)
        self.branch7x7dbl_2 = Conv(inner, inner, (7, 1))
        self.branch7x7dbl_3 = Conv(inner, inner, (1, 7))
        self.branch7x7dbl_4 = Conv(inner, inner, (7, 1))
        self.branch7x7dbl_5 = Conv(inner, n7x7, (1, 7))
        self.pool = nn.AvgPool2d(3, stride=1, padding=1)
        self.branch_pool = Conv(channels, proj, 1)

    def forward(self, x: Tensor) -> Tensor:
        y = self.branch7x7dbl_3(self.branch7x7dbl_2(self.branch7x7dbl_1(x)))
        branches = [
            self.branch1x1(x),
            self.branch7x7_3(self.branch7x7_2(self.branch7x7_1(x))),
            self.branch7x7dbl_5(self.branch7x7dbl_4(y)),
            self.branch_pool(self.pool(x)),
        ]
        return torch.cat(branches, dim=1)


class InceptionC(nn.Module):
    """Figure 7: both branches end in a 1x3 and a 3x1 side by side. (B, C, 8, 8) to (B, n1x1 + 4 half + proj, 8, 8)."""

    def __init__(self, channels: int, n1x1: int, r3x3: int, rdouble: int, half: int, proj: int):
        super().__init__()
        self.channels = n1x1 + 4 * half + proj
        self.branch1x1 = Conv(channels, n1x1, 1)
        self.branch3x3_1 = Conv(channels, r3x3, 1)
        self.branch3x3_2a = Conv(r3x3, half, (1, 3))
        self.branch3x3_2b = Conv(r3x3, half, (3, 1))
        self.branch3x3dbl_1 = Conv(channels, rdouble, 1)
        self.branch3x3dbl_2 = Conv(rdouble, half, 3)
        self.branch3x3dbl_3a = Conv(half, half, (1, 3))
        self.branch3x3dbl_3b = Conv(half, half, (3, 1))
        self.pool = nn.AvgPool2d(3, stride=1, padding=1)
        self.branch_pool = Conv(channels, proj, 1)

    def forward(self, x: Tensor) -> Tensor:
        y = self.branch3x3_1(x)
        z = self.branch3x3dbl_2(self.branch3x3dbl_1(x))
        branches = [
            self.branch1x1(x),
            self.branch3x3_2a(y),
            self.branch3x3_2b(y),
            self.branch3x3dbl_3a(z),
            self.branch3x3dbl_3b(z),
            self.branch_pool(self.pool(x)),
        ]
        return torch.cat(branches, dim=1)


class Reduction(nn.Module):
    """Figure 10: two strided branches beside a strided pool. (B, C, H, W) to (B, n3x3 + ndouble + C, (H - 1) / 2, (W - 1) / 2).

    The middle of the double branch is a 3x3, or with `side` 7 a 1x7 and a 7x1.
    """

    def __init__(self, side: int, channels: int, r3x3: int, n3x3: int, rdouble: int, ndouble: int):
        super().__init__()
        self.channels = n3x3 + ndouble + channels
        self.branch3x3_1 = Conv(channels, r3x3, 1) if r3x3 else nn.Identity()
        self.branch3x3_2 = Conv(r3x3 or channels, n3x3, 3, stride=2, padding=0)
        middle = [Conv(rdouble, ndouble, 3)]
        if side != 3:
            middle = [Conv(rdouble, rdouble, (1, side)), Conv(rdouble, ndouble, (side, 1))]
        self.branchdbl = nn.Sequential(Conv(channels, rdouble, 1), *middle, Conv(ndouble, ndouble, 3, stride=2, padding=0))
        self.pool = nn.MaxPool2d(3, stride=2)

    def forward(self, x: Tensor) -> Tensor:
        return torch.cat([self.branch3x3_2(self.branch3x3_1(x)), self.branchdbl(x), self.pool(x)], dim=1)


class AuxHead(nn.Module):
    """Section 4, on the last 17x17 grid, with batch norm: (B, C, 17, 17) to logits. 5x5/3 average pool, 128 1x1 filters, 768
    5x5 filters, one linear layer."""

    def __init__(self, channels: int, num_classes: int):
        super().__init__()
        self.pool = nn.AvgPool2d(5, stride=3)
        self.conv0 = Conv(channels, 128, 1)
        self.conv1 = Conv(128, 768, 5, padding=0)
        self.avgpool = nn.AdaptiveAvgPool2d(1)
        self.fc = nn.Linear(768, num_classes)

    def forward(self, x: Tensor) -> Tensor:
        x = self.conv1(self.conv0(self.pool(x)))  # (B, 768, 1, 1)
        return self.fc(self.avgpool(x).flatten(1))


class Net(nn.Module):
    """(B, 3, H, W) to logits (B, num_classes). The last pool is global: any image size from 75 is legal, or with the auxiliary
    head from 299. With `aux=True` and in training mode the result is (logits, logits of the auxiliary head), whose loss the
    authors' code adds with weight 0.4."""

    def __init__(self, config: Config):
        super().__init__()
        self.config = config
        channels, side = config.in_channels, config.img_size
        stem: list[nn.Module] = []
        for filters, kernel, stride, padding in config.stem:
            stem.append(Conv(channels, filters, kernel, stride, padding) if filters else nn.MaxPool2d(kernel, stride, padding))
            channels = filters or channels
            side = (side + 2 * padding - kernel) // stride + 1
        grid = (side - 3) // 2 + 1  # 17 after the first reduction
        if grid < 3:
            raise ValueError(
                f"img_size {config.img_size} is too small: the unpadded layers leave nothing of it (the paper's need 75)"
            )
        if config.aux and grid < 17:
            raise ValueError(f"img_size {config.img_size} is too small for the auxiliary head (the paper's stem needs 299)")
        self.stem = nn.Sequential(*stem)
        a = []
        for row in config.a:
            a.append(InceptionA(config.wide_filter, channels, *row))
            channels = a[-1].channels
        self.a = nn.Sequential(*a)
        self.reduction_a = Reduction(3, channels, *config.reduction_a)
        channels = self.reduction_a.channels
        b = []
        for row in config.b:
            b.append(InceptionB(channels, *row))
            channels = b[-1].channels
        self.b = nn.Sequential(*b)
        if config.aux:
            self.aux = AuxHead(channels, config.num_classes)
        self.reduction_b = Reduction(config.reduction_filter, channels, *config.reduction_b)
        channels = self.reduction_b.channels
        c = []
        for row in config.c:
            c.append(InceptionC(channels, *row))
            channels = c[-1].channels
        self.c = nn.Sequential(*c)
        self.avgpool = nn.AdaptiveAvgPool2d(1)
        self.drop = nn.Dropout(config.dropout)
        self.fc = nn.Linear(channels, config.num_classes)

    def init_weights(self) -> None:
        """The paper is silent. The authors' code has He's rule, from a normal that is cut at two standard deviations (the 1.3
        makes up for the cut), and standard deviations of 0.01 and 0.001 at the end of the auxiliary head; biases are zero and
        batch norms the identity."""
        for name, module in self.named_modules():
            if isinstance(module, (nn.Conv2d, nn.Linear)):
                std = {"aux.conv1.conv": 0.01, "aux.fc": 0.001}.get(name, math.sqrt(1.3 * 2 / module.weight[0].numel()))
                nn.init.trunc_normal_(module.weight, std=std, a=-2 * std, b=2 * std)
                if module.bias is not None:
                    nn.init.zeros_(module.bias)
            elif isinstance(module, nn.BatchNorm2d):
                module.reset_parameters()

    def forward(self, x: Tensor) -> Tensor | tuple[Tensor, Tensor]:
        x = self.a(self.stem(x))  # (B, 288, 35, 35)
        x = self.b(self.reduction_a(x))  # (B, 768, 17, 17)
        aux = self.aux(x) if self.config.aux and self.training else None
        x = self.c(self.reduction_b(x))  # (B, 2048, 8, 8)
        x = self.fc(self.drop(self.avgpool(x).flatten(1)))
        return x if aux is None else (x, aux)


VARIANTS = {
    "inception_v2": Config(
        stem=STEM_V2,
        a=3 * ((64, 48, 64, 64, 96, 64),),
        wide_filter=3,
        reduction_a=(192, 384, 64, 96),
        b=tuple((192, inner, 192, 192) for inner in (128, 160, 160, 160, 192)),
        reduction_filter=3,
    ),
    "inception_v3": Config(),
}
