"""Every figure of README.md, docs/*.md and the weights' card is what its record, its weight file or a count gives."""

import importlib.util
import json
import re
import tomllib
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

from tests.conftest import CHECKOUT


def load() -> ModuleType:
    spec = importlib.util.spec_from_file_location("results", CHECKOUT / "docs" / "results.py")
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


results = load()


@pytest.mark.slow
def test_every_figure_is_what_it_was_measured_or_counted_to_be() -> None:
    wrong = [f"{path} is not what docs/templates/{template} gives" for template, path, _ in results.differing()]
    assert wrong == [], "edit the template, not the file, and run make results (or: make results ADOPT=1, to keep an edit)"


# Twenty places of different kinds: a figure in a written file, by what stands around it, and what a forger makes of it.
FORGED = [
    ("README.md", r"fp32: (3,857,973,248) MACs", "1"),  # MACs counted live
    ("README.md", r"MACs, (25,557,032) parameters", "25,557,033"),  # parameters
    ("README.md", r"memory for inference (114 MB)", "11 MB"),  # bytes
    ("README.md", r"FLOPs \(2 per MAC\), (18\.7) per byte", "99.9"),  # a ratio
    ("README.md", r"\| ResNet-50 \| ([\d,]+) \| \*\*right", "4,089,184,257"),  # arithmetic of the scoreboard
    ("README.md", r"rows right, of \d+ \|  \| \d+ \| (\d+)", "0"),  # another tool's score
    ("README.md", r"\| ResNet-152 \| ([\d.]+)", "0.1"),  # milliseconds
    ("README.md", r"\| ViT-L/16 \|.*\| ([\d.]+) \|", "77.7"),  # a ratio of times
    ("README.md", r"`vit_mnist` \| shipped \| MNIST test, 10,000 \| (98\.98) %", "99.99"),  # an accuracy
    ("README.md", r"has BLEU (64\.45) \(beam 5\)", "99.99"),  # BLEU
    ("README.md", r"goes from 854M to (271)M", "171"),  # a figure of the lecture
    ("docs/results.md", r"top-1 (91\.31), 91\.06", "92.31"),  # one of three seeds
    ("docs/results.md", r"\| one cosine \| 91\.72, .* \| (91\.37) %", "93.37"),  # a mean
    ("docs/results.md", r"from scratch \| 0\.01, of .* \| 98\.26 ± (0\.28)", "0.01"),  # an interval
    ("docs/results.md", r"\| ResNet-20 \| 128 \| .* \| ([\d.]+) \| [\d.]+ \|", "1.500"),  # the loops' ratio
    ("docs/results.md", r"plain56_cifar \| ([\d.]+) ", "0.24"),  # a loss
    ("docs/theory.md", r"ResNet-20, CIFAR-10 \| split \| ([\d,]+) of", "9,999"),  # predictions that stay
    ("docs/theory.md", r"costs a trained ResNet-20 ([\d.]+) points", "0.1"),  # a difference
    ("docs/hardware.md", r"CONV1 \| 154 \(154\) \| ([\d.]+) ", "18.5"),  # traffic
    ("docs/inference.md", r"VGG-16's take (\d+) MB", "49"),  # bytes of weights
    ("docs/inference.md", r"256 to 256, 56x56 \| .* \| ([\d.]+) \| \S+ \|", "0.6"),  # Winograd's time
    ("docs/training.md", r"side alone: (\d+) of", "0"),  # overlap
    ("lamina/zoo/pretrained/README.md", r"(99\.20) % of 10,000", "99.90"),  # the card's accuracy
    ("lamina/zoo/pretrained/README.md", r"gives (60\.46) on the", "70.46"),  # BLEU on what training has not seen
]


@pytest.mark.slow
@pytest.mark.parametrize(("path", "place", "forged"), FORGED)
def test_a_forged_figure_is_seen(path: str, place: str, forged: str, tmp_path: Path) -> None:
    text = (CHECKOUT / path).read_text(encoding="utf-8")
    found = re.search(place, text)
    assert found is not None, "the place is gone: name another"
    assert found[1] != forged
    target = tmp_path / path
    target.parent.mkdir(parents=True, exist_ok=True)
    target.write_text(text[: found.start(1)] + forged + text[found.end(1) :], encoding="utf-8")
    template = next(template for template, written in results.TARGETS.items() if written == path)
    assert [written for _, written, _ in results.differing(tmp_path, [template])] == [path]


