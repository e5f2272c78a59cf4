"""The Open Inference Protocol, version 2, over REST, with the extension for binary tensors: bytes to arrays and back.

https://github.com/kserve/open-inference-protocol and Triton's protocol/extension_binary_data.md. Nothing here knows a network.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache
from typing import Any

import msgspec
import numpy as np

from lamina import units
from lamina.errors import InputError, first_line

Array = np.ndarray[Any, Any]
BYTES = "BYTES"  # texts: in JSON strings, in binary each with its length before it
DTYPES: dict[str, np.dtype[Any]] = {
    "BOOL": np.dtype(np.bool_),
    "UINT8": np.dtype(np.uint8),
    "INT8": np.dtype(np.int8),
    "INT16": np.dtype("<i2"),
    "INT32": np.dtype("<i4"),
    "INT64": np.dtype("<i8"),
    "FP16": np.dtype("<f2"),
    "FP32": np.dtype("<f4"),
    "FP64": np.dtype("<f8"),
    BYTES: np.dtype(object),
}
FREE = -1  # a size that each request chooses
HEADER = "inference-header-content-length"  # the bytes of JSON before those of the tensors


@dataclass(frozen=True)
class Port:
    """An input or output of a network: its name, the protocol's datatype, and its shape, batch first, with `FREE` sizes."""

    name: str
    datatype: str
    shape: tuple[int, ...]

    def described(self) -> dict[str, Any]:
        return {"name": self.name, "datatype": self.datatype, "shape": list(self.shape)}


@dataclass(frozen=True)
class Request:
    """`arrays` are in the order of the network's inputs; `outputs` say which of its outputs are asked for, by their place, and
    whether as binary. `timeout` is in seconds."""

    id: str
    arrays: list[Array]
    outputs: list[tuple[int, bool]]
    timeout: float | None


class _Input(msgspec.Struct):
    name: str
    datatype: str
    shape: list[int]
    parameters: dict[str, Any] = {}
    data: msgspec.Raw = msgspec.Raw()


class _Output(msgspec.Struct):
    name: str
    parameters: dict[str, Any] = {}


class _Request(msgspec.Struct):
    inputs: list[_Input]
    id: str = ""
    parameters: dict[str, Any] = {}
    outputs: list[_Output] = []


def datatype(dtype: np.dtype[Any]) -> str:
    """The protocol's name of a numpy type."""
    for name, known in DTYPES.items():
        if known == dtype:
            return name
    raise InputError(f"the protocol has no datatype for {dtype}")


# ---- requests ------------------------------------------------------------------------------------------------------------


def read_request(
    body: bytes | bytearray, header: str | None, inputs: Sequence[Port], outputs: Sequence[Port], rows: int
) -> Request:
    """The request in `body` for a network of these `inputs` and `outputs` that takes at most `rows` at once. `header` is the
    value of `HEADER`, None where the whole body is JSON. Raises `InputError`, one line, for anything that is not right."""
    length = len(body) if header is None else _header_length(header, len(body))
    binary = memoryview(body)[length:]
    try:
        asked = msgspec.json.decode(memoryview(body)[:length], type=_Request)
    except RecursionError:
        raise InputError("the request's JSON is nested too deep") from None
    except (msgspec.MsgspecError, UnicodeDecodeError) as error:
        raise InputError(f"the request does not read: {first_line(error)}") from None
    given = {value.name: value for value in asked.inputs}
    names = [port.name for port in inputs]
    if sorted(value.name for value in asked.inputs) != sorted(names):
        raise InputError(f"the inputs are {', '.join(names)}, not {', '.join(v.name for v in asked.inputs) or 'none'}")
    shapes = {port.name: _shape(given[port.name], port, rows) for port in inputs}
    batches = {shape[0] for shape in shapes.values() if shape}
    if len(batches) > 1:
        raise InputError(f"the inputs share their first size, the batch; here it is {', '.join(map(str, sorted(batches)))}")
    arrays: dict[str, Array] = {}
    for value in asked.inputs:  # the binary tensors follow each other in the order of the request
        size = value.parameters.get("binary_data_size")
        if size is None:
            arrays[value.name] = _from_json(value, shapes[value.name])
            continue
        if not isinstance(size, int) or not 0 <= size <= len(binary):
            raise InputError(f"input {value.name}: binary_data_size is {size}, and {len(binary)} bytes are left in the body")
        arrays[value.name] = _from_binary(value, shapes[value.name], binary[:size])
        binary = binary[size:]
    if len(binary):
        raise InputError(f"{len(binary)} bytes of the body belong to no input: their sizes are binary_data_size")
    return Request(asked.id, [arrays[name] for name in names], _wanted(asked, outputs), _timeout(asked))


