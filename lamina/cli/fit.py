from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import typer

from lamina.cli import network, options, output
from lamina.cli.network import Network
from lamina.cli.output import Document
from lamina.errors import InputError, LaminaError
from lamina.files import write

if TYPE_CHECKING:
    from lamina.hardware.accelerator import Accelerator
    from lamina.hardware.fit import Fit
    from lamina.workload import Workload

Each = Callable[..., Iterable[Any]]
BITS = {"fp32": 32, "fp16": 16, "bf16": 16, "int8": 8}

On = Annotated[str, typer.Option("--on", metavar="ACCELERATOR", help="A name of hardware/devices, or a TOML file of your own.")]
Objective = Annotated[
    Literal["energy", "cycles", "edp"], typer.Option("--objective", help="What is least; edp is their product.")
]
Dataflow = Annotated[
    Literal["ws", "os", "nlr", "rs", "flexible", "all"],
    typer.Option("--dataflow", help="Weight, output, row stationary, no local reuse, any loops; by default what it runs."),
]
Bits = Annotated[
    Literal["fp32", "fp16", "bf16", "int8"] | None,
    typer.Option("--dtype", help="Of every element; by default what the accelerator computes in."),
]
Batch = Annotated[int | None, typer.Option("--batch", min=1, metavar="N", help="The inputs' batch.")]
Sweep = Annotated[
    list[str] | None,
    typer.Option("--sweep", metavar="pe=8x8:32x32", help="Designs: pe, buffer, registers, bandwidth; again for another axis."),
]


def fit(
    models: options.Models,
    on: On = "flexible",
    objective: Objective = "energy",
    dataflow: Dataflow = "all",
    input: options.Inputs = None,
    batch: Batch = None,
    dtype: Bits = None,
    past: options.Past = 0,
    causal: options.Causal = "dense",
    compare: Annotated[bool, typer.Option("--compare", help="Networks by dataflows: least energy, fewest cycles.")] = False,
    sweep: Sweep = None,
    jobs: Annotated[int, typer.Option("--jobs", min=1, metavar="N", help="Processes that search.")] = 1,
    ray: Annotated[bool, typer.Option("--ray", help="Search on a Ray cluster (the extra `ray`).")] = False,
    yes: Annotated[bool, typer.Option("--yes", help="Run a sweep of any size.")] = False,
    nests: Annotated[bool, typer.Option("--nests", help="Print each mapping as a loop nest.")] = False,
    layer: Annotated[str | None, typer.Option("--layer", metavar="NAME", help="Print the loop nest of this layer.")] = None,
    timeloop: Annotated[
        Path | None, typer.Option("--timeloop", metavar="FOLDER", help="Write each mapping as Timeloop v4 YAML and as loops.")
    ] = None,
    plot: options.PlotFile = None,
    html: options.HtmlFile = None,
    csv: options.Csv = False,
    json: options.Json = False,
) -> None:
    """Which hardware a network fits: the best mapping of every layer, its cycles, energy, accesses and what bounds it.

    Mappings are optimal within a declared space of tilings and loop orders (docs/hardware.md).
    """
    from lamina.hardware import accelerator
    from lamina.hardware.sweep import Jobs

    form = output.form(csv, json)
    if len(models) > 1 and not compare:
        raise InputError("several networks: add --compare to set them side by side")
    if sweep and (compare or nests or layer or timeloop or html):
        raise InputError("--sweep prints a table of designs: it goes with --plot, --csv and --json only")
    device = accelerator.load(on)
    if dtype:
        device = accelerator.with_bits(device, BITS[dtype])
    accelerator.allowed(device, dataflow)
    nets = [network.find(model, input or (), None, past, causal == "exact") for model in models]
    with Jobs(jobs, ray) as work:
        if compare:
            return _compare(nets, batch, device, work.each, plot, html, form)
        net, workload = nets[0], _trace(nets[0], batch)
        if sweep:
            return _sweep(net, workload, device, sweep, objective, dataflow, work.each, yes, plot, form)
        _one(net, workload, device, objective, dataflow, work.each, (nests, layer, timeloop), plot, html, form)


def _trace(net: Network, batch: int | None) -> "Workload":
    return net.trace() if batch is None else net.trace(net.resized("batch", batch))


def _shown(net: Network, batch: int | None) -> str:
    from lamina.sources import written

    return net.shown if batch is None else written(net.resized("batch", batch))


