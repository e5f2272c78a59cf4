"""What `auto` gives: its time over the best of four engines on the network as it came.

    python benchmarks/inference.py [RECORD.json] [--only NAME ...] [--batch 1 8] [--minutes 9] [--again] [--table]
                                   [--processor] [--without ENGINE ...] [--seconds 6]

Each network and batch runs in a process of its own: torch operation by operation, Inductor with frozen weights, ONNX Runtime
and OpenVINO on the network as it came, and `lamina.Session(engine="auto")`, all with this machine's default threads, random
weights and the same random images. An engine whose answers lie more than 1e-4 of the largest value from eager torch's is out.
Then they take turns. Each row goes into the record as soon as it is measured, so that a run that was cut short, or given
`--minutes`, goes on where it ended; `--again` measures what is there anew. `--processor` takes one thread
and its processor time, for a machine that others use meanwhile; `--without`
leaves engines out (Inductor takes minutes to start). The record is benchmarks/records/inference.json where no other is named.
Exit code 1 where a bound is missed.
"""

import argparse
import json
import os
import statistics
import subprocess
import sys
import time
from datetime import date
from functools import partial
from pathlib import Path
from typing import Any

import record

NETWORKS = ("alexnet", "alexnet_owt", "vgg16", "googlenet", "googlenet_bn", "resnet50_v1_5", "densenet121", "resnext50_32x4d")
NETWORKS += ("wide_resnet50_2", "inception_v3", "vit_b_16")
BESIDE = ("resnet34",)  # reported, without a bound: 3x3 convolutions throughout
BATCHES = (1, 8)
SECONDS = 6.0  # for each engine
ANY, MEDIAN = 1.05, 1.0
BOUNDS = {("alexnet", 1): 0.7, ("alexnet", 8): 0.7, ("googlenet", 1): 0.7, ("googlenet", 8): 0.7, ("vgg16", 8): 0.75}
BEYOND_READING = {("vgg16", 1): 0.8}  # of the times less that of reading the fully connected layers' weights


def measure(name: str, batch: int, processor: bool, without: list[str], seconds: float) -> dict[str, Any]:
    """One row: milliseconds of each engine, of `auto` and of torch with each rewrite, and their ratio."""
    import torch

    from lamina.infer import auto, engines, machine, networks
    from lamina.infer.engines.program import Program
    from lamina.infer.session import Session
    from lamina.infer.turns import take_turns

    threads = 1 if processor else None
    if processor:
        torch.set_num_threads(1)
    network = networks.load(name, "random")
    inputs = [torch.cat([x] * batch) for x in network.example]
    session = Session(name, "random", engine="auto", batch=batch, threads=threads)
    given = Program(name, inputs, network.module, threads=threads, simplify=False)
    expected = auto.reference(given)
    row: dict[str, Any] = {"network": name, "batch": batch, "auto": session.engine, "load": os.getloadavg()[0]}
    row["differences"] = {"auto": auto.difference(session.run(*inputs), expected)}
    started: dict[str, Any] = {"auto": partial(session.run, *inputs)}
    for engine in (engine for engine in engines.ENGINES if engine not in without):
        try:
            made = engines.start(engine, given)
            row["differences"][engine] = apart = auto.difference(made.run(inputs), expected)
        except Exception as error:  # an engine that does not start is out, and the row says why
            row.setdefault("refused", {})[engine] = str(error).splitlines()[0]
            continue
        if apart <= auto.BOUND:
            started[engine] = partial(made.run, inputs)
    clock = time.process_time if processor else time.perf_counter
    times = take_turns(started, seconds, least=9, most=60, clock=clock)
    medians = {key: statistics.median(values) for key, values in times.items()}
    best = min((key for key in medians if key != "auto"), key=lambda key: medians[key])
    ratios = sorted(ours / theirs for ours, theirs in zip(times["auto"], times[best], strict=True))
    row |= {"ms": {key: round(1e3 * value, 2) for key, value in medians.items()}, "best": best}
    row |= {"ratio": round(medians["auto"] / medians[best], 3), "turns": len(ratios)}
    row["quartiles"] = [round(q, 3) for q in statistics.quantiles(ratios, n=4)[::2]]
    linear = sum(m.weight.nbytes for m in network.module.modules() if isinstance(m, torch.nn.Linear))  # type: ignore[union-attr]
    read = machine.reading_seconds(linear, clock)
    row |= {"read_ms": round(1e3 * read, 2), "beyond_reading": round((medians["auto"] - read) / (medians[best] - read), 3)}
    row |= {"threads": torch.get_num_threads(), "clock": clock.__name__, "date": str(date.today())}
    return row


