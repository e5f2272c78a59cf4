"""ResNeXt. S. Xie, R. Girshick, P. Dollár, Z. Tu, K. He, "Aggregated residual transformations for deep neural networks",
arXiv 1611.05431: Table 1 (ImageNet) and section 5.3 (CIFAR).

The network is ResNet's with bottlenecks in the grouped form of Figure 3c: C paths (the cardinality) of d channels are one
3x3 convolution of C * d channels in C groups. `_32x4d` reads C = 32, d = 4 in the first stage. The stride is in the 3x3.
`resnext101_32x8d` is torchvision's, not the paper's.
"""

from lamina.zoo.resnet import Config, Net

__all__ = ["VARIANTS", "Config", "Net"]


def _widths(cardinality: int, d: int, stages: int) -> tuple[int, ...]:
    """C * d in the first stage, twice as many in each further one."""
    return tuple(cardinality * d * 2**stage for stage in range(stages))


def _imagenet(depths: tuple[int, ...], cardinality: int, d: int) -> Config:
    """Table 1: outputs as ResNet's."""
    return Config(
        depths=depths,
        widths=_widths(cardinality, d, 4),
        outputs=(256, 512, 1024, 2048),
        cardinality=cardinality,
        stride_in="3x3",
    )


def _cifar(layers: int, cardinality: int, d: int) -> Config:
    """Section 5.3: a 3x3 convolution of 64 filters, three stages of (layers - 2) / 9 bottlenecks, outputs 256, 512, 1024."""
    n = (layers - 2) // 9
    return Config(
        depths=(n, n, n),
        widths=_widths(cardinality, d, 3),
        outputs=(256, 512, 1024),
        cardinality=cardinality,
        stride_in="3x3",
        stem="cifar",
        num_classes=10,
        img_size=32,
    )


VARIANTS = {
    "resnext50_32x4d": _imagenet(depths=(3, 4, 6, 3), cardinality=32, d=4),
    "resnext101_32x4d": _imagenet(depths=(3, 4, 23, 3), cardinality=32, d=4),
    "resnext101_32x8d": _imagenet(depths=(3, 4, 23, 3), cardinality=32, d=8),
    "resnext101_64x4d": _imagenet(depths=(3, 4, 23, 3), cardinality=64, d=4),
    "resnext29_8x64d_cifar": _cifar(layers=29, cardinality=8, d=64),
    "resnext29_16x64d_cifar": _cifar(layers=29, cardinality=16, d=64),
}
