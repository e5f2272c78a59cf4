"""Files on the disk: written whole or not at all, downloaded with their SHA-256 checked, and the user's cache folder."""

import hashlib
import os
import shutil
import tempfile
import urllib.error
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from http.client import HTTPException
from pathlib import Path

import platformdirs

from lamina.errors import LaminaError, reason
from lamina.progress import track

CHUNK = 1 << 20


def cache_dir() -> Path:
    """The user's cache folder: on Linux `$XDG_CACHE_HOME/lamina`, by default `~/.cache/lamina`; elsewhere the system's own."""
    return platformdirs.user_cache_path("lamina", appauthor=False)


# Every change on the disk that has to outlive a crash is made by one of these four: the tests make each of them fail, die and
# be forgotten in turn.


def put(path: Path, content: bytes) -> None:
    path.write_bytes(content)


def sync(path: Path) -> None:
    """Force a file's content, or a folder's names, onto the disk."""
    windows = os.name == "nt"
    if windows and path.is_dir():  # its names are written through, and it cannot be opened
        return
    handle = os.open(path, os.O_RDWR if windows else os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def rename(old: Path, new: Path) -> None:
    os.replace(old, new)


def remove(path: Path) -> None:
    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path)
    else:
        path.unlink(missing_ok=True)


@contextmanager
def replacing(path: Path) -> Iterator[Path]:
    """A path to write to in place of `path`: after the block, what was written there is synced and takes that name. On an
    error the file of that name stays as it was.

    Further files that the block writes beside it take their names beside `path`, before it. Raises `OSError`.
    """
    if path.is_dir():
        raise IsADirectoryError(0, "it is a folder")
    folder = Path(tempfile.mkdtemp(prefix=f".{path.name}.", suffix=".partial", dir=path.parent))
    try:
        yield folder / path.name
        for file in sorted(folder.iterdir(), key=lambda file: file.name == path.name):  # what refers to the others is last
            sync(file)
            rename(file, path.with_name(file.name))
        sync(path.parent)
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def write(path: Path, content: bytes | str) -> None:
    """Write a file, text as UTF-8, whole or not at all. Raises `LaminaError`, the older file left as it was."""
    data = content.encode("utf-8") if isinstance(content, str) else content
    try:
        if path.exists() and not path.is_file() and not path.is_dir():  # a device or a pipe: nothing to rename
            put(path, data)
            return
        with replacing(path) as partial:
            put(partial, data)
    except OSError as error:
        raise LaminaError(f"{path} cannot be written: {reason(error)}") from error


def download(url: str, path: Path, sha256: str) -> None:
    """Fetch `url` into `path`: complete and with the right SHA-256 (or its given beginning), or not at all."""
    digest = hashlib.sha256()
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with replacing(path) as partial:
            with urllib.request.urlopen(url, timeout=30) as response, partial.open("wb") as file:
                total = int(response.headers.get("Content-Length") or 0) or None
                pieces = iter(lambda: response.read(CHUNK), b"")
                for piece in track(pieces, f"fetching {path.name}", total, len):
                    digest.update(piece)
                    file.write(piece)
            if not digest.hexdigest().startswith(sha256):
                raise LaminaError(f"{url} has SHA-256 {digest.hexdigest()}, not {sha256}: not kept")
    except urllib.error.URLError as error:
        raise LaminaError(f"{url} cannot be fetched: {error.reason}") from error
    except (OSError, HTTPException) as error:
        raise LaminaError(f"{url} cannot be fetched into {path}: {getattr(error, 'strerror', None) or error}") from error
