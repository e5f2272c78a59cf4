"""The command as a user meets it: every example of the README, JSON, exit codes, one-line errors."""

import json
import re
import shlex
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from PIL import Image
from safetensors.torch import save_file

import lamina
from lamina import cli
from lamina.cli.demo import drawn
from lamina.zoo import registry

CHECKOUT = Path(__file__).resolve().parents[2]
DIGIT = CHECKOUT / "lamina/data/digits/7_00.png"


def test_version_and_help(ok):
    assert ok("--version") == f"lamina {lamina.__version__}\n"
    text = ok("--help")
    for verb in ("demo", "list", "show", "table", "lecture", "cost", "compare", "run", "eval"):
        assert re.search(rf"^\s+{verb}\b", text, re.M)
        assert "Usage: " in ok(f"{verb} --help")


def test_list(ok):
    rows = json.loads(ok("list --json"))
    assert [r["name"] for r in rows] == registry.names()
    assert {"name", "family", "year", "input", "parameters", "macs"} <= set(rows[0])
    vgg = next(r for r in rows if r["name"] == "vgg16")
    assert (vgg["year"], vgg["input"], vgg["parameters"], vgg["macs"]) == (2014, [3, 224, 224], 138_357_544, 15_470_264_320)
    assert {r["family"] for r in json.loads(ok("list resnet --json"))} == {"resnet"}
    text = ok("list lenet")
    assert "lenet5_dense" in text and "61,706" in text and "resnet50" not in text


def test_show(ok):
    text = ok("show googlenet")
    assert (
        "Going deeper with convolutions" in text
        and "6,998,552" in text
        and "bvlc" in text
        and "differs from the paper:" in text
    )
    assert json.loads(ok("show lenet5 --json"))["paper"]["year"] == 1998


STAGES = {  # the papers' own names and outputs
    "lenet5": "C1 6x28x28, S2 6x14x14, C3 16x10x10, S4 16x5x5, C5 120x1x1, F6 84, OUTPUT 10",  # LeCun et al., Figure 2
    "vgg11": "conv3-64 64x224x224, maxpool 64x112x112, conv3-128 128x112x112, maxpool 128x56x56, conv3-256 256x56x56, "
    "maxpool 256x28x28, conv3-512 512x28x28, maxpool 512x14x14, conv3-512 512x14x14, maxpool 512x7x7, FC-4096 4096, "
    "FC-4096 4096, FC-1000 1000",  # Simonyan and Zisserman, Table 1, A
    "googlenet": "convolution 64x112x112, max pool 64x56x56, convolution 192x56x56, max pool 192x28x28, "
    "inception (3a) 256x28x28, inception (3b) 480x28x28, max pool 480x14x14, inception (4a) 512x14x14, "
    "inception (4b) 512x14x14, inception (4c) 512x14x14, inception (4d) 528x14x14, inception (4e) 832x14x14, "
    "max pool 832x7x7, inception (5a) 832x7x7, inception (5b) 1024x7x7, avg pool 1024x1x1, linear 1000",  # Table 1
    "inception_v3": "conv 32x149x149, conv 32x147x147, conv padded 64x147x147, pool 64x73x73, conv 80x73x73, conv 192x71x71, "
    "pool 192x35x35, 3 x Inception 288x35x35, reduction 768x17x17, 4 x Inception 768x17x17, reduction 1280x8x8, "
    "2 x Inception 2048x8x8, pool 2048x1x1, linear 1000",  # Szegedy et al., Table 1, as the authors' code has it
    "resnet50": "conv1 64x112x112, conv2_x 256x56x56, conv3_x 512x28x28, conv4_x 1024x14x14, conv5_x 2048x7x7, "
    "average pool, 1000-d fc 1000",  # He et al., Table 1
    "resnet20_cifar": "32x32 16x32x32, 16x16 32x16x16, 8x8 64x8x8, average pool, 10-way fc 10",  # section 4.2
    "wrn16_4_cifar": "conv1 16x32x32, conv2 64x32x32, conv3 128x16x16, conv4 256x8x8, avg-pool 10",  # Zagoruyko, Table 1
    "densenet121": "convolution 64x112x112, pooling 64x56x56, dense block (1) 256x56x56, transition layer (1) 128x28x28, "
    "dense block (2) 512x28x28, transition layer (2) 256x14x14, dense block (3) 1024x14x14, transition layer (3) 512x7x7, "
    "dense block (4) 1024x7x7, classification layer 1000",  # Huang et al., Table 1
    "densenet_bc_100_12_cifar": "convolution 24x32x32, dense block (1) 216x32x32, transition layer (1) 108x16x16, "
    "dense block (2) 300x16x16, transition layer (2) 150x8x8, dense block (3) 342x8x8, classification layer 10",
    "transformer_base": "input embedding 128x512, encoder 128x512, output embedding 128x512, decoder 128x37000",  # Figure 1
    "vit_ti_16": "linear projection of patches 197x192, Transformer encoder 197x192, MLP head 1000",  # Figure 1
}


