"""How other tools count, as rules over the layers of a `Workload`: the figure that each would print for this network.

The rules are in `tools`. A tool sees modules by their exact class and functions by the name it has patched or traced; the
record tells these apart as far as its names do. It does not tell `torch.matmul(a, b)` and `torch.bmm(a, b)` from `a @ b`,
`torch.add` from `+`, nor `F.softmax` from `Tensor.softmax`: products and softmax are taken as called by name, sums as
operators. Multi-head attention modules are taken as called without the attention weights (need_weights=False), which is the
fused operation.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

from lamina.cost import tools
from lamina.cost.tools import Counts
from lamina.errors import InputError
from lamina.workload import Layer, Workload


@dataclass(frozen=True, slots=True)
class Printed:
    """What a tool prints. `macs` is its count of multiply-accumulates, whatever it calls them, by kind of layer in `parts`;
    `flops` its FLOPs and `activations` its elements of outputs; None where it prints none."""

    tool: str
    version: str
    parameters: int
    macs: int | None
    flops: int | None
    activations: int | None
    parts: Mapping[str, int]
    note: str


@dataclass(frozen=True, slots=True)
class View:
    """A tool's rules. `layer` counts one layer, `whole` the network; `flops` counts a layer's FLOPs."""

    version: str
    note: str
    layer: Callable[[Workload, Layer], Counts] | None = None
    whole: Callable[[Workload], Counts] | None = None
    flops: Callable[[Workload, Layer], int] | None = None
    parameters: Callable[[Workload], int] = tools.all_parameters
    activations: Callable[[Workload], int] | None = None


VIEWS: dict[str, View] = {
    "torchvision": View(
        "0.29.1",
        "“GFLOPS” of the weights' metadata (`_ops`): multiply-accumulates of every convolution and matrix product, "
        "attention's two included (test/common_extended_utils.py).",
        tools.exact,
    ),
    "timm": View(
        "1.0.31",
        "“GMACs” and “Activations” of the model cards and result tables, by fvcore on timm's networks (benchmark.py, "
        "profile_fvcore): norms and pooling count, fused attention does not. Cards made before timm fused attention have "
        "it.",
        tools.fvcore,
        activations=tools.traced_activations,
    ),
    "fvcore": View(
        "0.1.5.post20221221",
        "FlopCountAnalysis, “flops” that are multiply-accumulates, over a jit trace: convolutions and products, 2 an "
        "element for batch norm in evaluation, 5 for layer and group norm, 1 for adaptive average pooling; fused "
        "attention and recurrent layers are missed (fvcore/nn/flop_count.py, jit_handles.py).",
        tools.fvcore,
        activations=tools.traced_activations,
    ),
    "ptflops": View(
        "0.7.5",
        "get_model_complexity_info, PyTorch back end, a batch of one: hooks of module classes and patched functions. "
        "Biases count; norms 1 or 2 per element; ReLU, GELU and pooling modules twice, by the hook and by the function "
        "it calls; linear layers and convolutions called as functions are missed, and fused attention outside "
        "nn.MultiheadAttention (ptflops/pytorch_ops.py).",
        tools.ptflops,
        parameters=tools.trainable,
    ),
    "thop": View(
        "0.1.1.post2209072238",
        "profile, hooks of module classes alone: 4 per element for affine norms, no bias, no product outside nn.Linear; a "
        "transposed convolution over its output's pixels; parameters of these modules only (thop/profile.py, "
        "vision/calc_func.py).",
        tools.thop,
        parameters=tools.thop_parameters,
    ),
    "torchinfo": View(
        "1.8.0",
        "summary, “mult-adds”: parameters times output places for convolutions, parameters once per sample for all other "
        "layers (a linear layer over tokens counts as one token), nothing without parameters (torchinfo/layer_info.py, "
        "calculate_macs).",
        whole=tools.torchinfo,
        parameters=tools.named_parameters,
    ),
    "calflops": View(
        "0.3.2",
        "calculate_flops, patched functions: MACs of convolutions, linear layers and matmul, not of fused attention, "
        "einsum and recurrent layers; FLOPs are 2 MACs, convolution biases, 2 or 5 per element of norms, 1 of activations,"
        " softmax and pooling (calflops/pytorch_ops.py).",
        tools.calflops_macs,
        flops=tools.calflops_flops,
        parameters=tools.trainable,
    ),
    "keras": View(
        "3",
        "Model.count_params and summary: the moving mean and variance of batch norms are parameters, though not trainable"
        " (keras/src/layers/normalization/batch_normalization.py). Keras prints no count of operations.",
        parameters=lambda w: tools.all_parameters(w) + tools.running_statistics(w),
    ),
}  # fmt: skip


def sees_modules(workload: Workload) -> bool:
    """Whether the record is of torch modules, which the tools count; an ONNX graph has none."""
    return workload.lifetime_rule == "eager"


def view(workload: Workload, tool: str) -> Printed:
    """The figures that `tool`, a name in `VIEWS`, prints for this network and input."""
    if tool not in VIEWS:
        raise InputError(f"no view {tool!r}: there are {', '.join(VIEWS)}")
    if not sees_modules(workload):
        raise InputError(f"{workload.name}: {tool} counts torch modules, and an ONNX graph has none")
    rules = VIEWS[tool]
    parts: Counts = {}
    if rules.whole is not None:
        parts = rules.whole(workload)
    elif rules.layer is not None:
        for layer in workload.layers:
            for key, value in rules.layer(workload, layer).items():
                if value:
                    parts[key] = parts.get(key, 0) + value
    counts = rules.layer is not None or rules.whole is not None
    return Printed(
        tool=tool,
        version=rules.version,
        parameters=rules.parameters(workload),
        macs=sum(parts.values()) if counts else None,
        flops=sum(rules.flops(workload, layer) for layer in workload.layers) if rules.flops else None,
        activations=rules.activations(workload) if rules.activations else None,
        parts=parts,
        note=rules.note,
    )


def document(workload: Workload, tool: str, model: str, shape: Sequence[int]) -> dict[str, Any]:
    """What `tool`, or with "all" every one, prints, and the exact count."""
    figures = [view(workload, name) for name in (VIEWS if tool == "all" else (tool,))]
    return {"model": model, "input": shape, "macs": workload.total().macs, "views": [asdict(figure) for figure in figures]}
