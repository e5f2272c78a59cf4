"""The text MODEL of the command line, to a network, its inputs and its `Workload`.

Networks are built on the meta device: no weight is allocated, read or downloaded, and a checkpoint is never opened. Only
`FILE.py:callable` and `package.module:callable` run code that is not an installed library's, because they are asked to.
"""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from lamina.errors import InputError
from lamina.sources.ctranslate2 import CTranslate2
from lamina.sources.huggingface import HuggingFace
from lamina.sources.onnx import Onnx
from lamina.sources.python import Python
from lamina.sources.source import RANDOM, Input, Loaded, Shape, Shapes, Source, written
from lamina.sources.timm import Timm
from lamina.sources.trained import Trained
from lamina.sources.weightless import without_weights
from lamina.sources.zoo import Zoo

__all__ = [
    "FORMS",
    "ORIGINS",
    "RANDOM",
    "Input",
    "Loaded",
    "Shape",
    "Shapes",
    "Source",
    "resolve",
    "without_weights",
    "written",
]

# The origins of networks; the first that claims a text reads it.
ORIGINS: tuple[type[Source], ...] = (Zoo, Timm, HuggingFace, Onnx, Trained, CTranslate2, Python)
FORMS = ", ".join(origin.form for origin in ORIGINS)  # "a zoo name, timm:NAME, ..."

CHECKPOINTS = (".pt", ".pth", ".th", ".bin", ".ckpt", ".safetensors", ".pt2", ".ptl", ".pkl", ".pickle", ".gguf", ".h5", ".npz")


def resolve(model: str, arguments: Mapping[str, Any] | None = None) -> Source:
    """The network that `model` names, made with `arguments` where its origin takes some. Raises `InputError`, one line."""
    for origin in ORIGINS:
        if origin.claims(model):
            return origin.configured(model, arguments) if arguments else origin.read(model)
    path = Path(model)
    if path.suffix in CHECKPOINTS:
        raise InputError(f"{model}: a file of weights is not opened for its cost; give the network itself: {FORMS}")
    if path.is_dir() and (path / "config.json").is_file():
        raise InputError(f"{model} is a directory: write hf:{model}")
    return Zoo.read(model)  # raises: no network is called so, and the nearest names
