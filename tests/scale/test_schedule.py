"""Multilevel training: levels, growth between them, budgets, and going on."""

import json
from pathlib import Path
from typing import Any

import pytest
import torch

from lamina.errors import InputError
from lamina.scale import schedule
from lamina.train.recipe import loads
from lamina.weights import trained
from tests.training import TINY, write_mnist

LEVELS = """
[[levels]]
epochs = 1

[[levels]]
epochs = 1
grow = {depth = 2}
operator = {depth = "zero"}
warmup = 1

[[levels]]
macs = 2e7
grow = {depth = 2, heads = 2}
"""
# 4 patches of 196 pixels to 16 features, 5 tokens; a block of 16 features, 16 hidden units and 2 heads of 8; a head to 10.
FORWARD = 4 * 196 * 16 + 5 * (3 * 16 * 16 + 16 * 16 + 2 * 16 * 16) + 2 * 25 * 16 + 10 * 16


@pytest.fixture
def recipe(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    write_mnist(tmp_path / "data")
    monkeypatch.setenv("LAMINA_DATA", str(tmp_path / "data"))
    path = tmp_path / "tiny.toml"
    path.write_text(TINY + LEVELS)
    return path


def test_three_levels_by_the_command(recipe: Path, tmp_path: Path, ok: Any) -> None:
    out = tmp_path / "run"
    shown = ok(f"train {recipe} --out {out}")
    assert "level 1" in shown and "level 3" in shown and "test top1" in shown
    rows = schedule.read(out)
    assert [row["changes"].get("depth") for row in rows] == [1, 2, 4]
    assert rows[2]["changes"].get("n_heads", 4) == 4
    assert rows[0]["predicted_macs"] == rows[0]["spent_macs"] == 3 * 50 * FORWARD
    assert rows[2]["spent_macs"] == rows[2]["predicted_macs"] <= 2e7
    assert trained.changes(out / "level-3" / "weights.safetensors")["depth"] == 4
    # All of it has ended: going on only measures.
    assert "level" not in ok(f"train {recipe} --out {out} --resume").split("test")[0]


def test_a_run_goes_on_with_the_next_level(recipe: Path, tmp_path: Path) -> None:
    plan, out = loads(TINY + LEVELS, "tiny"), tmp_path / "run"
    schedule.schedule(plan, out)
    whole = (out / "level-3" / "weights.safetensors").read_bytes()
    rows = schedule.read(out)
    (out / schedule.LEVELS).write_text(json.dumps(rows[:1]))
    for folder in ("level-2", "level-3", "start-3"):
        for path in sorted((out / folder).rglob("*"), reverse=True):
            path.unlink() if path.is_file() else path.rmdir()
        (out / folder).rmdir()
    schedule.schedule(plan, out, resume=True)
    state = [trained.read_metadata(out / "level-3" / "weights.safetensors")["changes"], len(whole)]
    assert schedule.read(out) == rows and state[0] and state[1]


def test_levels_of_resolution(tmp_path: Path, recipe: Path) -> None:
    """A ViT on images of half the side, then on whole ones with patches of twice the size."""
    small = TINY.replace("size = 28, resize = 28", "size = 14, resize = 14").replace("patch = 14", "patch = 7, img_size = 14")
    plan = loads(small + "\n[[levels]]\nepochs = 1\n[[levels]]\nepochs = 1\ngrow = {resolution = 2}\n", "tiny")
    last, folder = schedule.schedule(plan, tmp_path / "run")
    assert (last.changes.get("img_size", 28), last.changes["patch"], last.image["size"]) == (28, 14, 28)  # 28: the zoo's own
    assert (folder / "weights.safetensors").is_file()


@pytest.mark.parametrize(
    ("levels", "message"),
    [
        ("[[levels]]\ngrow = {depth = 2}\n", "grows from none"),
        ("[[levels]]\nepochs = 1\nmacs = 5\n", "give one"),
        ("[[levels]]\nlayers = 1\n", "layers"),
        ("[[levels]]\nepochs = 1\n[[levels]]\ngrow = {depth = 2}\noperator = {depth = 'fold'}\n", "no operator 'fold'"),
    ],
)
def test_wrong_levels(recipe: Path, tmp_path: Path, levels: str, message: str) -> None:
    with pytest.raises(InputError, match=message):
        schedule.schedule(loads(TINY + levels, "tiny"), tmp_path / "run")


def test_several_processes_are_refused(recipe: Path, tmp_path: Path, run: Any) -> None:
    torch.manual_seed(0)
    code, _, err = run(f"train {recipe} --out {tmp_path / 'x'} --nproc 2")
    assert code == 2 and "levels run in one process" in err
