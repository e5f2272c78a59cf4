"""The application on a socket: uvicorn, with what it lacks against silent clients, and a stop that loses no request."""

import asyncio
import contextlib
import ipaddress
import socket
import sys
import time
from types import FrameType
from typing import Any

import uvicorn
from starlette.applications import Starlette
from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol

from lamina.errors import InputError, LaminaError, reason

HEAD = 64 << 10  # bytes of a request before its body, at most
SILENCE = 10  # seconds that a connection may take for the head of a request
GRACE = 1.0  # seconds that a connection taken before a stop may take for its first request
CONNECTIONS = 512  # at once; more are answered 503


def bind(host: str, port: int) -> socket.socket:
    """A socket that listens at `host`; port 0 takes a free one. Raises `LaminaError` if that cannot be."""
    try:
        family, kind, number, _, address = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)[0]
    except (OSError, UnicodeError, OverflowError) as error:
        raise InputError(f"--host {host}: no such address ({error})") from error
    found = socket.socket(family, kind, number)
    try:
        found.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        found.bind(address)
        found.listen(2048)
    except (OSError, OverflowError) as error:
        found.close()
        text = reason(error) if isinstance(error, OSError) else str(error)
        raise LaminaError(f"{host}:{port} cannot be listened at: {text}; take another with --port, 0 for any") from error
    return found


def address(listening: socket.socket) -> str:
    """http://HOST:PORT."""
    host, port = listening.getsockname()[:2]
    return f"http://[{host}]:{port}" if ":" in host else f"http://{host}:{port}"


def is_local(listening: socket.socket) -> bool:
    """Whether only this machine reaches it."""
    return ipaddress.ip_address(listening.getsockname()[0]).is_loopback


class Protocol(HttpToolsProtocol):
    """Closes a connection on which no request has begun for `SILENCE` seconds. uvicorn itself only looks at those that have
    sent nothing since an answer: a client that sends half a head, or half of what was refused, would hold one for ever. And
    refuses a head without end, which httptools would keep."""

    head = 0  # bytes of the one that is being read, none between its end and the next one's beginning
    reading_head = False

    def connection_made(self, transport: Any) -> None:
        super().connection_made(transport)
        self._watch(None)

    def data_received(self, data: bytes) -> None:
        super().data_received(data)
        self.head = self.head + len(data) if self.reading_head else 0
        if self.head > HEAD and not self.transport.is_closing():
            self.send_400_response("the head of the request is too long")

    def on_message_begin(self) -> None:
        self.reading_head = True
        super().on_message_begin()

    def on_headers_complete(self) -> None:
        self.reading_head = False
        super().on_headers_complete()

    def _watch(self, last: Any) -> None:
        if self.transport.is_closing():
            return
        answered = self.cycle is None or self.cycle.response_complete
        if last is not None and answered and last == (self.cycle,):
            self.transport.close()
        else:
            self.loop.call_later(SILENCE, self._watch, (self.cycle,))


class Server(uvicorn.Server):
    """Stops on SIGTERM and SIGINT: not ready any more, and every answer closes its connection; after `drain` seconds, in
    which load balancers and clients look elsewhere, it takes no connection, finishes what it has accepted, and `run`
    returns. A second signal stops at once."""

    def __init__(self, app: Starlette, drain: float = 1.0):
        super().__init__(
            uvicorn.Config(
                app,
                http=Protocol,
                ws="none",
                lifespan="on",
                log_level="error",
                date_header=False,
                proxy_headers=False,
                limit_concurrency=CONNECTIONS,
                server_header=False,
            )
        )
        self.app, self.drain = app, drain
        self.due: float | None = None

    def protocol(self) -> Protocol:
        state = {"config": self.config, "server_state": self.server_state, "app_state": self.lifespan.state}
        return Protocol(**state)

    def stop(self, drain: float = 0.0) -> None:
        self.app.state.stopping = True
        self.due = time.monotonic() + drain

    def handle_exit(self, sig: int, frame: FrameType | None) -> None:
        if self.due is None:
            self.stop(self.drain)
        else:
            self.force_exit = self.should_exit = True

    async def on_tick(self, counter: int) -> bool:
        self.should_exit |= self.due is not None and time.monotonic() >= self.due
        return await super().on_tick(counter)

    async def shutdown(self, sockets: list[socket.socket] | None = None) -> None:
        taken = [connection for listening in sockets or [] for connection in waiting(listening)]
        for server in self.servers:
            server.close()
        loop = asyncio.get_running_loop()
        for connection in taken:
            await loop.connect_accepted_socket(self.protocol, connection)
        end = time.monotonic() + GRACE
        while (
            any(isinstance(c, Protocol) and c.cycle is None for c in self.server_state.connections) and time.monotonic() < end
        ):
            await asyncio.sleep(0.01)  # a request may be on its way on a connection that was taken just before
        await super().shutdown(sockets)


def waiting(listening: socket.socket) -> list[socket.socket]:
    """The connections that the system has taken and nobody has asked for yet, which closing `listening` would reset. It is to
    be closed at once, so that nearly none can come in between."""
    taken: list[socket.socket] = []
    with contextlib.suppress(OSError):  # none waits any more
        listening.setblocking(False)
        while True:
            taken.append(listening.accept()[0])
    return taken


def serve(server: Server, listening: socket.socket) -> None:
    """Answer until a signal stops it."""
    try:
        server.run([listening])
    finally:
        listening.close()
    if server.force_exit:
        print("lamina: stopped before every request was answered", file=sys.stderr)
