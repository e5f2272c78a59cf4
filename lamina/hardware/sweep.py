"""Design questions: one network on many variants of an accelerator, and the front of those that no other one beats.

pe=8x8:32x32       both sides of the array, doubling
pe=8x8,12x14       a list
buffer=32k:512k    the capacity of all shared buffers together, doubling; parts keep their shares
registers=64:1024  bytes of an element's registers, doubling
bandwidth=4:64     bytes per cycle of the memory outside, doubling
"""

import itertools
import re
from collections.abc import Callable, Iterable, Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from functools import partial
from typing import Any

import msgspec

from lamina.errors import InputError, LaminaError
from lamina.hardware.accelerator import Accelerator, Level, check, size
from lamina.hardware.fit import fit
from lamina.hardware.search import Objective
from lamina.workload import Workload

AXES = ("pe", "buffer", "registers", "bandwidth")
MOST = 1000  # points without being asked


@dataclass(frozen=True)
class Axis:
    """What a `--sweep` varies, and the values, as text and as the accelerator has them."""

    name: str
    values: tuple[tuple[str, Any], ...]


@dataclass(frozen=True)
class Variant:
    """One design: the values of its axes, and the accelerator that has them."""

    values: dict[str, str]
    accelerator: Accelerator


def parse(text: str) -> Axis:
    """ "pe=8x8:32x32" or "buffer=32k,48k,64k"."""
    name, equals, values = text.partition("=")
    if not equals or name not in AXES:
        raise InputError(f"--sweep {text}: write one of {', '.join(f'{axis}=...' for axis in AXES)}, as in pe=8x8:32x32")
    read = _side if name == "pe" else _bytes if name in ("buffer", "registers") else _number
    first, colon, last = values.partition(":")
    if not colon:
        return Axis(name, tuple((item, read(item, text)) for item in values.split(",")))
    return Axis(name, tuple(_doubled(name, read(first, text), read(last, text), text)))


def _doubled(name: str, low: Any, high: Any, text: str) -> Iterable[tuple[str, Any]]:
    if name == "pe":
        while low[0] <= high[0] and low[1] <= high[1]:
            yield f"{low[0]}x{low[1]}", low
            low = (2 * low[0], 2 * low[1])
        return
    if low > high:
        raise InputError(f"--sweep {text}: the range ends before it begins")
    while low <= high:
        yield _short(low) if name != "bandwidth" else f"{low:g}", low
        low *= 2


def _side(text: str, whole: str) -> tuple[int, int]:
    match = re.fullmatch(r"(\d+)x(\d+)", text.strip())
    if match is None or 0 in (int(match[1]), int(match[2])):
        raise InputError(f"--sweep {whole}: {text!r} is not an array: write rows x columns, as 16x16")
    return int(match[1]), int(match[2])


def _bytes(text: str, whole: str) -> int:
    try:
        found = size(text)
    except InputError as error:
        raise InputError(f"--sweep {whole}: {error}") from error
    if found < 1:
        raise InputError(f"--sweep {whole}: a capacity is more than 0 bytes")
    return found


def _number(text: str, whole: str) -> float:
    try:
        found = float(text)
    except ValueError:
        found = 0.0
    if not 0 < found < float("inf"):
        raise InputError(f"--sweep {whole}: {text!r} is not a bandwidth: write bytes per cycle, more than 0")
    return found


def _short(amount: int) -> str:
    for scale, unit in ((1024**3, "G"), (1024**2, "M"), (1024, "k")):
        if amount % scale == 0:
            return f"{amount // scale}{unit}"
    return str(amount)


def count(axes: Sequence[Axis]) -> int:
    total = 1
    for axis in axes:
        total *= len(axis.values)
    return total


def variants(base: Accelerator, axes: Sequence[Axis]) -> list[Variant]:
    """Every combination; a combination that cannot be built is an error before anything is searched."""
    names = [axis.name for axis in axes]
    if len(set(names)) < len(names):
        raise InputError("--sweep: each of pe, buffer, registers and bandwidth is given once")
    found = []
    for chosen in itertools.product(*(axis.values for axis in axes)):
        device = base
        for name, (_, value) in zip(names, chosen, strict=True):
            device = _changed(device, name, value)
        values = {name: text for name, (text, _) in zip(names, chosen, strict=True)}
        try:
            check(device)
        except InputError as error:
            raise InputError(f"--sweep {' '.join(f'{k}={v}' for k, v in values.items())}: {error}") from error
        found.append(Variant(values, device))
    return found


