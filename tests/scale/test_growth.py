"""`grow`, `shrink` and `verify` as a whole: trained networks, wrong calls, time and memory."""

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

import lamina
from lamina.errors import InputError
from lamina.scale.growth import check, grow, shrink
from lamina.scale.verify import ClaimError, verify
from lamina.zoo import transformer
from tests.scale.networks import TRANSFORMER, batch, error, make, network


@pytest.mark.parametrize("change", [{"feed_forward": 2}, {"heads": 2}, {"depth": 2, "operator": {"depth": "zero"}}], ids=str)
@pytest.mark.parametrize("name", ["vit_mnist", "transformer_de_en"])
def test_the_shipped_transformers_answer_as_before(name: str, change: dict[str, Any]) -> None:
    net = lamina.load(name)
    inputs = (torch.randn(16, 1, 28, 28),) if name == "vit_mnist" else tuple(torch.randint(0, 4000, (8, n)) for n in (9, 7))
    grown = grow(net, **change, exactness="exact")
    assert error(net, grown.module, inputs) < 1e-5
    assert check(net, grown, inputs).passed


def test_the_shipped_resnet_by_zero_insertion_and_by_splitting() -> None:
    net = lamina.load("resnet20_cifar")
    x = (torch.randn(8, 3, 32, 32),)
    zero, split = (grow(net, depth=2, operator={"depth": o}) for o in ("zero", "split"))
    assert error(net, zero.module, x) < 1e-5 and zero.module.config.depths == (6, 6, 6)
    assert split.module.config.depths == (6, 5, 5) and split.report.exactness == "approximate"
    back = shrink(split.module, depth=2)
    assert error(net, back.module, x) < 1e-5


@pytest.mark.filterwarnings("ignore::DeprecationWarning")  # torch.compile's own
def test_wrapped_modules_are_refused() -> None:
    class Wrapper(nn.parallel.DataParallel):
        def __init__(self, module: nn.Module) -> None:
            nn.Module.__init__(self)
            self.module = module

    net = network("vit")
    with pytest.raises(InputError, match=r"give its \.module"):
        grow(Wrapper(net), heads=2)
    with pytest.raises(InputError, match=r"give its \._orig_mod"):
        grow(torch.compile(net), heads=2)  # type: ignore[arg-type]


def test_weights_that_nobody_knows_to_be_tied_are_refused() -> None:
    net: Any = network("vit")
    net.blocks[1].fc1.weight = net.blocks[0].fc1.weight
    with pytest.raises(InputError, match=r"blocks.0.fc1.weight and blocks.1.fc1.weight are one tied weight"):
        grow(net, feed_forward=2)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({}, "nothing to change"),
        ({"heads": 0}, "positive whole number"),
        ({"heads": 1.5}, "positive whole number"),
        ({"heads": True}, "positive whole number"),
        ({"depth": (2, 2, 2)}, "1 stacks of blocks, and 3 numbers"),
        ({"heads": 2, "exactness": "nearly"}, "exactness is one of"),
        ({"heads": 2, "operator": {"heads": "split"}}, "has no choice of operators"),
        ({"depth": 2, "operator": {"depth": "fold"}}, "no operator 'fold'"),
        ({"tokens": 2, "exactness": "consistent"}, "interpolate is approximate"),
    ],
)
def test_wrong_calls(arguments: dict[str, Any], message: str) -> None:
    with pytest.raises(InputError, match=message):
        grow(network("vit"), **arguments)


def test_a_claim_that_does_not_hold_is_an_error() -> None:
    net, other = network("vit"), network("vit", seed=1)
    with pytest.raises(ClaimError, match="equal outputs"):
        verify(net, other, batch(net))
    result = verify(net, other, batch(net), check=False, targets=torch.tensor([1, 2, 3]))
    assert not result.passed and result.accuracy is not None and result.loss is not None
    assert verify(net, net, batch(net)).max_difference == 0
    with pytest.raises(ClaimError, match="order 1"):  # a refinement that is none
        verify(net, other, batch(net), claim="consistent", refine=lambda m: network("vit", seed=2))


def test_what_is_trained_and_where_it_is_stay_as_they_were() -> None:
    net: Any = network("vit").float().train()
    net.patch_embed.weight.requires_grad_(False)
    grown: Any = grow(net, depth=2, heads=2).module
    assert grown.training and grown.head.weight.dtype == torch.float32
    assert not grown.patch_embed.weight.requires_grad and grown.head.weight.requires_grad
    half: Any = grow(net.bfloat16(), heads=2).module
    assert half.head.weight.dtype == torch.bfloat16


def test_a_translators_cache_still_fits() -> None:
    """Step by step with keys and values kept, the grown decoder gives what it gives at once."""
    net: Any = grow(make(transformer.Net, TRANSFORMER), depth=2, heads=2, operator={"depth": "zero"}).module
    source, target = batch(net)
    with torch.no_grad():
        memory, cache = net.encode(source), transformer.Cache()
        steps = [net.decode(target[:, i : i + 1], memory, cache=cache) for i in range(target.shape[1])]
        assert (torch.cat(steps, 1) - net(source, target)).abs().max() < 1e-10


@pytest.mark.slow
@pytest.mark.parametrize("axis", ["heads", "feed_forward", "head_width", "model_width", "depth"])
def test_a_hundred_million_parameters_take_three_times_their_memory(axis: str) -> None:
    """In a process of its own: the largest resident memory with both networks, of the old one's weights. How long it takes is
    measured by `benchmarks/scale/large.py`."""
    code = f"import json, large; print(json.dumps(large.doubled('{axis}')))"
    folder = Path(__file__).parents[2] / "benchmarks" / "scale"
    done = subprocess.run([sys.executable, "-c", code], cwd=folder, capture_output=True, text=True, check=True)
    found = json.loads(done.stdout)
    assert found["parameters"] >= 100e6
    # A model width twice as large leaves nothing of the three: both networks together are 2.999 times the old one.
    both = 1 + found["grown"] / found["parameters"]
    assert found["memory"] <= (both + 0.02 if axis == "model_width" else 3)
