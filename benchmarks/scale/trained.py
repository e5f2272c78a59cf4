"""The shipped networks grown, on their whole test sets.

    LAMINA_DATA=DIR python benchmarks/scale/trained.py [--record]

ViT (MNIST), Transformer (Tatoeba, German to English, every token of the reference given the ones before it) and ResNet-20
(CIFAR-10): how many predictions stay the same, and the accuracy before and after. `--record` writes
benchmarks/records/trained_growth.json.
"""

import sys
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from lamina.data import cifar10, mnist, parallel_text
from lamina.data.image import ImageSpec, from_pixels
from lamina.data.text import END, PAD, START
from lamina.infer.generate import pad
from lamina.infer.translate import translator
from lamina.scale.growth import grow
from lamina.weights import finding, loading

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))
import record
import tables

VIT: dict[str, dict[str, Any]] = {
    "feed_forward x2": {"feed_forward": 2},
    "heads x2": {"heads": 2},
    "depth x2, zero": {"depth": 2, "operator": {"depth": "zero"}},
    "all three": {"feed_forward": 2, "heads": 2, "depth": 2, "operator": {"depth": "zero"}},
    "depth x2, split": {"depth": 2},
}
TRANSLATOR: dict[str, dict[str, Any]] = {
    "feed_forward x2": {"feed_forward": 2},
    "heads x2": {"heads": 2},
    "depth x2, zero": {"depth": 2, "operator": {"depth": "zero"}},
}
RESNET: dict[str, dict[str, Any]] = {
    "depth x2, zero": {"depth": 2, "operator": {"depth": "zero"}},
    "depth x2, split": {"depth": 2},
    "depth x2, interpolate": {"depth": 2, "operator": {"depth": "interpolate"}},
    "depth x2, stack": {"depth": 2, "operator": {"depth": "stack"}},
}


@torch.inference_mode()
def predictions(net: nn.Module, x: Tensor) -> Tensor:
    return torch.cat([net(part).argmax(1) for part in x.split(250)])


def images(name: str, data: Any, changes: dict[str, dict[str, Any]]) -> list[dict[str, Any]]:
    file = finding.find(name)
    net = loading.load(name, file)
    pixels, labels = data.load("test")
    x = from_pixels(pixels, ImageSpec.of(file.image))
    before, rows = predictions(net, x), []
    for what, arguments in changes.items():
        after = predictions(grow(net, **arguments).module, x)
        rows.append(compared(name, what, before, after, labels))
    return rows


def compared(name: str, what: str, before: Tensor, after: Tensor, right: Tensor) -> dict[str, Any]:
    top1 = [round(100 * int((p == right).sum()) / len(right), 4) for p in (before, after)]
    return {
        "network": name,
        "by": what,
        "same": int((before == after).sum()),
        "of": len(right),
        "before": top1[0],
        "after": top1[1],
    }


@torch.inference_mode()
def tokens(net: Any, sources: list[list[int]], targets: list[list[int]]) -> Tensor:
    found = []
    for start in range(0, len(sources), 64):
        source, padding = pad(sources[start : start + 64], PAD)
        given, _ = pad([[START, *row] for row in targets[start : start + 64]], PAD)
        best = net(source, given, padding).argmax(2)
        found += [best[i, : len(row) + 1] for i, row in enumerate(targets[start : start + 64])]
    return torch.cat(found)


def sentences() -> list[dict[str, Any]]:
    known = translator("transformer_de_en")
    pairs = parallel_text.load("tatoeba", "test", known.source, known.target)
    sources = [[*row, END] for row in known.codec.encode([de for de, _ in pairs])]
    targets = known.codec.encode([en for _, en in pairs])
    right = torch.cat([torch.tensor([*row, END]) for row in targets])
    before, rows = tokens(known.module, sources, targets), []
    for what, arguments in TRANSLATOR.items():
        after = tokens(grow(known.module, **arguments).module, sources, targets)
        rows.append(compared("transformer_de_en", what, before, after, right))
    return rows


def main() -> None:
    torch.set_num_threads(1)
    rows = images("vit_mnist", mnist, VIT) + sentences() + images("resnet20_cifar", cifar10, RESNET)
    print(tables.trained_growth(rows), flush=True)
    if "--record" in sys.argv[1:]:
        record.write("trained_growth", record.provenance(), rows=rows)


if __name__ == "__main__":
    main()
