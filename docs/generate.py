"""What of the site is made from what the package knows: a page for each family of networks and for each verb, and the plots of
the gallery.

`docs/conf.py` calls `write` before the site is built. Nothing of it is kept in the repository.
"""

import contextlib
import importlib
import inspect
import io
import re
import shlex
from collections.abc import Sequence
from functools import cache
from pathlib import Path
from typing import Any

import typer.main

import lamina
from lamina.cli import app
from lamina.units import shape
from lamina.workload import Layer, Workload
from lamina.zoo import registry

GUIDES = {
    "demo": "start", "list": "zoo", "show": "zoo", "table": "lecture", "lecture": "lecture", "cost": "cost", "compare": "cost",
    "fit": "hardware", "roofline": "hardware", "run": "inference", "translate": "inference", "bench": "inference",
    "export": "inference", "eval": "inference", "train": "training", "grow": "growing", "shrink": "growing",
    "diagnose": "growing", "serve": "serving", "explore": "explorer",
}  # fmt: skip
EXAMPLES = {
    "resnet": "resnet50", "vgg": "vgg16", "densenet": "densenet121", "vit": "vit_b_16", "wide_resnet": "wrn28_10_cifar",
    "resnext": "resnext50_32x4d", "overfeat": "overfeat_accurate",
}  # fmt: skip
TABLES = {  # the networks of the paper's own table
    "resnet": ("resnet18", "resnet34", "resnet50", "resnet101", "resnet152"),
    "vgg": ("vgg11", "vgg13", "vgg16", "vgg19"),
    "densenet": ("densenet121", "densenet169", "densenet201", "densenet264"),
    "vit": ("vit_b_16", "vit_l_16", "vit_h_14"),
    "resnext": ("resnet50", "resnext50_32x4d"),
    "overfeat": ("overfeat_fast", "overfeat_accurate"),
    "lenet": ("lenet5", "lenet5_dense", "lenet_caffe"),
    "alexnet": ("alexnet", "alexnet_owt"),
}
SHORTCUT = re.compile(r"shortcut|downsample")
NUMBERS = {"parameters", "MACs", "published top-1", "top-1", "top-5"}  # columns that are set to the right


def write(docs: Path) -> None:
    """All pages into `docs/families` and `docs/commands`."""
    for folder, pages in (("families", families()), ("commands", commands())):
        (docs / folder).mkdir(exist_ok=True)
        for name, text in pages.items():
            (docs / folder / f"{name}.md").write_text(text, encoding="utf-8")
    plots((docs / "gallery.md").read_text(encoding="utf-8"), docs / "gallery")


def plots(gallery: str, folder: Path) -> None:
    """Draw what the gallery shows from this folder, each plot by the command that stands above it."""
    folder.mkdir(exist_ok=True)
    for line in re.findall(r"^    lamina (.* --plot \S+)$", gallery, re.M):
        *words, file = shlex.split(line)
        if f"(gallery/{file})" in gallery:
            with contextlib.redirect_stdout(io.StringIO()):
                app([*words, str(folder / file)], standalone_mode=False)


def families() -> dict[str, str]:
    return {name: family(name) for name in registry.FAMILIES}


def family(name: str) -> str:
    """What the paper has, its networks, the stages of one of them, and where implementations differ."""
    module = importlib.import_module(f"lamina.zoo.{name}")
    title, _, about = inspect.cleandoc(module.__doc__ or "").partition(". ")
    specs = [registry.spec(entry) for entry in registry.names(name)]
    example = EXAMPLES.get(name, specs[0].name)
    paper, changes = papers(name)
    parts = [f"# {title}", about, f"The code is `lamina/zoo/{name}.py`, read from top to bottom.", paper, "## The networks"]
    parts.append(table(("network", "input", "parameters", "MACs", "published top-1"), [_row(spec) for spec in specs]))
    if name in TABLES:
        parts += ["## The table", architectures(TABLES[name])]
    parts += [f"## {example}, stage by stage", stages(example)]
    config = [(field, f"`{value!r}`") for field, value in vars(registry.spec(example).config).items()]
    parts += [
        "Its `Config`; any field can be changed, as in "
        f'`lamina.build("{example}", {config[0][0]}=...)` and in `lamina grow`, which keeps what the network has learnt.',
        table(("field", "value"), config),
    ]
    parts.append(changes)
    if deviations := [(f"`{spec.name}`", text) for spec in specs for text in spec.deviations]:
        parts += ["## Where a network departs from its paper", table(("network", "departure"), deviations)]
    if figures := [_figure(figure) for spec in specs for figure in spec.figures]:
        head = ("network", "figure", "value", "protocol", "source", "")
        parts += ["## What is published", table(head, figures)]
        parts.append("“recalled”: written down from memory, and not yet read in the source named.")
    if weights := [_weights(file) for spec in specs for file in spec.weights]:
        parts += ["## Weight files that fit", table(("network", "tag", "source", "top-1", "top-5"), weights)]
    return "\n\n".join(parts) + "\n"


def _row(spec: registry.Spec) -> tuple[str, ...]:
    top1 = "" if spec.top1 is None else f"{spec.top1:g} %"
    return f"`{spec.name}`", shape(spec.input), f"{spec.parameters:,}", f"{spec.macs:,}", top1


