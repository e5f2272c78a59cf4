"""The explorer's page as a file: whole in itself, under its policy, and the one that `web/` builds."""

import base64
import hashlib
import json
import re
import shutil
import subprocess
from pathlib import Path
from typing import Any

import pytest

from lamina.serve.explorer import gather, page
from tests.conftest import CHECKOUT

WEB = CHECKOUT / "web"


def embedded(text: str) -> Any:
    return json.loads(re.search(r'<script type="application/json" id="data">(.*?)</script>', text, re.S)[1])  # type: ignore[index]


def test_one_command_writes_one_file(ok: Any, tmp_path: Path) -> None:
    file = tmp_path / "page.html"
    assert ok(f"explore resnet50 --html {file}").strip() == str(file)
    text = file.read_text(encoding="utf-8")
    assert len(text.encode()) < 1_500_000
    (net,) = embedded(text)["networks"]
    assert net["totals"]["macs"] == 3_857_973_248  # lamina/zoo/counts.json
    assert net["paper"]["year"] == 2015


def test_it_names_no_address_but_that_of_svg() -> None:
    text = page.document(page.data([], {}, [], [], []), "nothing")
    assert set(re.findall(r"https?://[^\s\"'`<>)]+", text)) <= {"http://www.w3.org/2000/svg"}


def test_its_policy_lets_its_own_script_and_style_run_and_nothing_else() -> None:
    text = page.document(page.data([], {}, [], [], []), "nothing")
    policy = re.search(r'Content-Security-Policy" content="([^"]*)"', text)[1]  # type: ignore[index]
    assert "unsafe" not in policy and "default-src 'none'" in policy
    for tag, directive in (("script", "script-src"), ("style", "style-src")):
        (source,) = re.findall(rf"<{tag}>(.*?)</{tag}>", text, re.S)
        digest = base64.b64encode(hashlib.sha256(source.encode()).digest()).decode()
        assert f"{directive} 'sha256-{digest}'" in policy
    assert " style=" not in text


def test_a_name_cannot_end_the_script_that_holds_it() -> None:
    evil = "</script><script>alert(1)</script><!--"
    text = page.document(page.data([{"name": evil}], {}, [], [], []), evil)
    assert embedded(text)["networks"][0]["name"] == evil
    assert "<script>alert" not in text


def test_the_built_files_are_those_that_the_source_gives() -> None:
    """`npm ci && npm run build` in web/ writes them."""
    if shutil.which("node") is None or not (WEB / "node_modules").is_dir():
        pytest.skip("needs node and web/node_modules (npm ci in web/)")
    done = subprocess.run(["node", "build.mjs", "--check"], cwd=WEB, capture_output=True, text=True, timeout=60)
    assert done.returncode == 0, done.stderr


def test_what_the_bundle_contains_comes_with_its_licence() -> None:
    text = page.part("LICENSES.txt")
    assert re.findall(r"^@dagrejs/(\w+) [\d.]+$", text, re.M) == ["dagre", "graphlib"]
    assert text.count("Permission is hereby granted") == 2


def test_the_map_of_the_zoo_has_what_papers_print() -> None:
    points = {(p["name"], p["data"]): p for p in gather.zoo()}
    # He et al. 2015, Table 6: an error of 6.43 %, best of five; torchvision's weights of ResNet-50: 76.13 %.
    assert points["resnet110_cifar", "CIFAR-10"]["top1"] == 93.57
    assert points["resnet50_v1_5", "ImageNet"]["top1"] == 76.13
    assert points["lenet5", "MNIST"]["year"] == 1998


def test_mappings_have_every_layer_under_every_dataflow() -> None:
    from lamina.cli import network

    workload = network.find("lenet5").trace()
    found = gather.mapping(workload, "flexible")
    assert set(found["dataflows"]) == {"ws", "os", "nlr", "rs", "flexible"}
    for layers in found["dataflows"].values():
        assert sum(x["macs"] for x in layers) == workload.macs
        assert all(x["nests"][0]["mapping"] for x in layers if x["macs"])


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ("explore resnet51 --html x.html", "no network is called 'resnet51'"),
        ("explore lenet5 --html nowhere/x.html", "no such folder"),
        ("explore lenet5 --html x.html --on nothing", "no accelerator is called 'nothing'"),
        ("explore vgg11 vgg13 vgg16 vgg19 vgg11_bn vgg13_bn vgg16_bn vgg19_bn lenet5 --html x.html", "at most 8"),
    ],
)  # fmt: skip
def test_a_wrong_call_is_one_line(run: Any, line: str, message: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    code, out, err = run(line)
    assert (code, out) == (2, "") and message in err and err.count("\n") == 1
    assert list(tmp_path.iterdir()) == []
