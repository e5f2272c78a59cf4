"""Whole networks beside their papers' formulas: every norm, pool, rectifier and dropout in its place, with its constants.

Each formula is written from the paper with `torch.nn.functional` and plain arithmetic, and takes nothing from the network but
its weights by name. Weights, biases and running statistics are random and far from trivial, so that two exchanged layers, a
missing one or another constant changes the result; in training the same seed gives both the same dropout.
"""

import math
from collections.abc import Callable, Iterator
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

import lamina
from lamina.zoo import googlenet, lenet, registry

State = dict[str, Tensor]


@pytest.fixture(autouse=True, scope="module")
def one_thread() -> Iterator[None]:
    """Networks this small only wait for further threads."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


def random_state(net: nn.Module) -> State:
    """Weights that keep a signal's size, biases and norms that are not trivial, small and large variances: put into `net`."""
    random = torch.Generator().manual_seed(1)
    state = {}
    for name, value in net.state_dict().items():
        draw = torch.randn(value.shape, generator=random, dtype=torch.float64)
        if name.endswith("num_batches_tracked"):
            draw = torch.zeros_like(value)
        elif name.endswith("running_var"):
            draw = 10.0 ** draw.clamp(-2, 1)
        elif value.dim() > 1:
            draw *= math.sqrt(2 / value[0].numel())
        else:
            draw = (1.0 if name.endswith("weight") else 0.0) + 0.3 * draw
        state[name] = draw
    net.load_state_dict(state)
    return state


def beside(formula: Callable[..., Any], name: str, x: Tensor, training: bool = False, **changes: Any) -> None:
    """Hold the network `name` to `formula(state, x, training)` on random weights."""
    net = lamina.build(name, **changes).double().train(training)
    state = random_state(net)
    torch.manual_seed(2)
    ours = net(x.clone())
    torch.manual_seed(2)
    theirs = formula(state, x.clone(), training)
    assert isinstance(ours, tuple) == isinstance(theirs, tuple)
    pairs = zip(ours, theirs, strict=True) if isinstance(ours, tuple) else [(ours, theirs)]
    for a, b in pairs:
        assert b.abs().max() > 1e-3 and b.std() > 1e-3
        torch.testing.assert_close(a, b, rtol=1e-9, atol=1e-9)


def images(channels: int, side: int, scale: float = 1.0, batch: int = 2) -> Tensor:
    return scale * torch.randn(batch, channels, side, side, generator=torch.Generator().manual_seed(3), dtype=torch.float64)


def conv(s: State, name: str, x: Tensor, **options: Any) -> Tensor:
    return F.conv2d(x, s[f"{name}.weight"], s.get(f"{name}.bias"), **options)


def linear(s: State, name: str, x: Tensor) -> Tensor:
    return x @ s[f"{name}.weight"].T + s[f"{name}.bias"]


def batch_norm(s: State, name: str, x: Tensor, training: bool, eps: float = 1e-5) -> Tensor:
    """Ioffe and Szegedy 2015, algorithms 1 and 2, written out."""
    if training:
        mean, var = x.mean((0, 2, 3)), x.var((0, 2, 3), unbiased=False)
    else:
        mean, var = s[f"{name}.running_mean"], s[f"{name}.running_var"]
    scale, shift = s[f"{name}.weight"], s[f"{name}.bias"]
    mean, var, scale, shift = (v[:, None, None] for v in (mean, var, scale, shift))
    return scale * (x - mean) / torch.sqrt(var + eps) + shift


