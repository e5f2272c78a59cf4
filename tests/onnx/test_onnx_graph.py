"""ONNX files as workloads: the tracer's counts from a network's own file, the standard's operators, and bad files."""

import builtins
import json
import math
import os
from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from typer.testing import CliRunner

import lamina
from lamina.cli import app
from lamina.cost.experts import active_parameters
from lamina.errors import InputError, LaminaError
from lamina.infer import export
from lamina.workload import Layer, Loops, Workload, replace
from tests.infer.test_export import example as example_inputs
from tests.infer.test_export import small

onnx = pytest.importorskip("onnx", reason="needs lamina[onnx]")

from onnx import TensorProto, helper, numpy_helper  # noqa: E402
from onnx.reference import ReferenceEvaluator  # noqa: E402

from lamina.onnx.graph import describe_inputs, read  # noqa: E402

FLOAT, INT64, BOOL = TensorProto.FLOAT, TensorProto.INT64, TensorProto.BOOL
MS = "com.microsoft"


def array(name: str, *shape: int, dtype: Any = np.float32) -> onnx.TensorProto:
    return numpy_helper.from_array(np.ones(shape, dtype), name)


def ints(name: str, *values: int) -> onnx.TensorProto:
    return numpy_helper.from_array(np.array(values, np.int64), name)


def value(name: str, *shape: Any, dtype: int = FLOAT) -> onnx.ValueInfoProto:
    return helper.make_tensor_value_info(name, dtype, shape)


def free(name: str, dtype: int = FLOAT) -> onnx.ValueInfoProto:
    return helper.make_tensor_value_info(name, dtype, None)


def model(
    nodes: Sequence[onnx.NodeProto],
    inputs: Sequence[onnx.ValueInfoProto],
    outputs: Sequence[Any],
    stored: Sequence[onnx.TensorProto] = (),
    opset: int = 20,
    infos: Sequence[onnx.ValueInfoProto] = (),
    functions: Sequence[onnx.FunctionProto] = (),
) -> onnx.ModelProto:
    ends = [free(o) if isinstance(o, str) else o for o in outputs]
    graph = helper.make_graph(nodes, "net", inputs, ends, list(stored), value_info=list(infos))
    domains = [helper.make_opsetid("", opset), helper.make_opsetid(MS, 1), helper.make_opsetid("mine", 1)]
    return helper.make_model(graph, opset_imports=domains, functions=list(functions))


def record(folder: Path, made: onnx.ModelProto, inputs: Mapping[str, tuple[int, ...]] = {}) -> Workload:
    """What `read` makes of a model; it survives the way to JSON and back."""
    path = folder / "net.onnx"
    path.write_bytes(made.SerializeToString())
    work = read(path, inputs)
    assert Workload.from_json(work.to_json()) == work
    return work


def one(folder: Path, op: str, shapes: Sequence[Any], stored: Sequence[onnx.TensorProto] = (), **settings_: Any) -> Workload:
    """A model of one node, whose inputs are of the given shapes ("" where one is left out; a name is a stored tensor's)."""
    outputs = [f"y{i}" for i in range(settings_.pop("outputs", 1))]
    opset, dtype = settings_.pop("opset", 20), settings_.pop("dtype", FLOAT)
    names = [s if isinstance(s, str) else f"x{i}" for i, s in enumerate(shapes)]
    given_ = [value(f"x{i}", *s, dtype=dtype) for i, s in enumerate(shapes) if not isinstance(s, str)]
    return record(folder, model([helper.make_node(op, names, outputs, "it", **settings_)], given_, outputs, stored, opset))


def by_runtime(made: onnx.ModelProto, **feeds: np.ndarray) -> list[Any]:
    """What ONNX Runtime computes."""
    runtime = pytest.importorskip("onnxruntime", reason="needs lamina[onnx]")
    made.ir_version = 10
    options = runtime.SessionOptions()
    options.intra_op_num_threads = options.inter_op_num_threads = 1
    return runtime.InferenceSession(made.SerializeToString(), options, providers=["CPUExecutionProvider"]).run(None, feeds)


def nests(work: Workload) -> list[Loops]:
    """The products of a record without their operands."""
    return [replace(nest, operands=()) for layer in work.layers for nest in layer.loops]


def outputs(work: Workload) -> list[tuple[int, ...]]:
    return [t.shape for t in work.layers[-1].outputs]


def only(work: Workload) -> Layer:
    (layer,) = work.layers
    assert not work.coverage.unknown
    return layer


# ---- a network and its own file ---------------------------------------------------------------------------------------

# One of each family; exporting takes the time. The exporter folds batch norms into the convolution before them, where there is
# one (not so densenet's and wide residual networks' first norms).
SLOW = ("googlenet", "bn_inception", "inception_v3", "inception_v4")
FAMILIES = (
    "lenet5", "alexnet", "overfeat_fast", "vgg_bn", *SLOW, "resnet", "wrn_cifar", "resnext", "densenet", "transformer_masked",
    "transformer_untied", "vit",
)  # fmt: skip
TABLES = {"transformer": 6 + 5}  # rows of sinusoids, which a file holds as it holds a learned table


@pytest.fixture(autouse=True, scope="module")
def one_thread() -> Any:
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.mark.parametrize("name", [pytest.param(n, marks=pytest.mark.slow if n in SLOW else ()) for n in FAMILIES])
def test_a_zoo_network_costs_what_its_file_costs(name: str, tmp_path: Path) -> None:
    net: Any = small(name)  # with values of their own: of weights that are equal the exporter keeps one
    config = net.config
    inputs = example_inputs(config, 2, name.endswith("masked"))
    traced = lamina.trace(net, *(t.to("meta") if t.is_floating_point() else t for t in inputs))
    file = export.export_onnx(net, inputs, tmp_path / "net.onnx")
    names = list(describe_inputs(file))
    work = read(file, {k: tuple(t.shape) for k, t in zip(names, inputs, strict=True)})
    assert not work.coverage.unknown
    assert work.total().macs == traced.total().macs > 0
    assert Counter(nests(work)) == Counter(nests(traced))
    assert work.layers[-1].outputs[0].shape == traced.layers[-1].outputs[0].shape
    weights = [w for w in traced.weights if "aux" not in w.names[0]]  # heads of the training form only
    expected = sum(w.numel for w in weights)
    left = {layer.name for layer in work.layers if layer.op == "BatchNormalization"}
    before = {t.id: layer for layer in traced.layers for t in layer.outputs}
    for layer in traced.layers:  # scale and shift became the convolution's bias, or were added to the one it had
        if layer.op == "batch_norm" and layer.name not in left:
            had_bias = any(w.part == "bias" for w in before[layer.inputs[0].id].weights)
            expected -= layer.outputs[0].shape[1] * (2 if had_bias else 1)
    expected += TABLES.get(name.partition("_")[0], 0) * getattr(config, "d_model", 0)
    assert work.total().parameters == expected
    assert work.parameters_unused == 0
    convolutions = {layer.name for layer in traced.layers if layer.kind == "conv" and layer.loops}
    assert {layer.name for layer in work.layers if layer.kind == "conv"} == convolutions or name == "lenet5"


def test_a_batch_of_another_size(tmp_path: Path) -> None:
    net = torch.nn.Sequential(torch.nn.Conv2d(3, 8, 3), torch.nn.ReLU(), torch.nn.Flatten(), torch.nn.Linear(8 * 36, 5))
    file = export.export_onnx(net.eval(), (torch.randn(1, 3, 8, 8),), tmp_path / "net.onnx")
    assert describe_inputs(file) == {"input": ("batch", 3, 8, 8)}
    for batch in (1, 7):
        work = read(file, {"input": (batch, 3, 8, 8)})
        assert work.total().macs == batch * (36 * 8 * 27 + 8 * 36 * 5)
        assert [layer.name for layer in work.layers] == ["0", "1", "2", "3"]
        assert work.lifetime_rule == "last use" and work.mode == "eval"
        assert (work.inputs[0].role, work.layers[-1].outputs[0].role) == ("input", "output")


def test_memory_is_freed_at_the_last_use(tmp_path: Path) -> None:
    """x (4 bytes a number) is held; a and b overlap, the view is in b's storage, and d ends it."""
    nodes = [
        helper.make_node("Exp", ["x"], ["a"]),
        helper.make_node("Exp", ["a"], ["b"]),
        helper.make_node("Reshape", ["b", "s"], ["c"]),
        helper.make_node("Concat", ["c", "c"], ["d"], axis=0),
    ]
    work = record(tmp_path, model(nodes, [value("x", 2, 50)], ["d"], [ints("s", -1)]))
    assert [layer.kind for layer in work.layers] == ["elementwise", "elementwise", "view", "copy"]
    assert [(life.born, life.freed, life.bytes) for life in work.lifetimes] == [
        (-1, 3, 400),
        (0, 1, 400),
        (1, 3, 400),
        (3, 3, 800),
    ]
    assert work.peak_activation_bytes == 1600
    assert (work.coverage.counted, work.coverage.free) == (2, 2)


# ---- operators --------------------------------------------------------------------------------------------------------


