"""Every network of the zoo: counts to the unit, shapes of the papers' tables, and that it computes and learns."""

import json
import math
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from torch import nn

import lamina
from lamina.errors import InputError
from lamina.lecture import facts
from lamina.zoo import alexnet, googlenet, lenet, registry, resnet, vgg
from tests.zoo import write_counts

REFERENCE = json.loads(Path(__file__).with_name("counts.json").read_text())["networks"]
NAMES = registry.names()


def traced(name: str, **changes):
    module = lamina.build(name, device="meta", **changes).train("aux" in changes)
    return lamina.trace(module, *registry.example(name))


@pytest.mark.parametrize("name", REFERENCE)
def test_counts(name):
    expected = REFERENCE[name]["counts"]
    work = traced(name)
    total = work.total()
    conv = [layer for layer in work.layers if layer.kind == "conv"]
    linear = [layer for layer in work.layers if layer.kind == "linear"]
    ours = {
        "parameters": total.parameters,
        "weights": total.weights,
        "biases": total.biases,
        "norm": total.norm,
        "conv_weights": facts.weights(conv),
        "fc_weights": facts.weights(linear),
        "conv_macs": facts.macs(conv),
        "fc_macs": facts.macs(linear),
        "attention_macs": 0,
        "macs": total.macs,
        "conv_layers": len(conv),
        "fc_layers": len(linear),
    }
    assert {k: ours[k] for k in expected} == expected
    assert work.coverage.unknown == ()


def test_counts_by_layer():
    work = {layer.name: layer for layer in traced("alexnet").layers}
    for row in REFERENCE["alexnet"]["per_layer"]:
        layer = work[row["name"]]
        assert (facts.weights([layer]), layer.macs) == (row["weights"], row["macs"])
    groups = traced("lenet5").by("module")
    expected = REFERENCE["lenet5"]["parameters_by_layer"]
    for ours, theirs in {"c1": "C1", "s2": "S2", "c3": "C3", "s4": "S4", "c5": "C5", "f6": "F6"}.items():
        assert groups[ours].parameters == expected[theirs]
    macs = REFERENCE["lenet5"]["macs_by_layer"]
    assert [groups[n].macs for n in ("c1", "c3", "c5", "f6")] == [macs[n] for n in ("C1", "C3", "C5", "F6")]


def test_other_configurations():
    for name in ("googlenet", "googlenet_bn"):
        expected = REFERENCE[name]["with_aux"]
        total = traced(name, aux=True).total()
        assert (total.parameters, total.macs) == (expected["parameters"], expected["macs"])
    floor = traced("googlenet", ceil_mode=False)
    assert floor.total().macs == REFERENCE["googlenet"]["floor_pooling"]["macs"]
    for name in ("resnet20_cifar", "resnet56_cifar", "resnet1202_cifar"):
        expected = REFERENCE[name]["option_b"]
        total = traced(name, shortcut="B").total()
        assert (total.parameters, total.macs) == (expected["parameters"], expected["macs"])
    for name in ("resnet18", "resnet34"):
        expected = REFERENCE[name]["option_a"]
        total = traced(name, shortcut="A").total()
        assert (total.parameters, total.macs) == (expected["parameters"], expected["macs"])


# ---- networks without reference counts: the paper's table, written out -----------------------------------------------


def conv(m: int, c: int, k: int, side: int) -> tuple[int, int]:
    """(weights, MACs) of m filters of k x k over c channels with an output of side x side."""
    return m * c * k * k, m * c * k * k * side * side


def test_vgg19_bn_counts():
    # Simonyan & Zisserman 2014, Table 1, column E: 2, 2, 4, 4, 4 convolutions of 64, 128, 256, 512, 512 filters at 224 ... 14
    rows = [conv(64, 3, 3, 224), conv(64, 64, 3, 224), conv(128, 64, 3, 112), conv(128, 128, 3, 112)]
    rows += [conv(256, 128, 3, 56)] + 3 * [conv(256, 256, 3, 56)] + [conv(512, 256, 3, 28)] + 3 * [conv(512, 512, 3, 28)]
    rows += 4 * [conv(512, 512, 3, 14)]
    filters = 2 * 64 + 2 * 128 + 4 * 256 + 8 * 512
    full = 512 * 7 * 7 * 4096 + 4096 * 4096 + 4096 * 1000
    weights = sum(w for w, _ in rows) + full
    total = traced("vgg19_bn").total()
    assert total.macs == sum(m for _, m in rows) + full
    assert total.parameters == weights + filters + (4096 + 4096 + 1000) + 2 * filters  # biases; scales and shifts


