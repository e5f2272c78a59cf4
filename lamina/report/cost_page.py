"""The cost of a network, or of several side by side, as one HTML document that needs nothing else: a collapsible module
tree, sortable tables and the plots. Without JavaScript everything is there but the sorting.

All that comes from data is escaped, except the SVG of figures, which is inserted as it is, with ids of its own.
"""

import base64
import hashlib
import itertools
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from html import escape
from importlib.resources import files
from string import Template
from typing import Any

from lamina import units
from lamina.report import plot
from lamina.workload import Workload

KINDS = "Parameters, MACs and bytes moved"
PROFILE = "MACs, bytes moved and live activations"
MOST_TABLES = 8  # a page of more networks has no table of each one's layers

SCRIPT = """
"use strict";
for (const table of document.querySelectorAll("table.sortable")) {
  const body = table.tBodies[0];
  table.tHead.querySelectorAll("th").forEach((head, column) => {
    const button = document.createElement("button");
    button.type = "button";
    button.textContent = head.textContent;
    head.replaceChildren(button);
    button.addEventListener("click", () => {
      const number = !head.classList.contains("text");
      const ascending = head.getAttribute("aria-sort") === (number ? "descending" : "ascending");
      const sign = number === ascending ? 1 : -1;
      for (const other of table.tHead.querySelectorAll("th")) other.removeAttribute("aria-sort");
      head.setAttribute("aria-sort", sign === 1 ? "ascending" : "descending");
      const key = (row) => row.cells[column].dataset.value ?? row.cells[column].textContent;
      const order = number ? (a, b) => Number(key(a)) - Number(key(b)) : (a, b) => key(a).localeCompare(key(b));
      body.append(...[...body.rows].sort((a, b) => sign * order(a, b)));
    });
  });
}
"""


def render_cost(workload: Workload, document: Mapping[str, Any], live: Sequence[int], shown: str, dtype: str) -> str:
    """The page of one network. `document` is `lamina cost --json`'s; `live` the bytes alive while each layer runs."""
    ids = itertools.count()
    parts = [
        _section("", _figures(document)),
        _section(
            "By kind of layer", _plot(ids, plot.kinds([workload.name], by_kind([workload])), "Parameters, MACs and bytes moved")
        ),
        _section(
            "Along the layers",
            _plot(ids, plot.profile(workload, live, workload.name), "MACs, bytes moved and live activations"),
        ),
        _section("Modules", tree(workload)),
        _section("Layers", layer_table(document)),
    ]
    return _page(workload.name, f"One forward pass of an input {shown}, {dtype}.", parts)


def render_compare(
    workloads: Sequence[Workload],
    documents: Sequence[Mapping[str, Any]],
    rows: Sequence[Sequence[str]],
    changes: Sequence[tuple[str, str, str, str]],
    points: Sequence[tuple[str, str, float, int, float]],
) -> str:
    """The page of several networks. `rows` is the table side by side, its heading first; `changes` the layer diff as
    (status, layer before, layer after, what changed); `points` those of `plot.scatter`."""
    ids = itertools.count()
    names = [workload.name for workload in workloads]
    parts = [_section("Side by side", _table(rows[0], rows[1:]))]
    parts.append(
        _section("By kind of layer", _plot(ids, plot.kinds(names, by_kind(workloads)), "Parameters, MACs and bytes moved"))
    )
    if len(points) > 1:
        caption = "Top-1 accuracy on ImageNet against MACs; the area is the number of parameters"
        parts.append(_section("Accuracy", _plot(ids, plot.scatter(points), caption)))
    if changes:
        parts.append(_section("Layer by layer", _changes(names, changes)))
    for workload, document in zip(workloads, documents, strict=True):
        layers = layer_table(document, folded=True) if len(workloads) <= MOST_TABLES else ""
        parts.append(_section(workload.name, tree(workload, opened=False) + layers))
    return _page(" and ".join(names) if len(names) < 4 else f"{len(names)} networks", "Networks side by side.", parts)


