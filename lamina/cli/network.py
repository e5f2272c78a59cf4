"""What `cost` and `compare` share: a network from its name, and its traces at the sizes asked for."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from lamina import units
from lamina.errors import InputError
from lamina.workload import Workload

if TYPE_CHECKING:
    from lamina.sources import Source

DTYPES = {"fp64": "float64", "fp32": "float32", "fp16": "float16", "bf16": "bfloat16"}
Shapes = Mapping[str, tuple[int, ...]]


def parse_inputs(texts: Sequence[str]) -> dict[str, tuple[int, ...]]:
    """`--input 1x3x224x224`, or `--input ids=1x128 --input mask=1x128`: name to shape; without a name, "0", "1", ... in
    order."""
    shapes: dict[str, tuple[int, ...]] = {}
    for number, text in enumerate(texts):
        name, equals, sizes = text.rpartition("=")
        try:
            shape = units.parse_shape(sizes)
        except ValueError as error:
            raise InputError(f"--input: {error}") from error
        if equals and not name.isidentifier():
            raise InputError(f"--input {text}: {name!r} is no name of an input")
        if name in shapes:
            raise InputError(f"--input: {name} is given twice")
        shapes[name or str(number)] = shape
    return shapes


@dataclass(frozen=True)
class Network:
    """A network to trace: its source, the shapes of its inputs (positional ones have numbers for names) and the type of
    its weights and activations. A network of token sequences takes its one shape for both of them."""

    name: str
    source: "Source"
    inputs: Shapes
    dtype: str
    causal: bool = False

    @property
    def shape(self) -> tuple[int, ...]:
        """The first input's."""
        return next(iter(self.inputs.values()))

    @property
    def shown(self) -> str:
        return ", ".join((f"{name} " if not name.isdigit() else "") + units.shape(shape) for name, shape in self.inputs.items())

    def trace(self, shape: tuple[int, ...] | None = None, training: bool = False) -> Workload:
        """The workload, in evaluation mode or as in `training`, by default of the network's own input. Whatever the
        network says against its input is an `InputError` of one line."""
        import torch

        from lamina.cost.trace import trace

        shapes = dict(self.inputs) if shape is None else {**self.inputs, next(iter(self.inputs)): shape}
        kind = torch.long if self.source.tokens else getattr(torch, DTYPES[self.dtype])
        module = self.source.module.to(getattr(torch, DTYPES[self.dtype])).train(training)
        try:
            tensors = {name: torch.empty(size, dtype=kind, device="meta") for name, size in shapes.items()}
            inputs = [tensor for name, tensor in tensors.items() if name.isdigit()] * (2 if self.source.tokens else 1)
            named = {name: tensor for name, tensor in tensors.items() if not name.isdigit()}
            workload = trace(module, *inputs, name=self.name, **named)
        except (ValueError, RuntimeError, TypeError) as error:
            raise self._refusal(error, shapes) from error
        finally:
            module.eval()
        return workload.causal_exact() if self.causal else workload  # type: ignore[attr-defined]

    def _refusal(self, error: Exception, shapes: Shapes) -> InputError:
        own, asked = self.source.input, next(iter(shapes.values()))
        expected = f"; it takes {units.shape(own)}" if own and asked != own else "" if own else " (--debug shows where)"
        given = ", ".join(map(units.shape, shapes.values()))
        if isinstance(error, InputError) and not own:
            expected = ""
        return InputError(f"{self.name} on {given}: {(str(error) or type(error).__name__).splitlines()[0]}{expected}")


def find(model: str, inputs: Sequence[str] = (), dtype: str = "fp32", past: int | None = None, causal: bool = False) -> Network:
    """The network that MODEL names, with its default input where none is given."""
    from lamina.sources import resolve

    shapes = parse_inputs(inputs)
    if past is not None and not model.startswith("hf:"):
        raise InputError(f"{model} takes no --past: only language models with a key/value cache (hf:ID) do")
    options: dict[str, Any] = {} if past is None else {"past": past}
    source = resolve(model, **options)
    if not shapes:
        if source.input is None:
            raise InputError(f"{model}: say the input's shape, as in --input 1x3x224x224")
        shapes = {"0": source.input}
    return Network(model, source, shapes, dtype, causal)


def with_heads(net: Network) -> Workload | None:
    """The same zoo network with its auxiliary heads, in training mode, which runs them; None where it has none."""
    from dataclasses import replace

    from lamina.zoo import registry

    if net.name not in registry.counts() or not hasattr(registry.spec(net.name).config, "aux"):
        return None
    source = replace(net.source, module=registry.assemble(net.name, aux=True))
    return replace(net, source=source).trace(training=True)
