"""`FILE.py:callable` or `package.module:callable`: what the user's own function makes. It is run because it is asked for."""

import importlib
import importlib.util
import inspect
import sys
import traceback
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar

from lamina.errors import InputError, first_line
from lamina.sources.source import RANDOM, Loaded, Source
from lamina.sources.weightless import with_values, without_weights

if TYPE_CHECKING:
    from torch import nn


@dataclass(frozen=True)
class Python(Source):
    made_with: Mapping[str, Any] = field(default_factory=dict)  # the arguments of what makes it

    form: ClassVar[str] = "FILE.py:callable or package.module:callable"

    @classmethod
    def claims(cls, model: str) -> bool:
        return ":" in model or Path(model).suffix == ".py"

    @classmethod
    def read(cls, model: str) -> "Python":
        if Path(model).suffix == ".py":
            raise InputError(f"{model}: say which function makes the network, as in {model}:build")
        place, _, attribute = model.rpartition(":")
        return cls(model, _call(model, place, attribute, without_weights))

    @classmethod
    def configured(cls, model: str, arguments: Mapping[str, Any]) -> "Python":
        place, _, attribute = model.rpartition(":")
        return cls(model, _call(model, place, attribute, without_weights, arguments), made_with=arguments)

    def loaded(self, weights: str | Path | None = None, device: str = "cpu") -> Loaded:
        import torch

        torch.manual_seed(0)
        place, _, attribute = self.name.rpartition(":")
        module = _call(self.name, place, attribute, lambda function: function(), self.made_with)
        given = None if weights == RANDOM else weights
        return Loaded(with_values(self.name, module, given).to(device), str(given or "its own"))


def _call(
    model: str,
    place: str,
    attribute: str,
    build: "Callable[[Callable[[], Any]], Any]",
    arguments: Mapping[str, Any] | None = None,
) -> "nn.Module":
    """Import `place`, call its `attribute` with these arguments by `build` and take the module that it gives; or take the
    module that it is."""
    from torch import nn

    home = _import_file(Path(place)) if place.endswith(".py") else _import_module(model, place)
    function = getattr(home, attribute, None)
    arguments = arguments or {}
    if isinstance(function, nn.Module):
        if arguments:
            raise InputError(f"{model} is a network already: --args is for what makes one")
        return function.eval()
    if not callable(function):
        raise InputError(f"{model}: {place} has no callable {attribute!r}")
    try:
        needed = [p.name for p in inspect.signature(function).parameters.values() if p.default is p.empty and p.kind < 2]
        needed = [name for name in needed if name not in arguments]
    except (ValueError, TypeError):  # a function without a signature
        needed = []
    if needed:
        raise InputError(
            f"{model}: {attribute} takes {', '.join(needed)}: give each as in --args {needed[0]}=8, "
            "or a function that fills them in"
        )
    try:
        module = build(partial(function, **arguments) if arguments else function)
    except Exception as error:
        raise InputError(f"{model}: {attribute}() raised {type(error).__name__}: {first_line(error)}") from error
    if not isinstance(module, nn.Module):
        raise InputError(f"{model}: {attribute}() gave a {type(module).__name__}, not a torch.nn.Module")
    return module.eval()


def _import_module(model: str, name: str) -> Any:
    try:
        return importlib.import_module(name)
    except Exception as error:
        raise InputError(f"{model}: {first_line(error)}") from error


def _import_file(path: Path) -> Any:
    if not path.is_file():
        raise InputError(f"{path}: no such file")
    spec = importlib.util.spec_from_file_location(path.stem, path)
    assert spec is not None and spec.loader is not None
    home = importlib.util.module_from_spec(spec)
    sys.path.insert(0, str(path.parent.resolve()))
    try:
        spec.loader.exec_module(home)
    except Exception as error:
        lines = [f.lineno for f in traceback.extract_tb(error.__traceback__) if Path(f.filename).name == path.name]
        line = error.lineno if isinstance(error, SyntaxError) else lines[-1] if lines else 0
        raise InputError(f"{path}, line {line}: importing it raised {type(error).__name__}: {first_line(error)}") from error
    finally:
        sys.path.pop(0)
    return home
