"""The form in which torch runs each layer fastest here: oneDNN's packed one with what follows the layer, or Winograd's.

What is faster on one machine may be slower on another: convolutions that Winograd's algorithm fits are timed both ways on the
sizes they will meet.
"""

import copy
import operator
import time
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, fx, nn
from torch.nn import functional as F

from lamina.infer import packed, winograd
from lamina.infer.graph import argument, input_shapes, layer_of, layers, only_user, shapes

RELUS = (F.relu, torch.relu, "relu", "relu_")
SUMS = (operator.add, operator.iadd, torch.add, "add", "add_")
ROUNDS = 5  # timings of a layer in each form, of which the best counts
GAIN = 0.9  # Winograd's time over the direct convolution's from which on a layer takes it: below a tenth is noise
CLEAR = 0.7, 1.3  # ratios after two rounds that no further round would turn

Shape = tuple[int, ...]


@dataclass(eq=False)
class Chain:
    """A convolution or linear layer, with what follows it that nothing else reads: a sum with another tensor, an activation,
    and of a convolution a maximum pool of 2x2."""

    layer: nn.Conv2d | nn.Linear
    nodes: list[fx.Node]  # in order, the layer's first
    shape: Shape  # of the layer's input
    other: fx.Node | None = None  # the sum's other term
    activation: str = "none"
    pool: fx.Node | None = None  # after the rest; only Winograd's form takes it in

    @property
    def transforms(self) -> bool:
        return isinstance(self.layer, nn.Conv2d) and winograd.fits(self.layer) and self.activation != "gelu"

    def direct(self, pack: bool) -> nn.Module:
        """The layer with its activation, and the sum if it has one."""
        if pack and isinstance(self.layer, nn.Conv2d):
            return packed.Convolution(self.layer, self.shape, self.activation)
        if pack and isinstance(self.layer, nn.Linear):
            return packed.Linear(self.layer, self.shape, self.activation)
        return _Plain(self.layer, self.activation)

    def transformed(self) -> winograd.Winograd:
        assert isinstance(self.layer, nn.Conv2d)
        return winograd.Winograd(self.layer, self.activation == "relu", self.pool is not None)


class _Plain(nn.Module):
    """A layer of torch's own with its activation, to be timed."""

    def __init__(self, layer: nn.Module, activation: str):
        super().__init__()
        self.layer = copy.deepcopy(layer).to(memory_format=torch.channels_last)  # type: ignore[call-overload]
        self.activation = activation

    def forward(self, x: Tensor, other: Tensor | None = None) -> Tensor:
        y = self.layer(x)
        y = y if other is None else y.add_(other)
        return y.relu_() if self.activation == "relu" else packed.ACTIVATIONS[self.activation](y)


def choose(
    graph: fx.GraphModule, example: Sequence[Tensor], memory: int | None, pack: bool, remembered: Sequence[str] | None
) -> tuple[tuple[str, ...], int]:
    """Each layer of the graph in its fastest form: the names of the layers that take Winograd's, and the number of packed ones.

    Winograd's form is measured, or taken where `remembered` names the layer; the largest gains come first within `memory`
    bytes of what is stored for these forms.
    """
    pack = pack and packed.available()
    found = chains(graph, example, pack)
    budget = _Budget(memory)
    made = _transformed(found, budget, pack, remembered)
    count = 0
    for chain in found:
        if chain in made:
            _exchange(graph, chain, made[chain])
        elif pack and _packs(chain.layer, chain.shape) and budget.take(chain.layer.weight.nbytes):
            chain.pool = None
            _exchange(graph, chain, chain.direct(pack))
            count += 1
    return tuple(sorted(chain.nodes[0].name for chain in made)), count


def _packs(layer: nn.Module, shape: Shape) -> bool:
    """A linear layer of one row is torch's own in any form."""
    return packed.fits(layer) and (isinstance(layer, nn.Conv2d) or torch.Size(shape[:-1]).numel() > 1)


