from importlib.resources import files
from pathlib import Path
from typing import Annotated

import typer

from lamina.cli.options import Json
from lamina.cli.output import print_json
from lamina.files import write


def demo(
    html: Annotated[Path, typer.Option("--html", metavar="FILE", help="Where the lecture's page is written.")] = Path(
        "lecture.html"
    ),
    json: Json = False,
) -> None:
    """The tour: the lecture's table, the cost of ResNet-50 by stage, 100 digits recognised, and the lecture's page."""
    from lamina.cli import cost, table
    from lamina.infer import session
    from lamina.lecture.html import page

    digits = sorted(Path(str(files("lamina.data").joinpath("digits"))).glob("*.png"))
    if not json:
        table.table()
        cost.cost("resnet50")
        print()
    results = session.run("lenet5", digits, top=1)
    wrong = [
        (path, r["predictions"][0])
        for path, r in zip(digits, results, strict=True)
        if r["predictions"][0]["label"] != path.name[0]
    ]
    right = len(digits) - len(wrong)
    if not json:
        print(f"LeNet-5 reads {right} of {len(digits)} handwritten digits of MNIST's test set.")
        for path, prediction in wrong:
            print(
                f"\nThis {path.name[0]} ({path.name}) is read as a {prediction['label']} ({prediction['probability']:.1f} %):"
            )
            print(drawn(path))
    write(html, page())
    if json:
        mistakes = [{"input": path.name, "label": path.name[0], "prediction": p["label"]} for path, p in wrong]
        print_json({"digits": len(digits), "right": right, "wrong": mistakes, "page": str(html.resolve())})
    else:
        print(f"\nThe lecture, claim by claim, with figures: {html.resolve()}")
        print("Any network whole, in the browser: lamina explore resnet50")


def drawn(path: Path) -> str:
    """A grey image in characters, two rows of pixels per line."""
    import numpy as np

    from lamina.data.image import decode

    ink = np.asarray(decode(path, "L")) > 96
    lines = []
    for above, below in zip(ink[0::2], ink[1::2], strict=True):
        pairs = zip(above, below, strict=True)
        lines.append("    " + "".join({(0, 0): " ", (1, 0): "▀", (0, 1): "▄", (1, 1): "█"}[int(a), int(b)] for a, b in pairs))
    return "\n".join(line.rstrip() for line in lines if line.strip())
