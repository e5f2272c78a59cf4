"""Plots as SVG text. Each plot, when called, returns one `<svg>` element for a file of its own or inline in a page; its
`png` returns the bytes of an image on white.

Text stays text, the background is transparent and ink is `currentColor`, so that a figure takes on the colour of the
page around it; in a file of its own it is dark on a light screen and light on a dark one. Equal input gives equal
text, whatever matplotlib's configuration is. matplotlib is imported when the first figure is drawn.
"""

import io
import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any, Generic, ParamSpec

from lamina import units
from lamina.workload import Workload

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

# Okabe and Ito's colours for all kinds of colour vision (https://jfly.uni-koeln.de/color/), brought to one lightness so
# that each has a contrast of at least 3 to a white page and to a dark one.
COLOURS = ("#2f7fc1", "#d55e00", "#009e73", "#c0609a", "#a87900", "#8068c8", "#7f7f7f", "#2a93a5", "#b5544f", "#6f8f2f")
KINDS: dict[str, str] = dict(
    zip(
        ("conv", "linear", "matmul", "norm", "activation", "softmax", "elementwise", "pool", "embedding", "copy"),
        COLOURS,
        strict=True,
    )
)
INK = "#010203"  # replaces currentColor until the figure is text
FONT = "DejaVu Sans"  # comes with matplotlib: the layout is the same everywhere; wide, so that other fonts fit too

STYLE: dict[Any, Any] = {
    "font.family": "sans-serif", "font.sans-serif": [FONT], "font.size": 9, "axes.titlesize": 9, "axes.labelsize": 9,
    "figure.titlesize": 11, "figure.titleweight": "bold", "axes.titlelocation": "left", "xtick.labelsize": 8,
    "ytick.labelsize": 8, "legend.fontsize": 8, "legend.frameon": False, "legend.labelcolor": INK, "text.color": INK,
    "axes.labelcolor": INK, "axes.edgecolor": INK, "xtick.color": INK, "ytick.color": INK, "axes.titlecolor": INK,
    "axes.spines.top": False, "axes.spines.right": False, "axes.linewidth": 0.6, "axes.axisbelow": True,
    "grid.color": INK, "grid.alpha": 0.14, "grid.linewidth": 0.6, "axes.formatter.useoffset": False,
    "svg.fonttype": "none", "svg.hashsalt": "lamina", "figure.dpi": 72, "savefig.transparent": True,
}  # fmt: skip
NO_METADATA = dict.fromkeys(("Date", "Creator", "Format", "Type"))
THEME = "svg{color:#222}@media screen and (prefers-color-scheme:dark){svg{color:#ddd}}"


P = ParamSpec("P")


class Plot(Generic[P]):
    """A function that draws a figure, made one that returns it as SVG text."""

    def __init__(self, draw: "Callable[P, Figure]"):
        self.draw = draw
        self.__doc__ = draw.__doc__

    def __call__(self, *args: P.args, **kwargs: P.kwargs) -> str:
        with _style():
            return _svg(self.draw(*args, **kwargs))

    def png(self, *args: P.args, **kwargs: P.kwargs) -> bytes:
        with _style():
            data = io.BytesIO()
            self.draw(*args, **kwargs).savefig(data, format="png", dpi=200, transparent=False, metadata={"Software": None})
            return data.getvalue()


