"""Optimizer states: what is carried is what the grown network's own gradients would have given."""

from typing import Any

import pytest
import torch
from torch import nn

from lamina.errors import InputError
from lamina.scale import width
from lamina.scale.families import describe
from lamina.scale.growth import Grown, grow, materialise
from lamina.scale.optimizer import carry
from lamina.scale.plan import Plan
from tests.scale.networks import batch, network

MADE: dict[str, Any] = {
    "sgd": lambda ps: torch.optim.SGD(ps, lr=0.05, momentum=0.9),
    "adam": lambda ps: torch.optim.Adam(ps, lr=1e-3),
    "adamw": lambda ps: torch.optim.AdamW(ps, lr=1e-3, weight_decay=0.1),
}


def stepped(net: nn.Module, optimizer: torch.optim.Optimizer, count: int = 1) -> None:
    for _ in range(count):
        optimizer.zero_grad()
        net(*batch(net)).square().mean().backward()
        optimizer.step()


def gradients(net: nn.Module) -> dict[str, torch.Tensor]:
    net.zero_grad()
    net(*batch(net)).square().mean().backward()
    return {n: p.grad.clone() for n, p in net.named_parameters() if p.grad is not None}


def noiseless(net: nn.Module, axis: str) -> tuple[nn.Module, Plan]:
    operators: dict[str, Any] = {
        "feed_forward": width.widen_feed_forward, "heads": width.add_heads, "head_width": width.widen_heads,
        "model_width": width.widen_model, "channels": width.widen_channels,
    }  # fmt: skip
    family, step = operators[axis](describe(net), 2, noise=0.0)
    plan = Plan((step,))
    return materialise(family, plan, net), plan


@pytest.mark.parametrize(
    ("name", "axis"),
    [
        ("vit", "feed_forward"), ("vit", "heads"), ("vit", "head_width"), ("vit", "model_width"),
        ("transformer", "heads"), ("transformer", "head_width"),
        ("basic", "channels"), ("bottleneck", "channels"), ("resnext", "channels"),
    ],
)  # fmt: skip
@pytest.mark.parametrize("power", [1, 2])
def test_moments_are_those_of_the_grown_networks_gradients(name: str, axis: str, power: int) -> None:
    """The map of the first (and second) moment, applied to the old gradient (squared), is the new gradient (squared)."""
    net = network(name)
    grown, plan = noiseless(net, axis)
    old, new = gradients(net), gradients(grown)
    assert old and new
    for key, value in new.items():
        found = plan.moment(key, lambda n: old[n] ** power, power)
        assert found is not None
        assert torch.allclose(found, value**power, rtol=1e-8, atol=1e-10), key


def test_a_split_halves_the_gradient_of_all_but_the_last_layer() -> None:
    """In the limit of small steps; here of a block whose branch is small."""
    net = network("vit")
    with torch.no_grad():
        for block in net.blocks:
            for last in (block.attention.out, block.fc2):
                last.weight *= 1e-6
                last.bias *= 1e-6
    grown = grow(net, depth=2)
    old, new = gradients(net), gradients(grown.module)
    plan = Plan(grown.report.steps)
    for key, value in new.items():
        found = plan.moment(key, old.get, 1)
        assert found is not None
        assert (found - value).abs().max() <= 1e-4 * value.abs().max(), key
    assert torch.allclose(new["blocks.0.fc1.weight"], old["blocks.0.fc1.weight"] / 2, rtol=1e-2, atol=1e-9)


@pytest.mark.parametrize("kind", list(MADE))
@pytest.mark.parametrize("axis", ["depth", "feed_forward", "model_width"])
def test_the_state_goes_along(kind: str, axis: str) -> None:
    net = network("vit").train()
    optimizer = MADE[kind](net.parameters())
    stepped(net, optimizer, 3)
    arguments: dict[str, Any] = {axis: 2}
    result = grow(net, **arguments, operator={"depth": "zero"}, optimizer=optimizer)
    other = result.report.optimizer
    assert type(other) is type(optimizer) and other is not None
    settings = [{k: v for k, v in o.param_groups[0].items() if k != "params"} for o in (optimizer, other)]
    assert settings[0] == settings[1]
    covered = {p for g in other.param_groups for p in g["params"]}
    assert covered == set(result.module.parameters())
    if kind != "sgd":
        assert all(float(s["step"]) == 3 for s in other.state.values())
    stepped(result.module, other, 2)


def test_groups_stay_apart_and_frozen_parameters_out() -> None:
    net = network("vit").train()
    decayed = [p for p in net.parameters() if p.dim() > 1]
    others = [p for p in net.parameters() if p.dim() <= 1]
    net.head.weight.requires_grad_(False)
    optimizer = torch.optim.AdamW([{"params": decayed, "weight_decay": 0.3}, {"params": others, "weight_decay": 0.0}], lr=1e-3)
    grown = grow(net, depth=2, operator={"depth": "zero"}, optimizer=optimizer)
    assert grown.report.optimizer is not None
    groups = grown.report.optimizer.param_groups
    assert all(p.dim() > 1 for p in groups[0]["params"]) and all(p.dim() <= 1 for p in groups[1]["params"])
    assert not grown.module.head.weight.requires_grad
    assert not any(p is grown.module.head.weight for g in groups for p in g["params"])


def test_adam_walks_on_as_before() -> None:
    """After zero insertion with its state, the old weights' next step is the one they would have made."""
    net = network("vit").train()
    optimizer = torch.optim.Adam(net.parameters(), lr=1e-3)
    stepped(net, optimizer, 3)
    grown: Grown = grow(net, depth=2, operator={"depth": "zero"}, optimizer=optimizer)
    assert grown.report.optimizer is not None
    stepped(net, optimizer)
    stepped(grown.module, grown.report.optimizer)
    for name in ("patch_embed.weight", "head.weight", "norm.weight"):
        assert torch.allclose(grown.module.get_parameter(name), net.get_parameter(name), atol=1e-9)
    assert torch.allclose(grown.module.blocks[2].fc1.weight, net.blocks[1].fc1.weight, atol=1e-9)


def test_refusals() -> None:
    net = network("vit")
    with pytest.raises(InputError, match="RMSprop is not carried over"):
        grow(net, feed_forward=2, optimizer=torch.optim.RMSprop(net.parameters()))
    with pytest.raises(InputError, match="not the network's"):
        grow(net, feed_forward=2, optimizer=torch.optim.SGD(network("vit").parameters(), lr=0.1))
    assert carry(torch.optim.SGD(net.parameters(), lr=0.1), net, net, Plan()).state == {}
