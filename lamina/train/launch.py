"""From a recipe's name to a finished run, in this process or in several that `torch.distributed.run` starts."""

import contextlib
import logging
import os
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import msgspec
import torch
from torch import nn

from lamina import files
from lamina.data import registry
from lamina.data.files import recorded
from lamina.errors import InputError, LaminaError, first_line, reason
from lamina.train import provenance
from lamina.train.images import ImageFiles, Images
from lamina.train.loop import CHECKPOINTS, CONFIG, Run
from lamina.train.recipe import Recipe, difference, dump, read
from lamina.train.tasks import Task, check
from lamina.train.translation import Translation
from lamina.train.world import World

try:
    import fcntl
except ImportError:  # Windows: nothing keeps a second run out of the folder there
    fcntl = None

LOCK = "lock"
ADAPTABLE = ("num_classes", "in_channels", "img_size", "dropout")  # changes that leave the rest of the weights valid


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
        if self.nodes == 1 and self.rendezvous is not None:
            raise InputError("--rendezvous is where several machines meet: give --nodes 2 or more")
        if self.shard and not self.several:
            raise InputError("--shard spreads a network over processes: give --nproc 2 or more")
        available = {"cpu": True, "cuda": torch.cuda.is_available(), "mps": torch.backends.mps.is_available()}
        if self.device not in available:
            raise InputError(f"--device is cpu, cuda or mps, not {self.device}")
        if not available[self.device]:
            raise InputError(f"--device {self.device}: this machine, or this torch, has none")
        if self.device == "mps" and self.several:
            raise InputError("--device mps works in one process")
        if self.device == "cuda" and self.nproc > torch.cuda.device_count():
            raise InputError(f"--nproc {self.nproc}: each process takes a GPU, and there are {torch.cuda.device_count()}")

    @property
    def several(self) -> bool:
        return self.nproc * self.nodes > 1


def is_worker() -> bool:
    """Whether `spawn` has started this process."""
    return "TORCHELASTIC_RUN_ID" in os.environ


def train(
    recipe: Recipe,
    out: Path,
    data: Path | None = None,
    processes: Processes | None = None,
    resume: bool = False,
    log: Callable[[dict[str, Any]], None] = lambda row: None,
) -> dict[str, Any] | None:
    """Run a recipe in the folder `out` and return its last metrics, or None in a process that is not the first.

    With `resume`, the run that `out` holds goes on from its newest complete checkpoint; without, `out` must hold none.
    """
    processes = processes or Processes()
    if processes.threads:
        torch.set_num_threads(processes.threads)
    with World.joined(processes.device, processes.several) as world, contextlib.ExitStack() as stack:
        with world.together():
            if world.rank == 0:
                stack.enter_context(held(out, resume))
                prepare(recipe, out, resume)
        with world.together():
            torch.manual_seed(recipe.seed)
            with recorded() as contents:
                samples = task(recipe, data)
            check_encoding(recipe, samples)
            module = network(recipe)
            check(module, samples, recipe)
            if world.rank == 0:
                provenance.start(out, recipe, contents, begun=resume and (out / CHECKPOINTS).is_dir())
        run = Run(recipe, module, samples, out, world, processes.shard)
        if resume and not run.resume() and world.rank == 0 and (out / CHECKPOINTS).is_dir():
            print(f"lamina: {out} has no complete checkpoint: starting from the beginning", file=sys.stderr)
        row = run.train(log)
        return row if world.rank == 0 else None


@contextlib.contextmanager
def held(out: Path, resume: bool) -> Iterator[None]:
    """Keep other runs out of the folder. The system lets go of it when the process ends, however it does."""
    try:
        if not resume:
            out.mkdir(parents=True, exist_ok=True)
        elif not (out / CONFIG).is_file():
            raise InputError(f"{out} holds no run to go on with")
        file = (out / LOCK).open("ab")
    except OSError as error:
        raise LaminaError(f"{out} cannot be written: {reason(error)}") from error
    with file:
        try:
            if fcntl is not None:
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise LaminaError(f"a run is going on in {out}: wait for it, or give another --out") from None
        except OSError:  # a file system without locks
            pass
        yield


def prepare(recipe: Recipe, out: Path, resume: bool) -> None:
    """Write the resolved recipe into the run's folder. A folder that holds a run is refused without `resume`."""
    config = out / CONFIG
    if resume:
        if found := difference(read(config), recipe):
            raise InputError(
                f"{out} holds a run of another recipe ({found}): give what it was started with, or {config} as the recipe"
            )
        return
    if config.exists():
        raise InputError(f"{out} holds a run: --resume goes on with it, --out FOLDER starts another")
    files.write(config, dump(recipe))


