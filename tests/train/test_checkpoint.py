"""Checkpoints are complete or absent: every change on the disk made to fail, and to be the last, in turn."""

import errno
import json
import os
import shutil
import signal
from pathlib import Path

import pytest
import torch

from lamina import files
from lamina.errors import LaminaError
from lamina.train import checkpoint
from tests import training

# Three steps with a checkpoint after each, one of which is kept: 50 changes on the disk, removals among them.
RECIPE = training.TINY.replace("epochs = 2", "epochs = 1\nsamples = 30\nbatch = 10\nsave_steps = 1\nkeep = 1\nema = 0.9")
RECIPE = RECIPE.replace("\nbatch = 16", "").replace("n_heads = 2", "n_heads = 2, dropout = 0.2")
CHANGES = ("put", "sync", "rename", "remove")


class Disk:
    """Counts the changes on the disk; the one numbered `last` fails, or is the last thing that the process does."""

    def __init__(self, last: int | None, kill: bool):
        self.last, self.kill, self.count = last, kill, 0
        for name in CHANGES:
            setattr(files, name, self.wrapped(name, getattr(files, name)))

    def wrapped(self, name, inner):
        def change(*args):
            self.count += 1
            if self.count == self.last and not self.kill:
                raise OSError(errno.EIO, "Input/output error")
            if self.count == self.last:
                if name == "put":
                    args[0].write_bytes(args[1][: len(args[1]) // 2])
                if name == "remove" and args[0].is_dir():
                    next(iter(args[0].iterdir())).unlink()
                os.kill(os.getpid(), signal.SIGKILL)
            return inner(*args)

        return change


def forked(function) -> int:
    """The exit code of `function` in a fork, or minus the signal that ended it."""
    child = os.fork()
    if not child:
        code = 70
        try:
            function()
            code = 0
        except LaminaError:
            code = 1
        finally:
            os._exit(code)
    return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])


def torment(recipe: Path, root: Path, environment: dict[str, str], kill: bool) -> None:
    """Disturb the run at each of its changes on the disk in turn, and go on; the findings are written to found.json."""

    def run(out: Path, resume: bool, last: int | None, settings: tuple[str, ...] = ()) -> None:
        disk = Disk(last, kill)
        training.train(recipe, out, environment, settings, resume=resume)
        (root / "count").write_text(str(disk.count))

    assert forked(lambda: run(root / "every", False, None, ("keep=99",))) == 0
    assert forked(lambda: run(root / "calm", False, None)) == 0
    every = {c.step: c.read("state.safetensors") for c in checkpoint.complete(root / "every" / "checkpoints")}
    found = []
    for number in range(1, int((root / "count").read_text()) + 1):
        out = root / f"at-{number}"
        ended = forked(lambda out=out, number=number: run(out, False, number))
        last = checkpoint.newest(out / "checkpoints")
        honest = last is None or last.read("state.safetensors") == every[last.step]
        resumable = (out / "config.toml").exists()
        again = forked(lambda out=out, resumable=resumable: run(out, resumable, None))
        left = sorted(p.name for p in (out / "checkpoints").iterdir())
        found.append([number, ended, honest, again, left, training.same(out, root / "calm")])
        shutil.rmtree(out)
    (root / "found.json").write_text(json.dumps(found))


@pytest.mark.parametrize("kill", [False, True], ids=["fails", "dies"])
def test_every_change_on_the_disk_in_turn(kill, tmp_path):
    training.write_mnist(tmp_path / "data")
    recipe = tmp_path / "tiny.toml"
    recipe.write_text(RECIPE)
    environment = {"LAMINA_DATA": str(tmp_path / "data")}
    assert training.call(torment, recipe, tmp_path, environment, kill) == 0
    found = json.loads((tmp_path / "found.json").read_text())
    assert len(found) >= 45
    for number, ended, honest, again, left, same in found:
        assert ended == (-signal.SIGKILL if kill else 1), number
        assert honest, f"change {number}: the checkpoint that is left is not the run's"
        assert again == 0, number
        assert left == ["step-00000003"], number
        assert same, f"change {number}: other weights"


