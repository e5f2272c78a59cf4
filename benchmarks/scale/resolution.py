"""(a) Classify at another resolution than that of training; (b) train first on small images.

MNIST at 28x28, and at 14x14 by averaging. The network keeps its resolution throughout and pools globally: a pre-activation
residual network of two blocks, and for (a) also three plain convolutions with a head on flattened maps.
"""

import functools
from collections.abc import Callable
from typing import Any

import torch
from torch import nn

from benchmarks.scale import common
from benchmarks.scale.common import Data, Level
from lamina.scale.resolution import downsample, recalibrate, rescale
from lamina.zoo import wide_resnet

TRANSFER = {"networks": ("residual", "plain"), "steps": 300, "batch": 256, "lr": 3e-3}
FINER = ("same", "constant", "bilinear", "bilinear_damped", "dilated")
COARSER = ("same", "constant", "bilinear")
ARMS = ("scratch", "same", "dilated", "dilated_scratch")
WARM: dict[str, dict[str, Any]] = {
    "warm": {"arms": ARMS, "channels": 16, "steps": 160, "batch": 32, "evaluations": 8, "held": 2000},
    "warm_large": {
        "arms": (*ARMS, "constant", "bilinear", "bilinear_damped"),
        "channels": 32,
        "steps": 400,
        "batch": 256,
        "evaluations": 20,
        "held": 5000,
    },
}
LRS = (3e-3, 1e-2, 3e-2)
SHARE = 0.3  # of the MACs at 14x14
DAMPING = 0.01


@functools.cache
def data(path: str, device: str, held: int = 5000) -> tuple[Data, Data]:
    """At 28x28 and at 14x14."""
    fine = common.images(path, "mnist", device, held=held, train=55000, mean=0.1307, std=0.3081)
    return fine, Data(*((downsample(x), y) for x, y in (fine.train, fine.validation, fine.test)))


def network(kind: str, side: int, channels: int = 32, dilation: int = 1) -> nn.Module:
    if kind == "residual":
        config = wide_resnet.Config((2,), (channels,), channels, dilation, in_channels=1, img_size=side)
        net = wide_resnet.CifarNet(config)
        net.init_weights()
        return net
    return nn.Sequential(
        nn.Conv2d(1, 16, 3, padding=1), nn.ReLU(), nn.Conv2d(16, 16, 3, padding=1), nn.ReLU(),
        nn.Conv2d(16, 16, 3, padding=1), nn.ReLU(), nn.Flatten(), nn.Linear(16 * side * side, 10),
    )  # fmt: skip


def convert(net: nn.Module, operator: str, finer: bool, side: int) -> nn.Module:
    damping = DAMPING if operator.endswith("_damped") else 0.0
    device = next(net.parameters()).device
    return rescale(net.cpu(), operator.removesuffix("_damped"), finer=finer, shape=(1, side, side), damping=damping).to(device)


def transfer(kind: str, finer: bool, seed: int, path: str, device: str, scale: float) -> dict[str, Any]:
    """Train at one resolution; measure at the other with each operator, without and with fresh batch-norm statistics."""
    torch.manual_seed(seed)
    fine, coarse = data(path, device)
    own, other, side = (coarse, fine, 14) if finer else (fine, coarse, 28)
    net = network(kind, side)
    steps = max(2, round(TRANSFER["steps"] * scale))
    batch = common.sized(TRANSFER["batch"], scale)
    budget = 3 * batch * steps * common.cost(net, own.train[0].cpu())
    net, log = common.train(net, [Level(1.0, own)], budget=budget, batch=batch, lr=TRANSFER["lr"], seed=seed, device=device)
    result: dict[str, Any] = {"macs": log.macs, "own": common.measure(net, own.test), "other": {}}
    for operator in FINER if finer else COARSER:
        moved = convert(net, operator, finer, side)
        net.to(device)
        result["other"][operator] = {"plain": common.measure(moved, other.test)}
        if kind == "residual":
            recalibrate(moved, (other.train[0][i : i + 1000] for i in range(0, min(5000, len(other.train[0])), 1000)))
            result["other"][operator]["recalibrated"] = common.measure(moved, other.test)
    return result


def warm(size: str, arm: str, lr: float, seed: int, path: str, device: str, scale: float) -> dict[str, Any]:
    """From 14x14 to 28x28 by an operator, or all of it at 28x28; "dilated_scratch" is the network that dilation ends with."""
    torch.manual_seed(seed)
    plan = WARM[size]
    fine, coarse = data(path, device, plan["held"])
    net = network("residual", 28, plan["channels"], 2 if arm == "dilated_scratch" else 1)
    steps = max(4, round(plan["steps"] * scale))
    batch = common.sized(plan["batch"], scale)
    budget = 3 * batch * steps * common.cost(net, fine.train[0].cpu())
    levels = [Level(1.0, fine)]
    if arm not in ("scratch", "dilated_scratch"):
        net = network("residual", 14, plan["channels"])
        grow: Callable[[nn.Module], nn.Module] = lambda n: convert(n, arm, True, 14)  # noqa: E731
        levels = [Level(SHARE, coarse), Level(1 - SHARE, fine, grow)]
    evaluations = plan["evaluations"]
    net, log = common.train(net, levels, budget=budget, batch=batch, lr=lr, seed=seed, device=device, evaluations=evaluations)
    return common.finish(net, fine, log)
