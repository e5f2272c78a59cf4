"""The record that everything about cost, memory and hardware reads: what a network computes, in exact integers.

Standard library only. Counting convention: a MAC is one multiply-accumulate of a convolution, a linear layer or a
matrix product (attention's two included); no bias, norm, activation, pooling; 1 MAC = 2 FLOPs. Parameters are weights,
biases and the scale and shift of norms; running statistics are buffers.
"""

import json
import math
from collections.abc import Callable, Iterable, Mapping
from dataclasses import asdict, dataclass, field, replace
from typing import Any, Literal, TypeVar

T = TypeVar("T", "Tensor", "Weight")
Role = Literal["input", "activation", "output"]
Part = Literal["weight", "bias", "norm"]
Kind = Literal[
    "conv", "linear", "matmul", "norm", "activation", "softmax", "pool", "elementwise", "embedding", "copy", "view", "other"
]  # fmt: skip

# Bytes of one element; names are torch's, without "torch.".
DTYPE_BYTES = {
    "float64": 8, "float32": 4, "float16": 2, "bfloat16": 2, "complex64": 8, "complex128": 16, "int64": 8, "int32": 4,
    "int16": 2, "int8": 1, "uint8": 1, "bool": 1, "float8_e4m3fn": 1, "float8_e5m2": 1, "uint16": 2, "uint32": 4, "uint64": 8,
}  # fmt: skip


@dataclass(frozen=True, slots=True)
class Tensor:
    """A tensor that flows between layers. Views of one allocation share a `storage`, of `storage_bytes` (0 within a weight)."""

    id: int
    shape: tuple[int, ...]
    dtype: str
    storage: int
    storage_bytes: int
    role: Role
    requires_grad: bool

    @property
    def numel(self) -> int:
        return math.prod(self.shape)

    @property
    def bytes(self) -> int:
        return math.prod(self.shape) * DTYPE_BYTES[self.dtype]


@dataclass(frozen=True, slots=True)
class Weight:
    """A parameter of the module. Tied parameters are one `Weight` with several names."""

    names: tuple[str, ...]
    shape: tuple[int, ...]
    dtype: str
    storage: int
    part: Part
    trainable: bool

    @property
    def numel(self) -> int:
        return math.prod(self.shape)

    @property
    def bytes(self) -> int:
        return math.prod(self.shape) * DTYPE_BYTES[self.dtype]


@dataclass(frozen=True, slots=True)
class Loops:
    """One multiply-accumulate loop nest, per group: N batch (tokens of a linear layer), G groups (the batch of a batched
    matrix product), M output and C input channels; `output` sizes (P, Q, ...), `filter` sizes (R, S, ...), `stride`,
    `padding` and `dilation` have one entry a spatial axis (a matrix product has none; a pair where padding is not
    symmetric). `transposed` nests run over the input's pixels. `times` repeats the nest (steps of a recurrence).
    `operands` names the tensors in the roles input, weight, output: a `Tensor.id`, or the name of a `Weight`.
    """

    N: int = 1
    G: int = 1
    M: int = 1
    C: int = 1
    output: tuple[int, ...] = ()
    filter: tuple[int, ...] = ()
    stride: tuple[int, ...] = ()
    padding: tuple[int | tuple[int, int], ...] = ()
    dilation: tuple[int, ...] = ()
    transposed: bool = False
    times: int = 1
    operands: tuple[int | str, ...] = ()

    @property
    def macs(self) -> int:
        return self.times * self.N * self.G * self.M * self.C * math.prod(self.output) * math.prod(self.filter)


