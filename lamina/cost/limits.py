"""Limits on what a network may cost."""

from collections.abc import Mapping
from typing import Any

from lamina import units
from lamina.errors import InputError


def parse(texts: Mapping[str, str | None]) -> dict[str, float]:
    """Limits by option, from their texts: {"--max-macs": "5G"} is {"--max-macs": 5e9}."""
    limits = {}
    for option, text in texts.items():
        if text is not None:
            try:
                limits[option] = units.parse(text)
            except ValueError as error:
                raise InputError(f"{option}: {error}") from error
    return limits


def excesses(document: Mapping[str, Any], limits: Mapping[str, float]) -> list[str]:
    """What of a cost document is above its limit, in words. Memory is that of a training step where the document has it."""
    totals, memory = document["totals"], document["memory"]
    needed = memory["training"]["total"] if "training" in memory else memory["inference_bytes"]
    found = {
        "--max-macs": (totals["macs"], "MACs"),
        "--max-params": (totals["parameters"], "parameters"),
        "--max-memory": (needed, "bytes of memory"),
    }
    above = []
    for option, limit in limits.items():
        figure, name = found[option]
        if figure > limit:
            above.append(f"{figure:,} {name} are {units.percent(100 * (figure / limit - 1))} over {limit:,.0f} ({option})")
    return above
