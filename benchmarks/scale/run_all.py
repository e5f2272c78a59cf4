"""All experiments of growing, several at once on one device, into one record.

    python benchmarks/scale/run_all.py --data runs/scale_data.npz --out runs/scale_runs.json --go-on
    python benchmarks/scale/run_all.py --data runs/scale_small.npz --out runs/smoke.json --smoke

The learning rate of each arm is chosen with seed 0 on the validation set: three to begin with, and the next one as long as the
best is an end of those tried. Seeds 1 and 2 run with it. An arm is finished before the next begins, and the record is written
after every run, so that a run that is stopped leaves whole arms. `--go-on` keeps the rows of an older record (by default the
one that ships, benchmarks/records/scale_runs.json) and does what is missing.
"""

import argparse
import json
import multiprocessing
import sys
import time
import traceback
from collections.abc import Sequence
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[2]
sys.path[:0] = [str(ROOT), str(ROOT / "benchmarks")]

import record  # noqa: E402

Row = dict[str, Any]
RATES = (1e-4, 3e-4, 1e-3, 3e-3, 1e-2, 3e-2, 1e-1, 3e-1, 1.0)
SEEDS = (0, 1, 2)
SMALL = ("resnet_cifar", "vit_mnist", "gpt_characters", "warm")


def experiments() -> dict[str, tuple[Sequence[str], Sequence[float]]]:
    """Arms, the most telling ones first, and the learning rates to begin with."""
    from benchmarks.scale import depth, resolution

    found: dict[str, Any] = {task: (plan["arms"], depth.LRS) for task, plan in depth.TASKS.items()}
    return found | {size: (plan["arms"], resolution.LRS) for size, plan in resolution.WARM.items()}


def remaining(rows: Sequence[Row], begun: Sequence[Row], wanted: Sequence[str]) -> list[Row]:
    """The runs that can begin now: neither done nor `begun`, and their learning rate known."""
    from benchmarks.scale import resolution

    known = experiments()
    arms: list[tuple[str, str]] = []
    for place in range(max(len(arms) for arms, _ in known.values())):
        arms += [(e, known[e][0][place]) for e in wanted if e in known and place < len(known[e][0])]
    jobs = [job for experiment, arm in arms for job in of_arm(rows, experiment, arm, known[experiment][1])]
    if "transfer" in wanted:
        cells = [(kind, finer) for kind in resolution.TRANSFER["networks"] for finer in (True, False)]
        jobs += [{"experiment": "transfer", "arm": k, "finer": f, "seed": seed} for k, f in cells for seed in SEEDS]
    taken = {key(row) for row in (*rows, *begun)}
    return [job for job in jobs if key(job) not in taken]


def of_arm(rows: Sequence[Row], experiment: str, arm: str, first: Sequence[float]) -> list[Row]:
    """All runs of an arm that are known to be wanted."""
    tried = {row["lr"]: score(row) for row in rows if (row["experiment"], row["arm"], row["seed"]) == (experiment, arm, 0)}
    wanted = sorted({*first, *tried})
    seeds: list[tuple[float, int]] = [(lr, 0) for lr in wanted]
    if all(lr in tried for lr in wanted):
        best = min(tried, key=tried.__getitem__)
        more = beyond(best, wanted)
        seeds += [(more, 0)] if more else [(best, seed) for seed in SEEDS[1:]]
    return [{"experiment": experiment, "arm": arm, "lr": lr, "seed": seed} for lr, seed in seeds]


def beyond(best: float, tried: Sequence[float]) -> float | None:
    """The rate next to the best one, where that is an end of those tried."""
    place = RATES.index(best)
    for end, step in ((tried[0], -1), (tried[-1], 1)):
        if best == end and 0 <= place + step < len(RATES):
            return RATES[place + step]
    return None


def score(row: Row) -> float:
    """What the learning rate is chosen by: the validation loss."""
    value = row["validation"]["loss"]
    return value if value == value else float("inf")


def kept(row: Row, wanted: Sequence[str]) -> bool:
    """Whether to go on with an older row: not with one that failed, or one of a wanted sweep of which only the chosen rate was
    kept."""
    return "error" not in row and not ("lrs" in row and row["experiment"] in wanted)


def key(row: Row) -> tuple[Any, ...]:
    return tuple(row.get(name) for name in ("experiment", "arm", "finer", "lr", "seed"))


