"""The values of small constants: the arithmetic of shapes that exporters write into a graph."""

import math
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
from onnx import TensorProto, helper
from onnx.reference import ReferenceEvaluator

from lamina.onnx.dtypes import FLOATS, QUANTISED
from lamina.onnx.values import LIMIT, Node, Value


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


def folded(node: Node) -> list[Value]:
    """What a node makes of constants; made of floating-point (or quantised) tensors it may still be a parameter."""
    data = fold(node)
    sources: dict[Any, None] = {}
    first_only = node.op in ("DequantizeLinear", "QuantizeLinear")
    for i, value in enumerate(node.inputs):
        if value is not None and node.op not in ("Shape", "Size"):
            wanted = i == 0 if first_only else value.dtype in FLOATS or value.dtype in QUANTISED
            sources.update(dict.fromkeys(value.sources if wanted else ()))
    if len(sources) > 1:
        sources = {held: None for held in sources if math.prod(held.shape) > 1} or sources
    results = []
    for i, (shape, dtype) in enumerate(node.outputs):
        value = data[i] if data is not None and i < len(data) else None
        results.append(Value(shape if value is None else value.shape, dtype, value, True, tuple(sources)))
    return results
