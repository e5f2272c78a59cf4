"""Weight files: finding, reading and fitting them. Safetensors, torch files read with `weights_only`, NumPy's archives
without objects; never pickle."""

import hashlib
import json
import logging
import os
import pickle
import re
import socket
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from importlib.resources import files
from pathlib import Path
from typing import TYPE_CHECKING, Any

from lamina.data.registry import DATASETS
from lamina.errors import InputError, LaminaError, first_line
from lamina.files import cache_dir, download
from lamina.weights.fitting import Report, fit, naming
from lamina.zoo import registry

if TYPE_CHECKING:
    import numpy as np
    from torch import Tensor, nn

SUFFIXES = (".safetensors", ".pt", ".pth", ".th", ".bin", ".tar", ".npz")
HUB_ID = r"(hf-hub:)?[\w.-]+/[\w.-]+" + "".join(rf"(?<!\{suffix})" for suffix in SUFFIXES)  # owner/name, and no file's


@dataclass(frozen=True)
class WeightFile:
    """A weight file at hand. `image` is its image specification (a table for `lamina.data.image.ImageSpec`); the softmax
    of `score_scale` times the scores gives the probabilities it was trained for."""

    name: str
    path: Path
    image: Mapping[str, Any]
    classes: str  # what the outputs mean: "imagenet", "cifar10", "mnist" or "" where nobody says
    score_scale: float = 1.0
    changes: Mapping[str, Any] = field(default_factory=dict)  # of the network that `lamina train` trained


def find(name: str, weights: str | Path | None = None) -> WeightFile:
    """The weights `weights` of the network `name`: a file, a tag of `lamina show NAME`, an "owner/name" of the Hugging Face
    hub, or by default the first tag.

    A file's image specification is its own metadata's, else that of the published file with its SHA-256, else that of
    its keys' naming, else that of the network's data set.
    """
    entry = registry.spec(name)
    tags = {row["tag"]: row for row in entry.weights if {"url", "file", "hub"} & set(row)}
    path = Path(weights) if weights is not None else None
    if path is not None and str(weights) not in tags and not path.exists() and re.fullmatch(HUB_ID, str(weights)):
        return _from_hub(entry, str(weights).removeprefix("hf-hub:"))
    if path is not None and str(weights) not in tags:
        if path.suffix in SUFFIXES or path.exists():
            return _describe(entry, path)
        known = f"its tags are {', '.join(tags)}" if tags else "it has no tags"
        raise InputError(f"{name}: {weights!s} is neither a weight file nor a tag; {known}")
    if not tags:
        raise InputError(f"no public weights are known for {name}: give a file with --weights FILE")
    row = tags[str(weights)] if weights is not None else next(iter(tags.values()))
    if "file" in row:
        return _describe(entry, Path(str(files("lamina.zoo").joinpath("pretrained", row["file"]))))
    if "hub" in row:
        return _from_hub(entry, row["hub"])
    path = cache_dir() / "weights" / row["url"].rsplit("/", 1)[1]
    if not path.exists():
        try:
            download(row["url"], path, row["sha256"])
        except LaminaError as error:
            hint = f"with the file at hand, put it at {path} or give --weights FILE"
            raise LaminaError(f"{name}: {error}; {hint}") from error
    return WeightFile(f"{name}:{row['tag']}", path, row.get("image") or default_image(entry), row.get("classes", ""))


def _describe(entry: registry.Spec, path: Path) -> WeightFile:
    if not path.is_file():
        raise InputError(f"{path}: no such weight file" if not path.exists() else f"{path} is not a file")
    metadata = read_metadata(path)
    if "image" in metadata:
        scale = float(metadata.get("score_scale", 1))
        stored = json.loads(metadata.get("changes", "{}"))
        changes = {key: tuple(value) if isinstance(value, list) else value for key, value in stored.items()}
        return WeightFile(path.name, path, json.loads(metadata["image"]), metadata.get("data", ""), scale, changes)
    digest = sha256(path)
    for row in (row for family in registry.FAMILIES for row in registry.published(family).get("weights", ())):
        if row.get("sha256") and digest.startswith(row["sha256"]):
            if row["network"] != entry.name:
                raise InputError(f"{path} is {row['source']}: its weights are {row['network']}'s, not {entry.name}'s")
            return WeightFile(path.name, path, row.get("image") or default_image(entry), row.get("classes", ""))
    table = naming(entry, read_state(path))
    classes = table.get("classes", default_classes(entry))
    return WeightFile(path.name, path, table.get("image") or default_image(entry), classes)


