"""torch, operation by operation: rewritten for inference, in the memory layout that is faster here."""

import time
from collections.abc import Sequence

import torch
from torch import Tensor, nn

from lamina.infer import packed
from lamina.infer.engines.program import Program, tensors
from lamina.infer.engines.threads import limited
from lamina.infer.winograd import Winograd

CONVOLUTIONS = (nn.Conv2d, packed.Convolution, Winograd)


class Eager:
    def __init__(self, program: Program):
        self.threads = program.threads
        self.module = program.rewritten.module if program.simplify else program.network
        images = any(x.dim() == 4 for x in program.example)
        wanted = images and any(isinstance(layer, CONVOLUTIONS) for layer in self.module.modules())
        self.layout = torch.contiguous_format
        if wanted and program.simplify:
            # The rewritten graph has layers of its own; a network as it came is never changed, and stays in its layout.
            with limited(self.threads):
                self.layout = faster_layout(self.module, program.example)

    @torch.inference_mode()
    def run(self, inputs: Sequence[Tensor]) -> list[Tensor]:
        with limited(self.threads):
            given = [x.contiguous(memory_format=self.layout) if x.dim() == 4 else x for x in inputs]
            return [x.float() for x in tensors(self.module(*given))]


@torch.inference_mode()
def faster_layout(module: nn.Module, example: Sequence[Tensor]) -> torch.memory_format:
    """The layout of images in which one run is faster: rows or channels last."""
    times = []
    for layout in (torch.contiguous_format, torch.channels_last):
        given = [x.contiguous(memory_format=layout) if x.dim() == 4 else x for x in example]
        best = float("inf")
        for _ in range(3):
            begin = time.perf_counter()
            module(*given)
            best = min(best, time.perf_counter() - begin)
        times.append(best)
    return torch.contiguous_format if times[0] < times[1] else torch.channels_last


def start(program: Program) -> Eager:
    return Eager(program)
