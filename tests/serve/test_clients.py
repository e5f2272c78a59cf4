"""Clients that send slowly, halves, lies or nothing; a stop that loses no request; and wrong calls of the command."""

import asyncio
import contextlib
import http.client
import json
import signal
import socket
import subprocess
import sys
import threading
import time
import urllib.request
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from lamina.serve import run as running
from lamina.serve.guard import Limits

from .serving import SOON, Twofold, own, serving, until

PATH = "/v2/models/twofold/infer"
BODY = b'{"inputs": [{"name": "x", "shape": [1, 2], "datatype": "FP32", "data": [5, 5]}]}'


def head(length: int | str, path: str = PATH) -> bytes:
    return f"POST {path} HTTP/1.1\r\nHost: localhost\r\nContent-Length: {length}\r\n\r\n".encode()


@pytest.fixture
def served(monkeypatch):
    monkeypatch.setattr(running, "SILENCE", 1.0)
    with serving(own(Twofold()), limits=Limits(body=1000, reading=2.0)) as server:
        yield server
        assert server.infer([[1, 2]])[0] == 200  # whatever went before
        until(lambda: not server.server.server_state.tasks)


def received(connection: socket.socket) -> bytes:
    """All that the server sends until it closes."""
    parts = []
    while part := connection.recv(65536):
        parts.append(part)
    return b"".join(parts)


@pytest.mark.parametrize("begin", [b"", b"POST", head(5)[:-2]])
def test_silence_and_half_a_head_are_not_waited_for(served, begin):
    with served.connect() as connection:
        connection.sendall(begin)
        assert received(connection) == b""


def test_half_a_body_is_not_waited_for(served):
    with served.connect() as connection:
        connection.sendall(head(len(BODY)) + BODY[:10])
        assert received(connection).startswith(b"HTTP/1.1 408 ")
    assert served.metric('lamina_requests_total{model="twofold",status="408"}') == 1


def test_a_slow_body_is_taken_while_there_is_time(served):
    with served.connect() as connection:
        connection.sendall(head(len(BODY)))
        for byte in BODY[:10]:
            connection.sendall(bytes([byte]))
            time.sleep(0.01)
        connection.sendall(BODY[10:])
        assert connection.recv(65536).startswith(b"HTTP/1.1 200 ")


def test_a_client_that_goes_in_the_middle_of_a_body(served):
    with served.connect() as connection:
        connection.sendall(head(len(BODY)) + BODY[:10])
    until(lambda: served.metric('lamina_clients_gone_total{model="twofold"}') == 1)


@pytest.mark.parametrize(
    ("sent", "status"),
    [
        (head(10**15), 413),  # refused before a byte of it is read
        (head("-1"), 400),
        (head("1e3"), 400),
        (head(5).replace(b"\r\n\r\n", b"\r\nContent-Length: 6\r\n\r\n"), 400),
        (head(10) + BODY, 400),  # what follows is the next request, and is none
        (b"GARBAGE\r\n\r\n", 400),
        (b"GET / HTTP/1.1\r\n\r\n", 400),  # without a Host
        (b"GET /" + b"a" * 100_000, 400),
    ],
)
def test_lies(served, sent, status):
    with served.connect() as connection:
        connection.sendall(sent)
        assert connection.recv(65536).startswith(b"HTTP/1.1 %d " % status)


def test_what_is_refused_is_not_read_for_ever(served):
    """The answer comes at once, and a client that does not stop sending is cut off."""
    with served.connect() as connection:
        connection.sendall(head(10**12))
        assert connection.recv(65536).startswith(b"HTTP/1.1 413 ")
        with pytest.raises(ConnectionError):
            for _ in range(1000):
                connection.sendall(b" " * 1000)
                time.sleep(0.01)


def test_a_client_that_reads_nothing_holds_up_nobody(served):
    with served.connect() as connection:
        for _ in range(50):
            connection.sendall(head(len(BODY)) + BODY)
        assert served.infer([[1, 2]])[0] == 200


# ---- the command ---------------------------------------------------------------------------------------------------------