def _header_length(header: str, size: int) -> int:
    if not header.isascii() or not header.isdigit() or int(header) > size:
        raise InputError(f"{HEADER} is {header!r}, and the body has {size} bytes")
    return int(header)


def _shape(value: _Input, port: Port, rows: int) -> tuple[int, ...]:
    """The shape that the request says, which has to be one that `port` takes."""
    if value.datatype != port.datatype:
        raise InputError(f"input {port.name} is {port.datatype}, not {value.datatype}")
    shape, wanted = tuple(value.shape), port.shape
    fits = len(shape) == len(wanted) and all(w in (s, FREE) and s > 0 for s, w in zip(shape, wanted, strict=True))
    if not fits:
        raise InputError(f"input {port.name} has the shape {_text(wanted)}, not {units.shape(shape)}")
    if wanted and wanted[0] == FREE and shape[0] > rows:
        raise InputError(f"input {port.name} has a batch of {shape[0]}, and at most {rows} are taken: send several requests")
    if any(key.startswith("shared_memory") for key in value.parameters):
        raise InputError(f"input {port.name}: this server shares no memory; send the data")
    return shape


def _text(shape: Sequence[int]) -> str:
    return units.shape(tuple("any" if size == FREE else size for size in shape))


def _from_json(value: _Input, shape: tuple[int, ...]) -> Array:
    """An array from numbers as JSON, flat or nested as the shape is."""
    if not bytes(value.data):
        raise InputError(f"input {value.name} has no data")
    text, dtype, count = bytes(value.data), DTYPES[value.datatype], math.prod(shape)
    # Numbers take sixteen times the memory once they are read: first see that there are as many as the shape says.
    if value.datatype != BYTES and (found := text.count(b",") + 1) != count:
        raise InputError(f"input {value.name}: {_text(shape)} are {count} numbers, and the data have {found}")
    kind = {"b": bool, "f": float, "O": str}.get(dtype.kind, int)
    flat = not text[1:].lstrip().startswith(b"[")
    try:
        numbers = _decoder(kind, 1 if flat else len(shape)).decode(text)
        array = np.array(numbers, dtype)
    except (msgspec.MsgspecError, ValueError, OverflowError, RecursionError) as error:
        raise InputError(f"input {value.name} of {value.datatype}: the data do not read: {first_line(error)}") from None
    if array.shape != ((count,) if flat else shape):
        found = f"{_text(array.shape)} are given" if array.size else "nothing is given"
        raise InputError(f"input {value.name}: the shape is {_text(shape)}, and {found}")
    return array.reshape(shape)


@cache
def _decoder(kind: type, depth: int) -> msgspec.json.Decoder[Any]:
    wanted: Any = kind
    for _ in range(depth):
        wanted = list[wanted]
    return msgspec.json.Decoder(wanted)


def _from_binary(value: _Input, shape: tuple[int, ...], data: memoryview) -> Array:
    if bytes(value.data):
        raise InputError(f"input {value.name} has data both in JSON and in binary")
    if value.datatype == BYTES:
        return _texts(value.name, shape, data)
    dtype = DTYPES[value.datatype]
    if len(data) != (size := math.prod(shape) * dtype.itemsize):
        raise InputError(f"input {value.name}: {_text(shape)} of {value.datatype} are {size} bytes, not {len(data)}")
    if value.datatype == "BOOL" and (np.frombuffer(data, np.uint8) > 1).any():
        raise InputError(f"input {value.name}: a BOOL is a byte of 0 or 1")
    # A copy: in the body it begins at any byte, which numpy reads ten times as slowly, and torch not at all.
    return np.frombuffer(bytearray(data), dtype).reshape(shape)


