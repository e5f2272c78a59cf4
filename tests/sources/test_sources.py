"""What MODEL names: each form and each mistake. Nothing here needs timm, transformers or onnx."""

import json
import sys
from dataclasses import dataclass
from pathlib import Path

import pytest
import torch
from torch import nn

from lamina import cli, sources
from lamina.errors import InputError, LaminaError
from lamina.extras import install_command
from lamina.sources import resolve
from lamina.zoo import registry

NETS = """
import torch
from torch import nn

class Two(nn.Module):
    def __init__(self, width=4):
        super().__init__()
        self.a, self.b = nn.Linear(8, width), nn.Linear(6, width)

    def forward(self, x, y, scale=None):
        z = self.a(x) + self.b(y)
        return z if scale is None else z * scale

class Words(nn.Module):
    def __init__(self):
        super().__init__()
        self.table = nn.Embedding(10, 4)
        self.out = nn.Linear(4, 10)

    def forward(self, token_ids):
        return self.out(self.table(token_ids))

class Any(nn.Sequential):
    def forward(self, *inputs):
        return super().forward(inputs[0])

class Raises(nn.Module):
    def forward(self, x):
        raise KeyError("the stage is missing")

def one():
    return nn.Sequential(nn.Conv2d(3, 5, 3), nn.ReLU())

def by_numbers():
    widths = (torch.arange(3) * 2 + 8).tolist()
    return nn.Sequential(*(nn.Linear(i, o) for i, o in zip(widths, widths[1:])))

def variadic():
    return Any(nn.Linear(8, 4))

def wants(depth, width=3):
    return nn.Linear(depth, width)

def fails():
    raise OSError("no such table")

def number():
    return 7

constant = nn.Linear(8, 2)
text = "no callable"
"""


@pytest.fixture
def nets(tmp_path: Path) -> str:
    path = tmp_path / "nets.py"
    path.write_text(NETS)
    return str(path)


def refused(model: str) -> str:
    with pytest.raises(InputError) as raised:
        resolve(model).workload()
    assert "\n" not in str(raised.value)
    return str(raised.value)


def test_an_origin_is_a_class_in_the_table(monkeypatch):
    """And nothing besides: `resolve` asks it, and messages list it."""

    @dataclass(frozen=True)
    class Linear(sources.Source):
        form = "linear:IN:OUT"

        @classmethod
        def claims(cls, model: str) -> bool:
            return model.startswith("linear:")

        @classmethod
        def read(cls, model: str) -> "Linear":
            _, width, out = model.split(":")
            return cls(model, nn.Linear(int(width), int(out), device="meta"), {"input": sources.Input((1, int(width)))})

    assert sources.FORMS.startswith("a zoo name, timm:NAME, hf:ID_OR_DIRECTORY, FILE.onnx, ")
    assert all(origin.form in sources.FORMS for origin in sources.ORIGINS)
    monkeypatch.setattr(sources, "ORIGINS", (Linear, *sources.ORIGINS))
    assert resolve("linear:3:5").workload().total().macs == 15
    assert resolve("lenet5").workload().total().macs == registry.spec("lenet5").macs


def test_a_name_of_the_zoo():
    source = resolve("resnet18")
    assert source.input == (1, 3, 224, 224) and not source.tokens
    assert source.workload().total().macs == registry.spec("resnet18").macs
    assert source.workload({None: (2, 3, 224, 224)}).total().macs == 2 * registry.spec("resnet18").macs
    half = source.workload(dtype="bfloat16", name="mine")
    assert (half.name, half.layers[0].outputs[0].dtype) == ("mine", "bfloat16")
    assert source.workload() == resolve("resnet18").workload()  # and the types are the default ones again
    assert refused("resnet19").startswith("no network is called 'resnet19'; the nearest are resnet1")


def test_the_transformer_takes_two_sequences():
    source = resolve("transformer_base")
    names = list(source.inputs)
    assert source.tokens and len(names) == 2
    both = source.shapes({None: (2, 7)})
    assert both == dict.fromkeys(names, (2, 7))
    assert source.shapes({names[1]: (1, 5)})[names[0]] == source.input
    assert source.workload(both).inputs[1].shape == (2, 7)


