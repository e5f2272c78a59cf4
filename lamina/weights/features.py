"""Inner outputs of a network, by the names of its layers."""

import difflib
from collections.abc import Sequence
from typing import Any

from torch import Tensor, nn

from lamina.errors import InputError


def features(module: nn.Module, x: Any, names: Sequence[str]) -> dict[str, Tensor]:
    """The outputs of the layers `names` (paths as `lamina cost --by layer` prints them, or of whole stages such as "layer3")
    in one call `module(x)`; of a layer that is called several times, the last. The module is left as it was, also when its
    forward raises."""
    modules = dict(module.named_modules())
    if unknown := [name for name in names if name not in modules]:
        near = difflib.get_close_matches(unknown[0], modules, n=4)
        raise InputError(
            f"no layer is called {unknown[0]!r}; the nearest are {', '.join(near) or ', '.join(list(modules)[1:5])}"
        )
    found: dict[str, Tensor] = {}

    def keep(name: str):
        def hook(_module: nn.Module, _inputs: Any, output: Tensor) -> None:
            # a rectifier after it may write over its output
            found[name] = output.clone() if isinstance(output, Tensor) else output

        return hook

    handles = [modules[name].register_forward_hook(keep(name)) for name in names]
    try:
        module(x)
    finally:
        for handle in handles:
            handle.remove()
    if skipped := [name for name in names if name not in found]:
        raise InputError(f"{skipped[0]} is not called in a forward pass of this module")
    return {name: found[name] for name in names}