def _from_hub(entry: registry.Spec, repository: str) -> WeightFile:
    """A hub's weights, through huggingface_hub's cache: what is there already is taken without a question to the hub."""
    from huggingface_hub import hf_hub_download
    from huggingface_hub.constants import HF_HUB_CACHE

    def get(file: str) -> Path | None:
        for local in (True, False):
            if not local and not hub_answers():
                return None
            try:
                return Path(hf_hub_download(repository, file, local_files_only=local))
            except (OSError, ValueError):  # all of the library's errors are one of them
                continue
        return None

    path = get("model.safetensors") or get("pytorch_model.bin")
    if path is None:
        folder = f"{HF_HUB_CACHE}/models--{repository.replace('/', '--')}"
        raise LaminaError(
            f"{entry.name}: {repository} is not in {folder} and cannot be fetched: check the name and the network, or give the "
            "file with --weights FILE"
        )
    image = default_image(entry)
    config, settings = get("config.json"), get("preprocessor_config.json")
    if config is not None:
        _check_variant(entry, repository, json.loads(config.read_text()))
    if settings := settings or config:
        image |= hub_image(json.loads(settings.read_text()))
    return WeightFile(repository, path, image, default_classes(entry))


def _check_variant(entry: registry.Spec, repository: str, config: Mapping[str, Any]) -> None:
    """Refuse the weights of a network that has the same keys and shapes but is another one, as the hub's config.json tells."""
    for row in registry.published(entry.family).get("hub", ()):
        if re.search(row["matches"], json.dumps(config.get(row["setting"]))):
            theirs = replace(entry.config, **{row["field"]: row["value"]})
            fitting = [name for name in registry.names(entry.family) if registry.spec(name).config == theirs]
            if fitting and entry.name not in fitting:
                raise InputError(f"{repository} does not fit {entry.name}: these fit {' and '.join(fitting)}")
            return


def hub_answers() -> bool:
    """Whether the hub has an address here: without one the library asks for half a minute before it gives up."""
    if any(os.environ.get(name) for name in ("HTTPS_PROXY", "https_proxy", "ALL_PROXY", "HF_ENDPOINT")):
        return True
    try:
        return bool(socket.getaddrinfo("huggingface.co", 443))
    except OSError:
        return False


def hub_image(config: Mapping[str, Any]) -> dict[str, Any]:
    """The image specification in a hub's files: transformers' preprocessor_config.json or timm's config.json."""
    timm = config.get("pretrained_cfg", config)
    mean, std = config.get("image_mean") or timm.get("mean"), config.get("image_std") or timm.get("std")
    if not mean or not std:
        return {}
    image: dict[str, Any] = {"mean": tuple(mean), "std": tuple(std)}
    if isinstance(timm.get("input_size"), list):  # timm: the crop is a share of the resized picture
        side = timm["input_size"][-1]
        image |= {"size": side, "resize": int(side / timm.get("crop_pct", 0.875))}
        image["interpolation"] = "bicubic" if timm.get("interpolation") == "bicubic" else "bilinear"
    elif size := config.get("size"):  # transformers: ViT's pictures are squashed to their size, ResNet's are cropped
        side = size if isinstance(size, int) else size.get("height") or size["shortest_edge"]
        cropped = "crop_pct" in config or (isinstance(size, dict) and "shortest_edge" in size)
        share = config.get("crop_pct") or 224 / 256
        image |= {"size": side, "resize": int(side / share)} if cropped else {"size": side, "resize": side, "squash": True}
        image["interpolation"] = "bicubic" if config.get("resample") == 3 else "bilinear"  # Pillow's numbers
    return image


