"""Answers on real input: a network with its weights, its preprocessing and the names of its classes."""

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from lamina.data.image import ImageSpec, prepare
from lamina.data.registry import class_names
from lamina.errors import InputError, LaminaError
from lamina.progress import track
from lamina.weights import files as weight_files
from lamina.zoo import registry

BATCH = 16  # pictures decoded and run together


@dataclass(frozen=True)
class Session:
    """A network ready to answer. `classes` are the outputs' names, empty where nobody says."""

    name: str
    weights: str
    module: nn.Module
    image: ImageSpec
    classes: Sequence[str]
    score_scale: float
    device: torch.device

    @torch.inference_mode()
    def scores(self, x: Tensor) -> Tensor:
        """(B, C, H, W) prepared pictures to (B, classes)."""
        return self.module(x.to(self.device)).cpu()

    def predict(self, paths: Sequence[str | Path], top: int = 5) -> Iterator[dict[str, Any]]:
        """For each picture {"input", "predictions": [{"index", "label", "probability"}]}, or {"input", "error"}; the
        probabilities are percent of the softmax."""
        for start in range(0, len(paths), BATCH):
            results: list[dict[str, Any]] = []
            pictures: list[Tensor] = []
            for path in paths[start : start + BATCH]:
                results.append({"input": str(path)})
                try:
                    pictures.append(prepare(path, self.image))
                except LaminaError as error:
                    results[-1]["error"] = str(error)
            if pictures:
                probabilities = (self.score_scale * self.scores(torch.stack(pictures))).softmax(dim=1)
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


def session(
    name: str,
    weights: str | Path | None = None,
    *,
    image: Mapping[str, Any] | None = None,
    device: str = "cpu",
) -> Session:
    """The zoo's network `name` with `weights` (a file or a tag); `image` overrides fields of its image specification."""
    place = find_device(device)
    if registry.spec(name).family == "transformer":
        raise InputError(f"{name} takes text, not pictures")
    file = weight_files.find(name, weights)
    module = weight_files.load(name, file, device=device)
    spec = ImageSpec.of({**file.image, **(image or {})})
    return Session(name, file.name, module, spec, class_names(file.classes), file.score_scale, place)


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
    name: str,
    inputs: Sequence[str | Path] | str | Path,
    weights: str | Path | None = None,
    *,
    top: int = 5,
    image: Mapping[str, Any] | None = None,
    device: str = "cpu",
) -> list[dict[str, Any]]:
    """The `top` classes of each picture, as `Session.predict` gives them."""
    paths = [inputs] if isinstance(inputs, (str, Path)) else list(inputs)
    if top < 1:
        raise InputError(f"--top is a positive number, not {top}")
    answers = session(name, weights, image=image, device=device).predict(paths, top)
    return list(track(answers, "pictures", len(paths)))


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
