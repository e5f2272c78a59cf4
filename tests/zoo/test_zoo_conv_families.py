"""OverFeat, DenseNet, Wide ResNet and ResNeXt: counts to the unit, shapes of the papers' tables, and that they compute."""

import json
import math
from dataclasses import replace
from functools import cache
from pathlib import Path

import pytest
import torch
from torch import nn
from torch.nn import functional as F

from lamina.tracing.tracer import trace
from lamina.workload import Layer, Workload
from lamina.zoo import densenet, overfeat, resnet, resnext, wide_resnet

LEDGER = json.loads(Path(__file__).with_name("counts_conv_families.json").read_text())
REFERENCE = LEDGER["networks"]
FAMILIES = (overfeat, densenet, wide_resnet, resnext)
VARIANTS = {name: (family, config) for family in FAMILIES for name, config in family.VARIANTS.items()}
DERIVED = {"densenet161", "densenet_bc_190_40_cifar", "wide_resnet101_2", "wrn40_4_cifar", "resnext101_64x4d"}


@pytest.fixture(autouse=True, scope="module")
def one_thread():
    """Nets this small are faster so, above all beside other processes."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


def meta(name: str, **changes) -> nn.Module:
    family, config = VARIANTS[name]
    with torch.device("meta"):
        return family.Net(replace(config, **changes))


def traced(name: str, training: bool = False, **changes) -> Workload:
    net = meta(name, **changes).train(training)
    side = net.config.img_size
    return trace(net, torch.empty(1, net.config.in_channels, side, side, device="meta"))


@cache
def workload(name: str) -> Workload:
    return traced(name)


def counts(work: Workload) -> dict[str, int]:
    def weights(layers: list[Layer]) -> int:
        return sum(w.numel for layer in layers for w in layer.weights if w.part == "weight")

    total = work.total()
    conv = [layer for layer in work.layers if layer.kind == "conv"]
    linear = [layer for layer in work.layers if layer.kind == "linear"]
    return {
        "parameters": total.parameters,
        "weights": total.weights,
        "biases": total.biases,
        "norm": total.norm,
        "conv_weights": weights(conv),
        "fc_weights": weights(linear),
        "conv_macs": sum(layer.macs for layer in conv),
        "fc_macs": sum(layer.macs for layer in linear),
        "attention_macs": sum(layer.macs for layer in work.layers if layer.kind == "matmul"),
        "macs": total.macs,
        "conv_layers": len(conv),
        "fc_layers": len(linear),
    }


# ---- counts -----------------------------------------------------------------------------------------------------------


def test_every_name_is_counted():
    assert set(VARIANTS) == set(REFERENCE) | DERIVED


@pytest.mark.parametrize("name", REFERENCE)
def test_counts(name):
    assert counts(workload(name)) == REFERENCE[name]["counts"]


@pytest.mark.parametrize("name", VARIANTS)
def test_every_operator_is_known(name):
    assert workload(name).coverage.unknown == ()


OTHER = {
    "cifar100": lambda config: {"num_classes": 100},
    "init_2k_as_in_released_code": lambda c: {"stem_channels": 2 * c.growth},
}


@pytest.mark.parametrize(
    ("name", "other"), [(name, other) for name, row in REFERENCE.items() for other in row.get("other_configurations", ())]
)
def test_counts_of_other_configurations(name, other):
    changes = OTHER[other](VARIANTS[name][1])
    assert counts(traced(name, **changes)) == REFERENCE[name]["other_configurations"][other]


def test_overfeat_meets_the_papers_connections():
    # Sermanet et al. 2013, Table 4: 2,810 and 5,369 million connections; 145 million parameters
    assert workload("overfeat_fast").total().macs == pytest.approx(2810e6, rel=0.004)
    assert workload("overfeat_accurate").total().macs == pytest.approx(5369e6, rel=0.004)
    assert workload("overfeat_fast").total().parameters == pytest.approx(145e6, rel=0.01)


# ---- networks without reference counts: the papers' tables, written out ------------------------------------------------


def conv(m: int, c: int, k: int, side: int, groups: int = 1) -> tuple[int, int]:
    """(weights, MACs) of m filters of k x k over c channels in groups, with an output of side x side."""
    return m * c // groups * k * k, m * c // groups * k * k * side * side


def dense_block(rows: list[tuple[int, int]], channels: int, depth: int, k: int, side: int) -> tuple[int, int]:
    """Appends a block's convolutions, 1x1 to 4k and 3x3 to k; returns its normalised channels and its output channels."""
    norms = 0
    for _ in range(depth):
        rows += [conv(4 * k, channels, 1, side), conv(k, 4 * k, 3, side)]
        norms += channels + 4 * k
        channels += k
    return norms, channels


