"""`lamina train --from`: weights to begin with, a head for other classes, and a rate of its own for the body."""

import json
from pathlib import Path
from typing import Any

import pytest
import torch

import lamina
from lamina.errors import InputError
from lamina.scale.growth import grow
from lamina.train import launch, optim
from lamina.train.recipe import Optimizer, loads
from lamina.weights import trained
from tests.training import TINY, weights, write_mnist

NETWORK = "changes = {patch = 14, depth = 1, width = 16, mlp = 16, n_heads = 2}"


@pytest.fixture
def recipe(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    write_mnist(tmp_path / "data")
    monkeypatch.setenv("LAMINA_DATA", str(tmp_path / "data"))
    path = tmp_path / "tiny.toml"
    path.write_text(TINY)
    return path


def test_a_run_goes_on_from_the_weights_of_another(recipe: Path, tmp_path: Path, ok: Any) -> None:
    ok(f"train {recipe} --out {tmp_path / 'a'} --json")
    ok(f"train {recipe} --from {tmp_path / 'a'} --set optimizer.lr=1e-20 --out {tmp_path / 'b'} --json")
    a, b = weights(tmp_path / "a"), weights(tmp_path / "b")
    assert all(torch.allclose(a[k], b[k], atol=1e-6) for k in a)


def test_a_grown_network_is_trained(recipe: Path, tmp_path: Path, ok: Any) -> None:
    ok(f"train {recipe} --out {tmp_path / 'a'} --json")
    ok(f"grow {tmp_path / 'a'} --depth 2 --heads 2 --operator depth=zero --out {tmp_path / 'g'}")
    result = json.loads(ok(f"train {recipe} --from {tmp_path / 'g'} --out {tmp_path / 'b'} --json"))
    assert result["network"] == "vit_mnist" and result["test"]["count"] == 30
    assert trained.changes(tmp_path / "b" / "weights.safetensors")["depth"] == 2
    assert "blocks.1.attention.out.weight" in weights(tmp_path / "b")
    resumed = ok(f"train {recipe} --from {tmp_path / 'g'} --out {tmp_path / 'b'} --resume --json")
    assert json.loads(resumed)["step"] == result["step"]


def test_other_classes_have_a_new_head(recipe: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    net = lamina.build("vit_mnist", patch=14, depth=1, width=16, mlp=16, n_heads=2)
    trained.save(tmp_path / "w" / "weights.safetensors", "vit_mnist", net, {"image": "{}"})
    plan = launch.starting(loads(TINY.replace("n_heads = 2}", "n_heads = 2, num_classes = 12}"), "tiny"), str(tmp_path / "w"))
    module: Any = launch.network(plan)
    assert module.head.out_features == 12 and "head.weight" in caplog.text
    assert torch.equal(module.blocks[0].fc1.weight, net.blocks[0].fc1.weight)


def test_the_body_has_a_rate_of_its_own() -> None:
    net = lamina.build("vit_mnist")
    options = Optimizer("adamw", 1e-3, body=0.1, weight_decay=0.5)
    groups = optim.optimizer(net, options).param_groups
    factors = {p: g["factor"] for g in groups for p in g["params"]}
    assert {factors[p] for p in net.head.parameters()} == {1.0}
    assert {f for p, f in factors.items() if all(p is not q for q in net.head.parameters())} == {0.1}
    assert len(factors) == len(list(net.parameters()))
    assert {g["factor"] for g in optim.optimizer(net, Optimizer("adamw", 1e-3)).param_groups} == {1.0}
    with pytest.raises(InputError, match="no last linear layer"):
        optim.optimizer(torch.nn.Linear(3, 3), options)


def test_a_frozen_body_stays(recipe: Path, tmp_path: Path, ok: Any) -> None:
    ok(f"train {recipe} --out {tmp_path / 'a'} --json")
    ok(f"train {recipe} --from {tmp_path / 'a'} --set optimizer.body=0 --out {tmp_path / 'b'} --json")
    a, b = weights(tmp_path / "a"), weights(tmp_path / "b")
    assert torch.equal(a["blocks.0.fc1.weight"], b["blocks.0.fc1.weight"])
    assert not torch.equal(a["head.weight"], b["head.weight"])


def test_wrong_calls(recipe: Path, tmp_path: Path, run: Any) -> None:
    for start in ("nowhere", str(recipe), str(tmp_path)):
        code, _, err = run(f"train {recipe} --from {start} --out {tmp_path / 'x'}")
        assert code == 2 and "no network is called" in err, err


def test_growing_in_python_and_back(tmp_path: Path) -> None:
    net = lamina.build("resnet20_cifar")
    grown = grow(net, depth=2, operator={"depth": "zero"}).module
    trained.save(tmp_path / "weights.safetensors", "resnet20_cifar", grown, {"image": "{}"})
    again = lamina.load("resnet20_cifar", tmp_path / "weights.safetensors")
    assert again.config == grown.config
