"""ONNX operators on which other tools crash (onnx-tool#87, #66, #110): here they are counted, or listed as unknown."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from lamina.workload import Workload

onnx = pytest.importorskip("onnx", reason="needs lamina[onnx]")

from onnx import TensorProto, helper, numpy_helper  # noqa: E402

from lamina.onnx.graph import read  # noqa: E402

FLOAT, BOOL, INT64 = TensorProto.FLOAT, TensorProto.BOOL, TensorProto.INT64
SQUARE = numpy_helper.from_array(np.eye(8, dtype=np.float32), "w")
MATMUL = 4 * 8 * 8  # x (4, 8) by w (8, 8)


def tensor(name: str, shape: Sequence[int] | None, dtype: int = FLOAT) -> Any:
    return helper.make_tensor_value_info(name, dtype, shape)


def record(folder: Path, nodes: Sequence[Any], inputs: Sequence[Any], stored: Sequence[Any] = ()) -> Workload:
    """A model whose outputs are those of its last node."""
    outputs = [tensor(name, None) for name in nodes[-1].output]
    graph = helper.make_graph(nodes, "net", inputs, outputs, [SQUARE, *stored])
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 20)]), folder / "net.onnx")
    return read(folder / "net.onnx")


def body(scan: bool) -> Any:
    """h = h @ w, which may also be an output of each step."""
    nodes = [helper.make_node("MatMul", ["h", "w"], ["h2"]), helper.make_node("Identity", ["go"], ["go2"])]
    nodes += [helper.make_node("Identity", ["h2"], ["seen"])] if scan else []
    ends = [tensor("go2", None, BOOL), tensor("h2", None), *([tensor("seen", None)] if scan else [])]
    return helper.make_graph(nodes, "body", [tensor("i", (), INT64), tensor("go", (), BOOL), tensor("h", None)], ends)


@pytest.mark.parametrize("scan", [False, True])
def test_loop(scan: bool, tmp_path: Path) -> None:
    outputs = ["y", "all"] if scan else ["y"]
    node = helper.make_node("Loop", ["trips", "", "x"], outputs, "loop", body=body(scan))
    trips = numpy_helper.from_array(np.array(6), "trips")
    work = record(tmp_path, [node], [tensor("x", (4, 8))], [trips])
    assert (work.total().macs, work.total().parameters, work.coverage.unknown) == (6 * MATMUL, 64, ())
    assert [t.shape for t in work.layers[-1].outputs] == [(4, 8), (6, 4, 8)][: len(outputs)]


def test_a_loop_of_unknown_length_is_listed(tmp_path: Path) -> None:
    node = helper.make_node("Loop", ["trips", "", "x"], ["y"], "loop", body=body(False))
    work = record(tmp_path, [node], [tensor("x", (4, 8)), tensor("trips", (), INT64)])
    assert work.total().macs == MATMUL
    assert [u.layer for u in work.coverage.unknown] == ["loop"] and "Loop" in work.coverage.unknown[0].op


def test_if(tmp_path: Path) -> None:
    once = helper.make_graph([helper.make_node("MatMul", ["x", "w"], ["a"])], "once", [], [tensor("a", None)])
    twice_nodes = [helper.make_node("MatMul", ["x", "w"], ["b"]), helper.make_node("MatMul", ["b", "w"], ["c"])]
    twice = helper.make_graph(twice_nodes, "twice", [], [tensor("c", None)])
    node = helper.make_node("If", ["flag"], ["y"], "if", then_branch=once, else_branch=twice)
    work = record(tmp_path, [node], [tensor("x", (4, 8)), tensor("flag", (), BOOL)])
    assert (work.total().macs, work.coverage.unknown) == (2 * MATMUL, ())
    assert work.layers[-1].attributes["branch"] == "else"
    flag = numpy_helper.from_array(np.array(True), "flag")
    assert record(tmp_path, [node], [tensor("x", (4, 8))], [flag]).total().macs == MATMUL


def test_one_dimensional_max_pool(tmp_path: Path) -> None:
    node = helper.make_node("MaxPool", ["x"], ["y"], kernel_shape=[3], strides=[2], pads=[1, 1])
    work = record(tmp_path, [node], [tensor("x", (2, 5, 16))])
    (layer,) = work.layers
    assert (layer.kind, layer.outputs[0].shape, layer.ops) == ("pool", (2, 5, 8), {"compare": 2 * 5 * 8 * 2})
    assert work.coverage.counted == 1 and not work.coverage.unknown


def test_dynamic_quantisation(tmp_path: Path) -> None:
    """Quantise what comes in, multiply in integers, scale back: the product is counted, the rest is known arithmetic."""
    weight = numpy_helper.from_array(np.eye(8, dtype=np.int8), "wq")
    nodes = [
        helper.make_node("DynamicQuantizeLinear", ["x"], ["q", "scale", "zero"]),
        helper.make_node("MatMulInteger", ["q", "wq", "zero"], ["m"]),
        helper.make_node("Cast", ["m"], ["f"], to=FLOAT),
        helper.make_node("Mul", ["f", "scale"], ["y"]),
    ]
    work = record(tmp_path, nodes, [tensor("x", (4, 8))], [weight])
    assert (work.total().macs, work.coverage.counted, work.coverage.free, work.coverage.unknown) == (MATMUL, 3, 1, ())
    assert [layer.kind for layer in work.layers] == ["elementwise", "linear", "copy", "elementwise"]
    assert [(t.shape, t.dtype) for t in work.layers[0].outputs] == [((4, 8), "uint8"), ((), "float32"), ((), "uint8")]
    assert {w.names[0]: w.dtype for w in work.weights} == {"wq": "int8", "w": "float32"}
    assert work.parameters_unused == 64
