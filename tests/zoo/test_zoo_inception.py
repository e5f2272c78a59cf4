"""BN-Inception and Inception v2 to v4: counts to the unit, shapes of the papers' tables, and that they compute and learn."""

import json
import math
from dataclasses import replace
from functools import cache
from pathlib import Path

import pytest
import torch
from torch import nn

from lamina.errors import InputError
from lamina.lecture import facts
from lamina.tracing.tracer import trace
from lamina.workload import Workload
from lamina.zoo import bn_inception, inception_v3, inception_v4

REFERENCE = json.loads(Path(__file__).with_name("counts_inception.json").read_text())["networks"]
FAMILY = {name: family for family in (bn_inception, inception_v3, inception_v4) for name in family.VARIANTS}


def assemble(name: str, **changes) -> nn.Module:
    with torch.device("meta"):
        return FAMILY[name].Net(replace(FAMILY[name].VARIANTS[name], **changes))


@cache
def traced(name: str, size: int | None = None, **changes) -> Workload:
    net = assemble(name, **changes).train("aux" in changes)
    side = size or net.config.img_size
    return trace(net, torch.empty(1, 3, side, side, device="meta"))


def counted(work: Workload) -> dict[str, int]:
    """What the reference counts, by its names."""
    total = work.total()
    ours = {"attention_macs": 0, "macs": total.macs, "parameters": total.parameters, "weights": total.weights}
    ours |= {"biases": total.biases, "norm": total.norm}
    for kind, short in (("conv", "conv"), ("linear", "fc")):
        layers = [layer for layer in work.layers if layer.kind == kind]
        ours |= {f"{short}_weights": facts.weights(layers), f"{short}_macs": facts.macs(layers), f"{short}_layers": len(layers)}
    return ours


@pytest.mark.parametrize(("name", "form"), [(name, form) for name in REFERENCE for form in REFERENCE[name]])
def test_counts(name, form):
    expected = REFERENCE[name][form]
    work = traced(name) if form == "counts" else traced(name, aux=True)
    ours = counted(work)
    assert {k: ours[k] for k in expected} == expected
    assert work.coverage.unknown == ()


# ---- inception_v2 has no reference counts: the paper's table, written out ---------------------------------------------


def conv(m: int, c: int, taps: int, side: int) -> tuple[int, int, int]:
    """(weights, MACs, filters) of m filters of `taps` weights a channel over c channels, with an output of side x side."""
    return m * c * taps, m * c * taps * side * side, m


def test_inception_v2_counts():
    # Szegedy et al. 2015, Table 1: 3x3/2 32, 3x3 32, 3x3 padded 64, pool, 3x3 80, 3x3/2 192, 3x3 288
    rows = [conv(32, 3, 9, 149), conv(32, 32, 9, 147), conv(64, 32, 9, 147)]
    rows += [conv(80, 64, 9, 71), conv(192, 80, 9, 35), conv(288, 192, 9, 35)]
    # three modules of Figure 5 at 35x35: 1x1 64; 1x1 48, 3x3 64; 1x1 64, 3x3 96, 3x3 96; pool, 1x1 64
    module = [conv(64, 288, 1, 35), conv(48, 288, 1, 35), conv(64, 48, 9, 35)]
    module += [conv(64, 288, 1, 35), conv(96, 64, 9, 35), conv(96, 96, 9, 35), conv(64, 288, 1, 35)]
    rows += 3 * module
    # Figure 10: 1x1 192, 3x3/2 384; 1x1 64, 3x3 96, 3x3/2 96; pool of the 288: 768
    rows += [conv(192, 288, 1, 35), conv(384, 192, 9, 17), conv(64, 288, 1, 35), conv(96, 64, 9, 35), conv(96, 96, 9, 17)]
    # five modules of Figure 6 at 17x17: 1x1 192; 1x1, 1x7, 7x1 192; 1x1, 7x1, 1x7, 7x1, 1x7 192; pool, 1x1 192
    for inner in (128, 160, 160, 160, 192):
        rows += [conv(192, 768, 1, 17), conv(inner, 768, 1, 17), conv(inner, inner, 7, 17), conv(192, inner, 7, 17)]
        rows += [conv(inner, 768, 1, 17)] + 3 * [conv(inner, inner, 7, 17)] + [conv(192, inner, 7, 17), conv(192, 768, 1, 17)]
    # Figure 10: 1x1 192, 3x3/2 320; 1x1 192, 3x3 192, 3x3/2 192; pool of the 768: 1280
    rows += [conv(192, 768, 1, 17), conv(320, 192, 9, 8), conv(192, 768, 1, 17), conv(192, 192, 9, 17), conv(192, 192, 9, 8)]
    # two modules of Figure 7 at 8x8: 1x1 320; 1x1 384, 1x3 and 3x1 384; 1x1 448, 3x3 384, 1x3 and 3x1 384; pool, 1x1 192
    for channels in (1280, 2048):
        rows += [conv(320, channels, 1, 8), conv(384, channels, 1, 8)] + 2 * [conv(384, 384, 3, 8)]
        rows += [conv(448, channels, 1, 8), conv(384, 448, 9, 8)] + 2 * [conv(384, 384, 3, 8)] + [conv(192, channels, 1, 8)]
    work = traced("inception_v2")
    ours = counted(work)
    assert ours["conv_layers"] == len(rows)
    assert ours["macs"] == sum(m for _, m, _ in rows) + 2048 * 1000
    assert ours["norm"] == 2 * sum(filters for _, _, filters in rows)
    assert ours["parameters"] == sum(w for w, _, _ in rows) + 2 * sum(f for _, _, f in rows) + 2048 * 1000 + 1000
    assert work.coverage.unknown == ()


