"""What the verbs share: options, JSON on standard output, and plots in files."""

import json
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, ParamSpec

import typer

from lamina.errors import InputError
from lamina.files import write

if TYPE_CHECKING:
    from lamina.report.plot import Plot

P = ParamSpec("P")


def in_folder(path: Path | None) -> Path | None:
    """Refuse a file whose folder is not there before any work is done."""
    if path is not None and (path.is_dir() or not path.absolute().parent.is_dir()):
        raise InputError(f"{path} cannot be written: it is a folder" if path.is_dir() else f"{path.parent}: no such folder")
    return path


def plot_file(path: Path | None) -> Path | None:
    if path is not None and path.suffix.lower() not in (".png", ".svg"):
        raise InputError(f"--plot {path}: a plot's file ends in .png or .svg")
    return in_folder(path)


Json = Annotated[bool, typer.Option("--json", help="Print one JSON document and nothing else.")]
Image = Annotated[
    list[str] | None,
    typer.Option(
        "--image", metavar="KEY=VALUE", help="Override the weight file's image specification: channels=BGR, resize=256 ..."
    ),
]
Weights = Annotated[str | None, typer.Option("--weights", metavar="FILE|TAG", help="A weight file, or a tag of `lamina show`.")]
PlotFile = Annotated[
    Path | None, typer.Option("--plot", metavar="FILE.png|svg", callback=plot_file, help="Write a plot to this file.")
]
HtmlFile = Annotated[
    Path | None, typer.Option("--html", metavar="FILE", callback=in_folder, help="Write a page that stands alone to this file.")
]
Device = Annotated[str, typer.Option("--device", help="cpu, cuda or mps (only the CPU has been tested so far).")]


def print_json(document: Any) -> None:
    print(json.dumps(document, indent=1))


def write_plot(path: Path, draw: "Plot[P]", *args: P.args, **kwargs: P.kwargs) -> None:
    """Draw the plot in the form that the file's name ends in."""
    svg = path.suffix.lower() == ".svg"
    write(path, draw(*args, **kwargs).encode() if svg else draw.png(*args, **kwargs))
