from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from lamina.cli import network, options, output
from lamina.cli.output import Document
from lamina.cost import compare as side_by_side
from lamina.errors import InputError
from lamina.files import write

if TYPE_CHECKING:
    from lamina.workload import Workload

Point = tuple[str, str, float, int, float]


def compare(
    models: options.Models,
    input: options.Inputs = None,
    dtype: options.Dtype = None,
    optimizer: options.Optimizer = "adamw",
    diff: options.Diff = None,
    chart: options.Chart = None,
    plot: options.PlotFile = None,
    html: options.HtmlFile = None,
    csv: options.Csv = False,
    json: options.Json = False,
) -> None:
    """Networks side by side: parameters, MACs, activations, memory for inference and training, arithmetic intensity.

    Two versions of one network are also compared layer by layer.
    """
    from lamina.report import rows, text

    form = output.form(csv, json)
    names = _names(models)
    networks = [network.find(name, input or (), dtype) for name in names]
    workloads, trained = [net.trace() for net in networks], [net.trace(training=True) for net in networks]
    document = side_by_side.document(side_by_side.compare(*workloads, training=trained, optimizer=optimizer))
    points = _points(names)
    if chart == "accuracy" and not points:
        raise InputError("no accuracy is known for these networks: only the zoo's with public ImageNet weights have one")
    output.emit(form, document, lambda out: text.comparison(out, document, names, diff), lambda: rows.comparison(document))
    if plot:
        _plot(plot, names, workloads, points, chart or ("accuracy" if len(points) > 1 else "kinds"))
    if html:
        _html(html, document, workloads, points)


def _names(models: Sequence[str]) -> list[str]:
    """The networks' names; a family of the zoo that is not a network's name means all its members."""
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

    specs = [registry.spec(name) for name in names if name in registry.counts()]
    return [(s.name, s.family, s.macs, s.parameters, s.top1) for s in specs if s.top1 is not None]


def _plot(file: Path, names: Sequence[str], workloads: "Sequence[Workload]", points: Sequence[Point], chart: str) -> None:
    from lamina.report import cost_page
    from lamina.report.plot import kinds, scatter

    if chart == "accuracy":
        output.write_plot(file, scatter, points)
    else:
        output.write_plot(file, kinds, names, cost_page.by_kind(workloads))


def _html(file: Path, document: Document, workloads: "Sequence[Workload]", points: Sequence[Point]) -> None:
    from lamina.cost import record
    from lamina.report import cost_page, text

    documents = [record.document(w, w.name, w.inputs[0].shape, record.memory_figures(w)) for w in workloads]
    rows, changes = text.side_by_side(document), text.differences(document)
    write(file, cost_page.render_compare(workloads, documents, rows, changes, points))
