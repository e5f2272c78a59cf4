"""What an engine is given: a network, and inputs of the sizes it will meet."""

import shutil
import tempfile
import weakref
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

from torch import Tensor, nn

from lamina.errors import InputError, LaminaError
from lamina.infer.engines.sharing import Shared, share, worth
from lamina.infer.engines.threads import limited
from lamina.infer.export import export_onnx
from lamina.infer.rewrite import Rewritten, rewrite


def tensors(result: Any) -> list[Tensor]:
    """A network's outputs: a tensor, or those of a sequence or a mapping (what transformers' networks give)."""
    if isinstance(result, Tensor):
        return [result]
    return [x for x in (result.values() if isinstance(result, Mapping) else result) if isinstance(x, Tensor)]


@dataclass(eq=False)
class Program:
    """A network as a module in evaluation mode, or as an ONNX file, with an `example` of its inputs.

    `simplify` asks for the rewrites of `infer.rewrite`, within `memory` bytes for the weights in other forms; `threads` are
    an engine's threads (None: as many as torch has); `winograd` are the layers that are known to gain by Winograd's algorithm
    (None: they are measured).
    """

    name: str
    example: Sequence[Tensor]
    module: nn.Module | None = None
    path: Path | None = None
    threads: int | None = None
    simplify: bool = True
    memory: int | None = None
    winograd: Sequence[str] | None = None

    @property
    def network(self) -> nn.Module:
        """The module. Raises `InputError` for an ONNX file."""
        if self.module is None:
            raise InputError(f"{self.name} is an ONNX file, which torch does not run: take onnxruntime or openvino")
        return self.module

    @cached_property
    def rewritten(self) -> Rewritten:
        """For torch, operation by operation: every layer in its fastest form."""
        with limited(self.threads):
            return rewrite(self.network, self.example, memory=self.memory, winograd=self.winograd)

    @cached_property
    def compilable(self) -> Rewritten:
        """For Inductor, which packs layers itself: with Winograd's convolutions where they are faster."""
        with limited(self.threads):
            return rewrite(self.network, self.example, memory=self.memory, pack=False)

    @cached_property
    def portable(self) -> nn.Module:
        """The network in torch's own layers, for export."""
        return rewrite(self.network, self.example, fast=False).module if self.simplify else self.network

    @cached_property
    def shared(self) -> Shared | None:
        """For ONNX Runtime: a file without the large weights, where copies of them would not pay."""
        if self.path is not None or not worth(self.network, self.example):
            return None
        return share(self.portable, self.example)

    @cached_property
    def onnx(self) -> Path:
        """The network as an ONNX file with a free batch size; one that is made here goes with the program."""
        if self.path is not None:
            return self.path
        folder = tempfile.mkdtemp(prefix="lamina-")
        weakref.finalize(self, shutil.rmtree, folder, True)
        module = self.portable
        try:
            return export_onnx(module, self.example, Path(folder) / "network.onnx")
        except LaminaError:
            if module is self.network:
                raise
            return export_onnx(self.network, self.example, Path(folder) / "network.onnx")
