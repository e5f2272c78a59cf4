from typing import Annotated

import typer

from lamina.cli.output import Device, Image, Json, Weights, print_json


def evaluate(
    model: Annotated[str, typer.Argument(help="A zoo name.")],
    data: Annotated[
        str,
        typer.Option(
            "--data",
            metavar="NAME|FOLDER",
            help="mnist, cifar10, or a folder of pictures: one folder a class, or files named INDEX_*.",
        ),
    ],
    weights: Weights = None,
    batch: Annotated[int, typer.Option("--batch", help="Pictures at a time.")] = 100,
    image: Image = None,
    device: Device = "cpu",
    json: Json = False,
) -> None:
    """Top-1 and top-5 accuracy on labelled pictures: a data set's test split or a folder."""
    from lamina.infer.evaluate import evaluate as measure
    from lamina.infer.session import parse_image

    result = measure(model, data, weights, image=parse_image(image or []), device=device, batch=batch)
    if json:
        print_json(result)
    else:
        print(f"{model} with {result['weights']} on {data} ({result['count']:,} pictures; {result['protocol']})")
        print(f"  top-1 {result['top1']:.2f} %   top-5 {result['top5']:.2f} %")
