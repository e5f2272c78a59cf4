"""The seed of training: it learns, gives the same result twice, and writes a whole file or none."""

import json
import sys
import tomllib
from importlib.resources import files

import pytest
import torch

import lamina
from lamina.train import loop


@pytest.fixture
def recipe():
    text = files("lamina.train").joinpath("recipes", "lenet5_mnist.toml").read_text()
    return tomllib.loads(text) | {"epochs": 3, "batch": 20, "optimizer": {"lr": 5e-3, "weight_decay": 1e-2}}


@pytest.fixture
def bars():
    """Ten kinds of pictures that are easy to tell: a bright bar, row by row."""
    torch.manual_seed(0)
    labels = torch.arange(200) % 10
    pixels = torch.randint(0, 60, (200, 1, 28, 28), dtype=torch.uint8)
    for i, label in enumerate(labels.tolist()):
        pixels[i, 0, 2 * label + 3 : 2 * label + 5] = 250
    return pixels, labels


def test_it_learns_and_repeats_itself(recipe, bars):
    results = []
    for _ in range(2):
        torch.manual_seed(0)
        net = lamina.build("lenet5")
        metrics = loop.train(net, recipe, *bars, validation=40)
        results.append((metrics, net.state_dict()))
    (first, a), (second, b) = results
    assert {k: v for k, v in first.items() if k != "seconds"} == {k: v for k, v in second.items() if k != "seconds"}
    assert all(torch.equal(a[k], b[k]) for k in a)
    assert first["validation_top1"] > 50  # chance is 10
    assert torch.equal(a["rbf.codes"], lamina.build("lenet5").rbf.codes)  # the codes are fixed


def test_a_loss_that_is_not_finite_stops(recipe, bars):
    net = lamina.build("lenet5")
    with torch.no_grad():
        net.f6.weight.fill_(float("nan"))
    with pytest.raises(FloatingPointError, match="the loss is nan in epoch 0, at lr"):
        loop.train(net, recipe, *bars, validation=0)


def test_shifts_move_pictures_and_bring_in_zeros():
    pixels = torch.zeros(300, 1, 5, 5, dtype=torch.uint8)
    pixels[:, 0, 2, 2] = 9
    moved = loop.shifted(pixels, 1, torch.Generator().manual_seed(0))
    places = {tuple(p.nonzero()[0].tolist()) for p in moved[:, 0]}
    assert places == {(r, c) for r in (1, 2, 3) for c in (1, 2, 3)}
    assert (moved.sum(dim=(1, 2, 3)) == 9).all()


def test_the_command_writes_a_file_that_loads(bars, tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(loop.mnist, "load", lambda split: bars)
    out = tmp_path / "net.safetensors"
    monkeypatch.setattr(sys, "argv", ["loop", "lenet5_mnist", "--out", str(out), "--epochs", "1"])
    loop.main()
    assert json.loads(capsys.readouterr().out.splitlines()[-1])["file"] == str(out)
    assert [p.name for p in tmp_path.iterdir()] == ["net.safetensors"]
    assert lamina.load("lenet5", out)(torch.zeros(1, 1, 32, 32)).shape == (1, 10)
