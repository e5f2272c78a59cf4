import json as json_
from dataclasses import dataclass
from pathlib import Path

from lamina.cli import network, options, output
from lamina.cli.network import Network
from lamina.cli.output import Document, Form
from lamina.cost import conventions, limits, memory, record
from lamina.cost import sweep as sizes
from lamina.cost.memory import Training
from lamina.errors import InputError, LaminaError, reason
from lamina.files import write
from lamina.workload import Workload


def cost(
    model: options.Model,
    input: options.Inputs = None,
    args: options.Args = None,
    data: options.Sample = None,
    by: options.By = None,
    depth: options.Depth = None,
    tree: options.Tree = False,
    dtype: options.Dtype = None,
    past: options.Past = 0,
    causal: options.Causal = "dense",
    device: options.Eager = "cpu",
    run: options.Run = False,
    strict: options.Strict = None,
    training: options.Training = False,
    optimizer: options.Optimizer = "adamw",
    master: options.Master = False,
    view: options.View = None,
    explain: options.Explain = None,
    sweep: options.Sweep = None,
    fit_under: options.FitUnder = None,
    max_macs: options.MaxMacs = None,
    max_params: options.MaxParams = None,
    max_memory: options.MaxMemory = None,
    plot: options.PlotFile = None,
    html: options.HtmlFile = None,
    times: options.TimesFile = None,
    csv: options.Csv = False,
    json: options.Json = False,
) -> None:
    """Weights, MACs, activations and memory, exactly: one forward pass traced without computing it.

    A MAC is one multiply-accumulate of a convolution, a linear layer or a matrix product (attention's two included); no
    bias, norm, activation or pooling. 1 MAC = 2 FLOPs.
    """
    form = output.form(csv, json)
    _check_tables(view, explain, sweep, fit_under)
    if times and not html:
        raise InputError("--times is for the page: add --html FILE")
    within = limits.parse({"--max-macs": max_macs, "--max-params": max_params, "--max-memory": max_memory})
    net = network.find(model, input or (), dtype, past, causal == "exact", device, args or (), data, run)
    step = Step(training, optimizer, master)
    if sweep:
        return _sweep(net, sweep, step, plot, form)
    if fit_under:
        return _fit(net, fit_under, step, form)
    workload = net.trace()
    timed = _times(times, workload) if times else None
    if strict and workload.coverage.unknown:
        raise LaminaError(_unknown(workload))
    document = _document(net, workload, step, bool(html), depth or 1)
    if view:
        _view(net, workload, view, form)
    elif explain:
        _explain(net, workload, explain, form)
    else:
        _whole(net, workload, document, by, depth, tree, form)
    _files(net, workload, document, plot, html, timed)
    if within:
        _check(document, workload, within, strict is None)


@dataclass(frozen=True)
class Step:
    """How a training step is counted, if it is."""

    asked: bool
    optimizer: str
    master: bool

    def memory(self, workload: Workload) -> Training:
        return memory.training(workload, self.optimizer, self.master)


def _document(net: Network, workload: Workload, step: Step, page: bool, depth: int) -> Document:
    """The cost; a page of a network has the memory of a training step in any case."""
    trained = net.trace(training=True) if step.asked or (page and net.source.path is None) else None
    needed = record.memory_figures(workload, trained, step.optimizer, step.master)
    return record.document(workload, net.name, net.shape, needed, depth)


# ---- one function per mode ------------------------------------------------------------------------------------------------


def _whole(
    net: Network, workload: Workload, document: Document, by: str | None, depth: int | None, tree: bool, form: Form
) -> None:
    from lamina.report import rows, table, text

    layers = table.tree(workload, depth) if tree else table.cost(workload, by or "module", depth or 1)
    output.emit(
        form,
        document,
        lambda out: text.cost(out, document, workload, net.shown, net.type, layers),
        lambda: rows.cost(document, by),
    )


def _view(net: Network, workload: Workload, tool: str, form: Form) -> None:
    from lamina.report import rows, text

    document = conventions.document(workload, tool, net.name, net.shape)
    total = workload.total()
    output.emit(form, document, lambda out: text.views(out, document, net.shown, total), lambda: rows.views(document))


def _explain(net: Network, workload: Workload, figure: str, form: Form) -> None:
    from lamina.cost import explain
    from lamina.report import rows, text

    found = explain.explain(workload, figure, network.with_heads(net))
    document = explain.document(found, net.name, net.shape)
    output.emit(form, document, lambda out: text.explanation(out, document, net.shown), lambda: rows.explanation(document))


