"""The application: the Open Inference Protocol, images and sentences by plain addresses, and metrics.

`application` puts it together; `Inference` are its routes, for another application beside this one.
"""

import asyncio
import contextlib
import io
import os
import time
from collections.abc import AsyncIterator, Callable, Coroutine, Mapping, Sequence
from typing import Any

import anyio
import msgspec
import numpy as np
import torch
from starlette.applications import Starlette
from starlette.exceptions import HTTPException
from starlette.formparsers import MultiPartException, MultiPartParser
from starlette.middleware import Middleware
from starlette.middleware.cors import CORSMiddleware
from starlette.requests import ClientDisconnect, Request
from starlette.responses import JSONResponse, Response
from starlette.routing import BaseRoute, Route
from starlette.types import Receive, Scope, Send

from lamina import __version__
from lamina.data.image import prepare
from lamina.errors import InputError, LaminaError, first_line
from lamina.serve.guard import Budget, Guard, Limits, Share, read_body, refused
from lamina.serve.metrics import Metrics
from lamina.serve.models import Arrays, Model, Models, Sentences
from lamina.serve.protocol import HEADER, read_request, write_response
from lamina.serve.refusal import Refusal

VERSION = "1"  # each network is served in one version
Answer = Callable[[Request, Model, bytes, float], Coroutine[Any, Any, Response]]


def application(
    models: Models,
    limits: Limits | None = None,
    *,
    hosts: Sequence[str] = (),
    origins: Sequence[str] = (),
    token: str | None = None,
    routes: Sequence[BaseRoute] = (),
    loaded: Callable[[Models], None] = lambda models: None,
    wait: bool = False,
) -> Starlette:
    """The whole server as an ASGI application: `routes` come before its own. It loads the networks when it starts, and calls
    `loaded` when each is ready or has failed; with `wait` nothing is answered before that, and what fails is raised. `hosts`,
    `origins` and `token` are `Guard`'s."""
    inference = Inference(models, limits or Limits())

    async def load() -> None:
        await models.load(inference.metrics.observe)
        loaded(models)

    @contextlib.asynccontextmanager
    async def lifespan(app: Starlette) -> AsyncIterator[None]:
        loading = asyncio.ensure_future(load())
        if wait:
            await loading
            for error in [model.error for model in models.all.values() if model.error]:
                raise error
        yield
        await loading
        await models.close()

    # What a browser asks before it sends a page's request carries no token: it is answered before the guard.
    allowed = {"allow_origins": origins, "allow_methods": ["GET", "POST"], "allow_headers": ["*"], "expose_headers": [HEADER]}
    pages = [Middleware(CORSMiddleware, **allowed)] if origins else []
    app = Starlette(
        routes=[*routes, *inference.routes()],
        middleware=[*pages, Middleware(Guard, hosts=hosts, origins=origins, token=token)],
        exception_handlers=HANDLERS,
        lifespan=lifespan,
    )
    app.state.stopping = False
    return app


# ---- errors --------------------------------------------------------------------------------------------------------------


# Coroutines all: Starlette calls plain functions in threads, which costs more than all else of a refusal.


async def _refusal(request: Request, error: Exception) -> Response:
    assert isinstance(error, Refusal)
    return refused(error)


async def _wrong(request: Request, error: Exception) -> Response:
    return refused(Refusal(400, first_line(error)))


async def _unknown(request: Request, error: Exception) -> Response:
    assert isinstance(error, HTTPException)
    text = f"{request.method} {request.url.path}: {error.detail}"
    return JSONResponse({"error": text}, error.status_code, error.headers)


async def _failed(request: Request, error: Exception) -> Response:
    return refused(Refusal(500, f"unexpected {type(error).__name__}: {first_line(error)}"))


async def _gone(request: Request, error: Exception) -> Response:
    return Response(status_code=499)  # nobody reads it


HANDLERS: Mapping[Any, Callable[[Request, Exception], Coroutine[Any, Any, Response]]] = {
    Refusal: _refusal,
    InputError: _wrong,
    MultiPartException: _wrong,
    HTTPException: _unknown,
    ClientDisconnect: _gone,
    Exception: _failed,
}


# ---- answers -------------------------------------------------------------------------------------------------------------


