"""Where data sets lie, and how they are fetched when they do not."""

import gzip
import hashlib
import os
import tarfile
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from pathlib import Path

from lamina.errors import LaminaError
from lamina.files import cache_dir, download, write

_contents: ContextVar[dict[str, str] | None] = ContextVar("contents", default=None)


@contextmanager
def recorded() -> Iterator[dict[str, str]]:
    """A table that gets the SHA-256 of each content that is read within the block, by the file's folder and name. Whether a
    file is compressed (.gz) makes no difference."""
    token = _contents.set(found := {})
    try:
        yield found
    finally:
        _contents.reset(token)


def note(name: str, content: bytes) -> None:
    """Add a content to the table of `recorded`, if there is one."""
    if (found := _contents.get()) is not None:
        found[name] = hashlib.sha256(content).hexdigest()


def homes(name: str) -> list[Path]:
    """The folders where the data set `name` may lie, in the order they are searched."""
    root = os.environ.get("LAMINA_DATA")
    return ([Path(root) / name] if root else []) + [cache_dir() / name]


def find(name: str, file: str) -> Path | None:
    """The first of `file` and `file`.gz in the homes of the data set `name`."""
    candidates = (home / (file + suffix) for home in homes(name) for suffix in ("", ".gz"))
    return next((path for path in candidates if path.is_file()), None)


def read(path: Path) -> bytes:
    """A file's content, decompressed if its name ends in .gz. A file cut short is an error that names it."""
    try:
        content = path.read_bytes()
        if path.suffix == ".gz":
            content = gzip.decompress(content)
    except (EOFError, OSError, zlib.error) as error:  # gzip.BadGzipFile is an OSError
        raise LaminaError(f"{path} cannot be read ({error}): remove it, and it is fetched again") from error
    note(f"{path.parent.name}/{path.name.removesuffix('.gz')}", content)
    return content


def obtain(name: str, file: str, url: str, sha256: str) -> Path:
    """The path of a data set's file: found in its homes, or downloaded from `url` into the cache.

    `sha256` is that of the downloaded file; when `url` is a .tar.gz, the members whose names end in .bin are unpacked.
    """
    found = find(name, file)
    if found is not None:
        return found
    target = cache_dir() / name
    archive = target / url.rsplit("/", 1)[1]
    try:
        download(url, archive, sha256)
    except LaminaError as error:
        places = " or ".join(str(home) for home in homes(name))
        raise LaminaError(f"{name}: no {file}[.gz] here; put it into {places} ({error})") from error
    if archive.name.endswith(".tar.gz"):
        unpack(archive, target)
    found = find(name, file)
    if found is None:
        raise LaminaError(f"{name}: {url} holds no {file}")
    return found


def unpack(archive: Path, target: Path) -> None:
    """The .bin members of a .tar.gz, each written whole or not at all; folders in the archive are ignored."""
    with tarfile.open(archive) as tar:
        for member in tar:
            if member.isfile() and member.name.endswith(".bin"):
                stream = tar.extractfile(member)
                assert stream is not None
                write(target / Path(member.name).name, stream.read())
