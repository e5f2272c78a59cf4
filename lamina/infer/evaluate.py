"""Accuracy on labelled data by the papers' measures: top-1 and top-5 are the percent of images whose label is the best,
or among the five best, of the scores (Russakovsky et al., arXiv 1409.0575, section 4.1, as accuracy rather than error)."""

import os
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from lamina.data import folder, registry
from lamina.data.image import from_pixels, prepare
from lamina.errors import InputError
from lamina.infer.protocols import Protocol, Viewer
from lamina.infer.session import Session
from lamina.progress import track
from lamina.weights import trained
from lamina.zoo import registry as zoo


def evaluate(
    name: str,
    data: str | Path,
    weights: str | Path | Sequence[str | Path] | None = None,
    *,
    batch: int = 100,
    protocol: str = "1-crop",
    scales: Sequence[int] = (),
    **options: Any,
) -> dict[str, Any]:
    """{"model", "weights", "data", "protocol", "count", "top1", "top5"} on a data set's test split or a folder of images:
    one centre crop per image; percent, rounded to four places. A Transformer's, on a corpus, has "bleu" (beam 5) and
    "bleu_greedy" in place of the last two. `options` are those of `Session`, or of `bleu`.

    `protocol` is one of `protocols.PROTOCOLS`, for folders of images: a class's probability is the mean over an image's views,
    and over the networks where several `weights` are given; the document then has "macs_per_image" too.
    """
    file = trained.place(name)
    if (name if file is None else trained.named(file)) in zoo.names("transformer"):
        return _translated(name, data, weights, options)
    if batch < 1:
        raise InputError(f"--batch is a positive number, not {batch}")
    if str(data) in registry.names("text"):
        raise InputError(f"{name} takes images, and {data} holds sentences: the Transformers take them")
    known = registry.names("images")
    if str(data) not in known and not os.path.exists(data):
        raise InputError(f"{data}: no such folder, nor one of the data sets {', '.join(known)}")
    if protocol != "1-crop" or scales or not (weights is None or isinstance(weights, str | Path)):
        if str(data) in known:
            raise InputError(f"{data} is tested on whole images: --protocol and several --weights are for folders of images")
        return _by_protocol(name, data, weights, Protocol(protocol, tuple(scales)), options)
    net = Session(name, weights, **options)
    labels, batches, protocol = (_data_set if str(data) in known else _folder)(net, name, str(data), batch)
    right1 = right5 = 0
    for x, y in track(batches, "batches", -(-len(labels) // batch)):
        scores = net.scores(x)
        if int(y.max()) >= scores.shape[1]:
            raise InputError(f"{data} has labels up to {int(labels.max())}, and {name} has {scores.shape[1]} classes")
        best = scores.topk(min(5, scores.shape[1]), dim=1).indices == y[:, None]
        right1 += int(best[:, 0].sum())
        right5 += int(best.any(dim=1).sum())
    return {
        "model": name,
        "weights": net.weights,
        "data": str(data),
        "protocol": protocol,
        "count": len(labels),
        "top1": round(100 * right1 / len(labels), 4),
        "top5": round(100 * right5 / len(labels), 4),
    }


def _translated(name: str, data: str | Path, weights: Any, options: dict[str, Any]) -> dict[str, Any]:
    from lamina.infer.translate import bleu

    if options.get("engine", "torch") != "torch":
        raise InputError(f"{name} translates by torch alone: leave --engine out")
    if weights is not None and not isinstance(weights, str | Path):
        raise InputError(f"{name} translates with one file of weights")
    return bleu(name, data, weights, device=options.get("device", "cpu"))


def _by_protocol(
    name: str, data: str | Path, weights: str | Path | Sequence[str | Path] | None, protocol: Protocol, options: dict[str, Any]
) -> dict[str, Any]:
    """The document of networks that see an image's views; each image goes through all of them before the next."""
    several = [weights] if weights is None or isinstance(weights, str | Path) else list(weights)
    viewers = [Viewer(Session(name, one, **options), protocol) for one in several]
    paths, labels = folder.load(data)
    right1 = right5 = 0
    for path, label in track(zip(paths, labels, strict=True), "images", len(paths)):
        mean = torch.stack([viewer.probabilities(path) for viewer in viewers]).mean(0)
        if label >= len(mean):
            raise InputError(f"{data} has labels up to {max(labels)}, and {name} has {len(mean)} classes")
        best = mean.topk(min(5, len(mean))).indices.tolist()
        right1, right5 = right1 + (best[0] == label), right5 + (label in best)
    spec = viewers[0].spec
    return {
        "model": name,
        "weights": ", ".join(viewer.net.weights for viewer in viewers),
        "data": str(data),
        "protocol": protocol.describe(spec) + (f"; {len(viewers)} networks" if len(viewers) > 1 else ""),
        "count": len(labels),
        "top1": round(100 * right1 / len(labels), 4),
        "top5": round(100 * right5 / len(labels), 4),
        "macs_per_image": sum(viewer.macs_per_image for viewer in viewers),
    }


Labelled = tuple[Tensor, Iterator[tuple[Tensor, Tensor]], str]  # all labels, batches of images and labels, the protocol


def _data_set(net: Session, name: str, data: str, batch: int) -> Labelled:
    pixels, labels = registry.DATASETS[data].load("test")
    side, spec = pixels.shape[-1], net.image
    if side + 2 * spec.pad != spec.size or pixels.shape[1] != len(spec.channels):
        takes = f"{len(spec.channels)}x{spec.size}x{spec.size}"
        raise InputError(f"{data} has {pixels.shape[1]}x{side}x{side} images, and {name} takes {takes}")
    batches = ((from_pixels(p, spec), y) for p, y in zip(pixels.split(batch), labels.split(batch), strict=True))
    return labels, batches, f"test split, whole images of {side}x{side}"


def _folder(net: Session, name: str, data: str, batch: int) -> Labelled:
    paths, numbers = folder.load(data)
    labels = torch.tensor(numbers)
    resized = f"resized to {net.image.resize}, " if net.image.resize else ""
    return labels, _decoded(net, paths, labels, batch), f"{resized}1 centre crop of {net.image.inner}"


def _decoded(net: Session, paths: list[Path], labels: Tensor, batch: int) -> Iterator[tuple[Tensor, Tensor]]:
    for start in range(0, len(paths), batch):
        yield torch.stack([prepare(p, net.image) for p in paths[start : start + batch]]), labels[start : start + batch]
