"""Other tools' figures: our views against what the tools themselves printed (tests/conventions.json)."""

import json
from pathlib import Path
from typing import Any

import pytest
import torch

import lamina
from lamina.cost import conventions
from lamina.cost.conventions import view
from lamina.workload import Workload
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


def test_the_measured_versions_are_those_the_views_name():
    for tool in TOOLS:
        assert conventions.VIEWS[tool].version.replace(".post", "-") == MEASURED["versions"][tool].replace(".post", "-")
