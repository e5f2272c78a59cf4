"""Growing against training from scratch: what `benchmarks/scale/run_all.py` measured, and what it says of the lecture's claims.
Every figure here is read from multiscale.json, which `benchmarks/scale/report.py` writes."""

import json
from collections.abc import Callable, Sequence
from functools import cache
from importlib.resources import files
from statistics import fmean, stdev, variance
from typing import TYPE_CHECKING, Any

import torch

from lamina.lecture.claims import Finding, judge
from lamina.report.plot import COLOURS, Plot

if TYPE_CHECKING:
    from matplotlib.figure import Figure

STUDENT = {2: 12.706, 3: 4.303, 4: 3.182, 5: 2.776}  # the t distribution's 97.5 % quantile by degrees of freedom plus 1
NETWORKS = {"residual": "residual network with batch norm", "plain": "three plain convolutions"}
MOVED = ("constant", "bilinear", "bilinear_damped", "dilated")  # by the theory; "same" is the control
TIME = ("split", "zero")  # the operators of depth that keep what is computed: consistent and exact
MEASURES = {"resnet_cifar": "top1", "vit_mnist": "top1", "gpt_characters": "loss", "warm": "top1"}
MEASURES |= {"warm_large": "top1", "resnet_cifar_large": "top1"}  # on a GPU
TRAINED = {
    "resnet_cifar": "residual network, CIFAR-10, top-1 %",
    "vit_mnist": "ViT, MNIST, top-1 %",
    "gpt_characters": "GPT, loss",
}
EXPERIMENTS = {"warm": "warm start", "resnet_cifar": "depth", "vit_mnist": "ViT", "gpt_characters": "GPT"}
TITLES = {
    "scratch": "from scratch", "same": "same kernels", "constant": "constant", "bilinear": "bilinear",
    "bilinear_damped": "bilinear, damped", "dilated": "dilated", "dilated_scratch": "dilated from scratch", "split": "split",
    "interpolate": "interpolate", "zero": "zero", "stack": "stack", "random": "random", "width": "width",
}  # fmt: skip
RESOLUTION_CAPTION = (
    "MNIST. Left: accuracy at the other resolution, without training there, the mean and every seed; with batch norm after "
    "recalibration. Right: validation accuracy against all MACs spent, from 14x14 to 28x28, mean over seeds."
)
DEPTH_CAPTION = (
    "CIFAR-10 at 8x8, 2 to 16 residual blocks, all arms with the same MACs. Left: validation accuracy in the last level, mean "
    "over seeds. Right: test accuracy at the end, the mean and every seed."
)
TRANSFORMER_CAPTION = (
    "2 to 8 layers (or half the width first), all arms with the same MACs. Above a ViT on MNIST, below a character-level GPT. "
    "Left: the last level, mean over seeds. Right: the test set at the end, the mean and every seed."
)


@cache
def measured() -> dict[str, Any]:
    return json.loads(files("lamina.lecture").joinpath("multiscale.json").read_text())


def interval(values: Sequence[float], digits: int = 2) -> str:
    """The mean, and half the width of the 95 % interval of Student's t where there are several seeds."""
    if len(values) == 1:
        return f"{values[0]:.{digits}f} (1 seed)"
    return f"{fmean(values):.{digits}f} ± {STUDENT[len(values)] * stdev(values) / len(values) ** 0.5:.{digits}f}"


def against(found: dict[str, Any], experiment: str, arm: str, other: str = "scratch") -> tuple[float, float]:
    """By how much an arm ends better than another, and half the width of the 95 % interval of that difference (Student's t,
    variances pooled): points of accuracy, or of loss. Infinite where either has one seed."""
    measure = MEASURES[experiment]
    a, b = (found[experiment][name][measure] for name in (arm, other))
    gain = (fmean(a) - fmean(b)) * (-1 if measure == "loss" else 1)
    freedom = len(a) + len(b) - 2
    if min(len(a), len(b)) < 2:
        return gain, float("inf")
    pooled = ((len(a) - 1) * variance(a) + (len(b) - 1) * variance(b)) / freedom
    return gain, STUDENT[freedom + 1] * (pooled * (1 / len(a) + 1 / len(b))) ** 0.5


