"""What the verbs share: a document printed in the form asked for, and plots in files."""

import json
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, ParamSpec

from lamina.errors import InputError
from lamina.files import write

if TYPE_CHECKING:
    from rich.console import Console

    from lamina.report.plot import Plot

P = ParamSpec("P")
Form = Literal["json", "csv", "text"]
Document = dict[str, Any]


def form(csv: bool, json: bool) -> Form:
    if csv and json:
        raise InputError("--csv and --json exclude each other: give one")
    return "json" if json else "csv" if csv else "text"


def emit(
    form: Form,
    document: Any,
    text: "Callable[[Console], None]",
    rows: Callable[[], Sequence[Mapping[str, Any]]] | None = None,
) -> None:
    """Print the document in the form asked for: as JSON, as the CSV of `rows`, or as `text` prints it."""
    if form == "json":
        print_json(document)
    elif form == "csv" and rows is not None:
        from lamina.report.rows import to_csv

        print(to_csv(rows()), end="")
    else:
        from lamina.report.table import console

        text(console())


def print_json(document: Any) -> None:
    print(json.dumps(document, indent=1))


def write_plot(path: Path, draw: "Plot[P]", *args: P.args, **kwargs: P.kwargs) -> None:
    """Draw the plot in the form that the file's name ends in."""
    svg = path.suffix.lower() == ".svg"
    write(path, draw(*args, **kwargs).encode() if svg else draw.png(*args, **kwargs))
