"""ResNet. K. He, X. Zhang, S. Ren, J. Sun, "Deep residual learning for image recognition", arXiv 1512.03385: Table 1
(ImageNet), section 4.2 (CIFAR-10), and the plain networks that both are compared with.

v1 strides in a bottleneck's first 1x1 convolution, as the paper has it; `_v1_5` strides in its 3x3, as torchvision and
timm have it. The ImageNet forms of Wide ResNet and ResNeXt, and ResNeXt's of CIFAR, are this network with other `outputs`
and `cardinality`: see wide_resnet.py and resnext.py.
"""

from dataclasses import dataclass, replace
from typing import Literal

import torch
from torch import Tensor, nn
from torch.nn import functional as F


@dataclass(frozen=True)
class Config:
    depths: tuple[int, ...] = (3, 4, 6, 3)  # blocks in each stage
    bottleneck: bool = True
    widths: tuple[int, ...] = (64, 128, 256, 512)  # of the 3x3 convolutions in each stage
    outputs: tuple[int, ...] | None = None  # channels after the blocks of each stage: 4x the widths, or in a basic block 1x
    cardinality: int = 1  # groups of a bottleneck's 3x3
    stride_in: Literal["1x1", "3x3"] = "1x1"  # of a bottleneck: v1 or v1.5
    # B: 1x1 convolutions where the shape changes; A: strided slices, zeros for new channels; none: a plain network
    shortcut: Literal["A", "B", "none"] = "B"
    stem: Literal["imagenet", "cifar"] = "imagenet"
    residual_gain: float = 1.0  # what the last norm of each branch scales by, at first
    num_classes: int = 1000
    in_channels: int = 3
    img_size: int = 224

    @property
    def expansion(self) -> int:
        """A residual block's output channels over its width, where `outputs` does not say otherwise."""
        return 4 if self.bottleneck else 1


class ZeroPadShortcut(nn.Module):
    """Option A: every second pixel, and zero channels, half of them before and half after (as the public CIFAR weights
    need it; the paper does not say where)."""

    def __init__(self, new_channels: int, stride: int):
        super().__init__()
        self.new_channels, self.stride = new_channels, stride

    def forward(self, x: Tensor) -> Tensor:
        before = self.new_channels // 2
        x = x[:, :, :: self.stride, :: self.stride]
        return F.pad(x, (0, 0, 0, 0, before, self.new_channels - before))


class Block(nn.Module):
    """Figure 5: two 3x3 convolutions, or 1x1, 3x3, 1x1. (B, C, H, W) to (B, out, H / stride, W / stride)."""

    def __init__(self, config: Config, channels: int, width: int, out: int, stride: int):
        super().__init__()
        if config.bottleneck:
            first, second = (stride, 1) if config.stride_in == "1x1" else (1, stride)
            self.conv1 = nn.Conv2d(channels, width, 1, stride=first, bias=False)
            self.conv2 = nn.Conv2d(width, width, 3, stride=second, padding=1, groups=config.cardinality, bias=False)
            self.conv3 = nn.Conv2d(width, out, 1, bias=False)
            self.bn3 = nn.BatchNorm2d(out)
        else:
            self.conv1 = nn.Conv2d(channels, width, 3, stride=stride, padding=1, bias=False)
            self.conv2 = nn.Conv2d(width, out, 3, padding=1, bias=False)
            self.conv3 = None
        self.bn1 = nn.BatchNorm2d(width)
        self.bn2 = nn.BatchNorm2d(self.conv2.out_channels)
        self.relu = nn.ReLU(inplace=True)
        self.downsample: nn.Module | None = None
        if (stride != 1 or channels != out) and config.shortcut == "B":
            self.downsample = nn.Sequential(nn.Conv2d(channels, out, 1, stride=stride, bias=False), nn.BatchNorm2d(out))
        elif (stride != 1 or channels != out) and config.shortcut == "A":
            self.downsample = ZeroPadShortcut(out - channels, stride)
        self.plain = config.shortcut == "none"

    @property
    def last_norm(self) -> nn.BatchNorm2d:
        """The norm at the end of the residual branch: with zero scale and shift the block is the identity."""
        return self.bn2 if self.conv3 is None else self.bn3

    def forward(self, x: Tensor) -> Tensor:
        y = self.relu(self.bn1(self.conv1(x)))
        y = self.bn2(self.conv2(y))
        if self.conv3 is not None:
            y = self.bn3(self.conv3(self.relu(y)))
        if not self.plain:
            y = y + (x if self.downsample is None else self.downsample(x))
        return self.relu(y)


