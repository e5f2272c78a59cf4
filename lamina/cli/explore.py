from collections.abc import Sequence
from dataclasses import replace
from typing import Annotated

import typer

from lamina.cli import network, options
from lamina.cli.network import DTYPES, Network
from lamina.errors import InputError
from lamina.files import write
from lamina.workload import Workload

Models = Annotated[list[str] | None, typer.Argument(metavar="[MODEL...]", help="Networks, as for `lamina cost`.")]
On = Annotated[str | None, typer.Option("--on", metavar="ACCELERATOR", help="Map every layer on it, too (`lamina fit`).")]
MOST = 8  # networks of one page
SHORT = {long: short for short, long in DTYPES.items()}


def explore(
    models: Models = None,
    html: options.HtmlFile = None,
    input: options.Inputs = None,
    dtype: options.Dtype = None,
    past: options.Past = 0,
    on: On = None,
) -> None:
    """A page that shows a network whole: its graph, unfolding by modules, coloured by any figure; every layer's formula, loops
    and tensors; memory over time; the roofline; two networks side by side. It needs no network and no server.
    """
    names = list(dict.fromkeys(models or ["resnet50"]))
    if len(names) > MOST:
        raise InputError(f"{len(names)} networks: one page holds at most {MOST}")
    if html is None:
        raise InputError("give --html FILE: the page is written there")
    write(html, page([network.find(name, input or (), dtype, past) for name in names], on))
    print(html.resolve())


def page(nets: Sequence[Network], on: str | None = None) -> str:
    """The self-contained page of these networks, each mapped on the accelerator `on`."""
    from lamina.serve.explorer import gather
    from lamina.serve.explorer import page as pages

    documents = [gather.network(net, at(net), _fit(net, on)) for net in nets]
    compared = gather.pairs([net.trace() for net in nets])
    values = pages.data(documents, compared, gather.machines(), [], gather.zoo())
    return pages.document(values, f"{' and '.join(net.name for net in nets)} · Lamina")


def _fit(net: Network, on: str | None) -> dict[str, object]:
    from lamina.serve.explorer import gather

    return {"fit": gather.mapping(net.trace(), on)} if on else {}


def at(net: Network):
    """The trace of a network at a batch and a type; None for a file, which has its own."""
    if net.source.path is not None:
        return None

    def trace(batch: int, dtype: str) -> Workload:
        return replace(net, dtype=SHORT[dtype]).trace(net.resized("batch", batch))

    return trace
