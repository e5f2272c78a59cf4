"""Figures and the page: well-formed, self-contained, legible, and nothing lost or unescaped."""

import base64
import hashlib
import itertools
import math
import re
import subprocess
import sys
import xml.etree.ElementTree as ET
from collections import Counter
from html.parser import HTMLParser

import jinja2
import pytest
from markupsafe import escape

from lamina.report import lecture_page, page, plot
from lamina.workload import Coverage, Layer, Loops, Weight, Workload

SVG = "{http://www.w3.org/2000/svg}"
WHITE, DARK = "#ffffff", "#16181c"
VOID = {"meta", "link", "br", "hr", "img", "input"}


def workload(names, kinds=("conv", "linear"), macs=1_500_000):
    """A chain of layers of alternating kinds; the i-th has 1000 (i + 1) weights, and a bias that no figure counts."""
    layers = []
    for i, name in enumerate(names):
        weight = Weight((f"{name}.weight",), (1000, i + 1), "float32", 2 * i, "weight", True)
        bias = Weight((f"{name}.bias",), (7,), "float32", 2 * i + 1, "bias", True)
        loops = (Loops(N=macs),)
        layers.append(Layer(name, name, "Layer", 0, kinds[i % len(kinds)], "op", {}, (), (), (weight, bias), loops, {}))
    layers.append(Layer("the_relu", "the_relu", "ReLU", 0, "activation", "relu", {}, (), (), (), (), {}))
    weights = tuple(w for layer in layers for w in layer.weights)
    return Workload("Net", "eval", (), tuple(layers), weights, 0, (), "eager", Coverage(0, 0))


POINTS = [
    ("AlexNet", "AlexNet", 0.71e9, 61_100_840, 56.5), ("VGG-11", "VGG", 7.61e9, 132_863_336, 69.0),
    ("VGG-16", "VGG", 15.47e9, 138_357_544, 71.6), ("VGG-19", "VGG", 19.6e9, 143_667_240, 72.4),
    ("GoogLeNet", "Inception", 1.58e9, 6_998_552, 69.8), ("Inception v3", "Inception", 5.71e9, 23_834_568, 77.3),
    ("Inception v4", "Inception", 12.3e9, 42_679_816, 80.1), ("ResNet-18", "ResNet", 1.81e9, 11_689_512, 69.8),
    ("ResNet-34", "ResNet", 3.66e9, 21_797_672, 73.3), ("ResNet-50", "ResNet", 3.86e9, 25_557_032, 76.1),
    ("ResNet-101", "ResNet", 7.57e9, 44_549_160, 77.4), ("ResNet-152", "ResNet", 11.3e9, 60_192_808, 78.3),
    ("DenseNet-121", "DenseNet", 2.83e9, 7_978_856, 74.4), ("ResNeXt-50 32x4d", "ResNeXt", 4.23e9, 25_028_904, 77.6),
    ("ViT-B/16", "ViT", 17.56e9, 86_567_656, 81.1),
]  # fmt: skip


@pytest.fixture(scope="module")
def figures():
    return {
        "bars": plot.layer_bars(workload(["conv1", "fc <2> & more"]), "LeNet-5 & friends"),
        "deep": plot.layer_bars(workload([f"layer{i}.downsample.0" for i in range(54)]), "deep"),
        "scatter": plot.scatter(POINTS),
        "heat": plot.heatmap(["weight <stationary>"], ["conv1", "conv2"], [[0.25, 1.0]], "busy"),
    }


def texts(svg):
    return ["".join(element.itertext()) for element in ET.fromstring(svg).iter(f"{SVG}text")]


@pytest.mark.parametrize("name", ["bars", "deep", "scatter", "heat"])
def test_figures_are_clean_svg(figures, name):
    svg = figures[name]
    root = ET.fromstring(svg)
    assert root.tag == f"{SVG}svg" and root.get("viewBox")
    assert not root.findall(f"{SVG}metadata")
    assert "currentColor" in svg and plot.INK not in svg and plot.FONT not in svg
    assert set(re.findall(r"http[^\"' ]*", svg)) <= {"http://www.w3.org/2000/svg", "http://www.w3.org/1999/xlink"}
    assert "data:" not in svg, "a raster image"
    assert not [e for e in root.iter(f"{SVG}path") if "#ffffff" in e.get("style", "")], "a white background"


