"""Depth operators: zero insertion is exact, splitting of order one, coarsening the left inverse of splitting."""

import itertools
import math
from dataclasses import replace
from typing import Any

import pytest
import torch
from torch import nn

import lamina
from lamina.errors import InputError
from lamina.scale.growth import check, grow, shrink
from lamina.scale.verify import ClaimError
from lamina.zoo import transformer, vit, wide_resnet
from tests.scale.networks import TRANSFORMER, VIT, WRN, batch, error, make, network

RESIDUAL = ["vit", "transformer", "wrn", "basic", "bottleneck", "resnext"]


@pytest.mark.parametrize("factor", [2, 3])
@pytest.mark.parametrize("name", RESIDUAL)
def test_zero_insertion_is_exact(name: str, factor: int) -> None:
    net = network(name)
    grown = grow(net, depth=factor, operator={"depth": "zero"}, exactness="exact")
    assert error(net, grown.module, batch(net)) < 1e-12
    assert check(net, grown, batch(net)).passed


@pytest.mark.parametrize(
    ("name", "depths"), [("resnet50", (4, 5, 7, 4)), ("resnet18", (2, 3, 2, 5)), ("resnet20_cifar", (3, 4, 6))]
)
def test_zero_insertion_of_so_many_blocks(name: str, depths: tuple[int, ...]) -> None:
    torch.manual_seed(0)
    net = lamina.build(name).eval()
    grown = lamina.grow(net, depth=depths, operator={"depth": "zero"}).module
    x = torch.randn(2, 3, 32, 32)
    assert error(net, grown, (x,)) <= 1e-5
    assert grown.config.depths == depths


@pytest.mark.parametrize("name", RESIDUAL)
def test_the_new_blocks_learn(name: str) -> None:
    net = network(name)
    grown = grow(net, depth=2, operator={"depth": "zero"}).module.train()
    old = set(net.state_dict())
    grown(*batch(grown)).square().mean().backward()
    new = [p for n, p in grown.named_parameters() if n not in old and p.grad is not None and bool(p.grad.abs().max() > 0)]
    assert new


def smooth(length: int) -> nn.Module:
    """A pre-norm ViT of `length` blocks: weights smooth in the block's place, a step that goes with 1 / length, and tokens of
    a size that the blocks do not change at once (a layer norm of small tokens is stiff)."""
    net = make(vit.Net, replace(VIT, depth=length, patch=14))
    ends = make(vit.Net, replace(VIT, depth=2, patch=14), seed=3)
    state = net.state_dict()
    for name, value in state.items():
        if name.startswith("blocks."):
            _, i, rest = name.split(".", 2)
            t = (int(i) + 0.5) / length
            a, b = (ends.state_dict()[f"blocks.{k}.{rest}"] for k in (0, 1))
            h = 0.3 / length if rest.startswith(("attention.out", "fc2")) else 1.0
            value.copy_(h * (math.cos(t) * a + math.sin(2 * t) * b))
        else:
            value.copy_(ends.state_dict()[name] * (10 if name in ("class_token", "position_embedding") else 1))
    return net


def test_splitting_is_of_order_one() -> None:
    """Of smooth weights over 8 to 64 blocks: the error halves with the step."""
    errors = []
    for length in (8, 16, 32, 64):
        net = smooth(length)
        grown = grow(net, depth=2)
        assert grown.report.exactness == "consistent"
        errors.append(error(net, grown.module, batch(net)))
    orders = [math.log2(a / b) for a, b in itertools.pairwise(errors)]
    assert all(abs(order - 1) <= 0.1 for order in orders), (errors, orders)


@pytest.mark.parametrize("name", ["vit", "transformer", "wrn"])
def test_verify_finds_the_order_of_a_split(name: str) -> None:
    net = network(name)
    result = check(net, grow(net, depth=2), batch(net))
    assert result.order is not None and abs(result.order - 1) <= 0.1 and result.passed


def test_a_split_without_its_step_is_not_consistent() -> None:
    net = network("vit")
    grown = grow(net, depth=2)
    wrong = grown._replace(module=grow(net, depth=2, operator={"depth": "stack"}).module)
    first = check(net, grown, batch(net)).mean_difference
    assert error(net, wrong.module, batch(net)) > 2 * first


