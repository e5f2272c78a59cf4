"""The data sets by name, one row each. The row NAME is read by `lamina/data/NAME.py`, which is imported when it is asked for.

That file has `load(split)`, which gives the pixels (N, C, H, W), uint8, and the labels (N,), int64, and `CLASSES`, the
labels' names; of text it has `load(split, source, target)`, which gives pairs of sentences.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from importlib import import_module
from typing import Any, Literal

from lamina.errors import InputError


@dataclass(frozen=True)
class DataSet:
    """`splits` can be loaded by name (of ImageNet none: its images are read from a folder). `image` is how a network that was
    trained on it takes its images where no weight file says otherwise: fields of `lamina.data.image.ImageSpec`."""

    name: str
    kind: Literal["images", "text"]
    splits: tuple[str, ...]
    image: Mapping[str, Any] = field(default_factory=dict)

    @property
    def classes(self) -> tuple[str, ...]:
        return self._module().CLASSES

    def load(self, split: str, *languages: str) -> Any:
        if split not in self.splits:
            raise InputError(f"{self.name} has no split {split!r}; its splits are {', '.join(self.splits)}")
        return self._module().load(split, *languages)

    def _module(self) -> Any:
        return import_module(f"lamina.data.{self.name}")


RGB = {"channels": "RGB", "scale": 255, "mean": (0.485, 0.456, 0.406), "std": (0.229, 0.224, 0.225)}  # torchvision's
# Background -0.1, ink 1.175: LeCun et al. 1998, section II.B.
INK = {"resize": 28, "squash": True, "channels": "L", "scale": 255, "mean": (0.0784313725490196,), "std": (0.7843137254901961,)}
SPLITS, TEXT_SPLITS = ("train", "test"), ("train", "validation", "test")

DATASETS = {
    row.name: row
    for row in (
        DataSet("mnist", "images", SPLITS, INK),
        DataSet("fashion_mnist", "images", SPLITS, INK),
        DataSet("cifar10", "images", SPLITS, RGB | {"resize": 32}),
        DataSet("cifar100", "images", SPLITS, RGB | {"resize": 32}),
        DataSet("imagenet", "images", (), RGB | {"resize": 256}),
        DataSet("tatoeba", "text", TEXT_SPLITS),
        DataSet("tatoeba_strict", "text", TEXT_SPLITS),
        DataSet("multi30k", "text", TEXT_SPLITS),
    )
}


def names(kind: Literal["images", "text"]) -> list[str]:
    """The data sets of a kind that are loaded by name."""
    return [row.name for row in DATASETS.values() if row.kind == kind and row.splits]


def class_names(name: str) -> tuple[str, ...]:
    """The names of a data set's classes; empty where nobody knows them."""
    row = DATASETS.get(name)
    return row.classes if row is not None and row.kind == "images" else ()
