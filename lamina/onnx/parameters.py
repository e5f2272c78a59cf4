"""Which stored tensors are parameters.

What is a parameter. A file does not tell parameters from other constants, so the rule is by use. A stored tensor is a
parameter if it reaches (also through DequantizeLinear, Transpose, Split and other operators on constants alone) a weight,
bias or scale input of a convolution, product, recurrence, norm or embedding; an initializer of more than one element also if
it is added, multiplied or concatenated to an activation (a bias after a product, positions, a class token), and so is one
that nothing uses. The value of a `Constant` node is one only if it is of floating point and feeds the first kind of input.
Hence tables that a module holds as buffers, such as sinusoids, are parameters in its file. Other initializers of more than
one number (running statistics, scales and zero points, fixed means and masks) are buffers. A parameter has the type that it
is stored in, and weights of less than a byte that an operator packs into bytes the shape and type that they have unpacked.

Exporters change parameters. They fold batch norms into convolutions: scale and shift are then one bias. They merge
initializers of equal values, as networks that were never trained have. They write a tied embedding a second time,
transposed, for the product: the two are one `Weight` if the file itself holds the data.
"""

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import numpy as np
from onnx import TensorProto

from lamina.onnx.dtypes import FLOATS, QUANTISED, recorded
from lamina.onnx.file import array
from lamina.onnx.values import Node, packed_bits
from lamina.operators import Shape
from lamina.workload import Part, Weight


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
    unpacked: tuple[Shape, str] | None = None  # shape and type of the values that it packs


_QUANTISED_GEMM: dict[int, Part] = {0: "weight", 3: "weight", 6: "bias"}
_RECURRENT: dict[int, Part] = {1: "weight", 2: "weight", 3: "bias", 7: "weight"}
# A constant of whatever origin that feeds one of these inputs is a parameter.
WEIGHTS: dict[str, dict[int, Part]] = {
    **dict.fromkeys(("Conv", "ConvTranspose", "FusedConv", "NhwcConv", "NhwcFusedConv"), {1: "weight", 2: "bias"}),
    **dict.fromkeys(("Attention.com.microsoft", "QAttention"), {1: "weight", 2: "bias"}),
    **dict.fromkeys(("MatMul", "FusedMatMul", "TransposeMatMul", "MatMulInteger"), {0: "weight", 1: "weight"}),
    **dict.fromkeys(("Gemm", "FusedGemm"), {0: "weight", 1: "weight", 2: "bias"}),
    **dict.fromkeys(("RNN", "LSTM", "GRU"), _RECURRENT),
    **dict.fromkeys(("BatchNormalization", "InstanceNormalization", "LayerNormalization"), {1: "norm", 2: "norm"}),
    **dict.fromkeys(("GroupNormalization", "GroupNorm"), {1: "norm", 2: "norm"}),
    **dict.fromkeys(("RMSNormalization", "SimplifiedLayerNormalization"), {1: "norm"}),
    **dict.fromkeys(("BiasGelu", "FastGelu", "BiasSplitGelu", "BiasSoftmax"), {1: "bias"}),
    **dict.fromkeys(("PRelu", "ConvInteger"), {1: "weight"}),
    **dict.fromkeys(("Gather", "GatherBlockQuantized"), {0: "weight"}),
    "CausalConvWithState": {1: "weight", 2: "bias"},
    "DeformConv": {1: "weight", 3: "bias"},
    "QLinearConv": {3: "weight", 8: "bias"},
    "QLinearMatMul": {0: "weight", 3: "weight"},
    "QGemm": _QUANTISED_GEMM,
    "DynamicQuantizeMatMul": {1: "weight", 4: "bias"},
    "MatMulIntegerToFloat": {0: "weight", 1: "weight", 6: "bias"},
    "DynamicQuantizeLSTM": _RECURRENT,
    "MatMulNBits": {1: "weight", 5: "bias"},
    "MultiHeadAttention": {3: "bias"},
    "SkipLayerNormalization": {2: "norm", 3: "norm", 4: "bias"},
    "SkipSimplifiedLayerNormalization": {2: "norm", 3: "bias"},
    "MoE": {2: "weight", 3: "bias", 4: "weight", 5: "bias", 6: "weight", 7: "bias"},
    "QMoE": {2: "weight", 4: "bias", 5: "weight", 7: "bias", 8: "weight", 10: "bias"},
    "EmbedLayerNormalization": {2: "weight", 3: "weight", 4: "weight", 5: "norm", 6: "norm"},
}
# An initializer of more than one element that feeds one of these beside an activation is a parameter too: a bias after a
# product, a position embedding, a class token. The constants of other operators (a mean to subtract, a mask) are not.
BESIDE = {"Add", "Mul", "Sum", "Concat", "QLinearAdd", "QLinearMul", "QLinearConcat"}


def weight_inputs(n: Node) -> dict[int, Part]:
    if n.op == "Einsum":
        return dict.fromkeys(range(len(n.inputs)), "weight")
    return WEIGHTS.get(f"{n.op}.{n.domain}") or ({} if n.op == "Attention" else WEIGHTS.get(n.op, {}))


def parameters(node: Node) -> list[Stored]:
    """The stored tensors among a node's inputs that are parameters."""
    roles, found = weight_inputs(node), dict[Stored, None]()
    for i, value in enumerate(node.inputs):
        if value is None or not value.constant:
            continue
        for held in value.sources:
            part = roles.get(i)
            number = held.dtype in FLOATS or held.dtype in QUANTISED or (part == "bias" and held.dtype == "int32")
            if node.op == "Gather" and len(held.shape) < 2:
                continue
            if part is None and node.op in BESIDE and math.prod(held.shape) > 1 and not held.constant_node:
                part = part_of(held, node.op)
            if part is None or not number or (held.constant_node and held.dtype not in FLOATS):
                continue
            held.part = held.part or part
            held.table = held.table or node.op == "Gather"
            held.unpacked = held.unpacked or _unpacked(node, i)
            found[held] = None
    return list(found)


def _unpacked(node: Node, place: int) -> tuple[Shape, str] | None:
    """Shape and type of packed weights, which are stored as bytes."""
    if node.op not in ("MatMulNBits", "GatherBlockQuantized", "QMoE") or node.value(place).dtype != "uint8":
        return None
    bits = packed_bits(node)
    if weight_inputs(node).get(place) != "weight" or bits not in (2, 4):
        return None
    if node.op == "MatMulNBits":
        return (node.get("N", 0), node.get("K", 0)), f"uint{bits}"
    shape = node.shape(place)
    return (*shape[:-1], shape[-1] * 8 // bits), f"uint{bits}"


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
            shape, dtype = held.unpacked or (held.shape, recorded(held.dtype))
            weights[held] = Weight(names[held], shape, dtype, len(weights), held.part, held.dtype in FLOATS)
    weights.update({held: weights[held.tied] for held in stored if held.tied is not None})
    return weights, buffers
