"""Copies of a module that are traced in its place. They share with it what need not change."""

import copy
from typing import Any

import torch
from torch import nn
from torch.nn.parameter import is_lazy

from lamina.errors import InputError
from lamina.tracing.values import META, keeps_values


def _own(module: nn.Module) -> list[torch.Tensor]:
    return [*module.parameters(), *module.buffers()]


def _lazy_again(x: Any, device: torch.device) -> torch.Tensor:
    """A lazy weight or buffer as it was made."""
    return type(x)(x.requires_grad, device, x.data.dtype)


def with_lazy_weights_on_meta(module: nn.Module) -> nn.Module:
    """A copy whose lazy layers make their weights on the meta device when they are called first."""
    return copy.deepcopy(module, {id(x): _lazy_again(x, META) if is_lazy(x) else x for x in _own(module)})


def checked(module: nn.Module) -> nn.Module:
    """The module, if none of its weights is lazy any more."""
    for name, x in (*module.named_parameters(), *module.named_buffers()):
        if is_lazy(x):
            raise InputError(f"{name} has no shape, and the call that is traced gives it none")
    return module


def on_meta(module: nn.Module) -> nn.Module:
    """A copy whose weights and buffers are on the meta device, but for small ones of integers, which keep their values."""
    memo: dict[int, Any] = {}
    for x in _own(module):
        stand_in = torch.empty_strided(x.shape, x.stride(), dtype=x.dtype, device=META)
        memo[id(x)] = nn.Parameter(stand_in, x.requires_grad) if isinstance(x, nn.Parameter) else stand_in
        if keeps_values(x):
            memo[id(x)] = x
    return copy.deepcopy(module, memo)


def real(module: Any, inputs: Any, kwargs: Any) -> Any:
    """A copy of a module to run: what its forward does to its buffers goes with it. Lazy layers get their shapes by a call."""
    if not isinstance(module, nn.Module):
        return module
    for name, tensor in (*module.named_parameters(), *module.named_buffers()):
        if tensor.device.type != "cpu":
            raise InputError(f"values=True runs the module, and its {name} is on the {tensor.device.type} device, not the CPU")
    lazy = [x for x in _own(module) if is_lazy(x)]
    memo: dict[int, Any] = {id(x): _lazy_again(x, x.data.device) for x in lazy}
    memo.update((id(x), x.clone()) for x in module.buffers() if x.layout is not torch.strided)  # torch copies no sparse rows
    for part in module.modules():  # what a layer that is pruned, say, has computed of its weights
        memo.update((id(x), x.detach()) for x in vars(part).values() if isinstance(x, torch.Tensor) and not x.is_leaf)
    made = copy.deepcopy(module, memo)
    if lazy:
        with torch.no_grad():
            made(*copy.deepcopy(inputs), **copy.deepcopy(kwargs))
    return made
