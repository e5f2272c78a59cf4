"""torch's convolutions and linear layers with what follows them, in one call of oneDNN, their weights laid out for it once.

torch's own calls lay the weights out anew each time, and go over the result again for a sum and a ReLU. What is called here
is what Inductor makes of a frozen network. These operators are private to torch (2.10 to 2.14 have them): they stand in this
file alone, and where they are missing `available()` is false and networks keep torch's layers.
"""

from collections.abc import Callable
from functools import cache
from typing import Any

import torch
from torch import Tensor, nn

ACTIVATIONS: dict[str, Callable[[Tensor], Tensor]] = {
    "none": lambda x: x,
    "relu": torch.relu,
    "gelu": nn.functional.gelu,
    "swish": nn.functional.silu,
}


@cache
def available() -> bool:
    """Whether this torch has the operators and answers rightly with them."""
    if not torch.backends.mkldnn.is_available():
        return False
    conv, linear, x = nn.Conv2d(4, 8, 3, padding=1), nn.Linear(4, 8), torch.ones(2, 4, 5, 5)
    try:
        with torch.inference_mode():
            ours = Convolution(conv, x.shape, "relu")(x), Linear(linear, (2, 4), "gelu")(x[:, :, 0, 0])
            theirs = torch.relu(conv(x)), nn.functional.gelu(linear(x[:, :, 0, 0]))
    except (AttributeError, RuntimeError, TypeError):  # another torch's operators
        return False
    return all(torch.allclose(a, b, atol=1e-5) for a, b in zip(ours, theirs, strict=True))


def fits(layer: nn.Module | None) -> bool:
    """Whether one of the two classes here computes this layer; no subclass of torch's is taken for torch's."""
    if type(layer) is nn.Conv2d:
        plain = layer.padding_mode == "zeros" and not isinstance(layer.padding, str)
        return plain and layer.weight.dtype == torch.float32 and layer.weight.device.type == "cpu"
    return type(layer) is nn.Linear and layer.weight.dtype == torch.float32 and layer.weight.device.type == "cpu"


class Packed(nn.Module):
    """A layer in packed form. One that stands in a network's own module for torch's `original` also has its attributes: some
    forwards ask a layer for its weight's type."""

    original: nn.Module | None = None

    def stand_for(self, original: nn.Module) -> "Packed":
        object.__setattr__(self, "original", original)  # no submodule: the network's weights stay as they are named
        return self

    def __getattr__(self, name: str) -> Any:
        try:
            return super().__getattr__(name)
        except AttributeError:
            if self.original is None:
                raise
            return getattr(self.original, name)


class Convolution(Packed):
    """A convolution that `fits`, then the sum with `other` where it is given, then the `activation` (none or relu).

    (B, C, H, W), with other (B, M, H', W'), to (B, M, H', W'); of any batch and size, fastest near `shape`.
    """

    def __init__(self, conv: nn.Conv2d, shape: tuple[int, ...], activation: str = "none"):
        super().__init__()
        self.options: tuple[Any, ...] = (conv.padding, conv.stride, conv.dilation, conv.groups)
        self.activation, self.bias = activation, conv.bias
        weight = conv.weight.detach().to_mkldnn()
        self.packed = torch.ops.aten.mkldnn_reorder_conv2d_weight(weight, *self.options, list(shape))

    def forward(self, x: Tensor, other: Tensor | None = None) -> Tensor:
        run = torch.ops.mkldnn._convolution_pointwise
        if other is None:
            return run(x, self.packed, self.bias, *self.options, self.activation, [], "")
        then = None if self.activation == "none" else self.activation
        return run.binary(x, other, self.packed, self.bias, *self.options, "add", 1.0, then, [], "")


class Linear(Packed):
    """A linear layer, then the `activation`: none, relu or gelu. (..., C) to (..., M), fastest for as many rows as `shape`.

    A single row is bound by reading the weights, which torch's own layer does as fast: it is left to that.
    """

    def __init__(self, linear: nn.Linear, shape: tuple[int, ...], activation: str = "none"):
        super().__init__()
        self.weight, self.bias, self.activation = linear.weight, linear.bias, activation
        self.in_features, self.out_features = linear.in_features, linear.out_features
        rows = torch.Size(shape[:-1]).numel()
        self.packed = torch.ops.mkldnn._reorder_linear_weight(linear.weight.detach(), rows) if rows > 1 else None

    def forward(self, x: Tensor) -> Tensor:
        if self.packed is None:
            return ACTIVATIONS[self.activation](nn.functional.linear(x, self.weight, self.bias))
        return torch.ops.mkldnn._linear_pointwise(x, self.packed, self.bias, self.activation, [], "none")


def activation_of(layer: nn.Module | None) -> str | None:
    """The name of an activation that these layers apply themselves; None for another layer."""
    if isinstance(layer, nn.ReLU):
        return "relu"
    return "gelu" if isinstance(layer, nn.GELU) and layer.approximate == "none" else None
