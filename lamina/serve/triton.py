"""A model repository as Triton Inference Server loads it: NAME/1/model.onnx, NAME/config.pbtxt and the labels.

The fields are those of Triton's model_config.proto; ONNX files are run by its onnxruntime back end.
"""

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from lamina import files
from lamina.errors import InputError, LaminaError, reason
from lamina.infer.export import export_checked, to_metadata
from lamina.infer.networks import Network

# The protocol's types by ONNX's, as `lamina.infer.export.describe` names them.
TYPES = {
    "float": "TYPE_FP32",
    "double": "TYPE_FP64",
    "float16": "TYPE_FP16",
    "bfloat16": "TYPE_BF16",
    "int64": "TYPE_INT64",
    "int32": "TYPE_INT32",
    "int8": "TYPE_INT8",
    "uint8": "TYPE_UINT8",
    "bool": "TYPE_BOOL",
}
DELAY = 1000  # microseconds that Triton waits for others before it runs a batch that is not full


def write_repository(net: Network, folder: Path, name: str, *, batch: int = 16, opset: int | None = None) -> dict[str, Any]:
    """Write `net` as the model `name` of the repository `folder`, which is made if need be; batches have up to `batch` rows.

    Returns what `export_checked` does, with "repository" and "name". Raises `LaminaError` where the network cannot be exported
    or written, or answers otherwise than torch.
    """
    if net.module is None:
        raise InputError(f"{net.name} is an ONNX file already: Triton takes it as {name}/1/model.onnx")
    place = folder / name
    try:
        (place / "1").mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise LaminaError(f"{place} cannot be written: {reason(error)}") from error
    document = export_checked(net.module, net.example, place / "1/model.onnx", opset=opset, metadata=to_metadata(net))
    labels = "labels.txt" if net.classes and len(document["outputs"]) == 1 else ""
    if labels:
        files.write(place / labels, "".join(f"{label}\n" for label in net.classes))
    files.write(place / "config.pbtxt", config(name, document["inputs"], document["outputs"], batch, labels))
    return {"repository": str(folder), "name": name} | document


def config(
    name: str, inputs: Sequence[Mapping[str, Any]], outputs: Sequence[Mapping[str, Any]], batch: int, labels: str = ""
) -> str:
    """config.pbtxt for a network whose first sizes are one free batch; `inputs` and `outputs` are those of `describe`."""
    lines = [f"name: {_text(name)}", 'backend: "onnxruntime"', f"max_batch_size: {batch}"]
    lines += [line for row in inputs for line in ["input {", *_port(row), "}"]]
    for row in outputs:
        labelled = [f"  label_filename: {_text(labels)}"] if labels else []
        lines += ["output {", *_port(row), *labelled, "}"]
    lines += [f"dynamic_batching {{ max_queue_delay_microseconds: {DELAY} }}"]
    return "\n".join(lines) + "\n"


def _port(row: Mapping[str, Any]) -> list[str]:
    kind = TYPES.get(row["type"])
    if kind is None:
        raise LaminaError(f"{row['name']} is a {row['type']}: Triton's configuration takes {', '.join(TYPES)}")
    dims = ", ".join(str(size) if isinstance(size, int) else "-1" for size in row["shape"][1:])  # the batch is understood
    one = [] if len(row["shape"]) > 1 else ["  reshape { shape: [ ] }"]
    return [f"  name: {_text(row['name'])}", f"  data_type: {kind}", f"  dims: [ {dims or 1} ]", *one]


def _text(value: str) -> str:
    """A string of the protobuf text format, which has JSON's escapes for what a name may hold."""
    return json.dumps(value, ensure_ascii=False)
