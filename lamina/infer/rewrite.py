"""Exact rewrites of a network for inference, before any engine sees it: the same function with less work.

Each rule takes the graph that torch.fx makes of the network and changes it in place; the network itself stays as it was and
shares its weights.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, fx, nn
from torch.nn import functional as F
from torch.nn.utils.fusion import fuse_conv_bn_eval, fuse_linear_bn_eval

from lamina.infer import forms
from lamina.infer.graph import argument, call, called_once, drop, follow, layer_of, layers, put

NORMS = (nn.BatchNorm1d, nn.BatchNorm2d)
IDLE = (nn.Dropout, nn.Dropout1d, nn.Dropout2d, nn.Identity)  # in evaluation mode


@dataclass
class Rewritten:
    """The rewritten network, and for each rule how many places it changed. `module` is the given one, or a copy with its
    layers in other forms, where torch.fx cannot follow its forward, and `why` says so. `winograd` are the names of the layers
    that take Winograd's algorithm."""

    module: nn.Module
    changes: dict[str, int] = field(default_factory=dict)
    why: str = ""
    winograd: tuple[str, ...] = ()


def rewrite(
    module: nn.Module,
    example: Sequence[Tensor] | None = None,
    *,
    memory: int | None = None,
    fast: bool = True,
    pack: bool = True,
    winograd: Sequence[str] | None = None,
) -> Rewritten:
    """`module` (in evaluation mode, on the CPU) with less to do.

    With `example`, inputs of the sizes it will meet, and `fast`, layers take the form that is fastest here (`infer.forms`):
    3x3 convolutions Winograd's algorithm where that measures faster, or where `winograd` has them, and with `pack` the others
    oneDNN's packed form, as long as what is stored for it stays within `memory` bytes (None: no bound). Without, the result
    has torch's own layers alone, and can be exported.
    """
    try:
        graph = follow(module, example)
    except Exception as error:  # whatever the forward raises on torch.fx's stand-ins
        why = f"torch.fx cannot follow it: {str(error).splitlines()[0] if str(error) else type(error)}"
        if fast and pack and example is not None:
            exchanged, count = forms.exchange(module, example, memory)
            return Rewritten(exchanged, {"packed layers": count}, why)
        return Rewritten(module, why=why)
    graph.eval()
    rules: dict[str, Callable[[fx.GraphModule], int]] = {
        "idle layers removed": remove_idle,
        "batch norms folded": fold_norms,
        "response norms banded": band_response_norms,
    }
    found = Rewritten(graph)
    for name, rule in rules.items():
        found.changes[name] = rule(graph)
    if fast and example is not None:
        found.winograd, packed = forms.choose(graph, example, memory, pack, winograd)
        found.changes |= {"Winograd convolutions": len(found.winograd), "packed layers": packed}
    graph.graph.lint()
    graph.delete_all_unused_submodules()
    graph.recompile()
    return found


# ---- the rules -----------------------------------------------------------------------------------------------------


def remove_idle(graph: fx.GraphModule) -> int:
    """Dropout, as a layer or as a function, and identities."""
    count = 0
    for node in list(graph.graph.nodes):
        if isinstance(layer_of(graph, node), IDLE) or (node.target is F.dropout and not argument(node, 2, "training", True)):
            drop(graph, node)
            count += 1
    return count


def fold_norms(graph: fx.GraphModule) -> int:
    """A batch norm after a convolution or linear layer that nothing else reads, into its weights; and one before a
    convolution without padding (with padding the border would see the shift of zeros), where nothing else reads it."""
    count = 0
    for node, norm in layers(graph):
        if not isinstance(norm, NORMS) or norm.running_mean is None:
            continue
        before, layer = node.args[0], layer_of(graph, node.args[0])
        if isinstance(before, fx.Node) and len(before.users) == 1 and called_once(graph, before):
            if isinstance(layer, nn.Conv2d):
                folded: nn.Module = fuse_conv_bn_eval(layer, norm)
            elif isinstance(layer, nn.Linear):
                folded = fuse_linear_bn_eval(layer, norm)
            else:
                folded = norm
            if folded is not norm:
                put(graph, before, folded)
                drop(graph, node)
                count += 1
                continue
        users = list(node.users)
        after = layer_of(graph, users[0]) if len(users) == 1 else None
        if isinstance(after, nn.Conv2d) and _unpadded(after) and after.groups == 1 and called_once(graph, users[0]):
            put(graph, users[0], _with_norm_before(after, norm))
            drop(graph, node)
            count += 1
    return count


