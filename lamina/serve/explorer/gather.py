"""What the explorer shows, gathered: documents of networks, their differences, machines, mappings and the zoo."""

from collections.abc import Callable, Mapping
from typing import Any, Protocol

from lamina.cost import compare as differences
from lamina.cost.sweep import Axis
from lamina.errors import InputError
from lamina.hardware import accelerator, fit, roofline
from lamina.serve.explorer import document
from lamina.workload import Workload, replace
from lamina.zoo import registry

Shapes = Mapping[str, tuple[int, ...]]


class Network(Protocol):
    """A network that can be traced at any size: `lamina.cli.network.Network`, whose `dtype` is short ("bf16")."""

    @property
    def name(self) -> str: ...
    @property
    def shown(self) -> str: ...
    @property
    def dtype(self) -> str | None: ...
    def trace(self, sizes: Shapes | None = None, training: bool = False) -> Workload: ...
    def resized(self, axis: Axis, size: int) -> dict[str, tuple[int, ...]]: ...


def described(
    net: Network, workload: Workload, at: Callable[[int, str], Workload] | None, about: Mapping[str, Any]
) -> dict[str, Any]:
    """The document of a network's trace, under the text that names the network; `at` traces it at a batch and a type, None
    where it has those it has."""
    return document.build(replace(workload, name=net.name), at, shown=net.shown, about=about_zoo(net.name) | dict(about))


def about_zoo(name: str) -> dict[str, Any]:
    """What is known of a network of the zoo besides its cost: its paper, and where it departs from it."""
    if name not in registry.counts():
        return {}
    spec = registry.spec(name)
    paper = {key: getattr(spec.paper, key) for key in ("title", "venue", "year")}
    return {"paper": paper, "deviations": list(spec.deviations)}


def comparison(before: Workload, after: Workload) -> dict[str, Any]:
    """{"shared", "layers": [{"status", "before", "after", "difference"}]}, as `lamina compare --json` has them."""
    found = differences.document(differences.compare(before, after))
    return {"shared": found.get("shared", 0.0), "layers": found.get("layers", [])}


def machines() -> list[dict[str, Any]]:
    """The processors, and the accelerators that a roofline can be drawn of."""
    found = [roofline.load(name) for name in roofline.machines()]
    for name in accelerator.names():
        try:
            found.append(roofline.load(name))
        except InputError:
            continue  # it has no clock, or no bandwidth
    return [{"name": m.name, "about": m.about, "peak": dict(m.peak), "bandwidth": m.bandwidth} for m in found]


def accelerators() -> list[str]:
    """Those that come with Lamina."""
    return accelerator.names()


def mapping(workload: Workload, on: str, objective: Any = "energy") -> dict[str, Any]:
    """Every layer under each dataflow of an accelerator, as `lamina fit` finds them; dataflows with a layer that does not fit
    are left out."""
    device = accelerator.load(on)
    dataflows: dict[str, list[dict[str, Any]]] = {}
    for name in device.dataflows:
        try:
            found = fit.document(fit.fit(workload, device, objective, name))
        except InputError:
            if len(device.dataflows) == 1:
                raise
            continue
        dataflows[name] = [_layer(x) for x in found["layers"]]
    if not dataflows:
        raise InputError(f"{workload.name} does not fit {device.name}: no dataflow of it takes every layer")
    return {
        "accelerator": device.name, "objective": objective, "elements": device.elements, "dataflows": dataflows,
        "unit": "energy in 16-bit multiply-accumulates" if device.bits == 16 else "energy in multiply-accumulates",
        "batch": next((t.shape[0] for t in workload.inputs if t.shape), 1),
    }  # fmt: skip


def _layer(row: Mapping[str, Any]) -> dict[str, Any]:
    kept = {key: row[key] for key in ("name", "dataflow", "macs", "bound", "note")}
    kept |= {key: float(f"{row[key]:.6g}") for key in ("utilisation", "cycles", "energy")}
    return kept | {"nests": [{"dataflow": n["dataflow"], "mapping": n["mapping"]} for n in row["nests"]]}


def zoo() -> list[dict[str, Any]]:
    """The networks of the zoo with a published accuracy of one network and one crop, the best one for each set of data."""
    points = []
    for name in registry.names():
        spec = registry.spec(name)
        best: dict[str, float] = {}
        for figure in spec.figures:
            for data, top1 in _accuracy(figure):
                best[data] = max(best.get(data, 0.0), top1)
        row = {"name": name, "family": spec.family, "year": spec.paper.year, "macs": spec.macs, "parameters": spec.parameters}
        points += [row | {"data": data, "top1": top1} for data, top1 in best.items()]
    return points


def _accuracy(figure: Mapping[str, Any]) -> list[tuple[str, float]]:
    """The data set and the top-1 accuracy in percent that a published figure says, if it says one."""
    kind, protocol = figure["figure"], figure["protocol"]
    if kind == "top1":
        return [("ImageNet", figure["value"])]
    if kind == "top1_error" and protocol == "1 crop":
        return [("ImageNet", round(100 - figure["value"], 3))]
    if kind == "error":
        return [
            (data, round(100 - figure["value"], 3)) for data in ("CIFAR-10", "CIFAR-100", "MNIST") if f"{data} " in protocol
        ]
    return []


def pairs(workloads: Mapping[str, Workload]) -> dict[str, Any]:
    """Every two of a few networks by name, in each order: "one other" to their comparison."""
    both = [(a, b) for a in workloads for b in workloads if a != b]
    return {f"{a} {b}": comparison(workloads[a], workloads[b]) for a, b in both}
