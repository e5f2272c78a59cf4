"""Tables for the terminal, by rich. Nothing is cut off when the output is no terminal."""

import sys
from collections.abc import Iterable, Sequence

from rich.box import SIMPLE_HEAD
from rich.console import Console
from rich.table import Table
from rich.text import Text

from lamina import units
from lamina.workload import Totals, Workload

WIDE = 200  # columns of output that goes to a file or a pipe


def console() -> Console:
    """Standard output; NO_COLOR is rich's own to honour."""
    return Console(width=None if sys.stdout.isatty() else WIDE, highlight=False, soft_wrap=False)


def table(columns: Sequence[str], rows: Iterable[Sequence[str]], *, left: Sequence[str] = (), title: str = "") -> Table:
    """Columns are right-aligned but for the first and those in `left`; a row of empty strings is a rule."""
    result = Table(box=SIMPLE_HEAD, title=title or None, title_justify="left", title_style="bold", pad_edge=False)
    for number, column in enumerate(columns):
        justify = "left" if number == 0 or column in left else "right"
        result.add_column(column, justify=justify, overflow="fold")
    for row in rows:
        if not any(row):
            result.add_section()
        else:
            result.add_row(*(Text(cell) for cell in row))
    return result


def cost(workload: Workload, by: str, depth: int) -> Table:
    """Parameters, MACs, activations and traffic of each layer, module or kind; weights count where they are first used."""
    total = workload.total()
    groups = workload.by(by, depth)  # type: ignore[arg-type]
    shapes = {}
    for layer in workload.layers:
        key = {"layer": layer.name, "kind": layer.kind}.get(by)
        if key is None:
            key = ".".join(layer.module.split(".")[:depth]) if layer.module else layer.name
        if layer.outputs:
            shapes[key] = units.shape(layer.outputs[0].shape)
    columns = [by, "output", "parameters", "MACs", "of MACs", "activations", "read", "written", "FLOPs/byte"]
    if by == "kind":
        columns.remove("output")

    def row(name: str, t: Totals) -> list[str]:
        share = f"{100 * t.macs / total.macs:.1f} %" if total.macs and t.macs else ""
        cells = [name, shapes.get(name, ""), _count(t.parameters), _count(t.macs), share, _count(t.activations)]
        cells += [units.bytes_(t.bytes_read) if t.bytes_read else "", units.bytes_(t.bytes_written) if t.bytes_written else ""]
        cells.append(f"{2 * t.intensity:.3g}" if t.macs else "")
        if by == "kind":
            del cells[1]
        return cells

    rows = [row(name, group) for name, group in groups.items()]
    rows.append([""] * len(columns))
    rows.append(row("total", total))
    return table(columns, rows)


def _count(value: int) -> str:
    return f"{value:,}" if value else ""
