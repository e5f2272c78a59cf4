"""A name of the zoo."""

import inspect
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

from lamina.errors import InputError, first_line
from lamina.sources.source import RANDOM, Input, Loaded, Source
from lamina.zoo import registry


@dataclass(frozen=True)
class Zoo(Source):
    form: ClassVar[str] = "a zoo name"

    @classmethod
    def claims(cls, model: str) -> bool:
        return model in registry.counts()

    @classmethod
    def read(cls, model: str) -> "Zoo":
        return cls.configured(model, {})

    @classmethod
    def configured(cls, model: str, arguments: Mapping[str, Any]) -> "Zoo":
        entry = registry.spec(model)
        try:
            module = registry.assemble(model, **arguments).eval()
        except (TypeError, ValueError) as error:
            if not arguments:
                raise
            raise InputError(f"{model}: {first_line(error)}") from error
        names = list(inspect.signature(module.forward).parameters)
        if entry.family == "transformer":
            return cls(model, module, {n: Input((1, s), True) for n, s in zip(names, entry.input, strict=False)})
        return cls(model, module, {names[0]: Input((1, *entry.input))})

    def loaded(self, weights: str | Path | None = None, device: str = "cpu") -> Loaded:
        return load(self.name, weights, device)


def load(name: str, weights: str | Path | None, device: str) -> Loaded:
    """The zoo's network `name` with a file's weights, or fresh ones."""
    import torch

    from lamina.data.registry import class_names
    from lamina.weights import describing, finding, loading, reading

    entry = registry.spec(name)
    image = entry.family != "transformer"
    if str(weights) == RANDOM:
        torch.manual_seed(0)
        module = registry.build(name).eval().to(device)
        if not image:
            return Loaded(module, RANDOM)
        return Loaded(module, RANDOM, describing.default_image(entry), class_names(describing.default_data(entry)))
    file = finding.find(name, weights)
    module = loading.load(name, file, device=device)
    if image:
        return Loaded(module, file.name, file.image, file.names or class_names(file.classes), file.score_scale)
    metadata = reading.read_metadata(file.path)
    text = {key: metadata[key] for key in ("tokenizer", "source", "target") if key in metadata}
    return Loaded(module, file.name, text=text)