@pytest.mark.parametrize(("name", "blocks"), [("plain18", (2, 2, 2, 2)), ("plain34", (3, 4, 6, 3))])
def test_plain_counts(name, blocks):
    # He et al. 2015, Table 1 and Figure 3: 7x7 64 /2, then 2n 3x3 convolutions a stage at 56, 28, 14, 7; no shortcuts
    rows, norms, channels = [conv(64, 3, 7, 112)], 64, 64
    for n, width, side in zip(blocks, (64, 128, 256, 512), (56, 28, 14, 7), strict=True):
        rows += [conv(width, channels, 3, side)] + (2 * n - 1) * [conv(width, width, 3, side)]
        norms += 2 * n * width
        channels = width
    total = traced(name).total()
    assert total.macs == sum(m for _, m in rows) + 512 * 1000
    assert total.parameters == sum(w for w, _ in rows) + 2 * norms + 512 * 1000 + 1000


@pytest.mark.parametrize(("name", "layers"), [("resnet110_cifar", 110), ("plain20_cifar", 20), ("plain56_cifar", 56)])
def test_cifar_counts(name, layers):
    # He et al. 2015, section 4.2: 3x3 16, then 2n layers each of 16, 32, 64 filters at 32, 16, 8; option A has no parameters
    n = (layers - 2) // 6
    rows, norms, channels = [conv(16, 3, 3, 32)], 16, 16
    for width, side in ((16, 32), (32, 16), (64, 8)):
        rows += [conv(width, channels, 3, side)] + (2 * n - 1) * [conv(width, width, 3, side)]
        norms += 2 * n * width
        channels = width
    total = traced(name).total()
    assert total.macs == sum(m for _, m in rows) + 640
    assert total.parameters == sum(w for w, _ in rows) + 2 * norms + 640 + 10


def test_the_ledger_is_what_is_traced():
    """`lamina list` shows counts.json without torch: `python -m tests.zoo.write_counts` writes it anew."""
    rows = json.loads(json.dumps(write_counts.ledger()))
    assert rows == registry.counts()
    assert list(rows) == NAMES


def test_every_name_is_described():
    for name in NAMES:
        entry = lamina.spec(name)
        assert entry.paper.title and entry.paper.year >= 1998
        assert entry.config == registry.assemble(name).config
    for family in registry.FAMILIES:
        records, own = registry.published(family), set(registry.names(family))
        assert {row["network"] for table in ("figures", "weights") for row in records.get(table, ())} <= own
        assert set(records.get("deviations", ())) | set(records.get("paper", ())) <= own
        assert all(row["source"] and row["status"] in ("verified", "recalled") for row in records.get("figures", ()))
    with pytest.raises(InputError, match="no family 'lenets': there are lenet, alexnet"):
        registry.published("lenets")


# ---- shapes of the papers' tables -------------------------------------------------------------------------------------


def shapes(name: str) -> dict[str, tuple[int, ...]]:
    """The last output of each module, without the batch."""
    result = {}
    for layer in traced(name).layers:
        for part in range(len(layer.module.split("."))):
            result[".".join(layer.module.split(".")[: part + 1])] = layer.outputs[0].shape[1:]
    return result


