"""`lamina export`: the command line of `lamina.infer.export`."""

from pathlib import Path
from typing import Annotated

import typer

from lamina.cli.options import Inputs, Json, Model, Weights, in_folder
from lamina.cli.output import print_json
from lamina.errors import InputError


def export(
    model: Model,
    file: Annotated[Path, typer.Argument(metavar="FILE.onnx|DIR", help="What is written; a folder with --triton.")],
    weights: Weights = None,
    input: Inputs = None,
    batch: Annotated[int | None, typer.Option("--batch", min=1, help="One fixed batch size; any, by default.")] = None,
    opset: Annotated[int | None, typer.Option("--opset", help="The version of ONNX's operators; 20, by default.")] = None,
    triton: Annotated[
        bool, typer.Option("--triton", help="Write a model repository of Triton's; --batch is then the largest batch, 16.")
    ] = False,
    json: Json = False,
) -> None:
    """Write a network with its weights as an ONNX file, checked against torch in ONNX Runtime before it takes its name."""
    if not triton:
        in_folder(file)
    from lamina import units
    from lamina.cli.network import parse_inputs
    from lamina.infer import networks
    from lamina.infer.export import export_checked, to_metadata

    net = networks.load(model, weights, inputs=parse_inputs(input or ()))
    if net.module is None:
        raise InputError(f"{model} is an ONNX file already")
    if triton:
        from lamina.serve.names import plain
        from lamina.serve.triton import write_repository

        document = write_repository(net, file, plain(model), batch=batch or 16, opset=opset)
        file = file / document["name"]
    else:
        document = export_checked(net.module, net.example, file, batch=batch, opset=opset, metadata=to_metadata(net))
    if json:
        print_json({"model": model, "weights": net.weights} | document)
        return
    inputs = ", ".join(f"{row['name']} {units.shape(tuple(row['shape']))}" for row in document["inputs"])
    worst = max(document["checked"].values())
    print(f"{file}: {model} with {net.weights}, {units.bytes_(document['bytes'])}, opset {document['opset']}, {inputs}")
    print(f"  batches {', '.join(document['checked'])} in ONNX Runtime: at most {worst:.1e} of the largest value off torch")
