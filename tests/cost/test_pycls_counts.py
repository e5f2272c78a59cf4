"""Three counts of pycls (`dev/model_complexity.json`) for the networks that both have: an independent ledger.

Its "flops" are MACs plus the biases of the last layer; its "acts" are the elements of the outputs of convolutions, max-pools
and the linear layer. Its CIFAR networks have option B shortcuts (projections); V-56 has none.
"""

import json
from pathlib import Path

import pytest
import torch

import lamina
from lamina.tracing.tracer import trace

# The part of its file names before the recipe: our name and what differs in the Config.
NETWORKS = {
    "R-50-1x64d": ("resnet50_v1_5", {}),
    "R-101-1x64d": ("resnet101_v1_5", {}),
    "R-152-1x64d": ("resnet152_v1_5", {}),
    "X-50-32x4d": ("resnext50_32x4d", {}),
    "X-101-32x4d": ("resnext101_32x4d", {}),
    "X-152-32x4d": ("resnext101_32x4d", {"depths": (3, 8, 36, 3)}),
    "R-56": ("resnet56_cifar", {"shortcut": "B"}),
    "R-110": ("resnet110_cifar", {"shortcut": "B"}),
    "V-56": ("plain56_cifar", {}),
}
OTHERS = ("EN-B", "RegNetX-", "RegNetY-", "date-created")  # no network of the zoo


@pytest.fixture(scope="module")
def ledger(shared: Path) -> dict[str, dict[str, int]]:
    text = (shared / "reference" / "pycls_model_complexity.json").read_text(encoding="utf-8")
    rows: dict[str, dict[str, int]] = {}
    for name, row in json.loads(text).items():
        assert rows.setdefault(Path(name).name.partition("_")[0], row) == row, f"{name}: one network, two counts"
    return rows


def test_every_entry_is_compared_or_no_network_of_ours(ledger):
    assert {name for name in ledger if not name.startswith(OTHERS)} == set(NETWORKS)


@pytest.mark.parametrize("name", NETWORKS)
def test_the_counts_are_those_of_pycls(name, ledger):
    ours, changes = NETWORKS[name]
    module = lamina.build(ours, device="meta", **changes).eval()
    size = 32 if "cifar" in ours else 224
    work = trace(module, torch.empty(1, 3, size, size, device="meta"))
    last = work.layers[-1]
    total = work.total()
    biases = sum(w.numel for w in last.weights if w.part == "bias")
    pooled = sum(layer.outputs[0].numel for layer in work.layers if layer.op == "max_pool2d")
    assert last.op == "linear" and biases == (10 if size == 32 else 1000)
    assert {"flops": total.macs + biases, "params": total.parameters, "acts": total.activations + pooled} == ledger[name]
