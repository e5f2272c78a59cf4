"""Plain and residual networks of 20 and 56 layers, side by side: what `benchmarks/degradation.py` measured, what it says of
the lecture's claims, a table and a plot. Every figure here is read from degradation.json, and so is every verdict."""

import json
import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from functools import cache
from importlib.resources import files
from statistics import fmean, geometric_mean
from typing import TYPE_CHECKING, Any

from lamina.lecture.claims import Finding, Findings, Verdict
from lamina.report.plot import COLOURS, Plot

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

SHALLOW, DEEP = ("plain20_cifar", "resnet20_cifar"), ("plain56_cifar", "resnet56_cifar")
NETWORKS = SHALLOW + DEEP
PAPER_STEPS = 64_000  # He et al. 2015 (arXiv 1512.03385), section 4.2
CLASSES = 10
VANISHED = 0.1  # of the last convolution's gradient in the first; and its inverse, grown
COLUMNS = (
    "Network",
    "Training loss",
    "Validation loss",
    "Training error, %",
    "Validation error, %",
    "First / last gradient, initial",
    "First / last gradient, trained",
    "First / last gradient × filters, trained",
)


@dataclass(frozen=True)
class Runs:
    """One network's runs. Each list has one entry per seed; a curve is by epoch, a norm by convolution from the input on.

    `gradients` are the norms of the filters' gradients on one training batch of 256 in float32, `filters` those of the
    filters themselves, both {"fresh", "trained"}; `seconds` is the training's time.
    """

    curves: dict[str, list[list[float]]]  # loss, validation_loss, top1, validation_top1
    gradients: dict[str, list[list[float]]]
    filters: dict[str, list[list[float]]]
    seconds: list[float]

    def error(self, part: str = "") -> list[list[float]]:
        """Percent of the images, of the training split or, with "validation_", of the validation split."""
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

    def is_chance(self, error: float) -> bool:
        """Whether a validation error in percent is within two standard errors of guessing among CIFAR-10's classes."""
        guessing = 1 / CLASSES
        return error >= 100 * (1 - guessing - 2 * math.sqrt(guessing * (1 - guessing) / self.recipe["validation"]))

    @property
    def counted(self) -> str:
        return f"{len(self.seeds)} seed{'s' * (len(self.seeds) > 1)}, {self.steps:,} steps; the paper has {PAPER_STEPS:,}"


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
    """Shown where 56 plain layers err more than 20, and neither because they have not begun to learn nor, as it seems, because
    any 56 layers are slower: with shortcuts they must not be behind as well."""
    ends = {(name, part): last(runs.error(part)) for name, runs in found.networks.items() for part in ("", "validation_")}
    (plain20, residual20), (plain56, residual56) = SHALLOW, DEEP
    worse = [above(ends[plain56, part], ends[plain20, part]) for part in ("", "validation_")]
    behind = above(ends[residual56, ""], ends[residual20, ""])
    idle = [error for error in ends[plain56, "validation_"] if found.is_chance(error)]
    obstacle = "open" if None in worse else "both" if idle and behind else "chance" if idle else "slow" if behind else ""
    verdict: Verdict = "refuted" if False in worse else "not testable here" if obstacle else "confirmed"
    gaps = [fmean(ends[deep, ""]) - fmean(ends[shallow, ""]) for shallow, deep in zip(SHALLOW, DEEP, strict=True)]
    figures = {
        "counted": found.counted,
        "steps": found.steps,
        "shallow": fmean(ends[plain20, ""]),
        "shallow_held": fmean(ends[plain20, "validation_"]),
        "deep": fmean(ends[plain56, ""]),
        "deep_held": fmean(ends[plain56, "validation_"]),
        "residual_deep": spread(ends[residual56, ""], ".1f"),
        "residual_shallow": spread(ends[residual20, ""], ".1f"),
        "plain_gap": gaps[0],
        "residual_gap": gaps[1],
        "idle": len(idle),
        "seeds": len(found.seeds),
        "idle_error": spread(idle, ".1f") if idle else "",
    }
    parts = {"obstacle": obstacle} if verdict == "not testable here" else {}
    return Finding(verdict, figures, parts | {"residual": {True: "behind", False: "ahead", None: "open"}[behind]})


def gradients(found: Measured) -> Finding:
    plain, residual = (found.networks[name] for name in DEEP)
    fresh, trained, scaled = ratios(plain.gradients["fresh"]), ratios(plain.gradients["trained"]), ratios(plain.scaled())
    errors = last(plain.error()), last(residual.error())
    early, late = (settled(ratio < VANISHED for ratio in values) for values in (fresh, scaled))
    helps = above(*errors)
    filters = [[norms[0] for norms in plain.filters[state]] for state in ("fresh", "trained")]
    ends = [[norms[at] for norms in plain.gradients["fresh"]] for at in (-1, 0)]
    if early is None or late is None or helps is None:
        verdict, judged = "not testable here", "open"
    elif early:
        verdict, judged = ("confirmed" if helps else "refuted"), "early"
    else:
        verdict, judged = ("explained", "late") if late else ("refuted", "never")
    figures = {
        "last": spread(ends[0]),
        "first": spread(ends[1]),
        "fresh": course(fresh),
        "shortcuts": course(ratios(residual.gradients["fresh"])),
        "trained": course(trained),
        "scaled": course(scaled),
        "filters": spread(filters[0]),
        "trained_filters": spread(filters[1]),
        "with_them": spread(errors[1], ".1f"),
        "without": spread(errors[0], ".1f"),
    }
    return Finding(verdict, figures, {"judged": judged, "helped": {True: "yes", False: "no", None: "open"}[helps]})


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


def setting(found: Measured) -> dict[str, Any]:
    """How the networks were trained: the figures of the page's paragraph."""
    r = found.recipe
    return {
        "samples": r["samples"],
        "validation": r["validation"],
        "epochs": r["epochs"],
        "batch": r["batch"],
        "steps": found.steps,
        "paper_steps": PAPER_STEPS,
        "rate": r["optimizer"]["lr"],
        "gamma": r["schedule"]["gamma"],
        "drops": " and ".join(f"{epoch:g}" for epoch in r["schedule"]["milestones"]),
        "plural": "s" * (len(found.seeds) > 1),
        "seeds": " and ".join(map(str, found.seeds)),
        "minutes": sum(fmean(runs.seconds) for runs in found.networks.values()) / 60,
    }


def table(found: Measured) -> list[list[str]]:
    """One row per network, in the order of COLUMNS."""
    rows = []
    for name, runs in found.networks.items():
        losses = [spread(last(runs.curves[key]), ".2f") for key in ("loss", "validation_loss")]
        errors = [spread(last(runs.error(part)), ".1f") for part in ("", "validation_")]
        norms = runs.gradients["fresh"], runs.gradients["trained"], runs.scaled()
        rows.append([name, *losses, *errors, *(spread(ratios(part)) for part in norms)])
    return rows


CAPTION = (
    "Plain (orange) and residual (blue) networks of 20 (thin) and 56 layers (thick): error over the epochs, and the norm of"
    " each convolution's gradient, from input to output, on one training batch of 256. Multiplied by the norm of its filters, a"
    " gradient does not depend on their scale, which batch norm cancels."
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
        ("c", "Gradient norm, initial", {name: runs.gradients["fresh"] for name, runs in networks}),
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
    """Each line's name after its end, `gap` of the height apart, joined to it in its colour."""
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