def test_a_full_disk(tmp_path):
    """The run stops with one line, the checkpoint before loads, and with room the run ends as if it had always had it."""
    training.write_mnist(tmp_path / "data")
    recipe = tmp_path / "tiny.toml"
    recipe.write_text(RECIPE)
    small = tmp_path / "small"
    small.mkdir()
    environment = {"LAMINA_DATA": str(tmp_path / "data")}
    call = f"train {recipe} --set keep=99 --set epochs=4 --threads 1"
    log = tmp_path / "log"
    assert training.call(training.command, f"{call} --out {small}/run", environment, log, disk=(small, 256 << 10)) == 1
    error = log.with_suffix(".err").read_text()
    last = checkpoint.newest(small / "run/checkpoints")
    assert last is not None and last.step > 1
    assert error == (
        f"lamina: the checkpoint of step {last.step + 1} cannot be written (No space left on device); {last.path} is left: "
        "make room and go on with --resume\n"
    )
    assert not list(small.glob("run/checkpoints/*.partial"))
    assert training.call(training.command, f"{call} --out {small}/run --resume", environment, log, disk=(small, 8 << 20)) == 0
    assert training.call(training.command, f"{call} --out {tmp_path}/calm", environment, log) == 0
    assert training.same(small / "run", tmp_path / "calm")


def save(folder: Path, step: int) -> checkpoint.Checkpoint:
    return checkpoint.save(folder, step, {"state.safetensors": checkpoint.pack({"x": torch.full((3,), step)})})


def test_a_damaged_checkpoint_is_passed_over(tmp_path):
    for step in (1, 2, 3):
        save(tmp_path, step)
    state = tmp_path / "step-00000003/state.safetensors"
    content = bytearray(state.read_bytes())
    content[-1] ^= 1
    state.write_bytes(content)  # a flipped bit
    assert checkpoint.newest(tmp_path).step == 2
    state = tmp_path / "step-00000002/state.safetensors"
    state.write_bytes(state.read_bytes()[:-1])  # cut short
    found = checkpoint.newest(tmp_path)
    assert found.step == 1 and found.tensors("state.safetensors")["x"].tolist() == [1, 1, 1]
    (tmp_path / "step-00000001/complete.json").write_text("{")
    assert checkpoint.newest(tmp_path) is None
    assert checkpoint.newest(tmp_path / "none") is None


def test_an_unmarked_or_partial_folder_is_no_checkpoint(tmp_path):
    save(tmp_path, 1)
    (save(tmp_path, 2).path / "complete.json").unlink()
    shutil.copytree(tmp_path / "step-00000001", tmp_path / "step-00000004.partial")
    assert [c.step for c in checkpoint.complete(tmp_path)] == [1]
    assert save(tmp_path, 2).step == 2  # over what was left
    assert checkpoint.newest(tmp_path).step == 2


def test_retention(tmp_path):
    for step in range(1, 7):
        save(tmp_path, step)
    (tmp_path / "step-00000002.partial").mkdir()
    (tmp_path / "notes").mkdir()
    checkpoint.retain(tmp_path, keep=2, best=3, step=6)
    assert sorted(p.name for p in tmp_path.iterdir()) == ["notes", "step-00000003", "step-00000005", "step-00000006"]
    # After a damaged checkpoint the run goes on from an older one: the newer ones do not push the new ones out.
    save(tmp_path, 4)
    checkpoint.retain(tmp_path, keep=1, best=None, step=4)
    assert sorted(p.name for p in tmp_path.iterdir()) == ["notes", "step-00000004"]


def test_random_states_and_packing():
    device = torch.device("cpu")
    torch.manual_seed(3)
    states = checkpoint.random_states(device)
    first = torch.rand(4)
    checkpoint.set_random_states(states, device)
    assert torch.equal(torch.rand(4), first)
    shared = torch.arange(6.0).view(2, 3)
    tensors = {"a": shared, "b": shared.T}  # one storage, not contiguous: safetensors would refuse both
    from safetensors.torch import load

    back = load(checkpoint.pack(tensors))
    assert all(torch.equal(back[k], tensors[k]) for k in tensors)