def by_kind(workloads: Sequence[Workload]) -> dict[str, list[dict[str, int]]]:
    """What `plot.kinds` draws."""
    groups = [workload.by("kind") for workload in workloads]
    return {
        "Parameters": [{kind: t.parameters for kind, t in group.items()} for group in groups],
        "MACs": [{kind: t.macs for kind, t in group.items()} for group in groups],
        "Bytes read and written": [{kind: t.bytes_read + t.bytes_written for kind, t in group.items()} for group in groups],
    }


def tree(workload: Workload, opened: bool = True) -> str:
    """The modules as nested `details`; each with its parameters, its MACs and their share of the network's."""
    root = Branch(workload.name)
    for layer in workload.layers:
        if layer.kind == "view" and not layer.weights:
            continue
        branch = root
        for part in layer.module.split(".") if layer.module else ():
            branch = branch.children.setdefault(part, Branch(part))
        inner = layer.name.removeprefix(layer.module).lstrip("/")
        if inner and not (inner.startswith(":") and not layer.name[len(layer.module) :].startswith("/")):
            branch = branch.children.setdefault("/" + inner, Branch(inner))
            branch.type = layer.op if layer.op != inner else ""
        else:
            branch.type = branch.type or layer.module_type
        branch.layers.append(layer)
    total = max(1, workload.total().macs)
    head = '<div class="leaf head"><span class="name">module</span><span class="number">parameters</span>'
    head += '<span class="number">MACs</span><span>share of MACs</span></div>'
    return f'<div class="tree">{head}{root.html(workload, total, 2 if opened else 0)}</div>'


class Branch:
    """A module, or a layer that has no module of its own."""

    def __init__(self, name: str, type: str = ""):
        self.name, self.type = name, type
        self.children: dict[str, Branch] = {}
        self.layers: list[Any] = []

    def all_layers(self) -> Iterator[Any]:
        yield from self.layers
        for child in self.children.values():
            yield from child.all_layers()

    def html(self, workload: Workload, whole: int, opened: int, depth: int = 0) -> str:
        total = workload.total(self.all_layers())
        share = 100 * total.macs / whole
        name = f'<span class="name" style="--depth:{depth}">{escape(self.name)}<i>{escape(self.type)}</i></span>'
        cells = f'<span class="number">{total.parameters:,}</span><span class="number">{total.macs:,}</span>'
        cells += f'<span class="share" style="--part:{share:.2f}%" title="{share:.2f} % of the MACs"></span>'
        if not self.children:
            return f'<div class="leaf">{name}{cells}</div>'
        inside = "".join(child.html(workload, whole, opened - 1, depth + 1) for child in self.children.values())
        start = '<details open="">' if opened > 0 else "<details>"
        return f"{start}<summary>{name}{cells}</summary>{inside}</details>"


COLUMNS = (
    "kind", "MACs", "share", "parameters", "activations", "read", "written", "FLOPs a byte", "operation", "input", "output"
)  # fmt: skip
WORDS = ("kind", "operation", "input", "output")


def layer_table(document: Mapping[str, Any], folded: bool = False) -> str:
    """A row a layer; a click on a heading sorts. Views are left out."""
    whole = max(1, document["totals"]["macs"])
    head = '<th class="text" scope="col">layer</th>'
    head += "".join(f'<th{TEXT if name in WORDS else ""} scope="col">{name}</th>' for name in COLUMNS)
    rows = []
    for layer in document["layers"]:
        if layer["kind"] == "view":
            continue
        cells = [f'<th class="text" scope="row">{escape(layer["name"])}</th><td{TEXT}>{layer["kind"]}</td>']
        cells += [_number(layer["macs"]), _value(layer["macs"], f"{100 * layer['macs'] / whole:.2f} %")]
        cells += [_number(layer["parameters"]), _number(layer["activations"])]
        cells += [_value(layer[key], units.bytes_(layer[key])) for key in ("bytes_read", "bytes_written")]
        cells.append(_value(layer["intensity"], f"{layer['intensity']:.3g}"))
        shapes = [" ".join(units.shape(tuple(s)) for s in layer[key]) for key in ("inputs", "outputs")]
        cells += [f"<td{TEXT}>{escape(text)}</td>" for text in (layer["op"], *shapes)]
        rows.append(f"<tr>{''.join(cells)}</tr>")
    text = f'<table class="sortable"><thead><tr>{head}</tr></thead><tbody>{"".join(rows)}</tbody></table>'
    text = f'<div class="scroll" role="region" aria-label="Layers" tabindex="0">{text}</div>'
    return f"<details><summary>{len(rows)} layers</summary>{text}</details>" if folded else text


