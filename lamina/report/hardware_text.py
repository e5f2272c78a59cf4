"""Networks on hardware as text for the terminal."""

from collections.abc import Mapping
from typing import Any

from rich.console import Console

from lamina import units
from lamina.report import table

Document = Mapping[str, Any]


def seconds(value: float | None) -> str:
    if value is None:
        return ""
    for scale, unit in ((1, "s"), (1e-3, "ms"), (1e-6, "us")):
        if value >= scale:
            return f"{value / scale:.3g} {unit}"
    return f"{value * 1e9:.3g} ns"


def fit(out: Console, document: Document, shown: str) -> None:
    """A row per layer that has loops or moves data, and the totals."""
    rows = []
    for layer in document["layers"]:
        share = 100 * layer["energy"] / max(document["totals"]["energy"], 1e-30)
        rows.append([
            layer["name"], layer["dataflow"], f"{100 * layer['utilisation']:.1f}" if layer["macs"] else "",
            units.si(layer["cycles"]), units.si(layer["energy"]), f"{share:.1f}", layer["bound"],
            layer["mapping"] or layer["note"],
        ])  # fmt: skip
    totals = document["totals"]
    rows.append([""] * 8)
    rows.append(["all layers", "", f"{100 * totals['utilisation']:.1f}", units.si(totals["cycles"]),
                 units.si(totals["energy"]), "100.0", "", ""])  # fmt: skip
    rows.append(["those with MACs", "", "", units.si(totals["cycles_of_products"]), units.si(totals["energy_of_products"]),
                 "", "", ""])  # fmt: skip
    out.print(f"[bold]{document['model']}[/], input {shown}, on {document['accelerator']}, least {document['objective']}")
    columns = ("layer", "dataflow", "utilisation, %", "cycles", "energy", "% of it", "bound", "mapping")
    out.print(table.table(columns, rows, left=("dataflow", "bound", "mapping")))
    time = f", {seconds(totals['seconds'])} at its clock" if totals["seconds"] else ""
    out.print(f"{totals['macs']:,} MACs{time}; {document['unit']}: {totals['energy'] / totals['macs']:.3g} per MAC")
    out.print(
        "each mapping is the best of its declared space (docs/hardware.md); layers without MACs are charged their traffic"
    )


def nests(out: Console, document: Document, name: str | None) -> None:
    """The mapping of each layer, or of those of this name, as loop nests."""
    for layer in document["layers"]:
        for nest in layer["nests"]:
            if name is not None and layer["name"] != name:
                continue
            loops = ", ".join(f"{dim} {size}" for dim, size in nest["loops"].items())
            out.print(f"[bold]{layer['name']}[/] ({loops}), {nest['dataflow']}, {nest['active']} elements active")
            out.print("\n".join(nest["mapping"]), markup=False)


def compare(out: Console, document: Document) -> None:
    """Networks by dataflows: energy and cycles as multiples of the best that the array can do."""
    names = document["dataflows"]
    rows = []
    for network in document["networks"]:
        for goal in ("energy", "cycles"):
            row = [network["model"] if goal == "energy" else "", f"least {goal}"]
            for name in names:
                value = network["dataflows"][name][f"{goal}_ratio"]
                row.append("does not fit" if value is None else f"{value:.2f}")
            best = ", ".join(f"{name} {number}" for name, number in network["best"][goal].items() if number)
            rows.append([*row, best])
    out.print(f"[bold]{document['accelerator']}[/]: multiples of the best, layers with multiply-accumulates")
    columns = ("network", "", *names, "layers that each fixed one is best for")
    out.print(table.table(columns, rows, left=("", "layers that each fixed one is best for")))


def sweep(out: Console, document: Document) -> None:
    names = document["axes"]
    rows = []
    for row in document["points"]:
        figures = ["", "", "", row["refusal"]] if row["refusal"] else [
            units.si(row["cycles"]), units.si(row["energy"]), f"{100 * row['utilisation']:.1f}", "*" if row["front"] else ""
        ]  # fmt: skip
        rows.append([*(str(row[name]) for name in names), units.si(row["area"]), *figures])
    out.print(f"[bold]{document['model']}[/] on variants of {document['accelerator']}, least {document['objective']}")
    out.print(table.table((*names, "area proxy", "cycles", "energy", "utilisation, %", "front"), rows, left=("front",)))
    out.print(
        "area in 16-bit MAC units: one per element, one per 32 bytes on the chip; *: no other design is as good in all three"
    )


def roofline(out: Console, document: Document, shown: str) -> None:
    rows = [
        [layer["name"], layer["kind"], units.si(layer["operations"]), units.bytes_(layer["bytes"]),
         f"{layer['intensity']:.3g}", units.per_second(layer["attainable"], "FLOP"), layer["bound"], seconds(layer["seconds"])]
        for layer in document["layers"]
    ]  # fmt: skip
    totals = document["totals"]
    out.print(f"[bold]{document['model']}[/], input {shown}, {document['dtype']}, on {document['device']}")
    for source in document["sources"]:
        out.print(("measured: " if document["measured_device"] else "source: ") + source, markup=False)
    roof = f"peak {units.per_second(document['peak'], 'FLOP')}, {units.per_second(document['bandwidth'], 'B')}"
    out.print(f"{roof}: compute-bound from {document['ridge']:.3g} FLOPs per byte")
    columns = ("layer", "kind", "FLOPs", "bytes", "FLOPs per byte", "attainable", "bound", "time")
    out.print(table.table(columns, rows, left=("kind", "bound")))
    share = 100 * totals["seconds_memory_bound"] / max(totals["seconds"], 1e-30)
    out.print(f"predicted: {seconds(totals['seconds'])} at least, {share:.0f} % of it bound by memory")
    if totals["measured_seconds"]:
        part = 100 * totals["share_of_prediction"]
        out.print(f"measured: {seconds(totals['measured_seconds'])}; the prediction is {part:.0f} % of it")
