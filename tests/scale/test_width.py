"""Width operators are exact, whatever the shapes, and their copies do not stay equal."""

import copy
from dataclasses import replace
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from lamina.errors import InputError
from lamina.scale.growth import check, grow, shrink
from lamina.zoo import resnet, transformer, vit
from tests.scale.networks import RESNEXT, TRANSFORMER, VIT, batch, error, make, network

AXES = [
    ("vit", "feed_forward"),
    ("vit", "heads"),
    ("vit", "head_width"),
    ("vit", "model_width"),
    ("transformer", "feed_forward"),
    ("transformer", "heads"),
    ("transformer", "head_width"),
    ("wrn", "channels"),
    ("basic", "channels"),
    ("bottleneck", "channels"),
    ("resnext", "channels"),
    ("densenet", "channels"),
]


@pytest.mark.parametrize("factor", [2, 3])
@pytest.mark.parametrize(("name", "axis"), AXES)
def test_widening_is_exact(name: str, axis: str, factor: int) -> None:
    net = network(name)
    before = {k: v.clone() for k, v in net.state_dict().items()}
    arguments: dict[str, Any] = {axis: factor}
    grown = grow(net, **arguments, exactness="exact")
    assert error(net, grown.module, batch(net)) < 1e-12
    single = tuple(x.float() if x.is_floating_point() else x for x in batch(net))
    assert error(copy.deepcopy(net).float(), copy.deepcopy(grown.module).float(), single) < 1e-5
    assert grown.report.exactness == "exact"
    assert grown.report.new["parameters"] > 1.2 * grown.report.old["parameters"]
    assert all(torch.equal(before[k], v) for k, v in net.state_dict().items())
    assert type(grown.module) is type(net)


def test_post_norm_widths_are_exact() -> None:
    net = make(transformer.Net, replace(TRANSFORMER, norm="post", attention_bias=True))
    grown = grow(net, feed_forward=2, heads=2, head_width=2)
    assert error(net, grown.module, batch(net)) < 1e-12


def test_all_axes_of_a_vit_at_once() -> None:
    net = network("vit")
    sizes: dict[str, Any] = dict.fromkeys(("feed_forward", "heads", "head_width", "model_width", "depth"), 2)
    grown = grow(net, **sizes, operator={"depth": "zero"})
    assert error(net, grown.module, batch(net)) < 1e-12
    assert grown.module.config == replace(VIT, depth=4, width=48, mlp=80, n_heads=6, head_width=16)


@settings(max_examples=15, deadline=None)
@given(
    heads=st.integers(1, 4),
    head_width=st.integers(1, 5),
    mlp=st.integers(1, 20),
    factor=st.integers(2, 4),
    representation=st.sampled_from([None, 9]),
    axis=st.sampled_from(["feed_forward", "heads", "head_width", "model_width"]),
    seed=st.integers(0, 99),
)
def test_any_shape_of_a_vit(
    heads: int, head_width: int, mlp: int, factor: int, representation: int | None, axis: str, seed: int
) -> None:
    sizes: dict[str, Any] = {"width": 2 * heads * head_width, "mlp": mlp, "n_heads": heads, "head_width": head_width}
    net = make(vit.Net, replace(VIT, depth=1, patch=14, representation=representation, **sizes), seed)
    arguments: dict[str, Any] = {axis: factor}
    assert error(net, grow(net, **arguments).module, batch(net)) < 1e-12


@settings(max_examples=10, deadline=None)
@given(groups=st.sampled_from([1, 2, 4]), each=st.integers(1, 4), factor=st.integers(2, 3), seed=st.integers(0, 99))
def test_any_groups_of_a_resnext(groups: int, each: int, factor: int, seed: int) -> None:
    widths = (groups * each, 2 * groups * each)
    net = make(resnet.Net, replace(RESNEXT, widths=widths, outputs=(16, 24), cardinality=groups, img_size=8), seed)
    assert error(net, grow(net, channels=factor).module, batch(net)) < 1e-12


@pytest.mark.parametrize(("name", "axis"), AXES)
def test_shrinking_undoes_growing(name: str, axis: str) -> None:
    if axis in ("head_width", "model_width"):
        pytest.skip("has no inverse")
    net = network(name)
    arguments: dict[str, Any] = {axis: 2}
    back = shrink(grow(net, **arguments).module, **arguments)
    assert error(net, back.module, batch(net)) < 1e-12
    assert back.report.exactness == "approximate"


@pytest.mark.parametrize("optimizer", [torch.optim.SGD, torch.optim.AdamW])
def test_copies_do_not_stay_equal(optimizer: Any) -> None:
    net = grow(network("vit"), feed_forward=2).module.train()
    weight = net.blocks[0].fc1.weight
    assert torch.equal(weight[0], weight[1])
    steps = optimizer(net.parameters(), lr=1e-2)
    for _ in range(3):
        steps.zero_grad()
        net(*batch(net)).square().mean().backward()
        steps.step()
    assert (weight[0] - weight[1]).abs().max() > 1e-6


def test_a_width_that_is_not_shared_out_changes_the_output() -> None:
    """The check can fail."""
    net = network("vit")
    grown = grow(net, feed_forward=2)
    with torch.no_grad():
        grown.module.blocks[0].fc2.weight[:, 0] *= 1.01
    assert error(net, grown.module, batch(net)) > 1e-6
    with pytest.raises(Exception, match="does not hold"):
        check(net, grown, batch(net))


def test_refusals() -> None:
    with pytest.raises(InputError, match="sinusoids"):
        grow(network("transformer"), model_width=2)
    with pytest.raises(InputError, match="layer norms see the zeros"):
        grow(network("vit"), model_width=2, operator={"model_width": "pad"})
    with pytest.raises(InputError, match="ResNet cannot change its heads"):
        grow(network("basic"), heads=2)
    with pytest.raises(InputError, match="rounds its compression"):
        grow(make(*_odd_densenet()), channels=2)
    with pytest.raises(InputError, match=r"blocks.0 has 40 hidden units, which are not divisible by 3"):
        shrink(network("vit"), feed_forward=3)
    with pytest.raises(InputError, match="3 query heads"):
        shrink(network("vit"), heads=2)


def _odd_densenet() -> Any:
    from lamina.zoo import densenet
    from tests.scale.networks import DENSENET

    return densenet.Net, replace(DENSENET, growth=5, stem_channels=9)