@dataclass(frozen=True, slots=True)
class Layer:
    """One operation as its author wrote it. `name` is the module's path; operations that are not a leaf module's only
    one add "/operator", and repeated calls add ":1", ":2", ...

    `ops` counts other arithmetic by kind (add, mul, exp, sqrt, compare, div). `saved` are the storages that eager
    execution keeps for the backward pass, `workspace` the bytes that the operation needs besides its inputs and outputs.
    """

    name: str
    module: str
    module_type: str
    call: int
    kind: Kind
    op: str
    attributes: Mapping[str, Any]
    inputs: tuple[Tensor, ...]
    outputs: tuple[Tensor, ...]
    weights: tuple[Weight, ...]
    loops: tuple[Loops, ...]
    ops: Mapping[str, int]
    saved: tuple[int, ...] = ()
    workspace: int = 0

    @property
    def macs(self) -> int:
        return sum([nest.macs for nest in self.loops]) if self.loops else 0

    @property
    def parameters(self) -> int:
        return sum(w.numel for w in self.weights)

    @property
    def backward_macs(self) -> int:
        """The products of the backward pass: for each nest one for the gradient of its input and one for that of its
        weight, as far as they need one. A factor that is made within the layer needs one if the layer's result does."""
        if not self.loops or not any(t.requires_grad for t in self.outputs):
            return 0
        needs: dict[int | str, bool] = {t.id: t.requires_grad for t in self.inputs}
        needs |= {name: w.trainable for w in self.weights for name in w.names} | {"buffer": False}
        return sum(nest.macs * sum(needs.get(x, True) for x in nest.operands[:2]) for nest in self.loops)

    @property
    def intensity(self) -> float:
        """Arithmetic intensity: FLOPs (two a MAC) per byte read or written (Williams, Waterman & Patterson 2009, with every
        input, weight and output moved once); 0 where nothing is moved."""
        return _intensity(self)

    @property
    def activations(self) -> int:
        """The elements of the outputs of convolutions, linear layers and matrix products."""
        return sum([t.numel for t in self.outputs]) if self.loops else 0

    @property
    def bytes_read(self) -> int:
        """Inputs and weights, each once; a view moves nothing, an embedding reads the rows it gathers."""
        if self.kind == "view":
            return 0
        if self.kind == "embedding":
            return sum(t.bytes for t in self.inputs) + self.bytes_written
        inputs = self.inputs if len(self.inputs) < 2 else unique(self.inputs)
        return sum([t.bytes for t in inputs]) + sum([w.bytes for w in self.weights])

    @property
    def bytes_written(self) -> int:
        return 0 if self.kind == "view" else sum([t.bytes for t in self.outputs])


@dataclass(frozen=True, slots=True)
class Lifetime:
    """A storage is alive from layer `born` to layer `freed`, both included; -1 is before the first layer. Masks, indices
    and statistics that exist only for the backward pass have `freed = born - 1`: they are never alive in a forward pass.
    """

    storage: int
    bytes: int
    born: int
    freed: int


@dataclass(frozen=True, slots=True)
class Unknown:
    """An operator that has no rule: it is listed, never silently zero."""

    op: str
    layer: str
    inputs: tuple[tuple[int, ...], ...]
    outputs: tuple[tuple[int, ...], ...]


@dataclass(frozen=True, slots=True)
class Coverage:
    """How many operators were counted, how many are known to cost nothing, and which are unknown."""

    counted: int
    free: int
    unknown: tuple[Unknown, ...] = ()


@dataclass(frozen=True, slots=True)
class Totals:
    """Sums over layers; each weight is counted once, however often it is used."""

    parameters: int
    weights: int
    biases: int
    norm: int
    macs: int
    activations: int
    bytes_read: int
    bytes_written: int
    layers: int
    trainable: int = 0  # of the parameters
    parameter_bytes: int = 0
    backward_macs: int = 0

    @property
    def flops(self) -> int:
        return 2 * self.macs

    @property
    def intensity(self) -> float:
        """Arithmetic intensity: see `Layer`."""
        return _intensity(self)


def _intensity(counted: "Layer | Totals") -> float:
    moved = counted.bytes_read + counted.bytes_written
    return 2 * counted.macs / moved if moved else 0.0