def _with_norm_before(conv: nn.Conv2d, norm: nn.Module) -> nn.Conv2d:
    """conv(scale·x + shift) as one convolution."""
    assert isinstance(norm, NORMS) and norm.running_mean is not None and norm.running_var is not None
    scale = (norm.running_var.double() + norm.eps).rsqrt()
    scale = scale if norm.weight is None else scale * norm.weight.double()
    shift = -norm.running_mean.double() * scale
    shift = shift if norm.bias is None else shift + norm.bias.double()
    weight = conv.weight.detach().double()
    bias = (weight * shift[:, None, None]).sum((1, 2, 3)) + (0 if conv.bias is None else conv.bias.detach().double())
    made = nn.Conv2d(conv.in_channels, conv.out_channels, conv.kernel_size, conv.stride, 0, conv.dilation)  # type: ignore[arg-type]
    made.weight = nn.Parameter((weight * scale[:, None, None]).to(conv.weight.dtype), requires_grad=False)
    made.bias = nn.Parameter(bias.to(conv.weight.dtype), requires_grad=False)
    return made.eval()


class ResponseNorm(nn.Module):
    """Local response normalisation as a banded 1x1 convolution: y = k + α/n·(sum of squares over n channels), and x·y^(-β);
    for the papers' β = 3/4 that is x·r·√r with r = 1/√y. Engines run the layer itself badly: 12 times as long under ONNX
    Runtime (64x56x56)."""

    band: Tensor
    k: Tensor

    def __init__(self, norm: nn.LocalResponseNorm, channels: int):
        super().__init__()
        number = torch.arange(channels)
        distance = number[None, :] - number[:, None]  # torch's window: n//2 channels before, (n - 1)//2 after
        inside = (distance >= -(norm.size // 2)) & (distance <= (norm.size - 1) // 2)
        self.register_buffer("band", (inside * (norm.alpha / norm.size)).float()[:, :, None, None])
        self.register_buffer("k", torch.full((channels,), float(norm.k)))
        self.beta = norm.beta

    def forward(self, x: Tensor) -> Tensor:
        y = F.conv2d(x * x, self.band, self.k)
        if self.beta != 0.75:
            return x * y ** (-self.beta)
        r = y.rsqrt()
        return x * (r * r.sqrt())


def band_response_norms(graph: fx.GraphModule) -> int:
    """Response norms over the channels of a convolution; the number of channels is that of the convolution before it."""
    count = 0
    for node, norm in layers(graph):
        channels = _channels(graph, node) if isinstance(norm, nn.LocalResponseNorm) else None
        if channels is not None:
            call(graph, node, ResponseNorm(norm, channels))  # type: ignore[arg-type]
            count += 1
    return count


def _unpadded(conv: nn.Conv2d) -> bool:
    return conv.padding in ((0, 0), "valid") or (conv.padding == "same" and conv.kernel_size == (1, 1))


def _channels(graph: fx.GraphModule, node: Any) -> int | None:
    """The channels of a tensor: those of the convolution that made it, through layers that keep them."""
    keeps = (nn.ReLU, nn.MaxPool2d, nn.AvgPool2d, nn.BatchNorm2d, nn.LocalResponseNorm, ResponseNorm)
    while isinstance(node, fx.Node):
        layer = layer_of(graph, node)
        if isinstance(layer, nn.Conv2d):
            return layer.out_channels
        if not isinstance(layer, keeps) and node.target not in (*forms.RELUS, F.max_pool2d):
            return None
        node = node.args[0]
    return None