@Plot
def layer_bars(workload: Workload, title: str) -> "Figure":
    """Weights (no biases, no norms) and MACs of each convolution, linear layer and matrix product, in order of execution."""
    layers = [layer for layer in workload.layers if layer.loops]
    weights = [sum(w.numel for w in layer.weights if w.part == "weight") for layer in layers]
    macs = [layer.macs for layer in layers]
    names = [_shorten(layer.name) for layer in layers]
    few, longest = len(layers) <= 16, max(map(len, names), default=0)
    flat = len(names) * longest <= 90
    kinds = list(dict.fromkeys(layer.kind for layer in layers))
    figure = _figure(6.4 if len(layers) <= 8 else 9.0, 4.2 if flat else 4.2 + 0.065 * longest)
    axes = figure.subplots(2, 1, sharex=True)
    figure.suptitle(title, x=0.01, ha="left")
    for ax, values, quantity in zip(axes, (weights, macs), ("Weights", "MACs"), strict=True):
        for kind in kinds:
            at = [i for i, layer in enumerate(layers) if layer.kind == kind]
            bars = ax.bar(at, [values[i] for i in at], 0.74, color=KINDS.get(kind, COLOURS[-1]), label=kind)
            if few:
                ax.bar_label(bars, [human(values[i]) for i in at], padding=2, fontsize=7.5)
        ax.set_title(f"{quantity} per layer, {human(sum(values))} in all")
        ax.yaxis.set_major_formatter(lambda value, _: human(value))
        ax.margins(x=0.01, y=0.12 if few else 0.05)
        ax.grid(axis="y")
        ax.tick_params(length=0)
    if len(kinds) > 1:
        axes[0].legend(loc="lower right", bbox_to_anchor=(1, 0.98), ncols=len(kinds), borderaxespad=0)
    _label_columns(axes[1], names, range(len(names)), flat)
    return figure


@Plot
def scatter(points: Sequence[tuple[str, str, float, int, float]]) -> "Figure":
    """Accuracy against cost: each point is (name, family, MACs, parameters, top-1 accuracy in percent). The area of a
    disc is in proportion to its parameters."""
    from matplotlib.lines import Line2D

    families = list(dict.fromkeys(point[1] for point in points))
    colour = {family: COLOURS[i % len(COLOURS)] for i, family in enumerate(families)}
    largest = max((point[3] for point in points), default=1)
    area = 1100 / largest  # square points (matplotlib's unit of a marker's area) for one parameter
    figure = _figure(9.0, 5.4, constrained=False)
    ax = figure.add_axes((0.075, 0.1, 0.74, 0.87))
    # Large discs first: a small one is never hidden.
    for _, family, macs, parameters, top1 in sorted(points, key=lambda point: -point[3]):
        ax.scatter(macs, top1, s=area * parameters, color=[(colour[family], 0.6)], edgecolor=colour[family], linewidth=0.8)
    ax.scatter([p[2] for p in points], [p[4] for p in points], s=3, color=INK, linewidth=0)
    ax.set_xscale("log")
    ax.margins(x=0.09, y=0.1)
    ax.set(xlabel="MACs for one image", ylabel="top-1 accuracy, %")
    ax.xaxis.set_major_formatter(lambda value, _: human(value))
    ax.xaxis.set_minor_formatter(lambda value, _: human(value) if f"{value:e}"[0] in "25" else "")
    ax.tick_params(length=0, which="both")
    ax.grid(which="major")
    _place_labels(ax, points, area)
    dots = [Line2D([], [], marker="o", linestyle="", markersize=7, color=colour[f], label=f) for f in families]
    figure.legend(handles=dots, title="Family", loc="upper left", bbox_to_anchor=(0.83, 0.98), alignment="left")
    sizes = dict.fromkeys(float(f"{largest * share:.0e}") for share in (0.04, 0.2, 0.8))  # one digit: 5M, 30M, 100M
    discs = [
        Line2D([], [], marker="o", linestyle="", markersize=math.sqrt(area * size), label=human(size),
               markerfacecolor="none", markeredgecolor=INK, markeredgewidth=0.6)
        for size in sizes
    ]  # fmt: skip
    figure.legend(handles=discs, title="Parameters", loc="lower left", bbox_to_anchor=(0.83, 0.09), alignment="left",
                  labelspacing=2.4, handlelength=4.5, borderpad=1.4)  # fmt: skip
    return figure


