"""Load for `serving.py`: an HTTP client as plain as possible, so that what is timed is the server. Loopback only.

`Load(port, path, headers, body)` sends the same request again and again; each answer is (when it was due, how long it took, its
status). A request that gets no whole answer is counted in `lost`, with its error.
"""

import asyncio
import random
import time
from collections import Counter
from dataclasses import dataclass, field

PATIENCE = 60.0  # seconds after which an answer counts as lost


@dataclass
class Load:
    port: int
    path: str
    body: bytes
    headers: dict[str, str] = field(default_factory=dict)
    answers: list[tuple[float, float, int]] = field(default_factory=list)
    lost: list[str] = field(default_factory=list)
    idle: list[tuple[asyncio.StreamReader, asyncio.StreamWriter]] = field(default_factory=list)

    @property
    def request(self) -> bytes:
        lines = [f"POST {self.path} HTTP/1.1", "Host: localhost", f"Content-Length: {len(self.body)}"]
        lines += [f"{key}: {value}" for key, value in self.headers.items()]
        return ("\r\n".join(lines) + "\r\n\r\n").encode() + self.body

    def kept(self, keep: bool) -> tuple[asyncio.StreamReader, asyncio.StreamWriter] | None:
        """A connection that the server has not closed since its last answer (it closes those that are idle for 5 seconds)."""
        while keep and self.idle:
            reader, writer = self.idle.pop()
            if not reader.at_eof():
                return reader, writer
            writer.close()
        return None

    async def one(self, due: float | None = None, keep: bool = True) -> int:
        """One request, on an idle connection or a new one; 0 where no connection is taken."""
        begin = time.perf_counter() if due is None else due
        try:
            async with asyncio.timeout(PATIENCE):
                reader, writer = self.kept(keep) or await asyncio.open_connection("127.0.0.1", self.port)
                status, closing = await exchange(reader, writer, self.request)
        except ConnectionRefusedError:
            return 0
        except (OSError, TimeoutError, asyncio.IncompleteReadError) as error:
            self.lost.append(type(error).__name__)
            return -1
        if keep and not closing:
            self.idle.append((reader, writer))
        else:
            writer.close()
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
            if (wait := due - time.perf_counter()) > 0:
                await asyncio.sleep(wait)
            if len(tasks) >= most:
                skipped += 1
                await asyncio.sleep(0)
                continue
            task = asyncio.ensure_future(self.one(due))
            tasks.add(task)
            task.add_done_callback(tasks.discard)
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

    def close(self) -> None:
        for _, writer in self.idle:
            writer.close()
        self.idle.clear()


async def exchange(reader: asyncio.StreamReader, writer: asyncio.StreamWriter, request: bytes) -> tuple[int, bool]:
    """The status of the answer, which is read whole, and whether the server closes."""
    writer.write(request)
    head = (await reader.readuntil(b"\r\n\r\n")).lower()
    length = next(int(line.split(b":")[1]) for line in head.split(b"\r\n") if line.startswith(b"content-length:"))
    await reader.readexactly(length)
    return int(head.split(b" ", 2)[1]), b"connection: close" in head


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
