"""One progress bar for all long work: on standard error, after two seconds, and only on a terminal."""

import sys
import time
from collections.abc import Callable, Iterable, Iterator
from typing import TypeVar

T = TypeVar("T")
PATIENCE = 2.0  # seconds before a bar appears


def track(
    items: Iterable[T], label: str, total: float | None = None, weight: Callable[[T], float] | None = None
) -> Iterator[T]:
    """Yield `items` unchanged; `weight(item)` says how much of `total` an item is (one, by default)."""
    if not sys.stderr.isatty():
        yield from items
        return
    from rich.console import Console
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

    if total is None and hasattr(items, "__len__"):
        total = len(items)  # type: ignore[arg-type]
    columns = (TextColumn(label), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
    bar = Progress(*columns, console=Console(stderr=True), transient=True)
    task = bar.add_task(label, total=total)
    start = time.monotonic()
    shown = False
    try:
        for item in items:
            yield item
            bar.advance(task, weight(item) if weight else 1)
            if not shown and time.monotonic() - start > PATIENCE:
                bar.start()
                shown = True
    finally:
        if shown:
            bar.stop()