def test_figures_depend_on_their_input_alone(figures):
    import matplotlib

    saved = dict(matplotlib.rcParams)
    with matplotlib.rc_context({"font.size": 20, "axes.facecolor": "red", "svg.hashsalt": None, "axes.grid": True}):
        assert plot.scatter(POINTS) == figures["scatter"]
        assert plot.heatmap(["weight <stationary>"], ["conv1", "conv2"], [[0.25, 1.0]], "busy") == figures["heat"]
        assert matplotlib.rcParams["font.size"] == 20
    assert dict(matplotlib.rcParams) == saved


def test_importing_the_report_is_cheap():
    code = "import sys, lamina.report.plot, lamina.report.page; print({'matplotlib', 'torch', 'numpy'} & set(sys.modules))"
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout.strip() == "set()"


def test_bars_show_weights_and_macs_of_counted_layers(figures):
    words = texts(figures["bars"])
    assert {"conv1", "fc <2> & more", "LeNet-5 & friends", "conv", "linear"} <= set(words)
    assert "the_relu" not in words
    assert "Weights per layer, 3k in all" in words and "MACs per layer, 3M in all" in words
    assert {"1k", "2k", "1.5M"} <= set(words), "values on few bars"


def test_a_network_without_counted_layers_has_empty_bars():
    assert "Weights per layer, 0 in all" in texts(plot.layer_bars(workload([]), "t"))


def contrast(colour, background):
    """WCAG 2.1, relative luminance."""

    def luminance(text):
        parts = [int(text[i : i + 2], 16) / 255 for i in (1, 3, 5)]
        linear = [p / 12.92 if p <= 0.04045 else ((p + 0.055) / 1.055) ** 2.4 for p in parts]
        return 0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2]

    light, dark = sorted((luminance(colour), luminance(background)), reverse=True)
    return (light + 0.05) / (dark + 0.05)


@pytest.mark.parametrize("colour", plot.COLOURS)
@pytest.mark.parametrize("background", [WHITE, DARK])
def test_colours_stand_out_on_white_and_on_dark(colour, background):
    assert contrast(colour, background) >= 3


@pytest.mark.parametrize("count", [8, 16, 54, 62, 63, 84, 156, 400])
def test_layer_labels_do_not_run_into_each_other(count):
    names = [f"layer{i}.conv{i}" for i in range(count)]
    for svg in (plot.layer_bars(workload(names), "t"), plot.heatmap(["a"], names, [[0.5] * count], "t")):
        places = []
        for element in ET.fromstring(svg).iter(f"{SVG}text"):
            if element.text in names:
                assert element.get("transform").startswith("rotate(-90 ")
                assert "end" in element.get("style"), "held at the axis"
                places.append((float(element.get("x")), float(re.search(r"(\d+)px", element.get("style")).group(1))))
        assert len(places) == count if count <= 62 else len(places) > 30
        for (left, size), (right, _) in itertools.pairwise(places):
            assert size >= 7 and right - left >= 1.2 * size


def test_long_names_keep_their_end():
    words = texts(plot.layer_bars(workload(["encoder.layers.0.self_attention.out_projection"]), "t"))
    assert [w for w in words if w.startswith("…") and w.endswith("self_attention.out_projection")]


def boxes(svg, names):
    """Where labels are, in points: each character 0.6 of the font's size, as wide as DejaVu Sans."""
    for element in ET.fromstring(svg).iter(f"{SVG}text"):
        if element.text in names:
            style = element.get("style")
            size = float(re.search(r"([\d.]+)px", style).group(1))
            width, x, y = 0.6 * size * len(element.text), float(element.get("x")), float(element.get("y"))
            left = x - width / 2 if "middle" in style else x - width if "end" in style else x
            yield element.text, (left, y - 0.8 * size, left + width, y + 0.2 * size)


def test_scatter_labels_do_not_collide(figures):
    names = {point[0] for point in POINTS} - {point[1] for point in POINTS}  # the legend has the families
    placed = dict(boxes(figures["scatter"], names))
    assert set(placed) == names
    width, height = map(float, ET.fromstring(figures["scatter"]).get("viewBox").split()[2:])
    for name, box in placed.items():
        assert min(box) >= 0 and box[2] <= width and box[3] <= height
        for other, their in placed.items():
            apart = box[2] <= their[0] or their[2] <= box[0] or box[3] <= their[1] or their[3] <= box[1]
            assert name == other or apart, (name, other)


def test_scatter_names_every_family_and_three_sizes(figures):
    words = Counter(texts(figures["scatter"]))
    assert {point[1] for point in POINTS} <= set(words)
    assert {"6M", "30M", "100M", "Parameters", "Family"} <= set(words)
    assert words["AlexNet"] == 2, "the point and its family"


