"""`FILE.onnx`: a graph, which has neither a module nor weights to load."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, ClassVar

from lamina.errors import InputError
from lamina.extras import install_command
from lamina.sources.source import Input, Shapes, Source
from lamina.workload import Device, Workload


@dataclass(frozen=True)
class Onnx(Source):
    """`batchless` are the inputs whose sizes the file fixes but for the first, by what follows it."""

    batchless: Mapping[str, tuple[int, ...]] = field(default_factory=dict)

    form: ClassVar[str] = "FILE.onnx"

    @classmethod
    def claims(cls, model: str) -> bool:
        return Path(model).suffix == ".onnx"

    @classmethod
    def read(cls, model: str) -> "Onnx":
        path = Path(model)
        if not path.is_file():
            raise InputError(f"{model}: no such file")
        found = _graph(model).describe_inputs(path)
        sizes = {n: s for n, s in found.items() if s and all(isinstance(size, int) for size in s)}
        free = {n: s for n, s in found.items() if s and not isinstance(s[0], int) and all(isinstance(x, int) for x in s[1:])}
        if len({s[0] for s in free.values()}) > 1:  # a batch and a length, say
            free = {}
        batchless = {n: tuple(map(int, s[1:])) for n, s in free.items()}
        return cls(model, inputs={n: Input(tuple(map(int, s))) for n, s in sizes.items()}, path=path, batchless=batchless)

    def batched(self, size: int) -> dict[str, tuple[int, ...]]:
        return {name: (size, *rest) for name, rest in self.batchless.items()}

    @classmethod
    def check_external(cls, model: str) -> None:
        """Raises `LaminaError` where data of the file lie outside of its folder, which a runtime would open."""
        _graph(model)
        from lamina.onnx.file import check_external, one_line

        with one_line():
            check_external(Path(model))

    def running(self) -> Source:
        raise InputError(
            f"{self.name}: --run is for networks of torch; what a graph computes from values is read from the file"
        )

    def arguments(self) -> dict[str, bool]:
        return dict.fromkeys(_graph(self.name).describe_inputs(self.path), True)

    def workload(
        self,
        inputs: Shapes | None = None,
        dtype: str | None = None,
        past: int = 0,
        name: str | None = None,
        training: bool = False,
        device: Device = "cpu",
        example: Any = None,
    ) -> Workload:
        self.check_past(past)
        if training:
            raise InputError(f"{self.name}: an ONNX file is for inference; training memory needs the network itself")
        if dtype is not None:
            raise InputError(f"{self.name}: an ONNX file has its own types: leave --dtype out")
        return _graph(self.name).read(self.path, self.shapes(inputs))


def _graph(model: str) -> Any:
    try:
        from lamina.onnx import graph
    except ImportError as error:
        raise InputError(f"{model}: reading ONNX needs onnx: {install_command('onnx')}") from error
    return graph
