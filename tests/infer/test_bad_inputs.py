"""What is wrong is named in one line, and what is right beside it is answered."""

import json
import os
from pathlib import Path

import pytest
import torch
from torch import nn

import lamina
from lamina.errors import InputError, LaminaError
from lamina.infer import auto, engines
from lamina.infer.session import BATCH, Session

DIGITS = sorted((Path(lamina.__file__).parent / "data" / "digits").glob("*.png"))


# ---- images ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("engine", ["torch", "onnxruntime"])
def test_of_a_batch_with_a_bad_image_the_others_are_answered(engine, run, tmp_path):
    """More images than are run together; the bad ones are the first, one in the middle of a batch, and the last."""
    if engine not in engines.installed():
        pytest.skip(f"{engine} is not installed")
    paths, bad = DIGITS[: BATCH + 4], {0, 9, BATCH + 3}
    for place in bad:
        paths[place] = tmp_path / f"bad{place}.png"
        paths[place].write_bytes(DIGITS[place].read_bytes()[:100])
    code, out, err = run(f"run lenet5 --engine {engine} --json " + " ".join(map(str, paths)))
    answers = json.loads(out)
    assert code == 1 and [answer["input"] for answer in answers] == [str(path) for path in paths]
    for place, answer in enumerate(answers):
        if place in bad:
            assert f"bad{place}.png" in answer["error"] and f"lamina: {answer['error']}\n" in err
        else:
            assert answer["predictions"] == lamina.run("lenet5", paths[place], engine=engine)[0]["predictions"]
    assert err.count("\n") == len(bad)


def test_of_a_batch_of_bad_images_none_is_answered(tmp_path):
    (tmp_path / "a.png").write_text("no image")
    (answer,) = lamina.run("lenet5", tmp_path / "a.png")
    assert set(answer) == {"input", "error"} and "a.png" in answer["error"]


# ---- ONNX files -----------------------------------------------------------------------------------------------------


def graph(path, element=1, sizes=("n", 4), stored=()):
    """y = x, or with a stored w = x + w."""
    onnx = pytest.importorskip("onnx", reason="needs lamina[onnx]")
    pytest.importorskip("onnxruntime", reason="needs lamina[onnx]")
    x, y = (onnx.helper.make_tensor_value_info(name, element, sizes) for name in "xy")
    node = onnx.helper.make_node("Add", ["x", "w"], ["y"]) if stored else onnx.helper.make_node("Identity", ["x"], ["y"])
    made = onnx.helper.make_graph([node], "net", [x], [y], list(stored))
    path.write_bytes(
        onnx.helper.make_model(made, opset_imports=[onnx.helper.make_opsetid("", 17)], ir_version=8).SerializeToString()
    )
    return path


@pytest.mark.parametrize(
    ("element", "message"),
    [
        (1, "net.onnx does not say how images are prepared for it: give arrays to Session.run"),
        (7, "net.onnx takes text, not images"),
        (8, "the input x is a tensor(string): images and token ids are tensor(float), "),
    ],
)
def test_an_onnx_file_whose_inputs_are_not_images(element, message, refused, tmp_path):
    path = graph(tmp_path / "net.onnx", element)
    assert message in refused(f"run {path} {DIGITS[0]}")
    if element != 8:
        x = torch.ones(3, 4, dtype=torch.float32 if element == 1 else torch.int64)
        assert torch.equal(Session(path).run(x)[0], x)


