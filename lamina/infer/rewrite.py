"""Exact rewrites of a network for inference, before any engine sees it: the same function with less work.

Each rule takes the graph that torch.fx makes of the network and changes it in place; the network itself stays as it was and
shares its weights. What is faster on one machine may be slower on another: the layers that a rule offers to Winograd's
algorithm are timed both ways on the shapes they will meet.
"""

import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, fx, nn
from torch.nn import functional as F
from torch.nn.utils.fusion import fuse_conv_bn_eval, fuse_linear_bn_eval

from lamina.infer import winograd

NORMS = (nn.BatchNorm1d, nn.BatchNorm2d)
IDLE = (nn.Dropout, nn.Dropout1d, nn.Dropout2d, nn.Identity)  # in evaluation mode
RELUS = (F.relu, torch.relu, "relu", "relu_")
ROUNDS = 5  # timings of a layer in each form, of which the best counts
GAIN = 0.9  # Winograd's time over the direct convolution's from which on a layer takes it: below a tenth is noise


@dataclass
class Rewritten:
    """The rewritten network, and for each rule how many places it changed. `module` is the given one where torch.fx cannot
    follow its forward, and `why` says so."""

    module: nn.Module
    changes: dict[str, int] = field(default_factory=dict)
    why: str = ""


def rewrite(
    module: nn.Module, example: Sequence[Tensor] | None = None, *, memory: int | None = None, fast: bool = True
) -> Rewritten:
    """`module` (in evaluation mode, on the CPU) with less to do.

    With `example`, inputs of the sizes it will meet, and `fast`, 3x3 convolutions take Winograd's algorithm where that
    measures faster, as long as its filters stay within `memory` bytes (None: no bound). Without, the result has torch's own
    layers alone, and can be exported.
    """
    try:
        graph = fx.symbolic_trace(module)
    except Exception as error:  # whatever the forward raises on torch.fx's stand-ins
        return Rewritten(module, why=f"torch.fx cannot follow it: {str(error).splitlines()[0] if str(error) else type(error)}")
    graph.eval()
    rules: dict[str, Callable[[fx.GraphModule], int]] = {
        "idle layers removed": remove_idle,
        "batch norms folded": fold_norms,
        "response norms banded": band_response_norms,
    }
    found = Rewritten(graph)
    for name, rule in rules.items():
        found.changes[name] = rule(graph)
    if fast and example is not None and winograd.available():
        found.changes["Winograd convolutions"] = use_winograd(graph, example, memory)
    graph.graph.lint()
    graph.delete_all_unused_submodules()
    graph.recompile()
    return found


# ---- the rules -----------------------------------------------------------------------------------------------------


def remove_idle(graph: fx.GraphModule) -> int:
    """Dropout, as a layer or as a function, and identities."""
    count = 0
    for node in list(graph.graph.nodes):
        if isinstance(_layer(graph, node), IDLE) or (node.target is F.dropout and not _argument(node, 2, "training", True)):
            _drop(graph, node)
            count += 1
    return count


def fold_norms(graph: fx.GraphModule) -> int:
    """A batch norm after a convolution or linear layer that nothing else reads, into its weights; and one before a
    convolution without padding (with padding the border would see the shift of zeros), where nothing else reads it."""
    count = 0
    for node, norm in _layers(graph):
        if not isinstance(norm, NORMS) or norm.running_mean is None:
            continue
        before, layer = node.args[0], _layer(graph, node.args[0])
        if isinstance(before, fx.Node) and len(before.users) == 1 and _alone(graph, before):
            if isinstance(layer, nn.Conv2d):
                folded: nn.Module = fuse_conv_bn_eval(layer, norm)
            elif isinstance(layer, nn.Linear):
                folded = fuse_linear_bn_eval(layer, norm)
            else:
                folded = norm
            if folded is not norm:
                _put(graph, before, folded)
                _drop(graph, node)
                count += 1
                continue
        users = list(node.users)
        after = _layer(graph, users[0]) if len(users) == 1 else None
        if isinstance(after, nn.Conv2d) and _unpadded(after) and after.groups == 1 and _alone(graph, users[0]):
            _put(graph, users[0], _with_norm_before(after, norm))
            _drop(graph, node)
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
    for node, norm in _layers(graph):
        channels = _channels(graph, node) if isinstance(norm, nn.LocalResponseNorm) else None
        if channels is not None:
            with graph.graph.inserting_before(node):
                _call(graph, node, ResponseNorm(norm, channels))  # type: ignore[arg-type]
            count += 1
    return count


