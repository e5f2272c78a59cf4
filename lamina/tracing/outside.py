"""The tensors that were there before a call, though neither its inputs nor its module's weights and buffers name them:
attributes, constants in closures and global variables, key/value caches, what functions remember."""

import gc
from collections.abc import Iterator
from types import BuiltinFunctionType, FunctionType, ModuleType
from typing import Any

import torch
from torch import nn
from torch.nn.parameter import is_lazy

LIMIT = 200_000  # objects looked at
ENDS = (type, ModuleType, BuiltinFunctionType, str, bytes, int, float, complex, type(None))


def tensors(*roots: Any) -> Iterator[torch.Tensor]:
    """The tensors that these objects refer to, functions by the names in their code; classes and Python's modules are not
    entered."""
    waiting, seen = list(roots), set[int]()
    while waiting and len(seen) < LIMIT:
        found = waiting.pop()
        if id(found) in seen or isinstance(found, ENDS):
            continue
        seen.add(id(found))
        if isinstance(found, torch.Tensor):
            if not is_lazy(found):
                yield found
            continue
        if isinstance(found, FunctionType):
            waiting += [found.__globals__.get(name) for name in found.__code__.co_names]
            waiting += [found.__closure__, found.__defaults__, found.__kwdefaults__]
            continue
        if isinstance(found, nn.Module):
            waiting.append(getattr(type(found), "forward", None))
        waiting += gc.get_referents(found)
