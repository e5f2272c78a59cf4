"""Documents as rows of comma-separated values."""

import csv
import io
from collections.abc import Mapping, Sequence
from typing import Any

from lamina import units

Document = Mapping[str, Any]
Rows = Sequence[Mapping[str, Any]]


def to_csv(rows: Rows) -> str:
    """Rows that have the same fields, with a heading (RFC 4180, but lines end as text lines do)."""
    text = io.StringIO()
    if rows:
        writer = csv.DictWriter(text, list(rows[0]), lineterminator="\n")
        writer.writeheader()
        writer.writerows(rows)
    return text.getvalue()


def cost(document: Document, by: str | None) -> Rows:
    """One row per layer, or per module or kind."""
    if by in ("module", "kind"):
        return [{by: name} | group for name, group in document[f"{by}s"].items()]
    return [_layer(layer) for layer in document["layers"]]


def _layer(layer: Document) -> dict[str, Any]:
    row = {key: layer[key] for key in ("name", "module", "module_type", "kind", "op")}
    row |= {key: shapes(layer[key]) for key in ("inputs", "outputs")}
    row |= {"parameters": layer["parameters"], "macs": layer["macs"], "flops": 2 * layer["macs"]}
    return row | {key: layer[key] for key in ("backward_macs", "activations", "bytes_read", "bytes_written", "intensity")}


def views(document: Document) -> Rows:
    fields = ("tool", "version", "parameters", "macs", "flops", "activations")
    return [{field: view[field] for field in fields} for view in document["views"]]


def explanation(document: Document) -> Rows:
    found = {"rounded": document["rounded"], "cut": document["cut"], "nearest": [document["nearest"]]}
    return [{"match": match, **convention} for match, conventions in found.items() for convention in conventions]


def sweep(document: Document) -> Rows:
    return document["points"]


def fit(document: Document, shown: str) -> Rows:
    """`shown` is the input at the size found, as it is written."""
    row = {document["axis"]: document["size"], "input": shown}
    return [row | {"figure": document["figure"], "limit": document["limit"]}]


def comparison(document: Document) -> Rows:
    return [{**network, "input": shapes(network["input"])} for network in document["networks"]]


def shapes(sizes: Sequence[Sequence[int]]) -> str:
    return " ".join(units.shape(tuple(shape)) for shape in sizes)