def test_convolutions_in_one_two_and_three_dimensions(tmp_path: Path) -> None:
    for axes in (1, 2, 3):
        shape = (2, 6, *(9, 8, 7)[:axes])
        work = one(tmp_path, "Conv", [shape, "w", "b"], [array("w", 4, 3, *(3,) * axes), array("b", 4)], group=2,
                   pads=[1] * 2 * axes, strides=[2] * axes)  # fmt: skip
        _, (nest,) = shape, only(work).loops
        module = getattr(torch.nn, f"Conv{axes}d")(6, 4, 3, 2, 1, groups=2, device="meta")
        traced = lamina.trace(module, torch.empty(shape, device="meta"))
        assert replace(nest, operands=()) == nests(traced)[0]
        assert nest.operands == (0, "w", 1) and work.total().parameters == traced.total().parameters
        assert [(w.names, w.part) for w in work.weights] == [(("w",), "weight"), (("b",), "bias")]
        assert only(work).ops == traced.layers[0].ops
        deconv = getattr(torch.nn, f"ConvTranspose{axes}d")(6, 4, 3, 2, 1, groups=2, bias=False, device="meta")
        work = one(tmp_path, "ConvTranspose", [shape, "w"], [array("w", 6, 2, *(3,) * axes)], group=2, pads=[1] * 2 * axes,
                   strides=[2] * axes)  # fmt: skip
        assert nests(work) == nests(lamina.trace(deconv, torch.empty(shape, device="meta")))
    same = one(tmp_path, "Conv", [(1, 1, 5, 6), "w"], [array("w", 1, 1, 3, 4)], auto_pad="SAME_UPPER", strides=[2, 1])
    assert outputs(same) == [(1, 1, 3, 6)] and nests(same)[0].padding == (1, (1, 2))
    lower = one(tmp_path, "Conv", [(1, 1, 5, 6), "w"], [array("w", 1, 1, 3, 4)], auto_pad="SAME_LOWER", strides=[2, 1])
    assert outputs(lower) == [(1, 1, 3, 6)] and nests(lower)[0].padding == (1, (2, 1))


def test_products(tmp_path: Path) -> None:
    row = one(tmp_path, "MatMul", [(5, 7, 4), "w"], [array("w", 4, 6)])
    assert (only(row).kind, nests(row)) == ("linear", [Loops(N=35, M=6, C=4)])
    batched = one(tmp_path, "MatMul", [(2, 3, 5, 4), (3, 4, 6)])
    assert (only(batched).kind, nests(batched)) == ("matmul", [Loops(N=5, G=6, M=6, C=4)])
    gemm = one(tmp_path, "Gemm", [(4, 5), "w", "b"], [array("w", 6, 4), array("b", 6)], transA=1, transB=1)
    assert (nests(gemm), gemm.total().biases, outputs(gemm)) == ([Loops(N=5, M=6, C=4)], 6, [(5, 6)])
    for equation, left, right in (
        ("bhid,bhjd->bhij", (2, 3, 5, 4), (2, 3, 6, 4)),
        ("...ij,...jk", (2, 3, 5, 4), (2, 3, 4, 6)),
        ("bi,oi->bo", (5, 4), (6, 4)),
        ("bi,bi->bi", (5, 4), (5, 4)),
    ):
        work = one(tmp_path, "Einsum", [left, right], equation=equation)
        traced = lamina.trace(lambda a, b, e=equation: torch.einsum(e, a, b), torch.empty(left, device="meta"),
                              torch.empty(right, device="meta"))  # fmt: skip
        assert work.total().macs == traced.total().macs
        assert outputs(work) == [traced.layers[-1].outputs[0].shape]
    assert one(tmp_path, "Einsum", [(2, 3), (3, 4), (4, 5)], equation="ab,bc,cd->ad").total().macs == 2 * 3 * 4 + 2 * 4 * 5


@pytest.mark.parametrize("op", ["RNN", "GRU", "LSTM"])
@pytest.mark.parametrize("directions", [1, 2])
def test_recurrent_networks(op: str, directions: int, tmp_path: Path) -> None:
    gates = {"RNN": 1, "GRU": 3, "LSTM": 4}[op]
    stored = [array("w", directions, gates * 16, 8), array("r", directions, gates * 16, 16), array("b", directions, gates * 32)]
    work = one(tmp_path, op, [(5, 3, 8), "w", "r", "b"], stored, hidden_size=16, outputs=3 if op == "LSTM" else 2,
               direction="bidirectional" if directions == 2 else "forward")  # fmt: skip
    module = getattr(torch.nn, op)(8, 16, bidirectional=directions == 2).to("meta")
    traced = lamina.trace(module, torch.empty(5, 3, 8, device="meta"))
    assert work.total().macs == traced.total().macs == 5 * 3 * directions * gates * 16 * (8 + 16)
    assert work.total().parameters == traced.total().parameters
    assert only(work).outputs[0].shape == (5, directions, 3, 16)


def test_attention_of_the_standard(tmp_path: Path) -> None:
    plain = one(tmp_path, "Attention", [(1, 12, 64, 64)] * 3, opset=23)
    assert plain.total().macs == 2 * 12 * 64 * 64 * 64
    packed = one(
        tmp_path, "Attention", [(2, 5, 32 * 4), (2, 7, 8 * 4), (2, 7, 8 * 4)], opset=23, q_num_heads=32, kv_num_heads=8
    )
    assert nests(packed) == [Loops(N=5, G=64, M=7, C=4), Loops(N=5, G=64, M=4, C=7)]
    past = one(
        tmp_path, "Attention", [(1, 4, 1, 8), (1, 4, 1, 8), (1, 4, 1, 8), "", (1, 4, 9, 8), (1, 4, 9, 8)], opset=23, outputs=3
    )
    assert past.total().macs == 2 * 4 * 10 * 8 and outputs(past)[1] == (1, 4, 10, 8)
    with pytest.raises(InputError, match=r"3 query heads do not share 2 key"):
        one(tmp_path, "Attention", [(1, 3, 5, 8), (1, 2, 5, 8), (1, 2, 5, 8)], opset=23)
    rotated = one(tmp_path, "RotaryEmbedding", [(2, 4, 6, 8), (50, 4), (50, 4), ""], opset=23)
    assert only(rotated).kind == "elementwise"
    norm = one(tmp_path, "RMSNormalization", [(2, 6, 8), "g"], [array("g", 8)], opset=23)
    assert (only(norm).kind, norm.total().norm, only(norm).ops["sqrt"]) == ("norm", 8, 12)


def test_norms_and_pools_as_the_tracer_has_them(tmp_path: Path) -> None:
    x = torch.empty(2, 6, 9, 9, device="meta")
    four = [array(n, 6) for n in ("scale", "shift", "mean", "var")]
    work = one(tmp_path, "BatchNormalization", [tuple(x.shape), "scale", "shift", "mean", "var"], four)
    traced = lamina.trace(torch.nn.BatchNorm2d(6, device="meta").eval(), x)
    assert (work.total().norm, work.buffers, only(work).ops) == (12, 12, traced.layers[0].ops)
    norm = one(tmp_path, "LayerNormalization", [(2, 5, 8), "scale", "shift"], [array("scale", 8), array("shift", 8)])
    assert (
        only(norm).ops == lamina.trace(torch.nn.LayerNorm(8, device="meta"), torch.empty(2, 5, 8, device="meta")).layers[0].ops
    )
    for axes in (1, 2, 3):
        shape = (1, 2, *(9, 8, 7)[:axes])
        for op, name in (("MaxPool", "MaxPool"), ("AveragePool", "AvgPool")):
            made = getattr(torch.nn, f"{name}{axes}d")(3, 2, 1, ceil_mode=True)
            traced = lamina.trace(made, torch.empty(shape, device="meta"))
            pool = {"kernel_shape": [3] * axes, "strides": [2] * axes, "pads": [1] * 2 * axes, "ceil_mode": 1}
            work = one(tmp_path, op, [shape], **pool)
            assert outputs(work) == [traced.layers[0].outputs[0].shape]
            assert only(work).kind == "pool" and only(work).ops
    soft = one(tmp_path, "Softmax", [(2, 3, 4)], axis=1, opset=11)  # all axes from 1 on are one
    assert only(soft).ops["compare"] == 24 - 2
    assert only(one(tmp_path, "Softmax", [(2, 3, 4)], axis=1, opset=13)).ops["compare"] == 24 - 8


def test_quantised_operators(tmp_path: Path) -> None:
    scale, zero = array("s"), array("z", dtype=np.uint8)
    weight, bias = array("w", 4, 3, 3, 3, dtype=np.int8), array("b", 4, dtype=np.int32)
    zw, s4 = array("zw", dtype=np.int8), array("s4", 4)
    work = one(tmp_path, "QLinearConv", [(1, 3, 8, 8), "s", "z", "w", "s4", "zw", "s", "z", "b"],
               [scale, zero, weight, s4, zw, bias], dtype=TensorProto.UINT8)  # fmt: skip
    assert nests(work) == [Loops(1, 1, 4, 3, (6, 6), (3, 3), (1, 1), (0, 0), (1, 1))]
    assert [(w.names[0], w.dtype, w.part) for w in work.weights] == [("w", "int8", "weight"), ("b", "int32", "bias")]
    assert (work.total().parameters, work.buffers) == (112, 4)
    assert only(work).outputs[0].dtype == "uint8"
    integer = one(tmp_path, "ConvInteger", [(1, 3, 8, 8), "w"], [weight], dtype=TensorProto.UINT8)
    assert (nests(integer), only(integer).outputs[0].dtype) == (nests(work), "int32")
    square = array("w", 5, 6, dtype=np.int8)
    product = one(tmp_path, "QLinearMatMul", [(4, 5), "s", "z", "w", "s", "zw", "s", "z"], [scale, zero, square, zw],
                  dtype=TensorProto.UINT8)  # fmt: skip
    assert (nests(product), only(product).kind) == ([Loops(N=4, M=6, C=5)], "linear")
    assert nests(one(tmp_path, "MatMulInteger", [(4, 5), "w"], [square], dtype=TensorProto.UINT8)) == nests(product)


