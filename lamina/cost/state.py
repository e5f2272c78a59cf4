"""What a trace must leave as it found it, and whose line of code is to blame when it cannot go on."""

import linecache
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from itertools import chain, compress
from operator import is_
from pathlib import Path
from types import TracebackType
from typing import Any

import torch
from torch import nn

HERE = str(Path(__file__).parent)
CONTAINERS = {dict, list, set}


@contextmanager
def restored(modules: Sequence[nn.Module]) -> Iterator[None]:
    """Put the modules' attributes back: what a forward stores on its module (a cache, the last input, a flag) goes, what
    it took away comes back. Lists, dictionaries and sets among the attributes get their items back.

    Only what changed is written, so that another thread that uses the same module sees no difference.
    """
    tables: list[dict[Any, Any]] = [vars(module) for module in modules]
    # A module has twenty attributes: what looks at each of them runs in C.
    values = list(chain.from_iterable(map(dict.values, tables)))
    kept = list(compress(values, map(CONTAINERS.__contains__, map(type, values))))
    tables += [value for value in kept if type(value) is dict]  # a module's parameters, buffers and children among them
    others: list[Any] = [value for value in kept if type(value) is not dict]
    inner = tables[len(modules) :]
    before = [*values, *chain.from_iterable(map(dict.values, inner)), *chain.from_iterable(others)]
    keys, sizes = list(chain.from_iterable(tables)), [len(x) for x in chain(tables, others)]
    try:
        yield
    finally:
        after = [*chain.from_iterable(map(dict.values, tables)), *chain.from_iterable(others)]
        if len(before) != len(after) or not all(map(is_, before, after)):
            start = 0
            for container, size in zip(chain(tables, others), sizes, strict=True):
                saved = before[start : start + size]
                now = container.values() if isinstance(container, dict) else container
                if len(container) != size or not all(map(is_, now, saved)):
                    container.clear()
                    if isinstance(container, dict):
                        container.update(zip(keys[start : start + size], saved, strict=True))
                    else:
                        (container.extend if isinstance(container, list) else container.update)(saved)
                start += size


# ---- whose line ------------------------------------------------------------------------------------------------------


def _is_ours(file: str) -> bool:
    return file.startswith((HERE, _TORCH, "<"))


_TORCH = str(Path(torch.__file__).parent)


def calling_line() -> str:
    """`model.py:41 (`x.item()`)` of the innermost running line that is neither torch's nor the tracer's; "" if none is."""
    frame = sys._getframe(1)
    while frame is not None:
        if not _is_ours(frame.f_code.co_filename):
            return _line(frame.f_code.co_filename, frame.f_lineno)
        frame = frame.f_back
    return ""


def raising_line(traceback: TracebackType | None) -> str:
    """The same, for an error that has been raised."""
    found = ""
    while traceback is not None:
        file = traceback.tb_frame.f_code.co_filename
        if not _is_ours(file):
            found = _line(file, traceback.tb_lineno)
        traceback = traceback.tb_next
    return found


def _line(file: str, number: int) -> str:
    text = linecache.getline(file, number).strip()
    return f"{Path(file).name}:{number}" + (f" (`{text}`)" if text else "")
