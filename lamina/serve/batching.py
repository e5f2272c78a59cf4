"""Requests that come one by one, run together.

A thread for each network takes whatever waits as soon as it is free: a lone request is run at once, and under load batches grow
by themselves. `choose` measures how large a batch is worth waiting for; the queue is as long as can be answered in time.
"""

import asyncio
import contextlib
import math
import threading
import time
from collections import deque
from collections.abc import Callable, Hashable, Sequence
from dataclasses import dataclass, field
from typing import Any

from lamina.serve.refusal import Refusal

WORTH = 0.97  # of the best throughput: a smaller batch that reaches it is the better one
PATIENCE = 5.0  # seconds after which no larger batch is measured
ROUNDS, ENOUGH = 8, 2.0  # each size is measured so often, in so many seconds: a busy moment of the machine meets all of them
WEIGHT = 0.2  # of the newest batch in what is known of the pace, where it was faster; a slower one counts at once
QUEUE = 0.5  # of the latency that is spent waiting to be run: a flood slows everything before the pace shows it
LONGEST = 1024  # rows that wait at most, however fast the network is


@dataclass(frozen=True)
class Pace:
    """`rows` run together at most, and the `seconds` that a row takes then."""

    rows: int
    seconds: float


def choose(time_rows: Callable[[int], float], most: int, bound: float) -> Pace:
    """The smallest batch of 1, 2, 4, ... `most` rows within 3 % of the best throughput, among those that run in `bound`
    seconds; one row where none does. `time_rows(n)` runs a batch of n and gives the seconds it took; the least count."""
    begin = time.perf_counter()
    sizes = [2**i for i in range(most.bit_length()) if 2**i < most] + [most]
    times: dict[int, float] = {}
    for rows in sizes:
        times[rows] = time_rows(rows)
        if times[rows] > bound:
            times[rows] = min(times[rows], time_rows(rows))
        if times[rows] > bound or time.perf_counter() - begin > PATIENCE:
            break
    for _ in range(ROUNDS - 1):
        for rows in times:
            if time.perf_counter() - begin < ENOUGH:
                times[rows] = min(times[rows], time_rows(rows))
    per_row = {rows: seconds / rows for rows, seconds in times.items() if rows == 1 or seconds <= bound}
    best = min(per_row.values())
    rows = min(rows for rows, seconds in per_row.items() if seconds * WORTH <= best)
    return Pace(rows, per_row[rows])


@dataclass(eq=False)
class Job:
    """One request: what `run` takes of it, its rows, and the key that those which can be run together share."""

    value: Any
    rows: int
    key: Hashable
    answer: asyncio.Future[Any]
    came: float = field(default_factory=time.perf_counter)
    waits: bool = True


