"""An ONNX file as it lies on the disk: read without its external data, checked, its functions inlined."""

import math
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path, PurePosixPath, PureWindowsPath
from typing import Any

import numpy as np
import onnx
from onnx import FunctionProto, GraphProto, ModelProto, NodeProto, TensorProto, inliner, numpy_helper

from lamina import units
from lamina.errors import InputError, LaminaError, first_line, reason
from lamina.onnx.values import LIMIT

OLDEST = 7  # since then operators broadcast as NumPy does
MOST_NODES = 10**6


def load(path: Path) -> ModelProto:
    """The model in `path`. Data in other files are neither opened nor looked for; they must be meant to lie in its folder."""
    try:
        content = path.read_bytes()
    except FileNotFoundError:
        raise InputError(f"{path}: there is no such file") from None
    except IsADirectoryError:
        raise InputError(f"{path} is a folder: an ONNX model is one file in it") from None
    except OSError as error:
        raise LaminaError(f"cannot read {path}: {reason(error)}") from error
    if not content:
        raise LaminaError(f"{path} is empty")
    try:
        model = onnx.load_model_from_string(content)
    except Exception as error:  # the parser's own class belongs to protobuf
        raise LaminaError(f"{path} is not an ONNX file, or is cut off") from error
    if any(isinstance(text, bytes) for text in _strings(model)):
        raise LaminaError(f"{path}: a name in it is not valid UTF-8")
    if not model.ir_version or not model.opset_import or not (model.graph.node or model.graph.output):
        raise LaminaError(f"{path} is not an ONNX file, or holds no graph")
    versions = {o.version for o in model.opset_import if o.domain in ("", "ai.onnx")}
    if versions and max(versions) < OLDEST:
        raise LaminaError(
            f"{path} uses opset {max(versions)}; from {OLDEST} on it can be read: convert it with onnx.version_converter"
        )
    for tensor in tensors(model):
        check_tensor(path, tensor)
    if model.functions:
        check_functions(path, model)
        try:
            model = inliner.inline_local_functions(model)
        except Exception as error:
            raise LaminaError(f"{path}: its functions cannot be inlined ({first_line(error)})") from error
    return model


def check_external(path: Path) -> None:
    """Raises `LaminaError` where data that the file has elsewhere lie outside of its folder, links followed: for who lets a
    runtime open them."""
    folder = path.parent.resolve()
    for tensor in tensors(load(path)):
        place = path.parent / _location(tensor).replace("\\", "/")
        if tensor.data_location == TensorProto.EXTERNAL and not place.resolve().is_relative_to(folder):
            name = tensor.name or "a constant"
            raise LaminaError(f"{path}: the data of {name} lie outside of the file's own folder, by a link")


def _location(tensor: TensorProto) -> str:
    """Of external data, as it is written."""
    return next((e.value for e in tensor.external_data if e.key == "location"), "")


def _strings(message: Any) -> Iterator[str | bytes]:
    """All strings of a protocol buffer. Those that are not valid UTF-8 come as bytes."""
    for field, value in message.ListFields():
        if field.type in (field.TYPE_STRING, field.TYPE_MESSAGE):
            one = isinstance(value, (str, bytes)) or hasattr(value, "ListFields")
            for item in (value,) if one else value:
                if isinstance(item, (str, bytes)):
                    yield item
                else:
                    yield from _strings(item)


@contextmanager
def one_line() -> Iterator[None]:
    """A file's names may hold anything; what is said of them is one line."""
    try:
        yield
    except LaminaError as error:
        text = str(error)
        if text.isprintable():
            raise
        raise type(error)("".join(c if c.isprintable() else "?" for c in text)) from error


def nodes(graph: GraphProto | FunctionProto) -> Iterator[NodeProto]:
    """All nodes, those of subgraphs too."""
    for node in graph.node:
        yield node
        for a in node.attribute:
            for inner in (a.g, *a.graphs) if a.type in (onnx.AttributeProto.GRAPH, onnx.AttributeProto.GRAPHS) else ():
                yield from nodes(inner)


