"""Kernels between resolutions: the closed form against the assembled Galerkin product, and what is exact on which images."""

import copy
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn

import lamina
from lamina.errors import InputError
from lamina.scale.growth import check, grow, shrink
from lamina.scale.resolution import (
    Prolongation,
    downsample,
    galerkin,
    head_to_coarse,
    head_to_fine,
    prolong_kernel,
    recalibrate,
    rescale,
    restrict_kernel,
    upsample,
)
from lamina.zoo import wide_resnet
from tests.scale.networks import batch, error, make

N = 16  # pixels a side of the periodic fine grid


def interpolation(kind: Prolongation) -> Tensor:
    """P of one axis, (N, N / 2): its columns on a periodic grid, written out."""
    p = torch.zeros(N, N // 2, dtype=torch.float64)
    for coarse in range(N // 2):
        weights = {0: 1.0, 1: 1.0} if kind == "constant" else {-1: 0.25, 0: 0.75, 1: 0.75, 2: 0.25}
        for offset, weight in weights.items():
            p[(2 * coarse + offset) % N, coarse] += weight
    return p


def averaging() -> Tensor:
    """R of one axis, (N / 2, N)."""
    r = torch.zeros(N // 2, N, dtype=torch.float64)
    for coarse in range(N // 2):
        r[coarse, 2 * coarse] = r[coarse, 2 * coarse + 1] = 0.5
    return r


def operator(kernel: Tensor, side: int) -> Tensor:
    """The matrix of torch's convolution with `kernel` (k, k) on a periodic grid, row by row (the pixel that is computed)."""
    half = kernel.shape[0] // 2
    matrix = torch.zeros(side * side, side * side, dtype=torch.float64)
    for y in range(side):
        for x in range(side):
            for dy in range(-half, half + 1):
                for dx in range(-half, half + 1):
                    matrix[y * side + x, (y + dy) % side * side + (x + dx) % side] += kernel[dy + half, dx + half]
    return matrix


def stencil(matrix: Tensor, side: int, reach: int) -> Tensor:
    """The kernel that the middle row of `matrix` holds."""
    row = matrix[(side // 2) * side + side // 2].reshape(side, side)
    middle = slice(side // 2 - reach, side // 2 + reach + 1)
    return row[middle, middle]


@pytest.mark.parametrize("kind", ["constant", "bilinear"])
@pytest.mark.parametrize("size", [3, 5, 7])
def test_restriction_is_the_galerkin_product(size: int, kind: Prolongation) -> None:
    torch.manual_seed(size)
    kernel = torch.randn(size, size, dtype=torch.float64)
    p, r = interpolation(kind), averaging()
    coarse = torch.kron(r, r) @ operator(kernel, N) @ torch.kron(p, p)
    found = restrict_kernel(kernel[None, None], kind)[0, 0]
    assert found.shape == ((3, 3) if size == 3 else (5, 5))
    # Every row, not only the middle one, is this kernel; the columns hold its mirror image.
    assert (operator(found, N // 2) - coarse).abs().max() < 1e-12
    assert (stencil(coarse, N // 2, found.shape[0] // 2) - found).abs().max() < 1e-12
    assert (stencil(coarse.T, N // 2, found.shape[0] // 2) - found).abs().max() > 1e-2


@pytest.mark.parametrize("kind", ["constant", "bilinear"])
def test_prolongation_is_its_inverse(kind: Prolongation) -> None:
    torch.manual_seed(0)
    coarse = torch.randn(2, 3, 3, 3, dtype=torch.float64)
    fine = prolong_kernel(coarse, kind)
    assert (restrict_kernel(fine, kind) - coarse).abs().max() < 1e-12
    p, r = interpolation(kind), averaging()
    product = torch.kron(r, r) @ operator(fine[1, 2], N) @ torch.kron(p, p)
    assert (operator(coarse[1, 2], N // 2) - product).abs().max() < 1e-12


def test_the_closed_forms_and_their_eigenvectors() -> None:
    """The values of the theory: (I/2, 1/8, ...) and what a change of h leaves alone."""
    bilinear, constant = galerkin(3, "bilinear"), galerkin(3, "constant")
    assert torch.equal(bilinear, torch.tensor([[0.5, 0.125, 0], [0.5, 0.75, 0.5], [0, 0.125, 0.5]], dtype=torch.float64))
    assert torch.equal(constant, torch.tensor([[0.5, 0, 0], [0.5, 1, 0.5], [0, 0, 0.5]], dtype=torch.float64))
    for value, vector in ((1, [1, 4, 1]), (0.5, [-1, 0, 1]), (0.25, [1, -2, 1])):  # mean, first and second derivative
        v = torch.tensor(vector, dtype=torch.float64)
        assert torch.allclose(bilinear @ v, value * v)
    second = torch.tensor([1.0, -2, 1], dtype=torch.float64)
    assert torch.allclose(constant @ second, 0.5 * second)  # twice what a second derivative should become


def test_damping_bounds_the_amplification() -> None:
    rough = torch.ones(3, 3, dtype=torch.float64)
    rough[::2, 1] = rough[1, ::2] = -2
    rough[1, 1] = 4
    norms = [float(prolong_kernel(rough[None, None], "bilinear", d).norm() / rough.norm()) for d in (0.0, 1e-3, 1e-1)]
    assert abs(norms[0] - 16) < 1e-9 and norms[0] > norms[1] > norms[2]


def test_kernels_of_one_pixel_are_copied() -> None:
    kernel = torch.randn(4, 5, 1, 1)
    assert torch.equal(restrict_kernel(kernel), kernel) and torch.equal(prolong_kernel(kernel), kernel)
    with pytest.raises(InputError, match="no middle"):
        restrict_kernel(torch.randn(1, 1, 4, 4))
    with pytest.raises(InputError, match="7x7"):
        prolong_kernel(torch.randn(1, 1, 7, 7))


@settings(max_examples=12, deadline=None)
@given(channels=st.integers(1, 4), groups=st.sampled_from([1, 2]), kernel=st.sampled_from([1, 3, 5]), seed=st.integers(0, 99))
def test_dilation_is_exact_on_copied_pixels(channels: int, groups: int, kernel: int, seed: int) -> None:
    torch.manual_seed(seed)
    width = channels * groups
    net = nn.Sequential(
        nn.Conv2d(2, width, kernel, padding=kernel // 2),
        nn.BatchNorm2d(width),
        nn.ReLU(),
        nn.Conv2d(width, width, 3, padding=1, groups=groups),
        nn.AdaptiveAvgPool2d(1),
        nn.Flatten(),
        nn.Linear(width, 3),
    ).double()
    net(torch.randn(4, 2, 8, 8).double())
    x = torch.randn(3, 2, 8, 8).double()
    finer = rescale(net.eval(), "dilated", finer=True, shape=(2, 8, 8))
    assert error(net, finer, (x,), (upsample(x),)) < 1e-12
    back = rescale(finer, "dilated", finer=False, shape=(2, 16, 16))
    assert error(net, back, (x,)) < 1e-12


@pytest.mark.parametrize("operator", ["constant", "bilinear"])
def test_restriction_undoes_prolongation(operator: str) -> None:
    net = plain()
    finer = rescale(net, operator, finer=True, shape=(1, 8, 8))
    back = rescale(finer, operator, finer=False, shape=(1, 16, 16))
    assert error(net, back, (torch.randn(2, 1, 8, 8).double(),)) < 1e-10


def plain() -> nn.Module:
    torch.manual_seed(0)
    layers = (nn.Conv2d(1, 4, 3, padding=1), nn.ReLU(), nn.Conv2d(4, 4, 3, padding=1), nn.ReLU(), nn.Flatten())
    return nn.Sequential(*layers, nn.Linear(4 * 64, 3)).double().eval()


def test_heads_of_flattened_maps() -> None:
    weight, maps = torch.randn(3, 2 * 4 * 4).double(), torch.randn(5, 2, 4, 4).double()
    expected = maps.flatten(1) @ weight.T
    assert torch.allclose(upsample(maps).flatten(1) @ head_to_fine(weight, 4).T, expected)
    assert torch.allclose(head_to_coarse(head_to_fine(weight, 4), 8), weight)
    finer = rescale(plain(), "dilated", finer=True, shape=(1, 8, 8))
    x = torch.randn(2, 1, 8, 8).double()
    # Zeros come in from two pixels on instead of one, which on copied pixels are the same ones.
    assert error(plain(), finer, (x,), (upsample(x),)) < 1e-12


def test_smooth_features_go_to_the_coarse_grid_better_than_by_the_same_weights() -> None:
    torch.manual_seed(0)
    net = nn.Sequential(nn.Conv2d(1, 8, 3, padding=1), nn.ReLU(), nn.Conv2d(8, 8, 3, padding=1)).double().eval()
    places = torch.arange(64, dtype=torch.float64)
    x = torch.sin(places / 9)[:, None] * torch.cos(places / 7)
    x = x[None, None]
    with torch.no_grad():
        fine = downsample(net(x))
        by = {o: float((rescale(net, o, finer=False)(downsample(x)) - fine).norm() / fine.norm()) for o in COARSER}
    assert by["bilinear"] < by["same"] and by["constant"] < by["same"], by


COARSER = ("same", "constant", "bilinear")


def test_a_zoo_network_and_its_configuration() -> None:
    net = make(wide_resnet.CifarNet, wide_resnet.Config((2,), (8,), 8, img_size=16))
    grown = grow(net, resolution=2, exactness="exact")
    assert check(net, grown, batch(net)).passed
    assert (grown.module.config.img_size, grown.module.config.dilation) == (32, 2)
    rebuilt = wide_resnet.CifarNet(grown.module.config).double().eval()
    rebuilt.load_state_dict(grown.module.state_dict())
    x = torch.randn(2, 3, 32, 32).double()
    assert error(grown.module, rebuilt, (x,)) == 0
    assert shrink(grown.module, resolution=2, operator={"resolution": "dilated"}).module.config == net.config
    same = grow(net, resolution=2, operator={"resolution": "same"})
    assert same.report.exactness == "approximate" and same.module.config.dilation == 1


def test_batch_norms_are_recalibrated() -> None:
    net = nn.Sequential(nn.Conv2d(1, 4, 3, padding=1), nn.BatchNorm2d(4)).eval()
    images = [torch.randn(64, 1, 8, 8) * 3 + 1 for _ in range(3)]
    recalibrate(net, images)
    values = net[0](torch.cat(images))
    assert torch.allclose(net[1].running_mean, values.mean((0, 2, 3)), atol=1e-5)
    assert not net[1].training and net[1].momentum == 0.1


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("resnet20_cifar", r"layer2.0.conv1 has a stride of 2"),
        ("vgg11", r"features.2 is a MaxPool2d|MaxPool2d"),
        ("densenet_40_12_cifar", r"features.transition1.pool is a AvgPool2d"),
    ],
)
def test_what_changes_the_resolution_itself_is_refused_by_name(name: str, message: str) -> None:
    with pytest.raises(InputError, match=message):
        grow(lamina.build(name, device="meta"), resolution=2)


def test_refusals() -> None:
    odd: Any = nn.Sequential(nn.Conv2d(1, 2, 3, padding=1), nn.ReLU())
    with pytest.raises(InputError, match=r"0 has an odd map of 7x7"):
        rescale(odd, "bilinear", finer=False, shape=(1, 7, 7))
    with pytest.raises(InputError, match="does not keep its map"):
        rescale(nn.Sequential(nn.Conv2d(1, 2, 3)), "dilated", finer=True)
    with pytest.raises(InputError, match="is not dilated"):
        rescale(copy.deepcopy(odd), "dilated", finer=False)
    with pytest.raises(InputError, match="no operator"):
        rescale(odd, "cubic", finer=True)
    with pytest.raises(InputError, match="change it twice"):
        grow(odd, resolution=4)
