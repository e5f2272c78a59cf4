"""The shipped networks grown, on their whole test sets; and how long growing takes.

    LAMINA_DATA=DIR python benchmarks/scale/trained.py [--record]

ViT (MNIST), Transformer (Tatoeba, German to English, every token of the reference given the ones before it) and ResNet-20
(CIFAR-10): how many predictions stay the same, and the accuracy before and after. The last table grows a Transformer of 119
million parameters in a process of its own, and gives the largest resident memory beyond what that network takes.
`--record` writes benchmarks/records/trained_growth.json.
"""

import multiprocessing
import resource
import sys
import time
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
from lamina.zoo import transformer

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


def large(arguments: dict[str, Any]) -> dict[str, Any]:
    """What it takes to grow a pre-norm Transformer of 100M parameters, in a process of its own."""
    torch.set_num_threads(1)
    config = transformer.Config(12, 6, d_model=640, d_ff=2560, n_heads=10, norm="pre", vocabulary=32000)
    net = transformer.Net(config)
    net.init_weights()
    own = sum(p.numel() for p in net.parameters())
    grow(transformer.Net(transformer.Config(1, 1, 16, 16, 2, 10, norm="pre")), **arguments)  # imports
    start = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    begin, cpu = time.perf_counter(), time.process_time()
    module = grow(net, **arguments).module
    wall, cpu = time.perf_counter() - begin, time.process_time() - cpu
    more = 1024 * (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - start)
    new = sum(p.numel() for p in module.parameters())
    found = {"by": next(iter(arguments)), "parameters": own, "grown": new, "seconds": wall, "cpu_seconds": cpu}
    return found | {"memory": (more + 4 * own) / (4 * own)}


def main() -> None:
    torch.set_num_threads(1)
    rows = images("vit_mnist", mnist, VIT) + sentences() + images("resnet20_cifar", cifar10, RESNET)
    print(tables.trained_growth(rows), flush=True)
    grown = []
    for change in ({"heads": 2}, {"feed_forward": 2}, {"depth": 2}):
        with multiprocessing.get_context("spawn").Pool(1) as pool:
            found = pool.apply(large, (change,))
        grown.append({key: round(v, 3) if isinstance(v, float) else v for key, v in found.items()})
    print(tables.large_growth(grown))
    if "--record" in sys.argv[1:]:
        record.write("trained_growth", record.provenance(), rows=rows, large=grown)


if __name__ == "__main__":
    main()
