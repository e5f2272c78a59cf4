"""What `lamina cost --sweep` and `--fit-under` do and print."""

from pathlib import Path
from typing import Any

from lamina import units
from lamina.cli import output
from lamina.cli.network import Network
from lamina.cost import memory, record, sweep
from lamina.sources import written
from lamina.workload import Workload


def run(net: Network, text: str, training: bool, optimizer: str, master: bool, plot: Path | None, format: str) -> None:
    asked = sweep.parse(text)
    sizes = {size: net.resized(asked.axis, size) for size in asked.sizes}
    rows: list[dict[str, Any]] = []
    for point in sweep.run(asked, lambda size: net.trace(sizes[size])):
        row: dict[str, Any] = {asked.axis: point.size, "input": written(sizes[point.size])}
        keys = ("macs", "parameters", "activations", "peak_activation_bytes", "inference_bytes")
        fields: dict[str, int | None] = dict.fromkeys((*keys, "training_bytes") if training else keys)
        if point.workload is not None:
            total = point.workload.total()
            fields |= {key: getattr(total, key) for key in ("macs", "parameters", "activations")}
            fields["peak_activation_bytes"] = point.workload.peak_activation_bytes
            fields["inference_bytes"] = memory.inference_bytes(point.workload)
            if training:
                trained = net.trace(sizes[point.size], training=True)
                fields["training_bytes"] = memory.training(trained, optimizer, master).total
        refusal = point.refusal.removeprefix(f"{net.name} on {row['input']}: ")
        rows.append({**row, **fields, "refusal": refusal})
    _print_sweep(net, asked, rows, format)
    if plot:
        from lamina.report.plot import growth

        taken = [row for row in rows if not row["refusal"]]
        titles = {"macs": "MACs", "inference_bytes": "memory for inference", "training_bytes": "memory for training"}
        series = {title: [row[key] for row in taken] for key, title in titles.items() if key in taken[0]}
        output.write_plot(plot, growth, asked.axis, [row[asked.axis] for row in taken], series, net.name)


def _print_sweep(net: Network, asked: sweep.Sweep, rows: list[dict[str, Any]], format: str) -> None:
    if format == "json":
        return output.print_json({"model": net.name, "axis": asked.axis, "points": rows})
    if format == "csv":
        return print(record.to_csv(rows), end="")
    from lamina.report.table import console, table

    keys = [key for key in rows[0] if key not in (asked.axis, "input", "refusal")]
    titles = {"macs": "MACs", "peak_activation_bytes": "peak activations", "inference_bytes": "inference"}
    titles["training_bytes"] = "training"
    cells = []
    for row in rows:
        shown = ["" if row[k] is None else units.bytes_(row[k]) if "bytes" in k else f"{row[k]:,}" for k in keys]
        cells.append([f"{row[asked.axis]}", row["input"], *shown, row["refusal"]])
    columns = (asked.axis, "input", *(titles.get(key, key) for key in keys), "")
    out = console()
    out.print(f"[bold]{net.name}[/], {net.type}")
    out.print(table(columns, cells, left=("",)))


def fit(net: Network, text: str, training: bool, optimizer: str, master: bool, format: str) -> None:
    axis, limit = sweep.parse_fit(text, net.tokens)
    start = {"batch": net.shape[0], "resolution": net.shape[-1], "sequence": net.shape[min(1, len(net.shape) - 1)]}[axis]
    net.resized(axis, start)

    def measure(size: int) -> Workload:
        return net.trace(net.resized(axis, size), training)

    def figure(workload: Workload) -> int:
        if limit.quantity == "MACs":
            return workload.total().macs
        return memory.training(workload, optimizer, master).total if training else memory.inference_bytes(workload)

    found = sweep.largest(measure, figure, limit.value, start, axis)
    shapes = net.resized(axis, found.size)
    shape = next(iter(shapes.values()))
    if format == "json":
        document = {"model": net.name, "axis": axis, "limit": limit.value, "quantity": limit.quantity, "size": found.size}
        document |= {"input": shape, "figure": found.figure, "next_size": found.next_size, "next_figure": found.next_figure}
        return output.print_json(document)
    if format == "csv":
        row = {axis: found.size, "input": written(shapes), "figure": found.figure, "limit": limit.value}
        return print(record.to_csv([row]), end="")
    unit = "MACs" if limit.quantity == "MACs" else f"bytes for {'training' if training else 'inference'}"
    print(f"{net.name}: the largest {axis} is {found.size}, input {written(shapes)}")
    print(f"it takes {found.figure:,} {unit} of {limit.value:,}")
    following = f"takes {found.next_figure:,}" if found.next_figure is not None else "is refused by the network"
    print(f"the next, {found.next_size}, {following}")
