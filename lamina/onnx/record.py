"""The record of an ONNX graph in the making: its stored tensors, layers and counts, and the `Workload` they become."""

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
from onnx import TensorProto

from lamina.onnx.file import array
from lamina.onnx.names import name_layers
from lamina.onnx.values import FLOATS, QUANTISED, recorded
from lamina.operators import Shape
from lamina.workload import Coverage, Kind, Layer, Lifetime, Loops, Part, Tensor, Unknown, Weight, Workload


@dataclass(slots=True, eq=False)
class Stored:
    """A stored tensor: an initializer, or the value of a Constant node."""

    names: tuple[str, ...]
    shape: Shape
    dtype: str
    proto: TensorProto | None
    constant_node: bool
    used: bool = False
    part: Part | None = None
    table: bool = False  # rows of it are gathered
    tied: "Stored | None" = None


@dataclass(slots=True)
class Step:
    """A layer in the making."""

    label: str
    module: str
    module_type: str
    op: str
    kind: Kind
    attributes: dict[str, Any]
    inputs: list[int]
    outputs: list[int]
    weights: list[Stored]
    loops: tuple[Loops, ...] = ()
    ops: dict[str, int] = field(default_factory=dict)
    unknown: tuple[str, tuple[Shape, ...], tuple[Shape, ...]] | None = None

    @property
    def macs(self) -> int:
        return sum(nest.macs for nest in self.loops)


@dataclass(slots=True)
class Record:
    """Layers, and how many operators were counted and free."""

    steps: list[Step] = field(default_factory=list)
    counted: int = 0
    free: int = 0

    def add(self, other: "Record", times: int = 1) -> None:
        for step in other.steps:
            if times != 1:
                step.loops = tuple(replace(nest, times=nest.times * times) for nest in step.loops)
                step.ops = {kind: count * times for kind, count in step.ops.items()}
            self.steps.append(step)
        self.counted, self.free = self.counted + other.counted, self.free + other.free


def part_of(held: Stored, op: str) -> Part:
    """Of a parameter that no operator's definition explains: by its name, else a vector that is added is a bias."""
    name = held.names[0].lower()
    if "norm" in name:
        return "norm"
    return "bias" if name.endswith("bias") or (op == "Add" and len(held.shape) == 1) else "weight"


def tie(stored: Iterable[Stored]) -> None:
    """Find the transposed copy of an embedding table that feeds a product."""
    tables = [held for held in stored if held.table and len(held.shape) == 2]
    for table in tables:
        for held in stored:
            if held.part == "weight" and not held.table and held.shape == table.shape[::-1] and held.dtype == table.dtype:
                a, b = (array(x.proto) if x.proto and not x.proto.external_data else None for x in (table, held))
                if a is not None and b is not None and a.size > 1 and a.flat[0] != a.flat[-1] and np.array_equal(a, b.T):
                    held.tied = table


def weigh(stored: Sequence[Stored]) -> tuple[dict[Stored, Weight], int]:
    """The weights in the file's order, tied ones once, and the elements of the buffers."""
    for held in stored:
        if not held.used and held.dtype in FLOATS and math.prod(held.shape) > 1 and not held.constant_node:
            held.part = part_of(held, "")
    tie(stored)
    weights: dict[Stored, Weight] = {}
    names: dict[Stored, tuple[str, ...]] = {}
    for held in stored:
        root = held.tied or held
        names[root] = (*names.get(root, ()), *held.names)
    buffers = 0
    for held in stored:
        if held.part is None:
            if held.dtype in FLOATS | QUANTISED and not held.constant_node and math.prod(held.shape) > 1:
                buffers += math.prod(held.shape)
        elif held.tied is None:
            floating = held.dtype in FLOATS
            weights[held] = Weight(names[held], held.shape, recorded(held.dtype), len(weights), held.part, floating)
    weights.update({held: weights[held.tied] for held in stored if held.tied is not None})
    return weights, buffers


def finish(
    name: str,
    record: Record,
    made: Sequence[tuple[Shape, str, int]],
    storages: Sequence[int],
    stored: Sequence[Stored],
    entered: Sequence[int],
    ends: set[int | None],
) -> Workload:
    """The workload of a record. `made` are the tensors by number (shape, type, storage), `storages` their bytes, `entered`
    and `ends` the numbers of the network's inputs and outputs."""
    last = len(record.steps) - 1
    sources = set(entered)
    weights, buffers = weigh(stored)
    tensors = []
    for number, (shape, dtype, storage) in enumerate(made):
        role = "input" if number in sources else "output" if number in ends else "activation"
        tensors.append(Tensor(number, shape, recorded(dtype), storage, storages[storage], role, False))
    names, calls = name_layers(record.steps)
    layers: list[Layer] = []
    unknown: list[Unknown] = []
    for step, label, call in zip(record.steps, names, calls, strict=True):
        own = tuple({weights[held].storage: weights[held] for held in step.weights}.values())
        given, results = tuple(tensors[n] for n in step.inputs), tuple(tensors[n] for n in step.outputs)
        layers.append(
            Layer(label, step.module, step.module_type, call, step.kind, step.op, step.attributes, given, results, own,
                  step.loops, step.ops)
        )  # fmt: skip
        if step.unknown is not None:
            unknown.append(Unknown(step.unknown[0], label, *step.unknown[1:]))
    lives: dict[int, list[int]] = {tensors[n].storage: [-1, last] for n in entered}
    for index, layer in enumerate(layers):
        for t in (*layer.inputs, *layer.outputs):
            life = lives.setdefault(t.storage, [index, index])
            life[1] = last if t.role == "output" else max(life[1], index)
    return Workload(
        name=name,
        mode="eval",
        inputs=tuple(tensors[n] for n in entered),
        layers=tuple(layers),
        weights=tuple({w.storage: w for w in weights.values()}.values()),
        buffers=buffers,
        lifetimes=tuple(Lifetime(s, storages[s], born, freed) for s, (born, freed) in sorted(lives.items())),
        lifetime_rule="last use",
        coverage=Coverage(record.counted, record.free, tuple(unknown)),
    )
