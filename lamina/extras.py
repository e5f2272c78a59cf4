"""Packages that only a part of Lamina needs, as the extras of pyproject.toml group them."""

import json
from importlib import metadata
from pathlib import Path
from urllib.parse import urlparse
from urllib.request import url2pathname


def install_command(extra: str) -> str:
    """The pip command that installs the packages of `extra`: of the clone that Lamina was installed from, if it was."""
    source, editable = _source()
    if source is None:
        return f"pip install 'lamina[{extra}]'"
    place = "." if source == Path.cwd() else source
    return f"pip install {'-e ' if editable else ''}'{place}[{extra}]'"


def _source() -> tuple[Path | None, bool]:
    """The folder that Lamina was installed from, None where it came as a package, and whether it runs from there (PEP 610)."""
    clone = Path(__file__).resolve().parent.parent
    if (clone / "pyproject.toml").is_file():
        return clone, True
    try:
        record = json.loads(metadata.distribution("lamina").read_text("direct_url.json") or "{}")
    except (metadata.PackageNotFoundError, ValueError):
        return None, False
    if "dir_info" not in record:
        return None, False
    return Path(url2pathname(urlparse(record["url"]).path)), bool(record["dir_info"].get("editable"))
