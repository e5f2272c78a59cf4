"""A record that is complete becomes the `Workload`."""

from collections.abc import Sequence

from lamina.onnx.dtypes import recorded
from lamina.onnx.names import name_layers
from lamina.onnx.parameters import weigh
from lamina.onnx.record import Ledger
from lamina.workload import Coverage, Layer, Lifetime, Tensor, Unknown, Workload


def assemble(name: str, ledger: Ledger, entered: Sequence[int], ends: set[int | None]) -> Workload:
    """`entered` and `ends` are the numbers of the network's inputs and outputs."""
    weights, buffers = weigh(list(ledger.stored.values()))
    tensors = _tensors(ledger, set(entered), ends)
    record = ledger.record
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
    return Workload(
        name=name,
        mode="eval",
        inputs=tuple(tensors[n] for n in entered),
        layers=tuple(layers),
        weights=tuple({w.storage: w for w in weights.values()}.values()),
        buffers=buffers,
        lifetimes=_lifetimes(layers, [tensors[n] for n in entered], ledger.storages),
        lifetime_rule="last use",
        coverage=Coverage(record.counted, record.free, tuple(unknown)),
        assumptions=tuple(ledger.assumptions),
    )


def _tensors(ledger: Ledger, entered: set[int], ends: set[int | None]) -> list[Tensor]:
    made = []
    for number, (shape, dtype, storage) in enumerate(ledger.tensors):
        role = "input" if number in entered else "output" if number in ends else "activation"
        made.append(Tensor(number, shape, recorded(dtype), storage, ledger.storages[storage], role, False))
    return made


def _lifetimes(layers: Sequence[Layer], entered: Sequence[Tensor], storages: Sequence[int]) -> tuple[Lifetime, ...]:
    """From the first layer that touches a storage to the last; the network's inputs and outputs are held to the end."""
    last = len(layers) - 1
    lives: dict[int, list[int]] = {t.storage: [-1, last] for t in entered}
    for index, layer in enumerate(layers):
        for t in (*layer.inputs, *layer.outputs):
            life = lives.setdefault(t.storage, [index, index])
            life[1] = last if t.role == "output" else max(life[1], index)
    return tuple(Lifetime(s, storages[s], born, freed) for s, (born, freed) in sorted(lives.items()))
