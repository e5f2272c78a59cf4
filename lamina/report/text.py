"""Documents as text for the terminal."""

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from rich.console import Console
from rich.table import Table

from lamina import units
from lamina.report import table
from lamina.report.rows import shapes
from lamina.workload import Totals, Workload

Document = Mapping[str, Any]
DIFF_LINES = 60  # of a layer diff on the terminal

# ---- the cost of a network ----------------------------------------------------------------------------------------------


def cost(out: Console, document: Document, workload: Workload, shown: str, type: str, layers: Table) -> None:
    """The table of `layers`, and totals; `shown` is the input and `type` that of the weights, as text."""
    total, memory = workload.total(), document["memory"]
    counts = f"{total.macs:,} MACs, {total.parameters:,} parameters"
    out.print(f"[bold]{document['model']}[/], input {shown}, {type}: {counts}")
    out.print(layers)
    backward = f"; {total.backward_macs:,} MACs backward" if document["totals"]["backward_macs"] else ""
    out.print(f"{total.flops:,} FLOPs (2 per MAC), {total.intensity:.3g} per byte moved{backward}")
    peak, fused = (units.bytes_(memory[key]) for key in ("peak_activation_bytes", "fused_peak_activation_bytes"))
    order = "eager order" if workload.lifetime_rule == "eager" else "the file's order"
    out.print(f"peak live activations {peak}, in {order}; {fused} with elementwise operations fused")
    out.print("(tensors alone: what kernels take as scratch memory of their own is not in the peak)")
    out.print(f"memory for inference {units.bytes_(memory['inference_bytes'])}, weights and peak")
    if "training" in memory:
        step = memory["training"]
        where = "a GPU" if workload.device == "cuda" else "a CPU (--device cuda: a GPU)"
        parts = ("weights", "gradients", "states", "master", "temporaries" if step["temporaries"] > step["saved"] else "saved")
        text = ", ".join(f"{part} {units.bytes_(step[part])}" for part in parts if step[part])
        out.print(f"memory for training with {step['optimizer']} on {where} {units.bytes_(step['total'])}: {text}")
    totals = document["totals"]
    if totals["parameters_unused"]:
        out.print(f"{totals['parameters_unused']:,} of the parameters are not used by this call")
    if (active := totals["parameters_active"]) != total.parameters:
        out.print(f"{active:,} of the parameters are active for each token: a router chooses among experts")
    if total.trainable != total.parameters:
        out.print(f"{total.trainable:,} of the parameters are trainable")
    for text in workload.assumptions:
        out.print(f"assumed: {text}", markup=False)
    for operator in workload.coverage.unknown:
        out.print(f"not counted, no rule: {operator.op} in {operator.layer}, inputs {list(operator.inputs)}")


def views(out: Console, document: Document, shown: str, total: Totals) -> None:
    rows = [_view(view, total) for view in document["views"]]
    rows.append([""] * 6)
    rows.append(["exact", "", f"{total.macs:,}", "", f"{total.flops:,}", f"{total.parameters:,}"])
    out.print(f"[bold]{document['model']}[/], input {shown}: what other tools print")
    columns = ("tool", "version", "“MACs”", "differs by", "FLOPs", "parameters")
    out.print(table.table(columns, rows, left=("version", "differs by")))
    for view in document["views"]:
        out.print(f"{view['tool']}: {view['note']}", markup=False)


def _view(view: Document, total: Totals) -> list[str]:
    count, differs = "", ""
    if view["macs"] is not None:
        by_kind = {**view["parts"], "product": view["parts"].get("product", 0) - total.macs}
        differs = ", ".join(f"{'products' if kind == 'product' else kind} {n:+,}" for kind, n in by_kind.items() if n)
        count = f"{view['macs']:,}"
    other = f" ({view['parameters'] - total.parameters:+,})" if view["parameters"] != total.parameters else ""
    flops = f"{view['flops']:,}" if view["flops"] is not None else ""
    return [view["tool"], view["version"], count, differs, flops, f"{view['parameters']:,}{other}"]


def explanation(out: Console, document: Document, shown: str) -> None:
    figure, model = document["published"], document["model"]
    if document["rounded"]:
        out.print(f"{figure} is, for {model} on {shown}, rounded to the digits printed:")
    elif document["cut"]:
        out.print(f"{figure} is, for {model} on {shown}, with further digits cut off (nothing rounds to it):")
    else:
        nearest, error = document["nearest"], units.percent(document["nearest_error_percent"], signed=True)
        out.print(f"no convention gives {figure} for {model} on {shown}")
        out.print(f"the nearest is {nearest['name']}: {nearest['value']:,}, {error}; another input size may explain it")
    names: dict[int, list[str]] = {}
    for convention in document["rounded"] or document["cut"]:
        names.setdefault(convention["value"], []).append(convention["name"])
    for value, alike in names.items():
        out.print(f"  {value:>18,}  {'; '.join(alike)}", markup=False)


