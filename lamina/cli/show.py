from dataclasses import asdict
from importlib.resources import files
from pathlib import Path
from typing import Annotated

import typer

from lamina.cli import output
from lamina.cli.options import Json


def show(name: Annotated[str, typer.Argument(help="A name of `lamina list`.")], json: Json = False) -> None:
    """One network: its paper, stages, counts, published figures, weight files, and where it departs from the paper."""
    from lamina.weights.provenance import provenance, sentence
    from lamina.zoo import registry

    document = asdict(registry.spec(name))
    shipped = [Path(str(files("lamina.zoo").joinpath("pretrained", w["file"]))) for w in document["weights"] if "file" in w]
    document["provenance"] = [provenance(path) for path in shipped]
    if json:
        return output.print_json(document)
    from lamina.report import text
    from lamina.tracing.tracer import trace

    workload = trace(registry.build(name, device="meta").eval(), *registry.example(name), name=name)
    output.emit("text", document, lambda out: text.network(out, document, workload, registry.stages(name)))
    for found in document["provenance"]:
        print(sentence(found))