STAGES = {
    # LeCun et al. 1998, Figure 2
    "lenet5": {
        "c1": (6, 28, 28),
        "s2": (6, 14, 14),
        "c3": (16, 10, 10),
        "s4": (16, 5, 5),
        "c5": (120, 1, 1),
        "f6": (84,),
        "rbf": (10,),
    },
    # BVLC examples/mnist/lenet.prototxt
    "lenet_caffe": {"conv1": (20, 24, 24), "conv2": (50, 8, 8), "ip1": (500,), "ip2": (10,)},
    # Krizhevsky et al. 2012, Figure 2 (both towers together)
    "alexnet": {
        "conv1": (96, 55, 55),
        "conv2": (256, 27, 27),
        "conv3": (384, 13, 13),
        "conv4": (384, 13, 13),
        "conv5": (256, 13, 13),
        "fc6": (4096,),
        "fc7": (4096,),
        "fc8": (1000,),
    },
    # Simonyan & Zisserman 2014, Table 1
    "vgg16": {
        "stage1": (64, 112, 112),
        "stage2": (128, 56, 56),
        "stage3": (256, 28, 28),
        "stage4": (512, 14, 14),
        "stage5": (512, 7, 7),
        "fc6": (4096,),
        "fc8": (1000,),
    },
    # Szegedy et al. 2014, Table 1, column "output size"
    "googlenet": {
        "conv1": (64, 112, 112),
        "pool1": (64, 56, 56),
        "conv2": (192, 56, 56),
        "pool2": (192, 28, 28),
        "inception_3a": (256, 28, 28),
        "inception_3b": (480, 28, 28),
        "pool3": (480, 14, 14),
        "inception_4a": (512, 14, 14),
        "inception_4b": (512, 14, 14),
        "inception_4c": (512, 14, 14),
        "inception_4d": (528, 14, 14),
        "inception_4e": (832, 14, 14),
        "pool4": (832, 7, 7),
        "inception_5a": (832, 7, 7),
        "inception_5b": (1024, 7, 7),
        "pool5": (1024, 1, 1),
        "fc": (1000,),
    },
    # He et al. 2015, Table 1
    "resnet18": {
        "conv1": (64, 112, 112),
        "layer1": (64, 56, 56),
        "layer2": (128, 28, 28),
        "layer3": (256, 14, 14),
        "layer4": (512, 7, 7),
        "avgpool": (512, 1, 1),
    },
    "resnet50": {
        "conv1": (64, 112, 112),
        "layer1": (256, 56, 56),
        "layer2": (512, 28, 28),
        "layer3": (1024, 14, 14),
        "layer4": (2048, 7, 7),
        "avgpool": (2048, 1, 1),
    },
    # He et al. 2015, section 4.2, the table of output map sizes
    "resnet20_cifar": {
        "conv1": (16, 32, 32),
        "layer1": (16, 32, 32),
        "layer2": (32, 16, 16),
        "layer3": (64, 8, 8),
        "fc": (10,),
    },
}


@pytest.mark.parametrize("name", STAGES)
def test_stage_shapes(name):
    ours = shapes(name)
    assert {k: ours[k] for k in STAGES[name]} == STAGES[name]


def test_c3_links():
    """LeCun et al. 1998, Table I: the rows of the printed table, one an S2 map, give the columns that see it."""
    rows = [
        "X...XXX..XXXX.XX",
        "XX...XXX..XXXX.X",
        "XXX...XXX..X.XXX",
        ".XXX..XXXX..X.XX",
        "..XXX..XXXX.XX.X",
        "...XXX..XXXX.XXX",
    ]
    seen = tuple(tuple(s2 for s2, row in enumerate(rows) if row[c3] == "X") for c3 in range(16))
    assert seen == lenet.C3_TABLE
    assert sum(map(len, seen)) == 60


def test_sparse_convolution_is_a_masked_dense_one():
    torch.manual_seed(0)
    layer = lenet.SparseConv2d(lenet.C3_TABLE, 5).double()
    for parameter in layer.parameters():
        nn.init.normal_(parameter)
    dense = torch.zeros(16, 6, 5, 5, dtype=torch.float64)
    place = 0
    for weight in layer.weights:
        for row in weight:
            dense[place, list(lenet.C3_TABLE[place])] = row
            place += 1
    x = torch.randn(2, 6, 14, 14, dtype=torch.float64)
    torch.testing.assert_close(layer(x), nn.functional.conv2d(x, dense, layer.bias))


