"""Networks on hardware as rows of comma-separated values."""

from collections.abc import Mapping, Sequence
from typing import Any

Document = Mapping[str, Any]
Rows = Sequence[Mapping[str, Any]]


def fit(document: Document) -> Rows:
    """One row per layer; the accesses are sums over tensors."""
    fields = ("name", "kind", "dataflow", "macs", "utilisation", "cycles", "energy", "bound", "mapping", "note")
    levels = list(dict.fromkeys(level for layer in document["layers"] for level in layer["accesses"]))
    return [
        {field: layer[field] for field in fields}
        | {f"accesses {level}": sum(layer["accesses"].get(level, {}).values()) for level in levels}
        for layer in document["layers"]
    ]


def dataflows(document: Document) -> Rows:
    """One row per network and dataflow."""
    return [
        {"model": network["model"], "dataflow": name, **figures}
        | {f"best_{goal}": best.get(name, 0) for goal, best in network["best"].items()}
        for network in document["networks"]
        for name, figures in network["dataflows"].items()
    ]


def designs(document: Document) -> Rows:
    return document["points"]


def roofline(document: Document) -> Rows:
    return document["layers"]