def test_a_graph_of_quantise_and_dequantise(tmp_path: Path) -> None:
    """The weight is the int8 tensor that is stored; taking it apart costs nothing when the network runs."""
    nodes = [
        helper.make_node("QuantizeLinear", ["x", "s", "z"], ["xq"]),
        helper.make_node("DequantizeLinear", ["xq", "s", "z"], ["xd"]),
        helper.make_node("DequantizeLinear", ["w", "s"], ["wd"]),
        helper.make_node("DequantizeLinear", ["b", "s"], ["bd"]),
        helper.make_node("Conv", ["xd", "wd", "bd"], ["y"]),
    ]
    stored = [array("s"), array("z", dtype=np.uint8), array("w", 4, 3, 1, 1, dtype=np.int8), array("b", 4, dtype=np.int32)]
    work = record(tmp_path, model(nodes, [value("x", 1, 3, 5, 5)], ["y"], stored))
    assert [layer.op for layer in work.layers] == ["QuantizeLinear", "DequantizeLinear", "Conv"]
    assert work.total().macs == 25 * 4 * 3
    assert [(w.names[0], w.dtype, w.part) for w in work.weights] == [("w", "int8", "weight"), ("b", "int32", "bias")]
    assert work.layers[2].bytes_read == 25 * 3 * 4 + 12 + 16


GROUPED, PACKED = {"num_heads": 8, "kv_num_heads": 2}, {"K": 64, "N": 48, "bits": 4, "block_size": 32}
HALVED = {"kernel_shape": [2, 2], "strides": [2, 2]}
MICROSOFT: list[tuple[str, list[Any], dict[str, Any], int, tuple[int, ...]]] = [
    ("FusedMatMul", [(2, 4, 5), (2, 4, 6)], {"transA": 1}, 2 * 5 * 6 * 4, (2, 5, 6)),
    ("FusedMatMul", [(5, 2, 4), "w:4x6"], {"transBatchA": 1}, 2 * 5 * 6 * 4, (2, 5, 6)),
    ("FusedConv", [(1, 3, 8, 8), "w:4x3x3x3", "b:4"], {"activation": "Relu"}, 36 * 4 * 27, (1, 4, 6, 6)),
    ("NhwcConv", [(1, 8, 8, 3), "w:4x3x3x3"], {"kernel_shape": [3, 3]}, 36 * 4 * 27, (1, 6, 6, 4)),
    ("NhwcConv", [(1, 8, 8, 6), "w:4x1x1x6"], {"kernel_shape": [1, 1]}, 64 * 4 * 6, (1, 8, 8, 4)),
    ("FusedGemm", [(4, 5), "w:6x5", "b:6"], {"transB": 1, "activation": "Relu"}, 120, (4, 6)),
    ("Attention", [(2, 5, 12), "w:12x36", "b:36"], {"num_heads": 3}, 2 * (5 * 12 * 36 + 2 * 3 * 5 * 5 * 4), (2, 5, 12)),
    ("Attention", [(2, 1, 12), "w:12x36", "b:36", "", (2, 2, 3, 6, 4)], {"num_heads": 3}, 2 * (432 + 168), (2, 1, 12)),
    ("QAttention", [(2, 5, 12), "w:12x36", "b:36", "s:", "t:"], {"num_heads": 3}, 2 * (5 * 12 * 36 + 600), (2, 5, 12)),
    ("MultiHeadAttention", [(2, 5, 12), (2, 7, 12), (2, 7, 24)], {"num_heads": 3}, 2 * 3 * 5 * 7 * (4 + 8), (2, 5, 24)),
    ("MultiHeadAttention", [(2, 5, 3, 3, 4)], {"num_heads": 3}, 2 * 3 * 5 * 5 * 8, (2, 5, 12)),
    ("MultiHeadAttention", [(2, 5, 12), (2, 7, 3, 2, 4)], {"num_heads": 3}, 2 * 3 * 5 * 7 * 8, (2, 5, 12)),
    ("GroupQueryAttention", [(2, 5, 32), (2, 5, 8), (2, 5, 8)], GROUPED, 2 * 8 * 25 * 8, (2, 5, 32)),
    ("GroupQueryAttention", [(2, 5, 48)], GROUPED, 2 * 8 * 25 * 8, (2, 5, 32)),
    ("MatMulNBits", [(2, 5, 64), "q:48x2x16", "s:96"], PACKED, 10 * 64 * 48, (2, 5, 48)),
    ("DynamicQuantizeMatMul", [(5, 4), "w:4x6", "s:"], {}, 120, (5, 6)),
    ("MatMulIntegerToFloat", [(5, 4), "w:4x6", "s:", "t:"], {}, 120, (5, 6)),
    ("QGemm", [(5, 4), "s:", "z:", "w:4x6", "t:", "u:"], {}, 120, (5, 6)),
    ("QLinearAdd", [(2, 3, 4), "s:", "z:", (3, 1), "t:", "u:", "v:"], {}, 0, (2, 3, 4)),
    ("QLinearMul", [(2, 3, 4), "s:", "z:", (3, 1), "t:", "u:", "v:"], {}, 0, (2, 3, 4)),
    ("QLinearSigmoid", [(2, 3), "s:", "z:", "t:", "u:"], {}, 0, (2, 3)),
    ("QLinearLeakyRelu", [(2, 3), "s:", "z:", "t:", "u:"], {}, 0, (2, 3)),
    ("QLinearSoftmax", [(2, 3), "s:", "z:", "t:", "u:"], {"axis": -1}, 0, (2, 3)),
    ("QLinearConcat", ["s:", "z:", (2, 3), "t:", "u:", (2, 5), "v:", "q:"], {"axis": 1}, 0, (2, 8)),
    ("QLinearAveragePool", [(1, 2, 8, 8), "s:", "z:", "t:", "u:"], HALVED, 0, (1, 2, 4, 4)),
    ("QLinearGlobalAveragePool", [(1, 2, 8, 8), "s:", "z:", "t:", "u:"], {}, 0, (1, 2, 1, 1)),
    ("NhwcMaxPool", [(1, 8, 8, 2)], HALVED, 0, (1, 4, 4, 2)),
    ("SkipLayerNormalization", [(2, 5, 8), (2, 5, 8), "g:8", "b:8", "c:8"], {}, 0, (2, 5, 8)),
    ("SkipSimplifiedLayerNormalization", [(2, 5, 8), (2, 5, 8), "g:8"], {}, 0, (2, 5, 8)),
    ("SimplifiedLayerNormalization", [(2, 5, 8), "g:8"], {}, 0, (2, 5, 8)),
    ("GroupNorm", [(2, 4, 4, 8), "g:8", "b:8"], {"groups": 2}, 0, (2, 4, 4, 8)),
    ("BiasGelu", [(2, 5, 8), "b:8"], {}, 0, (2, 5, 8)),
    ("FastGelu", [(2, 5, 8), "b:8"], {}, 0, (2, 5, 8)),
    ("QuickGelu", [(2, 5, 8)], {}, 0, (2, 5, 8)),
    ("RotaryEmbedding", [(2, 5, 8), (2, 5), (9, 2), (9, 2)], {}, 0, (2, 5, 8)),
    ("DynamicQuantizeLSTM", [(5, 3, 8), "w:1x8x64", "r:1x16x64"], {"hidden_size": 16}, 15 * 64 * 24, (5, 1, 3, 16)),
    ("GatherBlockQuantized", ["w:100x8", (2, 5), "s:100x1"], {"bits": 8}, 0, (2, 5, 8)),
]  # fmt: skip


@pytest.mark.parametrize(("op", "given_", "attributes", "macs", "shape"), MICROSOFT)
def test_operators_of_onnx_runtime(
    op: str, given_: list[Any], attributes: dict[str, Any], macs: int, shape: Any, tmp_path: Path
) -> None:
    names, stored, parameters = [], [], 0
    for item in given_:
        if isinstance(item, str) and item:
            name, _, text = item.partition(":")
            stored.append(array(name, *map(int, text.split("x") if text else ())))
            parameters += math.prod(stored[-1].dims) if name in "wrbgcq" and text else 0
            names.append(name)
        else:
            names.append(item)
    work = one(tmp_path, op, names, stored, domain=MS, **attributes)
    assert only(work).op == op and outputs(work) == [shape]
    assert work.total().macs == macs and bool(only(work).loops) == bool(macs)
    assert work.total().parameters == parameters
    assert only(work).kind not in ("other", "view")


def test_embeddings(tmp_path: Path) -> None:
    """Rows are gathered, the table is read as far as they go; embedding, positions and norm in one are a norm."""
    gathered = one(tmp_path, "Gather", ["table", (2, 5)], [array("table", 1000, 8)], dtype=INT64)
    assert (only(gathered).kind, gathered.total().macs, gathered.total().parameters) == ("embedding", 0, 8000)
    assert gathered.total().bytes_read == 10 * 8 + 80 * 4
    tables = [array("words", 100, 8), array("positions", 16, 8), array("kinds", 2, 8), array("g", 8), array("b", 8)]
    work = one(tmp_path, "EmbedLayerNormalization", [(2, 5), (2, 5), "words", "positions", "kinds", "g", "b"], tables,
               domain=MS, dtype=TensorProto.INT32, outputs=2)  # fmt: skip
    assert (work.total().weights, work.total().norm, outputs(work)) == (944, 16, [(2, 5, 8), (2,)])


