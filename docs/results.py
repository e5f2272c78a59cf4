"""make results: write README.md, docs/*.md and the weights' card from their templates, every figure from where it comes from.

    python docs/results.py            # write them
    python docs/results.py --check    # say which differ, and exit with code 1 if any does
    python docs/results.py --adopt    # take edits that were made in a written file back into its template

The text is in docs/templates; a figure is an expression in it (Jinja's): a count made now by Lamina, a weight file's own
metadata, or a benchmark's record in benchmarks/records, which says by what command, at which commit, where, when and from which
seed it was measured. `tests/test_results.py` fails when a written file differs from its template's.
"""

import argparse
import json
import os
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterable, Iterator
from functools import cache
from pathlib import Path
from statistics import fmean, median
from types import SimpleNamespace
from typing import Any

import jinja2

ROOT = Path(__file__).resolve().parents[1]
TEMPLATES, RECORDS = ROOT / "docs" / "templates", ROOT / "benchmarks" / "records"
TARGETS = {
    "README.md": "README.md",
    "cost.md": "docs/cost.md",
    "growing.md": "docs/growing.md",
    "hardware.md": "docs/hardware.md",
    "inference.md": "docs/inference.md",
    "lecture.md": "docs/lecture.md",
    "results.md": "docs/results.md",
    "serving.md": "docs/serving.md",
    "start.md": "docs/start.md",
    "theory.md": "docs/theory.md",
    "training.md": "docs/training.md",
    "weights.md": "lamina/zoo/pretrained/README.md",
    "zoo.md": "docs/zoo.md",
}
sys.path[:0] = [str(ROOT), str(ROOT / "benchmarks")]


# ---- where figures come from ----------------------------------------------------------------------------------------


class Records:
    """benchmarks/records/NAME.json as the attribute NAME."""

    def __getattr__(self, name: str) -> Any:
        path = RECORDS / f"{name}.json"
        if not path.exists():
            raise AttributeError(f"no record benchmarks/records/{name}.json")
        return json.loads(path.read_text(encoding="utf-8"))


@cache
def shipped() -> dict[str, dict[str, Any]]:
    """The provenance of the weights that ship, by network: what `lamina show` prints."""
    from lamina.weights.provenance import provenance
    from lamina.weights.reading import read_metadata

    files = sorted((ROOT / "lamina" / "zoo" / "pretrained").glob("*.safetensors"))
    return {read_metadata(path)["network"]: provenance(path) for path in files}


@cache
def totals(name: str, train: bool = False, **changes: Any) -> Any:
    """`Workload.total()` of one of the zoo's networks on its own input, counted now."""
    from lamina.lecture import facts

    return facts.workload(name, train, **changes).total()


@cache
def command(line: str) -> str:
    """What a `lamina` command prints on a wide terminal without colours."""
    environment = os.environ | {"COLUMNS": "128", "NO_COLOR": "1", "PYTHONPATH": str(ROOT)}
    done = subprocess.run([sys.executable, "-m", *line.split()], env=environment, capture_output=True, text=True, check=True)
    return "\n".join(text.rstrip() for text in done.stdout.rstrip().splitlines())


def cost_example(name: str, first: str, last: str) -> str:
    """`lamina cost NAME`, the rows between two modules left out."""
    lines = command(f"lamina cost {name}").splitlines()
    starts = [line.split()[0] if line.split() else "" for line in lines]
    begin, end = starts.index(first), starts.index(last)
    return "\n".join([*lines[: begin + 1], " ...", *lines[end:]])


def degradation() -> str:
    """The section on degradation, from the record that ships with the lecture."""
    from degradation import section

    from lamina.lecture.degradation import measured

    return section(measured())


@cache
def growth() -> SimpleNamespace:
    """The experiments of growing, from the record that ships with the lecture: tables and means with their intervals."""
    import tables

    from lamina.lecture import multiscale

    found = multiscale.measured()

    def table(rows: list[list[str]]) -> str:
        return tables.markdown(rows[0], rows[1:])

    return SimpleNamespace(
        made=lambda experiment: found["runs"][next(iter(found[experiment].values()))["run"]],
        large=found["runs"][0],
        transfer=table(multiscale.transfer_rows(found)),
        arms=lambda experiment, *marks: table(multiscale.arm_rows(found, experiment, marks)),
        pays=lambda *experiments: all(multiscale.pays(found, name)[0] for name in experiments),
        has=lambda experiment, arm: arm in found[experiment],
        missing="; ".join(
            f"{title}: {', '.join(multiscale.TITLES[arm] for arm in found['missing'][name])}"
            for name, title in multiscale.EXPERIMENTS.items()
            if found["missing"][name]
        ),
        after=table(multiscale.growth_rows(found)),
        resolution_caption=multiscale.RESOLUTION_CAPTION,
        depth_caption=multiscale.DEPTH_CAPTION,
        transformer_caption=multiscale.TRANSFORMER_CAPTION,
        macs=lambda experiment: found[experiment]["scratch"]["macs"],
        steps=lambda experiment: found[experiment]["scratch"]["steps"][0],
        gain=lambda experiment, arm, other="scratch": multiscale.gain(found, experiment, arm, other),
        judged=lambda experiment, arm, other="scratch": multiscale.judged(found, experiment, arm, other),
        loss=lambda experiment, arm: found[experiment][arm]["loss"],
        own=lambda network, direction: found["transfer"][network][direction]["own"],
        other=lambda network, direction, operator: multiscale.at_the_other(found, network, direction)[operator],
        plain_most=max(
            value
            for direction in found["transfer"]["residual"].values()
            for operator, kinds in direction["other"].items()
            if operator != "dilated"
            for value in kinds["plain"]
        ),
        inverses=[
            fmean(multiscale.at_the_other(found, "residual", "finer")[name])
            for name in ("constant", "bilinear", "bilinear_damped")
        ],
        top1=lambda experiment, arm: found[experiment][arm]["top1"],
    )


