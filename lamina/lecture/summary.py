"""The lecture's summary table: its figures, ours next to them, and a note wherever they differ."""

import json
import tomllib
from dataclasses import dataclass
from functools import cache
from importlib.resources import files
from typing import Any

import torch

from lamina import units
from lamina.lecture import facts
from lamina.tracing.tracer import trace
from lamina.workload import Layer
from lamina.zoo import googlenet, registry

TITLES = {
    "top5_error": "Top-5 error, %",
    "input": "Input",
    "conv_layers": "CONV layers",
    "filter_sizes": "Filter sizes",
    "channels": "Channels",
    "filters": "Filters",
    "stride": "Stride",
    "conv_weights": "CONV weights",
    "conv_macs": "CONV MACs",
    "fc_layers": "FC layers",
    "fc_weights": "FC weights",
    "fc_macs": "FC MACs",
    "weights": "Weights",
    "macs": "MACs",
}

# The protocols that the slide's top-5 errors are of, as the zoo's published figures name them.
PROTOCOLS = {
    "alexnet": "5 networks, test",
    "vgg16": "multi-crop",
    "googlenet": "7 networks, 144 crops",
    "resnet50": "one network, dense, several scales",
}


@cache
def lecture() -> dict[str, Any]:
    """The figures as the lecture's slides print them."""
    return json.loads(files("lamina.lecture").joinpath("lecture_table.json").read_text())


@cache
def notes() -> list[dict[str, Any]]:
    """Why figures differ: {"cells": [[network, column], ...], "text"}."""
    return tomllib.loads(files("lamina.lecture").joinpath("notes.toml").read_text())["note"]


def exact(network: str) -> dict[str, Any]:
    """The table's columns, computed. Counts are integers, ranges are text."""
    name = facts.NETWORKS[network]
    work = facts.workload(name)
    conv, fc = facts.convolutions(work), facts.fully_connected(work)
    nests = [nest for layer in conv for nest in layer.loops]
    size = work.inputs[0].shape[2:]
    cells: dict[str, Any] = {
        "input": units.shape(size),
        "conv_layers": len(conv),
        "filter_sizes": ", ".join(map(str, sorted({nest.filter[0] for nest in nests}))),
        "channels": span(facts.channels(conv)),
        "filters": span(facts.filters(conv)),
        "stride": ", ".join(map(str, sorted({nest.stride[0] for nest in nests}))),
        "conv_weights": facts.weights(conv),
        "conv_macs": facts.macs(conv),
        "fc_layers": len(fc),
        "fc_weights": facts.weights(fc),
        "fc_macs": facts.macs(fc),
        # The lecture's 60k of LeNet-5 are all of its trainable parameters; elsewhere it leaves out the biases.
        "weights": work.total().parameters if name == "lenet5" else work.total().weights,
        "macs": work.total().macs,
    }
    figures = [f for f in registry.spec(name).figures if (f["figure"], f["protocol"]) == ("top5_error", PROTOCOLS.get(name))]
    cells["top5_error"] = figures[0]["value"] if figures else "n/a"
    return cells


def span(values: list[int]) -> str:
    return ", ".join(map(str, values)) if len(values) <= 2 else f"{values[0]} - {values[-1]}"


def document() -> dict[str, Any]:
    """{"rows": [{"network", "cells": {column: {"lecture", "exact", "note"}}}], "notes": [...]}; a note's number counts
    from 1, and is null where there is none."""
    numbers = {tuple(cell): number for number, note in enumerate(notes(), 1) for cell in note["cells"]}
    rows = []
    for network, printed in lecture()["networks"].items():
        ours = exact(network)
        cells = {
            column: {"lecture": printed[column], "exact": ours[column], "note": numbers.get((network, column))}
            for column in lecture()["columns"]
        }
        rows.append({"network": network, "name": printed["name"], "cells": cells})
    return {"rows": rows, "notes": [note["text"] for note in notes()], "examples": examples()}


def same(printed: str, ours: Any) -> bool:
    """Whether a cell's figure is ours, rounded or cut."""
    return printed == str(ours) or (isinstance(ours, (int, float)) and facts.agrees(printed, ours))


def examples() -> dict[str, Any]:
    """The worked examples of the slides: stacked filters, the 1x1 bottleneck, AlexNet's layers."""
    return {"stacked_filters": stacked_filters(), "bottleneck": bottleneck(), "alexnet_layers": alexnet_layers()}


def stacked_filters() -> dict[str, Any]:
    """A 5x5 filter (AlexNet's second layer has them) as two 3x3 filters (VGG-16's), from one input map to one output map."""
    large, small = facts.convolutions(facts.workload("alexnet"))[1], facts.convolutions(facts.workload("vgg16"))[1]
    one, two = (facts.weights([x]) // (x.loops[0].G * x.loops[0].M * x.loops[0].C) for x in (large, small))
    (k, stride), (k3, stride3) = ((x.loops[0].filter[0], x.loops[0].stride[0]) for x in (large, small))
    inner = k - k3 + 1  # side of the first 3x3 filter's output on an input of k x k
    return {
        "one_5x5": one,
        "two_3x3": 2 * two,
        "receptive_fields": [facts.receptive_field([k], [stride]), facts.receptive_field([k3, k3], [stride3, stride3])],
        # the slide's 5x5 input: one output pixel from the 5x5; 3x3 of them from the first 3x3, one from the second
        "macs_on_5x5_input": [one, inner * inner * two + two],
    }


@dataclass(frozen=True)
class Inception:
    """The inception module of the slide's example: maps of `side` x `side` pixels, `channels` of them; filters by size, and 1x1
    filters before each larger size and after the pool."""

    side: int
    channels: int
    n1: int
    n3: int
    n5: int
    reduced: int

    @property
    def weights(self) -> int:
        """Of the filters without reductions."""
        return self.channels * (self.n1 + 9 * self.n3 + 25 * self.n5)


EXAMPLE = Inception(side=28, channels=256, n1=128, n3=192, n5=96, reduced=64)


def bottleneck() -> dict[str, Any]:
    """MACs of the slide's example, first directly, then with the reductions. `network` is the real 3b, whose reductions are
    128 and 32."""
    x = EXAMPLE
    with torch.device("meta"):
        module = googlenet.Inception(googlenet.Config(), x.channels, x.n1, x.reduced, x.n3, x.reduced, x.n5, x.reduced)
    layers = trace(module, torch.empty(1, x.channels, x.side, x.side, device="meta")).layers
    branch3 = next(layer for layer in layers if layer.module.startswith("branch3") and layer.loops)
    total = facts.macs(layers)
    return {
        "direct": x.side * x.side * x.weights,
        "reduced": total,
        "with_3x3_twice": total + branch3.macs,
        "network": facts.macs(inception_3b()),
    }


def inception_3b() -> list[Layer]:
    return [layer for layer in facts.workload("googlenet").layers if layer.module.startswith("inception_3b")]


def alexnet_layers() -> list[dict[str, Any]]:
    """The five convolutions: filter, filters, channels (of a group), stride, weights, MACs."""
    conv = facts.convolutions(facts.workload("alexnet"))
    rows = []
    for printed, layer in zip(lecture()["alexnet_layers"], conv, strict=False):
        nest = layer.loops[0]
        rows.append(
            {
                "layer": printed["layer"],
                "filter": units.shape(nest.filter),
                "filters": nest.G * nest.M,
                "channels": nest.C,
                "stride": nest.stride[0],
                "weights": facts.weights([layer]),
                "macs": layer.macs,
                "lecture": printed,
            }
        )
    return rows
