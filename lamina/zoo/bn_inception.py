"""BN-Inception. S. Ioffe, C. Szegedy, "Batch normalization: accelerating deep network training by reducing internal
covariate shift", arXiv 1502.03167, Figure 5 (appendix).

The figure contradicts itself in 4c and 4d: it prints outputs of 576 and pool projections of 128, which make 608.
`bn_inception` has the printed outputs, with projections of 96, and no biases in front of the batch norms.
`bn_inception_caffe` is the popular port: the printed projections, and biases all the same. Against the appendix, both have
an ordinary first convolution in place of a separable one of depth multiplier 8.
"""

from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn import functional as F

Row = tuple[int, int, int, int, int, str, int]

# Figure 5, columns #1x1, #3x3 reduce, #3x3, double #3x3 reduce, double #3x3, pool, proj. The rows of stride 2 have neither a
# 1x1 branch nor a projection: their pool is passed through, and their output is half of the printed 28x28 and 14x14.
TABLE: dict[str, Row] = {
    "3a": (64, 64, 64, 64, 96, "avg", 32),
    "3b": (64, 64, 96, 64, 96, "avg", 64),
    "3c": (0, 128, 160, 64, 96, "max", 0),
    "4a": (224, 64, 96, 96, 128, "avg", 128),
    "4b": (192, 96, 128, 96, 128, "avg", 128),
    "4c": (160, 128, 160, 128, 160, "avg", 96),
    "4d": (96, 128, 192, 160, 192, "avg", 96),
    "4e": (0, 128, 192, 192, 256, "max", 0),
    "5a": (352, 192, 320, 160, 224, "avg", 128),
    "5b": (352, 192, 320, 192, 224, "max", 128),
}
CAFFE: dict[str, Row] = TABLE | {"4c": (160, 128, 160, 128, 160, "avg", 128), "4d": (96, 128, 192, 160, 192, "avg", 128)}


@dataclass(frozen=True)
class Config:
    stem: tuple[int, int, int] = (64, 64, 192)  # the 7x7, the 1x1 reduction and the 3x3 in front of 3a
    inceptions: tuple[Row, ...] = tuple(TABLE.values())
    conv_bias: bool = False  # section 3.2: the batch norm's shift takes the bias's place
    num_classes: int = 1000
    in_channels: int = 3
    img_size: int = 224


