"""Plots of networks on hardware: where processing elements idle, where energy goes, what bounds each layer, the roofline."""

import itertools
import math
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from lamina import units
from lamina.report.plot import COLOURS, INK, KINDS, Plot, _figure, _label_columns, _shorten, heatmap, human

if TYPE_CHECKING:
    from matplotlib.figure import Figure

Document = Mapping[str, Any]
# Fixed places in the palette, so that a level has its colour in every plot; further levels take those that follow.
LEVELS = {"multiply": COLOURS[6], "registers": COLOURS[2], "network": COLOURS[3], "buffer": COLOURS[0], "DRAM": COLOURS[1]}
UTILISATION = "Utilisation: multiply-accumulates per cycle and processing element, percent, by layer and dataflow"
ENERGY = "Energy of each layer by where it goes, in multiply-accumulates per multiply-accumulate of the layer"
BOUND = "Cycles of each layer, coloured by what bounds them; the text above says where the bound changes"


def products(document: Document) -> list[Document]:
    """The layers with loops, of `lamina fit --json`."""
    return [layer for layer in document["layers"] if layer["macs"]]


def utilisation(documents: Mapping[str, Document], title: str) -> str:
    """A heat map: a row for each dataflow, a column for each layer."""
    return _utilisation(heatmap, documents, title)


def utilisation_png(documents: Mapping[str, Document], title: str) -> bytes:
    return _utilisation(heatmap.png, documents, title)


def _utilisation(draw: Any, documents: Mapping[str, Document], title: str) -> Any:
    first = next(iter(documents.values()))
    columns = [layer["name"] for layer in products(first)]
    values = []
    for document in documents.values():
        known = {layer["name"]: layer["utilisation"] for layer in products(document)}
        values.append([known.get(column, math.nan) for column in columns])
    return draw(list(documents), columns, values, title)


def colours(levels: Sequence[str]) -> dict[str, str]:
    """One colour for each level: the known ones have theirs."""
    spare = iter([c for c in COLOURS if c not in LEVELS.values()])
    found: dict[str, str] = {}
    for level in levels:
        kind = "registers" if "register" in level else "buffer" if "buffer" in level or level == "SRAM" else level
        colour = LEVELS.get(kind)
        found[level] = colour if colour and colour not in found.values() else next(spare, COLOURS[-1])
    return found