def judged(found: dict[str, Any], experiment: str, arm: str, other: str = "scratch") -> str:
    """ "better", "worse" or "level": whether the interval of the difference leaves zero out."""
    gain, half = against(found, experiment, arm, other)
    return "better" if gain > half else "worse" if gain < -half else "level"


def pays(found: dict[str, Any], experiment: str) -> tuple[bool, dict[str, Any]]:
    """Whether growing by an operator of the theory ends better than training from scratch at equal MACs, by an interval that
    leaves zero out; and the better of the operators with its gain."""
    arm = max((name for name in TIME if name in found[experiment]), key=lambda name: against(found, experiment, name)[0])
    gain, half = against(found, experiment, arm)
    measure = MEASURES[experiment]
    ends = {name: fmean(found[experiment][name][measure]) for name in (arm, "scratch")}
    return gain > half, {"operator": TITLES[arm], "gain": gain, "half": half, "grown": ends[arm], "scratch": ends["scratch"]}


def at_the_other(found: dict[str, Any], network: str, direction: str) -> dict[str, list[float]]:
    """Accuracy at the other resolution by operator, a value for each seed; with batch norm after recalibration."""
    return {o: v.get("recalibrated", v["plain"]) for o, v in found["transfer"][network][direction]["other"].items()}


def resolution(found: dict[str, Any]) -> Finding:
    """Shown where in both networks and in both directions some operator of the theory is better than the same kernels, with
    every seed."""
    holds = True
    for network in NETWORKS:
        for direction in ("coarser", "finer"):
            by = at_the_other(found, network, direction)
            moved = max((o for o in MOVED if o in by), key=lambda o: fmean(by[o]))
            holds &= all(m > s for m, s in zip(by[moved], by["same"], strict=True))
    seen = {d: at_the_other(found, "residual", d) for d in ("coarser", "finer")}
    figures: dict[str, Any] = {
        "dilated": fmean(seen["finer"]["dilated"]),
        "same_finer": fmean(seen["finer"]["same"]),
        "inverse": max(fmean(seen["finer"][o]) for o in ("constant", "bilinear", "bilinear_damped")),
        "constant": fmean(seen["coarser"]["constant"]),
        "same_coarser": fmean(seen["coarser"]["same"]),
        "own_finer": fmean(found["transfer"]["residual"]["finer"]["own"]),
        "own_coarser": fmean(found["transfer"]["residual"]["coarser"]["own"]),
    }
    return judge(holds, False, **figures)


def depth(found: dict[str, Any], lost: float, tolerance: float, **figures: Any) -> Finding:
    """Shown where nothing of a trained network is `lost` when it grows, and where networks that grow while they are trained
    end better than those trained from scratch with the same MACs."""
    better, trained = pays(found, "resnet_cifar")
    return judge(lost < tolerance and better, lost=lost, **figures, **trained)


def transformer(found: dict[str, Any], tolerance: float) -> Finding:
    """Shown where the same holds of Transformers: the shipped ViT, twice as deep (zero insertion), with twice the hidden units
    and heads, has the same outputs, and both a ViT and a GPT that grow in depth end better than from scratch. Also how smooth
    the weights are over the depth, independent layers being sqrt(2) apart."""
    from lamina.scale.diagnose import diagnose
    from lamina.scale.growth import grow
    from lamina.weights import loading

    net: Any = loading.load("vit_mnist")
    x = torch.randn(16, 1, 28, 28, generator=torch.Generator().manual_seed(0))
    larger = grow(net, **GROWTH, operator={"depth": OPERATOR}).module  # type: ignore[arg-type]
    with torch.no_grad():
        before, after = net(x), larger(x)
    lost = float((before - after).abs().max() / before.abs().max())
    changes = [b.change for b in diagnose(net, x[:4]).blocks if b.change is not None]
    trained = {name: pays(found, experiment) for name, experiment in (("vit", "vit_mnist"), ("gpt", "gpt_characters"))}
    figures = {f"{name}_{key}": value for name, (_, part) in trained.items() for key, value in part.items()}
    better = all(holds for holds, _ in trained.values())
    return judge(lost < tolerance and better, lost=lost, change=fmean(changes), **figures)


