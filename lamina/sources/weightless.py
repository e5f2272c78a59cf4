"""Other people's networks without their weights, and with a file's."""

from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

from lamina.errors import InputError

if TYPE_CHECKING:
    from torch import nn

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


def with_values(name: str, module: "nn.Module", weights: str | Path | None) -> "nn.Module":
    """The module in evaluation mode with the weights of this file, if there is one, whose names are the module's own."""
    from lamina.weights.reading import read_state

    if weights is not None:
        if not Path(weights).is_file():
            raise InputError(f"{weights}: no such weight file")
        try:
            module.load_state_dict(read_state(Path(weights)))
        except RuntimeError as error:
            lines = " ".join(str(error).split())
            raise InputError(f"{weights} does not fit {name}: {lines[:200]}") from error
    return module.eval()
