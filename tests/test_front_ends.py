"""One cost per operation: torch's functions, the ATen operators that they run, and ONNX's nodes cost the same, and what an
operation costs is what its definition costs, written out in simpler operations."""

from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from unittest import mock

import numpy as np
import pytest
import torch
from torch import nn
from torch.nn import functional as F

from lamina import operators
from lamina.tracing import rules
from lamina.tracing.tracer import trace
from lamina.workload import Workload

onnx = pytest.importorskip("onnx", reason="needs lamina[onnx]")

from onnx import TensorProto, helper, numpy_helper  # noqa: E402

from lamina.onnx.graph import read  # noqa: E402

IMAGE = (2, 8, 6, 6)
SAME = object()  # the ATen operators beneath the function
Cost = tuple[int, dict[str, int]]


class Calls(nn.Module):
    """A module of one function, with weights of ones."""

    def __init__(self, function: Callable[..., Any], weights: dict[str, tuple[int, ...]]):
        super().__init__()
        self.function = function
        for name, shape in weights.items():
            setattr(self, name, nn.Parameter(torch.ones(shape)))

    def forward(self, *inputs: torch.Tensor) -> Any:
        return self.function(*inputs, *self._parameters.values())


@dataclass(frozen=True)
class Case:
    """An operation as a function of its inputs and weights; as ATen has it, if torch does not go there by itself; and as
    the settings of an ONNX node, of the type `op`."""

    name: str
    function: Callable[..., Any] | None
    op: str = ""
    settings: dict[str, Any] = field(default_factory=dict)
    inputs: tuple[tuple[int, ...], ...] = (IMAGE,)
    weights: dict[str, tuple[int, ...]] = field(default_factory=dict)
    constants: tuple[Any, ...] = ()  # that follow the weights in ONNX; None is left out
    aten: Any = SAME
    one: bool = True  # operation in torch too, so that its kind is compared


def total(work: Workload) -> tuple[Cost, set[str]]:
    """MACs and other arithmetic, and the kinds of the layers that compute."""
    assert not work.coverage.unknown
    ops: Counter[str] = Counter()
    for layer in work.layers:
        ops.update(layer.ops)
    return (work.macs, {k: n for k, n in sorted(ops.items()) if n}), {x.kind for x in work.layers} - {"view", "copy"}


def by_torch(function: Callable[..., Any], case: Case, beneath: bool) -> tuple[Cost, set[str]]:
    inputs = [torch.empty(shape, device="meta") for shape in case.inputs]
    with mock.patch.dict(rules.RULES, clear=beneath):
        return total(trace(Calls(function, case.weights).eval(), *inputs))


def by_onnx(case: Case, folder: Path) -> tuple[Cost, set[str]]:
    names = [f"x{i}" for i in range(len(case.inputs))]
    stored = [numpy_helper.from_array(np.ones(shape, np.float32), name) for name, shape in case.weights.items()]
    given = [*names, *case.weights]
    for i, constant in enumerate(case.constants):
        given.append("" if constant is None else f"c{i}")
        stored += [] if constant is None else [numpy_helper.from_array(np.asarray(constant), f"c{i}")]
    domain = "com.microsoft" if case.op in ("QuickGelu", "SkipLayerNormalization") else ""
    settings = dict(case.settings)
    outputs = [f"y{i}" for i in range(settings.pop("outputs", 1))]
    node = helper.make_node(case.op, given, outputs, domain=domain, **settings)
    inputs = [helper.make_tensor_value_info(n, TensorProto.FLOAT, s) for n, s in zip(names, case.inputs, strict=True)]
    ends = [helper.make_tensor_value_info(name, TensorProto.FLOAT, None) for name in outputs]
    graph = helper.make_graph([node], "one", inputs, ends, stored)
    domains = [helper.make_opsetid("", 26 if case.op == "CumProd" else 24), helper.make_opsetid("com.microsoft", 1)]
    (folder / "one.onnx").write_bytes(helper.make_model(graph, opset_imports=domains).SerializeToString())
    return total(read(folder / "one.onnx"))


def axis(n: int) -> tuple[Any, ...]:
    return (np.array([n], np.int64),)


