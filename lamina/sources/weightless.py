"""Building other people's networks without their weights."""

from collections.abc import Callable
from typing import Any, TypeVar

T = TypeVar("T")


def without_weights(build: Callable[[], T]) -> T:
    """What `build` makes, on the meta device. Where it computes numbers with torch on the way (a list of widths), what can
    hold such numbers stays real."""
    import torch
    from torch.overrides import TorchFunctionMode

    class Weightless(TorchFunctionMode):
        def __torch_function__(self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: Any = None) -> Any:
            kwargs = kwargs or {}
            if func in (torch.empty, torch.zeros, torch.ones, torch.full, torch.rand, torch.randn):
                kwargs["device"] = kwargs.get("device") or "meta"
            return func(*args, **kwargs)

    try:
        with torch.device("meta"):
            return build()
    except (RuntimeError, NotImplementedError) as error:
        if "meta" not in str(error).lower():
            raise
    with Weightless():
        return build()
