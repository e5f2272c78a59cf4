"""The folder of a CTranslate2 model: a Transformer whose sizes its `model.bin` says."""

import inspect
from dataclasses import dataclass
from typing import ClassVar

from lamina.sources.source import Input, Source
from lamina.zoo import registry


@dataclass(frozen=True)
class CTranslate2(Source):
    form: ClassVar[str] = "the folder of a CTranslate2 model"

    @classmethod
    def claims(cls, model: str) -> bool:
        from lamina.weights import ctranslate2

        return ctranslate2.is_model(model)

    @classmethod
    def read(cls, model: str) -> "CTranslate2":
        from lamina.weights import ctranslate2

        module = ctranslate2.load(model).to("meta")
        tokens = registry.spec("transformer_base").input  # of source and target
        names = inspect.signature(module.forward).parameters
        return cls(model, module, {n: Input((1, s), True) for n, s in zip(names, tokens, strict=False)})
