"""Answers on real input: a network with its weights, its preprocessing and the names of its classes, run by one engine."""

import math
import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from lamina import units
from lamina.data.image import ImageSpec, prepare
from lamina.errors import InputError, LaminaError
from lamina.infer import auto, networks
from lamina.infer.engines.program import Program
from lamina.infer.networks import Network
from lamina.progress import track

BATCH = 16  # images decoded and run together


class Session:
    """A network ready to answer.

    `model` is a zoo name, `timm:NAME`, `FILE.onnx`, the folder of a run of `lamina train`, `FILE.py:callable`, or a module
    with an `example` of its inputs. `engine` is torch (operation by operation, as the network came), compile, onnxruntime,
    openvino, or auto: the fastest of those installed, measured on a `batch` of the network's inputs and remembered. All but
    torch get the network rewritten (`infer.rewrite`), which `rewrite` turns off, or on for torch. `threads` are the engine's,
    `memory` bounds the bytes of the filters that Winograd's algorithm transforms. Any batch size can be run afterwards, by
    several threads at once.
    """

    def __init__(
        self,
        model: str | Path | nn.Module,
        weights: str | Path | None = None,
        *,
        engine: str = "torch",
        batch: int = 1,
        threads: int | None = None,
        rewrite: bool | None = None,
        memory: int | None = None,
        image: Mapping[str, Any] | None = None,
        device: str = "cpu",
        example: Sequence[Tensor] | None = None,
        say: Callable[[str], None] = lambda text: None,
    ):
        if batch < 1:
            raise InputError(f"--batch is a positive number, not {batch}")
        if threads is not None and threads < 1:
            raise InputError(f"--threads is a positive number, not {threads}")
        self.device = find_device(device)
        if self.device.type != "cpu" and engine != "torch":
            raise InputError(f"the engine {engine} runs on the CPU here: leave out --device, or take --engine torch")
        if isinstance(model, nn.Module):
            if example is None:
                raise InputError(
                    "a module says nothing of its inputs: give an example of them, as in Session(net, example=(x,))"
                )
            found = Network(type(model).__name__, "its own", tuple(example), model.eval())
        else:
            found = networks.load(model, weights, image=image, device=device)
        self.network = found
        simplify = engine != "torch" if rewrite is None else rewrite
        inputs = [torch.cat([x] * batch) if x.dim() and x.shape[0] == 1 else x for x in found.example]
        program = Program(found.name, inputs, found.module, found.path, threads, simplify, memory)
        if engine == "torch" and found.path is not None:
            engine = "onnxruntime"  # torch does not run ONNX files
        self.engine, self._engine = auto.start(program, engine, say)
        self._lock = threading.Lock() if threads is not None and self.engine in ("torch", "compile") else None

    @property
    def name(self) -> str:
        return self.network.name

    @property
    def weights(self) -> str:
        return self.network.weights

    @property
    def score_scale(self) -> float:
        return self.network.score_scale

    @property
    def classes(self) -> Sequence[str]:
        return self.network.classes

    @property
    def module(self) -> nn.Module:
        """The network itself, as it was loaded."""
        if self.network.module is None:
            raise InputError(f"{self.name} is an ONNX file: there is no module")
        return self.network.module

    @property
    def image(self) -> ImageSpec:
        if self.network.image is None:
            if not self.network.example[0].is_floating_point():
                raise InputError(f"{self.name} takes text, not images")
            raise InputError(f"{self.name} does not say how images are prepared for it: give arrays to Session.run")
        return self.network.image

    def run(self, *inputs: Tensor | np.ndarray) -> list[Tensor]:
        """The network's outputs, in float32 on the CPU, for its inputs as arrays; their first axis is the batch."""
        wanted = self.network.example
        if len(inputs) != len(wanted):
            raise InputError(f"{self.name} takes {len(wanted)} inputs, not {len(inputs)}")
        given = []
        for value, like in zip(inputs, wanted, strict=True):
            x = torch.as_tensor(value)
            if x.dim() != like.dim() or (self.network.image is not None and x.shape[1:] != like.shape[1:]):
                shape, ours = units.shape(("B", *like.shape[1:])), units.shape(x.shape)
                raise InputError(f"{self.name} takes {shape}, not {ours}")
            given.append(x.to(self.device, like.dtype))
        if self._lock is None:
            return [y.cpu() for y in self._engine.run(given)]
        with self._lock:
            return [y.cpu() for y in self._engine.run(given)]

    def scores(self, x: Tensor) -> Tensor:
        """(B, C, H, W) prepared images to (B, classes)."""
        return self.run(x)[0]

    def predict(self, inputs: Sequence[Any], top: int = 5) -> Iterator[dict[str, Any]]:
        """For each image (a path, or an image of Pillow's) {"input", "predictions": [{"index", "label", "probability"}]}, or
        {"input", "error"}; the probabilities are percent of the softmax."""
        spec = self.image
        for start in range(0, len(inputs), BATCH):
            results: list[dict[str, Any]] = []
            images: list[Tensor] = []
            for value in inputs[start : start + BATCH]:
                results.append({"input": str(value)})
                try:
                    images.append(prepare(value, spec))
                except LaminaError as error:
                    results[-1]["error"] = str(error)
            if images:
                probabilities = (self.network.score_scale * self.scores(torch.stack(images))).softmax(dim=1)
                good = [r for r in results if "error" not in r]
                for result, row in zip(good, probabilities, strict=True):
                    result["predictions"] = self.ranked(row, top)
            yield from results

    def ranked(self, probabilities: Tensor, top: int) -> list[dict[str, Any]]:
        values, indices = probabilities.topk(min(top, len(probabilities)))
        return [
            {"index": i, "label": self.label(i), "probability": round(100 * p, 4)}
            for p, i in zip(values.tolist(), indices.tolist(), strict=True)
        ]

    def label(self, index: int) -> str:
        return self.classes[index] if index < len(self.classes) else str(index)


