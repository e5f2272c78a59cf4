"""What the server costs beside the network, and what it does under more load than it can carry. Loopback only.

    python benchmarks/serving.py [MODEL...] [--weights random] [--seconds 10] [--overload 60] [--peers] [--record]

The server and the plain loop over `Session.run` run on one core with one thread, the clients on another core: what HTTP costs
is taken from the network's own time, and a network whose image takes a millisecond shows it most. For each network:

- the loop: images per second at batches of 1 to 16, and how long one run takes;
- throughput: 32 clients that ask, wait and ask again, with batches of one (--batch 1) and adaptive ones; each as a share of the
  loop's, taken before and after; and the same by processor time per image, which other work of the machine does not change;
- latency at half of the load, Poisson arrivals, in multiples of one run: half of what runs of one image carry (a server without
  any cost of its own would take 1.5 runs in the mean: who comes waits for half of those before), and half of what the best
  batch carries, which for a small network is more than runs of one image can do at all;
- ten times the load: every request is answered 200, 429 or 503; the latency of those answered 200, the memory of the server,
  and how long after the flood a lone request is answered as fast as before; and how late the client was itself;
- nuisances beside good clients, whose every request is answered 200;
- SIGTERM while clients ask on: none that the server took is lost.

With `--peers` LitServe serves the same network, in .serving (`make serving`). `--record` writes its record.
"""

import argparse
import asyncio
import base64
import contextlib
import json
import os
import signal
import socket
import statistics
import subprocess
import sys
import time
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import record
from serving_client import Load, nuisance

HERE = Path(__file__).resolve().parent
CORES = sorted(os.sched_getaffinity(0))
SERVER, CLIENT = CORES[0], CORES[-1]
BATCHES = (1, 2, 4, 8, 16)
PATIENT = "20"  # seconds of --latency with which no client of the 32 is told to come back


# ---- the plain loop ------------------------------------------------------------------------------------------------------


Times = dict[int, tuple[float, float]]  # by batch: seconds on the clock and of the processor for a run


def loop(model: str, weights: str | None) -> Times:
    """The median of all runs of a batch."""
    command = [sys.executable, __file__, model, "--loop", *(["--weights", weights] if weights else [])]
    text = subprocess.run(["taskset", "-c", str(SERVER), *command], check=True, capture_output=True, text=True).stdout
    return {int(batch): tuple(seconds) for batch, seconds in json.loads(text).items()}


def print_loop(model: str, weights: str | None) -> None:
    import torch

    from lamina.infer.session import Session

    session = Session(model, weights, threads=1)
    times: dict[int, list[tuple[float, float]]] = {batch: [] for batch in BATCHES}
    inputs = {batch: torch.cat([session.network.example[0]] * batch) for batch in BATCHES}
    for batch in BATCHES:
        session.run(inputs[batch])
    begin = time.perf_counter()
    while time.perf_counter() - begin < 8:  # in turns, so that a busy moment of the machine meets all
        for batch in BATCHES:
            start, cpu = time.perf_counter(), time.process_time()
            session.run(inputs[batch])
            times[batch].append((time.perf_counter() - start, time.process_time() - cpu))
    print(json.dumps({batch: [statistics.median(kind) for kind in zip(*times[batch], strict=True)] for batch in BATCHES}))


# ---- servers -------------------------------------------------------------------------------------------------------------


@contextlib.contextmanager
def lamina(model: str, weights: str | None, *options: str) -> Iterator[tuple[subprocess.Popen[str], int]]:
    words = [sys.executable, "-m", "lamina", "serve", f"net={model}", "--port", "0", "--threads", "1", "--json", *options]
    words += ["--weights", weights] if weights else []
    process = subprocess.Popen(["taskset", "-c", str(SERVER), *words], stdout=subprocess.PIPE, text=True)
    assert process.stdout is not None
    lines: list[str] = []
    while not lines or lines[-1] != "}\n":
        lines.append(process.stdout.readline())
        if not lines[-1]:
            sys.exit(f"lamina serve {model} did not start")
    try:
        yield process, int(json.loads("".join(lines))["url"].rpartition(":")[2])
    finally:
        process.terminate()
        process.wait(60)


@contextlib.contextmanager
def litserve(model: str, weights: str | None, batch: int) -> Iterator[int]:
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    python = os.environ.get("LAMINA_SERVING", str(HERE.parent / ".serving/bin/python"))
    words = [
        "taskset",
        "-c",
        str(SERVER),
        python,
        str(HERE / "serving_litserve.py"),
        model,
        weights or "",
        str(port),
        str(batch),
    ]
    process = subprocess.Popen(words, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, start_new_session=True)
    try:
        end = time.monotonic() + 120
        while True:  # it listens before its worker is ready, and answers 503
            with contextlib.suppress(OSError), urllib.request.urlopen(f"http://127.0.0.1:{port}/health", timeout=5):
                break
            if time.monotonic() > end or process.poll() is not None:
                sys.exit(f"LitServe does not start: {' '.join(words)}")
            time.sleep(0.5)
        yield port
    finally:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)
        process.wait(60)


