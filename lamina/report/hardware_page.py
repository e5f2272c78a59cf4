"""Networks on hardware as pages that stand alone."""

from collections.abc import Mapping
from typing import Any

from lamina import units
from lamina.report import hardware, page
from lamina.report.hardware_text import seconds
from lamina.report.page import Figure

Document = Mapping[str, Any]
OPTIMAL = (
    "Each mapping is the best of its declared space. Energy is in multiply-accumulates; nothing is fused and nothing stays on"
    " the chip between layers; layers without multiply-accumulates are charged their traffic alone."
)


def fit(document: Document, others: Mapping[str, Document], shown: str) -> str:
    """A network on an accelerator; `others` are its documents for each dataflow that the accelerator runs."""
    totals, title = document["totals"], f"{document['model']} on {document['accelerator']}"
    per = totals["energy"] / totals["macs"]
    boxes = [
        ("Cycles", units.si(totals["cycles"]), seconds(totals["seconds"]) or "no clock is given"),
        ("Energy", units.si(totals["energy"]), f"{per:.3g} per MAC"),
        ("Utilisation", f"{100 * totals['utilisation']:.1f} %", "MACs per cycle and processing element"),
        ("MACs", units.si(totals["macs"]), f"{totals['macs']:,}"),
    ]
    figures = []
    if others:
        text = (
            f"Each dataflow mapped for the least {document['objective']}. Where a row is dark, most of the array has nothing to"
            " do in that layer."
        )
        figures.append(("Utilisation", text, Figure(hardware.utilisation(others, title), hardware.UTILISATION)))
    figures.append(("Energy", "", Figure(hardware.energy(document, title), hardware.ENERGY)))
    figures.append(("What bounds each layer", "", Figure(hardware.bounds(document, title), hardware.BOUND)))
    columns = [
        ("layer", "t"),
        ("dataflow", "t"),
        ("utilisation", ""),
        ("cycles", ""),
        ("energy", ""),
        ("bound", "t"),
        ("mapping", "t"),
    ]
    rows = [
        [(None, x["name"]), (None, x["dataflow"]), (x["utilisation"], f"{100 * x['utilisation']:.1f} %" if x["macs"] else ""),
         (x["cycles"], units.si(x["cycles"])), (x["energy"], units.si(x["energy"])), (None, x["bound"]),
         (None, x["mapping"] or x["note"])]
        for x in document["layers"]
    ]  # fmt: skip
    nests = [(x["name"], "\n".join(nest["mapping"])) for x in document["layers"] for nest in x["nests"]]
    intro = f"One forward pass of an input {shown}, mapped for the least {document['objective']}. {OPTIMAL}"
    return page.render("fit.html", title=title, intro=intro, boxes=boxes, figures=figures,
                       tables=[("Layers", columns, rows)], nests=nests)  # fmt: skip


def compare(document: Document, heat: Mapping[str, Mapping[str, Document]]) -> str:
    """Networks and dataflows; `heat` has for each network its documents by dataflow."""
    title = f"What a fixed dataflow loses on {document['accelerator']}"
    names = document["dataflows"]
    figures = [("Energy and cycles", "", Figure(hardware.losses(document, title), "Multiples of the best dataflow"))]
    figures += [(name, "", Figure(hardware.utilisation(some, name), hardware.UTILISATION)) for name, some in heat.items()]
    columns = [("network", "t"), *((f"{key} {name}", "") for key in ("energy", "cycles") for name in names)]
    rows = []
    for network in document["networks"]:
        row: list[tuple[Any, str]] = [(None, network["model"])]
        for key in ("energy", "cycles"):
            for name in names:
                value = network["dataflows"][name][key]
                row.append((value or 0, "does not fit" if value is None else units.si(value)))
        rows.append(row)
    intro = f"Every layer under each dataflow, mapped once for the least energy and once for the fewest cycles. {OPTIMAL}"
    return page.render("fit.html", title=title, intro=intro, boxes=[], figures=figures,
                       tables=[("Totals of the layers with multiply-accumulates", columns, rows)], nests=[])  # fmt: skip


def roofline(document: Document, shown: str) -> str:
    totals, title = document["totals"], f"{document['model']} on {document['device']}"
    boxes = [
        ("Peak", units.per_second(document["peak"], "FLOP"), document["dtype"]),
        ("Bandwidth", units.per_second(document["bandwidth"], "B"), "measured" if document["measured_device"] else "published"),
        ("Predicted time", seconds(totals["seconds"]), "at least"),
    ]
    if totals["measured_seconds"]:
        boxes.append(
            (
                "Measured time",
                seconds(totals["measured_seconds"]),
                f"the prediction is {100 * totals['share_of_prediction']:.0f} % of it",
            )
        )
    columns = [
        ("layer", "t"),
        ("kind", "t"),
        ("FLOPs", ""),
        ("bytes", ""),
        ("FLOPs per byte", ""),
        ("attainable", ""),
        ("bound", "t"),
        ("time", ""),
    ]
    rows = [
        [(None, x["name"]), (None, x["kind"]), (x["operations"], units.si(x["operations"])),
         (x["bytes"], units.bytes_(x["bytes"])),
         (x["intensity"], f"{x['intensity']:.3g}"), (x["attainable"], units.per_second(x["attainable"], "FLOP")),
         (None, x["bound"]), (x["seconds"], seconds(x["seconds"]))]
        for x in document["layers"]
    ]  # fmt: skip
    figure = Figure(
        hardware.roofline(document, title), "Layers under the roof; the area of a disc is its share of the predicted time"
    )
    intro = (
        f"One forward pass of an input {shown}: every input, weight and output moved once. {'; '.join(document['sources'])}."
    )
    return page.render("fit.html", title=title, intro=intro, boxes=boxes, figures=[("Roofline", "", figure)],
                       tables=[("Layers", columns, rows)], nests=[])  # fmt: skip
