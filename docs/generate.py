"""The pages of the site that are made from what the package knows: one for each family of networks and for each verb.

`docs/conf.py` calls `write` before the site is built. The pages are not kept in the repository.
"""

import importlib
import inspect
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import typer.main

import lamina
from lamina.cli import app
from lamina.units import shape
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
NUMBERS = {"parameters", "MACs", "published top-1", "top-1", "top-5"}  # columns that are set to the right


def write(docs: Path) -> None:
    """All pages into `docs/families` and `docs/commands`."""
    for folder, pages in (("families", families()), ("commands", commands())):
        (docs / folder).mkdir(exist_ok=True)
        for name, text in pages.items():
            (docs / folder / f"{name}.md").write_text(text, encoding="utf-8")


def families() -> dict[str, str]:
    return {name: family(name) for name in registry.FAMILIES}


def family(name: str) -> str:
    """What the paper has, its networks, the stages of one of them, and where implementations differ."""
    module = importlib.import_module(f"lamina.zoo.{name}")
    title, _, about = inspect.cleandoc(module.__doc__ or "").partition(". ")
    specs = [registry.spec(entry) for entry in registry.names(name)]
    example = EXAMPLES.get(name, specs[0].name)
    parts = [f"# {title}", about, f"The code is `lamina/zoo/{name}.py`, read from top to bottom.", "## The networks"]
    parts.append(table(("network", "input", "parameters", "MACs", "published top-1"), [_row(spec) for spec in specs]))
    parts += [f"## {example}, stage by stage", stages(example)]
    config = [(field, f"`{value!r}`") for field, value in vars(registry.spec(example).config).items()]
    parts += [
        "Its `Config`; any field can be changed, as in "
        f'`lamina.build("{example}", {config[0][0]}=...)` and in `lamina grow`, which keeps what the network has learnt.',
        table(("field", "value"), config),
    ]
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


def stages(name: str) -> str:
    """The paper's stages if they are named, else the top-level modules: outputs, parameters, MACs."""
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
