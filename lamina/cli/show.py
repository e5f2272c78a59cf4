from typing import Annotated

import typer

from lamina.cli.output import Json, print_json


def show(name: Annotated[str, typer.Argument(help="A name of `lamina list`.")], json: Json = False) -> None:
    """One network: its paper, stages, counts, published figures, weight files, and where it departs from the paper."""
    from dataclasses import asdict

    from lamina.zoo import registry

    spec = registry.spec(name)
    if json:
        print_json(asdict(spec))
        return
    from lamina import units
    from lamina.report.table import console, cost, stages, table
    from lamina.tracing.tracer import trace

    paper = spec.paper
    home = f", arXiv {paper.arxiv}" if paper.arxiv else ""
    out = console()
    out.print(f'[bold]{spec.name}[/] ({spec.family}): {paper.authors}, "{paper.title}", {paper.venue}, {paper.year}{home}')
    out.print(f"input {units.shape(spec.input)}; {spec.parameters:,} parameters; {spec.macs:,} MACs\n")
    work = trace(registry.build(name, device="meta").eval(), *registry.example(name), name=name)
    if names := registry.stages(name):
        out.print(stages(work, names))
    else:
        one_container = max(group.macs for group in work.by("module").values()) > 0.9 * work.total().macs
        out.print(cost(work, "module", 2 if one_container else 1))
    if spec.figures:
        rows = [
            (f["figure"], str(f["value"]), f["protocol"], f["source"] + ("" if f["status"] == "verified" else " (from memory)"))
            for f in spec.figures
        ]
        out.print(table(("published", "value", "protocol", "source"), rows, left=("protocol", "source")))
    if spec.weights:
        rows = [
            (w["tag"], w["source"], str(w.get("top1", "")), w.get("file") or w.get("url") or w.get("hub", "a file at hand"))
            for w in spec.weights
        ]
        out.print(table(("weights", "source", "top-1 %", "where"), rows, left=("source", "where")))
    for text in spec.deviations:
        out.print(f"departs: {text}")
