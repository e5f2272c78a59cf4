"""ONNX Runtime on the CPU."""

from collections.abc import Mapping, Sequence
from pathlib import Path

import onnxruntime  # pyright: ignore[reportMissingImports]
import torch
from torch import Tensor

from lamina.errors import LaminaError, first_line
from lamina.infer.engines.program import Program


class OnnxRuntime:
    def __init__(self, path: Path, threads: int | None, name: str, weights: Mapping[str, Tensor] | None = None):
        """`weights` are those that the file names and does not hold."""
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = threads or torch.get_num_threads()
        options.log_severity_level = 3  # its warnings speak of its own optimizer
        self.weights = {key: onnxruntime.OrtValue.ortvalue_from_numpy(t.numpy()) for key, t in (weights or {}).items()}
        for key, value in self.weights.items():
            options.add_initializer(key, value)
        if weights:
            options.add_session_config_entry("session.disable_prepacking", "1")  # which copies them
        try:
            self.session = onnxruntime.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])
        except Exception as error:  # its own errors share no class but this one
            raise LaminaError(f"{name} does not run under ONNX Runtime: {first_line(error)}") from error
        self.names = [argument.name for argument in self.session.get_inputs()]

    def run(self, inputs: Sequence[Tensor]) -> list[Tensor]:
        given = {name: x.numpy() for name, x in zip(self.names, inputs, strict=True)}
        return [torch.from_numpy(y) for y in self.session.run(None, given)]


def start(program: Program) -> OnnxRuntime:
    if program.shared is not None:
        return OnnxRuntime(program.shared.path, program.threads, program.name, program.shared.weights)
    return OnnxRuntime(program.onnx, program.threads, program.name)
