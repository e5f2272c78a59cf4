"""Every family as a program of `torch.export` and as an ONNX file: what ONNX Runtime answers is what torch answers."""

import math
import re
import sys
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
import torch
from torch import Tensor, nn

import lamina
from lamina.errors import InputError, LaminaError
from lamina.extras import install_command
from lamina.infer import export
from lamina.zoo import (
    alexnet,
    bn_inception,
    densenet,
    googlenet,
    inception_v3,
    inception_v4,
    lenet,
    overfeat,
    registry,
    resnet,
    resnext,
    transformer,
    vgg,
    vit,
    wide_resnet,
)

onnx = pytest.importorskip("onnx", reason="needs lamina[onnx]")
onnxruntime = pytest.importorskip("onnxruntime", reason="needs lamina[onnx]")
pytest.importorskip("onnxscript", reason="needs lamina[onnx]")

TOLERANCE = 1e-4  # of the largest value

SMALL = {"num_classes": 7, "img_size": 64}
ROWS = 9 * ((4, 2, 4, 3, 5, 2),)  # of GoogLeNet's modules
AVG, STRIDED, MAX = (4, 2, 4, 2, 4, "avg", 2), (0, 2, 4, 2, 4, "max", 0), (4, 2, 4, 2, 4, "max", 2)
BN_ROWS = (AVG, AVG, STRIDED, AVG, AVG, AVG, AVG, STRIDED, AVG, MAX)
STEM = tuple((min(f, 4), *row) for f, *row in inception_v3.STEM_V3)
A, B, C = ((4, 2, 4, 2, 4, 3),), ((4, 3, 4, 4),), ((4, 2, 3, 4, 5),)
V3 = inception_v3.Config(STEM, A, 5, (3, 4, 2, 4), B, (2, 4, 2, 4), 7, C, num_classes=7, img_size=75)
V4 = inception_v4.Config((1, 1, 1), (4, 4, 4, 5, 3, 4, 6), (4, 3, 5), (2, 3, 4, 5), (4, 2, 3, 5, 6), (3, 2, 4), (4, 2, 3, 5))
OUTPUTS = {"widths": (4, 8), "outputs": (8, 12), "stride_in": "3x3"}
TOKENS = transformer.Config(1, 1, d_model=16, d_ff=24, n_heads=4, vocabulary=11, max_length=20)
VIT = vit.Config(patch=4, depth=1, width=12, mlp=20, n_heads=3, num_classes=7, in_channels=2, img_size=12)

