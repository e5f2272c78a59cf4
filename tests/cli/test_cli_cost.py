"""`lamina cost` and `lamina compare`: views, sweeps, limits, files, and what is refused."""

import csv
import io
import json
import re
import subprocess
import sys
import xml.etree.ElementTree as ET

import numpy
import pytest
import torch

from lamina.cost import conventions
from tests.report.test_report import VOID


def rows(text):
    return list(csv.DictReader(io.StringIO(text)))


def test_json_has_what_is_reported(ok):
    document = json.loads(ok("cost resnet18 --training --json"))
    totals, memory = document["totals"], document["memory"]
    assert totals["parameters_trainable"] == totals["parameters"] and totals["parameters_by_dtype"] == {
        "float32": totals["parameters"]
    }
    layers = document["layers"]
    assert sum(layer["backward_macs"] for layer in layers) == totals["backward_macs"]
    first = layers[0]
    moved = first["bytes_read"] + first["bytes_written"]
    assert first["intensity"] == pytest.approx(2 * first["macs"] / moved, rel=1e-3)
    assert memory["inference_bytes"] == memory["weight_bytes"] + memory["peak_activation_bytes"]
    step = memory["training"]
    assert step["optimizer"] == "adamw" and step["states"] == 8 * totals["parameters"] + 4 * 62
    assert step["total"] == sum(step[key] for key in ("weights", "gradients", "states", "master", "saved"))
    for group in ("kinds", "modules"):
        assert sum(row["macs"] for row in document[group].values()) == totals["macs"]
    assert "training" not in json.loads(ok("cost resnet18 --json"))["memory"]


def test_csv(ok):
    table = rows(ok("cost resnet18 --csv"))
    document = json.loads(ok("cost resnet18 --json"))
    assert len(table) == len(document["layers"])
    assert [int(row["macs"]) for row in table] == [layer["macs"] for layer in document["layers"]]
    assert sum(int(row["parameters"]) for row in table) == document["totals"]["parameters"]
    assert table[0]["inputs"] == "1x3x224x224"
    assert [row["kind"] for row in rows(ok("cost resnet18 --csv --by kind"))] == list(document["kinds"])
    assert len(rows(ok("cost resnet18 --csv --by module --depth 2"))) > len(document["modules"])


def test_text_says_what_memory_is_needed(ok):
    text = ok("cost resnet18 --training --optimizer momentum")
    assert "memory for training with momentum" in text and "memory for inference" in text and "MACs backward" in text
    assert "master 23.4 MB" not in text
    assert "master 46.8 MB" in ok("cost resnet18 --training --dtype bf16 --master")


def test_views(ok):
    assert "4,111,512,576" in ok("cost resnet50_v1_5 --view fvcore")
    table = rows(ok("cost resnet50_v1_5 --view all --csv"))
    assert [row["tool"] for row in table] == list(conventions.VIEWS)
    assert {row["tool"]: row["macs"] for row in table}["thop"] == "4133742592"
    document = json.loads(ok("cost resnet50_v1_5 --view keras --json"))
    assert document["views"][0]["macs"] is None and document["views"][0]["parameters"] == 25_610_152


def test_explain(ok):
    text = ok("cost resnet50_v1_5 --explain 4.11G")
    assert "fvcore" in text and "thop" not in text
    assert "no convention gives 4.3G" in ok("cost resnet50_v1_5 --explain 4.3G")
    assert "cut off" in ok("cost resnet50 --explain 3.8G")
    document = json.loads(ok("cost googlenet --explain 13.38M --json"))
    assert [c["name"] for c in document["rounded"]] == ["parameters, with the auxiliary heads"]
    assert rows(ok("cost resnet50_v1_5 --explain 4.13G --csv"))[0]["match"] == "rounded"


def test_sweep(ok, tmp_path):
    table = rows(ok("cost vgg11 --sweep resolution=16,224,256 --csv"))
    assert "too small" in table[0]["refusal"] and table[0]["macs"] == ""
    assert table[1]["macs"] == "7609090048" and table[2]["refusal"].startswith("fc6 (Linear)")
    text = ok(f"cost resnet18 --sweep batch=1:4 --training --plot {tmp_path / 'batch.svg'}")
    assert "training" in text and "4x3x224x224" in text
    assert ET.parse(tmp_path / "batch.svg").getroot().tag.endswith("svg")
    points = json.loads(ok("cost transformer_base --sweep sequence=8,16 --json"))["points"]
    assert points[1]["macs"] > 2 * points[0]["macs"], "attention grows with the square"