ACTIVATIONS = [
    Case("relu", F.relu, "Relu"), Case("leaky_relu", F.leaky_relu, "LeakyRelu"), Case("sigmoid", torch.sigmoid, "Sigmoid"),
    Case("relu6", F.relu6, "Clip", constants=(np.float32(0), np.float32(6)), one=False),
    Case("hardtanh", F.hardtanh, "Clip", constants=(np.float32(-1), np.float32(1)), one=False),
    Case("prelu", lambda x, w: F.prelu(x, w.flatten()), "PRelu", weights={"w": (8, 1, 1)}), Case("tanh", torch.tanh, "Tanh"),
    Case("silu", F.silu, "Swish"), Case("gelu", F.gelu, "Gelu"), Case("elu", F.elu, "Elu"), Case("mish", F.mish, "Mish"),
    Case("gelu by tanh", lambda x: F.gelu(x, approximate="tanh"), "Gelu", {"approximate": "tanh"}),
    Case("selu", F.selu, "Selu"), Case("celu", F.celu, "Celu"), Case("softplus", F.softplus, "Softplus"),
    Case("hardsigmoid", F.hardsigmoid, "HardSigmoid"), Case("hardswish", F.hardswish, "HardSwish"),
    Case("softsign", F.softsign, "Softsign", one=False), Case("softshrink", F.softshrink, "Shrink"),
    Case("threshold", lambda x: F.threshold(x, 1.0, 0.0), "ThresholdedRelu"), Case("hardshrink", F.hardshrink, "Shrink"),
    Case("quick gelu", lambda x: x * torch.sigmoid(1.702 * x), "QuickGelu", one=False),
    Case("swish", lambda x: x * torch.sigmoid(1.702 * x), "Swish", {"alpha": 1.702}, one=False),
]  # fmt: skip
UNARY = [
    Case(name.lower(), getattr(torch, name.lower()), name)
    for name in (
        "Exp", "Log", "Sqrt", "Reciprocal", "Neg", "Abs", "Erf", "Sin", "Cos", "Tan", "Asin", "Acos", "Atan", "Sinh", "Cosh",
        "Asinh", "Acosh", "Atanh", "Floor", "Ceil", "Round", "Sign", "IsNaN", "IsInf",
    )
]  # fmt: skip
TWO = (IMAGE, (8, 1, 6))
BINARY = [
    Case(op, function, op, {"fmod": 1} if op == "Mod" else {}, TWO)
    for function, op in (
        (torch.add, "Add"), (torch.sub, "Sub"), (torch.mul, "Mul"), (torch.div, "Div"), (torch.pow, "Pow"),
        (torch.maximum, "Max"), (torch.minimum, "Min"), (torch.eq, "Equal"), (torch.gt, "Greater"), (torch.lt, "Less"),
        (torch.ge, "GreaterOrEqual"), (torch.le, "LessOrEqual"), (torch.fmod, "Mod"),
    )
]  # fmt: skip
ELEMENTWISE = [
    *(Case(f"power {p}", lambda x, p=p: x**p, "Pow", constants=(np.float32(p),)) for p in (2, 3, 0.5, -1, 2.5)),
    Case("square", torch.square, "Pow", constants=(np.float32(2),)),
    Case("clamp", lambda x: x.clamp(-1, 1), "Clip", constants=(np.float32(-1), np.float32(1))),
    Case("clamp below", lambda x: x.clamp(-1), "Clip", constants=(np.float32(-1),)),
    Case("tril", torch.tril, "Trilu", {"upper": 0}), Case("bernoulli", torch.bernoulli, "Bernoulli"),
    Case("sum of three", lambda x, y, z: x + y + z, "Sum", inputs=(IMAGE,) * 3),
    Case("dropout", lambda x: F.dropout(x, 0.5, True), "Dropout", constants=(np.float32(0.5), np.bool_(True)),
         aten=lambda x: torch.native_dropout(x, 0.5, True)[0]),
    Case("cumsum", lambda x: x.cumsum(1), "CumSum", constants=(np.int64(1),)),
    Case("cumprod", lambda x: x.cumprod(1), "CumProd", constants=(np.int64(1),)),
    Case("scatter add", lambda x, y: x.scatter_add(1, torch.zeros(2, 3, 6, 6, dtype=torch.int64), y), one=False,
         inputs=(IMAGE, (2, 3, 6, 6))),
]  # fmt: skip
REDUCED = {"settings": {"keepdims": 0}, "constants": axis(1)}
REDUCTIONS = [
    Case("sum", lambda x: x.sum(1), "ReduceSum", **REDUCED), Case("mean", lambda x: x.mean(1), "ReduceMean", **REDUCED),
    Case("amax", lambda x: x.amax(1), "ReduceMax", **REDUCED), Case("amin", lambda x: x.amin(1), "ReduceMin", **REDUCED),
    Case("prod", lambda x: x.prod(1), "ReduceProd", **REDUCED),
    Case("mean of all", torch.mean, "ReduceMean", {"keepdims": 0}),
    Case("L1", lambda x: torch.linalg.vector_norm(x, 1, 1), "ReduceL1", **REDUCED),
    Case("L2", lambda x: torch.linalg.vector_norm(x, 2, 1), "ReduceL2", **REDUCED),
    Case("L2 by Tensor.norm", lambda x: x.norm(2, 1), "ReduceL2", **REDUCED),
    Case("logsumexp", lambda x: torch.logsumexp(x, 1), "ReduceLogSumExp", **REDUCED),
    Case("log of a sum", lambda x: x.sum(1).log(), "ReduceLogSum", **REDUCED, one=False),
    Case("sum of squares", lambda x: x.square().sum(1), "ReduceSumSquare", **REDUCED, one=False),
    Case("argmax", lambda x: x.argmax(-1), "ArgMax", {"axis": -1}),
    Case("argmin", lambda x: x.argmin(1), "ArgMin", {"axis": 1}),
    Case("topk", lambda x: x.topk(2, -1)[0], "TopK", {"axis": -1, "outputs": 2}, constants=(np.array([2]),)),
]  # fmt: skip
AFFINE = {"w": (8,), "b": (8,)}
NORMS = [
    Case("batch norm", lambda x, w, b, m, v: F.batch_norm(x, m, v, w, b), "BatchNormalization",
         weights={**AFFINE, "m": (8,), "v": (8,)}),
    Case("batch norm in training", lambda x, w, b, m, v: F.batch_norm(x, None, None, w, b, True), "BatchNormalization",
         {"training_mode": 1, "outputs": 3}, weights={**AFFINE, "m": (8,), "v": (8,)}),
    Case("instance norm", lambda x, w, b: F.instance_norm(x, None, None, w, b), "InstanceNormalization", weights=AFFINE),
    Case("layer norm", lambda x, w, b: F.layer_norm(x, (6,), w, b), "LayerNormalization", weights={"w": (6,), "b": (6,)}),
    Case("layer norm of two axes", lambda x, w, b: F.layer_norm(x, (6, 6), w, b), "LayerNormalization", {"axis": 2},
         weights={"w": (6, 6), "b": (6, 6)}),
    Case("layer norm without shift", lambda x, w: F.layer_norm(x, (6,), w), "LayerNormalization", weights={"w": (6,)}),
    Case("layer norm without scale", lambda x: F.layer_norm(x, (6,))),
    Case("group norm", lambda x, w, b: F.group_norm(x, 4, w, b), "GroupNormalization", {"num_groups": 4}, weights=AFFINE),
    Case("group norm without scale", lambda x: F.group_norm(x, 4)),
    Case("RMS norm", lambda x, w: F.rms_norm(x, (6,), w), "RMSNormalization", weights={"w": (6,)}),
    Case("RMS norm without scale", lambda x: F.rms_norm(x, (6,))),
    Case("response norm", lambda x: F.local_response_norm(x, 5), "LRN", {"size": 5}, one=False),
    Case("L2 normalised", lambda x: x / x.norm(2, 1, keepdim=True), "LpNormalization", {"axis": 1, "p": 2}, one=False),
    Case("L1 normalised", lambda x: x / x.norm(1, 1, keepdim=True), "LpNormalization", {"axis": 1, "p": 1}, one=False),
    Case("softmax", lambda x: F.softmax(x, 1), "Softmax", {"axis": 1}),
    Case("log softmax", lambda x: F.log_softmax(x, 1), "LogSoftmax", {"axis": 1}),
    Case("add and norm", lambda x, y, w, b: F.layer_norm(x + y, (6,), w, b), "SkipLayerNormalization", one=False,
         inputs=((2, 5, 6),) * 2, weights={"w": (6,), "b": (6,)}),
]  # fmt: skip
WINDOW = {"kernel_shape": [3, 3], "strides": [2, 2], "pads": [1, 1, 1, 1]}
POOLS = [
    Case("max pool", lambda x: F.max_pool2d(x, 3, 2, 1), "MaxPool", WINDOW),
    Case("max pool 1-D", lambda x: F.max_pool1d(x, 3), "MaxPool", {"kernel_shape": [3], "strides": [3]}, ((2, 8, 12),)),
    Case("average pool", lambda x: F.avg_pool2d(x, 3, 2, 1), "AveragePool", WINDOW | {"count_include_pad": 1}),
    Case("average pool 1-D", lambda x: F.avg_pool1d(x, 3), "AveragePool", {"kernel_shape": [3], "strides": [3]}, ((2, 8, 12),)),
    Case("average pool 3-D", lambda x: F.avg_pool3d(x, 2), "AveragePool", {"kernel_shape": [2] * 3, "strides": [2] * 3},
         ((2, 3, 4, 4, 4),)),
    Case("sum pool", lambda x: F.avg_pool2d(x, 3, divisor_override=1)),
    Case("global average pool", lambda x: F.adaptive_avg_pool2d(x, 1), "GlobalAveragePool", one=False),
    Case("mean of an image", lambda x: x.mean((2, 3), keepdim=True), "GlobalAveragePool", one=False),
    Case("global max pool", lambda x: F.adaptive_max_pool2d(x, 1), "GlobalMaxPool"),
    Case("adaptive average pool", lambda x: F.adaptive_avg_pool2d(x, 4)),
    Case("adaptive average pool 1-D", lambda x: F.adaptive_avg_pool1d(x, 5), inputs=((2, 8, 12),)),
    Case("adaptive average pool 3-D", lambda x: F.adaptive_avg_pool3d(x, 3), inputs=((2, 3, 4, 4, 4),)),
    *(
        Case(f"resize, {torch_mode}", lambda x, m=torch_mode: F.interpolate(x, scale_factor=2, mode=m), "Resize",
             {"mode": mode}, constants=(None, np.array([1, 1, 2, 2], np.float32)))
        for torch_mode, mode in (("nearest", "nearest"), ("bilinear", "linear"), ("bicubic", "cubic"))
    ),
    *(
        Case(f"grid sample, {torch_mode}", lambda x, g, m=torch_mode: F.grid_sample(x, g, m, align_corners=False), "GridSample",
             {"mode": mode}, (IMAGE, (2, 5, 5, 2)))
        for torch_mode, mode in (("nearest", "nearest"), ("bilinear", "linear"), ("bicubic", "cubic"))
    ),
    Case("affine grid", lambda t: F.affine_grid(t, [2, 3, 4, 4], align_corners=False), "AffineGrid", inputs=((2, 2, 3),),
         constants=(np.array([2, 3, 4, 4]),)),
    Case("affine grid 3-D", lambda t: F.affine_grid(t, [2, 3, 4, 4, 4], align_corners=False), "AffineGrid",
         inputs=((2, 3, 4),), constants=(np.array([2, 3, 4, 4, 4]),)),
]  # fmt: skip
HEADS = ((2, 4, 6, 8), (2, 4, 7, 8), (2, 4, 7, 8))
PRODUCTS = [
    Case("convolution", lambda x, w, b: F.conv2d(x, w, b, padding=1), "Conv", {"pads": [1] * 4},
         weights={"w": (4, 8, 3, 3), "b": (4,)}),
    Case("transposed convolution", lambda x, w, b: F.conv_transpose2d(x, w, b, 2, 1), "ConvTranspose",
         {"strides": [2, 2], "pads": [1] * 4}, weights={"w": (8, 4, 3, 3), "b": (4,)}),
    Case("linear", F.linear, "Gemm", {"transB": 1}, ((4, 6),), {"w": (5, 6), "b": (5,)}),
    Case("matrix product", torch.matmul, "MatMul", inputs=((2, 3, 4, 5), (2, 3, 5, 6))),
    Case("einsum", lambda x, y: torch.einsum("bik,bkj->bij", x, y), "Einsum", {"equation": "bik,bkj->bij"},
         ((2, 3, 4), (2, 4, 5))),
    Case("attention", F.scaled_dot_product_attention, "Attention", inputs=HEADS,
         aten=lambda q, k, v: torch.ops.aten._scaled_dot_product_flash_attention_for_cpu(q, k, v)[0]),
    Case("masked attention", F.scaled_dot_product_attention, "Attention", inputs=(*HEADS, (6, 7)),
         aten=lambda q, k, v, m: torch.ops.aten._scaled_dot_product_flash_attention_for_cpu(q, k, v, attn_mask=m)[0]),
]  # fmt: skip
CASES = [*ACTIVATIONS, *UNARY, *BINARY, *ELEMENTWISE, *REDUCTIONS, *NORMS, *POOLS, *PRODUCTS]


