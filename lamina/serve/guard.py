"""Who may ask: the checks before a request meets the application, and the limits on what it sends."""

import contextlib
import hmac
import ipaddress
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import lru_cache
from urllib.parse import urlsplit

from starlette.datastructures import Headers
from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from lamina import units
from lamina.serve.refusal import Refusal

OPEN = ("/v2/health/live", "/v2/health/ready")  # what a probe without the token may ask


@dataclass(frozen=True)
class Limits:
    """What one server takes. `body` and `memory` are bytes: of a request, and of all that are read or wait at once; `deadline`
    and `reading` are seconds: until the answer, and until the whole request is there. `pixels` are an image's."""

    body: int = 64 << 20
    memory: int = 512 << 20
    pixels: int = 25_000_000
    deadline: float = 30.0
    reading: float = 30.0


def refused(refusal: Refusal) -> Response:
    """The protocol's form of an error."""
    headers = {} if refusal.retry is None else {"retry-after": str(max(1, round(refusal.retry + 0.5)))}
    return JSONResponse({"error": str(refusal)}, refusal.status, headers)


class Guard:
    """Refuses a request whose Host is another's name (a page that has rebound its name to this machine), whose Origin is
    another site, or which lacks the token. `hosts` and `origins` are those allowed beside this machine's own; "*" is any."""

    def __init__(self, app: ASGIApp, hosts: Sequence[str] = (), origins: Sequence[str] = (), token: str | None = None):
        self.app = app
        self.hosts, self.origins, self.token = {h.lower() for h in hosts}, set(origins), token
        self.knows = lru_cache(256)(self._knows)  # every request asks

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self.app(scope, receive, send)
            return
        headers = Headers(scope=scope)
        if refusal := self.check(scope["path"], headers, scope["scheme"]):
            response = refused(refusal)
            if refusal.status == 401:
                response.headers["www-authenticate"] = "Bearer"
            await response(scope, receive, send)
            return

        async def marked(message: Message) -> None:
            if message["type"] == "http.response.start":
                added = [(b"x-content-type-options", b"nosniff")]
                if scope["app"].state.stopping:  # so that no request comes on a connection that is about to close
                    added.append((b"connection", b"close"))
                message["headers"] = [*message["headers"], *added]
            await send(message)

        await self.app(scope, receive, marked)

    def check(self, path: str, headers: Headers, scheme: str) -> Refusal | None:
        host = headers.get("host")
        if host is None:
            return Refusal(400, "the request has no Host")
        if not self.knows(host):
            return Refusal(403, f"this server is not called {host!r}: start it with --allow-host {_name(host) or 'NAME'}")
        origin = headers.get("origin")
        if origin is not None and origin != f"{scheme}://{host}" and not self.origins & {origin, "*"}:
            return Refusal(403, f"pages of {origin!r} may not ask this server: start it with --allow-origin {origin}")
        if self.token is not None and path not in OPEN:
            given = headers.get("authorization", "")
            if not hmac.compare_digest(given.encode(), f"Bearer {self.token}".encode()):
                return Refusal(401, "this server wants the header Authorization: Bearer TOKEN, with its own token")
        return None

    def _knows(self, host: str) -> bool:
        """Addresses are let in: only a name can be rebound."""
        name = _name(host)
        if name == "localhost" or self.hosts & {name, "*"}:
            return True
        with contextlib.suppress(ValueError):
            ipaddress.ip_address(name.strip("[]"))
            return True
        return False


def _name(host: str) -> str:
    """The name in a Host header, without the port, in small letters."""
    try:
        return (urlsplit(f"//{host}").hostname or "").lower()
    except ValueError:
        return ""


class Budget:
    """The bytes that all requests together may hold."""

    def __init__(self, limit: int):
        self.limit, self.used = limit, 0

    @contextlib.contextmanager
    def share(self) -> Iterator["Share"]:
        share = Share(self)
        try:
            yield share
        finally:
            share.release()


class Share:
    """What one request holds of the budget."""

    def __init__(self, budget: Budget):
        self.budget, self.size = budget, 0

    def take(self, size: int) -> None:
        """Raises `Refusal` where the budget is used up."""
        if self.budget.used + size > self.budget.limit:
            raise Refusal(503, "too many requests are being read: try again", retry=1)
        self.budget.used += size
        self.size += size

    def release(self) -> None:
        self.budget.used -= self.size
        self.size = 0


async def read_body(request: Request, limit: int, share: Share, refusal: Refusal | None = None) -> bytes:
    """The whole body. Raises `Refusal` if it is too large or does not read, or the one that is given after the last byte, and
    `ClientDisconnect` if its sender goes."""
    length = request.headers.get("content-length")
    if request.headers.get("content-encoding", "identity") != "identity":
        raise Refusal(415, "bodies are taken as they are: send no Content-Encoding")
    if length is not None and int(length) > limit:
        raise too_large(limit)
    parts: list[bytes] = []
    seen = 0
    async for chunk in request.stream():
        # What is refused is read to its end all the same: a server that closes on a client which still sends loses its answer.
        seen += len(chunk)
        if seen > limit:
            raise too_large(limit)
        if refusal is None:
            try:
                share.take(len(chunk))
                parts.append(chunk)
            except Refusal as error:
                refusal = error
                parts.clear()
                share.release()
    if refusal is not None:
        raise refusal
    return b"".join(parts)  # of one part that part itself


def too_large(limit: int) -> Refusal:
    return Refusal(413, f"the body is larger than {units.bytes_(limit)}")
