"""Whose line of code is to blame when a trace cannot go on."""

import inspect
import linecache
import sys
from collections.abc import Callable, Mapping, Sequence
from os import sep
from pathlib import Path
from types import TracebackType
from typing import Any

import torch
from torch import nn

from lamina.errors import InputError, LaminaError, first_line
from lamina.tracing import private

OURS = (f"{Path(__file__).parent}{sep}", f"{Path(torch.__file__).parent}{sep}", "<")  # where no line is the user's


def calling_line() -> str:
    """`model.py:41 (`x.item()`)` of the innermost running line that is neither torch's nor the tracer's; "" if none is."""
    frame = sys._getframe(1)
    while frame is not None:
        if not frame.f_code.co_filename.startswith(OURS):
            return _line(frame.f_code.co_filename, frame.f_lineno)
        frame = frame.f_back
    return ""


def raising_line(traceback: TracebackType | None) -> str:
    """The same, for an error that has been raised."""
    found = ""
    while traceback is not None:
        file = traceback.tb_frame.f_code.co_filename
        if not file.startswith(OURS):
            found = _line(file, traceback.tb_lineno)
        traceback = traceback.tb_next
    return found


def raising_module(traceback: TracebackType | None) -> nn.Module | None:
    """The innermost module that an error has passed."""
    found = None
    while traceback is not None:
        found = private.called_module(traceback.tb_frame) or found
        traceback = traceback.tb_next
    return found


def _line(file: str, number: int) -> str:
    text = linecache.getline(file, number).strip()
    return f"{Path(file).name}:{number}" + (f" (`{text}`)" if text else "")


def explained(
    error: Exception, where: str, module: Callable[..., Any], inputs: Sequence[Any], kwargs: Mapping[str, Any]
) -> LaminaError:
    """An error that the forward raised, shortened to the user's line; missing arguments by their names."""
    missing = _missing(module, inputs, kwargs) if isinstance(error, TypeError) else []
    if missing:
        name = getattr(module, "__name__", type(module).__name__)
        return InputError(f"{name} needs {' and '.join(f'`{m}`' for m in missing)}, which the call did not give")
    text = first_line(error) if str(error).strip() else "no message"
    line = raising_line(error.__traceback__)
    kind = InputError if isinstance(error, (ValueError, RuntimeError, TypeError)) else LaminaError
    return kind(f"{where}: {type(error).__name__}: {text}" + (f"; at {line}" if line else ""))


def _missing(module: Callable[..., Any], inputs: Sequence[Any], kwargs: Mapping[str, Any]) -> list[str]:
    """The arguments without which the forward cannot be called, and that are not there."""
    try:
        signature = inspect.signature(module.forward if isinstance(module, nn.Module) else module)
        given = signature.bind_partial(*inputs, **kwargs).arguments
    except (TypeError, ValueError):
        return []
    needed = [p for p in signature.parameters.values() if p.kind not in (p.VAR_POSITIONAL, p.VAR_KEYWORD)]
    return [p.name for p in needed if p.default is p.empty and p.name not in given]
