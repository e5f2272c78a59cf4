"""Options that several verbs take."""

from pathlib import Path
from typing import Annotated, Literal

import typer

from lamina.cost import conventions
from lamina.errors import InputError
from lamina.sources import FORMS


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
Csv = Annotated[bool, typer.Option("--csv", help="Print rows of comma-separated values and nothing else.")]
PlotFile = Annotated[
    Path | None, typer.Option("--plot", metavar="FILE.png|svg", callback=plot_file, help="Write a plot to this file.")
]
HtmlFile = Annotated[
    Path | None,
    typer.Option("--html", metavar="FILE", callback=in_folder, help="Write a self-contained HTML page."),
]

TimesFile = Annotated[
    Path | None,
    typer.Option("--times", metavar="FILE.json", help="With --html: each layer's time, of `lamina bench --layers --json`."),
]

# ---- what runs a network ------------------------------------------------------------------------------------------------

Engine = Annotated[
    str, typer.Option("--engine", help="torch, compile, onnxruntime, openvino, or auto: the fastest here, measured once.")
]
Threads = Annotated[int | None, typer.Option("--threads", min=1, help="The engine's threads; by default all cores.")]
Memory = Annotated[
    str | None,
    typer.Option("--memory", metavar="300MB", help="The most that weights in other forms may take beside the network's."),
]
Device = Annotated[str, typer.Option("--device", help="cpu, cuda or mps (only the CPU has been tested so far).")]
Weights = Annotated[str | None, typer.Option("--weights", metavar="FILE|TAG", help="A weight file, or a tag of `lamina show`.")]
Image = Annotated[
    list[str] | None,
    typer.Option(
        "--image", metavar="KEY=VALUE", help="Override the weight file's image specification: channels=BGR, resize=256, ..."
    ),
]


def parse_memory(text: str | None) -> int | None:
    """ "300MB" to bytes."""
    from lamina import units

    try:
        return None if text is None else round(units.parse(text))
    except ValueError as error:
        raise InputError(f"--memory: {error}") from error


# ---- what counts its cost -----------------------------------------------------------------------------------------------

Model = Annotated[str, typer.Argument(help=f"{FORMS[0].upper()}{FORMS[1:]}.")]
Inputs = Annotated[
    list[str] | None,
    typer.Option("--input", metavar="[NAME=]1x3x224x224", help="An input's shape, batch first; repeat it for further inputs."),
]
By = Annotated[
    Literal["layer", "module", "kind"] | None,
    typer.Option("--by", help="What a row is; by default a module, with --csv a layer."),
]
Depth = Annotated[
    int | None, typer.Option("--depth", min=1, help="Parts of the module path, with --by module (1) or --tree (all of them).")
]
Tree = Annotated[bool, typer.Option("--tree", help="The modules as a tree, with kernels and trainable parameters.")]
Args = Annotated[
    list[str] | None,
    typer.Option("--args", metavar="KEY=VALUE", help="An argument of FILE.py:callable, or of a zoo network; repeat it."),
]
Sample = Annotated[
    Path | None,
    typer.Option("--data", metavar="FILE.npz|.pt", help="Inputs by example: arrays by name, or what torch.save wrote."),
]
Dtype = Annotated[
    Literal["fp32", "fp16", "bf16", "fp64", "fp8", "int8", "int4"] | None,
    typer.Option(
        "--dtype", help="Of weights and activations, fp32 by default; fp8, int8, int4: of products' weights, the rest bf16."
    ),
]
Past = Annotated[int, typer.Option("--past", min=0, metavar="N", help="Tokens already in the key/value cache.")]
Causal = Annotated[
    Literal["dense", "exact"],
    typer.Option("--causal", help="Causal attention: the whole square, or what the mask leaves."),
]
Eager = Annotated[
    Literal["cpu", "cuda"],
    typer.Option("--device", help="Whose eager execution memory is that of: attention with dropout is fused on cuda only."),
]
Run = Annotated[
    bool,
    typer.Option("--run", help="Run the forward on random values: counts what values decide (detectors, boolean masks)."),
]
Strict = Annotated[
    bool | None,
    typer.Option("--strict/--no-strict", help="Fail if an operator has no rule; the default with --max-macs and its like."),
]
Training = Annotated[bool, typer.Option("--training", help="Trace in training mode, and report the memory of a training step.")]
Optimizer = Annotated[
    Literal["sgd", "momentum", "adam", "adamw"],
    typer.Option("--optimizer", help="Its states are part of training memory."),
]
Master = Annotated[bool, typer.Option("--master", help="Train 16-bit weights with fp32 master copies and states.")]
View = Annotated[
    str | None,
    typer.Option("--view", metavar="TOOL", help=f"What a tool prints: {', '.join(conventions.VIEWS)}, all."),
]
Explain = Annotated[str | None, typer.Option("--explain", metavar="4.11G", help="Which convention gives a published figure.")]
Sweep = Annotated[
    str | None,
    typer.Option("--sweep", metavar="resolution=128:512:32", help="Over resolution, batch or sequence: a range or a list."),
]
FitUnder = Annotated[
    str | None,
    typer.Option("--fit-under", metavar="5GMACs|8GB", help="The largest input within MACs, or batch within memory."),
]
MaxMacs = Annotated[str | None, typer.Option("--max-macs", metavar="5G", help="Fail above this.")]
MaxParams = Annotated[str | None, typer.Option("--max-params", metavar="30M", help="Fail above this.")]
MaxMemory = Annotated[
    str | None, typer.Option("--max-memory", metavar="2GB", help="Fail above this: inference, or with --training a step.")
]

# ---- what compares networks ---------------------------------------------------------------------------------------------

Models = Annotated[list[str], typer.Argument(help="Networks, as for `lamina cost`; a family means all its members.")]
Diff = Annotated[bool | None, typer.Option("--diff/--no-diff", help="Compare two by layers; by default if they are alike.")]
Chart = Annotated[
    Literal["accuracy", "kinds"] | None,
    typer.Option("--chart", help="What --plot draws; accuracy where it is known."),
]