def test_depths():
    """Szegedy et al. 2015, section 6: v2 is "42 layers deep"; so it is when a 1x7 and the 7x1 behind it are one layer."""
    longest = facts.longest_path(traced("inception_v2"))
    stem, a, b, c, reductions = 6, 3 * 3, 5 * 5, 2 * 3, 2 * 3
    assert longest == stem + a + b + c + reductions
    assert longest - 5 * 2 == 42  # two such pairs on the path through each of the five modules
    # Ioffe & Szegedy 2015, Figure 5: the column "depth" has 1 for both convolutions and 3 for each of ten modules; the 1x1 in
    # front of the second convolution is not in it.
    assert facts.longest_path(traced("bn_inception")) == 2 + 10 * 3 + 1


# ---- shapes of the papers' tables -------------------------------------------------------------------------------------


def shapes(work: Workload) -> dict[str, tuple[int, ...]]:
    """The last output of each module, without the batch."""
    result = {}
    for layer in work.layers:
        path = layer.module.split(".")
        for part in range(len(path)):
            result[".".join(path[: part + 1])] = layer.outputs[0].shape[1:]
    return result


def table(text: str) -> dict[str, tuple[int, ...]]:
    """ "NAME CHANNELS SIDE" a row; "a*3" stands for a.0, a.1 and a.2."""
    rows = {}
    for name, channels, *side in map(str.split, text.split(";")):
        stem, _, times = name.partition("*")
        for key in [f"{stem}.{i}" for i in range(int(times))] if times else [name]:
            rows[key] = (int(channels), *(2 * [int(n) for n in side]))
    return rows


# Ioffe & Szegedy 2015, Figure 5, column "output size"; the strided 3c and 4e are printed with the size of their input.
FIGURE_5 = table(
    "conv1 64 112; pool1 64 56; conv2 192 56; pool2 192 28; inception_3a 256 28; inception_3b 320 28; inception_3c 576 14;"
    "inception_4a 576 14; inception_4b 576 14; inception_4c 576 14; inception_4d 576 14; inception_4e 1024 7;"
    "inception_5a 1024 7; inception_5b 1024 7; pool5 1024 1; fc 1000"
)
# Szegedy et al. 2015, Table 1, column "input size" of the next row
TABLE_1 = table(
    "stem.0 32 149; stem.1 32 147; stem.2 64 147; stem.3 64 73; stem.4 80 71; stem.5 192 35; stem.6 288 35;"
    "a*3 288 35; reduction_a 768 17; b*5 768 17; reduction_b 1280 8; c*2 2048 8; avgpool 2048 1; fc 1000"
)
STAGES = {
    "bn_inception": FIGURE_5,
    # the printed projections instead of the printed outputs: 160 + 160 + 160 + 128, and 32 more behind 4e's passed-through pool
    "bn_inception_caffe": FIGURE_5 | table("inception_4c 608 14; inception_4d 608 14; inception_4e 1056 7"),
    "inception_v2": TABLE_1,
    # the sizes in the names of the authors' code ("mixed_35x35x256a", ...)
    "inception_v3": table(
        "stem.0 32 149; stem.1 32 147; stem.2 64 147; stem.3 64 73; stem.4 80 73; stem.5 192 71; stem.6 192 35;"
        "a.0 256 35; a.1 288 35; a.2 288 35; reduction_a 768 17; b*4 768 17; reduction_b 1280 8; c*2 2048 8;"
        "avgpool 2048 1; fc 1000"
    ),
    # Szegedy et al. 2016, Figure 3 and Figure 9
    "inception_v4": table(
        "stem.conv1 32 149; stem.conv2 32 147; stem.conv3 64 147; stem.split1 160 73; stem.split2 192 71; stem 384 35;"
        "a*4 384 35; reduction_a 1024 17; b*7 1024 17; reduction_b 1536 8; c*3 1536 8; avgpool 1536 1; fc 1000"
    ),
}


