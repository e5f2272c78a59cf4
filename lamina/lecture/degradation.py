"""Plain and residual networks of 20 and 56 layers, side by side: what `benchmarks/degradation.py` measured, what it says of
the lecture's claims, a table and a picture. Every figure here is read from degradation.json, and so is every verdict."""

import json
import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from functools import cache
from importlib.resources import files
from statistics import fmean, geometric_mean
from typing import TYPE_CHECKING, Any

from lamina.lecture.finding import Finding, Findings
from lamina.report.plot import COLOURS, Plot

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

SHALLOW, DEEP = ("plain20_cifar", "resnet20_cifar"), ("plain56_cifar", "resnet56_cifar")
NETWORKS = SHALLOW + DEEP
PAPER_STEPS = 64_000  # He et al. 2015 (arXiv 1512.03385), section 4.2
VANISHED = 0.1  # of the last convolution's gradient in the first; and its inverse, grown
COLUMNS = (
    "Network",
    "Training loss",
    "Validation loss",
    "Training error, %",
    "Validation error, %",
    "First / last gradient, fresh",
    "First / last gradient, trained",
    "First / last gradient × filters, trained",
)


@dataclass(frozen=True)
class Runs:
    """One network's runs. Each list has an entry a seed; a curve is by epoch, a norm by convolution from the input on.

    `gradients` are the norms of the filters' gradients on one training batch of 256 in float32, `filters` those of the
    filters themselves, both {"fresh", "trained"}; `seconds` is the training's time.
    """

    curves: dict[str, list[list[float]]]  # loss, validation_loss, top1, validation_top1
    gradients: dict[str, list[list[float]]]
    filters: dict[str, list[list[float]]]
    seconds: list[float]

    def error(self, part: str = "") -> list[list[float]]:
        """Percent of the pictures, of the training part or, with "validation_", of the other."""
        return [[100 - value for value in curve] for curve in self.curves[f"{part}top1"]]

    def scaled(self) -> list[list[float]]:
        """The trained gradients times the filters' norm: batch norm undoes any factor on the filters before it, so the norm
        of their gradient goes with the inverse of their own, and this product is what does not depend on it."""
        pairs = zip(self.gradients["trained"], self.filters["trained"], strict=True)
        return [[g * w for g, w in zip(*pair, strict=True)] for pair in pairs]


@dataclass(frozen=True)
class Measured:
    recipe: dict[str, Any]
    seeds: list[int]
    networks: dict[str, Runs]

    @property
    def steps(self) -> int:
        return self.recipe["epochs"] * math.ceil(self.recipe["samples"] / self.recipe["batch"])

    @property
    def counted(self) -> str:
        return f"{len(self.seeds)} seed{'s' * (len(self.seeds) > 1)}, {self.steps:,} steps where the paper has {PAPER_STEPS:,}"


def parse(document: dict[str, Any]) -> Measured:
    networks = {name: Runs(**document["networks"][name]) for name in NETWORKS}
    return Measured(document["recipe"], document["seeds"], networks)


@cache
def measured() -> Measured:
    return parse(json.loads(files("lamina.lecture").joinpath("degradation.json").read_text()))


# ---- verdicts -----------------------------------------------------------------------------------------------------------


def findings(found: Measured) -> Findings:
    return {"degradation": degradation(found), "gradients": gradients(found)}


def degradation(found: Measured) -> Finding:
    ends = {(name, part): last(runs.error(part)) for name, runs in found.networks.items() for part in ("", "validation_")}
    (plain20, residual20), (plain56, residual56) = SHALLOW, DEEP
    worse = [above(ends[plain56, part], ends[plain20, part]) for part in ("", "validation_")]
    errors = [[f"{fmean(ends[name, part]):.1f} %" for part in ("", "validation_")] for name in (plain20, plain56)]
    text = "20 plain layers err on {} in training, {} in validation; 56 on {} and {}".format(*errors[0], *errors[1])
    deeper = above(ends[residual56, ""], ends[residual20, ""])
    values = f"{spread(ends[residual56, ''], '.1f')} % of the training pictures against {spread(ends[residual20, ''], '.1f')} %"
    gaps = [fmean(ends[deep, ""]) - fmean(ends[shallow, ""]) for shallow, deep in zip(SHALLOW, DEEP, strict=True)]
    residual = {
        True: f"That deeper residual networks err less is not reached in {found.steps:,} steps: 56 layers err on {values};"
        f" the gap is {gaps[1]:.1f} points with shortcuts, {gaps[0]:.1f} without",
        False: f"With shortcuts 56 layers err less than 20: on {values}",
        None: f"With shortcuts the seeds leave open which depth errs less: 56 layers err on {values}",
    }
    if False in worse:
        verdict, judged, said = (
            "refuted",
            "not reproduced",
            "56 plain layers do not err more than 20 both in training and in validation",
        )
    elif None in worse:
        verdict, judged, said = "not testable here", "not settled", "the seeds leave open which depth of plain layers errs less"
    else:
        verdict, judged = "confirmed", "reproduced"
        said = "56 plain layers err more than 20, and on the training pictures too: it is no overfitting"
    return Finding(text, verdict, f"{judged} at reduced scale ({found.counted}): {said}. {residual[deeper]}")


