from pathlib import Path
from typing import Annotated

import typer

from lamina.cli.output import Json, print_json
from lamina.files import write


def lecture(
    html: Annotated[Path | None, typer.Option("--html", metavar="FILE", help="Write it as one self-contained page.")] = None,
    json: Json = False,
) -> None:
    """Every claim of the lecture: its figure, ours, the verdict and why, and the command that shows it."""
    if html is not None:
        from lamina.lecture.html import page

        write(html, page())
        if not json:
            print(html.resolve())
            return
    from lamina.lecture import slides

    claims = slides.document()
    if json:
        print_json(claims)
        return
    from collections import Counter

    from lamina.report.table import console, table

    out = console()
    for slide in slides.claims():
        rows = [
            (c["claim"], c["lecture"], c["lamina"], c["verdict"] + (f": {c['why']}" if c["why"] else ""), c["command"])
            for c in claims
            if c["slide"] == slide["title"]
        ]
        columns = ("claim", "lecture", "lamina", "verdict", "command")
        out.print(table(columns, rows, left=columns, title=slide["title"]))
    tally = Counter(c["verdict"] for c in claims)
    out.print(f"{len(claims)} claims: " + ", ".join(f"{n} {verdict}" for verdict, n in tally.most_common()))
