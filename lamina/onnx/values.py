"""What is known of an ONNX graph's tensors before it runs: shapes, types, and the values of small constants.

Output shapes of the standard's operators come from the standard itself (`onnx.shape_inference`, one node at a time, with
concrete shapes and the values of constants), so that Reshape, Expand or Resize to a computed size are known.
"""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import onnx
from onnx import NodeProto, TensorProto, TypeProto, defs, helper, numpy_helper, shape_inference
from onnx.reference import ReferenceEvaluator

from lamina.operators import Shape

LIMIT = 4096  # the most elements of a constant whose value is followed

# ONNX's element types by name, as torch has them.
DTYPES: dict[int, str] = {
    TensorProto.FLOAT: "float32", TensorProto.DOUBLE: "float64", TensorProto.FLOAT16: "float16",
    TensorProto.BFLOAT16: "bfloat16", TensorProto.FLOAT8E4M3FN: "float8_e4m3fn", TensorProto.FLOAT8E5M2: "float8_e5m2",
    TensorProto.COMPLEX64: "complex64", TensorProto.COMPLEX128: "complex128", TensorProto.INT64: "int64",
    TensorProto.INT32: "int32", TensorProto.INT16: "int16", TensorProto.INT8: "int8", TensorProto.UINT64: "uint64",
    TensorProto.UINT32: "uint32", TensorProto.UINT16: "uint16", TensorProto.UINT8: "uint8", TensorProto.BOOL: "bool",
}  # fmt: skip
CODES = {name: code for code, name in DTYPES.items()}
_NAMES = {code: name for name, code in TensorProto.DataType.items()}


def dtype_of(code: int) -> str:
    """The name of an element type; those that the record does not know keep ONNX's (STRING, INT4, FLOAT8E5M2FNUZ)."""
    return DTYPES.get(code) or _NAMES.get(code, "UNDEFINED")


def recorded(dtype: str) -> str:
    """The name in the record: what is smaller than a byte is given a byte, and a string one too."""
    return dtype if dtype in CODES else {"INT4": "int8", "INT2": "int8"}.get(dtype, "uint8")


FLOATS = {"float64", "float32", "float16", "bfloat16", "float8_e4m3fn", "float8_e5m2"} | {
    dtype_of(code) for name, code in TensorProto.DataType.items() if name.startswith("FLOAT")
}
QUANTISED = {"int8", "uint8", "INT4", "UINT4", "INT2", "UINT2"}


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
        return helper.make_tensor_type_proto(CODES.get(self.dtype) or TensorProto.DataType.Value(self.dtype), self.shape)


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


# ---- output shapes --------------------------------------------------------------------------------------------------

_SAME = {
    "Relu", "Sigmoid", "Tanh", "Identity", "Exp", "Log", "Sqrt", "Neg", "Abs", "Erf", "Reciprocal", "Softmax", "LogSoftmax",
    "LeakyRelu", "Gelu", "Clip", "Elu", "HardSigmoid", "HardSwish", "Floor", "Ceil", "Round", "Sin", "Cos", "Not", "Softplus",
}  # fmt: skip

POOLS = {"MaxPool", "AveragePool", "LpPool"}


def infer(node: Node, opsets: dict[str, int], ir_version: int) -> list[tuple[Shape | None, str]]:
    """Shape and type of each output of an operator of the standard. What the standard finds wrong is an
    `onnx.shape_inference.InferenceError`."""
    if node.op in _SAME and len(node.proto.output) == 1:
        return [(node.value(0).shape, node.value(0).dtype)]
    if node.op == "Range":  # the standard's inference refuses one-element vectors, which runtimes and its own tests take
        return [(_range(node), node.value(0).dtype)]
    names = [str(i) if value is not None else "" for i, value in enumerate(node.inputs)]
    proto = NodeProto()
    proto.CopyFrom(node.proto)
    proto.input[:] = names  # of their own: one tensor may be two inputs, of which a name says nothing
    types: dict[str, TypeProto] = {}
    data: dict[str, TensorProto] = {}
    for name, value in zip(names, node.inputs, strict=True):
        if value is not None:
            types[name] = value.proto()
            if value.data is not None and value.data.size <= LIMIT and value.data.dtype.kind in "fiub":
                data[name] = numpy_helper.from_array(value.data)
    # Before opset 22 the inference counts windows of a pool that start beyond the input, which no runtime has.
    schema = defs.get_schema(node.op, max(node.opset, 22) if node.op in POOLS else node.opset, node.domain)
    imports = [helper.make_opsetid(domain, version) for domain, version in opsets.items()]
    found = shape_inference.infer_node_outputs(schema, proto, types, data, None, imports, ir_version)
    results: list[tuple[Shape | None, str]] = []
    for name in node.proto.output:
        kind = found.get(name) if name else None
        results.append((None, "float32") if kind is None else shape_of(kind))
    return results


