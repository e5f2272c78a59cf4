"""Triton's model repositories: the configuration as Triton's own schema reads it, and the file beside the running server."""

import json
from pathlib import Path

import numpy as np
import pytest
from google.protobuf import text_format
from tritonclient import http as triton
from tritonclient.grpc import model_config_pb2 as schema

import lamina
from lamina.errors import LaminaError
from lamina.serve import triton as repository
from lamina.serve.models import wanted

from .serving import serving

onnxruntime = pytest.importorskip("onnxruntime", reason="needs lamina[onnx]")


def parsed(text: str) -> schema.ModelConfig:
    return text_format.Parse(text, schema.ModelConfig())


def test_the_repository_answers_as_the_server_does(ok, tmp_path):
    """No Triton runs here: its schema reads the configuration, ONNX Runtime, its back end, runs the file under the names that
    the configuration gives, and Triton's client asks the server."""
    document = json.loads(ok(f"export vit_mnist {tmp_path} --triton --batch 8 --json"))
    files = sorted(path.relative_to(tmp_path).as_posix() for path in tmp_path.rglob("*") if path.is_file())
    assert files == ["vit_mnist/1/model.onnx", "vit_mnist/config.pbtxt", "vit_mnist/labels.txt"]
    assert document["name"] == "vit_mnist" and max(document["checked"].values()) < 1e-4
    config = parsed((tmp_path / "vit_mnist/config.pbtxt").read_text())
    assert (config.name, config.backend, config.max_batch_size) == ("vit_mnist", "onnxruntime", 8)
    (x,), (y,) = config.input, config.output
    assert (x.data_type, list(x.dims)) == (schema.TYPE_FP32, [1, 28, 28])
    assert (y.data_type, list(y.dims), y.label_filename) == (schema.TYPE_FP32, [10], "labels.txt")
    assert config.HasField("dynamic_batching")
    assert (tmp_path / "vit_mnist/labels.txt").read_text().split() == [str(i) for i in range(10)]
    session = onnxruntime.InferenceSession(str(tmp_path / "vit_mnist/1/model.onnx"), providers=["CPUExecutionProvider"])
    images = np.random.default_rng(0).standard_normal((4, 1, 28, 28), np.float32)
    (ours,) = session.run([y.name], {x.name: images})
    with serving(*wanted(["vit_mnist", f"file={tmp_path}/vit_mnist/1/model.onnx"], threads=1)) as server:
        client = triton.InferenceServerClient(f"127.0.0.1:{server.port}")
        given = triton.InferInput(x.name, list(images.shape), "FP32")
        given.set_data_from_numpy(images)
        theirs = client.infer("vit_mnist", [given]).as_numpy(y.name)
        file = client.get_model_metadata("file")
        of_file = client.infer("file", [given]).as_numpy(y.name)
        digit = (Path(lamina.__file__).parent / "data/digits/7_00.png").read_bytes()
        label = server.ask("POST", "/images/file?top=1", digit)[1][0]["predictions"][0]["label"]
        client.close()
    assert file == {
        "name": "file",
        "versions": ["1"],
        "platform": "lamina_onnxruntime",
        "inputs": [{"name": "x", "datatype": "FP32", "shape": [-1, 1, 28, 28]}],
        "outputs": [{"name": "output", "datatype": "FP32", "shape": [-1, 10]}],
    }
    assert np.abs(of_file - ours).max() < 1e-6 and label == "7"
    assert np.abs(ours - theirs).max() < 1e-4 * np.abs(theirs).max()


def test_names_types_and_outputs_without_an_axis():
    row = {"name": 'a "name"', "shape": ["batch", "length"], "type": "int64"}
    config = parsed(repository.config("über", [row], [{"name": "sum", "shape": ["batch"], "type": "float"}], 4))
    assert config.name == "über" and config.input[0].name == 'a "name"'
    assert (config.input[0].data_type, list(config.input[0].dims)) == (schema.TYPE_INT64, [-1])
    assert list(config.output[0].dims) == [1] and list(config.output[0].reshape.shape) == []
    with pytest.raises(LaminaError, match="sum is a complex64"):
        repository.config("m", [], [{"name": "sum", "shape": ["batch"], "type": "complex64"}], 4)


def test_a_file_in_the_way(run, tmp_path):
    (tmp_path / "there").write_text("")
    code, out, err = run(f"export vit_mnist {tmp_path}/there --triton")
    assert (code, out) == (1, "") and "there/vit_mnist cannot be written" in err and err.count("\n") == 1
