"""A server on a free port of this machine, in a thread of the test's process, and plain connections to it."""

import contextlib
import http.client
import json
import socket
import threading
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import nn

from lamina.infer.session import Session
from lamina.serve import app, run
from lamina.serve.guard import Limits
from lamina.serve.models import Arrays, Models, Wanted

SOON = 120.0  # seconds that no test waits, on however busy a machine


class Twofold(nn.Module):
    """(B, 2) to its double and its sum. Fails on a -13; waits while `gate` is shut."""

    def __init__(self):
        super().__init__()
        self.gate = threading.Event()
        self.gate.set()
        self.entered = threading.Event()
        self.batches: list[int] = []

    def forward(self, x):
        self.entered.set()
        assert self.gate.wait(SOON)
        self.batches.append(len(x))
        if (x == -13).any():
            raise ValueError("thirteen is not for me")
        return 2 * x, x.sum(1)


@dataclass(frozen=True)
class Own(Wanted):
    """A module in place of a name. It is loaded when `open` is set."""

    net: nn.Module = field(default_factory=nn.Identity)
    open: threading.Event | None = None

    def load(self) -> Arrays:
        assert self.open is None or self.open.wait(SOON)
        return Arrays(Session(self.net, example=(torch.ones(1, 2),)))


def own(net: nn.Module, name: str = "twofold", open: threading.Event | None = None) -> Own:
    return Own(name, name, net=net, open=open)


class Serving:
    def __init__(self, server: run.Server, port: int, models: Models):
        self.server, self.port, self.models = server, port, models
        self.listening: socket.socket | None = None

    def ask(self, method: str, path: str, body: Any = None, headers: Any = None) -> tuple[int, Any, dict[str, str]]:
        """Status, the body (JSON where it says so) and headers in small letters, on a connection of its own."""
        connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=SOON)
        with contextlib.closing(connection):
            connection.request(method, path, body, headers or {})
            response = connection.getresponse()
            content = response.read()
            found = {key.lower(): value for key, value in response.getheaders()}
            return response.status, json.loads(content) if found["content-type"] == "application/json" else content, found

    def infer(self, rows: list[list[float]], name: str = "twofold", **parameters: Any) -> tuple[int, Any, dict[str, str]]:
        row = {"name": "x", "shape": [len(rows), 2], "datatype": "FP32", "data": rows}
        return self.ask("POST", f"/v2/models/{name}/infer", json.dumps({"inputs": [row], "parameters": parameters}))

    def connect(self) -> socket.socket:
        return socket.create_connection(("127.0.0.1", self.port), timeout=SOON)

    def metric(self, line: str) -> float:
        """The value of the metric whose line begins so."""
        text = self.ask("GET", "/metrics")[1].decode()
        return next((float(row.split()[-1]) for row in text.splitlines() if row.startswith(line)), 0.0)


@contextlib.contextmanager
def serving(
    *wanted: Wanted, batch: int = 4, latency: float = 5.0, limits: Limits | None = None, ready: bool = True, **options: Any
) -> Iterator[Serving]:
    models = Models(wanted, batch, latency)
    listening = run.bind("127.0.0.1", 0)
    port = listening.getsockname()[1]
    server = run.Server(app.application(models, limits, **options), drain=0)
    thread = threading.Thread(target=run.serve, args=(server, listening))
    thread.start()
    served = Serving(server, port, models)
    served.listening = listening
    try:
        for model in models.all.values() if ready else ():
            until(lambda model=model: model.state != "loading")
        yield served
    finally:
        server.stop()
        thread.join(SOON)
        assert not thread.is_alive()


def until(condition: Any) -> None:
    end = time.monotonic() + SOON
    while not condition():
        assert time.monotonic() < end, "nothing happened"
        time.sleep(0.005)