class Conv(nn.Sequential):
    """Convolution, batch norm and rectifier. (B, C, H, W) to (B, filters, ceil(H / stride), ceil(W / stride))."""

    def __init__(self, config: Config, in_channels: int, filters: int, kernel: int, stride: int = 1):
        super().__init__()
        self.conv = nn.Conv2d(in_channels, filters, kernel, stride, padding=kernel // 2, bias=config.conv_bias)
        self.bn = nn.BatchNorm2d(filters)
        self.relu = nn.ReLU(inplace=True)


class StridedPool(nn.Module):
    """3x3/2 max pool. (B, C, H, W) to (B, C, ceil(H / 2), ceil(W / 2)), as a padded convolution of stride 2 has it.

    On even sides, as in the paper, the last window sticks out; odd ones are padded by one on both sides.
    """

    def forward(self, x: Tensor) -> Tensor:
        return F.max_pool2d(x, 3, stride=2, padding=(x.shape[2] % 2, x.shape[3] % 2), ceil_mode=True)


class Inception(nn.Module):
    """The module of Figure 5, with two 3x3 where GoogLeNet has a 5x5: (B, C, H, W) to (B, n1x1 + n3x3 + ndouble + proj, H, W),
    or without a projection to (B, n3x3 + ndouble + C, ceil(H / 2), ceil(W / 2))."""

    def __init__(
        self, config: Config, channels: int, n1x1: int, r3x3: int, n3x3: int, rdouble: int, ndouble: int, pool: str, proj: int
    ):
        super().__init__()
        if pool not in ("avg", "max"):
            raise ValueError(f"the pool of an Inception module is 'avg' or 'max', not {pool!r}")
        if (n1x1 == 0) != (proj == 0) or (proj == 0 and pool != "max"):
            raise ValueError("an Inception module of stride 2 has no 1x1 branch and a max pool without projection")
        stride = 1 if proj else 2
        self.channels = n1x1 + n3x3 + ndouble + (proj or channels)
        self.branch1 = Conv(config, channels, n1x1, 1) if n1x1 else None
        self.reduce3 = Conv(config, channels, r3x3, 1)
        self.branch3 = Conv(config, r3x3, n3x3, 3, stride)
        self.reduce_double = Conv(config, channels, rdouble, 1)
        self.double1 = Conv(config, rdouble, ndouble, 3)
        self.double2 = Conv(config, ndouble, ndouble, 3, stride)
        if stride == 2:
            self.pool = StridedPool()
        else:
            self.pool = (nn.AvgPool2d if pool == "avg" else nn.MaxPool2d)(3, stride=1, padding=1)
        self.project = Conv(config, channels, proj, 1) if proj else None

    def forward(self, x: Tensor) -> Tensor:
        pooled = self.pool(x)
        branches = [] if self.branch1 is None else [self.branch1(x)]
        branches += [
            self.branch3(self.reduce3(x)),
            self.double2(self.double1(self.reduce_double(x))),
            pooled if self.project is None else self.project(pooled),
        ]
        return torch.cat(branches, dim=1)


class Net(nn.Module):
    """(B, 3, H, W) to logits (B, num_classes). The last pool is global and the strided layers pad: any image size is legal.

    Section 4.2.1 takes away dropout and local response normalisation.
    """

    def __init__(self, config: Config):
        super().__init__()
        self.config = config
        first, reduced, second = config.stem
        self.conv1 = Conv(config, config.in_channels, first, 7, stride=2)
        self.pool1 = StridedPool()
        self.reduce2 = Conv(config, first, reduced, 1)
        self.conv2 = Conv(config, reduced, second, 3)
        self.pool2 = StridedPool()
        row = dict(zip(TABLE, config.inceptions, strict=True))
        self.inception_3a = Inception(config, second, *row["3a"])
        self.inception_3b = Inception(config, self.inception_3a.channels, *row["3b"])
        self.inception_3c = Inception(config, self.inception_3b.channels, *row["3c"])
        self.inception_4a = Inception(config, self.inception_3c.channels, *row["4a"])
        self.inception_4b = Inception(config, self.inception_4a.channels, *row["4b"])
        self.inception_4c = Inception(config, self.inception_4b.channels, *row["4c"])
        self.inception_4d = Inception(config, self.inception_4c.channels, *row["4d"])
        self.inception_4e = Inception(config, self.inception_4d.channels, *row["4e"])
        self.inception_5a = Inception(config, self.inception_4e.channels, *row["5a"])
        self.inception_5b = Inception(config, self.inception_5a.channels, *row["5b"])
        self.pool5 = nn.AdaptiveAvgPool2d(1)
        self.fc = nn.Linear(self.inception_5b.channels, config.num_classes)

    def init_weights(self) -> None:
        """The paper is silent: Glorot's uniform rule, as for GoogLeNet; biases are zero, batch norms the identity."""
        for module in self.modules():
            if isinstance(module, (nn.Conv2d, nn.Linear)):
                nn.init.xavier_uniform_(module.weight)
                if module.bias is not None:
                    nn.init.zeros_(module.bias)
            elif isinstance(module, nn.BatchNorm2d):
                module.reset_parameters()

    def forward(self, x: Tensor) -> Tensor:
        x = self.pool1(self.conv1(x))  # (B, 64, 56, 56)
        x = self.pool2(self.conv2(self.reduce2(x)))  # (B, 192, 28, 28)
        x = self.inception_3b(self.inception_3a(x))  # (B, 320, 28, 28)
        x = self.inception_3c(x)  # (B, 576, 14, 14)
        x = self.inception_4b(self.inception_4a(x))  # (B, 576, 14, 14)
        x = self.inception_4d(self.inception_4c(x))  # (B, 576, 14, 14), or (B, 608, 14, 14) in the Caffe form
        x = self.inception_4e(x)  # (B, 1024, 7, 7), or (B, 1056, 7, 7)
        x = self.inception_5b(self.inception_5a(x))  # (B, 1024, 7, 7)
        return self.fc(self.pool5(x).flatten(1))


VARIANTS = {
    "bn_inception": Config(),
    "bn_inception_caffe": Config(inceptions=tuple(CAFFE.values()), conv_bias=True),
}
