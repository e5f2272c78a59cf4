"""Checkpoints on a disk that forgets what was not synced: at every moment of a run the power may fail."""

import shutil
from pathlib import Path

import pytest

from lamina.train import checkpoint, launch
from lamina.train.recipe import read
from tests import training
from tests.disk import Disk

# Six steps, a checkpoint after each, of which one stays: each save but the first is followed by a removal.
SETTINGS = ("epochs=2", "samples=30", "batch=10", "save_steps=1", "keep=1", "ema=0.9")


@pytest.fixture
def recipe(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    training.write_mnist(tmp_path / "data")
    monkeypatch.setenv("LAMINA_DATA", str(tmp_path / "data"))
    path = tmp_path / "tiny.toml"
    path.write_text(training.TINY)
    return path


def test_a_power_failure_at_any_moment(recipe, tmp_path, monkeypatch):
    """Whatever is left: every checkpoint that is marked complete is whole and is the run's, none that was finished is lost, and
    no file stands half written under its own name."""
    calm = tmp_path / "calm"
    launch.train(read(recipe, (*SETTINGS, "keep=99")), calm)
    every = {c.step: c.read("state.safetensors") for c in checkpoint.complete(calm / "checkpoints")}
    assert sorted(every) == [1, 2, 3, 4, 5, 6]
    out, view = tmp_path / "run", tmp_path / "view"
    out.mkdir()
    saved, moments = 0, 0
    save = checkpoint.save

    def counted(*args, **kwargs):
        nonlocal saved
        point = save(*args, **kwargs)
        saved = point.step
        return point

    def watch(disk: Disk, name: str, path: Path) -> None:
        nonlocal moments
        moments += 1
        for names in (False, True):
            left = checkpoint.complete(disk.left(view, names) / "checkpoints")
            assert all(checkpoint.whole(c) for c in left), f"{name} of {path}: a checkpoint is marked complete and is not whole"
            assert all(c.read("state.safetensors") == every[c.step] for c in left)
            assert max((c.step for c in left), default=0) >= saved, f"{name} of {path}: a finished checkpoint is lost"
            if (view / "weights.safetensors").exists():
                assert training.weights(view).keys()  # loads
        inside = path.parent.name.startswith("step-") and not path.parent.name.endswith(".partial")
        if name in ("unlink", "remove") and inside and path.name != checkpoint.MARK:
            assert checkpoint.MARK not in disk.nodes[path.parent.lstat().st_ino].names, (
                "the mark has to be gone first, for good"
            )

    monkeypatch.setattr(checkpoint, "save", counted)
    disk = Disk(out, monkeypatch, watch)
    launch.train(read(recipe, SETTINGS), out)
    assert saved == 6 and moments > 60
    assert not disk.faults, disk.faults[0]
    assert disk.is_safe(out, ghosts=True), "the run has ended, and something of it may still be lost"
    assert training.same(disk.left(view, names=False), calm)
    assert [c.step for c in checkpoint.complete(view / "checkpoints")] == [6]
    # What is left is gone on with: a run that had ended stays as it is.
    monkeypatch.undo()
    monkeypatch.setenv("LAMINA_DATA", str(tmp_path / "data"))
    launch.train(read(recipe, SETTINGS), view, resume=True)
    assert training.same(view, calm)


def test_the_disk_forgets(tmp_path, monkeypatch):
    """The disk itself: contents and names that were not synced are gone, and what is wrong is said."""
    root, view = tmp_path / "disk", tmp_path / "view"
    root.mkdir()
    (root / "old").write_bytes(b"old")
    disk = Disk(root, monkeypatch)
    (root / "new.partial").write_bytes(b"new")
    (root / "new.partial").rename(root / "new")
    assert disk.faults == ["new.partial is renamed before it is synced"]
    assert not (disk.left(view, names=False) / "new").exists()
    assert (disk.left(view, names=True) / "new").read_bytes() == b""
    sync(root)
    assert disk.faults[1:] == ["new is written in place"] and not disk.is_safe(root)
    sync(root / "new")
    assert disk.is_safe(root) and (disk.left(view, names=False) / "new").read_bytes() == b"new"
    (root / "old").unlink()
    assert not disk.is_safe(root) and (disk.left(view, names=False) / "old").read_bytes() == b"old"
    sync(root)
    assert not (disk.left(view, names=False) / "old").exists()


@pytest.mark.parametrize("synced", [False, True])
def test_the_disk_sees_a_copy_in_place_of_a_rename(tmp_path, monkeypatch, synced):
    """Also one that is synced afterwards: while it is made, the file is half written under its own name."""
    disk = Disk(tmp_path, monkeypatch)
    (tmp_path / "new.partial").write_bytes(b"new")
    sync(tmp_path / "new.partial")
    shutil.copyfile(tmp_path / "new.partial", tmp_path / "new")
    if synced:
        sync(tmp_path / "new")
    (tmp_path / "new.partial").unlink()
    assert disk.faults and set(disk.faults) == {"new is written in place"}
    assert disk.is_safe(tmp_path / "new") == synced


def sync(path: Path) -> None:
    import os

    handle = os.open(path, os.O_RDONLY)
    os.fsync(handle)
    os.close(handle)
