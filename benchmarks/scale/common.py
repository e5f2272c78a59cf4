"""What the experiments share: data on the device, a training loop with a budget of MACs, and growth between levels.

A step's cost is three forward passes (one forward, two backward), each counted by `lamina.trace`. Every arm of an experiment
spends the same total.
"""

import functools
import itertools
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F

import lamina

WEIGHT_DECAY = 0.01
WARMUP = 20  # steps, after every growth
CHUNK = 1000  # samples evaluated at a time


@dataclass
class Data:
    """Inputs and answers on the device: training, validation (out of the training set) and test."""

    train: tuple[Tensor, Tensor]
    validation: tuple[Tensor, Tensor]
    test: tuple[Tensor, Tensor]


def layout(device: str) -> torch.memory_format:
    """Of images and kernels: on a CPU with channels last, a tenth to a third faster."""
    return torch.channels_last if device == "cpu" else torch.contiguous_format


@functools.cache
def images(path: str, name: str, device: str, held: int, train: int, mean: float, std: float) -> Data:
    """`train` training and `held` validation images, and the test set, normalised."""
    with np.load(path) as file:
        arrays = {
            k: torch.from_numpy(file[f"{name}_{k}"]) for k in ("train_pixels", "train_labels", "test_pixels", "test_labels")
        }

    def ready(pixels: Tensor, labels: Tensor) -> tuple[Tensor, Tensor]:
        x = (pixels.to(device).float() / 255 - mean) / std
        return x.contiguous(memory_format=layout(device)), labels.to(device).long()

    pixels, labels = arrays["train_pixels"], arrays["train_labels"]
    held = min(held, len(labels) // 4)
    chosen, rest = slice(0, min(train, len(labels) - held)), slice(len(labels) - held, None)
    return Data(
        ready(pixels[chosen], labels[chosen]),
        ready(pixels[rest], labels[rest]),
        ready(arrays["test_pixels"], arrays["test_labels"]),
    )


@functools.cache
def characters(path: str, device: str, context: int) -> Data:
    """Windows of `context` + 1 characters: of the first 90 % of the text to train, of the next and the last 5 % to measure."""
    with np.load(path) as file:
        text = torch.from_numpy(file["text"]).long()
    cuts = [0, int(0.9 * len(text)), int(0.95 * len(text)), len(text)]
    parts = [text[a:b] for a, b in itertools.pairwise(cuts)]
    train = parts[0].unfold(0, context + 1, 31)  # overlapping, from all places of a line
    held, test = (part.unfold(0, context + 1, context)[:400] for part in parts[1:])
    return Data(*((w[:, :-1].contiguous().to(device), w[:, 1:].contiguous().to(device)) for w in (train, held, test)))


def cost(module: nn.Module, sample: Tensor) -> int:
    """MACs of one forward pass of one sample."""
    import copy

    shadow = copy.deepcopy(module).to("meta").eval()
    return lamina.trace(shadow, torch.empty_like(sample[:1], device="meta")).total().macs


@dataclass
class Level:
    """One size of a network at work: a share of the budget, on data of its own."""

    share: float
    data: Data
    grow: Callable[[nn.Module], nn.Module] | None = None  # from the level before


@dataclass
class Log:
    macs: int = 0
    steps: list[int] = field(default_factory=list)  # of each level
    points: list[list[float]] = field(default_factory=list)  # MACs so far, top-1 and loss of 1,000 samples, in the last level
    growth: list[list[float]] = field(default_factory=list)  # the same before and after each growth


def train(
    module: nn.Module,
    levels: Sequence[Level],
    *,
    budget: float,
    batch: int,
    lr: float,
    seed: int,
    device: str,
    evaluations: int = 0,
    graphs: bool = True,
) -> tuple[nn.Module, Log]:
    """Through all levels, `budget` MACs in all. The learning rate rises again after each growth, stays, and falls by a cosine
    over the last level."""
    log = Log()
    for number, level in enumerate(levels):
        if level.grow is not None:
            before = measure(module, first(levels[number - 1].data.validation))
            module = level.grow(module).to(device)
            after = measure(module, first(level.data.validation))
            log.growth.append([before["top1"], before["loss"], after["top1"], after["loss"]])
        module = module.to(device=device, memory_format=layout(device)).train()
        step_macs = 3 * batch * cost(module, level.data.train[0])
        steps = max(2, round(level.share * budget / step_macs))
        last = number == len(levels) - 1
        runner = Runner(module, level.data, batch, lr, seed * 10 + number, device, graphs and steps > 10)
        marks = {round((i + 1) * steps / evaluations) for i in range(evaluations)} if evaluations and last else set()
        for step in range(steps):
            runner.step(factor(step, steps, last))
            if step + 1 in marks:
                runner.settle()
                point = measure(module, first(level.data.validation))
                log.points.append([log.macs + (step + 1) * step_macs, point["top1"], point["loss"]])
                module.train()
        runner.settle()
        log.macs += steps * step_macs
        log.steps.append(steps)
    return module, log


def factor(step: int, steps: int, last: bool) -> float:
    """Of the peak learning rate."""
    warmup = min(WARMUP, steps // 4 + 1)
    if step < warmup:
        return (step + 1) / warmup
    return (1 + math.cos(math.pi * (step - warmup) / max(1, steps - warmup))) / 2 if last else 1.0


class Runner:
    """AdamW on random batches. On CUDA a step is recorded once and replayed: small networks wait for Python otherwise."""

    def __init__(self, module: nn.Module, data: Data, batch: int, lr: float, seed: int, device: str, graphs: bool):
        self.module, self.data, self.batch, self.lr, self.device = module, data, batch, lr, device
        self.cuda = device.startswith("cuda")
        self.generator = torch.Generator(device=device).manual_seed(seed)
        self.rate = torch.tensor(lr, device=device) if self.cuda else lr
        options: dict[str, Any] = {"capturable": True, "fused": True} if self.cuda else {"fused": True}
        self.optimizer = torch.optim.AdamW(module.parameters(), lr=self.rate, weight_decay=WEIGHT_DECAY, **options)
        self.graph: Any = None
        self.x, self.y = (part[:batch].clone() for part in data.train)
        self.loss = torch.zeros((), device=device)
        self.wanted = graphs and self.cuda
        self.done = 0

    def step(self, scale: float) -> None:
        if self.cuda:
            assert isinstance(self.rate, Tensor)
            self.rate.fill_(self.lr * scale)
        else:
            for group in self.optimizer.param_groups:
                group["lr"] = self.lr * scale
        index = torch.randint(len(self.data.train[0]), (self.batch,), generator=self.generator, device=self.device)
        self.x.copy_(self.data.train[0].index_select(0, index))
        self.y.copy_(self.data.train[1].index_select(0, index))
        if self.graph is not None:
            self.graph.replay()
        elif self.wanted and self.done == 3:
            self._record()
        else:
            self._work()
        self.done += 1

    def _work(self) -> None:
        self.optimizer.zero_grad(set_to_none=True)
        loss = task_loss(self.module, self.x, self.y)
        loss.backward()
        self.optimizer.step()
        self.loss = loss.detach()

    def _record(self) -> None:
        """Three steps have run as they are; this one is captured, and then replayed. Where capturing fails the rest does
        without."""
        try:
            torch.cuda.synchronize()
            side = torch.cuda.Stream()
            side.wait_stream(torch.cuda.current_stream())
            with torch.cuda.stream(side):
                self._work()  # on the stream that will capture
            torch.cuda.current_stream().wait_stream(side)
            self.optimizer.zero_grad(set_to_none=True)
            graph = torch.cuda.CUDAGraph()
            with torch.cuda.graph(graph):
                loss = task_loss(self.module, self.x, self.y)
                loss.backward()
                self.optimizer.step()
            self.loss, self.graph = loss.detach(), graph
        except Exception as error:
            print(f"no graph ({type(error).__name__}: {str(error).splitlines()[0]})", flush=True)
            self.wanted, self.graph = False, None
            torch.cuda.synchronize()

    def settle(self) -> None:
        if self.cuda:
            torch.cuda.synchronize()


def first(part: tuple[Tensor, Tensor]) -> tuple[Tensor, Tensor]:
    """Enough of it to follow the training."""
    return part[0][:CHUNK], part[1][:CHUNK]


def sized(batch: int, scale: float) -> int:
    """A batch; of a trial run, a small one."""
    return batch if scale > 0.05 else 8


def task_loss(module: nn.Module, x: Tensor, y: Tensor) -> Tensor:
    return F.cross_entropy(module(x).flatten(0, -2), y.flatten())


@torch.no_grad()
def measure(module: nn.Module, part: tuple[Tensor, Tensor]) -> dict[str, float]:
    """Mean cross-entropy and percent right."""
    module.eval()
    loss = right = count = 0.0
    for x, y in zip(*(t.split(CHUNK) for t in part), strict=True):
        scores = module(x).flatten(0, -2).float()
        loss += float(F.cross_entropy(scores, y.flatten(), reduction="sum"))
        right += float((scores.argmax(1) == y.flatten()).sum())
        count += y.numel()
    return {"loss": round(loss / count, 5), "top1": round(100 * right / count, 3)}


def finish(module: nn.Module, data: Data, log: Log) -> dict[str, Any]:
    """A row of the record."""
    return {
        "macs": log.macs,
        "validation": measure(module, data.validation),
        "test": measure(module, data.test),
        "steps": log.steps,
        "growth": log.growth,
        "points": log.points,
    }
