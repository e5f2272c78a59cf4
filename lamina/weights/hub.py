"""Weights of the Hugging Face hub, through huggingface_hub's cache, with the settings that lie beside them there."""

import json
import os
import re
import socket
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

from lamina.errors import InputError, LaminaError
from lamina.weights.describing import WeightFile, default_data, default_image
from lamina.zoo import registry


def find(entry: registry.Spec, repository: str) -> WeightFile:
    """The weights of a repository; what is in the cache already is taken without a question to the hub."""
    path = _get(repository, "model.safetensors") or _get(repository, "pytorch_model.bin")
    if path is None:
        from huggingface_hub.constants import HF_HUB_CACHE

        folder = f"{HF_HUB_CACHE}/models--{repository.replace('/', '--')}"
        raise LaminaError(
            f"{entry.name}: {repository} is not in {folder} and cannot be fetched: check the name and the network, or give the "
            "file with --weights FILE"
        )
    image = default_image(entry)
    config, settings = _get(repository, "config.json"), _get(repository, "preprocessor_config.json")
    if config is not None:
        check_variant(entry, repository, _read_json(config))
    if settings := settings or config:
        image |= hub_image(_read_json(settings), str(settings))
    return WeightFile(repository, path, image, default_data(entry))


def settings(where: str) -> dict[str, Any]:
    """The image specification beside the weights of transformers, in a directory or a repository; empty where none is."""
    file = Path(where) / "preprocessor_config.json"
    path = (file if file.is_file() else None) if Path(where).is_dir() else _get(where, file.name)
    return {} if path is None else hub_image(_read_json(path), str(path))


def _get(repository: str, file: str) -> Path | None:
    from huggingface_hub import hf_hub_download

    for local in (True, False):
        if not local and not hub_answers():
            return None
        try:
            return Path(hf_hub_download(repository, file, local_files_only=local))
        except (OSError, ValueError):  # all of the library's errors are one of them
            continue
    return None


def hub_answers() -> bool:
    """Whether the hub has an address here: without one the library asks for half a minute before it gives up."""
    if any(os.environ.get(name) for name in ("HTTPS_PROXY", "https_proxy", "ALL_PROXY", "HF_ENDPOINT")):
        return True
    try:
        return bool(socket.getaddrinfo("huggingface.co", 443))
    except OSError:
        return False


def check_variant(entry: registry.Spec, repository: str, config: Mapping[str, Any]) -> None:
    """Refuse the weights of a network that has the same keys and shapes but is another one, as the hub's config.json tells."""
    for row in registry.published(entry.family).get("hub", ()):
        if re.search(row["matches"], json.dumps(config.get(row["setting"]))):
            theirs = replace(entry.config, **{row["field"]: row["value"]})
            fitting = [name for name in registry.names(entry.family) if registry.spec(name).config == theirs]
            if fitting and entry.name not in fitting:
                raise InputError(f"{repository} does not fit {entry.name}: these fit {' and '.join(fitting)}")
            return


def hub_image(config: Mapping[str, Any], where: str = "config.json") -> dict[str, Any]:
    """The image specification in a hub's files: transformers' preprocessor_config.json or timm's config.json."""
    try:
        return _image(config)
    except (AttributeError, KeyError, IndexError, TypeError, ValueError) as error:
        raise LaminaError(f"{where} does not say how images are prepared as transformers or timm do ({error!r})") from error


def _image(config: Mapping[str, Any]) -> dict[str, Any]:
    timm = config.get("pretrained_cfg", config)
    mean, std = config.get("image_mean") or timm.get("mean"), config.get("image_std") or timm.get("std")
    if not mean or not std:
        return {}
    image: dict[str, Any] = {"mean": tuple(mean), "std": tuple(std)}
    if isinstance(timm.get("input_size"), list):  # timm: the crop is a share of the resized image
        side = timm["input_size"][-1]
        image |= {"size": side, "resize": int(side / timm.get("crop_pct", 0.875))}
        image["interpolation"] = "bicubic" if timm.get("interpolation") == "bicubic" else "bilinear"
    elif size := config.get("size"):  # transformers: ViT's images are squashed to their size, ResNet's are cropped
        side = size if isinstance(size, int) else size.get("height") or size["shortest_edge"]
        cropped = "crop_pct" in config or (isinstance(size, dict) and "shortest_edge" in size)
        share = config.get("crop_pct") or 224 / 256
        image |= {"size": side, "resize": int(side / share)} if cropped else {"size": side, "resize": side, "squash": True}
        image["interpolation"] = "bicubic" if config.get("resample") == 3 else "bilinear"  # Pillow's numbers
    return image


def _read_json(path: Path) -> dict[str, Any]:
    try:
        table = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError):
        table = None
    if not isinstance(table, dict):
        raise LaminaError(f"{path} is not a JSON object: remove it, and it is fetched again")
    return table
