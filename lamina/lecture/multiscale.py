"""Growing against training from scratch: what `benchmarks/scale/run_all.py` measured, and what it says of the lecture's claims.
Every figure here is read from multiscale.json, which `benchmarks/scale/report.py` writes."""

import json
from collections.abc import Callable, Sequence
from functools import cache
from importlib.resources import files
from statistics import fmean, stdev
from typing import TYPE_CHECKING, Any

import torch

from lamina.lecture.claims import Finding, judge
from lamina.report.plot import COLOURS, Plot

if TYPE_CHECKING:
    from matplotlib.figure import Figure

STUDENT = {2: 12.706, 3: 4.303, 4: 3.182, 5: 2.776}  # of Student's t: the 97.5 % quantile for so many seeds
NETWORKS = {"residual": "residual network with batch norm", "plain": "three plain convolutions"}
MOVED = ("constant", "bilinear", "bilinear_damped", "dilated")  # by the theory; "same" is the control
TITLES = {
    "scratch": "from scratch", "same": "same kernels", "constant": "constant", "bilinear": "bilinear",
    "bilinear_damped": "bilinear, damped", "dilated": "dilated", "split": "split", "interpolate": "interpolate", "zero": "zero",
    "stack": "stack", "random": "random",
}  # fmt: skip
RESOLUTION_CAPTION = (
    "MNIST. Left: accuracy at the other resolution, without training there, the mean and every seed; with batch norm after "
    "recalibration. Right: validation accuracy against all MACs spent, from 14x14 to 28x28, mean over seeds."
)
DEPTH_CAPTION = "CIFAR-10 at 16x16, 2 to 16 residual blocks: validation accuracy against all MACs spent, mean over seeds."


@cache
def measured() -> dict[str, Any]:
    return json.loads(files("lamina.lecture").joinpath("multiscale.json").read_text())


def interval(values: Sequence[float]) -> str:
    """The mean, and half the width of the 95 % interval of Student's t where there are several seeds."""
    if len(values) == 1:
        return f"{values[0]:.2f} (1 seed)"
    return f"{fmean(values):.2f} ± {STUDENT[len(values)] * stdev(values) / len(values) ** 0.5:.2f}"


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


def transformer(tolerance: float) -> Finding:
    """The shipped ViT, twice as deep (zero insertion), with twice the hidden units and heads: the largest difference of its
    outputs, relative; and how smooth its weights are over the depth, independent layers being sqrt(2) apart."""
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
    return judge(lost < tolerance, lost=lost, change=fmean(changes))


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
    """Arms by their learning rate, test accuracy and loss, and the MACs at which the validation accuracy first reached each
    mark."""
    rows = [["arm", "learning rate", "seeds", "test top-1, %", "test loss", *(f"10^12 MACs to {m:g} %" for m in marks)]]
    for arm, part in found[experiment].items():
        reached = []
        for mark in marks:
            first = [next((p[0] for p in run if p[1] >= mark), None) for run in part["points"]]
            known = [m / 1e12 for m in first if m is not None]
            reached.append(interval(known) if len(known) == len(first) else f"{len(known)} of {len(first)} seeds")
        rate = f"{part['lr']:g}" + (", of " + ", ".join(f"{lr:g}" for lr in part["lrs"]) if len(part["lrs"]) > 1 else "")
        rows.append([TITLES[arm], rate, str(len(part["top1"])), interval(part["top1"]), interval(part["loss"]), *reached])
    return rows


# ---- figures --------------------------------------------------------------------------------------------------------------


def _curves(axes: Any, arms: dict[str, Any]) -> None:
    for (arm, part), colour in zip(arms.items(), COLOURS, strict=False):
        runs = part["points"]
        macs = [fmean(p[0] for p in column) / 1e12 for column in zip(*runs, strict=True)]
        top1 = [fmean(p[1] for p in column) for column in zip(*runs, strict=True)]
        label = TITLES[arm] + ("" if len(runs) > 1 else " (1 seed)")
        axes.plot(macs, top1, color=colour, label=label, linestyle="--" if arm == "scratch" else "-")
    axes.set(xlabel="$10^{12}$ MACs spent", ylabel="validation top-1, %")
    axes.legend()
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
    _curves(right, found["warm"])
    right.set(ylim=(90, 100), title="warm start")
    return figure


@Plot
def depth_figure(found: dict[str, Any]) -> "Figure":
    from matplotlib.figure import Figure

    figure = Figure((6.4, 3.6), layout="constrained")
    _curves(figure.subplots(), found["resnet_cifar"])
    return figure


FIGURES: tuple[tuple[Callable[..., str], str], ...] = (
    (resolution_figure, RESOLUTION_CAPTION),
    (depth_figure, DEPTH_CAPTION),
)
