"""What a trace must leave as it found it, and whose line of code is to blame when it cannot go on."""

import linecache
import sys
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from operator import is_
from pathlib import Path
from types import TracebackType
from typing import Any

import torch
from torch import nn

HERE = str(Path(__file__).parent)
CONTAINERS = frozenset((list, dict, set))


@contextmanager
def restored(modules: Iterable[nn.Module]) -> Iterator[None]:
    """Put the modules' attributes back: what a forward stores on its module (a cache, the last input, a flag) goes, what
    it took away comes back. Lists, dictionaries and sets among the attributes get their items back.

    Only what changed is written, so that another thread that uses the same module sees no difference.
    """
    before: list[tuple[Any, Any]] = []
    for module in modules:
        attributes = vars(module)
        before.append((attributes, attributes.copy()))
        # Its parameters, buffers and children are dictionaries among them.
        before += [(value, value.copy()) for value in attributes.values() if type(value) in CONTAINERS and value]
    try:
        yield
    finally:
        for now, saved in before:
            if type(now) is set:
                if now != saved:
                    now.clear()
                    now.update(saved)
            elif type(now) is list:
                if len(now) != len(saved) or not all(map(is_, now, saved)):
                    now[:] = saved
            elif len(now) != len(saved) or not all(map(is_, now.values(), saved.values())):
                now.clear()
                now.update(saved)


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
