"""The explorer behind a server: documents of any network at any size, and live runs. Its routes go beside the protocol's in one
application (`lamina.serve.app.application(routes=...)`), whose guard checks Host and Origin for both.
"""

import dataclasses
import gc
from collections.abc import Callable, Mapping, Sequence
from functools import lru_cache
from typing import Any

import anyio
import msgspec
from starlette.requests import Request
from starlette.responses import RedirectResponse, Response
from starlette.routing import Mount, Route

from lamina.errors import InputError, LaminaError
from lamina.serve.explorer import gather, knobs, live, page
from lamina.serve.guard import Budget, Limits, read_body
from lamina.serve.refusal import Refusal
from lamina.workload import Workload
from lamina.zoo import registry

Find = Callable[[str], Any]  # MODEL to a `lamina.cli.network.Network`
At = Callable[[Any], Callable[[int, str], Workload] | None]
SET = "set."
DOCUMENTS = 64  # kept


class Explorer:
    """The page and what it asks. `models` are the networks of the command line, the first of which is shown; besides them a
    page may ask for the zoo's and timm's alone: other texts name files and code of this machine. `weights` are the
    first one's; `lecture` makes a page with links to this one's views."""

    def __init__(
        self,
        find: Find,
        at: At,
        models: Sequence[str],
        weights: str | None = None,
        limits: Limits | None = None,
        lecture: Callable[[], str] | None = None,
    ):
        self.at, self.models, self.limits = at, tuple(models), limits or Limits()
        self.find = lru_cache(DOCUMENTS)(find)
        self.lecture = None if lecture is None else lru_cache(1)(lecture)
        self.budget = Budget(self.limits.memory)
        self.document = lru_cache(DOCUMENTS)(self._document)
        self.compared = lru_cache(DOCUMENTS)(self._compared)
        self.mapped = lru_cache(DOCUMENTS)(self._mapped)
        self.live = live.Live({models[0]: weights} if weights else {}, self.limits.pixels)
        self.tracing = anyio.CapacityLimiter(1)  # a trace changes the type of its network's weights, which others share
        self.running = anyio.CapacityLimiter(1)

    def warm(self) -> None:
        """Make the first page's document. What is in memory then stays: the collector of cycles passes it over, which would
        look through all of torch every twenty answers, for a tenth of a second each time."""
        self.document(self.models[0], ())
        gc.collect()
        gc.freeze()

    def routes(self, home: bool = False) -> list[Any]:
        """Those of the page and of what it asks; as the `home`, where "/" leads."""
        gets = {"network": self.network, "compare": self.compare, "fit": self.fit}
        posts = {"digit": self.digit, "image": self.image, "attention": self.attention, "sentence": self.sentence}
        return [
            *([Route("/", lambda request: RedirectResponse("/explore/"))] if home else []),
            *([Route("/lecture", self.claims)] if self.lecture else []),
            Mount(
                "/explore",
                routes=[
                    Route("/", self.show),
                    Route("/explorer.js", lambda request: _file("explorer.js", "text/javascript")),
                    Route("/explorer.css", lambda request: _file("explorer.css", "text/css")),
                    *(Route(f"/{name}", self._answer(function, self.tracing)) for name, function in gets.items()),
                    Route("/measure", self._answer(self.measure, self.running)),
                    *(Route(f"/{name}", self._answer(f, self.running), methods=["POST"]) for name, f in posts.items()),
                ],
            ),
        ]

    def _answer(self, function: Callable[[Request, bytes], Any], limiter: anyio.CapacityLimiter) -> Callable[[Request], Any]:
        """An endpoint that works in a thread. Only pages of this server may ask: other sites' requests without a body bear no
        Origin, but browsers say of them where they come from."""

        async def respond(request: Request) -> Response:
            if request.headers.get("sec-fetch-site", "same-origin") not in ("same-origin", "none"):
                raise Refusal(403, "only pages of this server may ask this")
            body = b""
            if request.method == "POST":
                with self.budget.share() as share:
                    body = await read_body(request, self.limits.body, share)
            try:
                answer = await anyio.to_thread.run_sync(function, request, body, limiter=limiter)
            except Refusal:
                raise
            except LaminaError as error:  # a damaged image, weights that nobody has: of what was asked, not of the server
                raise Refusal(400, str(error)) from error
            return Response(answer if isinstance(answer, bytes) else msgspec.json.encode(answer), media_type="application/json")

        return respond

    # ---- the page and its documents ---------------------------------------------------------------------------------------

    async def show(self, request: Request) -> Response:
        text = await anyio.to_thread.run_sync(self._page, limiter=self.tracing)
        return Response(text, media_type="text/html", headers={"content-security-policy": page.POLICY})

    async def claims(self, request: Request) -> Response:
        """The lecture's page; its policy is in it."""
        assert self.lecture is not None
        return Response(await anyio.to_thread.run_sync(self.lecture, limiter=self.tracing), media_type="text/html")

    def _page(self) -> str:
        first = msgspec.json.decode(self.document(self.models[0], ()))
        accelerators = gather.accelerators()
        return page.served(
            page.data([first], {}, gather.machines(), accelerators, gather.zoo(), served=True, lecture=self.lecture is not None)
        )

    def network(self, request: Request, body: bytes) -> bytes:
        """The document of a network with changes; with `batch` and `dtype` that of one trace there, which is sooner."""
        model, changes = self._asked(request)
        if "batch" not in request.query_params:
            return self.document(model, changes)
        batch = live.number(request.query_params["batch"], "batch", 1 << 16)
        net = dataclasses.replace(self._net(model, changes), dtype=_dtype(request.query_params.get("dtype", "")))
        workload = net.trace(net.resized("batch", batch))
        return msgspec.json.encode(gather.described(net, workload, None, self._about(net, changes)))

    def _asked(self, request: Request, key: str = "model") -> tuple[str, tuple[tuple[str, str], ...]]:
        model = request.query_params.get(key, self.models[0])
        if not (model in self.models or model in registry.counts() or model.startswith("timm:")):
            registry.spec(model) if model.isidentifier() else None  # raises, with the nearest names
            raise Refusal(403, f"{model}: a page may open the zoo's networks, timm's, and those of the command line")
        return model, tuple((k.removeprefix(SET), v) for k, v in request.query_params.items() if k.startswith(SET))

    def _net(self, model: str, changes: Sequence[tuple[str, str]]) -> Any:
        return knobs.change(self.find(model), dict(changes))

    def _about(self, net: Any, changes: Sequence[tuple[str, str]]) -> dict[str, Any]:
        return {"fields": knobs.fields(net.name), "sizes": knobs.sizes(net), "live": self.live.can(net.name)}

    def _document(self, model: str, changes: tuple[tuple[str, str], ...]) -> bytes:
        net = self._net(model, changes)
        return msgspec.json.encode(gather.described(net, net.trace(), self.at(net), self._about(net, changes)))

    def compare(self, request: Request, body: bytes) -> bytes:
        other, _ = self._asked(request, "beside")
        return self.compared(*self._asked(request), other)

    def _compared(self, model: str, changes: tuple[tuple[str, str], ...], beside: str) -> bytes:
        return msgspec.json.encode(gather.comparison(self._net(model, changes).trace(), self.find(beside).trace()))

    def fit(self, request: Request, body: bytes) -> bytes:
        on = request.query_params.get("on", "")
        if on not in gather.accelerators():  # a file of this machine is the command line's to name
            raise InputError(f"no accelerator is called {on!r}: there are {', '.join(gather.accelerators())}")
        batch = live.number(request.query_params.get("batch", "1"), "batch", 1 << 16)
        return self.mapped(*self._asked(request), on, batch)

    def _mapped(self, model: str, changes: tuple[tuple[str, str], ...], on: str, batch: int) -> bytes:
        net = self._net(model, changes)
        return msgspec.json.encode(gather.mapping(net.trace(net.resized("batch", batch)), on))

    # ---- live runs --------------------------------------------------------------------------------------------------------

    def measure(self, request: Request, body: bytes) -> Mapping[str, Any]:
        return self.live.measure(self._asked(request)[0])

    def digit(self, request: Request, body: bytes) -> Mapping[str, Any]:
        return self.live.digit(body)

    def image(self, request: Request, body: bytes) -> Mapping[str, Any]:
        return self.live.image(self._asked(request)[0], body, request.query_params.get("layer", ""))

    def attention(self, request: Request, body: bytes) -> Mapping[str, Any]:
        return self.live.attention(self._asked(request)[0], body)

    def sentence(self, request: Request, body: bytes) -> Mapping[str, Any]:
        beams = live.number(request.query_params.get("beams", "5"), "beams", 10)
        return self.live.sentence(body, beams)


def _file(name: str, kind: str) -> Response:
    return Response(page.part(name), media_type=kind, headers={"cache-control": "no-cache"})


def _dtype(name: str) -> str | None:
    short = {"float32": "fp32", "bfloat16": "bf16", "float16": "fp16", "float64": "fp64", "int8": "bf16", "": None}
    if name not in short:
        raise InputError(f"no type is called {name!r}: there are {', '.join(filter(None, short))}")
    return short[name]
