"""Optimizers, learning rates and averaged weights, as plain functions of a recipe."""

import math
from collections.abc import Iterable, Iterator
from contextlib import contextmanager

import torch
from torch import Tensor, nn
from torch.distributed.tensor import DTensor

from lamina.errors import InputError
from lamina.train.recipe import Optimizer, Schedule


def optimizer(module: nn.Module, options: Optimizer) -> torch.optim.Optimizer:
    """Groups of parameters: those that decay and those that do not, and with a rate of its own for the body those of the
    head apart. A group's learning rate is its `factor` times the recipe's."""
    parameters = [p for p in module.parameters() if p.requires_grad]
    own = head(module) if options.body != 1 else set()
    groups = []
    for factor, part in ((options.body, [p for p in parameters if p not in own]), (1.0, [p for p in parameters if p in own])):
        decayed = [p for p in part if options.decay_all or p.ndim > 1]
        others = [p for p in part if not (options.decay_all or p.ndim > 1)]
        for chosen, decay in ((decayed, options.weight_decay), (others, 0.0)):
            groups += [{"params": chosen, "weight_decay": decay, "factor": factor}] if chosen else []
    # Fused: all of an update in one pass over memory. torch has no such SGD for parameters that are sharded over processes.
    fused = None if any(isinstance(p, DTensor) for p in parameters) else True
    if options.name == "sgd":
        return torch.optim.SGD(groups, lr=options.lr, momentum=options.momentum, nesterov=options.nesterov, fused=fused)
    kind = torch.optim.AdamW if options.name == "adamw" else torch.optim.Adam
    return kind(groups, lr=options.lr, betas=options.betas, eps=options.eps, fused=fused)


def head(module: nn.Module) -> set[nn.Parameter]:
    """The parameters of the last layer: the last linear one with as many outputs as there are classes."""
    classes = getattr(getattr(module, "config", None), "num_classes", None)
    found = [m for m in module.modules() if isinstance(m, nn.Linear) and m.out_features == classes]
    if not found:
        raise InputError("optimizer.body: this network has no last linear layer to the classes that could have its own rate")
    return set(found[-1].parameters())


def factor(step: int, options: Schedule, steps: int, steps_an_epoch: int) -> float:
    """What the peak learning rate is multiplied by in step `step` (the first is 0) of `steps`."""
    if step < options.warmup:
        return (step + 1) / options.warmup
    if options.name == "steps":
        return options.gamma ** sum(step >= round(m * steps_an_epoch) for m in options.milestones)
    if options.name == "inverse_sqrt":
        return math.sqrt(max(options.warmup, 1) / (step + 1))
    if options.name == "constant":
        return 1.0
    share = min(1.0, (step - options.warmup + 1) / max(1, steps - options.warmup))  # 1 in the last step
    fall = 1 - share if options.name == "linear" else (1 + math.cos(math.pi * share)) / 2
    return options.final + (1 - options.final) * fall


class Average:
    """The exponential moving average of a module's parameters (Polyak and Juditsky 1992; the form of Tan and Le 2019)."""

    def __init__(self, module: nn.Module, decay: float):
        self.decay = decay
        self.parameters = dict(module.named_parameters())
        self.values = {name: p.detach().clone() for name, p in self.parameters.items()}

    @torch.no_grad()
    def update(self, step: int) -> None:
        """After step `step`; the first steps are averaged over fewer, so that the start is soon forgotten."""
        decay = min(self.decay, (1 + step) / (10 + step))
        for name, value in self.values.items():
            value.lerp_(self.parameters[name].detach(), 1 - decay)

    @contextmanager
    @torch.no_grad()
    def applied(self) -> Iterator[None]:
        """Within it the module has the averaged weights."""
        own = {name: p.detach().clone() for name, p in self.parameters.items()}
        self._put(self.values.items())
        try:
            yield
        finally:
            self._put(own.items())

    def _put(self, values: Iterable[tuple[str, Tensor]]) -> None:
        with torch.no_grad():
            for name, value in values:
                self.parameters[name].copy_(value)
