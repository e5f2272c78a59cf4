"""The degradation of He et al. 2015 (arXiv 1512.03385, Figure 6) at a reduced scale: plain and residual networks of 20 and 56
layers on 10,000 images of CIFAR-10, alike in all else.

    python benchmarks/degradation.py runs/degradation --seeds 1 2       # goes on where it was stopped
    python benchmarks/degradation.py runs/degradation --seeds 1 2 --report

Validation is 5,000 further training images; the test set is not read. `--report` writes the finished runs' learning curves
and the norm of each convolution's filters and of their gradient on one batch of 256, fresh and trained, into the package
(lamina/lecture/degradation.json, which the lecture's page shows) and docs/degradation.png; `make results` writes what
docs/results.md says of it.
"""

import argparse
import json
import textwrap
from pathlib import Path

import torch
from torch import nn

from lamina.data.image import from_pixels
from lamina.lecture import claims, degradation, slides
from lamina.lecture.degradation import NETWORKS
from lamina.train import images, launch, loop
from lamina.train.recipe import Recipe, parse
from lamina.weights.loading import load
from lamina.zoo import registry

ROOT = Path(__file__).parents[1]
FIGURES, DOCS = ROOT / "lamina" / "lecture" / "degradation.json", ROOT / "docs"
CURVES = ("loss", "validation_loss", "top1", "validation_top1")
RECIPE = {
    "data": "cifar10",
    "epochs": 16,
    "samples": 10_000,
    "validation": 5_000,
    "batch": 128,
    "precision": "bf16",
    "channels_last": True,
    # He et al., section 4.2: 0.1, and a start at 0.01 for the deepest only; drops at half and three quarters of the way.
    "optimizer": {"name": "sgd", "lr": 0.1, "momentum": 0.9, "weight_decay": 1e-4, "decay_all": True},
    "schedule": {"name": "steps", "milestones": [8.0, 12.0], "gamma": 0.1},
    "augmentation": {"crop": 4, "flip": True},
    "image": {"size": 32, "resize": 32, "mean": [0.4914, 0.4822, 0.4465], "std": [0.247, 0.2435, 0.2616]},
}


def recipe(network: str, seed: int) -> Recipe:
    return parse(RECIPE | {"network": network, "seed": seed}, "degradation")


def norms(module: nn.Module, plan: Recipe) -> tuple[list[float], list[float]]:
    """The norms of the gradients of each convolution's filters, first to last, on one batch of training images, in float32,
    and those of the filters."""
    task = images.Images(plan)
    pixels, labels = task.pixels[:256], task.labels[:256]
    module.train().zero_grad()
    loss = nn.functional.cross_entropy(module(from_pixels(pixels, task.spec)), labels)
    loss.backward()
    filters = [m.weight for m in module.modules() if isinstance(m, nn.Conv2d)]
    return [float(w.grad.norm()) for w in filters if w.grad is not None], [float(w.detach().norm()) for w in filters]


def run(network: str, seed: int, folder: Path) -> None:
    plan, out = recipe(network, seed), folder / f"{network}-{seed}"
    if (out / loop.WEIGHTS).exists():
        return
    resume = (out / loop.CONFIG).exists()
    print(network, seed, launch.train(plan, out, None, launch.Processes(threads=1), resume), flush=True)


def report(folder: Path, seeds: list[int]) -> None:
    """Write the figures of the seeds whose four runs are finished."""
    seeds = [s for s in seeds if all((folder / f"{network}-{s}" / loop.WEIGHTS).exists() for network in NETWORKS)]
    if not seeds:
        raise SystemExit(f"{folder}: no seed's four runs are finished")
    document = {
        "recipe": RECIPE,
        "seeds": seeds,
        "networks": {network: measure(network, seeds, folder) for network in NETWORKS},
    }
    FIGURES.write_text(json.dumps(document, separators=(",", ":")) + "\n")
    found = degradation.parse(document)
    (DOCS / "degradation.png").write_bytes(degradation.draw.png(found))


def measure(network: str, seeds: list[int], folder: Path) -> dict:
    """What `degradation.Runs` holds, rounded."""
    runs = [folder / f"{network}-{s}" for s in seeds]
    rows = [[json.loads(line) for line in (out / loop.METRICS).read_text().splitlines()] for out in runs]
    found = {
        "curves": {key: [[round(row[key], 4) for row in one] for one in rows] for key in CURVES},
        "gradients": {"fresh": [], "trained": []},
        "filters": {"fresh": [], "trained": []},
        "seconds": [round(sum(row["seconds"] for row in one)) for one in rows],
    }
    for seed, out in zip(seeds, runs, strict=True):
        torch.manual_seed(seed)
        for state, module in (("fresh", registry.build(network)), ("trained", load(network, out / loop.WEIGHTS))):
            for key, values in zip(("gradients", "filters"), norms(module, recipe(network, seed)), strict=True):
                found[key][state].append([float(f"{value:.4g}") for value in values])
    return found


def section(found: degradation.Measured) -> str:
    """What docs/results.md says of the runs."""
    lines = [
        "| " + " | ".join(degradation.COLUMNS) + " |",
        "|---" * len(degradation.COLUMNS) + "|",
        *("| " + " | ".join(row) + " |" for row in degradation.table(found)),
    ]
    slide = claims.slide("resnet")
    verdicts = [
        f"*{row['claim']}*: **{row['verdict']}**, {row['why']}. ({row['lamina']}.)"
        for row in slides.rows("resnet", degradation.findings(found)).values()
    ]
    setting, caption, *claimed = (
        fill(text) for text in (slide.text.format_map(degradation.setting(found)), degradation.CAPTION, *verdicts)
    )
    picture = "![learning curves, and gradient norms by depth](degradation.png)"
    call = f"    python benchmarks/degradation.py runs/degradation --seeds {' '.join(map(str, found.seeds))}"
    return "\n\n".join([setting, "\n".join(lines), picture, caption, *claimed, f"{call}\n{call} --report"])


def fill(text: str) -> str:
    """Lines of up to 128 characters; a number stays with its percent sign."""
    return textwrap.fill(text.replace(" %", "\xa0%"), 128, break_on_hyphens=False).replace("\xa0", " ")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("folder", type=Path)
    parser.add_argument("--seeds", type=int, nargs="+", default=[1])
    parser.add_argument("--report", action="store_true", help="write down the figures of finished runs")
    arguments = parser.parse_args()
    if arguments.report:
        report(arguments.folder, arguments.seeds)
        return
    for seed in arguments.seeds:
        for network in NETWORKS:
            run(network, seed, arguments.folder)


if __name__ == "__main__":
    main()