def test_wrong_shapes_name_the_layer_and_what_fits():
    source = resolve("vit_b_32")
    with pytest.raises(InputError, match=r"^vit_b_32 on 1x3x32x16: .*; it takes 1x3x224x224$"):
        source.workload({None: (1, 3, 32, 16)})
    with pytest.raises(InputError, match=r"^vit_b_32 has no input 'picture': it takes "):
        source.workload({"picture": (1, 3, 224, 224)})
    with pytest.raises(InputError, match="only a language model of transformers"):
        source.workload(past=3)


def test_a_function_of_a_file(nets):
    source = resolve(f"{nets}:one")
    assert source.input is None and source.arguments() == {"input": True}
    for inputs in ({None: (1, 3, 8, 8)}, {"input": (1, 3, 8, 8)}):
        assert source.workload(inputs).total().macs == 6 * 6 * 5 * 3 * 9
    assert all(p.device.type == "meta" for p in source.module.parameters()) and not source.module.training
    assert refused(f"{nets}:one").endswith(":one: say the shape of input, as in --input 1x3x224x224")
    two = resolve(f"{nets}:Two")
    assert two.workload({"x": (1, 8), "y": (1, 6)}).total().macs == 14 * 4
    scaled = two.workload({"x": (1, 8), "y": (1, 6), "scale": (1, 4)})
    assert [layer.op for layer in scaled.layers] == ["linear", "linear", "add", "mul"]
    assert "say the shape of x and of y, as in --input x=1x3x224x224 --input y=1x3x224x224" in refused(f"{nets}:Two")
    with pytest.raises(InputError, match=r"Two has no input 'z': it takes x, y, scale$"):
        two.workload({"z": (1, 8)})
    assert resolve(f"{nets}:Words").workload({"token_ids": (1, 3)}).total().macs == 3 * 40
    assert resolve(f"{nets}:variadic").workload({None: (1, 8)}).total().macs == 32
    assert resolve(f"{nets}:constant").workload({None: (1, 8)}).total().macs == 16


def test_a_constructor_that_computes_with_torch(nets):
    source = resolve(f"{nets}:by_numbers")
    assert all(p.device.type == "meta" for p in source.module.parameters())
    assert source.workload({None: (1, 8)}).total().macs == 8 * 10 + 10 * 12


def test_a_function_of_a_module():
    assert resolve("torch.nn:Identity").workload({None: (1, 2)}).total().macs == 0
    assert refused("no_such_package:build") == "no_such_package:build: No module named 'no_such_package'"
    assert refused("torch.nn:nothing") == "torch.nn:nothing: torch.nn has no callable 'nothing'"


def test_mistakes_in_a_file_are_named(nets, tmp_path):
    assert f"{nets}: say which function makes the network, as in {nets}:build" == refused(nets)
    assert refused(f"{nets}:text").endswith("has no callable 'text'")
    assert "wants takes depth: give each as in --args depth=8" in refused(f"{nets}:wants")
    assert "fails() raised OSError: no such table" in refused(f"{nets}:fails")
    assert "number() gave a int, not a torch.nn.Module" in refused(f"{nets}:number")
    assert refused(f"{tmp_path}/none.py:build") == f"{tmp_path}/none.py: no such file"
    with pytest.raises(LaminaError, match=r"Raises on 1x8: .*the stage is missing.*nets.py:29"):
        resolve(f"{nets}:Raises").workload({None: (1, 8)})
    bad = tmp_path / "bad.py"
    bad.write_text("import torch\n\nraise ValueError('no')\n")
    assert refused(f"{bad}:build") == f"{bad}, line 3: importing it raised ValueError: no"
    bad.write_text("def build(:\n")
    assert refused(f"{bad}:build").startswith(f"{bad}, line 1: importing it raised SyntaxError: ")
    assert str(tmp_path) not in sys.path


@pytest.mark.parametrize("suffix", [".pt", ".pth", ".safetensors", ".bin", ".pt2", ".ckpt"])
def test_a_checkpoint_is_never_opened(suffix, tmp_path):
    path = tmp_path / f"net{suffix}"
    torch.save(Trap(), path)
    assert "a file of weights is not opened for its cost; give the network itself: a zoo name, timm:NAME" in refused(str(path))
    assert not Trap.sprung


class Trap:
    sprung = False

    def __reduce__(self):
        return (setattr, (Trap, "sprung", True))


