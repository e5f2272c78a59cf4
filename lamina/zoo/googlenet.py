"""GoogLeNet. C. Szegedy et al., "Going deeper with convolutions", arXiv 1409.4842, Table 1 and Figure 3.

`googlenet` is the paper's network (Inception v1): local response normalisation, biases, true 5x5 branches, ceil-mode
pooling. `googlenet_bn` is torchvision's: batch norm, no LRN, 3x3 filters where the paper has 5x5, a 2x2 last pool.
"""

from dataclasses import dataclass

import torch
from torch import Tensor, nn

# Table 1, columns #1x1, #3x3 reduce, #3x3, #5x5 reduce, #5x5, pool proj.
TABLE = {
    "3a": (64, 96, 128, 16, 32, 32),
    "3b": (128, 128, 192, 32, 96, 64),
    "4a": (192, 96, 208, 16, 48, 64),
    "4b": (160, 112, 224, 24, 64, 64),
    "4c": (128, 128, 256, 24, 64, 64),
    "4d": (112, 144, 288, 32, 64, 64),
    "4e": (256, 160, 320, 32, 128, 128),
    "5a": (256, 160, 320, 32, 128, 128),
    "5b": (384, 192, 384, 48, 128, 128),
}


@dataclass(frozen=True)
class Config:
    inceptions: tuple[tuple[int, ...], ...] = tuple(TABLE.values())
    batch_norm: bool = False
    wide_filter: int = 5  # side of the "5x5" branch
    last_pool: int = 3  # side of the pool between stages 4 and 5
    ceil_mode: bool = True  # the paper's 112/56/28/14/7 grids need it; False gives 112/55/27/13/6
    dropout: float = 0.4
    aux: bool = False  # the two auxiliary heads, for training
    aux_dropout: float = 0.7
    num_classes: int = 1000
    in_channels: int = 3
    img_size: int = 224


class Conv(nn.Sequential):
    """Convolution and rectifier, with a batch norm between them (and then no bias) if asked."""

    def __init__(self, batch_norm: bool, in_channels: int, filters: int, kernel: int, stride: int = 1, padding: int = 0):
        super().__init__()
        self.conv = nn.Conv2d(in_channels, filters, kernel, stride, padding, bias=not batch_norm)
        if batch_norm:
            self.bn = nn.BatchNorm2d(filters, eps=0.001)
        self.relu = nn.ReLU(inplace=True)


