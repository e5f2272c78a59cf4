"""VGG. K. Simonyan, A. Zisserman, "Very deep convolutional networks for large-scale image recognition", arXiv 1409.1556,
Table 1: configurations A (11), B (13), D (16), E (19). The `_bn` variants put a batch norm after every convolution; they
are torchvision's, not the paper's.
"""

from collections import OrderedDict
from dataclasses import dataclass

from torch import Tensor, nn


@dataclass(frozen=True)
class Config:
    depths: tuple[int, ...] = (2, 2, 3, 3, 3)  # 3x3 convolutions in each stage
    filters: tuple[int, ...] = (64, 128, 256, 512, 512)
    batch_norm: bool = False
    hidden: int = 4096
    dropout: float = 0.5
    num_classes: int = 1000
    in_channels: int = 3
    img_size: int = 224


class Net(nn.Module):
    """(B, 3, 224, 224) to logits (B, 1000)."""

    def __init__(self, config: Config):
        super().__init__()
        self.config = config
        channels = config.in_channels
        self.stages: list[str] = []
        for stage, (depth, filters) in enumerate(zip(config.depths, config.filters, strict=True), 1):
            layers: OrderedDict[str, nn.Module] = OrderedDict()
            for i in range(1, depth + 1):
                layers[f"conv{stage}_{i}"] = nn.Conv2d(channels, filters, 3, padding=1)
                if config.batch_norm:
                    layers[f"bn{stage}_{i}"] = nn.BatchNorm2d(filters)
                layers[f"relu{stage}_{i}"] = nn.ReLU(inplace=True)
                channels = filters
            layers[f"pool{stage}"] = nn.MaxPool2d(2)
            self.add_module(f"stage{stage}", nn.Sequential(layers))
            self.stages.append(f"stage{stage}")
        side = config.img_size // 2 ** len(config.depths)
        if side < 1:
            raise ValueError(f"img_size {config.img_size} is too small: nothing is left after the {len(config.depths)} pools")
        self.fc6 = nn.Linear(channels * side * side, config.hidden)
        self.fc7 = nn.Linear(config.hidden, config.hidden)
        self.fc8 = nn.Linear(config.hidden, config.num_classes)
        self.relu = nn.ReLU(inplace=True)
        self.drop = nn.Dropout(config.dropout)

    def init_weights(self) -> None:
        """The paper pre-trains configuration A from a normal of standard deviation 0.1, or (section 3.1, footnote) uses Glorot
        and Bengio's rule, which trains without pre-training; He's fits the rectifiers and is used here. Biases are zero."""
        for module in self.modules():
            if isinstance(module, nn.Conv2d):
                nn.init.kaiming_normal_(module.weight, mode="fan_out", nonlinearity="relu")
                assert module.bias is not None
                nn.init.zeros_(module.bias)
            elif isinstance(module, nn.Linear):
                nn.init.normal_(module.weight, std=0.01)
                nn.init.zeros_(module.bias)
            elif isinstance(module, nn.BatchNorm2d):
                module.reset_parameters()

    def forward(self, x: Tensor) -> Tensor:
        for stage in self.stages:
            x = self.get_submodule(stage)(x)  # (B, 512, 7, 7) after the last
        x = self.drop(self.relu(self.fc6(x.flatten(1))))
        x = self.drop(self.relu(self.fc7(x)))
        return self.fc8(x)


_A, _B, _D, _E = (1, 1, 2, 2, 2), (2, 2, 2, 2, 2), (2, 2, 3, 3, 3), (2, 2, 4, 4, 4)
VARIANTS = {
    f"vgg{layers}{suffix}": Config(depths=depths, batch_norm=bool(suffix))
    for layers, depths in ((11, _A), (13, _B), (16, _D), (19, _E))
    for suffix in ("", "_bn")
}
