"""The degradation of He et al. 2015 (arXiv 1512.03385, Figure 6) at a reduced scale: plain and residual networks of 20 and 56
layers on 10,000 pictures of CIFAR-10, alike in all else.

    python benchmarks/degradation.py runs/degradation --seeds 1 2       # goes on where it was stopped
    python benchmarks/degradation.py runs/degradation --seeds 1 2 --report docs

Validation is 5,000 further training pictures; the test set is not read. `--report` writes degradation.json and
degradation.png: the learning curves, and the norm of each convolution's gradient on one batch of 256, fresh and trained.
"""

import argparse
import json
from pathlib import Path

import torch
from torch import nn

from lamina.data.image import from_pixels
from lamina.train import launch, loop, tasks
from lamina.train.recipe import Recipe, build
from lamina.zoo import registry
from lamina.zoo.weights import load

NETWORKS = ("plain20_cifar", "resnet20_cifar", "plain56_cifar", "resnet56_cifar")
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
    "optimizer": {"name": "sgd", "lr": 0.1, "weight_decay": 1e-4, "decay_all": True},
    "schedule": {"name": "steps", "milestones": [8.0, 12.0]},
    "augmentation": {"crop": 4, "flip": True},
    "image": {"size": 32, "resize": 32, "mean": [0.4914, 0.4822, 0.4465], "std": [0.247, 0.2435, 0.2616]},
}


def recipe(network: str, seed: int) -> Recipe:
    return build(Recipe, RECIPE | {"network": network, "seed": seed}, "degradation")


def gradients(module: nn.Module, plan: Recipe) -> list[float]:
    """The norm of the gradient of each convolution's filters, first to last, on one batch of training pictures, in float32."""
    task = tasks.Pictures(plan)
    pixels, labels = task.pixels[:256], task.labels[:256]
    module.train().zero_grad()
    loss = nn.functional.cross_entropy(module(from_pixels(pixels, task.spec)), labels)
    loss.backward()
    filters = [m.weight for m in module.modules() if isinstance(m, nn.Conv2d) and m.weight.shape[-1] == 3]
    return [float(w.grad.norm()) for w in filters if w.grad is not None]


def run(network: str, seed: int, folder: Path) -> None:
    plan, out = recipe(network, seed), folder / f"{network}-{seed}"
    if (out / loop.WEIGHTS).exists():
        return
    resume = (out / loop.CONFIG).exists()
    print(network, seed, launch.train(plan, out, None, launch.Processes(threads=1), resume), flush=True)


def report(folder: Path, seeds: list[int], target: Path) -> None:
    found = {}
    for network in NETWORKS:
        runs = [out for s in seeds if (out := folder / f"{network}-{s}") and (out / loop.WEIGHTS).exists()]
        rows = [[json.loads(line) for line in (out / loop.METRICS).read_text().splitlines()] for out in runs]
        plan = recipe(network, seeds[0])
        torch.manual_seed(plan.seed)
        found[network] = {
            "seeds": [int(out.name.rsplit("-", 1)[1]) for out in runs],
            "curves": {key: [[round(row[key], 4) for row in one] for one in rows] for key in CURVES},
            "gradient_norms_fresh": [round(v, 6) for v in gradients(registry.build(network), plan)],
            "gradient_norms_trained": [round(v, 6) for v in gradients(load(network, runs[0] / loop.WEIGHTS), plan)],
        }
    target.mkdir(exist_ok=True)
    (target / "degradation.json").write_text(json.dumps({"recipe": RECIPE, "networks": found}) + "\n")
    plot(found, target / "degradation.png")
    print("| network | training loss | validation loss | training top-1 | validation top-1 |\n|---|---|---|---|---|")
    for network, row in found.items():
        ends = [[one[-1] for one in row["curves"][key]] for key in CURVES]
        print(f"| {network} |", " | ".join(", ".join(f"{v:.2f}" for v in values) for values in ends), "|")


def plot(found: dict, path: Path) -> None:
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    figure, axes = pyplot.subplots(1, 3, figsize=(13, 3.8), layout="constrained")
    for network, row in found.items():
        name = network.removesuffix("_cifar")
        colour = "#d55e00" if name.startswith("plain") else "#2f7fc1"
        width = 2.2 if name.endswith("56") else 1.0
        for ax, key in zip(axes, ("loss", "validation_loss"), strict=False):
            for number, one in enumerate(row["curves"][key]):
                ax.plot(range(1, 1 + len(one)), one, color=colour, lw=width, label=None if number else name)
        norms = row["gradient_norms_fresh"]
        axes[2].plot([i / (len(norms) - 1) for i in range(len(norms))], norms, color=colour, lw=width, label=name)
    for ax, title in zip(axes, ("training loss", "validation loss", "gradient norm by depth, fresh"), strict=True):
        ax.set_title(title, loc="left", fontsize=10)
        ax.grid(alpha=0.2)
        ax.legend(frameon=False, fontsize=8)
        ax.set_xlabel("epoch" if "loss" in title else "depth: first convolution to last")
    axes[2].set_yscale("log")
    figure.savefig(path, dpi=110)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("folder", type=Path)
    parser.add_argument("--seeds", type=int, nargs="+", default=[1])
    parser.add_argument("--report", type=Path, metavar="FOLDER", help="write the figures of finished runs into it")
    arguments = parser.parse_args()
    if arguments.report:
        report(arguments.folder, arguments.seeds, arguments.report)
        return
    for seed in arguments.seeds:
        for network in NETWORKS:
            run(network, seed, arguments.folder)


if __name__ == "__main__":
    main()
