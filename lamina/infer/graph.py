"""torch.fx graphs: how one is made of a network, what a node calls, who reads it, and layers exchanged."""

from collections.abc import Iterator, Sequence
from typing import Any

import torch
from torch import Tensor, fx, nn
from torch.fx.node import map_arg


def follow(module: nn.Module, example: Sequence[Tensor] | None = None) -> fx.GraphModule:
    """The graph of the module's forward. Raises whatever the forward raises on torch.fx's stand-ins.

    A condition in the forward can be followed with an `example` of the inputs if it is one on sizes, and holds, or does not,
    for the example and for a larger batch alike.
    """
    tracer = _Tracer(example)
    graph = tracer.trace(module)
    return fx.GraphModule(tracer.root, graph, type(module).__name__)


class _Tracer(fx.Tracer):
    def __init__(self, example: Sequence[Tensor] | None):
        super().__init__()
        self.examples = [] if example is None else [list(example), [_another(x) for x in example]]
        self.known: list[dict[fx.Node, Any]] = [{} for _ in self.examples]

    @torch.inference_mode()
    def to_bool(self, obj: fx.Proxy) -> bool:
        answers = [self._value(obj.node, i) for i in range(len(self.examples))]
        if not answers or not all(isinstance(a, bool) and a == answers[0] for a in answers):
            return super().to_bool(obj)  # raises
        return answers[0]

    def _value(self, wanted: fx.Node, i: int) -> Any:
        """What the node is on one of the examples, by running what comes before it."""
        known = self.known[i]
        given = iter(self.examples[i])
        for node in self.graph.nodes:
            if node.op == "placeholder":
                known.setdefault(node, next(given, None))
            if node not in known:
                known[node] = self._run(node, known)
            if node is wanted:
                break
        return known[wanted]

    def _run(self, node: fx.Node, known: dict[fx.Node, Any]) -> Any:
        arguments = map_arg(node.args, known.__getitem__)
        keywords: Any = map_arg(node.kwargs, known.__getitem__)
        if node.op == "call_method":
            return getattr(arguments[0], str(node.target))(*arguments[1:], **keywords)
        if callable(node.target):
            return node.target(*arguments, **keywords)
        found: Any = self.root
        for name in str(node.target).split("."):
            found = getattr(found, name)
        return found(*arguments, **keywords) if node.op == "call_module" else found


def _another(x: Tensor) -> Tensor:
    """The same in a larger batch."""
    return torch.cat([x, x, x]) if x.dim() else x


def layers(graph: fx.GraphModule) -> Iterator[tuple[fx.Node, nn.Module]]:
    """The calls of layers, each with its layer; the list is made first, so that the graph may change meanwhile."""
    for node in list(graph.graph.nodes):
        if (found := layer_of(graph, node)) is not None:
            yield node, found


def layer_of(graph: fx.GraphModule, node: Any) -> nn.Module | None:
    return graph.get_submodule(str(node.target)) if isinstance(node, fx.Node) and node.op == "call_module" else None


def called_once(graph: fx.GraphModule, node: fx.Node) -> bool:
    """Whether the layer is called at this place only: one that is called twice keeps its weights."""
    return sum(other.op == "call_module" and other.target == node.target for other in graph.graph.nodes) == 1


def only_user(node: fx.Node) -> fx.Node | None:
    return next(iter(node.users)) if len(node.users) == 1 else None


def argument(node: fx.Node, place: int, name: str, default: Any) -> Any:
    return node.args[place] if len(node.args) > place else node.kwargs.get(name, default)


def put(graph: fx.GraphModule, node: fx.Node, layer: nn.Module) -> None:
    """Another layer at the place of a call's layer."""
    name = f"{str(node.target).replace('.', '_')}_{len(graph._modules)}"
    graph.add_submodule(name, layer)
    node.target = name


def call(graph: fx.GraphModule, node: fx.Node, layer: nn.Module, *arguments: Any) -> None:
    """A call of another layer in place of `node`, on these arguments (by default on what the node takes first)."""
    name = f"{node.name}_{len(graph._modules)}"
    graph.add_submodule(name, layer)
    with graph.graph.inserting_before(node):
        made = graph.graph.call_module(name, arguments or (node.args[0],))
    node.replace_all_uses_with(made)
    graph.graph.erase_node(node)
    graph.graph.eliminate_dead_code()


def drop(graph: fx.GraphModule, node: fx.Node) -> None:
    node.replace_all_uses_with(node.args[0])  # type: ignore[arg-type]
    graph.graph.erase_node(node)


class _Shapes(fx.Interpreter):
    def __init__(self, graph: fx.GraphModule):
        super().__init__(graph)
        self.found: dict[fx.Node, tuple[int, ...] | None] = {}

    def run_node(self, n: fx.Node) -> Any:
        result = super().run_node(n)
        self.found[n] = tuple(result.shape) if isinstance(result, Tensor) else None
        return result


@torch.inference_mode()
def input_shapes(module: nn.Module, example: Sequence[Tensor], wanted: Sequence[nn.Module]) -> dict[nn.Module, tuple[int, ...]]:
    """The shape of the first input that each of the wanted layers meets; those that are not called are missing."""
    met: dict[nn.Module, tuple[int, ...]] = {}

    def note(layer: nn.Module, given: tuple[Tensor, ...]) -> None:
        met.setdefault(layer, tuple(given[0].shape))

    handles = [layer.register_forward_pre_hook(note) for layer in wanted]
    try:
        module(*example)
    finally:
        for handle in handles:
            handle.remove()
    return met


@torch.inference_mode()
def shapes(graph: fx.GraphModule, example: Sequence[Tensor]) -> dict[fx.Node, tuple[int, ...] | None]:
    """The shape of what each node gives, on one run of the example; None for what is not a tensor."""
    graph.graph.lint()
    graph.recompile()
    run = _Shapes(graph)
    run.run(*example)
    return run.found
