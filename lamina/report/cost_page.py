"""The cost of a network, or of several side by side, as one HTML document: a collapsible module tree, sortable tables and the
plots. Without JavaScript everything is there but the sorting."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

from lamina import units
from lamina.report import page, plot
from lamina.report.page import Figure
from lamina.workload import Layer, Workload

KINDS = "Parameters, MACs and bytes moved"
PROFILE = "MACs, bytes moved and live activations"
ACCURACY = "Top-1 accuracy on ImageNet against MACs; the area is the number of parameters"
NEAR, OFF = 2.0, 5.0  # times the machine's roofline, below which a layer is near it, or not far off
FAR = f"green within {NEAR:g} times the machine's roofline, amber within {OFF:g}, red beyond"
Times = Mapping[str, tuple[float, float]]  # of modules without children: milliseconds, and times those of the roofline
MOST_TABLES = 8  # a page of more networks has no table of each one's layers


def render_cost(
    workload: Workload, document: Mapping[str, Any], live: Sequence[int], shown: str, dtype: str,
    times: Mapping[str, Any] | None = None,
) -> str:  # fmt: skip
    """The page of one network. `document` is `lamina cost --json`'s; `live` the bytes alive while each layer runs. `times` are
    {"batch": N, "rows": {MODULE: (milliseconds, times the roofline's)}}, as `lamina bench --layers` measures them."""
    intro = f"One forward pass of an input {shown}, {dtype}."
    if times:
        intro += f" Times are those of torch, operation by operation, for a batch of {times['batch']}: {FAR}."
    return page.render(
        "cost.html",
        title=workload.name,
        intro=intro,
        boxes=boxes(document),
        kinds=Figure(plot.kinds([workload.name], by_kind([workload])), KINDS),
        profile=Figure(plot.profile(workload, live, workload.name), PROFILE),
        tree=tree(workload, times["rows"] if times else None),
        document=document,
    )


def render_compare(
    workloads: Sequence[Workload],
    documents: Sequence[Mapping[str, Any]],
    rows: Sequence[Sequence[str]],
    changes: Sequence[tuple[str, str, str, str]],
    points: Sequence[tuple[str, str, float, int, float]],
) -> str:
    """The page of several networks. `rows` is the table side by side, its heading first; `changes` the layer diff as
    (status, layer before, layer after, what changed); `points` those of `plot.scatter`."""
    names = [workload.name for workload in workloads]
    tables = len(workloads) <= MOST_TABLES
    return page.render(
        "compare.html",
        title=" and ".join(names) if len(names) < 4 else f"{len(names)} networks",
        intro="Networks side by side.",
        columns=rows[0],
        rows=rows[1:],
        kinds=Figure(plot.kinds(names, by_kind(workloads)), KINDS),
        accuracy=Figure(plot.scatter(points), ACCURACY) if len(points) > 1 else None,
        names=names,
        changes=changes,
        networks=[
            {"name": workload.name, "tree": tree(workload), "document": document if tables else None}
            for workload, document in zip(workloads, documents, strict=True)
        ],
    )


def by_kind(workloads: Sequence[Workload]) -> dict[str, list[dict[str, int]]]:
    """What `plot.kinds` draws."""
    groups = [workload.by("kind") for workload in workloads]
    return {
        "Parameters": [{kind: t.parameters for kind, t in group.items()} for group in groups],
        "MACs": [{kind: t.macs for kind, t in group.items()} for group in groups],
        "Bytes read and written": [{kind: t.bytes_read + t.bytes_written for kind, t in group.items()} for group in groups],
    }


@dataclass(frozen=True)
class Module:
    """A module, or a layer that has no module of its own; `share` is the percentage of the network's MACs, as text. Of a
    network that was timed `ms` and `ms_share` are the milliseconds and their percentage, and `far` is a colour's name."""

    name: str
    type: str
    parameters: int
    macs: int
    share: str
    children: list["Module"]
    ms: float | None = None
    ms_share: str = ""
    far: str = ""


@dataclass
class _Branch:
    """A module while its layers are gathered."""

    name: str
    type: str = ""
    children: "dict[str, _Branch]" = field(default_factory=dict)
    layers: list[Layer] = field(default_factory=list)

    def all_layers(self) -> list[Layer]:
        return [*self.layers, *(layer for child in self.children.values() for layer in child.all_layers())]

    def module(self, workload: Workload, whole: int, times: Times | None) -> Module:
        layers = self.all_layers()
        total = workload.total(layers)
        children = [child.module(workload, whole, times) for child in self.children.values()]
        found = Module(self.name, self.type, total.parameters, total.macs, f"{100 * total.macs / whole:.2f}", children)
        rows = [times[name] for name in {layer.module for layer in layers} if name in times] if times else []
        if not times or not rows:
            return found
        ms = sum(row[0] for row in rows)
        least = sum(row[0] / row[1] for row in rows if row[1])
        far = "near" if ms <= NEAR * least else "off" if ms <= OFF * least else "far"
        return replace(found, ms=ms, ms_share=f"{100 * ms / sum(row[0] for row in times.values()):.2f}", far=far)


def tree(workload: Workload, times: Times | None = None) -> Module:
    """The modules with their parameters, their MACs and their share of the network's, and with their times if there are any."""
    root = _Branch(workload.name)
    for layer in workload.layers:
        if layer.kind == "view" and not layer.weights:
            continue
        branch = root
        for part in layer.module.split(".") if layer.module else ():
            branch = branch.children.setdefault(part, _Branch(part))
        inner = layer.name.removeprefix(layer.module).lstrip("/")
        if inner and not (inner.startswith(":") and not layer.name[len(layer.module) :].startswith("/")):
            branch = branch.children.setdefault("/" + inner, _Branch(inner))
            branch.type = layer.op if layer.op != inner else ""
        else:
            branch.type = branch.type or layer.module_type
        branch.layers.append(layer)
    return root.module(workload, max(1, workload.total().macs), times)


def boxes(document: Mapping[str, Any]) -> list[tuple[str, str, str]]:
    """The network's figures in short: (name, value, a note)."""
    totals, memory = document["totals"], document["memory"]
    peak, fused, whole, weights = (
        units.bytes_(memory[key])
        for key in ("peak_activation_bytes", "fused_peak_activation_bytes", "inference_bytes", "weight_bytes")
    )
    trainable = totals["parameters_trainable"]
    macs = totals["backward_macs"]
    backward = [("Backward MACs", units.si(macs), f"{macs:,}")] if macs else []  # an ONNX file has none
    shown = [
        ("MACs", units.si(totals["macs"]), f"{totals['macs']:,}"),
        ("Parameters", units.si(totals["parameters"]), f"{totals['parameters']:,}; {trainable:,} trainable"),
        ("Activations", units.si(totals["activations"]), f"{totals['activations']:,}"),
        *backward,
        ("Peak live activations", peak, f"{fused} with elementwise operations fused; kernels' own scratch memory aside"),
        ("Memory for inference", whole, f"{weights} of it weights"),
        ("Arithmetic intensity", f"{totals['intensity']:.3g}", "FLOPs per byte read or written"),
    ]
    if "training" in memory:
        step = memory["training"]
        beside = "saved", "saved activations"
        if step["temporaries"] > step["saved"]:
            beside = "temporaries", "temporaries of the optimizer"
        text = f"{step['optimizer']}; {units.bytes_(step[beside[0]])} of it {beside[1]}"
        shown.insert(-1, ("Memory for training", units.bytes_(step["total"]), text))
    return shown
