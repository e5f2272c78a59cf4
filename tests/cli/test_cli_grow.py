"""`lamina grow` and `lamina shrink`: a folder that the other verbs take."""

import json
from pathlib import Path
from typing import Any

import pytest
from PIL import Image


@pytest.fixture
def digit(tmp_path: Path) -> Path:
    path = tmp_path / "digit.png"
    Image.new("L", (28, 28), 40).save(path)
    return path


@pytest.mark.slow
def test_a_grown_network_answers_as_before(ok: Any, tmp_path: Path, digit: Path) -> None:
    out = tmp_path / "grown"
    sizes = "--feed-forward 2 --heads 2 --depth 2 --operator depth=zero --exactness exact"
    document = json.loads(ok(f"grow vit_mnist {sizes} --out {out} --json"))
    assert document["verified"]["class"] == "exact" and document["verified"]["passed"]
    assert document["verified"]["max_difference"] < 1e-5
    assert {"layer": "blocks.0.attention", "operator": "heads:duplicate", "class": "exact"} in document["operators"]
    answers = [
        json.loads(ok(f"run {model} {digit} --json"))[0]["predictions"]
        for model in ("vit_mnist", out, f"{out}/weights.safetensors")
    ]
    assert answers[1] == answers[2]
    assert [p["index"] for p in answers[0]] == [p["index"] for p in answers[1]]
    cost = json.loads(ok(f"cost {out} --json"))
    assert cost["totals"]["parameters"] == document["parameters"][1] == 803_850
    again = json.loads(
        ok(f"shrink {out} --feed-forward 2 --heads 2 --depth 2 --operator depth=coarsen --out {tmp_path / 'back'} --json")
    )
    assert again["parameters"][1] == document["parameters"][0]


@pytest.mark.slow
def test_the_order_of_a_split_is_shown(ok: Any, tmp_path: Path) -> None:
    assert "order" in ok(f"grow vit_mnist --depth 2 --out {tmp_path / 'split'}")


def test_a_translator_grows(ok: Any, tmp_path: Path) -> None:
    ok(f"grow transformer_de_en --heads 2 --out {tmp_path / 'wide'}")
    sentence = '"Ich habe keine Zeit."'
    assert ok(f"translate {tmp_path / 'wide'} {sentence}") == ok(f"translate transformer_de_en {sentence}")


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ("grow vit_mnist --out {out}", "nothing to change"),
        ("grow vit_mnist --depth two --out {out}", "--depth is a factor"),
        ("grow vit_mnist --depth 2 --operator zero --out {out}", "AXIS=NAME"),
        ("grow vit_mnist --depth 2 --exactness exact --out {out}", "consistent, and exact was asked for"),
        ("grow vit_mnist --heads 2 --data nowhere --out {out}", "no data set 'nowhere'"),
        ("grow resnet20_cifar --resolution 2 --out {out}", "layer2.0.conv1 has a stride of 2"),
        ("grow {full} --heads 2 --out {out}", "no network is called"),
        ("grow vit_mnist --heads 2 --out {full}", "is not empty"),
        ("grow {file} --heads 2 --out {out}", "cut short or not a safetensors file"),
    ],
)
def test_wrong_calls(run: Any, tmp_path: Path, line: str, message: str) -> None:
    full, file = tmp_path / "full", tmp_path / "weights.safetensors"
    full.mkdir()
    (full / "something").touch()
    file.write_bytes(b"1234")
    code, out, err = run(line.format(out=tmp_path / "out", full=full, file=file))
    assert code in (1, 2) and out == "" and message in err, err
    assert not (tmp_path / "out").exists()
