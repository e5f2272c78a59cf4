"""What `lamina train` and `lamina grow` wrote: the zoo's network in the form that the weight file names."""

import inspect
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

from lamina.sources.source import Input, Loaded, Source
from lamina.sources.zoo import load
from lamina.zoo import registry


@dataclass(frozen=True)
class Trained(Source):
    form: ClassVar[str] = "a run's FOLDER"

    @classmethod
    def claims(cls, model: str) -> bool:
        if not model.endswith(".safetensors") and not Path(model).is_dir():
            return False
        from lamina.weights import trained

        file = trained.place(model)
        return file is not None and trained.named(file) is not None

    @classmethod
    def read(cls, model: str) -> "Trained":
        from lamina.weights import trained

        name, file = trained.network(model)
        assert file is not None
        entry = registry.spec(name)
        module: Any = registry.assemble(name, **trained.changes(Path(file))).eval()
        names = list(inspect.signature(module.forward).parameters)
        if entry.family == "transformer":
            return cls(model, module, {n: Input((1, s), True) for n, s in zip(names, entry.input, strict=False)})
        side = module.config.img_size
        return cls(model, module, {names[0]: Input((1, module.config.in_channels, side, side))})

    def loaded(self, weights: str | Path | None = None, device: str = "cpu") -> Loaded:
        from lamina.weights import trained

        return load(*trained.network(self.name, weights), device)
