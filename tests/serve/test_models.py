"""Networks as they are served: what is known of their inputs and outputs, which can share a run, and what they are called."""

import numpy as np
import pytest
import torch
from torch import nn

from lamina.errors import InputError
from lamina.infer.session import Session
from lamina.serve.models import Arrays, wanted
from lamina.serve.names import plain
from lamina.serve.protocol import Port

from .serving import own, serving


class Function(nn.Module):
    def __init__(self, function):
        super().__init__()
        self.function = function

    def forward(self, x):
        return self.function(x)


def served(function, example=None) -> Arrays:
    return Arrays(Session(Function(function), example=(torch.ones(1, 2) if example is None else example,)))


def test_rows_that_come_back_as_rows_share_a_run():
    network = served(lambda x: (x + 1, x.sum(1, dtype=torch.int64).float()))
    assert network.batches
    assert network.inputs == (Port("x", "FP32", (-1, 2)),)
    assert network.outputs == (Port("output", "FP32", (-1, 2)), Port("output_1", "FP32", (-1,)))
    first, second = network.run([[np.array([[1, 2]], np.float32)], [np.array([[3, 4], [5, 6]], np.float32)]])
    assert first[0].tolist() == [[2, 3]] and first[1].tolist() == [3]
    assert second[0].tolist() == [[4, 5], [6, 7]] and second[1].tolist() == [7, 11]


@pytest.mark.parametrize("function", [lambda x: x.sum(), lambda x: x.sum(0), lambda x: (x, x.mean())])
def test_what_mixes_rows_is_run_by_itself(function):
    network = served(function)
    assert not network.batches and network.inputs == (Port("x", "FP32", (1, 2)),)
    with serving(own(Function(function))) as server:
        status, answer, _ = server.infer([[1, 2], [3, 4]])
        assert status == 400 and "has the shape 1x2, not 2x2" in answer["error"]
        assert server.infer([[1, 2]])[0] == 200


def test_an_onnx_file_of_one_batch_size(tmp_path):
    onnx = pytest.importorskip("onnx", reason="needs lamina[onnx]")
    pytest.importorskip("onnxruntime", reason="needs lamina[onnx]")
    make, kind = onnx.helper.make_tensor_value_info, onnx.TensorProto.FLOAT
    graph = onnx.helper.make_graph(
        [onnx.helper.make_node("Neg", ["in"], ["out"])], "g", [make("in", kind, [3, 2])], [make("out", kind, [3, 2])]
    )
    model = onnx.helper.make_model(graph, opset_imports=[onnx.helper.make_opsetid("", 20)], ir_version=10)
    onnx.save(model, str(tmp_path / "neg.onnx"))
    network = wanted([str(tmp_path / "neg.onnx")])[0].load()
    assert (network.batches, network.inputs, network.outputs) == (
        False,
        (Port("in", "FP32", (3, 2)),),
        (Port("out", "FP32", (3, 2)),),
    )
    x = np.arange(6, dtype=np.float32).reshape(3, 2)
    np.testing.assert_array_equal(network.run([[x]])[0][0], -x)


def test_arrays_from_any_byte_of_a_body():
    body = bytearray(b"x" + np.array([[1, 2]], "<f4").tobytes())
    x = np.frombuffer(memoryview(body)[1:], "<f4").reshape(1, 2)
    assert not x.flags.aligned
    assert served(lambda x: 2 * x).run([[x]])[0][0].tolist() == [[2, 4]]


@pytest.mark.parametrize(
    ("model", "name"),
    [
        ("resnet50", "resnet50"),
        ("timm:vit_tiny_patch16_224.augreg_in21k", "vit_tiny_patch16_224.augreg_in21k"),
        ("hf:google/vit-base", "vit-base"),
        ("a/folder/my net.onnx", "my_net"),
        ("model.py:build", "build"),
        ("../..", "model"),
    ],
)
def test_names(model, name):
    assert plain(model) == name and wanted([model])[0].name == name


def test_names_of_one_s_own():
    one, other = wanted(["a=resnet50", "b.2=resnet50"], threads=3)
    assert (one.name, one.model, one.threads, other.name) == ("a", "resnet50", 3, "b.2")
    with pytest.raises(InputError, match="two networks are called a: name one of them, as in a_2=vgg16"):
        wanted(["a=resnet50", "a=vgg16"])
