"""The lecture's summary table: its figures, ours beside them, and a note wherever they differ."""

import json
import tomllib
from functools import cache
from importlib.resources import files
from typing import Any

import torch

from lamina.lecture import facts
from lamina.tracing.tracer import trace
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
        "input": "x".join(map(str, size)),
        "conv_layers": len(conv),
        "filter_sizes": ", ".join(map(str, sorted({nest.filter[0] for nest in nests}))),
        "channels": _range(sorted({layer.loops[0].C if len(layer.loops) == 1 else layer.inputs[0].shape[1] for layer in conv})),
        "filters": _range(sorted({layer.outputs[0].shape[1] for layer in conv})),
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


def _range(values: list[int]) -> str:
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
    """A 5x5 filter as two 3x3 filters, one input and one output map."""
    return {
        "one_5x5": 5 * 5,
        "two_3x3": 2 * 3 * 3,
        "receptive_fields": [facts.receptive_field([5], [1]), facts.receptive_field([3, 3], [1, 1])],
        # the slide's 5x5 input: one output pixel from the 5x5; 3x3 of them from the first 3x3, one from the second
        "macs_on_5x5_input": [25, 9 * 9 + 9],
    }


def bottleneck() -> dict[str, Any]:
    """The slide's inception module: 28x28 maps of 256 channels; 128 1x1, 192 3x3 and 96 5x5 filters, first directly, then
    with 64 1x1 filters ahead of each and behind the pool. `network` is the real 3b, whose reductions are 128 and 32."""
    pixels, channels, n1, n3, n5, reduced = 28 * 28, 256, 128, 192, 96, 64
    with torch.device("meta"):
        module = googlenet.Inception(googlenet.Config(), channels, n1, reduced, n3, reduced, n5, reduced)
    layers = trace(module, torch.empty(1, channels, 28, 28, device="meta")).layers
    branch3 = next(layer for layer in layers if layer.module.startswith("branch3") and layer.loops)
    total = facts.macs(layers)
    real = [layer for layer in facts.workload("googlenet").layers if layer.module.startswith("inception_3b")]
    return {
        "direct": pixels * channels * (n1 + 9 * n3 + 25 * n5),
        "reduced": total,
        "with_3x3_twice": total + branch3.macs,
        "network": facts.macs(real),
    }


def alexnet_layers() -> list[dict[str, Any]]:
    """The five convolutions: filter, filters, channels (of a group), stride, weights, MACs."""
    conv = facts.convolutions(facts.workload("alexnet"))
    rows = []
    for printed, layer in zip(lecture()["alexnet_layers"], conv, strict=True):
        nest = layer.loops[0]
        rows.append(
            {
                "layer": printed["layer"],
                "filter": "x".join(map(str, nest.filter)),
                "filters": nest.G * nest.M,
                "channels": nest.C,
                "stride": nest.stride[0],
                "weights": facts.weights([layer]),
                "macs": layer.macs,
                "lecture": printed,
            }
        )
    return rows
