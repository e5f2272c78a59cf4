"""Other tools' figures: our views against what the tools themselves printed (tests/conventions.json)."""

import json
from pathlib import Path
from typing import Any

import pytest
import torch

import lamina
from lamina.cost import conventions
from lamina.cost.conventions import view
from lamina.cost.explain import explain
from lamina.errors import InputError
from lamina.workload import Workload, replace
from lamina.zoo import registry
from tests.peer_networks import NETWORKS

MEASURED = json.loads((Path(__file__).parent / "conventions.json").read_text())
FIGURES = ("macs", "flops", "parameters", "activations")
TOOLS = ("fvcore", "ptflops", "thop", "torchinfo", "calflops")

# What a view does not reproduce: (network, tool, figure) and the tool's figure less ours.
GAPS = {
    # Formulas of their own for recurrent layers; ours have none.
    ("own: Recurrent", "thop", "macs"): 12_480,
    ("own: Recurrent", "ptflops", "macs"): 12_720,
    ("own: Recurrent", "calflops", "flops"): 22_320,
    # torch.bmm by name, which calflops does not patch; the record has it as a matmul.
    ("own: Odds", "calflops", "macs"): -3_125,
    ("own: Odds", "calflops", "flops"): -6_250,
}


def trace(name: str) -> Workload:
    home, _, own = name.partition(": ")
    shape = tuple(MEASURED["networks"][name]["input"])
    if home == "own":
        with torch.device("meta"):
            module: Any = NETWORKS[own][0]()
    elif home == "zoo":
        module = registry.assemble(own)
    else:
        models = pytest.importorskip("torchvision.models")
        with torch.device("meta"):
            module = getattr(models, own)()
    return lamina.trace(module.eval(), torch.empty(shape, device="meta"))


@pytest.mark.parametrize("name", MEASURED["networks"])
def test_views_print_what_the_tools_print(name):
    workload, row = trace(name), MEASURED["networks"][name]
    for tool in TOOLS:
        if tool in row:
            figure = view(workload, tool)
            for key, value in row[tool].items():
                gap = GAPS.get((name, tool, key), 0)
                assert getattr(figure, key) + gap == value, f"{tool} {key}: {value} against {figure}"


def test_what_has_no_view():
    work = trace("own: Twice")
    with pytest.raises(InputError, match="no view 'deepspeed'"):
        view(work, "deepspeed")
    graph = replace(work, lifetime_rule="last use")  # as the record of an ONNX file has it
    with pytest.raises(InputError, match="an ONNX graph has none"):
        view(graph, "thop")
    assert explain(graph, str(work.total().macs)).rounded[0].name == "MACs"


def test_vit_b_16_is_counted_seven_ways():
    """One network, as torchvision builds it; a test beside holds our views to each of these figures."""
    figures = {tool: MEASURED["networks"]["torchvision: vit_b_16"][tool]["macs"] for tool in TOOLS}
    assert figures == {
        "fvcore": 16_867_412_736, "ptflops": 17_606_030_584, "thop": 11_286_254_592, "torchinfo": 173_232_616,
        "calflops": 16_848_500_736,
    }  # fmt: skip
    assert view(trace("zoo: vit_b_16"), "torchvision").macs == 17_563_828_224


def test_keras_counts_moving_statistics():
    assert view(trace("zoo: resnet50"), "keras").parameters == 25_557_032 + 53_120
    assert view(trace("zoo: resnet50"), "keras").macs is None


def test_the_measured_versions_are_those_the_views_name():
    for tool in TOOLS:
        assert conventions.VIEWS[tool].version.replace(".post", "-") == MEASURED["versions"][tool].replace(".post", "-")