class Inference:
    """The routes of the protocol, of the plain addresses and of the metrics, over some networks."""

    def __init__(self, models: Models, limits: Limits):
        self.models, self.limits = models, limits
        self.metrics = Metrics(models)
        self.budget = Budget(limits.memory)
        # Where an image is decoded it takes memory by its pixels: no more at once than there are cores.
        self.decoding = anyio.CapacityLimiter(os.cpu_count() or 1)

    def routes(self) -> list[Route]:
        model = "/v2/models/{name}"
        versions = (model, model + "/versions/{version}")
        posts: tuple[tuple[str, Any], ...] = (
            *((f"{path}/infer", Endpoint(self, self.infer)) for path in versions),
            ("/images/{name}", Endpoint(self, self.images)),
            ("/translate/{name}", Endpoint(self, self.translate)),
            ("/v2/repository/index", self.index),
        )
        return [
            *(Route(path, endpoint, methods=["POST"]) for path, endpoint in posts),  # first: most requests are for them
            Route("/", self.about),
            Route("/v2", self.server),
            Route("/v2/health/live", self.live),
            Route("/v2/health/ready", self.ready),
            *(Route(path, self.metadata) for path in versions),
            *(Route(f"{path}/ready", self.model_ready) for path in versions),
            Route("/metrics", self.metrics.show),
        ]

    async def about(self, request: Request) -> Response:
        models = [{"name": model.name, "model": model.wanted.model, "state": model.state} for model in self.models.all.values()]
        return JSONResponse({"lamina": __version__, "models": models})

    async def live(self, request: Request) -> Response:
        return JSONResponse({"live": True})

    async def ready(self, request: Request) -> Response:
        ready = self.models.ready and not request.app.state.stopping
        return JSONResponse({"ready": ready}, 200 if ready else 503)

    async def server(self, request: Request) -> Response:
        return JSONResponse({"name": "lamina", "version": __version__, "extensions": ["binary_tensor_data"]})

    async def index(self, request: Request) -> Response:
        states = {"loading": "LOADING", "ready": "READY", "failed": "UNAVAILABLE"}
        rows = [
            {"name": m.name, "version": VERSION, "state": states[m.state], "reason": str(m.error or "")}
            for m in self.models.all.values()
        ]
        return JSONResponse(rows)

    def model(self, request: Request) -> Model:
        model = self.models[request.path_params["name"]]
        version = request.path_params.get("version", VERSION)
        if version != VERSION:
            raise Refusal(404, f"{model.name} is served in version {VERSION}, not {version}")
        return model

    async def metadata(self, request: Request) -> Response:
        model = self.model(request)
        network, _ = model.loaded()
        return JSONResponse(
            {
                "name": model.name,
                "versions": [VERSION],
                "platform": network.platform,
                "inputs": [port.described() for port in network.inputs],
                "outputs": [port.described() for port in network.outputs],
            }
        )

    async def model_ready(self, request: Request) -> Response:
        model = self.model(request)
        return JSONResponse({"name": model.name, "ready": model.state == "ready"}, 200 if model.state == "ready" else 503)

    async def infer(self, request: Request, model: Model, body: bytes, due: float) -> Response:
        network, _ = model.loaded()
        asked = read_request(body, request.headers.get(HEADER), network.inputs, network.outputs, model.rows)
        if asked.timeout is not None:
            due = min(due, asyncio.get_running_loop().time() + asked.timeout)
        arrays = await model.infer(asked.arrays, due)
        content, headers = write_response(model.name, asked, network.outputs, arrays)
        return Response(content, headers=headers)

    async def images(self, request: Request, model: Model, body: bytes, due: float) -> Response:
        """[{"input", "predictions": [{"index", "label", "probability"}]}] as `lamina run --json` has it; {"input", "error"} for
        a bad image among others."""
        network, _ = model.loaded()
        if not isinstance(network, Arrays):
            raise Refusal(400, f"{model.name} takes text, not images")
        session, top = network.session, _positive(request.query_params.get("top", "5"), "top")
        spec = session.image
        uploads = await _uploads(request, body)
        if not 1 <= len(uploads) <= model.rows:
            raise Refusal(400, f"one request has 1 to {model.rows} images, not {len(uploads)}")
        rows: list[dict[str, Any]] = []
        pixels: list[torch.Tensor] = []
        for upload in uploads:
            rows.append({"input": str(upload)})
            try:
                async with asyncio.timeout_at(due):
                    call = (prepare, upload, spec, self.limits.pixels)
                    pixels.append(await anyio.to_thread.run_sync(*call, limiter=self.decoding))
            except TimeoutError:
                raise Refusal(503, "no answer before the deadline", retry=1) from None
            except LaminaError as error:
                rows[-1]["error"] = str(error)
        if not pixels:
            raise Refusal(400, rows[0]["error"])
        scores, *_ = await model.infer([torch.stack(pixels).numpy()], due)
        probabilities = (session.score_scale * torch.as_tensor(scores)).softmax(dim=1)
        for row, answer in zip([row for row in rows if "error" not in row], probabilities, strict=True):
            row["predictions"] = session.ranked(answer, top)
        return JSONResponse(rows)

    async def translate(self, request: Request, model: Model, body: bytes, due: float) -> Response:
        """[{"source", "target", "score"}] as `lamina translate --json` has it."""
        network, _ = model.loaded()
        if not isinstance(network, Sentences):
            raise Refusal(400, f"{model.name} takes arrays, not sentences")
        sentences = _sentences(request, body)
        if not 1 <= len(sentences) <= model.rows:
            raise Refusal(400, f"one request has 1 to {model.rows} sentences, not {len(sentences)}")
        targets, scores = await model.infer([np.array(sentences, object)], due)
        answers = zip(sentences, targets.tolist(), scores.tolist(), strict=True)
        return JSONResponse([{"source": s, "target": t, "score": round(score, 4)} for s, t, score in answers])


