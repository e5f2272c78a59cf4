"""One progress bar for all long work: on standard error, after two seconds, and only on a terminal."""

import sys
import time
from collections.abc import Callable, Iterable, Iterator
from typing import TypeVar

T = TypeVar("T")
PATIENCE = 2.0  # seconds before a bar appears


def note(text: str) -> None:
    """A line on standard error about long work; only on a terminal."""
    if sys.stderr.isatty():
        print(text, file=sys.stderr)


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


class Meter:
    """A bar for work that counts its own steps, with a text of the last one. With `quiet`, or on no terminal, nothing."""

    def __init__(self, total: int, label: str, done: int = 0, quiet: bool = False):
        self.bar = None
        if quiet or not sys.stderr.isatty():
            return
        from rich.console import Console
        from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn

        columns = (
            TextColumn(label),
            BarColumn(bar_width=20),
            MofNCompleteColumn(),
            TextColumn("{task.fields[text]}"),
            TimeElapsedColumn(),
            TimeRemainingColumn(),
        )
        # Standard output stays where it is told to go: metrics written to a file do not belong to the bar.
        self.bar = Progress(*columns, console=Console(stderr=True), transient=True, redirect_stdout=sys.stdout.isatty())
        self.task = self.bar.add_task(label, total=total, completed=done, text="")

    def __enter__(self) -> "Meter":
        if self.bar is not None:
            self.bar.start()
        return self

    def __exit__(self, *_: object) -> None:
        if self.bar is not None:
            self.bar.stop()

    def advance(self, text: str) -> None:
        if self.bar is not None:
            self.bar.update(self.task, advance=1, text=text)
