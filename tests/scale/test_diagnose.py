"""The figures of a trained network, against networks of which they are known."""

import itertools
import math
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

import lamina
from lamina.errors import InputError
from lamina.scale.diagnose import assign, diagnose, spread
from lamina.scale.growth import grow
from lamina.zoo import transformer, vit
from tests.scale.networks import TRANSFORMER, VIT, batch, make, network


@pytest.mark.parametrize("name", ["vit", "transformer", "wrn", "basic", "bottleneck", "resnext"])
def test_every_residual_network_is_measured(name: str) -> None:
    net = network(name)
    if name == "resnext":
        net = grow(net, depth=2, operator={"depth": "zero"}).module
    found = diagnose(net, batch(net))
    assert found.blocks and all(b.jacobian is not None and b.jacobian >= 0 and b.state > 0 for b in found.blocks)
    assert bool(found.tokens) == (name in ("vit", "transformer"))
    assert [r.operator for r in found.refinements] == ["split", "coarsen"]


def test_the_jacobian_of_a_linear_branch() -> None:
    """A ViT whose branches are one linear map of the normalised tokens, scaled: compared with its singular values by hand."""
    net: Any = make(vit.Net, replace(VIT, depth=1, patch=14))
    found = diagnose(net, batch(net)).blocks[0]
    x = net.tokens(batch(net)[0])
    branch = lambda y: net.blocks[0](y) - y  # noqa: E731
    norms = []
    for one in x:
        full = torch.autograd.functional.jacobian(lambda y: branch(y[None])[0], one).flatten(0, 1).flatten(1)
        norms.append(float(torch.linalg.matrix_norm(full, 2)))
    assert found.jacobian == pytest.approx(sum(norms) / len(norms), rel=0.05)
    assert found.branch == pytest.approx(float(branch(x).detach().square().mean().sqrt()))


def test_smoothness_of_equal_independent_and_permuted_blocks() -> None:
    wide = replace(VIT, depth=2, width=48, mlp=200)
    net: Any = make(vit.Net, wide)
    first, second = net.blocks
    independent = diagnose(net, batch(net)).blocks[0]
    assert independent.change == pytest.approx(math.sqrt(2), rel=0.05)
    assert independent.aligned is not None and independent.aligned < 1.4
    second.load_state_dict(first.state_dict())
    assert diagnose(net, batch(net)).blocks[0].change == 0
    order = torch.randperm(200)
    with torch.no_grad():
        second.fc1.weight.copy_(first.fc1.weight[order])
        second.fc2.weight.copy_(first.fc2.weight[:, order])
    permuted = diagnose(net, batch(net)).blocks[0]
    assert permuted.change is not None and permuted.change > 0.5 and permuted.aligned == 0


def test_the_cheapest_assignment() -> None:
    for seed, n in itertools.product(range(5), (1, 2, 5, 6)):
        cost = np.random.default_rng(seed).normal(size=(n, n))
        best = min(itertools.permutations(range(n)), key=lambda p: sum(cost[i, j] for i, j in enumerate(p)))
        assert assign(cost).tolist() == list(best)


def test_tokens_by_hand() -> None:
    equal = torch.ones(1, 4, 3)
    assert spread(equal) == pytest.approx((1.0, 0.0, 1.0), abs=1e-6)
    orthogonal = torch.eye(4)[None]
    assert spread(orthogonal) == pytest.approx((0.0, math.sqrt(0.75), 4.0), abs=1e-6)


def test_tokens_collapse_without_shortcuts() -> None:
    net = make(vit.Net, replace(VIT, depth=8, patch=7))
    with torch.no_grad():
        for block in net.blocks:  # attention alone: no hidden units that would set tokens apart
            block.fc2.weight.zero_()
            block.fc2.bias.zero_()
            block.attention.out.bias.zero_()
            block.attention.qkv.bias.zero_()
    last = diagnose(net, batch(net)).tokens[-1]
    assert last.rank_without is not None and last.rank_without < 0.5 * last.rank


def test_refinements_are_those_of_grow() -> None:
    net = network("vit")
    found = {r.operator: r for r in diagnose(net, batch(net), torch.tensor([1, 2, 3])).refinements}
    with torch.no_grad():
        a, b = net.float()(batch(net)[0].float()), grow(net, depth=2).module(batch(net)[0].float())
    assert found["split"].difference == pytest.approx(float((a - b).abs().mean() / a.abs().max()), rel=1e-3)
    assert found["split"].accuracy is not None and found["coarsen"].loss is not None


def test_what_cannot_be_measured_is_said() -> None:
    post = make(transformer.Net, replace(TRANSFORMER, norm="post"))
    found = diagnose(post, batch(post))
    assert found.blocks and found.refinements[0].refused is not None and "post-norm" in found.refinements[0].refused
    with pytest.raises(InputError, match="no shortcuts"):
        diagnose(lamina.build("plain20_cifar"), torch.randn(1, 3, 32, 32))
    with pytest.raises(InputError, match="no description"):
        diagnose(nn.Linear(3, 3), torch.randn(1, 3))


def test_the_command(ok: Any, tmp_path: Any) -> None:
    import json

    document = json.loads(ok(f"diagnose vit_mnist --samples 4 --plot {tmp_path / 'a.svg'} --json"))
    assert len(document["blocks"]) == len(document["tokens"]) == 6
    assert (tmp_path / "a.svg").read_text().startswith("<svg")
    text = ok("diagnose resnet20_cifar --samples 4")
    assert "one split" in text and "layer1.0" in text