def test_fit_under(ok):
    document = json.loads(ok("cost resnet18 --fit-under 1GMACs --json"))
    assert document["figure"] <= 10**9 < document["next_figure"] and document["axis"] == "resolution"
    assert "the largest batch is" in ok("cost resnet18 --fit-under 1GB")
    less = json.loads(ok("cost resnet18 --fit-under 1GB --training --json"))
    assert less["size"] < json.loads(ok("cost resnet18 --fit-under 1GB --json"))["size"]
    assert "bytes for training" in ok("cost resnet18 --fit-under 1GB --training")
    assert rows(ok("cost resnet18 --fit-under resolution=1GB --csv"))[0]["resolution"]
    assert "is refused by the network" in ok("cost vit_ti_16 --fit-under 50GMACs")


def test_the_device_and_what_the_peak_leaves_out_are_named(ok):
    text = ok("cost resnet18 --training")
    assert "memory for training with adamw on a CPU (--device cuda: a GPU)" in text and "scratch memory" in text
    assert "memory for training with adamw on a GPU" in ok("cost resnet18 --training --device cuda")
    step = json.loads(ok("cost vgg11 --training --json"))["memory"]["training"]
    wide = 512 * 7 * 7 * 4096 * 4  # the first linear layer's bytes, which Adam's root and quotient take
    assert (step["device"], step["temporaries"]) == ("cpu", 2 * wide) and step["saved"] < 2 * wide
    assert step["total"] == step["weights"] + step["gradients"] + step["states"] + 2 * wide


def test_limits_name_every_excess(run, ok):
    code, out, err = run("cost resnet18 --max-macs 1G --max-params 30M --max-memory 10MB --json")
    assert code == 1 and json.loads(out)["totals"]["macs"] == 1_814_073_344
    assert "1,814,073,344 MACs are 81.4 % over 1,000,000,000 (--max-macs)" in err
    assert "1,814,073,344 MACs are 181,307 % over 1,000,000 (--max-macs)" in run("cost resnet18 --max-macs 1M")[2]
    assert "--max-memory" in err and "--max-params" not in err and err.count("\n") == 1
    assert ok("cost resnet18 --max-macs 5G --max-params 30M --max-memory 2GB --json")
    assert run("cost resnet18 --max-memory 100MB")[0] == 0
    assert run("cost resnet18 --max-memory 100MB --training")[0] == 1, "a training step needs more"


def test_strict_lists_all_unknown_operators(run, tmp_path):
    (tmp_path / "odd.py").write_text(
        "import torch\nclass Odd(torch.nn.Module):\n def forward(self, x):\n"
        "  return torch.special.bessel_j0(torch.special.bessel_j0(x)) + torch.special.bessel_y1(x)\n"
    )
    code, _, err = run(f"cost {tmp_path / 'odd.py'}:Odd --input 1x2 --strict")
    assert code == 1 and "2 operators have no rule" in err and "bessel_j0" in err and "and 1 more" in err and "bessel_y1" in err
    code, out, err = run(f"cost {tmp_path / 'odd.py'}:Odd --input 1x2 --max-macs 1G --json")
    assert code == 1 and json.loads(out)["totals"]["macs"] == 0 and "2 operators have no rule" in err and "--no-strict" in err
    assert run(f"cost {tmp_path / 'odd.py'}:Odd --input 1x2 --max-macs 1G --no-strict")[0] == 0
    assert run(f"cost {tmp_path / 'odd.py'}:Odd --input 1x2")[0] == 0


def test_several_and_named_inputs(ok, tmp_path):
    (tmp_path / "two.py").write_text(
        "import torch\nclass Two(torch.nn.Module):\n def forward(self, a, b=None):\n  return a @ b\n"
    )
    model = f"{tmp_path / 'two.py'}:Two"
    for line in ("--input 2x3 --input 3x5", "--input 2x3 --input b=3x5", "--input b=3x5 --input a=2x3"):
        assert json.loads(ok(f"cost {model} {line} --json"))["totals"]["macs"] == 30


