"""Engines side by side: the figures' arithmetic, what is refused, and the layers' times. No test asserts a time."""

import json

import pytest
import torch
from torch import nn

from lamina.errors import InputError
from lamina.infer import bench as benches
from lamina.infer import layers


def test_figures():
    """Of 100 runs of 1 to 100 ms: the median 50.5, 90 of them below the p90; too few for a p99."""
    found = benches._figures([0.001 * n for n in range(1, 101)], batch=4, macs=101_000, peak=1e7)
    assert found["median_ms"] == pytest.approx(50.5)
    assert found["p90_ms"] == pytest.approx(91)
    assert found["p99_ms"] is None
    assert found["throughput"] == pytest.approx(4 / 0.0505)
    assert found["macs_per_s"] == pytest.approx(2e6)
    assert found["share_of_peak"] == pytest.approx(0.2)
    assert found["spread"] == pytest.approx((75.75 - 25.25) / 50.5)


def test_percentiles_wait_for_their_samples():
    """Binomial: with n samples at least two lie beyond the q-quantile with probability 1 - q^n - n (1 - q) q^(n - 1)."""
    for q, n in ((0.9, benches.P90), (0.99, benches.P99)):
        beyond = [1 - q**m - m * (1 - q) * q ** (m - 1) for m in (n - 1, n)]
        assert beyond[0] < 0.99 <= beyond[1]
    assert benches._figures([1.0] * 63, 1, None, 1.0)["p90_ms"] is None


def test_arrivals_count_from_when_they_were_due():
    """A server of 20 ms that is asked 200 times a second falls behind: each answer is later than the one before."""

    class Slow:
        def run(self, inputs):
            import time

            time.sleep(0.02)
            return []

    times = benches._arrivals({"slow": Slow()}, [], seconds=0.1, rate=200)["slow"]
    assert len(times) == 20
    assert times[-1] > 0.2
    assert times == sorted(times)


@pytest.mark.slow
def test_document(ok):
    found = json.loads(ok("bench lenet5 --seconds 0.2 --json"))
    assert found["scenario"] == "single stream"
    assert found["fastest"] in [row["engine"] for row in found["engines"]]
    for row in found["engines"]:
        assert {"engine", "batch", "load_s", "first_run_ms"} <= set(row)
        if "refused" not in row:
            assert row["max_difference"] < 1e-4 and row["peak_bytes"] > 0
            assert {"median_ms", "p90_ms", "throughput", "macs_per_s", "share_of_peak", "max_abs_difference"} <= set(row)


@pytest.mark.slow
def test_table(ok):
    lines = ok("bench lenet5 --seconds 0.2 --no-peak-memory --engine torch").splitlines()
    assert lines[0].startswith("lenet5, single stream")
    assert any(line.split()[:2] == ["torch", "1"] for line in lines)


def test_layers(monkeypatch):
    """A linear layer of 8 to 4 on two rows has 64 MACs; what is between modules is in no row."""
    net = nn.Sequential(nn.Linear(8, 4), nn.ReLU(), nn.Linear(4, 3)).eval()
    given = benches.Network("net", "its own", (torch.randn(1, 8),), net)
    monkeypatch.setattr(layers, "load", lambda *_: given)
    found = layers.profile("net", batch=2, rounds=2)
    assert [(row["name"], row["macs"]) for row in found["layers"]] == [("0", 64), ("1", 0), ("2", 24)]
    assert all(row["median_ms"] > 0 for row in found["layers"])
    assert found["total_ms"] == pytest.approx(sum(row["median_ms"] for row in found["layers"]), abs=1e-3)
    assert not any(part._forward_hooks or part._forward_pre_hooks for part in net.modules())


def test_layers_of_an_onnx_file(monkeypatch, tmp_path):
    given = benches.Network("net.onnx", "net.onnx", (torch.randn(1, 8),), path=tmp_path)
    monkeypatch.setattr(layers, "load", lambda *_: given)
    with pytest.raises(InputError, match="layers are timed in torch"):
        layers.profile("net.onnx")


@pytest.mark.parametrize("options", ["--batch 0", "--seconds 0", "--seconds -1", "--rate 0", "--engine quick"])
def test_wrong_calls(run, options):
    code, out, err = run(f"bench lenet5 {options}")
    assert (code, out, err.count("\n")) == (2, "", 1)
