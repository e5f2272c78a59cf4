"""Small networks that exercise what counting tools treat differently. `write_conventions.py` runs the tools on them."""

from typing import Any

import torch
from torch import nn
from torch.nn import functional as F


class Encoder(nn.Module):
    """A vision transformer of the usual kind: multi-head attention modules, a class token, positions."""

    def __init__(self, dim: int = 24, heads: int = 3, depth: int = 2):
        super().__init__()
        self.patches = nn.Conv2d(3, dim, 8, 8)
        self.token = nn.Parameter(torch.zeros(1, 1, dim))
        self.positions = nn.Parameter(torch.zeros(1, 17, dim))
        self.blocks = nn.ModuleList(nn.ModuleList(self.block(dim, heads)) for _ in range(depth))
        self.head = nn.Linear(dim, 10)

    @staticmethod
    def block(dim: int, heads: int) -> list[nn.Module]:
        attention = nn.MultiheadAttention(dim, heads, batch_first=True)
        mlp = nn.Sequential(nn.Linear(dim, 4 * dim), nn.GELU(), nn.Dropout(0.1), nn.Linear(4 * dim, dim))
        return [nn.LayerNorm(dim), attention, nn.LayerNorm(dim), mlp]

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = self.patches(x).flatten(2).transpose(1, 2)
        x = torch.cat([self.token.expand(x.shape[0], -1, -1), x], 1) + self.positions
        for first, attention, second, mlp in self.blocks:  # type: ignore[misc]
            y = first(x)
            x = x + attention(y, y, y, need_weights=False)[0]
            x = x + mlp(second(x))
        return self.head(x[:, 0])


class Windows(nn.Module):
    """Attention as Swin's code has it: linear layers called as functions, matmul and softmax by name."""

    def __init__(self, dim: int = 16, heads: int = 2):
        super().__init__()
        self.heads = heads
        self.stem = nn.Conv2d(3, dim, 4, 4)
        self.norm = nn.LayerNorm(dim)
        self.qkv = nn.Linear(dim, 3 * dim)
        self.out = nn.Linear(dim, dim)
        self.bias = nn.Parameter(torch.zeros(heads, 16, 16))
        self.pool = nn.AdaptiveAvgPool2d(1)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = self.norm(self.stem(x).permute(0, 2, 3, 1))
        n, h, w, c = x.shape
        rows = torch.roll(x, (-2, -2), (1, 2)).view(n, h // 4, 4, w // 4, 4, c).permute(0, 1, 3, 2, 4, 5).reshape(-1, 16, c)
        q, k, v = (
            F.linear(rows, self.qkv.weight, self.qkv.bias).view(-1, 16, 3, self.heads, c // self.heads).permute(2, 0, 3, 1, 4)
        )
        scores = F.softmax(q.matmul(k.transpose(-2, -1)) + self.bias, dim=-1)
        y = F.linear(scores.matmul(v).transpose(1, 2).reshape(-1, 16, c), self.out.weight, self.out.bias)
        return self.pool(y.view(n, h, w, c).permute(0, 3, 1, 2)).flatten(1)


class Mobile(nn.Module):
    """Depthwise separable convolutions, several activations, squeeze and excitation."""

    def __init__(self, activation: type[nn.Module] = nn.ReLU6):
        super().__init__()
        self.stem = nn.Sequential(nn.Conv2d(3, 16, 3, 2, 1, bias=False), nn.BatchNorm2d(16), activation())
        self.depthwise = nn.Sequential(nn.Conv2d(16, 16, 3, 1, 1, groups=16, bias=False), nn.BatchNorm2d(16), activation())
        self.squeeze = nn.Sequential(nn.AdaptiveAvgPool2d(1), nn.Conv2d(16, 4, 1), nn.SiLU(), nn.Conv2d(4, 16, 1), nn.Sigmoid())
        self.pointwise = nn.Sequential(nn.Conv2d(16, 32, 1, bias=False), nn.BatchNorm2d(32, affine=False))
        self.head = nn.Linear(32, 10)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = self.depthwise(self.stem(x))
        return self.head(self.pointwise(x * self.squeeze(x)).mean((2, 3)))


class Odds(nn.Module):
    """One of everything else: pooling, norms, activations, functions, a transposed convolution with groups."""

    def __init__(self) -> None:
        super().__init__()
        self.up = nn.ConvTranspose2d(4, 6, 3, 2, groups=2)
        self.group, self.instance = nn.GroupNorm(2, 6), nn.InstanceNorm2d(6, affine=True)
        self.plain, self.learned = nn.InstanceNorm2d(6), nn.PReLU()
        self.leaky, self.elu, self.tanh, self.swish = nn.LeakyReLU(), nn.ELU(), nn.Tanh(), nn.Hardswish()
        self.average, self.maximum = nn.AvgPool2d(2), nn.MaxPool2d(3, 2, 1)
        self.down, self.upsample = nn.Conv2d(6, 8, 3, padding=1), nn.Upsample(scale_factor=2)
        self.filter = nn.Parameter(torch.zeros(5, 8, 1, 1))
        self.soft = nn.Softmax(dim=1)
        self.first, self.second = nn.Linear(5, 7), nn.Linear(7, 5, bias=False)
        self.frozen = nn.Linear(5, 5).requires_grad_(False)
        self.unused = nn.Linear(3, 3)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = self.plain(self.instance(self.group(self.up(x))))
        x = self.swish(self.tanh(self.elu(self.leaky(self.learned(x)))))
        x = self.upsample(F.relu(self.down(self.maximum(self.average(x)))))
        x = F.avg_pool2d(F.conv2d(x, self.filter), 2).flatten(2).transpose(1, 2)  # (N, places, 5)
        x = F.gelu(self.second(self.first(self.frozen(x))))
        return self.soft(torch.bmm(x, x.transpose(1, 2)))


class Twice(nn.Module):
    """A layer called three times, and two layers with one weight."""

    def __init__(self) -> None:
        super().__init__()
        self.shared, self.encode, self.decode = nn.Linear(8, 8), nn.Linear(8, 6, bias=False), nn.Linear(6, 8, bias=False)
        self.encode.weight = nn.Parameter(torch.zeros(6, 8))
        self.last = nn.Linear(8, 6, bias=False)
        self.last.weight = self.encode.weight

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.last(self.decode(self.encode(self.shared(self.shared(self.shared(x))))))


class Recurrent(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.lstm, self.head = nn.LSTM(8, 12, num_layers=2, batch_first=True), nn.Linear(12, 4)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.head(self.lstm(x)[0])


NETWORKS: dict[str, tuple[Any, tuple[int, ...]]] = {
    "Encoder": (Encoder, (1, 3, 32, 32)),
    "Windows": (Windows, (1, 3, 64, 64)),
    "Mobile": (Mobile, (1, 3, 32, 32)),
    "Mobile with Hardswish": (lambda: Mobile(nn.Hardswish), (1, 3, 32, 32)),
    "Mobile with ReLU, two pictures": (lambda: Mobile(nn.ReLU), (2, 3, 32, 32)),
    "Odds": (Odds, (1, 4, 9, 9)),
    "Twice": (Twice, (1, 8)),
    "Recurrent": (Recurrent, (1, 5, 8)),
}
