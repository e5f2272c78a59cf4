"""The record of an ONNX graph in the making: tensors and storages by number, stored tensors, layers and counts."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

from onnx import NodeProto, TensorProto

from lamina.onnx.costs import Cost
from lamina.onnx.dtypes import dtype_of, recorded
from lamina.onnx.file import small_data
from lamina.onnx.names import module_of
from lamina.onnx.parameters import Stored, parameters
from lamina.onnx.values import Node, Value, plain
from lamina.operators import Shape
from lamina.workload import Kind, Loops, Tensor, replace


@dataclass(slots=True)
class Step:
    """A layer in the making."""

    label: str
    module: str
    module_type: str
    op: str
    kind: Kind
    attributes: dict[str, Any]
    inputs: list[int]
    outputs: list[int]
    weights: list[Stored]
    loops: tuple[Loops, ...] = ()
    ops: dict[str, int] = field(default_factory=dict)
    unknown: tuple[str, tuple[Shape, ...], tuple[Shape, ...]] | None = None

    @property
    def macs(self) -> int:
        return sum(nest.macs for nest in self.loops)


@dataclass(slots=True)
class Record:
    """Layers, and how many operators were counted and free."""

    steps: list[Step] = field(default_factory=list)
    counted: int = 0
    free: int = 0

    def add(self, other: "Record", times: int = 1) -> None:
        for step in other.steps:
            if times != 1:
                step.loops = tuple(replace(nest, times=nest.times * times) for nest in step.loops)
                step.ops = {kind: count * times for kind, count in step.ops.items()}
            self.steps.append(step)
        self.counted, self.free = self.counted + other.counted, self.free + other.free


class Ledger:
    """What one reading writes down."""

    def __init__(self) -> None:
        self.record = Record()
        self.tensors: list[tuple[Shape, str, int]] = []  # shape, type, storage
        self.storages: list[int] = []  # bytes
        self.stored: dict[tuple[str, str], Stored] = {}  # by the graph's place and the name
        self.assumptions: dict[str, None] = {}

    def activation(self, shape: Shape, dtype: str, like: Value | None = None) -> Value:
        """A new tensor, in a storage of its own or in that of `like`."""
        storage = self.tensors[like.tensor][2] if like is not None and like.tensor is not None else len(self.storages)
        if storage == len(self.storages):
            self.storages.append(Tensor(0, shape, recorded(dtype), 0, 0, "activation", False).bytes)
        self.tensors.append((shape, dtype, storage))
        return Value(shape, dtype, tensor=len(self.tensors) - 1)

    def initializer(self, tensor: TensorProto, where: str) -> Value:
        return self._stored(tensor, where, tensor.name, where + tensor.name)

    def constant(self, tensor: TensorProto, label: str, name: str) -> Value:
        """The value of the Constant node `label`, whose output has the name."""
        return self._stored(tensor, label, name, name, constant_node=True)

    def sparse(self, values: TensorProto, shape: Shape, where: str) -> Value:
        """A sparse initializer, which is as large as the tensor that it stands for."""
        key = (where, values.name)
        held = self.stored.setdefault(key, Stored((where + values.name,), shape, dtype_of(values.data_type), None, False))
        return Value(shape, held.dtype, None, True, (held,))

    def _stored(self, tensor: TensorProto, where: str, key: str, name: str, constant_node: bool = False) -> Value:
        """A graph that is read twice (a loop's body) stores its tensors once."""
        shape, dtype = tuple(tensor.dims), dtype_of(tensor.data_type)
        held = self.stored.setdefault((where, key), Stored((name,), shape, dtype, tensor, constant_node))
        return Value(shape, dtype, small_data(tensor), True, (held,))

    def operator(self, node: Node, cost: Cost | None, known: bool) -> list[Value]:
        """Record a node that runs each time; its outputs are new tensors, a view's in its input's storage. Without a cost
        its operator is unknown, or, if `known`, its sizes are."""
        kind = "other" if cost is None else cost.kind
        weights = parameters(node)
        viewed = node.inputs[0] if kind == "view" and node.inputs else None
        results = [
            self.activation(shape, dtype, viewed) if shape is not None and name else Value(shape, dtype)
            for (shape, dtype), name in zip(node.outputs, node.proto.output, strict=False)
        ]
        inputs = [v.tensor for v in node.inputs if v is not None and v.tensor is not None]
        attributes = node.attributes if cost is None else node.attributes | cost.attributes
        step = self.step(node.proto, node.label, attributes, kind, inputs, results, weights)
        if cost is None:
            name = f"{node.domain}.{node.op}" if node.domain else node.op
            name += " (its sizes depend on values)" if known else ""
            step.unknown = (name, _shapes(node.inputs), _shapes(results))
            return results
        step.loops, step.ops = cost.loops, cost.ops
        if kind in ("view", "copy", "embedding"):
            self.record.free += 1
        else:
            self.record.counted += 1
        return results

    def step(
        self,
        proto: NodeProto,
        label: str,
        attributes: dict[str, Any],
        kind: Kind,
        inputs: list[int],
        results: Sequence[Value],
        weights: Sequence[Stored] = (),
    ) -> Step:
        """A layer."""
        module, module_type = module_of(proto, label, kind, weights)
        outputs = [v.tensor for v in results if v.tensor is not None]
        made = Step(label, module, module_type, proto.op_type, kind, plain(attributes), inputs, outputs, list(weights))
        self.record.steps.append(made)
        return made

    def control(
        self,
        proto: NodeProto,
        label: str,
        attributes: dict[str, Any],
        kind: Kind,
        values: Sequence[Value | None],
        results: Sequence[Value],
        unknown: str = "",
    ) -> None:
        """An If, Loop or Scan: it moves `values` to its `results`, and is listed as unknown with the reason, if there is
        one."""
        inputs = dict.fromkeys(v.tensor for v in values if v is not None and v.tensor is not None)
        step = self.step(proto, label, attributes, kind, list(inputs), results)
        if unknown:
            step.unknown = (f"{proto.op_type} ({unknown})", _shapes(values), _shapes(results))
        else:
            self.record.free += 1


def _shapes(values: Sequence[Value | None]) -> tuple[Shape, ...]:
    return tuple(v.shape for v in values if v is not None and v.shape is not None)
