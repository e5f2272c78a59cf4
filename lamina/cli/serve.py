"""`lamina serve`: the command line of `lamina.serve`."""

import gc
import sys
from collections.abc import Sequence
from typing import TYPE_CHECKING, Annotated, Any

import typer

from lamina.cli.memory import keep_freed
from lamina.cli.options import Device, Engine, Json, Threads, Weights
from lamina.cli.output import print_json
from lamina.cli.server import require, say
from lamina.errors import InputError

if TYPE_CHECKING:
    from starlette.routing import BaseRoute

    from lamina.serve.guard import Limits


def serve(
    models: Annotated[
        list[str], typer.Argument(metavar="[NAME=]MODEL...", help="Networks, as for `lamina run`, or translators.")
    ],
    weights: Weights = None,
    engine: Engine = "torch",
    threads: Threads = None,
    device: Device = "cpu",
    beams: Annotated[int, typer.Option("--beams", min=1, help="Of a translation's search; 1 is greedy.")] = 5,
    host: Annotated[
        str, typer.Option("--host", help="Where to listen; 0.0.0.0 for every network this machine is in.")
    ] = "127.0.0.1",
    port: Annotated[int, typer.Option("--port", min=0, max=65535, help="0 takes a free one.")] = 8000,
    batch: Annotated[int, typer.Option("--batch", min=1, help="Inputs run together, and in one request, at most.")] = 16,
    latency: Annotated[
        float, typer.Option("--latency", min=0.001, help="Seconds that an accepted request waits, expected: beyond it 429.")
    ] = 1.0,
    deadline: Annotated[
        float, typer.Option("--deadline", min=0.001, help="Seconds after which a request is answered 503.")
    ] = 30.0,
    max_body: Annotated[float, typer.Option("--max-body", min=0.001, help="Megabytes of one request.")] = 64.0,
    max_pixels: Annotated[float, typer.Option("--max-pixels", min=0.001, help="Millions of an image.")] = 25.0,
    allow_host: Annotated[
        list[str] | None, typer.Option("--allow-host", metavar="NAME", help="A name that clients call this machine by; * any.")
    ] = None,
    allow_origin: Annotated[
        list[str] | None,
        typer.Option("--allow-origin", metavar="URL", help="A site whose pages may ask, such as https://example.org."),
    ] = None,
    token: Annotated[
        str | None,
        typer.Option("--token", envvar="LAMINA_TOKEN", show_envvar=True, help="Ask for Authorization: Bearer TOKEN."),
    ] = None,
    drain: Annotated[float, typer.Option("--drain", min=0, help="Seconds to go on after SIGTERM, not ready any more.")] = 1.0,
    ray: Annotated[bool, typer.Option("--ray", help="Deploy on Ray Serve instead.")] = False,
    replicas: Annotated[int, typer.Option("--replicas", min=1, help="Processes, with --ray.")] = 1,
    explore: Annotated[
        bool | None,
        typer.Option("--explore/--no-explore", help="The explorer at /explore/; by default where only this machine asks."),
    ] = None,
    json: Json = False,
) -> None:
    """Serve networks over HTTP: the Open Inference Protocol, images and sentences; and the explorer's page of them."""
    if weights is not None and len(models) > 1:
        raise InputError("--weights are one network's: serve the others without it, or each by a server of its own")
    if token == "":
        raise InputError("--token is empty")
    require()
    from lamina.serve import app, guard, run
    from lamina.serve.models import Models, wanted

    found = wanted(models, weights=weights, engine=engine, threads=threads, device=device, beams=beams)
    limits = guard.Limits(body=round(max_body * 1e6), pixels=round(max_pixels * 1e6), deadline=deadline)
    options: dict[str, Any] = {"hosts": allow_host or (), "origins": allow_origin or (), "token": token}
    if ray:
        from lamina.serve.ray_serve import deploy

        deploy(found, batch, latency, limits, options, host, port, replicas)
        return
    keep_freed(32 << 20, 256 << 20)
    listening = run.bind(host, port)
    url = run.address(listening)
    if explore is None:
        explore = run.is_local(listening) and token is None  # a browser's page sends no token

    def loaded(models: Models) -> None:
        gc.collect()
        gc.freeze()  # the collector would look through all of torch again and again, for a tenth of a second each time
        if any(model.error for model in models.all.values()):
            server.stop()
        elif json:
            print_json({"url": url, "models": [model.name for model in models.all.values()]})
            sys.stdout.flush()
        else:
            say(f"{', '.join(models.all)} at {url}{f', explored at {url}/explore/' if explore else ''}")

    served = Models(found, batch, latency)
    routes = explored([item.model for item in found], weights, limits) if explore else ()
    server = run.Server(app.application(served, limits, loaded=loaded, routes=routes, **options), drain)
    if not run.is_local(listening) and token is None:
        say(f"whoever reaches {url} may use it: set LAMINA_TOKEN to ask for a token")
    run.serve(server, listening)
    for model in served.all.values():
        if model.error is not None:
            raise model.error


def explored(models: Sequence[str], weights: str | None, limits: "Limits") -> "list[BaseRoute]":
    """The explorer's routes for those of the networks that can be traced; none where none can. The others' pages would be
    errors: a folder of CTranslate2's holds numbers, and no code."""
    from lamina.cli import explore, network
    from lamina.serve.explorer.routes import Explorer
    from lamina.weights import ctranslate2

    names = [model for model in models if not ctranslate2.is_model(model)]
    return Explorer(network.find, explore.at, names, weights, limits).routes() if names else []
