"""What the training loop costs beside the arithmetic: `lamina.train`'s loop against a bare torch loop, by processor time.

    python benchmarks/train_overhead.py [--rounds 25] [--only SUBSTRING] [--record]

Both train the same network from the same weights with the same optimizer, learning rates, precision and batches, and so through
the same weights; where the recipe clips or averages weights, both do. (What the numbers are makes a difference: a ResNet-20
thrown off by its full rate in the first step takes 5 % less time a step than one that learns.) A turn is an epoch of a few
batches. The loop does all that a real run does in one: it shuffles, takes and augments images (or pads sentences), sums the
loss and the right answers, stops at a loss that is not finite, writes its metrics. A checkpoint, saved once an epoch, is timed
by itself. The bare loops keep no account:

- made: takes, augments and normalises its batches in the same way, then `zero_grad`, forward, loss, `backward`, `step`;
- ready: the same without the first half: its batches lie in memory before the clock starts.

Turns alternate. Processor time of one thread counts, so that other work of the machine does not; samples a second are the best
turn's, a ratio is the median of the rounds'. Exit code 1 if the loop trains less than 0.97 of the samples a second of the bare
loop that makes its batches. `--record` writes benchmarks/records/train_overhead.json.
"""

import argparse
import statistics
import sys
import tempfile
import time
from collections.abc import Callable, Iterable
from contextlib import nullcontext
from pathlib import Path

import msgspec
import record
import torch
from torch import nn
from torch.nn import functional as F

from lamina.cli.memory import keep_freed
from lamina.progress import Meter
from lamina.train import optim
from lamina.train.images import Images
from lamina.train.launch import task
from lamina.train.loop import CHECKPOINTS, Run
from lamina.train.recipe import Recipe, read
from lamina.train.tasks import IGNORED, Batch
from lamina.train.world import CPU, World
from lamina.zoo import registry

LEAST = 0.97
# A recipe, what is laid over it, and the training samples of a turn.
CASES: dict[str, tuple[str, tuple[str, ...], int]] = {
    "LeNet-5, dense, its recipe": ("lenet5_dense_mnist", (), 12_800),
    "LeNet-5, dense": ("lenet5_mnist", ("network=lenet5_dense", "loss.scale=1"), 12_000),
    "LeNet-5, dense, bf16": ("lenet5_mnist", ("network=lenet5_dense", "loss.scale=1", "precision=bf16"), 12_000),
    "LeNet-5 of 1998": ("lenet5_mnist", (), 2_000),
    "ViT, small": ("vit_mnist", (), 512),
    "ResNet-20": ("resnet20_cifar10", ("precision=fp32",), 512),
    "ResNet-20, bf16": ("resnet20_cifar10", (), 512),
    "Transformer, small, bf16": ("transformer_de_en_tatoeba", ("validation=0",), 500),
}


class Unsaved(Run):
    """The loop without its checkpoints."""

    def save(self) -> None:
        pass


class Bare:
    """The loop that one would write by hand."""

    def __init__(self, recipe: Recipe, module: nn.Module, steps_an_epoch: int):
        self.recipe, self.module, self.steps_an_epoch = recipe, module, steps_an_epoch
        if recipe.channels_last:
            self.module = module.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
        self.optimizer = optim.optimizer(module, recipe.optimizer)
        self.average = optim.Average(module, recipe.ema) if recipe.ema else None
        self.step = 0

    def epoch(self, batches: Iterable[Batch]) -> None:
        recipe, options = self.recipe, self.recipe.loss
        self.module.train()
        for batch in batches:
            share = optim.factor(self.step, recipe.schedule, recipe.epochs * self.steps_an_epoch, self.steps_an_epoch)
            for group in self.optimizer.param_groups:
                group["lr"] = recipe.optimizer.lr * share
            self.optimizer.zero_grad()
            with torch.autocast("cpu", torch.bfloat16) if recipe.precision == "bf16" else nullcontext():
                scores = self.module(*batch.inputs).flatten(0, -2)
                scores = scores if options.scale == 1 else options.scale * scores
                loss = F.cross_entropy(
                    scores, batch.targets.flatten(), ignore_index=IGNORED, label_smoothing=options.label_smoothing
                )
            loss.backward()
            if recipe.clip is not None:
                nn.utils.clip_grad_norm_(self.module.parameters(), recipe.clip)
            self.optimizer.step()
            if self.average is not None:
                self.average.update(self.step)
            self.step += 1


