"""What the lecture's networks are in fact, computed once a process from the traced zoo."""

import math
import re
from collections.abc import Iterable
from functools import cache

from lamina.tracing.tracer import trace
from lamina.workload import Device, Layer, Workload
from lamina.zoo import registry

NETWORKS = {"LeNet-5": "lenet5", "AlexNet": "alexnet", "VGG-16": "vgg16", "GoogLeNet": "googlenet", "ResNet-50": "resnet50"}


@cache
def workload(name: str, train: bool = False, batch: int = 1, device: Device = "cpu", **changes: object) -> Workload:
    """The network `name` traced on its own input."""
    module = registry.build(name, device="meta", **changes).train(train)
    inputs = (t.expand(batch, *t.shape[1:]).clone() for t in registry.example(name))
    return trace(module, *inputs, name=name, device=device)


def is_connected_fully(layer: Layer) -> bool:
    """A linear layer, or a convolution whose filter covers all of its input (LeNet-5's C5, which the lecture counts as
    fully connected)."""
    nest = layer.loops[0]
    return layer.kind == "linear" or (nest.filter == layer.inputs[0].shape[2:] and set(nest.output) == {1})


def convolutions(work: Workload) -> list[Layer]:
    return [layer for layer in work.layers if layer.kind == "conv" and not is_connected_fully(layer)]


def fully_connected(work: Workload) -> list[Layer]:
    return [layer for layer in work.layers if layer.loops and is_connected_fully(layer)]


def weights(layers: Iterable[Layer]) -> int:
    """Weights without biases."""
    return sum(w.numel for layer in layers for w in layer.weights if w.part == "weight")


def macs(layers: Iterable[Layer]) -> int:
    return sum(layer.macs for layer in layers)


def multiplying(work: Workload) -> list[Layer]:
    """The layers that multiply: convolutions, fully connected layers, products."""
    return [layer for layer in work.layers if layer.loops]


def channels(layers: Iterable[Layer]) -> list[int]:
    """The numbers of channels that the layers see, of a group where they have groups, in order."""
    return sorted({x.loops[0].C if len(x.loops) == 1 else x.inputs[0].shape[1] for x in layers})


def filters(layers: Iterable[Layer]) -> list[int]:
    return sorted({layer.outputs[0].shape[1] for layer in layers})


def activations(work: Workload) -> set[str]:
    """The operations of the activation layers."""
    return {layer.op for layer in work.layers if layer.kind == "activation"}


def connections(lenet: Workload) -> int:
    """LeNet-5's connections as its paper counts them (section II.B): every output pixel's inputs and its bias."""
    total = 0
    for layer in lenet.layers:
        pixels = layer.outputs[0].numel
        if layer.loops:  # C1, C3, C5, F6: one connection per MAC, and one bias per output
            total += layer.macs + pixels
        elif layer.op.startswith("avg_pool"):  # S2, S4: four inputs and a bias
            total += 5 * pixels
    return total + 10 * fully_connected(lenet)[-1].outputs[0].numel  # RBF: each of ten units sees F6's states


def training_bytes(name: str, batch: int, **changes: object) -> int:
    """What a step of SGD with momentum holds on a GPU in fp32: weights, gradients, momentum, input, saved activations."""
    work = workload(name, train=True, batch=batch, device="cuda", **changes)
    return 3 * sum(w.bytes for w in work.weights) + work.saved_bytes + sum(t.bytes for t in work.inputs)


def longest_path(work: Workload) -> int:
    """The most convolutions on any path from the input to the output."""
    depth: dict[int, int] = {}
    for layer in work.layers:
        before = max((depth.get(t.id, 0) for t in layer.inputs), default=0)
        for t in layer.outputs:
            depth[t.id] = before + (layer.kind == "conv" and not is_connected_fully(layer))
    return max(depth.values())


def receptive_field(filters: Iterable[int], strides: Iterable[int]) -> int:
    """Of a chain of convolutions, in input pixels along one axis."""
    field, jump = 1, 1
    for size, stride in zip(filters, strides, strict=True):
        field += (size - 1) * jump
        jump *= stride
    return field


def agrees(figure: str, exact: float) -> bool:
    """Whether `exact` rounds, or is cut, to the printed figure: "61M", "2.6k", "3.86G", "13"."""
    match = re.fullmatch(r"(\d+(?:\.(\d+))?)\s*([kMG]?)", figure.replace(",", ""))
    if match is None:
        return False
    step = {"": 1, "k": 10**3, "M": 10**6, "G": 10**9}[match[3]] * 10.0 ** -len(match[2] or "")
    printed = round(float(match[1]) * {"": 1, "k": 10**3, "M": 10**6, "G": 10**9}[match[3]] / step)
    return printed in (math.floor(exact / step + 0.5), math.floor(exact / step))