NETS = """
import torch
from torch import nn

class Net(nn.Module):
    def __init__(self, width, kind="plain"):
        super().__init__()
        self.body = nn.Sequential(nn.Conv2d(3, width, 3), nn.MaxPool2d(2))
        self.head = nn.Linear(width, 2).requires_grad_(False)

    def forward(self, x):
        return self.head(self.body(x).mean((2, 3)))

class Words(nn.Module):
    def __init__(self):
        super().__init__()
        self.table, self.out = nn.Embedding(10, 4), nn.Linear(4, 3)

    def forward(self, batch):
        return self.out(batch["x"] + self.table(batch["ids"]))

class First(nn.Module):
    def __init__(self):
        super().__init__()
        self.out = nn.Linear(4, 3)

    def forward(self, x, n):
        return self.out(x[: n.item()])
"""


@pytest.fixture
def nets(tmp_path):
    (tmp_path / "nets.py").write_text(NETS)
    return tmp_path / "nets.py"


def test_arguments_for_what_makes_the_network(ok, run, nets):
    document = json.loads(ok(f"cost {nets}:Net --args width=8 --args kind=odd --input 1x3x8x8 --json"))
    assert document["totals"]["macs"] == 8 * 27 * 36 + 16
    assert json.loads(ok("cost resnet18 --args num_classes=10 --json"))["totals"]["parameters"] == 11_689_512 - 990 * 513
    for line, message in {
        f"{nets}:Net": "Net takes width: give each as in --args width=8, or a function that fills them in",
        f"{nets}:Net --args width": "--args width: write KEY=VALUE, as in width=8",
        f"{nets}:Net --args width=8 --args depth=3": "unexpected keyword argument 'depth'",
        "resnet18 --args colour=3": "resnet18 has no colour; what can be changed: ",
        f"{nets}:torch.nn --args a=1": "has no callable",
    }.items():
        code, _, err = run(f"cost {line} --input 1x3x8x8")
        assert code == 2 and message in err and err.count("\n") == 1


def test_the_tree_has_kernels_and_what_is_trainable(ok, nets):
    lines = ok(f"cost {nets}:Net --args width=8 --input 1x3x8x8 --tree").splitlines()
    table = {line.split()[0]: line.split() for line in lines if line.strip()}
    assert table["body"] == ["body", "1x8x3x3", "224", "224", "7,776", "99.8", "%"]
    assert table["0"][1:] == ["Conv2d", "3x3", "1x8x6x6", "224", "224", "7,776", "99.8", "%"]
    assert table["1"][1:] == ["MaxPool2d", "2x2", "1x8x3x3"]
    assert table["head"][1:] == ["Linear", "1x2", "18", "0", "16", "0.2", "%"] and table["total"][1:3] == ["242", "224"]
    assert next(line for line in lines if "Conv2d" in line).startswith("   0"), "indented below body"
    assert "Conv2d" not in ok(f"cost {nets}:Net --args width=8 --input 1x3x8x8 --tree --depth 1")


def test_a_module_is_not_mixed_with_its_parts(ok):
    document = json.loads(ok("cost resnet18 --depth 2 --json"))
    assert sum(group["macs"] for group in document["modules"].values()) == document["totals"]["macs"]
    deep = json.loads(ok("cost resnet18 --depth 3 --json"))["modules"]
    itself = [name for name in deep if name.endswith(" (itself)")]
    assert "layer1.0 (itself)" in itself and "layer1.0" not in deep and all(deep[name]["macs"] == 0 for name in itself)


