"""A network as one document for the explorer's page: its structure, shapes, costs, lifetimes and edges, as formulas where the
page may change the batch and the type. Every figure in it is a `Workload`'s own.
"""

from collections.abc import Callable, Mapping, Sequence
from typing import Any

from lamina.cost import record
from lamina.serve.explorer import formulas, structure
from lamina.serve.explorer.formulas import At, Regime
from lamina.workload import Layer, Loops, Tensor, Workload, unique

FORM = 1  # of the document; a page reads its own
# A layer's figures: the page sums them over layers.
FIGURES: dict[str, Callable[[Layer], int]] = {
    "macs": lambda x: x.macs,
    "backward": lambda x: x.backward_macs,
    "activations": lambda x: x.activations,
    "read": lambda x: x.bytes_read,
    "written": lambda x: x.bytes_written,
    "ops": lambda x: sum(x.ops.values()),
    "workspace": lambda x: x.workspace,
}


def build(
    workload: Workload, at: At | None = None, *, shown: str = "", about: Mapping[str, Any] | None = None
) -> dict[str, Any]:
    """The document of `workload`, for an input `shown`. With `at`, which traces the network at a batch and a type, its figures
    are formulas of both, as far as they hold. `about` is what else the page may say of the network.

    {"form", "name", "input", "batch", "dtype", "why", "totals", ..., "regimes": [{"batch": [from, to], "dtypes",
    "groups": [{"path", "label", "type", "parent"}], "layers": [{"name", "label", "group", "kind", "op", "type", "attributes",
    "inputs", "outputs", "weights", "nests", "parameters", "saved", and FIGURES}], "tensors": [{"shape", "dtype", "storage"}],
    "weights": [{"names", "shape", "dtype", "part", "bytes"}], "storages": [{"bytes", "born", "freed"}], "inputs",
    "edges": [[from, to, tensor]]}]}. What is zero or empty is left out of a layer.
    """
    found, why = ([], "") if at is None else formulas.regimes(at, _figures)
    return {
        "form": FORM,
        "name": workload.name,
        "input": shown,
        "batch": next((t.shape[0] for t in workload.inputs if t.shape), 1),
        "dtype": _type(workload),
        "why": why,
        "mode": workload.mode,
        "lifetime_rule": workload.lifetime_rule,
        "buffers": workload.buffers,
        "assumptions": list(workload.assumptions),
        "unknown": [{"op": u.op, "layer": u.layer} for u in workload.coverage.unknown],
        "totals": record.summary(workload) | {"intensity": workload.total().intensity},
        "regimes": [_regime(regime) for regime in found or [formulas.alone(workload)]],
        **(about or {}),
    }


def _regime(regime: Regime) -> dict[str, Any]:
    base = regime.first
    tensors = {t.id: t for t in (*base.inputs, *(t for x in base.layers for t in (*x.inputs, *x.outputs)))}
    order = {id: place for place, id in enumerate(tensors)}
    storages = {life.storage: place for place, life in enumerate(base.lifetimes)}
    groups, of, labels = structure.tree(base.layers)
    return {
        "batch": list(regime.batch.holds),
        "dtypes": list(regime.dtype.holds),
        "groups": [{"path": g.path, "label": g.label, "type": g.type, "parent": g.parent} for g in groups],
        "layers": _layers(regime, of, labels, order, storages),
        "tensors": _tensors(regime, storages),
        "weights": _weights(regime),
        "storages": [
            {"bytes": regime.formula(lambda w, i=i: w.lifetimes[i].bytes), "born": life.born, "freed": life.freed}
            for i, life in enumerate(base.lifetimes)
        ],
        "inputs": [order[t.id] for t in base.inputs],
        "edges": [[a, b, order[t]] for a, b, t in base.edges],
    }


def _type(workload: Workload) -> str:
    """That of most weights; of the first input where there are none."""
    counts = record.parameters_by_dtype(workload)
    return max(counts, key=lambda name: counts[name]) if counts else next((t.dtype for t in workload.inputs), "float32")


def _figures(workload: Workload) -> list[int]:
    """Every figure of the document that has a formula, in one order."""
    layers = [figure(layer) for layer in workload.layers for figure in FIGURES.values()]
    nests = [n for x in workload.layers for nest in x.loops for n in _sizes(nest)]
    shapes = [n for x in workload.layers for t in (*x.inputs, *x.outputs) for n in t.shape]
    return [*layers, *nests, *shapes, *(life.bytes for life in workload.lifetimes), *(w.bytes for w in workload.weights)]