@pytest.mark.parametrize("name", RESIDUAL)
def test_coarsening_undoes_splitting(name: str) -> None:
    net = network(name)
    if name == "resnext":
        net = grow(net, depth=(2, 2), operator={"depth": "zero"}).module
    for operator in ("coarsen", "mean"):
        back = shrink(grow(net, depth=2).module, depth=2, operator={"depth": operator}).module
        assert back.config == net.config
        assert error(net, back, batch(net)) < 1e-12


def test_interpolation_of_smooth_weights_is_nearer_than_stacking() -> None:
    net = smooth(8)
    by = {
        o: error(net, grow(net, depth=2, operator={"depth": o}).module, batch(net)) for o in ("interpolate", "split", "stack")
    }
    assert by["interpolate"] < 1.2 * by["split"] < by["stack"] / 3


def test_interpolation_by_hand() -> None:
    """Cell-centred places of 2 blocks on 4: 0, 1/4, 3/4, 1; left nodes: 0, 1/2, 1, 1."""
    net = network("vit")
    a, b = (net.blocks[i].fc1.weight for i in (0, 1))
    for operator, shares in (("interpolate", (0, 0.25, 0.75, 1)), ("interpolate_left", (0, 0.5, 1, 1))):
        grown = grow(net, depth=2, operator={"depth": operator}).module
        for block, share in zip(grown.blocks, shares, strict=True):
            assert torch.allclose(block.fc1.weight, (1 - share) * a + share * b)
        last = (net.blocks[0].fc2.weight, net.blocks[1].fc2.weight)
        assert torch.allclose(grown.blocks[1].fc2.weight, ((1 - shares[1]) * last[0] + shares[1] * last[1]) / 2)


def test_random_blocks_have_first_weights() -> None:
    net = network("vit")
    grown = grow(net, depth=2, operator={"depth": "random"})
    assert grown.report.exactness == "approximate"
    assert error(net, grown.module, batch(net)) > 1e-3


def test_post_norm_is_refused_and_why() -> None:
    net = make(transformer.Net, replace(TRANSFORMER, norm="post"))
    for operator in ("zero", "split"):
        with pytest.raises(InputError, match=r"encoder.0 is post-norm"):
            grow(net, depth=2, operator={"depth": operator})
    # A layer whose branches are zero still normalises: on the output of a trained norm (with scale and shift) not the identity.
    layer = net.encoder[0]
    with torch.no_grad():
        for last in (layer.self_attention.out.weight, layer.fc2.weight, layer.fc2.bias):
            last.zero_()
        x = net.encoder[1](torch.randn(2, 5, 24).double(), None)
        assert ((layer(x, None) - x).abs().max() / x.abs().max()) > 0.05


def test_blocks_that_change_the_shape_are_not_split() -> None:
    grown = grow(network("wrn"), depth=2).module
    assert grown.config.depths == (4, 3)  # layer2.0 strides
    with pytest.raises(InputError, match=r"layer1.0 changes stride or width"):
        grow(make(wide_resnet.CifarNet, replace(WRN, depths=(1, 1), stem_channels=4)), depth=2)
    with pytest.raises(InputError, match=r"layer2 has 2 blocks after layer2.0"):
        shrink(make(wide_resnet.CifarNet, replace(WRN, depths=(4, 3))), depth=4)


def test_refusals() -> None:
    with pytest.raises(InputError, match="no shortcuts"):
        lamina.grow(lamina.build("plain20_cifar", device="meta"), depth=2)
    with pytest.raises(InputError, match="concatenation"):
        grow(network("densenet"), depth=2)
    with pytest.raises(InputError, match="no description"):
        grow(lamina.build("lenet5"), depth=2)
    net = network("basic")
    wrong: Any
    for wrong in ((1, 3), (2,), (2, 3, 3)):
        with pytest.raises(InputError, match=r"at least as many|2 stacks"):
            grow(net, depth=wrong, operator={"depth": "zero"})
    with pytest.raises(InputError, match="consistent, and exact was asked for"):
        grow(network("vit"), depth=2, exactness="exact")
    with pytest.raises(ClaimError, match="does not hold"):
        grown = grow(network("vit"), depth=2, operator={"depth": "zero"})
        grown.module.blocks[1].fc2.weight.data.normal_()
        check(network("vit"), grown, batch(network("vit")))