def shown_stages(text: str) -> list[list[str]]:
    """The rows of the stage table, as cells."""
    lines = text.splitlines()
    first = next(i for i, line in enumerate(lines) if line.split()[:1] in (["stage"], ["module"]))
    last = next(i for i, line in enumerate(lines) if line.split()[:1] == ["total"])
    return [re.split(r" {2,}", line.strip()) for line in lines[first + 2 : last + 1] if line.strip()]


@pytest.mark.parametrize("name", STAGES)
def test_show_names_the_stages_as_the_paper_does(ok, name):
    found = ", ".join(f"{stage} {output.removeprefix('1x')}" for stage, output, *_ in shown_stages(ok(f"show {name}"))[:-1])
    assert found == STAGES[name]


def test_every_layer_is_in_one_stage(ok):
    """Whatever the stages, their parameters and MACs add up to the network's."""
    for name in (
        "alexnet",
        "overfeat_fast",
        "bn_inception",
        "inception_v2",
        "inception_v4",
        "resnext29_8x64d_cifar",
        "vit_ti_16",
    ):
        rows = shown_stages(ok(f"show {name} "))
        rows = [row[:-1] if any(cell.endswith("%") for cell in row) else row for row in rows]  # without the FLOPs per byte
        numbers = [[int(cell.replace(",", "")) for cell in row if re.fullmatch(r"[\d,]+", cell)] for row in rows]
        parameters = [row[0] for row, cells in zip(numbers, rows, strict=True) if len(row) == 3 or cells[0] == "total"]
        macs = [row[1] for row, cells in zip(numbers, rows, strict=True) if len(row) == 3 or cells[0] == "total"]
        assert sum(parameters[:-1]) == parameters[-1] == registry.spec(name).parameters
        assert sum(macs[:-1]) == macs[-1] == registry.spec(name).macs
    assert shown_stages(ok("show lenet5_dense"))[1][0] == "tanh"  # no paper's table: by module


def test_stage_tables_name_real_modules():
    """The family or network of each table exists, and has the modules (of VGG's, some networks have not all)."""
    for family in registry.FAMILIES:
        for key, rows in registry.published(family).get("stages", {}).items():
            names = [n for n in registry.names(family) if registry.stages(n) == [tuple(row) for row in rows]]
            assert names and key.removesuffix("_cifar") in (family, *names), key
            modules = {path for n in names for path, _ in registry.assemble(n).named_modules()}
            assert {path for path, _ in rows} <= modules, key


def test_cost_json(ok):
    document = json.loads(ok("cost resnet50 --json"))
    assert document["input"] == [1, 3, 224, 224]
    totals = document["totals"]
    assert {
        "parameters",
        "weights",
        "biases",
        "norm",
        "buffers",
        "macs",
        "flops",
        "activations",
        "bytes_read",
        "bytes_written",
    } <= set(totals)
    assert (totals["parameters"], totals["macs"], totals["flops"]) == (25_557_032, 3_857_973_248, 7_715_946_496)
    assert totals["buffers"] == 53_120 + 53
    assert document["coverage"]["unknown"] == []
    layers = document["layers"]
    assert sum(layer["macs"] for layer in layers) == totals["macs"]
    assert sum(layer["parameters"] for layer in layers) == totals["parameters"]
    assert sum(layer["bytes_read"] for layer in layers) == totals["bytes_read"]
    first = layers[0]
    assert (first["name"], first["kind"], first["op"]) == ("conv1", "conv", "conv2d")
    assert first["inputs"] == [[1, 3, 224, 224]] and first["outputs"] == [[1, 64, 112, 112]]
    assert first["loops"][0]["filter"] == [7, 7] and first["loops"][0]["stride"] == [2, 2]