def test_lenet5_is_the_papers():
    net = lamina.build("lenet5")
    assert lenet.squash(torch.tensor(1.0)).item() == pytest.approx(1, abs=1e-4)
    assert set(net.rbf.codes.unique().tolist()) == {-1.0, 1.0}
    assert len({tuple(row) for row in net.rbf.codes.tolist()}) == 10
    state = torch.randn(3, 84)
    torch.testing.assert_close(net.rbf(state), torch.cdist(state, net.rbf.codes).square(), rtol=1e-4, atol=1e-3)
    pool = nn.functional.avg_pool2d(torch.ones(1, 6, 4, 4), 2, divisor_override=1)
    assert (net.s2(torch.ones(1, 6, 4, 4)) == pool * 0.25).all()
    with pytest.raises(InputError, match="ten fixed output codes"):
        lamina.build("lenet5", num_classes=7)


def test_local_response_norm_is_the_papers():
    """Krizhevsky et al. 2012, section 3.3: b = a / (2 + 1e-4 * sum over 5 neighbouring maps of a^2) ^ .75."""
    net = lamina.build("alexnet", device="meta")
    a = torch.rand(1, 8, 2, 2) * 100
    expected = torch.empty_like(a)
    for i in range(8):
        squares = a[:, max(0, i - 2) : i + 3].square().sum(1)
        expected[:, i] = a[:, i] / (2 + 1e-4 * squares) ** 0.75
    torch.testing.assert_close(net.lrn(a), expected)


def test_option_a_pads_half_before_and_half_behind():
    x = torch.arange(2 * 4 * 4.0).reshape(1, 2, 4, 4)
    y = resnet.ZeroPadShortcut(4, 2)(x)
    assert y.shape == (1, 6, 2, 2)
    assert (y[:, :2] == 0).all() and (y[:, 4:] == 0).all() and (y[:, 2:4] == x[:, :, ::2, ::2]).all()


def test_stride_stands_where_the_variant_says():
    v1, v15 = lamina.build("resnet50", device="meta"), lamina.build("resnet50_v1_5", device="meta")
    assert (v1.layer2[0].conv1.stride, v1.layer2[0].conv2.stride) == ((2, 2), (1, 1))
    assert (v15.layer2[0].conv1.stride, v15.layer2[0].conv2.stride) == ((1, 1), (2, 2))


# ---- they compute -----------------------------------------------------------------------------------------------------

# Shrunk forms of every family and every kind of block, so that a step takes no time.
SMALL = {
    "lenet5": (lenet.Net(lenet.Config()), 32, 1),
    "lenet5_dense": (lenet.Net(replace(lenet.VARIANTS["lenet5_dense"], num_classes=7, in_channels=2)), 32, 2),
    "lenet_caffe": (lenet.Net(lenet.VARIANTS["lenet_caffe"]), 28, 1),
    "alexnet": (alexnet.Net(alexnet.Config((8, 8, 8, 8, 8), hidden=16, num_classes=7, img_size=67)), 67, 3),
    "alexnet_owt": (
        alexnet.Net(replace(alexnet.VARIANTS["alexnet_owt"], filters=(4, 4, 4, 4, 4), hidden=16, img_size=64)),
        64,
        3,
    ),
    "vgg": (vgg.Net(vgg.Config(filters=(4, 4, 4, 4, 4), hidden=16, img_size=32)), 32, 3),
    "vgg_bn": (vgg.Net(vgg.Config(filters=(4, 4, 4, 4, 4), batch_norm=True, hidden=16, img_size=64)), 64, 3),
    "googlenet": (googlenet.Net(googlenet.Config(aux=True, img_size=96, num_classes=7)), 96, 3),
    "googlenet_bn": (googlenet.Net(replace(googlenet.VARIANTS["googlenet_bn"], aux=True, img_size=96)), 96, 3),
    "resnet": (resnet.Net(resnet.Config((1, 2, 1, 1), widths=(4, 8, 8, 16))), 64, 3),
    "resnet_v1_5": (resnet.Net(resnet.Config((1, 2, 1, 1), widths=(4, 8, 8, 16), stride_in="3x3", in_channels=1)), 64, 1),
    "resnet_cifar": (resnet.Net(replace(resnet.VARIANTS["resnet20_cifar"], depths=(1, 2, 1))), 32, 3),
    "plain": (resnet.Net(replace(resnet.VARIANTS["plain20_cifar"], depths=(1, 2, 1))), 32, 3),
}