def test_dictionaries_and_sample_inputs(ok, run, nets, tmp_path):
    def macs(line):
        return json.loads(ok(f"cost {nets}:{line} --json"))["totals"]["macs"]

    assert macs("Words --input batch.x=2x4 --input batch.ids=2") == 24
    torch.save({"x": torch.ones(2, 4), "ids": torch.tensor([1, 2])}, tmp_path / "words.pt")
    assert macs(f"Words --data {tmp_path / 'words.pt'}") == 24
    numpy.savez(tmp_path / "first.npz", x=numpy.ones((5, 4)), n=numpy.array(3))
    assert macs(f"First --data {tmp_path / 'first.npz'}") == 3 * 12, "the value of n is read"
    assert "x 5x4, n scalar" in ok(f"cost {nets}:First --data {tmp_path / 'first.npz'}")
    torch.save([torch.ones(1, 3, 8, 8)], tmp_path / "list.pt")
    assert macs(f"Net --args width=8 --data {tmp_path / 'list.pt'}") == 8 * 27 * 36 + 16
    torch.save({"a": 1}, tmp_path / "none.pt")
    (tmp_path / "bad.npz").write_bytes(b"no")
    for line, message in {
        f"--data {tmp_path / 'gone.pt'}": "no such file",
        f"--data {tmp_path / 'none.pt'}": "holds no tensors",
        f"--data {tmp_path / 'bad.npz'}": "--data",
        f"--data {nets}": "sample inputs are FILE.npz or FILE.pt",
        f"--data {tmp_path / 'first.npz'} --input 5x4": "--data and --input exclude each other",
        f"--data {tmp_path / 'first.npz'} --sweep batch=1,2": "--data gives inputs of one size",
    }.items():
        code, _, err = run(f"cost {nets}:First {line}")
        assert code == 2 and message in err and err.count("\n") == 1


@pytest.mark.parametrize(("dtype", "bits"), [("int8", 8), ("fp8", 8), ("int4", 4)])
def test_weights_of_fewer_bits(ok, run, nets, dtype, bits):
    document = json.loads(ok(f"cost {nets}:Net --args width=8 --input 1x3x8x8 --dtype {dtype} --json"))
    products, biases = 8 * 27 + 2 * 8, 8 + 2
    assert document["memory"]["weight_bytes"] == products * bits // 8 + 2 * biases
    assert document["layers"][0]["bytes_written"] == 2 * 8 * 36, "activations are bf16"
    assert f"{dtype} weights of products, the rest bf16" in ok(
        f"cost {nets}:Net --args width=8 --input 1x3x8x8 --dtype {dtype}"
    )
    assert run(f"cost {nets}:Net --args width=8 --input 1x3x8x8 --dtype {dtype} --training")[0] == 2


def test_a_network_that_takes_no_input(ok, run, tmp_path):
    (tmp_path / "none.py").write_text(
        "import torch\nclass Square(torch.nn.Module):\n def __init__(self):\n  super().__init__()\n"
        "  self.w = torch.nn.Parameter(torch.ones(3, 3))\n def forward(self):\n  return self.w @ self.w\n"
    )
    model = f"{tmp_path / 'none.py'}:Square"
    document = json.loads(ok(f"cost {model} --json"))
    assert (document["input"], document["totals"]["macs"]) == ([], 27) and "27 MACs" in ok(f"cost {model}")
    for option in ("--sweep batch=1,2", "--fit-under 1GB"):
        assert run(f"cost {model} {option}")[2] == f"lamina: {model}: say the input's shape, as in --input 1x3x224x224\n"


@pytest.mark.parametrize("suffix", ["png", "svg", "PNG"])
def test_plots_are_files_of_their_kind(ok, tmp_path, suffix):
    file = tmp_path / f"plot.{suffix}"
    ok(f"cost lenet5 --plot {file}")
    start = file.read_bytes()[:8]
    assert start == b"\x89PNG\r\n\x1a\n" if suffix.lower() == "png" else start.startswith(b"<svg")
    ok(f"compare lenet5 lenet_caffe --plot {file}")
    ok(f"compare vgg11 vgg13 --plot {file} --chart accuracy")


def check_page(text):
    """Well-formed but for HTML's void elements, closed to the network, and its script is the one that the policy names."""
    import base64
    import hashlib

    assert "default-src 'none'" in text
    script = re.search(r"<script>(.*?)</script>", text, re.S)
    assert script is not None
    digest = base64.b64encode(hashlib.sha256(script.group(1).encode()).digest()).decode()
    assert f"script-src 'sha256-{digest}'" in text
    assert not re.findall(r'(?:src|href)="(?!#|data:)[^"]', re.sub(r"xlink:href", "href", text))
    ids = re.findall(r'\sid="([^"]+)"', text)
    assert len(ids) == len(set(ids))
    body = text[text.index("<body>") : text.index("<script>")] + "</body>"
    for void in VOID:
        body = re.sub(rf"<{void}([^>]*[^/])?>", "", body)
    return ET.fromstring(body.replace("xlink:href", "href"))


