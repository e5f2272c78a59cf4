from dataclasses import asdict
from importlib.resources import files
from pathlib import Path
from typing import Annotated, Any

import typer

from lamina.cli import output
from lamina.cli.options import Json


def show(name: Annotated[str, typer.Argument(help="A name of `lamina list`.")], json: Json = False) -> None:
    """One network: its paper, stages, counts, published figures, weight files, and where it departs from the paper."""
    from lamina.weights.provenance import lines
    from lamina.zoo import registry

    document = asdict(registry.spec(name))
    shipped = [row for row in document["weights"] if "file" in row]
    document["provenance"] = [_provenance(row) for row in shipped]
    for row, found in zip(shipped, document["provenance"], strict=True):
        row["top1"] = (found["result"] or {}).get("top1")
    if json:
        return output.print_json(document)
    from lamina.report import text
    from lamina.tracing.tracer import trace

    workload = trace(registry.build(name, device="meta").eval(), *registry.example(name), name=name)
    output.emit("text", document, lambda out: text.network(out, document, workload, registry.stages(name)))
    for found in document["provenance"]:
        print("\n".join(lines(found)))


def _provenance(row: dict[str, Any]) -> dict[str, Any]:
    """What the file that ships says of its making, with the recipe by name, and the result apart by what training has seen."""
    from lamina.train.recipe import loads, origin
    from lamina.weights.provenance import provenance

    found = provenance(Path(str(files("lamina.zoo").joinpath("pretrained", row["file"]))))
    recipe = loads(found["recipe"], row["file"])
    found["recipe_name"], found["recipe_changes"] = origin(recipe)
    found["held_out"] = recipe.validation
    return found | ({"apart": row["apart"]} if "apart" in row else {})