# Every family and every kind of block, shrunk so that a pass takes no time. 96 and 80 pixels are sizes of which the pools of
# GoogLeNet, rounded up, see windows that stick out; of 75 BN-Inception pools odd sides and even ones.
NETS: dict[str, tuple[ModuleType, Any]] = {
    "lenet5": (lenet, lenet.Config()),
    "lenet5_dense": (lenet, replace(lenet.VARIANTS["lenet5_dense"], num_classes=7, in_channels=2)),
    "lenet_caffe": (lenet, lenet.VARIANTS["lenet_caffe"]),
    "alexnet": (alexnet, alexnet.Config((8, 8, 8, 8, 8), hidden=16, num_classes=7, img_size=67)),
    "alexnet_owt": (alexnet, replace(alexnet.VARIANTS["alexnet_owt"], filters=(4, 4, 4, 4, 4), hidden=16, img_size=64)),
    "overfeat_fast": (overfeat, overfeat.Config((4, 6, 8, 8, 8), hidden=(12, 16), num_classes=7, img_size=103)),
    "overfeat_accurate": (
        overfeat,
        replace(overfeat.VARIANTS["overfeat_accurate"], filters=(4, 4, 6, 6, 8, 8), hidden=(12, 12), img_size=113),
    ),
    "vgg": (vgg, vgg.Config(filters=(4, 4, 4, 4, 4), hidden=16, img_size=32)),
    "vgg_bn": (vgg, vgg.Config(filters=(4, 4, 4, 4, 4), batch_norm=True, hidden=16, img_size=64)),
    "googlenet": (googlenet, googlenet.Config(ROWS, aux=True, num_classes=7, img_size=96)),
    "googlenet_bn": (googlenet, replace(googlenet.VARIANTS["googlenet_bn"], inceptions=ROWS, num_classes=7, img_size=80)),
    "bn_inception": (bn_inception, bn_inception.Config((4, 4, 6), BN_ROWS, num_classes=7, img_size=75)),
    "inception_v3": (inception_v3, V3),
    "inception_v4": (inception_v4, replace(V4, num_classes=7, img_size=75)),
    "resnet_basic": (resnet, resnet.Config((1, 2), False, (4, 8), **SMALL)),
    "resnet": (resnet, resnet.Config((1, 1), widths=(4, 8), **SMALL)),
    "resnet_v1_5": (resnet, resnet.Config((1, 1), widths=(4, 8), stride_in="3x3", **SMALL)),
    "resnet_cifar": (resnet, replace(resnet.VARIANTS["resnet20_cifar"], depths=(1, 1, 1))),
    "plain": (resnet, replace(resnet.VARIANTS["plain20_cifar"], depths=(1, 1, 1))),
    "wide_resnet": (wide_resnet, resnet.Config((1, 1), **OUTPUTS, **SMALL)),
    "wrn_cifar": (wide_resnet, wide_resnet.Config((1, 1, 1), widths=(8, 12, 16), dropout=0.3, num_classes=7)),
    "resnext": (resnext, resnext.Config((1, 1), cardinality=4, **OUTPUTS, **SMALL)),
    "resnext_cifar": (
        resnext,
        replace(resnext.VARIANTS["resnext29_8x64d_cifar"], depths=(1, 1, 1), widths=(8, 16, 32), outputs=(16, 24, 32)),
    ),
    "densenet": (densenet, densenet.Config((2, 1, 2), 4, 8, **SMALL)),
    "densenet_cifar": (densenet, replace(densenet.VARIANTS["densenet_40_12_cifar"], depths=(2, 1, 2), growth=4)),
    "densenet_recompute": (densenet, densenet.Config((2, 3), 4, 8, stem="cifar", recompute=True, img_size=16)),
    "transformer": (transformer, TOKENS),
    "transformer_masked": (transformer, TOKENS),
    "transformer_marian_masked": (
        transformer,
        replace(TOKENS, attention_bias=True, output_bias=True, activation="silu", positions="halves"),
    ),
    "transformer_untied": (
        transformer,
        replace(TOKENS, tie=False, target_vocabulary=7, norm="pre", positions="opennmt"),
    ),
    "vit": (vit, replace(VIT, representation=8)),
}


