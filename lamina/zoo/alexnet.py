"""AlexNet. A. Krizhevsky, I. Sutskever, G. Hinton, "ImageNet classification with deep convolutional neural networks",
NIPS 2012, section 3 and Figure 2; `alexnet_owt` is the single-tower network of A. Krizhevsky, "One weird trick for
parallelizing convolutional neural networks", arXiv 1404.5997, as torchvision has it.
"""

from dataclasses import dataclass

from torch import Tensor, nn


@dataclass(frozen=True)
class Config:
    filters: tuple[int, ...] = (96, 256, 384, 384, 256)
    groups: tuple[int, ...] = (1, 2, 1, 2, 2)  # two GPUs: layers 2, 4 and 5 see the maps of their own GPU only
    padding: int = 0  # of the first layer
    lrn: bool = True  # section 3.3
    hidden: int = 4096
    dropout: float = 0.5
    num_classes: int = 1000
    in_channels: int = 3
    img_size: int = 227  # the paper says 224; only 227 gives its 55x55 first map without padding


class Net(nn.Module):
    """(B, 3, 227, 227) to logits (B, 1000)."""

    def __init__(self, config: Config):
        super().__init__()
        self.config = config
        c1, c2, c3, c4, c5 = config.filters
        g1, g2, g3, g4, g5 = config.groups
        self.conv1 = nn.Conv2d(config.in_channels, c1, 11, stride=4, padding=config.padding, groups=g1)
        self.conv2 = nn.Conv2d(c1, c2, 5, padding=2, groups=g2)
        self.conv3 = nn.Conv2d(c2, c3, 3, padding=1, groups=g3)
        self.conv4 = nn.Conv2d(c3, c4, 3, padding=1, groups=g4)
        self.conv5 = nn.Conv2d(c4, c5, 3, padding=1, groups=g5)
        self.relu = nn.ReLU(inplace=True)
        # k = 2, n = 5, alpha = 1e-4 on the sum of five squares; torch divides alpha by n.
        self.lrn = nn.LocalResponseNorm(5, alpha=5e-4, beta=0.75, k=2.0) if config.lrn else nn.Identity()
        self.pool = nn.MaxPool2d(3, stride=2)  # overlapping, section 3.4
        side = (config.img_size + 2 * config.padding - 11) // 4 + 1
        for _ in range(3):
            side = (side - 3) // 2 + 1
        if side < 1:
            raise ValueError(f"img_size {config.img_size} is too small: nothing is left after the three pools")
        self.fc6 = nn.Linear(c5 * side * side, config.hidden)
        self.fc7 = nn.Linear(config.hidden, config.hidden)
        self.fc8 = nn.Linear(config.hidden, config.num_classes)
        self.drop = nn.Dropout(config.dropout)

    def init_weights(self) -> None:
        """Section 5: normal of standard deviation 0.01; biases 1 in layers 2, 4, 5 and the hidden ones, 0 elsewhere. (Networks
        without LRN are not trained so in the literature: they get He initialisation.)"""
        for name, module in self.named_modules():
            if isinstance(module, (nn.Conv2d, nn.Linear)):
                if self.config.lrn:
                    nn.init.normal_(module.weight, std=0.01)
                else:
                    nn.init.kaiming_normal_(module.weight, nonlinearity="relu")
                one = self.config.lrn and name in ("conv2", "conv4", "conv5", "fc6", "fc7")
                assert module.bias is not None
                nn.init.constant_(module.bias, 1.0 if one else 0.0)

    def forward(self, x: Tensor) -> Tensor:
        x = self.pool(self.lrn(self.relu(self.conv1(x))))  # (B, 96, 27, 27)
        x = self.pool(self.lrn(self.relu(self.conv2(x))))  # (B, 256, 13, 13)
        x = self.relu(self.conv3(x))  # (B, 384, 13, 13)
        x = self.relu(self.conv4(x))  # (B, 384, 13, 13)
        x = self.pool(self.relu(self.conv5(x)))  # (B, 256, 6, 6)
        x = self.drop(self.relu(self.fc6(x.flatten(1))))
        x = self.drop(self.relu(self.fc7(x)))
        return self.fc8(x)


VARIANTS = {
    "alexnet": Config(),
    "alexnet_owt": Config(filters=(64, 192, 384, 256, 256), groups=(1, 1, 1, 1, 1), padding=2, lrn=False, img_size=224),
}
