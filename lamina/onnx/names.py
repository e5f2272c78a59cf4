"""Names for the layers of an ONNX graph: the module's path where torch wrote it, else the node's own name."""

import ast
from collections.abc import Sequence
from typing import Any, Protocol

from onnx import NodeProto

from lamina.workload import Kind


class _Step(Protocol):
    label: str
    module: str
    op: str


def module_of(proto: NodeProto, label: str, kind: Kind, weights: Sequence[Any]) -> tuple[str, str]:
    """The path and the class of the module that a node came from, as torch's exporters write them: the newer in the node's
    metadata, the older in its name, "/layer1/layer1.0/conv1/Conv". A convolution that a batch norm was folded into bears
    the norm's path; its weight's name knows better. Both are "" if nobody wrote them."""
    found = {p.key: p.value for p in proto.metadata_props if p.key.startswith("pkg.torch.onnx.")}
    if found:
        scopes, classes = (_names(found.get(f"pkg.torch.onnx.{key}", "")) for key in ("name_scopes", "class_hierarchy"))
        path = scopes[-2] if len(scopes) > 1 else ""
        type_ = classes[-2].rpartition(".")[2] if len(classes) > 1 else ""
        if path.startswith("_empty_nn_module_stack"):
            return "", ""
        if kind in ("conv", "linear") and "Norm" in type_ and weights and weights[0].names[0].endswith(".weight"):
            return weights[0].names[0].removesuffix(".weight"), ""
        return path, type_
    if proto.name.startswith("/"):
        path: str = ""
        for part in proto.name.strip("/").split("/")[:-1]:
            parent, _, _ = part.rpartition(".")
            path = path[: len(path) - len(parent)] + part if parent and path.endswith(parent) else f"{path}.{part}".lstrip(".")
        return path, ""
    return "", ""


def _names(text: str) -> list[str]:
    try:
        found = ast.literal_eval(text)
    except (ValueError, SyntaxError):
        return []
    return [str(x) for x in found] if isinstance(found, list) else []


def name_layers(steps: Sequence[_Step]) -> tuple[list[str], list[int]]:
    """A layer's name and which call of its module it is. A module without modules inside that does one kind of operation
    gives its path, others path/operator; what has no module is called as its node. What comes again is numbered."""
    parents: set[str] = set()
    kinds: dict[str, set[str]] = {}
    for step in steps:
        kinds.setdefault(step.module, set()).add(step.op)
        parts = step.module.split(".")
        parents.update(".".join(parts[:i]) for i in range(1, len(parts)))
    seen: dict[str, int] = {}
    names, calls = [], []
    for step in steps:
        path = step.module
        alone = bool(path) and path not in parents and len(kinds[path]) == 1
        base = path if alone else f"{path}/{step.op}" if path else step.label.lstrip("/")
        count = seen[base] = seen.get(base, -1) + 1
        names.append(f"{base}:{count}" if count else base)
        calls.append(count if alone else 0)
    return names, calls
