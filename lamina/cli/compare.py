from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import typer

from lamina import units
from lamina.cli import network, output
from lamina.cli.cost import Dtype, Inputs, Optimizer
from lamina.cli.output import Json
from lamina.errors import InputError
from lamina.files import write

if TYPE_CHECKING:
    from lamina.cost.compare import Change, Comparison
    from lamina.workload import Workload

SHOWN = 60  # lines of a layer diff on the terminal
Point = tuple[str, str, float, int, float]


def compare(
    models: Annotated[list[str], typer.Argument(help="Networks, as for `lamina cost`; a family stands for its members.")],
    input: Inputs = None,
    dtype: Dtype = None,
    optimizer: Optimizer = "adamw",
    diff: Annotated[bool | None, typer.Option("--diff/--no-diff", help="Two networks by layers; by default if alike.")] = None,
    chart: Annotated[
        Literal["accuracy", "kinds"] | None, typer.Option("--chart", help="What --plot draws; accuracy where it is known.")
    ] = None,
    plot: output.PlotFile = None,
    html: output.HtmlFile = None,
    csv: Annotated[bool, typer.Option("--csv", help="Print rows of comma-separated values and nothing else.")] = False,
    json: Json = False,
) -> None:
    """Networks side by side: parameters, MACs, activations, memory for inference and training, arithmetic intensity.

    Two versions of one network are also compared layer by layer.
    """
    from lamina.cost import record
    from lamina.cost.compare import compare as side_by_side

    if csv and json:
        raise InputError("--csv and --json are two forms of one output: give one")
    names = _names(models)
    networks = [network.find(name, input or (), dtype) for name in names]
    workloads, trained = [net.trace() for net in networks], [net.trace(training=True) for net in networks]
    comparison = side_by_side(*workloads, training=trained, optimizer=optimizer)
    points = _points(names)
    if chart == "accuracy" and not points:
        raise InputError("no accuracy is known for these networks: it is for the zoo's with public ImageNet weights")
    if json:
        output.print_json(_document(comparison))
    elif csv:
        print(record.to_csv([{**row, "input": _input(row)} for row in comparison.rows]), end="")
    else:
        _print(comparison, names, diff)
    if plot:
        _plot(plot, names, workloads, points, chart or ("accuracy" if len(points) > 1 else "kinds"))
    if html:
        _html(html, comparison, workloads, points)


def _names(models: Sequence[str]) -> list[str]:
    """The networks' names; a family of the zoo that is no network's name stands for its members."""
    from lamina.zoo import registry

    names: list[str] = []
    for model in models:
        family = model in registry.FAMILIES and model not in registry.counts()
        names += registry.names(model) if family else [model]
    names = list(dict.fromkeys(names))
    if len(names) < 2:
        raise InputError("give at least two different networks to compare, or a family of the zoo")
    return names


def _points(names: Sequence[str]) -> list[Point]:
    """What the scatter draws: (name, family, MACs, parameters, best published single-crop top-1 accuracy)."""
    from lamina.zoo import registry

    points = []
    for name in names:
        if name in registry.counts():
            spec = registry.spec(name)
            best = max((f["value"] for f in spec.figures if f["figure"] == "top1"), default=None)
            if best is not None:
                points.append((name, spec.family, spec.macs, spec.parameters, best))
    return points


def _input(row: Any) -> str:
    return " ".join(units.shape(tuple(shape)) for shape in row["input"])


COLUMNS = {
    "network": "network", "input": "input", "parameters": "parameters", "macs": "MACs", "backward_macs": "MACs backward",
    "activations": "activations", "peak_activation_bytes": "peak", "fused_peak_activation_bytes": "peak, fused",
    "inference_bytes": "inference", "training_bytes": "training", "intensity": "FLOPs/byte",
}  # fmt: skip


def _rows(comparison: "Comparison") -> list[list[str]]:
    def cell(row: Any, key: str) -> str:
        value = _input(row) if key == "input" else row[key]
        if key == "intensity":
            return f"{value:.3g}"
        return str(value) if isinstance(value, str) else units.bytes_(value) if key.endswith("bytes") else f"{value:,}"

    return [[cell(row, key) for key in COLUMNS] for row in comparison.rows]


def _print(comparison: "Comparison", names: Sequence[str], diff: bool | None) -> None:
    from lamina.report.table import console, table

    out = console()
    out.print(table(list(COLUMNS.values()), _rows(comparison)))
    if not comparison.changes or diff is False:
        return
    differences, shared = comparison.differences, comparison.shared
    if diff is None and shared < 0.3:
        return out.print(f"{100 * shared:.0f} % of the layers are alike: no layer diff (--diff shows it)")
    if not differences:
        return out.print("all layers are the same")
    rows = [_line(change) for change in differences]
    out.print(table(("", *names, "difference"), rows if diff else rows[:SHOWN], left=(*names, "difference")))
    if len(rows) > SHOWN and not diff:
        out.print(f"and {len(rows) - SHOWN} more (--diff shows all)")
    out.print(f"{len(differences)} of {len(comparison.changes)} layers differ")


def _line(change: "Change") -> tuple[str, str, str, str]:
    from lamina.cost.compare import describe

    before, after = change.before.name if change.before else "", change.after.name if change.after else ""
    return change.status, before, after, describe(change)


def _document(comparison: "Comparison") -> dict[str, Any]:
    lines = [dict(zip(("status", "before", "after", "difference"), _line(c), strict=True)) for c in comparison.changes]
    document: dict[str, Any] = {"networks": list(comparison.rows)}
    return document | ({"shared": comparison.shared, "layers": lines} if lines else {})


def _plot(file: Path, names: Sequence[str], workloads: "Sequence[Workload]", points: Sequence[Point], chart: str) -> None:
    from lamina.report import cost_page
    from lamina.report.plot import kinds, scatter

    if chart == "accuracy":
        output.write_plot(file, scatter, points)
    else:
        output.write_plot(file, kinds, names, cost_page.by_kind(workloads))


def _html(file: Path, comparison: "Comparison", workloads: "Sequence[Workload]", points: Sequence[Point]) -> None:
    from lamina.cost import record
    from lamina.report import cost_page

    documents = [record.document(w, w.name, w.inputs[0].shape, record.memory_figures(w)) for w in workloads]
    rows = [list(COLUMNS.values()), *_rows(comparison)]
    changes = [_line(change) for change in comparison.differences]
    write(file, cost_page.render_compare(workloads, documents, rows, changes, points))
