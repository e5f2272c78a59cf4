"""Ways to run a network on this machine. Each is a file here and a row in `ENGINES`; its library is imported when it starts."""

from collections.abc import Sequence
from importlib import import_module
from importlib.util import find_spec
from typing import Protocol

from torch import Tensor

from lamina.errors import InputError
from lamina.infer.engines.program import Program


class Engine(Protocol):
    """A network made ready. `run` takes the network's inputs, of any batch size, and gives its outputs in float32; several
    threads may call it at once."""

    def run(self, inputs: Sequence[Tensor]) -> list[Tensor]: ...


# Name: (its module here, the library it needs, the extra of `pip install` that brings it).
ENGINES = {
    "torch": ("eager", "torch", ""),
    "compile": ("compiled", "torch", ""),
    "onnxruntime": ("onnxruntime", "onnxruntime", "onnx"),
    "openvino": ("openvino", "openvino", "openvino"),
}


def installed() -> list[str]:
    """The engines whose libraries this environment has."""
    return [name for name, (_, library, _) in ENGINES.items() if find_spec(library) is not None]


def check(name: str) -> None:
    """Raises `InputError` for an engine that is not known or not installed."""
    if name not in ENGINES:
        raise InputError(f"there is no engine {name!r}: there are {', '.join(ENGINES)}, and auto")
    _, library, extra = ENGINES[name]
    if find_spec(library) is None:
        from lamina.extras import install_command

        raise InputError(f"the engine {name} needs {library}: {install_command(extra)}")


def start(name: str, program: Program) -> Engine:
    """The engine `name` with the network loaded. Raises what `check` does, and `LaminaError` where the engine cannot take the
    network; one line each."""
    check(name)
    module = ENGINES[name][0]
    return import_module(f"lamina.infer.engines.{module}").start(program)
