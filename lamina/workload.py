"""The record that everything about cost, memory and hardware reads: what a network computes, in exact integers.

Counting convention: a MAC is one multiply-accumulate of a convolution, a linear layer or a matrix product (attention's two
included); no bias, norm, activation, pooling; 1 MAC = 2 FLOPs. Parameters are weights, biases and the scale and shift of
norms; running statistics are buffers.

One file of over 400 lines: the records are made of each other, and are read together.
"""

import math
from collections.abc import Callable, Iterable, Mapping
from html import escape
from itertools import accumulate
from typing import Any, Literal, TypeVar

import msgspec
from msgspec.structs import asdict as asdict  # of a record, as `replace` is: whoever reads records takes them from here
from msgspec.structs import replace as replace

from lamina.errors import InputError

T = TypeVar("T", "Tensor", "Weight")
Role = Literal["input", "activation", "output"]
Part = Literal["weight", "bias", "norm"]
Kind = Literal[
    "conv", "linear", "matmul", "norm", "activation", "softmax", "pool", "elementwise", "embedding", "copy", "view", "other"
]  # fmt: skip

Device = Literal["cpu", "cuda"]  # where eager execution is imagined

# Bytes of one element; names are torch's, without "torch.". Types of less than a byte are packed.
DTYPE_BYTES: dict[str, float] = {
    "float64": 8, "float32": 4, "float16": 2, "bfloat16": 2, "complex64": 8, "complex128": 16, "int64": 8, "int32": 4,
    "int16": 2, "int8": 1, "uint8": 1, "bool": 1, "float8_e4m3fn": 1, "float8_e5m2": 1, "uint16": 2, "uint32": 4, "uint64": 8,
    "int4": 0.5, "uint4": 0.5, "int2": 0.25, "uint2": 0.25, "float4_e2m1fn": 0.5,
}  # fmt: skip


