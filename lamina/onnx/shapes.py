"""Output shapes and types of the standard's operators, from the standard itself: `onnx.shape_inference`, one node at a time,
with concrete shapes and the values of constants, so that Reshape, Expand or Resize to a computed size are known."""

import math

from onnx import NodeProto, TensorProto, TypeProto, defs, helper, numpy_helper, shape_inference

from lamina.onnx.dtypes import dtype_of
from lamina.onnx.values import LIMIT, Node
from lamina.operators import Shape

_SAME = {
    "Relu", "Sigmoid", "Tanh", "Identity", "Exp", "Log", "Sqrt", "Neg", "Abs", "Erf", "Reciprocal", "Softmax", "LogSoftmax",
    "LeakyRelu", "Gelu", "Clip", "Elu", "HardSigmoid", "HardSwish", "Floor", "Ceil", "Round", "Sin", "Cos", "Not", "Softplus",
    "GroupNormalization",
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
