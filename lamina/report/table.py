"""Tables for the terminal, by rich. Nothing is cut off when the output is no terminal."""

import sys
from collections.abc import Iterable, Sequence

from rich.box import SIMPLE_HEAD
from rich.console import Console
from rich.table import Table
from rich.text import Text

from lamina import units
from lamina.workload import Layer, Totals, Workload, replace, unique

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
    groups = workload.groups(by, depth)  # type: ignore[arg-type]
    shapes = {name: [units.shape(x.outputs[0].shape) for x in group if x.outputs] for name, group in groups.items()}
    rows = [(name, (shapes[name] or [""])[-1], workload.total(group)) for name, group in groups.items()]
    return _costs(by, rows, workload.total())


def tree(workload: Workload, depth: int | None = None) -> Table:
    """Every module below the one that holds it, down to `depth`: the filter of its convolution or the window of its pooling,
    its parameters and how many of them are trainable, its share of the MACs."""
    inside: dict[tuple[str, ...], list[Layer]] = {}
    for layer in workload.layers:
        parts = tuple(layer.module.split(".")) if layer.module else (layer.name,)
        for level in range(1, len(parts) + 1):
            if depth is None or level <= depth:
                inside.setdefault(parts[:level], []).append(layer)
    types = {tuple(x.module.split(".")): x.module_type for x in workload.layers if x.module}
    total, rows = workload.total(), []
    for parts in _nested(list(inside)):
        layers = inside[parts]
        own, t = [x for x in layers if x.module == ".".join(parts)], workload.total(layers)
        name = f"{'  ' * (len(parts) - 1)}{parts[-1]}"
        output = units.shape(layers[-1].outputs[0].shape) if layers[-1].outputs else ""
        kernel = _kernel(own[0]) if len(own) == len(layers) == 1 else ""
        share = f"{100 * t.macs / total.macs:.1f} %" if t.macs else ""
        trainable = f"{t.trainable:,}" if t.parameters else ""
        rows.append([name, types.get(parts, ""), kernel, output, _count(t.parameters), trainable, _count(t.macs), share])
    rows += [[""] * 8, ["total", "", "", "", _count(total.parameters), f"{total.trainable:,}", _count(total.macs), ""]]
    columns = ("module", "type", "kernel", "output", "parameters", "trainable", "MACs", "of MACs")
    return table(columns, rows, left=("type",))


def _nested(paths: list[tuple[str, ...]]) -> list[tuple[str, ...]]:
    """Each path before those within it, which follow it at once; otherwise in the order given."""
    below: dict[tuple[str, ...], list[tuple[str, ...]]] = {}
    for path in paths:
        below.setdefault(path[:-1], []).append(path)

    def walk(path: tuple[str, ...]) -> list[tuple[str, ...]]:
        return [x for child in below.get(path, ()) for x in (child, *walk(child))]

    return walk(())


def _kernel(layer: Layer) -> str:
    if layer.loops and layer.loops[0].filter:
        return units.shape(layer.loops[0].filter)
    return units.shape(layer.attributes["kernel"]) if layer.kind == "pool" and "kernel" in layer.attributes else ""


def stages(workload: Workload, names: Sequence[tuple[str, str]]) -> Table:
    """The same of each stage of `names`: (module path, the stage that begins at its first layer), in order. Names may come
    twice, and paths of modules that are not there are passed over. Outputs are those in front of a last reshaping."""
    groups: list[tuple[str, list[Layer]]] = []
    place = -1
    for layer in workload.layers:
        inside = [path for path, _ in names if f"{layer.module}.".startswith(f"{path}.")]
        begins = [i for i, (path, _) in enumerate(names) if path == max(inside, key=len, default=None)]
        # a module that is called again in its own stage does not begin a later one that has its name
        if not groups or (place not in begins and begins and begins[-1] > place):
            place = next((i for i in begins if i > place), 0)
            groups.append((names[place][1], []))
        groups[-1][1].append(layer)
    rows, seen = [], set()
    for name, layers in groups:
        outputs = [layer.outputs[0] for layer in layers if layer.kind != "view"] or [layers[-1].outputs[0]]
        fresh = unique(w for layer in layers for w in layer.weights if w.storage not in seen)  # tied ones count once
        seen |= {w.storage for w in fresh}
        total = replace(workload.total(layers), parameters=sum(w.numel for w in fresh))
        rows.append((name, units.shape(outputs[-1].shape), total))
    return _costs("stage", rows, workload.total())


def _costs(first: str, groups: Iterable[tuple[str, str, Totals]], total: Totals) -> Table:
    """Rows of (name, output shape, totals); kinds have no output."""
    columns = [first, "output", "parameters", "MACs", "of MACs", "activations", "read", "written", "FLOPs/byte"]
    if first == "kind":
        columns.remove("output")

    def row(name: str, shape: str, t: Totals) -> list[str]:
        share = f"{100 * t.macs / total.macs:.1f} %" if total.macs and t.macs else ""
        cells = [name, shape, _count(t.parameters), _count(t.macs), share, _count(t.activations)]
        cells += [units.bytes_(t.bytes_read) if t.bytes_read else "", units.bytes_(t.bytes_written) if t.bytes_written else ""]
        cells.append(f"{t.intensity:.3g}" if t.macs else "")
        if first == "kind":
            del cells[1]
        return cells

    rows = [row(*group) for group in groups]
    rows.append([""] * len(columns))
    rows.append(row("total", "", total))
    return table(columns, rows)


def _count(value: int) -> str:
    return f"{value:,}" if value else ""
