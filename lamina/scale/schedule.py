"""Multilevel training as one recipe: levels of a growing network, each a run of its own that starts from the one before.

A recipe's `[[levels]]` say what grows (`grow`, the factors of `lamina.grow`, and `operator`) and how long a level trains:
`epochs`, or a budget of `macs`. The network of the recipe is the first level's. Every level's schedule starts again with its
warm-up: what is grown at the bottom of a cosine stands still.

A step costs three forward passes, one forward and two backward. `levels.json` in the run's folder has each level's predicted
and spent multiply-accumulates.
"""

import json
import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import msgspec
import torch
from torch import nn

from lamina import files
from lamina.errors import InputError
from lamina.scale.growth import grow
from lamina.tracing.tracer import trace
from lamina.train import launch
from lamina.train.loop import METRICS, WEIGHTS
from lamina.train.recipe import Level, Recipe
from lamina.weights import finding, loading, reading, trained
from lamina.zoo import registry

LEVELS = "levels.json"
Log = Callable[[dict[str, Any]], None]


def schedule(
    recipe: Recipe,
    out: Path,
    data: Path | None = None,
    processes: launch.Processes | None = None,
    resume: bool = False,
    log: Log = lambda row: None,
) -> tuple[Recipe, Path]:
    """Run all levels of `recipe` in folders of `out`, and return the last one's recipe and folder. With `resume`, levels that
    have ended stay, and the one under way goes on."""
    if processes is not None and processes.several:
        raise InputError("levels run in one process: leave --nproc and --nodes out")
    rows = read(out) if resume else []
    plan, folder = recipe, out
    for number, level in enumerate(recipe.levels):
        folder = out / f"level-{number + 1}"
        plan = at(recipe, level, number, out, plan)
        plan, predicted = budget(plan, level, data)
        if number < len(rows):
            continue
        log({"level": number + 1, "network": plan.network, "changes": plan.changes, "steps": plan.steps, "macs": predicted})
        begun = resume and (folder / "config.toml").is_file()
        launch.train(plan, folder, data, processes, begun, log)
        rows.append(
            {"level": number + 1, "changes": plan.changes, "predicted_macs": predicted, "spent_macs": spent(plan, folder, data)}
        )
        files.write(out / LEVELS, json.dumps(rows, indent=1) + "\n")
    return plan, folder


def read(out: Path) -> list[dict[str, Any]]:
    return json.loads((out / LEVELS).read_text()) if (out / LEVELS).is_file() else []


def at(recipe: Recipe, level: Level, number: int, out: Path, before: Recipe) -> Recipe:
    """The recipe of one level. From the second on it starts from the grown weights of the level before."""
    changed: dict[str, Any] = {"levels": ()}
    if level.warmup is not None:
        changed["schedule"] = msgspec.structs.replace(recipe.schedule, warmup=level.warmup)
    if level.epochs is not None:
        changed["epochs"] = level.epochs
    if number == 0:
        if level.grow:
            raise InputError("levels: the first level is the recipe's own network, and grows from none")
        return msgspec.structs.replace(recipe, **changed)
    file = grown(out / f"level-{number}", out / f"start-{number + 1}", level)
    changed["image"] = json.loads(reading.read_metadata(file)["image"])
    # The file says what its network is: the recipe's own changes are of the first level.
    return launch.starting(msgspec.structs.replace(recipe, changes={}, **changed), str(file))


def grown(source: Path, target: Path, level: Level) -> Path:
    """The weights of the run in `source`, grown, as a file in `target`; one that is there already stays."""
    file = target / trained.WEIGHTS
    if file.is_file():
        return file
    network, place = trained.network(str(source))
    found = finding.find(network, place)
    old = loading.load(network, found)
    factors: dict[str, Any] = dict(level.grow)
    result = grow(old, **factors, operator=level.operator)
    metadata = reading.read_metadata(found.path)
    image = dict(json.loads(metadata["image"]))
    before, after = (getattr(m.config, "img_size", 1) for m in (old, result.module))
    if image and before != after:
        factor = after // before
        image |= {key: image[key] * factor for key in ("size", "resize", "pad") if key in image}
    kept = {k: v for k, v in metadata.items() if k not in ("result", "changes", "network")}
    facts = {"image": json.dumps(image), "operators": json.dumps(result.report.operators)}
    trained.save(file, network, result.module, kept | facts)
    return file


def budget(plan: Recipe, level: Level, data: Path | None) -> tuple[Recipe, int]:
    """The recipe with as many steps as the level's MACs pay for, and what the level will cost."""
    samples = launch.task(plan, data)
    batches = samples.batches(0)
    each = 3 * forward_macs(plan, samples)
    if level.macs is not None:
        steps = max(1, int(level.macs // (each * plan.batch)))
        plan = msgspec.structs.replace(plan, steps=steps, epochs=math.ceil(steps / len(batches)))
    steps = min(plan.epochs * len(batches), plan.steps or 2**53)
    whole, rest = divmod(steps, len(batches))
    return plan, each * (whole * sum(map(len, batches)) + sum(len(b) for b in batches[:rest]))


def forward_macs(plan: Recipe, samples: Any) -> int:
    """Of one sample; of text, of the longest."""
    changes = {k: tuple(v) if isinstance(v, list) else v for k, v in plan.changes.items()}
    module: nn.Module = registry.assemble(plan.network, **changes).eval()
    batch = samples.batch(torch.tensor([samples.largest]), 0, torch.device("cpu"))
    return trace(module, *(x.to("meta") for x in batch.inputs)).total().macs


def spent(plan: Recipe, folder: Path, data: Path | None) -> int:
    """What the run in `folder` has cost, by the steps in its metrics."""
    rows = [json.loads(line) for line in (folder / METRICS).read_text().splitlines()]
    assert (folder / WEIGHTS).is_file()
    samples = launch.task(plan, data)
    batches = samples.batches(0)
    whole, rest = divmod(rows[-1]["step"], len(batches))
    return 3 * forward_macs(plan, samples) * (whole * sum(map(len, batches)) + sum(len(b) for b in batches[:rest]))
