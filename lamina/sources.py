"""The text MODEL of the command line: a zoo name, `FILE.py:callable` or `package.module:callable`, to a module."""

import importlib
import importlib.util
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from lamina.errors import InputError
from lamina.zoo import registry

if TYPE_CHECKING:
    from torch import nn


@dataclass(frozen=True)
class Source:
    """A module on the meta device, in evaluation mode, the shape of what it takes by default (None: nobody knows), and
    whether it takes two sequences of tokens of that shape rather than pictures."""

    name: str
    module: "nn.Module"
    input: tuple[int, ...] | None
    tokens: bool = False


def resolve(model: str) -> Source:
    """Build what `model` names. A callable is called without arguments and returns the module. Only the zoo's names,
    Python files and importable modules so far: `timm:`, `hf:` and ONNX files are refused by name."""
    if model.startswith(("timm:", "hf:")) or model.endswith(".onnx"):
        raise InputError(f"{model}: timm, Hugging Face and ONNX sources are not read yet; give a zoo name or FILE.py:callable")
    place, colon, attribute = model.rpartition(":")
    if not colon:
        spec = registry.spec(model)
        tokens = spec.family == "transformer"
        shape = (1, spec.input[0]) if tokens else (1, *spec.input)
        return Source(model, registry.assemble(model).eval(), shape, tokens)
    return Source(model, _call(model, place, attribute), None)


def _call(model: str, place: str, attribute: str) -> "nn.Module":
    import torch
    from torch import nn

    if place.endswith(".py"):
        path = Path(place)
        if not path.is_file():
            raise InputError(f"{place}: no such file")
        spec = importlib.util.spec_from_file_location(path.stem, path)
        assert spec is not None and spec.loader is not None
        home = importlib.util.module_from_spec(spec)
        sys.path.insert(0, str(path.parent.resolve()))
        try:
            spec.loader.exec_module(home)
        finally:
            sys.path.pop(0)
    else:
        try:
            home = importlib.import_module(place)
        except ImportError as error:
            raise InputError(f"{model}: {error}") from error
    function = getattr(home, attribute, None)
    if not callable(function):
        raise InputError(f"{model}: {place} has no callable {attribute!r}")
    with torch.device("meta"):
        module = function()
    if not isinstance(module, nn.Module):
        raise InputError(f"{model}: {attribute}() gave a {type(module).__name__}, not a torch.nn.Module")
    return module.eval()