def test_a_tied_embedding_is_one_weight(tmp_path: Path) -> None:
    """Exporters store a second, transposed copy for the product. Another matrix of that shape is another weight."""
    table = np.random.default_rng(0).normal(size=(50, 8)).astype(np.float32)
    nodes = [helper.make_node("Gather", ["table", "x"], ["h"]), helper.make_node("MatMul", ["h", "out"], ["y"])]

    def parameters(out: np.ndarray) -> Workload:
        stored = [numpy_helper.from_array(table, "table"), numpy_helper.from_array(np.ascontiguousarray(out), "out")]
        return record(tmp_path, model(nodes, [value("x", 2, 5, dtype=INT64)], ["y"], stored))

    tied = parameters(table.T)
    assert [w.names for w in tied.weights] == [("table", "out")]
    assert tied.layers[0].weights == tied.layers[1].weights and tied.total().parameters == 400
    assert parameters(table.T + 1).total().parameters == 800


def test_which_constants_are_parameters(tmp_path: Path) -> None:
    """By use, as the module's description says."""
    constant = helper.make_node("Constant", [], ["k"], value=array("", 4, 4))
    table = helper.make_node("Constant", [], ["p"], value=array("", 4))
    nodes = [
        constant, table,
        helper.make_node("Sub", ["x", "mean"], ["a"]),  # a buffer
        helper.make_node("Mul", ["a", "factor"], ["b"]),  # one number: a constant
        helper.make_node("MatMul", ["b", "k"], ["c"]),  # a Constant node's value, in a product
        helper.make_node("Add", ["c", "p"], ["d"]),  # and in a sum
        helper.make_node("Add", ["d", "bias"], ["e"]),
        helper.make_node("Transpose", ["w"], ["t"]),
        helper.make_node("MatMul", ["e", "t"], ["f"]),
        helper.make_node("Mul", ["f", "layer_norm.weight"], ["y"]),
    ]  # fmt: skip
    stored = [
        array("mean", 4),
        array("factor"),
        array("bias", 4),
        array("w", 6, 4),
        array("layer_norm.weight", 6),
        array("spare", 9),
    ]
    work = record(tmp_path, model(nodes, [value("x", 3, 4)], ["y"], stored))
    assert {w.names[0]: (w.part, w.numel) for w in work.weights} == {
        "k": ("weight", 16), "bias": ("bias", 4), "w": ("weight", 24), "layer_norm.weight": ("norm", 6), "spare": ("weight", 9),
    }  # fmt: skip
    assert (work.buffers, work.parameters_unused) == (4, 9)
    assert [layer.kind for layer in work.layers if layer.loops] == ["linear", "linear"]


def test_weights_keep_their_type(tmp_path: Path) -> None:
    for dtype, name in ((np.float16, "float16"), (np.float64, "float64")):
        work = one(
            tmp_path,
            "MatMul",
            [(2, 4), "w"],
            [array("w", 4, 6, dtype=dtype)],
            dtype=helper.np_dtype_to_tensor_dtype(np.dtype(dtype)),
        )
        assert (work.weights[0].dtype, only(work).outputs[0].dtype) == (name, name)
    half = helper.make_tensor("w", TensorProto.BFLOAT16, [4, 6], np.ones(24))
    work = one(tmp_path, "MatMul", [(2, 4), "w"], [half], dtype=TensorProto.BFLOAT16)
    assert (work.weights[0].dtype, work.weights[0].bytes, work.layers[0].bytes_written) == ("bfloat16", 48, 24)


# ---- shape arithmetic and subgraphs -----------------------------------------------------------------------------------


def test_shapes_that_are_computed(tmp_path: Path) -> None:
    """As TorchScript's exporter writes view(x.size(0), -1) and interpolate(x, x.shape * 2)."""
    nodes = [
        helper.make_node("Shape", ["x"], ["s"]),
        helper.make_node("Gather", ["s", "zero"], ["n"]),
        helper.make_node("Unsqueeze", ["n", "axis"], ["n1"]),
        helper.make_node("Concat", ["n1", "minus"], ["to"], axis=0),
        helper.make_node("Slice", ["s", "two", "four"], ["hw"]),
        helper.make_node("Mul", ["hw", "twice"], ["hw2"]),
        helper.make_node("Slice", ["s", "axis", "two"], ["nc"]),
        helper.make_node("Concat", ["nc", "hw2"], ["sizes"], axis=0),
        helper.make_node("Resize", ["x", "", "", "sizes"], ["big"], mode="linear"),
        helper.make_node("Reshape", ["big", "to"], ["flat"]),
        helper.make_node("MatMul", ["flat", "w"], ["y"]),
    ]
    numbers = [ints("axis", 0), ints("minus", -1), ints("two", 2), ints("four", 4), ints("twice", 2, 2)]
    stored = [numpy_helper.from_array(np.array(0), "zero"), *numbers, array("w", 3 * 8 * 8, 10)]
    work = record(tmp_path, model(nodes, [value("x", "batch", 3, 4, 4)], ["y"], stored), {"x": (5, 3, 4, 4)})
    assert [(layer.op, layer.outputs[0].shape) for layer in work.layers] == [
        ("Resize", (5, 3, 8, 8)), ("Reshape", (5, 192)), ("MatMul", (5, 10)),
    ]  # fmt: skip
    assert work.coverage.free == 8 + 1 and not work.coverage.unknown


def branch(
    name: str, nodes: Sequence[onnx.NodeProto], ends: Sequence[str], stored: Sequence[onnx.TensorProto] = ()
) -> onnx.GraphProto:
    return helper.make_graph(nodes, name, [], [free(e) for e in ends], list(stored))


def test_if_counts_the_costlier_branch_and_says_so(tmp_path: Path) -> None:
    small = branch("small", [helper.make_node("Identity", ["x"], ["a"])], ["a"])
    large = branch("large", [helper.make_node("MatMul", ["x", "w"], ["b"], "fc")], ["b"], [array("w", 4, 4)])
    node = helper.make_node("If", ["c"], ["y"], "choice", then_branch=small, else_branch=large)
    work = record(tmp_path, model([node], [value("c", dtype=BOOL), value("x", 3, 4)], ["y"]))
    assert work.total().macs == 48 and [layer.name for layer in work.layers] == ["choice/else/fc", "choice"]
    assert work.layers[1].attributes == {"branch": "else", "why": "the costlier"}
    assert work.weights[0].names == ("choice/else/w",)
    for flag, macs in ((True, 0), (False, 48)):
        constant = numpy_helper.from_array(np.array(flag), "c")
        assert record(tmp_path, model([node], [value("x", 3, 4)], ["y"], [constant])).total().macs == macs


def loop(trips: int | None, grow: bool = False) -> onnx.ModelProto:
    """h = h @ w, `trips` times (None: as often as an input says), stacking each h; or h grows by a row a step."""
    step = (
        helper.make_node("Concat", ["h", "h"], ["h2"], axis=0) if grow else helper.make_node("MatMul", ["h", "w"], ["h2"], "fc")
    )
    nodes = [step, helper.make_node("Identity", ["go"], ["go2"]), helper.make_node("Identity", ["h2"], ["seen"])]
    body = helper.make_graph(
        nodes,
        "body",
        [value("i", dtype=INT64), value("go", dtype=BOOL), free("h")],
        [free("go2", BOOL), free("h2"), *([] if grow else [free("seen")])],
    )
    stored = [array("w", 4, 4), numpy_helper.from_array(np.array(True), "yes")]
    inputs = [value("x", 3, 4)]
    if trips is None:
        inputs.append(value("m", dtype=INT64))
    else:
        stored.append(numpy_helper.from_array(np.array(trips), "m"))
    ends = ["y"] if grow else ["y", "all"]
    return model([helper.make_node("Loop", ["m", "yes", "x"], ends, "loop", body=body)], inputs, ends, stored)


@pytest.mark.parametrize("trips", [0, 1, 7, 10**15])
def test_loops_of_known_length(trips: int, tmp_path: Path) -> None:
    work = record(tmp_path, loop(trips))
    assert work.total().macs == trips * 48 and not work.coverage.unknown
    assert outputs(work) == [(3, 4), (trips, 3, 4)]
    assert work.layers[-1].attributes == {"trips": trips}
    assert work.total().parameters == 16


def test_loops_that_values_decide_are_listed(tmp_path: Path) -> None:
    work = record(tmp_path, loop(None))
    assert work.total().macs == 48 and outputs(work) == [(3, 4)]  # of the second output the length is unknown
    assert [(u.op, u.layer) for u in work.coverage.unknown] == [
        ("Loop (its number of steps depends on values: one counted)", "loop")
    ]