class Inception(nn.Module):
    """Figure 2b: four branches, concatenated. (B, C, H, W) to (B, n1x1 + n3x3 + n5x5 + proj, H, W)."""

    def __init__(self, config: Config, channels: int, n1x1: int, r3x3: int, n3x3: int, r5x5: int, n5x5: int, proj: int):
        super().__init__()
        bn, k = config.batch_norm, config.wide_filter
        self.channels = n1x1 + n3x3 + n5x5 + proj
        self.branch1 = Conv(bn, channels, n1x1, 1)
        self.reduce3 = Conv(bn, channels, r3x3, 1)
        self.branch3 = Conv(bn, r3x3, n3x3, 3, padding=1)
        self.reduce5 = Conv(bn, channels, r5x5, 1)
        self.branch5 = Conv(bn, r5x5, n5x5, k, padding=k // 2)
        self.pool = nn.MaxPool2d(3, stride=1, padding=1)
        self.project = Conv(bn, channels, proj, 1)

    def forward(self, x: Tensor) -> Tensor:
        branches = [
            self.branch1(x),
            self.branch3(self.reduce3(x)),
            self.branch5(self.reduce5(x)),
            self.project(self.pool(x)),
        ]
        return torch.cat(branches, dim=1)


class AuxHead(nn.Module):
    """Section 5: 5x5/3 average pool to 4x4, 128 1x1 filters, 1024 hidden units, 70 % dropout. (B, C, 14, 14) to logits."""

    def __init__(self, config: Config, channels: int):
        super().__init__()
        # torchvision's form pools to 4x4 by other, adaptive windows; the counts are the same
        self.pool = nn.AdaptiveAvgPool2d(4) if config.batch_norm else nn.AvgPool2d(5, stride=3)
        self.conv = Conv(config.batch_norm, channels, 128, 1)
        side = 4 if config.batch_norm else (config.img_size // 16 - 5) // 3 + 1
        self.fc1 = nn.Linear(128 * side * side, 1024)
        self.relu = nn.ReLU(inplace=True)
        self.drop = nn.Dropout(config.aux_dropout)
        self.fc2 = nn.Linear(1024, config.num_classes)

    def forward(self, x: Tensor) -> Tensor:
        x = self.conv(self.pool(x)).flatten(1)  # (B, 2048)
        return self.fc2(self.drop(self.relu(self.fc1(x))))


class Net(nn.Module):
    """(B, 3, 224, 224) to logits (B, 1000). With `aux=True` and in training mode the result is (logits, logits of the head
    on 4a, logits of the head on 4d); the paper adds the latter two losses with weight 0.3."""

    def __init__(self, config: Config):
        super().__init__()
        self.config = config
        bn, ceil = config.batch_norm, config.ceil_mode
        self.conv1 = Conv(bn, config.in_channels, 64, 7, stride=2, padding=3)
        self.pool1 = nn.MaxPool2d(3, stride=2, ceil_mode=ceil)
        # The paper gives no constants for LRN; these are those of its Caffe form (k = 1, and alpha divided by n as here).
        self.lrn = nn.Identity() if bn else nn.LocalResponseNorm(5, alpha=1e-4, beta=0.75, k=1.0)
        self.reduce2 = Conv(bn, 64, 64, 1)
        self.conv2 = Conv(bn, 64, 192, 3, padding=1)
        self.pool2 = nn.MaxPool2d(3, stride=2, ceil_mode=ceil)
        row = dict(zip(TABLE, config.inceptions, strict=True))
        self.inception_3a = Inception(config, 192, *row["3a"])
        self.inception_3b = Inception(config, self.inception_3a.channels, *row["3b"])
        self.pool3 = nn.MaxPool2d(3, stride=2, ceil_mode=ceil)
        self.inception_4a = Inception(config, self.inception_3b.channels, *row["4a"])
        self.inception_4b = Inception(config, self.inception_4a.channels, *row["4b"])
        self.inception_4c = Inception(config, self.inception_4b.channels, *row["4c"])
        self.inception_4d = Inception(config, self.inception_4c.channels, *row["4d"])
        self.inception_4e = Inception(config, self.inception_4d.channels, *row["4e"])
        self.pool4 = nn.MaxPool2d(config.last_pool, stride=2, ceil_mode=ceil)
        self.inception_5a = Inception(config, self.inception_4e.channels, *row["5a"])
        self.inception_5b = Inception(config, self.inception_5a.channels, *row["5b"])
        if config.aux:
            self.aux1 = AuxHead(config, self.inception_4a.channels)
            self.aux2 = AuxHead(config, self.inception_4d.channels)
        self.pool5 = nn.AdaptiveAvgPool2d(1)
        self.drop = nn.Dropout(config.dropout)
        self.fc = nn.Linear(self.inception_5b.channels, config.num_classes)

    def init_weights(self) -> None:
        """The paper is silent: the public Caffe model draws weights by Glorot's uniform rule, with biases of 0.2."""
        for module in self.modules():
            if isinstance(module, (nn.Conv2d, nn.Linear)):
                nn.init.xavier_uniform_(module.weight)
                if module.bias is not None:
                    nn.init.constant_(module.bias, 0.2 if isinstance(module, nn.Conv2d) else 0.0)
            elif isinstance(module, nn.BatchNorm2d):
                module.reset_parameters()

    def forward(self, x: Tensor) -> Tensor | tuple[Tensor, Tensor, Tensor]:
        with_aux = self.config.aux and self.training
        x = self.lrn(self.pool1(self.conv1(x)))  # (B, 64, 56, 56)
        x = self.pool2(self.lrn(self.conv2(self.reduce2(x))))  # (B, 192, 28, 28)
        x = self.inception_3b(self.inception_3a(x))  # (B, 480, 28, 28)
        x = self.inception_4a(self.pool3(x))  # (B, 512, 14, 14)
        aux1 = self.aux1(x) if with_aux else None
        x = self.inception_4d(self.inception_4c(self.inception_4b(x)))  # (B, 528, 14, 14)
        aux2 = self.aux2(x) if with_aux else None
        x = self.pool4(self.inception_4e(x))  # (B, 832, 7, 7)
        x = self.inception_5b(self.inception_5a(x))  # (B, 1024, 7, 7)
        x = self.fc(self.drop(self.pool5(x).flatten(1)))
        return x if aux1 is None or aux2 is None else (x, aux1, aux2)


VARIANTS = {
    "googlenet": Config(),
    "googlenet_bn": Config(batch_norm=True, wide_filter=3, last_pool=2, dropout=0.2),
}