def _figure(figure: Any) -> tuple[str, ...]:
    status = "recalled" if figure["status"] == "recalled" else ""
    return f"`{figure['network']}`", figure["figure"], f"{figure['value']:g}", figure["protocol"], figure["source"], status


def _weights(file: Any) -> tuple[str, ...]:
    accuracies = (f"{file[key]:g} %" if key in file else "" for key in ("top1", "top5"))
    return f"`{file['network']}`", f"`{file.get('tag', '')}`", file.get("source", ""), *accuracies


def papers(name: str) -> tuple[str, str]:
    """What the paper has, and what implementations change: docs/papers has them."""
    text = (Path(__file__).parent / "papers" / f"{name}.md").read_text(encoding="utf-8")
    paper, heading, changes = text.partition("## What implementations change")
    return paper.strip(), heading + changes.rstrip()


@cache
def staged(name: str) -> tuple[Workload, dict[str, list[Layer]]]:
    """A network, and its layers by the paper's stages if they are named, else by top-level modules."""
    workload = lamina.trace(registry.build(name, device="meta").eval(), *registry.example(name), name=name)
    named = registry.stages(name)
    where = {path: stage for path, stage in named}
    current, order = "", {}
    for layer in workload.layers:
        path = layer.name.partition(":")[0]
        found = [p for p in where if path == p or path.startswith(p + ".")]
        current = where[max(found, key=len)] if found else current or "input"
        key = current if named else path.partition(".")[0]
        order.setdefault(key, []).append(layer)
    return workload, order


def architectures(names: Sequence[str]) -> str:
    """Networks side by side, as the paper's table has them: the products of each stage, and what all of it costs. Shortcuts are
    left out, as there."""
    columns = {name: {stage: described(layers) for stage, layers in staged(name)[1].items()} for name in names}
    stages = list(dict.fromkeys(stage for column in columns.values() for stage in column))
    rows = [(stage, *(columns[name].get(stage, "") for name in names)) for stage in stages]
    rows = [row for row in rows if any(row[1:])]
    totals = [staged(name)[0].total() for name in names]
    rows.append(("MACs", *(f"{total.macs:,}" for total in totals)))
    rows.append(("parameters", *(f"{total.parameters:,}" for total in totals)))
    return table(("stage", *names), rows)


def described(layers: Sequence[Layer]) -> str:
    """ "(1x1, 64; 3x3, 64; 1x1, 256) x 3": a run of equal groups of layers is written once."""
    words = [product(layer) for layer in layers if layer.loops and not SHORTCUT.search(layer.name)]
    parts: list[str] = []
    place = 0
    while place < len(words):
        length, times = repeated(words[place:])
        inner = "; ".join(words[place : place + length])
        parts.append(inner if times == 1 else f"({inner}) × {times}")
        place += length * times
    return "; ".join(parts)


def product(layer: Layer) -> str:
    nest = layer.loops[0]
    groups = f", {nest.G} groups" if nest.G > 1 and nest.filter else ""
    if not nest.filter:
        return f"{nest.M * nest.G}-d fc" if layer.kind == "linear" else "attention"
    return f"{'x'.join(map(str, nest.filter))}, {nest.M * nest.G}{groups}"


def repeated(words: Sequence[str]) -> tuple[int, int]:
    """The length of what the words begin with, and how often it follows itself, so that most words are said at once."""
    best = (1, 1)
    for length in range(1, len(words) // 2 + 1):
        times = 1
        while words[times * length : (times + 1) * length] == words[:length]:
            times += 1
        if times > 1 and length * times > best[0] * best[1]:
            best = (length, times)
    return best


def stages(name: str) -> str:
    """Outputs, parameters and MACs of each stage."""
    workload, order = staged(name)
    rows = []
    for key, layers in order.items():
        total, out = workload.total(layers), layers[-1].outputs
        rows.append((key, shape(out[0].shape) if out else "", f"{total.parameters:,}", f"{total.macs:,}"))
    whole = workload.total()
    return table(("stage", "output", "parameters", "MACs"), [*rows, ("total", "", f"{whole.parameters:,}", f"{whole.macs:,}")])


def commands() -> dict[str, str]:
    group: Any = typer.main.get_command(app)  # a group of click, which typer carries with it
    return {name: command(name, found) for name, found in group.commands.items()}


def command(name: str, found: Any) -> str:
    """One verb: what it does, its arguments and its options, as `lamina VERB --help` has them."""
    context = found.context_class(found, info_name=f"lamina {name}")
    usage = found.get_usage(context).removeprefix("Usage: ")
    guide = GUIDES.get(name, "")
    parts = [f"# lamina {name}", inspect.cleandoc(found.help or ""), f"    {usage}"]
    rows = [record for parameter in found.params if (record := parameter.get_help_record(context))]
    if rows:
        parts.append(table(("option", "meaning"), [(f"`{option}`", text) for option, text in rows]))
    if (Path(__file__).parent / f"{guide}.md").is_file():
        parts.append(f"Guide: [{guide}](../{guide}.md).")
    return "\n\n".join(parts) + "\n"


def table(head: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    def line(cells: Sequence[str]) -> str:
        return "| " + " | ".join(cell.replace("|", "\\|").replace("\n", " ") for cell in cells) + " |"

    rule = "".join("---:|" if cell in NUMBERS else "---|" for cell in head)
    return "\n".join([line(head), f"|{rule}", *(line(row) for row in rows)])
