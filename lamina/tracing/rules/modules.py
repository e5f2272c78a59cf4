"""torch's own modules whose forward is one call of one function: a trace goes straight to that function's rule.

Only where a module is exactly torch's, with its forward and without hooks. What it would call is all that is said here;
whether the shapes fit, and what it costs, the rule knows. `None` for what is not that simple.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import nn
from torch.nn import functional as F

from lamina.tracing.rules.table import RULES

# By type: the forward meant, the place of the function in torch, the function, and its arguments after the input.
MODULES: dict[type, tuple[Any, Any, str, Any, Callable[[Any, Any], tuple[Any, ...] | None]]] = {}


def _is(home: Any, name: str, *kinds: type[nn.Module]) -> Callable[[Callable[[Any, Any], Any]], Callable[[Any, Any], Any]]:
    def register(arguments: Callable[[Any, Any], Any]) -> Callable[[Any, Any], Any]:
        function = getattr(home, name)
        for kind in kinds:
            if all(f.__module__.startswith("torch") for f in (kind.forward, function)):  # not replaced before this was imported
                MODULES[kind] = (kind.forward, home, name, function, arguments)
        return arguments

    return register


@_is(F, "conv1d", nn.Conv1d)
@_is(F, "conv2d", nn.Conv2d)
@_is(F, "conv3d", nn.Conv3d)
def _convolution(m: Any, x: Any) -> Any:
    own = m._parameters
    if m.padding_mode != "zeros" or "weight" not in own:
        return None
    return own["weight"], own["bias"], m.stride, m.padding, m.dilation, m.groups


def _batch_norm(axes: tuple[int, ...]) -> Callable[[Any, Any], Any]:
    def arguments(m: Any, x: Any) -> Any:
        if x.dim() not in axes or m.momentum is None or "running_mean" not in m._buffers:
            return None
        own, seen = m._parameters, m._buffers
        mean, variance = seen["running_mean"], seen["running_var"]
        batch = m.training or (mean is None and variance is None)
        if m.training and not m.track_running_stats:
            mean = variance = None
        return mean, variance, own["weight"], own["bias"], batch, m.momentum, m.eps

    return arguments


_is(F, "batch_norm", nn.BatchNorm1d)(_batch_norm((2, 3)))
_is(F, "batch_norm", nn.BatchNorm2d)(_batch_norm((4,)))
_is(F, "batch_norm", nn.BatchNorm3d)(_batch_norm((5,)))


@_is(F, "linear", nn.Linear)
def _linear(m: Any, x: Any) -> Any:
    own = m._parameters
    return (own["weight"], own["bias"]) if "weight" in own else None


@_is(F, "layer_norm", nn.LayerNorm)
def _layer_norm(m: Any, x: Any) -> Any:
    own = m._parameters
    return (m.normalized_shape, own["weight"], own["bias"], m.eps) if "weight" in own else None


@_is(F, "relu", nn.ReLU)
@_is(F, "silu", nn.SiLU)
@_is(F, "hardswish", nn.Hardswish)
def _activation(m: Any, x: Any) -> Any:
    return (m.inplace,)


@_is(F, "gelu", nn.GELU)
@_is(torch, "sigmoid", nn.Sigmoid)
@_is(torch, "tanh", nn.Tanh)
def _plain(m: Any, x: Any) -> Any:
    return ()


@_is(F, "dropout", nn.Dropout)
def _dropout(m: Any, x: Any) -> Any:
    return m.p, m.training, m.inplace


def shortcuts() -> dict[type, tuple[Any, Callable[[Any, Any], Any]]]:
    """By type of module: the rule, and the arguments after the input. Not where somebody has put another forward or
    another function in the place of torch's."""
    found = {}
    for kind, (forward, home, name, function, arguments) in MODULES.items():
        rule = RULES.get(function)
        if rule is not None and kind.forward is forward and getattr(home, name) is function:
            found[kind] = (rule, arguments)
    return found
