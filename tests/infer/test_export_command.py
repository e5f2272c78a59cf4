"""`lamina export`: one file that any runtime answers from as torch does, with what is needed to use it inside."""

import json
from pathlib import Path

import numpy as np
import pytest
import torch

import lamina
from lamina.data.image import ImageSpec, prepare
from lamina.errors import LaminaError
from lamina.infer import export
from tests import training

onnxruntime = pytest.importorskip("onnxruntime", reason="needs lamina[onnx]")
pytest.importorskip("onnxscript", reason="needs lamina[onnx]")

DIGITS = sorted((Path(lamina.__file__).parent / "data" / "digits").glob("*.png"))[:6]
OWN = """
import torch
from torch import nn

class Two(nn.Module):
    def __init__(self):
        super().__init__()
        self.a, self.b = nn.Linear(3, 4), nn.Linear(5, 4)
        self.register_buffer("shift", torch.arange(4.0), persistent=False)

    def forward(self, x, y, scale=None):
        return self.a(x) + self.b(y) + self.shift

def build():
    torch.manual_seed(0)
    return Two()
"""


def test_a_shipped_network_is_used_from_the_file_alone(ok, tmp_path):
    """What ONNX Runtime finds in the file is enough to read digits as `lamina run` reads them."""
    path = tmp_path / "lenet.onnx"
    document = json.loads(ok(f"export lenet5 {path} --json"))
    assert document["checked"].keys() == {"1", "2", "5"} and max(document["checked"].values()) < 1e-5
    assert document["inputs"] == [{"name": "x", "shape": ["batch", 1, 32, 32], "type": "float"}]
    assert (document["model"], document["weights"], document["opset"]) == ("lenet5", "lenet5_mnist.safetensors", 20)
    assert document["bytes"] == path.stat().st_size and [p.name for p in tmp_path.iterdir()] == ["lenet.onnx"]
    session = onnxruntime.InferenceSession(str(path), providers=["CPUExecutionProvider"])
    facts = session.get_modelmeta().custom_metadata_map
    assert facts == document["metadata"] == export.describe(path)["metadata"]
    spec, classes = ImageSpec.of(json.loads(facts["image"])), json.loads(facts["classes"])
    assert len(json.loads(facts["image"])) == 9 and spec.std == pytest.approx((1 / 1.275,))
    images = torch.stack([prepare(digit, spec) for digit in DIGITS]).numpy()
    (scores,) = session.run(["output"], {"x": images})
    shares = np.exp(float(facts["score_scale"]) * scores)
    shares /= shares.sum(axis=1, keepdims=True)
    again = lamina.run(path, DIGITS, top=1)
    for row, answer, same in zip(shares, lamina.run("lenet5", DIGITS, top=1), again, strict=True):
        (best,) = answer["predictions"]
        assert same["predictions"][0]["label"] == best["label"]
        assert classes[int(row.argmax())] == best["label"]
        assert 100 * row.max() == pytest.approx(best["probability"], abs=1e-3)


def test_a_transformer_has_its_tokenizer(ok, tmp_path):
    path = tmp_path / "t.onnx"
    out = ok(f"export transformer_de_en {path} --input 1x9")
    assert "source batchx9, target batchx9" in out and "batches 1, 2, 5 in ONNX Runtime" in out
    from lamina.data.text import Codec

    facts = export.describe(path)["metadata"]
    assert (facts["source"], facts["target"]) == ("de", "en") and Codec.read(facts["tokenizer"]).size == 4000


def test_a_network_of_one_s_own(ok, refused, tmp_path):
    """With two inputs, a buffer that no weight file holds, and weights of a file."""
    (tmp_path / "own.py").write_text(OWN)
    own, path = f"{tmp_path}/own.py:build", tmp_path / "own.onnx"
    ok(f"export {own} {path} --input x=1x3 --input y=1x5")
    x, y = torch.randn(7, 3), torch.randn(7, 5)
    space: dict = {}
    exec(OWN, space)
    module = space["build"]().eval()
    assert export.check_onnx(path, module, (x, y)) < 1e-6
    with torch.no_grad():
        module.a.weight += 1
    torch.save(module.state_dict(), tmp_path / "own.pt")
    document = json.loads(ok(f"export {own} {path} --input x=1x3 --input y=1x5 --weights {tmp_path}/own.pt --batch 3 --json"))
    assert document["inputs"][1] == {"name": "y", "shape": [3, 5], "type": "float"} and document["checked"].keys() == {"3"}
    assert export.check_onnx(path, module, (x[:3], y[:3])) < 1e-6
    assert "say the shape of y, as in --input y=" in refused(f"export {own} {path} --input x=1x3")
    assert "does not fit" in refused(f"export {own} {path} --input x=1x3 --input y=1x5 --weights {weights('lenet5')}")
    assert "none.pt: no such weight file" in refused(f"export {own} {path} --input x=1x3 --input y=1x5 --weights none.pt")


def weights(name):
    from lamina.weights import finding

    return finding.find(name).path


def test_an_answer_that_differs_is_not_written(tmp_path, monkeypatch):
    path = tmp_path / "net.onnx"
    path.write_text("before")
    differences = iter((0.0, 2e-4, 0.0))
    monkeypatch.setattr(export, "check_onnx", lambda *_: next(differences))
    with pytest.raises(LaminaError, match=r"net\.onnx is not written: of a batch of 2 it would answer 2\.0e-04 off"):
        export.export_checked(torch.nn.ReLU(), (torch.empty(1, 3),), path)
    assert path.read_text() == "before" and [p.name for p in tmp_path.iterdir()] == ["net.onnx"]


def test_a_run_s_folder(ok, tmp_path, monkeypatch):
    """What `lamina train` has left is exported by its folder, with the recipe's changes of the network."""
    from lamina.train import launch
    from lamina.train.recipe import read

    training.write_mnist(tmp_path / "data")
    monkeypatch.setenv("LAMINA_DATA", str(tmp_path / "data"))
    (tmp_path / "tiny.toml").write_text(training.TINY)
    launch.train(read(tmp_path / "tiny.toml"), tmp_path / "run")
    ok(f"export {tmp_path}/run {tmp_path}/run.onnx")
    described = export.describe(tmp_path / "run.onnx")
    assert described["inputs"][0]["shape"] == ["batch", 1, 28, 28]
    assert json.loads(described["metadata"]["classes"]) == list("0123456789")


def test_bad_calls(refused, tmp_path):
    assert "the nearest are" in refused(f"export lenet6 {tmp_path}/a.onnx")
    assert "no such folder" in refused(f"export lenet5 {tmp_path}/none/a.onnx")
    assert "it is a folder" in refused(f"export lenet5 {tmp_path}")
    assert "give a file with --weights" in refused(f"export plain18 {tmp_path}/a.onnx")
    (tmp_path / "a.txt").write_text("no")
    with pytest.raises(LaminaError, match=r"a\.txt is not an ONNX file: "):
        export.describe(tmp_path / "a.txt")
    assert [p.name for p in tmp_path.iterdir()] == ["a.txt"]