@Plot
def heatmap(rows: Sequence[str], columns: Sequence[str], values: Sequence[Sequence[float]], title: str) -> "Figure":
    """Shares between 0 and 1 as percent, one list per row; nan leaves its cell empty. Up to 16 columns print the numbers."""
    import matplotlib

    names = [_shorten(column) for column in columns]
    few, longest = len(names) <= 16, max(map(len, names), default=0)
    flat = len(names) * longest <= 85
    figure = _figure(9.0 if len(names) > 8 else 6.4, 0.95 + 0.4 * len(rows) + (0 if flat else 0.065 * longest))
    ax = figure.subplots()
    colours = matplotlib.colormaps["viridis"].resampled(48)  # from 50 on, the colour bar would be a raster image
    mesh = ax.pcolormesh(values, cmap=colours, vmin=0, vmax=1, edgecolor="none", antialiased=False)
    for y, row in enumerate(values if few else ()):
        for x, value in enumerate(row):
            if not math.isnan(value):
                ink = "#ffffff" if value < 0.55 else "#000000"
                ax.text(x + 0.5, y + 0.5, f"{100 * value:.0f}", ha="center", va="center", color=ink, fontsize=8.5)
    bar = figure.colorbar(mesh, ax=ax, ticks=[0, 0.25, 0.5, 0.75, 1], format=lambda v, _: f"{100 * v:.0f} %", aspect=12)
    bar.outline.set_visible(False)
    if bar.solids is not None:
        bar.solids.set_edgecolor("face")  # no seams
    figure.suptitle(title, x=0.01, ha="left")
    ax.invert_yaxis()
    ax.set_yticks([y + 0.5 for y in range(len(rows))], rows)
    _label_columns(ax, names, [x + 0.5 for x in range(len(names))], flat)
    for axis in (ax, bar.ax):
        axis.tick_params(length=0)
    ax.spines[:].set_visible(False)
    return figure


@Plot
def kinds(names: Sequence[str], quantities: Mapping[str, Sequence[Mapping[str, int]]]) -> "Figure":
    """For each quantity ("MACs", ...) one bar per network, split by kind of layer: `quantities` maps it to each network's
    counts by kind."""
    shown = {k for rows in quantities.values() for row in rows for k, n in row.items() if n}
    present = [k for k in KINDS if k in shown] + sorted(shown - set(KINDS))
    height = 0.34 * len(names) + 0.75
    figure = _figure(9.0, len(quantities) * height + 0.5)
    axes = figure.subplots(len(quantities), 1, squeeze=False)[:, 0]
    for ax, (quantity, rows) in zip(axes, quantities.items(), strict=True):
        starts = [0.0] * len(names)
        for kind in present:
            sizes = [row.get(kind, 0) for row in rows]
            if any(sizes):
                ax.barh(range(len(names)), sizes, 0.62, left=starts, color=KINDS.get(kind, COLOURS[-2]))
                starts = [start + size for start, size in zip(starts, sizes, strict=True)]
        for y, end in enumerate(starts):
            ax.annotate(human(end), (end, y), (4, 0), textcoords="offset points", va="center", fontsize=8)
        ax.set_title(quantity)
        ax.set_yticks(range(len(names)), [_shorten(name) for name in names])
        ax.set_xlim(0, 1.1 * max([*starts, 1]))
        ax.set_ylim(len(names) - 0.45, -0.55)
        ax.xaxis.set_major_formatter(lambda value, _: human(value))
        ax.tick_params(length=0)
        ax.grid(axis="x")
    _kind_legend(figure, present)
    return figure


@Plot
def profile(workload: Workload, live: Sequence[int], title: str) -> "Figure":
    """MACs, bytes moved and live activations (`live`, bytes while each layer runs) along the layers, in order of execution;
    views are left out."""
    at = [i for i, layer in enumerate(workload.layers) if layer.kind != "view"]
    layers = [workload.layers[i] for i in at]
    shown = {layer.kind for layer in layers}
    present = [k for k in KINDS if k in shown] + sorted(shown - set(KINDS))
    figure = _figure(9.0, 5.6)
    axes = figure.subplots(3, 1, sharex=True)
    figure.suptitle(title, x=0.01, ha="left")
    moved = [layer.bytes_read + layer.bytes_written for layer in layers]
    for ax, values, unit in ((axes[0], [layer.macs for layer in layers], ""), (axes[1], moved, "B")):
        for kind in present:
            places = [x for x, layer in enumerate(layers) if layer.kind == kind]
            ax.bar(places, [values[x] for x in places], 1.0, color=KINDS.get(kind, COLOURS[-2]))
        ax.yaxis.set_major_formatter(lambda value, _, unit=unit: human(value) + unit)
    axes[2].fill_between(range(len(at)), [live[i] for i in at], step="mid", color=COLOURS[7], alpha=0.75, linewidth=0)
    axes[2].yaxis.set_major_formatter(lambda value, _: human(value) + "B")
    peak = human(workload.peak_activation_bytes)
    names = ("MACs", "Bytes read and written", f"Live activations while the layer runs, {peak}B at most")
    for ax, name in zip(axes, names, strict=True):
        ax.set_title(name)
        ax.margins(x=0.005)
        ax.set_ylim(bottom=0)
        ax.grid(axis="y")
        ax.tick_params(length=0)
    axes[2].set_xlabel(f"the {len(at)} layers in order of execution")
    _kind_legend(figure, present)
    return figure