def use_winograd(graph: fx.GraphModule, example: Sequence[Tensor], memory: int | None) -> int:
    """Winograd's algorithm for the convolutions it fits, with the ReLU and the pool of 2x2 after them, where it measures
    faster on the sizes of `example`. The largest gains come first within `memory`."""
    chains = [found for node, layer in _layers(graph) if (found := _chain(graph, node, layer)) is not None]
    shapes = _shapes(graph, example, [chain.node for chain in chains])
    times: dict[Any, tuple[float, float]] = {}
    offers: list[tuple[float, _Chain, winograd.Winograd]] = []
    for chain in chains:
        shape = shapes[chain.node]
        made = winograd.Winograd(chain.conv, chain.relu, chain.pool)
        key = (shape, chain.conv.out_channels, chain.conv.padding, chain.relu, chain.pool)
        if key not in times:
            times[key] = _both_times(chain, made, torch.randn(shape).contiguous(memory_format=torch.channels_last))
        direct, ours = times[key]
        if ours < GAIN * direct:
            offers.append((direct - ours, chain, made))
    used = count = 0
    for _, chain, made in sorted(offers, key=lambda offer: -offer[0]):
        if memory is not None and used + made.filters.nbytes > memory:
            continue
        used += made.filters.nbytes
        _call(graph, chain.last, made, chain.node.args[0])
        count += 1
    return count


@dataclass(eq=False)
class _Chain:
    """A convolution, with the ReLU and the pool that follow and that nothing else reads."""

    node: fx.Node
    conv: nn.Conv2d
    last: fx.Node
    relu: bool = False
    pool: bool = False

    def direct(self, x: Tensor) -> Tensor:
        y = self.conv(x)
        y = F.relu_(y) if self.relu else y
        return F.max_pool2d(y, 2) if self.pool else y


def _chain(graph: fx.GraphModule, node: fx.Node, layer: nn.Module) -> _Chain | None:
    if not isinstance(layer, nn.Conv2d) or not winograd.fits(layer):
        return None
    chain = _Chain(node, layer, node)
    after = _only_user(node)
    if after is not None and (isinstance(_layer(graph, after), nn.ReLU) or after.target in RELUS):
        chain.relu, chain.last, after = True, after, _only_user(after)
    pool = _layer(graph, after) if after is not None else None
    if isinstance(pool, nn.MaxPool2d) and _pairs(pool):
        assert after is not None
        chain.pool, chain.last = True, after
    return chain


def _pairs(pool: nn.MaxPool2d) -> bool:
    """Whether it takes the maximum of squares of 2x2, a last odd row or column left out."""
    plain = pool.padding in (0, (0, 0)) and pool.dilation in (1, (1, 1)) and not pool.ceil_mode and not pool.return_indices
    return plain and pool.kernel_size in (2, (2, 2)) and pool.stride in (2, (2, 2))


@torch.inference_mode()
def _both_times(chain: _Chain, made: nn.Module, x: Tensor) -> tuple[float, float]:
    """Seconds of the direct convolution and of ours, turn by turn; the best of each."""
    conv = nn.Conv2d(chain.conv.in_channels, chain.conv.out_channels, 3, padding=chain.conv.padding)  # type: ignore[arg-type]
    conv = conv.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
    direct = _Chain(chain.node, conv, chain.last, chain.relu, chain.pool).direct
    best = [float("inf"), float("inf")]
    for _ in range(ROUNDS):
        for i, run in enumerate((direct, made)):
            begin = time.perf_counter()
            run(x)
            best[i] = min(best[i], time.perf_counter() - begin)
    return best[0], best[1]