def test_a_graph(tmp_path, monkeypatch):
    onnx = pytest.importorskip("onnx", reason="reading ONNX needs onnx")
    path = tmp_path / "net.onnx"
    assert refused(str(path)) == f"{path}: no such file"
    kinds = onnx.TensorProto
    values = [
        onnx.helper.make_tensor_value_info(n, kinds.FLOAT, s) for n, s in (("x", [3, 4]), ("w", [4, "n"]), ("y", [3, "n"]))
    ]
    graph = onnx.helper.make_graph([onnx.helper.make_node("MatMul", ["x", "w"], ["y"])], "g", values[:2], values[2:])
    onnx.save(onnx.helper.make_model(graph, opset_imports=[onnx.helper.make_opsetid("", 17)], ir_version=8), path)
    source = resolve(str(path))
    assert source.module is None and source.shapes() == {"x": (3, 4)} and list(source.arguments()) == ["x", "w"]
    assert source.workload({"w": (4, 5)}).total().macs == source.workload({None: (3, 4), "w": (4, 5)}).total().macs == 60
    with pytest.raises(InputError, match=r"has no input 'z': it takes x, w$"):
        source.workload({"z": (4, 5)})
    with pytest.raises(InputError, match="an ONNX file has its own types"):
        source.workload(dtype="bfloat16")
    with pytest.raises(InputError, match="only a language model of transformers"):
        source.workload(past=4)
    monkeypatch.setitem(sys.modules, "lamina.onnx.graph", None)  # as where onnx is not installed
    monkeypatch.delattr("lamina.onnx.graph")
    assert refused(str(path)) == f"{path}: reading ONNX needs onnx: {install_command('onnx')}"


@pytest.mark.parametrize(
    ("x", "w", "batched"),
    [
        (["batch", 4], [4, 5], {"x": (2, 4)}),
        ([None, 4], [4, 5], {"x": (2, 4)}),
        ([3, 4], [4, 5], {}),
        (["batch", 4], ["features", 5], {}),  # which of them is the batch?
        (["batch", "features"], [4, 5], {}),
    ],
)
def test_a_graph_whose_batch_alone_is_open_takes_any_batch(x, w, batched, tmp_path, capsys):
    onnx = pytest.importorskip("onnx", reason="reading ONNX needs onnx")
    values = [
        onnx.helper.make_tensor_value_info(n, onnx.TensorProto.FLOAT, s) for n, s in (("x", x), ("w", w), ("y", [None, 5]))
    ]
    graph = onnx.helper.make_graph([onnx.helper.make_node("MatMul", ["x", "w"], ["y"])], "g", values[:2], values[2:])
    path = tmp_path / "net.onnx"
    onnx.save(onnx.helper.make_model(graph, opset_imports=[onnx.helper.make_opsetid("", 17)], ir_version=8), path)
    assert resolve(str(path)).batched(2) == batched
    if batched:
        cli.app(["fit", str(path), "--batch", "2", "--json"], standalone_mode=False)
        assert json.loads(capsys.readouterr().out)["totals"]["macs"] == 2 * 4 * 5
        cli.app(["cost", str(path), "--sweep", "batch=1,3", "--json"], standalone_mode=False)
        assert [point["macs"] for point in json.loads(capsys.readouterr().out)["points"]] == [20, 60]


def test_a_directory_that_wants_its_prefix(tmp_path):
    (tmp_path / "config.json").write_text("{}")
    assert refused(str(tmp_path)) == f"{tmp_path} is a directory: write hf:{tmp_path}"


@pytest.mark.parametrize(("form", "library"), [("timm:resnet18", "timm"), ("hf:nobody/nothing", "transformers")])
def test_a_library_that_is_missing(form, library, monkeypatch):
    monkeypatch.setitem(sys.modules, library, None)  # as if it were not installed
    assert refused(form) == f"{form}: needs {library}: pip install {library}"


def test_a_frozen_network_of_the_users_stays_as_it_was(nets):
    source = resolve(f"{nets}:constant")
    before = {k: v.clone() for k, v in source.module.state_dict().items()}
    source.workload({None: (1, 8)})
    after = source.module.state_dict()
    assert all(torch.equal(before[k], after[k]) for k in before) and isinstance(source.module, nn.Module)
