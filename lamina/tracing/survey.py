"""What a module is before it is called: where its submodules stand, its parameters (tied ones as one), its buffers."""

from collections.abc import Iterator
from dataclasses import dataclass
from functools import cache
from typing import Any, Literal

import torch
from torch import nn
from torch.nn.parameter import is_lazy

from lamina.errors import InputError
from lamina.tracing import private
from lamina.workload import Part, Weight


@cache
def dtype_name(dtype: torch.dtype) -> str:
    """As the record has it: torch's name without "torch."."""
    return str(dtype).removeprefix("torch.")


Owner = Weight | Literal["buffer"]  # whose memory a tensor of the module is


class Uninitialised(InputError):
    """A lazy layer that has not been called: nobody knows its weights' shapes."""


@dataclass(frozen=True, slots=True)
class Place:
    """Where a module stands. A leaf has no modules of its own; the module that is traced is none."""

    path: str
    type: str
    leaf: bool
    module: nn.Module


@dataclass(frozen=True)
class Survey:
    """A module's own: `tensors` and `storages` say whose each tensor (by `id`) and each storage (by address) is."""

    places: dict[int, Place]  # by id(module)
    weights: tuple[Weight, ...]
    tensors: dict[int, Owner]
    storages: dict[int, Owner]
    buffers: int  # elements
    buffer_bytes: int
    held: tuple[torch.Tensor, ...]  # so that no other tensor gets the `id` of one of them


def survey(module: Any) -> Survey:
    """The survey of a module; an empty one for any other callable."""
    places = _places(module) if isinstance(module, nn.Module) else {}
    modules = [place.module for place in places.values()]
    weights, tensors, storages, parameters = _weights(places)
    buffers = [x for m in modules for x in private.buffers(m).values() if x is not None]
    buffers = list({id(buffer): buffer for buffer in buffers}.values())
    for buffer in buffers:
        _check_shape("a buffer", buffer)
        tensors[id(buffer)] = "buffer"
        storages.setdefault(private.address(buffer), "buffer")
    return Survey(
        places,
        weights,
        tensors,
        storages,
        sum(buffer.numel() for buffer in buffers),
        sum(buffer.nbytes if buffer.layout is torch.strided else private.memory(buffer) for buffer in buffers),
        (*parameters, *buffers),
    )


def type_name(module: nn.Module) -> str:
    """The name of its class; of a scripted one that of what it was made from."""
    return module.original_name if isinstance(module, torch.jit.ScriptModule) else type(module).__name__


def _places(root: nn.Module) -> dict[int, Place]:
    """Every module once, parents first. A compiled one stands where its original does."""
    places: dict[int, Place] = {}
    waiting = [("", root)]
    while waiting:
        path, module = waiting.pop()
        if id(module) in places:
            continue
        if type(module).__name__ == "FullyShardedDataParallel":
            raise InputError(
                f"{path or 'the network'} (FullyShardedDataParallel): its weights are shards of one flat vector, which have no "
                "layers' shapes: count the network before it is wrapped, or wrap it by fully_shard (FSDP2)"
            )
        children = [(name, child) for name, child in private.children(module).items() if child is not None]
        leaf = module is not root and all(isinstance(child, (nn.ParameterList, nn.ParameterDict)) for _, child in children)
        places[id(module)] = Place(path, type_name(module), leaf, module)
        compiled, prefix = private.is_compiled(module), f"{path}." if path else ""
        waiting += [(path if compiled else prefix + name, child) for name, child in reversed(children)]
    return places


def _parameters(places: dict[int, Place]) -> Iterator[tuple[str, Place, nn.Parameter]]:
    for place in places.values():
        for name, parameter in private.parameters(place.module).items():
            if parameter is not None:
                path = f"{place.path}.{name}" if place.path else name
                _check_shape(path, parameter)
                yield path, place, parameter


def _check_shape(name: str, tensor: torch.Tensor) -> None:
    if is_lazy(tensor):
        raise Uninitialised(f"{name} has no shape before the first call of its layer")


def _weights(places: dict[int, Place]) -> tuple[tuple[Weight, ...], dict[int, Owner], dict[int, Owner], list[nn.Parameter]]:
    """The weights, and whose each parameter and each storage is. Parameters of one storage and shape are one weight."""
    tied: dict[tuple[int, tuple[int, ...]], list[tuple[str, Place, nn.Parameter]]] = {}
    for name, place, parameter in _parameters(places):
        tied.setdefault((private.address(parameter), tuple(parameter.shape)), []).append((name, place, parameter))
    weights: list[Weight] = []
    tensors: dict[int, Owner] = {}
    storages: dict[int, Owner] = {}
    for (address, shape), same in tied.items():
        name, place, first = same[0]
        part: Part = "norm" if "Norm" in place.type else "bias" if name.endswith("bias") else "weight"
        names = tuple(name for name, _, _ in same)
        weight = Weight(names, shape, dtype_name(first.dtype), len(weights), part, first.requires_grad)
        weights.append(weight)
        storages[address] = weight
        tensors.update((id(parameter), weight) for _, _, parameter in same)
    return tuple(weights), tensors, storages, [parameter for same in tied.values() for _, _, parameter in same]