@pytest.mark.parametrize("engine", ["onnxruntime", "openvino", "auto"])
@pytest.mark.parametrize("location", ["../secret", "sub/../../secret", "/{folder}/secret", "link"])
def test_external_data_outside_of_the_folder_are_not_opened(engine, location, tmp_path):
    """Four numbers that lie beside the file's folder, named as they are or through a link within it."""
    onnx = pytest.importorskip("onnx", reason="needs lamina[onnx]")
    if engine != "auto" and engine not in engines.installed():
        pytest.skip(f"{engine} is not installed")
    (tmp_path / "net").mkdir()
    secret = tmp_path / "secret"
    secret.write_bytes(bytes(16))
    os.symlink(secret, tmp_path / "net" / "link")
    w = onnx.TensorProto(name="w", data_type=1, dims=(4,), data_location=onnx.TensorProto.EXTERNAL)
    w.external_data.add(key="location", value=location.format(folder=str(tmp_path).lstrip("/")))
    path = graph(tmp_path / "net" / "net.onnx", stored=[w])
    with pytest.raises(LaminaError, match="outside of the file's own folder"):
        Session(path, engine=engine)


def test_external_data_within_the_folder_are_read(tmp_path):
    onnx = pytest.importorskip("onnx", reason="needs lamina[onnx]")
    (tmp_path / "data.bin").write_bytes(torch.arange(4.0).numpy().tobytes())
    w = onnx.TensorProto(name="w", data_type=1, dims=(4,), data_location=onnx.TensorProto.EXTERNAL)
    w.external_data.add(key="location", value="data.bin")
    path = graph(tmp_path / "net.onnx", stored=[w])
    assert Session(path).run(torch.ones(1, 4))[0].tolist() == [[1, 2, 3, 4]]


# ---- engines, the cache ---------------------------------------------------------------------------------------------


def test_an_engine_that_is_not_installed_is_named_with_what_brings_it(refused, monkeypatch):
    monkeypatch.setattr(engines, "find_spec", lambda library: None)
    for command in (f"run lenet5 {DIGITS[0]}", "bench lenet5"):
        said = refused(f"{command} --engine openvino")
        assert "the engine openvino needs openvino: pip install" in said and "[openvino]" in said


def test_a_cache_that_cannot_be_written_is_done_without(ok, monkeypatch, tmp_path):
    (tmp_path / "file").write_text("")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "file"))  # a folder cannot be made below a file
    monkeypatch.setattr(auto, "default", lambda program: ["torch"])  # one that starts at once
    (answer,) = json.loads(ok(f"run lenet5 {DIGITS[0]} --engine auto --json"))
    assert answer["predictions"][0]["label"] == lamina.run("lenet5", DIGITS[0])[0]["predictions"][0]["label"]


class Net(nn.Module):
    def forward(self, x):
        return 2 * x


def test_a_choice_of_another_version_is_made_anew(monkeypatch):
    program = auto.Program("Net", (torch.ones(1, 4),), Net())
    auto.remember(program, [auto.Trial("torch", median_s=1.0)])
    assert auto.remembered(program) is not None
    real = auto.versions
    monkeypatch.setattr(auto, "versions", lambda: real() | {"torch": "1.0"})
    assert auto.remembered(program) is None


@pytest.mark.parametrize("when", ["starting", "measuring"])
def test_an_interrupted_choice_is_not_remembered(when, run, monkeypatch):
    def interrupted(*_, **__):
        raise KeyboardInterrupt

    monkeypatch.setattr(auto, "default", lambda program: ["torch"])  # one that starts at once
    place = (engines, "start") if when == "starting" else (auto, "take_turns")
    real = getattr(*place)
    monkeypatch.setattr(*place, interrupted)
    code, out, err = run(f"run lenet5 {DIGITS[0]} --engine auto")
    assert (code, out) == (130, "") and "Traceback" not in err
    assert not list(auto._folder().glob("*")) if auto._folder().exists() else True
    monkeypatch.setattr(*place, real)
    assert run(f"run lenet5 {DIGITS[0]} --engine auto")[0] == 0 and len(list(auto._folder().glob("*.json"))) == 1


def test_no_engine_is_one_line(refused):
    assert "there is no engine 'fast'" in refused(f"run lenet5 {DIGITS[0]} --engine fast")
    with pytest.raises(InputError, match="there is no engine 'fast'"):
        Session("lenet5", engine="fast")
