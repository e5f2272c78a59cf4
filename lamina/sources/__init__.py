"""The text MODEL of the command line, to a network, its inputs and its `Workload`.

A zoo name, `timm:NAME`, `hf:ID_OR_DIRECTORY`, `FILE.onnx`, `FILE.py:callable` or `package.module:callable`. Networks are
built on the meta device: no weight is allocated, read or downloaded. Only the last two run code that is not installed
libraries' own, because they are asked to; a checkpoint is never opened.
"""

import difflib
import importlib
import importlib.util
import inspect
import sys
import traceback
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

from lamina import units
from lamina.errors import InputError, LaminaError, first_line
from lamina.extras import install_command
from lamina.workload import Workload
from lamina.zoo import registry

if TYPE_CHECKING:
    import torch
    from torch import nn

T = TypeVar("T")
Shape = tuple[int, ...]
Shapes = Mapping[str | None, Shape]  # by the input's name; None is the first one
CHECKPOINTS = (".pt", ".pth", ".th", ".bin", ".ckpt", ".safetensors", ".pt2", ".ptl", ".pkl", ".pickle", ".gguf", ".h5", ".npz")
FORMS = "a zoo name, timm:NAME, hf:ID_OR_DIRECTORY, FILE.onnx, FILE.py:callable or package.module:callable"


@dataclass(frozen=True)
class Input:
    """What a network takes by default: its shape, and whether it is tokens (whole numbers, (batch, length)) rather than
    numbers of the weights' type."""

    shape: Shape
    tokens: bool = False


@dataclass(frozen=True)
class Source:
    """A network in evaluation mode, on the meta device where it was built here, and what its forward takes, by the names of
    its arguments, in their order. Nobody knows the inputs of a network of the user's: `inputs` is empty then. Of an ONNX
    file there are the `path` and no module, and `inputs` are those whose sizes the file fixes."""

    name: str
    module: "nn.Module | None" = None
    inputs: Mapping[str, Input] = field(default_factory=dict)
    path: Path | None = None

    @property
    def input(self) -> Shape | None:
        """The first input's default shape."""
        return next((given.shape for given in self.inputs.values()), None)

    @property
    def tokens(self) -> bool:
        return any(given.tokens for given in self.inputs.values())

    def shapes(self, inputs: Shapes | None = None, past: int = 0) -> dict[str, Shape]:
        """All inputs' shapes with `inputs` in place of the defaults: None stands for the first one, and if that is tokens
        for all tokens. With `past`, by default one new token."""
        self._check_past(past)
        shapes = {name: default.shape for name, default in self.inputs.items()}
        known = list(self.arguments() if self.path else self.inputs or self.arguments())
        for name, shape in (inputs or {}).items():
            if name is None:
                first = known[0] if known else "input"
                alike = [n for n, i in self.inputs.items() if i.tokens and first in self.inputs and self.inputs[first].tokens]
                shapes |= dict.fromkeys([first, *alike], shape)
            elif name not in known:
                raise InputError(f"{self.name} has no input {name!r}: it takes {', '.join(known)}")
            else:
                shapes[name] = shape
        return shapes

    def arguments(self) -> dict[str, bool]:
        """The names of the arguments of the network's forward, or of a graph's inputs, and whether it needs them."""
        if self.path is not None:
            return dict.fromkeys(_onnx(self.name).describe_inputs(self.path), True)
        assert self.module is not None
        parameters = inspect.signature(self.module.forward).parameters.values()
        return {p.name: p.default is p.empty for p in parameters if p.kind not in (p.VAR_POSITIONAL, p.VAR_KEYWORD)}

    def workload(
        self,
        inputs: Shapes | None = None,
        dtype: str | None = None,
        past: int = 0,
        name: str | None = None,
        training: bool = False,
    ) -> Workload:
        """The `Workload` of one forward pass on inputs of these shapes (by default the network's own), with weights and
        activations of `dtype` (torch's name for it; float32), or of a generation step of a language model behind `past`
        tokens. With `training` in training mode. An ONNX file has its own types and names, and infers only. Raises
        `InputError`, one line."""
        if self.path is not None:
            return self._graph(inputs, dtype, past, training)
        import torch

        from lamina.tracing.tracer import trace

        assert self.module is not None
        shapes = self.shapes(inputs, past)
        if missing := [n for n, needed in self.arguments().items() if needed and n not in shapes]:
            example = " ".join(f"--input {n}=1x3x224x224" for n in missing) if shapes or missing[1:] else "--input 1x3x224x224"
            raise InputError(f"{self.name}: say the shape of {' and of '.join(missing)}, as in {example}")
        kind = getattr(torch, dtype or "float32")
        if any(p.dtype != kind for p in self.module.parameters() if p.is_floating_point()):
            self.module.to(kind)
        tensors = {n: torch.empty(s, dtype=self._dtype(n, kind), device="meta") for n, s in shapes.items()}
        try:
            self.module.train(training)
            return self._trace(trace, tensors, past, name or self.name)
        except Exception as error:  # whatever the network's forward raises
            default = {n: i.shape for n, i in self.inputs.items()}
            expected = f"; it takes {written(default)}" if default and shapes != default and not past else ""
            kind_of = LaminaError if isinstance(error, LaminaError) and not isinstance(error, InputError) else InputError
            raise kind_of(f"{self.name} on {written(shapes)}: {first_line(error)}{expected}") from error
        finally:
            self.module.eval()

    def _trace(self, trace: Any, tensors: dict[str, "torch.Tensor"], past: int, name: str) -> Workload:
        known = {} if self.inputs else self.arguments()
        unnamed = [t for n, t in tensors.items() if n not in known]
        return trace(self.module, *unnamed, name=name, **{n: t for n, t in tensors.items() if n in known})

    def _dtype(self, name: str, kind: "torch.dtype") -> "torch.dtype":
        """Arguments of the user's network that are called ids or tokens are whole numbers."""
        import torch

        tokens = self.inputs[name].tokens if name in self.inputs else name.endswith(("ids", "tokens", "idx"))
        return torch.long if tokens else kind

    def _check_past(self, past: int) -> None:
        if past:
            raise InputError(f"{self.name}: only a language model of transformers (hf:...) has a past to continue")

    def _graph(self, inputs: Shapes | None, dtype: str | None, past: int, training: bool) -> Workload:
        self._check_past(past)
        if training:
            raise InputError(f"{self.name}: an ONNX file is for inference; training memory needs the network itself")
        if dtype is not None:
            raise InputError(f"{self.name}: an ONNX file has its own types: leave --dtype out")
        assert self.path is not None
        return _onnx(self.name).read(self.path, self.shapes(inputs))


