from typing import TYPE_CHECKING, Annotated, Literal

import typer

from lamina.cli import network, options, output
from lamina.cli.fit import Batch
from lamina.cli.network import DTYPES, Network
from lamina.files import write

if TYPE_CHECKING:
    from lamina.hardware.roofline import Machine

On = Annotated[
    str,
    typer.Option("--on", metavar="DEVICE|here", help="A name of hardware/devices, a TOML file, or this machine."),
]
Dtype = Annotated[Literal["fp32", "fp16", "bf16"], typer.Option("--dtype", help="Of weights and activations, and of the peak.")]


def roofline(
    model: options.Model,
    on: On = "here",
    input: options.Inputs = None,
    batch: Batch = None,
    dtype: Dtype = "fp32",
    past: options.Past = 0,
    plot: options.PlotFile = None,
    html: options.HtmlFile = None,
    csv: options.Csv = False,
    json: options.Json = False,
) -> None:
    """Which layers compute and which wait for memory: each one's attainable speed, and the least time of the network.

    With --on here the peak (a matrix product) and the bandwidth (a copy) of this machine are measured first, and the
    network is run: its time stands beside the prediction.
    """
    from lamina.hardware import roofline as model_of
    from lamina.report import hardware, hardware_page, hardware_rows, hardware_text
    from lamina.units import shape

    form = output.form(csv, json)
    device = None if on == "here" else model_of.load(on)
    net = network.find(model, input or (), dtype, past)
    workload = net.trace() if batch is None else net.trace(net.resized("batch", batch))
    measured = None
    if device is None:
        device = _here(dtype)
        measured = _run(net, batch, dtype)
    points = model_of.places(workload, device, dtype)
    document = model_of.document(workload, device, dtype, points, measured)
    shown = shape(workload.inputs[0].shape) if workload.inputs else net.shown
    output.emit(
        form, document, lambda out: hardware_text.roofline(out, document, shown), lambda: hardware_rows.roofline(document)
    )
    if plot:
        output.write_plot(
            plot, hardware.roofline, document, f"{net.name} on {'this machine' if device.measured else device.name}"
        )
    if html:
        write(html, hardware_page.roofline(document, shown))


def _here(dtype: str) -> "Machine":
    import torch

    from lamina.hardware import roofline
    from lamina.infer import machine

    return roofline.here(lambda: machine.measure(getattr(torch, DTYPES[dtype])), dtype)


def _run(net: Network, batch: int | None, dtype: str) -> float | None:
    """The time of the network itself on this machine; None for what has no module (an ONNX file)."""
    import torch

    from lamina.infer import machine

    module = net.source.module
    if module is None or net.source.path is not None or net.past:
        return None
    if net.source.form == "a zoo name":
        from lamina.zoo import registry

        module = registry.build(net.name)
    else:  # its weights were never made: any numbers take the same time
        module = module.to_empty(device="cpu")
        for tensor in (*module.parameters(), *module.buffers()):
            torch.nn.init.zeros_(tensor)
    sizes = net.sizes if batch is None else net.resized("batch", batch)
    kind = getattr(torch, DTYPES[dtype])
    inputs = tuple(
        torch.zeros(shape, dtype=torch.long) if net.is_tokens(name) else torch.rand(shape).to(kind)
        for name, shape in sizes.items()
    )
    return machine.network_seconds(module.to(kind), inputs)