def gradients(found: Measured) -> Finding:
    plain, residual = (found.networks[name] for name in DEEP)
    fresh, trained, scaled = ratios(plain.gradients["fresh"]), ratios(plain.gradients["trained"]), ratios(plain.scaled())
    shortcuts = ratios(residual.gradients["fresh"])
    errors = last(plain.error()), last(residual.error())
    early, late = (settled(ratio < VANISHED for ratio in values) for values in (fresh, scaled))
    helps = above(*errors)
    filters = [[norms[0] for norms in plain.filters[state]] for state in ("fresh", "trained")]
    ends = [[norms[at] for norms in plain.gradients["fresh"]] for at in (-1, 0)]
    text = f"56 plain layers, fresh: {spread(ends[0])} in the last convolution, {spread(ends[1])} in the first"
    if early is None or late is None or helps is None:
        verdict, judged = "not testable here", "the seeds do not agree"
    elif early:
        verdict, judged = ("confirmed" if helps else "refuted"), "the gradients vanish towards the input"
    elif late:
        verdict, judged = "explained", "the gradients do not vanish in the fresh network, but do by the end of training"
    else:
        verdict, judged = "refuted", "the gradients do not vanish; He et al. call it unlikely under batch norm (section 4.1)"
    helped = {True: "Shortcuts help", False: "Shortcuts do not help", None: "The seeds leave open whether shortcuts help"}
    return Finding(
        text,
        verdict,
        f"{judged}. From the last convolution to the first the gradient of the fresh network of 56 plain layers"
        f" {course(fresh)}; with shortcuts it {course(shortcuts)}. Trained, it {course(trained)}, while the norm of the first"
        f" filters has gone from {spread(filters[0])} to {spread(filters[1])}: ahead of batch norm a gradient goes with the"
        f" inverse of its filters' norm; times that norm it {course(scaled)}. {helped[helps]}: a training error of"
        f" {spread(errors[1], '.1f')} % with them, {spread(errors[0], '.1f')} % without",
    )


def above(a: Sequence[float], b: Sequence[float]) -> bool | None:
    """Whether every seed of `a` is above every one of `b`; None where their ranges meet."""
    return True if min(a) > max(b) else False if max(a) < min(b) else None


def settled(flags: Iterable[bool]) -> bool | None:
    """What all seeds say; None where they do not agree."""
    said = set(flags)
    return said.pop() if len(said) == 1 else None


def last(curves: Iterable[Sequence[float]]) -> list[float]:
    return [curve[-1] for curve in curves]


def ratios(norms: Iterable[Sequence[float]]) -> list[float]:
    """The first convolution's norm over the last one's."""
    return [row[0] / row[-1] for row in norms]


def course(ratio: Sequence[float]) -> str:
    if min(ratio) > 1 / VANISHED:
        return f"grows by a factor of {spread(ratio)}"
    if max(ratio) < VANISHED:
        return f"shrinks to {spread(ratio)} of its norm"
    return f"changes by a factor of {spread(ratio)}"


def spread(values: Sequence[float], form: str = "") -> str:
    """The mean of the seeds, and the range where they differ."""

    def text(value: float) -> str:
        return format(value, form or (",.0f" if abs(value) >= 100 else "#.2g" if abs(value) < 9.95 else ".0f"))

    low, high = text(min(values)), text(max(values))
    return low if low == high else f"{text(fmean(values))} ({low}\xa0to\xa0{high})"


# ---- what is shown ------------------------------------------------------------------------------------------------------


def setting(found: Measured) -> str:
    """How the networks were trained, in a paragraph."""
    r = found.recipe
    drops = " and ".join(f"{epoch:g}" for epoch in r["schedule"]["milestones"])
    seeds = " and ".join(map(str, found.seeds))
    minutes = sum(fmean(runs.seconds) for runs in found.networks.values()) / 60
    return (
        "Plain and residual networks of 20 and 56 layers side by side, alike in all else:"
        f" {r['samples']:,} pictures of CIFAR-10, {r['validation']:,} others of its training set for validation; {r['epochs']}"
        f" epochs in batches of {r['batch']} ({found.steps:,} steps, where the paper has {PAPER_STEPS:,}); learning rate"
        f" {r['optimizer']['lr']:g}, times {r['schedule']['gamma']:g} after {drops} epochs; seed{'s' * (len(found.seeds) > 1)}"
        f" {seeds}. Training loss and error are those of an epoch's own batches, augmented, as they came."
        f" `benchmarks/degradation.py` trains the four in {minutes:.0f} minutes of one core a seed."
    )