class Endpoint:
    """An address of `Inference`: reads the body within its limits, answers while the client waits, and counts. A class and
    not a function, so that Starlette hands it the bare messages."""

    def __init__(self, inference: Inference, answer: Answer):
        self.limits, self.budget, self.metrics = inference.limits, inference.budget, inference.metrics
        self.model, self.answer = inference.model, answer

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        request = Request(scope, receive)
        model = self.model(request)
        begin = time.perf_counter()
        status = 500
        try:
            with self.budget.share() as share:
                body = await self.body(request, model, share)
                due = asyncio.get_running_loop().time() + self.limits.deadline
                async with Presence(receive):
                    response = await self.answer(request, model, body, due)
            status = response.status_code
        except ClientDisconnect:
            status, response = 499, Response(status_code=499)  # nobody reads it
            self.metrics.gone.labels(model.name).inc()
        except Refusal as refusal:
            status, response = refusal.status, refused(refusal)
        except (InputError, MultiPartException) as error:
            status, response = 400, refused(Refusal(400, first_line(error)))
        finally:
            self.metrics.answered(model.name, status, time.perf_counter() - begin)
        await response(scope, receive, send)

    async def body(self, request: Request, model: Model, share: Share) -> bytes:
        refusal = None
        try:
            _, batcher = model.loaded()
            refusal = batcher.refusal() if batcher.full else None
        except Refusal as loading:
            refusal = loading
        try:
            async with asyncio.timeout(self.limits.reading):
                return await read_body(request, self.limits.body, share, refusal)
        except TimeoutError:
            raise Refusal(408, f"the request was not complete after {self.limits.reading:g} seconds") from None


class Presence:
    """`async with Presence(receive)`: what is done within is cancelled when the client goes, and `ClientDisconnect` raised.
    Nobody looks before `LOOK` seconds: most answers come sooner, and a task that watches costs as much as a small network."""

    LOOK = 0.25

    def __init__(self, receive: Receive):
        self.receive = receive
        self.gone = False
        self.watching: asyncio.Task[None] | None = None

    async def __aenter__(self) -> None:
        self.task = asyncio.current_task()
        assert self.task is not None
        self.cancelling = self.task.cancelling()
        self.handle = asyncio.get_running_loop().call_later(self.LOOK, self.look)

    def look(self) -> None:
        self.watching = asyncio.ensure_future(self.watch())

    async def watch(self) -> None:
        while (await self.receive())["type"] != "http.disconnect":
            pass
        self.gone = True
        assert self.task is not None
        self.task.cancel()

    async def __aexit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: Any) -> None:
        assert self.task is not None
        self.handle.cancel()
        if self.watching is not None:
            self.watching.cancel()
        if self.gone and self.task.uncancel() <= self.cancelling and kind is asyncio.CancelledError:
            raise ClientDisconnect from error


class Upload(io.BytesIO):
    """A file that was sent, called in messages by its name."""

    name: str

    def __str__(self) -> str:
        return self.name


async def _uploads(request: Request, body: bytes) -> list[Upload]:
    """The files of a form, or the body as one."""
    if not request.headers.get("content-type", "").startswith("multipart/form-data"):
        return [_upload("image", body)]

    async def parts() -> AsyncIterator[bytes]:
        yield body

    parser = MultiPartParser(request.headers, parts(), max_files=1000, max_fields=10)  # type: ignore[arg-type]
    try:
        form = await parser.parse()
    except (KeyError, UnicodeDecodeError, LookupError) as error:
        raise Refusal(400, f"the form does not read: {first_line(error)}") from None
    try:
        files = [value for _, value in form.multi_items() if not isinstance(value, str)]
        return [_upload(file.filename or f"image {i}", await file.read()) for i, file in enumerate(files, 1)]
    finally:
        await form.close()


def _upload(name: str, content: bytes) -> Upload:
    upload = Upload(content)
    upload.name = name
    return upload


class _Translate(msgspec.Struct):
    sentences: list[str]


def _sentences(request: Request, body: bytes) -> list[str]:
    """{"sentences": [...]}, or plain text with one per line."""
    kind = request.headers.get("content-type", "").partition(";")[0].strip()
    try:
        if kind == "text/plain":
            return [line for line in body.decode().splitlines() if line.strip()]
        return msgspec.json.decode(body, type=_Translate).sentences
    except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError) as error:
        form = 'JSON as {"sentences": ["..."]}, or text/plain with one per line'
        raise Refusal(400, f"the sentences do not read ({first_line(error)}): send {form}") from None


def _positive(text: str, name: str) -> int:
    if not text.isascii() or not text.isdigit() or not 1 <= int(text) <= 1000:
        raise Refusal(400, f"{name} is a number from 1 to 1000, not {text!r}")
    return int(text)