def _sweep(net: Network, asked: str, step: Step, plot: Path | None, form: Form) -> None:
    from lamina.report import rows, text
    from lamina.sources import written

    plan = sizes.parse(asked)
    shapes = {size: net.resized(plan.axis, size) for size in plan.sizes}
    points = sizes.run(plan, lambda size: net.trace(shapes[size]))
    document = sizes.document(
        plan,
        points,
        net.name,
        {size: written(inputs) for size, inputs in shapes.items()},
        (lambda size: step.memory(net.trace(shapes[size], training=True))) if step.asked else None,
    )
    output.emit(form, document, lambda out: text.sweep(out, document, net.type), lambda: rows.sweep(document))
    if plot:
        from lamina.report.plot import growth

        taken = [row for row in document["points"] if not row["refusal"]]
        titles = {"macs": "MACs", "inference_bytes": "memory for inference", "training_bytes": "memory for training"}
        series = {title: [row[key] for row in taken] for key, title in titles.items() if key in taken[0]}
        output.write_plot(plot, growth, plan.axis, [row[plan.axis] for row in taken], series, net.name)


def _fit(net: Network, limit: str, step: Step, form: Form) -> None:
    from lamina.report import rows, text
    from lamina.sources import written

    axis, bound = sizes.parse_fit(limit, net.tokens)

    def figure(workload: Workload) -> int:
        if bound.quantity == "MACs":
            return workload.total().macs
        return step.memory(workload).total if step.asked else memory.inference_bytes(workload)

    found = sizes.largest(
        lambda size: net.trace(net.resized(axis, size), step.asked), figure, bound.value, net.size(axis), axis
    )
    shapes = net.resized(axis, found.size)
    document = sizes.fit_document(found, axis, bound, net.name, next(iter(shapes.values())))
    shown = written(shapes)
    output.emit(form, document, lambda out: text.fit(document, shown, step.asked), lambda: rows.fit(document, shown))


def _times(file: Path, workload: Workload) -> Document:
    """What `lamina bench --layers --json` has printed of this network. Raises `InputError`."""
    try:
        found = json_.loads(file.read_text(encoding="utf-8"))
        rows = {str(row["name"]): (float(row["median_ms"]), float(row["times_roofline"])) for row in found["layers"]}
        batch = int(found["batch"])
    except OSError as error:
        raise InputError(f"--times {file} cannot be read: {reason(error)}") from error
    except (ValueError, KeyError, TypeError) as error:
        raise InputError(f"--times {file}: this is not what `lamina bench MODEL --layers --json` prints") from error
    strangers = set(rows) - {layer.module for layer in workload.layers}
    if len(strangers) == len(rows):
        raise InputError(f"--times {file}: none of its layers is one of {workload.name}: they are of {found.get('model')}")
    return {"rows": rows, "batch": batch}


def _files(
    net: Network, workload: Workload, document: Document, plot: Path | None, html: Path | None, times: Document | None
) -> None:
    if plot:
        from lamina.report.plot import profile

        output.write_plot(plot, profile, workload, workload.live_bytes, net.name)
    if html:
        from lamina.report import cost_page

        write(html, cost_page.render_cost(workload, document, workload.live_bytes, net.shown, net.type, times))


def _check_tables(*asked: str | None) -> None:
    if len([option for option in asked if option]) > 1:
        raise InputError("--view, --explain, --sweep and --fit-under exclude each other: give one")


def _check(document: Document, workload: Workload, within: dict[str, float], strict: bool) -> None:
    """Fail above a limit, and if `strict` where operators without a rule may be above it."""
    faults = limits.excesses(document, within)
    if faults:
        faults = [f"{document['model']} exceeds its limits: {'; '.join(faults)}"]
    if strict and workload.coverage.unknown:
        faults.append(f"{_unknown(workload)} (--no-strict holds to the limits what is counted)")
    if faults:
        raise LaminaError("; ".join(faults))


def _unknown(workload: Workload) -> str:
    found: dict[str, list[str]] = {}
    for operator in workload.coverage.unknown:
        found.setdefault(operator.op, []).append(operator.layer)
    listed = "; ".join(
        f"{op} in {places[0]}" + (f" and {len(places) - 1} more" if len(places) > 1 else "") for op, places in found.items()
    )
    return f"{len(found)} operator{'s have' if len(found) > 1 else ' has'} no rule: {listed}"