GROWTH = {"depth": 2, "feed_forward": 2, "heads": 2}
OPERATOR = "zero"


# ---- tables -------------------------------------------------------------------------------------------------------------


def transfer_rows(found: dict[str, Any]) -> list[list[str]]:
    rows = [["network", "from, to", "own resolution", *(TITLES[o] for o in ("same", *MOVED))]]
    for network in NETWORKS:
        for direction, shown in (("coarser", "28 to 14"), ("finer", "14 to 28")):
            part = found["transfer"][network][direction]
            own, by = interval(part["own"]), at_the_other(found, network, direction)
            rows.append([NETWORKS[network], shown, own, *(interval(by[o]) if o in by else "-" for o in ("same", *MOVED))])
    return rows


def arm_rows(found: dict[str, Any], experiment: str, marks: Sequence[float] = ()) -> list[list[str]]:
    """Arms by their learning rate, test accuracy and loss, the gain over training from scratch, and the MACs at which the
    validation accuracy first reached each mark."""
    unit = "loss" if MEASURES[experiment] == "loss" else "points"
    columns = ["arm", "learning rate", "seeds", "test top-1, %", "test loss", f"better than from scratch, {unit}"]
    rows = [[*columns, *(f"10^12 MACs to {m:g} %" for m in marks)]]
    for arm, part in found[experiment].items():
        reached = []
        for mark in marks:
            first = [next((p[0] for p in run if p[1] >= mark), None) for run in part["points"]]
            known = [m / 1e12 for m in first if m is not None]
            reached.append(interval(known) if len(known) == len(first) else f"{len(known)} of {len(first)} seeds")
        rate = f"{part['lr']:g}, of " + ", ".join(f"{lr:g}" for lr in part["lrs"])
        cells = [interval(part["top1"]), interval(part["loss"], 3), gain(found, experiment, arm)]
        rows.append([TITLES[arm], rate, str(len(part["top1"])), *cells, *reached])
    return rows


def gain(found: dict[str, Any], experiment: str, arm: str, other: str = "scratch") -> str:
    """ "+1.20 ± 0.50"; "-" of an arm against itself."""
    if arm == other:
        return "-"
    mean, half = against(found, experiment, arm, other)
    digits = 3 if MEASURES[experiment] == "loss" else 2
    width = "(1 seed)" if half == float("inf") else f"± {half:.{digits}f}"
    return f"{mean:+.{digits}f} {width}".replace("-", "−")


def growth_rows(found: dict[str, Any]) -> list[list[str]]:
    """What each growth does to the validation measure by itself, before any further training: the last growth of each arm."""
    rows = [["network", "arm", "before", "after"]]
    for experiment, title in TRAINED.items():
        place = 0 if MEASURES[experiment] == "top1" else 1
        digits = 2 if MEASURES[experiment] == "top1" else 3
        for arm, part in found[experiment].items():
            if part["growth"]:
                last = [run[-1] for run in part["growth"]]
                ends = [interval([values[at] for values in last], digits) for at in (place, place + 2)]
                rows.append([title, TITLES[arm], *ends])
    return rows


# ---- figures --------------------------------------------------------------------------------------------------------------


