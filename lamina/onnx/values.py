"""The tensors and nodes of a graph that is read: what is known of each tensor, and a node with its inputs looked up."""

import math
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import onnx
from onnx import NodeProto, TypeProto, helper

from lamina.onnx.dtypes import code_of
from lamina.operators import Shape

LIMIT = 4096  # the most elements of a constant whose value is followed


@dataclass(slots=True)
class Value:
    """A tensor of the graph; `shape` is None where it depends on values. A `constant` depends on no input of the network:
    `data` is its value, if small, and `sources` are the initializers that it was made of. An activation has a `tensor`
    number."""

    shape: Shape | None
    dtype: str
    data: np.ndarray | None = None
    constant: bool = False
    sources: tuple[Any, ...] = ()
    tensor: int | None = None

    @property
    def numel(self) -> int:
        return math.prod(self.shape or ())

    def proto(self) -> TypeProto:
        return helper.make_tensor_type_proto(code_of(self.dtype), self.shape)


@dataclass(slots=True)
class Node:
    """A node with its inputs looked up; `outputs` (shape, type) are there once they are inferred."""

    op: str
    domain: str
    label: str
    proto: NodeProto
    attributes: dict[str, Any]
    inputs: list[Value | None]
    opset: int
    result: int  # the number that the first output will have
    outputs: list[tuple[Shape | None, str]] = field(default_factory=list)

    def has(self, i: int) -> bool:
        return i < len(self.inputs) and self.inputs[i] is not None

    def value(self, i: int) -> Value:
        found = self.inputs[i] if i < len(self.inputs) else None
        if found is None:
            raise MissingInput(f"lacks its input {i}")
        return found

    def shape(self, i: int) -> Shape:
        shape = self.value(i).shape
        if shape is None:
            raise UnknownShape
        return shape

    def data(self, i: int) -> np.ndarray | None:
        return self.value(i).data if self.has(i) else None

    def get(self, name: str, default: Any) -> Any:
        return self.attributes.get(name, default)

    def output(self, i: int = 0) -> Shape:
        shape = self.outputs[i][0] if i < len(self.outputs) else None
        if shape is None:
            raise UnknownShape
        return shape

    def ref(self, i: int) -> int | str:
        """An input as the operand of a nest: its number, or the name of its initializer."""
        value = self.value(i)
        if value.tensor is not None:
            return value.tensor
        return value.sources[0].names[0] if value.sources else "constant"


def packed_bits(node: Node) -> int:
    """Of the weights that an operator of ONNX Runtime takes packed."""
    return node.get("expert_weight_bits" if node.op == "QMoE" else "bits", 4)


class UnknownShape(Exception):
    """A rule met a shape that depends on values."""


class MissingInput(Exception):
    """A node lacks an input that its operator needs."""


def attributes(node: NodeProto) -> dict[str, Any]:
    """A node's attributes as plain values; tensors and graphs stay protos."""
    found: dict[str, Any] = {}
    for a in node.attribute:
        value = helper.get_attribute_value(a)
        if isinstance(value, bytes):
            value = value.decode(errors="replace")
        elif a.type in (onnx.AttributeProto.INTS, onnx.AttributeProto.FLOATS):
            value = tuple(value)
        elif a.type == onnx.AttributeProto.STRINGS:
            value = tuple(v.decode(errors="replace") for v in value)
        found[a.name] = value
    return found


def plain(values: dict[str, Any]) -> dict[str, Any]:
    """The attributes that a record can hold."""
    return {k: v for k, v in values.items() if isinstance(v, (int, float, str, tuple))}
