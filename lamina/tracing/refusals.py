"""What a trace of shapes cannot know, each in one line: the layer, the operation, the cause and the way out."""

from __future__ import annotations

import torch
from torch import Tensor

from lamina.errors import InputError
from lamina.tracing import blame
from lamina.tracing.emitter import Emitter


class NeedsValues(InputError):
    """An operation whose result depends on values."""


LAYOUTS = {
    "sparse": "what it computes of a sparse tensor depends on values; of shapes only its products with dense ones are counted, "
    "with values=True (--run) all is",
    "nested": "the lengths in a nested tensor are values; with values=True (--run) those of layout=torch.jagged are counted, "
    "those of torch.strided are not",
}


def of_layout(t: Emitter, name: str, layout: str) -> str:
    """What is wrong with an operation on a tensor of this layout."""
    line = blame.calling_line()
    return f"{t.where()}: {name}: {LAYOUTS[layout]}" + (f"; at {line}" if line else "")


def check_layout(t: Emitter, name: str, tensors: list[Tensor]) -> None:
    """Refuse sparse and nested tensors: how much there is in them shapes do not say."""
    for x in tensors:
        if x.is_nested or x.layout is not torch.strided:
            raise NeedsValues(of_layout(t, name.strip("_"), "nested" if x.is_nested else "sparse"))
