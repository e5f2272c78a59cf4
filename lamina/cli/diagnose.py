"""`lamina diagnose`: whether a trained network is the flow that the theory of learning across scales says it is."""

from typing import TYPE_CHECKING, Annotated, Any

import typer

from lamina.cli.grow import Checkpoint, Data
from lamina.cli.options import Json, PlotFile, Weights
from lamina.cli.output import emit, write_plot

if TYPE_CHECKING:
    from rich.console import Console


def diagnose(
    model: Checkpoint,
    weights: Weights = None,
    data: Data = None,
    samples: Annotated[int, typer.Option("--samples", min=1, help="How many test images.")] = 256,
    plot: PlotFile = None,
    json: Json = False,
) -> None:
    """Sizes, Jacobians and smoothness of blocks over the depth, what one split or coarsening costs, and how far tokens stay
    apart."""
    from lamina.infer.growing import inputs, load
    from lamina.report.plot import depth_profile
    from lamina.scale.diagnose import diagnose as measure

    loaded = load(model, weights)
    batch, targets, what = inputs(loaded, data, samples)
    document = {"model": model, "inputs": what, **measure(loaded.module, batch, targets).document()}
    emit("json" if json else "text", document, lambda console: show(console, document))
    if plot:
        write_plot(plot, depth_profile, document)


def show(console: "Console", document: dict[str, Any]) -> None:
    from lamina.report.table import table

    def number(row: dict[str, Any], key: str) -> str:
        return f"{row[key]:.3g}" if key in row else "-"

    columns = ("block", "|x|", "|F(x)|", "|F'|", "change", "aligned")
    keys = ("state", "branch", "jacobian", "change", "aligned")
    rows = [[b["block"], *(number(b, k) for k in keys)] for b in document["blocks"]]
    console.print(table(columns, rows, left=("block",)))
    if document["tokens"]:
        columns = ("tokens after", "cosine", "spread", "rank", "cosine without", "spread without", "rank without")
        keys = ("cosine", "spread", "rank", "cosine_without", "spread_without", "rank_without")
        rows = [[t["block"], *(number(t, k) for k in keys)] for t in document["tokens"]]
        console.print(table(columns, rows, left=("tokens after",)))
    for refinement in document["refinements"]:
        console.print(_refinement(refinement))
    console.print(f"on {document['inputs']}; root mean squares; change: of the weights to the next block (1.41: independent)")


def _refinement(row: dict[str, Any]) -> str:
    if "refused" in row:
        return f"{row['operator']}: refused, {row['refused']}"
    text = f"one {row['operator']}: outputs change by {row['difference']:.3g} of the largest"
    if "accuracy" in row:
        text += ", accuracy {:.2f} to {:.2f} %".format(*row["accuracy"])
        text += ", loss {:.3g} to {:.3g}".format(*row["loss"])
    return text