class Record(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """A msgspec struct: made as fast as a tuple, never changed, and checked type by type where it is read back."""


class Tensor(Record, frozen=True):
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
        return math.ceil(math.prod(self.shape) * DTYPE_BYTES[self.dtype])


class Weight(Record, frozen=True):
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
        return math.ceil(math.prod(self.shape) * DTYPE_BYTES[self.dtype])


class Loops(Record, frozen=True):
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


class Layer(Record, frozen=True):
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


class Lifetime(Record, frozen=True):
    """A storage is alive from layer `born` to layer `freed`, both included; -1 is before the first layer. Masks, indices
    and statistics that exist only for the backward pass have `freed = born - 1`: they are never alive in a forward pass.
    """

    storage: int
    bytes: int
    born: int
    freed: int


class Unknown(Record, frozen=True):
    """An operator that has no rule: it is listed, never silently zero."""

    op: str
    layer: str
    inputs: tuple[tuple[int, ...], ...]
    outputs: tuple[tuple[int, ...], ...]


class Coverage(Record, frozen=True):
    """How many operators were counted, how many are known to cost nothing, and which are unknown."""

    counted: int
    free: int
    unknown: tuple[Unknown, ...] = ()


class Totals(Record, frozen=True):
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


class Workload(Record, frozen=True):
    """A traced network. `weights` are all of the module's, used or not; `buffers` are elements of its buffers.

    `attention` says how causal attention is counted: "dense", or "causal" for the pairs that the mask leaves.
    `assumptions` are what the trace took for granted where values that it cannot know decide.

    `device` is where eager execution is imagined: its kernels decide what is kept for the backward pass, and what they need
    beside their results.

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
    coverage: Coverage = Coverage(0, 0)
    buffer_bytes: int = 0
    attention: Literal["dense", "causal"] = "dense"
    assumptions: tuple[str, ...] = ()
    device: Device = "cpu"

    def total(self, layers: Iterable[Layer] | None = None) -> Totals:
        """The sums over `layers`, by default over the whole network (whose parameters include unused ones)."""
        chosen = self.layers if layers is None else tuple(layers)
        weights = self.weights if layers is None else unique(w for layer in chosen for w in layer.weights)
        parts = {part: sum(w.numel for w in weights if w.part == part) for part in ("weight", "bias", "norm")}
        summed = ("macs", "activations", "bytes_read", "bytes_written", "backward_macs")
        return Totals(
            parameters=sum(parts.values()),
            weights=parts["weight"],
            biases=parts["bias"],
            norm=parts["norm"],
            layers=len(chosen),
            trainable=sum(w.numel for w in weights if w.trainable),
            parameter_bytes=sum(w.bytes for w in weights),
            **{key: sum([getattr(layer, key) for layer in chosen]) for key in summed},
        )

    def groups(
        self, key: Literal["layer", "module", "kind"] | Callable[[Layer], str], depth: int = 1
    ) -> dict[str, list[Layer]]:
        """The layers of each group, in the order of first use: by layer, by kind, or by the first `depth` parts of the
        module path. What a module does itself beside its parts, where those are groups of their own, is "PATH (itself)"."""
        parents = {layer.module[:end] for layer in self.layers for end in _dots(layer.module)}

        def module(layer: Layer) -> str:
            path = ".".join(layer.module.split(".")[:depth]) or layer.name
            divided = layer.module in parents and layer.module.count(".") + 1 < depth
            return f"{path} (itself)" if divided else path

        keys: dict[str, Callable[[Layer], str]] = {"layer": lambda x: x.name, "kind": lambda x: x.kind, "module": module}
        function = keys[key] if isinstance(key, str) else key
        groups: dict[str, list[Layer]] = {}
        for layer in self.layers:
            groups.setdefault(function(layer), []).append(layer)
        return groups

    def by(self, key: Literal["layer", "module", "kind"] | Callable[[Layer], str], depth: int = 1) -> dict[str, Totals]:
        """Totals of each of the `groups`. A weight that several groups use is in each of them."""
        return {name: self.total(group) for name, group in self.groups(key, depth).items()}

    @property
    def macs(self) -> int:
        """Of the whole network; `total()` has everything else."""
        return sum(nest.macs for layer in self.layers for nest in layer.loops)

    @property
    def edges(self) -> tuple[tuple[int, int, int], ...]:
        """(producer, consumer, tensor id) by tensor identity; the producer of a network input is -1."""
        producer = {t.id: -1 for t in self.inputs}
        edges: list[tuple[int, int, int]] = []
        for index, layer in enumerate(self.layers):
            edges += [(producer[t.id], index, t.id) for t in layer.inputs if t.id in producer]
            producer.update((t.id, index) for t in layer.outputs)
        return tuple(edges)

    @property
    def parameters_unused(self) -> int:
        """Parameters of the module that the traced call did not use."""
        used = {w.storage for layer in self.layers for w in layer.weights}
        return sum(w.numel for w in self.weights if w.storage not in used)

    @property
    def live_bytes(self) -> list[int]:
        """Bytes of activations alive while each layer runs, the network's input and the layer's workspace included."""
        change = [0] * (len(self.layers) + 2)
        for life in self.lifetimes:
            change[max(life.born, 0)] += life.bytes
            change[life.freed + 1] -= life.bytes
        return [alive + layer.workspace for alive, layer in zip(accumulate(change), self.layers, strict=False)]

    @property
    def peak_activation_bytes(self) -> int:
        """The largest of `live_bytes`."""
        return max(self.live_bytes, default=0)

    @property
    def saved_bytes(self) -> int:
        """What eager execution keeps of activations for the backward pass (masks, indices and statistics included)."""
        keep = {storage for layer in self.layers for storage in layer.saved}
        return sum(life.bytes for life in self.lifetimes if life.storage in keep)

    def to_json(self) -> str:
        """The whole record; `from_json` gives an equal one."""
        tensors = {t.id: t for t in self.inputs} | {t.id: t for x in self.layers for t in (*x.inputs, *x.outputs)}
        places = {id(w): place for place, w in enumerate(self.weights)}
        rows = [_row(layer, places) for layer in self.layers]
        fields = asdict(self) | {"inputs": [t.id for t in self.inputs], "layers": rows, "tensors": list(tensors.values())}
        return msgspec.json.encode(fields).decode()

    @classmethod
    def from_json(cls, text: str) -> "Workload":
        """The record that `to_json` wrote. Raises `InputError` for anything else, with the first field that does not fit."""
        try:
            document = msgspec.json.decode(text, type=_Document)
            tensors, weights = {t.id: t for t in document.tensors}, dict(enumerate(document.weights))
            fields = asdict(document)
            del fields["tensors"]
            fields["inputs"] = tuple(tensors[i] for i in document.inputs)
            fields["layers"] = tuple(_layer(row, tensors, weights) for row in document.layers)
        except (msgspec.MsgspecError, UnicodeError, KeyError, TypeError) as error:
            why = f"{error} is not in it" if isinstance(error, KeyError) else error
            raise InputError(f"not the record of a workload: {why}") from error
        return cls(**fields)

    def __str__(self) -> str:
        """The totals in a line, then what to know of them; `lamina.report.table` has one line per layer."""
        total = self.total()
        lines = [f"{self.name} ({self.mode}): {total.layers:,} layers, {total.parameters:,} parameters, {total.macs:,} MACs"]
        if self.parameters_unused:
            lines.append(f"{self.parameters_unused:,} of the parameters are not used by this call")
        lines += [f"assumed: {text}" for text in self.assumptions]
        lines += [f"not counted, no rule: {u.op} in {u.layer}" for u in self.coverage.unknown]
        return "\n".join(lines)

    def _repr_html_(self) -> str:
        """The same in a notebook, with a row for each top-level module."""
        totals = {**self.by("module"), "total": self.total()}
        rows = [(escape(name), *(f"{n:,}" for n in (t.parameters, t.macs, t.activations))) for name, t in totals.items()]
        lines = [f"<tr><td>{'</td><td>'.join(row)}</td></tr>" for row in rows]
        head = "<tr><th>module</th><th>parameters</th><th>MACs</th><th>activations</th></tr>"
        return f"<p>{escape(str(self)).replace(chr(10), '<br>')}</p><table>{head}{''.join(lines)}</table>"


def _dots(path: str) -> list[int]:
    """Where the parents of a module's path end."""
    return [place for place, letter in enumerate(path) if letter == "."]


def unique(items: Iterable[T]) -> tuple[T, ...]:
    """Each tensor (by id) or weight (by storage) once, in order."""
    seen = {(item.id if isinstance(item, Tensor) else item.storage): item for item in items}
    return tuple(seen.values())


def _row(layer: Layer, places: Mapping[int, int]) -> dict[str, Any]:
    fields = asdict(layer)
    fields["inputs"], fields["outputs"] = [t.id for t in layer.inputs], [t.id for t in layer.outputs]
    fields["weights"] = [places[id(w)] for w in layer.weights]
    return fields


def _layer(row: Mapping[str, Any], tensors: Mapping[int, Tensor], weights: Mapping[int, Weight]) -> Layer:
    """A layer of the document, which has tensors by id and weights by place."""
    records = {key: [tensors[i] for i in row[key]] for key in ("inputs", "outputs")}
    weighed = [weights[i] for i in row["weights"]]
    return msgspec.convert({**row, **records, "weights": weighed, "attributes": _tuples(row["attributes"])}, Layer)


class _Document(Record, frozen=True):
    """A `Workload` in JSON: each tensor once."""

    name: str
    mode: Literal["train", "eval"]
    inputs: tuple[int, ...]
    layers: tuple[dict[str, Any], ...]
    weights: tuple[Weight, ...]
    buffers: int
    lifetimes: tuple[Lifetime, ...]
    lifetime_rule: Literal["eager", "last use"]
    coverage: Coverage
    buffer_bytes: int
    attention: Literal["dense", "causal"]
    assumptions: tuple[str, ...]
    device: Device
    tensors: tuple[Tensor, ...]


def _tuples(value: Any) -> Any:
    """JSON's lists are the records' tuples, except that mappings stay mappings."""
    if isinstance(value, dict):
        return {k: _tuples(v) for k, v in value.items()}
    return tuple(map(_tuples, value)) if isinstance(value, list) else value
