"""Cost as a function of size, and the largest size that fits."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

import lamina
from lamina.cost import memory, sweep
from lamina.errors import InputError, LaminaError
from lamina.zoo import registry


def macs(work):
    return work.total().macs


def measure(make, shape):
    """A function of the size: the trace of `make()` on `shape(size)`."""
    module = make.eval()

    def call(size):
        try:
            return lamina.trace(module, torch.empty(shape(size), device="meta"))
        except RuntimeError as error:
            raise InputError(str(error)) from error

    return call


def test_parsing():
    assert sweep.parse("resolution=128:512:128") == sweep.Sweep("resolution", (128, 256, 384, 512))
    assert sweep.parse("batch=1:4").sizes == (1, 2, 3, 4)
    assert sweep.parse("sequence=7,5,7").sizes == (7, 5)
    assert sweep.parse("resolution=128:200:32").sizes == (128, 160, 192)


@pytest.mark.parametrize(
    "text",
    ["", "resolution", "width=1:2", "resolution=", "resolution=9:1:1", "resolution=1:9:0", "batch=0,1", "batch=-1", "batch=a",
     "batch=1:2:3:4", "batch=1:9000", "batch=1,,2", "batch=1.5", "batch=99999999999"],
)  # fmt: skip
def test_nonsense_is_refused(text):
    with pytest.raises(InputError, match="--sweep"):
        sweep.parse(text)


def test_limits():
    assert sweep.parse_limit("5GMACs") == sweep.Limit("MACs", 5 * 10**9)
    assert sweep.parse_limit("5G") == sweep.Limit("MACs", 5 * 10**9)
    assert sweep.parse_limit("10 GFLOPs") == sweep.Limit("MACs", 5 * 10**9)
    assert sweep.parse_limit("8GB") == sweep.Limit("B", 8 * 10**9)
    assert sweep.parse_fit("8GB", False)[0] == "batch"
    assert sweep.parse_fit("8GMACs", False)[0] == "resolution" and sweep.parse_fit("8GMACs", True)[0] == "sequence"
    assert sweep.parse_fit("batch=8GMACs", False) == ("batch", sweep.Limit("MACs", 8 * 10**9))
    for text in ("much", "", "0GB", "-5G", "5GX", "width=5G", "=5G", "1..2G"):
        with pytest.raises(InputError):
            sweep.parse_fit(text, False)


def test_shapes():
    assert sweep.resize((2, 3, 224, 224), "resolution", 96, False) == (2, 3, 96, 96)
    assert sweep.resize((2, 3, 224, 224), "batch", 5, False) == (5, 3, 224, 224)
    assert sweep.resize((1, 100), "sequence", 7, True) == (1, 7)
    assert sweep.resize((1, 100, 64), "sequence", 7, False) == (1, 7, 64)
    for shape, axis, tokens in (((1, 10), "resolution", True), ((1, 3, 8, 8), "sequence", False), ((1, 8), "sequence", False)):
        with pytest.raises(InputError):
            sweep.resize(shape, axis, 4, tokens)


def test_a_refused_size_is_a_row_that_says_so():
    vgg = measure(registry.assemble("vgg11"), lambda r: (1, 3, r, r))
    points = sweep.run(sweep.parse("resolution=16,224"), vgg)
    assert points[0].workload is None and "too small" in points[0].refusal
    assert points[1].workload is not None and macs(points[1].workload) == registry.spec("vgg11").macs
    with pytest.raises(InputError, match="too small"):
        sweep.run(sweep.parse("resolution=8,16"), vgg)


def test_the_largest_resolution_is_the_largest():
    net = measure(registry.assemble("resnet18"), lambda r: (1, 3, r, r))
    found = sweep.largest(net, macs, 10**9, 224, "resolution")
    assert macs(net(found.size)) == found.figure <= 10**9 < macs(net(found.size + 1)) == found.next_figure
    up = sweep.largest(net, macs, 10**10, 224, "resolution")
    assert up.size > 224 and macs(net(up.size)) <= 10**10 < macs(net(up.size + 1))


def test_the_largest_batch_fits_memory_exactly():
    net = measure(nn.Sequential(nn.Linear(10, 20), nn.ReLU()), lambda n: (n, 10))
    limit = memory.inference_bytes(net(137))
    assert sweep.largest(net, memory.inference_bytes, limit, 1, "batch").size == 137
    assert sweep.largest(net, memory.inference_bytes, limit - 1, 1, "batch").size == 136


class Patches(nn.Module):
    """Takes multiples of 14 from 28 to 1400."""

    def __init__(self):
        super().__init__()
        self.conv = nn.Conv2d(1, 1, 14, 14)

    def forward(self, x):
        if x.shape[-1] % 14 or not 28 <= x.shape[-1] <= 1400:
            raise InputError("a multiple of 14 from 28 to 1400")
        return self.conv(x)


def test_a_network_of_patches_goes_in_steps_of_its_patch():
    net = measure(Patches(), lambda r: (1, 1, r, r))
    found = sweep.largest(net, macs, 100_000, 224, "resolution")
    assert (found.size, found.next_size) == (308, 322) and found.figure <= 100_000 < (found.next_figure or 0)
    small = sweep.largest(net, macs, 4_000, 224, "resolution")
    assert small.size == 56 and (small.next_figure or 0) > 4_000
    most = sweep.largest(net, macs, 10**12, 224, "resolution")
    assert (most.size, most.next_figure) == (1400, None)  # the next is refused
    with pytest.raises(InputError, match=r"nothing fits: resolution 28 takes 784"):
        sweep.largest(net, macs, 100, 224, "resolution")


def test_a_network_of_one_size():
    def only(size):
        if size != 224:
            raise InputError("takes 224")
        return lamina.trace(nn.Linear(4, 4), torch.empty(1, 4))

    found = sweep.largest(only, macs, 100, 224, "resolution")
    assert (found.size, found.next_figure) == (224, None)
    with pytest.raises(InputError, match="nothing fits"):
        sweep.largest(only, macs, 3, 224, "resolution")
    with pytest.raises(InputError, match="takes 224"):
        sweep.largest(only, macs, 3, 225, "resolution")


def test_a_cost_that_does_not_grow_is_said_so():
    net = measure(nn.Identity(), lambda n: (n, 2))
    with pytest.raises(LaminaError, match="every batch"):
        sweep.largest(net, macs, 10, 1, "batch")


@given(st.integers(1, 60), st.sampled_from([1, 2, 7, 16]), st.integers(1, 6), st.integers(1, 200_000))
@settings(max_examples=60, deadline=None)
def test_bisection_finds_what_a_full_search_finds(start, step, exponent, limit):
    """For networks that take multiples of `step` only."""
    start = max(1, start // step) * step

    def only(size):
        if size % step or size > 4096:
            raise InputError("no")
        return size

    def cost(size):
        return size**exponent

    fitting = [n for n in range(step, 4097, step) if cost(n) <= limit]
    if not fitting:
        with pytest.raises(InputError):
            sweep.largest(only, cost, limit, start, "size")  # type: ignore[arg-type]
    else:
        assert sweep.largest(only, cost, limit, start, "size").size == fitting[-1]  # type: ignore[arg-type]


def test_every_input_is_resized():
    from lamina.cli import network

    net = network.find("vit_b_32")
    assert net.resized("batch", 4) == {"x": (4, 3, 224, 224)} and net.resized("resolution", 64) == {"x": (1, 3, 64, 64)}
    with pytest.raises(InputError, match="is not a sequence"):
        net.resized("sequence", 4)
    both = network.find("transformer_base", ["2x7"])
    assert both.resized("sequence", 9) == dict.fromkeys(both.sizes, (2, 9))
    with pytest.raises(InputError, match="has no resolution"):
        both.resized("resolution", 64)