@pytest.mark.parametrize("name", STAGES)
def test_stage_shapes(name):
    ours = shapes(traced(name))
    assert {k: ours[k] for k in STAGES[name]} == STAGES[name]
    assert {k for k in ours if k[:2] in ("a.", "b.", "c.") and k.count(".") == 1} <= set(STAGES[name])  # and no module more


def test_auxiliary_head():
    """The last 17x17 grid, averaged to 5x5; the head is not built, and not called, but for training."""
    ours = shapes(traced("inception_v3", aux=True))
    wanted = {"aux.pool": (768, 5, 5), "aux.conv0": (128, 5, 5), "aux.conv1": (768, 1, 1), "aux.fc": (1000,)}
    assert {k: ours[k] for k in wanted} == wanted
    net = assemble("inception_v3", aux=True).eval()
    work = trace(net, torch.empty(1, 3, 299, 299, device="meta"))
    assert not any(layer.module.startswith("aux") for layer in work.layers)
    assert not any("aux" in name for name, _ in assemble("inception_v3").named_parameters())


def test_branches_stand_where_the_figures_have_them():
    v2, v3, v4 = assemble("inception_v2"), assemble("inception_v3"), assemble("inception_v4")
    kernels = lambda module: [m.kernel_size for m in module.modules() if isinstance(m, nn.Conv2d)]  # noqa: E731
    assert all((5, 5) not in kernels(module) for module in v2.a)
    assert all(kernels(module).count((5, 5)) == 1 for module in v3.a)
    assert (1, 7) not in kernels(v2.reduction_b) and (1, 7) in kernels(v3.reduction_b)
    for module in (*v2.b, *v3.b, *v4.b):  # all are 17x17 modules: 1x1; 1x1 and a pair; 1x1 and two pairs; projection
        assert kernels(module) == [(1, 1), (1, 1), (1, 7), (7, 1), (1, 1), (7, 1), (1, 7), (7, 1), (1, 7), (1, 1)]
    split = [(1, 3), (3, 1)]
    for module in (*v2.c, *v3.c):
        assert kernels(module) == [(1, 1), (1, 1), *split, (1, 1), (3, 3), *split, (1, 1)]
    for module in v4.c:
        assert kernels(module) == [(1, 1), (1, 1), *split, (1, 1), (3, 1), (1, 3), *split, (1, 1)]
    for net in (v2, v3, v4):
        assert {norm.eps for norm in net.modules() if isinstance(norm, nn.BatchNorm2d)} == {0.001}
    ones = torch.ones(1, 1, 3, 3)  # v3's public weights average over the padding too, v4's do not
    assert v3.a[0].pool(ones).min() == pytest.approx(4 / 9) and inception_v4.AvgPool()(ones).min() == 1
    for name in ("bn_inception", "bn_inception_caffe"):
        net = assemble(name)
        assert net.inception_3c.branch1 is None and net.inception_4e.project is None
        pools = {n: type(net.get_submodule(f"inception_{n}.pool")).__name__ for n in bn_inception.TABLE}
        wanted = dict.fromkeys(bn_inception.TABLE, "AvgPool2d") | dict.fromkeys(("3c", "4e"), "StridedPool")
        assert pools == wanted | {"5b": "MaxPool2d"}


# ---- they compute -----------------------------------------------------------------------------------------------------

