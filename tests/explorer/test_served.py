"""The explorer behind its server: answers equal the library's, strangers and nonsense are refused, and networks run."""

import contextlib
import json
import threading
import time
import urllib.parse
from collections.abc import Iterator
from http.client import HTTPConnection
from importlib.resources import files
from pathlib import Path
from typing import Any

import pytest
import torch

pytest.importorskip("starlette", reason="needs the extra serve")

from lamina.cli import explore, network
from lamina.cost import compare
from lamina.data.image import ImageSpec
from lamina.infer import session
from lamina.lecture import html
from lamina.serve import app, run
from lamina.serve.explorer import knobs, live
from lamina.serve.explorer.routes import Explorer
from lamina.serve.guard import Limits
from lamina.serve.models import Models
from lamina.zoo import registry
from tests.conftest import CHECKOUT

AXE = CHECKOUT / "web" / "node_modules" / "axe-core" / "axe.min.js"
DIGITS = Path(str(files("lamina.data").joinpath("digits")))
LIMIT = 1_000_000  # bytes of a body
VIEW = html.linked({"command": "lamina cost googlenet --by kind"}, "/explore/")["view"]
CLAIM = f'<link rel="icon" href="data:,"><a href="{VIEW}">see it</a>'


@pytest.fixture(scope="module")
def port() -> Iterator[int]:
    explorer = Explorer(network.find, explore.at, ("lenet5", "vit_mnist"), limits=Limits(body=LIMIT), lecture=lambda: CLAIM)
    server = run.Server(app.application(Models([]), routes=explorer.routes()), 0.0)
    listening = run.bind("127.0.0.1", 0)
    found = listening.getsockname()[1]
    thread = threading.Thread(target=server.run, args=([listening],))
    thread.start()
    until = time.monotonic() + 30
    while not server.started and time.monotonic() < until:
        time.sleep(0.02)
    yield found
    server.stop()
    thread.join(30)
    listening.close()
    assert not thread.is_alive()


@pytest.fixture
def ask(port: int) -> Any:
    """Status and document of `what` with a query; a body is posted."""

    def call(what: str, body: bytes | None = None, headers: Any = None, **query: Any) -> tuple[int, Any]:
        connection = HTTPConnection("127.0.0.1", port, timeout=120)
        with contextlib.closing(connection):
            path = f"/explore/{what}?{urllib.parse.urlencode(query)}"
            connection.request("GET" if body is None else "POST", path, body, headers or {})
            response = connection.getresponse()
            return response.status, json.loads(response.read())

    return call


def test_a_changed_network_is_traced(ask: Any) -> None:
    status, found = ask("network", model="resnet18", **{"set.depths.0": 3, "set.img_size": 160})
    assert status == 200
    module = registry.assemble("resnet18", depths=(3, 2, 2, 2), img_size=160)
    from lamina import trace

    expected = trace(module.eval(), *registry.example("resnet18", (1, 3, 160, 160)))
    assert found["totals"]["macs"] == expected.macs
    assert found["regimes"][0]["batch"] == [1, None]
    rows = {row["name"]: row for row in found["fields"]}
    assert rows["depths.0"]["default"] == 2 and rows["stride_in"]["choices"] == ["1x1", "3x3"]


def test_a_slider_gets_one_trace_at_its_batch_and_type(ask: Any) -> None:
    status, found = ask("network", model="vit_mnist", batch=4, dtype="bfloat16", **{"set.depth": 2})
    assert status == 200
    net = knobs.change(network.find("vit_mnist", (), "bf16"), {"depth": "2"})
    expected = net.trace(net.resized("batch", 4))
    assert found["totals"]["macs"] == expected.macs
    assert found["totals"]["peak_activation_bytes"] == expected.peak_activation_bytes
    assert found["batch"] == 4 and len(found["regimes"]) == 1


