"""LeNet-5. Y. LeCun, L. Bottou, Y. Bengio, P. Haffner, "Gradient-based learning applied to document recognition",
Proceedings of the IEEE 86(11), 1998, section II.B and Figure 2.

`lenet5` is the paper's network: sparse C3, trainable subsampling, scaled tanh, radial basis function output.
`lenet5_dense` is what "LeNet-5" usually means today; `lenet_caffe` is BVLC's examples/mnist/lenet.prototxt.
"""

import math
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.overrides import handle_torch_function, has_torch_function


@dataclass(frozen=True)
class Config:
    """Of `lenet5`: the output codes fix the number of classes, and C5 the size of the image."""

    num_classes: int = 10
    in_channels: int = 1
    img_size: int = 32  # 28x28 digits centred in 32x32


@dataclass(frozen=True)
class DenseConfig:
    """Of `lenet5_dense`."""

    maps: tuple[int, int] = (6, 16)  # of C1 and C3
    hidden: tuple[int, int] = (120, 84)  # C5 and F6
    num_classes: int = 10
    in_channels: int = 1
    img_size: int = 32


@dataclass(frozen=True)
class CaffeConfig:
    """Of `lenet_caffe`."""

    maps: tuple[int, int] = (20, 50)
    hidden: int = 500
    num_classes: int = 10
    in_channels: int = 1
    img_size: int = 28


# Table I: which maps of S2 each map of C3 sees. Read by columns of the paper's table, map 0 to 15.
C3_TABLE = (
    (0, 1, 2), (1, 2, 3), (2, 3, 4), (3, 4, 5), (0, 4, 5), (0, 1, 5),
    (0, 1, 2, 3), (1, 2, 3, 4), (2, 3, 4, 5), (0, 3, 4, 5), (0, 1, 4, 5), (0, 1, 2, 5),
    (0, 1, 3, 4), (1, 2, 4, 5), (0, 2, 3, 5),
    (0, 1, 2, 3, 4, 5),
)  # fmt: skip

# The output codes: 7x12 bitmaps of the ten digits in the manner of the paper's Figure 3. The paper's own bitmaps are
# printed as an image only; these were drawn for Lamina. "#" is +1, "." is -1.
DIGITS = (
    "..###.. .#...#. #.....# #.....# #.....# #.....# #.....# #.....# #.....# #.....# .#...#. ..###..",
    "...#... ..##... .###... ...#... ...#... ...#... ...#... ...#... ...#... ...#... ...#... .#####.",
    ".#####. #.....# ......# ......# ......# .....#. ....#.. ...#... ..#.... .#..... #...... #######",
    "#######  .....#. ....#.. ...#... ..###.. .....#. ......# ......# ......# ......# #....#. .####..",
    "#....#. #....#. #....#. #....#. #....#. #....#. ####### .....#. .....#. .....#. .....#. .....#.",
    "####### #...... #...... #...... ######. ......# ......# ......# ......# ......# #.....# .#####.",
    "..####. .#..... #...... #...... #...... #.####. ##....# #.....# #.....# #.....# .#...#. ..###..",
    "####### ......# ......# .....#. .....#. ....#.. ....#.. ...#... ...#... ..#.... ..#.... ..#....",
    ".#####. #.....# #.....# #.....# .#...#. ..###.. .#...#. #.....# #.....# #.....# #.....# .#####.",
    "..###.. .#...#. #.....# #.....# #.....# .#....# ..####. ......# ......# .....#. ....#.. ..##...",
)  # fmt: skip


def digit_codes() -> Tensor:
    """The ten target vectors of the RBF layer, (10, 84) of +1 and -1."""
    return torch.tensor([[1.0 if c == "#" else -1.0 for c in d if c in "#."] for d in DIGITS], device="cpu")


def squash(a: Tensor) -> Tensor:
    """The paper's squashing function, equation 6: A tanh(S a) with A = 1.7159 and S = 2/3, so that f(1) = 1, f(-1) = -1."""
    return 1.7159 * torch.tanh(a * (2 / 3))


