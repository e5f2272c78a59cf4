"""Finding weights: a file, a published file by its tag, or a repository of the Hugging Face hub."""

import re
from collections.abc import Mapping
from importlib.resources import files
from pathlib import Path
from typing import Any

from lamina.errors import InputError, LaminaError
from lamina.files import cache_dir, download
from lamina.weights import hub
from lamina.weights.describing import WeightFile, default_image, describe
from lamina.zoo import registry

SUFFIXES = (".safetensors", ".pt", ".pth", ".th", ".bin", ".tar", ".npz")
HUB_ID = r"(hf-hub:)?[\w.-]+/[\w.-]+" + "".join(rf"(?<!\{suffix})" for suffix in SUFFIXES)  # owner/name, and no file's


def find(name: str, weights: str | Path | None = None) -> WeightFile:
    """The weights `weights` of the network `name`: a file, a tag of `lamina show NAME`, an "owner/name" of the Hugging Face
    hub, or by default the first tag.

    A file's image specification is its own metadata's, else that of the published file with its SHA-256, else that of
    its keys' naming, else that of the network's data set.
    """
    entry = registry.spec(name)
    tags = {row["tag"]: row for row in entry.weights if {"url", "file", "hub"} & set(row)}
    if weights is None:
        if not tags:
            raise InputError(f"no public weights are known for {name}: give a file with --weights FILE")
        return _published(entry, next(iter(tags.values())))
    if str(weights) in tags:
        return _published(entry, tags[str(weights)])
    path = Path(weights)
    if not path.exists() and re.fullmatch(HUB_ID, str(weights)):
        return hub.find(entry, str(weights).removeprefix("hf-hub:"))
    if path.suffix in SUFFIXES or path.exists():
        return describe(entry, path)
    known = f"its tags are {', '.join(tags)}" if tags else "it has no tags"
    raise InputError(f"{name}: {weights!s} is neither a weight file nor a tag; {known}")


def _published(entry: registry.Spec, row: Mapping[str, Any]) -> WeightFile:
    """A file that ships, one of the hub, or one that is fetched from its address into the cache."""
    if "file" in row:
        return describe(entry, Path(str(files("lamina.zoo").joinpath("pretrained", row["file"]))))
    if "hub" in row:
        return hub.find(entry, row["hub"])
    path = cache_dir() / "weights" / row["url"].rsplit("/", 1)[1]
    if not path.exists():
        try:
            download(row["url"], path, row["sha256"])
        except LaminaError as error:
            hint = f"with the file at hand, put it at {path} or give --weights FILE"
            raise LaminaError(f"{entry.name}: {error}; {hint}") from error
    return WeightFile(f"{entry.name}:{row['tag']}", path, row.get("image") or default_image(entry), row.get("classes", ""))
