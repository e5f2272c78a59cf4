import sys
from typing import Annotated

import typer

from lamina.cli.options import Device, Engine, Image, Json, Memory, Threads, Weights, parse_memory
from lamina.cli.output import print_json


def run(
    model: Annotated[str, typer.Argument(help="A zoo name.")],
    inputs: Annotated[list[str], typer.Argument(metavar="INPUT...", help="Images: JPEG, PNG, WebP, BMP or GIF.")],
    weights: Weights = None,
    top: Annotated[int, typer.Option("--top", help="How many classes to print.")] = 5,
    image: Image = None,
    engine: Engine = "torch",
    threads: Threads = None,
    memory: Memory = None,
    device: Device = "cpu",
    json: Json = False,
) -> None:
    """What the network sees in images: the most probable classes of each."""
    from lamina.infer import session
    from lamina.progress import note

    options = {"image": session.parse_image(image or []), "engine": engine, "threads": threads, "device": device}
    options["memory"] = parse_memory(memory)
    results = session.run(model, inputs, weights, top=top, say=note, **options)
    if json:
        print_json(results)
    else:
        for result in results:
            if "error" not in result:
                print(result["input"])
                for p in result["predictions"]:
                    print(f"  {p['probability']:6.2f} %  {p['label']}")
    bad = [result["error"] for result in results if "error" in result]
    for text in bad:
        print(f"lamina: {text}", file=sys.stderr)
    if bad:
        raise typer.Exit(1)
