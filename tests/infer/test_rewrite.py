"""Rewritten networks answer as they did, and the rules change what they are for."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn
from torch.nn import functional as F

import lamina
from lamina.infer import forms, packed, winograd
from lamina.infer.rewrite import ResponseNorm, rewrite


def lively(module: nn.Module) -> nn.Module:
    """Weights and statistics that no rule can mistake for ones and zeros."""
    torch.manual_seed(0)
    for part in module.modules():
        if isinstance(part, nn.BatchNorm2d):
            nn.init.uniform_(part.weight, 0.5, 1.5)
            nn.init.normal_(part.bias, std=0.3)
            part.running_mean.normal_(std=0.3)
            part.running_var.uniform_(0.5, 2)
    return module.eval()


def apart(a: torch.Tensor, b: torch.Tensor) -> float:
    return ((a - b).abs().max() / b.abs().max()).item()


@settings(max_examples=60, deadline=None)
@given(
    channels=st.integers(1, 24),
    size=st.integers(1, 8),
    alpha=st.floats(1e-4, 2),
    beta=st.sampled_from([0.75, 0.5, 1.0, 0.6]),
    k=st.floats(0.5, 3),
    side=st.integers(1, 7),
    batch=st.integers(1, 3),
)
def test_response_norm(channels, size, alpha, beta, k, side, batch):
    norm = nn.LocalResponseNorm(size, alpha, beta, k)
    x = torch.randn(batch, channels, side, side + 1) * 3
    assert apart(ResponseNorm(norm, channels)(x), norm(x)) < 1e-5


@settings(max_examples=40, deadline=None)
@given(
    channels=st.integers(1, 3).map(lambda n: 4 * n),
    filters=st.integers(1, 3).map(lambda n: 4 * n),
    kernel=st.sampled_from([1, 3, (1, 3)]),
    stride=st.integers(1, 2),
    groups=st.sampled_from([1, 2, 4]),
    padding=st.integers(0, 1),
    bias=st.booleans(),
    before=st.booleans(),
    side=st.integers(3, 9),
)
def test_batch_norms(channels, filters, kernel, stride, groups, padding, bias, before, side):
    conv = nn.Conv2d(channels, filters, kernel, stride, padding, groups=groups, bias=bias)
    net = nn.Sequential(*([nn.BatchNorm2d(channels), conv] if before else [conv, nn.BatchNorm2d(filters)]))
    lively(net)
    x, found = torch.randn(2, channels, side, side), rewrite(net)
    folds = not before or (padding == 0 and groups == 1)
    assert found.changes["batch norms folded"] == int(folds)
    with torch.inference_mode():
        assert apart(found.module(x), net(x)) < 1e-5


def test_a_layer_called_twice_keeps_its_weights():
    class Net(nn.Module):
        def __init__(self):
            super().__init__()
            self.conv, self.norm = nn.Conv2d(4, 4, 3, padding=1), nn.BatchNorm2d(4)

        def forward(self, x):
            return self.conv(F.relu(self.norm(self.conv(x))))

    net, x = lively(Net()), torch.randn(1, 4, 6, 6)
    found = rewrite(net)
    assert found.changes["batch norms folded"] == 0
    with torch.inference_mode():
        assert apart(found.module(x), net(x)) < 1e-6


def test_a_norm_that_is_read_twice_stays():
    class Net(nn.Module):
        def __init__(self):
            super().__init__()
            self.conv, self.norm = nn.Conv2d(4, 4, 1), nn.BatchNorm2d(4)

        def forward(self, x):
            y = self.conv(x)
            return self.norm(y) + y

    net, x = lively(Net()), torch.randn(1, 4, 6, 6)
    with torch.inference_mode():
        assert apart(rewrite(net).module(x), net(x)) < 1e-6


NETWORKS = {  # shrunk: what each rule finds in it, Winograd's aside
    "alexnet": ({"img_size": 67}, 2, 0, 2),
    "googlenet": ({"img_size": 64}, 1, 0, 2),
    "googlenet_bn": ({"img_size": 64}, None, 57, 0),
    "vgg11_bn": ({"img_size": 32}, 2, 8, 0),
    "resnet18": ({"img_size": 32}, 0, 20, 0),
    "densenet121": ({"img_size": 32}, None, 59, 0),  # the stem's, and each layer's second
    "inception_v3": ({"img_size": 75}, None, 94, 0),
}


@pytest.mark.parametrize("name", NETWORKS)
def test_networks(name, monkeypatch):
    changes, idle, norms, responses = NETWORKS[name]
    net = lively(lamina.build(name, **changes))
    state = {key: value.clone() for key, value in net.state_dict().items()}
    x = torch.randn(2, 3, changes["img_size"], changes["img_size"])
    monkeypatch.setattr(forms, "GAIN", float("inf"))  # Winograd wherever it fits
    found = rewrite(net, [x])
    assert found.why == ""
    assert (found.changes["batch norms folded"], found.changes["response norms banded"]) == (norms, responses)
    assert idle is None or found.changes["idle layers removed"] == idle
    fits = sum(winograd.fits(layer) for layer in net.modules() if isinstance(layer, nn.Conv2d))
    if winograd.available():
        assert found.changes["Winograd convolutions"] == fits
    with torch.inference_mode():
        y = net(x)
        assert apart(found.module(x), y) < 1e-4
        assert apart(found.module(torch.cat((x, x, x[:1]))), net(torch.cat((x, x, x[:1])))) < 1e-4
        assert torch.equal(found.module(x).argmax(1), y.argmax(1))
    assert all(torch.equal(value, net.state_dict()[key]) for key, value in state.items())


def test_memory_bounds_winograds_filters(monkeypatch):
    if not winograd.available():
        pytest.skip("needs a C++ compiler")
    monkeypatch.setattr(forms, "GAIN", float("inf"))
    net = nn.Sequential(nn.Conv2d(8, 8, 3), nn.Conv2d(8, 8, 3), nn.Conv2d(8, 8, 3)).eval()
    one = winograd.Winograd(net[0]).filters.nbytes  # 36 for each pair of channels, filled up to whole vectors
    assert one >= 36 * 8 * 8 * 4
    for memory, layers in ((None, 3), (3 * one, 3), (2 * one, 2), (one - 1, 0)):
        assert rewrite(net, [torch.randn(1, 8, 12, 12)], memory=memory).changes["Winograd convolutions"] == layers


def test_what_cannot_be_followed_stays_as_it_is():
    class Net(nn.Module):
        def forward(self, x):
            return x if x.sum() > 0 else -x

    net = Net().eval()
    found = rewrite(net)
    assert found.module is net
    assert found.why.startswith("torch.fx cannot follow it")


class Asking(nn.Module):
    """A condition on values, which torch.fx cannot follow, and a forward that asks layers for their weights."""

    def __init__(self):
        super().__init__()
        self.conv, self.head = nn.Conv2d(3, 8, 3), nn.Linear(6, 5)

    def forward(self, x):
        y = self.conv(x.to(self.conv.weight.dtype)).relu()
        y = self.head(y) * self.head.weight.shape[0]
        return y if y.sum() > -1e9 else -y


class Branching(nn.Module):
    """A condition on a size that holds for every batch, and where `batch` one that does not."""

    def __init__(self, batch: bool):
        super().__init__()
        self.conv, self.batch = nn.Conv2d(3, 4, 3), batch

    def forward(self, x):
        if x.shape[0] == 1 if self.batch else x.shape[-1] == 8:
            return self.conv(x).relu()
        return self.conv(x)


def test_layers_are_exchanged_where_there_is_no_graph():
    if not packed.available():
        pytest.skip("this torch has no packed layers")
    net, x = Asking().eval(), torch.randn(2, 3, 8, 8)
    found = rewrite(net, [x])
    assert found.why and found.changes == {"packed layers": 2}
    with torch.inference_mode():
        for batch in (x, torch.cat([x, x, x])):
            assert apart(found.module(batch), net(batch)) < 1e-5
    assert type(net.conv) is nn.Conv2d and rewrite(net, [x], memory=0).changes == {"packed layers": 0}


def test_conditions_on_sizes_are_followed():
    x = torch.randn(1, 3, 8, 8)
    net = Branching(batch=False).eval()
    found = rewrite(net, [x])
    assert not found.why
    with torch.inference_mode():
        assert apart(found.module(torch.cat([x, x])), net(torch.cat([x, x]))) < 1e-5
    assert rewrite(Branching(batch=True).eval(), [x]).why  # one batch is not the other


@settings(max_examples=60, deadline=None)
@given(
    channels=st.integers(1, 3).map(lambda n: 4 * n),
    filters=st.integers(1, 5).map(lambda n: 4 * n),
    kernel=st.sampled_from([1, 3, (1, 3), 5]),
    stride=st.integers(1, 2),
    groups=st.sampled_from([1, 2, 4]),
    padding=st.integers(0, 2),
    side=st.integers(5, 12),
    batch=st.integers(1, 3),
    shortcut=st.sampled_from(["none", "input", "conv"]),
    relu=st.booleans(),
    bias=st.booleans(),
)
def test_packed_convolutions(channels, filters, kernel, stride, groups, padding, side, batch, shortcut, relu, bias):
    """A convolution with a sum and a ReLU after it, on this batch and on another."""

    class Net(nn.Module):
        def __init__(self):
            super().__init__()
            options = {"stride": stride, "padding": padding, "groups": groups, "bias": bias}
            self.conv, self.other = (nn.Conv2d(channels, filters, kernel, **options) for _ in range(2))

        def forward(self, x):
            y = self.conv(x)
            if shortcut == "input" and y.shape == x.shape:
                y = y + x
            elif shortcut == "conv":
                y += self.other(x)
            return F.relu(y) if relu else y

    torch.manual_seed(0)
    net, x = Net().eval(), torch.randn(batch, channels, side, side)
    found = rewrite(net, [x])
    with torch.inference_mode():
        for given_ in (x, torch.cat([x, x])):
            expected = net(given_)
            assert (found.module(given_) - expected).abs().max() <= 1e-5 * max(1.0, expected.abs().max().item())


def test_a_map_that_is_overwritten_is_not_summed_later():
    """The convolution reads x before x is changed in place: moved to the sum, it would read the changed one."""

    class Net(nn.Module):
        def __init__(self):
            super().__init__()
            self.first, self.conv = nn.Conv2d(4, 4, 1), nn.Conv2d(4, 4, 3, padding=1)

        def forward(self, x):
            x = self.first(x)
            y = self.conv(x)
            return y + x.relu_()

    net, x = Net().eval(), torch.randn(2, 4, 6, 6)
    with torch.inference_mode():
        assert apart(rewrite(net, [x]).module(x), net(x)) < 1e-5