def test_differences_and_mappings(ask: Any) -> None:
    _, found = ask("compare", model="lenet5", beside="lenet5_dense")
    two = [network.find(name).trace() for name in ("lenet5", "lenet5_dense")]
    assert found["layers"] == compare.document(compare.compare(*two))["layers"]
    _, fit = ask("fit", model="lenet5", on="eyeriss", batch=2)
    assert fit["batch"] == 2 and sum(x["macs"] for x in fit["dataflows"]["rs"]) == 2 * two[0].macs


@pytest.mark.parametrize(
    ("query", "status", "message"),
    [
        ({"model": "resnet51"}, 400, "the nearest are resnet50"),
        ({"model": "os:getcwd"}, 403, "a page may open the zoo's networks"),
        ({"model": "/etc/passwd.onnx"}, 403, "a page may open the zoo's networks"),
        ({"model": "vgg11", "set.nothing": "1"}, 400, "vgg11 has no nothing"),
        ({"model": "vit_mnist", "set.depth": "1000000"}, 400, "depth is at most"),
        ({"model": "vit_mnist", "set.n_heads": "7"}, 400, "not divisible by 7 heads"),
        ({"model": "vit_mnist", "set.width": "NaN"}, 400, "width is a whole number"),
        ({"model": "vit_mnist", "set.dropout": "nan"}, 400, "dropout is at most"),
        ({"model": "lenet5", "batch": "0"}, 400, "batch is a whole number"),
        ({"model": "lenet5", "batch": "1", "dtype": "float3"}, 400, "no type is called"),
        ({"model": "resnet18", "set.outputs": "9" * 5000}, 400, ""),
    ],
)
def test_what_cannot_be_is_refused_in_one_line(ask: Any, query: Any, status: int, message: str) -> None:
    code, found = ask("network", **query)
    assert code == status and message in found["error"] and "\n" not in found["error"]


def test_pages_of_other_sites_are_refused(ask: Any) -> None:
    assert ask("network", headers={"Sec-Fetch-Site": "cross-site"})[0] == 403
    assert ask("network", headers={"Host": "elsewhere.example"})[0] == 403
    assert ask("digit", bytes(784), {"Origin": "https://elsewhere.example"})[0] == 403


def test_the_page_has_a_strict_policy(port: int) -> None:
    connection = HTTPConnection("127.0.0.1", port, timeout=60)
    with contextlib.closing(connection):
        connection.request("GET", "/explore/")
        response = connection.getresponse()
        policy, text = response.headers["content-security-policy"], response.read().decode()
    assert "default-src 'none'" in policy and "unsafe" not in policy and "frame-ancestors 'none'" in policy
    assert "<script>" not in text and "<style" not in text and " style=" not in text


def test_lenet_reads_a_digit(ask: Any) -> None:
    import numpy as np

    from lamina.data.image import decode

    path = next(DIGITS.glob("4_*.png"))
    status, found = ask("digit", np.asarray(decode(path, "L")).tobytes())
    assert (status, found["answer"]) == (200, 4)
    assert [m["maps"]["shape"] for m in found["maps"]][:4] == [[6, 28, 28], [6, 14, 14], [16, 10, 10], [16, 5, 5]]  # Figure 2
    scores = session.Session("lenet5")
    from lamina.data.image import prepare

    expected = -scores.scores(prepare(path, scores.image)[None])[0]
    assert found["distances"] == pytest.approx(expected.tolist(), abs=1e-2)
    assert ask("digit", bytes(10))[1]["error"].startswith("a digit is 784 bytes")


def test_an_image_and_what_a_vit_looks_at(ask: Any) -> None:
    path = next(DIGITS.glob("7_*.png"))
    (expected,) = session.run("vit_mnist", [path], top=5)
    status, found = ask("image", path.read_bytes(), model="vit_mnist", layer="patch_embed")
    assert status == 200 and found["predictions"] == expected["predictions"]
    assert found["maps"]["shape"] == [64, 7, 7] and found["layer"] == "patch_embed"
    assert found["seen"]["shape"] == [1, 28, 28]
    _, looks = ask("attention", path.read_bytes(), model="vit_mnist")
    assert len(looks["blocks"]) == 6 and looks["blocks"][0]["shape"] == [4, 7, 7]
    assert looks["predictions"][0]["label"] == expected["predictions"][0]["label"]


