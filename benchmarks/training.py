"""Finished runs of `lamina train` into benchmarks/records/training.json, from which the documentation takes their figures.

    python benchmarks/training.py [--device gpu] runs/lenet5_dense_mnist-1998 ...

A run's folder is named RECIPE-SEED, its row RECIPE-SEED-DEVICE; the row has the run's own provenance (commit, versions) and
result. Rows with a "note" stand for runs whose folders were not kept; a run recorded anew takes their place.
"""

import argparse
import json
import tomllib
from pathlib import Path
from typing import Any

import record


def row(folder: Path, device: str) -> tuple[str, dict[str, Any]]:
    made = json.loads((folder / "provenance.json").read_text())
    result = json.loads((folder / "result.json").read_text())
    recipe, seed = folder.name.rsplit("-", 1)
    assert int(seed) == tomllib.loads((folder / "config.toml").read_text())["seed"]
    found = {"recipe": recipe, "seed": int(seed), "epochs": result["epochs"], "device": device, "seconds": result["seconds"]}
    found |= {"test": result["test"]} | {key: value for key, value in result.items() if key.startswith("validation_")}
    kept = ("started", "commit", "dirty", "torch", "python", "recipe_sha256")
    return f"{folder.name}-{device}", found | {
        "provenance": {"machine": record.machine()} | {k: made[k] for k in kept if k in made}
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folders", type=Path, nargs="+", metavar="FOLDER")
    parser.add_argument("--device", choices=["cpu", "gpu"], default="cpu")
    options = parser.parse_args()
    known = record.read("training")
    for folder in options.folders:
        name, found = row(folder.resolve(), options.device)
        known["rows"][name] = found
        print(f"{name}: {found['test']}, {found['seconds']} s")
    record.write("training", known["provenance"], rows=known["rows"])


if __name__ == "__main__":
    main()
