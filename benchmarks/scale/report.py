"""The figures of the experiments of growing, from run_all.py's record into the package and the documentation's plots.

    python benchmarks/scale/report.py [runs/scale_runs.json]

Without a file, of the record that ships (benchmarks/records/scale_runs.json); one that is given becomes that record. Writes
lamina/lecture/multiscale.json, docs/scale_resolution.png, docs/scale_depth.png and docs/scale_transformer.png; `make results`
writes what docs/results.md and docs/theory.md say of them.
"""

import json
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[2]
sys.path[:0] = [str(ROOT), str(ROOT / "benchmarks")]

import record  # noqa: E402

from benchmarks.scale import depth, run_all  # noqa: E402
from lamina.lecture import multiscale  # noqa: E402

Row = dict[str, Any]
SHIPPED = record.RECORDS / "scale_runs.json"


def summary(found: dict[str, Any]) -> dict[str, Any]:
    """What the lecture and the documentation show: of each arm the runs at its learning rate."""
    rows = [row for row in found["rows"] if "error" not in row]
    out: dict[str, Any] = {"runs": [*found["older"], found["provenance"]], "transfer": {}, "missing": {}}
    for row in sorted((r for r in rows if r["experiment"] == "transfer"), key=lambda r: r["seed"]):
        direction = out["transfer"].setdefault(row["arm"], {}).setdefault("finer" if row["finer"] else "coarser", {})
        direction.setdefault("own", []).append(row["own"]["top1"])
        for operator, kinds in row["other"].items():
            for kind, values in kinds.items():
                direction.setdefault("other", {}).setdefault(operator, {}).setdefault(kind, []).append(values["top1"])
    known = run_all.experiments() | {"resnet_cifar_large": (depth.DEPTH, ())}  # of a size that is no longer run
    for experiment, (arms, first) in known.items():
        own = [row for row in rows if row["experiment"] == experiment]
        done = {arm: whole(own, experiment, arm, first) for arm in arms}
        if any(done.values()):
            out[experiment] = {arm: of_arm(own, arm) for arm in arms if done[arm]}
            out["missing"][experiment] = [arm for arm in arms if not done[arm]]
    return out


def whole(rows: Sequence[Row], experiment: str, arm: str, first: Sequence[float]) -> bool:
    """Whether an arm has all its runs, or stands for a sweep that had."""
    own = [row for row in rows if row["arm"] == arm]
    if any("lrs" in row for row in own):
        return True
    taken = {run_all.key(row) for row in own}
    return bool(own) and all(run_all.key(job) in taken for job in run_all.of_arm(own, experiment, arm, first))


def of_arm(rows: Sequence[Row], arm: str) -> Row:
    """The runs at the learning rate that seed 0 chose by its validation loss. A row that stands for a sweep of which the other
    runs were not kept says which rates it tried."""
    own = [r for r in rows if r["arm"] == arm]
    tried = [r for r in own if r["seed"] == 0]
    best = min(tried, key=run_all.score) if len(tried) > 1 else tried[0]
    runs = sorted((r for r in own if r["lr"] == best["lr"]), key=lambda r: r["seed"])
    return {
        "lr": best["lr"],
        "lrs": best.get("lrs") or sorted(r["lr"] for r in tried),
        "run": best["run"],
        "seeds": [r["seed"] for r in runs],
        "macs": runs[0]["macs"],
        "steps": runs[0].get("steps"),
        "top1": [r["test"]["top1"] for r in runs],
        "loss": [r["test"]["loss"] for r in runs],
        "growth": [r["growth"] for r in runs if r.get("growth")],
        "points": [r["points"] for r in runs],
    }


def main(given: Path = SHIPPED) -> None:
    found = json.loads(given.read_text())
    if given != SHIPPED:
        SHIPPED.write_text(record.dump(found) + "\n")
    shown = summary(found)
    (ROOT / "lamina" / "lecture" / "multiscale.json").write_text(json.dumps(shown, separators=(",", ":")) + "\n")
    for name, figure in multiscale.PICTURES.items():
        (ROOT / "docs" / name).write_bytes(figure.png(shown))


if __name__ == "__main__":
    main(*(Path(argument) for argument in sys.argv[1:2]))