@pytest.fixture(autouse=True, scope="module")
def one_thread() -> Iterator[None]:
    """Networks this small only wait for further threads."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


def example(config: Any, batch: int, masked: bool = False) -> tuple[Tensor, ...]:
    """Inputs with values. Pictures are bright enough for local response normalisation to divide by more than its constant."""
    if not isinstance(config, transformer.Config):
        scale = 100 if isinstance(config, alexnet.Config | googlenet.Config) else 1
        return (scale * torch.randn(batch, config.in_channels, config.img_size, config.img_size),)
    tokens = torch.randint(7, (batch, 6)), torch.randint(7, (batch, 5))
    lengths = 2 + torch.arange(batch)[:, None] % 4
    return (*tokens, torch.arange(6) >= lengths, torch.arange(5) >= lengths.flip(0)) if masked else tokens


@torch.no_grad()
def trained(net: nn.Module, inputs: tuple[Tensor, ...]) -> nn.Module:
    """The network in evaluation mode, with weights under which every part shows in the outputs: no constant biases, no head of
    zeros, batch norms with the statistics of one training pass and with scales and shifts of their own. The shifts open five
    rectifiers of six: random networks as deep as Inception v4 else multiply a rounding error by thousands."""
    for name, parameter in net.named_parameters():
        if parameter.dim() > 1:
            nn.init.normal_(parameter, std=math.sqrt(2 / parameter[0].numel()))
        else:
            nn.init.normal_(parameter, mean=float(name.endswith(("weight", "coefficient"))), std=0.2)
    norms = [module for module in net.modules() if isinstance(module, nn.BatchNorm2d)]
    for norm in norms:
        norm.momentum = 1.0
        nn.init.normal_(norm.bias, mean=1.0, std=0.2)
    if norms:
        net.train()(*inputs)
    return net.eval()


def small(name: str) -> nn.Module:
    family, config = NETS[name]
    torch.manual_seed(0)
    net = family.Net(config)
    with torch.no_grad():
        net.init_weights()
    return trained(net, example(config, 4))


def check_graph(path: Path, inputs: int) -> None:
    """The file is valid ONNX, its one free size is the batch, and its weights are in it."""
    onnx.checker.check_model(path, full_check=True)
    graph = onnx.load(path, load_external_data=False).graph
    assert len(graph.input) == inputs
    assert [value.name for value in graph.output] == ["output"]
    for value in (*graph.input, *graph.output):
        first, *others = value.type.tensor_type.shape.dim
        assert first.dim_param == "batch" and all(d.dim_value > 0 for d in others), value.name
    assert all(t.data_location == onnx.TensorProto.DEFAULT for t in graph.initializer)


@pytest.mark.parametrize("name", NETS)
def test_outputs_are_the_same(name: str, tmp_path: Path) -> None:
    """Those of `torch.export`'s program and those of ONNX Runtime, at the exported batch size of 2 and at others."""
    net, masked = small(name), name.endswith("masked")
    batches = [example(net.config, batch, masked) for batch in (2, 1, 5)]
    program = export.convert(net, batches[0])
    exported = program.exported_program.module()
    for inputs in batches:
        torch.testing.assert_close(exported(*inputs), net(*inputs))
    file = tmp_path / "net.onnx"
    program.save(file, external_data=False)
    check_graph(file, len(batches[0]))
    assert max(export.check_onnx(file, net, inputs) for inputs in batches) < TOLERANCE


# One full network a family, of those with fewer than 100 million parameters.
FULL = (
    "lenet5", "alexnet", "googlenet", "bn_inception", "inception_v3", "resnet50", "inception_v4", "wide_resnet50_2",
    "densenet121", "resnext50_32x4d", "transformer_base", "vit_b_16",
)  # fmt: skip


@pytest.mark.slow
@pytest.mark.parametrize("name", FULL)
def test_full_size(name: str, tmp_path: Path) -> None:
    torch.manual_seed(0)
    net = lamina.build(name)
    trained(net, example(net.config, 2))
    file = export.export_onnx(net, registry.example(name), tmp_path / "net.onnx")
    tokens = name.startswith("transformer")
    check_graph(file, 2 if tokens else 1)
    for batch in (1, 3):
        inputs = tuple(torch.randint(7, (batch, n)) for n in lamina.spec(name).input) if tokens else example(net.config, batch)
        assert export.check_onnx(file, net, inputs) < TOLERANCE


# ---- what the exporter does not do by itself ---------------------------------------------------------------------------


class Call(nn.Module):
    def __init__(self, function: Any) -> None:
        super().__init__()
        self.function = function

    def forward(self, x: Tensor) -> Any:
        return self.function(x)


@pytest.mark.parametrize("padding", [0, 1])
@pytest.mark.parametrize("pool", [nn.AvgPool2d, nn.AvgPool3d])
def test_pools_that_sum(pool: Any, padding: int, tmp_path: Path) -> None:
    """The exporter's own translation leaves the divisor out."""
    x = torch.randn(2, 3, *(7, 8, 9)[: 2 if pool is nn.AvgPool2d else 3])
    net = nn.Sequential(pool(3, stride=2, padding=padding, divisor_override=1), pool(2, 1, padding, count_include_pad=False))
    file = export.export_onnx(net, (x,), tmp_path / "net.onnx")
    assert export.check_onnx(file, net, (x,)) < 1e-6


