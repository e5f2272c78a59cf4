"""What every origin of networks gives: a `Source`."""

import inspect
from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar

from lamina import units
from lamina.errors import InputError, LaminaError, first_line
from lamina.sources import sample
from lamina.workload import Device, Workload

if TYPE_CHECKING:
    import torch
    from torch import nn

Shape = tuple[int, ...]
Shapes = Mapping[str | None, Shape]  # by the input's name; None is the first one


@dataclass(frozen=True)
class Input:
    """What a network takes by default: its shape, and whether it is tokens (whole numbers, (batch, length)) rather than
    numbers of the weights' type."""

    shape: Shape
    tokens: bool = False


RANDOM = "random"  # in place of weights: a fresh network, for timings


@dataclass(frozen=True)
class Loaded:
    """A network in evaluation mode with the values of the weights that `weights` names. `image` is a table for
    `lamina.data.image.ImageSpec` (None: it takes arrays), `classes` are the outputs' names, empty where nobody says; the
    softmax of `score_scale` times the scores is what it was trained for. `text` are "tokenizer", "source" and "target" of a
    Transformer's weights."""

    module: "nn.Module"
    weights: str
    image: Mapping[str, Any] | None = None
    classes: Sequence[str] = ()
    score_scale: float = 1.0
    text: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True)