def ours(port: int, x: np.ndarray, name: str) -> Load:
    row = {"name": name, "shape": list(x.shape), "datatype": "FP32", "parameters": {"binary_data_size": x.nbytes}}
    head = json.dumps({"inputs": [row], "parameters": {"binary_data_output": True}}).encode()
    return Load(port, "/v2/models/net/infer", head + x.tobytes(), {"Inference-Header-Content-Length": str(len(head))})


def theirs(port: int, x: np.ndarray) -> Load:
    body = json.dumps({"x": base64.b64encode(x.tobytes()).decode()}).encode()
    return Load(port, "/predict", body, {"Content-Type": "application/json"})


def memory(process: subprocess.Popen[str]) -> float:
    """Resident megabytes."""
    text = Path(f"/proc/{process.pid}/status").read_text()
    return int(next(line for line in text.splitlines() if line.startswith("VmRSS")).split()[1]) / 1024


def processor(process: subprocess.Popen[str]) -> float:
    """Seconds of processor time."""
    fields = Path(f"/proc/{process.pid}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


# ---- what is measured ----------------------------------------------------------------------------------------------------


def quantile(values: list[float], share: float) -> float:
    return values[min(len(values) - 1, int(share * len(values)))] if values else float("nan")


async def throughput(load: Load, seconds: float, process: subprocess.Popen[str] | None = None) -> tuple[float, float]:
    """Answers per second, and seconds of the server's processor time per answer."""
    await load.closed(32, seconds / 5)
    load.forget()
    before = processor(process) if process else 0.0
    rate = await load.closed(32, seconds)
    spent = processor(process) - before if process else float("nan")
    return rate, spent / max(1, len(load.latencies()))


async def half(load: Load, times: Times, seconds: float) -> dict[str, list[float]]:
    """The latencies at half of what runs of one image carry, and of what the best batch carries."""
    found: dict[str, list[float]] = {}
    for name, rate in (("of runs of one", 1 / times[1][0]), ("of the best batch", best_rate(times))):
        load.forget()
        await load.open(rate / 2, seconds)
        found[name] = load.latencies()
    return found


async def overload(load: Load, process: subprocess.Popen[str], rate: float, seconds: float, one: float) -> dict[str, Any]:
    load.forget()
    peak, stop = [memory(process)], asyncio.Event()
    before = peak[0]

    async def watch() -> None:
        while not stop.is_set():
            peak.append(memory(process))
            await asyncio.sleep(0.2)

    watching = asyncio.ensure_future(watch())
    skipped = await load.open(10 * rate, seconds)
    over = time.perf_counter()
    stop.set()
    await watching
    found = {"statuses": load.statuses(), "lost": len(load.lost), "not sent": skipped, "memory": (before, max(peak))}
    found |= {"latency": [quantile(load.latencies(), share) for share in (0.5, 0.99, 1)]}
    found["late"] = quantile(sorted(load.late), 0.99)
    found["recovery"] = float("inf")
    while time.perf_counter() - over < 30:  # a lone request as fast as before
        load.forget()
        if await load.one() == 200 and load.answers[0][1] < 1.5 * one + 0.005:
            return found | {"recovery": load.answers[0][0] - over}
    return found


async def disturbed(load: Load, seconds: float) -> dict[str, Any]:
    load.forget()
    tricks, _ = await asyncio.gather(nuisance(load.port, load.request, seconds), load.closed(4, seconds))
    return {"nuisances": dict(tricks), "statuses": load.statuses(), "lost": list(load.lost)}


async def stopped(load: Load, process: subprocess.Popen[str]) -> dict[str, Any]:
    """Sixteen clients, a connection for each request, which ask on until no connection is taken."""
    load.forget()
    load.close()

    async def client() -> None:
        while await load.one(keep=False):
            pass

    clients = [asyncio.ensure_future(client()) for _ in range(16)]
    await asyncio.sleep(2)
    process.terminate()
    begin = time.perf_counter()
    await asyncio.gather(*clients)
    return {"statuses": load.statuses(), "lost": load.lost, "after": time.perf_counter() - begin, "exit": process.wait(60)}


def measure(model: str, weights: str | None, seconds: float, flood: float, peers: bool) -> dict[str, Any]:
    from lamina.infer.session import Session

    session = Session(model, weights, threads=1)
    x = session.network.example[0].numpy()
    name = "x"
    first = loop(model, weights)
    served: dict[str, tuple[float, float]] = {}
    for label, options in (("lamina, --batch 1", ["--batch", "1"]), ("lamina", [])):
        with lamina(model, weights, *options, "--latency", PATIENT) as (process, port):
            served[label] = asyncio.run(throughput(ours(port, x, name), seconds, process))
    with lamina(model, weights) as (process, port):
        rows = asyncio.run(pressed(ours(port, x, name), process, first, served["lamina"][0], seconds, flood))
    second = loop(model, weights)
    if peers:
        for batch in (1, 16):
            with litserve(model, weights, batch) as port:
                served[f"litserve, batches of {batch}"] = asyncio.run(throughput(theirs(port, x), seconds))
                if batch == 16:
                    rows["litserve at half"] = asyncio.run(half(theirs(port, x), first, seconds))
    found = document(model, first, second, served, rows)
    report(found)
    return found


def best_rate(times: Times) -> float:
    return max(batch / clock for batch, (clock, _) in times.items())


async def pressed(
    load: Load, process: subprocess.Popen[str], times: Times, rate: float, seconds: float, flood: float
) -> dict[str, Any]:
    """What a server with the defaults of `lamina serve` does, which answers `rate` requests per second at most."""
    found: dict[str, Any] = {"lamina at half": await half(load, times, seconds)}
    found["flood"] = await overload(load, process, rate, flood, times[1][0])
    found["disturbed"] = await disturbed(load, seconds)
    found["stopped"] = await stopped(load, process)
    return found


def document(
    model: str, first: Times, second: Times, served: dict[str, tuple[float, float]], rows: dict[str, Any]
) -> dict[str, Any]:
    """What was measured, as it is kept: rates per second, times in milliseconds, `share` and `by processor` of the loop's."""
    clock = {batch: (first[batch][0] + second[batch][0]) / 2 for batch in BATCHES}
    cpu = {batch: min(first[batch][1], second[batch][1]) / batch for batch in BATCHES}  # per image
    best = max(BATCHES, key=lambda batch: batch / clock[batch])
    found: dict[str, Any] = {
        "model": model,
        "drift": max(abs(first[batch][0] / second[batch][0] - 1) for batch in BATCHES),
        "loop": {batch: {"rate": batch / clock[batch], "processor": 1000 * cpu[batch]} for batch in BATCHES},
        "best": best,
        "run": 1000 * clock[1],
        "served": {},
        "half": {},
    }
    for name, (rate, spent) in served.items():
        batch = 1 if name.endswith(" 1") else best
        row = {"rate": rate, "share": rate * clock[batch] / batch, "of": batch}
        if spent == spent:
            row |= {"processor": 1000 * spent, "by processor": (cpu[1] if batch == 1 else min(cpu.values())) / spent}
        found["served"][name] = row
    for name in ("lamina", "litserve"):
        for load, values in rows.get(f"{name} at half", {}).items():
            figures = (
                ("median", statistics.median(values)),
                ("mean", statistics.mean(values)),
                ("90 %", quantile(values, 0.9)),
            )
            found["half"][f"{name}, {load}"] = {label: 1000 * value for label, value in figures}
    return found | {name: rows[name] for name in ("flood", "disturbed", "stopped")}


def report(found: dict[str, Any]) -> None:
    loop, flood = found["loop"], found["flood"]
    print(f"{found['model']}, one core, one thread; the loop before and after differs by up to {100 * found['drift']:.0f} %")
    print("  loop, images/s        ", ", ".join(f"{row['rate']:.1f} at {batch}" for batch, row in loop.items()))
    print("  its processor time    ", ", ".join(f"{row['processor']:.2f} ms at {b}" for b, row in loop.items()), "per image")
    for name, row in found["served"].items():
        by_cpu = (
            f"; processor time {row['processor']:.2f} ms per image, {row['by processor']:.2f}" if "processor" in row else ""
        )
        print(f"  {name:22} {row['rate']:8.1f}/s, {row['share']:.2f} of the loop at batch {row['of']}{by_cpu}")
    for name, row in found["half"].items():
        text = ", ".join(f"{label} {value:.1f} ms ({value / found['run']:.2f} runs)" for label, value in row.items())
        print(f"  half load, {name}: {text}; one run {found['run']:.1f} ms")
    middle, late, last = (1000 * value for value in flood["latency"])
    print(
        f"  ten times the load     {flood['statuses']}, lost {flood['lost']}, not sent by the client {flood['not sent']}",
        end="",
    )
    print(f", which was {1000 * flood['late']:.0f} ms late itself (99 %)")
    print(f"                         answered 200: median {middle:.0f} ms, 99 % {late:.0f} ms, longest {last:.0f} ms")
    print(f"                         memory {flood['memory'][0]:.0f} MB before, {flood['memory'][1]:.0f} MB at most", end="")
    print(f"; recovered {flood['recovery']:.2f} s after")
    for name in ("disturbed", "stopped"):
        print(f"  {name:22} {found[name]}")
    sys.stdout.flush()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("models", nargs="*", default=["resnet20_cifar"])
    parser.add_argument("--weights")
    parser.add_argument("--seconds", type=float, default=10)
    parser.add_argument("--overload", type=float, default=60)
    parser.add_argument("--peers", action="store_true")
    parser.add_argument("--record", action="store_true", help="write benchmarks/records/serving.json")
    parser.add_argument("--loop", action="store_true", help=argparse.SUPPRESS)
    given = parser.parse_args()
    if given.loop:
        print_loop(given.models[0], given.weights)
        return
    made = record.provenance()
    os.sched_setaffinity(0, {CLIENT})
    rows = [measure(model, given.weights, given.seconds, given.overload, given.peers) for model in given.models]
    if given.record:
        record.write("serving", made, rows=rows)


if __name__ == "__main__":
    main()