SMALL = {"num_classes": 7, "img_size": 75}
AVG, STRIDED, MAX = (4, 2, 4, 2, 4, "avg", 2), (0, 2, 4, 2, 4, "max", 0), (4, 2, 4, 2, 4, "max", 2)
TINY_BN = bn_inception.Config((4, 4, 6), (AVG, AVG, STRIDED, AVG, AVG, AVG, AVG, STRIDED, AVG, MAX), **SMALL)
STEM_2, STEM_3 = (tuple((min(f, 4), *row) for f, *row in stem) for stem in (inception_v3.STEM_V2, inception_v3.STEM_V3))
A, B, C = ((4, 2, 4, 2, 4, 2), (4, 2, 4, 2, 4, 3)), ((4, 2, 4, 3), (4, 3, 4, 4)), ((4, 2, 3, 4, 5),)
TINY_V2 = inception_v3.Config(STEM_2, A, 3, (3, 4, 2, 4), B, (2, 4, 2, 4), 3, C, in_channels=1, **SMALL)
TINY_V3 = inception_v3.Config(STEM_3, A, 5, (0, 4, 2, 4), B, (2, 4, 2, 4), 7, C, **SMALL)
STEM_4, B_4 = (4, 4, 4, 5, 3, 4, 6), (4, 2, 3, 5, 6)
TINY_V4 = inception_v4.Config((1, 2, 1), STEM_4, (4, 3, 5), (2, 3, 4, 5), B_4, (3, 2, 4), (4, 2, 3, 5), **SMALL)
TINY = {
    "bn_inception": (bn_inception, TINY_BN),
    "bn_inception_caffe": (bn_inception, replace(TINY_BN, conv_bias=True, in_channels=2)),
    "inception_v2": (inception_v3, TINY_V2),
    "inception_v3": (inception_v3, TINY_V3),
    "inception_v3_aux": (inception_v3, replace(TINY_V3, aux=True, img_size=299)),
    "inception_v4": (inception_v4, TINY_V4),
}