@Plot
def energy(document: Document, title: str) -> "Figure":
    """Energy per multiply-accumulate of each layer, stacked by memory level, and the network's shares."""
    layers = products(document)
    levels = list(dict.fromkeys(level for layer in layers for level in reversed(layer["energies"])))
    levels.sort(key=lambda level: list(LEVELS).index(level) if level in LEVELS else 2.5)
    ink = colours(levels)
    names = [_shorten(layer["name"]) for layer in layers]
    longest = max(map(len, names), default=0)
    flat = len(names) * longest <= 90
    figure = _figure(9.0, 3.6 if flat else 3.6 + 0.065 * longest)
    ax = figure.subplots()
    floors = [0.0] * len(layers)
    for level in levels:
        heights = [layer["energies"].get(level, 0.0) / layer["macs"] for layer in layers]
        total = sum(layer["energies"].get(level, 0.0) for layer in layers)
        share = 100 * total / sum(sum(layer["energies"].values()) for layer in layers)
        ax.bar(range(len(layers)), heights, 0.78, floors, color=ink[level], label=f"{level} {share:.0f} %")
        floors = [floor + height for floor, height in zip(floors, heights, strict=True)]
    ax.set_ylabel("energy per MAC, in MACs")
    if min(floors) > 0 and max(floors) > 12 * sorted(floors)[len(floors) // 2]:  # a fully connected layer would hide the others
        top = 3.2 * sorted(floors)[len(floors) // 2]
        ax.set_ylim(0, top)
        ax.set_title("bars that are cut carry their whole energy", fontsize=8)
        for x, floor in enumerate(floors):
            if floor > top:
                ax.bar(x, 0.012 * top, 0.78, 0.9 * top, color="#ffffff", linewidth=0)  # a gap says that the bar goes on
                ax.annotate(f"{floor:.0f}", (x, 0.955 * top), ha="center", va="center", fontsize=8, color="#ffffff")
    figure.suptitle(title, x=0.01, ha="left")
    _label_columns(ax, names, range(len(names)), flat)
    ax.margins(x=0.01)
    ax.grid(axis="y")
    ax.tick_params(length=0)
    figure.legend(loc="outside lower left", ncols=min(6, len(levels)))
    return figure


@Plot
def bounds(document: Document, title: str) -> "Figure":
    """Cycles of each layer, in the colour of what bounds it."""
    layers = [layer for layer in document["layers"] if layer["cycles"]]
    kinds = list(dict.fromkeys(layer["bound"] for layer in layers))
    spare = iter(COLOURS)
    ink = {kind: COLOURS[2] if kind == "array" else COLOURS[1] if kind == "DRAM" else "" for kind in kinds}
    for kind in kinds:
        ink[kind] = ink[kind] or next(c for c in spare if c not in ink.values())
    names = [_shorten(layer["name"]) for layer in layers]
    longest = max(map(len, names))
    flat = len(names) * longest <= 90
    figure = _figure(9.0, 3.2 if flat else 3.2 + 0.065 * longest)
    ax = figure.subplots()
    total = sum(layer["cycles"] for layer in layers)
    for kind in kinds:
        places = [x for x, layer in enumerate(layers) if layer["bound"] == kind]
        share = 100 * sum(layers[x]["cycles"] for x in places) / total
        ax.bar(
            places, [layers[x]["cycles"] for x in places], 0.9, color=ink[kind], label=f"{kind}: {share:.0f} % of the cycles"
        )
    changes = sum(a["bound"] != b["bound"] for a, b in itertools.pairwise(layers))
    figure.suptitle(title, x=0.01, ha="left")
    ax.set_title(f"{len(layers)} layers in order of execution; what bounds them changes {changes} times")
    ax.set_ylabel("cycles")
    ax.yaxis.set_major_formatter(lambda value, _: human(value))
    _label_columns(ax, names, range(len(names)), flat)
    ax.margins(x=0.005)
    ax.grid(axis="y")
    ax.tick_params(length=0)
    figure.legend(loc="outside lower left", ncols=min(6, len(kinds)))
    return figure


@Plot
def losses(document: Document, title: str) -> "Figure":
    """What each fixed dataflow costs, as a multiple of the best, for each network: energy and cycles."""
    networks = document["networks"]
    fixed = [name for name in document["dataflows"] if name != "flexible"]
    figure = _figure(9.0, 0.62 * len(networks) + 1.3)
    axes = figure.subplots(1, 2, sharey=True)
    figure.suptitle(title, x=0.01, ha="left")
    height = 0.8 / len(fixed)
    for ax, key in zip(axes, ("energy", "cycles"), strict=True):
        most = 1.0
        for i, name in enumerate(fixed):
            values = [network["dataflows"][name][f"{key}_ratio"] for network in networks]
            at = [y + (i - (len(fixed) - 1) / 2) * height for y in range(len(networks))]
            ax.barh(
                at, [value or 0 for value in values], height * 0.92, color=COLOURS[i], label=name if key == "energy" else None
            )
            for y, value in zip(at, values, strict=True):
                text = f"{value:.2f}" if value and value < 9.95 else f"{value:.0f}" if value else "does not fit"
                ax.annotate(text, (value or 1, y), (3, 0), textcoords="offset points", va="center", fontsize=7)
            most = max([most, *(value or 0 for value in values)])
        ax.axvline(1, color=INK, linewidth=0.8)
        ax.set_title(f"{key}, best = 1")
        if most > 6:
            ax.set_xscale("log")
            ax.set_xlim(0.8, 1.6 * most)
            ax.xaxis.set_major_formatter(lambda value, _: f"{value:g}")
            ax.xaxis.set_minor_formatter(lambda value, _: f"{value:g}" if f"{value:e}"[0] in "25" else "")
        else:
            ax.set_xlim(0, 1.15 * most)
        ax.set_yticks(range(len(networks)), [_shorten(network["model"]) for network in networks])
        ax.set_ylim(len(networks) - 0.45, -0.55)
        ax.tick_params(length=0, which="both")
        ax.grid(axis="x")
    figure.legend(loc="outside lower left", ncols=len(fixed))
    return figure


@Plot
def front(document: Document, title: str) -> "Figure":
    """Designs of a sweep: energy and cycles over the area proxy, those on the front joined and named."""
    rows = [row for row in document["points"] if row["refusal"] is None]
    best = [row for row in rows if row["front"]]
    figure = _figure(9.0, 3.9)
    axes = figure.subplots(1, 2)
    figure.suptitle(title, x=0.01, ha="left")
    named = [key for key in document["axes"]]
    for ax, key in zip(axes, ("energy", "cycles"), strict=True):
        ax.scatter([r["area"] for r in rows], [r[key] for r in rows], s=14, color=COLOURS[6], linewidth=0, label="designs")
        ax.scatter([r["area"] for r in best], [r[key] for r in best], s=26, color=COLOURS[1], linewidth=0, label="on the front")
        lower, line = math.inf, []
        for row in sorted(best, key=lambda r: r["area"]):
            if row[key] < lower:
                lower = row[key]
                line.append(row)
        ax.step([r["area"] for r in line], [r[key] for r in line], where="post", color=COLOURS[1], linewidth=0.8)
        for i, row in enumerate(line if len(line) <= 12 else line[:: math.ceil(len(line) / 12)]):
            text = " ".join(str(row[name]) for name in named)
            below = {"xytext": (-4, -10), "ha": "right"} if i % 2 else {"xytext": (4, 4)}  # neighbours' names keep apart
            ax.annotate(text, (row["area"], row[key]), textcoords="offset points", fontsize=7, **below)
        ax.set(xscale="log", xlabel="area proxy, in 16-bit MAC units", title=key)
        if max(r[key] for r in rows) > 8 * min(r[key] for r in rows):
            ax.set_yscale("log")
        for axis in (ax.xaxis, ax.yaxis):
            axis.set_major_formatter(lambda value, _: human(value))
            axis.set_minor_formatter(lambda value, _: human(value) if f"{value:e}"[0] in "25" else "")
        ax.margins(x=0.16, y=0.1)
        least, most = (extreme(r[key] for r in rows) for extreme in (min, max))
        if most < 1.05 * least:  # designs that differ by nothing worth a scale
            ax.set_ylim(0.9 * least, 1.1 * most)
        ax.grid()
        ax.tick_params(length=0, which="both")
    handles, labels = axes[0].get_legend_handles_labels()
    figure.legend(handles, labels, loc="outside lower left", ncols=2)
    return figure


@Plot
def roofline(document: Document, title: str) -> "Figure":
    """Each layer at its arithmetic intensity, under the roof of peak and bandwidth; the area is its share of the time."""
    layers = [layer for layer in document["layers"] if layer["operations"] and layer["bytes"]]
    peak, bandwidth, ridge = document["peak"], document["bandwidth"], document["ridge"]
    figure = _figure(9.0, 4.6)
    ax = figure.subplots()
    low = min([layer["intensity"] for layer in layers] + [ridge]) / 2.5
    high = max([layer["intensity"] for layer in layers] + [ridge]) * 2.5
    ax.plot([low, ridge, high], [low * bandwidth, peak, peak], color=INK, linewidth=1.2)
    shown = f"{ridge:,.0f}" if ridge >= 100 else f"{ridge:.3g}"
    roof = f"peak {units.per_second(peak, 'FLOP')}, from {shown} FLOPs per byte"
    ax.annotate(roof, (high, peak), (-4, 14), textcoords="offset points", ha="right", fontsize=8)
    slope = (low * 1.25, low * 1.25 * bandwidth)
    ax.annotate(units.per_second(bandwidth, "B"), slope, (12, -3), textcoords="offset points", fontsize=8)
    total = sum(layer["seconds"] for layer in document["layers"])
    for kind in [k for k in KINDS if any(layer["kind"] == k for layer in layers)]:
        some = [layer for layer in layers if layer["kind"] == kind]
        areas = [max(14.0, 2400 * layer["seconds"] / total) for layer in some]
        share = 100 * sum(layer["seconds"] for layer in some) / total
        ax.scatter(
            [layer["intensity"] for layer in some], [layer["attainable"] for layer in some], s=areas,
            color=[(KINDS[kind], 0.45)], edgecolor=KINDS[kind], linewidth=0.7, label=f"{kind} {share:.0f} % of the time",
        )  # fmt: skip
    ax.set(xscale="log", yscale="log", xlabel="FLOPs per byte", ylabel="attainable FLOP/s")
    ax.set_xlim(low, high)
    ax.set_ylim(top=3 * peak)
    ax.xaxis.set_major_formatter(lambda value, _: f"{value:g}")
    ax.yaxis.set_major_formatter(lambda value, _: human(value))
    figure.suptitle(title, x=0.01, ha="left")
    ax.grid()
    ax.tick_params(length=0, which="both")
    legend = ax.legend(loc="lower right")
    for handle in legend.legend_handles:
        handle.set_sizes([30.0])  # type: ignore[union-attr]
    return figure
