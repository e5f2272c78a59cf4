"""The explorer's document: its tree, its formulas, and that every figure is the Workload's own at any batch and type."""

import json
from dataclasses import replace
from itertools import accumulate
from typing import Any

import pytest
import torch
from torch import nn

from lamina.cli import network
from lamina.serve.explorer import document, formulas, structure
from lamina.tracing.tracer import trace
from lamina.workload import Layer, Workload

SIZES = {"fp64": 8, "fp32": 4, "bf16": 2, "fp16": 2}


def net(name: str, **changes: Any) -> network.Network:
    return replace(network.find(name), **changes)


def at(found: network.Network) -> formulas.At:
    short = {long: short for short, long in network.DTYPES.items()}
    return lambda batch, dtype: replace(found, dtype=short[dtype]).trace(found.resized("batch", batch))


def built(name: str) -> dict[str, Any]:
    found = net(name)
    found.trace()  # the first trace in a process may hold more than later ones do
    return document.build(found.trace(), at(found), shown=found.shown)


@pytest.fixture(scope="module")
def resnet50() -> dict[str, Any]:
    return built("resnet50")


def regime(doc: dict[str, Any], batch: int = 1, dtype: str = "float32") -> dict[str, Any]:
    (found,) = [
        r
        for r in doc["regimes"]
        if r["batch"][0] <= batch and (r["batch"][1] or batch) >= batch and (dtype in r["dtypes"] or not r["dtypes"])
    ]
    return found


def test_layers_stand_under_their_modules(resnet50: dict[str, Any]) -> None:
    one = regime(resnet50)
    paths = [g["path"] for g in one["groups"]]
    assert paths[:4] == ["", "layer1", "layer1.0", "layer1.0.downsample"]
    # conv2_x to conv5_x have 3, 4, 6 and 3 blocks (He et al., Table 1)
    blocks = [sum(p.startswith(f"layer{n}.") and p.count(".") == 1 for p in paths) for n in (1, 2, 3, 4)]
    assert blocks == [3, 4, 6, 3]
    where = {x["name"]: (one["groups"][x["group"]]["path"], x["label"]) for x in one["layers"]}
    assert where["conv1"] == ("", "conv1")
    assert where["layer1.0.conv2"] == ("layer1.0", "conv2")
    assert where["layer1.0.downsample.0"] == ("layer1.0.downsample", "0")
    assert where["layer1.0/add"] == ("layer1.0", "add")
    assert where["layer1.0.relu:1"] == ("layer1.0", "relu:1")
    assert all(g["parent"] < i for i, g in enumerate(one["groups"]))


def test_the_formula_of_a_layer_is_its_loops(resnet50: dict[str, Any]) -> None:
    """64 filters of 3 x 7 x 7 at 112 x 112 places: He et al., Table 1, conv1."""
    conv1 = regime(resnet50)["layers"][0]
    loops = dict(conv1["nests"][0]["loops"])
    assert loops == {"times": 1, "G": 1, "N": [0, 1], "M": 64, "C": 3, "R": 7, "S": 7, "P": 112, "Q": 112}
    assert 64 * 3 * 7 * 7 * 112 * 112 == 118_013_952 == formulas.value(conv1["macs"], 1, 4)
    assert conv1["nests"][0]["stride"] == (2, 2)


def live(one: dict[str, Any], batch: int, size: int) -> list[float]:
    """The bytes alive while each layer runs, from the document alone."""
    change = [0.0] * (len(one["layers"]) + 2)
    for life in one["storages"]:
        change[max(life["born"], 0)] += formulas.value(life["bytes"], batch, size)
        change[life["freed"] + 1] -= formulas.value(life["bytes"], batch, size)
    spaces = [formulas.value(x.get("workspace", 0), batch, size) for x in one["layers"]]
    return [alive + space for alive, space in zip(accumulate(change), spaces, strict=False)]