def default_image(entry: registry.Spec) -> dict[str, Any]:
    """How the images of the network's own data set are prepared when no weight file says otherwise."""
    side = entry.input[1]
    image = dict(DATASETS[default_classes(entry)].image) | {"size": side}
    if image["channels"] == "L":
        return image | {"pad": (side - image["resize"]) // 2}
    if side > image["resize"]:
        image["resize"] = side * 8 // 7  # 256 to 224, too
    return image


def default_classes(entry: registry.Spec) -> str:
    return "mnist" if entry.input[0] == 1 else "cifar10" if entry.input[1] == 32 else "imagenet"


def sha256(path: Path) -> str:
    with path.open("rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()


def read_metadata(path: Path) -> dict[str, str]:
    """The metadata of a safetensors file; a torch file has none."""
    if path.suffix != ".safetensors":
        return {}
    from safetensors import SafetensorError, safe_open

    try:
        with safe_open(path, framework="numpy") as file:
            return file.metadata() or {}
    except (SafetensorError, OSError) as error:
        raise LaminaError(f"{path} is cut short or not a safetensors file ({error}): fetch it again") from error


def read_state(path: Path) -> dict[str, "Tensor"]:
    """The tensors of a weight file by name, without wrappers ("state_dict", "model") and the prefix "module."."""
    import torch

    if path.suffix == ".safetensors":
        from safetensors import SafetensorError
        from safetensors.torch import load_file

        try:
            return load_file(path)
        except (SafetensorError, OSError) as error:
            raise LaminaError(f"{path} is cut short or not a safetensors file ({error}): fetch it again") from error
    if path.suffix == ".npz":
        return {key: torch.from_numpy(value) for key, value in _arrays(path).items()}
    try:
        content = torch.load(path, map_location="cpu", weights_only=True)
    except pickle.UnpicklingError as error:
        raise LaminaError(f"{path} holds other things than tensors, or is damaged; Lamina does not unpickle code") from error
    except Exception as error:  # the content is anybody's
        raise LaminaError(f"{path} is cut short or no torch file ({first_line(error)[:120]}): fetch it again") from error
    for wrapper in ("state_dict", "model"):
        if isinstance(content, dict) and isinstance(content.get(wrapper), dict):
            content = content[wrapper]
    if not isinstance(content, dict) or not all(isinstance(v, torch.Tensor) for v in content.values()):
        raise LaminaError(f"{path} holds no state dict: a dictionary from names to tensors")
    return {str(key).removeprefix("module."): value for key, value in content.items()}


def _arrays(path: Path) -> "dict[str, np.ndarray]":
    """The arrays of a NumPy archive by name."""
    import numpy as np

    try:
        with path.open("rb") as stream, np.load(stream, allow_pickle=False) as archive:
            arrays = {key: archive[key] for key in archive.files}
    except ValueError as error:
        raise LaminaError(f"{path} holds other things than arrays, or is damaged; Lamina does not unpickle code") from error
    except Exception as error:  # the content is anybody's
        raise LaminaError(f"{path} is cut short or no archive of arrays ({first_line(error)[:120]}): fetch it again") from error
    if other := [key for key, value in arrays.items() if value.dtype.kind not in "fiub"]:
        raise LaminaError(f"{path} holds other things than numbers: {other[0]} is of type {arrays[other[0]].dtype}")
    return arrays


def load(name: str, weights: str | Path | WeightFile | None = None, *, device: str = "cpu", **changes: Any) -> "nn.Module":
    """The network `name` with `weights` (a file, a tag or a hub's "owner/name"; by default its first published ones), in
    evaluation mode.

    `changes` are those of `build`. With `num_classes`, `in_channels` or `img_size` changed, or `head=None`, the rest of the
    weights still load, and what was drawn anew or adapted is logged as a warning. Raises `InputError` listing the keys that
    are missing, left over or of another shape.
    """
    module, report = load_reported(name, weights, **changes)
    if report != Report():
        logging.getLogger("lamina").warning("%s: %s", name, report)
    return module.to(device)


def load_reported(name: str, weights: str | Path | WeightFile | None = None, **changes: Any) -> "tuple[nn.Module, Report]":
    """`load`, and what of the network is not the file's own."""
    file = weights if isinstance(weights, WeightFile) else find(name, weights)
    module = registry.assemble(name, **{**file.changes, **changes})
    report = fit(name, module, read_state(file.path), str(file.path))
    return module.eval(), report
