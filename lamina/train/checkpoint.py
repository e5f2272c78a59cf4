"""Checkpoints that are complete or absent.

A checkpoint is a folder `step-NNNNNNNN` of safetensors and JSON files: nothing in it is ever unpickled. It is written under
another name, every file and the folder synced, renamed, and marked complete last; a crash at any point leaves the ones before
it usable. Removing one takes the mark away first.
"""

import hashlib
import json
import re
import shutil
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load as decode
from safetensors.torch import save as encode
from torch import Tensor

from lamina import files
from lamina.errors import LaminaError, reason

MARK = "complete.json"  # names the checkpoint's files with their SHA-256
PARTIAL = ".partial"


@dataclass(frozen=True)
class Checkpoint:
    path: Path
    step: int

    def read(self, file: str) -> bytes:
        return (self.path / file).read_bytes()

    def tensors(self, file: str) -> dict[str, Tensor]:
        return decode(self.read(file))

    def progress(self) -> dict[str, Any]:
        return json.loads(self.read("progress.json"))


def save(folder: Path, step: int, contents: Mapping[str, bytes]) -> Checkpoint:
    """Write a checkpoint of files with these `contents`. Raises `LaminaError`, the ones before it left as they were."""
    final = folder / f"step-{step:08d}"
    partial = folder / (final.name + PARTIAL)
    try:
        if not folder.is_dir():
            folder.mkdir(parents=True)
            files.sync(folder.parent)
        for old in (partial, final):  # what a crash has left, or an unmarked folder of that name
            discard(old)
        partial.mkdir()
        for name, content in contents.items():
            files.put(partial / name, content)
            files.sync(partial / name)
        files.sync(partial)
        files.rename(partial, final)
        files.sync(folder)
        digests = {name: hashlib.sha256(content).hexdigest() for name, content in contents.items()}
        with files.replacing(final / MARK) as mark:
            files.put(mark, json.dumps(digests, indent=1).encode())
    except OSError as error:
        shutil.rmtree(partial, ignore_errors=True)
        last = newest(folder)
        before = f"{last.path} is left: make room and go on with --resume" if last else "there is none before it"
        raise LaminaError(f"the checkpoint of step {step} cannot be written ({reason(error)}); {before}") from error
    return Checkpoint(final, step)


def discard(path: Path) -> None:
    """Remove a checkpoint, or what is left of one; its mark goes first, so that no half of it is ever taken for whole."""
    if path.exists():
        if (path / MARK).exists():
            files.remove(path / MARK)
            files.sync(path)
        files.remove(path)


def complete(folder: Path) -> list[Checkpoint]:
    """The marked checkpoints, oldest first."""
    found = []
    for path in folder.glob("step-*") if folder.is_dir() else ():
        number = re.fullmatch(r"step-(\d+)", path.name)
        if number and (path / MARK).is_file():
            found.append(Checkpoint(path, int(number[1])))
    return sorted(found, key=lambda c: c.step)


def newest(folder: Path) -> Checkpoint | None:
    """The newest checkpoint that is marked complete and whose files are as they were written."""
    return next((c for c in reversed(complete(folder)) if whole(c)), None)


def whole(checkpoint: Checkpoint) -> bool:
    try:
        digests = json.loads(checkpoint.read(MARK))
        return all(hashlib.sha256(checkpoint.read(name)).hexdigest() == digest for name, digest in digests.items())
    except (OSError, ValueError):
        return False


def retain(folder: Path, keep: int, best: int | None, step: int) -> None:
    """Remove all but the newest `keep` checkpoints up to `step` and that of step `best`, and what crashes have left. Later ones
    are damaged, or the run would have gone on from them."""
    kept = [c for c in complete(folder) if c.step <= step]
    stay = {c.path for c in kept[-keep:]} | {c.path for c in kept if c.step == best}
    try:
        for path in folder.iterdir():
            if path.name.startswith("step-") and path not in stay:
                discard(path)
    except OSError as error:
        raise LaminaError(f"an old checkpoint in {folder} cannot be removed ({reason(error)})") from error


def pack(tensors: Mapping[str, Tensor]) -> bytes:
    return encode({name: t.detach().cpu().contiguous().clone() for name, t in tensors.items()})


def random_states(device: torch.device) -> dict[str, Tensor]:
    """Those of torch's generators, on the CPU and on `device`."""
    states = {"cpu": torch.get_rng_state()}
    if device.type == "cuda":
        states["cuda"] = torch.cuda.get_rng_state(device)
    elif device.type == "mps":
        states["mps"] = torch.mps.get_rng_state()
    return states


def set_random_states(states: Mapping[str, Tensor], device: torch.device) -> None:
    torch.set_rng_state(states["cpu"])
    if "cuda" in states and device.type == "cuda":
        torch.cuda.set_rng_state(states["cuda"], device)
    elif "mps" in states and device.type == "mps":
        torch.mps.set_rng_state(states["mps"])