def test_cost_options(ok):
    text = ok("cost resnet50")
    assert "3,857,973,248 MACs, 25,557,032 parameters" in text
    assert re.search(r"layer3\s+1x1024x14x14\s+7,098,368\s+1,387,266,048\s+36.0 %", text)
    assert "layer1.0" in ok("cost resnet50 --depth 2")
    kinds = ok("cost resnet50 --by kind")
    assert "norm" in kinds and "conv1" not in kinds
    assert "layer1.0.conv1" in ok("cost resnet50 --by layer")
    eight = json.loads(ok("cost resnet50 --input 8x3x256x256 --dtype bf16 --json"))["totals"]
    four = json.loads(ok("cost resnet50 --input 8x3x256x256 --json"))["totals"]
    assert eight["macs"] == four["macs"] == 8 * (3_855_925_248 * 64 // 49 + 2_048_000)  # maps grow by (8/7)^2
    assert 2 * eight["bytes_read"] == four["bytes_read"]


def test_cost_of_ones_own_module(ok, refused, tmp_path):
    file = tmp_path / "mine.py"
    file.write_text(
        "from torch import nn\nclass Net(nn.Module):\n def __init__(self):\n  super().__init__(); self.c = nn.Conv2d(1, 2, 3)\n"
        " def forward(self, x):\n  return self.c(x).special()\ndef make(): return nn.Sequential(nn.Conv2d(1, 4, 3),"
        " nn.ReLU())\ndef broken(): return Net()\ndef number(): return 3\n"
    )
    assert json.loads(ok(f"cost {file}:make --input 1x1x8x8 --json"))["totals"]["macs"] == 4 * 9 * 36
    assert "say the shape of input, as in --input" in refused(f"cost {file}:make", 2)
    assert "no callable 'none'" in refused(f"cost {file}:none --input 1", 2)
    assert "gave a int" in refused(f"cost {file}:number --input 1", 2)
    assert "'Tensor' object has no attribute 'special'" in refused(f"cost {file}:broken --input 1x1x8x8", 1)
    assert "expects 1 input channels, got 2" in refused(f"cost {file}:make --input 1x2x8x8", 2)
    assert json.loads(ok("cost torch.nn:Identity --input 1x2 --json"))["layers"] == []


def test_strict(ok, refused, tmp_path):
    (tmp_path / "odd.py").write_text(
        "import torch\nclass Odd(torch.nn.Module):\n def forward(self, x): return torch.special.bessel_j0(x)\n"
    )
    model = f"{tmp_path / 'odd.py'}:Odd --input 1x2"
    assert "not counted, no rule: aten.special_bessel_j0" in ok(f"cost {model}")
    assert json.loads(ok(f"cost {model} --json"))["coverage"]["unknown"][0]["inputs"] == [[1, 2]]
    assert "aten.special_bessel_j0" in refused(f"cost {model} --strict", 1)


@pytest.mark.parametrize(
    ("line", "code", "text"),
    [
        ("cost resnet51", 2, "nearest are resnet50"),
        ("cost xyz", 2, "see `lamina list`"),
        ("cost", 2, "Missing argument"),
        ("nonsense", 2, "No such command"),
        ("cost resnet50 --colour", 2, "No such option"),
        ("cost resnet50 --input 1x1x224x224", 2, "conv1 (Conv2d): expects 3 input channels, got 1"),
        ("cost resnet50 --input 3x224x224", 2, "it takes 1x3x224x224"),
        ("cost alexnet --input 1x3x224x224", 2, "fc6 (Linear): takes 9,216 features, got 6,400"),
        ("cost vgg16 --input 1x3x16x16", 2, "too small"),
        ("cost resnet50 --input 0x3x2x2", 2, "not a valid shape"),
        ("cost resnet50 --depth 0", 2, "--depth"),
        ("cost resnet50 --dtype int5", 2, "--dtype"),
        ("cost weights.safetensors", 2, "a file of weights is not opened"),
        ("cost none.py:f", 2, "no such file"),
        ("cost no.such.module:f", 2, "No module named"),
        ("list resnets", 2, "no family"),
        ("show vgg", 2, "nearest are vgg"),
        ("run lenet5", 2, "Missing argument"),
        (f"run lenet5 {DIGIT} --weights none", 2, "neither a weight file nor a tag"),
        (f"run lenet5 {DIGIT} --weights none.pt", 2, "no such weight file"),
        (f"run lenet5 {DIGIT} --top 0", 2, "--top"),
        (f"run lenet5 {DIGIT} --device tpu", 2, "no device 'tpu'"),
        (f"run lenet5 {DIGIT} --image colour=1", 2, "has no colour"),
        (f"run lenet5 {DIGIT} --image channels", 2, "key=value"),
        (f"run lenet5 {DIGIT} --image size=big", 2, "not of its kind"),
        (f"run plain18 {DIGIT}", 2, "no public weights are known for plain18"),
        ("eval lenet5", 2, "--data"),
        ("eval lenet5 --data none", 2, "no such folder"),
        ("eval lenet5 --data mnist --batch 0", 2, "--batch"),
        ("eval lenet5 --data mnist", 1, "put it into"),
    ],
)
def test_wrong_calls(refused, monkeypatch, line, code, text):
    monkeypatch.delenv("LAMINA_DATA", raising=False)
    assert text in refused(line, code)


def test_unexpected_errors_are_one_line_without_debug(run, refused, monkeypatch):
    def broken(*_):
        raise KeyError("inner")

    monkeypatch.setattr(registry, "names", broken)
    assert "unexpected KeyError" in refused("list", 1)
    monkeypatch.setattr(sys, "argv", ["lamina", "list", "--debug"])
    with pytest.raises(KeyError):
        cli.main()


def test_run(run, ok, tmp_path):
    answers = json.loads(ok(f"run lenet5 {DIGIT} --json"))
    assert answers[0]["input"] == str(DIGIT)
    best = answers[0]["predictions"][0]
    assert (best["index"], best["label"]) == (7, "7") and best["probability"] > 90
    assert len(answers[0]["predictions"]) == 5
    assert sum(
        p["probability"] for p in json.loads(ok(f"run lenet5 {DIGIT} --top 10 --json"))[0]["predictions"]
    ) == pytest.approx(100, abs=0.01)
    assert re.search(r"99\.\d+ %  7|100\.00 %  7", ok(f"run lenet5 {DIGIT}"))
    bad = tmp_path / "bad.png"
    bad.write_bytes(DIGIT.read_bytes()[:100])
    code, out, err = run(f"run lenet5 {bad} {DIGIT} --json")
    answers = json.loads(out)
    assert code == 1 and "damaged or cut short" in err
    assert set(answers[0]) == {"input", "error"} and answers[1]["predictions"][0]["label"] == "7"


def test_run_with_a_file_and_its_specification(ok, tmp_path):
    """The same picture through an option that changes the colour order gives other scores: the options arrive."""
    torch.manual_seed(0)
    net = lamina.build("resnet20_cifar")
    save_file(net.state_dict(), tmp_path / "net.safetensors")
    Image.new("RGB", (40, 50), (250, 30, 90)).save(tmp_path / "p.png")
    line = f"run resnet20_cifar {tmp_path / 'p.png'} --weights {tmp_path / 'net.safetensors'} --json"
    first = json.loads(ok(line))[0]["predictions"]
    assert {p["label"] for p in first} <= {
        "airplane",
        "automobile",
        "bird",
        "cat",
        "deer",
        "dog",
        "frog",
        "horse",
        "ship",
        "truck",
    }
    assert json.loads(ok(line + " --image channels=BGR"))[0]["predictions"] != first
    assert json.loads(ok(line + " --image mean=.5,.5,.5 --image std=.5,.5,.5"))[0]["predictions"] != first


def test_eval_on_the_shipped_digits(ok):
    found = json.loads(ok(f"eval lenet5 --data {DIGIT.parent} --json"))
    assert set(found) == {"model", "weights", "data", "protocol", "count", "top1", "top5"}
    assert (found["count"], found["top1"], found["top5"]) == (100, 100.0, 100.0)
    assert "top-1 100.00 %" in ok(f"eval lenet5 --data {DIGIT.parent}")


def test_table_and_lecture(ok, tmp_path):
    text = ok("table")
    for figure in ("60,954,656", "724,406,816", "15,470,264,320", "1,582,671,872", "25,502,912", "271,351,808", "≠ 13 [7]"):
        assert figure in text
    document = json.loads(ok("table --json"))
    assert len(document["rows"]) == 5 and len(document["rows"][0]["cells"]) == 14
    claims = json.loads(ok("lecture --json"))
    assert len(claims) >= 60
    assert "refuted" in ok("lecture") and ok(f"lecture --html {tmp_path / 'l.html'}").strip() == str(tmp_path / "l.html")
    assert (tmp_path / "l.html").read_text().startswith("<!doctype html>") or (tmp_path / "l.html").read_text().startswith(
        "<!DOCTYPE html>"
    )


def test_demo(ok, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    text = ok("demo")
    for figure in ("60,954,656", "layer4", "reads 100 of 100 handwritten digits", str(tmp_path / "lecture.html")):
        assert figure in text
    assert (tmp_path / "lecture.html").stat().st_size > 100_000
    document = json.loads(ok("demo --json"))
    assert document["right"] + len(document["wrong"]) == document["digits"] == 100
    assert "█" in drawn(DIGIT)  # how a digit that is misread is shown


def test_a_closed_pipe_and_a_full_disk():
    """What only a real process shows."""
    lamina_ = [sys.executable, "-c", "from lamina.cli import main; main()"]
    closed = subprocess.run(["bash", "-c", f"{shlex.join(lamina_)} list | head -1"], capture_output=True, text=True)
    assert (closed.returncode, closed.stderr) == (0, "")
    with open("/dev/full", "w") as full:
        done = subprocess.run([*lamina_, "list"], stdout=full, stderr=subprocess.PIPE, text=True)
    assert done.returncode == 1 and "No space left on device" in done.stderr and "Traceback" not in done.stderr


def test_readme_commands_exist(ok):
    """Every `lamina VERB` of the README is a verb, and every option it shows is that verb's."""
    text = (CHECKOUT / "README.md").read_text()
    verbs = {command.name for command in cli.app.registered_commands}
    used = re.findall(
        r"lamina ([a-z]+) ?([^`\n#]*)", "\n".join(line for line in text.splitlines() if re.match(r"\s+(\$ )?lamina ", line))
    )
    assert len(used) > 8
    for verb, rest in used:
        assert verb in verbs
        for option in re.findall(r"--[a-z-]+", rest):
            assert option in ok(f"{verb} --help")


# ---- with the real data and weights -----------------------------------------------------------------------------------


def test_lenet5_on_mnist(ok, data):
    assert json.loads(ok("eval lenet5 --data mnist --json"))["top1"] >= 99.0


@pytest.mark.slow
@pytest.mark.parametrize(
    ("name", "file", "top1"),
    [("resnet20_cifar", "resnet20-12fca82f.th", 91.73), ("resnet32_cifar", "resnet32-d509ac18.th", 92.63)],
)
def test_public_cifar_weights(ok, data, name, file, top1):
    found = json.loads(ok(f"eval {name} --weights {data / 'weights/resnet_cifar10' / file} --data cifar10 --json"))
    assert (found["count"], found["top1"]) == (10_000, top1)


@pytest.mark.slow
def test_public_googlenet(ok, data):
    weights = data / "weights/googlenet/googlenet_bvlc_state_dict.pt"
    found = json.loads(ok(f"eval googlenet --weights {weights} --data {data / 'photos'} --json"))
    assert (found["count"], found["top1"], found["top5"]) == (500, 73.8, 91.2)
