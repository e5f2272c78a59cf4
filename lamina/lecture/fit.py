"""What each fixed dataflow loses against an array that may lay its loops as it likes, on the lecture's networks and on ViT.

The full model (`lamina.hardware`) with the search of every layer takes minutes, so its result is a record beside this file;
`python -m lamina.lecture.fit` writes it again, and a test computes a part of it anew.
"""

import json
from functools import cache
from importlib.resources import files
from pathlib import Path
from typing import Any

from lamina.hardware import accelerator
from lamina.hardware.fit import Goals, by_dataflow, compared
from lamina.lecture import facts

NETWORKS = ("lenet5", "alexnet", "vgg16", "googlenet", "resnet50", "vit_b_16")
ACCELERATOR = "flexible"
FIXED = {"ws": "weight stationary", "os": "output stationary", "nlr": "no local reuse", "rs": "row stationary"}
FILE = "fit.json"


@cache
def record() -> dict[str, Any]:
    """{"accelerator", "dataflows", "networks": [{"model", "dataflows": {NAME: {"energy", "energy_ratio", "cycles",
    "cycles_ratio"}}, "best": {GOAL: {NAME: layers}}, "layers": [...], "utilisation": {NAME: [...]}}], "command"}."""
    return json.loads(files("lamina.lecture").joinpath(FILE).read_text("utf-8"))


def compute(networks: tuple[str, ...] = NETWORKS) -> dict[str, Any]:
    """The record, computed. Batch 1; utilisation is that of the fewest cycles."""
    device = accelerator.load(ACCELERATOR)
    found = {name: by_dataflow(facts.workload(name), device) for name in networks}
    document = compared(found, device)
    for row in document["networks"]:
        known = {name: goals for name, goals in found[row["model"]].items() if goals is not None}
        row["layers"] = [layer.name for layer in next(iter(known.values()))["cycles"].nests]
        row["utilisation"] = {name: _utilisation(goals) for name, goals in known.items()}
    return document | {"command": "python -m lamina.lecture.fit"}


def _utilisation(goals: Goals) -> list[float]:
    return [round(layer.utilisation, 4) for layer in goals["cycles"].nests]


# A loss that counts: the lecture's own steps between networks are larger.
NOTABLE = 1.1


def array() -> tuple[int, int]:
    return accelerator.load(ACCELERATOR).array


def worst(goal: str) -> dict[str, tuple[float, str]]:
    """For each fixed dataflow the most that it costs on any of the networks, as a multiple of the best, and on which."""
    rows = record()["networks"]
    return {
        name: max((row["dataflows"][name][f"{goal}_ratio"] or float("inf"), row["model"]) for row in rows) for name in FIXED
    }


if __name__ == "__main__":
    target = Path(__file__).with_name(FILE)
    target.write_text(json.dumps(compute(), indent=1) + "\n", encoding="utf-8")