class Net(nn.Module):
    """(B, 3, H, W) to logits (B, num_classes). The last pool is global: any image size that leaves a pixel is legal."""

    def __init__(self, config: Config):
        super().__init__()
        self.config = config
        outputs = config.outputs or tuple(config.expansion * width for width in config.widths)
        if config.cardinality > 1 and not config.bottleneck:
            raise ValueError("cardinality groups the 3x3 of bottlenecks, and these blocks are basic")
        for width in config.widths:
            if config.cardinality < 1 or width % config.cardinality:
                raise ValueError(f"a width of {width} is not divisible by {config.cardinality} groups")
        channels = 64 if config.stem == "imagenet" else outputs[0] // config.expansion
        if config.stem == "imagenet":
            self.conv1 = nn.Conv2d(config.in_channels, channels, 7, stride=2, padding=3, bias=False)
            self.maxpool = nn.MaxPool2d(3, stride=2, padding=1)
        else:
            self.conv1 = nn.Conv2d(config.in_channels, channels, 3, padding=1, bias=False)
            self.maxpool = nn.Identity()
        self.bn1 = nn.BatchNorm2d(channels)
        self.relu = nn.ReLU(inplace=True)
        self.stages: list[str] = []
        for stage, (depth, width, out) in enumerate(zip(config.depths, config.widths, outputs, strict=True), 1):
            blocks = []
            for i in range(depth):
                blocks.append(Block(config, channels, width, out, stride=2 if i == 0 and stage > 1 else 1))
                channels = out
            self.add_module(f"layer{stage}", nn.Sequential(*blocks))
            self.stages.append(f"layer{stage}")
        self.avgpool = nn.AdaptiveAvgPool2d(1)
        self.fc = nn.Linear(channels, config.num_classes)

    def init_weights(self) -> None:
        """Section 3.4: He's normal rule of arXiv 1502.01852; batch norms start as the identity."""
        for module in self.modules():
            if isinstance(module, (nn.Conv2d, nn.Linear)):
                nn.init.kaiming_normal_(module.weight, mode="fan_out", nonlinearity="relu")
                if module.bias is not None:
                    nn.init.zeros_(module.bias)
            elif isinstance(module, nn.BatchNorm2d):
                module.reset_parameters()
        for module in self.modules():
            if isinstance(module, Block):
                nn.init.constant_(module.last_norm.weight, self.config.residual_gain)

    def forward(self, x: Tensor) -> Tensor:
        x = self.maxpool(self.relu(self.bn1(self.conv1(x))))  # (B, 64, 56, 56), or (B, 16, 32, 32)
        for stage in self.stages:
            x = self.get_submodule(stage)(x)
        return self.fc(torch.flatten(self.avgpool(x), 1))


_BASIC = {18: (2, 2, 2, 2), 34: (3, 4, 6, 3)}
_BOTTLENECK = {50: (3, 4, 6, 3), 101: (3, 4, 23, 3), 152: (3, 8, 36, 3)}


def _cifar(layers: int, shortcut: Literal["A", "none"]) -> Config:
    """Section 4.2: 6n + 2 layers, 2n of each of 16, 32, 64 filters, always identity (option A) shortcuts."""
    n = (layers - 2) // 6
    return Config(
        depths=(n, n, n),
        bottleneck=False,
        widths=(16, 32, 64),
        shortcut=shortcut,
        stem="cifar",
        num_classes=10,
        img_size=32,
    )


VARIANTS = {
    **{f"resnet{n}": Config(depths=depths, bottleneck=False) for n, depths in _BASIC.items()},
    **{f"resnet{n}": Config(depths=depths) for n, depths in _BOTTLENECK.items()},
    **{f"resnet{n}_v1_5": Config(depths=depths, stride_in="3x3") for n, depths in _BOTTLENECK.items()},
    **{f"plain{n}": Config(depths=depths, bottleneck=False, shortcut="none") for n, depths in _BASIC.items()},
    **{f"resnet{n}_cifar": _cifar(n, "A") for n in (20, 32, 44, 56, 110)},
    # 600 blocks each double a signal that batch norm does not yet normalise: fresh outputs would overflow in evaluation
    "resnet1202_cifar": replace(_cifar(1202, "A"), residual_gain=600**-0.5),
    **{f"plain{n}_cifar": _cifar(n, "none") for n in (20, 56)},
}
