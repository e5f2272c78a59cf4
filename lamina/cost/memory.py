"""What a network needs besides its arithmetic: bytes of weights, gradients, optimizer states and activations, and the
multiply-accumulates of the backward pass. Pure functions of a `Workload`; standard library only.
"""

from dataclasses import dataclass

from lamina.errors import InputError
from lamina.workload import Layer, Workload

# Copies of a parameter that an optimizer keeps, and bytes more for each tensor (torch.optim: Adam's step counter
# is a tensor of one fp32 number; SGD keeps a velocity only if it has momentum, Polyak 1964; Kingma & Ba 2015, algorithm 1:
# first and second moment; AdamW, Loshchilov & Hutter 2019, keeps what Adam does).
OPTIMIZERS: dict[str, tuple[int, int]] = {"sgd": (0, 0), "momentum": (1, 0), "adam": (2, 4), "adamw": (2, 4)}
HALF = ("float16", "bfloat16")
# Arithmetic that a compiler does element by element in the kernel that made its operand.
FUSABLE = ("elementwise", "activation")


@dataclass(frozen=True, slots=True)
class Training:
    """Bytes of one training step. `states` are the optimizer's, `master` the fp32 copies of 16-bit weights, `saved` the
    activations that wait for the backward pass (the input included where it is one of them), `temporaries` what the
    optimizer's step has alive at once beside all of these; it comes when the activations are gone."""

    weights: int
    gradients: int
    states: int
    master: int
    saved: int
    temporaries: int = 0

    @property
    def total(self) -> int:
        """Weights, states, every gradient, and every saved activation or the optimizer's temporaries, if those are more. Eager
        execution frees activations while gradients come, if the old ones were set to None; then the step's peak lies below
        this sum, and never below it by more than the smaller of gradients and saved activations. Buffers and workspaces are
        not in it."""
        return self.weights + self.gradients + self.states + self.master + max(self.saved, self.temporaries)


def training(workload: Workload, optimizer: str = "adamw", master: bool = False) -> Training:
    """The memory of training with `optimizer`: "sgd", "momentum", "adam" or "adamw". `master` is mixed precision with
    16-bit weights and gradients, and fp32 copies and states (Micikevicius et al. 2018, section 3.1; 2 + 2 + 12 bytes per
    parameter with Adam, Rajbhandari et al. 2020, section 3.1); otherwise states have the weights' own type, as torch.optim
    does it. A gradient has its weight's type. Trace in training mode: dropout's masks and the statistics of batch norm
    are saved only there."""
    if optimizer not in OPTIMIZERS:
        raise InputError(f"no optimizer {optimizer!r}: there are {', '.join(OPTIMIZERS)}")
    states, beside = OPTIMIZERS[optimizer]
    learned = [w for w in workload.weights if w.trainable]
    halves = [w for w in learned if master and w.dtype in HALF]
    if master and not halves:
        raise InputError("fp32 master weights are for 16-bit weights: give --dtype bf16 or fp16 too")
    elements = sum(w.numel for w in halves)
    return Training(
        weights=sum(w.bytes for w in workload.weights),
        gradients=sum(w.bytes for w in learned),
        states=sum(states * max(w.bytes, 4 * w.numel if master else 0) + beside for w in learned),
        master=4 * elements,
        saved=workload.saved_bytes,
        temporaries=_temporaries(workload, [4 * w.numel if master else w.bytes for w in learned], optimizer),
    )


def _temporaries(workload: Workload, sizes: list[int], optimizer: str) -> int:
    """What torch.optim allocates for a step, by the `sizes` of the weights as it sees them: Adam's denominator, √v / c + ε.
    On a CPU (one weight after the other) the root and the quotient of the largest, on a GPU (all together) the roots of
    all. SGD, with momentum or without, updates in place, as fused optimizers do."""
    if OPTIMIZERS[optimizer][0] < 2 or not sizes:
        return 0
    return 2 * max(sizes) if workload.device == "cpu" else sum(sizes)


def weight_bytes(workload: Workload) -> int:
    """Bytes of all parameters, each once; buffers are not weights."""
    return sum(w.bytes for w in workload.weights)


def inference_bytes(workload: Workload) -> int:
    """Weights and the peak of live activations in eager order, the network's input included."""
    return weight_bytes(workload) + workload.peak_activation_bytes