def _changed(device: Accelerator, name: str, value: Any) -> Accelerator:
    if name == "pe":
        return msgspec.structs.replace(device, array=value)
    if name == "bandwidth":
        outside = msgspec.structs.replace(device.level[0], bandwidth=value, read_bandwidth=None, write_bandwidth=None)
        return msgspec.structs.replace(device, level=(outside, *device.level[1:]))
    inside = name == "registers"
    part = [level for level in device.level[1:] if level.inside == inside]
    if not part:
        raise InputError(f"{device.name} has no {name}: there is nothing to vary")
    now = sum(_total(level) for level in part)
    levels = [_scaled(level, value, now) if level in part else level for level in device.level]
    return msgspec.structs.replace(device, level=tuple(levels))


def _total(level: Level) -> int:
    parts = level.capacity.values() if isinstance(level.capacity, dict) else [level.capacity or 0]
    return sum(size(part) for part in parts)


def _scaled(level: Level, value: int, now: int) -> Level:
    if isinstance(level.capacity, dict):
        capacity: Any = {tensors: size(part) * value // now for tensors, part in level.capacity.items()}
    else:
        capacity = size(level.capacity or 0) * value // now
    return msgspec.structs.replace(level, capacity=capacity)


# ---- running ------------------------------------------------------------------------------------------------------


def point(variant: Variant, workload: Workload, objective: Objective, dataflow: str) -> dict[str, Any]:
    """One design's area proxy, cycles and energy; `refusal` where no tiling fits it."""
    row: dict[str, Any] = {**variant.values, "area": variant.accelerator.area()}
    try:
        found = fit(workload, variant.accelerator, objective, dataflow)
    except LaminaError as error:
        return row | {"cycles": None, "energy": None, "utilisation": None, "refusal": str(error)}
    return row | {"cycles": found.cycles, "energy": found.energy, "utilisation": found.utilisation, "refusal": None}


def run(
    chosen: Sequence[Variant], workload: Workload, objective: Objective, dataflow: str, each: Callable[..., Iterable[Any]]
) -> list[dict[str, Any]]:
    """All designs, and whether each is on the front: no other one is as good in area, cycles and energy, and better
    in one of them."""
    one = partial(point, workload=workload, objective=objective, dataflow=dataflow)
    rows = list(each(one, chosen))
    for row in rows:
        row["front"] = row["refusal"] is None and not any(_beats(other, row) for other in rows if other["refusal"] is None)
    return rows


def _beats(other: dict[str, Any], row: dict[str, Any]) -> bool:
    pairs = [(other[key], row[key]) for key in ("area", "cycles", "energy")]
    return all(a <= b for a, b in pairs) and any(a < b for a, b in pairs)


class Jobs:
    """Where the work is done: in this process, in `jobs` processes, or on a Ray cluster. `each` is `map` in all three."""

    def __init__(self, jobs: int = 1, ray: bool = False):
        self.jobs, self.ray = jobs, ray
        self.pool: ProcessPoolExecutor | None = None
        self.cluster: Any = None
        self.started = False  # a cluster of our own is ended, one that was there already is not

    def __enter__(self) -> "Jobs":
        if self.ray:
            self.cluster = _ray()
            self.started = not self.cluster.is_initialized()
            if self.started:
                self.cluster.init(log_to_driver=False, logging_level="ERROR", include_dashboard=False)
        elif self.jobs > 1:
            import multiprocessing

            self.pool = ProcessPoolExecutor(self.jobs, multiprocessing.get_context("spawn"))
        return self

    def __exit__(self, *_: object) -> None:
        if self.pool is not None:
            self.pool.shutdown(cancel_futures=True)
        if self.started:
            self.cluster.shutdown()

    def each(self, function: Callable[[Any], Any], items: Iterable[Any]) -> Iterable[Any]:
        """The results in the order of the items."""
        if self.ray:
            remote = self.cluster.remote(lambda item: function(item))
            return self.cluster.get([remote.remote(item) for item in items])
        return self.pool.map(function, items) if self.pool is not None else map(function, items)


def _ray() -> Any:
    try:
        import ray  # type: ignore[import-not-found]
    except ImportError as error:
        raise InputError("--ray needs Ray, which is not installed: pip install 'lamina[ray]'") from error
    return ray
