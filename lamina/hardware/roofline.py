"""The roofline (Williams, Waterman & Patterson, CACM 52(4), 2009): what peak and bandwidth let a layer attain.

A layer of f operations on b bytes takes at least f / peak and at least b / bandwidth seconds; the larger one bounds it.
"""

import tomllib
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cache
from importlib.resources import files
from typing import Any

import msgspec

from lamina import units
from lamina.errors import InputError
from lamina.hardware import accelerator
from lamina.workload import Layer, Workload

TYPES = {"float32": "fp32", "float16": "fp16", "bfloat16": "bf16", "float64": "fp64", "int8": "int8"}


class Machine(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """A processor: `peak` operations per second by type (a multiply-accumulate is two), `bandwidth` bytes per second of its
    main memory."""

    name: str
    peak: dict[str, float]
    bandwidth: float
    about: str = ""
    sources: tuple[str, ...] = ()
    measured: bool = False

    def operations(self, dtype: str) -> float:
        """Peak for a type; the widest that the machine names where it does not name this one."""
        if dtype in self.peak:
            return self.peak[dtype]
        raise InputError(f"{self.name}: no peak for {dtype}; there are {', '.join(self.peak)}")


def machines() -> list[str]:
    """The processors that come with Lamina; every accelerator with a clock and a bandwidth is one too."""
    folder = files("lamina.hardware").joinpath("devices")
    return sorted(f.name[:-5] for f in folder.iterdir() if f.name.endswith(".toml") and "[peak]" in f.read_text("utf-8"))


def load(name: str) -> Machine:
    """A processor of devices/, an accelerator, or a user's TOML file of either form."""
    if name in machines():
        return _shipped(name)
    if name.endswith(".toml"):
        try:
            with open(name, encoding="utf-8") as file:
                text = file.read()
        except (OSError, UnicodeDecodeError) as error:
            raise InputError(f"{name} cannot be read: {getattr(error, 'strerror', None) or error}") from error
        return parse(text, name) if "[peak]" in text else of_accelerator(accelerator.parse(text, name))
    if name in accelerator.names():
        return of_accelerator(accelerator.load(name))
    known = ", ".join([*machines(), *accelerator.names()])
    raise InputError(f"no device is called {name!r}: there are here (this machine), {known}, or a file that ends in .toml")


@cache
def _shipped(name: str) -> Machine:
    return parse(files("lamina.hardware").joinpath("devices", f"{name}.toml").read_text("utf-8"), name)


def parse(text: str, place: str) -> Machine:
    """A processor from the text of its file."""
    try:
        found = msgspec.convert(tomllib.loads(text), Machine)
    except tomllib.TOMLDecodeError as error:
        raise InputError(f"{place} is not TOML: {error}") from error
    except msgspec.ValidationError as error:
        raise InputError(f"{place}: {accelerator.readable(str(error))}") from error
    if not found.peak or min(found.peak.values()) <= 0 or found.bandwidth <= 0:
        raise InputError(f"{place}: peak and bandwidth are more than 0")
    return found


def of_accelerator(found: accelerator.Accelerator) -> Machine:
    """An accelerator's array and outer memory as a roofline."""
    outside = found.level[0]
    width = outside.bandwidth or max(outside.read_bandwidth or 0.0, outside.write_bandwidth or 0.0)
    if not found.clock or not width:
        raise InputError(f"{found.name} has no clock or no bandwidth of {outside.name}: a roofline needs both")
    peak = 2.0 * found.elements * found.clock
    named = {8: "int8", 16: "fp16", 32: "fp32"}.get(found.bits, f"{found.bits} bits")
    peaks = {named: peak} | {other: peak for other in ("fp32", "fp16", "bf16") if other != named}
    return Machine(found.name, peaks, width * found.clock, found.about, found.sources)


@dataclass(frozen=True)
class Point:
    """A layer on the roofline: operations, bytes, what it may attain per second, and the least time it takes."""

    name: str
    kind: str
    operations: int
    bytes: int
    attainable: float
    seconds: float
    bound: str

    @property
    def intensity(self) -> float:
        return self.operations / self.bytes if self.bytes else 0.0


def place(layer: Layer, machine: Machine, dtype: str) -> Point:
    """One layer, every input, weight and output moved once. Operations are two for each multiply-accumulate, and one for each
    of the layer's other arithmetic (`Layer.ops`)."""
    operations = 2 * layer.macs + (0 if layer.macs else sum(layer.ops.values()))
    moved = layer.bytes_read + layer.bytes_written
    peak = machine.operations(dtype)
    compute, memory = operations / peak, moved / machine.bandwidth
    intensity = operations / moved if moved else 0.0
    bound = "compute" if compute >= memory else "memory"
    return Point(
        layer.name, layer.kind, operations, moved, min(peak, intensity * machine.bandwidth), max(compute, memory), bound
    )


def places(workload: Workload, machine: Machine, dtype: str = "fp32") -> list[Point]:
    """All layers that compute or move something, in order."""
    return [place(layer, machine, dtype) for layer in workload.layers if layer.bytes_read or layer.bytes_written]


def document(
    workload: Workload, machine: Machine, dtype: str, points: Sequence[Point], measured: float | None
) -> dict[str, Any]:
    """The fields of `lamina roofline --json`; `measured` are seconds of the whole network, where it was run."""
    peak = machine.operations(dtype)
    seconds = sum(point.seconds for point in points)
    return {
        "model": workload.name, "device": machine.name, "dtype": dtype, "measured_device": machine.measured,
        "peak": peak, "bandwidth": machine.bandwidth, "ridge": peak / machine.bandwidth, "sources": list(machine.sources),
        "totals": {
            "macs": workload.macs, "bytes": sum(point.bytes for point in points), "seconds": seconds,
            "seconds_memory_bound": sum(point.seconds for point in points if point.bound == "memory"),
            "measured_seconds": measured, "share_of_prediction": seconds / measured if measured else None,
        },
        "layers": [
            {"name": p.name, "kind": p.kind, "operations": p.operations, "bytes": p.bytes, "intensity": p.intensity,
             "attainable": p.attainable, "seconds": p.seconds, "bound": p.bound}
            for p in points
        ],
    }  # fmt: skip


def here(measure: Callable[[], tuple[float, float, str]], dtype: str = "fp32") -> Machine:
    """This machine, as `measure` finds it: operations per second, bytes per second, and how it was measured."""
    peak, bandwidth, how = measure()
    about = f"measured: {units.si(peak)}FLOP/s, {units.bytes_(bandwidth)}/s"
    return Machine("here", {dtype: peak}, bandwidth, about, (how,), True)
