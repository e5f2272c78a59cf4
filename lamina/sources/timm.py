"""`timm:NAME`: a network of the timm library (PyTorch Image Models)."""

import difflib
from dataclasses import dataclass
from importlib import import_module
from pathlib import Path
from typing import Any, ClassVar

from lamina.errors import InputError, LaminaError, first_line
from lamina.sources.source import RANDOM, Input, Loaded, Source, first_argument
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

    def loaded(self, weights: str | Path | None = None, device: str = "cpu") -> Loaded:
        import torch

        from lamina.data.registry import class_names
        from lamina.weights import hub

        timm: Any = import_module("timm")
        file = "" if weights in (None, RANDOM) else str(weights)
        try:
            torch.manual_seed(0)
            module = timm.create_model(self.name.removeprefix("timm:"), pretrained=weights is None, checkpoint_path=file).eval()
        except Exception as error:  # timm's, the hub's and the file's errors share no class
            hint = "; give --weights FILE, or --weights random for timings" if weights is None else ""
            raise LaminaError(f"{self.name}: its weights cannot be had: {first_line(error)}{hint}") from error
        settings = {**module.pretrained_cfg, "input_size": list(module.pretrained_cfg["input_size"])}
        classes = class_names("imagenet") if getattr(module, "num_classes", 0) == 1000 else ()
        name = RANDOM if weights == RANDOM else file or "pretrained"
        return Loaded(module.to(device), name, hub.hub_image({"pretrained_cfg": settings}), classes)