@pytest.mark.parametrize(
    ("body", "message"),
    [(b"", "not an image"), (b"GIF89a", "not an image"), (b"\x89PNG\r\n\x1a\n" + bytes(50), "image")],
)
def test_what_is_no_image_is_refused(ask: Any, body: bytes, message: str) -> None:
    status, found = ask("image", body, model="vit_mnist")
    assert status == 400 and message in found["error"]


def test_bombs_and_large_bodies_are_refused(ask: Any) -> None:
    import io

    from PIL import Image

    bomb = io.BytesIO()
    Image.new("1", (20_000, 20_000)).save(bomb, "PNG")
    status, found = ask("image", bomb.getvalue(), model="vit_mnist")
    assert status == 400 and "more than" in found["error"]
    assert ask("image", bytes(LIMIT + 1), model="vit_mnist")[0] == 413


def test_a_sentence_step_by_step(ask: Any) -> None:
    pytest.importorskip("tokenizers", reason="needs the extra text")
    from lamina.infer.translate import translator

    (expected,) = translator("transformer_de_en").translate(["Ich habe keine Zeit."])
    status, found = ask("sentence", b"Ich habe keine Zeit.")
    assert status == 200 and found["target"] == expected["target"] and found["score"] == expected["score"]
    assert found["attention"][0]["shape"] == [4, len(found["target_tokens"]), len(found["source_tokens"])]
    assert found["steps"][-1][0]["text"] == expected["target"]
    assert ask("sentence", b"\xff")[0] == 400 and ask("sentence", b"x" * 201)[0] == 400


# ---- in a browser ------------------------------------------------------------------------------------------------------


@pytest.fixture
def home(port: int) -> str:
    return f"http://127.0.0.1:{port}/explore/"


@pytest.mark.slow
def test_a_drawn_digit_is_read(visit: Any, home: str) -> None:
    found = visit(home, "#tab=live")
    corner = found.page.locator("canvas.pad").bounding_box()
    found.page.mouse.move(corner["x"] + 140, corner["y"] + 40)
    found.page.mouse.down()
    found.page.mouse.move(corner["x"] + 140, corner["y"] + 240, steps=12)
    found.page.mouse.up()
    found.page.wait_for_selector(".distances")
    assert "It reads 1" in found.page.locator(".answer").inner_text()
    assert found.page.locator(".maps").count() == 6


@pytest.mark.slow
def test_a_dropped_image_is_answered_and_its_maps_follow_the_layer(visit: Any, home: str) -> None:
    path = next(DIGITS.glob("7_*.png"))
    found = visit(home, "#net=vit_mnist&tab=live&chosen=patch_embed")
    content = list(path.read_bytes())
    found.page.locator(".drop").evaluate(
        "(place, bytes) => { const data = new DataTransfer();"
        " data.items.add(new File([Uint8Array.from(bytes)], 'seven.png', { type: 'image/png' }));"
        " place.dispatchEvent(new DragEvent('drop', { dataTransfer: data, bubbles: true, cancelable: true })); }",
        content,
    )
    found.page.wait_for_selector(".predictions")
    assert found.page.locator(".predictions li").first.inner_text().startswith("7")
    assert "Maps of patch_embed" in found.page.locator(".answer").inner_text()
    assert "Block 5" in found.page.locator(".answer").inner_text()


@pytest.mark.slow
def test_a_typed_sentence_is_translated(visit: Any, home: str) -> None:
    pytest.importorskip("tokenizers", reason="needs the extra text")
    found = visit(home, "#tab=live")
    found.page.get_by_label("Run", exact=True).select_option("sentence")
    field = found.page.get_by_label("A German sentence")
    field.fill("Ich habe keine Zeit.")
    field.press("Enter")
    found.page.wait_for_selector(".attention")
    assert "I have no time." in found.page.locator(".translation").inner_text()
    found.page.get_by_label("Token").fill("0")
    assert "after 1 token" in found.page.locator(".translation").inner_text()


