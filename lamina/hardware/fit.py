"""A network on an accelerator: the best tiling of every loop nest, the traffic of every other layer, and their sums.

Layers run one after the other in the record's order, and every tensor comes from the memory outside and goes back there:
nothing is fused, and nothing is kept on the chip between layers.
"""

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from functools import partial
from typing import Any

from lamina.errors import InputError
from lamina.hardware.accelerator import Accelerator
from lamina.hardware.mapping import Evaluation, brief, written
from lamina.hardware.nest import Nest, from_loops, once
from lamina.hardware.search import Found, Objective, search
from lamina.workload import Layer, Workload

Searches = Mapping[Nest, Found]
Map = Callable[[Callable[[Nest], Any], list[Nest]], Iterable[Any]]


@dataclass(frozen=True)
class Part:
    """One loop nest of a layer, run `repeats` times."""

    nest: Nest
    found: Found

    @property
    def repeats(self) -> int:
        return self.nest.repeats


@dataclass(frozen=True)
class LayerFit:
    """A layer's cost. `moved` are the bytes of a layer, or of a step within one, that has no multiply-accumulates: they come
    from outside and go back, and their arithmetic is not counted. `note` says what is not in the figures."""

    name: str
    kind: str
    macs: int
    cycles: float
    energy: float
    bound: str
    parts: tuple[Part, ...] = ()
    moved: int = 0
    note: str = ""
    energies: Mapping[str, float] = field(default_factory=dict)
    accesses: Mapping[str, Mapping[str, int]] = field(default_factory=dict)
    elements: int = 1

    @property
    def utilisation(self) -> float:
        """MACs per cycle and processing element."""
        return self.macs / (self.cycles * self.elements) if self.cycles else 0.0

    @property
    def dataflow(self) -> str:
        return "+".join(dict.fromkeys(part.found.dataflow for part in self.parts))


@dataclass(frozen=True)
class Fit:
    """A network's layers on an accelerator, and what was asked for."""

    model: str
    accelerator: Accelerator
    objective: str
    dataflow: str
    layers: tuple[LayerFit, ...]

    @property
    def cycles(self) -> float:
        return sum(layer.cycles for layer in self.layers)

    @property
    def energy(self) -> float:
        return sum(layer.energy for layer in self.layers)

    @property
    def macs(self) -> int:
        return sum(layer.macs for layer in self.layers)

    @property
    def utilisation(self) -> float:
        return self.macs / (self.cycles * self.accelerator.elements) if self.cycles else 0.0

    @property
    def nests(self) -> list[LayerFit]:
        """The layers with loops: the others only move data."""
        return [layer for layer in self.layers if layer.parts]

    def of_nests(self, what: str) -> float:
        return sum(getattr(layer, what) for layer in self.nests)


def shapes(workload: Workload) -> list[Nest]:
    """The different loop nests of a network, in the order of first use."""
    return list(dict.fromkeys(once(from_loops(loops)) for layer in workload.layers for loops in layer.loops))


def fit(
    workload: Workload, accelerator: Accelerator, objective: Objective = "energy", dataflow: str = "all",
    each: Map = map, known: dict[Nest, Found] | None = None,
) -> Fit:  # fmt: skip
    """The network on the accelerator. `each` maps a function over the different shapes, here or elsewhere; `known` are
    results of the same accelerator, objective and dataflow, to which new ones are added."""
    if not any(layer.loops for layer in workload.layers):
        raise InputError(f"{workload.name} has no convolution, linear layer or matrix product: there is nothing to map")
    found = {} if known is None else known
    missing = [nest for nest in shapes(workload) if nest not in found]
    one = partial(search, accelerator=accelerator, objective=objective, dataflow=dataflow)
    found.update(zip(missing, each(one, missing), strict=True))
    layers = tuple(layer_fit(layer, accelerator, found) for layer in workload.layers if layer.kind != "view")
    return Fit(workload.name, accelerator, objective, dataflow, layers)


def layer_fit(layer: Layer, accelerator: Accelerator, found: Searches) -> LayerFit:
    """One layer with the tilings that were found for its nests."""
    parts = tuple(Part(nest, found[once(nest)]) for nest in map(from_loops, layer.loops))
    if not parts:
        return moving(layer, accelerator)
    between = _between(layer) if len(parts) > 1 else 0
    cycles, energy = _moved(between, accelerator)
    outside = accelerator.level[0].name
    bounds: dict[str, float] = {}
    energies: dict[str, float] = {outside: energy}
    accesses: dict[str, dict[str, int]] = {outside: {"moved": between}} if between else {}
    for part in parts:
        one: Evaluation = part.found.evaluation
        bounds[one.bound] = bounds.get(one.bound, 0.0) + one.cycles * part.repeats
        for level, value in one.energies.items():
            energies[level] = energies.get(level, 0.0) + value * part.repeats
        for level, tensors in one.accesses.items():
            for tensor, counted in tensors.items():
                here = accesses.setdefault(level, {})
                here[tensor] = here.get(tensor, 0) + counted.total * part.repeats
    return LayerFit(
        layer.name, layer.kind, layer.macs, cycles + sum(bounds.values()), sum(energies.values()),
        max(bounds, key=lambda name: bounds[name]), parts, int(between * accelerator.bits / 8),
        "softmax between its products: traffic alone" if between else "", energies, accesses, accelerator.elements,
    )  # fmt: skip


