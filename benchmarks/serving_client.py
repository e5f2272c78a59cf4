"""Load for `serving.py`: an HTTP client as plain as possible, so that what is timed is the server. Loopback only.

`Load(port, path, body, headers)` sends the same request again and again; each answer is (when it was due, how long it took, its
status). A request that gets no whole answer is counted in `lost`, with its error.
"""

import asyncio
import random
import time
from collections import Counter
from dataclasses import dataclass, field

PATIENCE = 60.0  # seconds after which an answer counts as lost


class Connection(asyncio.Protocol):
    """One request after another. Callbacks and no streams: a stream costs the client more than the server's whole answer."""

    def __init__(self) -> None:
        self.closed = False
        self.received = b""
        self.answer: asyncio.Future[tuple[int, bool]] | None = None

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.transport = transport

    def data_received(self, data: bytes) -> None:
        self.received += data
        head, end, body = self.received.partition(b"\r\n\r\n")
        if not end or self.answer is None:
            return
        head = head.lower()
        length = int(head.split(b"\r\ncontent-length:", 1)[1].split(b"\r\n", 1)[0])
        if len(body) >= length and not self.answer.done():
            self.received = body[length:]
            self.answer.set_result((int(head[9:12]), b"connection: close" in head))

    def connection_lost(self, exc: Exception | None) -> None:
        self.closed = True
        if self.answer is not None and not self.answer.done():
            self.answer.set_exception(exc or ConnectionResetError("closed before the whole answer"))

    def ask(self, request: bytes) -> asyncio.Future[tuple[int, bool]]:
        """The status of the answer, once it is there whole, and whether the server closes."""
        self.answer = asyncio.get_running_loop().create_future()
        self.transport.write(request)  # pyright: ignore[reportAttributeAccessIssue]
        return self.answer

    def close(self) -> None:
        self.transport.close()  # pyright: ignore[reportAttributeAccessIssue]


@dataclass
class Load:
    port: int
    path: str
    body: bytes
    headers: dict[str, str] = field(default_factory=dict)
    answers: list[tuple[float, float, int]] = field(default_factory=list)
    lost: list[str] = field(default_factory=list)
    late: list[float] = field(default_factory=list)  # seconds by which this client itself was late to send
    idle: list[Connection] = field(default_factory=list)

    def __post_init__(self) -> None:
        lines = [f"POST {self.path} HTTP/1.1", "Host: localhost", f"Content-Length: {len(self.body)}"]
        lines += [f"{key}: {value}" for key, value in self.headers.items()]
        self.request = ("\r\n".join(lines) + "\r\n\r\n").encode() + self.body

    def kept(self, keep: bool) -> Connection | None:
        """A connection that the server has not closed since its last answer (it closes those that are idle for 5 seconds)."""
        while keep and self.idle:
            if not (found := self.idle.pop()).closed:
                return found
        return None

    async def one(self, due: float | None = None, keep: bool = True) -> int:
        """One request, on an idle connection or a new one; 0 where no connection is taken."""
        begin = time.perf_counter() if due is None else due
        try:
            async with asyncio.timeout(PATIENCE):
                connection = self.kept(keep)
                if connection is None:
                    loop = asyncio.get_running_loop()
                    _, connection = await loop.create_connection(Connection, "127.0.0.1", self.port)
                status, closing = await connection.ask(self.request)
        except ConnectionRefusedError:
            return 0
        except (OSError, TimeoutError) as error:
            self.lost.append(type(error).__name__)
            return -1
        if keep and not closing:
            self.idle.append(connection)
        else:
            connection.close()
        self.answers.append((begin, time.perf_counter() - begin, status))
        return status

    async def closed(self, clients: int, seconds: float) -> float:
        """`clients` that ask, wait, and ask again; answers with status 200 per second."""
        before, begin = len(self.answers), time.perf_counter()

        async def client() -> None:
            while time.perf_counter() - begin < seconds:
                await self.one()

        await asyncio.gather(*(client() for _ in range(clients)))
        good = sum(status == 200 for _, _, status in self.answers[before:])
        return good / (time.perf_counter() - begin)

    async def open(self, rate: float, seconds: float, most: int = 400) -> int:
        """Poisson arrivals, so many a second, whatever the answers; a latency counts from when a request was due. Returns how
        many were due and not sent, since `most` were under way."""
        clock, begin, tasks, skipped = random.Random(0), time.perf_counter(), set(), 0
        due = begin
        while (due := due + clock.expovariate(rate)) < begin + seconds:
            # A sleep ends up to a millisecond late: the last one is spent looking at the clock, and at what is answered.
            if (wait := due - time.perf_counter()) > 0.002:
                await asyncio.sleep(wait - 0.002)
            while time.perf_counter() < due:
                await asyncio.sleep(0)
            if len(tasks) >= most:
                skipped += 1
                await asyncio.sleep(0)
                continue
            self.late.append(time.perf_counter() - due)
            task = asyncio.ensure_future(self.one(due))
            tasks.add(task)
            task.add_done_callback(tasks.discard)
            await asyncio.sleep(0)
        await asyncio.gather(*tasks)
        return skipped

    def statuses(self) -> dict[int, int]:
        return dict(Counter(status for _, _, status in self.answers))

    def latencies(self) -> list[float]:
        """Of the answers with status 200, in seconds, sorted."""
        return sorted(seconds for _, seconds, status in self.answers if status == 200)

    def forget(self) -> None:
        self.answers.clear()
        self.lost.clear()
        self.late.clear()

    def close(self) -> None:
        for connection in self.idle:
            connection.close()
        self.idle.clear()


async def nuisance(port: int, request: bytes, seconds: float) -> Counter[str]:
    """Clients that vanish in the middle of a body, send slowly, send halves, lie about lengths or send garbage, ten at once."""
    done: Counter[str] = Counter()
    begin, random_ = time.perf_counter(), random.Random(1)
    head, _, body = request.partition(b"\r\n\r\n")
    longer = head.replace(b"Content-Length: ", b"Content-Length: 9")
    tricks = {
        "vanishes": lambda: [head + b"\r\n\r\n", body[: len(body) // 2]],
        "half a head": lambda: [head[: len(head) // 2]],
        "slow": lambda: [request[i : i + len(request) // 20 + 1] for i in range(0, len(request), len(request) // 20 + 1)],
        "says more than it sends": lambda: [longer + b"\r\n\r\n", body],
        "sends more than it says": lambda: [request, body[:1000]],
        "garbage": lambda: [random_.randbytes(2000)],
        "goes before the answer": lambda: [request],
    }

    async def client() -> None:
        while time.perf_counter() - begin < seconds:
            name = random_.choice(list(tricks))
            try:
                _, writer = await asyncio.open_connection("127.0.0.1", port)
                for part in tricks[name]():
                    writer.write(part)
                    await writer.drain()
                    await asyncio.sleep(0.05)
                writer.close()
            except OSError:  # the server has thrown it out
                pass
            done[name] += 1

    await asyncio.gather(*(client() for _ in range(10)))
    return done
