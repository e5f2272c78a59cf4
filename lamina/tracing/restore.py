"""What a forward stores on its modules goes with the trace."""

from collections import OrderedDict
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from operator import is_
from typing import Any

from torch import nn

CONTAINERS = {dict, OrderedDict, list, set}


@contextmanager
def restored(modules: Sequence[nn.Module]) -> Iterator[None]:
    """Put the modules' attributes back: what a forward stores on its module (a cache, the last input, a flag) goes, what
    it took away comes back. Lists, dictionaries and sets among the attributes get their items back.

    Only what changed is written, so that another thread that uses the same module sees no difference.
    """
    tables = [vars(module) for module in modules]
    containers = [value for table in tables for value in table.values() if type(value) in CONTAINERS]
    empty = [container for container in containers if not container]  # most: torch's tables of hooks
    before = [(container, container.copy()) for container in (*tables, *containers) if container]
    try:
        yield
    finally:
        for container in filter(None, empty):
            container.clear()
        for container, copy in before:
            if not _same(container, copy):
                container.clear()
                (container.extend if isinstance(container, list) else container.update)(copy)


def _same(a: Any, b: Any) -> bool:
    """Whether they hold the same objects, in the same order. (Tensors do not say whether they are equal.)"""
    if len(a) != len(b):
        return False
    if isinstance(a, dict) and not all(map(is_, a.values(), b.values())):
        return False
    return all(map(is_, a, b))
