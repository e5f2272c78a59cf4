"""Reading weight files: safetensors, torch files with `weights_only`, NumPy's archives without objects; never pickle."""

import pickle
from pathlib import Path
from typing import TYPE_CHECKING

from lamina.errors import LaminaError, first_line

if TYPE_CHECKING:
    import numpy as np
    from torch import Tensor


def read_metadata(path: Path) -> dict[str, str]:
    """The metadata of a safetensors file; other files have none."""
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
    if path.suffix == ".safetensors":
        return _read_safetensors(path)
    if path.suffix == ".npz":
        import torch

        return {key: torch.from_numpy(value) for key, value in _read_arrays(path).items()}
    return _read_torch(path)


def _read_safetensors(path: Path) -> dict[str, "Tensor"]:
    from safetensors import SafetensorError
    from safetensors.torch import load_file

    try:
        return load_file(path)
    except (SafetensorError, OSError) as error:
        raise LaminaError(f"{path} is cut short or not a safetensors file ({error}): fetch it again") from error


def _read_torch(path: Path) -> dict[str, "Tensor"]:
    import torch

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


def _read_arrays(path: Path) -> "dict[str, np.ndarray]":
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
