"""DenseNet. G. Huang, Z. Liu, L. van der Maaten, K. Weinberger, "Densely connected convolutional networks",
arXiv 1608.06993: section 3, Table 1 (ImageNet) and Table 2 (CIFAR).

The ImageNet networks and `densenet_bc_` have bottlenecks (B) and compression (C); `densenet_L_k_cifar` has neither.
`densenet161` (k = 48) is of the paper's earlier versions; later ones have `densenet264` in its place.
"""

from collections import OrderedDict
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.utils.checkpoint import checkpoint


@dataclass(frozen=True)
class Config:
    depths: tuple[int, ...] = (6, 12, 24, 16)  # layers in each dense block
    growth: int = 32  # k, the maps that a layer adds
    stem_channels: int = 64
    bottleneck: bool = True  # a 1x1 convolution to 4k maps before each 3x3
    compression: float = 0.5  # theta: this share of the maps, rounded down, is left after a transition
    stem: Literal["imagenet", "cifar"] = "imagenet"
    dropout: float = 0.0  # after every convolution but the first: 0.2 where the paper trains without augmentation
    # Training keeps no concatenation and no normalised map of a dense layer, but computes them again in the backward pass
    # (G. Pleiss et al., "Memory-efficient implementation of DenseNets", arXiv 1707.06990). No result changes.
    recompute: bool = False
    num_classes: int = 1000
    in_channels: int = 3
    img_size: int = 224


@contextmanager
def without_statistics(norm: nn.BatchNorm2d) -> Iterator[None]:
    """A batch norm in training mode that leaves its running statistics as they are: they have seen this batch already."""
    momentum, seen = norm.momentum, norm.num_batches_tracked
    norm.momentum, norm.num_batches_tracked = 0.0, None if seen is None else seen.clone()
    try:
        yield
    finally:
        norm.momentum, norm.num_batches_tracked = momentum, seen


class DenseLayer(nn.Module):
    """Section 3, H_l: norm, ReLU, 1x1 to 4k maps, norm, ReLU, 3x3 to k maps; or norm, ReLU, 3x3. The maps of all layers
    before, (B, C_0, H, W), (B, k, H, W), ..., to (B, k, H, W)."""

    def __init__(self, config: Config, channels: int):
        super().__init__()
        self.norm1 = nn.BatchNorm2d(channels)
        if config.bottleneck:
            self.conv1 = nn.Conv2d(channels, 4 * config.growth, 1, bias=False)
            self.norm2 = nn.BatchNorm2d(4 * config.growth)
            self.conv2 = nn.Conv2d(4 * config.growth, config.growth, 3, padding=1, bias=False)
        else:
            self.conv1 = nn.Conv2d(channels, config.growth, 3, padding=1, bias=False)
            self.norm2, self.conv2 = None, None
        self.dropout, self.recompute = config.dropout, config.recompute

    def forward(self, maps: list[Tensor]) -> Tensor:
        y = self.convolve(self.norm1, self.conv1, *maps)  # (B, 4k, H, W), or (B, k, H, W)
        y = F.dropout(y, self.dropout, self.training)
        if self.norm2 is None or self.conv2 is None:
            return y
        y = self.convolve(self.norm2, self.conv2, y)  # (B, k, H, W)
        return F.dropout(y, self.dropout, self.training)

    def convolve(self, norm: nn.BatchNorm2d, conv: nn.Conv2d, *maps: Tensor) -> Tensor:
        if not (self.recompute and self.training and torch.is_grad_enabled()):
            return self.norm_relu_conv(norm, conv, *maps)
        # The second run ends where all that the backward pass needs is there again: before the convolution.
        return checkpoint(
            self.norm_relu_conv,
            norm,
            conv,
            *maps,
            use_reentrant=False,
            context_fn=lambda: (nullcontext(), without_statistics(norm)),
        )

    def norm_relu_conv(self, norm: nn.BatchNorm2d, conv: nn.Conv2d, *maps: Tensor) -> Tensor:
        return conv(F.relu(norm(maps[0] if len(maps) == 1 else torch.cat(maps, 1)), inplace=True))


class DenseBlock(nn.Module):
    """Figure 1: every layer sees the maps of all before it. (B, C, H, W) to (B, C + depth * k, H, W)."""

    def __init__(self, config: Config, channels: int, depth: int):
        super().__init__()
        for i in range(depth):
            self.add_module(f"denselayer{i + 1}", DenseLayer(config, channels + i * config.growth))

    def forward(self, x: Tensor) -> Tensor:
        maps = [x]
        for layer in self.children():
            maps.append(layer(maps))
        return torch.cat(maps, 1)