@pytest.mark.parametrize(("columns", "printed"), [(16, True), (17, False)])
def test_heatmap_prints_values_in_few_columns(columns, printed):
    svg = plot.heatmap(["ws", "os"], [f"c{i}" for i in range(columns)], [[0.337] * columns, [math.nan] * columns], "t")
    words = Counter(texts(svg))
    assert words["34"] == (columns if printed else 0)
    assert "nan" not in words and {"ws", "os", "c0", "0 %", "100 %"} <= set(words)


@pytest.mark.parametrize(
    ("count", "text"),
    [(0, "0"), (25, "25"), (999, "999"), (1000, "1k"), (25_502_912, "25.5M"), (999_400, "999k"), (999_600, "1M"),
     (15_470_264_320, "15.5G"), (1.2e12, "1.2T")],
)  # fmt: skip
def test_human(count, text):
    assert plot.human(count) == text


EVIL = "<script>alert('x')</script> & \"$title\" \\1 ${intro}"
TABLE = {
    "columns": [{"key": "macs", "title": "MACs <all>"}, {"key": "filters", "title": "filter sizes"}],
    "rows": [
        {"network": "VGG-16", "cells": {"macs": {"lecture": "15.5G", "exact": 15470264320, "note": 2},
                                        "filters": {"lecture": "<3>", "exact": "3 - 1000", "note": None}}},
        {"network": "A & B", "cells": {"macs": {"lecture": "n/a", "exact": 7.25, "note": None},
                                       "filters": {"lecture": "4", "exact": 4, "note": None}}},
    ],
    "notes": ["The first.", "The second & `lamina table`."],
}  # fmt: skip


def claim(number, verdict, **changes):
    plain = {"slide": "VGG", "claim": f"claim {number}", "lecture": f"L{number}", "lamina": f"O{number}"}
    return {**plain, "verdict": verdict, "why": f"because {number}", "command": f"lamina cost vgg{number}", **changes}


@pytest.fixture(scope="module")
def document(figures):
    verdicts = [v for v, n in zip(lecture_page.VERDICTS, (4, 3, 2, 1), strict=True) for _ in range(n)]
    claims = [claim(i, verdict) for i, verdict in enumerate(verdicts)]
    twice = [page.Figure(figures["bars"], caption) for caption in ("Bars & <more> \\1", "again")]
    evil = claim(99, "confirmed", claim=EVIL, lecture=EVIL, lamina=EVIL, why=EVIL, command=EVIL)
    sections = [
        lecture_page.Section("VGG", "One.\n\nTwo.", claims[:6], twice),
        lecture_page.Section(EVIL, EVIL, [evil]),
        lecture_page.Section("Last", "", claims[6:], [page.Figure(figures[name], name) for name in ("scatter", "heat", "deep")],
                     [lecture_page.Table(EVIL, ["network", EVIL], [[EVIL, "1.25"], ["plain", EVIL]])]),
    ]  # fmt: skip
    return lecture_page.render(EVIL, EVIL, TABLE, sections)


class Outline(HTMLParser):
    """Checks that tags are balanced; collects tags, attributes and text."""

    def __init__(self, text):
        super().__init__()
        self.open, self.tags, self.words = [], [], []
        self.feed(text)
        assert not self.open

    def handle_starttag(self, tag, attributes):
        assert len(dict(attributes)) == len(attributes), f"an attribute twice in {tag}"
        self.tags.append((tag, dict(attributes)))
        if tag not in VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag, attributes):
        self.tags.append((tag, dict(attributes)))

    def handle_endtag(self, tag):
        assert self.open.pop() == tag

    def handle_data(self, data):
        self.words.append(data)


@pytest.fixture(scope="module")
def outline(document):
    return Outline(document)


def test_ids_are_unique_and_references_resolve(outline, document):
    ids = Counter(attributes["id"] for _, attributes in outline.tags if "id" in attributes)
    assert not [name for name, count in ids.items() if count > 1]
    links = [a[key] for _, a in outline.tags for key in ("href", "xlink:href") if a.get(key, "").startswith("#")]
    links += [f"#{name}" for name in re.findall(r"url\(#([^)]+)\)", document)]
    assert len(links) > 20 and not [link for link in links if link[1:] not in ids]


