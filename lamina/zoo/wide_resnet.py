"""Wide ResNet. S. Zagoruyko, N. Komodakis, "Wide residual networks", arXiv 1605.07146: section 2, Table 1 (CIFAR) and
section 3, "ImageNet and COCO experiments" (ImageNet).

`wrnL_k_cifar` has L layers and k times the width of the thin network, in pre-activation form. `wide_resnet50_2` is ResNet-50
with bottlenecks whose 3x3 is twice as wide, and their outputs are not; `wide_resnet101_2` is torchvision's, not the paper's.
"""

from dataclasses import dataclass

from torch import Tensor, nn

from lamina.zoo import resnet


@dataclass(frozen=True)
class Config:
    """Of the CIFAR networks; those for ImageNet have ResNet's."""

    depths: tuple[int, ...] = (4, 4, 4)  # blocks in each stage
    widths: tuple[int, ...] = (160, 320, 640)
    stem_channels: int = 16
    dilation: int = 1  # of every 3x3; another one after growing in resolution
    dropout: float = 0.0  # between a block's convolutions: the paper has 0.3 on CIFAR and 0.4 on SVHN
    num_classes: int = 10
    in_channels: int = 3
    img_size: int = 32


class Block(nn.Module):
    """Figure 1d: norm, ReLU, 3x3, norm, ReLU, dropout, 3x3. (B, C, H, W) to (B, width, H / stride, W / stride).

    Where the shape changes the shortcut is a 1x1 convolution of the pre-activated input, else it is the raw input."""

    def __init__(self, config: Config, channels: int, width: int, stride: int):
        super().__init__()
        self.bn1 = nn.BatchNorm2d(channels)
        reach = config.dilation
        self.conv1 = nn.Conv2d(channels, width, 3, stride=stride, padding=reach, dilation=reach, bias=False)
        self.bn2 = nn.BatchNorm2d(width)
        self.drop = nn.Dropout(config.dropout)
        self.conv2 = nn.Conv2d(width, width, 3, padding=reach, dilation=reach, bias=False)
        self.relu = nn.ReLU(inplace=True)
        self.downsample: nn.Conv2d | None = None
        if stride != 1 or channels != width:
            self.downsample = nn.Conv2d(channels, width, 1, stride=stride, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        y = self.relu(self.bn1(x))
        shortcut = x if self.downsample is None else self.downsample(y)
        y = self.relu(self.bn2(self.conv1(y)))
        return shortcut + self.conv2(self.drop(y))


class CifarNet(nn.Module):
    """(B, 3, 32, 32) to logits (B, 10). The last pool is global: any image size is legal."""

    def __init__(self, config: Config):
        super().__init__()
        self.config = config
        channels = config.stem_channels
        reach = config.dilation
        self.conv1 = nn.Conv2d(config.in_channels, channels, 3, padding=reach, dilation=reach, bias=False)
        self.stages: list[str] = []
        for stage, (depth, width) in enumerate(zip(config.depths, config.widths, strict=True), 1):
            blocks = []
            for i in range(depth):
                blocks.append(Block(config, channels, width, stride=2 if i == 0 and stage > 1 else 1))
                channels = width
            self.add_module(f"layer{stage}", nn.Sequential(*blocks))
            self.stages.append(f"layer{stage}")
        self.bn = nn.BatchNorm2d(channels)
        self.relu = nn.ReLU(inplace=True)
        self.avgpool = nn.AdaptiveAvgPool2d(1)
        self.fc = nn.Linear(channels, config.num_classes)

    def init_weights(self) -> None:
        """The paper is silent; as the authors' code: He's normal rule by fan-out, norms that start as the identity, a last
        layer uniform in +-1 / sqrt(fan-in) with zero biases."""
        for module in self.modules():
            if isinstance(module, nn.Conv2d):
                nn.init.kaiming_normal_(module.weight, mode="fan_out", nonlinearity="relu")
            elif isinstance(module, nn.BatchNorm2d):
                module.reset_parameters()
            elif isinstance(module, nn.Linear):
                bound = module.in_features**-0.5
                nn.init.uniform_(module.weight, -bound, bound)
                nn.init.zeros_(module.bias)

    def forward(self, x: Tensor) -> Tensor:
        x = self.conv1(x)  # (B, 16, 32, 32)
        for stage in self.stages:
            x = self.get_submodule(stage)(x)  # (B, 64k, 8, 8) after the last
        return self.fc(self.avgpool(self.relu(self.bn(x))).flatten(1))


def Net(config: Config | resnet.Config) -> CifarNet | resnet.Net:
    """The CIFAR network, or ResNet with wide bottlenecks."""
    return CifarNet(config) if isinstance(config, Config) else resnet.Net(config)


def _cifar(layers: int, k: int) -> Config:
    """Table 1: 6n + 4 layers (a first one, three stages of n blocks of two, three projections), widths 16k, 32k, 64k."""
    return Config(depths=3 * ((layers - 4) // 6,), widths=(16 * k, 32 * k, 64 * k))


def _imagenet(depths: tuple[int, ...]) -> resnet.Config:
    """Section 3: the 3x3 of each bottleneck twice as wide; stride in the 3x3."""
    return resnet.Config(
        depths=depths,
        widths=(128, 256, 512, 1024),
        outputs=(256, 512, 1024, 2048),
        stride_in="3x3",
    )


VARIANTS: dict[str, Config | resnet.Config] = {
    "wide_resnet50_2": _imagenet(depths=(3, 4, 6, 3)),
    "wide_resnet101_2": _imagenet(depths=(3, 4, 23, 3)),
    **{
        f"wrn{layers}_{k}_cifar": _cifar(layers, k)
        for layers, k in ((16, 4), (16, 8), (22, 8), (28, 10), (28, 12), (40, 1), (40, 2), (40, 4), (40, 8))
    },
}