def find_device(name: str) -> torch.device:
    """A device of this machine; only the CPU has been tested so far."""
    available = {"cpu": True, "cuda": torch.cuda.is_available(), "mps": torch.backends.mps.is_available()}
    kind = name.split(":")[0]
    if kind not in available:
        raise InputError(f"no device {name!r}: there are cpu, cuda and mps")
    if not available[kind]:
        raise InputError(f"this machine has no {kind} device that torch can use: leave out --device, or say --device cpu")
    return torch.device(name)


def run(
    model: str | Path,
    inputs: Sequence[str | Path] | str | Path,
    weights: str | Path | None = None,
    *,
    top: int = 5,
    **options: Any,
) -> list[dict[str, Any]]:
    """The `top` classes of each image, as `Session.predict` gives them; `options` are those of `Session`."""
    paths = [inputs] if isinstance(inputs, (str, Path)) else list(inputs)
    if top < 1:
        raise InputError(f"--top is a positive number, not {top}")
    answers = Session(model, weights, **options).predict(paths, top)
    return list(track(answers, "images", len(paths)))


def parse_image(settings: Sequence[str]) -> dict[str, Any]:
    """["channels=BGR", "mean=104,117,123"] to fields of an `ImageSpec`."""
    fields: dict[str, Any] = {}
    for setting in settings:
        key, equals, value = setting.partition("=")
        if not equals:
            raise InputError(f"--image takes key=value, such as channels=BGR or resize=256, not {setting!r}")
        try:
            if key in ("mean", "std"):
                fields[key] = tuple(float(v) for v in value.split(","))
            elif key == "scale":
                fields[key] = float(value)
            elif key in ("size", "resize", "pad"):
                fields[key] = int(value)
            elif key == "squash":
                fields[key] = {"true": True, "false": False}[value.lower()]
            else:
                fields[key] = value
        except (ValueError, KeyError):
            raise InputError(f"--image {key}: {value!r} is not of its kind") from None
        if isinstance(fields[key], (int, float)) and (not math.isfinite(fields[key]) or fields[key] < 0):
            raise InputError(f"--image {key}: {value!r} is out of range")
    return fields
