"""`timm:NAME`: a network of the timm library (PyTorch Image Models)."""

import difflib
from dataclasses import dataclass
from importlib import import_module
from typing import ClassVar

from lamina.errors import InputError, first_line
from lamina.sources.source import Input, Source, first_argument
from lamina.sources.weightless import without_weights


@dataclass(frozen=True)
class Timm(Source):
    form: ClassVar[str] = "timm:NAME"

    @classmethod
    def claims(cls, model: str) -> bool:
        return model.startswith("timm:")

    @classmethod
    def read(cls, model: str) -> "Timm":
        try:
            timm = import_module("timm")
        except ImportError as error:
            raise InputError(f"{model}: needs timm: pip install timm") from error
        name = model.removeprefix("timm:")
        if not timm.is_model(name):
            near = difflib.get_close_matches(name, timm.list_models(), n=4, cutoff=0.5)
            raise InputError(f"timm has no model {name!r}" + (f"; the nearest are {', '.join(near)}" if near else ""))
        try:
            module = without_weights(lambda: timm.create_model(name, pretrained=False))
        except Exception as error:
            raise InputError(f"{model}: timm cannot build it without weights: {first_line(error)}") from error
        return cls(model, module.eval(), {first_argument(module): Input((1, *module.default_cfg["input_size"]))})