def resolve(model: str) -> Source:
    """The network that `model` names. Raises `InputError`, one line."""
    if model.startswith("timm:"):
        return _timm(model)
    if model.startswith("hf:"):
        from lamina.sources.huggingface import read

        return read(model)
    path = Path(model)
    if path.suffix == ".onnx":
        if not path.is_file():
            raise InputError(f"{model}: no such file")
        sizes = {n: s for n, s in _onnx(model).describe_inputs(path).items() if s and all(isinstance(size, int) for size in s)}
        return Source(model, inputs={n: Input(tuple(map(int, s))) for n, s in sizes.items()}, path=path)
    if path.suffix in CHECKPOINTS:
        raise InputError(f"{model}: a file of weights is not opened for its cost; give the network itself: {FORMS}")
    if path.suffix == ".py":
        raise InputError(f"{model}: say which function makes the network, as in {model}:build")
    if path.is_dir() and (path / "config.json").is_file():
        raise InputError(f"{model} is a directory: write hf:{model}")
    place, colon, attribute = model.rpartition(":")
    if colon:
        return Source(model, _call(model, place, attribute))
    spec = registry.spec(model)
    module = registry.assemble(model).eval()
    names = list(inspect.signature(module.forward).parameters)
    if spec.family == "transformer":
        return Source(model, module, {n: Input((1, s), True) for n, s in zip(names, spec.input, strict=False)})
    return Source(model, module, {names[0]: Input((1, *spec.input))})


