"""Batches: what is run together, what fails alone, what is refused, and who leaves the queue."""

import asyncio
import threading

import pytest

from lamina.serve.batching import Batcher, Pace, choose
from lamina.serve.refusal import Refusal

SOON = 120.0  # seconds: a deadline that no test meets


class Gate:
    """A network that waits to be let through, and remembers its batches."""

    def __init__(self):
        self.open, self.entered = threading.Event(), threading.Event()
        self.batches: list[list[int]] = []

    def run(self, values):
        self.entered.set()
        assert self.open.wait(SOON)
        self.batches.append(list(values))
        if 13 in values:
            raise ValueError("thirteen")
        return [-value for value in values]


async def started(gate: Gate, batcher: Batcher, value: int = 1) -> asyncio.Task:
    """A request that is being run."""
    task = submit(batcher, value)
    await asyncio.to_thread(gate.entered.wait, SOON)
    return task


def submit(batcher: Batcher, value: int, rows: int = 1, within: float = SOON, key: str = "") -> asyncio.Task:
    due = asyncio.get_running_loop().time() + within
    return asyncio.ensure_future(batcher.submit(value, rows, due, key))


def play(scene, size: int = 4, seconds: float = 0.01, latency: float = 10.0):
    """Run `scene(gate, batcher)` and close."""

    async def whole():
        gate = Gate()
        batcher = Batcher(gate.run, Pace(size, seconds), latency)
        try:
            return await scene(gate, batcher)
        finally:
            gate.open.set()
            await batcher.close()

    return asyncio.run(whole())


def test_what_waits_is_run_together_in_order():
    async def scene(gate, batcher):
        tasks = [await started(gate, batcher)] + [submit(batcher, value) for value in range(2, 9)]
        await asyncio.sleep(0)
        assert batcher.waiting == 7
        gate.open.set()
        assert await asyncio.gather(*tasks) == [-value for value in range(1, 9)]
        assert gate.batches == [[1], [2, 3, 4, 5], [6, 7, 8]]
        assert batcher.waiting == 0

    play(scene)


def test_rows_and_keys_bound_a_batch():
    async def scene(gate, batcher):
        wanted = [(2, 3, "a"), (3, 1, "b"), (4, 2, "a"), (5, 1, "a"), (6, 1, "b")]
        tasks = [await started(gate, batcher)] + [submit(batcher, v, rows, key=key) for v, rows, key in wanted]
        await asyncio.sleep(0)
        gate.open.set()
        await asyncio.gather(*tasks)
        assert gate.batches == [[1], [2, 5], [3, 6], [4]]  # 2 has 3 rows, and 4 does not fit beside it

    play(scene)


def test_a_bad_one_fails_alone():
    async def scene(gate, batcher):
        tasks = [await started(gate, batcher)] + [submit(batcher, value) for value in (12, 13, 14)]
        await asyncio.sleep(0)
        gate.open.set()
        first, before, bad, after = await asyncio.gather(*tasks, return_exceptions=True)
        assert (first, before, after) == (-1, -12, -14)
        assert isinstance(bad, ValueError) and str(bad) == "thirteen"

    play(scene)


def test_answers_that_are_missing_are_an_error():
    async def scene():
        batcher = Batcher(lambda values: [], Pace(4, 0.01), 1.0)
        with pytest.raises(RuntimeError, match="0 answers to 1 requests"):
            await submit(batcher, 1)
        await batcher.close()

    asyncio.run(scene())


def test_a_full_queue_refuses_with_the_time_to_come_back():
    async def scene(gate, batcher):
        assert batcher.room == 5  # ten rows of 0.1 s are answered in a second, and half of it is for waiting
        tasks = [await started(gate, batcher), submit(batcher, 2, rows=4)]
        await asyncio.sleep(0)
        with pytest.raises(Refusal) as refusal:
            await submit(batcher, 3, rows=2)
        assert refusal.value.status == 429 and refusal.value.retry == pytest.approx(0.4)
        tasks.append(submit(batcher, 4))  # the one row that there is room for
        await asyncio.sleep(0)
        assert batcher.full
        gate.open.set()
        assert await asyncio.gather(*tasks) == [-1, -2, -4]

    play(scene, seconds=0.1, latency=1.0)