def table(found: Measured) -> list[list[str]]:
    """A row a network, in the order of COLUMNS."""
    rows = []
    for name, runs in found.networks.items():
        losses = [spread(last(runs.curves[key]), ".2f") for key in ("loss", "validation_loss")]
        errors = [spread(last(runs.error(part)), ".1f") for part in ("", "validation_")]
        norms = runs.gradients["fresh"], runs.gradients["trained"], runs.scaled()
        rows.append([name, *losses, *errors, *(spread(ratios(part)) for part in norms)])
    return rows


CAPTION = (
    "Plain (orange) and residual (blue) networks of 20 (thin) and 56 layers (thick): error over the epochs, and the norm of"
    " each convolution's gradient from the input on, on one training batch of 256. Times the norm of its filters, a gradient"
    " does not depend on their scale, which batch norm undoes."
)


@Plot
def draw(found: Measured) -> "Figure":
    """Learning curves and gradients by depth; of several seeds the mean (of gradients the geometric one), and a band from the
    least to the largest."""
    from matplotlib.figure import Figure
    from matplotlib.layout_engine import ConstrainedLayoutEngine

    figure = Figure((9.0, 5.8), layout=ConstrainedLayoutEngine(h_pad=0.1))
    axes = figure.subplot_mosaic("aaabbb;ccddee")
    networks = found.networks.items()
    for key, title, part in (("a", "Training error, %", ""), ("b", "Validation error, %", "validation_")):
        _lines(axes[key], title, {name: runs.error(part) for name, runs in networks})
        axes[key].set_xlabel("epoch")
    axes["b"].sharey(axes["a"])
    for key, title, norms in (
        ("c", "Gradient norm, fresh", {name: runs.gradients["fresh"] for name, runs in networks}),
        ("d", "Gradient norm, trained", {name: runs.gradients["trained"] for name, runs in networks}),
        ("e", "Times the filters' norm, trained", {name: runs.scaled() for name, runs in networks}),
    ):
        _lines(axes[key], title, norms, depth=True)
        axes[key].set_xticks([0, 1], ["first", "last"])
        axes[key].set_xlabel("convolution")
    for ax in axes.values():
        _label_ends(ax)
    return figure


def _lines(ax: "Axes", title: str, series: dict[str, list[list[float]]], depth: bool = False) -> None:
    for name, seeds in series.items():
        columns = list(zip(*seeds, strict=True))
        x = [i / (len(columns) - 1) for i in range(len(columns))] if depth else range(1, 1 + len(columns))
        middle = [geometric_mean(column) if depth else fmean(column) for column in columns]
        colour, width = COLOURS[name.startswith("plain")], 2.2 if name in DEEP else 1.0
        ax.plot(x, middle, color=colour, linewidth=width, label=name.removesuffix("_cifar"))
        if len(seeds) > 1:
            ax.fill_between(x, [*map(min, columns)], [*map(max, columns)], color=colour, alpha=0.2, linewidth=0)
    ax.set_title(title)
    ax.margins(x=0)
    ax.tick_params(length=0, which="both")
    ax.grid(axis="y")
    if depth:
        ax.set_yscale("log")
        ax.yaxis.set_major_formatter(lambda value, _: f"{value:g}")
        ax.yaxis.set_minor_formatter(lambda *_: "")


def _label_ends(ax: "Axes", gap: float = 0.085) -> None:
    """Each line's name behind its end, `gap` of the height apart, joined to it in its colour."""
    ax.autoscale_view()
    lines = sorted(ax.get_lines(), key=lambda line: line.get_ydata()[-1])  # type: ignore[index]
    to_axes = ax.transData + ax.transAxes.inverted()
    ends = [float(to_axes.transform((line.get_xdata()[-1], line.get_ydata()[-1]))[1]) for line in lines]  # type: ignore[index]
    places = list(ends)
    for _ in range(100):  # push neighbours apart, half each
        for i in range(len(places) - 1):
            push = max(0.0, gap - (places[i + 1] - places[i])) / 2
            places[i], places[i + 1] = places[i] - push, places[i + 1] + push
    for line, end, place in zip(lines, ends, places, strict=True):
        join = {"arrowstyle": "-", "color": line.get_color(), "linewidth": 0.7, "shrinkA": 0, "shrinkB": 0}
        where = {"xycoords": "axes fraction", "textcoords": "axes fraction", "va": "center", "fontsize": 8}
        ax.annotate(str(line.get_label()), (1.01, end), (1.08, place), **where, arrowprops=join)
