"""torch.compile: Inductor's C++ code, with the weights frozen into it. Needs a C++ compiler; the first run compiles."""

import warnings
from collections.abc import Sequence

import torch
from torch import Tensor

from lamina.errors import LaminaError, first_line
from lamina.infer.engines.program import Program, tensors
from lamina.infer.engines.threads import limited


class Compiled:
    def __init__(self, program: Program):
        self.threads = program.threads
        module = program.compilable.module if program.simplify else program.network
        try:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")  # of what torch imports for it
                self.module = torch.compile(module, dynamic=False, options={"freezing": True})
                self.run(program.example)
        except Exception as error:  # Dynamo's, Inductor's and the compiler's errors share no class
            raise LaminaError(f"{program.name} cannot be compiled: {first_line(error)}") from error

    @torch.inference_mode()
    def run(self, inputs: Sequence[Tensor]) -> list[Tensor]:
        with limited(self.threads):
            return [x.float() for x in tensors(self.module(*inputs))]


def start(program: Program) -> Compiled:
    return Compiled(program)