def test_a_request_larger_than_the_room_is_taken_by_an_empty_queue():
    async def scene(gate, batcher):
        gate.open.set()
        assert batcher.room == 4
        assert await submit(batcher, 1, rows=16) == -1

    play(scene, seconds=1.0, latency=1.0)


def test_a_deadline_is_kept_in_the_queue_and_in_a_run():
    async def scene(gate, batcher):
        running, waiting = submit(batcher, 1, within=0.1), submit(batcher, 2, within=0.1)
        other = submit(batcher, 3)
        results = await asyncio.gather(running, waiting, return_exceptions=True)
        assert [result.status for result in results] == [503, 503]
        gate.open.set()
        assert await other == -3
        assert [2] not in gate.batches  # nobody waited for it any more

    play(scene, size=1)


def test_who_goes_leaves_the_queue():
    async def scene(gate, batcher):
        tasks = [await started(gate, batcher)] + [submit(batcher, value) for value in (2, 3)]
        await asyncio.sleep(0)
        tasks.pop(1).cancel()
        await asyncio.sleep(0)
        assert batcher.waiting == 1
        gate.open.set()
        assert await asyncio.gather(*tasks) == [-1, -3]
        assert gate.batches == [[1], [3]]

    play(scene)


def test_closing_finishes_what_waits_and_refuses_what_comes():
    async def scene(gate, batcher):
        tasks = [await started(gate, batcher), submit(batcher, 2)]
        await asyncio.sleep(0)
        closing = asyncio.ensure_future(batcher.close())
        await asyncio.sleep(0)
        with pytest.raises(Refusal, match="stopping"):
            await submit(batcher, 3)
        gate.open.set()
        await closing
        assert await asyncio.gather(*tasks) == [-1, -2]

    play(scene)


def test_the_room_follows_the_pace():
    async def scene():
        seen = []
        batcher = Batcher(lambda values: values, Pace(1, 1.0), 2.0, lambda rows, seconds: seen.append(rows))
        assert batcher.room == 1
        for _ in range(40):
            await submit(batcher, 1)
        assert batcher.room > 100  # a row takes far less than the second that was said
        assert seen == [1] * 40
        await batcher.close()

    asyncio.run(scene())


def test_a_slower_pace_counts_at_once():
    """Also where it is not the network that is slow: what waited when the last batch ended took from then on."""

    async def scene():
        first, second = threading.Event(), threading.Event()

        def run(values):
            if values == [2]:
                assert second.wait(SOON)
            first.set()
            return values

        batcher = Batcher(run, Pace(1, 1e-4), 100.0)
        await submit(batcher, 1)
        quick = batcher.seconds
        slow, waiting = submit(batcher, 2), submit(batcher, 3)
        await asyncio.sleep(0.3)
        second.set()
        await asyncio.gather(slow, waiting)
        await asyncio.sleep(0)
        assert quick < 0.1 < batcher.seconds  # 0.3 s for a row, not a fifth of it
        await batcher.close()

    asyncio.run(scene())


@pytest.mark.parametrize(
    ("fixed", "each", "bound", "rows"),
    [
        (0.0, 0.01, 1.0, 1),  # nothing is gained by waiting for others
        (0.1, 0.001, 10.0, 16),  # a run costs much, a row little
        (0.1, 0.001, 0.105, 4),  # 8 rows would take 0.108 s
        (0.1, 0.001, 0.01, 1),  # even one is too slow: it is served all the same
        (0.001, 0.01, 10.0, 4),  # 0.01025 s per row, against 0.0100625 of sixteen: within 3 %
    ],
)
def test_the_size_of_a_batch(fixed, each, bound, rows):
    pace = choose(lambda n: fixed + n * each, 16, bound)
    assert pace == Pace(rows, pytest.approx(fixed / rows + each))


def test_the_largest_batch_is_tried():
    tried = []
    choose(lambda n: tried.append(n) or 0.1, 12, 1.0)
    assert tried[:5] == [1, 2, 4, 8, 12] and set(tried) == {1, 2, 4, 8, 12}


def test_a_busy_moment_does_not_decide():
    """The second run, of two rows, meets one: four times what it takes otherwise."""
    tried = []

    def time_rows(n: int) -> float:
        tried.append(n)
        return (0.1 + 0.01 * n) * (4 if len(tried) == 2 else 1)

    assert choose(time_rows, 2, 10.0) == Pace(2, pytest.approx(0.06))
