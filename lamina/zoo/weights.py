"""Weight files: finding, reading and fitting them. Safetensors, or torch files read with `weights_only`; never pickle."""

import hashlib
import json
import pickle
import re
from collections.abc import Mapping
from dataclasses import dataclass
from importlib.resources import files
from pathlib import Path
from typing import TYPE_CHECKING, Any

from lamina.errors import InputError, LaminaError
from lamina.fetch import cache_dir, download
from lamina.zoo import registry

if TYPE_CHECKING:
    from torch import Tensor, nn

TORCH_SUFFIXES = (".pt", ".pth", ".th", ".bin", ".tar")
SHOWN = 4  # keys named in an error before it only counts


@dataclass(frozen=True)
class WeightFile:
    """A weight file at hand. `image` is its image specification (a table for `lamina.data.image.ImageSpec`); the softmax
    of `score_scale` times the scores gives the probabilities it was trained for."""

    name: str
    path: Path
    image: Mapping[str, Any]
    classes: str  # what the outputs mean: "imagenet", "cifar10", "mnist" or "" where nobody says
    score_scale: float = 1.0


def find(name: str, weights: str | Path | None = None) -> WeightFile:
    """The weights `weights` of the network `name`: a file, a tag of `lamina show NAME`, or by default the first tag.

    A file's image specification is its own metadata's, else that of the published file with its SHA-256, else that of
    its keys' naming, else that of the network's data set.
    """
    entry = registry.spec(name)
    tags = {row["tag"]: row for row in entry.weights if "url" in row or "file" in row}
    path = Path(weights) if weights is not None else None
    if path is not None and str(weights) not in tags:
        if path.suffix in (".safetensors", *TORCH_SUFFIXES) or path.exists():
            return _describe(entry, path)
        known = f"its tags are {', '.join(tags)}" if tags else "it has no tags"
        raise InputError(f"{name}: {weights!s} is neither a weight file nor a tag; {known}")
    if not tags:
        raise InputError(f"no public weights are known for {name}: give a file with --weights FILE")
    row = tags[str(weights)] if weights is not None else next(iter(tags.values()))
    if "file" in row:
        return _describe(entry, Path(str(files("lamina.zoo").joinpath("pretrained", row["file"]))))
    path = cache_dir() / "weights" / row["url"].rsplit("/", 1)[1]
    if not path.exists():
        try:
            download(row["url"], path, row["sha256"])
        except LaminaError as error:
            raise LaminaError(f"{name}: {error}; with the file at hand, give --weights FILE") from error
    return WeightFile(f"{name}:{row['tag']}", path, row.get("image") or default_image(entry), row.get("classes", ""))


def _describe(entry: registry.Spec, path: Path) -> WeightFile:
    if not path.is_file():
        raise InputError(f"{path}: no such weight file" if not path.exists() else f"{path} is not a file")
    metadata = read_metadata(path)
    if "image" in metadata:
        scale = float(metadata.get("score_scale", 1))
        return WeightFile(path.name, path, json.loads(metadata["image"]), metadata.get("data", ""), scale)
    digest = sha256(path)
    for row in registry.published().get("weights", ()):
        if row.get("sha256") and digest.startswith(row["sha256"]):
            if row["network"] != entry.name:
                raise InputError(f"{path} is {row['source']}: its weights are {row['network']}'s, not {entry.name}'s")
            return WeightFile(path.name, path, row.get("image") or default_image(entry), row.get("classes", ""))
    naming = _naming(entry, read_state(path))
    return WeightFile(
        path.name, path, naming.get("image") or default_image(entry), naming.get("classes", default_classes(entry))
    )


