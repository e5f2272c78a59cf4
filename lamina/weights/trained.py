"""Networks that say themselves what they are: weight files with the name and the configuration of their network.

`lamina train` and `lamina grow` write them. Wherever a zoo name is taken, so is such a file, or the folder of a run.
"""

import json
from collections.abc import Mapping
from dataclasses import fields
from pathlib import Path
from typing import TYPE_CHECKING, Any

from lamina import files
from lamina.errors import InputError, LaminaError
from lamina.weights.describing import read_changes
from lamina.weights.reading import read_metadata
from lamina.zoo import registry

if TYPE_CHECKING:
    from torch import nn

WEIGHTS = "weights.safetensors"


def place(model: str | Path) -> Path | None:
    """The weight file that `model` names: a safetensors file, or a folder with one; None for anything else."""
    path = Path(model)
    if path.is_dir() and (path / WEIGHTS).is_file():
        return path / WEIGHTS
    if path.is_dir() and (path / "config.toml").is_file():
        raise InputError(f"{model} holds a run without {WEIGHTS}: it has not ended; lamina train --resume goes on with it")
    return path if path.suffix == ".safetensors" and path.is_file() else None


def network(model: str, weights: str | Path | None = None) -> tuple[str, str | Path | None]:
    """The zoo's name and the weights that `model` stands for: itself and `weights`, or what a trained network's file says."""
    path = place(model)
    if path is None:
        return model, weights
    if weights is not None:
        raise InputError(f"{model} has its own weights: leave --weights out, or give the zoo's name")
    name = read_metadata(path).get("network")
    if name is None:
        raise InputError(f"{path} does not say which network it belongs to: give the name and --weights {path}")
    return name, path


def named(path: Path) -> str | None:
    """The zoo's name of the network that a file is of, if it says so; None for any other file."""
    try:
        return read_metadata(path).get("network")
    except LaminaError:
        return None


def changes(path: Path) -> dict[str, Any]:
    """What its network's configuration changes of the zoo's."""
    return read_changes(path, read_metadata(path))


def save(path: Path, name: str, module: "nn.Module", metadata: Mapping[str, str]) -> None:
    """Write a form of the zoo's network `name`. Raises `LaminaError` where it cannot be written."""
    from safetensors.torch import save

    entry: Any = registry.spec(name).config
    config: Any = module.config
    different = {f.name: getattr(config, f.name) for f in fields(entry) if getattr(config, f.name) != getattr(entry, f.name)}
    state = {k: v.detach().cpu().contiguous().clone() for k, v in module.state_dict().items()}
    path.parent.mkdir(parents=True, exist_ok=True)
    files.write(path, save(state, {**metadata, "network": name, "changes": json.dumps(different)}))