class _Shapes(fx.Interpreter):
    def __init__(self, graph: fx.GraphModule, wanted: Sequence[fx.Node]):
        super().__init__(graph)
        self.wanted, self.shapes = {node.args[0]: node for node in wanted}, {}

    def run_node(self, n: fx.Node) -> Any:
        result = super().run_node(n)
        self.shapes[n] = tuple(result.shape) if isinstance(result, Tensor) else None
        return result


@torch.inference_mode()
def _shapes(graph: fx.GraphModule, example: Sequence[Tensor], nodes: Sequence[fx.Node]) -> dict[fx.Node, tuple[int, ...]]:
    """The shape of each node's input, on one run of the example."""
    graph.graph.lint()
    graph.recompile()
    run = _Shapes(graph, nodes)
    run.run(*example)
    return {node: run.shapes[node.args[0]] for node in nodes}


# ---- the graph -----------------------------------------------------------------------------------------------------


def _layers(graph: fx.GraphModule) -> Iterator[tuple[fx.Node, nn.Module]]:
    """The calls of layers, each with its layer; the list is made first, so that the graph may change meanwhile."""
    for node in list(graph.graph.nodes):
        layer = _layer(graph, node)
        if layer is not None:
            yield node, layer


def _layer(graph: fx.GraphModule, node: Any) -> nn.Module | None:
    return graph.get_submodule(str(node.target)) if isinstance(node, fx.Node) and node.op == "call_module" else None


def _alone(graph: fx.GraphModule, node: fx.Node) -> bool:
    """Whether the layer is called at this place only: one that is called twice keeps its weights."""
    return sum(other.op == "call_module" and other.target == node.target for other in graph.graph.nodes) == 1


def _only_user(node: fx.Node) -> fx.Node | None:
    return next(iter(node.users)) if len(node.users) == 1 else None


def _unpadded(conv: nn.Conv2d) -> bool:
    return conv.padding in ((0, 0), "valid") or (conv.padding == "same" and conv.kernel_size == (1, 1))


def _channels(graph: fx.GraphModule, node: Any) -> int | None:
    """The channels of a tensor: those of the convolution that made it, through layers that keep them."""
    keeps = (nn.ReLU, nn.MaxPool2d, nn.AvgPool2d, nn.BatchNorm2d, nn.LocalResponseNorm, ResponseNorm)
    while isinstance(node, fx.Node):
        layer = _layer(graph, node)
        if isinstance(layer, nn.Conv2d):
            return layer.out_channels
        if not isinstance(layer, keeps) and node.target not in (*RELUS, F.max_pool2d):
            return None
        node = node.args[0]
    return None


def _put(graph: fx.GraphModule, node: fx.Node, layer: nn.Module) -> None:
    """Another layer at the place of a call's layer."""
    name = f"{str(node.target).replace('.', '_')}_{len(graph._modules)}"
    graph.add_submodule(name, layer)
    node.target = name


def _call(graph: fx.GraphModule, node: fx.Node, layer: nn.Module, argument: Any = None) -> None:
    """A call of another layer in place of `node`, on `argument` (by default on what the node takes)."""
    name = f"{node.name}_{len(graph._modules)}"
    graph.add_submodule(name, layer)
    with graph.graph.inserting_before(node):
        made = graph.graph.call_module(name, (node.args[0] if argument is None else argument,))
    node.replace_all_uses_with(made)
    graph.graph.erase_node(node)
    graph.graph.eliminate_dead_code()


def _argument(node: fx.Node, place: int, name: str, default: Any) -> Any:
    return node.args[place] if len(node.args) > place else node.kwargs.get(name, default)


def _drop(graph: fx.GraphModule, node: fx.Node) -> None:
    node.replace_all_uses_with(node.args[0])  # type: ignore[arg-type]
    graph.graph.erase_node(node)
