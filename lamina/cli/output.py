"""What the verbs share: JSON on standard output, and files written whole or not at all."""

import json
import os
import tempfile
from pathlib import Path
from typing import Annotated, Any

import typer

from lamina.errors import LaminaError

Json = Annotated[bool, typer.Option("--json", help="Print one JSON document and nothing else.")]
Image = Annotated[
    list[str] | None,
    typer.Option(
        "--image", metavar="KEY=VALUE", help="Override the weight file's image specification: channels=BGR, resize=256 ..."
    ),
]
Weights = Annotated[str | None, typer.Option("--weights", metavar="FILE|TAG", help="A weight file, or a tag of `lamina show`.")]
Device = Annotated[str, typer.Option("--device", help="cpu, cuda or mps (only the CPU has been tested so far).")]


def print_json(document: Any) -> None:
    print(json.dumps(document, indent=1))


def write_text(path: Path, text: str) -> None:
    """Write a file beside its place and rename it: a full disk leaves no half of it, and an older file as it was."""
    temporary = None
    try:
        if path.exists() and not path.is_file():  # a device or a pipe: nothing to rename
            path.write_text(text, encoding="utf-8")
            return
        with tempfile.NamedTemporaryFile("w", dir=path.parent, prefix=path.name, delete=False, encoding="utf-8") as file:
            temporary = Path(file.name)
            file.write(text)
            file.flush()
            os.fsync(file.fileno())
        temporary.chmod(0o644)
        temporary.replace(path)
        temporary = None
    except OSError as error:
        raise LaminaError(f"{path} cannot be written: {error.strerror or error}") from error
    finally:
        if temporary is not None:
            temporary.unlink(missing_ok=True)