def task(recipe: Recipe, data: Path | None = None) -> Task:
    """The recipe's data: a data set by name, a folder of images, or a parallel corpus."""
    known = registry.names("images")
    if recipe.text is not None:
        return Translation(recipe, data)
    if recipe.data in known:
        if data is not None:
            raise InputError(f"{recipe.data} is looked for in $LAMINA_DATA; --data is for image_folder and for corpora")
        return Images(recipe)
    if recipe.data == "image_folder":
        if data is None:
            raise InputError(f"{recipe.network}: say where the images are, as in --data FOLDER (one folder per class)")
        return ImageFiles(recipe, data)
    raise InputError(
        f"recipe: data is one of {', '.join(known)}, image_folder or, with a [text] table, a corpus; not {recipe.data!r}"
    )


def network(recipe: Recipe) -> nn.Module:
    """The recipe's network with its changes, initialised by torch's global generator, or with the weights that it starts
    from; what is not these weights' own (a head for other classes) is initialised, and logged as a warning."""
    from lamina.zoo.registry import build

    # A list of a TOML file stands for a tuple.
    changes: dict[str, Any] = {k: tuple(v) if isinstance(v, list) else v for k, v in recipe.changes.items()}
    try:
        if recipe.start is not None:
            from lamina.weights import loading

            return loading.load(recipe.network, _start(recipe.start)[1], **changes).train()
        return build(recipe.network, **changes)
    except (TypeError, ArithmeticError) as error:  # a string for a number, a width of 0
        raise InputError(f"recipe: {recipe.network} cannot be built with its changes ({first_line(error)})") from error


def starting(recipe: Recipe, model: str) -> Recipe:
    """The recipe with the network and the weights of `model`: the folder of a run or of a grown network, a file that names its
    network, or a zoo name. Of the recipe's own changes its classes, channels, image size and dropout
    stay: the rest is the weights' network's."""
    name, file = _start(model)
    kept = {k: v for k, v in recipe.changes.items() if k in ADAPTABLE}
    both = {**file.changes, **kept}
    changes = {k: list(v) if isinstance(v, tuple) else v for k, v in both.items() if v is not None}  # as TOML says it
    return msgspec.structs.replace(recipe, network=name, changes=changes, start=model)


def _start(model: str) -> tuple[str, Any]:
    """The zoo's name and the weight file of what a run starts from."""
    from lamina.weights import finding, trained

    name, place = trained.network(model)
    return name, finding.find(name, place)


def check_encoding(recipe: Recipe, samples: Task) -> None:
    """Refuse weights that know the tokens of another encoding."""
    if recipe.start is None or recipe.text is None:
        return
    from lamina.weights.reading import read_metadata

    there = read_metadata(_start(recipe.start)[1].path).get("tokenizer")
    if there != getattr(samples, "metadata", {}).get("tokenizer"):
        raise InputError(f"{recipe.start} was trained with another encoding than this corpus gives: its embeddings do not fit")


def spawn(arguments: list[str], processes: Processes) -> None:
    """Call `lamina ARGUMENTS` in several processes and wait for them. Where one fails with a message of its own, this process
    exits with the same code and no further word."""
    from torch.distributed.elastic.multiprocessing.api import SignalException
    from torch.distributed.elastic.multiprocessing.errors import ChildFailedError
    from torch.distributed.run import parse_args, run

    launcher = [f"--nproc-per-node={processes.nproc}"]
    if processes.nodes > 1:
        launcher += [f"--nnodes={processes.nodes}", "--rdzv-backend=c10d", f"--rdzv-endpoint={processes.rendezvous}"]
    else:
        launcher += ["--standalone"]
    os.environ.setdefault("OMP_NUM_THREADS", str(processes.threads or 1))  # all of a machine's processes share its cores
    logging.disable(logging.ERROR)  # it would tell of each process's end; the loggers' own levels are set one by one
    options = parse_args([*launcher, "-m", "lamina"])
    options.training_script_args = arguments  # not parsed: it would take our --nproc for one of its own
    try:
        run(options)
    except SignalException:  # it has been handed on: they have saved, and said so
        raise SystemExit(130) from None
    except ChildFailedError as error:
        rank, failure = error.get_first_failure()
        if failure.exitcode > 0:
            raise SystemExit(failure.exitcode) from None
        raise LaminaError(f"process {rank} of the run was killed by signal {-failure.exitcode}: go on with --resume") from None
    finally:
        logging.disable(logging.NOTSET)