class Batcher:
    """`run` takes the values of some jobs with one key, and gives an answer or an error for each, in their order; it is called
    on a thread of its own. Where it raises for several, each is run alone, so that a bad one fails by itself.

    `latency` is what an accepted request takes at most, expected, in seconds: more are refused. `observe(rows, seconds)` is
    called for each batch. Belongs to the running event loop.
    """

    def __init__(
        self,
        run: Callable[[Sequence[Any]], Sequence[Any]],
        pace: Pace,
        latency: float,
        observe: Callable[[int, float], None] = lambda rows, seconds: None,
    ):
        self.run, self.size, self.latency, self.observe = run, pace.rows, latency, observe
        self.seconds = pace.seconds  # from one row's answer to the next, lately, while others waited
        self.waiting = 0  # rows
        self._jobs: deque[Job] = deque()
        self._closing = False
        self._changed = threading.Condition()
        self._loop = asyncio.get_running_loop()
        self._thread = threading.Thread(target=self._work, daemon=True, name="lamina batches")
        self._thread.start()

    @property
    def room(self) -> int:
        """Rows that may wait: those that are run within `QUEUE` of the latency."""
        return min(LONGEST, max(self.size, int(QUEUE * self.latency / max(self.seconds, 1e-6))))

    @property
    def full(self) -> bool:
        return self.waiting >= self.room

    def refusal(self) -> Refusal:
        """What a request is told that finds the queue full."""
        return Refusal(429, f"busy: {self.waiting} inputs wait already", retry=self.waiting * self.seconds)

    async def submit(self, value: Any, rows: int, due: float, key: Hashable = None) -> Any:
        """The answer to `value`; what `run` raises for it is raised. Raises `Refusal` if the queue is full, or no answer has
        come when it is `due`, a time of the loop's clock; who is cancelled leaves the queue."""
        job = Job(value, rows, key, self._loop.create_future())
        with self._changed:
            if self._closing:
                raise Refusal(503, "the server is stopping", retry=1)
            if self.waiting and self.waiting + rows > self.room:
                raise self.refusal()
            self._jobs.append(job)
            self.waiting += rows
            self._changed.notify()
        late = self._loop.call_at(due, self._expire, job)
        try:
            return await job.answer
        finally:
            late.cancel()
            self._withdraw(job)

    def _expire(self, job: Job) -> None:
        if not job.answer.done():
            job.answer.set_exception(Refusal(503, "no answer before the deadline", retry=self.waiting * self.seconds))

    async def close(self) -> None:
        """Run what waits, and end the thread."""
        with self._changed:
            self._closing = True
            self._changed.notify()
        await asyncio.to_thread(self._thread.join)

    def _withdraw(self, job: Job) -> None:
        if not job.waits:  # it was taken, which is not taken back
            return
        with self._changed:
            if job.waits:
                job.waits = False
                self.waiting -= job.rows
                self._jobs.remove(job)

    # ---- on the thread -----------------------------------------------------------------------------------------------

    def _work(self) -> None:
        end = 0.0  # of the last batch
        while batch := self._next():
            begin = time.perf_counter()
            results = self._results(batch)
            last, end = end, time.perf_counter()
            # What waited when the last batch ended took from then on, whatever else had the processor before it was run.
            pace = end - (last if batch[0].came < last else begin)
            with contextlib.suppress(RuntimeError):  # the loop was closed by force: nobody waits any more
                self._loop.call_soon_threadsafe(self._deliver, batch, results, end - begin, pace)

    def _next(self) -> list[Job]:
        """The first job and those after it with its key, up to the size of a batch; none when all is done."""
        with self._changed:
            while not self._jobs and not self._closing:
                self._changed.wait()
            batch: list[Job] = []
            rows = 0
            for job in list(self._jobs):
                if batch and (job.key != batch[0].key or rows + job.rows > self.size):
                    continue
                batch.append(job)
                rows += job.rows
                if rows >= self.size:
                    break
            for job in batch:
                job.waits = False
                self._jobs.remove(job)
            self.waiting -= rows
            return batch

    def _results(self, batch: Sequence[Job]) -> list[Any]:
        try:
            results = list(self.run([job.value for job in batch]))
            if len(results) != len(batch):
                raise RuntimeError(f"{len(results)} answers to {len(batch)} requests")
            return results
        except Exception as error:  # whatever the network raises is the answer
            if len(batch) == 1:
                return [error]
            return [self._results([job])[0] for job in batch]

    # ---- on the loop -------------------------------------------------------------------------------------------------

    def _deliver(self, batch: Sequence[Job], results: Sequence[Any], seconds: float, pace: float) -> None:
        rows = sum(job.rows for job in batch)
        if rows >= math.ceil(self.size / 2):  # a smaller one says nothing of the pace under load
            self.seconds = max(pace / rows, self.seconds + WEIGHT * (pace / rows - self.seconds))
        self.observe(rows, seconds)
        for job, result in zip(batch, results, strict=True):
            if job.answer.done():  # its client has gone, or its deadline has passed
                continue
            if isinstance(result, Exception):
                job.answer.set_exception(result)
            else:
                job.answer.set_result(result)
