"""What a real forward pass keeps for its backward pass, as torch itself hands it over."""

from typing import Any

import torch
from torch import nn


def saved_bytes(module: nn.Module, *inputs: Any, **kwargs: Any) -> int:
    """The bytes of all storages that are saved, each once, but for the module's own."""
    own = {x.untyped_storage().data_ptr() for x in (*module.parameters(), *module.buffers())}
    saved: dict[int, torch.Tensor] = {}  # held, or an address would come again

    def pack(tensor: torch.Tensor) -> torch.Tensor:
        if tensor.untyped_storage().data_ptr() not in own:
            saved[tensor.untyped_storage().data_ptr()] = tensor
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
        result = module(*inputs, **kwargs)
    del result
    return sum(x.untyped_storage().nbytes() for x in saved.values())
