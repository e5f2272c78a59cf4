"""benchmarks/scale: which runs are wanted, that all arms end with the same network and MACs, and what is made of the record."""

import json
import sys
from pathlib import Path
from typing import Any

import pytest
import torch

ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture(scope="module", autouse=True)
def _path():
    sys.path.insert(0, str(ROOT))
    yield
    sys.path.remove(str(ROOT))


def row(lr: float, seed: int = 0, loss: float = 1.0, arm: str = "split") -> dict[str, Any]:
    scores = {"loss": loss, "top1": 50.0 + seed}
    return {
        "experiment": "vit_mnist", "arm": arm, "lr": lr, "seed": seed, "macs": 10, "validation": scores, "test": scores,
        "points": [[5, 40.0, 2.0], [10, 50.0, 1.0]], "run": 0,
    }  # fmt: skip


def wanted(rows: list[dict[str, Any]], begun: list[dict[str, Any]] | None = None) -> list[tuple[float, int]]:
    from benchmarks.scale.run_all import remaining

    jobs = remaining(rows, begun or [], ["vit_mnist"])
    return [(job["lr"], job["seed"]) for job in jobs if job["arm"] == "split"]


def test_an_arms_runs() -> None:
    """Three rates; beyond the end that is best; then seeds 1 and 2 at the best."""
    grid = [1e-3, 3e-3, 1e-2]
    assert wanted([]) == [(lr, 0) for lr in grid]
    rows = [row(1e-3, loss=3.0), row(3e-3, loss=2.0)]
    assert wanted(rows) == [(1e-2, 0)] and wanted(rows, [row(1e-2)]) == []
    rows.append(row(1e-2, loss=1.0))
    assert wanted(rows) == [(3e-2, 0)]
    rows.append(row(3e-2, loss=float("nan")))  # it diverged
    assert wanted(rows) == [(1e-2, 1), (1e-2, 2)]
    rows += [row(1e-2, 1), row(1e-2, 2)]
    assert wanted(rows) == []
    assert wanted([row(lr, loss=lr) for lr in grid]) == [(3e-4, 0)]  # beyond the other end


def test_arms_come_whole_and_the_most_telling_first() -> None:
    from benchmarks.scale.run_all import remaining

    jobs = remaining([], [], ["vit_mnist", "gpt_characters"])
    assert [job["arm"] for job in jobs[:6]] == ["scratch"] * 6
    assert {job["experiment"] for job in jobs[:6]} == {"vit_mnist", "gpt_characters"}


@pytest.mark.parametrize("task", ["resnet_cifar", "vit_mnist", "gpt_characters"])
def test_all_arms_end_with_the_same_network_and_macs(task: str) -> None:
    from benchmarks.scale import common, depth

    samples = common.Data(*[(torch.zeros(1), torch.zeros(1))] * 3)
    sizes, shares = set(), set()
    for arm in depth.TASKS[task]["arms"]:
        net, levels = depth.levels(task, arm, samples)
        for level in levels:
            net = level.grow(net) if level.grow else net
        sizes.add(tuple(sorted((name, tuple(value.shape)) for name, value in net.state_dict().items())))
        shares.add(round(sum(level.share for level in levels), 9))
    assert len(sizes) == 1 and shares == {1.0}


@pytest.mark.parametrize(
    "change", [{"depth": 2}, {"feed_forward": 2}, {"heads": 2}, {"model_width": 2}, {"model_width": 2, "heads": 2}], ids=str
)
def test_the_character_network_grows_exactly(change: dict[str, int]) -> None:
    from benchmarks.scale import gpt

    torch.manual_seed(0)
    net = gpt.Net(gpt.Config(2, 16, 24, 2, 8, 12, 20)).double()
    with torch.no_grad():
        for parameter in net.parameters():
            parameter.add_(0.1 * torch.randn_like(parameter))
        ids = torch.randint(0, 20, (3, 12))
        before, after = net(ids), gpt.grow(net, change, "zero")(ids)
    assert (before - after).abs().max() < 1e-12 * before.abs().max()


def test_the_summary_takes_the_runs_at_the_chosen_rate() -> None:
    from benchmarks.scale.report import summary

    rows = [row(1e-3, loss=2.0), row(3e-3, loss=1.0), row(1e-2, loss=3.0), row(3e-3, 2), row(3e-3, 1)]
    found = summary({"provenance": {}, "older": [], "rows": [*rows, {"experiment": "vit_mnist", "arm": "zero", "error": "x"}]})
    arm = found["vit_mnist"]["split"]
    assert (arm["lr"], arm["lrs"], arm["seeds"], arm["top1"]) == (3e-3, [1e-3, 3e-3, 1e-2], [0, 1, 2], [50.0, 51.0, 52.0])
    assert list(found["vit_mnist"]) == ["split"]


def test_the_lectures_figures_are_the_records() -> None:
    from benchmarks.scale.report import summary

    found = json.loads((ROOT / "benchmarks" / "records" / "scale_runs.json").read_text())
    shown = json.loads((ROOT / "lamina" / "lecture" / "multiscale.json").read_text())
    assert json.loads(json.dumps(summary(found))) == shown


def test_an_arm_that_was_cut_is_not_shown() -> None:
    """Seed 2 is missing; then the best rate is an end of the grid."""
    from benchmarks.scale.report import summary

    rows = [row(1e-3, loss=2.0), row(3e-3, loss=1.0), row(1e-2, loss=3.0), row(3e-3, 1)]
    other = [row(1e-3, arm="zero", loss=2.0), row(3e-3, arm="zero", loss=1.0), row(1e-2, arm="zero", loss=0.5)]
    whole = [*rows, row(3e-3, 2), *other]
    assert "vit_mnist" not in summary({"provenance": {}, "older": [], "rows": rows})
    assert list(summary({"provenance": {}, "older": [], "rows": whole})["vit_mnist"]) == ["split"]
