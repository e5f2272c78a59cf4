"""A name of the zoo."""

import inspect
from dataclasses import dataclass
from typing import ClassVar

from lamina.sources.source import Input, Source
from lamina.zoo import registry


@dataclass(frozen=True)
class Zoo(Source):
    form: ClassVar[str] = "a zoo name"

    @classmethod
    def claims(cls, model: str) -> bool:
        return model in registry.counts()

    @classmethod
    def read(cls, model: str) -> "Zoo":
        entry = registry.spec(model)
        module = registry.assemble(model).eval()
        names = list(inspect.signature(module.forward).parameters)
        if entry.family == "transformer":
            return cls(model, module, {n: Input((1, s), True) for n, s in zip(names, entry.input, strict=False)})
        return cls(model, module, {names[0]: Input((1, *entry.input))})
