"""`FILE.onnx`: a graph, which has neither a module nor weights to load."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

from lamina.errors import InputError
from lamina.extras import install_command
from lamina.sources.source import Input, Shapes, Source
from lamina.workload import Device, Workload


@dataclass(frozen=True)
class Onnx(Source):
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
        return cls(model, inputs={n: Input(tuple(map(int, s))) for n, s in sizes.items()}, path=path)

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
