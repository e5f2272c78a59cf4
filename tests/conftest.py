"""What every test has: a cache of its own, no network, and the shared data where they are."""

import ipaddress
import itertools
import os
import shlex
import socket
import sys
from pathlib import Path
from typing import Any

import pytest

from lamina import cli

try:
    from hypothesis import settings
except ImportError:  # the environment of the peers has none
    pass
else:  # an example has no deadline of its own: on a busy machine the first one alone may wait for seconds
    settings.register_profile("lamina", deadline=None)
    settings.load_profile("lamina")

CHECKOUT = Path(__file__).resolve().parent.parent
NUMBER = itertools.count()


class NetworkForbidden(OSError):
    """An `OSError`, as on a machine without a network, so that what Lamina says then can be tested."""


def is_local(host: Any) -> bool:
    """Whether `host`, as a socket takes it, is this machine."""
    if host in (None, "", b"", "localhost", b"localhost"):
        return True
    try:
        return ipaddress.ip_address(host.decode() if isinstance(host, bytes) else host).is_loopback
    except ValueError:
        return False


@pytest.fixture(autouse=True)
def no_network(monkeypatch: pytest.MonkeyPatch) -> None:
    """No connection and no look-up but of this machine. Holds in the test's own process."""
    inner = {name: getattr(socket.socket, name) for name in ("connect", "connect_ex")}
    look_up = socket.getaddrinfo

    def guard(name: str) -> Any:
        def connect(self: socket.socket, address: Any) -> Any:
            if self.family in (socket.AF_INET, socket.AF_INET6) and not is_local(address[0]):
                raise NetworkForbidden(f"a test may not reach the network: {address[0]}")
            return inner[name](self, address)

        return connect

    def getaddrinfo(host: Any, *args: Any, **kwargs: Any) -> Any:
        if not is_local(host):
            raise NetworkForbidden(f"a test may not reach the network: {host}")
        return look_up(host, *args, **kwargs)

    for name in inner:
        monkeypatch.setattr(socket.socket, name, guard(name))
    monkeypatch.setattr(socket, "getaddrinfo", getaddrinfo)


@pytest.fixture(autouse=True)
def private_cache(tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch) -> None:
    """An empty user cache for each test (made when first written to); matplotlib's list of fonts is kept for the run."""
    base = tmp_path_factory.getbasetemp()
    monkeypatch.setenv("XDG_CACHE_HOME", str(base / "caches" / str(next(NUMBER))))
    monkeypatch.setenv("MPLCONFIGDIR", str(base / "matplotlib"))


@pytest.fixture(scope="session")
def shared() -> Path:
    """The folder of data that do not ship: `$LAMINA_SHARED`, by default `../shared` beside the checkout."""
    path = Path(os.environ.get("LAMINA_SHARED") or CHECKOUT.parent / "shared")
    if not path.is_dir():
        pytest.skip(f"needs the shared data, which are not in {path} (set LAMINA_SHARED)")
    return path.resolve()


@pytest.fixture
def data(shared: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The shared data sets, set as `$LAMINA_DATA`."""
    path = shared / "data"
    if not path.is_dir():
        pytest.skip(f"needs the shared data sets, and there is no {path}")
    monkeypatch.setenv("LAMINA_DATA", str(path))
    return path


@pytest.fixture
def run(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Any:
    """`run("cost resnet50")` gives (exit code, standard output, standard error)."""

    def call(line: str) -> tuple[int, str, str]:
        monkeypatch.setattr(sys, "argv", ["lamina", *shlex.split(line)])
        with pytest.raises(SystemExit) as exit:
            cli.main()
        captured = capsys.readouterr()
        return exit.value.code, captured.out, captured.err

    return call


@pytest.fixture
def ok(run: Any) -> Any:
    def call(line: str) -> str:
        code, out, err = run(line)
        assert (code, err) == (0, ""), err
        return out

    return call


@pytest.fixture
def refused(run: Any) -> Any:
    """The one line on standard error of a call that fails with `code` and prints nothing else."""

    def call(line: str, code: int = 2) -> str:
        found, out, err = run(line)
        assert (found, out) == (code, ""), (out, err)
        assert err.startswith("lamina: ") and err.count("\n") == 1 and "Traceback" not in err, err
        return err

    return call