@pytest.mark.parametrize("case", CASES, ids=lambda case: case.name)
def test_front_ends_agree(case: Case, tmp_path: Path) -> None:
    assert case.function is not None
    cost, kinds = by_torch(case.function, case, False)
    if case.aten is not None:
        other, beneath = by_torch(case.function if case.aten is SAME else case.aten, case, case.aten is SAME)
        assert other == cost and (beneath == kinds or not case.one)
    if case.op:
        other, node = by_onnx(case, tmp_path)
        assert other == cost and (node == kinds or not case.one)


@pytest.mark.parametrize("biased", [True, False])
@pytest.mark.parametrize("name", ["rnn_tanh", "rnn_relu", "gru", "lstm"])
def test_recurrences_agree(name: str, biased: bool, tmp_path: Path) -> None:
    """As a whole in torch, as a cell step by step, and in ONNX. ATen takes a GRU's sum as n + z (h - n), one product less."""
    gates, op = operators.GATES[name], name.split("_")[0].upper()
    kind: Any = {"GRU": nn.GRU, "LSTM": nn.LSTM}.get(op, nn.RNN)
    settings = {"nonlinearity": name.split("_")[1]} if "_" in name else {}
    net = kind(6, 5, bias=biased, **settings).eval()
    x = torch.empty(7, 3, 6, device="meta")
    cost = total(trace(net, x))[0]
    if name != "gru":
        with mock.patch.dict(rules.RULES, clear=True):
            assert total(trace(net, x))[0] == cost
    cell: Any = {"GRU": nn.GRUCell, "LSTM": nn.LSTMCell}.get(op, nn.RNNCell)(6, 5, bias=biased, **settings)
    macs, ops = total(trace(cell, torch.empty(3, 6, device="meta")))[0]
    assert (7 * macs, {k: 7 * n for k, n in ops.items()}) == cost
    weights = {"w": (1, gates * 5, 6), "r": (1, gates * 5, 5)} | ({"b": (1, 2 * gates * 5)} if biased else {})
    attributes = {"hidden_size": 5} | ({"activations": [name.split("_")[1].title()]} if settings else {})
    case = Case(name, None, op, attributes, ((7, 3, 6),), weights)
    assert by_onnx(case, tmp_path)[0] == cost