def response_norm(x: Tensor, k: float, alpha: float, beta: float = 0.75, n: int = 5) -> Tensor:
    """Krizhevsky et al. 2012, section 3.3, with alpha on the sum of the squares of n neighbouring maps."""
    squares = torch.stack([x[:, max(0, i - n // 2) : i + n // 2 + 1].square().sum(1) for i in range(x.shape[1])], 1)
    return x / (k + alpha * squares) ** beta


# ---- LeNet ------------------------------------------------------------------------------------------------------------


def squash(a: Tensor) -> Tensor:
    """LeCun et al. 1998, Appendix A: f(a) = A tanh(S a), A = 1.7159 and S = 2/3."""
    return 1.7159 * torch.tanh(2 * a / 3)


def lenet5(s: State, x: Tensor, training: bool) -> Tensor:
    """LeCun et al. 1998, section II.B: sums of 2x2 blocks times a coefficient plus a bias, every layer squashed but the last,
    which is the squared distance to each code; the score is its negative."""

    def subsample(name: str, x: Tensor) -> Tensor:
        sums = x[:, :, ::2, ::2] + x[:, :, 1::2, ::2] + x[:, :, ::2, 1::2] + x[:, :, 1::2, 1::2]
        return sums * s[f"{name}.coefficient"][:, None, None] + s[f"{name}.bias"][:, None, None]

    def sparse(x: Tensor) -> Tensor:
        filters = [w for key in sorted(k for k in s if k.startswith("c3.weights")) for w in s[key]]
        dense = torch.zeros(16, 6, 5, 5, dtype=x.dtype)
        for place, (links, w) in enumerate(zip(lenet.C3_TABLE, filters, strict=True)):
            dense[place, list(links)] = w
        return F.conv2d(x, dense, s["c3.bias"])

    x = squash(subsample("s2", squash(conv(s, "c1", x))))
    x = squash(subsample("s4", squash(sparse(x))))
    x = squash(linear(s, "f6", squash(conv(s, "c5", x)).flatten(1)))
    return -torch.stack([((x - code) ** 2).sum(1) for code in s["rbf.codes"]], 1)


def lenet5_dense(s: State, x: Tensor, training: bool) -> Tensor:
    """The form of today: tanh, average pools, every map of C3 sees every map of S2."""
    x = F.avg_pool2d(torch.tanh(conv(s, "c1", x)), 2)
    x = F.avg_pool2d(torch.tanh(conv(s, "c3", x)), 2)
    x = torch.tanh(linear(s, "f6", torch.tanh(linear(s, "c5", x.flatten(1)))))
    return linear(s, "output", x)


def lenet_caffe(s: State, x: Tensor, training: bool) -> Tensor:
    """BVLC's lenet.prototxt: two convolutions and max pools without a rectifier between, one rectifier behind ip1."""
    x = F.max_pool2d(conv(s, "conv1", x), 2)
    x = F.max_pool2d(conv(s, "conv2", x), 2)
    return linear(s, "ip2", linear(s, "ip1", x.flatten(1)).clamp(min=0))


@pytest.mark.parametrize(("name", "side"), [("lenet5", 32), ("lenet5_dense", 32), ("lenet_caffe", 28)])
def test_lenet(name, side):
    beside({"lenet5": lenet5, "lenet5_dense": lenet5_dense, "lenet_caffe": lenet_caffe}[name], name, images(1, side))


# ---- AlexNet, OverFeat, VGG -------------------------------------------------------------------------------------------


def hidden(s: State, names: list[str], x: Tensor, dropout: float, training: bool) -> Tensor:
    """Fully connected layers, each rectified and then dropped out."""
    for name in names:
        x = F.dropout(linear(s, name, x).clamp(min=0), dropout, training)
    return x


def alexnet(s: State, x: Tensor, training: bool) -> Tensor:
    """Krizhevsky et al. 2012, Figure 2: "response-normalization layers follow the first and second convolutional layers",
    "max-pooling layers ... follow both response-normalization layers as well as the fifth"; the rectifier is of every layer;
    layers 2, 4 and 5 see one GPU's maps; dropout in the first two fully connected layers."""
    x = conv(s, "conv1", x, stride=4).clamp(min=0)
    x = F.max_pool2d(response_norm(x, k=2, alpha=1e-4), 3, 2)
    x = conv(s, "conv2", x, padding=2, groups=2).clamp(min=0)
    x = F.max_pool2d(response_norm(x, k=2, alpha=1e-4), 3, 2)
    x = conv(s, "conv3", x, padding=1).clamp(min=0)
    x = conv(s, "conv4", x, padding=1, groups=2).clamp(min=0)
    x = F.max_pool2d(conv(s, "conv5", x, padding=1, groups=2).clamp(min=0), 3, 2)
    return linear(s, "fc8", hidden(s, ["fc6", "fc7"], x.flatten(1), 0.5, training))


def alexnet_owt(s: State, x: Tensor, training: bool) -> Tensor:
    """torchvision's: one tower, no response norm, the first layer padded by 2."""
    for i, options in enumerate(({"stride": 4, "padding": 2}, {"padding": 2}, *3 * ({"padding": 1},)), 1):
        x = conv(s, f"conv{i}", x, **options).clamp(min=0)
        x = F.max_pool2d(x, 3, 2) if i in (1, 2, 5) else x
    return linear(s, "fc8", hidden(s, ["fc6", "fc7"], x.flatten(1), 0.5, training))


def overfeat(fast: bool) -> Callable[..., Tensor]:
    """Sermanet et al. 2013, Tables 1 and 3: rectified convolutions, pools that do not overlap and no response norm."""
    rows: list[tuple[dict[str, int], int]] = [({"stride": 4}, 2), ({}, 2), ({"padding": 1}, 1), ({"padding": 1}, 1)]
    rows += [({"padding": 1}, 2)]
    if not fast:
        rows = [({"stride": 2}, 3), ({}, 2), *3 * [({"padding": 1}, 1)], ({"padding": 1}, 3)]

    def formula(s: State, x: Tensor, training: bool) -> Tensor:
        for i, (options, pool) in enumerate(rows, 1):
            x = conv(s, f"conv{i}", x, **options).clamp(min=0)
            x = F.max_pool2d(x, pool) if pool > 1 else x
        first = len(rows) + 1
        x = hidden(s, [f"fc{first}", f"fc{first + 1}"], x.flatten(1), 0.5, training)
        return linear(s, f"fc{first + 2}", x)

    return formula


def vgg16(s: State, x: Tensor, training: bool, norm: bool = False) -> Tensor:
    """Simonyan and Zisserman 2014, configuration D: 3x3 convolutions, all rectified, and a 2x2 pool behind each stage."""
    for stage, depth in enumerate((2, 2, 3, 3, 3), 1):
        for i in range(1, depth + 1):
            x = conv(s, f"stage{stage}.conv{stage}_{i}", x, padding=1)
            x = (batch_norm(s, f"stage{stage}.bn{stage}_{i}", x, training) if norm else x).clamp(min=0)
        x = F.max_pool2d(x, 2)
    return linear(s, "fc8", hidden(s, ["fc6", "fc7"], x.flatten(1), 0.5, training))


def vgg16_bn(s: State, x: Tensor, training: bool) -> Tensor:
    return vgg16(s, x, training, norm=True)


CHAINS: dict[str, tuple[Callable[..., Tensor], dict[str, Any], float]] = {
    # The formula, what makes the network small, and the scale of the input: large enough that a response norm acts.
    "alexnet": (alexnet, {"filters": (8, 12, 8, 12, 8), "hidden": 16, "num_classes": 7, "img_size": 67}, 300.0),
    "alexnet_owt": (alexnet_owt, {"filters": (4, 6, 5, 4, 6), "hidden": 16, "num_classes": 7, "img_size": 67}, 1.0),
    "overfeat_fast": (
        overfeat(fast=True),
        {"filters": (4, 5, 6, 5, 4), "hidden": (16, 12), "num_classes": 7, "img_size": 87},
        1.0,
    ),
    "overfeat_accurate": (
        overfeat(fast=False),
        {"filters": (4, 5, 6, 5, 4, 6), "hidden": (16, 12), "num_classes": 7, "img_size": 77},
        1.0,
    ),
    "vgg16": (vgg16, {"filters": (4, 5, 6, 5, 4), "hidden": 16, "num_classes": 7, "img_size": 64}, 1.0),
    "vgg16_bn": (vgg16_bn, {"filters": (4, 5, 6, 5, 4), "hidden": 16, "num_classes": 7, "img_size": 64}, 1.0),
}


@pytest.mark.parametrize("training", [False, True], ids=["eval", "train"])
@pytest.mark.parametrize("name", CHAINS)
def test_chains(name, training):
    formula, changes, scale = CHAINS[name]
    beside(formula, name, images(3, changes["img_size"], scale, batch=4), training, **changes)


# ---- GoogLeNet --------------------------------------------------------------------------------------------------------


def googlenet_formula(norm: bool) -> Callable[..., Any]:
    """Szegedy et al. 2014, Table 1 and Figure 3, with the constants of BVLC's form of the paper: k = 1, alpha = 1e-4 over the
    mean of five squares. With `norm` torchvision's: batch norms of eps 0.001, no response norm, 3x3 for 5x5, a 2x2 last pool,
    heads that pool to 4x4."""

    def unit(s: State, name: str, x: Tensor, training: bool, **options: Any) -> Tensor:
        x = conv(s, f"{name}.conv", x, **options)
        return (batch_norm(s, f"{name}.bn", x, training, eps=1e-3) if norm else x).clamp(min=0)

    def response(x: Tensor) -> Tensor:
        return x if norm else response_norm(x, k=1, alpha=1e-4 / 5)

    def inception(s: State, name: str, x: Tensor, t: bool) -> Tensor:
        side = 3 if norm else 5
        return torch.cat(
            [
                unit(s, f"{name}.branch1", x, t),
                unit(s, f"{name}.branch3", unit(s, f"{name}.reduce3", x, t), t, padding=1),
                unit(s, f"{name}.branch5", unit(s, f"{name}.reduce5", x, t), t, padding=side // 2),
                unit(s, f"{name}.project", F.max_pool2d(x, 3, 1, padding=1), t),
            ],
            1,
        )

    def head(s: State, name: str, x: Tensor, t: bool) -> Tensor:
        x = F.adaptive_avg_pool2d(x, 4) if norm else F.avg_pool2d(x, 5, 3)
        x = linear(s, f"{name}.fc1", unit(s, f"{name}.conv", x, t).flatten(1)).clamp(min=0)
        return linear(s, f"{name}.fc2", F.dropout(x, 0.7, t))

    def formula(s: State, x: Tensor, t: bool) -> Any:
        def pool(x: Tensor, side: int = 3) -> Tensor:
            return F.max_pool2d(x, side, 2, ceil_mode=True)

        x = response(pool(unit(s, "conv1", x, t, stride=2, padding=3)))  # conv, max pool, norm
        x = pool(response(unit(s, "conv2", unit(s, "reduce2", x, t), t, padding=1)))  # conv, conv, norm, max pool
        heads = []
        for name in googlenet.TABLE:
            if name in ("4a", "5a"):
                x = pool(x, 2 if norm and name == "5a" else 3)
            x = inception(s, f"inception_{name}", x, t)
            if t and name in ("4a", "4d"):
                heads.append(head(s, f"aux{len(heads) + 1}", x, t))
        x = linear(s, "fc", F.dropout(x.mean((2, 3)), 0.2 if norm else 0.4, t))
        return (x, *heads) if t else x

    return formula


@pytest.mark.parametrize("training", [False, True], ids=["eval", "train"])
@pytest.mark.parametrize("name", ["googlenet", "googlenet_bn"])
def test_googlenet(name, training):
    rows = tuple((6, 4, 8, 3, 5, 4) for _ in googlenet.TABLE)
    changes = {"inceptions": rows, "num_classes": 7, "aux": True, "img_size": 96}
    scale = 1.0 if name == "googlenet_bn" else 300.0
    beside(googlenet_formula(name == "googlenet_bn"), name, images(3, 96, scale), training, **changes)


# ---- ResNet and its kin -----------------------------------------------------------------------------------------------


def residual(form: str, depths: tuple[int, ...], cifar: bool = False) -> Callable[..., Tensor]:
    """He et al. 2015, Table 1, Figure 5 and section 3.3. `form` is "A" or "B" (basic blocks with that shortcut), "none"
    (plain), "v1" or "v1.5" (bottlenecks, striding in the first 1x1 or the 3x3)."""
    bottleneck = form.startswith("v")

    def shortcut(s: State, name: str, x: Tensor, channels: int, stride: int, t: bool) -> Tensor:
        if f"{name}.downsample.0.weight" in s:
            return batch_norm(s, f"{name}.downsample.1", conv(s, f"{name}.downsample.0", x, stride=stride), t)
        wide = torch.zeros(len(x), channels, *x[:, :, ::stride, ::stride].shape[2:], dtype=x.dtype)
        before = (channels - x.shape[1]) // 2
        wide[:, before : before + x.shape[1]] = x[:, :, ::stride, ::stride]
        return wide

    def block(s: State, name: str, x: Tensor, stride: int, t: bool) -> Tensor:
        filters = [1, 3, 1] if bottleneck else [3, 3]
        place = 1 if form == "v1.5" else 0  # of the stride
        y = x
        for i, side in enumerate(filters):
            y = conv(s, f"{name}.conv{i + 1}", y, stride=stride if i == place else 1, padding=side // 2)
            y = batch_norm(s, f"{name}.bn{i + 1}", y, t)
            if i < len(filters) - 1:
                y = y.clamp(min=0)
        if form != "none":
            y = y + shortcut(s, name, x, y.shape[1], stride, t)
        return y.clamp(min=0)

    def formula(s: State, x: Tensor, t: bool) -> Tensor:
        options = {"padding": 1} if cifar else {"stride": 2, "padding": 3}
        x = batch_norm(s, "bn1", conv(s, "conv1", x, **options), t).clamp(min=0)
        x = x if cifar else F.max_pool2d(x, 3, 2, padding=1)
        for stage, depth in enumerate(depths, 1):
            for i in range(depth):
                x = block(s, f"layer{stage}.{i}", x, 2 if stage > 1 and i == 0 else 1, t)
        return linear(s, "fc", x.mean((2, 3)))

    return formula


RESIDUAL = {
    "resnet18": ("B", {"widths": (4, 6, 8, 10)}),
    "plain18": ("none", {"widths": (4, 6, 8, 10)}),
    "resnet50": ("v1", {"widths": (4, 6, 8, 10)}),
    "resnet50_v1_5": ("v1.5", {"widths": (4, 6, 8, 10)}),
    "resnet20_cifar": ("A", {"widths": (4, 6, 8)}),
    "plain20_cifar": ("none", {"widths": (4, 6, 8)}),
}


@pytest.mark.parametrize("training", [False, True], ids=["eval", "train"])
@pytest.mark.parametrize("name", RESIDUAL)
def test_residual_networks(name, training):
    form, changes = RESIDUAL[name]
    cifar = name.endswith("_cifar")
    depths = (1, 2, 1) if cifar else (1, 2, 1, 1)
    formula = residual(form, depths, cifar)
    beside(formula, name, images(3, 16 if cifar else 64, batch=4), training, depths=depths, num_classes=7, **changes)


# ---- constants --------------------------------------------------------------------------------------------------------


def test_dropout_rates():
    """As the papers have them (and torchvision, for its own variants): in training so many of the inputs of the next layer
    are zero."""
    rates = {
        "alexnet": {0.5},  # section 4.2
        "overfeat_fast": {0.5},  # section 3.1
        "vgg16": {0.5},  # section 3.1
        "googlenet": {0.4, 0.7},  # Table 1; section 5 for the heads
        "googlenet_bn": {0.2, 0.7},  # torchvision's
        "inception_v4": {0.2},  # Figure 9: "keep 0.8"
        "transformer_base": {0.1},  # Table 3
        "transformer_big": {0.3},
        "vit_b_16": {0.1},  # Table 3, ImageNet
    }
    for name, expected in rates.items():
        changes = {"aux": True} if name.startswith("googlenet") else {}
        net = registry.assemble(name, **changes)
        assert {m.p for m in net.modules() if isinstance(m, nn.Dropout)} == expected, name