@pytest.mark.slow
def test_a_slider_of_the_configuration_changes_the_network(visit: Any, home: str) -> None:
    found = visit(home, "#net=vit_mnist")
    found.page.locator(".sizes summary").click()
    found.page.get_by_label("depth", exact=True).focus()
    found.page.keyboard.press("ArrowRight")
    net = knobs.change(network.find("vit_mnist"), {"depth": "7"})
    expected = net.trace().macs
    found.until(f"lamina.net.total.macs === {expected}")
    assert "set.depth=7" in found.page.url
    found.until("lamina.doc.regimes.length === 2")  # the formulas come when the slider rests
    assert found.figure("macs") == expected


@pytest.mark.slow
def test_another_network_beside(visit: Any, home: str) -> None:
    found = visit(home)
    field = found.page.get_by_label("beside", exact=True)
    field.fill("lenet5_dense")
    field.press("Enter")
    found.page.wait_for_selector(".changes")
    assert f"{network.find('lenet5_dense').trace().macs:,}" in found.page.locator(".panel-compare").inner_text()
    field.fill("lenet6")
    field.press("Enter")
    found.page.wait_for_selector(".notice.wrong")
    assert "no network is called 'lenet6'" in found.page.locator(".notice").inner_text()
    found.messages.clear()  # the browser tells of every answer that refuses


@pytest.mark.slow
def test_an_accelerator_is_chosen(visit: Any, home: str) -> None:
    found = visit(home, "#tab=accelerator&chosen=c1")
    found.page.get_by_label("Accelerator", exact=True).last.select_option("eyeriss")
    found.page.wait_for_selector(".panel-accelerator pre")
    assert "DRAM keeps" in found.page.locator(".panel-accelerator").inner_text()


@pytest.mark.slow
def test_the_network_is_timed_here(visit: Any, home: str) -> None:
    found = visit(home, "#tab=roofline")
    found.page.get_by_role("button", name="measure here").click()
    found.page.get_by_text("Measured here").wait_for(timeout=60_000)
    found.page.get_by_label("Colour by").select_option("measured")
    assert found.page.locator(".legend").inner_text().startswith("Measured time")


@pytest.mark.slow
@pytest.mark.parametrize("width", [1400, 420])
def test_axe_finds_nothing_serious_live(visit: Any, home: str, width: int) -> None:
    if not AXE.is_file():
        pytest.skip("needs axe-core (npm ci in web/)")
    found = visit(home, "#tab=live", width)
    found.page.get_by_role("button", name="Draw a seven").click()
    found.page.wait_for_selector(".distances")
    found.page.locator(".sizes summary").click()
    found.page.evaluate(AXE.read_text(encoding="utf-8"))
    grave = [v for v in found.page.evaluate("axe.run(document)")["violations"] if v["impact"] in ("serious", "critical")]
    assert not grave, json.dumps([(v["id"], [n["html"][:120] for n in v["nodes"][:3]]) for v in grave], indent=1)
    assert found.value("document.documentElement.scrollWidth <= innerWidth"), "the page is wider than the screen"


@pytest.mark.slow
def test_the_lecture_leads_to_the_view_that_shows_a_claim(visit: Any, home: str) -> None:
    found = visit(home)
    found.page.get_by_role("link", name="lecture").click()
    found.page.get_by_role("link", name="see it").click()
    found.page.wait_for_selector(".strip strong")
    found.until("lamina.net !== undefined")
    assert found.figure("macs") == network.find("googlenet").trace().macs
    assert "conv" in found.page.locator(".legend").inner_text()


def test_an_image_is_shown_in_red_green_and_blue_whatever_the_networks_order() -> None:
    pixels = torch.tensor([0.0, 1.0, 2.0])[:, None, None] * torch.arange(4.0).reshape(1, 2, 2)
    spec = ImageSpec(size=2, channels="BGR")
    assert live.seen(pixels, spec)["data"] == live.seen(pixels.flip(0), ImageSpec(size=2))["data"]