def sweep(out: Console, document: Document, type: str) -> None:
    """`type` is that of the weights."""
    axis, points = str(document["axis"]), document["points"]
    keys: list[str] = [key for key in points[0] if key not in (axis, "input", "refusal")]
    titles = {"macs": "MACs", "peak_activation_bytes": "peak activations", "inference_bytes": "inference"}
    titles["training_bytes"] = "training"
    cells = []
    for row in points:
        shown = ["" if row[k] is None else units.bytes_(row[k]) if "bytes" in k else f"{row[k]:,}" for k in keys]
        cells.append([f"{row[axis]}", row["input"], *shown, row["refusal"]])
    out.print(f"[bold]{document['model']}[/], {type}")
    out.print(table.table((axis, "input", *(titles.get(key, key) for key in keys), ""), cells, left=("",)))


def fit(document: Document, shown: str, training: bool) -> None:
    """`shown` is the input at the size found."""
    unit = "MACs" if document["quantity"] == "MACs" else f"bytes for {'training' if training else 'inference'}"
    print(f"{document['model']}: the largest {document['axis']} is {document['size']}, input {shown}")
    print(f"it takes {document['figure']:,} {unit} of {document['limit']:,}")
    beyond = document["next_figure"]
    following = f"takes {beyond:,}" if beyond is not None else "is refused by the network"
    print(f"the next, {document['next_size']}, {following}")


# ---- networks side by side ----------------------------------------------------------------------------------------------

COLUMNS = {
    "network": "network", "input": "input", "parameters": "parameters", "macs": "MACs", "backward_macs": "MACs backward",
    "activations": "activations", "peak_activation_bytes": "peak", "fused_peak_activation_bytes": "peak, fused",
    "inference_bytes": "inference", "training_bytes": "training", "intensity": "FLOPs/byte",
}  # fmt: skip


def side_by_side(document: Document) -> list[list[str]]:
    """The table of a comparison, its heading first."""

    def cell(row: Document, key: str) -> str:
        value = shapes(row["input"]) if key == "input" else row[key]
        if value is None:
            return ""
        if key == "intensity":
            return f"{value:.3g}"
        return str(value) if isinstance(value, str) else units.bytes_(value) if key.endswith("bytes") else f"{value:,}"

    return [list(COLUMNS.values()), *([cell(row, key) for key in COLUMNS] for row in document["networks"])]


def differences(document: Document) -> list[tuple[str, str, str, str]]:
    """The layers that differ: (status, before, after, difference)."""
    lines = [tuple(line.values()) for line in document.get("layers", ())]
    return [line for line in lines if line[0] != "same"]


def comparison(out: Console, document: Document, names: Sequence[str], diff: bool | None) -> None:
    """`diff` asks for the layer diff, by default of networks that have layers in common."""
    head, *rows = side_by_side(document)
    out.print(table.table(head, rows))
    if "layers" not in document or diff is False:
        return
    lines, shared = differences(document), document["shared"]
    if diff is None and shared < 0.3:
        return out.print(f"{100 * shared:.0f} % of the layers are alike: no layer diff (--diff shows it)")
    if not lines:
        return out.print("all layers are the same")
    columns = ("", *names, "difference")
    out.print(table.table(columns, lines if diff else lines[:DIFF_LINES], left=columns[1:]))
    if len(lines) > DIFF_LINES and not diff:
        out.print(f"and {len(lines) - DIFF_LINES} more (--diff shows all)")
    out.print(f"{len(lines)} of {len(document['layers'])} layers differ")


# ---- the zoo ------------------------------------------------------------------------------------------------------------


def listing(out: Console, document: Iterable[Document]) -> None:
    columns = ("network", "year", "input", "parameters", "MACs", "top-1 %", "weights")
    rows = [
        (
            network["name"],
            str(network["year"]),
            units.shape(network["input"]),
            f"{network['parameters']:,}",
            f"{network['macs']:,}",
            f"{network['top1']}" if network["top1"] else "",
            ", ".join(network["weights"]),
        )
        for network in document
    ]
    out.print(table.table(columns, rows, left=("weights",)))


def network(out: Console, document: Document, workload: Workload, stages: Sequence[tuple[str, str]]) -> None:
    """One entry of the zoo; `stages` are its layers' places in the paper's table, if it has one."""
    paper = document["paper"]
    home = f", arXiv {paper['arxiv']}" if paper["arxiv"] else ""
    who = f'{paper["authors"]}, "{paper["title"]}", {paper["venue"]}, {paper["year"]}{home}'
    out.print(f"[bold]{document['name']}[/] ({document['family']}): {who}")
    counts = f"{document['parameters']:,} parameters; {document['macs']:,} MACs"
    out.print(f"input {units.shape(document['input'])}; {counts}\n")
    if stages:
        out.print(table.stages(workload, stages))
    else:
        one_container = max(group.macs for group in workload.by("module").values()) > 0.9 * workload.total().macs
        out.print(table.cost(workload, "module", 2 if one_container else 1))
    if document["figures"]:
        rows = [
            (f["figure"], str(f["value"]), f["protocol"], f["source"] + ("" if f["status"] == "verified" else " (from memory)"))
            for f in document["figures"]
        ]
        out.print(table.table(("published", "value", "protocol", "source"), rows, left=("protocol", "source")))
    if document["weights"]:
        rows = [
            (
                w["tag"],
                w["source"],
                str(w.get("top1") or ""),
                w.get("file") or w.get("url") or w.get("hub", "a file of your own"),
            )
            for w in document["weights"]
        ]
        out.print(table.table(("weights", "source", "top-1 %", "where"), rows, left=("source", "where")))
    for text in document["deviations"]:
        out.print(f"differs from the paper: {text}")
