"""What a trace must leave as it found it, and whose line of code is to blame when it cannot go on."""

import linecache
import sys
from collections import OrderedDict
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from itertools import chain, compress, islice, repeat
from operator import is_, itemgetter
from pathlib import Path
from types import TracebackType
from typing import Any

import torch
from torch import nn

HERE = str(Path(__file__).parent)
_FRESH = vars(nn.Module())
CONTAINERS = {dict, OrderedDict, list, set}
_STANDARD = itemgetter(*(name for name, value in _FRESH.items() if type(value) in CONTAINERS))  # parameters, hooks, children
_LAST = len(_FRESH) - 1  # the place of the children, after which a module's own attributes come


@contextmanager
def restored(modules: Sequence[nn.Module]) -> Iterator[None]:
    """Put the modules' attributes back: what a forward stores on its module (a cache, the last input, a flag) goes, what
    it took away comes back. Lists, dictionaries and sets among the attributes get their items back.

    Only what changed is written, so that another thread that uses the same module sees no difference.
    """
    # A module has twenty attributes, half of them empty containers: what looks at each of them runs in C.
    tables: list[Any] = [vars(module) for module in modules]
    values = _values(tables)
    containers = _containers(tables, values)
    full = list(filter(None, containers))
    items, copies = _values(full), [container.copy() for container in chain(tables, full)]
    try:
        yield
    finally:
        if not _same(values, _values(tables)) or not _same(items, _values(filter(None, containers))):
            for container, copy in zip(chain(tables, full), copies, strict=True):
                if not _same(_values([container]), _values([copy])):
                    container.clear()
                    (container.extend if isinstance(container, list) else container.update)(copy)
            kept = set(map(id, full))
            for container in containers:
                if container and id(container) not in kept:
                    container.clear()


def _containers(tables: list[Any], values: list[Any]) -> list[Any]:
    """The lists, dictionaries and sets among the attributes."""
    try:
        standard = list(map(_STANDARD, tables))
    except KeyError:  # a module from an old file, say
        standard = []
    own = [islice(table.values(), _LAST, None) for table in tables]
    if standard and all(map(is_, map(next, own, repeat(None)), [row[-1] for row in standard])):
        values = list(chain.from_iterable(own))
        return [*chain.from_iterable(standard), *compress(values, map(CONTAINERS.__contains__, map(type, values)))]
    return list(compress(values, map(CONTAINERS.__contains__, map(type, values))))


def _values(containers: Iterable[Any]) -> list[Any]:
    return list(chain.from_iterable([x.values() if isinstance(x, dict) else x for x in containers]))


def _same(a: list[Any], b: list[Any]) -> bool:
    return len(a) == len(b) and all(map(is_, a, b))


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