def test_sizes_that_change_in_a_loop_are_followed_or_lost(tmp_path: Path) -> None:
    """h = h + h, one below the other, five times: each step is counted with its own sizes."""
    made = loop(5, grow=True)
    work = record(tmp_path, made)
    assert not work.coverage.unknown and outputs(work) == [(3 * 2**5, 4)]
    assert [t.shape for layer in work.layers[:-1] for t in layer.outputs if layer.op == "Concat"] == [
        (3 * 2**i, 4) for i in range(1, 6)
    ]
    feeds = {"x": np.zeros((3, 4), np.float32)}
    assert ReferenceEvaluator(made).run(None, feeds)[0].shape == (96, 4)
    """As often as an input says: what comes out has no shape that is known, nor has what is made of it."""
    made = loop(None, grow=True)
    made.graph.node.append(helper.make_node("Relu", ["y"], ["z"], "after"))
    made.graph.output[0].CopyFrom(free("z"))
    work = record(tmp_path, made)
    assert [(u.op, u.layer) for u in work.coverage.unknown] == [
        ("Loop (sizes change from step to step)", "loop"), ("Relu (its sizes depend on values)", "after"),
    ]  # fmt: skip
    assert all(not layer.outputs for layer in work.layers)


def counting(most: int, condition: str) -> onnx.ModelProto:
    """h = h @ w while a condition holds: of a counter that is carried, or of the number of the step."""
    stored = [numpy_helper.from_array(np.array(v, np.int64), n) for n, v in (("one", 1), ("four", 4), ("zero", 0), ("m", most))]
    seen = {"carried": "n2", "step": "i"}[condition]
    nodes = [
        helper.make_node("MatMul", ["h", "w"], ["h2"], "fc"),
        helper.make_node("Add", ["n", "one"], ["n2"]),
        helper.make_node("Less", [seen, "four"], ["go2"]),
    ]
    given_ = [value("i", dtype=INT64), value("go", dtype=BOOL), free("h"), value("n", dtype=INT64)]
    ends = [free("go2", BOOL), free("h2"), free("n2", INT64)]
    body = helper.make_graph(nodes, "body", given_, ends)
    node = helper.make_node("Loop", ["m", "", "x", "zero"], ["y", "count"], "loop", body=body)
    return model([node], [value("x", 3, 4)], ["y", free("count", INT64)], [array("w", 4, 4), *stored])


@pytest.mark.parametrize(("condition", "most", "steps"), [("carried", 100, 4), ("step", 100, 5), ("carried", 2, 2)])
def test_a_loop_that_stops_itself(condition: str, most: int, steps: int, tmp_path: Path) -> None:
    made = counting(most, condition)
    work = record(tmp_path, made)
    assert work.total().macs == steps * 48 and not work.coverage.unknown
    assert work.layers[-1].attributes == {"trips": steps}
    assert by_runtime(made, x=np.zeros((3, 4), np.float32))[1] == steps


def test_a_loop_that_stops_itself_late_is_listed(tmp_path: Path) -> None:
    made = counting(10**9, "step")
    made.graph.initializer[2].CopyFrom(numpy_helper.from_array(np.array(10**8, np.int64), "four"))  # nobody follows that
    (unknown,) = record(tmp_path, made).coverage.unknown
    assert unknown.op == "Loop (its number of steps depends on values: one counted)"


def test_loops_in_loops_end(tmp_path: Path) -> None:
    """Each of them grows, as often as nobody knows: reading does not double with each."""
    inner = [helper.make_node("Concat", ["h", "h"], ["h2"], axis=0), helper.make_node("Identity", ["go"], ["go2"])]
    for depth in range(20):
        given_ = [value("i", dtype=INT64), value("go", dtype=BOOL), free("h")]
        body = helper.make_graph(inner, "body", given_, [free("go2", BOOL), free("h2")])
        node = helper.make_node("Loop", ["m", "", "h" if depth < 19 else "x"], ["h2"], f"loop{depth}", body=body)
        inner = [node, helper.make_node("Identity", ["go"], ["go2"])]
    work = record(tmp_path, model(inner[:1], [value("x", 3, 4), value("m", dtype=INT64)], ["h2"]))
    assert work.coverage.unknown and not outputs(work)


def test_scan_counts_each_step(tmp_path: Path) -> None:
    nodes = [
        helper.make_node("MatMul", ["e", "w"], ["m"]),
        helper.make_node("Add", ["m", "h"], ["h2"]),
        helper.make_node("Identity", ["h2"], ["o"]),
    ]
    body = helper.make_graph(nodes, "body", [free("h"), free("e")], [free("h2"), free("o")])
    node = helper.make_node("Scan", ["h0", "x"], ["h", "y"], body=body, num_scan_inputs=1)
    work = record(tmp_path, model([node], [value("h0", 3, 4), value("x", 9, 3, 4)], ["h", "y"], [array("w", 4, 4)]))
    assert work.total().macs == 9 * 48 and outputs(work) == [(3, 4), (9, 3, 4)]
    assert sum(layer.ops.get("add", 0) for layer in work.layers) == 9 * 12
    assert not work.coverage.unknown


def test_functions_are_inlined(tmp_path: Path) -> None:
    nodes = [helper.make_node("MatMul", ["a", "b"], ["m"]), helper.make_node("Relu", ["m"], ["r"])]
    function = helper.make_function("mine", "Dense", ["a", "b"], ["r"], nodes, [helper.make_opsetid("", 20)])
    calls = [
        helper.make_node("Dense", ["x", "w"], ["h"], domain="mine"),
        helper.make_node("Dense", ["h", "w"], ["y"], domain="mine"),
    ]
    work = record(tmp_path, model(calls, [value("x", 3, 4)], ["y"], [array("w", 4, 4)], functions=[function]))
    assert [layer.op for layer in work.layers] == ["MatMul", "Relu"] * 2
    assert (work.total().macs, work.total().parameters, work.coverage.unknown) == (96, 16, ())
    again = helper.make_function(
        "mine",
        "Dense",
        ["a", "b"],
        ["r"],
        [helper.make_node("Dense", ["a", "b"], ["r"], domain="mine")],
        [helper.make_opsetid("mine", 1)],
    )
    with pytest.raises(LaminaError, match=r"the function Dense calls itself$"):
        record(tmp_path, model(calls, [value("x", 3, 4)], ["y"], [array("w", 4, 4)], functions=[again]))


def test_functions_that_explode_are_refused(tmp_path: Path) -> None:
    """Thirty functions, each of two calls of the next: a thousand million nodes."""
    own = [helper.make_opsetid("mine", 1), helper.make_opsetid("", 20)]
    functions = [helper.make_function("mine", "F30", ["a"], ["b"], [helper.make_node("Relu", ["a"], ["b"])], own)]
    for i in range(30):
        twice = [helper.make_node(f"F{i + 1}", [a], [b], domain="mine") for a, b in ("am", "mb")]
        functions.append(helper.make_function("mine", f"F{i}", ["a"], ["b"], twice, own))
    made = model([helper.make_node("F0", ["x"], ["y"], domain="mine")], [value("x", 3)], ["y"], functions=functions)
    fails(tmp_path, made, "until they are more than 1,000,000 nodes$")


def test_names_as_torch_script_writes_them(tmp_path: Path) -> None:
    names = [
        "/conv1/Conv",
        "/layer1/layer1.0/conv1/Conv",
        "/layer1/layer1.0/relu/Relu",
        "/layer1/layer1.0/Add",
        "/layer1/layer1.0/relu_1/Relu",
    ]
    ops = [("Conv", "x", "w"), ("Conv", "a0", "w"), ("Relu", "a1"), ("Add", "a2", "x"), ("Relu", "a3")]
    nodes = [
        helper.make_node(op, list(given_), [f"a{i}"], n) for i, (n, (op, *given_)) in enumerate(zip(names, ops, strict=True))
    ]
    work = record(tmp_path, model(nodes, [value("x", 1, 3, 4, 4)], ["a4"], [array("w", 3, 3, 1, 1)]))
    assert [layer.name for layer in work.layers] == [
        "conv1", "layer1.0.conv1", "layer1.0.relu", "layer1.0/Add", "layer1.0.relu_1",
    ]  # fmt: skip
    assert work.by("module").keys() == {"conv1", "layer1"}
    assert work.total().parameters == 9  # one weight, used twice


# ---- external data ----------------------------------------------------------------------------------------------------


def external(name: str, location: str, *shape: int) -> onnx.TensorProto:
    made = TensorProto(name=name, data_type=FLOAT, dims=shape, data_location=TensorProto.EXTERNAL)
    made.external_data.add(key="location", value=location)
    made.external_data.add(key="length", value=str(4 * math.prod(shape)))
    return made