@dataclass
class _Budget:
    limit: int | None
    used: int = 0

    def take(self, count: int) -> bool:
        if self.limit is not None and self.used + count > self.limit:
            return False
        self.used += count
        return True


def _transformed(
    found: list[Chain], budget: _Budget, pack: bool, remembered: Sequence[str] | None
) -> dict[Chain, winograd.Winograd]:
    """The chains that take Winograd's form."""
    if not winograd.available():
        return {}
    offers: list[tuple[float, Chain, winograd.Winograd]] = []
    times: dict[Any, tuple[float, float]] = {}
    for chain in found:
        if not chain.transforms or (remembered is not None and chain.nodes[0].name not in remembered):
            continue
        made, layer = chain.transformed(), chain.layer
        key = (chain.shape, *layer.weight.shape, layer.padding, chain.activation, chain.pool is None, chain.other is None)
        if remembered is not None:
            times[key] = 1.0, 0.0
        elif key not in times:
            times[key] = _both_times(chain, made, pack)
        direct, ours = times[key]
        if ours < GAIN * direct:
            offers.append((direct - ours, chain, made))
    return {chain: made for _, chain, made in sorted(offers, key=lambda o: -o[0]) if budget.take(made.filters.nbytes)}


@torch.inference_mode()
def _both_times(chain: Chain, made: winograd.Winograd, pack: bool) -> tuple[float, float]:
    """Seconds of the direct form and of Winograd's, turn by turn; the best of each."""
    x = torch.randn(chain.shape).contiguous(memory_format=torch.channels_last)
    direct, best = chain.direct(pack and packed.fits(chain.layer)), [float("inf"), float("inf")]
    terms = () if chain.other is None else (torch.zeros_like(made(x)),)

    def whole() -> Tensor:
        y = direct(x, *terms)
        return y if chain.pool is None else F.max_pool2d(y, 2)

    for turn in range(ROUNDS + 1):
        for i, run in enumerate((whole, lambda: made(x, *terms))):
            begin = time.perf_counter()
            run()
            if turn:  # the first one warms up
                best[i] = min(best[i], time.perf_counter() - begin)
        if turn >= 2 and not CLEAR[0] < best[1] / best[0] < CLEAR[1]:
            break
    return best[0], best[1]


# ---- what follows a layer --------------------------------------------------------------------------------------------


def chains(graph: fx.GraphModule, example: Sequence[Tensor], pack: bool) -> list[Chain]:
    """The layers that have another form, in the order of their calls."""
    sizes = shapes(graph, example)
    found = []
    for node, layer in layers(graph):
        shape = sizes.get(node.args[0])  # type: ignore[arg-type]
        if shape is None or len(node.args) != 1 or node.kwargs:
            continue
        if (pack and packed.fits(layer)) or (isinstance(layer, nn.Conv2d) and winograd.fits(layer)):
            found.append(_chain(graph, Chain(layer, [node], shape), sizes))  # type: ignore[arg-type]
    taken: set[fx.Node] = set()
    for chain in reversed(found):  # of two convolutions that are summed the later one takes the sum
        overlap = [node for node in chain.nodes if node in taken]
        if overlap:
            chain.nodes = chain.nodes[: chain.nodes.index(overlap[0])]
            chain.other, chain.activation, chain.pool = None, "none", None
        taken |= set(chain.nodes)
    return found


def _chain(graph: fx.GraphModule, chain: Chain, sizes: dict[fx.Node, Shape | None]) -> Chain:
    node, image = chain.nodes[0], isinstance(chain.layer, nn.Conv2d)
    after = only_user(node)
    if image and after is not None and (other := _other_term(after, node, sizes)) is not None:
        chain.nodes.append(after)
        chain.other, after = other, only_user(after)
    name = _activation(graph, after)
    if after is not None and name is not None and (name == "relu" or not image):
        chain.nodes.append(after)
        chain.activation, after = name, only_user(after)
    pool = layer_of(graph, after) if after is not None else None
    if image and chain.other is None and isinstance(pool, nn.MaxPool2d) and _pairs(pool):
        chain.pool = after
    return chain


