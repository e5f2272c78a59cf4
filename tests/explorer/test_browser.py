"""The self-contained page in a real browser: what is on it equals what the library says, by pointer, touch and keyboard."""

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from lamina.cli import explore, network
from lamina.cost import compare
from lamina.serve.explorer import document, page
from lamina.workload import Coverage, Layer, Tensor, Workload
from tests.conftest import CHECKOUT

pytestmark = pytest.mark.slow
AXE = CHECKOUT / "web" / "node_modules" / "axe-core" / "axe.min.js"


def trace(name: str, batch: int = 1, dtype: str = "fp32") -> Workload:
    net = replace(network.find(name), dtype=dtype)
    return net.trace(net.resized("batch", batch))


@pytest.fixture(scope="module")
def file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A page of three networks; the first is what opens."""
    path = tmp_path_factory.mktemp("page") / "page.html"
    path.write_text(explore.page([network.find(n) for n in ("resnet50", "resnet50_v1_5", "lenet5")]), encoding="utf-8")
    return path


@pytest.fixture(scope="module")
def mapped(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("page") / "mapped.html"
    path.write_text(explore.page([network.find("lenet5")], "flexible"), encoding="utf-8")
    return path


def test_it_opens_as_stages_with_the_librarys_figures(visit: Any, file: Path) -> None:
    found = visit(file)
    assert found.boxes() == [
        "conv1", "bn1", "relu", "maxpool", "layer1", "layer2", "layer3", "layer4", "avgpool", "fc",
    ]  # fmt: skip
    workload = trace("resnet50")
    assert found.figure("macs") == workload.macs
    assert found.figure("parameters") == workload.total().parameters
    assert found.figure("peak") == workload.peak_activation_bytes
    assert (
        "118 MMACs" in found.page.locator(".legend").inner_text() or "1.39 GMACs" in found.page.locator(".legend").inner_text()
    )


def test_search_finds_unfolds_and_shows_the_formula(visit: Any, file: Path) -> None:
    found = visit(file)
    found.page.keyboard.press("/")
    found.page.keyboard.type("layer3.5 conv2")
    found.page.keyboard.press("Enter")
    assert "layer3.5.conv2" in found.boxes()
    # conv4_x: 256 filters of 3 x 3 x 256 at 14 x 14 places (He et al., Table 1)
    assert found.page.locator(".formula").inner_text() == "256·256·3·3·14·14 = 115,605,504"
    assert found.page.locator("h2").last.inner_text() == "conv2"
    assert "layer3.5.conv2.weight" in found.page.locator(".detail").inner_text()


def test_the_formula_of_the_first_layer(visit: Any, file: Path) -> None:
    found = visit(file, "#chosen=conv1")
    assert found.page.locator(".formula").inner_text() == "64·3·7·7·112·112 = 118,013,952"


def test_a_click_unfolds_and_folds(visit: Any, file: Path) -> None:
    found = visit(file)
    place = found.place("layer2")
    found.page.mouse.dblclick(place["x"], place["y"])
    assert "layer2.3" in found.boxes()
    assert "open=layer2" in found.page.url
    found.page.get_by_role("button", name="Fold everything", exact=True).click()
    assert "layer2.3" not in found.boxes()
    found.page.get_by_role("button", name="Unfold everything").click()
    assert len(found.boxes()) > 175


def test_colours_change_with_the_figure(visit: Any, file: Path) -> None:
    found = visit(file)
    found.page.get_by_label("Colour by").select_option("parameters")
    assert found.page.locator(".legend").inner_text().startswith("Parameters")
    # layer4 and fc hold most: 14,964,736 and 2,049,000 parameters (lamina cost resnet50)
    text = found.page.locator(".legend .marks").inner_text()
    assert "15.0 M" in text
    found.page.get_by_label("Colour by").select_option("kind")
    assert "conv" in found.page.locator(".legend").inner_text()


def test_sliders_give_what_a_trace_gives(visit: Any, file: Path) -> None:
    found = visit(file)
    slider = found.page.get_by_label("Batch", exact=True)
    slider.focus()
    for _ in range(3):
        found.page.keyboard.press("ArrowRight")
    found.page.get_by_label("Precision").select_option("bfloat16")
    workload = trace("resnet50", 8, "bf16")
    assert found.figure("macs") == workload.macs
    assert found.figure("peak") == workload.peak_activation_bytes
    assert found.figure("inference") == workload.peak_activation_bytes + workload.total().parameter_bytes
    assert "batch=8" in found.page.url and "dtype=bfloat16" in found.page.url


def test_two_networks_side_by_side(visit: Any, file: Path) -> None:
    found = visit(file)
    found.page.get_by_label("beside").select_option("resnet50_v1_5")
    before, after = trace("resnet50"), trace("resnet50_v1_5")
    changes = [c for c in compare.document(compare.compare(before, after))["layers"] if c["status"] != "same"]
    text = found.page.locator(".panel-compare").inner_text()
    assert f"{before.macs:,}" in text and f"{after.macs:,}" in text
    assert f"; {len(changes)} differ" in text
    assert found.page.locator(".changes tbody tr").count() == len(changes)
    found.page.locator(".changes tbody button").first.click()
    assert changes[0]["before"] in found.boxes()
    assert found.value("lamina.stage.second.layout.boxes.map((b) => lamina.other.name(b.item))").count(changes[0]["after"])


def test_the_table_sorts_and_is_linked_to_the_graph(visit: Any, file: Path) -> None:
    found = visit(file)
    found.tab("Table")
    found.page.get_by_role("button", name="parameters", exact=True).click()
    rows = found.page.locator(".layers tbody tr:not(.space)")
    workload = trace("resnet50")
    largest = max(workload.layers, key=lambda layer: layer.parameters)
    assert rows.first.locator("th").inner_text() == largest.name
    assert f"{largest.parameters:,}" in rows.first.inner_text()
    rows.first.locator("button").click()
    assert largest.name in found.boxes() and f"chosen={largest.name}" in found.page.url
    found.page.get_by_role("button", name="Fit all of it").click()
    place = found.place("fc")
    found.page.mouse.click(place["x"], place["y"])
    assert "fc" in found.page.locator(".layers tr.chosen th").inner_text()


def test_the_memory_timeline_names_the_peak(visit: Any, file: Path) -> None:
    found = visit(file, "#tab=memory")
    live = trace("resnet50").live_bytes
    peak = trace("resnet50").layers[live.index(max(live))].name
    text = found.page.locator(".panel-memory").inner_text()
    assert "Peak 11.8 MB" in text and f"Alive while {peak} runs (the peak)" in text


def test_the_roof_can_be_dragged_and_typed(visit: Any, file: Path) -> None:
    found = visit(file, "#tab=roofline")
    before = found.figure("seconds")
    found.page.get_by_label("GB/s").fill("100")
    found.page.get_by_label("GB/s").press("Enter")
    slower = found.figure("seconds")
    assert slower > before and "bandwidth=100000000000" in found.page.url
    grip = found.value(
        "(() => { const r = lamina.roofline, c = r.surface.canvas.getBoundingClientRect();"
        " const { x, y } = r.axes(r.surface.width, r.surface.height); return { x: c.left + x.to - 30,"
        " y: c.top + y.from + (Math.log(lamina.net.peak / y.low) / Math.log(y.high / y.low)) * (y.to - y.from) }; })()"
    )
    found.page.mouse.move(grip["x"], grip["y"])
    found.page.mouse.down()
    found.page.mouse.move(grip["x"], grip["y"] + 60, steps=4)
    found.page.mouse.up()
    assert "peak=" in found.page.url and found.figure("seconds") > slower


def test_mappings_are_shown_as_loops(visit: Any, mapped: Path) -> None:
    found = visit(mapped, "#tab=accelerator&chosen=c1")
    text = found.page.locator(".panel-accelerator").inner_text()
    assert "DRAM keeps weights, inputs, outputs" in text and "% of the array" in text
    found.page.get_by_label("Colour by").select_option("energy")
    assert found.page.locator(".legend").inner_text().startswith("Energy")


def test_the_map_of_the_zoo_opens_what_the_page_holds(visit: Any, file: Path) -> None:
    found = visit(file, "#tab=zoo")
    assert "76.1 %" in found.page.locator(".panel-zoo").inner_text()
    found.page.locator(".panel-zoo").get_by_role("button", name="resnet50_v1_5").click()
    assert found.figure("macs") == trace("resnet50_v1_5").macs


def test_the_address_holds_what_is_shown(visit: Any, file: Path) -> None:
    hash = "#net=resnet50_v1_5&batch=4&heat=saved&tab=memory&chosen=layer1.0.conv2&theme=dark&open=layer1,layer1.0"
    found = visit(file, hash)
    assert "layer1.0.conv2" in found.boxes()
    assert found.figure("macs") == 4 * trace("resnet50_v1_5").macs
    assert found.value("document.documentElement.dataset.theme") == "dark"
    assert found.page.url.endswith(hash)


def test_the_address_holds_the_place_and_the_scale(visit: Any, file: Path) -> None:
    found = visit(file)
    assert "view=" not in found.page.url  # nobody has moved it
    corner = found.page.locator("canvas.graph").first.bounding_box()
    x, y = corner["x"] + corner["width"] / 2, corner["y"] + corner["height"] / 2
    found.page.mouse.move(x, y)
    found.page.mouse.wheel(0, -400)
    found.page.mouse.down()
    found.page.mouse.move(x + 30, y - 90, steps=3)
    found.page.mouse.up()
    found.until("location.hash.includes('view=')")
    place = found.place("layer2")
    again = visit(file, "#" + found.page.url.partition("#")[2])
    again.until("lamina.stage.first.scale > 1.2")
    there = again.place("layer2")
    assert abs(there["x"] - place["x"]) < 2 and abs(there["y"] - place["y"]) < 2
    again.page.evaluate("location.hash = '#net=resnet50'")  # as a link would
    again.until("!location.hash.includes('view=')")


@pytest.mark.parametrize(
    "hash", ["#net=nothing", "#batch=-3&view=1,x,3&dtype=x&tab=y&open=a,,b&chosen=q&heat=z&machine=w&peak=1e999", "#%%%"]
)
def test_a_wrong_address_does_no_harm(visit: Any, file: Path, hash: str) -> None:
    assert visit(file, hash).figure("macs") == trace("resnet50").macs


def test_figures_are_saved_as_svg_png_and_csv(visit: Any, file: Path, tmp_path: Path) -> None:
    found = visit(file, "#tab=memory")
    for panel in (".graph-tools", ".panel-memory"):
        for form, begin in (("SVG", b"<svg "), ("PNG", b"\x89PNG"), ("CSV", b"")):
            with found.page.expect_download() as waiting:
                found.page.locator(panel).first.get_by_role("button", name=f"Save as {form}").click()
            path = tmp_path / f"{panel}.{form}"
            waiting.value.save_as(path)
            assert path.read_bytes().startswith(begin) and path.stat().st_size > 200
    assert "layer1.1.bn3" in (tmp_path / ".panel-memory.CSV").read_text()
    assert ">layer1<" in (tmp_path / ".graph-tools.SVG").read_text()


def test_the_keyboard_alone_is_enough(visit: Any, file: Path) -> None:
    found = visit(file)
    for _ in range(40):
        found.page.keyboard.press("Tab")
        if found.value("document.activeElement.className").startswith("graph"):
            break
    else:
        pytest.fail("the graph cannot be reached by Tab")
    for key in ("Home", "ArrowDown", "ArrowDown", "ArrowDown", "ArrowDown", "Enter", "ArrowDown"):
        found.page.keyboard.press(key)
    assert found.value("lamina.state.chosen") == "layer1.0"
    found.page.keyboard.press("Escape")
    assert found.value("lamina.state.chosen") == "layer1"
    assert "layer1" in found.page.locator(".unseen[aria-live]").first.inner_text()


@pytest.mark.parametrize(("width", "scheme"), [(1400, "dark"), (420, "light")])
def test_axe_finds_nothing_serious(visit: Any, file: Path, width: int, scheme: str) -> None:
    if not AXE.is_file():
        pytest.skip("needs axe-core (npm ci in web/)")
    found = visit(file, "#chosen=layer1", width, scheme)
    found.page.evaluate(AXE.read_text(encoding="utf-8"))
    for tab in ("Layer", "Table", "Memory", "Roofline", "Accelerator", "Difference", "Zoo"):
        found.tab(tab)
        result = found.page.evaluate("axe.run(document)")
        grave = [v for v in result["violations"] if v["impact"] in ("serious", "critical")]
        assert not grave, json.dumps([(v["id"], [n["html"][:120] for n in v["nodes"][:3]]) for v in grave], indent=1)
    assert found.value("document.documentElement.scrollWidth <= innerWidth"), "the page is wider than the screen"


def test_ten_thousand_layers_open_folded_and_say_so(visit: Any, tmp_path: Path) -> None:
    tensors = [Tensor(i, (1, 8), "float32", i, 32, "activation", False) for i in range(10_001)]
    layers = tuple(
        Layer(f"op{i}", "", "", 0, "elementwise", "add", {}, (tensors[i],), (tensors[i + 1],), (), (), {"add": 8})
        for i in range(10_000)
    )
    workload = Workload("chain", "eval", (tensors[0],), layers, (), 0, (), "last use", Coverage(10_000, 0))
    path = tmp_path / "chain.html"
    path.write_text(page.document(page.data([document.build(workload)], {}, [], [], []), "chain"), encoding="utf-8")
    found = visit(path)
    assert "10,000 layers: opened folded" in found.page.locator(".notice").inner_text()
    assert len(found.boxes()) == 100
    found.page.get_by_role("button", name="Unfold everything").click()
    text = found.page.locator(".notice").inner_text()
    shown = len(found.boxes())
    assert 3_900 <= shown <= 4_000 and f"10,100 nodes unfolded; 4,000 are drawn at once, so {shown:,} are shown" in text


def test_a_browser_without_storage_or_webgl(visit: Any, browser: Any, file: Path) -> None:
    page_ = browser.new_page()
    errors: list[str] = []
    page_.on("pageerror", lambda error: errors.append(str(error)))
    page_.add_init_script(
        "for (const name of ['localStorage', 'sessionStorage', 'indexedDB'])"
        " Object.defineProperty(window, name, { get() { throw new Error('denied'); } });"
        " const get = HTMLCanvasElement.prototype.getContext;"
        " HTMLCanvasElement.prototype.getContext = function (kind) { return kind === '2d' ? get.call(this, kind) : null; };"
    )
    page_.goto(file.as_uri())
    page_.wait_for_selector(".strip strong")
    page_.get_by_role("button", name="Unfold everything").click()
    assert errors == []
    page_.close()
