from typing import Annotated

import typer

from lamina import units
from lamina.cli.options import Device, Engine, Image, Json, Memory, Threads, parse_memory
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
    weights: Annotated[
        list[str] | None,
        typer.Option("--weights", metavar="FILE|TAG", help="A weight file, or a tag of `lamina show`; several are averaged."),
    ] = None,
    protocol: Annotated[str, typer.Option("--protocol", help="For a folder: 1-crop, 10-crop, 144-crop or dense.")] = "1-crop",
    scale: Annotated[list[int] | None, typer.Option("--scale", help="A shorter side, of dense; again for several.")] = None,
    batch: Annotated[int, typer.Option("--batch", help="Images at a time.")] = 100,
    image: Image = None,
    engine: Engine = "torch",
    threads: Threads = None,
    memory: Memory = None,
    device: Device = "cpu",
    json: Json = False,
) -> None:
    """Top-1 and top-5 accuracy on labelled images (a data set's test split or a folder), or BLEU on a corpus."""
    from lamina.infer.evaluate import evaluate as measure
    from lamina.infer.session import parse_image

    options = {"image": parse_image(image or []), "engine": engine, "threads": threads, "device": device}
    options["memory"] = parse_memory(memory)
    several = weights[0] if weights and len(weights) == 1 else weights
    result = measure(model, data, several, batch=batch, protocol=protocol, scales=scale or (), **options)
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
                    where = f"whose reference is {what} among {result['trained_on']}'s training targets"
                    print(f"  {figures}, on the {part['count']:,} {where}")
        else:
            print(f"  top-1 {result['top1']:.2f} %   top-5 {result['top5']:.2f} %")
            if "macs_per_image" in result:
                print(f"  {units.macs(result['macs_per_image'])} per image")