def test_the_page_asks_for_nothing(outline, document):
    for tag, attributes in outline.tags:
        for key in ("src", "href", "xlink:href", "srcset", "action", "data", "poster"):
            assert re.match(r"#|data:|$", attributes.get(key, "")), (tag, attributes)
            assert "http" not in attributes.get(key, "")
        assert tag not in ("iframe", "img", "object") and "@import" not in str(attributes)
    assert next(a for tag, a in outline.tags if tag == "link")["href"].startswith("data:"), "else a favicon is asked for"
    policy = next(a["content"] for tag, a in outline.tags if a.get("http-equiv") == "Content-Security-Policy")
    assert "default-src 'none'" in policy
    (script,) = re.findall(r"<script>(.*?)</script>", document, re.DOTALL)
    digest = base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()
    assert f"script-src 'sha256-{digest}'" in policy


def test_a_value_that_a_template_misses_is_an_error():
    with pytest.raises(jinja2.UndefinedError, match="'intro' is undefined"):
        page.render("compare.html", title="t")


def test_data_is_escaped(outline, document):
    assert [tag for tag, _ in outline.tags].count("script") == 1, "the page's own"
    assert "alert('x')" not in document
    places = "title, heading, intro, contents, section and text; five of a claim; of a table four and its name for readers"
    assert document.count(escape(EVIL)) == 6 + 5 + 5, places
    assert "MACs &lt;all&gt;" in document and "&lt;3&gt;" in document and "A &amp; B" in document


def test_every_claim_is_there(outline):
    words = set(outline.words)
    for number in range(10):
        assert {f"claim {number}", f"L{number}", f"O{number}", f"because {number}", f"lamina cost vgg{number}"} <= words
    items = [a for tag, a in outline.tags if tag == "li" and "claim" in a.get("class", "").split()]
    assert Counter(a["data-verdict"] for a in items) == dict(zip(lecture_page.VERDICTS, (5, 3, 2, 1), strict=True))


def test_the_tally_counts(document):
    found = re.findall(r'data-verdict="([^"]*)" aria-pressed="(\w+)"><strong>(\d+)</strong>', document)
    counts = zip(lecture_page.VERDICTS, ("false",) * 4, ("5", "3", "2", "1"), strict=True)
    assert found == [("", "true", "11"), *counts]


def test_an_unknown_verdict_is_refused():
    with pytest.raises(KeyError, match="perhaps"):
        lecture_page.render("t", "i", TABLE, [lecture_page.Section("s", "", [claim(1, "perhaps")])])


def test_the_table_shows_both_figures_and_notes(outline, document):
    assert {"15.5G", "15,470,264,320", "3 - 1000", "7.25", "filter sizes"} <= set(outline.words)
    assert 'href="#note-2"' in document and 'href="#note-1"' not in document
    assert '<li id="note-2">The second &amp; <code>lamina table</code>.</li>' in document
    assert document.count("<caption>") == 2 and document.count('<th scope="row">') == 2 + 2
    assert '<th scope="row">plain</th><td class="number">' in document and '<td class="number">1.25</td></tr>' in document


def test_inlined_figures_are_xml_with_a_name(document, figures):
    inlined = [ET.fromstring(svg) for svg in re.findall(r"<svg.*?</svg>", document, re.DOTALL)]
    assert [svg.get("aria-label") for svg in inlined] == ["Bars & <more> \\1", "again", "scatter", "heat", "deep"]
    assert {svg.get("role") for svg in inlined} == {"img"}
    assert "".join(inlined[2].itertext()) == "".join(ET.fromstring(figures["scatter"]).itertext())


def test_the_page_for_readers(outline, document):
    html = next(a for tag, a in outline.tags if tag == "html")
    metas = [a for tag, a in outline.tags if tag == "meta"]
    assert html["lang"] == "en" and metas[0] == {"charset": "utf-8"} and any(a.get("name") == "viewport" for a in metas)
    levels = [int(tag[1]) for tag, _ in outline.tags if re.fullmatch(r"h[1-6]", tag)]
    assert levels.count(1) == 1 and all(after - before <= 1 for before, after in itertools.pairwise(levels))
    light, dark = re.findall(r":root \{(.*?)\}", document, re.DOTALL)
    for block in (light, dark):
        colours = dict(re.findall(r"--(\w+): (#\w{6})", block))
        for name in ("ink", "soft", "link", "green", "red", "amber", "grey"):
            for ground in ("paper", "raised"):
                assert contrast(colours[name], colours[ground]) >= 4.5, (name, ground)