class Transition(nn.Sequential):
    """Section 3, "pooling layers": norm, ReLU, 1x1 convolution, 2x2 average pool. (B, C, H, W) to (B, out, H / 2, W / 2)."""

    def __init__(self, config: Config, channels: int, out: int):
        super().__init__()
        self.norm = nn.BatchNorm2d(channels)
        self.relu = nn.ReLU(inplace=True)
        self.conv = nn.Conv2d(channels, out, 1, bias=False)
        self.drop = nn.Dropout(config.dropout)
        self.pool = nn.AvgPool2d(2)


class Net(nn.Module):
    """(B, 3, H, W) to logits (B, num_classes). The last pool is global: any image size that leaves a pixel is legal."""

    def __init__(self, config: Config):
        super().__init__()
        self.config = config
        check(config)
        channels = config.stem_channels
        features: OrderedDict[str, nn.Module] = OrderedDict()
        if config.stem == "imagenet":
            features["conv0"] = nn.Conv2d(config.in_channels, channels, 7, stride=2, padding=3, bias=False)
            features["norm0"] = nn.BatchNorm2d(channels)
            features["relu0"] = nn.ReLU(inplace=True)
            features["pool0"] = nn.MaxPool2d(3, stride=2, padding=1)
        else:
            features["conv0"] = nn.Conv2d(config.in_channels, channels, 3, padding=1, bias=False)
        for i, depth in enumerate(config.depths, 1):
            features[f"denseblock{i}"] = DenseBlock(config, channels, depth)
            channels += depth * config.growth
            if i < len(config.depths):
                out = int(config.compression * channels)
                features[f"transition{i}"] = Transition(config, channels, out)
                channels = out
        features["norm5"] = nn.BatchNorm2d(channels)  # the popular weights' name, whatever the number of blocks
        self.features = nn.Sequential(features)
        self.relu = nn.ReLU(inplace=True)
        self.avgpool = nn.AdaptiveAvgPool2d(1)
        self.classifier = nn.Linear(channels, config.num_classes)

    def init_weights(self) -> None:
        """Section 4.2: He's normal rule of arXiv 1502.01852. Where the paper is silent, as the authors' code: fan-out, norms
        that start as the identity, a classifier uniform in +-1 / sqrt(fan-in) with zero biases."""
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
        x = self.relu(self.features(x))  # (B, 1024, 7, 7)
        return self.classifier(self.avgpool(x).flatten(1))


def check(config: Config) -> None:
    """What no layer would refuse by itself."""
    if not 0 < config.compression <= 1:
        raise ValueError(f"compression is over 0 and at most 1, not {config.compression}")
    side = -(-config.img_size // 4) if config.stem == "imagenet" else config.img_size
    if side >> (len(config.depths) - 1) < 1:
        raise ValueError(f"img_size {config.img_size} is too small: nothing is left after the pools")


def _imagenet(depths: tuple[int, ...], growth: int = 32) -> Config:
    """Table 1: 2k maps in the stem."""
    return Config(depths=depths, growth=growth, stem_channels=2 * growth)


def _cifar(layers: int, growth: int) -> Config:
    """Section 3, "implementation details": three blocks, 16 maps in the stem. (The authors' code has 2k here too.)"""
    return Config(
        depths=3 * ((layers - 4) // 3,),
        growth=growth,
        stem_channels=16,
        bottleneck=False,
        compression=1.0,
        stem="cifar",
        num_classes=10,
        img_size=32,
    )


def _cifar_bc(layers: int, growth: int) -> Config:
    """The same with bottlenecks, which halve the number of layers, and compression; 2k maps in the stem."""
    return Config(
        depths=3 * ((layers - 4) // 6,),
        growth=growth,
        stem_channels=2 * growth,
        stem="cifar",
        num_classes=10,
        img_size=32,
    )


VARIANTS = {
    "densenet121": _imagenet(depths=(6, 12, 24, 16)),
    "densenet161": _imagenet(depths=(6, 12, 36, 24), growth=48),
    "densenet169": _imagenet(depths=(6, 12, 32, 32)),
    "densenet201": _imagenet(depths=(6, 12, 48, 32)),
    "densenet264": _imagenet(depths=(6, 12, 64, 48)),
    **{f"densenet_{layers}_{k}_cifar": _cifar(layers, k) for layers, k in ((40, 12), (100, 12), (100, 24))},
    **{f"densenet_bc_{layers}_{k}_cifar": _cifar_bc(layers, k) for layers, k in ((100, 12), (250, 24), (190, 40))},
}
