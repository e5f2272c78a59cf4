from pathlib import Path
from typing import Annotated, Any, Literal

import typer

from lamina import units
from lamina.cli import figures as other_tools
from lamina.cli import network, output, sizes
from lamina.cli.network import Network
from lamina.cli.output import Json
from lamina.cost import conventions, record
from lamina.errors import InputError, LaminaError
from lamina.files import write
from lamina.workload import Workload

By = Literal["layer", "module", "kind"]
Optimizer = Annotated[
    Literal["sgd", "momentum", "adam", "adamw"], typer.Option("--optimizer", help="Whose states training memory has.")
]
Inputs = Annotated[
    list[str] | None,
    typer.Option("--input", metavar="[NAME=]1x3x224x224", help="An input's shape, batch first; again for further inputs."),
]
Dtype = Annotated[
    Literal["fp32", "fp16", "bf16", "fp64"] | None,
    typer.Option("--dtype", help="Of weights and activations; fp32 by default."),
]


def cost(
    model: Annotated[
        str,
        typer.Argument(
            help="A zoo name, timm:NAME, hf:ID_OR_DIRECTORY, FILE.onnx, FILE.py:callable or package.module:callable."
        ),
    ],
    input: Inputs = None,
    by: Annotated[By | None, typer.Option("--by", help="What a row is: by default a module, of --csv a layer.")] = None,
    depth: Annotated[int, typer.Option("--depth", min=1, help="Parts of the module path, with --by module.")] = 1,
    dtype: Dtype = None,
    past: Annotated[int, typer.Option("--past", min=0, metavar="N", help="Tokens in a key/value cache.")] = 0,
    causal: Annotated[
        Literal["dense", "exact"], typer.Option("--causal", help="Causal attention: all of the square, or only its half.")
    ] = "dense",
    strict: Annotated[bool, typer.Option("--strict", help="Fail if an operator has no rule.")] = False,
    training: Annotated[bool, typer.Option("--training", help="Trace in training mode, and say what a step needs.")] = False,
    optimizer: Optimizer = "adamw",
    master: Annotated[bool, typer.Option("--master", help="Train 16-bit weights with fp32 copies and states.")] = False,
    view: Annotated[
        str | None,
        typer.Option("--view", metavar="TOOL", help=f"What a tool prints: {', '.join(conventions.VIEWS)}, all."),
    ] = None,
    explain: Annotated[
        str | None, typer.Option("--explain", metavar="4.11G", help="Which convention gives a published figure.")
    ] = None,
    sweep: Annotated[
        str | None,
        typer.Option("--sweep", metavar="resolution=128:512:32", help="Over resolution, batch or sequence: a range or a list."),
    ] = None,
    fit_under: Annotated[
        str | None,
        typer.Option("--fit-under", metavar="5GMACs|8GB", help="The largest input within MACs, or batch within memory."),
    ] = None,
    max_macs: Annotated[str | None, typer.Option("--max-macs", metavar="5G", help="Fail above this.")] = None,
    max_params: Annotated[str | None, typer.Option("--max-params", metavar="30M", help="Fail above this.")] = None,
    max_memory: Annotated[
        str | None, typer.Option("--max-memory", metavar="2GB", help="Fail above this: inference, or with --training a step.")
    ] = None,
    plot: output.PlotFile = None,
    html: output.HtmlFile = None,
    csv: Annotated[bool, typer.Option("--csv", help="Print rows of comma-separated values and nothing else.")] = False,
    json: Json = False,
) -> None:
    """Weights, MACs, activations and memory, exactly: one forward pass traced without computing it.

    A MAC is one multiply-accumulate of a convolution, a linear layer or a matrix product (attention's two included); no
    bias, norm, activation or pooling. 1 MAC = 2 FLOPs.
    """
    if csv and json:
        raise InputError("--csv and --json are two forms of one output: give one")
    if len([option for option in (view, explain, sweep, fit_under) if option]) > 1:
        raise InputError("--view, --explain, --sweep and --fit-under each print a table of their own: give one")
    limits = _limits(max_macs, max_params, max_memory)
    format = "json" if json else "csv" if csv else "text"
    net = network.find(model, input or (), dtype, past, causal == "exact")
    if sweep:
        return sizes.run(net, sweep, training, optimizer, master, plot, format)
    if fit_under:
        return sizes.fit(net, fit_under, training, optimizer, master, format)
    workload = net.trace()
    if strict and workload.coverage.unknown:
        raise LaminaError(_unknown(workload))
    trained = net.trace(training=True) if training or (html and net.source.path is None) else None
    figures = record.memory_figures(workload, trained, optimizer, master)
    if view:
        other_tools.view(net, workload, view, format)
    elif explain:
        other_tools.explain(net, workload, explain, format)
    else:
        _print(net, workload, figures, by, depth, format)
    if plot:
        from lamina.report.plot import profile

        output.write_plot(plot, profile, workload, workload.live_bytes, net.name)
    if html:
        _html(net, workload, figures, html)
    _check(net, workload, figures, limits)


