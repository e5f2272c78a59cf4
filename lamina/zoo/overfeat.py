"""OverFeat. P. Sermanet, D. Eigen, X. Zhang, M. Mathieu, R. Fergus, Y. LeCun, "OverFeat: Integrated recognition, localization
and detection using convolutional networks", arXiv 1312.6229, section 3: Table 1 (fast) and Table 3 (accurate).

AlexNet's successor without its normalisation (LRN), with pools that do not overlap and larger first maps. The layers are
numbered as in the tables: `conv1` ..., then `fc6` to `fc8` (fast) or `fc7` to `fc9` (accurate).
"""

from dataclasses import dataclass

from torch import Tensor, nn


@dataclass(frozen=True)
class Config:
    filters: tuple[int, ...] = (96, 256, 512, 1024, 1024)
    kernels: tuple[int, ...] = (11, 5, 3, 3, 3)
    strides: tuple[int, ...] = (4, 1, 1, 1, 1)
    paddings: tuple[int, ...] = (0, 0, 1, 1, 1)
    pools: tuple[int, ...] = (2, 2, 1, 1, 2)  # side and stride of the max pool after each convolution; 1 is none
    hidden: tuple[int, ...] = (3072, 4096)
    dropout: float = 0.5
    num_classes: int = 1000
    in_channels: int = 3
    img_size: int = 231


class Net(nn.Module):
    """(B, 3, 231, 231), or (B, 3, 221, 221) for the accurate one, to logits (B, 1000)."""

    def __init__(self, config: Config):
        super().__init__()
        self.config = config
        self.stages: list[str] = []
        channels, side = config.in_channels, config.img_size
        rows = zip(config.filters, config.kernels, config.strides, config.paddings, config.pools, strict=True)
        for layer, (filters, kernel, stride, padding, pool) in enumerate(rows, 1):
            self.add_module(f"conv{layer}", nn.Conv2d(channels, filters, kernel, stride, padding))
            self.stages.append(f"conv{layer}")
            channels, side = filters, (side + 2 * padding - kernel) // stride + 1
            if pool > 1:
                self.add_module(f"pool{layer}", nn.MaxPool2d(pool))
                self.stages.append(f"pool{layer}")
                side //= pool
            if side < 1:
                raise ValueError(f"img_size {config.img_size} is too small: nothing is left after layer {layer}")
        self.heads: list[str] = []
        features = channels * side * side
        for layer, width in enumerate((*config.hidden, config.num_classes), len(config.filters) + 1):
            self.add_module(f"fc{layer}", nn.Linear(features, width))
            self.heads.append(f"fc{layer}")
            features = width
        self.relu = nn.ReLU(inplace=True)
        self.drop = nn.Dropout(config.dropout)

    def init_weights(self) -> None:
        """Section 3.1: normal of standard deviation 0.01. The paper is silent on the biases: they are zero."""
        for module in self.modules():
            if isinstance(module, (nn.Conv2d, nn.Linear)):
                nn.init.normal_(module.weight, std=0.01)
                assert module.bias is not None
                nn.init.zeros_(module.bias)

    def forward(self, x: Tensor) -> Tensor:
        for name in self.stages:
            x = self.get_submodule(name)(x)
            if name.startswith("conv"):
                x = self.relu(x)
        x = x.flatten(1)  # (B, 1024 * 6 * 6), or (B, 1024 * 5 * 5)
        *hidden, last = self.heads
        for name in hidden:
            x = self.drop(self.relu(self.get_submodule(name)(x)))  # (B, 3072), (B, 4096)
        return self.get_submodule(last)(x)


VARIANTS = {
    "overfeat_fast": Config(),
    "overfeat_accurate": Config(
        filters=(96, 256, 512, 512, 1024, 1024),
        kernels=(7, 7, 3, 3, 3, 3),
        strides=(2, 1, 1, 1, 1, 1),
        paddings=(0, 0, 1, 1, 1, 1),
        pools=(3, 2, 1, 1, 1, 3),
        hidden=(4096, 4096),
        img_size=221,
    ),
}
