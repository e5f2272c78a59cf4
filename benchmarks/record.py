"""Records of measurements: what a benchmark found and how, as JSON in benchmarks/records, where `make results` takes figures.

A record is {"provenance": {"command", "commit", "dirty", "date", "machine", "seed", versions ...}, and what was found}. One
that stands for a run whose folder was not kept says so in "provenance" under "note".
"""

import json
import os
import platform
import shlex
import sys
from datetime import UTC, datetime
from importlib.metadata import version
from pathlib import Path
from typing import Any

RECORDS = Path(__file__).with_name("records")


def machine() -> str:
    """The processor's name and how many of its cores this process may use."""
    name = platform.processor() or platform.machine()
    cpuinfo = Path("/proc/cpuinfo")
    if cpuinfo.exists():
        lines = cpuinfo.read_text().splitlines()
        name = next((line.partition(":")[2].strip() for line in lines if line.startswith("model name")), name)
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    return f"{name}, {cores} core{'s' if cores != 1 else ''}"


def provenance(seed: int | list[int] | None = None, packages: tuple[str, ...] = (), note: str | None = None) -> dict[str, Any]:
    """Of this process: its command as one would type it in the project's folder."""
    from lamina.train.provenance import code

    root = RECORDS.parents[1]
    script = Path(sys.argv[0]).resolve()
    shown = script.relative_to(root).as_posix() if script.is_relative_to(root) else script.name
    found = {
        "command": shlex.join(["python", shown, *sys.argv[1:]]),
        "date": datetime.now(UTC).date().isoformat(),
        "machine": machine(),
        "seed": seed,
        **code(),
        **{package: version(package) for package in packages},
    }
    return found | ({"note": note} if note else {})


def write(name: str, provenance: dict[str, Any], **found: Any) -> None:
    """Write benchmarks/records/NAME.json: one line per entry of each table in it, so that a difference can be read."""
    RECORDS.mkdir(exist_ok=True)
    (RECORDS / f"{name}.json").write_text(dump({"provenance": provenance, **found}) + "\n", encoding="utf-8")


def dump(value: Any, depth: int = 0) -> str:
    """JSON with one line per entry of the outer three levels."""
    if depth < 2 and isinstance(value, dict | list) and value:
        space, inner = " " * depth, []
        if isinstance(value, dict):
            inner = [f"{space} {json.dumps(k, ensure_ascii=False)}: {dump(v, depth + 1)}" for k, v in value.items()]
            return "{\n" + ",\n".join(inner) + f"\n{space}" + "}"
        inner = [f"{space} {dump(v, depth + 1)}" for v in value]
        return "[\n" + ",\n".join(inner) + f"\n{space}]"
    return json.dumps(value, ensure_ascii=False)


def read(name: str) -> dict[str, Any]:
    return json.loads((RECORDS / f"{name}.json").read_text(encoding="utf-8"))