def attend(q: torch.Tensor, k: torch.Tensor, v: torch.Tensor) -> torch.Tensor:
    scores = (q * 0.25) @ k.transpose(-1, -2)
    weights = torch.exp(scores - scores.amax(-1, keepdim=True))
    return (weights / weights.sum(-1, keepdim=True)) @ v


def normalised(x: torch.Tensor, w: torch.Tensor, b: torch.Tensor) -> torch.Tensor:
    centred = x - x.mean(-1, keepdim=True)
    return centred * (centred.square().mean(-1, keepdim=True) + 1e-5).rsqrt() * w + b


def lstm(x: torch.Tensor, h: torch.Tensor, c: torch.Tensor, w: torch.Tensor, r: torch.Tensor) -> torch.Tensor:
    i, f, g, o = (F.linear(x, w) + F.linear(h, r)).chunk(4, -1)
    c = torch.sigmoid(f) * c + torch.sigmoid(i) * torch.tanh(g)
    return torch.sigmoid(o) * torch.tanh(c)


def gru(x: torch.Tensor, h: torch.Tensor, w: torch.Tensor, r: torch.Tensor) -> torch.Tensor:
    (a, b, c), (d, e, f) = F.linear(x, w).chunk(3, -1), F.linear(h, r).chunk(3, -1)
    reset, update = torch.sigmoid(a + d), torch.sigmoid(b + e)
    return (1 - update) * torch.tanh(c + reset * f) + update * h


