"""What the tests of training share: made data sets in their real formats, tiny recipes, and processes that start quickly.

Processes are forked from a server that has imported torch and has never computed: a fork of the tests' own process may not
run torch's autograd.
"""

import errno
import gzip
import json
import multiprocessing
import os
import shlex
import socket
import struct
import sys
from pathlib import Path
from typing import Any

import torch
import torch._dynamo  # optimizers import it when they are made: once here, not in every process
from safetensors.torch import load_file

from lamina import cli, files
from lamina.train import launch, translation  # noqa: F401
from lamina.train.loop import Interrupted, Run
from lamina.train.recipe import read
from lamina.zoo import transformer, vit  # noqa: F401

BLOCK = 4096  # bytes that a disk gives to files
CONTEXT = multiprocessing.get_context("forkserver")
CONTEXT.set_forkserver_preload(["tests.training"])

# A network without batch norm and, by default, without dropout: four patches, one block.
TINY = """
network = "vit_mnist"
data = "mnist"
epochs = 2
batch = 16
seed = 7
image = {size = 28, resize = 28, squash = true, channels = "L", mean = [0.1307], std = [0.3081]}
changes = {patch = 14, depth = 1, width = 16, mlp = 16, n_heads = 2}
augmentation = {crop = 2}
schedule = {name = "cosine", warmup = 2}
optimizer = {name = "adamw", lr = 1e-2}
"""

TINY_TEXT = """
network = "transformer_de_en"
data = "parallel_text"
epochs = 2
batch = 120
seed = 7
optimizer = {name = "adamw", lr = 3e-3}
text = {source = "de", target = "en", vocabulary = 300}
changes = {encoder_layers = 1, decoder_layers = 1, d_model = 16, d_ff = 16, n_heads = 2, dropout = 0.0, vocabulary = 300}
"""


def write_mnist(root: Path, train: int = 50, test: int = 30) -> None:
    """MNIST's files with `train` and `test` made digits: bars whose place tells the class, and noise."""
    (root / "mnist").mkdir(parents=True)
    random = torch.Generator().manual_seed(1)
    for prefix, count in (("train", train), ("t10k", test)):
        labels = torch.arange(count) % 10
        pixels = torch.randint(0, 60, (count, 28, 28), generator=random, dtype=torch.uint8)
        for picture, label in zip(pixels, labels.tolist(), strict=True):
            picture[4 + 2 * label : 6 + 2 * label, 4:24] = 255
        for kind, values in (("images-idx3", pixels), ("labels-idx1", labels.to(torch.uint8))):
            head = struct.pack(f">HBB{values.dim()}I", 0, 8, values.dim(), *values.shape)
            (root / "mnist" / f"{prefix}-{kind}-ubyte").write_bytes(head + values.numpy().tobytes())


