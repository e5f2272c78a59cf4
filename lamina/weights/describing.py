"""What is known of a weight file: how it takes its images, what its outputs mean, how its network differs from the zoo's."""

import hashlib
import json
import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from lamina.data.image import ImageSpec
from lamina.data.registry import DATASETS
from lamina.errors import InputError, LaminaError
from lamina.weights.fitting import naming
from lamina.weights.reading import read_metadata, read_state
from lamina.zoo import registry


@dataclass(frozen=True)
class WeightFile:
    """A weight file at hand. `image` is its image specification (a table for `lamina.data.image.ImageSpec`); the softmax
    of `score_scale` times the scores gives the probabilities it was trained for."""

    name: str
    path: Path
    image: Mapping[str, Any]
    classes: str  # the data set whose classes the outputs are, "" where nobody says
    score_scale: float = 1.0
    changes: Mapping[str, Any] = field(default_factory=dict)  # of the network that `lamina train` trained
    names: tuple[str, ...] = ()  # of its classes, where they are a user's own


def describe(entry: registry.Spec, path: Path) -> WeightFile:
    """The file at `path` as weights of the network `entry`: by its metadata, else as the published file with its SHA-256,
    else by the naming of its keys and the network's data set."""
    if not path.is_file():
        raise InputError(f"{path}: no such weight file" if not path.exists() else f"{path} is not a file")
    metadata = read_metadata(path)
    if "image" in metadata:
        return _from_metadata(path, metadata)
    digest = sha256(path)
    for row in (row for family in registry.FAMILIES for row in registry.published(family).get("weights", ())):
        if row.get("sha256") and digest.startswith(row["sha256"]):
            if row["network"] != entry.name:
                raise InputError(f"{path} is {row['source']}: its weights are {row['network']}'s, not {entry.name}'s")
            return WeightFile(path.name, path, row.get("image") or default_image(entry), row.get("classes", ""))
    table = naming(entry, read_state(path))
    classes = table.get("classes", default_data(entry))
    return WeightFile(path.name, path, table.get("image") or default_image(entry), classes)


def _from_metadata(path: Path, metadata: Mapping[str, str]) -> WeightFile:
    """From what `lamina train` writes into a safetensors file."""
    image, changes = read_table(path, metadata, "image"), read_changes(path, metadata)
    if image:  # empty in a file of weights for text
        try:
            ImageSpec.of(image)
        except InputError as error:
            raise LaminaError(f"{path}: its metadata's image is damaged: {error}") from error
    text = metadata.get("score_scale", "1")
    try:
        scale = float(text)
    except ValueError:
        scale = math.nan
    if not math.isfinite(scale):
        raise LaminaError(f"{path}: its metadata's score_scale is not a number: {text[:40]!r}")
    return WeightFile(path.name, path, image, metadata.get("data", ""), scale, changes, _names(path, metadata))


def _names(path: Path, metadata: Mapping[str, str]) -> tuple[str, ...]:
    try:
        names = json.loads(metadata.get("classes", "[]"))
    except (ValueError, RecursionError):
        names = None
    if not isinstance(names, list) or not all(isinstance(name, str) for name in names):
        raise LaminaError(f"{path}: its metadata's classes are not a JSON list of names: {metadata['classes'][:40]!r}")
    return tuple(names)


def read_changes(path: Path, metadata: Mapping[str, str]) -> dict[str, Any]:
    """What the configuration of a file's network changes of the zoo's."""
    stored = read_table(path, metadata, "changes")
    return {key: tuple(value) if isinstance(value, list) else value for key, value in stored.items()}


def read_table(path: Path, metadata: Mapping[str, str], key: str) -> dict[str, Any]:
    """A JSON object of the metadata; empty where it has none of this name."""
    try:
        table = json.loads(metadata.get(key, "{}"))
    except (ValueError, RecursionError):
        table = None
    if not isinstance(table, dict):
        raise LaminaError(f"{path}: its metadata's {key} is not a JSON object: {metadata[key][:40]!r}")
    return table


def default_data(entry: registry.Spec) -> str:
    """The data set that the paper's network is for, by the size of its images."""
    return "mnist" if entry.input[0] == 1 else "cifar10" if entry.input[1] == 32 else "imagenet"


def default_image(entry: registry.Spec) -> dict[str, Any]:
    """How the images of the network's own data set are prepared when no weight file says otherwise."""
    side = entry.input[1]
    image = dict(DATASETS[default_data(entry)].image) | {"size": side}
    if image["channels"] == "L":
        return image | {"pad": (side - image["resize"]) // 2}
    if side > image["resize"]:
        image["resize"] = side * 8 // 7  # 256 to 224, too
    return image


def sha256(path: Path) -> str:
    with path.open("rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()
