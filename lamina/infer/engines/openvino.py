"""OpenVINO on the CPU."""

from collections.abc import Sequence
from pathlib import Path

import openvino  # pyright: ignore[reportMissingImports]
import torch
from torch import Tensor

from lamina.errors import LaminaError, first_line
from lamina.infer.engines.program import Program


class OpenVino:
    def __init__(self, path: Path, threads: int | None, name: str):
        # On processors with AMX or bf16 units its default is bf16; the answers here are fp32's.
        settings = {"INFERENCE_NUM_THREADS": threads or torch.get_num_threads(), "INFERENCE_PRECISION_HINT": "f32"}
        try:
            core = openvino.Core()
            self.model = core.compile_model(core.read_model(str(path)), "CPU", settings)
        except Exception as error:  # its own errors share no class but this one
            raise LaminaError(f"{name} does not run under OpenVINO: {first_line(error)}") from error

    def run(self, inputs: Sequence[Tensor]) -> list[Tensor]:
        results = self.model([x.numpy() for x in inputs], share_inputs=True)  # a request of its own for each call
        return [torch.from_numpy(results[port].copy()) for port in self.model.outputs]


def start(program: Program) -> OpenVino:
    return OpenVino(program.onnx, program.threads, program.name)