def bound(row: dict[str, Any]) -> tuple[float, float, str]:
    """What is held to a bound, the bound, and what it is."""
    key = row["network"], row["batch"]
    if key in BEYOND_READING:
        return row["beyond_reading"], BEYOND_READING[key], "beyond reading"
    return row["ratio"], BOUNDS.get(key, ANY), ""


def table(rows: list[dict[str, Any]]) -> int:
    """Print the rows; the number of bounds that are missed."""
    engines = ("torch", "compile", "onnxruntime", "openvino")
    print(f"{'network':16} {'batch':>5} " + " ".join(f"{e:>11}" for e in engines) + f" {'auto':>8} {'':11}  ratio  quartiles")
    missed = 0
    for row in rows:
        value, limit, what = bound(row)
        held = row["network"] in BESIDE or value <= limit
        missed += not held
        times = " ".join(f"{row['ms'].get(e, float('nan')):11.1f}" for e in engines)
        note = f"  {what} {value:.3f}" if what else ""
        note += "" if held else f"  above {limit}"
        quartiles = "-".join(f"{q:.2f}" for q in row["quartiles"])
        print(
            f"{row['network']:16} {row['batch']:5} {times} {row['ms']['auto']:8.1f} {row['auto']:11}  {row['ratio']:.3f}",
            end="",
        )
        print(f"  {quartiles}{note}")
    ratios = [row["ratio"] for row in rows if row["network"] not in BESIDE]
    if ratios:
        median = statistics.median(ratios)
        missed += median > MEDIAN
        print(
            f"{len(ratios)} rows: median ratio {median:.3f} (bound {MEDIAN}), largest {max(ratios):.3f}; {missed} bounds missed"
        )
    return missed


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("record", type=Path, nargs="?", default=record.RECORDS / "inference.json")
    parser.add_argument("--only", nargs="+", default=[*NETWORKS, *BESIDE])
    parser.add_argument("--batch", nargs="+", type=int, default=BATCHES)
    parser.add_argument("--minutes", type=float, default=float("inf"), help="start no further row after so many")
    parser.add_argument("--again", action="store_true")
    parser.add_argument("--processor", action="store_true")
    parser.add_argument("--without", nargs="+", default=[], metavar="ENGINE")
    parser.add_argument("--seconds", type=float, default=SECONDS)
    parser.add_argument("--table", action="store_true", help="print the record and measure nothing")
    parser.add_argument("--one", nargs=2, metavar=("NETWORK", "BATCH"), help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.one:
        print(json.dumps(measure(options.one[0], int(options.one[1]), options.processor, options.without, options.seconds)))
        return 0
    begin = time.monotonic()
    found = json.loads(options.record.read_text()) if options.record.exists() else {"rows": {}}
    for batch in options.batch:
        for name in options.only:
            key = f"{name}, batch {batch}"
            if options.table or (key in found["rows"] and not options.again) or time.monotonic() - begin > 60 * options.minutes:
                continue
            command = [sys.executable, __file__, str(options.record), "--one", name, str(batch)]
            command += ["--processor"] if options.processor else []
            command += ["--seconds", str(options.seconds), *(["--without", *options.without] if options.without else [])]
            done = subprocess.run(command, stdout=subprocess.PIPE, text=True)
            if done.returncode:
                print(f"{key}: failed")
                continue
            found["rows"][key] = json.loads(done.stdout.splitlines()[-1])
            found = {"provenance": record.provenance(packages=("onnxruntime", "openvino")), "rows": found["rows"]}
            options.record.write_text(record.dump(found) + "\n", encoding="utf-8")
            table([found["rows"][key]])
    print()
    return 1 if table(list(found["rows"].values())) else 0


if __name__ == "__main__":
    sys.exit(main())