def graphs(graph: GraphProto) -> Iterator[GraphProto]:
    yield graph
    for node in nodes(graph):
        for a in node.attribute:
            if a.type == onnx.AttributeProto.GRAPH:
                yield a.g
            yield from a.graphs


def tensors(model: ModelProto) -> Iterator[TensorProto]:
    """Every stored tensor: initializers and attributes, of subgraphs and functions too."""
    for graph in graphs(model.graph):
        yield from graph.initializer
        for sparse in graph.sparse_initializer:
            yield from (sparse.values, sparse.indices)
    for part in (model.graph, *model.functions):
        for node in nodes(part):
            for a in node.attribute:
                if a.type == onnx.AttributeProto.TENSOR:
                    yield a.t
                elif a.type == onnx.AttributeProto.SPARSE_TENSOR:
                    yield from (a.sparse_tensor.values, a.sparse_tensor.indices)
                yield from a.tensors


ITEM_BITS: dict[int, int] = {
    TensorProto.FLOAT: 32, TensorProto.DOUBLE: 64, TensorProto.FLOAT16: 16, TensorProto.BFLOAT16: 16, TensorProto.INT64: 64,
    TensorProto.INT32: 32, TensorProto.INT16: 16, TensorProto.INT8: 8, TensorProto.UINT64: 64, TensorProto.UINT32: 32,
    TensorProto.UINT16: 16, TensorProto.UINT8: 8, TensorProto.BOOL: 8, TensorProto.COMPLEX64: 64, TensorProto.COMPLEX128: 128,
    TensorProto.INT4: 4, TensorProto.UINT4: 4,
}  # fmt: skip


def check_tensor(path: Path, tensor: TensorProto) -> None:
    """Its sizes are sizes, its data are as many as they say, and external data are meant to lie beside the file."""
    name = tensor.name or "a constant"
    if any(d < 0 for d in tensor.dims):
        raise LaminaError(f"{path}: the tensor {name} has a negative size in its shape {tuple(tensor.dims)}")
    if tensor.data_location == TensorProto.EXTERNAL:
        location = _location(tensor)
        absolute = PurePosixPath(location).is_absolute() or PureWindowsPath(location).anchor
        inside = os.path.normpath(location.replace("\\", "/"))
        if not location or absolute or inside == ".." or inside.startswith("../"):
            raise LaminaError(f"{path}: the data of {name} are said to lie in {location!r}, outside of the file's own folder")
    elif tensor.HasField("raw_data") and tensor.data_type in ITEM_BITS:
        expected = math.ceil(math.prod(tensor.dims) * ITEM_BITS[tensor.data_type] / 8)
        if len(tensor.raw_data) != expected:
            shape = units.shape(tensor.dims) or "scalar"
            raise LaminaError(f"{path}: the tensor {name} says {shape}, {expected} bytes, and holds {len(tensor.raw_data)}")


def check_functions(path: Path, model: ModelProto) -> None:
    """No function calls itself, directly or through another, and what they are inlined to can be held."""
    calls = {(f.domain, f.name): [(n.domain, n.op_type) for n in nodes(f)] for f in model.functions}
    sizes: dict[tuple[str, str], int] = {}

    def size(key: tuple[str, str], within: tuple[tuple[str, str], ...]) -> int:
        if key in within:
            raise LaminaError(f"{path}: the function {key[1]} calls itself")
        if key not in calls:
            return 1
        if key not in sizes:
            sizes[key] = sum(size(inner, (*within, key)) for inner in calls[key])
        return sizes[key]

    for key in calls:
        size(key, ())
    if sum(size((n.domain, n.op_type), ()) for n in nodes(model.graph)) > MOST_NODES:
        raise LaminaError(f"{path}: its functions call each other until they are more than {MOST_NODES:,} nodes")


def small_data(tensor: TensorProto) -> np.ndarray | None:
    """The value of a small tensor that is stored in the file itself."""
    if tensor.data_location == TensorProto.EXTERNAL or math.prod(tensor.dims) > LIMIT:
        return None
    return array(tensor)


def array(tensor: TensorProto) -> np.ndarray | None:
    try:
        return numpy_helper.to_array(tensor)
    except (ValueError, TypeError, KeyError):
        return None
