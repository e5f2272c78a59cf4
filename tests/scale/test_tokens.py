"""Tokens: patches, grids and contexts."""

from dataclasses import replace

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from lamina.errors import InputError
from lamina.scale.growth import check, grow, shrink
from lamina.scale.tokens import repeat_patches, resize_patch, resize_patches, stretch
from lamina.zoo import vit
from tests.scale.networks import VIT, batch, error, make, network


@settings(max_examples=12, deadline=None)
@given(old=st.integers(2, 5), new=st.integers(2, 9), mode=st.sampled_from(["bilinear", "nearest"]), seed=st.integers(0, 99))
def test_larger_patches_are_exact_on_resized_patches(old: int, new: int, mode: str, seed: int) -> None:
    if new < old:
        return
    torch.manual_seed(seed)
    weight, x = torch.randn(6, 2, old, old).double(), torch.randn(3, 2, 2 * old, 3 * old).double()
    expected = torch.nn.functional.conv2d(x, weight, stride=old)
    larger = resize_patches(x, old, new, mode)  # type: ignore[arg-type]
    found = torch.nn.functional.conv2d(larger, resize_patch(weight, new, mode), stride=new)  # type: ignore[arg-type]
    assert torch.allclose(found, expected, atol=1e-11)


def test_patches_are_resized_as_torch_resizes_images() -> None:
    x = torch.randn(2, 3, 4, 4).double()
    expected = torch.nn.functional.interpolate(x, size=(7, 7), mode="bilinear", align_corners=False)
    assert torch.allclose(resize_patches(x, 4, 7), expected)


@pytest.mark.parametrize("mode", ["bilinear", "nearest"])
def test_a_vit_with_larger_patches(mode: str) -> None:
    net = network("vit")
    grown = grow(net, patch=14, operator={"patch": mode}, exactness="exact")
    assert check(net, grown, batch(net)).passed
    assert (grown.module.config.patch, grown.module.config.img_size) == (14, 56)
    assert grow(net, resolution=2, exactness="exact").module.config == grown.module.config
    assert error(net, shrink(grown.module, patch=7, operator={"patch": mode}).module, batch(net)) < 1e-9


@pytest.mark.parametrize("factor", [2, 3])
def test_duplicated_tokens_are_exact_with_the_class_tokens_logit(factor: int) -> None:
    net = network("vit")
    grown = grow(net, tokens=factor, operator={"tokens": "duplicate"}, exactness="exact")
    assert check(net, grown, batch(net)).passed
    assert grown.module.config.copies == factor**2
    # Without log m the class token weighs too little: the term is needed.
    without = vit.Net(replace(grown.module.config, copies=1)).double().eval()
    without.load_state_dict(grown.module.state_dict())
    assert error(net, without, batch(net), (repeat_patches(batch(net)[0], 7, factor),)) > 1e-3
    # In the first block the copies share the old weight of their patch, and the class token keeps its own.
    old, new = (
        n.attention_maps(x)[0] for n, x in ((net, batch(net)[0]), (grown.module, repeat_patches(batch(net)[0], 7, factor)))
    )
    assert torch.allclose(new[:, :, 0, 0], old[:, :, 0, 0]) and torch.allclose(new[:, :, 0, 1], old[:, :, 0, 1] / factor**2)


def test_duplicates_may_be_duplicated() -> None:
    net = network("vit")
    once = grow(net, tokens=2, operator={"tokens": "duplicate"})
    twice = grow(once.module, tokens=2, operator={"tokens": "duplicate"})
    x = batch(net)[0]
    assert error(net, twice.module, (x,), (repeat_patches(x, 7, 4),)) < 1e-12


def test_positions_are_interpolated() -> None:
    net = network("vit")
    grown = grow(net, tokens=2)
    assert grown.report.exactness == "approximate"
    assert grown.module.position_embedding.shape == (1, 1 + 64, 24)
    back = shrink(grown.module, tokens=2).module
    assert back.config == net.config
    assert torch.equal(grown.module.position_embedding[:, 0], net.position_embedding[:, 0])


def test_stretched_positions_by_hand() -> None:
    table = torch.tensor([[0.0], [2.0], [4.0]])
    assert stretch(table, 2).flatten().tolist() == [0, 1, 2, 3, 4, 4]


def test_refusals() -> None:
    with pytest.raises(InputError, match="another whole number of pixels"):
        grow(network("vit"), patch=7)
    with pytest.raises(InputError, match="cannot change its tokens"):
        grow(network("basic"), tokens=2)
    with pytest.raises(InputError, match="not divisible by 3"):
        shrink(network("vit"), tokens=3)
    with pytest.raises(InputError, match="no operator"):
        grow(make(vit.Net, VIT), tokens=2, operator={"tokens": "stretch"})
