"""Small networks for the tests of growing, in float64, with weights and statistics of no initialisation."""

from typing import Any

import torch
from torch import Tensor, nn

from lamina.zoo import densenet, resnet, transformer, vit, wide_resnet

VIT = vit.Config(7, 2, 24, 40, 3, dropout=0.0, num_classes=10, in_channels=1, img_size=28)
TRANSFORMER = transformer.Config(2, 2, d_model=24, d_ff=40, n_heads=3, vocabulary=50, norm="pre", dropout=0.0)
WRN = wide_resnet.Config(depths=(2, 2), widths=(8, 16), stem_channels=8, img_size=16)
BASIC = resnet.Config((2, 3), False, (8, 16), shortcut="A", stem="cifar", num_classes=10, img_size=16)
BOTTLENECK = resnet.Config((2, 2), True, (8, 12), stem="cifar", num_classes=10, img_size=16)
RESNEXT = resnet.Config((1, 2), True, (8, 16), cardinality=4, stride_in="3x3", stem="cifar", num_classes=10, img_size=16)
DENSENET = densenet.Config((2, 2), 6, 12, stem="cifar", num_classes=10, img_size=16)

FAMILIES: dict[str, tuple[Any, Any]] = {
    "vit": (vit.Net, VIT),
    "transformer": (transformer.Net, TRANSFORMER),
    "wrn": (wide_resnet.CifarNet, WRN),
    "basic": (resnet.Net, BASIC),
    "bottleneck": (resnet.Net, BOTTLENECK),
    "resnext": (resnet.Net, RESNEXT),
    "densenet": (densenet.Net, DENSENET),
}


def make(kind: Any, config: Any, seed: int = 0) -> nn.Module:
    """As if trained: random weights, and running statistics of data."""
    torch.manual_seed(seed)
    net = kind(config)
    with torch.no_grad():
        net.init_weights()
        for parameter in net.parameters():
            parameter.add_(0.1 * torch.randn_like(parameter))
    net.double()
    if any(isinstance(m, nn.BatchNorm2d) for m in net.modules()):
        with torch.no_grad():
            net.train()(torch.randn(8, config.in_channels, config.img_size, config.img_size).double())
    return net.eval()


def network(name: str, seed: int = 0) -> nn.Module:
    return make(*FAMILIES[name], seed)


def batch(net: nn.Module, count: int = 3) -> tuple[Tensor, ...]:
    config: Any = net.config
    torch.manual_seed(1)
    if isinstance(config, transformer.Config):
        return torch.randint(0, config.vocabulary, (count, 7)), torch.randint(0, config.vocabulary, (count, 5))
    return (torch.randn(count, config.in_channels, config.img_size, config.img_size).double(),)


def error(old: nn.Module, new: nn.Module, inputs: tuple[Tensor, ...], lifted: tuple[Tensor, ...] | None = None) -> float:
    """The largest difference of the outputs, relative to the largest output."""
    with torch.no_grad():
        a, b = old(*inputs), new(*(lifted or inputs))
    return float((a - b).abs().max() / a.abs().max())
