"""Timing several things side by side: they take turns, so that a busy moment of the machine meets all of them."""

import statistics
import time
from collections.abc import Callable, Mapping

LEAST = 5  # turns of each, whatever they take


def take_turns(
    runs: Mapping[str, Callable[[], object]],
    seconds: float,
    *,
    least: int = LEAST,
    most: int | None = None,
    leave: float | None = None,
    clock: Callable[[], float] = time.perf_counter,
) -> dict[str, list[float]]:
    """The seconds of each run, by name, in about `seconds` for each thing, and in `least` to `most` turns. Before each timed
    run goes one that is not: the threads of the one before may still be spinning, and the caches are full of its numbers.

    With `leave`, who takes more than so many times the best one's median leaves after `least` turns. `clock`
    is what counts as time.
    """
    times: dict[str, list[float]] = {name: [] for name in runs}
    racing, end = list(runs), time.perf_counter() + seconds * len(runs)
    while min(len(times[name]) for name in racing) < least or time.perf_counter() < end:
        for name in racing:
            runs[name]()
            begin = clock()
            runs[name]()
            times[name].append(clock() - begin)
        medians = {name: statistics.median(times[name]) for name in racing}
        if len(times[racing[0]]) >= least and leave is not None:
            racing = [name for name in racing if medians[name] <= leave * min(medians.values())]
        if most is not None and len(times[racing[0]]) >= most:
            break
    return times
