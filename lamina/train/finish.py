"""What follows training: the result on the test split, the curves, and the facts in the weight file's metadata."""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from lamina import files
from lamina.infer.evaluate import evaluate
from lamina.report import curves
from lamina.train.loop import METRICS, WEIGHTS
from lamina.train.recipe import Recipe


def finish(recipe: Recipe, folder: Path, data: Path | None = None) -> dict[str, Any]:
    """Evaluate the weights of the finished run in `folder` on the test split, draw its curves, and compare its result with the
    published one. Writes curves.png and result.json; returns what result.json holds.

    {"network", "data", "epochs", "step", "seconds", "validation_...", "test", "published", "folder"}: "test" is what
    `lamina.infer.evaluate.evaluate` gives, absent where `data` has no test split. Raises `LaminaError`.
    """
    rows = [json.loads(line) for line in (folder / METRICS).read_text().splitlines()]
    curves.draw({recipe.network: rows}, f"{recipe.network} on {recipe.data}", folder / "curves.png")
    last = rows[-1]
    result: dict[str, Any] = {"network": recipe.network, "data": recipe.data, "epochs": last["epoch"], "step": last["step"]}
    result["seconds"] = round(sum(row["seconds"] for row in rows))
    result |= {k: v for k, v in last.items() if k.startswith("validation")}
    split = _test_split(recipe, data)
    if split is not None:
        result["test"] = evaluate(recipe.network, split, folder / WEIGHTS)
        stamp(folder / WEIGHTS, {"result": json.dumps(result["test"])})
    if recipe.mark is not None:
        result["published"] = {"measure": recipe.mark.measure, "value": recipe.mark.value, "source": recipe.mark.source}
    result["folder"] = str(folder)
    files.write(folder / "result.json", json.dumps(result, indent=1) + "\n")
    return result


def _test_split(recipe: Recipe, data: Path | None) -> str | Path | None:
    """Where the test split is, if there is one: a folder of images has val/ or test/, a folder of text test.*."""
    if data is None:
        return recipe.data
    if recipe.text is not None:
        return data if data.is_file() or any(data.glob(f"test.{recipe.text.source}*")) else None
    return next((data / name for name in ("val", "test") if (data / name).is_dir()), None)


def stamp(weights: Path, facts: Mapping[str, str]) -> None:
    """Add facts to the metadata of a safetensors file. Raises `LaminaError`, the file left as it was."""
    from safetensors import safe_open
    from safetensors.torch import load_file, save

    with safe_open(weights, "pt") as file:
        metadata = dict(file.metadata()) | dict(facts)
    files.write(weights, save(load_file(weights), metadata))