def sparse_conv2d(x: Tensor, weights: list[Tensor], bias: Tensor, links: list[list[list[int]]]) -> Tensor:
    """A convolution whose output maps see different input maps: one grouped convolution for each number of links.

    `links[i]` lists, for the output maps of `weights[i]`, the input maps each one sees; `weights[i]` is
    (maps, links, k, k). It is one operation for whoever traces it: nothing is computed for a missing link.
    """
    if has_torch_function((x, *weights, bias)):
        return handle_torch_function(sparse_conv2d, (x, *weights, bias), x, weights, bias, links)
    biases = bias.split([len(w) for w in weights])
    parts = [
        F.conv2d(x[:, [c for maps in seen for c in maps]], w, b, groups=len(w))
        for w, b, seen in zip(weights, biases, links, strict=True)
    ]
    return torch.cat(parts, dim=1)


class SparseConv2d(nn.Module):
    """C3: (B, 6, H, W) to (B, 16, H-4, W-4) by the links of Table I: 1,500 weights and 16 biases."""

    def __init__(self, table: tuple[tuple[int, ...], ...], kernel: int):
        super().__init__()
        sizes = sorted({len(maps) for maps in table})
        self.links = [[list(maps) for maps in table if len(maps) == n] for n in sizes]
        self.weights = nn.ParameterList(
            torch.empty(len(seen), n, kernel, kernel) for n, seen in zip(sizes, self.links, strict=True)
        )
        self.bias = nn.Parameter(torch.empty(len(table)))

    def forward(self, x: Tensor) -> Tensor:
        return sparse_conv2d(x, list(self.weights), self.bias, self.links)


class Subsample(nn.Module):
    """S2, S4: the sum of each 2x2 block times a trainable coefficient, plus a trainable bias, one of each per map."""

    def __init__(self, maps: int):
        super().__init__()
        self.coefficient = nn.Parameter(torch.empty(maps))
        self.bias = nn.Parameter(torch.empty(maps))

    def forward(self, x: Tensor) -> Tensor:
        total = F.avg_pool2d(x, 2, divisor_override=1)
        return total * self.coefficient[:, None, None] + self.bias[:, None, None]


class RBF(nn.Module):
    """Euclidean radial basis functions, equation 7: y_i = sum_j (x_j - w_ij)^2, with fixed codes w. (B, 84) to (B, 10)."""

    codes: Tensor

    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("codes", torch.empty(10, 84))

    def forward(self, x: Tensor) -> Tensor:
        return (x[:, None, :] - self.codes).square().sum(dim=-1)


class LeNet5(nn.Module):
    """Figure 2. (B, 1, 32, 32) to the scores (B, 10): minus the RBF units' distances, so that the largest wins as in every
    network of the zoo (in the paper the smallest distance does)."""

    def __init__(self, config: Config):
        super().__init__()
        check_size(config.img_size, 32)
        if config.num_classes != 10:
            raise ValueError(
                f"lenet5 has ten fixed output codes (7x12 bitmaps of the digits), not {config.num_classes}: "
                "use lenet5_dense for another number of classes"
            )
        self.config = config
        self.c1 = nn.Conv2d(config.in_channels, 6, 5)
        self.s2 = Subsample(6)
        self.c3 = SparseConv2d(C3_TABLE, 5)
        self.s4 = Subsample(16)
        self.c5 = nn.Conv2d(16, 120, 5)  # a convolution in the paper: its map is 1x1 because its input is 5x5
        self.f6 = nn.Linear(120, 84)
        self.rbf = RBF()

    def init_weights(self) -> None:
        """Appendix A; the subsampling coefficients start at a mean of four, so at 1/4."""
        init_uniform(self)
        self.rbf.codes.copy_(digit_codes())

    def forward(self, x: Tensor) -> Tensor:
        x = squash(self.c1(x))  # (B, 6, 28, 28)
        x = squash(self.s2(x))  # (B, 6, 14, 14)
        x = squash(self.c3(x))  # (B, 16, 10, 10)
        x = squash(self.s4(x))  # (B, 16, 5, 5)
        x = squash(self.c5(x)).flatten(1)  # (B, 120)
        x = squash(self.f6(x))  # (B, 84)
        return -self.rbf(x)  # (B, 10)


