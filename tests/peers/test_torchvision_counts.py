"""The 115 float image classifiers of torchvision's weights: parameters to the unit, MACs to the three digits it prints."""

import csv
import re
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch

from lamina.sources import resolve, without_weights
from lamina.tracing.tracer import trace

torchvision = pytest.importorskip("torchvision", reason="needs torchvision: make peers", exc_type=ImportError)

OTHER_TASKS = ("detection", "segmentation", "video", "quantization", "optical_flow")
# What a builder takes so that it makes the network of the weights: without auxiliary heads, or with those that they have
# (Inception v3's parameters include its head's, which evaluation does not run), and without an initialisation.
OPTIONS: dict[str, dict[str, Any]] = {
    "googlenet": {"aux_logits": False, "init_weights": False},
    "inception_v3": {"aux_logits": True, "init_weights": False},
}


def builders() -> dict[str, str]:
    """The name of the weights' enumeration to that of the network."""
    names = torchvision.models.list_models(module=torchvision.models)
    return {torchvision.models.get_model_weights(name).__name__: name for name in names}


@pytest.fixture(scope="module")
def rows(shared: Path) -> list[dict[str, str]]:
    with (shared / "reference" / "torchvision_weights_meta.csv").open(encoding="utf-8", newline="") as file:
        found = list(csv.DictReader(file))
    return [row for row in found if not any(f"/{task}/" in row["file"] for task in OTHER_TASKS)]


def test_all_classifiers_agree(rows):
    names, wrong = builders(), []
    for row in rows:
        name = names[row["weights_enum"]]
        side = int(re.search(r"crop_size=(\d+)", row["transforms"])[1])
        options = OPTIONS.get(name, {}) | ({"image_size": side} if name.startswith("vit_") else {})
        module = without_weights(partial(torchvision.models.get_model, name, **options)).eval()
        work = trace(module, torch.empty(1, 3, side, side, device="meta"))
        total = work.total()
        if total.parameters != int(row["num_params"]) or abs(total.macs - 1e9 * float(row["ops_gmacs"])) > 500_001:
            wrong.append((name, row["weights"], total.parameters, row["num_params"], total.macs, row["ops_gmacs"]))
        assert work.coverage.unknown == (), name
    assert len(rows) == 115
    assert wrong == []


@pytest.mark.parametrize("name", ["resnet18", "regnet_y_400mf"])
def test_a_builder_is_a_model_of_the_command_line(name):
    source = resolve(f"torchvision.models:{name}")
    assert source.workload({None: (1, 3, 224, 224)}).total().parameters == sum(p.numel() for p in source.module.parameters())
