"""Fetching a file from its public home: complete and with the right checksum, or not at all. Standard library only."""

import hashlib
import os
import tempfile
import urllib.error
import urllib.request
from collections.abc import Iterator
from http.client import HTTPException
from pathlib import Path
from typing import BinaryIO

from lamina.errors import LaminaError
from lamina.progress import track

CHUNK = 1 << 20


def cache_dir() -> Path:
    """The user's cache: `$XDG_CACHE_HOME/lamina`, by default `~/.cache/lamina`."""
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "lamina"


def download(url: str, path: Path, sha256: str) -> None:
    """Fetch `url` into `path`: complete and with the right SHA-256 (or its given beginning), or not at all."""

    def pieces(response: BinaryIO) -> Iterator[bytes]:
        while piece := response.read(CHUNK):
            yield piece

    digest = hashlib.sha256()
    temporary = None
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with urllib.request.urlopen(url, timeout=30) as response:
            total = int(response.headers.get("Content-Length") or 0) or None
            with tempfile.NamedTemporaryFile(dir=path.parent, prefix=path.name, delete=False) as file:
                temporary = Path(file.name)
                for piece in track(pieces(response), f"fetching {path.name}", total, len):
                    digest.update(piece)
                    file.write(piece)
        if not digest.hexdigest().startswith(sha256):
            raise LaminaError(f"{url} has SHA-256 {digest.hexdigest()}, not {sha256}: not kept")
        temporary.replace(path)
    except urllib.error.URLError as error:
        raise LaminaError(f"{url} cannot be fetched: {error.reason}") from error
    except (OSError, HTTPException) as error:
        raise LaminaError(f"{url} cannot be fetched into {path}: {getattr(error, 'strerror', None) or error}") from error
    finally:
        if temporary is not None:
            temporary.unlink(missing_ok=True)
