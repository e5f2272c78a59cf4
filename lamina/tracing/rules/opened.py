"""Functions that torch writes in Python."""

from functools import cache
from types import FunctionType
from typing import Any

from lamina.tracing import private
from lamina.tracing.rules.table import WHOLE


@cache
def opened(func: Any) -> Any:
    """A function that torch writes in Python, without its question whether a mode is watching: what it calls is seen
    instead. None if there is nothing to open."""
    checks = private.asks_for_modes(func)
    own = str(getattr(func, "__module__", "")).startswith("torch.")  # a function of others that asks is one operation
    if not (own and isinstance(func, FunctionType) and checks and func not in WHOLE):
        return None
    plain = {**func.__globals__, **dict.fromkeys(checks, lambda *_: False)}
    plainly = FunctionType(func.__code__, plain, func.__name__, func.__defaults__, func.__closure__)
    plainly.__kwdefaults__ = func.__kwdefaults__
    return plainly