DEFINITIONS: list[tuple[str, Callable[..., Any], Callable[..., Any], Case]] = [
    (name, whole, written, Case(name, None, inputs=inputs, weights=weights))
    for name, whole, written, inputs, weights in (
        ("silu", F.silu, lambda x: x * torch.sigmoid(x), (IMAGE,), {}),
        ("mish", F.mish, lambda x: x * torch.tanh(F.softplus(x)), (IMAGE,), {}),
        ("selu", F.selu, lambda x: 1.0507 * F.elu(x), (IMAGE,), {}),
        ("celu", F.celu, lambda x: F.elu(x / 1.3), (IMAGE,), {}),
        ("glu", lambda x: F.glu(x, 1), lambda x: x[:, :4] * torch.sigmoid(x[:, 4:]), (IMAGE,), {}),
        ("hardswish", F.hardswish, lambda x: x * F.hardsigmoid(x), (IMAGE,), {}),
        ("rsqrt", torch.rsqrt, lambda x: 1 / x.sqrt(), (IMAGE,), {}),
        ("L2", lambda x: x.norm(2, -1), lambda x: (x * x).sum(-1).sqrt(), (IMAGE,), {}),
        ("variance", lambda x: x.var(-1), lambda x: (x - x.mean(-1, keepdim=True)).square().mean(-1), (IMAGE,), {}),
        ("layer norm", lambda x, w, b: F.layer_norm(x, (6,), w, b), normalised, (IMAGE,), {"w": (6,), "b": (6,)}),
        ("RMS norm", lambda x, w: F.rms_norm(x, (6,), w), lambda x, w: x * (x.square().mean(-1, keepdim=True) + 1).rsqrt() * w,
         (IMAGE,), {"w": (6,)}),
        ("attention", F.scaled_dot_product_attention, attend, HEADS, {}),
        ("lstm", lambda x, h, c, w, r: torch.lstm_cell(x, (h, c), w, r)[0], lstm, ((3, 6), (3, 5), (3, 5)),
         {"w": (20, 6), "r": (20, 5)}),
        ("gru", lambda x, h, w, r: torch.gru_cell(x, h, w, r), lambda x, h, w, r: gru(x, h, w, r), ((3, 6), (3, 5)),
         {"w": (15, 6), "r": (15, 5)}),
    )
]  # fmt: skip


@pytest.mark.parametrize(("name", "whole", "written", "case"), DEFINITIONS, ids=[row[0] for row in DEFINITIONS])
def test_an_operation_costs_what_its_definition_costs(name: str, whole: Any, written: Any, case: Case) -> None:
    assert by_torch(whole, case, False)[0] == by_torch(written, case, False)[0]


def test_every_row_is_of_an_operation_that_a_front_end_meets() -> None:
    """ONNX's names point to rows that exist."""
    from lamina.onnx import costs

    tables: Sequence[tuple[dict[str, str], Any]] = (
        (costs.ACTIVATIONS, operators.ACTIVATIONS), (costs.ELEMENTWISE, operators.ELEMENTWISE),
        (costs.REDUCTIONS, operators.REDUCTIONS), (costs.CUMULATIVE, operators.CUMULATIVE),
    )  # fmt: skip
    for names, rows in tables:
        assert set(names.values()) <= set(rows)
