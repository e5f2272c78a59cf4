"""A `Workload` as JSON and as CSV: exact integers, a layer's parameters where they are first used."""

import csv
import io
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from typing import Any

from lamina import units
from lamina.cost import memory
from lamina.workload import Layer, Totals, Workload


def intensity(counted: Layer | Totals) -> float:
    """FLOPs a byte, to four digits."""
    return float(f"{counted.intensity:.4g}")


def fresh_parameters(workload: Workload) -> list[int]:
    """For each layer the parameters that no earlier layer uses."""
    seen: set[int] = set()
    counts = []
    for layer in workload.layers:
        fresh = [w for w in layer.weights if w.storage not in seen]
        seen.update(w.storage for w in fresh)
        counts.append(sum(w.numel for w in fresh))
    return counts


def memory_figures(workload: Workload, trained: Workload | None = None, optimizer: str = "adamw", master: bool = False) -> Any:
    """Bytes for inference, and from `trained`, the network traced in training mode, those of a training step."""
    figures: dict[str, Any] = {
        "weight_bytes": memory.weight_bytes(workload),
        "peak_activation_bytes": workload.peak_activation_bytes,
        "fused_peak_activation_bytes": memory.fused_peak_bytes(workload),
        "inference_bytes": memory.inference_bytes(workload),
    }
    if trained is not None:
        step = memory.training(trained, optimizer, master)
        figures["training"] = {"optimizer": optimizer, **asdict(step), "total": step.total}
    return figures


def document(workload: Workload, model: str, shape: Sequence[int], memory_bytes: Any, depth: int = 1) -> dict[str, Any]:
    """The JSON document of a network's cost; `memory_bytes` are `memory_figures`."""
    first_used = fresh_parameters(workload)
    layers = [
        {
            "name": layer.name,
            "module": layer.module,
            "module_type": layer.module_type,
            "kind": layer.kind,
            "op": layer.op,
            "inputs": [t.shape for t in layer.inputs],
            "outputs": [t.shape for t in layer.outputs],
            "loops": [asdict(nest) for nest in layer.loops],
            "macs": layer.macs,
            "backward_macs": layer.backward_macs,
            "parameters": first_used[index],
            "activations": layer.activations,
            "ops": dict(layer.ops),
            "bytes_read": layer.bytes_read,
            "bytes_written": layer.bytes_written,
            "intensity": intensity(layer),
        }
        for index, layer in enumerate(workload.layers)
    ]
    coverage: dict[str, Any] = {"counted": workload.coverage.counted, "free": workload.coverage.free}
    coverage["unknown"] = [asdict(u) for u in workload.coverage.unknown]
    totals = workload.summary() | {
        "parameters_by_dtype": workload.parameters_by_dtype,
        "intensity": intensity(workload.total()),
    }
    return {
        "model": model,
        "input": shape,
        "totals": totals,
        "memory": memory_bytes,
        "coverage": coverage,
        "kinds": {name: group(total) for name, total in workload.by("kind").items()},
        "modules": {name: group(total) for name, total in workload.by("module", depth).items()},
        "layers": layers,
    }


def group(total: Totals) -> dict[str, Any]:
    fields = ("layers", "parameters", "macs", "flops", "activations", "bytes_read", "bytes_written")
    return {field: getattr(total, field) for field in fields} | {"intensity": intensity(total)}


def layers_csv(workload: Workload) -> str:
    """One row a layer."""
    rows = []
    for layer, fresh in zip(workload.layers, fresh_parameters(workload), strict=True):
        row = {"name": layer.name, "module": layer.module, "module_type": layer.module_type, "kind": layer.kind, "op": layer.op}
        row |= {"inputs": _shapes(layer.inputs), "outputs": _shapes(layer.outputs)}
        row |= {"parameters": fresh, "macs": layer.macs, "flops": 2 * layer.macs, "backward_macs": layer.backward_macs}
        row |= {"activations": layer.activations, "bytes_read": layer.bytes_read, "bytes_written": layer.bytes_written}
        rows.append(row | {"intensity": intensity(layer)})
    return to_csv(rows)


def groups_csv(workload: Workload, by: str, depth: int) -> str:
    """One row a module or kind."""
    groups = workload.by(by, depth)  # type: ignore[arg-type]
    return to_csv([{by: name} | group(total) for name, total in groups.items()])


def to_csv(rows: Sequence[Mapping[str, Any]]) -> str:
    """Rows that have the same fields, with a heading (RFC 4180, but lines end as text lines do)."""
    text = io.StringIO()
    if rows:
        writer = csv.DictWriter(text, list(rows[0]), lineterminator="\n")
        writer.writeheader()
        writer.writerows(rows)
    return text.getvalue()


def _shapes(tensors: Sequence[Any]) -> str:
    return " ".join(units.shape(t.shape) for t in tensors)