class Source(ABC):
    """A network in evaluation mode, on the meta device where it was built here, and what its forward takes, by the names of
    its arguments, in their order. Nobody knows the inputs of a network of the user's: `inputs` is empty then. Of an ONNX
    file there are the `path` and no module, and `inputs` are those whose sizes the file fixes.

    An origin is a class of its own in `lamina.sources.ORIGINS`: `claims` says whether a text names one of its networks, and
    `read` gives that network.
    """

    name: str
    module: "nn.Module | None" = None
    inputs: Mapping[str, Input] = field(default_factory=dict)
    path: Path | None = None
    values: bool = False  # whether it has weights of random values, and a trace runs on values

    form: ClassVar[str]  # how its networks are written, for messages

    @classmethod
    @abstractmethod
    def claims(cls, model: str) -> bool:
        """Whether the text is this origin's, were it only that a mistake in it is this origin's to explain."""

    @classmethod
    @abstractmethod
    def read(cls, model: str) -> "Source":
        """The network that the text names. Raises `InputError` (or `LaminaError`, say without a network), one line."""

    @classmethod
    def configured(cls, model: str, arguments: Mapping[str, Any]) -> "Source":
        """`read` with arguments for what makes the network, where an origin has that."""
        raise InputError(f"{model}: --args is for a zoo name, FILE.py:callable or package.module:callable")

    def loaded(self, weights: str | Path | None = None, device: str = "cpu") -> "Loaded":
        """The network with the values of `weights`: a file, a tag, a hub's name, by default its origin's own; `RANDOM` draws
        them. Raises `LaminaError`."""
        raise InputError(f"{self.name} has no weights to load")

    def running(self) -> "Source":
        """The same with random weights on the CPU, and traces that run on random inputs: what shapes cannot decide is
        counted as it happens."""
        return replace(self, module=self.loaded(RANDOM).module, values=True)

    @property
    def input(self) -> Shape | None:
        """The first input's default shape."""
        return next((given.shape for given in self.inputs.values()), None)

    @property
    def tokens(self) -> bool:
        return any(given.tokens for given in self.inputs.values())

    def arguments(self) -> dict[str, bool]:
        """The names of the arguments of the network's forward, or of a graph's inputs, and whether it needs them."""
        assert self.module is not None
        parameters = inspect.signature(self.module.forward).parameters.values()
        return {p.name: p.default is p.empty for p in parameters if p.kind not in (p.VAR_POSITIONAL, p.VAR_KEYWORD)}

    def shapes(self, inputs: Shapes | None = None, past: int = 0) -> dict[str, Shape]:
        """All inputs' shapes with `inputs` in place of the defaults: None stands for the first one, and if that is tokens
        for all tokens. With `past`, by default one new token."""
        self.check_past(past)
        shapes = {name: default.shape for name, default in self.inputs.items()}
        known = list(self.arguments() if self.path else self.inputs or self.arguments())
        for name, shape in (inputs or {}).items():
            if name is None:
                first = known[0] if known else "input"
                alike = [n for n, i in self.inputs.items() if i.tokens and first in self.inputs and self.inputs[first].tokens]
                shapes |= dict.fromkeys([first, *alike], shape)
            elif name.partition(".")[0] not in known:
                raise InputError(f"{self.name} has no input {name!r}: it takes {', '.join(known)}")
            else:
                shapes[name] = shape
        return shapes

    def batched(self, size: int) -> dict[str, Shape]:
        """The shapes of those inputs of which nothing but the batch is open, at this batch; an ONNX file may have some."""
        return {}

    def workload(
        self,
        inputs: Shapes | None = None,
        dtype: str | None = None,
        past: int = 0,
        name: str | None = None,
        training: bool = False,
        device: Device = "cpu",
        example: Any = None,
    ) -> Workload:
        """The `Workload` of one forward pass on inputs of these shapes (by default the network's own), with weights and
        activations of `dtype` (torch's name for it; float32), or of a generation step of a language model after `past`
        tokens. With `training` in training mode; memory is that of eager execution on `device`. An `example` (tensors, in
        lists and dictionaries) takes the place of shapes. An ONNX file has its own types and names, and infers only. Raises
        `InputError`, one line."""
        import torch

        assert self.module is not None
        kind = getattr(torch, dtype or "float32")
        shapes, dtypes = self.complete(inputs, past, kind) if example is None else (self._sizes(example), {})
        if any(p.dtype != kind for p in self.module.parameters() if p.is_floating_point()):
            self.module.to(kind)
        make = sample.drawn if self.values else sample.shadow
        tensors = {n: make(shapes[n], kind_) for n, kind_ in dtypes.items()}
        try:
            self.module.train(training)
            if example is not None:
                return self._called(example, kind, name or self.name, device)
            return self.trace(tensors, past, name or self.name, device)
        except Exception as error:  # whatever the network's forward raises
            default = {n: i.shape for n, i in self.inputs.items()}
            expected = f"; it takes {written(default)}" if default and shapes != default and not past else ""
            kind_of = LaminaError if isinstance(error, LaminaError) and not isinstance(error, InputError) else InputError
            raise kind_of(f"{self.name} on {written(shapes)}: {first_line(error)}{expected}") from error
        finally:
            self.module.eval()

    def complete(
        self, inputs: Shapes | None = None, past: int = 0, kind: "torch.dtype | None" = None
    ) -> "tuple[dict[str, Shape], dict[str, torch.dtype]]":
        """The shapes and the types of all inputs that the network needs, by name; numbers are of type `kind` (float32)."""
        import torch

        shapes = self.shapes(inputs, past)
        given = {n.partition(".")[0] for n in shapes}
        if missing := [n for n, needed in self.arguments().items() if needed and n not in given]:
            example = " ".join(f"--input {n}=1x3x224x224" for n in missing) if shapes or missing[1:] else "--input 1x3x224x224"
            raise InputError(f"{self.name}: say the shape of {' and of '.join(missing)}, as in {example}")
        return shapes, {name: self._dtype(name, kind or torch.float32) for name in shapes}

    def trace(self, tensors: Mapping[str, "torch.Tensor"], past: int, name: str, device: Device) -> Workload:
        """The trace of one call of the module with these inputs; `check_past` has let `past` through."""
        from lamina.tracing.tracer import trace

        assert self.module is not None and not past
        known = {} if self.inputs else self.arguments()
        arguments = sample.nested(tensors) if known else tensors
        unnamed = [x for n, x in arguments.items() if n not in known]
        named: dict[str, Any] = {n: x for n, x in arguments.items() if n in known}
        return trace(self.module, *unnamed, name=name, device=device, values=self.values, **named)

    def _called(self, inputs: Any, kind: "torch.dtype", name: str, device: Device) -> Workload:
        """The trace of one call with real inputs."""
        from lamina.tracing.tracer import trace

        assert self.module is not None
        args, kwargs = sample.call(self.module, inputs, kind)
        options: dict[str, Any] = {"name": name, "device": device, "values": self.values}
        return trace(self.module, *args, **kwargs | options)

    @staticmethod
    def _sizes(inputs: Any) -> dict[str, Shape]:
        return {name: tuple(x.shape) for name, x in sample.leaves(inputs)}

    def sampled(self, path: Path) -> tuple[Any, dict[str, Shape]]:
        """Real inputs from a file, and their shapes. Raises `InputError`, one line."""
        if self.module is None:
            raise InputError(f"{self.name}: --data is for networks of torch; say a graph's sizes by --input")
        found = sample.read(path)
        return found, self._sizes(found)

    def check_past(self, past: int) -> None:
        if past:
            raise InputError(f"{self.name}: only a language model of transformers (hf:...) has a past to continue")

    def _dtype(self, name: str, kind: "torch.dtype") -> "torch.dtype":
        """Arguments of the user's network that are called ids or tokens are whole numbers."""
        import torch

        tokens = self.inputs[name].tokens if name in self.inputs else name.endswith(("ids", "tokens", "idx"))
        return torch.long if tokens else kind


def first_argument(module: Any) -> str:
    """The name of the first argument of the module's forward."""
    return next(iter(inspect.signature(module.forward).parameters))


def written(shapes: Mapping[str, Shape]) -> str:
    """ "1x3x224x224", or with several inputs "a 1x8, b 1x4"."""
    alike = set(shapes.values())
    sizes = {name: units.shape(shape) or "scalar" for name, shape in shapes.items()}
    return units.shape(alike.pop()) if len(alike) == 1 else ", ".join(f"{name} {size}" for name, size in sizes.items())
