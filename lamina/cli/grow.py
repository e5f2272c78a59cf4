"""`lamina grow` and `lamina shrink`: a trained network in another size, measured against the old one, as a folder."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import typer

from lamina.cli.options import Json, Weights
from lamina.cli.output import emit
from lamina.errors import InputError

if TYPE_CHECKING:
    from rich.console import Console

    from lamina.scale.growth import Grown

Checkpoint = Annotated[
    str, typer.Argument(metavar="CHECKPOINT|MODEL", help="A run's folder, a safetensors file, or a zoo name.")
]
Depth = Annotated[str, typer.Option("--depth", metavar="2|4,5,7,4", help="Blocks, by a factor or as numbers for each stage.")]
FeedForward = Annotated[int, typer.Option("--feed-forward", help="Hidden units of position-wise layers, by a factor.")]
Heads = Annotated[int, typer.Option("--heads", help="Attention heads, by a factor.")]
Channels = Annotated[int, typer.Option("--channels", help="Channels of convolutions, by a factor.")]
Resolution = Annotated[int, typer.Option("--resolution", help="The side of the images, by a factor.")]
Patch = Annotated[int | None, typer.Option("--patch", metavar="PIXELS", help="The new side of a ViT's patches.")]
Tokens = Annotated[int, typer.Option("--tokens", help="The side of the token grid, or a context's length, by a factor.")]
Operators = Annotated[
    list[str] | None,
    typer.Option(
        "--operator", metavar="AXIS=NAME", help="Among several: depth=zero, resolution=bilinear, tokens=duplicate ..."
    ),
]
Exactness = Annotated[
    Literal["exact", "consistent", "any"], typer.Option("--exactness", help="Refuse operators that are weaker than this.")
]
Out = Annotated[Path | None, typer.Option("--out", metavar="FOLDER", help="Where to write it; by default runs/NAME-grown.")]
Data = Annotated[str | None, typer.Option("--data", metavar="NAME", help="A data set for the comparison: accuracy, too.")]
Samples = Annotated[int, typer.Option("--samples", min=1, help="How many of its test images.")]


def grow(
    model: Checkpoint,
    weights: Weights = None,
    depth: Depth = "1",
    feed_forward: FeedForward = 1,
    heads: Heads = 1,
    head_width: Annotated[int, typer.Option("--head-width", help="Width of the heads, by a factor.")] = 1,
    model_width: Annotated[int, typer.Option("--model-width", help="Features of the residual stream, by a factor.")] = 1,
    channels: Channels = 1,
    resolution: Resolution = 1,
    patch: Patch = None,
    tokens: Tokens = 1,
    operator: Operators = None,
    exactness: Exactness = "any",
    out: Out = None,
    data: Data = None,
    samples: Samples = 1000,
    json: Json = False,
) -> None:
    """A deeper, wider or sharper network with what this one has learnt; the claim is measured before it is written."""
    from lamina.scale import growth

    factors: dict[str, Any] = {
        "depth": _depth(depth), "feed_forward": feed_forward, "heads": heads, "head_width": head_width,
        "model_width": model_width, "channels": channels, "resolution": resolution, "patch": patch, "tokens": tokens,
    }  # fmt: skip
    chosen = _operators(operator)
    _change(
        model,
        weights,
        lambda m: growth.grow(m, **factors, operator=chosen, exactness=exactness),
        out,
        "grown",
        data,
        samples,
        json,
    )


def shrink(
    model: Checkpoint,
    weights: Weights = None,
    depth: Annotated[int, typer.Option("--depth", help="Blocks, divided by this.")] = 1,
    feed_forward: FeedForward = 1,
    heads: Heads = 1,
    channels: Channels = 1,
    resolution: Resolution = 1,
    patch: Patch = None,
    tokens: Tokens = 1,
    operator: Operators = None,
    out: Out = None,
    data: Data = None,
    samples: Samples = 1000,
    json: Json = False,
) -> None:
    """A smaller network, and what it has lost. Factors divide."""
    from lamina.scale import growth

    factors: dict[str, Any] = {
        "depth": depth, "feed_forward": feed_forward, "heads": heads, "channels": channels, "resolution": resolution,
        "patch": patch, "tokens": tokens,
    }  # fmt: skip
    chosen = _operators(operator)
    _change(model, weights, lambda m: growth.shrink(m, **factors, operator=chosen), out, "shrunk", data, samples, json)


def _depth(text: str) -> int | tuple[int, ...]:
    try:
        values = tuple(int(part) for part in text.split(","))
    except ValueError:
        raise InputError(f"--depth is a factor, or numbers of blocks as in 4,5,7,4, not {text!r}") from None
    return values[0] if len(values) == 1 else values


def _operators(settings: list[str] | None) -> dict[str, str]:
    pairs = [setting.partition("=") for setting in settings or ()]
    if wrong := [axis for axis, equals, _ in pairs if not equals]:
        raise InputError(f"--operator has the form AXIS=NAME, as in depth=zero, not {wrong[0]!r}")
    return {axis.replace("-", "_"): name for axis, _, name in pairs}


def _change(
    model: str, weights: str | None, apply: Any, out: Path | None, kind: str, data: str | None, samples: int, json: bool
) -> None:
    """Load, change, measure, write, and say what was done."""
    from lamina.infer.growing import Loaded, inputs, load, write
    from lamina.scale.growth import check

    loaded: Loaded = load(model, weights)
    folder = out or Path("runs") / f"{Path(loaded.name).name}-{kind}"
    if folder.exists() and any(folder.iterdir() if folder.is_dir() else [folder]):
        raise InputError(f"{folder} is not empty: give another --out")
    result: Grown = apply(loaded.module)
    batch, targets, what = inputs(loaded, data, samples)
    verified = check(loaded.module, result, batch, targets)
    file = write(folder, loaded, result)
    document = {
        "from": model,
        "to": str(folder),
        "file": str(file),
        "parameters": [result.report.old["parameters"], result.report.new["parameters"]],
        "operators": result.report.operators,
        "verified": {**verified.document(), "inputs": what},
        "notes": [step.note for step in result.report.steps if step.note],
    }
    emit("json" if json else "text", document, lambda console: _show(console, document, result))


def _show(console: "Console", document: dict[str, Any], result: "Grown") -> None:
    verified = document["verified"]
    console.print(str(result.report))
    line = f"largest difference {verified['max_difference']:.1e} of the largest output on {verified['inputs']}"
    if "order" in verified:
        line += f"; order {verified['order']:.2f} by {verified['order_by']}"
    console.print(line)
    if "accuracy" in verified:
        console.print("accuracy {:.2f} % before, {:.2f} % after".format(*verified["accuracy"]))
    for note in document["notes"]:
        console.print(note)
    console.print(f"written to {document['to']}: lamina run, eval, cost and train --from take the folder")
