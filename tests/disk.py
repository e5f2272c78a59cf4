"""A disk that forgets: what a power failure would leave of a folder, after each change of it.

It stands between a test's own process and the real folder, at `os`' functions, and keeps for each file the content, and for
each folder the names, that were last forced onto the disk with `os.fsync`. `Disk.left(names)` writes what is left into another
folder: of files what was synced, an empty file where nothing was; of folders the names that were synced (`names=False`), or
those of the moment (`names=True`), since a file system may write names before contents. No mount rights are needed.
"""

import os
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

Watch = Callable[["Disk", str, Path], None]


class Node:
    """A file or a folder: what of it is on the disk for certain."""

    def __init__(self, folder: bool):
        self.folder, self.content = folder, b""
        self.names: dict[str, Node] = {}


class Disk:
    def __init__(self, root: Path, monkeypatch: pytest.MonkeyPatch, watch: Watch | None = None):
        """All of `root` as it is now counts as synced. `watch(disk, name, path)` is called ahead of each change."""
        self.root, self.watch, self.nodes = root, watch, dict[int, Node]()
        self.calls: list[tuple[str, Path]] = []
        self.faults: list[str] = []
        for path in (root, *root.rglob("*")):
            self._synced(path)
        for name in ("fsync", "rename", "replace", "unlink", "remove", "rmdir", "mkdir"):
            monkeypatch.setattr(os, name, self._wrapped(name, getattr(os, name)))

    # ---- what happens ---------------------------------------------------------------------------------------------------

    def _wrapped(self, name: str, inner: Callable[..., Any]) -> Callable[..., Any]:
        def change(target: Any, *args: Any, **kwargs: Any) -> Any:
            path = self._place(target, kwargs.get("dir_fd") or kwargs.get("src_dir_fd"))
            if path is None:
                return inner(target, *args, **kwargs)
            if self.watch is not None:
                self.watch(self, name, path)
            self.calls.append((name, path.relative_to(self.root)))
            self._check(name, path)
            number = 0 if name == "mkdir" else path.lstat().st_ino
            result = inner(target, *args, **kwargs)
            if name == "fsync":
                self._synced(path)
            if name in ("unlink", "remove", "rmdir"):  # its number may be given to another file
                self.nodes.pop(number, None)
            return result

        return change

    def _place(self, target: Any, folder: int | None) -> Path | None:
        """The path of an `os` function's first argument, if it lies in `root`."""
        if isinstance(target, int):
            number = os.fstat(target).st_ino
            return next((p for p in (self.root, *self.root.rglob("*")) if p.lstat().st_ino == number), None)
        path = Path(os.fsdecode(target))
        if folder is not None:
            above = self._place(folder, None)
            return None if above is None else above / path
        path = Path(os.path.abspath(path))
        return path if path.is_relative_to(self.root) and path != self.root else None

    def _synced(self, path: Path) -> None:
        node = self._node(path)
        if path.is_dir():
            node.names = {child.name: self._node(child) for child in path.iterdir()}
        else:
            node.content = path.read_bytes()

    def _node(self, path: Path) -> Node:
        return self.nodes.setdefault(path.lstat().st_ino, Node(path.is_dir()))

    # ---- what has to hold -----------------------------------------------------------------------------------------------

    def is_safe(self, path: Path, ghosts: bool = False) -> bool:
        """Whether a file, or a folder with all in it, is on the disk as it stands here; not whether its own name is. With
        `ghosts`, what was removed may still come back."""
        node = self._node(path)
        if not path.is_dir():
            return node.content == path.read_bytes()
        here = {child.name: self._node(child) for child in path.iterdir()}
        kept = here.items() <= node.names.items() if ghosts else here == node.names
        return kept and all(self.is_safe(child, ghosts) for child in path.iterdir())

    def _check(self, name: str, path: Path) -> None:
        """Nothing takes a name before its content is safe, and nothing is written under the name it will have."""
        where = path.relative_to(self.root)
        if name in ("rename", "replace") and not self.is_safe(path):
            self.faults.append(f"{where} is renamed before it is synced")
        for file in self.root.rglob("*"):
            final = not any(is_partial(part) for part in file.relative_to(self.root).parts)
            if final and file.is_file() and self._node(file).content != file.read_bytes():
                self.faults.append(f"{file.relative_to(self.root)} is written in place")

    # ---- what is left ---------------------------------------------------------------------------------------------------

    def left(self, to: Path, names: bool) -> Path:
        """Write into the new folder `to` what a failure at this moment would leave."""
        shutil.rmtree(to, ignore_errors=True)
        self._write(self._node(self.root), self.root if names else None, to)
        return to

    def _write(self, node: Node, here: Path | None, to: Path) -> None:
        """`here` is the living folder whose names count, or None: those of `node`."""
        to.mkdir()
        children = {child.name: self._node(child) for child in here.iterdir()} if here is not None else node.names
        for name, child in children.items():
            if child.folder:
                self._write(child, None if here is None else here / name, to / name)
            else:
                (to / name).write_bytes(child.content)


def is_partial(name: str) -> bool:
    """A name that nobody takes for the file itself."""
    return ".partial" in name or name.endswith(".tmp")
