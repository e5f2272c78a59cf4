"""Inputs that a network is called with: real ones from a file, and dictionaries of tensors."""

import inspect
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from lamina.errors import InputError, first_line

if TYPE_CHECKING:
    import torch
    from torch import nn

Call = tuple[tuple[Any, ...], dict[str, Any]]


def read(path: Path) -> Any:
    """The tensors of a file: arrays by name of `FILE.npz`, or a tensor, or tensors in lists and dictionaries, that
    `torch.save` wrote as `FILE.pt` (nothing else is unpickled). Raises `InputError`, one line."""
    import numpy as np
    import torch

    if path.suffix not in (".npz", ".pt", ".pth"):
        raise InputError(f"--data {path}: sample inputs are FILE.npz or FILE.pt")
    if not path.is_file():
        raise InputError(f"--data {path}: no such file")
    try:
        if path.suffix == ".npz":
            with np.load(path, allow_pickle=False) as arrays:
                return {name: torch.from_numpy(arrays[name]) for name in arrays.files}
        found = torch.load(path, weights_only=True)
    except Exception as error:  # of a file: missing, damaged, of other objects
        raise InputError(f"--data {path}: {first_line(error)}") from error
    if not any(leaves(found)):
        raise InputError(f"--data {path} holds no tensors")
    return found


def shadow(shape: tuple[int, ...], kind: "torch.dtype") -> "torch.Tensor":
    """A shape without values."""
    import torch

    return torch.empty(shape, dtype=kind, device="meta")


def drawn(shape: tuple[int, ...], kind: "torch.dtype") -> "torch.Tensor":
    """Numbers from 0 to 1, as an image's are; tokens 0 and 1, which every vocabulary has. The same at each call."""
    import torch

    generator = torch.Generator().manual_seed(0)
    if kind.is_floating_point:
        return torch.rand(shape, generator=generator).to(kind)
    return torch.randint(2, shape, generator=generator, dtype=kind)


def call(module: "nn.Module", value: Any, kind: "torch.dtype") -> Call:
    """How the module's forward takes it, numbers as `kind`: a dictionary by its arguments' names if it has them all, else as
    one argument; a list or tuple in order."""
    value = _converted(value, kind)
    if isinstance(value, Mapping):
        parameters = inspect.signature(module.forward).parameters.values()
        names = {p.name for p in parameters if p.kind in (p.POSITIONAL_OR_KEYWORD, p.KEYWORD_ONLY)}
        takes_all = names >= set(value) or any(p.kind == p.VAR_KEYWORD for p in parameters)
        return ((), dict(value)) if takes_all else ((value,), {})
    return (tuple(value), {}) if isinstance(value, (list, tuple)) else ((value,), {})


def leaves(value: Any, name: str = "") -> "Iterator[tuple[str, torch.Tensor]]":
    """The tensors in it, each with its place: "batch.pixels", "0"."""
    if isinstance(value, Mapping):
        for key, inner in value.items():
            yield from leaves(inner, f"{name}.{key}" if name else str(key))
    elif isinstance(value, (list, tuple)):
        for place, inner in enumerate(value):
            yield from leaves(inner, f"{name}.{place}" if name else str(place))
    elif hasattr(value, "shape"):
        yield name or "input", value


def nested(tensors: "Mapping[str, torch.Tensor]") -> dict[str, Any]:
    """ "batch.pixels" is the entry "pixels" of the dictionary "batch"."""
    result: dict[str, Any] = {}
    for name, tensor in tensors.items():
        *path, last = name.split(".")
        place = result
        for part in path:
            place = place.setdefault(part, {})
        place[last] = tensor
    return result


def _converted(value: Any, kind: "torch.dtype") -> Any:
    if isinstance(value, Mapping):
        return {key: _converted(inner, kind) for key, inner in value.items()}
    if isinstance(value, (list, tuple)):
        return [_converted(inner, kind) for inner in value]
    return value.to(kind) if hasattr(value, "is_floating_point") and value.is_floating_point() else value
