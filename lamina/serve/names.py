"""What a network is called where it is served."""

import re
from pathlib import Path

PLAIN = re.compile(r"[A-Za-z0-9][A-Za-z0-9_.-]*")  # a name that an address can hold


def plain(model: str) -> str:
    """resnet50 of "timm:resnet50" and of "folder/resnet50.onnx"."""
    path = Path(model.removesuffix(".onnx"))
    return re.sub(r"[^A-Za-z0-9_.-]+", "_", path.name.rpartition(":")[2] or path.name).lstrip("_.-") or "model"