# ---- the usual output ---------------------------------------------------------------------------------------------


def _print(net: Network, workload: Workload, figures: dict[str, Any], by: By | None, depth: int, format: str) -> None:
    if format == "json":
        output.print_json(record.document(workload, net.name, net.shape, figures, depth))
    elif format == "csv":
        print(record.groups_csv(workload, by, depth) if by in ("module", "kind") else record.layers_csv(workload), end="")
    else:
        _print_table(net, workload, figures, by or "module", depth)


def _print_table(net: Network, workload: Workload, figures: dict[str, Any], by: By, depth: int) -> None:
    from lamina.report import table

    out = table.console()
    total = workload.total()
    title = f"[bold]{net.name}[/], input {net.shown}, {net.type}: {total.macs:,} MACs, {total.parameters:,} parameters"
    out.print(title)
    out.print(table.cost(workload, by, depth))
    out.print(f"{total.flops:,} FLOPs (2 a MAC), {total.intensity:.3g} a byte moved; {total.backward_macs:,} MACs backward")
    peak, fused = (units.bytes_(figures[key]) for key in ("peak_activation_bytes", "fused_peak_activation_bytes"))
    out.print(f"peak live activations {peak}, in eager order; {fused} with elementwise operations fused")
    out.print(f"memory for inference {units.bytes_(figures['inference_bytes'])}, weights and peak")
    if "training" in figures:
        step = figures["training"]
        parts = ("weights", "gradients", "states", "master", "saved")
        text = ", ".join(f"{part} {units.bytes_(step[part])}" for part in parts if step[part])
        out.print(f"memory for training with {step['optimizer']} {units.bytes_(step['total'])}: {text}")
    if workload.parameters_unused:
        out.print(f"{workload.parameters_unused:,} of the parameters are not used by this call")
    if workload.parameters_active != total.parameters:
        out.print(f"{workload.parameters_active:,} of the parameters are active for a token: a router chooses among experts")
    if total.trainable != total.parameters:
        out.print(f"{total.trainable:,} of the parameters are trainable")
    for operator in workload.coverage.unknown:
        out.print(f"not counted, no rule: {operator.op} in {operator.layer}, inputs {list(operator.inputs)}")


def _unknown(workload: Workload) -> str:
    found: dict[str, list[str]] = {}
    for operator in workload.coverage.unknown:
        found.setdefault(operator.op, []).append(operator.layer)
    listed = "; ".join(
        f"{op} in {places[0]}" + (f" and {len(places) - 1} more" if len(places) > 1 else "") for op, places in found.items()
    )
    return f"{len(found)} operator{'s have' if len(found) > 1 else ' has'} no rule: {listed}"


def _html(net: Network, workload: Workload, figures: dict[str, Any], file: Path) -> None:
    from lamina.report import cost_page

    document = record.document(workload, net.name, net.shape, figures)
    write(file, cost_page.render_cost(workload, document, workload.live_bytes, net.shown, net.type))


# ---- limits -------------------------------------------------------------------------------------------------------


def _limits(macs: str | None, parameters: str | None, memory: str | None) -> dict[str, float]:
    limits = {}
    for option, text in (("--max-macs", macs), ("--max-params", parameters), ("--max-memory", memory)):
        if text is not None:
            try:
                limits[option] = units.parse(text)
            except ValueError as error:
                raise InputError(f"{option}: {error}") from error
    return limits


def _check(net: Network, workload: Workload, figures: dict[str, Any], limits: dict[str, float]) -> None:
    """Every limit that is exceeded, in one error."""
    total = workload.total()
    needed = figures["training"]["total"] if "training" in figures else figures["inference_bytes"]
    found = {"--max-macs": (total.macs, "MACs"), "--max-params": (total.parameters, "parameters")}
    found["--max-memory"] = (needed, "bytes of memory")
    exceeded = [
        f"{found[option][0]:,} {found[option][1]} are {100 * (found[option][0] / limit - 1):.3g} % over {limit:,.0f} ({option})"
        for option, limit in limits.items()
        if found[option][0] > limit
    ]
    if exceeded:
        raise LaminaError(f"{net.name} exceeds its limits: {'; '.join(exceeded)}")
