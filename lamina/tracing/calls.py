"""Which module is being called. For its own thread, and while it lasts, a trace stands in for `nn.Module._call_impl`, as
torch.fx does for `__call__`: nothing is registered on a module, and what has no hooks stays on torch's short path."""

import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

from torch import nn

Watcher = Callable[[Callable[..., Any], nn.Module, tuple[Any, ...], dict[str, Any]], Any]

_watchers: dict[int, Watcher] = {}  # by thread
_lock = threading.Lock()
_original: Callable[..., Any] = nn.Module._call_impl
_thread = threading.get_ident


def _call(module: nn.Module, *args: Any, **kwargs: Any) -> Any:
    watcher = _watchers.get(_thread())
    return _original(module, *args, **kwargs) if watcher is None else watcher(_original, module, args, kwargs)


@contextmanager
def watched(watcher: Watcher) -> Iterator[None]:
    """Call `watcher(call, module, args, kwargs)` where this thread calls a module; `call(module, *args, **kwargs)` goes
    on."""
    global _original
    thread = _thread()
    with _lock:
        outer = _watchers.get(thread)  # a forward that itself traces something
        if not _watchers:
            _original = nn.Module._call_impl
            nn.Module._call_impl = _call  # type: ignore[method-assign]
        _watchers[thread] = watcher
    try:
        yield
    finally:
        with _lock:
            if outer is not None:
                _watchers[thread] = outer
            else:
                del _watchers[thread]
            if not _watchers:
                nn.Module._call_impl = _original  # type: ignore[method-assign]