# ---- how figures are written ----------------------------------------------------------------------------------------


def interval(values: list[float], digits: int = 2) -> str:
    """The mean and half the width of the 95 % interval of Student's t; of one value the value."""
    from lamina.lecture.multiscale import STUDENT

    if len(values) == 1:
        return f"{values[0]:.{digits}f}"
    half = STUDENT[len(values)] * (sum((v - fmean(values)) ** 2 for v in values) / (len(values) - 1) / len(values)) ** 0.5
    return f"{fmean(values):.{digits}f} ± {half:.{digits}f}"


def several(values: Any, digits: int = 2) -> str:
    return ", ".join(f"{value:.{digits}f}" for value in values)


def aligned_gain(diagnosis: dict[str, Any]) -> tuple[float, float]:
    """By how many percent, at least and at most, hidden units in the same order bring neighbouring blocks together."""
    pairs = [(b["change"], b["aligned"]) for b in diagnosis["blocks"] if "aligned" in b]
    gains = [100 * (1 - aligned / change) for change, aligned in pairs]
    return min(gains), max(gains)


def duration(seconds: float) -> str:
    return f"{seconds:.0f} s" if seconds < 100 else f"{seconds / 60:.0f} min"


FILTERS: dict[str, Callable[..., Any]] = {
    "count": lambda value: f"{value:,}",  # 4,089,184,256
    "fixed": lambda value, digits=2: f"{value:.{digits}f}",
    "giga": lambda value, digits=2: f"{value / 1e9:.{digits}f}G",
    "mega": lambda value, digits=0: f"{value / 1e6:.{digits}f}M",
    "percent": lambda value, digits=2: f"{value:.{digits}f} %",
    "figures": lambda value, digits=3: f"{value:.{digits}g}",
    "scientific": lambda value, digits=0: f"{value:.{digits}e}",
    "median": lambda values: median(values),
    "interval": interval,
    "several": several,
    "duration": duration,
    "aligned_gain": aligned_gain,
    "taken_from": lambda key, table: table[key],
}


@cache
def environment() -> jinja2.Environment:
    import tables

    from lamina.lecture import claims, facts, summary
    from lamina.zoo import registry
    from tests.peers.small_transformers import NETWORKS

    found = jinja2.Environment(
        loader=jinja2.FileSystemLoader(TEMPLATES), undefined=jinja2.StrictUndefined, keep_trailing_newline=True,
        trim_blocks=True, lstrip_blocks=True, autoescape=False,
    )  # fmt: skip
    found.filters.update(FILTERS)
    found.globals.update(
        records=Records(), shipped=shipped(), total=totals, command=command, cost_example=cost_example, tables=tables,
        degradation=degradation, growth=growth(), transformers=len(NETWORKS),
        summary=summary, registry=registry, facts=facts, mean=fmean,
        claims=[claim for slide in claims.slides() for claim in slide.claims],
        digits=len(list((ROOT / "lamina" / "data" / "digits").glob("*.png"))),
    )  # fmt: skip
    return found


@cache
def render(template: str) -> str:
    return environment().get_template(template).render()


# ---- the command ----------------------------------------------------------------------------------------------------


def differing(root: Path = ROOT, templates: Iterable[str] = TARGETS) -> Iterator[tuple[str, str, str]]:
    """(template, path, text) of each file under `root` that is not what its template gives."""
    for template in templates:
        path, text = TARGETS[template], render(template)
        if not (root / path).exists() or (root / path).read_text(encoding="utf-8") != text:
            yield template, path, text


def adopt(template: str, path: str, text: str) -> bool:
    """Merge what was edited in a written file into its template; whether no line is left to merge by hand."""
    with tempfile.NamedTemporaryFile("w", suffix=".md", encoding="utf-8") as base:
        base.write(text)
        base.flush()
        return not subprocess.run(["git", "merge-file", TEMPLATES / template, base.name, ROOT / path], check=False).returncode


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--check", action="store_true", help="write nothing")
    parser.add_argument("--adopt", action="store_true", help="from the written files into the templates")
    options = parser.parse_args()
    left = 0
    for template, path, text in list(differing()):
        if options.check:
            print(f"{path} is not what docs/templates/{template} gives: edit the template, and run make results")
            left += 1
        elif options.adopt:
            merged = adopt(template, path, text)
            print(f"docs/templates/{template}: {'taken over' if merged else 'conflicts are marked in it'}")
            left += not merged
        else:
            (ROOT / path).write_text(text, encoding="utf-8")
            print(f"wrote {path}")
    return 1 if left else 0


if __name__ == "__main__":
    sys.exit(main())