def test_page_of_one_network(ok, tmp_path):
    file = tmp_path / "page.html"
    ok(f"cost vit_ti_16 --html {file}")
    body = check_page(file.read_text())
    words = " ".join(body.itertext())
    assert "1,253,683,200" in words and "Memory for training" in words
    assert len(body.findall(".//svg")) + len(body.findall(".//{http://www.w3.org/2000/svg}svg")) == 2
    (table,) = body.findall(".//table[@class='sortable']")
    assert len(table.findall("tbody/tr")) > 100
    assert len(body.findall(".//details")) > 12


def test_page_with_times(ok, run, tmp_path):
    """Of two layers of 1 and 3 ms, the first at the roofline and the second ten times over it: together 3.08 times."""
    (tmp_path / "m.py").write_text(
        "from torch import nn\ndef make(): return nn.Sequential(nn.Linear(2, 3), nn.ReLU(), nn.Linear(3, 4))\n"
    )
    file, times = tmp_path / "page.html", tmp_path / "times.json"
    rows = [{"name": "0", "median_ms": 1.0, "times_roofline": 1.0}, {"name": "2", "median_ms": 3.0, "times_roofline": 10.0}]
    times.write_text(json.dumps({"model": "m", "batch": 8, "layers": rows}))
    line = f"cost '{tmp_path}/m.py:make' --input 1x2"
    ok(f"{line} --html {file} --times {times}")
    body = check_page(file.read_text())
    tree = body.find(".//div[@class='tree timed']")
    bars = [(e.get("class"), e.get("title")) for e in tree.iter() if "of the time" in e.get("title", "")]
    assert bars == [
        ("share off", "100.00 % of the time"),
        ("share near", "25.00 % of the time"),
        ("share far", "75.00 % of the time"),
    ]
    assert "4.000" in " ".join(tree.itertext()) and "for a batch of 8" in " ".join(body.itertext())
    for text, said in (
        ("{", "is not what `lamina bench MODEL --layers --json` prints"),
        (json.dumps({"model": "m", "batch": 1, "layers": [{"name": "0"}]}), "is not what `lamina bench"),
        (json.dumps({"model": "n", "batch": 1, "layers": [rows[0] | {"name": "a"}]}), "none of its layers is one of "),
    ):
        times.write_text(text)
        code, out, err = run(f"{line} --html {file} --times {times}")
        assert (code, out) == (2, "") and said in err and err.count("\n") == 1, err
    assert "cannot be read" in run(f"{line} --html {file} --times {tmp_path}/none.json")[2]
    assert "--times is for the page: add --html" in run(f"{line} --times {times}")[2]


def test_page_of_several_networks(ok, tmp_path):
    file = tmp_path / "page.html"
    ok(f"compare vgg11 vgg11_bn --html {file}")
    words = " ".join(check_page(file.read_text()).itertext())
    assert "Layer by layer" in words and "added" in words and "Accuracy" in words


def test_names_are_escaped_in_pages(ok, tmp_path):
    folder = tmp_path / "a<b>&c"
    folder.mkdir()
    (folder / "m.py").write_text("import torch\ndef make(): return torch.nn.Linear(2, 2)\n")
    ok(f"cost '{folder}/m.py:make' --input 1x2 --html {tmp_path / 'p.html'}")
    text = (tmp_path / "p.html").read_text()
    assert "<b>" not in text and "a&lt;b&gt;&amp;c" in text


def test_compare(ok):
    text = ok("compare resnet50 resnet50_v1_5")
    assert "12 of 174 layers differ" in text and "stride 2x2 → 1x1" in text
    assert "layer diff" in ok("compare lenet5 alexnet") and "differ" not in ok("compare resnet50 resnet50_v1_5 --no-diff")
    document = json.loads(ok("compare lenet5 lenet5_dense --json"))
    assert [n["network"] for n in document["networks"]] == ["lenet5", "lenet5_dense"] and document["layers"]
    table = rows(ok("compare vgg --csv"))
    assert [row["network"] for row in table][:2] == ["vgg11", "vgg11_bn"] or "vgg16" in [row["network"] for row in table]