def write_cifar10(root: Path, train: int = 50, test: int = 10) -> None:
    """CIFAR-10's files with made pictures, `train` of them in five batches."""
    (root / "cifar10").mkdir(parents=True)
    random = torch.Generator().manual_seed(2)
    files = {f"data_batch_{i}": train // 5 for i in range(1, 6)} | {"test_batch": test}
    for name, count in files.items():
        records = torch.randint(0, 256, (count, 3073), generator=random, dtype=torch.uint8)
        records[:, 0] = torch.arange(count) % 10
        (root / "cifar10" / f"{name}.bin").write_bytes(records.numpy().tobytes())


def sentences(count: int) -> list[tuple[str, str]]:
    """Pairs in a made German and English, of three to six words."""
    subjects = [("Ich", "I"), ("Du", "You"), ("Anna", "Anna"), ("Wir", "We"), ("Der Hund", "The dog")]
    verbs = [("sehe", "see"), ("mag", "like"), ("habe", "have"), ("suche", "seek")]
    objects = [("das Haus", "the house"), ("Brot", "bread"), ("den Zug", "the train"), ("keine Zeit", "no time")]
    ends = [("", ""), (" heute", " today"), (" nicht", " not"), (" sehr oft", " very often")]
    found = []
    for number in range(count):
        s, v, o, e = (part[(number // 4**i) % len(part)] for i, part in enumerate((subjects, verbs, objects, ends)))
        extra = f" {number}" if number >= 320 else ""
        found.append((f"{s[0]} {v[0]} {o[0]}{e[0]}{extra}.", f"{s[1]} {v[1]} {o[1]}{e[1]}{extra}."))
    return list(dict.fromkeys(found))


def write_corpus(root: Path, train: int = 60, test: int = 8) -> Path:
    """A folder with train.de, train.en.gz, test.de and test.en."""
    root.mkdir(parents=True, exist_ok=True)
    pairs = sentences(train + test)
    parts = {"train": pairs[:-test], "test": pairs[-test:]} if test else {"train": pairs}
    for part, rows in parts.items():
        (root / f"{part}.de").write_text("".join(f"{de}\n" for de, _ in rows), encoding="utf-8")
        content = "".join(f"{en}\n" for _, en in rows).encode()
        if part == "train":
            (root / "train.en.gz").write_bytes(gzip.compress(content))
        else:
            (root / "test.en").write_bytes(content)
    return root


def weights(out: Path) -> dict[str, torch.Tensor]:
    return load_file(out / "weights.safetensors")


def same(a: Path, b: Path) -> bool:
    """Whether two runs ended with the same weights, to the bit, and told the same of it but for the time it took."""
    one, two = weights(a), weights(b)
    equal = one.keys() == two.keys() and all(torch.equal(one[k], two[k]) for k in one)
    return equal and metrics(a) == metrics(b)


def metrics(out: Path) -> list[dict[str, Any]]:
    rows = [json.loads(line) for line in (out / "metrics.jsonl").read_text().splitlines()]
    return [{k: v for k, v in row.items() if k not in ("seconds", "per_second")} for row in rows]


# ---- in processes of their own ----------------------------------------------------------------------------------------


def interrupt(step: int, number: int, rank: int = 0) -> None:
    """Let the process `rank` of the run send itself the signal `number` in the midst of step `step`."""
    inner = Run._step

    def interrupted(self: Run, index: torch.Tensor, epoch: int) -> list[float]:
        if self.step == step and self.world.rank == rank:
            os.kill(os.getpid(), number)
        return inner(self, index, epoch)

    Run._step = interrupted


def train(recipe: Path, out: Path, environment: dict[str, str], settings: tuple[str, ...] = (), **options: Any) -> None:
    """`launch.train` with one thread. `stop` are `interrupt`'s arguments; a run that is stopped exits with 130."""
    os.environ.update(environment)
    torch.set_num_threads(1)
    data, resume = options.pop("data", None), options.pop("resume", False)
    if "stop" in options:
        interrupt(*options.pop("stop"))
    try:
        launch.train(read(recipe, settings), out, data, launch.Processes(threads=1, **options), resume)
    except Interrupted:
        sys.exit(130)


def confine(folder: Path, room: int) -> None:
    """Let `folder` lie on a disk of so many bytes, in this process: what does not fit is written as far as it does."""
    inner = files.put

    def put(path: Path, content: bytes) -> None:
        blocks = sum(-(-file.stat().st_size // BLOCK) * BLOCK for file in folder.rglob("*") if file.is_file() and file != path)
        if path.is_relative_to(folder) and blocks + len(content) > room:
            inner(path, content[: max(0, room - blocks)])
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        inner(path, content)

    files.put = put


def command(
    line: str, environment: dict[str, str], log: Path, stop: tuple[int, int] | None = None, disk: tuple[Path, int] | None = None
) -> None:
    """The command line `lamina LINE`, in a process of its own, which writes to LOG.out and LOG.err. `stop` are `interrupt`'s
    arguments, `disk` are `confine`'s."""
    os.environ.update(environment)
    torch.set_num_threads(1)
    if stop is not None:
        interrupt(*stop)
    if disk is not None:
        confine(*disk)
    sys.argv = ["lamina", *shlex.split(line)]
    for number, suffix in ((1, ".out"), (2, ".err")):
        handle = os.open(log.with_suffix(suffix), os.O_WRONLY | os.O_CREAT | os.O_TRUNC)
        os.dup2(handle, number)
    cli.main()


def start(function: Any, *args: Any, **kwargs: Any) -> Any:
    process = CONTEXT.Process(target=function, args=args, kwargs=kwargs)
    process.start()
    return process


def call(function: Any, *args: Any, **kwargs: Any) -> int:
    """Run it in a process of its own; the exit code, or minus the number of the signal that ended it."""
    process = start(function, *args, **kwargs)
    process.join()
    return process.exitcode


def together(ranks: int, recipe: Path, out: Path, environment: dict[str, str], *args: Any, **kwargs: Any) -> list[int]:
    """`train` in so many processes; their exit codes."""
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        port = str(listener.getsockname()[1])
    place = {"WORLD_SIZE": str(ranks), "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": port}
    processes = [
        start(train, recipe, out, environment | place | {"RANK": str(r), "LOCAL_RANK": str(r)}, *args, nproc=ranks, **kwargs)
        for r in range(ranks)
    ]
    for process in processes:
        process.join()
    return [process.exitcode for process in processes]
