"""Networks with their weights, ready for an engine: the zoo's, a run of `lamina train`, timm's, an ONNX file, a function's."""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from lamina.data.image import ImageSpec
from lamina.data.registry import class_names
from lamina.errors import InputError, LaminaError, first_line
from lamina.extras import install_command
from lamina.weights import describing, finding, hub, loading, reading, trained
from lamina.zoo import registry

if TYPE_CHECKING:
    from lamina.sources import Source

Shapes = Mapping[str | None, tuple[int, ...]]  # by the input's name; None is the first one
RANDOM = "random"  # in place of weights: a fresh network, for timings


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
    path = Path(text)
    if path.suffix == ".onnx":
        found = _onnx(path)
    elif trained.place(path) is not None:
        found = _zoo(*trained.network(text), device)
    elif text.startswith("timm:"):
        found = _timm(text, weights)
    elif text.startswith("hf:") or ":" in text:
        found = _source(text, weights, inputs)
    else:
        found = _zoo(text, weights, device)
    if inputs and found.path is None:
        found = replace(found, example=_inputs(_resolve(found.name), inputs))
    if image and found.image is None:
        raise InputError(f"{text} takes arrays, not images: --image says nothing to it")
    if image:
        found = replace(found, image=ImageSpec.of({**_table(found.image), **image}))
    return found


def _table(spec: ImageSpec | None) -> dict[str, Any]:
    return {} if spec is None else dict(vars(spec))


def _zoo(name: str, weights: str | Path | None, device: str) -> Network:
    entry = registry.spec(name)
    if str(weights) == RANDOM:
        torch.manual_seed(0)
        module = registry.build(name).eval().to(device)
        image = None if entry.family == "transformer" else ImageSpec.of(describing.default_image(entry))
        classes = () if image is None else class_names(describing.default_data(entry))
        return Network(name, RANDOM, _example(name), module, image=image, classes=classes)
    file = finding.find(name, weights)
    module = loading.load(name, file, device=device)
    if entry.family == "transformer":
        metadata = reading.read_metadata(file.path)
        text = {key: metadata[key] for key in ("tokenizer", "source", "target") if key in metadata}
        return Network(name, file.name, _example(name), module, text=text)
    spec = ImageSpec.of(file.image)
    example = (torch.randn(1, len(spec.channels), spec.size, spec.size),)
    return Network(name, file.name, example, module, None, spec, class_names(file.classes), file.score_scale)


def _example(name: str) -> tuple[Tensor, ...]:
    """A batch of one of the network's inputs, with values: random images, token ids of zero."""
    torch.manual_seed(0)
    given = registry.example(name)
    return tuple(torch.randn(x.shape) if x.is_floating_point() else torch.zeros(x.shape, dtype=x.dtype) for x in given)


def _timm(model: str, weights: str | Path | None) -> Network:
    try:
        import timm  # pyright: ignore[reportMissingImports]
    except ImportError as error:
        raise InputError(f"{model}: needs timm: pip install timm") from error
    name = model.removeprefix("timm:")
    if not timm.is_model(name):
        raise InputError(f"timm has no model {name!r}")
    file = "" if weights in (None, RANDOM) else str(weights)
    try:
        torch.manual_seed(0)
        module = timm.create_model(name, pretrained=weights is None, checkpoint_path=file).eval()
    except Exception as error:  # timm's, the hub's and the file's errors share no class
        hint = "; give --weights FILE, or --weights random for timings" if weights is None else ""
        raise LaminaError(f"{model}: its weights cannot be had: {first_line(error)}{hint}") from error
    settings = {**module.pretrained_cfg, "input_size": list(module.pretrained_cfg["input_size"])}
    image = ImageSpec.of(hub.hub_image({"pretrained_cfg": settings}))
    classes = class_names("imagenet") if getattr(module, "num_classes", 0) == 1000 else ()
    example = (torch.randn(1, *settings["input_size"]),)
    return Network(model, RANDOM if weights == RANDOM else file or "pretrained", example, module, None, image, classes)


def _resolve(model: str) -> "Source":
    from lamina.sources import resolve

    return resolve(model)


def _source(model: str, weights: str | Path | None, inputs: Shapes | None) -> Network:
    """A function's module as the function makes it, or one of transformers, with its own weights or a file's."""
    source = _resolve(model)
    given = _inputs(source, inputs or {})
    torch.manual_seed(0)
    module, name, classes = source.loaded(None if weights == RANDOM else weights)
    return Network(model, name, given, module, classes=classes)


def _inputs(source: "Source", shapes: Shapes) -> tuple[Tensor, ...]:
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