def fused_peak_bytes(workload: Workload) -> int:
    """The peak of live activations if every elementwise operation, activation and folded batch norm runs inside the
    kernel that made its latest operand, and writes over an operand of its size that nobody needs any more. Nothing in
    between is stored; views move nothing; no workspace. The layers' order is kept, so it is a bound for fusion, not for
    reordering or recomputation; it is never more than the eager peak."""
    anchor, stored, born, used = _groups(workload)
    last = len(workload.layers) - 1
    bytes_of = {life.storage: life.bytes for life in workload.lifetimes if life.freed >= life.born}
    held = {t.storage for t in workload.inputs}
    alive_from: dict[int, int] = {}
    alive_to: dict[int, int] = {}
    for storage in stored:
        alive_from[storage] = -1 if storage in held else born.get(storage, -1)
        alive_to[storage] = last if storage in held else used.get(storage, alive_from[storage])
    change = [0] * (last + 3)
    for storage, start in alive_from.items():
        change[start + 1] += bytes_of.get(storage, 0)
        change[alive_to[storage] + 2] -= bytes_of.get(storage, 0)
    overwritten = _overwritten(workload, anchor, alive_from, alive_to, bytes_of, held)
    alive, peak = 0, 0
    for step in range(last + 2):
        alive += change[step]
        peak = max(peak, alive - overwritten.get(step - 1, 0))
    return min(peak, workload.peak_activation_bytes)


def _groups(workload: Workload) -> tuple[list[int], set[int], dict[int, int], dict[int, int]]:
    """For each layer the layer in whose kernel it runs; the storages that are written to memory; the kernel that writes
    each, and the last one that reads it."""
    writer: dict[int, int] = {}  # storage: the kernel that last wrote it
    anchor: list[int] = []
    readers: dict[int, list[int]] = {}
    born: dict[int, int] = {}
    for index, layer in enumerate(workload.layers):
        kernel = index
        if layer.kind == "view":
            kernel = max((writer.get(t.storage, -1) for t in layer.inputs), default=index)
            kernel = index if kernel < 0 else kernel
        elif _fuses(layer, workload):
            latest = max((writer.get(t.storage, -1) for t in layer.inputs), default=-1)
            kernel = latest if latest >= 0 else index
        anchor.append(kernel)
        if layer.kind != "view":
            for t in layer.inputs:
                readers.setdefault(t.storage, []).append(kernel)
        for t in layer.outputs:
            writer[t.storage] = kernel
            born.setdefault(t.storage, kernel)
    results = {t.storage for layer in workload.layers for t in layer.outputs if t.role == "output"}
    stored = {t.storage for t in workload.inputs}
    used = {storage: max(kernels) for storage, kernels in readers.items()}
    for storage, kernel in born.items():
        if storage in results:
            used[storage] = len(workload.layers) - 1
        if storage in results or any(k != kernel for k in readers.get(storage, ())) or storage not in readers:
            stored.add(storage)
    return anchor, stored, born, used


def _fuses(layer: Layer, workload: Workload) -> bool:
    folded = layer.op == "batch_norm" and workload.mode == "eval"
    if layer.kind not in FUSABLE and not folded:
        return False
    written = sum(t.numel for t in layer.outputs)
    return all(t.numel <= written for t in layer.inputs)  # a reduction is not elementwise


def _overwritten(workload: Workload, anchor, alive_from, alive_to, bytes_of, held) -> dict[int, int]:
    """For each kernel the bytes of operands that its own result takes the place of: read element by element in the
    kernel's fused part alone, not needed after it, and as large as what the kernel stores."""
    members: dict[int, list[int]] = {}
    for index, kernel in enumerate(anchor):
        members.setdefault(kernel, []).append(index)
    found: dict[int, int] = {}
    for kernel, inside in members.items():
        layers = [workload.layers[i] for i in inside if workload.layers[i].kind != "view"]
        made = {t.storage for layer in layers for t in layer.outputs}
        written = [bytes_of.get(s, 0) for s in made if alive_from.get(s) == kernel]
        first = [layer for layer in layers if not _fuses(layer, workload)]
        whole = {t.storage for layer in first for t in layer.inputs}
        dying = {
            t.storage
            for layer in layers
            for t in layer.inputs
            if t.storage not in made | whole | held and t.storage in alive_to and alive_to[t.storage] == kernel
        }
        for storage in sorted(dying, key=lambda s: -bytes_of.get(s, 0)):
            if bytes_of.get(storage, 0) in written:
                written.remove(bytes_of[storage])
                found[kernel] = found.get(kernel, 0) + bytes_of[storage]
    return found
