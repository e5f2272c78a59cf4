"""What real runs keep for the backward pass and have alive at once, as torch itself shows it."""

import weakref
from typing import Any

import torch
from torch import nn
from torch.utils._python_dispatch import TorchDispatchMode


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


class Watch(TorchDispatchMode):
    """The bytes of tensors alive in a real run, by storage."""

    def __init__(self, own: set[int]):
        super().__init__()
        self.own, self.alive, self.peak = own, 0, 0
        self.living: dict[int, int] = {}
        self.deaths: set[weakref.ref] = set()

    def add(self, tensor: torch.Tensor) -> None:
        storage = tensor.untyped_storage()
        key, size = storage._cdata, storage.nbytes()
        if key in self.own:
            return
        if key not in self.living:
            self.alive += size
            self.peak = max(self.peak, self.alive)
        self.living[key] = self.living.get(key, 0) + 1

        def died(death: weakref.ref) -> None:
            self.deaths.discard(death)
            self.living[key] -= 1
            if not self.living[key]:
                del self.living[key]
                self.alive -= size

        self.deaths.add(weakref.ref(tensor, died))

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        result = func(*args, **(kwargs or {}))
        for t in result if isinstance(result, (tuple, list)) else [result]:
            if isinstance(t, torch.Tensor) and not any(t is a for a in args):
                self.add(t)
        return result


def peak_bytes(module: nn.Module, *inputs: Any) -> int:
    """The most bytes alive in an inference, the inputs included."""
    watch = Watch({x.untyped_storage()._cdata for x in (*module.parameters(), *module.buffers())})
    with torch.no_grad():
        for x in inputs:
            watch.add(x)
        with watch:
            module(*inputs)
    return watch.peak