def _one(
    net: Network, workload: "Workload", device: "Accelerator", objective: Any, dataflow: str, each: Each,
    more: tuple[bool, str | None, Path | None], plot: Path | None, html: Path | None, form: output.Form,
) -> None:  # fmt: skip
    from lamina.hardware import fit as networks
    from lamina.report import hardware, hardware_page, hardware_rows, hardware_text
    from lamina.units import shape

    nests, layer, timeloop = more
    found = networks.fit(workload, device, objective, dataflow, each)
    document = networks.document(found)
    if layer is not None and layer not in {x["name"] for x in document["layers"] if x["nests"]}:
        raise InputError(f"--layer {layer}: no layer with loops has this name; see the table without it")
    shown = shape(workload.inputs[0].shape) if workload.inputs else net.shown

    def text(out: Any) -> None:
        if nests or layer is not None:
            hardware_text.nests(out, document, layer)
        else:
            hardware_text.fit(out, document, shown)

    output.emit(form, document, text, lambda: hardware_rows.fit(document))
    if timeloop:
        _timeloop(found, timeloop)
    title = f"{found.model} on {device.name}"
    if plot:
        output.write_plot(plot, hardware.energy, document, title)
    if html:
        names = [name for name in device.dataflows if len(device.dataflows) > 1] if dataflow == "all" else []
        others = {name: one for name in names if (one := _document(workload, device, objective, name, each))}
        write(html, hardware_page.fit(document, others or {found.dataflow: document}, shown))


def _document(workload: "Workload", device: "Accelerator", objective: Any, dataflow: str, each: Each) -> Document | None:
    """The network under one dataflow; None where a layer does not fit with it."""
    from lamina.hardware import fit as networks

    try:
        return networks.document(networks.fit(workload, device, objective, dataflow, each))
    except InputError:
        return None


def _timeloop(found: "Fit", folder: Path) -> None:
    """One YAML and one text of loops for each different nest, named after its first layer."""
    from lamina.hardware import timeloop
    from lamina.hardware.mapping import written

    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise LaminaError(f"{folder} cannot be made: {error.strerror or error}") from error
    seen = set()
    for layer in found.layers:
        for i, part in enumerate(layer.parts):
            if part.found.tiling in seen:
                continue
            seen.add(part.found.tiling)
            name = layer.name.replace("/", ".") + (f".{i}" if len(layer.parts) > 1 else "")
            nest, tiling = part.nest, part.found.tiling
            write(folder / f"{name}.yaml", timeloop.mapping(nest, tiling, found.accelerator, f"{found.model}, {layer.name}"))
            write(folder / f"{name}.txt", written(tiling) + "\n")


def _compare(
    nets: Sequence[Network], batch: int | None, device: "Accelerator", each: Each, plot: Path | None, html: Path | None,
    form: output.Form,
) -> None:  # fmt: skip
    from lamina.hardware import fit as networks
    from lamina.report import hardware, hardware_page, hardware_rows, hardware_text

    if len(device.dataflows) < 2:
        only = ", ".join(device.dataflows)
        raise InputError(f"--compare sets dataflows side by side, and {device.name} runs {only} only: try --on flexible")
    found = {net.name: networks.by_dataflow(_trace(net, batch), device, each) for net in nets}
    document = networks.compared(found, device)
    rows = lambda: hardware_rows.dataflows(document)  # noqa: E731
    output.emit(form, document, lambda out: hardware_text.compare(out, document), rows)
    if plot:
        output.write_plot(plot, hardware.losses, document, f"What a fixed dataflow loses on {device.name}")
    if html:
        heat = {
            model: {name: networks.document(goals["energy"]) for name, goals in dataflows.items() if goals is not None}
            for model, dataflows in found.items()
        }
        write(html, hardware_page.compare(document, heat))


def _sweep(
    net: Network, workload: "Workload", device: "Accelerator", asked: Sequence[str], objective: Any, dataflow: str,
    each: Each, yes: bool, plot: Path | None, form: output.Form,
) -> None:  # fmt: skip
    from lamina.hardware import sweep
    from lamina.report import hardware, hardware_rows, hardware_text

    axes = [sweep.parse(text) for text in asked]
    number = sweep.count(axes)
    if number > sweep.MOST and not yes:
        raise InputError(f"--sweep: {number:,} designs, each a search of the whole network; add --yes to run them")
    points = sweep.run(sweep.variants(device, axes), workload, objective, dataflow, each)
    document = {
        "model": net.name, "accelerator": device.name, "objective": objective, "axes": [axis.name for axis in axes],
        "points": points,
    }  # fmt: skip
    output.emit(form, document, lambda out: hardware_text.sweep(out, document), lambda: hardware_rows.designs(document))
    if plot:
        output.write_plot(plot, hardware.front, document, f"{net.name} on variants of {device.name}")
