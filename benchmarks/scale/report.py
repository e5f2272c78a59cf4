"""The figures of the experiments of growing, from run_all.py's record into the package and the documentation's plots.

    python benchmarks/scale/report.py runs/scale/records.json

Writes lamina/lecture/multiscale.json, docs/scale_resolution.png and docs/scale_depth.png; `make results` writes what
docs/results.md and docs/theory.md say of them.
"""

import json
import sys
from pathlib import Path
from typing import Any

from lamina.lecture import multiscale

ROOT = Path(__file__).resolve().parents[2]


def summary(record: dict[str, Any]) -> dict[str, Any]:
    found: dict[str, Any] = {"provenance": record["provenance"], "transfer": {}}
    for row in sorted((r for r in record["rows"] if r["experiment"] == "transfer"), key=lambda r: r["seed"]):
        direction = found["transfer"].setdefault(row["arm"], {}).setdefault("finer" if row["finer"] else "coarser", {})
        direction.setdefault("own", []).append(row["result"]["own"]["top1"])
        for operator, kinds in row["result"]["other"].items():
            for kind, values in kinds.items():
                direction.setdefault("other", {}).setdefault(operator, {}).setdefault(kind, []).append(values["top1"])
    for experiment in ("warm", "resnet_cifar", "vit_mnist", "gpt_characters"):
        rows = [r for r in record["rows"] if r["experiment"] == experiment and "error" not in r["result"]]
        if rows:
            found[experiment] = {arm: of_arm(rows, arm) for arm in dict.fromkeys(r["arm"] for r in rows)}
    return found


def of_arm(rows: list[dict[str, Any]], arm: str) -> dict[str, Any]:
    """The runs at the learning rate that seed 0 chose by its validation loss."""
    own = [r for r in rows if r["arm"] == arm]
    tried = [r for r in own if r["seed"] == 0]
    lr = min(tried, key=lambda r: r["result"]["validation"]["loss"])["lr"]
    runs = sorted((r for r in own if r["lr"] == lr), key=lambda r: r["seed"])
    return {
        "lr": lr,
        "lrs": sorted(r["lr"] for r in tried),
        "seeds": [r["seed"] for r in runs],
        "macs": runs[0]["result"]["macs"],
        "top1": [r["result"]["test"]["top1"] for r in runs],
        "loss": [r["result"]["test"]["loss"] for r in runs],
        "points": [[(p["macs"], p["top1"]) for p in r["result"]["points"] if "top1" in p] for r in runs],
    }


def main(path: Path) -> None:
    found = summary(json.loads(path.read_text()))
    (ROOT / "lamina" / "lecture" / "multiscale.json").write_text(json.dumps(found, separators=(",", ":")) + "\n")
    (ROOT / "docs" / "scale_resolution.png").write_bytes(multiscale.resolution_figure.png(found))
    (ROOT / "docs" / "scale_depth.png").write_bytes(multiscale.depth_figure.png(found))


if __name__ == "__main__":
    main(Path(sys.argv[1]))