@dataclass(frozen=True, slots=True)
class Workload:
    """A traced network. `weights` are all of the module's, used or not; `buffers` are elements of its buffers.

    `attention` says how causal attention is counted: "dense", or "causal" for the pairs that the mask leaves.
    `assumptions` are what the trace took for granted where values that it cannot know decide.

    `lifetimes` are those of eager execution ("eager": a storage is freed when its last reference goes) or those of the
    last use in the graph ("last use", for ONNX); the network's inputs are held by the caller throughout.
    """

    name: str
    mode: Literal["train", "eval"]
    inputs: tuple[Tensor, ...]
    layers: tuple[Layer, ...]
    weights: tuple[Weight, ...]
    buffers: int
    lifetimes: tuple[Lifetime, ...]
    lifetime_rule: Literal["eager", "last use"]
    coverage: Coverage = field(default=Coverage(0, 0))
    buffer_bytes: int = 0
    attention: Literal["dense", "causal"] = "dense"
    assumptions: tuple[str, ...] = ()

    def total(self, layers: Iterable[Layer] | None = None) -> Totals:
        """The sums over `layers`, by default over the whole network (whose parameters include unused ones)."""
        chosen = self.layers if layers is None else tuple(layers)
        weights = self.weights if layers is None else unique(w for layer in chosen for w in layer.weights)
        parts = {part: sum(w.numel for w in weights if w.part == part) for part in ("weight", "bias", "norm")}
        return Totals(
            parameters=sum(parts.values()),
            weights=parts["weight"],
            biases=parts["bias"],
            norm=parts["norm"],
            macs=sum(layer.macs for layer in chosen),
            activations=sum(layer.activations for layer in chosen),
            bytes_read=sum(layer.bytes_read for layer in chosen),
            bytes_written=sum(layer.bytes_written for layer in chosen),
            layers=len(chosen),
            trainable=sum(w.numel for w in weights if w.trainable),
            parameter_bytes=sum(w.bytes for w in weights),
            backward_macs=sum(layer.backward_macs for layer in chosen),
        )

    def by(self, key: Literal["layer", "module", "kind"] | Callable[[Layer], str], depth: int = 1) -> dict[str, Totals]:
        """Totals of each group, in the order of first use: by layer, by kind, or by the first `depth` parts of the
        module path. A weight that several groups use is in each of them."""
        keys: dict[str, Callable[[Layer], str]] = {
            "layer": lambda layer: layer.name,
            "kind": lambda layer: layer.kind,
            "module": lambda layer: ".".join(layer.module.split(".")[:depth]) if layer.module else layer.name,
        }
        function = keys[key] if isinstance(key, str) else key
        groups: dict[str, list[Layer]] = {}
        for layer in self.layers:
            groups.setdefault(function(layer), []).append(layer)
        return {name: self.total(group) for name, group in groups.items()}

    @property
    def macs(self) -> int:
        """Of the whole network; `total()` has everything else."""
        return sum(nest.macs for layer in self.layers for nest in layer.loops)

    @property
    def edges(self) -> tuple[tuple[int, int, int], ...]:
        """(producer, consumer, tensor id) by tensor identity; the producer of a network input is -1."""
        made = {t.id: -1 for t in self.inputs}
        edges: list[tuple[int, int, int]] = []
        for index, layer in enumerate(self.layers):
            edges += [(made[t.id], index, t.id) for t in layer.inputs if t.id in made]
            made.update((t.id, index) for t in layer.outputs)
        return tuple(edges)

    @property
    def parameters_unused(self) -> int:
        """Parameters of the module that the traced call did not use."""
        used = {w.storage for layer in self.layers for w in layer.weights}
        return sum(w.numel for w in self.weights if w.storage not in used)

    @property
    def parameters_by_dtype(self) -> dict[str, int]:
        """Parameters of each type, tied ones once."""
        counts: dict[str, int] = {}
        for weight in self.weights:
            counts[weight.dtype] = counts.get(weight.dtype, 0) + weight.numel
        return counts

    @property
    def parameters_active(self) -> int:
        """Parameters that one token meets. In a mixture of experts a router chooses k of E experts (a layer with the
        attributes `k` and `of`): of the experts beside it, E modules in a list or weights stacked to E, k/E count; of
        everything else all. A network without routers is active as a whole."""
        share: dict[int, tuple[int, int]] = {}
        for layer in self.layers:
            k, experts = layer.attributes.get("k"), layer.attributes.get("of")
            if isinstance(k, int) and isinstance(experts, int) and k < experts:
                for storage in self._experts(layer.module, experts):
                    share[storage] = (k, experts)
        return sum(w.numel * share.get(w.storage, (1, 1))[0] // share.get(w.storage, (1, 1))[1] for w in self.weights)

    def _experts(self, router: str, experts: int) -> set[int]:
        """The weights of the nearest group of so many experts: in the router's module, or the modules around it."""
        scope = router.split(".") if router else []
        for depth in range(len(scope), max(-1, len(scope) - 3), -1):
            groups: dict[tuple[str, ...], dict[str, set[int]]] = {}
            stacked: dict[tuple[str, ...], set[int]] = {}
            for weight in self.weights:
                parts = weight.names[0].split(".")
                if parts[:depth] != scope[:depth]:
                    continue
                for i, part in enumerate(parts[depth:], depth):
                    if part.isdigit():
                        groups.setdefault(tuple(parts[:i]), {}).setdefault(part, set()).add(weight.storage)
                        break
                if weight.shape and weight.shape[0] == experts:
                    home = stacked.setdefault(tuple(parts[:-1]), set())
                    if len(weight.shape) == 3 or home:
                        home.add(weight.storage)
            found = {s for group in groups.values() if len(group) == experts for member in group.values() for s in member}
            found = found or {s for home in stacked.values() for s in home}
            if found:
                return found
        return set()

    def causal_exact(self) -> "Workload":
        """The same network with causal attention counted exactly: only the (query, key) pairs that the mask leaves, S·(S+1)/2
        of S². In its two nests N then runs over these pairs. Only attention that says it is causal changes (the
        `is_causal` of torch's function, whose mask lies in the top left corner, or `CausalBias`); a mask that is given as a
        tensor stays dense, for its values are not known. `attention` of the result says "causal"."""

        def exact(layer: Layer) -> Layer:
            if not layer.attributes.get("causal") or len(layer.loops) != 2:
                return layer
            scores, values = layer.loops
            pairs = causal_pairs(scores.N, scores.M, layer.attributes.get("aligned") == "bottom right")
            return replace(layer, loops=(replace(scores, N=pairs, M=1), replace(values, N=pairs, C=1)))

        return replace(self, layers=tuple(exact(layer) for layer in self.layers), attention="causal")

    @property
    def live_bytes(self) -> list[int]:
        """Bytes of activations alive while each layer runs, the network's input and the layer's workspace included."""
        change = [0] * (len(self.layers) + 2)
        for life in self.lifetimes:
            change[max(life.born, 0)] += life.bytes
            change[life.freed + 1] -= life.bytes
        alive, found = 0, []
        for index, layer in enumerate(self.layers):
            alive += change[index]
            found.append(alive + layer.workspace)
        return found

    @property
    def peak_activation_bytes(self) -> int:
        """The most bytes of activations alive at once: the largest of `live_bytes`."""
        return max(self.live_bytes, default=0)

    @property
    def saved_bytes(self) -> int:
        """What eager execution keeps of activations for the backward pass (masks, indices and statistics included)."""
        keep = {storage for layer in self.layers for storage in layer.saved}
        return sum(life.bytes for life in self.lifetimes if life.storage in keep)

    def summary(self) -> dict[str, int]:
        """The totals as the command's JSON has them."""
        total = self.total()
        return {
            **{k: getattr(total, k) for k in ("parameters", "weights", "biases", "norm")},
            "parameters_unused": self.parameters_unused,
            "parameters_active": self.parameters_active,
            "parameters_trainable": total.trainable,
            "parameter_bytes": total.parameter_bytes,
            "buffers": self.buffers,
            "buffer_bytes": self.buffer_bytes,
            **{k: getattr(total, k) for k in ("macs", "flops", "backward_macs", "activations", "bytes_read", "bytes_written")},
            "peak_activation_bytes": self.peak_activation_bytes,
        }

    def to_json(self) -> str:
        """The whole record; `from_json` gives an equal one."""
        tensors = {t.id: t for layer in self.layers for t in (*layer.inputs, *layer.outputs)}
        tensors |= {t.id: t for t in self.inputs}
        index = {id(w): i for i, w in enumerate(self.weights)}
        layers = []
        for layer in self.layers:
            plain = {k: getattr(layer, k) for k in Layer.__slots__}
            plain["inputs"] = [t.id for t in layer.inputs]
            plain["outputs"] = [t.id for t in layer.outputs]
            plain["weights"] = [index[id(w)] for w in layer.weights]
            plain["loops"] = [asdict(nest) for nest in layer.loops]
            layers.append(plain)
        plain = ("name", "mode", "buffers", "lifetime_rule", "buffer_bytes", "attention", "assumptions")
        record = {k: getattr(self, k) for k in plain}
        record |= {"tensors": [asdict(t) for t in tensors.values()], "inputs": [t.id for t in self.inputs]}
        record |= {"weights": [asdict(w) for w in self.weights], "layers": layers}
        record |= {"lifetimes": [asdict(life) for life in self.lifetimes], "coverage": asdict(self.coverage)}
        return json.dumps(record)

    @classmethod
    def from_json(cls, text: str) -> "Workload":
        record = json.loads(text)
        tensors = {t["id"]: Tensor(**_tuples(t)) for t in record["tensors"]}
        weights = tuple(Weight(**_tuples(w)) for w in record["weights"])
        layers = []
        for plain in record["layers"]:
            plain["inputs"] = tuple(tensors[i] for i in plain["inputs"])
            plain["outputs"] = tuple(tensors[i] for i in plain["outputs"])
            plain["weights"] = tuple(weights[i] for i in plain["weights"])
            plain["loops"] = tuple(Loops(**_tuples(nest)) for nest in plain["loops"])
            plain["attributes"] = _tuples(plain["attributes"])
            layers.append(Layer(**{**plain, "saved": tuple(plain["saved"])}))
        unknown = tuple(Unknown(**_tuples(u)) for u in record["coverage"]["unknown"])
        return cls(
            name=record["name"],
            mode=record["mode"],
            inputs=tuple(tensors[i] for i in record["inputs"]),
            layers=tuple(layers),
            weights=weights,
            buffers=record["buffers"],
            lifetimes=tuple(Lifetime(**life) for life in record["lifetimes"]),
            lifetime_rule=record["lifetime_rule"],
            coverage=Coverage(record["coverage"]["counted"], record["coverage"]["free"], unknown),
            buffer_bytes=record["buffer_bytes"],
            attention=record["attention"],
            assumptions=tuple(record["assumptions"]),
        )

    def __str__(self) -> str:
        """A plain table: one line a layer, then the totals."""
        rows = [("layer", "kind", "output", "parameters", "MACs")]
        seen: set[int] = set()
        for layer in self.layers:
            fresh = [w for w in layer.weights if w.storage not in seen]
            seen.update(w.storage for w in fresh)
            shape = "x".join(map(str, layer.outputs[0].shape)) if layer.outputs else ""
            rows.append((layer.name, layer.kind, shape, f"{sum(w.numel for w in fresh):,}", f"{layer.macs:,}"))
        total = self.total()
        rows.append((f"{self.name} ({self.mode})", "", "", f"{total.parameters:,}", f"{total.macs:,}"))
        width = [max(len(row[i]) for row in rows) for i in range(5)]
        lines = [
            f"{a:<{width[0]}}  {b:<{width[1]}}  {c:>{width[2]}}  {d:>{width[3]}}  {e:>{width[4]}}" for a, b, c, d, e in rows
        ]
        rule = "-" * len(lines[0])
        lines = [lines[0], rule, *lines[1:-1], rule, lines[-1]]
        if self.parameters_unused:
            lines.append(f"{self.parameters_unused:,} of the parameters are not used by this call")
        lines += [f"assumed: {text}" for text in self.assumptions]
        lines += [f"not counted, no rule: {u.op} in {u.layer}" for u in self.coverage.unknown]
        return "\n".join(lines)


def causal_pairs(length: int, span: int, bottom_right: bool = False) -> int:
    """How many (query, key) pairs a causal mask of `length` queries and `span` keys leaves.

    Query i sees keys 0 … i where the mask lies in the top left corner (torch's `is_causal`), and 0 … i + span - length
    where it lies in the bottom right (the last query sees every key: a key/value cache). For length = span = S both are
    S·(S+1)/2.
    """
    shift = span - length if bottom_right else 0
    first = max(0, -shift)  # queries before it see nothing
    last = max(first, min(length, span - shift))  # queries from it on see every key
    return (first + last + 1 + 2 * shift) * (last - first) // 2 + (length - last) * span


def unique(items: Iterable[T]) -> tuple[T, ...]:
    """Each tensor (by id) or weight (by storage) once, in order."""
    seen = {(item.id if isinstance(item, Tensor) else item.storage): item for item in items}
    return tuple(seen.values())


def _tuples(value: Any) -> Any:
    """JSON's lists are the records' tuples, except that mappings stay mappings."""
    if isinstance(value, list):
        return tuple(_tuples(v) for v in value)
    if isinstance(value, dict):
        return {k: _tuples(v) for k, v in value.items()}
    return value
