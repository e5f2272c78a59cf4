from typing import Annotated

import typer

from lamina.cli.options import Device, Engine, Image, Json, Threads, Weights
from lamina.cli.output import print_json
from lamina.data import registry


def evaluate(
    model: Annotated[str, typer.Argument(help="A zoo name.")],
    data: Annotated[
        str,
        typer.Option(
            "--data",
            metavar="NAME|FOLDER",
            help=f"{', '.join(registry.names('images'))}, or a folder of images (one folder per class, or files named "
            f"INDEX_*); {', '.join(registry.names('text'))}.",
        ),
    ],
    weights: Weights = None,
    batch: Annotated[int, typer.Option("--batch", help="Images per batch.")] = 100,
    image: Image = None,
    engine: Engine = "torch",
    threads: Threads = None,
    device: Device = "cpu",
    json: Json = False,
) -> None:
    """Top-1 and top-5 accuracy on labelled images (a data set's test split or a folder), or BLEU on a corpus."""
    from lamina.infer.evaluate import evaluate as measure
    from lamina.infer.session import parse_image

    options = {"image": parse_image(image or []), "engine": engine, "threads": threads, "device": device}
    result = measure(model, data, weights, batch=batch, **options)
    if json:
        print_json(result)
    else:
        things = "sentences" if "bleu" in result else "images"
        print(f"{model} with {result['weights']} on {data} ({result['count']:,} {things}; {result['protocol']})")
        if "bleu" in result:
            print(f"  BLEU {result['bleu']:.2f} with beam 5, {result['bleu_greedy']:.2f} greedy")
            for key, what in (("unseen", "not"), ("seen", "also")):
                if key in result:
                    part = result[key]
                    figures = f"BLEU {part['bleu']:.2f} with beam 5, {part['bleu_greedy']:.2f} greedy"
                    print(f"  {figures}, on the {part['count']:,} whose reference is {what} a target of the training split")
        else:
            print(f"  top-1 {result['top1']:.2f} %   top-5 {result['top5']:.2f} %")