def _texts(name: str, shape: tuple[int, ...], data: memoryview) -> Array:
    """Strings, each as the four bytes of its length, lowest first, and its UTF-8."""
    texts: list[str] = []
    place = 0
    while place < len(data):
        end = place + 4 + int.from_bytes(data[place : place + 4], "little")
        if place + 4 > len(data) or end > len(data):
            raise InputError(f"input {name}: string {len(texts)} ends after the data do")
        try:
            texts.append(str(data[place + 4 : end], "utf-8"))
        except UnicodeDecodeError:
            raise InputError(f"input {name}: string {len(texts)} is not UTF-8") from None
        place = end
    if len(texts) != math.prod(shape):
        raise InputError(f"input {name}: {_text(shape)} are {math.prod(shape)} strings, not {len(texts)}")
    return np.array(texts, object).reshape(shape)


def _wanted(asked: _Request, outputs: Sequence[Port]) -> list[tuple[int, bool]]:
    """The outputs asked for, all where none is named."""
    everywhere = asked.parameters.get("binary_data_output", False) is True
    if not asked.outputs:
        return [(i, everywhere) for i in range(len(outputs))]
    places = {port.name: i for i, port in enumerate(outputs)}
    found: list[tuple[int, bool]] = []
    for value in asked.outputs:
        if value.name not in places:
            raise InputError(f"the outputs are {', '.join(places)}, not {value.name}")
        if refused := [key for key in value.parameters if key.startswith("shared_memory") or key == "classification"]:
            raise InputError(f"output {value.name}: this server has no {refused[0]}")
        found.append((places[value.name], value.parameters.get("binary_data", everywhere) is True))
    return found


def _timeout(asked: _Request) -> float | None:
    """`timeout` of the request's parameters, which Triton gives in microseconds."""
    value = asked.parameters.get("timeout")
    if value is None:
        return None
    if not isinstance(value, int) or isinstance(value, bool) or value < 1:
        raise InputError(f"the parameter timeout is a number of microseconds, not {value!r}")
    return value / 1e6


# ---- responses -----------------------------------------------------------------------------------------------------------


def write_response(
    model: str, request: Request, ports: Sequence[Port], arrays: Sequence[Array]
) -> tuple[bytes, dict[str, str]]:
    """The body and the headers of the answer. Raises `InputError` where JSON cannot hold a number that is asked for in it."""
    rows: list[dict[str, Any]] = []
    parts: list[bytes] = []
    for place, binary in request.outputs:
        port, array = ports[place], np.ascontiguousarray(arrays[place])
        row: dict[str, Any] = {"name": port.name, "datatype": port.datatype, "shape": list(array.shape)}
        if binary:
            parts.append(_to_binary(array))
            row["parameters"] = {"binary_data_size": len(parts[-1])}
        elif array.dtype.kind == "f" and not np.isfinite(array).all():
            raise InputError(f"output {port.name} is not finite, which JSON cannot say: ask for binary data")
        else:
            row["data"] = array.ravel().tolist()
        rows.append(row)
    answer: dict[str, Any] = {"model_name": model, "model_version": "1"}
    answer |= ({"id": request.id} if request.id else {}) | {"outputs": rows}
    text = msgspec.json.encode(answer)
    if not parts:
        return text, {"content-type": "application/json"}
    return b"".join([text, *parts]), {"content-type": "application/octet-stream", HEADER: str(len(text))}


def _to_binary(array: Array) -> bytes:
    if array.dtype != object:
        return array.tobytes()
    texts = [text.encode() for text in array.ravel().tolist()]
    return b"".join(part for text in texts for part in (len(text).to_bytes(4, "little"), text))
