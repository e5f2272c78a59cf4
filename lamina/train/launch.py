"""From a recipe's name to a finished run, in this process or in several that `torch.distributed.run` starts."""

import os
import subprocess
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from lamina.errors import InputError, LaminaError
from lamina.train import checkpoint
from lamina.train.loop import CHECKPOINTS, CONFIG, Interrupted, Run, World
from lamina.train.recipe import Recipe, dump, read
from lamina.train.tasks import task


@dataclass(frozen=True)
class Processes:
    """`nproc` processes on each of `nodes` machines; each machine calls the same command and meets at `rendezvous`."""

    nproc: int = 1
    nodes: int = 1
    rendezvous: str | None = None
    shard: bool = False
    threads: int | None = None
    device: str = "cpu"

    def __post_init__(self) -> None:
        if self.nodes > 1 and self.rendezvous is None:
            raise InputError("--nodes: say where the machines meet, as in --rendezvous HOST:PORT")
        if self.shard and not self.several:
            raise InputError("--shard spreads a network over processes: give --nproc 2 or more")
        available = {"cpu": True, "cuda": torch.cuda.is_available(), "mps": torch.backends.mps.is_available()}
        if self.device not in available:
            raise InputError(f"--device is cpu, cuda or mps, not {self.device}")
        if not available[self.device]:
            raise InputError(f"--device {self.device}: this machine, or this torch, has none")

    @property
    def several(self) -> bool:
        return self.nproc * self.nodes > 1


def prepare(recipe: Recipe, out: Path, resume: bool) -> None:
    """Make the run's folder and write the resolved recipe into it. A folder that holds a run is refused without `resume`."""
    config = out / CONFIG
    if resume:
        if not config.is_file():
            raise InputError(f"{out} holds no run to go on with")
        if read(config) != recipe:
            raise InputError(f"{config} is another recipe than this one: --resume takes none of its own, or give another --out")
        return
    if config.exists():
        raise InputError(f"{out} holds a run: --resume goes on with it, --out FOLDER starts another")
    try:
        out.mkdir(parents=True, exist_ok=True)
        checkpoint.replace(config, dump(recipe).encode())
    except OSError as error:
        raise LaminaError(f"{config} cannot be written ({error.strerror or error})") from error


def train(
    recipe: Recipe,
    out: Path,
    data: Path | None = None,
    processes: Processes | None = None,
    resume: bool = False,
    log: Callable[[dict[str, Any]], None] = lambda row: None,
) -> dict[str, Any] | None:
    """Run a prepared recipe in `out` and return its last metrics, or None in a process that is not the first."""
    from lamina.zoo.registry import build

    processes = processes or Processes()
    if processes.several and "WORLD_SIZE" not in os.environ:
        raise InputError("several processes are started by `spawn`")
    if processes.threads:
        torch.set_num_threads(processes.threads)
    with World.joined(processes.device) as world:
        torch.manual_seed(recipe.seed)
        samples = task(recipe, data)
        module = build(recipe.network, **recipe.changes)
        run = Run(recipe, module, samples, out, world, processes.shard)
        if resume and not run.resume() and world.rank == 0 and (out / CHECKPOINTS).is_dir():
            print(f"lamina: {out} has no complete checkpoint: starting anew", file=sys.stderr)
        row = run.train(log)
        return row if world.rank == 0 else None


def spawn(arguments: list[str], processes: Processes) -> None:
    """Call `lamina ARGUMENTS` in several processes and wait for them."""
    launcher = [sys.executable, "-m", "torch.distributed.run", f"--nproc-per-node={processes.nproc}"]
    if processes.nodes > 1:
        launcher += [f"--nnodes={processes.nodes}", "--rdzv-backend=c10d", f"--rdzv-endpoint={processes.rendezvous}"]
    else:
        launcher += ["--standalone"]
    environment = os.environ | {"OMP_NUM_THREADS": os.environ.get("OMP_NUM_THREADS", str(processes.threads or 1))}
    child = subprocess.Popen([*launcher, "-m", "lamina", *arguments], env=environment)
    try:
        code = child.wait()
    except KeyboardInterrupt:  # the processes have had it too: they save and stop
        child.wait()
        raise Interrupted("stopped; what is saved is in the run's folder: go on with --resume") from None
    if code:
        raise LaminaError(f"a process of the run failed (exit code {code}); its own message stands above")