def _other_term(node: fx.Node, term: fx.Node, sizes: dict[fx.Node, Shape | None]) -> fx.Node | None:
    """What `node` adds to `term`, which has the same shape; None where `node` is not such a sum, or where what `term` was
    made of may have been overwritten before it."""
    if node.target not in SUMS or len(node.args) != 2 or argument(node, 2, "alpha", 1) != 1:
        return None
    other = node.args[1] if node.args[0] is term else node.args[0]
    if not isinstance(other, fx.Node) or other is term or sizes.get(other) != sizes.get(term):
        return None
    source = term.args[0]
    assert isinstance(source, fx.Node)
    order = {n: i for i, n in enumerate(node.graph.nodes)}
    between = [user for user in source.users if order[term] < order[user] < order[node]]
    return None if any(_overwrites(user) for user in between) else other


def _overwrites(node: fx.Node) -> bool:
    module: Any = node.graph.owning_module
    layer = layer_of(module, node)
    if layer is not None:
        return bool(getattr(layer, "inplace", False))
    return node.target is operator.iadd or str(node.target).endswith("_") or bool(node.kwargs.get("inplace"))


def _activation(graph: fx.GraphModule, node: fx.Node | None) -> str | None:
    if node is None:
        return None
    if node.target in RELUS:
        return "relu"
    if node.target is F.gelu:
        return "gelu" if len(node.args) == 1 and not node.kwargs else None
    return packed.activation_of(layer_of(graph, node))


def _pairs(pool: nn.MaxPool2d) -> bool:
    """Whether it takes the maximum of squares of 2x2, a last odd row or column left out."""
    plain = pool.padding in (0, (0, 0)) and pool.dilation in (1, (1, 1)) and not pool.ceil_mode and not pool.return_indices
    return plain and pool.kernel_size in (2, (2, 2)) and pool.stride in (2, (2, 2))


def _exchange(graph: fx.GraphModule, chain: Chain, made: nn.Module) -> None:
    """One call of `made` in place of the chain's nodes: where the layer was, or where the sum is, whose other term comes
    after the layer."""
    nodes = [*chain.nodes, *([chain.pool] if chain.pool is not None else [])]
    name = f"{nodes[0].name}_{len(graph._modules)}"
    graph.add_submodule(name, made)
    place, terms = nodes[0], ()
    if chain.other is not None:
        place = nodes[1]
        terms = tuple(term for term in place.args if term is not nodes[0])
    with graph.graph.inserting_before(place):
        call = graph.graph.call_module(name, (nodes[0].args[0], *terms))
    nodes[-1].replace_all_uses_with(call)
    for node in reversed(nodes):
        graph.graph.erase_node(node)


# ---- networks without a graph ------------------------------------------------------------------------------------------


def exchange(module: nn.Module, example: Sequence[Tensor], memory: int | None) -> tuple[nn.Module, int]:
    """A copy of the network, sharing its weights, with layers in packed form; and how many."""
    if not packed.available():
        return module, 0
    made = copy.deepcopy(module, {id(t): t for t in (*module.parameters(), *module.buffers())})
    met = input_shapes(made, example, [layer for layer in made.modules() if packed.fits(layer)])
    budget, count = _Budget(memory), 0
    for parent in list(made.modules()):
        for name, layer in list(parent.named_children()):
            if layer in met and _packs(layer, met[layer]) and budget.take(layer.weight.nbytes):  # type: ignore[union-attr]
                form: Any = Chain(layer, [], met[layer]).direct(True)  # type: ignore[arg-type]
                setattr(parent, name, form.stand_for(layer))
                count += 1
    return made, count
