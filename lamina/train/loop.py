"""The seed of `lamina train`: one process, pictures in memory. Run a recipe with

python -m lamina.train.loop lenet5_mnist --out lenet5_mnist.safetensors
"""

import argparse
import json
import math
import time
import tomllib
from importlib.resources import files
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from lamina.data import mnist
from lamina.data.image import ImageSpec, from_pixels


def shifted(pixels: Tensor, most: int, generator: torch.Generator) -> Tensor:
    """Each picture of (B, C, H, W) moved by -most..most pixels along both axes; zeros come in."""
    B, C, H, W = pixels.shape
    padded = F.pad(pixels, [most] * 4)
    dy, dx = torch.randint(0, 2 * most + 1, (2, B, 1), generator=generator)
    rows = (dy + torch.arange(H))[:, None, :, None].expand(B, C, H, W)
    columns = (dx + torch.arange(W))[:, None, None, :].expand(B, C, H, W)
    sample = torch.arange(B)[:, None, None, None].expand(B, C, H, W)
    channel = torch.arange(C)[None, :, None, None].expand(B, C, H, W)
    return padded[sample, channel, rows, columns]


@torch.no_grad()
def accuracy(module: nn.Module, pixels: Tensor, labels: Tensor, spec: ImageSpec) -> float:
    """Percent of pictures whose largest score is their label's."""
    module.eval()
    right = sum(
        int((module(from_pixels(p, spec)).argmax(1) == y).sum())
        for p, y in zip(pixels.split(1000), labels.split(1000), strict=True)
    )
    return 100 * right / len(labels)


def train(module: nn.Module, recipe: dict[str, Any], pixels: Tensor, labels: Tensor, validation: int) -> dict[str, float]:
    """Train `module` in place on all but the `validation` pictures of a seeded split; the last metrics.

    The epochs are the recipe's: nothing is selected by the validation part, and the test set is not read.
    """
    generator = torch.Generator().manual_seed(recipe["seed"])
    spec = ImageSpec.of(recipe["image"])
    split = torch.randperm(len(labels), generator=generator)
    held, kept = split[:validation], split[validation:]
    options = recipe["optimizer"]
    decayed = [p for p in module.parameters() if p.ndim > 1]
    others = [p for p in module.parameters() if p.ndim <= 1]
    groups = [{"params": decayed, "weight_decay": options["weight_decay"]}, {"params": others, "weight_decay": 0.0}]
    optimizer = torch.optim.AdamW(groups, lr=options["lr"])
    steps = recipe["epochs"] * math.ceil(len(kept) / recipe["batch"])
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, options["lr"], total_steps=steps, pct_start=0.1)
    metrics: dict[str, float] = {}
    for epoch in range(recipe["epochs"]):
        module.train()
        start, total = time.monotonic(), 0.0
        for index in kept[torch.randperm(len(kept), generator=generator)].split(recipe["batch"]):
            x = from_pixels(shifted(pixels[index], recipe["augmentation"]["shift"], generator), spec)
            loss = F.cross_entropy(recipe["score_scale"] * module(x), labels[index])
            if not torch.isfinite(loss):
                raise FloatingPointError(f"the loss is {loss.item()} in epoch {epoch}, at lr {schedule.get_last_lr()[0]}")
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            schedule.step()
            total += loss.item() * len(index)
        metrics = {"epoch": epoch + 1, "loss": total / len(kept), "seconds": time.monotonic() - start}
        if validation:
            metrics["validation_top1"] = accuracy(module, pixels[held], labels[held], spec)
        print(json.dumps(metrics), flush=True)
    return metrics


def main() -> None:
    from safetensors.torch import save_file

    from lamina.zoo.registry import build

    parser = argparse.ArgumentParser(description="Train a recipe of lamina/train/recipes.")
    parser.add_argument("recipe")
    parser.add_argument("--out", type=Path, required=True, help="the safetensors file to write")
    parser.add_argument("--validation", type=int, default=0, help="pictures held out of the training set, by seed")
    parser.add_argument("--epochs", type=int)
    arguments = parser.parse_args()
    recipe = tomllib.loads(files("lamina.train").joinpath("recipes", arguments.recipe + ".toml").read_text())
    recipe["epochs"] = arguments.epochs or recipe["epochs"]
    torch.manual_seed(recipe["seed"])
    module = build(recipe["network"])
    pixels, labels = mnist.load("train")
    train(module, recipe, pixels, labels, arguments.validation)
    test = accuracy(module, *mnist.load("test"), ImageSpec.of(recipe["image"]))
    metadata = {"recipe": arguments.recipe, "epochs": str(recipe["epochs"]), "seed": str(recipe["seed"])}
    metadata |= {"network": recipe["network"], "data": recipe["data"], "test_top1": f"{test:.2f}", "torch": torch.__version__}
    metadata |= {"image": json.dumps(recipe["image"]), "score_scale": str(recipe["score_scale"])}
    partial = arguments.out.with_suffix(".partial")
    try:
        save_file(module.state_dict(), partial, metadata)
        partial.chmod(0o644)  # safetensors writes for the owner alone
        partial.replace(arguments.out)
    finally:
        partial.unlink(missing_ok=True)
    print(json.dumps({"test_top1": test, "file": str(arguments.out)}))


if __name__ == "__main__":
    main()