class LeNet5Dense(nn.Module):
    """C3 sees all maps, pools are averages, the output is linear. (B, 1, 32, 32) to logits (B, 10)."""

    def __init__(self, config: DenseConfig):
        super().__init__()
        self.config = config
        c1, c3 = config.maps
        c5, f6 = config.hidden
        self.c1 = nn.Conv2d(config.in_channels, c1, 5)
        self.c3 = nn.Conv2d(c1, c3, 5)
        self.c5 = nn.Linear(c3 * side(config.img_size) ** 2, c5)
        self.f6 = nn.Linear(c5, f6)
        self.output = nn.Linear(f6, config.num_classes)

    def init_weights(self) -> None:
        init_uniform(self)

    def forward(self, x: Tensor) -> Tensor:
        x = F.avg_pool2d(torch.tanh(self.c1(x)), 2)  # (B, 6, 14, 14)
        x = F.avg_pool2d(torch.tanh(self.c3(x)), 2)  # (B, 16, 5, 5)
        x = torch.tanh(self.c5(x.flatten(1)))  # (B, 120)
        x = torch.tanh(self.f6(x))  # (B, 84)
        return self.output(x)


class LeNetCaffe(nn.Module):
    """BVLC examples/mnist/lenet.prototxt. (B, 1, 28, 28) to logits (B, 10)."""

    def __init__(self, config: CaffeConfig):
        super().__init__()
        check_size(config.img_size, 28)
        self.config = config
        c1, c2 = config.maps
        self.conv1 = nn.Conv2d(config.in_channels, c1, 5)
        self.conv2 = nn.Conv2d(c1, c2, 5)
        self.ip1 = nn.Linear(c2 * side(config.img_size) ** 2, config.hidden)
        self.ip2 = nn.Linear(config.hidden, config.num_classes)

    def init_weights(self) -> None:
        init_uniform(self)

    def forward(self, x: Tensor) -> Tensor:
        x = F.max_pool2d(self.conv1(x), 2)  # (B, 20, 12, 12)
        x = F.max_pool2d(self.conv2(x), 2)  # (B, 50, 4, 4)
        x = F.relu(self.ip1(x.flatten(1)))  # (B, 500), the only rectifier
        return self.ip2(x)


def side(img_size: int) -> int:
    """Of the maps after two 5x5 convolutions, each followed by a 2x2 pool."""
    return ((img_size - 4) // 2 - 4) // 2


def check_size(img_size: int, fixed: int) -> None:
    if img_size != fixed:
        raise ValueError(f"this LeNet takes {fixed}x{fixed} images only, not {img_size}x{img_size}")


def init_uniform(module: nn.Module) -> None:
    """Appendix A: uniform in +-2.4 / fan-in; biases start at 0, subsampling coefficients at 1/4."""
    for name, parameter in module.named_parameters():
        if name.endswith("bias"):
            nn.init.zeros_(parameter)
        elif name.endswith("coefficient"):
            nn.init.constant_(parameter, 0.25)
        else:
            bound = 2.4 / math.prod(parameter.shape[1:])
            nn.init.uniform_(parameter, -bound, bound)


def Net(config: Config | DenseConfig | CaffeConfig) -> LeNet5 | LeNet5Dense | LeNetCaffe:
    """The network of a configuration."""
    if isinstance(config, CaffeConfig):
        return LeNetCaffe(config)
    return LeNet5Dense(config) if isinstance(config, DenseConfig) else LeNet5(config)


VARIANTS: dict[str, Config | DenseConfig | CaffeConfig] = {
    "lenet5": Config(),
    "lenet5_dense": DenseConfig(),
    "lenet_caffe": CaffeConfig(),
}