TEXT = ' class="text"'


def _number(value: int) -> str:
    return _value(value, f"{value:,}")


def _value(value: float, text: str) -> str:
    return f'<td data-value="{value}">{text if value else ""}</td>'


def _figures(document: Mapping[str, Any]) -> str:
    totals, memory = document["totals"], document["memory"]
    peak, fused, whole, weights = (
        units.bytes_(memory[key])
        for key in ("peak_activation_bytes", "fused_peak_activation_bytes", "inference_bytes", "weight_bytes")
    )
    trainable = totals["parameters_trainable"]
    shown = [
        ("MACs", units.si(totals["macs"]), f"{totals['macs']:,}"),
        ("Parameters", units.si(totals["parameters"]), f"{totals['parameters']:,}; {trainable:,} trainable"),
        ("Activations", units.si(totals["activations"]), f"{totals['activations']:,}"),
        ("Backward MACs", units.si(totals["backward_macs"]), f"{totals['backward_macs']:,}"),
        ("Peak live activations", peak, f"{fused} with elementwise operations fused"),
        ("Memory for inference", whole, f"{weights} of it weights"),
        ("Arithmetic intensity", f"{totals['intensity']:.3g}", "FLOPs a byte read or written"),
    ]  # fmt: skip
    if "training" in memory:
        step = memory["training"]
        text = f"{step['optimizer']}; {units.bytes_(step['saved'])} of it saved activations"
        shown.insert(-1, ("Memory for training", units.bytes_(step["total"]), text))
    boxes = "".join(f"<div><dt>{name}</dt><dd>{value}<small>{text}</small></dd></div>" for name, value, text in shown)
    return f'<dl class="figures">{boxes}</dl>'


def _changes(names: Sequence[str], changes: Sequence[tuple[str, str, str, str]]) -> str:
    rows = "".join(
        f'<tr><td class="text status {status}">{status}</td><td class="text">{escape(before)}</td>'
        f'<td class="text">{escape(after)}</td><td class="text long">{escape(what)}</td></tr>'
        for status, before, after, what in changes
    )
    head = "".join(f'<th class="text" scope="col">{escape(name)}</th>' for name in ("", *names, "difference"))
    return f'<div class="scroll"><table><thead><tr>{head}</tr></thead><tbody>{rows}</tbody></table></div>'


def _table(columns: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    head = "".join(f'<th{TEXT if i == 0 else ""} scope="col">{escape(name)}</th>' for i, name in enumerate(columns))
    body = "".join(
        f'<tr><th class="text" scope="row">{escape(row[0])}</th>'
        + "".join(f"<td>{escape(cell)}</td>" for cell in row[1:])
        + "</tr>"
        for row in rows
    )
    return f'<div class="scroll"><table><thead><tr>{head}</tr></thead><tbody>{body}</tbody></table></div>'


def _plot(ids: Iterator[int], svg: str, caption: str) -> str:
    svg = re.sub(r'(\sid="|href="#|url\(#)', rf"\g<1>figure{next(ids)}-", svg)
    svg = svg.replace("<svg", f'<svg role="img" aria-label="{escape(caption)}"', 1)
    return f"<figure>{svg}<figcaption>{escape(caption)}</figcaption></figure>"


def _section(title: str, content: str) -> str:
    return f"<section>{f'<h2>{escape(title)}</h2>' if title else ''}{content}</section>"


def _page(title: str, intro: str, sections: Sequence[str]) -> str:
    digest = base64.b64encode(hashlib.sha256(SCRIPT.encode()).digest()).decode()
    template = Template(files("lamina.report.page").joinpath("cost.html").read_text("utf-8"))
    return template.substitute(
        title=escape(title), intro=escape(intro), sections="\n".join(sections), script=SCRIPT, hash=digest
    )
