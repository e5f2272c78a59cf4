"""What is arranged around a trace: compiled code runs as it was written, no garbage is collected by chance, and threads that
trace one module take turns."""

import gc
import sys
import threading
import warnings
import weakref
from collections.abc import Iterator, Sequence
from contextlib import AbstractContextManager, ExitStack, contextmanager, nullcontext
from typing import Any

import torch
from torch import nn

from lamina.tracing import private


@contextmanager
def as_written(modules: Sequence[nn.Module]) -> Iterator[None]:
    """Compiled code runs as it was written."""
    with ExitStack() as stack:
        if "torch._dynamo" in sys.modules:  # else nobody has compiled anything
            stack.enter_context(torch.compiler.set_stance("force_eager"))
        if any(map(private.is_compiled, modules)):  # torch warns that global hooks see the module and its original
            stack.enter_context(warnings.catch_warnings())
            warnings.filterwarnings("ignore", message="Using `torch.compile")
        yield


@contextmanager
def no_collection() -> Iterator[None]:
    """No garbage collection meanwhile: when a tensor in a cycle dies would depend on chance."""
    if not gc.isenabled():
        yield
        return
    gc.disable()
    try:
        yield
    finally:
        gc.enable()


_TURNS: "weakref.WeakKeyDictionary[nn.Module, threading.RLock]" = weakref.WeakKeyDictionary()
_TURNS_LOCK = threading.Lock()


def turn(module: Any) -> AbstractContextManager[Any]:
    """Threads that trace one module take turns: what a forward stores on it is put back before the next begins."""
    if not isinstance(module, nn.Module):
        return nullcontext()
    with _TURNS_LOCK:
        return _TURNS.setdefault(module, threading.RLock())
