"""Trained networks for `lamina grow`, `shrink` and `diagnose`: loaded with what their file says, tried on real inputs, and
written again."""

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from lamina.data import registry as data_sets
from lamina.data.image import ImageSpec, from_pixels
from lamina.errors import InputError, LaminaError
from lamina.weights import describing, finding, loading, reading, trained
from lamina.zoo import registry

LENGTHS = 12, 10  # tokens of the sentences that a Transformer is tried on


@dataclass(frozen=True)
class Loaded:
    name: str  # as it was asked for
    network: str  # the zoo's name
    module: nn.Module
    file: describing.WeightFile
    metadata: dict[str, str]

    @property
    def text(self) -> bool:
        return registry.spec(self.network).family == "transformer"


def load(model: str, weights: str | None = None) -> Loaded:
    """A zoo name with its weights, or what `lamina train` and `lamina grow` wrote."""
    network, place = trained.network(model, weights)
    file = finding.find(network, place)
    module = loading.load(network, file)
    return Loaded(model, network, module, file, reading.read_metadata(file.path))


def inputs(loaded: Loaded, data: str | None, samples: int) -> tuple[Any, Tensor | None, str]:
    """What to compare on: test images of `data` with their labels, or of the network's own data set where it is at hand, or
    random numbers; and what these are, in words."""
    if loaded.text:
        if data is not None:
            raise InputError(f"{loaded.name} takes text: leave --data out, and compare with lamina eval")
        generator = torch.Generator().manual_seed(0)
        bound: int = loaded.module.config.vocabulary  # type: ignore[assignment]
        ids = tuple(torch.randint(0, bound, (min(samples, 32), n), generator=generator) for n in LENGTHS)
        return ids, None, f"{len(ids[0])} random sequences of tokens"
    name = data or (loaded.file.classes if loaded.file.classes in data_sets.names("images") else None)
    config: Any = loaded.module.config
    if name is not None:
        try:
            pixels, labels = data_sets.DATASETS[name].load("test") if name in data_sets.DATASETS else _unknown(name)
            x = from_pixels(pixels[:samples], ImageSpec.of(loaded.file.image))
            if tuple(x.shape[1:]) == (config.in_channels, config.img_size, config.img_size):
                return x, labels[:samples], f"{len(x)} test images of {name}"
            if data is not None:
                raise InputError(f"{name} has images of {tuple(x.shape[1:])}, and {loaded.name} takes {config.img_size} pixels")
        except LaminaError:
            if data is not None:
                raise
    generator = torch.Generator().manual_seed(0)
    count = min(samples, 8)
    return (
        torch.randn(count, config.in_channels, config.img_size, config.img_size, generator=generator),
        None,
        f"{count} random images",
    )


def _unknown(name: str) -> Any:
    raise InputError(f"no data set {name!r}; there are {', '.join(data_sets.names('images'))}")


def write(folder: Path, loaded: Loaded, grown: Any) -> Path:
    """The grown network's file in `folder`, with what the old one's said and how it was grown."""
    image = dict(loaded.file.image)
    old, new = (getattr(m.config, "img_size", None) for m in (loaded.module, grown.module))
    if image and old != new:
        image |= {"size": new, "resize": image["resize"] * new // old, "pad": image.get("pad", 0) * new // old}
    kept = {k: v for k, v in loaded.metadata.items() if k not in ("result", "changes", "network")}
    facts = {
        "image": json.dumps({k: list(v) if isinstance(v, tuple) else v for k, v in image.items()}),
        "data": loaded.file.classes,
        "score_scale": str(loaded.file.score_scale),
        "grown_from": loaded.name,
        "operators": json.dumps(grown.report.operators),
    }
    file = folder / trained.WEIGHTS
    trained.save(file, loaded.network, grown.module, kept | facts)
    return file