@Plot
def growth(axis: str, sizes: Sequence[int], series: Mapping[str, Sequence[int]], title: str) -> "Figure":
    """Each quantity of `series` (bytes where its name says memory) over the sizes of an input's axis."""
    figure = _figure(9.0, 3.4)
    axes = figure.subplots(1, len(series), squeeze=False)[0]
    figure.suptitle(title, x=0.01, ha="left")
    for ax, colour, (name, values) in zip(axes, COLOURS, series.items(), strict=False):
        unit = "B" if "memory" in name else ""
        ax.plot(sizes, values, color=colour, marker="o" if len(sizes) <= 40 else None, markersize=3.5, linewidth=1.4)
        ax.set_title(name)
        ax.set_xlabel(axis)
        ax.set_ylim(bottom=0)
        ax.yaxis.set_major_formatter(lambda value, _, unit=unit: human(value) + unit)
        ax.grid()
        ax.tick_params(length=0)
    return figure


def _kind_legend(figure: "Figure", present: Sequence[str]) -> None:
    from matplotlib.patches import Patch

    patches = [Patch(color=KINDS.get(kind, COLOURS[-2]), label=kind) for kind in present]
    figure.legend(handles=patches, loc="outside lower left", ncols=min(9, len(patches)))


def human(count: float) -> str:
    """Up to three digits and a prefix, as short as a tick label must be: 25502912 is 25.5M."""
    number, _, prefix = units.si(count).partition(" ")
    return (number.rstrip("0").rstrip(".") if "." in number else number) + prefix


@contextmanager
def _style() -> Iterator[None]:
    """matplotlib's own defaults and ours, not the user's, and all put back in the end."""
    import matplotlib

    with matplotlib.rc_context():
        matplotlib.rcdefaults()
        matplotlib.rcParams.update(STYLE)
        yield


def _figure(width: float, height: float, constrained: bool = True) -> "Figure":
    from matplotlib.figure import Figure

    return Figure((width, height), layout="constrained" if constrained else None)


def _svg(figure: "Figure") -> str:
    text = io.StringIO()
    figure.savefig(text, format="svg", metadata=NO_METADATA)
    svg = text.getvalue()
    svg = svg[svg.index("<svg") :].rstrip()  # the XML declaration and the document type are for files only
    svg = svg.replace(f"'{FONT}', sans-serif", "sans-serif").replace(INK, "currentColor")
    return svg.replace('<style type="text/css">', f'<style type="text/css">{THEME}', 1)


def _shorten(name: str, most: int = 30) -> str:
    """The end of a long path tells more than its beginning."""
    return name if len(name) <= most else f"…{name[1 - most :]}"


def _label_columns(ax: "Axes", names: Sequence[str], at: Sequence[float], flat: bool) -> None:
    """Names below columns: upright where they fit, else turned, and every second, third, ... where there are very many."""
    step = max(1, math.ceil(len(names) / 62))  # so many lines of 7 points fit side by side
    turned = {} if flat else {"rotation": 90, "rotation_mode": "anchor", "ha": "right", "va": "center"}
    ax.set_xticks(at[::step], names[::step], fontsize=8 if len(names) <= 30 else 7, **turned)