def _range(node: Node) -> Shape | None:
    ends = [node.data(i) for i in range(3)]
    if any(x is None or x.size != 1 for x in ends):
        return None
    start, limit, delta = (x.reshape(-1)[0].item() for x in ends if x is not None)
    return (max(math.ceil((limit - start) / delta), 0),) if delta else None


def shape_of(kind: TypeProto) -> tuple[Shape | None, str]:
    """A tensor type's shape, if all of it is known, and the type of its elements."""
    tensor = kind.tensor_type
    if not kind.HasField("tensor_type") or not tensor.HasField("shape"):
        return None, dtype_of(tensor.elem_type)
    sizes = [d.dim_value if d.HasField("dim_value") else -1 for d in tensor.shape.dim]
    return (None if any(s < 0 for s in sizes) else tuple(sizes)), dtype_of(tensor.elem_type)


# ---- the values of constants ----------------------------------------------------------------------------------------


def _cast(node: Node, x: np.ndarray) -> np.ndarray:
    return x.astype(helper.tensor_dtype_to_np_dtype(node.get("to", TensorProto.FLOAT)))


def _slice(node: Node, x: np.ndarray, *rest: np.ndarray) -> np.ndarray:
    if not rest:
        starts, ends, axes, steps = node.get("starts", ()), node.get("ends", ()), node.get("axes", None), None
    else:
        starts, ends = rest[0].tolist(), rest[1].tolist()
        axes = rest[2].tolist() if len(rest) > 2 else None
        steps = rest[3].tolist() if len(rest) > 3 else None
    where = [slice(None)] * x.ndim
    for i, axis in enumerate(axes if axes is not None else range(len(starts))):
        step = steps[i] if steps else 1
        end = ends[i] if not (step < 0 and ends[i] < -x.shape[axis]) else None
        where[axis] = slice(starts[i], end, step)
    return x[tuple(where)]


def _divide(node: Node, a: np.ndarray, b: np.ndarray) -> np.ndarray:
    if a.dtype.kind == "f":
        return a / b
    return (np.sign(a) * np.sign(b) * (np.abs(a) // np.abs(b))).astype(a.dtype)  # towards zero


# The arithmetic of shapes; inputs that are left out at the end are not passed. Everything else is left to ONNX's reference.
FOLD: dict[str, Callable[..., Any]] = {
    "Add": lambda n, a, b: a + b,
    "Sub": lambda n, a, b: a - b,
    "Mul": lambda n, a, b: a * b,
    "Div": _divide,
    "Neg": lambda n, a: -a,
    "Cast": _cast,
    "Identity": lambda n, a: a,
    "Concat": lambda n, *xs: np.concatenate(xs, n.get("axis", 0)),
    "Gather": lambda n, a, i: np.take(a, i, n.get("axis", 0)),
    "Slice": _slice,
    "Equal": lambda n, a, b: a == b,
    "Where": lambda n, c, a, b: np.where(c, a, b),
    "Not": lambda n, a: ~a,
    "And": lambda n, a, b: a & b,
    "Or": lambda n, a, b: a | b,
    "Greater": lambda n, a, b: a > b,
    "Less": lambda n, a, b: a < b,
    "Transpose": lambda n, a: np.transpose(a, n.get("perm", None)),
}
# Their result has its input's elements in order, whatever its shape is.
RESHAPES = {"Reshape", "Squeeze", "Unsqueeze", "Flatten"}
FEWER = {"NonZero", "Compress", "Unique"}  # the values say how large the output is, and it is not larger than the input


def fold(node: Node) -> list[np.ndarray] | None:
    """The values of the outputs of a node whose inputs' values are known; None if they are too large, or beyond us."""
    if any((node.op not in FEWER) if shape is None else math.prod(shape) > LIMIT for shape, _ in node.outputs):
        return None
    given = list(node.inputs)
    while given and given[-1] is None:
        given.pop()
    if node.op == "Shape":
        shape = node.value(0).shape
        start, end = node.get("start", 0), node.get("end", None)
        return None if shape is None else [np.array(shape[start:end], np.int64)]
    if node.op == "Size":
        return None if node.value(0).shape is None else [np.array(node.value(0).numel, np.int64)]
    if any(v is not None and v.data is None for v in given):
        return None
    data: Sequence[Any] = [None if v is None else v.data for v in given]
    try:
        if node.op in RESHAPES:
            return [data[0].reshape(node.output())]
        with np.errstate(all="ignore"):
            if node.op in FOLD and all(x is not None for x in data):
                return [np.asarray(FOLD[node.op](node, *data))]
            feeds = {name: x for name, x in zip(node.proto.input, data, strict=False) if name}
            evaluator = ReferenceEvaluator(node.proto, opsets={node.domain: node.opset})
            return [np.asarray(x) for x in evaluator.run(None, feeds)]
    except Exception:  # whatever the reference cannot do is left unknown: only a value is lost
        return None