# ---- templates hold no measured figure as text ----------------------------------------------------------------------

UNITS = "%|MACs|FLOPs|parameters|ms|kB|MB|MiB|GB|s|seconds|min|minutes|G|M"
FIGURE = re.compile(
    rf"(?<![\w.^])\d[\d,]*(?:\.\d+)?\s?(?:{UNITS})(?!\w)"  # with a unit
    r"|(?<![\w.^])\d+\.\d+(?![\w.])"  # with a point
    r"|(?<![\w.])\d{1,3}(?:,\d{3})+"  # with a comma
    r"|BLEU \d+"
)


def prose(template: str) -> str:
    """A template's text without expressions, code and links."""
    for pattern, kept in (
        (r"\{#.*?#\}|\{\{.*?\}\}|\{%.*?%\}", "\0"),
        (r"```.*?```", ""),
        (r"`[^`\n]*`", ""),
        (r"\]\([^)]*\)", "]"),
    ):
        template = re.sub(pattern, kept, template, flags=re.DOTALL)
    return "\n".join(line for line in template.splitlines() if not line.startswith("    "))


def typed(text: str) -> set[str]:
    return {" ".join(found.group().split()) for found in FIGURE.finditer(prose(text))}


PAGES = {path.name: path for path in (CHECKOUT / "docs").glob("*.md")} | {n: results.TEMPLATES / n for n in results.TARGETS}


@pytest.mark.parametrize("page", sorted(PAGES))
def test_a_page_types_no_figure_but_those_listed(page: str) -> None:
    """Of pages with a template the template, of the others the page itself."""
    listed = tomllib.loads((results.TEMPLATES / "typed.toml").read_text(encoding="utf-8")).get(page, {})
    found = typed(PAGES[page].read_text(encoding="utf-8"))
    assert found == set(listed), "give a figure as an expression of a template, or list it in typed.toml with what it is"


@pytest.mark.parametrize(
    "figure", ["91.4 %", "BLEU 65", "1 MACs", "25,557,032", "3.5", "12 ms", "40 % faster", "494 MB", "0.97 of"]
)
def test_a_figure_typed_into_a_template_is_seen(figure: str) -> None:
    assert typed(f"A sentence with {figure} in it, `1.5 s` in code and {{{{ 3.25 }}}} in an expression.")


# ---- records ---------------------------------------------------------------------------------------------------------

RECORDS = sorted(results.RECORDS.glob("*.json"))
# Records that were typed from what a run had printed, because the run's own were not kept: they say so in a note.
TYPED = {"mapping", "train_overhead"}


@pytest.mark.parametrize("path", RECORDS, ids=lambda path: path.stem)
def test_a_record_says_where_it_is_from(path: Path) -> None:
    made = json.loads(path.read_text(encoding="utf-8"))["provenance"]
    assert made["command"]
    if path.stem == "training":  # each run has its own
        for name, row in json.loads(path.read_text())["rows"].items():
            assert row["provenance"]["machine"] and ("commit" in row["provenance"] or "note" in row), name
        return
    assert re.fullmatch(r"\d{4}-\d\d-\d\d", made["date"]) and made["machine"] and made["torch"]
    assert "seed" in made and ("note" in made) == (path.stem in TYPED)
    assert path.stem in TYPED or re.fullmatch("[0-9a-f]{40}", made["commit"])


def test_shipped_weights_were_evaluated_to_what_their_files_say() -> None:
    rows: Any = results.Records().evaluations["rows"]
    for row, network in (("lenet5", "lenet5"), ("vit_mnist", "vit_mnist"), ("resnet20_cifar", "resnet20_cifar")):
        assert rows[row]["result"]["top1"] == results.shipped()[network]["result"]["top1"]
    assert rows["transformer_tatoeba"]["result"]["bleu"] == results.shipped()["transformer_de_en"]["result"]["bleu"]
