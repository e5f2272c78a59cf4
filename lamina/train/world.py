"""The processes that share a run: what one needs to know of the others. One process is a world of its own."""

import contextlib
import os
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.distributed.tensor import DTensor, distribute_tensor

from lamina.errors import LaminaError

CPU = torch.device("cpu")

# Process groups, never let go of: were DistributedDataParallel the last to hold one, torch would wait for the group's thread
# with the interpreter's lock in hand, which that thread may want to free a tensor, and the process would never end.
_groups: list[Any] = []


@dataclass(frozen=True)
class World:
    """The processes that share a run; `torch.distributed.run` tells each of them its place."""

    rank: int = 0
    ranks: int = 1
    device: torch.device = CPU

    @classmethod
    @contextlib.contextmanager
    def joined(cls, device: str, several: bool) -> "Iterator[World]":
        if not several:  # whatever a scheduler has put into the environment
            yield cls(device=torch.device(device))
            return
        place = torch.device(device, int(os.environ["LOCAL_RANK"])) if device == "cuda" else torch.device(device)
        if place.type == "cuda":
            torch.cuda.set_device(place)
        dist.init_process_group("nccl" if place.type == "cuda" else "gloo")
        _groups.append(dist.group.WORLD)
        try:
            yield cls(dist.get_rank(), dist.get_world_size(), place)
        finally:
            dist.destroy_process_group()

    def sum(self, values: list[float]) -> list[float]:
        """Each value summed over the processes."""
        if self.ranks == 1:
            return values
        total = torch.tensor(values, dtype=torch.float64, device=self.device)
        dist.all_reduce(total)
        return total.tolist()

    def gather(self, value: Any) -> list[Any]:
        """Every process's value, in the order of their ranks."""
        if self.ranks == 1:
            return [value]
        found: list[Any] = [None] * self.ranks
        dist.all_gather_object(found, value)
        return found

    @contextlib.contextmanager
    def together(self) -> Iterator[None]:
        """Where one process fails in this block, all stop after it: the first that failed says why, the others go quietly."""
        error = None
        try:
            yield
        except LaminaError as failure:
            error = failure
        failed = [rank for rank, bad in enumerate(self.gather(error is not None)) if bad]
        if failed and self.rank == failed[0]:
            assert error is not None
            raise error
        if failed:
            raise SystemExit(0)

    def share(self, index: Tensor) -> Tensor:
        """This process's part of a batch: as equal as can be, the first ones take what is left over."""
        return index.tensor_split(self.ranks)[self.rank] if self.ranks > 1 else index


def full(value: Tensor) -> Tensor:
    return value.full_tensor() if isinstance(value, DTensor) else value


def placed_like(value: Tensor, like: Tensor) -> Tensor:
    """`value` placed as `like` is: on its device, and sharded over the processes in the same way."""
    value = value.to(like.device, like.dtype)
    return distribute_tensor(value, like.device_mesh, like.placements) if isinstance(like, DTensor) else value


def sharded(module: nn.Module, world: World) -> nn.Module:
    """FSDP2: parameters, gradients and optimizer states sharded over the processes, a block at a time."""
    from torch.distributed.device_mesh import init_device_mesh
    from torch.distributed.fsdp import fully_shard

    mesh = init_device_mesh(world.device.type, (world.ranks,))
    for child in reversed(list(module.modules())):  # from the inside out
        if isinstance(child, (nn.ModuleList, nn.Sequential)) and child is not module:
            for block in child:
                if next(block.parameters(), None) is not None:
                    fully_shard(block, mesh=mesh)
    fully_shard(module, mesh=mesh)
    return module