@pytest.mark.parametrize("name", SMALL)
def test_forward_and_backward(name):
    net, side, channels = SMALL[name]
    torch.manual_seed(0)
    with torch.no_grad():
        net.init_weights()
    net.train()
    result = net(torch.randn(4, channels, side, side))
    outputs = result if isinstance(result, tuple) else (result,)
    assert len(outputs) == (3 if "googlenet" in name else 1)
    assert all(y.shape == (4, net.config.num_classes) and y.isfinite().all() for y in outputs)
    sum(y.square().mean() for y in outputs).backward()
    assert all(p.grad is not None and p.grad.isfinite().all() for p in net.parameters())
    net.eval()
    with torch.no_grad():
        assert isinstance(net(torch.randn(1, channels, side, side)), torch.Tensor)


@pytest.mark.parametrize("name", ["lenet5", "alexnet", "googlenet", "resnet_cifar", "plain"])
def test_export(name):
    """torch.export gives the same outputs; the programs of all families trace without breaks."""
    net, side, channels = SMALL[name]
    with torch.no_grad():
        net.init_weights()
    net.eval()
    x = torch.randn(2, channels, side, side)
    program = torch.export.export(net, (x,))
    torch.testing.assert_close(program.module()(x), net(x))


def test_build_initialises_everything():
    """`build` allocates without initialising and then initialises: nothing may be left to chance."""
    for name in ("lenet5", "lenet5_dense", "lenet_caffe", "googlenet_bn", "resnet18", "resnet20_cifar", "plain20_cifar"):
        states = []
        for _ in range(2):
            torch.manual_seed(1)
            states.append(lamina.build(name).state_dict())
        assert all(torch.equal(states[0][k], states[1][k]) and states[0][k].isfinite().all() for k in states[0]), name


def test_initial_scale():
    torch.manual_seed(0)
    net = lamina.build("resnet20_cifar")
    weight = net.layer3[1].conv1.weight  # He et al., arXiv 1502.01852: deviation sqrt(2 / fan-out)
    assert weight.std().item() == pytest.approx(math.sqrt(2 / (64 * 9)), rel=0.03)
    net = lamina.build("lenet5")  # LeCun et al. 1998, Appendix A: uniform in +-2.4 / fan-in
    assert net.f6.weight.abs().max().item() == pytest.approx(2.4 / 120, rel=0.01)


@pytest.mark.parametrize("name", NAMES)
def test_meta_build_allocates_nothing(name):
    changes = {"in_channels": 2} if lamina.spec(name).input[0] == 3 else {}
    for net in (lamina.build(name, device="meta"), lamina.build(name, device="meta", **changes)):
        assert all(t.device.type == "meta" for t in net.state_dict().values())


def test_changes_and_refusals():
    assert lamina.build("resnet50", device="meta", num_classes=7).fc.weight.shape == (7, 2048)
    assert lamina.build("vgg11", device="meta", in_channels=1).stage1[0].weight.shape == (64, 1, 3, 3)
    with torch.device("meta"):
        assert lamina.build("alexnet").fc8.weight.device.type == "meta"
    with pytest.raises(InputError, match="nearest are resnet50"):
        lamina.build("resnet51")
    with pytest.raises(InputError, match="can be changed: "):
        lamina.build("resnet50", classes=10)
    for wrong in (0, -1, 2.5, "ten", True):
        with pytest.raises(InputError, match="positive whole number"):
            lamina.build("resnet50", num_classes=wrong)
    with pytest.raises(InputError, match="no family"):
        lamina.names("resnets")
    for name in ("vgg16", "alexnet"):
        with pytest.raises(InputError, match="img_size 16 is too small"):
            lamina.build(name, device="meta", img_size=16)
    assert set(lamina.names("vgg")) == {f"vgg{n}{s}" for n in (11, 13, 16, 19) for s in ("", "_bn")}


def test_the_deepest_network_is_finite_when_fresh():
    torch.manual_seed(0)
    net = lamina.build("resnet1202_cifar").eval()
    with torch.no_grad():
        assert net(torch.randn(2, 3, 32, 32)).isfinite().all()
        assert lamina.build("resnet56_cifar").layer1[0].bn2.weight.unique().tolist() == [1.0]
