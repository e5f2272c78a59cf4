"""Each layer's time in eager torch beside what its operations and bytes would take at this machine's measured limits."""

import statistics
import time
from pathlib import Path
from typing import Any

import torch
from torch import nn

from lamina.errors import InputError
from lamina.infer import machine
from lamina.infer.networks import load
from lamina.tracing.tracer import trace
from lamina.workload import Layer

ROUNDS = 10  # forward passes, of which each layer's median counts


def profile(model: str | Path, weights: str | Path | None = None, *, batch: int = 1, rounds: int = ROUNDS) -> dict[str, Any]:
    """{"model", "batch", "total_ms", "layers": [{"name", "kind", "macs", "bytes", "median_ms", "roofline_ms", "times_roofline",
    "bound"}]}, one row per module without children, in the order of the calls; arithmetic between modules is in no row.

    `roofline_ms` is the larger of the MACs over the measured peak and the bytes over the measured bandwidth.
    """
    network = load(model, weights)
    module = network.module
    if module is None:
        raise InputError(f"{network.name}: layers are timed in torch, which does not run ONNX files")
    inputs = [torch.cat([x] * batch) for x in network.example]
    peak, bandwidth, how = machine.measure(seconds=0.5)
    work = trace(module, *inputs)
    times = _times(module, inputs, rounds)
    rows = []
    for path, seconds in times.items():
        layers = [layer for layer in work.layers if layer.module == path]
        macs, moved = sum(layer.macs for layer in layers), sum(layer.bytes_read + layer.bytes_written for layer in layers)
        compute, memory = macs / (peak / 2), moved / bandwidth
        limit = max(compute, memory)
        rows.append(
            {"name": path, "kind": _kind(layers), "macs": macs, "bytes": moved, "median_ms": round(1e3 * seconds, 5)}
            | {"roofline_ms": round(1e3 * limit, 5), "times_roofline": round(seconds / limit, 2) if limit else 0.0}
            | {"bound": "compute" if compute > memory else "memory"}
        )
    total = round(sum(row["median_ms"] for row in rows), 4)
    return {"model": network.name, "batch": batch, "machine": how, "total_ms": total, "layers": rows}


def _kind(layers: list[Layer]) -> str:
    return max(layers, key=lambda layer: layer.macs).kind if layers else "other"


@torch.inference_mode()
def _times(module: nn.Module, inputs: list[torch.Tensor], rounds: int) -> dict[str, float]:
    """The median seconds of each module without children, by its path: of all its calls in a pass together."""
    begun: dict[str, float] = {}
    passes: list[dict[str, float]] = []

    def before(path: str) -> Any:
        def hook(*_: Any) -> None:
            begun[path] = time.perf_counter()

        return hook

    def after(path: str) -> Any:
        def hook(*_: Any) -> None:
            passes[-1][path] = passes[-1].get(path, 0.0) + time.perf_counter() - begun[path]

        return hook

    leaves = [(path, part) for path, part in module.named_modules() if path and not any(part.children())]
    handles = [part.register_forward_pre_hook(before(path)) for path, part in leaves]
    handles += [part.register_forward_hook(after(path)) for path, part in leaves]
    try:
        for _ in range(rounds + 1):
            passes.append({})
            module(*inputs)
    finally:
        for handle in handles:
            handle.remove()
    return {path: statistics.median(found[path] for found in passes[1:]) for path in passes[-1]}