def test_densenet161_counts():
    # Huang et al., Table 1 with k = 48: 7x7 of 96 at 112; blocks of 6, 12, 36, 24 layers at 56, 28, 14, 7; halved between
    rows, norms, channels = [conv(96, 3, 7, 112)], 96, 96
    for depth, side, end in ((6, 56, 192), (12, 28, 384), (36, 14, 1056), (24, 7, 2208)):
        more, channels = dense_block(rows, channels, depth, 48, side)
        norms += more + channels  # the transition's norm, or the last one
        if side > 7:
            rows.append(conv(channels // 2, channels, 1, side))
            channels //= 2
        assert channels == end
    total = workload("densenet161").total()
    assert total.macs == sum(m for _, m in rows) + 2208 * 1000
    assert total.parameters == sum(w for w, _ in rows) + 2 * norms + 2208 * 1000 + 1000
    assert total.parameters == LEDGER["torchvision_parameters"]["densenet161"]


def test_densenet_bc_190_40_counts():
    # Huang et al., section 3: 3x3 of 2k = 80; three blocks of (190 - 4) / 6 = 31 layers at 32, 16, 8; halved between
    rows, norms = [conv(80, 3, 3, 32)], 0
    for channels, side, end in ((80, 32, 1320), (660, 16, 1900), (950, 8, 2190)):
        more, out = dense_block(rows, channels, 31, 40, side)
        norms += more + out
        assert out == end
    rows += [conv(660, 1320, 1, 32), conv(950, 1900, 1, 16)]
    total = workload("densenet_bc_190_40_cifar").total()
    assert total.macs == sum(m for _, m in rows) + 2190 * 10
    assert total.parameters == sum(w for w, _ in rows) + 2 * norms + 2190 * 10 + 10
    assert round(total.parameters / 1e6, 1) == 25.6  # Table 2


@pytest.mark.parametrize(("name", "first", "groups"), [("wide_resnet101_2", 128, 1), ("resnext101_64x4d", 256, 64)])
def test_bottleneck_101_counts(name, first, groups):
    # He et al. 2015, Table 1, 101 layers, with the widths of Zagoruyko & Komodakis (2 * 64) or Xie et al. (64 paths of 4)
    rows, norms, channels = [conv(64, 3, 7, 112)], 64, 64
    for stage, (depth, side) in enumerate(((3, 56), (4, 28), (23, 14), (3, 7))):
        width, out, before = first * 2**stage, 256 * 2**stage, side if stage == 0 else 2 * side
        rows += [conv(width, channels, 1, before), conv(width, width, 3, side, groups), conv(out, width, 1, side)]
        rows += [conv(out, channels, 1, side)]  # the projection
        rows += (depth - 1) * [conv(width, out, 1, side), conv(width, width, 3, side, groups), conv(out, width, 1, side)]
        norms += depth * (2 * width + out) + out
        channels = out
    total = workload(name).total()
    assert total.macs == sum(m for _, m in rows) + 2048 * 1000
    assert total.parameters == sum(w for w, _ in rows) + 2 * norms + 2048 * 1000 + 1000
    assert total.parameters == LEDGER["torchvision_parameters"][name]


def test_wrn40_4_counts():
    # Zagoruyko & Komodakis, Table 1, k = 4: 3x3 of 16; stages of 6 blocks of two 3x3 of 64, 128, 256 at 32, 16, 8
    rows, norms, channels = [conv(16, 3, 3, 32)], 0, 16
    for width, side in ((64, 32), (128, 16), (256, 8)):
        rows += [conv(width, channels, 3, side), conv(width, channels, 1, side)] + 11 * [conv(width, width, 3, side)]
        norms += channels + 11 * width
        channels = width
    total = workload("wrn40_4_cifar").total()
    assert total.macs == sum(m for _, m in rows) + 2560
    assert total.parameters == sum(w for w, _ in rows) + 2 * (norms + 256) + 2560 + 10
    assert round(total.parameters / 1e6, 1) == 8.9  # Table 2


# ---- shapes of the papers' tables --------------------------------------------------------------------------------------


def shapes(name: str) -> dict[str, tuple[int, ...]]:
    """The last output of each module, without the batch."""
    result = {}
    for layer in workload(name).layers:
        for part in range(len(layer.module.split("."))):
            result[".".join(layer.module.split(".")[: part + 1])] = layer.outputs[0].shape[1:]
    return result


STAGES = {  # module, then channels x side x side
    # Sermanet et al. 2013, Table 1, "spatial input size" of the layer after. (It prints 24x24 for layer 2: that is the size
    # of this layer's convolution, whose input has 28x28.)
    "overfeat_fast": """
        conv1 96x56x56, pool1 96x28x28, conv2 256x24x24, pool2 256x12x12, conv3 512x12x12, conv4 1024x12x12,
        pool5 1024x6x6, fc6 3072, fc7 4096, fc8 1000
    """,
    # Sermanet et al. 2013, Table 3
    "overfeat_accurate": """
        pool1 96x36x36, pool2 256x15x15, conv3 512x15x15, conv4 512x15x15, conv5 1024x15x15, pool6 1024x5x5,
        fc7 4096, fc8 4096, fc9 1000
    """,
    # Huang et al. 2016, Table 1
    "densenet121": """
        features.conv0 64x112x112, features.pool0 64x56x56, features.denseblock1 256x56x56,
        features.transition1.conv 128x56x56, features.transition1 128x28x28, features.denseblock2 512x28x28,
        features.transition2 256x14x14, features.denseblock3 1024x14x14, features.transition3 512x7x7,
        features.denseblock4 1024x7x7, avgpool 1024x1x1, classifier 1000
    """,
    # Huang et al. 2016, section 3, "implementation details": 32x32, 16x16, 8x8
    "densenet_40_12_cifar": """
        features.conv0 16x32x32, features.denseblock1 160x32x32, features.transition1 160x16x16,
        features.denseblock2 304x16x16, features.transition2 304x8x8, features.denseblock3 448x8x8,
        avgpool 448x1x1
    """,
    # Zagoruyko & Komodakis 2016, Table 1
    "wrn28_10_cifar": """
        conv1 16x32x32, layer1 160x32x32, layer2 320x16x16, layer3 640x8x8, avgpool 640x1x1
    """,
    # Zagoruyko & Komodakis 2016, section 3: ResNet-50 with twice the inner width
    "wide_resnet50_2": """
        layer1.0.conv2 128x56x56, layer1 256x56x56, layer2 512x28x28, layer3 1024x14x14, layer4.0.conv2 1024x7x7,
        layer4 2048x7x7
    """,
    # Xie et al. 2016, Table 1
    "resnext50_32x4d": """
        conv1 64x112x112, maxpool 64x56x56, layer1.0.conv2 128x56x56, layer1 256x56x56, layer2.0.conv2 256x28x28,
        layer2 512x28x28, layer3.0.conv2 512x14x14, layer3 1024x14x14, layer4.0.conv2 1024x7x7, layer4 2048x7x7,
        avgpool 2048x1x1
    """,
    # Xie et al. 2016, section 5.3
    "resnext29_8x64d_cifar": """
        conv1 64x32x32, layer1.0.conv2 512x32x32, layer1 256x32x32, layer2 512x16x16, layer3.0.conv2 2048x8x8,
        layer3 1024x8x8, avgpool 1024x1x1
    """,
}


@pytest.mark.parametrize("name", STAGES)
def test_stage_shapes(name):
    expected = {}
    for entry in STAGES[name].split(","):
        module, sizes = entry.split()
        expected[module] = tuple(int(size) for size in sizes.split("x"))
    ours = shapes(name)
    assert {module: ours[module] for module in expected} == expected


def test_wide_resnet_widens_the_inner_convolutions_only():
    thin = {name: tuple(p.shape) for name, p in meta_resnet("resnet50_v1_5").state_dict().items()}
    wide = {name: tuple(p.shape) for name, p in meta("wide_resnet50_2").state_dict().items()}
    assert thin.keys() == wide.keys()
    changed = {name.split(".", 2)[2] for name in thin if thin[name] != wide[name]}
    assert changed <= {f"{m}.{p}" for m in ("bn1", "bn2") for p in ("weight", "bias", "running_mean", "running_var")} | {
        f"conv{i}.weight" for i in (1, 2, 3)
    }
    assert wide["layer3.5.conv2.weight"] == (512, 512, 3, 3) and thin["layer3.5.conv2.weight"] == (256, 256, 3, 3)


def meta_resnet(name: str, **changes) -> resnet.Net:
    with torch.device("meta"):
        return resnet.Net(replace(resnet.VARIANTS[name], **changes))


@pytest.mark.parametrize("name", ["resnet18", "resnet50", "resnet20_cifar"])
def test_outputs_said_are_outputs_by_default(name):
    config = resnet.VARIANTS[name]
    outputs = tuple((4 if config.bottleneck else 1) * width for width in config.widths)
    said = {k: tuple(p.shape) for k, p in meta_resnet(name, outputs=outputs).state_dict().items()}
    assert said == {k: tuple(p.shape) for k, p in meta_resnet(name).state_dict().items()}


@pytest.mark.parametrize("name", ["wide_resnet50_2", "resnext50_32x4d", "resnext29_8x64d_cifar"])
def test_stride_stands_in_the_3x3(name):
    block = meta(name).layer2[0]
    assert (block.conv1.stride, block.conv2.stride, block.conv3.stride) == ((1, 1), (2, 2), (1, 1))


def test_names_are_those_of_the_popular_weights():
    state = meta("densenet121").state_dict()
    layer = "features.denseblock1.denselayer1."
    assert [k.removeprefix(layer) for k in state if k.startswith(layer) and k.endswith(".weight")] == [
        "norm1.weight",
        "conv1.weight",
        "norm2.weight",
        "conv2.weight",
    ]
    assert len(state) == 1 + 2 + 5 + 58 * 12 + 3 * 6 + 5  # stem, classifier, its norm, layers, transitions, last norm
    for name in ("features.conv0.weight", "features.norm0.weight", "features.transition1.norm.weight"):
        assert name in state
    for name in ("features.transition3.conv.weight", "features.norm5.running_var", "classifier.bias"):
        assert name in state
    assert set(meta("resnext50_32x4d").state_dict()) == set(meta_resnet("resnet50").state_dict())


# ---- they are the papers' ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("name", "stages"),
    [
        ("overfeat_fast", "conv1 pool1 conv2 pool2 conv3 conv4 conv5 pool5 fc6 fc7 fc8"),
        ("overfeat_accurate", "conv1 pool1 conv2 pool2 conv3 conv4 conv5 conv6 pool6 fc7 fc8 fc9"),
    ],
)
def test_overfeat_layers(name, stages):
    """A rectifier after every layer but the last, pools that do not overlap, no LRN, dropout after the hidden layers."""
    expected: list[str] = []
    for stage in stages.split():
        expected += [stage] if stage.startswith("pool") else [stage, "relu"]
        expected += ["drop"] if stage.startswith("fc") else []
    work = traced(name, training=True)
    assert [layer.module for layer in work.layers if layer.kind != "view"] == expected[:-2]
    for layer in work.layers:
        assert layer.kind != "pool" or layer.attributes["kernel"] == layer.attributes["stride"]


def test_wide_blocks_are_pre_activated():
    """Where the width changes the shortcut takes the pre-activated input, else the raw one."""
    torch.manual_seed(0)
    config = wide_resnet.Config(depths=(1, 1, 1), widths=(4, 8, 16))
    x = torch.randn(2, 4, 6, 6)
    for stride, width in ((1, 4), (2, 8)):
        block = wide_resnet.Block(config, 4, width, stride).eval()
        nn.init.uniform_(block.bn1.running_mean)
        nn.init.uniform_(block.bn2.bias)
        a = F.relu(block.bn1(x))
        branch = F.conv2d(a, block.conv1.weight, stride=stride, padding=1)
        branch = F.conv2d(F.relu(block.bn2(branch)), block.conv2.weight, padding=1)
        shortcut = x if block.downsample is None else F.conv2d(a, block.downsample.weight, stride=stride)
        torch.testing.assert_close(block(x), shortcut + branch)
        assert (block.downsample is None) == (width == 4)


def test_wide_dropout_lies_between_the_convolutions():
    work = traced("wrn16_4_cifar", training=True, dropout=0.3)
    block = [layer for layer in work.layers if layer.module.startswith("layer2.1")]
    assert [layer.module.removeprefix("layer2.1.") for layer in block][:7] == [
        "bn1",
        "relu",
        "conv1",
        "bn2",
        "relu",
        "drop",
        "conv2",
    ]
    assert sum(layer.op == "dropout" for layer in work.layers) == 6
    assert not any(layer.op == "dropout" for layer in traced("wrn16_4_cifar", training=True).layers)


def test_dense_dropout_follows_every_convolution_but_the_first():
    for name in ("densenet_40_12_cifar", "densenet_bc_100_12_cifar"):
        work = traced(name, training=True, dropout=0.2)
        ops = [layer.op if layer.op == "dropout" else layer.kind for layer in work.layers]
        follows = [ops[i + 1] == "dropout" for i, op in enumerate(ops) if op == "conv"]
        assert follows == [False] + (len(follows) - 1) * [True]
        assert ops.count("dropout") == len(follows) - 1


def test_grouped_convolution_sums_paths():
    """Xie et al. 2016, Figure 3: the block with a grouped 3x3 (c) equals the sum of C bottleneck paths (a)."""
    torch.manual_seed(0)
    config = resnext.Config(widths=(12, 24, 48, 96), outputs=(16, 32, 64, 128), cardinality=3, stride_in="3x3")
    block = resnet.Block(config, 16, 12, 16, stride=1).double().eval()
    x = torch.randn(2, 16, 5, 5, dtype=torch.float64)
    paths = []
    for path in range(3):
        d = slice(4 * path, 4 * path + 4)
        y = F.relu(F.conv2d(x, block.conv1.weight[d]) / math.sqrt(1 + 1e-5))  # fresh norms only divide
        y = F.relu(F.conv2d(y, block.conv2.weight[d], padding=1) / math.sqrt(1 + 1e-5))
        paths.append(F.conv2d(y, block.conv3.weight[:, d]))
    expected = F.relu(x + sum(paths) / math.sqrt(1 + 1e-5))
    torch.testing.assert_close(block(x), expected)


def test_dense_layers_see_all_maps_before():
    torch.manual_seed(0)
    config = densenet.Config((3,), growth=2, stem_channels=4, stem="cifar", img_size=6)
    block = densenet.DenseBlock(config, 4, 3).eval()
    x = torch.randn(1, 4, 6, 6)
    maps = x
    for layer in block.children():
        y = F.conv2d(F.relu(layer.norm1(maps)), layer.conv1.weight)
        y = F.conv2d(F.relu(layer.norm2(y)), layer.conv2.weight, padding=1)
        maps = torch.cat([maps, y], 1)
    torch.testing.assert_close(block(x), maps)
    assert block(x).shape == (1, 10, 6, 6)


def test_compression_is_rounded_down():
    net = densenet.Net(densenet.Config((1, 1), growth=3, stem_channels=4, stem="cifar", img_size=8))
    assert net.features.transition1.conv.weight.shape == (3, 7, 1, 1)


@pytest.mark.parametrize("bottleneck", [True, False])
def test_recomputing_changes_no_result(bottleneck):
    """Outputs, gradients and running statistics are the same to the bit; fewer bytes are kept; no convolution runs twice."""
    config = densenet.Config((4, 3), 4, 8, bottleneck, stem="cifar", dropout=0.2, num_classes=5, img_size=8)
    torch.manual_seed(0)
    x = torch.randn(4, 3, 8, 8)
    results, kept = [], []
    for recompute in (False, True):
        torch.manual_seed(1)
        net = densenet.Net(replace(config, recompute=recompute))
        net.init_weights()
        bytes: dict[int, int] = {}
        runs: list[nn.Module] = []

        def keep(t, bytes=bytes):
            bytes[t.untyped_storage().data_ptr()] = t.untyped_storage().nbytes()
            return t

        for module in net.modules():
            if isinstance(module, nn.Conv2d):
                module.register_forward_hook(lambda module, *_, runs=runs: runs.append(module))
        torch.manual_seed(2)
        with torch.autograd.graph.saved_tensors_hooks(keep, lambda t: t):
            y = net(x)
        y.square().sum().backward()
        results.append([y, *(p.grad for p in net.parameters()), *net.buffers()])
        kept.append(sum(bytes.values()))
        assert len(runs) == len(set(runs)) == sum(isinstance(m, nn.Conv2d) for m in net.modules())
        assert all(m.momentum == 0.1 for m in net.modules() if isinstance(m, nn.BatchNorm2d))
    assert all(torch.equal(a, b) for a, b in zip(*results, strict=True))
    assert kept[1] < 0.6 * kept[0]


def test_recomputing_is_for_training_only(monkeypatch):
    def refuse(*_args, **_kwargs):
        raise AssertionError("recomputed")

    monkeypatch.setattr(densenet, "checkpoint", refuse)
    net = densenet.Net(densenet.Config((1, 1), 4, 8, stem="cifar", recompute=True, img_size=8))
    x = torch.randn(2, 3, 8, 8)
    net.eval()(x)
    with torch.no_grad():
        net.train()(x)
    with pytest.raises(AssertionError, match="recomputed"):
        net(x)


# ---- they compute ------------------------------------------------------------------------------------------------------

# Shrunk forms of every kind of block, so that a step takes no time.
SMALL = {
    "overfeat_fast": (overfeat, overfeat.Config((4, 6, 8, 8, 8), hidden=(12, 16), num_classes=7, img_size=103)),
    "overfeat_accurate": (
        overfeat,
        replace(
            overfeat.VARIANTS["overfeat_accurate"], filters=(4, 4, 6, 6, 8, 8), hidden=(12, 12), in_channels=1, img_size=113
        ),
    ),
    "densenet": (densenet, densenet.Config((2, 3, 1, 2), 4, 8, num_classes=7, img_size=64)),
    "densenet_cifar": (densenet, replace(densenet.VARIANTS["densenet_40_12_cifar"], depths=(2, 1, 2), growth=4, in_channels=1)),
    "densenet_bc_cifar": (densenet, replace(densenet.VARIANTS["densenet_bc_100_12_cifar"], depths=(2, 1, 2), dropout=0.2)),
    "densenet_recompute": (densenet, densenet.Config((2, 3), 4, 8, stem="cifar", recompute=True, img_size=16)),
    "wide_resnet": (
        wide_resnet,
        resnet.Config((1, 2, 1, 1), True, (4, 8, 8, 16), outputs=(8, 16, 16, 32), stride_in="3x3", img_size=64),
    ),
    "wrn_cifar": (wide_resnet, wide_resnet.Config((1, 2, 1), widths=(16, 24, 32), dropout=0.3, num_classes=7)),
    "resnext": (
        resnext,
        resnext.Config((1, 2, 1, 1), True, (8, 8, 16, 16), (8, 8, 8, 16), 4, stride_in="3x3", num_classes=7, img_size=64),
    ),
    "resnext_cifar": (
        resnext,
        replace(resnext.VARIANTS["resnext29_8x64d_cifar"], depths=(1, 2, 1), widths=(8, 16, 32), outputs=(16, 24, 32)),
    ),
}


def built(name: str) -> nn.Module:
    """As the registry builds: on the meta device, then allocated (here with NaN in everything), then initialised."""
    family, config = SMALL[name]
    with torch.device("meta"):
        net = family.Net(config)
    assert all(t.device.type == "meta" for t in net.state_dict().values())
    net.to_empty(device="cpu")
    with torch.no_grad():
        for tensor in net.state_dict().values():
            tensor.fill_(math.nan if tensor.is_floating_point() else 77)
        net.init_weights()
    return net


@pytest.mark.parametrize("name", SMALL)
def test_init_weights_leaves_nothing_out(name):
    for key, tensor in built(name).state_dict().items():
        assert tensor.isfinite().all(), key
        if key.endswith("num_batches_tracked"):
            assert tensor == 0, key
        if key.endswith(("bias", "running_mean")):
            assert (tensor == 0).all(), key


@pytest.mark.parametrize("name", SMALL)
def test_forward_and_backward(name):
    torch.manual_seed(0)
    net = built(name).train()
    config = net.config
    x = torch.randn(4, config.in_channels, config.img_size, config.img_size)
    y = net(x)
    assert y.shape == (4, config.num_classes) and y.isfinite().all()
    y.square().mean().backward()
    assert all(p.grad is not None and p.grad.isfinite().all() for p in net.parameters())
    if "overfeat" not in name:  # with deviation .01 and so few filters its gradients may vanish
        assert all(p.grad.abs().max() > 0 for p in net.parameters())
    net.eval()
    with torch.no_grad():
        assert torch.equal(net(x), net(x))


@pytest.mark.parametrize("name", ["overfeat_fast", "densenet", "densenet_recompute", "wide_resnet", "wrn_cifar", "resnext"])
def test_export(name):
    torch.manual_seed(0)
    net = built(name).eval()
    x = torch.randn(2, net.config.in_channels, net.config.img_size, net.config.img_size)
    program = torch.export.export(net, (x,))
    torch.testing.assert_close(program.module()(x), net(x))


def test_initial_scale():
    torch.manual_seed(0)
    net = built("overfeat_fast")  # Sermanet et al. 2013, section 3.1: normal of deviation .01
    assert net.conv1.weight.std().item() == pytest.approx(0.01, rel=0.1)
    assert net.conv3.weight.std().item() == pytest.approx(0.01, rel=0.1)
    with torch.device("meta"):
        net = wide_resnet.Net(replace(wide_resnet.VARIANTS["wrn16_4_cifar"], depths=(1, 1, 1)))
    net.to_empty(device="cpu").init_weights()  # He et al., arXiv 1502.01852: deviation sqrt(2 / fan-out)
    assert net.layer3[0].conv2.weight.std().item() == pytest.approx(math.sqrt(2 / (256 * 9)), rel=0.02)
    assert net.fc.weight.abs().max().item() == pytest.approx(256**-0.5, rel=0.02)
    net = built("densenet_bc_cifar")
    assert net.features.denseblock1.denselayer1.conv1.weight.std().item() == pytest.approx(math.sqrt(2 / 48), rel=0.1)


def test_refusals():
    for name, size in (("overfeat_fast", 70), ("overfeat_accurate", 76), ("densenet121", 28), ("densenet_40_12_cifar", 3)):
        with pytest.raises(ValueError, match=f"img_size {size} is too small"):
            meta(name, img_size=size)
    assert meta("densenet121", img_size=29)  # torchvision's least size too
    for wrong in (0, -0.5, 1.5):
        with pytest.raises(ValueError, match="compression is over 0 and at most 1"):
            meta("densenet121", compression=wrong)
    for wrong in (3, 0, -1):
        with pytest.raises(ValueError, match=f"a width of 128 is not divisible by {wrong} groups"):
            meta("resnext50_32x4d", cardinality=wrong)
    with pytest.raises(ValueError, match="these blocks are basic"):
        meta_resnet("resnet18", cardinality=2)
