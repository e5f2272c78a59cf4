"""What a run was made with, recorded when it starts: code, recipe, data and versions. The weight file gets a copy."""

import contextlib
import hashlib
import json
import platform
import subprocess
from collections.abc import Mapping
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import torch

from lamina import __version__, files
from lamina.errors import LaminaError
from lamina.train.recipe import Recipe, dump

PROVENANCE = "provenance.json"
PACKAGE = Path(__file__).resolve().parent.parent


def code() -> dict[str, Any]:
    """Versions; where this code is a git checkout, also its commit and whether the package differs from it (`dirty`)."""
    found: dict[str, Any] = {"lamina": __version__, "torch": torch.__version__, "python": platform.python_version()}

    def git(*arguments: str) -> str:
        done = subprocess.run(["git", "-C", PACKAGE, *arguments], check=True, capture_output=True, text=True, timeout=10)
        return done.stdout.strip()

    with contextlib.suppress(OSError, subprocess.SubprocessError):
        git("ls-files", "--error-unmatch", "__init__.py")  # else another project's repository holds the installed package
        found |= {"commit": git("rev-parse", "HEAD"), "dirty": bool(git("status", "--porcelain", "."))}
    return found


def start(out: Path, recipe: Recipe, data: Mapping[str, str], begun: bool) -> None:
    """Write the record of a run that starts, or add to it that the run goes on with other code.

    `data` are the SHA-256 of the data files' contents by name; a run that has `begun` goes on with the same only.
    """
    now = {"started": datetime.now(UTC).isoformat(timespec="seconds")} | code()
    path = out / PROVENANCE
    if not begun:
        digest = hashlib.sha256(dump(recipe).encode()).hexdigest()
        record = now | {"recipe_sha256": digest, "data_sha256": dict(data), "machine": platform.platform()}
    else:
        record = json.loads(path.read_text()) if path.exists() else {}  # runs of Lamina 0.1 have none
        known = record.get("data_sha256", data)
        if changed := [name for name in known if data.get(name) != known[name]]:
            raise LaminaError(f"{out} was started with other data: {changed[0]} is not what it was")
        before = [record, *record.get("resumed", [])][-1]
        if all(before.get(key) == value for key, value in now.items() if key != "started"):
            return
        record["resumed"] = [*record.get("resumed", []), now]
    files.write(path, json.dumps(record, indent=1) + "\n")


def read(out: Path) -> dict[str, Any]:
    """The record of the run in `out`; empty where there is none."""
    path = out / PROVENANCE
    return json.loads(path.read_text()) if path.exists() else {}
