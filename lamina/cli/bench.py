from typing import Annotated, Any

import typer

from lamina import units
from lamina.cli.options import Json, Memory, Threads, Weights, parse_memory
from lamina.cli.output import print_json
from lamina.progress import note


def bench(
    model: Annotated[str, typer.Argument(help="A zoo name, timm:NAME, FILE.onnx, a run's folder or FILE.py:callable.")],
    weights: Weights = None,
    engine: Annotated[str, typer.Option("--engine", help="One engine, or all that are installed.")] = "all",
    batch: Annotated[int, typer.Option("--batch", min=1, help="Inputs at a time.")] = 1,
    threads: Threads = None,
    seconds: Annotated[float, typer.Option("--seconds", help="For which each engine is timed.")] = 3.0,
    rate: Annotated[
        float | None, typer.Option("--rate", help="Random arrivals per second, in place of one after another.")
    ] = None,
    memory: Memory = None,
    peak_memory: Annotated[
        bool, typer.Option("--peak-memory/--no-peak-memory", help="Measure peak memory, each engine in a process.")
    ] = True,
    layers: Annotated[bool, typer.Option("--layers", help="Time each layer in eager torch, beside its roofline.")] = False,
    json: Json = False,
) -> None:
    """How fast a network runs here: engines side by side, checked against eager torch, beside this machine's peak."""
    if layers:
        from lamina.infer.layers import profile

        document = profile(model, weights, batch=batch)
        return print_json(document) if json else _layers(document)
    from lamina.infer.bench import bench as measure

    options: dict[str, Any] = {"memory": parse_memory(memory), "peak_memory": peak_memory, "say": note}
    document = measure(model, weights, engine=engine, batch=batch, threads=threads, seconds=seconds, rate=rate, **options)
    print_json(document) if json else _engines(document)


def _engines(found: dict[str, Any]) -> None:
    from lamina.report.table import console, table

    out, box = console(), found["machine"]
    out.print(f"[bold]{found['model']}[/], {found['scenario']}, {box['threads']} threads of {box['processor']}")
    columns = (
        "engine",
        "batch",
        "median ms",
        "p90 ms",
        "per second",
        "GMAC/s",
        "of peak",
        "load s",
        "first run ms",
        "memory",
        "difference",
    )
    rows = [[row["engine"], str(row["batch"]), *map(str, _cells(row))] for row in found["engines"]]
    out.print(table(columns, rows, left=("engine",)))
    for row in found["engines"]:
        if "refused" in row:
            out.print(f"{row['engine']} is out: {row['refused']}")
    peak = box["peak_macs_per_s"] / 1e9
    out.print(f"[dim]peak: {peak:.0f} GMAC/s, {units.bytes_(box['bytes_per_s'])}/s ({box['measured']})[/]")
    if found["weight_read_ms"] and found["weight_read_ms"] > 1:
        out.print(f"[dim]reading the fully connected layers' weights alone takes {found['weight_read_ms']:.1f} ms[/]")
    verdict = "the machine was too busy for a verdict; the fastest was" if found["noisy"] else "fastest:"
    out.print(f"{verdict} {found['fastest']}")


def _cells(row: dict[str, Any]) -> list[str]:
    if "median_ms" not in row:
        return ["-"] * 9
    p90 = f"{row['p90_ms']:.2f}" if row["p90_ms"] is not None else ""
    speed = [f"{row['macs_per_s'] / 1e9:.1f}", f"{100 * row['share_of_peak']:.0f} %"] if "macs_per_s" in row else ["", ""]
    memory = units.bytes_(row["peak_bytes"]) if row.get("peak_bytes") else ""
    cold = [f"{row['load_s']:.2f}", f"{row['first_run_ms']:.1f}"]
    return [f"{row['median_ms']:.2f}", p90, f"{row['throughput']:.1f}", *speed, *cold, memory, f"{row['max_difference']:.1e}"]


def _layers(found: dict[str, Any]) -> None:
    from lamina.report.table import console, table

    out = console()
    out.print(f"[bold]{found['model']}[/], batch {found['batch']}: {found['total_ms']:.2f} ms in eager torch, layer by layer")
    rows = [
        [
            row["name"],
            row["kind"],
            f"{row['median_ms']:.3f}",
            f"{row['roofline_ms']:.3f}",
            f"{row['times_roofline']:.1f}",
            row["bound"],
        ]
        for row in found["layers"]
    ]
    out.print(table(("layer", "kind", "ms", "roofline ms", "times", "bound"), rows, left=("layer", "kind", "bound")))
