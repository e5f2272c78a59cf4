"""What `lamina cost --view` and `--explain` print."""

from dataclasses import asdict
from typing import Any

from lamina.cli import network, output
from lamina.cli.network import Network
from lamina.cost import conventions, record
from lamina.cost.explain import Convention
from lamina.cost.explain import explain as find_conventions
from lamina.workload import Workload


def view(net: Network, workload: Workload, tool: str, format: str) -> None:
    tools = list(conventions.VIEWS) if tool == "all" else [tool]
    figures = [conventions.view(workload, name) for name in tools]
    exact = workload.total()
    if format == "json":
        rows = [asdict(figure) for figure in figures]
        return output.print_json({"model": net.name, "input": net.shape, "macs": exact.macs, "views": rows})
    if format == "csv":
        fields = ("tool", "version", "parameters", "macs", "flops", "activations")
        return print(record.to_csv([{field: getattr(f, field) for field in fields} for f in figures]), end="")
    from lamina.report.table import console, table

    rows = [_view_row(figure, exact.macs, exact.parameters) for figure in figures]
    rows.append([""] * 6)
    rows.append(["exact", "", f"{exact.macs:,}", "", f"{exact.flops:,}", f"{exact.parameters:,}"])
    out = console()
    out.print(f"[bold]{net.name}[/], input {net.shown}: what other tools print")
    out.print(table(("tool", "version", "“MACs”", "differs by", "FLOPs", "parameters"), rows, left=("version", "differs by")))
    for figure in figures:
        out.print(f"{figure.tool}: {figure.note}", markup=False)


def _view_row(figure: conventions.Figure, macs: int, parameters: int) -> list[str]:
    count, differs = "", ""
    if figure.macs is not None:
        by_kind = {**figure.parts, "product": figure.parts.get("product", 0) - macs}
        differs = ", ".join(f"{'products' if kind == 'product' else kind} {n:+,}" for kind, n in by_kind.items() if n)
        count = f"{figure.macs:,}"
    other = f" ({figure.parameters - parameters:+,})" if figure.parameters != parameters else ""
    flops = f"{figure.flops:,}" if figure.flops is not None else ""
    return [figure.tool, figure.version, count, differs, flops, f"{figure.parameters:,}{other}"]


def explain(net: Network, workload: Workload, text: str, format: str) -> None:
    found = find_conventions(workload, text, network.with_heads(net))
    if format == "json":
        document: dict[str, Any] = {"model": net.name, "input": net.shape, "published": found.published.text}
        document |= {key: [asdict(c) for c in getattr(found, key)] for key in ("rounded", "cut")}
        return output.print_json(document | {"nearest": asdict(found.nearest), "nearest_error_percent": found.error})
    if format == "csv":
        kinds = (("rounded", found.rounded), ("cut", found.cut), ("nearest", (found.nearest,)))
        return print(record.to_csv([{"match": kind, **asdict(c)} for kind, rows in kinds for c in rows]), end="")
    from lamina.report.table import console

    out, shown = console(), found.published.text
    if found.rounded:
        out.print(f"{shown} is, of {net.name} on {net.shown}, rounded to the digits printed:")
    elif found.cut:
        out.print(f"{shown} is, of {net.name} on {net.shown}, with the further digits cut off (nothing rounds to it):")
    else:
        nearest = found.nearest
        out.print(f"no convention gives {shown} for {net.name} on {net.shown}")
        out.print(f"the nearest is {nearest.name}: {nearest.value:,}, {found.error:+.2g} %; another input size may explain it")
    for value, names in _by_value(found.rounded or found.cut):
        out.print(f"  {value:>18,}  {'; '.join(names)}", markup=False)


def _by_value(found: tuple[Convention, ...]) -> list[tuple[int, list[str]]]:
    values: dict[int, list[str]] = {}
    for convention in found:
        values.setdefault(convention.value, []).append(convention.name)
    return list(values.items())