def test_a_divisor_that_onnx_does_not_know_is_refused(tmp_path: Path) -> None:
    with pytest.raises(LaminaError, match=r"ONNX: average pooling with both ceil_mode and divisor_override$"):
        export.export_onnx(nn.AvgPool2d(3, 2, ceil_mode=True, divisor_override=2), (torch.randn(2, 3, 8, 8),), tmp_path / "net")
    assert not list(tmp_path.iterdir())


# ---- files ------------------------------------------------------------------------------------------------------------


def test_the_module_is_left_as_it_was(tmp_path: Path) -> None:
    net = small("resnet_cifar").train()
    net.bn1.eval()
    modes = [module.training for module in net.modules()]
    state = {name: tensor.clone() for name, tensor in net.state_dict().items()}
    x = example(net.config, 1)  # a batch of one is not taken for a constant
    file = export.export_onnx(net, tuple(t.to("meta") for t in x), tmp_path / "net.onnx")
    assert export.check_onnx(file, net, example(net.config, 3)) < TOLERANCE
    assert [module.training for module in net.modules()] == modes
    assert all(torch.equal(tensor, state[name]) for name, tensor in net.state_dict().items())
    assert [f.name for f in tmp_path.iterdir()] == ["net.onnx"]


def test_a_fixed_batch(tmp_path: Path) -> None:
    net = nn.Linear(3, 2)
    file = export.export_onnx(net, (torch.randn(4, 3),), str(tmp_path / "net.onnx"), dynamic_batch=False, opset=21)
    model = onnx.load(file)
    assert [d.dim_value for d in model.graph.input[0].type.tensor_type.shape.dim] == [4, 3]
    assert [(o.domain, o.version) for o in model.opset_import] == [("", 21)]
    assert export.check_onnx(file, net, (torch.randn(4, 3),)) < TOLERANCE
    with pytest.raises(LaminaError, match=r"net\.onnx does not run: .* for the following indices"):
        export.check_onnx(file, net, (torch.randn(5, 3),))


def test_optional_inputs(tmp_path: Path) -> None:
    """The target's mask without the source's: an input of its own name, and the other is none."""
    net = small("transformer_untied")
    source, target, _, padding = example(net.config, 2, masked=True)
    file = export.export_onnx(net, (source, target, None, padding), tmp_path / "net.onnx")
    model = onnx.load(file)
    assert [value.name for value in model.graph.input] == ["source", "target", "target_padding"]
    assert model.opset_import[0].version == export.OPSET
    assert export.check_onnx(file, net, (source[:1], target[:1], None, padding[:1])) < TOLERANCE


def test_large_weights_go_beside_the_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """As torch writes them from 1.5 GB on."""
    save = torch.onnx.ONNXProgram.save
    monkeypatch.setattr(torch.onnx.ONNXProgram, "save", lambda self, path, **_: save(self, path, external_data=True))
    net = nn.Linear(50, 60)
    file = export.export_onnx(net, (torch.randn(2, 50),), tmp_path / "net.onnx")
    assert sorted(f.name for f in tmp_path.iterdir()) == ["net.onnx", "net.onnx.data"]
    assert (tmp_path / "net.onnx.data").stat().st_size >= 4 * 50 * 60
    onnx.checker.check_model(file, full_check=True)
    assert export.check_onnx(file, net, (torch.randn(3, 50),)) < TOLERANCE


