"""ONNX without copies, for networks that are mostly fully connected layers (AlexNet, VGG) at a batch of 1.

Such a layer reads its weights once in a run, and neither packing nor a second copy makes that faster. The file made here holds
none of them; ONNX Runtime takes them where they lie in torch's memory. VGG-16 so peaks at 1.5 times its weights, in place of
4 times (an export holds them three times, and a session once more).
"""

import copy
import shutil
import tempfile
import weakref
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from lamina.errors import LaminaError
from lamina.infer.export import convert
from lamina.infer.graph import input_shapes

LARGE = 1 << 20  # bytes of a weight that is worth sharing
PLACE = "weights"  # the file that ONNX demands for weights outside the graph; it stays empty


@dataclass(eq=False)
class Shared:
    """An ONNX file, and the weights that it names and does not hold."""

    path: Path
    weights: dict[str, Tensor]


def worth(module: nn.Module, example: Sequence[Tensor]) -> bool:
    """Whether more than half of the weights' bytes are in linear layers that meet a single row."""
    total = sum(p.nbytes for p in module.parameters())
    linear = [layer for layer in module.modules() if isinstance(layer, nn.Linear)]
    if 2 * sum(layer.weight.nbytes for layer in linear) <= total or any(p.device.type != "cpu" for p in module.parameters()):
        return False
    met = input_shapes(module, example, linear)
    single = [layer for layer in linear if layer in met and torch.Size(met[layer][:-1]).numel() == 1]
    return 2 * sum(layer.weight.nbytes for layer in single) > total


def share(module: nn.Module, example: Sequence[Tensor]) -> Shared | None:
    """The network as such a file, which goes with the result; None where its export looks at weights' values."""
    import onnx_ir

    given = {**dict(module.named_parameters()), **dict(module.named_buffers())}
    try:
        program = convert(_without_values(module), [torch.empty_like(x, device="meta") for x in example], optimize=False)
    except (LaminaError, RuntimeError, NotImplementedError):
        return None
    weights: dict[str, Tensor] = {}
    values: Any = program.model.graph.initializers
    for name, value in values.items():
        tensor = given.get(name)
        if tensor is None:
            return None
        tensor = tensor.detach().contiguous()
        if tensor.dim() == 2 and tensor.nbytes >= LARGE and tensor.dtype == torch.float32:
            weights[name] = tensor
            shape = onnx_ir.Shape(tuple(tensor.shape))
            value.const_value = onnx_ir.ExternalTensor(PLACE, 0, tensor.nbytes, onnx_ir.DataType.FLOAT, shape=shape, name=name)
        else:
            value.const_value = onnx_ir.tensor(tensor.numpy(), name=name)
    folder = Path(tempfile.mkdtemp(prefix="lamina-"))
    found = Shared(folder / "network.onnx", weights)
    weakref.finalize(found, shutil.rmtree, folder, True)
    onnx_ir.save(program.model, found.path)
    with (folder / PLACE).open("wb") as file:
        file.truncate(max((t.nbytes for t in weights.values()), default=0))  # a hole: it takes no room
    return found


def _without_values(module: nn.Module) -> nn.Module:
    """A copy on the meta device, for which no weight is copied."""
    memo: dict[int, Any] = {}
    for tensor in (*module.parameters(), *module.buffers()):
        empty = torch.empty_like(tensor, device="meta")
        memo[id(tensor)] = nn.Parameter(empty, requires_grad=False) if isinstance(tensor, nn.Parameter) else empty
    return copy.deepcopy(module, memo)