def measure(recipe: Recipe, rounds: int, folder: Path) -> dict[str, list[float]]:
    """Processor seconds of each round's turns, and of a checkpoint; "samples" are those of a turn."""

    def network() -> nn.Module:
        torch.manual_seed(recipe.seed)
        return registry.build(recipe.network)

    samples = task(recipe)
    run = Unsaved(recipe, network(), samples, folder, World())
    ready, made = (Bare(recipe, network(), run.steps_an_epoch) for _ in range(2))
    took: dict[str, list[float]] = {"loop": [], "ready": [], "made": [], "checkpoint": []}
    for turn in range(rounds + 1):  # the first is not timed
        batches = [samples.batch(index, turn, CPU) for index in samples.batches(turn)]
        work: list[tuple[str, Callable[[], None]]] = [
            ("loop", lambda: run._epoch(Meter(0, "", quiet=True), lambda row: None)),
            ("ready", lambda batches=batches: ready.epoch(batches)),
            ("made", lambda turn=turn: made.epoch(samples.stream(samples.batches(turn), turn, CPU))),
        ]
        first = turn % len(work)
        for name, call in [*work[first:], *work[:first], ("checkpoint", lambda: Run.save(run))]:
            if isinstance(samples, Images):
                samples.plan = (-1, None)  # each turn plans its own augmentation
            torch.manual_seed(turn)  # dropout draws alike
            start = time.process_time()
            call()
            if turn:
                took[name].append(time.process_time() - start)
        if turn == 0:  # to rounding, before it has grown
            for bare in (ready, made):
                one, other = (torch.cat([p.flatten() for p in m.parameters()]) for m in (run.module, bare.module))
                assert (one - other).norm() <= 0.01 * one.norm(), "the loops do not train alike"
    return took | {"samples": [float(run.samples)]}


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=25)
    parser.add_argument("--only", default="", metavar="SUBSTRING", help="the cases that have this in their name")
    parser.add_argument("--record", action="store_true", help="write benchmarks/records/train_overhead.json")
    options = parser.parse_args()
    torch.set_num_threads(1)
    keep_freed(2**30, 2**31 - 1)  # as `lamina train` does
    print(f"torch {torch.__version__}, one thread, {options.rounds} rounds")
    print("| network | batch | ready, /s | made, /s | loop, /s | loop / made | loop / ready | checkpoint, ms |")
    print("|---|---|---|---|---|---|---|---|")
    slow, rows = 0, []
    for name, (recipe, settings, samples) in CASES.items():
        if options.only not in name:
            continue
        plan = msgspec.structs.replace(read(recipe, settings), samples=samples, epochs=1_000)
        with tempfile.TemporaryDirectory() as folder:
            (Path(folder) / CHECKPOINTS).mkdir()
            took = measure(plan, options.rounds, Path(folder))
        rate = {key: took["samples"][0] / min(took[key]) for key in ("ready", "made", "loop")}
        share = {
            key: statistics.median(a / b for a, b in zip(took[key], took["loop"], strict=True)) for key in ("ready", "made")
        }
        slow += share["made"] < LEAST
        ratios = {f"loop / {key}": round(value, 4) for key, value in share.items()}
        found = {"network": name, "batch": plan.batch, "per_second": {k: round(v, 1) for k, v in rate.items()}, **ratios}
        rows.append(found | {"checkpoint_ms": round(1e3 * statistics.median(took["checkpoint"]), 2)})
        cells = [name, f"{plan.batch:,}", *(f"{rate[key]:,.0f}" for key in ("ready", "made", "loop"))]
        cells += [f"{share['made']:.3f}", f"{share['ready']:.3f}", f"{1e3 * statistics.median(took['checkpoint']):.0f}"]
        print(f"| {' | '.join(cells)} |", flush=True)
    if options.record:
        made = record.provenance(seed=sorted({read(recipe).seed for recipe, _, _ in CASES.values()}))
        record.write("train_overhead", made, rounds=options.rounds, least=LEAST, rows=rows)
    return 1 if slow else 0


if __name__ == "__main__":
    sys.exit(main())
