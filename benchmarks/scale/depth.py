"""(c) Depth: residual networks of 2, 4, 8 and 16 blocks on CIFAR-10 at 16x16; (d) a ViT on MNIST and a character-level GPT of
2, 4 and 8 layers.

Each arm ends with the same network and the same total of MACs. "scratch" spends them all on it; the others spend shares on
smaller ones and grow between them.
"""

from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from benchmarks.scale import common
from benchmarks.scale.common import Data, Level
from lamina.scale.depth import deepen
from lamina.scale.growth import grow, materialise
from lamina.scale.plan import Plan
from lamina.scale.structure import Block, Family, Stack
from lamina.zoo import vit, wide_resnet

ARMS = ("scratch", "split", "interpolate", "zero", "stack", "random")
LRS = (1e-3, 3e-3, 1e-2)
TASKS: dict[str, dict[str, Any]] = {
    "resnet_cifar": {"depths": (2, 4, 8, 16), "shares": (0.1, 0.15, 0.25, 0.5), "steps": 400, "batch": 256},
    "vit_mnist": {"depths": (2, 4, 8), "shares": (0.15, 0.25, 0.6), "steps": 800, "batch": 256},
    "gpt_characters": {"depths": (2, 4, 8), "shares": (0.15, 0.25, 0.6), "steps": 700, "batch": 64},
}
CONTEXT, VOCABULARY = 128, 96


class GPTBlock(nn.Module):
    """Pre-norm, causal. (B, T, D) to the same."""

    def __init__(self, width: int, n_heads: int):
        super().__init__()
        self.n_heads = n_heads
        self.norm1, self.norm2 = nn.LayerNorm(width), nn.LayerNorm(width)
        self.qkv, self.out = nn.Linear(width, 3 * width), nn.Linear(width, width)
        self.fc1, self.fc2 = nn.Linear(width, 4 * width), nn.Linear(4 * width, width)

    def forward(self, x: Tensor) -> Tensor:
        q, k, v = self.qkv(self.norm1(x)).unflatten(-1, (3, self.n_heads, -1)).permute(2, 0, 3, 1, 4).unbind(0)
        x = x + self.out(F.scaled_dot_product_attention(q, k, v, is_causal=True).transpose(1, 2).flatten(2))
        return x + self.fc2(F.gelu(self.fc1(self.norm2(x))))


class GPT(nn.Module):
    """Characters (B, T) to logits (B, T, vocabulary)."""

    def __init__(self, layers: int, width: int = 128, n_heads: int = 4):
        super().__init__()
        self.characters, self.positions = nn.Embedding(VOCABULARY, width), nn.Embedding(CONTEXT, width)
        self.blocks = nn.Sequential(*(GPTBlock(width, n_heads) for _ in range(layers)))
        self.norm, self.head = nn.LayerNorm(width), nn.Linear(width, VOCABULARY)

    def init_weights(self) -> None:
        for module in self.modules():
            if isinstance(module, nn.Linear | nn.Embedding):
                nn.init.normal_(module.weight, std=0.02)
            if isinstance(module, nn.Linear):
                nn.init.zeros_(module.bias)
            elif isinstance(module, nn.LayerNorm):
                module.reset_parameters()

    def forward(self, ids: Tensor) -> Tensor:
        x = self.characters(ids) + self.positions.weight[: ids.shape[1]]
        return self.head(self.norm(self.blocks(x)))


class GPTFamily(Family):
    """How a network of one's own is described to the depth operators."""

    def __init__(self, module: nn.Module):
        super().__init__(module)
        self.config = len(module.blocks)  # type: ignore[arg-type]

    def build(self) -> nn.Module:
        return GPT(self.config)

    def stacks(self) -> list[Stack]:
        def last(path: str) -> tuple[str, ...]:
            return tuple(f"{path}.{layer}.{kind}" for layer in ("out", "fc2") for kind in ("weight", "bias"))

        return [Stack("blocks", tuple(Block(f"blocks.{i}", last(f"blocks.{i}")) for i in range(self.config)), "pre")]

    def with_depths(self, depths: Sequence[int]) -> Family:
        return self.clone(depths[0])


def network(task: str, depth: int) -> nn.Module:
    if task == "resnet_cifar":
        net: Any = wide_resnet.CifarNet(wide_resnet.Config((depth,), (32,), 32, img_size=16))
    elif task == "vit_mnist":
        net = vit.Net(replace(vit.VARIANTS["vit_mnist"], depth=depth))
    else:
        net = GPT(depth)
    net.init_weights()
    return net


def grown(task: str, operator: str) -> Callable[[nn.Module], nn.Module]:
    def double(net: nn.Module) -> nn.Module:
        net = net.cpu()
        if task == "gpt_characters":
            family, step = deepen(GPTFamily(net), 2, operator)
            return materialise(family, Plan((step,)), net)
        return grow(net, depth=2, operator={"depth": operator}).module

    return double


def data(task: str, path: str, device: str) -> Data:
    if task == "resnet_cifar":
        return common.images(path, "cifar", device, held=5000, train=20000, mean=0.4734, std=0.2300)
    if task == "vit_mnist":
        return common.images(path, "mnist", device, held=5000, train=55000, mean=0.1307, std=0.3081)
    return common.characters(path, device, CONTEXT)


def run(task: str, arm: str, lr: float, seed: int, path: str, device: str, scale: float) -> dict[str, Any]:
    torch.manual_seed(seed)
    plan, samples = TASKS[task], data(task, path, device)
    net = network(task, plan["depths"][-1])
    steps = max(8, round(plan["steps"] * scale))
    batch = common.sized(plan["batch"], scale)
    budget = 3 * batch * steps * common.cost(net, samples.train[0].cpu()[:1])
    levels = [Level(1.0, samples)]
    if arm != "scratch":
        net = network(task, plan["depths"][0])
        levels = [Level(share, samples, grown(task, arm) if i else None) for i, share in enumerate(plan["shares"])]
    net, log = common.train(net, levels, budget=budget, batch=batch, lr=lr, seed=seed, device=device, evaluations=10)
    return common.finish(net, samples, log)