def test_a_difference_is_seen(tmp_path: Path) -> None:
    net, x = nn.Linear(3, 2), torch.randn(4, 3)
    file = export.export_onnx(net, (x,), tmp_path / "net.onnx")
    with torch.no_grad():
        expected = net(x).abs().max().item()
        net.bias[1] += 1
        largest = net(x).abs().max().item()
    assert expected > 0
    assert export.check_onnx(file, net, (x,)) == pytest.approx(1 / largest, rel=1e-5)
    with pytest.raises(LaminaError, match=r"shape \(4, 2\), torch's \(4, 1\)"):
        export.check_onnx(file, nn.Linear(3, 1), (x,))
    with pytest.raises(LaminaError, match="1 outputs, and Call 2"):
        export.check_onnx(file, Call(lambda x: (x, x)), (x,))
    with pytest.raises(LaminaError, match="torch's output is not finite"):
        export.check_onnx(file, nn.Linear(3, 2), (x * math.nan,))
    assert export.relative(torch.tensor([math.nan]), torch.ones(1)) == math.inf
    assert export.relative(torch.zeros(3), torch.zeros(3)) == 0
    assert export.relative(torch.ones(3), torch.zeros(3)) == math.inf


def test_what_cannot_be_exported_is_one_line(tmp_path: Path) -> None:
    x = torch.randn(2, 3)
    cases = [
        (Call(lambda x: x * 2 if x.shape[0] == 2 else x), (x,), "Call works for one batch size only"),
        (Call(lambda x: x * 2 if x.sum() > 0 else x), (x,), "Call cannot be exported to ONNX: "),
        (small("vit"), (torch.randn(2, 2, 16, 16),), "Net cannot be exported to ONNX: built for images of 12x12, not 16x16"),
        (nn.Bilinear(3, 3, 2), (x, x[:1]), r"share no batch axis, their first sizes being \[2, 1\]"),
        (nn.ReLU(), (torch.tensor(1.0),), "share no batch axis"),
    ]
    for module, inputs, message in cases:
        with pytest.raises(LaminaError, match=message) as caught:
            export.export_onnx(module, inputs, tmp_path / "net.onnx")
        assert "\n" not in str(caught.value)
        assert isinstance(caught.value, InputError) == ("share no" in message)
    with pytest.raises(LaminaError, match="with opset 3, only with"):
        export.export_onnx(nn.ReLU(), (x,), tmp_path / "net.onnx", opset=3)
    assert not list(tmp_path.iterdir())


def test_nothing_half_written_is_left(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    net, x = nn.ReLU(), torch.randn(2, 3)
    for path, reason in ((tmp_path / "no" / "net.onnx", "No such file"), (tmp_path, "it is a folder")):
        with pytest.raises(LaminaError, match=f"^{path} cannot be written: {reason}"):
            export.export_onnx(net, (x,), path)
    (tmp_path / "net.onnx").write_text("before")

    def save(self: Any, path: Path, **_: Any) -> None:
        path.write_text("half")
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(torch.onnx.ONNXProgram, "save", save)
    with pytest.raises(LaminaError, match=r"net\.onnx cannot be written: No space left on device$"):
        export.export_onnx(net, (x,), tmp_path / "net.onnx")
    assert [(f.name, f.read_text()) for f in tmp_path.iterdir()] == [("net.onnx", "before")]
    with pytest.raises(LaminaError, match=r"net\.onnx does not run: "):
        export.check_onnx(tmp_path / "net.onnx", net, (x,))


@pytest.mark.parametrize("library", ["onnx", "onnxscript", "onnxruntime"])
def test_missing_libraries_are_named(library: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, library, None)
    work = export.check_onnx if library == "onnxruntime" else export.export_onnx
    arguments = (tmp_path / "a", nn.ReLU(), (torch.ones(2),)) if library == "onnxruntime" else (nn.ReLU(), (), tmp_path / "a")
    with pytest.raises(LaminaError, match=rf"^ONNX files need {library}: {re.escape(install_command('onnx'))} ") as caught:
        work(*arguments)
    assert "\n" not in str(caught.value)
