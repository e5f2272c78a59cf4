"""A network's cost as a document: exact integers, a layer's parameters where they are first used."""

import dataclasses
from collections.abc import Sequence
from typing import Any

from lamina.cost import experts, memory
from lamina.workload import Layer, Totals, Workload, asdict


def _intensity(counted: Layer | Totals) -> float:
    """FLOPs per byte, to four digits."""
    return float(f"{counted.intensity:.4g}")


def _fresh_parameters(workload: Workload) -> list[int]:
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
        figures["training"] = {
            "optimizer": optimizer,
            "device": trained.device,
            **dataclasses.asdict(step),
            "total": step.total,
        }
    return figures


def backward_macs(workload: Workload, counted: Layer | Totals) -> int | None:
    """None where nobody knows: a file of a graph does not say what is trained."""
    return counted.backward_macs if workload.lifetime_rule == "eager" else None


def summary(workload: Workload) -> dict[str, int | None]:
    """The totals of a network."""
    total = workload.total()
    return {
        **{k: getattr(total, k) for k in ("parameters", "weights", "biases", "norm")},
        "parameters_unused": workload.parameters_unused,
        "parameters_active": experts.active_parameters(workload),
        "parameters_trainable": total.trainable,
        "parameter_bytes": total.parameter_bytes,
        "buffers": workload.buffers,
        "buffer_bytes": workload.buffer_bytes,
        **{k: getattr(total, k) for k in ("macs", "flops", "activations", "bytes_read", "bytes_written")},
        "backward_macs": backward_macs(workload, total),
        "peak_activation_bytes": workload.peak_activation_bytes,
    }


def parameters_by_dtype(workload: Workload) -> dict[str, int]:
    """Parameters of each type, tied ones once."""
    counts: dict[str, int] = {}
    for weight in workload.weights:
        counts[weight.dtype] = counts.get(weight.dtype, 0) + weight.numel
    return counts


def document(workload: Workload, model: str, shape: Sequence[int], memory_bytes: Any, depth: int = 1) -> dict[str, Any]:
    """The JSON document of a network's cost; `memory_bytes` are `memory_figures`."""
    first_used = _fresh_parameters(workload)
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
            "backward_macs": backward_macs(workload, layer),
            "parameters": first_used[index],
            "activations": layer.activations,
            "ops": dict(layer.ops),
            "bytes_read": layer.bytes_read,
            "bytes_written": layer.bytes_written,
            "intensity": _intensity(layer),
        }
        for index, layer in enumerate(workload.layers)
    ]
    coverage: dict[str, Any] = {"counted": workload.coverage.counted, "free": workload.coverage.free}
    coverage["unknown"] = [asdict(u) for u in workload.coverage.unknown]
    totals = summary(workload) | {
        "parameters_by_dtype": parameters_by_dtype(workload),
        "intensity": _intensity(workload.total()),
    }
    return {
        "model": model,
        "input": shape,
        "totals": totals,
        "memory": memory_bytes,
        "coverage": coverage,
        "assumptions": list(workload.assumptions),
        "kinds": {name: _group(total) for name, total in workload.by("kind").items()},
        "modules": {name: _group(total) for name, total in workload.by("module", depth).items()},
        "layers": layers,
    }


def _group(total: Totals) -> dict[str, Any]:
    fields = ("layers", "parameters", "macs", "flops", "activations", "bytes_read", "bytes_written")
    return {field: getattr(total, field) for field in fields} | {"intensity": _intensity(total)}