def test_external_data_are_not_opened(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Twelve gigabytes of weights beside the file, which holds no byte of them."""
    with open(tmp_path / "net.onnx.data", "wb") as file:
        file.truncate(12 * 10**9)
    node = helper.make_node("MatMul", ["x", "w"], ["y"])
    made = model([node], [value("x", 1, 50_000)], ["y"], [external("w", "net.onnx.data", 50_000, 60_000)])
    opened: list[str] = []
    real = builtins.open
    monkeypatch.setattr(builtins, "open", lambda f, *a, **k: opened.append(str(f)) or real(f, *a, **k))
    monkeypatch.setattr(os, "open", lambda f, *a, **k: pytest.fail(f"opened {f}"))
    work = record(tmp_path, made)
    assert work.total().parameters == work.total().macs == 3 * 10**9
    assert not [f for f in opened if f.endswith(".data")]
    (tmp_path / "net.onnx.data").unlink()
    assert read(tmp_path / "net.onnx") == work


@pytest.mark.parametrize(
    "location", ["/etc/passwd", "../secret", "a/../../b", "C:\\secret", "..\\secret", "\\\\host\\share", ""]
)
def test_external_data_outside_of_the_folder_are_refused(location: str, tmp_path: Path) -> None:
    made = model([helper.make_node("MatMul", ["x", "w"], ["y"])], [value("x", 1, 5)], ["y"], [external("w", location, 5, 6)])
    with pytest.raises(LaminaError, match=r"the data of w are said to lie in .*, outside of the file's own folder$"):
        record(tmp_path, made)
    hidden = helper.make_node("Constant", [], ["w"], value=external("", location, 5, 6))
    body = branch("b", [hidden, helper.make_node("MatMul", ["x", "w"], ["z"])], ["z"])
    choice = helper.make_node("If", ["c"], ["y"], then_branch=body, else_branch=body)
    with pytest.raises(LaminaError, match=r"outside of the file's own folder$"):
        record(tmp_path, model([choice], [value("c", dtype=BOOL), value("x", 1, 5)], ["y"]))


# ---- what is wrong, in one line ---------------------------------------------------------------------------------------


def fails(
    folder: Path, made: onnx.ModelProto, pattern: str, inputs: Mapping[str, tuple[int, ...]] = {}, wrong_call: bool = False
) -> None:
    with pytest.raises(LaminaError, match=pattern) as caught:
        record(folder, made, inputs)
    assert "\n" not in str(caught.value)
    assert isinstance(caught.value, InputError) == wrong_call


def test_files_that_are_none(tmp_path: Path) -> None:
    path = tmp_path / "net.onnx"
    good = model([helper.make_node("Conv", ["x", "w"], ["y"])], [value("x", 1, 3, 4, 4)], ["y"], [array("w", 3, 3, 1, 1)])
    whole = good.SerializeToString()
    cases = [
        (b"", "is empty$"),
        (b"Dear reader,\nthis is a letter.\n", "is not an ONNX file"),
        (b"PK\x03\x04" + bytes(99), "is not an ONNX file"),
        (bytes(100), "is not an ONNX file"),
        (whole[: len(whole) // 2], "is not an ONNX file, or is cut off$"),
        (whole[:20], "is not an ONNX file"),
    ]
    for content, pattern in cases:
        path.write_bytes(content)
        with pytest.raises(LaminaError, match=rf"net\.onnx {pattern}") as caught:
            read(path)
        assert "\n" not in str(caught.value)
    for end in range(1, len(whole)):  # wherever it is cut
        path.write_bytes(whole[:end])
        try:
            work = read(path)
        except LaminaError:
            continue
        assert work.total().macs == 144  # only a list of operator sets that it does not use is lost
    with pytest.raises(InputError, match="is a folder"):
        read(tmp_path)
    with pytest.raises(InputError, match=r"there is no such file$"):
        read(tmp_path / "missing.onnx")
    path.write_bytes(model([helper.make_node("Relu", ["x"], ["y"])], [value("x", 2)], ["y"], opset=6).SerializeToString())
    with pytest.raises(LaminaError, match=r"uses opset 6; from 7 on it can be read"):
        read(path)


def test_inputs_that_are_not_set(tmp_path: Path) -> None:
    nodes = [helper.make_node("Add", ["image", "mask"], ["y"])]
    made = model(nodes, [value("image", "batch", 3, "height", "width"), value("mask", "batch", 1, "height", None)], ["y"])
    said = r"set the free sizes of the inputs image \(batch x 3 x height x width\) and mask \(batch x 1 x height x \?\)"
    how = ", as in --input image=1x3x224x224 --input mask=1x1x224x224$"
    fails(tmp_path, made, said + how, wrong_call=True)
    fails(tmp_path, made, "input mask .*--input mask=1x1x224x224$", {"image": (2, 3, 8, 9)}, wrong_call=True)
    fails(
        tmp_path,
        made,
        "height is 7 here and 8 in another input",
        {"image": (2, 3, 8, 9), "mask": (2, 1, 7, 9)},
        wrong_call=True,
    )
    fails(tmp_path, made, "has no input 'x': its inputs are image, mask$", {"x": (1,)}, wrong_call=True)
    fails(
        tmp_path,
        made,
        "input image is fixed to batch x 3 x height x width in .*, got 2x4x8x9",
        {"image": (2, 4, 8, 9)},
        wrong_call=True,
    )
    fails(tmp_path, made, "input image has 4 axes", {"image": (2, 4)}, wrong_call=True)
    fails(tmp_path, made, "2x3x0x9 is not a valid shape: sizes are 1 or more", {"image": (2, 3, 0, 9)}, wrong_call=True)
    fails(tmp_path, made, "2x3x-8x9 is not a valid shape", {"image": (2, 3, -8, 9)}, wrong_call=True)
    work = record(tmp_path, made, {"image": (2, 3, 8, 9), "mask": (2, 1, 8, 9)})
    assert outputs(work) == [(2, 3, 8, 9)]
    for size in (0, -1):  # as some exporters write a free size
        odd = model([helper.make_node("Relu", ["x"], ["y"])], [value("x", size, 3)], ["y"])
        fails(tmp_path, odd, r"input x \(\? x 3\), as in --input x=1x3$", wrong_call=True)
        assert outputs(record(tmp_path, odd, {"x": (4, 3)})) == [(4, 3)]
    shapeless = model([helper.make_node("Relu", ["x"], ["y"])], [free("x")], ["y"])
    fails(tmp_path, shapeless, r"input x \(any shape\), as in --input x=", wrong_call=True)
    assert outputs(record(tmp_path, shapeless, {"x": (4, 3)})) == [(4, 3)]


def test_sizes_that_the_inputs_share_are_set_once(tmp_path: Path) -> None:
    made = model([helper.make_node("Add", ["a", "b"], ["y"])], [value("a", "n", 3), value("b", "n", 1)], ["y"])
    assert outputs(record(tmp_path, made, {"a": (5, 3)})) == [(5, 3)]
    assert describe_inputs(tmp_path / "net.onnx") == {"a": ("n", 3), "b": ("n", 1)}


def test_files_that_lie(tmp_path: Path) -> None:
    conv = helper.make_node("Conv", ["x", "w"], ["h"], "first")
    relu = helper.make_node("Relu", ["h"], ["y"], "second")
    x, w = value("x", 1, 3, 8, 8), array("w", 4, 3, 3, 3)
    fails(tmp_path, model([conv, relu], [x], ["y"], [w], infos=[value("h", 1, 4, 7, 7)]),
          r"node first \(Conv\): the file says that h is 1x4x7x7, and the node makes 1x4x6x6$")  # fmt: skip
    fails(
        tmp_path, model([conv, relu], [x], [value("y", 1, 4, 36)], [w]), r"node second \(Relu\): the file says that y is 1x4x36"
    )
    assert record(tmp_path, model([conv, relu], [x], [value("y", "n", 4, "h", 6)], [w])).total().macs == 36 * 4 * 27
    wrong = helper.make_node("Conv", ["x", "w"], ["y"], "first", kernel_shape=[5, 5])
    fails(tmp_path, model([wrong], [x], ["y"], [w]), r"node first \(Conv\): says kernel_shape 5x5", wrong_call=True)
    fails(
        tmp_path,
        model([conv], [value("x", 1, 2, 8, 8)], ["h"], [w]),
        r"node first \(Conv\): expects 3 input channels, got 2",
        wrong_call=True,
    )
    short = TensorProto(name="w", data_type=FLOAT, dims=[4, 3, 3, 3], raw_data=bytes(16))
    fails(tmp_path, model([conv], [x], ["h"], [short]), "the tensor w says 4x3x3x3, 432 bytes, and holds 16$")
    negative = TensorProto(name="w", data_type=FLOAT, dims=[4, -3, 3, 3])
    fails(tmp_path, model([conv], [x], ["h"], [negative]), r"the tensor w has a negative size in its shape \(4, -3, 3, 3\)$")
    reshape = helper.make_node("Reshape", ["x", "s"], ["y"], "view")
    fails(
        tmp_path,
        model([reshape], [x], ["y"], [ints("s", 5, 5)]),
        r"node view \(Reshape\): cannot make 5x5 of 1x3x8x8$",
        wrong_call=True,
    )
    stride = helper.make_node("Conv", ["x", "w"], ["y"], "first", strides=[0, 1])
    fails(tmp_path, model([stride], [x], ["y"], [w]), "strides, dilations and filter sizes are 1 or more", wrong_call=True)
    groups = helper.make_node("Conv", ["x", "w"], ["y"], "first", group=0)
    fails(tmp_path, model([groups], [x], ["y"], [w]), "4 filters are not divisible into 0 groups", wrong_call=True)


def test_graphs_that_are_none(tmp_path: Path) -> None:
    x = value("x", 2, 2)
    cycle = [helper.make_node("Add", ["x", "b"], ["a"], "one"), helper.make_node("Relu", ["a"], ["b"], "two")]
    fails(tmp_path, model(cycle, [x], ["b"]), r"one reads b, which only two makes, later or from it \(a cycle\)$")
    fails(tmp_path, model([helper.make_node("Relu", ["z"], ["y"], "one")], [x], ["y"]), "one reads z, which nothing makes$")
    fails(
        tmp_path,
        model([helper.make_node("Relu", ["x"], ["y"])], [x], ["other"]),
        "the graph's output reads other, which nothing makes$",
    )
    fails(
        tmp_path,
        model([helper.make_node("Relu", ["x"], ["y"], n) for n in "ab"], [x], ["y"]),
        r"node b \(Relu\) makes y a second time$",
    )
    fails(tmp_path, model([helper.make_node("MatMul", ["x"], ["y"], "one")], [x], ["y"]), r"node one \(MatMul\)")
    fails(
        tmp_path,
        model([helper.make_node("Relu", ["x"], ["y"])], [x], ["y"], [array("w", 2), array("w", 2)]),
        "two tensors are called w$",
    )
    fails(
        tmp_path,
        model([helper.make_node("If", ["x"], ["y"], "one")], [x], ["y"]),
        r"node one \(If\) lacks its condition or a branch$",
    )
    fails(tmp_path, model([helper.make_node("Loop", ["", ""], ["y"], "one")], [x], ["y"]), r"node one \(Loop\) lacks its body")


def test_whatever_a_file_says_the_error_is_one_line(tmp_path: Path) -> None:
    x = value("x", 2, 2)
    fails(
        tmp_path,
        model([helper.make_node("Relu", ["a\nb\x1b[0m"], ["y"], "one")], [x], ["y"]),
        r"one reads a\?b\?\[0m, which nothing",
    )
    strange = helper.make_node("Conv", ["x", "w"], ["y"], "one", strides="two")
    fails(
        tmp_path,
        model([strange], [value("x", 1, 1, 4, 4)], ["y"], [array("w", 1, 1, 1, 1)]),
        r"node one \(Conv\)",
        wrong_call=True,
    )
    parts = helper.make_tensor_sequence_value_info("parts", FLOAT, [2, 2])
    joined = model([helper.make_node("ConcatFromSequence", ["parts"], ["y"], axis=0)], [parts], ["y"])
    fails(tmp_path, joined, "the input parts is not a tensor", {"parts": (2, 2)}, wrong_call=True)
    assert record(tmp_path, joined).layers[0].outputs == ()
    odd = helper.make_node("Transpose", ["w"], ["t"], "one", perm=[0, 5])
    fails(tmp_path, model([odd], [], ["t"], [array("w", 2, 2)]), r"node one \(Transpose\)")


def test_unknown_operators_are_listed(tmp_path: Path) -> None:
    """What follows is counted where the file says its size, and else listed too."""
    strange = helper.make_node("Warp", ["x"], ["h"], "warp", domain="mine", angle=3)
    nodes = [strange, helper.make_node("MatMul", ["h", "w"], ["y"], "fc")]
    made = model(nodes, [value("x", "n", 4)], ["y"], [array("w", 4, 6)], infos=[value("h", "n", 4)])
    work = record(tmp_path, made, {"x": (5, 4)})
    assert work.total().macs == 5 * 24
    assert [(u.op, u.layer, u.inputs) for u in work.coverage.unknown] == [("mine.Warp", "warp", ((5, 4),))]
    assert work.layers[0].outputs[0].shape == (5, 4) and "mine.Warp in warp" in str(work)
    del made.graph.value_info[:]
    work = record(tmp_path, made, {"x": (5, 4)})
    assert [u.op for u in work.coverage.unknown] == ["mine.Warp", "MatMul (its sizes depend on values)"]
    for domain, op in (("", "NoSuchOperator"), (MS, "NoSuchOperator"), ("mine", "Conv"), ("ai.onnx.ml", "Scaler")):
        node = helper.make_node(op, ["x"], ["y"], "it", domain=domain)
        work = record(tmp_path, model([node], [value("x", 5, 4)], ["y"]))
        assert len(work.coverage.unknown) == 1 and work.coverage.counted == work.coverage.free == 0


def test_nested_branches(tmp_path: Path) -> None:
    """Each is visited once, however deep."""

    def nested(depth: int) -> onnx.ModelProto:
        inner = branch("leaf", [helper.make_node("MatMul", ["x", "w"], ["o"])], ["o"])
        for _ in range(depth):
            other = branch("other", [helper.make_node("Identity", ["x"], ["o"])], ["o"])
            inner = branch("b", [helper.make_node("If", ["c"], ["o"], then_branch=inner, else_branch=other)], ["o"])
        nodes = list(inner.node)
        return model(nodes, [value("c", dtype=BOOL), value("x", 3, 4)], ["o"], [array("w", 4, 4)])

    assert record(tmp_path, nested(20)).total().macs == 48


# ---- against other implementations ------------------------------------------------------------------------------------


KINDS = (
    "Conv", "ConvTranspose", "MaxPool", "AveragePool", "Relu", "Concat", "Add", "Pad", "Slice", "Transpose",
    "GlobalAveragePool", "Resize", "Reshape", "Split", "Softmax", "ReduceMean",
)  # fmt: skip


@st.composite
def graphs(draw: Any) -> tuple[onnx.ModelProto, tuple[int, ...]]:
    """Random chains of operators with legal settings on an image, and the image's shape."""
    shape = (draw(st.integers(1, 3)), draw(st.integers(1, 5)), draw(st.integers(5, 12)), draw(st.integers(5, 12)))
    nodes, stored, at, now = [], [], "x", shape[1]
    for i in range(draw(st.integers(1, 6))):
        kind = draw(st.sampled_from(KINDS))
        out, k, s = f"h{i}", draw(st.integers(1, 3)), draw(st.integers(1, 2))
        given_, settings_ = [at], dict[str, Any]()
        if kind == "Conv":
            groups = draw(st.sampled_from([g for g in range(1, now + 1) if now % g == 0]))
            wide = groups * draw(st.integers(1, 3))
            stored.append(array(f"w{i}", wide, now // groups, k, k))
            settings_ = {
                "strides": [s, s],
                "group": groups,
                "dilations": [draw(st.integers(1, 2))] * 2,
                "pads": [draw(st.integers(0, 2)) for _ in range(4)],
            }
            given_, now = [at, f"w{i}"], wide
        elif kind == "ConvTranspose":
            stored.append(array(f"w{i}", now, 2, k, k))
            given_, now, settings_ = [at, f"w{i}"], 2, {"strides": [s, s]}
        elif kind in ("MaxPool", "AveragePool"):
            settings_ = {"kernel_shape": [k, k], "strides": [s, s], "ceil_mode": draw(st.integers(0, 1))}
        elif kind == "Concat":
            given_, settings_, now = [at, at], {"axis": 1}, 2 * now
        elif kind == "Add":
            stored.append(array(f"b{i}", now, 1, 1))
            given_ = [at, f"b{i}"]
        elif kind == "Pad":
            stored.append(ints(f"p{i}", 0, 0, 1, 2, 0, 0, 0, 1))
            given_ = [at, f"p{i}"]
        elif kind == "Slice":
            stored += [ints(f"s{i}", 1), ints(f"e{i}", 10**9), ints(f"a{i}", -1), ints(f"t{i}", s)]
            given_ = [at, f"s{i}", f"e{i}", f"a{i}", f"t{i}"]
        elif kind == "Transpose":
            settings_ = {"perm": [0, 1, 3, 2]}
        elif kind == "Resize":
            stored.append(numpy_helper.from_array(np.array([1, 1, 2, 1.5], np.float32), f"z{i}"))
            given_ = [at, "", f"z{i}"]
        elif kind == "Reshape":
            nodes += [helper.make_node("Shape", [at], [f"n{i}"]), helper.make_node("Gather", [f"n{i}", "turn"], [f"m{i}"])]
            given_ = [at, f"m{i}"]
        elif kind == "Split":
            given_, settings_ = [at], {"axis": 2, "num_outputs": 2}
        elif kind == "Softmax":
            settings_ = {"axis": draw(st.integers(-4, 3))}
        elif kind == "ReduceMean":
            stored.append(ints(f"a{i}", 2))
            given_, settings_ = [at, f"a{i}"], {"keepdims": 1}
        outs = [out, f"{out}b"] if kind == "Split" else [out]
        nodes.append(helper.make_node(kind, given_, outs, f"{kind}{i}", **settings_))
        at = out
    stored.append(ints("turn", 0, 1, 3, 2))
    return model(nodes, [value("x", *shape)], [at], stored), shape


@given(case=graphs())
@settings(max_examples=150, deadline=None)
def test_random_graphs_have_the_shapes_that_onnx_gives_them(case: Any, tmp_path_factory: pytest.TempPathFactory) -> None:
    made, shape = case
    path = tmp_path_factory.getbasetemp() / "random.onnx"
    path.write_bytes(made.SerializeToString())
    try:
        every = ReferenceEvaluator(made).run(None, {"x": np.zeros(shape, np.float32)}, intermediate=True)
        expected = every[made.graph.output[0].name]
        # A pool that does not fit: the evaluator goes on with nothing, onnxruntime with one window.
        empty = any(0 in x.shape for x in every.values() if isinstance(x, np.ndarray))
    except Exception:  # nothing is left of the image
        empty = True
    try:
        work = read(path)
    except LaminaError:
        assert empty
        return
    if empty:
        return
    assert work.layers[-1].outputs[0].shape == expected.shape and not work.coverage.unknown
    macs = 0
    weights = {t.name: t.dims for t in made.graph.initializer}
    sizes = {v: t.shape for layer in work.layers for v, t in ((layer.name, layer.outputs[0]),)}
    for layer in work.layers:
        if layer.op == "Conv":  # each output reads its filter once
            macs += math.prod(sizes[layer.name]) * math.prod(weights[layer.weights[0].names[0]][1:])
        elif layer.op == "ConvTranspose":  # each input is written to by its filters
            macs += layer.inputs[0].numel * math.prod(weights[layer.weights[0].names[0]][1:])
    assert work.total().macs == macs


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore")  # NumPy's, as the standard makes its examples
def test_every_example_of_the_standard(tmp_path: Path) -> None:
    """The standard's own models of one operator each (and its functions' bodies), with inputs and outputs: every one is
    read, and every shape that is found is right."""
    from onnx.backend.test.case.node import collect_testcases

    def size(x: Any) -> tuple[int, ...] | None:
        return tuple(x.dims) if isinstance(x, TensorProto) else getattr(x, "shape", None)

    seen: set[str] = set()
    path = tmp_path / "net.onnx"
    for case in collect_testcases(None):
        graph = case.model.graph
        inputs, results = case.data_sets[0]
        if any(size(x) is None or 0 in size(x) for x in inputs):
            continue  # no tensors, or of no size
        if max((o.version for o in case.model.opset_import if o.domain == ""), default=7) < 7:
            continue
        path.write_bytes(case.model.SerializeToString())
        pairs = zip(graph.input, inputs, strict=False)
        work = read(path, {v.name: size(x) for v, x in pairs if v.type.HasField("tensor_type")})
        seen.update(n.op_type for n in graph.node if not n.domain)
        assert Workload.from_json(work.to_json()) == work
        found = {t.shape for layer in work.layers for t in layer.outputs if t.role == "output"}
        assert found <= {size(x) for x in results}, case.name
        counted = work.coverage.counted + work.coverage.free + len(work.coverage.unknown)
        assert counted >= len(graph.node), case.name
    assert len(seen) > 180


# ---- what exporters and runtimes write -----------------------------------------------------------------------------------


@pytest.mark.parametrize(("opset", "scales"), [(18, 4), (20, 4), (21, 8)])
def test_group_norm_of_every_version(opset: int, scales: int, tmp_path: Path) -> None:
    """Up to 20 scale and shift are one per group (and the operator is deprecated), from 21 on one per channel."""
    nodes = [
        helper.make_node("GroupNormalization", ["x", "s", "b"], ["h"], num_groups=4),
        helper.make_node("Relu", ["h"], ["y"]),
    ]
    made = model(nodes, [value("x", 2, 8, 5)], ["y"], [array("s", scales), array("b", scales)], opset)
    work = record(tmp_path, made)
    assert not work.coverage.unknown and outputs(work) == [(2, 8, 5)] and work.total().norm == 2 * scales
    assert by_runtime(made, x=np.zeros((2, 8, 5), np.float32))[0].shape == (2, 8, 5)


def test_an_if_that_values_decide_is_an_assumption(tmp_path: Path) -> None:
    small = branch("small", [helper.make_node("Identity", ["x"], ["a"])], ["a"])
    large = branch("large", [helper.make_node("MatMul", ["x", "w"], ["b"], "fc")], ["b"], [array("w", 4, 4)])
    node = helper.make_node("If", ["c"], ["y"], "choice", then_branch=small, else_branch=large)
    made = model([node], [value("c", dtype=BOOL), value("x", 3, 4)], ["y"])
    work = record(tmp_path, made)
    assert work.assumptions == ("choice: an If whose condition is not a constant takes its costlier branch (else)",)
    for flag, macs in ((True, 0), (False, 48)):  # the input's value decides
        path = tmp_path / "net.onnx"
        work = read(path, values={"c": np.array(flag)})
        assert (work.macs, work.assumptions) == (macs, ())


def test_the_terminal_says_what_is_assumed_and_nothing_of_a_backward_pass(tmp_path: Path) -> None:
    small = branch("small", [helper.make_node("Identity", ["x"], ["a"])], ["a"])
    large = branch("large", [helper.make_node("MatMul", ["x", "w"], ["b"], "fc")], ["b"], [array("w", 4, 4)])
    node = helper.make_node("If", ["c"], ["y"], "choice", then_branch=small, else_branch=large)
    path = tmp_path / "net.onnx"
    path.write_bytes(model([node], [value("c", dtype=BOOL), value("x", 3, 4)], ["y"]).SerializeToString())
    shown = CliRunner().invoke(app, ["cost", str(path)]).output
    assert "assumed: choice: an If" in shown and "backward" not in shown
    document = json.loads(CliRunner().invoke(app, ["cost", str(path), "--json"]).output)
    assert document["assumptions"][0].startswith("choice: an If") and document["totals"]["backward_macs"] is None
    assert [layer["backward_macs"] for layer in document["layers"]] == [None] * len(document["layers"])


def test_the_values_of_inputs(tmp_path: Path) -> None:
    """The number of a loop's steps, and a shape; what they pass through is counted like every other input."""
    record(tmp_path, loop(None))
    path = tmp_path / "net.onnx"
    work = read(path, values={"m": np.array(6)})
    assert work.macs == 6 * 48 and not work.coverage.unknown and outputs(work) == [(3, 4), (6, 3, 4)]
    nodes = [helper.make_node("Mul", ["n", "two"], ["s"]), helper.make_node("Reshape", ["x", "s"], ["y"])]
    made = model(nodes, [value("x", 4, 6), value("n", 2, dtype=INT64)], ["y"], [ints("two", 2)])
    path.write_bytes(made.SerializeToString())
    assert not outputs(read(path))  # of a size that is not known
    work = read(path, values={"n": np.array([1, 6])})
    assert outputs(work) == [(2, 12)] and [layer.op for layer in work.layers] == ["Mul", "Reshape"]
    feeds = {"x": np.zeros((4, 6), np.float32), "n": np.array([1, 6])}
    assert ReferenceEvaluator(made).run(None, feeds)[0].shape == (2, 12)


def test_weights_of_less_than_a_byte(tmp_path: Path) -> None:
    """Stored as such, or packed into bytes by an operator of ONNX Runtime: as many parameters as there are values, and as
    many bytes as they take."""
    packed = numpy_helper.from_array(np.zeros((48, 2, 16), np.uint8), "q")
    node = helper.make_node("MatMulNBits", ["x", "q", "s"], ["y"], domain=MS, K=64, N=48, bits=4, block_size=32)
    work = record(tmp_path, model([node], [value("x", 5, 64)], ["y"], [packed, array("s", 96)]))
    total = work.total()
    assert (total.parameters, total.parameter_bytes, work.macs) == (64 * 48, 64 * 48 // 2, 5 * 64 * 48)
    assert [(w.dtype, w.shape) for w in work.weights] == [("uint4", (48, 64))]
    stored = helper.make_tensor("w", TensorProto.INT4, (5, 3), bytes(8), raw=True)
    nodes = [helper.make_node("DequantizeLinear", ["w", "s"], ["f"]), helper.make_node("MatMul", ["x", "f"], ["y"])]
    made = model(nodes, [value("x", 2, 5)], ["y"], [stored, numpy_helper.from_array(np.float32(1), "s")], opset=21)
    total = record(tmp_path, made).total()
    assert (total.parameters, total.parameter_bytes) == (15, 8)  # half a byte each, rounded up


def test_all_constants_of_an_einsum_are_parameters(tmp_path: Path) -> None:
    made = model(
        [helper.make_node("Einsum", ["x", "a", "b"], ["y"], equation="ij,jk,kl->il")],
        [value("x", 2, 3)], ["y"], [array("a", 3, 4), array("b", 4, 5)],
    )  # fmt: skip
    work = record(tmp_path, made)
    assert (work.total().parameters, work.buffers, work.macs) == (12 + 20, 0, 2 * 3 * 4 + 2 * 4 * 5)
    assert ReferenceEvaluator(made).run(None, {"x": np.ones((2, 3), np.float32)})[0].shape == outputs(work)[0]


@pytest.mark.parametrize(("activation", "fused", "third"), [("relu", 1, False), ("silu", 1, True), ("swiglu", 2, False)])
def test_mixtures_of_experts(activation: str, fused: int, third: bool, tmp_path: Path) -> None:
    """12 tokens, each to 2 of 8 experts from 16 to 24 features and back; ONNX Runtime takes the same shapes."""
    stored = [array("fc1", 8, fused * 24, 16), array("fc2", 8, 16, 24), *([array("fc3", 8, 24, 16)] if third else [])]
    names = ["x", "p", "fc1", "", "fc2", "", *(["fc3"] if third else [])]
    settings_ = {"k": 2, "activation_type": activation} | ({"swiglu_fusion": 1} if fused == 2 else {})
    made = model(
        [helper.make_node("MoE", names, ["y"], domain=MS, **settings_)],
        [value("x", 3, 4, 16), value("p", 12, 8)],
        ["y"],
        stored,
    )
    work = record(tmp_path, made)
    assert work.macs == 12 * 2 * (fused + 1 + third) * 16 * 24 and outputs(work) == [(3, 4, 16)] and not work.coverage.unknown
    assert work.total().parameters == 8 * (fused + 1 + third) * 16 * 24 == 4 * active_parameters(work)
    if not third:  # of which its CPU kernels have none
        feeds = {"x": np.zeros((3, 4, 16), np.float32), "p": np.zeros((12, 8), np.float32)}
        assert by_runtime(made, **feeds)[0].shape == (3, 4, 16)
