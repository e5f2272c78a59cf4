from typing import Annotated

import typer

from lamina.cli.output import Json, print_json


def listing(
    family: Annotated[str | None, typer.Argument(help="Only this family: lenet, vgg, resnet, vit ...")] = None,
    json: Json = False,
) -> None:
    """The zoo: each network's input, weights, MACs, year and best published single-crop accuracy."""
    from lamina.zoo import registry

    specs = [registry.spec(name) for name in registry.names(family)]
    accuracies = [max((f["value"] for f in s.figures if f["figure"] == "top1"), default=None) for s in specs]
    if json:
        print_json(
            [
                {
                    "name": s.name,
                    "family": s.family,
                    "year": s.paper.year,
                    "input": s.input,
                    "parameters": s.parameters,
                    "macs": s.macs,
                    "top1": top1,
                    "weights": [w["tag"] for w in s.weights],
                }
                for s, top1 in zip(specs, accuracies, strict=True)
            ]
        )
        return
    from lamina import units
    from lamina.report.table import console, table

    rows = [
        (
            s.name,
            str(s.paper.year),
            units.shape(s.input),
            f"{s.parameters:,}",
            f"{s.macs:,}",
            f"{top1}" if top1 else "",
            ", ".join(w["tag"] for w in s.weights),
        )
        for s, top1 in zip(specs, accuracies, strict=True)
    ]
    columns = ("network", "year", "input", "parameters", "MACs", "top-1 %", "weights")
    console().print(table(columns, rows, left=("weights",)))
