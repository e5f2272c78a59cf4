"""A network with its weights."""

import logging
from pathlib import Path
from typing import TYPE_CHECKING, Any

from lamina.errors import InputError
from lamina.weights import ctranslate2
from lamina.weights.describing import WeightFile
from lamina.weights.finding import find
from lamina.weights.fitting import Report, fit
from lamina.weights.reading import read_state
from lamina.zoo import registry

if TYPE_CHECKING:
    from torch import nn


def load(name: str, weights: str | Path | WeightFile | None = None, *, device: str = "cpu", **changes: Any) -> "nn.Module":
    """The network `name` with `weights` (a file, a tag or a hub's "owner/name"; by default its first published ones), in
    evaluation mode. `name` may also be the folder of a CTranslate2 model, which holds its own.

    `changes` are those of `build`. With `num_classes`, `in_channels` or `img_size` changed, or `head=None`, the rest of the
    weights still load, and what was reinitialised or adapted is logged as a warning. Raises `InputError` listing the keys
    that are missing, left over or of another shape.
    """
    if ctranslate2.is_model(name):
        if weights is not None or changes:
            raise InputError(f"{name} is a CTranslate2 model: it has its own weights and cannot be changed")
        return ctranslate2.load(name).to(device)
    module, report = load_reported(name, weights, **changes)
    if report != Report():
        logging.getLogger("lamina").warning("%s: %s", name, report)
    return module.to(device)


def load_reported(name: str, weights: str | Path | WeightFile | None = None, **changes: Any) -> "tuple[nn.Module, Report]":
    """`load`, and what of the network is not the file's own."""
    file = weights if isinstance(weights, WeightFile) else find(name, weights)
    module = registry.assemble(name, **{**file.changes, **changes})
    report = fit(name, module, read_state(file.path), str(file.path))
    return module.eval(), report