def default_image(entry: registry.Spec) -> dict[str, Any]:
    """How the pictures of the network's own data set are prepared when no weight file says otherwise."""
    images = registry.published()["image"]
    if entry.input[0] == 1:
        return dict(images["mnist"]) | {"size": entry.input[1], "pad": (entry.input[1] - 28) // 2}
    return dict(images["cifar"] if entry.input[1] == 32 else images["imagenet"]) | {"size": entry.input[1]}


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
    try:
        content = torch.load(path, map_location="cpu", weights_only=True)
    except pickle.UnpicklingError as error:
        raise LaminaError(f"{path} holds other things than tensors, or is damaged; Lamina does not unpickle code") from error
    except Exception as error:  # the content is anybody's
        reason = str(error).splitlines()[0] if str(error) else type(error).__name__
        raise LaminaError(f"{path} is cut short or no torch file ({reason[:120]}): fetch it again") from error
    for wrapper in ("state_dict", "model"):
        if isinstance(content, dict) and isinstance(content.get(wrapper), dict):
            content = content[wrapper]
    if not isinstance(content, dict) or not all(isinstance(v, torch.Tensor) for v in content.values()):
        raise LaminaError(f"{path} holds no state dict: a dictionary from names to tensors")
    return {str(key).removeprefix("module."): value for key, value in content.items()}


def _naming(entry: registry.Spec, state: Mapping[str, Any]) -> Mapping[str, Any]:
    """The key naming of `published.toml` whose marker the file's keys show; empty where they are ours."""
    for table in registry.published()["naming"].values():
        ours = table["family"] == entry.family and table.get("network", entry.name) == entry.name
        if ours and any(re.search(table["marker"], key) for key in state):
            return table
    return {}


def fit(name: str, module: "nn.Module", state: Mapping[str, "Tensor"], source: str) -> None:
    """Load `state` into `module` strictly, after renaming its keys; an error lists what is missing or left over."""
    import torch

    entry = registry.spec(name)
    naming = _naming(entry, state)
    state = {rename(key, naming.get("keys", [])): value for key, value in state.items()}
    for whole, parts in naming.get("join", {}).items():  # one matrix here, several there
        for key in [k for k in state if f".{parts[0]}." in k]:
            pieces = [state.pop(key.replace(parts[0], part)) for part in parts]
            state[key.replace(parts[0], whole)] = torch.cat(pieces)
    wanted = module.state_dict()
    if "optional" in naming:  # auxiliary heads, which the network may be built without
        state = {k: v for k, v in state.items() if k in wanted or not re.search(naming["optional"], k)}
    fresh = {k: torch.zeros((), dtype=torch.long) for k in wanted if k.endswith("num_batches_tracked")}
    state = fresh | dict(state)
    missing = [k for k in wanted if k not in state]
    left = [k for k in state if k not in wanted]
    wrong = [
        f"{k} ({'x'.join(map(str, state[k].shape))} for {'x'.join(map(str, v.shape))})"
        for k, v in wanted.items()
        if k in state and state[k].shape != v.shape
    ]
    if missing or left or wrong:
        parts = [
            f"{what}: {_some(keys)}"
            for what, keys in (("missing", missing), ("left over", left), ("of another shape", wrong))
            if keys
        ]
        hint = _who_fits(entry, state)
        raise InputError(f"{source} does not fit {name}; {'; '.join(parts)}" + (f". It fits {hint}" if hint else ""))
    module.load_state_dict({k: v.to(wanted[k].dtype) for k, v in state.items()}, strict=True, assign=True)


def rename(key: str, rules: list[list[str]]) -> str:
    for pattern, replacement in rules:
        key, hits = re.subn(pattern, replacement, key)
        if hits:
            break
    return key


def _who_fits(entry: registry.Spec, state: Mapping[str, "Tensor"]) -> str:
    """The other networks of the family that take exactly these tensors."""
    shapes = {k: tuple(v.shape) for k, v in state.items()}
    fitting = []
    for other in registry.names(entry.family):
        own = {k: tuple(v.shape) for k, v in registry.assemble(other).state_dict().items()}
        if {k: s for k, s in own.items() if not k.endswith("num_batches_tracked")} == {
            k: s for k, s in shapes.items() if not k.endswith("num_batches_tracked")
        }:
            fitting.append(other)
    return " and ".join(fitting)


def _some(keys: list[str]) -> str:
    more = f" and {len(keys) - SHOWN} more" if len(keys) > SHOWN else ""
    return ", ".join(keys[:SHOWN]) + more


def load(name: str, weights: str | Path | WeightFile | None = None, *, device: str = "cpu", **changes: Any) -> "nn.Module":
    """The network `name` with `weights` (a file or a tag; by default its first published ones), in evaluation mode.

    `changes` are those of `build`. Raises `InputError` listing the keys that are missing, left over or of another shape.
    """
    file = weights if isinstance(weights, WeightFile) else find(name, weights)
    module = registry.assemble(name, **changes)
    fit(name, module, read_state(file.path), str(file.path))
    return module.to(device).eval()
