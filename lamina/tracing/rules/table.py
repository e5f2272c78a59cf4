"""The table of shape rules, which the other files of this folder fill."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

RULES: dict[Any, Callable[..., Any]] = {}


def rule(*functions: Any) -> Callable[[Callable[..., Any]], Callable[..., Any]]:
    def register(function: Callable[..., Any]) -> Callable[..., Any]:
        RULES.update((f, function) for f in functions)
        return function

    return register


# Questions about a tensor, answered by the stand-in itself.
TRANSPARENT: set[Any] = {
    Tensor.size, Tensor.dim, Tensor.ndimension, Tensor.numel, Tensor.nelement, Tensor.__len__, Tensor.stride,
    Tensor.is_contiguous, Tensor.is_floating_point, Tensor.is_complex, Tensor.element_size, Tensor.storage_offset,
    Tensor.get_device, Tensor.data_ptr, Tensor.__hash__, Tensor.__repr__, Tensor.__format__, Tensor.untyped_storage,
    torch.is_floating_point, torch.is_complex, torch.numel, torch.is_tensor, torch.is_grad_enabled, torch.device,
    torch.Size.numel, torch.can_cast, torch.promote_types, torch.result_type, torch.finfo, torch.iinfo, Tensor.is_signed,
    Tensor.is_pinned, Tensor.is_shared, torch.is_same_size, torch.is_autocast_enabled,
    *(getattr(Tensor, name).__get__ for name in ("shape", "dtype", "ndim", "is_nested", "requires_grad", "is_meta")),
}  # fmt: skip

# Those of them that reach no operator.
QUESTIONS: set[Any] = TRANSPARENT - {Tensor.__repr__, Tensor.__format__, torch.can_cast, torch.promote_types, torch.result_type}

# Functions that torch writes in Python of several operations, and that are one layer.
WHOLE: set[Any] = {F.local_response_norm}