@pytest.fixture(scope="module", autouse=True)
def one_thread():
    """Handing layers this small to several threads takes longer than computing them, the more so on a busy machine."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


def tiny(name: str) -> nn.Module:
    """The shrunk network, initialised as `lamina.build` does it, but on memory that holds no number."""
    family, config = TINY[name]
    with torch.device("meta"):
        net = family.Net(config)
    net.to_empty(device="cpu")
    torch.manual_seed(0)
    with torch.no_grad():
        for tensor in net.state_dict().values():
            tensor.fill_(float("nan") if tensor.is_floating_point() else -1)
        net.init_weights()
    return net


def pictures(config, batch: int = 4) -> torch.Tensor:
    return torch.randn(batch, config.in_channels, config.img_size, config.img_size)


@pytest.mark.parametrize("name", TINY)
def test_forward_and_backward(name):
    net = tiny(name).train()
    x = pictures(net.config)
    result = net(x)
    outputs = result if isinstance(result, tuple) else (result,)
    assert len(outputs) == (2 if name.endswith("aux") else 1)
    assert all(y.shape == (4, 7) and y.isfinite().all() for y in outputs)
    assert len(outputs) == 1 or not torch.equal(outputs[0], outputs[1])
    sum(y.square().mean() for y in outputs).backward()
    assert all(p.grad is not None and p.grad.isfinite().all() for p in net.parameters())
    net.eval()
    with torch.no_grad():
        assert isinstance(net(x[:1]), torch.Tensor)


@pytest.mark.parametrize("name", ["bn_inception", "inception_v2", "inception_v3", "inception_v4"])
def test_export(name):
    net = tiny(name).eval()
    x = pictures(net.config, 2)
    program = torch.export.export(net, (x,))
    torch.testing.assert_close(program.module()(x), net(x))


@pytest.mark.parametrize("name", TINY)
def test_init_weights_sets_everything(name):
    first, second = tiny(name).state_dict(), tiny(name).state_dict()
    assert all(torch.equal(first[k], second[k]) and first[k].isfinite().all() for k in first)
    assert all((v == 0).all() for k, v in first.items() if k.endswith("num_batches_tracked"))
    names = {k for k, _ in TINY[name][0].Net(TINY[name][1]).named_buffers()}
    assert names <= set(first)  # no buffer that `to_empty` would lose


def test_initial_scale():
    v3 = replace(TINY_V3, stem=((64, 3, 2, 0), (128, 3, 2, 0), (0, 3, 2, 0)), aux=True, img_size=299)
    nets = [inception_v3.Net(v3), inception_v4.Net(replace(TINY_V4, stem=(64, 128, 4, 4, 4, 4, 4)))]
    torch.manual_seed(0)
    with torch.no_grad():
        for net in nets:
            net.init_weights()
    for weight in (nets[0].stem[1].conv.weight, nets[1].stem.conv2.conv.weight):
        # the authors' code: variance 2 / fan-in, cut at two deviations of the normal in front of the cut
        assert weight.std().item() == pytest.approx(math.sqrt(2 / (64 * 9)), rel=0.02)
        assert weight.abs().max().item() == pytest.approx(2 * math.sqrt(1.3 * 2 / (64 * 9)), rel=0.01)
    assert nets[0].aux.conv1.conv.weight.abs().max().item() == pytest.approx(0.02, rel=0.01)
    assert nets[0].aux.fc.weight.abs().max().item() == pytest.approx(0.002, rel=0.01)
    net = bn_inception.Net(replace(TINY_BN, stem=(128, 64, 6)))
    with torch.no_grad():
        net.init_weights()
    assert net.reduce2.conv.weight.abs().max().item() == pytest.approx(math.sqrt(6 / (128 + 64)), rel=0.01)  # Glorot's


@pytest.mark.parametrize("name", FAMILY)
def test_meta_build_allocates_nothing(name):
    net = assemble(name, num_classes=7, in_channels=1)
    assert all(t.device.type == "meta" for t in (*net.parameters(), *net.buffers()))
    assert net.fc.weight.shape[0] == 7
    assert next(m for m in net.modules() if isinstance(m, nn.Conv2d)).in_channels == 1


def test_strided_pool_halves_as_a_padded_convolution_does():
    pool = bn_inception.StridedPool()
    x = torch.randn(1, 2, 12, 8)
    torch.testing.assert_close(pool(x), nn.functional.max_pool2d(x, 3, stride=2, ceil_mode=True))
    for height, width in ((1, 1), (2, 3), (7, 6), (13, 15)):
        x = torch.randn(1, 1, height, width)
        assert pool(x).shape == nn.functional.conv2d(x, torch.zeros(1, 1, 3, 3), stride=2, padding=1).shape
    odd = torch.arange(9.0).reshape(1, 1, 3, 3)
    assert pool(odd).flatten().tolist() == [4, 5, 7, 8]


@pytest.mark.parametrize("side", [1, 31, 50, 75])
def test_bn_inception_takes_any_size(side):
    net = tiny("bn_inception").eval()
    assert net(torch.randn(1, 3, side, side + 1)).shape == (1, 7)


@pytest.mark.parametrize("name", ["inception_v2", "inception_v3", "inception_v4"])
def test_the_smallest_image(name):
    """What the Config refuses is what does not run; it takes 75, and with the auxiliary head 299."""
    assert shapes(traced(name, 75))["c"][1:] == (1, 1)
    assemble(name, img_size=75)
    with pytest.raises(InputError, match="the image is too small"):
        traced(name, 74)
    for size in (74, 8, 1):
        with pytest.raises(ValueError, match=f"img_size {size} is too small: .* 75"):
            assemble(name, img_size=size)
    if FAMILY[name] is inception_v3:
        assert shapes(traced(name, 299, aux=True))["aux.conv1"] == (768, 1, 1)
        with pytest.raises(InputError, match="the image is too small"):
            traced(name, 298, aux=True)
        with pytest.raises(ValueError, match="img_size 298 is too small for the auxiliary head"):
            assemble(name, aux=True, img_size=298)


def test_wrong_rows_are_refused():
    rows = bn_inception.VARIANTS["bn_inception"].inceptions
    with pytest.raises(ValueError, match="zip"):
        assemble("bn_inception", inceptions=rows[1:])
    with pytest.raises(ValueError, match="'avg' or 'max', not 'mean'"):
        assemble("bn_inception", inceptions=((64, 64, 64, 64, 96, "mean", 32), *rows[1:]))
    for wrong in ((0, 64, 64, 64, 96, "avg", 32), (64, 64, 64, 64, 96, "max", 0), (0, 64, 64, 64, 96, "avg", 0)):
        with pytest.raises(ValueError, match="stride 2 has no 1x1 branch"):
            assemble("bn_inception", inceptions=(wrong, *rows[1:]))