def _curves(axes: Any, arms: dict[str, Any], measure: str = "top1") -> None:
    for (arm, part), colour in zip(arms.items(), COLOURS, strict=False):
        runs = part["points"]
        macs = [fmean(p[0] for p in column) / 1e12 for column in zip(*runs, strict=True)]
        values = [fmean(p[1 if measure == "top1" else 2] for p in column) for column in zip(*runs, strict=True)]
        label = TITLES[arm] + ("" if len(runs) > 1 else " (1 seed)")
        axes.plot(macs, values, color=colour, label=label, linestyle="--" if "scratch" in arm else "-")
    axes.set(xlabel="$10^{12}$ MACs spent", ylabel="validation " + ("top-1, %" if measure == "top1" else "loss"))
    axes.legend(fontsize="small")
    axes.grid(axis="y")


def _ends(axes: Any, arms: dict[str, Any], measure: str = "top1") -> None:
    """Each arm's test measure: a bar at the mean, a dot for each seed."""
    for place, (part, colour) in enumerate(zip(arms.values(), COLOURS, strict=False)):
        values = part[measure]
        axes.plot([place] * len(values), values, "o", color=colour, markersize=5)
        axes.hlines(fmean(values), place - 0.3, place + 0.3, color=colour)
    axes.set_xticks(range(len(arms)), [TITLES[arm].replace(" ", "\n") for arm in arms], fontsize="small", rotation=40)
    axes.set(ylabel="test " + ("top-1, %" if measure == "top1" else "loss"))
    axes.grid(axis="y")


@Plot
def resolution_figure(found: dict[str, Any]) -> "Figure":
    from matplotlib.figure import Figure

    figure = Figure((9.5, 3.6), layout="constrained")
    left, right = figure.subplots(1, 2)
    operators = ("same", *MOVED)
    for number, (direction, shown) in enumerate((("coarser", "28 to 14"), ("finer", "14 to 28"))):
        by = at_the_other(found, "residual", direction)
        for place, operator in enumerate(operators):
            if operator in by:
                x = place + 0.4 * number - 0.2
                left.bar(x, fmean(by[operator]), 0.36, color=COLOURS[number], label=shown if not place else None)
                left.plot([x] * len(by[operator]), by[operator], ".", color="black", markersize=3)
    left.set_xticks(range(len(operators)), [TITLES[o].replace(", ", ",\n") for o in operators])
    left.set(ylabel="test top-1, %", title="residual network with batch norm", ylim=(0, 105))
    left.legend()
    _curves(right, found["warm" if "dilated_scratch" in found.get("warm", {}) else "warm_large"])
    right.set(ylim=(0, 100), title="warm start")
    return figure


@Plot
def depth_figure(found: dict[str, Any]) -> "Figure":
    from matplotlib.figure import Figure

    figure = Figure((9.5, 3.6), layout="constrained")
    left, right = figure.subplots(1, 2)
    _curves(left, found["resnet_cifar"])
    _ends(right, found["resnet_cifar"])
    return figure


@Plot
def transformer_figure(found: dict[str, Any]) -> "Figure":
    from matplotlib.figure import Figure

    figure = Figure((9.5, 7.0), layout="constrained")
    for (left, right), (experiment, title) in zip(
        figure.subplots(2, 2), (("vit_mnist", "ViT, MNIST"), ("gpt_characters", "GPT, characters")), strict=True
    ):
        measure = MEASURES[experiment]
        _curves(left, found[experiment], measure)
        _ends(right, found[experiment], measure)
        left.set(title=title)
    return figure


FIGURES: tuple[tuple[Callable[..., str], str], ...] = (
    (depth_figure, DEPTH_CAPTION),
    (resolution_figure, RESOLUTION_CAPTION),
    (transformer_figure, TRANSFORMER_CAPTION),
)
PICTURES = {
    "scale_depth.png": depth_figure,
    "scale_resolution.png": resolution_figure,
    "scale_transformer.png": transformer_figure,
}  # of docs/