def same(doc: dict[str, Any], workload: Workload, batch: int, dtype: str) -> None:
    """What the document says at a batch and a type is what a trace there says."""
    one, size = regime(doc, batch, network.DTYPES[dtype]), SIZES[dtype]
    total = workload.total()

    def summed(key: str) -> float:
        return sum(formulas.value(x.get(key, 0), batch, size) for x in one["layers"])

    assert summed("macs") == total.macs
    assert summed("backward") == total.backward_macs
    assert summed("activations") == total.activations
    assert (summed("read"), summed("written")) == (total.bytes_read, total.bytes_written)
    assert sum(x.get("parameters", 0) for x in one["layers"]) == total.parameters - workload.parameters_unused
    assert sum(formulas.value(w["bytes"], batch, size) for w in one["weights"]) == total.parameter_bytes
    assert live(one, batch, size) == workload.live_bytes
    saved = {s for x in one["layers"] for s in x.get("saved", ())}
    assert sum(formulas.value(one["storages"][s]["bytes"], batch, size) for s in saved) == workload.saved_bytes
    products = [1] * len(one["layers"])
    for place, (row, layer) in enumerate(zip(one["layers"], workload.layers, strict=True)):
        assert row["name"] == layer.name
        products[place] = 0
        for nest in row.get("nests", ()):
            product = 1
            for _, n in nest["loops"]:
                product *= n if isinstance(n, int) else n[0] + n[1] * batch
            products[place] += product
    assert products == [layer.macs for layer in workload.layers]
    shapes = [tuple(n if isinstance(n, int) else n[0] + n[1] * batch for n in t["shape"]) for t in one["tensors"]]
    assert [shapes[i] for i in one["layers"][-1]["outputs"]] == [t.shape for t in workload.layers[-1].outputs]


@pytest.mark.parametrize("name", ["googlenet", "vit_ti_16", "transformer_de_en", "lenet5", "densenet_40_12_cifar"])
def test_its_figures_are_those_of_a_trace_at_any_batch_and_type(name: str) -> None:
    doc, found = built(name), net(name)
    for batch, dtype in ((1, "fp32"), (1, "bf16"), (4, "fp32"), (7, "fp64"), (16, "fp16")):
        changed = replace(found, dtype=dtype)
        same(doc, changed.trace(changed.resized("batch", batch)), batch, dtype)


def test_a_batch_of_one_has_a_regime_of_its_own_where_it_runs_otherwise() -> None:
    """ViT's class token is expanded for a larger batch: an operation more."""
    doc = built("vit_ti_16")
    assert [r["batch"] for r in doc["regimes"]] == [[1, 1], [2, None]]
    assert [len(r["layers"]) for r in doc["regimes"]][1] == len(doc["regimes"][0]["layers"]) + 1


def test_a_figure_that_is_not_linear_in_the_batch_has_no_knob() -> None:
    class Gram(nn.Module):
        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return x @ x.T

    def traced(batch: int, dtype: str) -> Workload:
        return trace(Gram(), torch.empty(batch, 8, device="meta", dtype=getattr(torch, dtype)), name="gram")

    doc = document.build(traced(1, "float32"), traced)
    assert [r["batch"] for r in doc["regimes"]] == [[1, 1]]
    assert "linear in the batch" in doc["why"]


def test_without_a_way_to_trace_again_every_figure_is_a_number() -> None:
    doc = document.build(net("lenet5").trace())
    figures = [x.get(key, 0) for x in doc["regimes"][0]["layers"] for key in document.FIGURES]
    assert all(isinstance(n, int) for n in figures)
    json.dumps(doc)


def test_formulas_are_whole_numbers() -> None:
    def f(n: int, s: int) -> int:
        return 3 + 5 * n + 7 * s + 11 * n * s

    assert formulas.fit([[f(2, 8), f(2, 2)], [f(3, 8), f(3, 2)]], (2, 3), (8, 2)) == [3, 5, 7, 11]
    assert formulas.value([3, 5, 7, 11], 9, 4) == f(9, 4)
    with pytest.raises(ValueError):
        formulas.fit([[7, 4], [7, 4]], (1, 2), (4, 2))


def layer(number: int, module: str = "", name: str = "") -> Layer:
    return Layer(name or f"op{number}", module, "M", 0, "elementwise", "add", {}, (), (), (), (), {})


def test_ten_thousand_layers_without_modules_are_shown_in_stretches() -> None:
    groups, of, labels = structure.tree([layer(i) for i in range(10_000)])
    assert len(groups) == 1 + 100
    assert [g.parent for g in groups] == [-1, *[0] * 100]
    assert (groups[1].label, groups[-1].label) == ("1 to 100", "9901 to 10000")
    assert of == [1 + i // 100 for i in range(10_000)]
    assert labels[:2] == ["op0", "op1"]


def test_stretches_hold_whole_modules() -> None:
    layers = [layer(i, f"blocks.{i // 2}", f"blocks.{i // 2}/{'ab'[i % 2]}") for i in range(1000)]
    groups, of, _ = structure.tree(layers)
    stretches = [i for i, g in enumerate(groups) if "#" in g.path]
    assert len(stretches) == 5 and all(groups[i].parent == 1 for i in stretches)
    assert {groups[groups[of[i]].parent].path for i in range(200)} == {"blocks#0"}
    assert [groups[of[i]].path for i in (0, 1, 998)] == ["blocks.0", "blocks.0", "blocks.499"]
