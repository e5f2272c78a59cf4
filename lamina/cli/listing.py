from typing import Annotated

import typer

from lamina.cli import output
from lamina.cli.options import Json


def listing(
    family: Annotated[str | None, typer.Argument(help="Only this family: lenet, vgg, resnet, vit ...")] = None,
    json: Json = False,
) -> None:
    """The zoo: each network's input, weights, MACs, year and best published single-crop accuracy."""
    from lamina.report import text
    from lamina.zoo import registry

    document = [
        {
            "name": spec.name,
            "family": spec.family,
            "year": spec.paper.year,
            "input": spec.input,
            "parameters": spec.parameters,
            "macs": spec.macs,
            "top1": spec.top1,
            "weights": [w["tag"] for w in spec.weights],
        }
        for spec in map(registry.spec, registry.names(family))
    ]
    output.emit("json" if json else "text", document, lambda out: text.listing(out, document))