def written(shapes: Mapping[str, Shape]) -> str:
    """ "1x3x224x224", or with several inputs "a 1x8, b 1x4"."""
    alike = set(shapes.values())
    return units.shape(alike.pop()) if len(alike) == 1 else ", ".join(f"{n} {units.shape(s)}" for n, s in shapes.items())


def without_weights(build: Callable[[], T]) -> T:
    """What `build` makes, on the meta device. Where it computes numbers with torch on the way (a list of widths), what can
    hold such numbers stays real."""
    import torch
    from torch.overrides import TorchFunctionMode

    class Weightless(TorchFunctionMode):
        def __torch_function__(self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: Any = None) -> Any:
            kwargs = kwargs or {}
            if func in (torch.empty, torch.zeros, torch.ones, torch.full, torch.rand, torch.randn):
                kwargs["device"] = kwargs.get("device") or "meta"
            return func(*args, **kwargs)

    try:
        with torch.device("meta"):
            return build()
    except (RuntimeError, NotImplementedError) as error:
        if "meta" not in str(error).lower():
            raise
    with Weightless():
        return build()


def _timm(model: str) -> Source:
    try:
        import timm  # pyright: ignore[reportMissingImports]
    except ImportError as error:
        raise InputError(f"{model}: needs timm: pip install timm") from error
    name = model.removeprefix("timm:")
    if not timm.is_model(name):
        near = difflib.get_close_matches(name, timm.list_models(), n=4, cutoff=0.5)
        raise InputError(f"timm has no model {name!r}" + (f"; the nearest are {', '.join(near)}" if near else ""))
    try:
        module = without_weights(lambda: timm.create_model(name, pretrained=False))
    except Exception as error:
        raise InputError(f"{model}: timm cannot build it without weights: {first_line(error)}") from error
    name, *_ = inspect.signature(module.forward).parameters
    return Source(model, module.eval(), {name: Input((1, *module.default_cfg["input_size"]))})


def _onnx(model: str) -> Any:
    try:
        from lamina.onnx import graph
    except ImportError as error:
        raise InputError(f"{model}: reading ONNX needs onnx: {install_command('onnx')}") from error
    return graph


def _call(model: str, place: str, attribute: str) -> "nn.Module":
    """Import `place`, call its `attribute` without arguments and take the module that it gives; or take the module that
    it is."""
    from torch import nn

    home = _import(model, place)
    function = getattr(home, attribute, None)
    if isinstance(function, nn.Module):
        return function.eval()
    if not callable(function):
        raise InputError(f"{model}: {place} has no callable {attribute!r}")
    try:
        needed = [p.name for p in inspect.signature(function).parameters.values() if p.default is p.empty and p.kind < 2]
    except (ValueError, TypeError):  # a function without a signature
        needed = []
    if needed:
        raise InputError(
            f"{model}: {attribute} takes {', '.join(needed)}, and is called without arguments: "
            "give a function that fills them in"
        )
    try:
        module = without_weights(function)
    except Exception as error:
        raise InputError(f"{model}: {attribute}() raised {type(error).__name__}: {first_line(error)}") from error
    if not isinstance(module, nn.Module):
        raise InputError(f"{model}: {attribute}() gave a {type(module).__name__}, not a torch.nn.Module")
    return module.eval()


def _import(model: str, place: str) -> Any:
    if not place.endswith(".py"):
        try:
            return importlib.import_module(place)
        except Exception as error:
            raise InputError(f"{model}: {first_line(error)}") from error
    path = Path(place)
    if not path.is_file():
        raise InputError(f"{place}: no such file")
    spec = importlib.util.spec_from_file_location(path.stem, path)
    assert spec is not None and spec.loader is not None
    home = importlib.util.module_from_spec(spec)
    sys.path.insert(0, str(path.parent.resolve()))
    try:
        spec.loader.exec_module(home)
    except Exception as error:
        lines = [f.lineno for f in traceback.extract_tb(error.__traceback__) if Path(f.filename).name == path.name]
        line = error.lineno if isinstance(error, SyntaxError) else lines[-1] if lines else 0
        raise InputError(f"{place}, line {line}: importing it raised {type(error).__name__}: {first_line(error)}") from error
    finally:
        sys.path.pop(0)
    return home
