"""An optimizer's state goes along with the weights: the operators are linear, and so are the moments of the gradient.

Where a weight is copied r times and its readers are shared out, each copy's gradient is a share of the old one: momentum and
exp_avg take the share, exp_avg_sq its square, and the step count stays, so that Adam's bias correction does. After a split
all of a block but its last layer sees half the gradient: SGD moves the function at half speed there (double the learning rate
on those blocks), Adam does not. New layers start with moments of zero.
"""

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn

from lamina.errors import InputError
from lamina.scale.plan import Plan

KINDS: tuple[type[torch.optim.Optimizer], ...] = (torch.optim.SGD, torch.optim.Adam, torch.optim.AdamW)
POWERS = {"momentum_buffer": 1, "exp_avg": 1, "exp_avg_sq": 2, "max_exp_avg_sq": 2}


def carry(optimizer: torch.optim.Optimizer, old: nn.Module, new: nn.Module, plan: Plan) -> torch.optim.Optimizer:
    """An optimizer of the same kind and settings for `new`, with the old one's state. A new parameter joins the group of those
    it is made of. Raises `InputError` for optimizers of other kinds."""
    if type(optimizer) not in KINDS:
        kinds = ", ".join(kind.__name__ for kind in KINDS)
        raise InputError(f"the state of {type(optimizer).__name__} is not carried over: it is for {kinds}; grow without it")
    names: dict[Tensor, str] = {parameter: name for name, parameter in old.named_parameters(remove_duplicate=False)}
    if foreign := [p for g in optimizer.param_groups for p in g["params"] if p not in names]:
        raise InputError(f"the optimizer has {len(foreign)} parameters that are not the network's: give the network's own")
    place = {names[p]: i for i, g in enumerate(optimizer.param_groups) for p in g["params"]}
    state = {names[p]: values for p, values in optimizer.state.items()}
    groups: list[list[nn.Parameter]] = [[] for _ in optimizer.param_groups]
    for name, parameter in new.named_parameters():
        found = {place[source] for source in plan.sources(name) if source in place}
        if parameter.requires_grad and (found or not plan.sources(name)):
            groups[min(found, default=0)].append(parameter)
    options = [{k: v for k, v in g.items() if k != "params"} for g in optimizer.param_groups]
    kind: Any = type(optimizer)
    other = kind([{"params": ps, **o} for ps, o in zip(groups, options, strict=True) if ps], lr=optimizer.defaults["lr"])
    _fill(other, new, state, plan)
    return other


def _fill(other: torch.optim.Optimizer, new: nn.Module, state: Mapping[str, Mapping[str, Any]], plan: Plan) -> None:
    if not state:
        return
    step = next((s["step"] for s in state.values() if "step" in s), None)
    keys = next(iter(state.values())).keys()
    own = {p for g in other.param_groups for p in g["params"]}
    for name, parameter in new.named_parameters():
        if parameter not in own:
            continue
        values: dict[str, Any] = {}
        for key in keys:
            if key in POWERS:
                moment = plan.moment(name, lambda n, k=key: _moment(state, n, k), POWERS[key])
                values[key] = torch.zeros_like(parameter) if moment is None else moment.clone()
        if step is not None:
            values["step"] = step.clone() if isinstance(step, Tensor) else step
        other.state[parameter] = values


def _moment(state: Mapping[str, Mapping[str, Any]], name: str, key: str) -> Tensor | None:
    return state.get(name, {}).get(key)
