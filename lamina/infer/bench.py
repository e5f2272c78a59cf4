"""Engines side by side: interleaved, warm, checked against eager torch before they are timed."""

import multiprocessing
import platform
import statistics
import time
from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from lamina.errors import InputError, LaminaError
from lamina.infer import auto, engines, machine
from lamina.infer.engines.program import Program
from lamina.infer.networks import Network, load
from lamina.infer.turns import take_turns
from lamina.tracing.tracer import trace

# So many samples have at least two beyond the percentile with 99 % confidence: 1 - q^n - n (1 - q) q^(n-1) >= 0.99.
P90, P99 = 64, 662
REWRITTEN = " rewritten"  # after "torch": the form that auto tries
NOISY = 0.25  # the quartiles' distance over the median, beyond which the machine was too busy for a verdict


def bench(
    model: str | Path,
    weights: str | Path | None = None,
    *,
    engine: str = "all",
    batch: int = 1,
    threads: int | None = None,
    seconds: float = 3.0,
    rate: float | None = None,
    memory: int | None = None,
    peak_memory: bool = True,
    image: Any = None,
    say: Callable[[str], None] = lambda text: None,
) -> dict[str, Any]:
    """{"model", "machine", "scenario", "engines": [...], "fastest", "noisy"}: what DESIGN's `bench` has for each engine.

    `engine` is one of `engines.ENGINES`, "auto", or "all" of those installed; "torch" is the network as it came, and
    rewritten; the others get it rewritten. With a `rate`, inputs arrive at random so many times per second (Poisson), and
    latencies count from the moment an input was due; else each run follows the one before (single stream with a batch of 1,
    offline with more).
    `seconds` are those that each engine is timed for, `memory` is as for `Session`. Raises `InputError`, `LaminaError`.
    """
    _check(engine, batch, seconds, rate)
    network = load(model, weights, image=image)
    inputs = [torch.cat([x] * batch) if x.dim() and x.shape[0] == 1 else x for x in network.example]
    box = _machine(threads)
    program = Program(network.name, inputs, network.module, network.path, threads, simplify=True, memory=memory)
    names = auto.default(program) if engine in ("all", "auto") else [engine]
    names = [label for name in names for label in ((name, name + REWRITTEN) if name == "torch" else (name,))]
    macs = trace(network.module, *network.example).macs * batch if network.module is not None else None
    started, rows = _start(program, names, say)
    say(f"timing {', '.join(started)}")
    times = _times(started, inputs, seconds, rate)
    for row in rows:
        if row["engine"] in times:
            row |= _figures(times[row["engine"]], batch, macs, box["peak_macs_per_s"])
            row["peak_bytes"] = _peak_bytes(str(model), weights, row["engine"], batch, threads) if peak_memory else None
    best = min((row for row in rows if "median_ms" in row), key=lambda row: row["median_ms"])
    return {
        "model": network.name,
        "weights": network.weights,
        "machine": box,
        "scenario": "server" if rate else "single stream" if batch == 1 else "offline",
        "macs": macs,
        "weight_read_ms": _weight_read(network),
        "engines": [_public(row, batch) for row in rows],
        "fastest": best["engine"],
        "noisy": best["spread"] > NOISY,
    }


def _machine(threads: int | None) -> dict[str, Any]:
    """What the figures were measured on, and what it attains at best."""
    peak, bandwidth, how = machine.measure(seconds=0.5)
    box = {"processor": auto.machine(), "system": platform.platform(), "versions": auto.versions(), "measured": how}
    return box | {
        "threads": threads or torch.get_num_threads(),
        "peak_macs_per_s": round(peak / 2),
        "bytes_per_s": round(bandwidth),
    }


def _check(engine: str, batch: int, seconds: float, rate: float | None) -> None:
    if batch < 1 or seconds <= 0 or (rate is not None and rate <= 0):
        raise InputError("--batch, --seconds and --rate are positive numbers")
    if engine not in ("all", "auto"):
        engines.check(engine)


def _start(
    program: Program, names: Sequence[str], say: Callable[[str], None]
) -> tuple[dict[str, engines.Engine], list[dict[str, Any]]]:
    """The engines that run the network rightly, and a row for each with its cold costs."""
    expected, rows, started = auto.reference(program), [], {}
    for name in names:
        say(f"starting {name}")
        row: dict[str, Any] = {"engine": name}
        rows.append(row)
        try:
            begin = time.perf_counter()
            engine = engines.start(name.removesuffix(REWRITTEN), replace(program, simplify=name != "torch"))
            loaded = time.perf_counter()
            outputs = engine.run(program.example)
            row |= {"load_s": round(loaded - begin, 3), "first_run_ms": round(1e3 * (time.perf_counter() - loaded), 3)}
        except LaminaError as error:
            row["refused"] = str(error)
            continue
        apart = auto.difference(outputs, expected)
        row["max_difference"] = apart
        row["max_abs_difference"] = max((a - b).abs().max().item() for a, b in zip(outputs, expected, strict=True))
        row["top1_agrees"] = all(torch.equal(a.argmax(-1), b.argmax(-1)) for a, b in zip(outputs, expected, strict=True))
        if apart > auto.BOUND:
            row["refused"] = f"its answers differ by {apart:.1e}"
            continue
        started[name] = engine
    if not started:
        raise LaminaError(f"{program.name}: no engine runs it: " + "; ".join(f"{r['engine']}: {r['refused']}" for r in rows))
    return started, rows


