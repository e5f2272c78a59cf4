import pytest

from lamina.hardware.fixed import DATAFLOWS, OUTPUT_STATIONARY, ROW_STATIONARY, WEIGHT_STATIONARY, bounds, spatial
from lamina.lecture import dataflows
from lamina.workload import Loops

CONV1 = Loops(M=96, C=3, output=(55, 55), filter=(11, 11), stride=(4, 4))  # AlexNet's


@pytest.mark.parametrize(
    ("dataflow", "used", "utilisation"),
    [
        # C = 3 of 12 rows; M = 96 in 7 passes of 14 columns (98)
        (WEIGHT_STATIONARY, 3 * 14, 3 / 12 * 96 / 98),
        # P = 55 in 5 passes of 12 (60), Q = 55 in 4 passes of 14 (56)
        (OUTPUT_STATIONARY, 12 * 14, 55 / 60 * 55 / 56),
        # R = 11 of 12 rows, P = 55 in 4 passes of 14
        (ROW_STATIONARY, 11 * 14, 11 / 12 * 55 / 56),
    ],
)
def test_by_hand(dataflow, used, utilisation):
    found = spatial(CONV1, dataflow)
    assert found.used == used
    assert found.utilisation == pytest.approx(utilisation)


def test_a_matrix_product_has_one_pixel():
    nest = Loops(N=1, M=4096, C=9216)
    assert bounds(nest)["P"] == bounds(nest)["R"] == 1
    assert spatial(nest, OUTPUT_STATIONARY).used == 1
    assert spatial(nest, WEIGHT_STATIONARY).utilisation == pytest.approx(4096 / (293 * 14))


def test_groups_count_for_one_group():
    assert bounds(Loops(G=2, M=128, C=48, output=(27, 27), filter=(5, 5)))["C"] == 48


@pytest.mark.parametrize("name", dataflows.FIT)
def test_no_dataflow_fits_every_layer(name):
    layers, shares = dataflows.utilisations(name)
    assert len(shares) == len(DATAFLOWS) and all(len(row) == len(layers) for row in shares)
    assert all(0 < value <= 1 for row in shares for value in row)
    assert min(max(column) - min(column) for column in zip(*shares, strict=True)) > 0
    assert all(min(row) < 0.5 for row in shares)