def moving(layer: Layer, accelerator: Accelerator) -> LayerFit:
    """A layer without loops: what it reads and writes, in the accelerator's elements, once each."""
    tensors = {t.id: t.numel for t in layer.inputs}
    elements = sum(tensors.values()) + sum(w.numel for w in layer.weights) + sum(t.numel for t in layer.outputs)
    if layer.kind == "embedding":  # of its table only the rows that it gathers
        elements = sum(tensors.values()) + 2 * sum(t.numel for t in layer.outputs)
    cycles, energy = _moved(elements, accelerator)
    outside = accelerator.level[0].name
    return LayerFit(
        layer.name, layer.kind, 0, cycles, energy, outside, (), int(elements * accelerator.bits / 8), "traffic alone",
        {outside: energy}, {outside: {"moved": elements}}, accelerator.elements,
    )  # fmt: skip


def _between(layer: Layer) -> int:
    """Elements that a step between two products of one layer reads and writes (attention's softmax): the first product's
    output, once each way. A layer whose products stand beside each other has none."""
    if not layer.ops.get("exp") or layer.kind != "matmul":
        return 0
    first = from_loops(layer.loops[0])
    return 2 * first.size("O") * first.repeats


def _moved(elements: int, accelerator: Accelerator) -> tuple[float, float]:
    """Cycles and energy of so many elements between the memory outside and the chip."""
    outside = accelerator.level[0]
    width = accelerator.width(outside.name, "") or min(
        (w for port in ("read", "write") if (w := accelerator.width(outside.name, port))), default=0.0
    )
    cycles = elements * accelerator.element_bytes(outside.name) / width if width else 0.0
    return cycles, elements * accelerator.cost(outside.name)


def document(result: Fit) -> dict[str, Any]:
    """The fields of `lamina fit --json`."""
    a = result.accelerator
    totals = {
        "cycles": result.cycles, "energy": result.energy, "macs": result.macs, "utilisation": result.utilisation,
        "cycles_of_products": result.of_nests("cycles"), "energy_of_products": result.of_nests("energy"),
        "seconds": result.cycles / a.clock if a.clock else None,
    }  # fmt: skip
    layers = []
    for layer in result.layers:
        plain = {key: getattr(layer, key) for key in ("name", "kind", "dataflow")}
        plain["mapping"] = " ; ".join(brief(part.found.tiling) for part in layer.parts)
        plain |= {key: getattr(layer, key) for key in ("macs", "utilisation", "cycles", "energy", "bound", "note")}
        plain["nests"] = [
            {"loops": {k: v for k, v in part.nest.bounds.items() if v > 1}, "repeats": part.repeats,
             "dataflow": part.found.dataflow, "mapping": written(part.found.tiling).splitlines(),
             "active": part.found.evaluation.active, "cycles": part.found.evaluation.cycles,
             "terms": part.found.evaluation.terms}
            for part in layer.parts
        ]  # fmt: skip
        layers.append(plain | {"energies": dict(layer.energies), "accesses": layer.accesses})
    return {
        "model": result.model, "accelerator": a.name, "objective": result.objective, "asked": result.dataflow,
        "unit": "energy in 16-bit multiply-accumulates" if a.bits == 16 else "energy in multiply-accumulates",
        "totals": totals, "layers": layers,
    }  # fmt: skip


# ---- every dataflow apart -------------------------------------------------------------------------------------------


GOALS: tuple[Objective, ...] = ("energy", "cycles")
Goals = Mapping[str, Fit]  # by what was made least
Dataflows = Mapping[str, Goals | None]  # None where a layer does not fit


def by_dataflow(workload: Workload, accelerator: Accelerator, each: Map = map) -> dict[str, Goals | None]:
    """The network under each dataflow that the accelerator runs, once for the least energy and once for the fewest cycles."""
    found: dict[str, Goals | None] = {}
    for name in accelerator.dataflows:
        try:
            found[name] = {goal: fit(workload, accelerator, goal, name, each) for goal in GOALS}
        except InputError:
            found[name] = None
    return found


def compared(networks: Mapping[str, Dataflows], accelerator: Accelerator) -> dict[str, Any]:
    """Networks by dataflows: what each costs at least in the layers that have loops, as a multiple of what the best of all
    dataflows does, and how many layers each fixed one is the best for."""
    rows = []
    for model, dataflows in networks.items():
        known = {name: goals for name, goals in dataflows.items() if goals is not None}
        figures: dict[str, dict[str, float | None]] = {name: {} for name in dataflows}
        for goal in GOALS:
            values = {name: goals[goal].of_nests(goal) for name, goals in known.items()}
            least = min(values.values())
            for name in dataflows:
                figures[name] |= {goal: values.get(name), f"{goal}_ratio": values[name] / least if name in values else None}
        rows.append({"model": model, "dataflows": figures, "best": {goal: _best(known, goal) for goal in GOALS}})
    return {"accelerator": accelerator.name, "dataflows": list(accelerator.dataflows), "networks": rows}


def _best(known: Mapping[str, Goals], goal: str) -> dict[str, int]:
    """For each fixed dataflow the number of layers that no other fixed one does better."""
    fixed = {name: goals[goal].nests for name, goals in known.items() if name != "flexible"}
    wins = dict.fromkeys(fixed, 0)
    for layers in zip(*fixed.values(), strict=True):
        scores = [getattr(layer, goal) for layer in layers]
        wins[list(fixed)[scores.index(min(scores))]] += 1
    return wins
