"""The lecture's record of dataflows: a part of it, computed anew."""

import pytest

from lamina.lecture import fit


def test_the_record_is_what_the_model_finds() -> None:
    (row,) = fit.compute(("lenet5",))["networks"]
    (kept,) = (other for other in fit.record()["networks"] if other["model"] == "lenet5")
    assert row["layers"] == kept["layers"] and row["best"] == kept["best"]
    for name, figures in row["dataflows"].items():
        assert figures == pytest.approx(kept["dataflows"][name])


def test_no_fixed_dataflow_beats_the_flexible_one() -> None:
    for row in fit.record()["networks"]:
        for figures in row["dataflows"].values():
            assert figures["energy_ratio"] >= 1 and figures["cycles_ratio"] >= 1


def test_the_record_has_the_lecture_s_networks_and_vit() -> None:
    assert [row["model"] for row in fit.record()["networks"]] == list(fit.NETWORKS)
    assert {"alexnet", "vgg16", "googlenet", "resnet50", "vit_b_16"} <= set(fit.NETWORKS)
