"""All experiments of growing, several at once on one device, with one record for each.

    python benchmarks/scale/run_all.py --data runs/scale_data.npz --out runs/scale --device cuda --seconds 280
    python benchmarks/scale/run_all.py --data runs/scale_small.npz --out runs/smoke --smoke

The learning rate of each arm is chosen with seed 0 on the validation set; seeds 1 and 2 run with it. A record is written
after every run, so that what is done when the time is up is kept.
"""

import argparse
import datetime
import json
import multiprocessing
import os
import platform
import subprocess
import sys
import time
import traceback
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[2]
sys.path.insert(0, str(ROOT))

Job = dict[str, Any]
LAST = {"resnet_cifar": 1}  # what takes longest, when going on


def jobs_of_seed_0() -> list[Job]:
    from benchmarks.scale import depth, resolution

    found: list[Job] = []
    for kind in resolution.TRANSFER["networks"]:
        for finer in (True, False):
            for seed in (0, 1, 2):
                found.append({"experiment": "transfer", "arm": kind, "finer": finer, "seed": seed})
    sweep = [("warm", arm, lr) for arm in resolution.WARM["arms"] for lr in resolution.WARM["lrs"]]
    for task in depth.TASKS:
        sweep += [(task, arm, lr) for arm in depth.ARMS for lr in depth.LRS]
    return found + [{"experiment": e, "arm": a, "lr": lr, "seed": 0} for e, a, lr in sweep]


def work(job: Job, path: str, device: str, scale: float) -> Job:
    """One run, in a worker process."""
    import torch

    from benchmarks.scale import depth, resolution

    begin = time.monotonic()
    torch.set_float32_matmul_precision("high")  # TF32 products on CUDA
    if device == "cpu":
        torch.set_num_threads(1)
    try:
        if job["experiment"] == "transfer":
            result = resolution.transfer(job["arm"], job["finer"], job["seed"], path, device, scale)
        elif job["experiment"] == "warm":
            result = resolution.warm(job["arm"], job["lr"], job["seed"], path, device, scale)
        else:
            result = depth.run(job["experiment"], job["arm"], job["lr"], job["seed"], path, device, scale)
    except Exception:
        result = {"error": traceback.format_exc()[-1500:]}
    return job | {"seconds": round(time.monotonic() - begin, 2), "result": result}


def score(row: Job) -> float:
    """What the learning rate is chosen by: the validation loss."""
    value = row["result"].get("validation", {}).get("loss", float("inf"))
    return value if value == value else float("inf")


def followers(rows: list[Job], job: Job) -> list[Job]:
    """Seeds 1 and 2 of an arm, once all its learning rates have run with seed 0."""
    from benchmarks.scale import depth, resolution

    if job["experiment"] == "transfer" or job["seed"] != 0:
        return []
    lrs = resolution.WARM["lrs"] if job["experiment"] == "warm" else depth.LRS
    own = [r for r in rows if (r["experiment"], r["arm"], r["seed"]) == (job["experiment"], job["arm"], 0)]
    if len(own) < len(lrs):
        return []
    best = min(own, key=score)
    return [{k: job[k] for k in ("experiment", "arm")} | {"lr": best["lr"], "seed": seed} for seed in (1, 2)]


def provenance(arguments: argparse.Namespace) -> dict[str, Any]:
    import torch

    commit = os.environ.get("LAMINA_COMMIT", "")
    if not commit:
        done = subprocess.run(["git", "-C", str(ROOT), "rev-parse", "HEAD"], capture_output=True, text=True)
        commit = done.stdout.strip()
    device = torch.cuda.get_device_name() if arguments.device.startswith("cuda") else platform.processor() or platform.machine()
    return {
        "command": " ".join(["python", "benchmarks/scale/run_all.py", *sys.argv[1:]]),
        "commit": commit,
        "device": device,
        "torch": torch.__version__,
        "date": datetime.datetime.now(datetime.UTC).date().isoformat(),
        "seeds": [0, 1, 2],
        "workers": arguments.workers,
        "scale": arguments.scale,
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--data", required=True, help="the file of prepare.py")
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--workers", type=int, default=0, help="processes; by default 8 on CUDA and 2 on a CPU")
    parser.add_argument("--seconds", type=float, default=280, help="begin no run after so many")
    parser.add_argument("--scale", type=float, default=1.0, help="of every budget")
    parser.add_argument("--only", default="", help="experiments, separated by commas")
    parser.add_argument("--go-on", type=Path, help="an older record: its runs are kept, and what is missing is done")
    parser.add_argument("--smoke", action="store_true", help="a few steps of everything")
    arguments = parser.parse_args()
    arguments.workers = arguments.workers or (8 if arguments.device.startswith("cuda") else 2)
    if arguments.smoke:
        arguments.scale = 0.005
    begin = time.monotonic()
    arguments.out.mkdir(parents=True, exist_ok=True)
    wanted = set(arguments.only.split(",")) if arguments.only else None
    waiting = [job for job in jobs_of_seed_0() if wanted is None or job["experiment"] in wanted]
    if arguments.smoke:
        waiting = [job for job in waiting if job["seed"] == 0 and job.get("lr", 3e-3) == 3e-3]
    record: dict[str, Any] = {"provenance": provenance(arguments), "rows": [], "left_out": []}
    if arguments.go_on:
        older = json.loads(arguments.go_on.read_text())
        record["rows"], record["older"] = older["rows"], [*older.get("older", []), older["provenance"]]
        done = {key(row) for row in record["rows"]}
        for row in list(record["rows"]):
            waiting += [job for job in followers(record["rows"], row) if job not in waiting]
        waiting = [job for job in waiting if key(job) not in done and (wanted is None or job["experiment"] in wanted)]
        waiting.sort(key=lambda job: LAST.get(job["experiment"], 0))
    context = multiprocessing.get_context("spawn")
    with context.Pool(arguments.workers) as pool:
        running: list[Any] = []
        while waiting or running:
            late = time.monotonic() - begin > arguments.seconds
            if late and time.monotonic() - begin > arguments.seconds + 20:
                break
            while waiting and not late and len(running) < arguments.workers:
                job = waiting.pop(0)
                running.append(pool.apply_async(work, (job, arguments.data, arguments.device, arguments.scale)))
            for outcome in [r for r in running if r.ready()]:
                running.remove(outcome)
                row = outcome.get()
                record["rows"].append(row)
                waiting[:0] = [] if arguments.smoke else followers(record["rows"], row)
                tell(row, time.monotonic() - begin)
                save(record, arguments.out, begin)
            if late and not running:
                break
            time.sleep(0.02)
        record["left_out"] = waiting
        save(record, arguments.out, begin)
        pool.terminate()


def key(job: Job) -> tuple[Any, ...]:
    return tuple(job.get(name) for name in ("experiment", "arm", "finer", "lr", "seed"))


def tell(row: Job, elapsed: float) -> None:
    name = " ".join(str(v) for k, v in row.items() if k not in ("result", "seconds"))
    outcome = row["result"]
    shown = outcome.get("error") or outcome.get("test") or outcome.get("own")
    print(f"{elapsed:6.1f} s  {name}  ({row['seconds']} s)  {shown}", flush=True)


def save(record: dict[str, Any], out: Path, begin: float) -> None:
    record["provenance"]["seconds"] = round(time.monotonic() - begin, 1)
    partial = out / "records.json.partial"
    partial.write_text(json.dumps(record, indent=1))
    partial.replace(out / "records.json")


if __name__ == "__main__":
    main()
