"""The shipped networks grown, on their whole test sets; and how long growing takes.

    LAMINA_DATA=DIR python benchmarks/scale/trained.py

ViT (MNIST), Transformer (Tatoeba, German to English, every token of the reference given the ones before it) and ResNet-20
(CIFAR-10): how many predictions stay the same, and the accuracy before and after. The last table grows a Transformer of 100
million parameters in a process of its own, and gives the largest resident memory beyond what that network takes.
"""

import multiprocessing
import resource
import time
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


def images(name: str, data: Any, changes: dict[str, dict[str, Any]]) -> None:
    file = finding.find(name)
    net = loading.load(name, file)
    pixels, labels = data.load("test")
    x = from_pixels(pixels, ImageSpec.of(file.image))
    before = predictions(net, x)
    for what, arguments in changes.items():
        after = predictions(grow(net, **arguments).module, x)
        same = int((before == after).sum())
        top1 = [100 * float((p == labels).float().mean()) for p in (before, after)]
        print(f"| {name} | {what} | {same:,} of {len(labels):,} | {top1[0]:.2f} | {top1[1]:.2f} |", flush=True)


@torch.inference_mode()
def tokens(net: Any, sources: list[list[int]], targets: list[list[int]]) -> Tensor:
    found = []
    for start in range(0, len(sources), 64):
        source, padding = pad(sources[start : start + 64], PAD)
        given, _ = pad([[START, *row] for row in targets[start : start + 64]], PAD)
        best = net(source, given, padding).argmax(2)
        found += [best[i, : len(row) + 1] for i, row in enumerate(targets[start : start + 64])]
    return torch.cat(found)


def sentences() -> None:
    known = translator("transformer_de_en")
    pairs = parallel_text.load("tatoeba", "test", known.source, known.target)
    sources = [[*row, END] for row in known.codec.encode([de for de, _ in pairs])]
    targets = known.codec.encode([en for _, en in pairs])
    right = torch.cat([torch.tensor([*row, END]) for row in targets])
    before = tokens(known.module, sources, targets)
    for what, arguments in TRANSLATOR.items():
        after = tokens(grow(known.module, **arguments).module, sources, targets)
        same = int((before == after).sum())
        top1 = [100 * float((p == right).float().mean()) for p in (before, after)]
        print(f"| transformer_de_en | {what} | {same:,} of {len(right):,} tokens | {top1[0]:.2f} | {top1[1]:.2f} |", flush=True)


def large(arguments: dict[str, Any]) -> None:
    """Grow a pre-norm Transformer of 100M parameters, and say what it took."""
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
    ratio = (more + 4 * own) / (4 * own)
    print(f"| {arguments} | {own / 1e6:.0f}M | {new / 1e6:.0f}M | {wall:.1f} | {cpu:.1f} | {ratio:.2f} |", flush=True)


if __name__ == "__main__":
    torch.set_num_threads(1)
    print("| network | grown by | same predictions | top-1 before, % | top-1 after, % |\n|---|---|---|---|---|", flush=True)
    images("vit_mnist", mnist, VIT)
    sentences()
    images("resnet20_cifar", cifar10, RESNET)
    print(
        "\n| grown by | parameters before | after | seconds | CPU seconds | memory, of the old weights |\n"
        "|---|---|---|---|---|---|"
    )
    for change in ({"heads": 2}, {"feed_forward": 2}, {"depth": 2}):
        process = multiprocessing.get_context("spawn").Process(target=large, args=(change,))
        process.start()
        process.join()
