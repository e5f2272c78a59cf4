"""(c) Depth: residual networks of 2, 4, 8 and 16 blocks on CIFAR-10 at 8x8; (d) a ViT on MNIST and a character-level GPT of
2, 4 and 8 layers, or of half the width first.

Each arm ends with the same network and the same total of MACs. "scratch" spends them all on it; the others spend shares on
smaller ones and grow between them. Said before the runs: growing pays where the better of splitting and zero insertion ends
better than scratch by a 95 % interval that leaves zero out; the lecture's verdicts on depth (c) and Transformers (d) rest on
it.
"""

import functools
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import torch
from torch import nn

from benchmarks.scale import common, gpt
from benchmarks.scale.common import Data, Level
from lamina.scale.growth import grow
from lamina.scale.resolution import downsample
from lamina.zoo import vit, wide_resnet

DEPTH = ("scratch", "split", "zero", "random", "stack", "interpolate")
LRS = (1e-3, 3e-3, 1e-2)  # to begin with: run_all.py goes beyond where the best is an end
TASKS: dict[str, dict[str, Any]] = {
    "resnet_cifar": {
        "arms": DEPTH, "depths": (2, 4, 8, 16), "shares": (0.1, 0.15, 0.25, 0.5), "steps": 200, "batch": 64,
    },
    "vit_mnist": {
        "arms": (*DEPTH[:3], "width", *DEPTH[3:]), "depths": (2, 4, 8), "shares": (0.15, 0.25, 0.6), "steps": 200, "batch": 64,
    },
    "gpt_characters": {
        "arms": (*DEPTH[:3], "width", *DEPTH[3:]), "depths": (2, 4, 8), "shares": (0.15, 0.25, 0.6), "steps": 200, "batch": 16,
    },
}  # fmt: skip
CHANNELS = 16  # of the residual network
VIT = replace(vit.VARIANTS["vit_mnist"], depth=8, patch=7, width=48, mlp=96, n_heads=4)
GPT = gpt.Config()
EVALUATIONS = 5  # in the last level
HELD = 2000  # images to choose the learning rate by
WIDER = {"model_width": 2, "feed_forward": 2, "heads": 2}


def network(task: str, depth: int, narrower: int = 1) -> nn.Module:
    """Of so many blocks; with `narrower` = 2 of half the width, hidden units and heads."""
    if task == "resnet_cifar":
        net: Any = wide_resnet.CifarNet(wide_resnet.Config((depth,), (CHANNELS,), CHANNELS, img_size=8))
    else:
        full: Any = VIT if task == "vit_mnist" else GPT
        sizes = {name: getattr(full, name) // narrower for name in ("width", "mlp", "n_heads")}
        if task == "vit_mnist":
            net = vit.Net(replace(VIT, depth=depth, head_width=VIT.width // VIT.n_heads, **sizes))
        else:
            net = gpt.Net(replace(GPT, layers=depth, **sizes))
    net.init_weights()
    return net


def grown(task: str, arm: str) -> Callable[[nn.Module], nn.Module]:
    factors, operator = (WIDER, "split") if arm == "width" else ({"depth": 2}, arm)

    def double(net: nn.Module) -> nn.Module:
        if task == "gpt_characters":
            return gpt.grow(net.cpu(), factors, operator)
        return grow(net.cpu(), **factors, operator={"depth": operator}).module  # type: ignore[arg-type]

    return double


@functools.cache
def data(task: str, path: str, device: str) -> Data:
    if task == "resnet_cifar":
        whole = common.images(path, "cifar", device, held=HELD, train=20000, mean=0.4734, std=0.2300)  # at 16x16
        return Data(*((downsample(x), y) for x, y in (whole.train, whole.validation, whole.test)))
    if task == "vit_mnist":
        return common.images(path, "mnist", device, held=HELD, train=50000, mean=0.1307, std=0.3081)
    return common.characters(path, device, GPT.context)


def levels(task: str, arm: str, samples: Data) -> tuple[nn.Module, list[Level]]:
    """The first network, and what is done with it."""
    depths, shares = TASKS[task]["depths"], TASKS[task]["shares"]
    if arm == "scratch":
        return network(task, depths[-1]), [Level(1.0, samples)]
    if arm == "width":
        return network(task, depths[-1], 2), [Level(1 - shares[-1], samples), Level(shares[-1], samples, grown(task, arm))]
    return network(task, depths[0]), [Level(s, samples, grown(task, arm) if i else None) for i, s in enumerate(shares)]


def run(task: str, arm: str, lr: float, seed: int, path: str, device: str, scale: float) -> dict[str, Any]:
    torch.manual_seed(seed)
    plan, samples = TASKS[task], data(task, path, device)
    steps = max(8, round(plan["steps"] * scale))
    batch = common.sized(plan["batch"], scale)
    full = network(task, plan["depths"][-1])
    budget = 3 * batch * steps * common.cost(full, samples.train[0].cpu()[:1])
    torch.manual_seed(seed)
    net, stages = levels(task, arm, samples)
    net, log = common.train(net, stages, budget=budget, batch=batch, lr=lr, seed=seed, device=device, evaluations=EVALUATIONS)
    return common.finish(net, samples, log)
