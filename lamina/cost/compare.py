"""Networks side by side, and what differs between two versions of one. Pure functions of `Workload`s."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from difflib import SequenceMatcher
from typing import Any, Literal

from lamina import units
from lamina.cost import memory, record
from lamina.errors import InputError
from lamina.workload import Layer, Workload

Status = Literal["same", "renamed", "changed", "removed", "added"]


@dataclass(frozen=True, slots=True)
class Change:
    """A layer of the first network and its counterpart in the second; None where it has none."""

    status: Status
    before: Layer | None
    after: Layer | None


@dataclass(frozen=True, slots=True)
class Comparison:
    """`rows` has one mapping of figures per network, exact integers; `changes` the layer diff if they are two."""

    rows: tuple[Mapping[str, Any], ...]
    changes: tuple[Change, ...]

    @property
    def differences(self) -> tuple[Change, ...]:
        return tuple(change for change in self.changes if change.status != "same")

    @property
    def shared(self) -> float:
        """The share of the layers that have a counterpart of the same kind and shapes, from 0 to 1."""
        alike = sum(change.status in ("same", "renamed") for change in self.changes)
        return alike / len(self.changes) if self.changes else 0.0


def compare(*workloads: Workload, training: Sequence[Workload] | None = None, optimizer: str = "adamw") -> Comparison:
    """Networks side by side: parameters, MACs, activations, memory for inference and training, arithmetic intensity
    (FLOPs per byte). `training` are the same networks traced in training mode, from which the training memory is taken;
    without it their own traces serve. Two networks are also aligned layer by layer."""
    if len(workloads) < 2:
        raise InputError("give at least two networks to compare")
    trained = workloads if training is None else training
    rows = tuple(figures(w, t, optimizer) for w, t in zip(workloads, trained, strict=True))
    return Comparison(rows, diff(*workloads) if len(workloads) == 2 else ())


def figures(workload: Workload, trained: Workload, optimizer: str = "adamw") -> dict[str, Any]:
    """One network's row."""
    total = workload.total()
    return {
        "network": workload.name,
        "input": [list(t.shape) for t in workload.inputs],
        "layers": total.layers,
        "parameters": total.parameters,
        "macs": total.macs,
        "backward_macs": record.backward_macs(trained, trained.total()),
        "activations": total.activations,
        "peak_activation_bytes": workload.peak_activation_bytes,
        "fused_peak_activation_bytes": memory.fused_peak_bytes(workload),
        "inference_bytes": memory.inference_bytes(workload),
        "training_bytes": memory.training(trained, optimizer).total,
        "intensity": total.intensity,
    }


def diff(before: Workload, after: Workload) -> tuple[Change, ...]:
    """The layers of two networks, aligned in order of execution: first those of equal name, kind and shapes (longest
    matching blocks, as in difflib); between these, layers of equal name are changed, layers of equal kind and shapes are
    renamed, the rest is removed or added. Views are left out."""
    a = [layer for layer in before.layers if layer.kind != "view"]
    b = [layer for layer in after.layers if layer.kind != "view"]
    changes: list[Change] = []
    matcher = SequenceMatcher(None, [(x.name, _form(x)) for x in a], [(x.name, _form(x)) for x in b], autojunk=False)
    for tag, i, j, k, m in matcher.get_opcodes():
        if tag == "equal":
            changes += [Change("same", x, y) for x, y in zip(a[i:j], b[k:m], strict=True)]
        else:
            changes += _between(a[i:j], b[k:m])
    return tuple(changes)


def _form(layer: Layer) -> tuple[Any, ...]:
    """What two layers must share to be the same but for their name."""
    loops = tuple((n.filter, n.stride, n.padding, n.dilation, n.G, n.transposed) for n in layer.loops)
    shapes = tuple(t.shape for t in layer.inputs), tuple(t.shape for t in layer.outputs), tuple(w.shape for w in layer.weights)
    return (layer.kind, layer.op, shapes, loops)


def _between(a: Sequence[Layer], b: Sequence[Layer]) -> list[Change]:
    """The changes of a stretch in which no layer is the same: pairs of one name, then pairs of one form, in order."""
    pairs: dict[int, int] = {}
    for key in (lambda x: (x.name, x.kind), _form):
        last_a, last_b = -1, -1
        anchors = [*sorted(pairs.items()), (len(a), len(b))]
        fresh: dict[int, int] = {}
        for end_a, end_b in anchors:
            left, right = range(last_a + 1, end_a), range(last_b + 1, end_b)
            matcher = SequenceMatcher(None, [key(a[i]) for i in left], [key(b[i]) for i in right], autojunk=False)
            for block in matcher.get_matching_blocks():
                fresh |= {left[block.a + n]: right[block.b + n] for n in range(block.size)}
            last_a, last_b = end_a, end_b
        pairs |= fresh
    changes, done = [], 0
    for i, layer in enumerate(a):
        if i not in pairs:
            changes.append(Change("removed", layer, None))
            continue
        changes += [Change("added", None, y) for y in b[done : pairs[i]]]
        done = pairs[i] + 1
        other = b[pairs[i]]
        changes.append(Change("renamed" if _form(layer) == _form(other) else "changed", layer, other))
    return changes + [Change("added", None, y) for y in b[done:]]


def document(comparison: Comparison) -> dict[str, Any]:
    """{"networks": [...]}, and of two networks the share of layers that are alike and every layer's change."""
    found: dict[str, Any] = {"networks": list(comparison.rows)}
    if comparison.changes:
        found |= {"shared": comparison.shared, "layers": [line(change) for change in comparison.changes]}
    return found


def line(change: Change) -> dict[str, str]:
    """A change in words."""
    before, after = (layer.name if layer else "" for layer in (change.before, change.after))
    return {"status": change.status, "before": before, "after": after, "difference": describe(change)}


def describe(change: Change) -> str:
    """What changed, in one line: shapes and counts of the two layers where they differ."""
    before, after = change.before, change.after
    if before is None or after is None:
        layer = before or after
        assert layer is not None
        return f"{layer.op}, {layer.parameters:,} parameters, {layer.macs:,} MACs"
    if change.status == "renamed":
        return f"now {after.name}"
    parts = []
    for what, x, y in (
        ("input", _shapes(before.inputs), _shapes(after.inputs)),
        ("output", _shapes(before.outputs), _shapes(after.outputs)),
        ("filter", _loops(before, "filter"), _loops(after, "filter")),
        ("stride", _loops(before, "stride"), _loops(after, "stride")),
        ("padding", _loops(before, "padding"), _loops(after, "padding")),
        ("groups", _groups(before), _groups(after)),
        ("parameters", f"{before.parameters:,}", f"{after.parameters:,}"),
        ("MACs", f"{before.macs:,}", f"{after.macs:,}"),
        ("operation", before.op, after.op),
    ):
        if x != y:
            parts.append(f"{what} {x or 'none'} → {y or 'none'}")
    return "; ".join(parts)


def _shapes(tensors: Sequence[Any]) -> str:
    return " ".join(units.shape(t.shape) for t in tensors)


def _loops(layer: Layer, name: str) -> str:
    return " ".join(units.shape(getattr(nest, name)) for nest in layer.loops)


def _groups(layer: Layer) -> str:
    return " ".join(str(nest.G) for nest in layer.loops if nest.filter)
