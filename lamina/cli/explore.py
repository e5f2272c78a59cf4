import sys
from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Annotated

import typer

from lamina.cli import network, options
from lamina.cli.network import DTYPES, Network
from lamina.errors import InputError
from lamina.files import write
from lamina.workload import Workload

Models = Annotated[list[str] | None, typer.Argument(metavar="[MODEL...]", help="Networks, as for `lamina cost`.")]
On = Annotated[
    str | None, typer.Option("--on", metavar="ACCELERATOR", help="With --html: map every layer on it, too (`lamina fit`).")
]
MOST = 8  # networks of one page
SHORT = {long: short for short, long in DTYPES.items()}


def explore(
    models: Models = None,
    html: options.HtmlFile = None,
    input: options.Inputs = None,
    dtype: options.Dtype = None,
    past: options.Past = 0,
    on: On = None,
    weights: options.Weights = None,
    host: Annotated[str, typer.Option("--host", help="Where to listen.")] = "127.0.0.1",
    port: Annotated[int, typer.Option("--port", min=0, max=65535, help="0 takes a free one.")] = 8080,
    allow_host: Annotated[
        list[str] | None, typer.Option("--allow-host", metavar="NAME", help="A name that browsers call this machine by.")
    ] = None,
    browser: Annotated[bool, typer.Option("--browser/--no-browser", help="Open the page.")] = True,
) -> None:
    """A page that shows a network whole: its graph, unfolding by modules, coloured by any figure; every layer's formula, loops
    and tensors; memory over time; the roofline; two networks side by side; and networks at work.

    With --html as one file that needs no server, and does everything but change sizes and run networks.
    """
    names = list(dict.fromkeys(models or ["resnet50"]))
    if len(names) > MOST:
        raise InputError(f"{len(names)} networks: one page holds at most {MOST}")

    def find(name: str) -> Network:
        return network.find(name, input or (), dtype, past) if name in names else network.find(name)

    if html is None:
        if on is not None:
            raise InputError("--on goes with --html: the page of a server maps on what is chosen in it")
        return serve(find, names, weights, host, port, allow_host or (), browser)
    if weights is not None:
        raise InputError("--weights are for networks that run, which they do not in a file: leave out --html")
    write(html, page([find(name) for name in names], on))
    print(html.resolve())


def page(nets: Sequence[Network], on: str | None = None) -> str:
    """The self-contained page of these networks, each mapped on the accelerator `on`."""
    from lamina.serve.explorer import gather
    from lamina.serve.explorer import page as pages

    traced = [net.trace() for net in nets]
    fits = [{"fit": gather.mapping(workload, on)} if on else {} for workload in traced]
    documents = [gather.described(net, work, at(net), fit) for net, work, fit in zip(nets, traced, fits, strict=True)]
    values = pages.data(
        documents,
        gather.pairs({net.name: work for net, work in zip(nets, traced, strict=True)}),
        gather.machines(),
        [],
        gather.zoo(),
    )
    return pages.document(values, f"{' and '.join(net.name for net in nets)} · Lamina")


def at(net: Network) -> Callable[[int, str], Workload] | None:
    """The trace of a network at a batch and a type; None for a file, which has its own."""
    if net.source.path is not None:
        return None

    def trace(batch: int, dtype: str) -> Workload:
        return replace(net, dtype=SHORT[dtype]).trace(net.resized("batch", batch))

    return trace


def serve(
    find: Callable[[str], Network],
    names: Sequence[str],
    weights: str | None,
    host: str,
    port: int,
    hosts: Sequence[str],
    browser: bool,
) -> None:
    """Answer at the address until a signal comes; the browser is opened once the first network is traced."""
    from lamina.cli.server import require, say

    for name in names:
        find(name)  # a wrong name is an error of this call, not of the page
    require()
    from lamina.serve import app, run
    from lamina.serve.explorer.routes import Explorer
    from lamina.serve.models import Models

    def lecture() -> str:
        from lamina.lecture.html import page

        return page("/explore/")

    listening = run.bind(host, port)
    url = run.address(listening) + "/explore/"

    if not run.is_local(listening):
        say(f"whoever reaches {url} may use it, and it asks for no token")

    def loaded(models: Models) -> None:
        say(f"{', '.join(names)} at {url}")
        if browser and sys.stderr.isatty():
            import webbrowser

            webbrowser.open(url)

    explorer = Explorer(find, at, names, weights, lecture=lecture)
    explorer.warm()
    routes = explorer.routes(home=True)
    run.serve(run.Server(app.application(Models([]), routes=routes, hosts=hosts, loaded=loaded), 0.0), listening)