def _sizes(nest: Loops) -> list[int]:
    """Of its loops, outermost first."""
    return [nest.times, nest.G, nest.N, nest.M, nest.C, *nest.filter, *nest.output]


def _layers(
    regime: Regime, of: Sequence[int], labels: Sequence[str], order: Mapping[int, int], storages: Mapping[int, int]
) -> list[dict[str, Any]]:
    weights = {w.storage: i for i, w in enumerate(regime.first.weights)}
    counted: set[int] = set()  # a weight or a saved tensor counts where it is first used
    rows = []
    for i, layer in enumerate(regime.first.layers):
        used = [w for w in unique(layer.weights) if w.storage in weights]
        fresh = [w for w in used if w.storage not in counted]
        counted.update(w.storage for w in fresh)
        kept = [s for s in dict.fromkeys(layer.saved) if s in storages]
        row = {
            "name": layer.name, "label": labels[i], "group": of[i], "kind": layer.kind, "op": layer.op,
            "type": layer.module_type, "attributes": {k: _plain(v) for k, v in layer.attributes.items()},
            "inputs": [order[t.id] for t in layer.inputs], "outputs": [order[t.id] for t in layer.outputs],
            "weights": [weights[w.storage] for w in used], "parameters": sum(w.numel for w in fresh),
            "saved": [storages[s] for s in kept], "nests": [_nest(regime, i, k, order) for k in range(len(layer.loops))],
        }  # fmt: skip
        figures = regime.formulas(lambda w, i=i: [figure(w.layers[i]) for figure in FIGURES.values()])
        row |= zip(FIGURES, figures, strict=True)
        rows.append({key: value for key, value in row.items() if value not in (0, [], {}) or key in ("group", "inputs")})
    return rows


def _nest(regime: Regime, layer: int, number: int, order: Mapping[int, int]) -> dict[str, Any]:
    """The loops of one nest, outermost first, as [letter, size]; the product of the sizes is the nest's MACs."""
    nest = regime.first.layers[layer].loops[number]
    letters = [*("times", "G", "N", "M", "C"), *_letters("RSTUVW", nest.filter), *_letters("PQXYZ", nest.output)]
    sizes = regime.dimensions(lambda w: _sizes(w.layers[layer].loops[number]))
    found: dict[str, Any] = {
        "loops": list(zip(letters, sizes, strict=True)),
        "operands": [order.get(x, -1) if isinstance(x, int) else x for x in nest.operands],
    }
    if nest.filter:
        found |= {"stride": nest.stride, "padding": nest.padding, "dilation": nest.dilation, "transposed": nest.transposed}
    return found


def _letters(letters: str, sizes: Sequence[int]) -> list[str]:
    return [letters[i] if i < len(letters) else f"{letters[0]}{i}" for i in range(len(sizes))]


def _tensors(regime: Regime, storages: Mapping[int, int]) -> list[dict[str, Any]]:
    """Each tensor once, in the order of first appearance; the type "" is the network's own, which the page may change."""

    def all_of(workload: Workload) -> list[Tensor]:
        found = {t.id: t for t in (*workload.inputs, *(t for x in workload.layers for t in (*x.inputs, *x.outputs)))}
        return list(found.values())

    tensors = {
        key: all_of(w) for key, w in {id(w): w for row in regime.grid for w in row}.items()
    }  # one trace may stand for all
    wide, narrow = (tensors[id(w)] for w in regime.grid[0])
    return [
        {
            "shape": regime.dimensions(lambda w, i=i: tensors[id(w)][i].shape),
            "dtype": _dtype(t.dtype, other.dtype),
            "storage": storages.get(t.storage, -1),
        }
        for i, (t, other) in enumerate(zip(wide, narrow, strict=True))
    ]


def _weights(regime: Regime) -> list[dict[str, Any]]:
    wide, narrow = regime.grid[0]
    return [
        {"names": w.names, "shape": w.shape, "part": w.part, "dtype": _dtype(w.dtype, other.dtype),
         "bytes": regime.formula(lambda x, i=i: x.weights[i].bytes)}
        for i, (w, other) in enumerate(zip(wide.weights, narrow.weights, strict=True))
    ]  # fmt: skip


def _dtype(one: str, other: str) -> str:
    """A type, or "" for the network's own, which the page may change."""
    return one if one == other else ""


def _plain(value: Any) -> Any:
    """An attribute as JSON holds it."""
    if isinstance(value, Mapping):
        return {str(k): _plain(v) for k, v in value.items()}
    if isinstance(value, tuple | list):
        return [_plain(v) for v in value]
    return value if isinstance(value, str | int | float | bool | None) else str(value)
