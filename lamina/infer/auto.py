"""Which engine is the fastest honest one for a network on this machine: measured, checked, remembered."""

import hashlib
import json
import platform
import statistics
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import partial
from importlib import metadata
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from lamina import files
from lamina.errors import InputError, LaminaError
from lamina.infer import engines
from lamina.infer.engines.program import Program, tensors
from lamina.infer.turns import take_turns

BOUND = 1e-4  # how far answers may lie from eager torch's in fp32: the largest difference over the largest value
SECONDS = 2.0  # that each engine is measured for; one half as fast as the best leaves after its first turns
MOST = 50  # turns: as many tell enough
LIBRARIES = ("torch", "onnxruntime", "openvino")


@dataclass(frozen=True)
class Trial:
    """One engine on one network: seconds to start, median seconds of a run, the largest difference from eager fp32 over its
    largest value; or why it cannot be taken."""

    engine: str
    start_s: float = 0.0
    median_s: float = 0.0
    difference: float = 0.0
    refused: str = ""


def choose(
    program: Program, candidates: Sequence[str] | None = None, say: Callable[[str], None] = lambda text: None
) -> tuple[engines.Engine, list[Trial]]:
    """The fastest engine whose answers on the program's example lie within `BOUND` of the unmodified network's in eager
    torch, and the trials of all. An engine's turns alternate with the others'.

    Raises `LaminaError` where no engine is left.
    """
    expected = reference(program)
    started: dict[str, engines.Engine] = {}
    trials: dict[str, Trial] = {}
    for name in candidates or default(program):
        say(f"starting {name}")
        begin = time.perf_counter()
        try:
            engine = engines.start(name, program)
            seconds = time.perf_counter() - begin
            apart = difference(engine.run(program.example), expected)
        except (LaminaError, RuntimeError) as error:
            trials[name] = Trial(name, refused=str(error))
            continue
        if apart > BOUND:
            trials[name] = Trial(name, seconds, difference=apart, refused=f"its answers differ by {apart:.1e}")
            continue
        started[name], trials[name] = engine, Trial(name, seconds, 0.0, apart)
    if not started:
        raise LaminaError(
            f"{program.name}: no engine runs it: " + "; ".join(f"{t.engine}: {t.refused}" for t in trials.values())
        )
    say("measuring " + ", ".join(started))
    runs = {name: partial(engine.run, program.example) for name, engine in started.items()}
    for name, times in take_turns(runs, SECONDS, most=MOST, leave=2.0).items():
        trial = trials[name]
        trials[name] = Trial(name, trial.start_s, statistics.median(times), trial.difference)
    fastest = min(started, key=lambda name: trials[name].median_s)
    return started[fastest], list(trials.values())


def default(program: Program) -> list[str]:
    """What is tried unasked: every engine that is installed, but for `compile`, which takes up to minutes to start."""
    names = [name for name in engines.installed() if name != "compile"]
    return [name for name in names if program.module is not None or name != "torch"]


@torch.inference_mode()
def reference(program: Program) -> list[Tensor]:
    """The answers to hold others to: of the unmodified network in eager torch, or of ONNX Runtime for an ONNX file."""
    if program.module is None:
        return engines.start("onnxruntime", program).run(program.example)
    return tensors(program.module(*program.example))


def difference(outputs: Sequence[Tensor], expected: Sequence[Tensor]) -> float:
    """The largest difference over the largest expected value; of several outputs the worst. Infinite for what is not finite
    or of another shape."""
    worst = 0.0 if len(outputs) == len(expected) else float("inf")
    for ours, theirs in zip(outputs, expected, strict=False):
        if ours.shape != theirs.shape or not ours.isfinite().all():
            return float("inf")
        largest = theirs.abs().max().item() or 1.0
        worst = max(worst, (ours.double() - theirs.double()).abs().max().item() / largest)
    return worst


# ---- remembered ----------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Choice:
    """The engine that was fastest, and of torch's form the layers that take Winograd's algorithm."""

    engine: str
    winograd: tuple[str, ...] = ()


def remembered(program: Program) -> Choice | None:
    """What was fastest for this network, these sizes, this machine and these versions; None if nothing was measured."""
    try:
        found = json.loads((_folder() / f"{key(program)}.json").read_text())
        choice = Choice(found["engine"], tuple(map(str, found["winograd"])))
    except (OSError, ValueError, KeyError, TypeError):
        return None
    return choice if choice.engine in engines.installed() else None


def remember(program: Program, trials: Sequence[Trial]) -> None:
    """Keep the choice; a cache that cannot be written keeps nothing."""
    best = _fastest(trials)
    winograd = program.rewritten.winograd if best.engine == "torch" and program.simplify else ()
    record: dict[str, Any] = {"engine": best.engine, "winograd": winograd, "network": program.name}
    record["trials"] = [vars(t) for t in trials]
    try:
        _folder().mkdir(parents=True, exist_ok=True)
        files.write(_folder() / f"{key(program)}.json", json.dumps(record, indent=1))
    except (OSError, LaminaError):
        pass


def _fastest(trials: Sequence[Trial]) -> Trial:
    return min((t for t in trials if not t.refused), key=lambda t: t.median_s)


def key(program: Program) -> str:
    """Network, weights' shapes, inputs, options, machine and versions, as one name."""
    if program.module is not None:
        network: Any = [(name, tuple(p.shape), str(p.dtype)) for name, p in program.module.state_dict().items()]
        network = [type(program.module).__qualname__, network, _structure(program.module)]
    else:
        network = hashlib.sha256(Path(str(program.path)).read_bytes()).hexdigest()
    inputs = [(tuple(x.shape), str(x.dtype)) for x in program.example]
    options = [program.threads or torch.get_num_threads(), program.simplify, program.memory]
    text = json.dumps([program.name, network, inputs, options, machine(), versions()], default=str)
    return hashlib.sha256(text.encode()).hexdigest()[:24]


def _structure(module: nn.Module) -> str:
    return hashlib.sha256(str(module).encode()).hexdigest()


def machine() -> str:
    """The processor's name, as the system gives it."""
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
        return next(line.split(":", 1)[1].strip() for line in lines if line.startswith("model name"))
    except (OSError, StopIteration):
        return platform.processor() or platform.machine()


def versions() -> dict[str, str]:
    """Of Lamina and the engines' libraries."""
    found = {}
    for library in ("lamina", *LIBRARIES):
        try:
            found[library] = metadata.version(library)
        except metadata.PackageNotFoundError:
            continue
    return found


def _folder() -> Path:
    return files.cache_dir() / "engines"


def start(program: Program, engine: str, say: Callable[[str], None] = lambda text: None) -> tuple[str, engines.Engine]:
    """The engine asked for, by its name; for "auto" the remembered one, or the winner of a measurement."""
    if engine != "auto":
        return engine, engines.start(engine, program)
    choice = remembered(program)
    if choice is not None:
        try:
            return choice.engine, engines.start(choice.engine, replace(program, winograd=choice.winograd))
        except InputError:
            raise
        except LaminaError:
            pass  # what ran once does not now: measure again
    found, trials = choose(program, say=say)
    remember(program, trials)
    return _fastest(trials).engine, found
