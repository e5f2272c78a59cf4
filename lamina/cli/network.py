"""What `cost` and `compare` share: a network from its name, and its traces at the sizes asked for."""

import ast
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from lamina import units
from lamina.cost import causal, sweep
from lamina.cost.quantised import TYPES, quantised
from lamina.errors import InputError
from lamina.workload import Device, Workload

if TYPE_CHECKING:
    from lamina.sources import Source

DTYPES = {"fp64": "float64", "fp32": "float32", "fp16": "float16", "bf16": "bfloat16"}
Shape = tuple[int, ...]


def parse_inputs(texts: Sequence[str]) -> dict[str | None, Shape]:
    """`--input 1x3x224x224`, or `--input ids=1x128 --input mask=1x128`: name to shape; None is the network's first input,
    and further shapes without a name have "1", "2", ... until `find` knows what they are called."""
    shapes: dict[str | None, Shape] = {}
    plain = 0
    for text in texts:
        name, equals, sizes = text.rpartition("=")
        try:
            shape = units.parse_shape(sizes)
        except ValueError as error:
            raise InputError(f"--input: {error}") from error
        key = name if equals else str(plain) if plain else None
        plain += not equals
        if equals and not name:
            raise InputError(f"--input {text}: the name of the input is missing")
        if key in shapes:
            raise InputError(f"--input: {name} is given twice")
        shapes[key] = shape
    return shapes


def parse_arguments(texts: Sequence[str]) -> dict[str, Any]:
    """`width=8`, `name=small`: Python's own literals, and any other text as it is."""
    arguments: dict[str, Any] = {}
    for text in texts:
        name, equals, value = text.partition("=")
        if not equals or not name.isidentifier():
            raise InputError(f"--args {text}: write KEY=VALUE, as in width=8")
        try:
            arguments[name] = ast.literal_eval(value)
        except (ValueError, SyntaxError):
            arguments[name] = value
    return arguments


@dataclass(frozen=True)
class Network:
    """A network to trace: its source, the shapes asked for (the network's own where there are none), the type of its
    weights and activations, and the tokens in its key/value cache."""

    name: str
    source: "Source"
    inputs: dict[str | None, Shape]
    dtype: str | None = None
    past: int = 0
    causal: bool = False
    device: Device = "cpu"
    sample: Path | None = None

    @property
    def sizes(self) -> dict[str, Shape]:
        """All inputs' shapes."""
        return self.source.sampled(self.sample)[1] if self.sample else self.source.shapes(self.inputs, self.past)

    @property
    def shape(self) -> Shape:
        """The first input's; empty where there is none."""
        return next(iter(self.sizes.values()), ())

    @property
    def shown(self) -> str:
        from lamina.sources import written

        return written(self.sizes)

    @property
    def type(self) -> str:
        """Of the weights, as the command line has it."""
        if self.dtype in TYPES:
            return f"{self.dtype} weights of products, the rest bf16"
        return self.dtype or ("the file's types" if self.source.path else "fp32")

    def trace(self, sizes: Mapping[str, Shape] | None = None, training: bool = False) -> Workload:
        """The workload, in evaluation mode or as in `training`, by default of the inputs asked for. Whatever the network
        says against its input is an `InputError` of one line."""
        if training and self.dtype in TYPES:
            raise InputError(f"--dtype {self.dtype} is for inference: training needs weights of numbers with a gradient")
        inputs: Mapping[str | None, Shape] = self.inputs if sizes is None else dict(sizes)  # type: ignore[arg-type]
        dtype = DTYPES.get(self.dtype, "bfloat16") if self.dtype else None
        sample = self.source.sampled(self.sample)[0] if self.sample else None
        workload = self.source.workload(inputs, dtype, self.past, self.name, training, self.device, sample)
        if self.dtype in TYPES:
            workload = quantised(workload, TYPES[self.dtype])
        return causal.exact(workload) if self.causal else workload

    def resized(self, axis: sweep.Axis, size: int) -> dict[str, Shape]:
        """All inputs with another batch, another resolution of the images or another length of the sequences."""
        if self.sample:
            raise InputError("--data gives inputs of one size: give --input for a sweep")
        open_ = self.source.batched(size) if axis == "batch" else {}
        if not self.sizes and not open_:
            raise InputError(f"{self.name}: say the input's shape, as in --input 1x3x224x224")
        shapes, refusal = open_ | self.sizes, None
        for name, shape in self.sizes.items():
            if open_ and name not in open_:
                continue  # the file fixes it
            try:
                shapes[name] = sweep.resize(shape, axis, size, self.is_tokens(name))
            except InputError as error:
                refusal = error
        if refusal and shapes == self.sizes and axis != "batch":
            raise refusal
        return shapes

    def size(self, axis: sweep.Axis) -> int:
        """The first input's along this axis."""
        smallest = self.resized(axis, 1)
        shape = self.shape or next(iter(smallest.values()))
        return {"batch": shape[0], "resolution": shape[-1], "sequence": shape[min(1, len(shape) - 1)]}[axis]

    def is_tokens(self, name: str) -> bool:
        return name in self.source.inputs and self.source.inputs[name].tokens

    @property
    def tokens(self) -> bool:
        """Whether the first input is tokens."""
        return bool(self.sizes) and self.is_tokens(next(iter(self.sizes)))


def find(
    model: str,
    inputs: Sequence[str] = (),
    dtype: str | None = None,
    past: int = 0,
    causal: bool = False,
    device: Device = "cpu",
    args: Sequence[str] = (),
    sample: Path | None = None,
    run: bool = False,
) -> Network:
    """The network that MODEL names, with its default input where none is given; `args` are KEY=VALUE for what makes it. With
    `run` traces run on values."""
    from lamina.sources import resolve

    if sample and inputs:
        raise InputError("--data and --input exclude each other: the sample says the shapes")
    source, shapes = resolve(model, parse_arguments(args)), parse_inputs(inputs)
    source = source.running() if run else source
    names = list(source.arguments() if source.path or not source.inputs else source.inputs)
    for place in range(1, len(inputs)):
        if (shape := shapes.pop(str(place), None)) is not None:
            if place >= len(names):
                raise InputError(f"{model}: {place + 1} inputs, and it takes {', '.join(names)}")
            shapes[names[place]] = shape
    return Network(model, source, shapes, dtype, past, causal, device, sample)


def with_heads(net: Network) -> Workload | None:
    """The same zoo network with its auxiliary heads, in training mode, which runs them; None where it has none."""
    from dataclasses import replace

    from lamina.zoo import registry

    if net.name not in registry.counts() or not hasattr(registry.spec(net.name).config, "aux"):
        return None
    source = replace(net.source, module=registry.assemble(net.name, aux=True))
    return replace(net, source=source).trace(training=True)