@pytest.fixture
def command(tmp_path):
    """`lamina serve` as a process: (process, port), when it is ready."""
    processes = []

    def start(*arguments: str) -> tuple[subprocess.Popen, int]:
        words = [sys.executable, "-m", "lamina", "serve", *arguments, "--port", "0", "--json", "--threads", "1"]
        process = subprocess.Popen(words, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
        processes.append(process)
        lines = []
        while not lines or lines[-1] != "}\n":
            lines.append(process.stdout.readline())
            assert lines[-1], process.stderr.read()
        return process, int(json.loads("".join(lines))["url"].rpartition(":")[2])

    yield start
    for process in processes:
        process.kill()
        process.communicate()


def test_sigterm_under_load_loses_no_request(command):
    """Eight clients ask without a pause on connections that they keep, until the server says that it closes theirs."""
    process, port = command("mine=vit_mnist")
    with urllib.request.urlopen(f"http://127.0.0.1:{port}/explore/", timeout=SOON) as page:
        assert b"vit_mnist" in page.read()  # where only this machine asks, the explorer is there
    row = {"name": "x", "shape": [1, 1, 28, 28], "datatype": "FP32", "data": [0.5] * 784}
    body = json.dumps({"inputs": [row]}).encode()
    answers: list[tuple[int, str | None]] = []
    begun = threading.Event()

    def client() -> None:
        connection = http.client.HTTPConnection("127.0.0.1", port, timeout=SOON)
        closing = None
        while closing is None:
            connection.request("POST", "/v2/models/mine/infer", body)
            with connection.getresponse() as response:
                response.read()
                closing = response.getheader("connection")
                answers.append((response.status, closing))
            if len(answers) > 20:
                begun.set()
        connection.close()

    with ThreadPoolExecutor(8) as pool:
        clients = [pool.submit(client) for _ in range(8)]
        assert begun.wait(SOON)
        process.send_signal(signal.SIGTERM)
        for call in clients:
            call.result(SOON)  # raises what a lost connection raises
    assert process.wait(SOON) == 0
    assert process.stderr.read() == ""
    assert {status for status, _ in answers} == {200} and len(answers) > 20
    assert [closing for _, closing in answers if closing] == ["close"] * 8


def test_before_the_end_it_serves_on_and_is_not_ready():
    with serving(own(Twofold())) as server:
        server.server.stop(drain=SOON)
        assert server.ask("GET", "/v2/health/ready")[0] == 503 and server.ask("GET", "/v2/health/live")[0] == 200
        status, _, headers = server.infer([[1, 2]])
        assert (status, headers["connection"]) == (200, "close")


def test_a_stop_answers_on_a_connection_that_was_taken_before(monkeypatch):
    monkeypatch.setattr(running, "GRACE", SOON)
    with serving(own(Twofold())) as server, server.connect() as connection:
        until(lambda: server.server.server_state.connections)
        server.server.stop()
        until(lambda: not server.server.servers[0].is_serving())
        connection.sendall(head(len(BODY)) + BODY)
        assert received(connection).startswith(b"HTTP/1.1 200 ")


def test_a_stop_takes_the_connections_that_nobody_has_asked_for_yet():
    """The loop is busy when they come and when it is told to stop: only the system knows of them."""
    with serving(own(Twofold())) as server, contextlib.ExitStack() as stack:
        busy, go_on, stopping = threading.Event(), threading.Event(), []
        loop = server.server.servers[0].get_loop()

        def hold() -> None:
            busy.set()
            assert go_on.wait(SOON)
            stopping.append(asyncio.ensure_future(server.server.shutdown([server.listening])))

        loop.call_soon_threadsafe(hold)
        assert busy.wait(SOON)
        connections = [stack.enter_context(server.connect()) for _ in range(20)]
        for connection in connections:
            connection.sendall(head(len(BODY)) + BODY)
        go_on.set()
        for connection in connections:
            assert connection.recv(65536).startswith(b"HTTP/1.1 200 ")


def test_a_stop_finishes_what_is_accepted():
    """One request runs and one waits when the server is told to stop at once: both are answered."""
    net = Twofold()
    with ThreadPoolExecutor(2) as pool:
        with serving(own(net)) as server:
            net.entered.clear()
            net.gate.clear()
            first = pool.submit(server.infer, [[1, 2]])
            assert net.entered.wait(SOON)
            second = pool.submit(server.infer, [[3, 4]])
            until(lambda: server.models["twofold"].batcher.waiting == 1)
            server.server.stop()
            until(lambda: not server.server.servers[0].is_serving())
            with pytest.raises(ConnectionRefusedError):
                server.connect()
            net.gate.set()
        assert [first.result()[1]["outputs"][1]["data"], second.result()[1]["outputs"][1]["data"]] == [[3], [7]]


def test_a_port_in_use(refused):
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        text = refused(f"serve vit_mnist --port {port}", 1)
    assert f"127.0.0.1:{port} cannot be listened at: Address already in use" in text and "--port" in text


@pytest.mark.parametrize(
    ("line", "code", "message"),
    [
        ("serve resnet5 --port 0", 2, "resnet5"),
        ("serve vit_mnist vit_mnist --port 0", 2, "two networks are called vit_mnist: name one of them"),
        ("serve vit_mnist resnet20_cifar --weights x --port 0", 2, "--weights are one network's"),
        ("serve vit_mnist --port 70000", 2, "--port"),
        ("serve vit_mnist --host nowhere.invalid --port 0", 2, "no such address"),
        ("serve vit_mnist --batch 0 --port 0", 2, "--batch"),
        ("serve vit_mnist --token '' --port 0", 2, "--token is empty"),
        ("serve lenet5_dense --port 0", 2, "--weights"),
        ("serve none.onnx --port 0", 2, "none.onnx"),
        ("serve", 2, "MODEL"),
    ],
)
def test_wrong_calls(refused, line, code, message):
    assert message in refused(line, code)


def test_the_guide_names_every_option(ok):
    text = (Path(__file__).parents[2] / "docs/serving.md").read_text(encoding="utf-8")
    for option in ("--batch", "--latency", "--deadline", "--max-body", "--allow-host", "--token", "--drain", "--ray"):
        assert option in text and option in ok("serve --help")