def _place_labels(ax: "Axes", points: Sequence[tuple[str, str, float, int, float]], area: float) -> None:
    """Each name next to its disc, where it covers least of the names and discs so far; in points, from the figure's corner."""
    size, height = 8.0, 9.5
    ax.autoscale_view()  # else only drawing would set the limits
    frame = ax.get_window_extent()
    centres = [tuple(ax.transData.transform((point[2], point[4]))) for point in points]
    radii = [math.sqrt(area * point[3] / math.pi) for point in points]
    discs = [(x - r - 1, y - r - 1, x + r + 1, y + r + 1) for (x, y), r in zip(centres, radii, strict=True)]
    labels: list[tuple[float, ...]] = []
    for i, ((name, *_), (x, y), r) in enumerate(zip(points, centres, radii, strict=True)):
        width = 0.6 * size * len(name)
        others = [*discs[:i], *discs[i + 1 :], *labels]
        best, cost = (discs[i], x, 0), math.inf
        for distance in (2.0, 8.0, 16.0, 26.0):
            for turn in range(16):
                dx, dy = math.cos(turn * math.pi / 8), math.sin(turn * math.pi / 8)
                # The label's corner, or the middle of its side, that is nearest to the disc; at 22 degrees still the side.
                anchor_x, anchor_y = x + dx * (r + distance), y + dy * (r + distance)
                side_x, side_y = round(1.2 * dx), round(1.2 * dy)
                left, low = anchor_x + (side_x - 1) * width / 2, anchor_y + (side_y - 1) * height / 2
                box = (left, low, left + width, low + height)
                covered = sum(_overlap(box, other) for other in others)
                outside = width * height - _overlap(box, (frame.x0, frame.y0, frame.x1, frame.y1))
                askew = 2 * abs(dx * dy) + 0.1 * (1 - dx)  # beside is clearer than at a corner, right than left
                if (total := covered + 3 * outside + 2 * distance + 10 * askew) < cost:
                    best, cost = (box, anchor_x, side_x), total
        box, anchor_x, side_x = best
        labels.append(box)
        # The side next to the disc is the one that is held, whatever the reader's font.
        ax.annotate(name, (x, y), (anchor_x, (box[1] + box[3]) / 2), xycoords="figure points", textcoords="figure points",
                    ha=("right", "center", "left")[side_x + 1], va="center", fontsize=size)  # fmt: skip


def _overlap(a: tuple[float, ...], b: tuple[float, ...]) -> float:
    return max(0.0, min(a[2], b[2]) - max(a[0], b[0])) * max(0.0, min(a[3], b[3]) - max(a[1], b[1]))


@Plot
def depth_profile(document: Mapping[str, Any]) -> "Figure":
    """What `lamina diagnose` measures, over the depth: sizes and Jacobians of the branches, change of the weights, tokens."""
    blocks, tokens = document["blocks"], document["tokens"]
    figure = _figure(9.0, 3.0)
    axes = figure.subplots(1, 3 if tokens else 2)
    place = range(1, len(blocks) + 1)
    axes[0].plot(place, [b["branch"] / b["state"] for b in blocks], "o-", color=COLOURS[0], label="|F(x)| / |x|")
    axes[0].plot(place, [b["jacobian"] for b in blocks], "s-", color=COLOURS[1], label="|F'|")
    axes[0].set(title="branches", xlabel="block", yscale="log")
    for key, label, colour in (("change", "raw", COLOURS[0]), ("aligned", "aligned", COLOURS[2])):
        points = [(i, b[key]) for i, b in zip(place, blocks, strict=True) if key in b]
        axes[1].plot(*zip(*points, strict=True), "o-", color=colour, label=label) if points else None
    axes[1].axhline(2**0.5, color=INK, linewidth=0.6, linestyle=":")
    axes[1].set(title="change of weights to the next block", xlabel="block", ylim=(0, 1.6))
    if tokens:
        place = range(1, len(tokens) + 1)
        axes[2].plot(place, [t["rank"] for t in tokens], "o-", color=COLOURS[0], label="with shortcuts")
        axes[2].plot(place, [t["rank_without"] for t in tokens], "s-", color=COLOURS[1], label="without")
        axes[2].set(title="effective rank of the tokens", xlabel="block", ylim=(0, None))
    for ax in axes:
        ax.legend()
        ax.grid(axis="y")
    return figure