def work(job: Row, path: str, device: str, scale: float) -> Row:
    """One run, in a worker process."""
    import torch

    from benchmarks.scale import depth, resolution

    begin = time.process_time() if device == "cpu" else time.monotonic()
    torch.set_float32_matmul_precision("high")  # TF32 products on CUDA
    if device == "cpu":
        torch.set_num_threads(1)
    try:
        if job["experiment"] == "transfer":
            result = resolution.transfer(job["arm"], job["finer"], job["seed"], path, device, scale)
        elif job["experiment"] in resolution.WARM:
            result = resolution.warm(job["experiment"], job["arm"], job["lr"], job["seed"], path, device, scale)
        else:
            result = depth.run(job["experiment"], job["arm"], job["lr"], job["seed"], path, device, scale)
    except Exception:
        result = {"error": traceback.format_exc()[-1500:]}
    end = time.process_time() if device == "cpu" else time.monotonic()
    return job | {"seconds": round(end - begin, 2)} | result


def provenance(arguments: argparse.Namespace) -> dict[str, Any]:
    import torch

    found = record.provenance(seed=list(SEEDS))
    if arguments.device.startswith("cuda"):
        found["machine"] = torch.cuda.get_device_name()
    return found | {"workers": arguments.workers, "scale": arguments.scale}


def options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--data", required=True, help="the file of prepare.py")
    parser.add_argument("--out", type=Path, required=True, help="the record to write")
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--workers", type=int, default=0, help="processes; by default 8 on CUDA and 2 on a CPU")
    parser.add_argument("--seconds", type=float, default=float("inf"), help="begin no run after so many")
    parser.add_argument("--scale", type=float, default=1.0, help="of every budget")
    parser.add_argument("--only", default=",".join(SMALL), help="experiments, separated by commas; also transfer, warm_large")
    shipped = record.RECORDS / "scale_runs.json"
    parser.add_argument("--go-on", type=Path, nargs="?", const=shipped, help="an older record, by default the one that ships")
    parser.add_argument("--smoke", action="store_true", help="a few steps of everything")
    arguments = parser.parse_args()
    arguments.workers = arguments.workers or (8 if arguments.device.startswith("cuda") else 2)
    if arguments.smoke:
        arguments.scale = 0.005
    known = {*experiments(), "transfer"}
    if unknown := sorted(set(arguments.only.split(",")) - known):
        parser.error(f"--only: no experiment {unknown[0]!r}; there are {', '.join(sorted(known))}")
    return arguments


def main() -> None:
    arguments = options()
    wanted = arguments.only.split(",")
    found: dict[str, Any] = {"provenance": provenance(arguments), "older": [], "rows": []}
    if arguments.go_on:
        older = json.loads(arguments.go_on.read_text())
        found["older"] = [*older["older"], older["provenance"]]
        found["rows"] = [row for row in older["rows"] if kept(row, wanted)]
    number, begin = len(found["older"]), time.monotonic()  # rows say which of "older" and "provenance" made them
    begun: list[Row] = []
    with multiprocessing.get_context("spawn").Pool(arguments.workers) as pool:
        running: list[Any] = []
        while True:
            for outcome in [r for r in running if r.ready()]:
                running.remove(outcome)
                row = outcome.get() | {"run": number}
                found["rows"].append(row)
                tell(row, time.monotonic() - begin)
                save(found, arguments.out)
            waiting = remaining([r for r in found["rows"] if "error" not in r], begun, wanted)
            if arguments.smoke:
                waiting = [job for job in waiting if job["seed"] == 0 and job.get("lr", 1e-2) == 1e-2]
            if time.monotonic() - begin > arguments.seconds:
                waiting = []
            for job in waiting[: arguments.workers - len(running)]:
                begun.append(job)
                running.append(pool.apply_async(work, (job, arguments.data, arguments.device, arguments.scale)))
            if not running:
                break
            time.sleep(0.02 if arguments.device.startswith("cuda") else 0.2)
    save(found, arguments.out)


def tell(row: Row, elapsed: float) -> None:
    name = " ".join(str(row[k]) for k in ("experiment", "arm", "finer", "lr", "seed") if k in row)
    shown = row.get("error") or row.get("test") or row.get("own")
    print(f"{elapsed:6.1f} s  {name}  ({row['seconds']} s)  {shown}", flush=True)


def save(found: dict[str, Any], out: Path) -> None:
    out.parent.mkdir(parents=True, exist_ok=True)
    partial = out.with_suffix(".partial")
    partial.write_text(record.dump(found) + "\n")
    partial.replace(out)


if __name__ == "__main__":
    main()
