"""Every example of the README and of docs/ is run, or says here why it is not."""

import json
import re
import shutil
import textwrap
import tomllib
from collections.abc import Iterator
from pathlib import Path

import numpy
import onnx
import pytest
import torch
from onnx import helper
from PIL import Image

import lamina
from lamina import cli

CHECKOUT = Path(__file__).resolve().parents[2]
DOCUMENTS = ["README.md", *(f"docs/{path.name}" for path in sorted((CHECKOUT / "docs").glob("*.md")))]
BLOCK = re.compile(r"^```(\w+)\n(.*?)^```", re.M | re.S)

NOT_RUN = {
    r"train (?!$)": "trains for minutes or days: tests/train runs the recipes on little",
    r"timm:": "needs timm: tests/peers",
    r"hf:": "needs transformers: tests/peers",
    r"^run (resnet50_v1_5|googlenet )|googlenet\.pt|translate .*--weights": "needs weights that do not ship",
    r"^bench|--on here|--engine auto|^export|googlenet\.onnx": "takes minutes: tests/infer",
    r"--data (mnist|cifar10|tatoeba)|runs/a\b|runs/vit": "needs data that do not ship",
    r"fit --compare|fit resnet(18|50)|^serve|^explore|alexnet --on mine.toml": "takes minutes: tests/hardware, tests/serve",
    r"^(demo|lecture|diagnose)": "takes long: tests/cli, tests/lecture",
}
PRELUDE = {  # what a document's Python says without having made it
    "README.md": "from torch import nn\nmy_module = nn.Conv2d(3, 8, 3)\n"
    "x = torch.zeros(1, 3, 224, 224)\nnet50 = lamina.build('resnet18')\n",
}
PYTHON_NOT_RUN = {
    "docs/training.md": "trains on data that do not ship: tests/train",
    "docs/inference.md": "needs public weights: tests/infer",
    "docs/serving.md": "needs a running server: tests/serve",
}
LINES_NOT_RUN = re.compile(r"lamina\.load\((?!\"vit_mnist|\"lenet5)|^deeper = lamina\.grow\(net50|lamina\.features\(net")


def commands(document: str) -> list[str]:
    """What follows `lamina` on each line that shows a command."""
    text = (CHECKOUT / document).read_text()
    found = re.findall(r"^(?: {4}(?:\$ )?|\$ )lamina ?(.*)$", text, re.M)
    return [re.sub(r"\s+#.*", "", line).strip() for line in found]


def reason(command: str) -> str | None:
    return next((why for pattern, why in NOT_RUN.items() if re.search(pattern, command)), None)


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """An empty folder but for what the documents tell a reader to have."""
    monkeypatch.chdir(tmp_path)
    shutil.copy(CHECKOUT / "lamina/data/digits/7_00.png", "digit.png")
    Image.new("RGB", (320, 240), (90, 120, 60)).save("cat.jpg")
    model = next(text for _, text in blocks("docs/start.md", "python") if "# my_model.py" in text)
    net = "\n\nclass Net(nn.Linear):\n    def __init__(self, width):\n        super().__init__(4, width)\n"
    for file in ("my_model.py", "net.py"):
        Path(file).write_text(model + net)
    for file in ("inputs.npz", "x.npz"):
        numpy.savez(file, input=numpy.zeros((1, 4), numpy.float32))
    shape, float32 = (1, 3, 224, 224), onnx.TensorProto.FLOAT
    weight = helper.make_tensor("w", float32, (8, 3, 3, 3), [0.0] * 216)
    ends = [helper.make_tensor_value_info(name, float32, dims) for name, dims in (("images", shape), ("y", (1, 8, 222, 222)))]
    graph = helper.make_graph([helper.make_node("Conv", ["images", "w"], ["y"])], "g", ends[:1], ends[1:], [weight])
    onnx.save(helper.make_model(graph), "model.onnx")
    yield tmp_path


def blocks(document: str, language: str) -> list[tuple[int, str]]:
    text = (CHECKOUT / document).read_text()
    return [(text[: m.start()].count("\n") + 1, m[2]) for m in BLOCK.finditer(text) if m[1] == language]


@pytest.mark.slow
# (The gallery's are run whenever the site is built, which draws its plots by them: docs/generate.py.)
@pytest.mark.parametrize("document", [d for d in DOCUMENTS if commands(d) and d != "docs/gallery.md"])
def test_commands(document, folder, ok):
    """In the document's order, in one folder, as a reader would."""
    for command in commands(document):
        if reason(command) is None:
            ok(command)


def test_commands_that_are_not_run_are_right(ok):
    """Their verbs exist, and have their options."""
    verbs = {command.name for command in cli.app.registered_commands}
    for command in {c for d in DOCUMENTS for c in commands(d)}:
        verb, _, rest = command.partition(" ")
        assert verb in verbs, command
        for option in re.findall(r"--[a-z-]+", rest):
            assert option in ok(f"{verb} --help"), command


def test_each_reason_is_needed():
    every = [command for document in DOCUMENTS for command in commands(document)]
    for pattern in NOT_RUN:
        assert any(re.search(pattern, command) for command in every), pattern
    assert len(every) > 80


@pytest.mark.parametrize("document", [d for d in DOCUMENTS if blocks(d, "python") and d not in PYTHON_NOT_RUN])
def test_python(document, folder):
    """Each document's Python from top to bottom, but for lines that need weights that do not ship."""
    names: dict[str, object] = {}
    exec("import torch, lamina\n" + PRELUDE.get(document, ""), names)
    for line, text in blocks(document, "python"):
        kept = "\n".join("" if LINES_NOT_RUN.search(row) else row for row in text.splitlines())
        exec(compile("\n" * line + kept, document, "exec"), names)


def test_toml_and_json():
    for document in DOCUMENTS:
        for _, text in blocks(document, "toml"):
            tomllib.loads(text)
        for _, text in blocks(document, "json"):
            json.loads(text)


def test_an_accelerator_in_ten_lines(folder, ok):
    """The file of docs/hardware.md."""
    text = (CHECKOUT / "docs/hardware.md").read_text()
    lines = re.search(r"^    name = \"mine\"\n(?:    .*\n)+", text, re.M)
    assert lines
    Path("mine.toml").write_text(textwrap.dedent(lines[0]))
    assert "conv" in ok("fit my_model.py:make_model --input 1x3x8x8 --on mine.toml --json")


def test_a_record_shows_itself_in_a_notebook():
    """What it prints, and a row for each module: LeNet-5's first layer has 6 filters of 25 weights and a bias."""
    net = lamina.build("lenet5_dense", device="meta").eval()
    html = lamina.trace(net, torch.empty(1, 1, 32, 32, device="meta"), name="<lenet>")._repr_html_()
    assert "&lt;lenet&gt; (eval)" in html and "<lenet>" not in html
    assert f"<tr><td>c1</td><td>156</td><td>{6 * 25 * 28 * 28:,}</td><td>{6 * 28 * 28:,}</td></tr>" in html