@pytest.mark.parametrize(
    ("line", "text"),
    [
        ("cost resnet18 --csv --json", "give one"),
        ("cost resnet18 --view fvcore --explain 4G", "give one"),
        ("cost resnet18 --view nvidia", "no view 'nvidia'"),
        ("cost resnet18 --explain many", "not a published figure"),
        ("cost resnet18 --sweep width=1:2", "resolution, batch, sequence"),
        ("cost resnet18 --sweep resolution=9:1:1", "no sizes"),
        ("cost resnet18 --sweep sequence=1,2", "not a sequence"),
        ("cost transformer_base --sweep resolution=1,2", "no resolution"),
        ("cost vgg11 --sweep resolution=8,16", "too small"),
        ("cost resnet18 --fit-under 1MACs", "nothing fits"),
        ("cost resnet18 --fit-under 1kB", "nothing fits: batch 1 takes"),
        ("cost resnet18 --fit-under lots", "not a limit"),
        ("cost resnet18 --plot x.gif", ".png or .svg"),
        ("cost resnet18 --plot nowhere/x.png", "no such folder"),
        ("cost resnet18 --html .", "folder"),
        ("cost resnet18 --max-macs lots", "--max-macs"),
        ("cost resnet18 --master --training", "16-bit"),
        ("cost resnet18 --past 4", "only a language model of transformers"),
        ("cost resnet18 --input a=1x3x224x224 --input a=1x1", "given twice"),
        ("cost resnet18 --input 1-2=1x3", "no input '1-2'"),
        ("cost resnet18 --input 1x3x224x224 --input 1x3x224x224", "2 inputs, and it takes x"),
        ("compare resnet18", "at least two"),
        ("compare resnet18 resnet18", "two different"),
        ("compare resnet18 nothing", "no network"),
        ("compare resnet18 vgg11 --csv --json", "give one"),
        ("compare lenet5 lenet_caffe --chart accuracy --plot x.png", "no accuracy"),
    ],
)
def test_wrong_calls(run, tmp_path, monkeypatch, line, text):
    monkeypatch.chdir(tmp_path)
    code, out, err = run(line)
    assert (code, out) == (2, "") and text in err
    assert err.startswith("lamina: ") and err.count("\n") == 1
    assert not list(tmp_path.iterdir())


def test_an_unwritable_file_is_one_line(run, monkeypatch):
    code, _, err = run("cost lenet5 --plot /proc/x.png")
    assert code == 1 and "cannot be written" in err and err.count("\n") == 1


def test_counting_imports_no_matplotlib():
    code = (
        "import sys; sys.argv = ['lamina', 'cost', 'lenet5', '--json']\nfrom lamina import cli\n"
        "try: cli.main()\nexcept SystemExit: pass\nprint({'matplotlib'} & set(sys.modules), file=sys.stderr)"
    )
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stderr.strip() == "set()"


def test_a_forward_that_values_decide_is_run(ok, run, tmp_path, monkeypatch):
    """Of four rows of random numbers between 0 and 1 all are positive: 4 x 8 x 2 MACs. Shapes alone cannot know."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "masked.py").write_text(
        "import torch\n\n\nclass Net(torch.nn.Module):\n"
        "    def __init__(self, width=2):\n        super().__init__()\n        self.fc = torch.nn.Linear(8, width)\n\n"
        "    def forward(self, x):\n        return self.fc(x[x.sum(1) > 0])\n"
    )
    code, _, error = run("cost masked.py:Net --input 4x8")
    assert code == 2 and "--run" in error and "masked.py" in error and error.count("\n") == 1
    assert json.loads(ok("cost masked.py:Net --input 4x8 --run --json"))["totals"]["macs"] == 4 * 8 * 2
    assert json.loads(ok("cost masked.py:Net --input 4x8 --run --args width=3 --json"))["totals"]["macs"] == 4 * 8 * 3
    whole = [json.loads(ok(f"cost lenet5_dense {how} --json")) for how in ("", "--run")]
    assert whole[0] == whole[1]