def _times(
    started: dict[str, engines.Engine], inputs: Sequence[Tensor], seconds: float, rate: float | None
) -> dict[str, list[float]]:
    """Seconds of each run, by engine: one after another, or as inputs arrive."""
    if rate is not None:
        return _arrivals(started, inputs, seconds, rate)
    return take_turns({name: partial(engine.run, inputs) for name, engine in started.items()}, seconds)


def _arrivals(
    started: dict[str, engines.Engine], inputs: Sequence[Tensor], seconds: float, rate: float
) -> dict[str, list[float]]:
    """Seconds from the moment that each input is due to its answer: one server, a queue without bound, the same arrivals
    for every engine."""
    gaps = torch.empty(max(3, int(rate * seconds))).exponential_(rate, generator=torch.Generator().manual_seed(0))
    due = gaps.double().cumsum(0).tolist()
    times: dict[str, list[float]] = {}
    for name, engine in started.items():
        engine.run(inputs)
        begin, times[name] = time.perf_counter(), []
        for moment in due:
            time.sleep(max(0.0, begin + moment - time.perf_counter()))
            engine.run(inputs)
            times[name].append(time.perf_counter() - begin - moment)
    return times


def _figures(times: list[float], batch: int, macs: int | None, peak: float) -> dict[str, Any]:
    """Milliseconds; a percentile only where the sample allows it."""
    ordered = sorted(times)
    median = statistics.median(ordered)
    quartiles = statistics.quantiles(ordered, n=4)
    found: dict[str, Any] = {"samples": len(ordered), "median_ms": 1e3 * median, "throughput": batch / median}
    found["p90_ms"] = 1e3 * ordered[int(0.9 * len(ordered))] if len(ordered) >= P90 else None
    found["p99_ms"] = 1e3 * ordered[int(0.99 * len(ordered))] if len(ordered) >= P99 else None
    found["spread"] = (quartiles[2] - quartiles[0]) / median
    if macs is not None:
        found |= {"macs_per_s": macs / median, "share_of_peak": macs / median / peak}
    return found


def _public(row: dict[str, Any], batch: int) -> dict[str, Any]:
    digits = {"macs_per_s": 0, "throughput": 3, "median_ms": 4, "p90_ms": 4, "p99_ms": 4, "spread": 3, "share_of_peak": 4}
    return {"engine": row["engine"], "batch": batch} | {
        key: round(value, digits[key]) if key in digits and value is not None else value
        for key, value in row.items()
        if key != "engine"
    }


def _weight_read(network: Network) -> float | None:
    """Milliseconds that reading the fully connected layers' weights once takes: at a batch of 1 no engine is faster."""
    if network.module is None:
        return None
    count = sum(layer.weight.nbytes for layer in network.module.modules() if isinstance(layer, torch.nn.Linear))
    return round(1e3 * machine.reading_seconds(count), 4) if count else 0.0


# ---- memory --------------------------------------------------------------------------------------------------------


def _peak_bytes(model: str, weights: str | Path | None, engine: str, batch: int, threads: int | None) -> int | None:
    """The most memory that a process of its own held while it loaded and ran the network, beyond what it held before."""
    context = multiprocessing.get_context("spawn")
    mine, theirs = context.Pipe(duplex=False)
    process = context.Process(target=_hold, args=(theirs, model, weights, engine, batch, threads), daemon=True)
    try:
        process.start()
        theirs.close()
        return mine.recv() if mine.poll(300) else None
    except (OSError, EOFError, RuntimeError):
        return None
    finally:
        if process.pid is not None:
            process.join(1)
            process.kill()


def _hold(pipe: Any, model: str, weights: str | Path | None, engine: str, batch: int, threads: int | None) -> None:
    from lamina.infer.session import Session

    before = _resident()
    name, rewrite = engine.removesuffix(REWRITTEN), engine != "torch"
    session = Session(model, weights, engine=name, batch=batch, threads=threads, rewrite=rewrite)
    session.run(*[torch.cat([x] * batch) for x in session.network.example])
    pipe.send(max(0, _high_water() - before))


def _resident() -> int:
    try:
        return int(Path("/proc/self/statm").read_text().split()[1]) * 4096
    except (OSError, ValueError):
        return 0


def _high_water() -> int:
    """The process's largest resident size so far, in bytes."""
    import resource

    size = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return size if platform.system() == "Darwin" else 1024 * size
