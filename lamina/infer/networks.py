"""Networks with their weights, ready for an engine: those of every origin of `lamina.sources`, and ONNX files."""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from lamina.data.image import ImageSpec
from lamina.errors import InputError, LaminaError, first_line
from lamina.extras import install_command
from lamina.sources import RANDOM, Source, resolve
from lamina.sources.onnx import Onnx
from lamina.sources.trained import Trained
from lamina.weights import trained

__all__ = ["RANDOM", "Network", "Shapes", "load"]

Shapes = Mapping[str | None, tuple[int, ...]]  # by the input's name; None is the first one


@dataclass(frozen=True)
class Network:
    """`module`, in evaluation mode, or the ONNX file `path`. `example` is a batch of one of its inputs. `image` says how
    images are prepared (None: it takes arrays), `classes` are the outputs' names, empty where nobody says."""

    name: str
    weights: str
    example: tuple[Tensor, ...]
    module: nn.Module | None = None
    path: Path | None = None
    image: ImageSpec | None = None
    classes: Sequence[str] = ()
    score_scale: float = 1.0
    text: Mapping[str, str] = field(default_factory=dict)  # of a Transformer's weights: "tokenizer", "source" and "target"


def load(
    model: str | Path | nn.Module,
    weights: str | Path | None = None,
    *,
    image: Mapping[str, Any] | None = None,
    device: str = "cpu",
    inputs: Shapes | None = None,
) -> Network:
    """The network that `model` names, with `weights` (a file, a tag, a hub's name; "random" draws them); `image` overrides
    fields of its image specification, and `inputs` the shapes of its inputs. Raises `InputError` or `LaminaError`, one line."""
    if isinstance(model, nn.Module):
        raise InputError("a module says nothing of its inputs: give Session(module, example=(x,))")
    text = str(model)
    found = _onnx(Path(text)) if Onnx.claims(text) else _network(text, weights, device, inputs)
    if image and found.image is None:
        raise InputError(f"{text} takes arrays, not images: --image says nothing to it")
    if image:
        found = replace(found, image=ImageSpec.of({**vars(found.image), **image}))
    return found


def _network(text: str, weights: str | Path | None, device: str, inputs: Shapes | None) -> Network:
    # A file of weights that does not say its network is a run's to explain, not to be taken for a name.
    source = Trained.read(text) if trained.place(text) is not None else resolve(text)
    loaded = source.loaded(weights, device)
    image = ImageSpec.of(loaded.image) if loaded.image else None
    torch.manual_seed(0)
    if image is not None and not inputs:
        example: tuple[Tensor, ...] = (torch.randn(1, len(image.channels), image.size, image.size),)
    else:
        example = _inputs(source, inputs or {})
    name = trained.network(text)[0] if isinstance(source, Trained) else text
    classes, scale = loaded.classes, loaded.score_scale
    return Network(name, loaded.weights, example, loaded.module, None, image, classes, scale, loaded.text)


def _inputs(source: Source, shapes: Shapes) -> tuple[Tensor, ...]:
    """One of each input that the network needs, in the order of its arguments: random numbers, token ids of zero."""
    sizes, types = source.complete(shapes)
    names = [name for name in source.arguments() if name in sizes]
    if (skipped := list(source.arguments())[: len(names)]) != names and names:
        left_out = next(name for name in skipped if name not in names)
        raise InputError(f"{source.name}: say the shape of {left_out}, too, which comes before {names[-1]}")
    given = [(sizes[name], types[name]) for name in names or sizes]
    return tuple(torch.randn(s, dtype=t) if t.is_floating_point else torch.zeros(s, dtype=t) for s, t in given)


def _onnx(path: Path) -> Network:
    """An ONNX file; one of `lamina export` says in its metadata how images are prepared and what the classes are called."""
    try:
        import onnxruntime  # pyright: ignore[reportMissingImports]
    except ImportError as error:
        raise InputError(f"{path} needs onnxruntime: {install_command('onnx')}") from error
    if not path.is_file():
        raise InputError(f"{path}: no such file")
    Onnx.check_external(str(path))
    options = onnxruntime.SessionOptions()
    options.log_severity_level = 3
    try:
        session = onnxruntime.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])
    except Exception as error:  # its own errors share no class but this one
        raise LaminaError(f"{path} does not run under ONNX Runtime: {first_line(error)}") from error
    example = tuple(_of_type(argument) for argument in session.get_inputs())
    metadata = session.get_modelmeta().custom_metadata_map
    try:
        image = ImageSpec.of(json.loads(metadata["image"])) if "image" in metadata else None
        classes = json.loads(metadata.get("classes", "[]"))
        scale = float(metadata.get("score_scale", 1))
    except (ValueError, TypeError) as error:
        raise LaminaError(f"{path}: its metadata do not read as `lamina export` writes them: {first_line(error)}") from error
    return Network(str(path), path.name, example, None, path, image, classes, scale)


TYPES = {"tensor(float)": torch.float32, "tensor(int64)": torch.int64, "tensor(int32)": torch.int32, "tensor(bool)": torch.bool}


def _of_type(argument: Any) -> Tensor:
    """An example of an ONNX input: free sizes are 1."""
    shape = [size if isinstance(size, int) and size > 0 else 1 for size in argument.shape]
    dtype = TYPES.get(argument.type)
    if dtype is None:
        raise InputError(f"the input {argument.name} is a {argument.type}: images and token ids are {', '.join(TYPES)}")
    return torch.randn(shape) if dtype == torch.float32 else torch.zeros(shape, dtype=dtype)
