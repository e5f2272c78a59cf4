"""Accelerators as data: an array of processing elements, the memories around and in it, and what an access costs.

A file in devices/ describes each, with its source; a user's own file has the same form:

    name = "mine"
    array = [16, 16]                # rows, columns
    bits = 8                        # of an element; 16 by default
    dataflows = ["ws", "flexible"]
    [[level]]
    name = "DRAM"                   # the outermost level: no capacity
    bandwidth = 8                   # bytes per cycle
    [[level]]
    name = "buffer"
    capacity = "128K"               # bytes, K = 1024, for all tensors; { W = "32K", IO = "96K" } for parts of its own
    [[level]]
    name = "registers"
    inside = true                   # one in each processing element
    capacity = { W = 64, I = 16, O = 16 }
"""

import re
import tomllib
from functools import cache
from importlib.resources import files
from pathlib import Path

import msgspec

from lamina.errors import InputError, LaminaError

DATAFLOWS = {
    "ws": "weight stationary",
    "os": "output stationary",
    "nlr": "no local reuse",
    "rs": "row stationary",
    "flexible": "flexible",
}
# What the registers keep; flexible may be run as any of the others besides.
KEEPS = {"ws": "W", "os": "O", "nlr": "", "rs": "WIO", "flexible": "WIO"}
# Energy of an access relative to a 16-bit multiply-accumulate: Chen, Emer, Sze, ISCA 2016, Table IV.
DRAM_ENERGY, BUFFER_ENERGY, NETWORK_ENERGY, REGISTER_ENERGY = 200.0, 6.0, 2.0, 1.0
LARGEST_ARRAY = 1 << 24
_SCALE = {"": 1, "B": 1, "K": 1024, "M": 1024**2, "G": 1024**3}


class Level(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """A memory. `capacity` in bytes, one number for all tensors or one for each group of them ({"W": ..., "IO": ...}); the
    bandwidths in bytes per cycle, of both directions together or of reading and writing apart, of each instance."""

    name: str
    capacity: int | str | dict[str, int | str] | None = None
    keeps: str = "WIO"
    energy: float | None = None
    bandwidth: float | None = None
    read_bandwidth: float | None = None
    write_bandwidth: float | None = None
    bits: int | None = None
    inside: bool = False


class Accelerator(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """`network_energy` is that of an element's way between the buffer and a processing element. `window_multicast`: one
    read serves all elements that need the same input (Eyeriss delivers by tags), not only those that need the same tile.
    `systolic` names the tensor that stays in a systolic array, which then also takes the time to fill and to drain.
    """

    name: str
    array: tuple[int, int]
    level: tuple[Level, ...]
    about: str = ""
    sources: tuple[str, ...] = ()
    bits: int = 16
    clock: float | None = None  # Hz
    dataflows: tuple[str, ...] = ("flexible",)
    network_energy: float = NETWORK_ENERGY
    window_multicast: bool = False
    systolic: str | None = None

    @property
    def elements(self) -> int:
        """Processing elements, one multiply-accumulate per cycle each."""
        return self.array[0] * self.array[1]

    @property
    def inside(self) -> frozenset[str]:
        return frozenset(level.name for level in self.level if level.inside)

    def named(self, name: str) -> Level | None:
        return next((level for level in self.level if level.name == name), None)

    def cost(self, name: str) -> float:
        """Energy of one access, in multiply-accumulates."""
        level = self.named(name)
        if level is None:
            return self.network_energy
        if level.energy is not None:
            return level.energy
        return DRAM_ENERGY if level == self.level[0] else REGISTER_ENERGY if level.inside else BUFFER_ENERGY

    def width(self, name: str, port: str) -> float | None:
        """Bytes per cycle of a port, "" (both directions), "read" or "write"; None where nothing is said."""
        level = self.named(name)
        return getattr(level, f"{port}_bandwidth" if port else "bandwidth") if level is not None else None

    def element_bytes(self, name: str) -> float:
        level = self.named(name)
        return (level.bits if level is not None and level.bits else self.bits) / 8

    def capacities(self, name: str) -> list[tuple[str, int]]:
        """Groups of tensors that share a memory, and how many elements it holds."""
        level = self.named(name)
        if level is None or level.capacity is None:
            return []
        parts = level.capacity if isinstance(level.capacity, dict) else {level.keeps: level.capacity}
        return [(tensors, int(size(amount) / self.element_bytes(name))) for tensors, amount in parts.items()]

    @property
    def storage_bytes(self) -> int:
        """Of all memories on the chip, every processing element's registers included."""
        total = 0
        for level in self.level[1:]:
            parts = level.capacity.values() if isinstance(level.capacity, dict) else [level.capacity or 0]
            total += sum(size(part) for part in parts) * (self.elements if level.inside else 1)
        return total

    def area(self) -> float:
        """A proxy in units of one 16-bit multiply-accumulate unit: one for each processing element, and one for each 32
        bytes on the chip. (Eyeriss spends about two thirds of its area on storage: JSSC 2017, Fig. 16.)"""
        return self.elements * (self.bits / 16) ** 2 + self.storage_bytes / 32


def with_bits(accelerator: Accelerator, bits: int) -> Accelerator:
    """The same accelerator with elements of another size; its memories hold more or fewer of them."""
    changed = msgspec.structs.replace(accelerator, bits=bits)
    check(changed)
    return changed


def size(amount: int | str) -> int:
    """Bytes: 110592, "108K" or "28M", in powers of 1024."""
    if isinstance(amount, int):
        return amount
    match = re.fullmatch(r"\s*(\d+(?:\.\d+)?)\s*([KMG]?)(?:i?B)?\s*", amount.replace("k", "K"))
    if match is None:
        raise InputError(f"{amount!r} is not a capacity: write bytes, or 108K, 28M (powers of 1024)")
    return int(float(match[1]) * _SCALE[match[2]])


def names() -> list[str]:
    """The accelerators that come with Lamina."""
    return [name for name in _device_names() if "[peak]" not in _text(name)]


def _device_names() -> list[str]:
    return sorted(f.name[:-5] for f in files("lamina.hardware").joinpath("devices").iterdir() if f.name.endswith(".toml"))


def _text(name: str) -> str:
    return files("lamina.hardware").joinpath("devices", f"{name}.toml").read_text("utf-8")


def load(text: str) -> Accelerator:
    """An accelerator by its name in devices/, or from a user's TOML file."""
    if text.endswith(".toml"):
        try:
            content = Path(text).read_text("utf-8")
        except (OSError, UnicodeDecodeError) as error:
            raise InputError(f"{text} cannot be read: {getattr(error, 'strerror', None) or error}") from error
        return parse(content, text)
    if text not in names():
        raise InputError(f"no accelerator is called {text!r}: there are {', '.join(names())}, or a file that ends in .toml")
    return _shipped(text)


@cache
def _shipped(name: str) -> Accelerator:
    return parse(_text(name), name)


def parse(content: str, place: str) -> Accelerator:
    """An accelerator from the text of its file; `place` names it in errors."""
    try:
        found = msgspec.convert(tomllib.loads(content), Accelerator)
    except tomllib.TOMLDecodeError as error:
        raise InputError(f"{place} is not TOML: {error}") from error
    except msgspec.ValidationError as error:
        raise InputError(f"{place}: {readable(str(error))}") from error
    try:
        check(found)
    except LaminaError as error:
        raise InputError(f"{place}: {error}") from error
    return found


def readable(message: str) -> str:
    """msgspec's words, with the file's own: "Object contains unknown field `cache` - at `$.level[1]`"."""
    message = re.sub(r"Object contains unknown field `(\w+)`", r"unknown key \1", message)
    message = re.sub(r"Object missing required field `(\w+)`", r"the key \1 is missing", message)
    message = re.sub(r" - at `\$\.level\[(\d+|\.\.\.)\]\.?(\w*)[^`]*`", r", in a [[level]] \2", message)
    return re.sub(r" - at `\$\.?([^`]*)`", r" (\1)", message).strip().rstrip(",")


def check(accelerator: Accelerator) -> None:
    """Raise `InputError` for what cannot be built."""
    a = accelerator
    if min(a.array) < 1 or a.elements > LARGEST_ARRAY:
        raise InputError(f"array {list(a.array)}: two sides of at least 1, and at most {LARGEST_ARRAY:,} elements together")
    if a.bits < 1 or a.network_energy < 0 or (a.clock is not None and a.clock <= 0):
        raise InputError("bits and clock are more than 0, network_energy is 0 or more")
    if a.systolic not in (None, "W", "I", "O"):
        raise InputError(f'systolic = "{a.systolic}": it names the stationary tensor, W, I or O')
    if not a.level:
        raise InputError("no [[level]]: the first one is the memory outside, which holds everything")
    titles = [level.name for level in a.level]
    if len(set(titles)) < len(titles) or "network" in titles or "multiply" in titles:
        raise InputError("every level has a name of its own, other than network and multiply")
    for before, after in zip(a.level, a.level[1:], strict=False):
        if before.inside and not after.inside:
            raise InputError(f"{after.name} is in the shared part, and stands after {before.name}, which is inside an element")
    _check_outermost(a.level[0])
    for level in a.level:
        _check_level(a, level)
    for dataflow in a.dataflows:
        expressible(a, dataflow)


def _check_outermost(level: Level) -> None:
    if level.capacity is not None or set(level.keeps) != set("WIO") or level.inside:
        raise InputError(f"{level.name} is the outermost level: it keeps W, I and O, and has no capacity")


def _check_level(accelerator: Accelerator, level: Level) -> None:
    if not set(level.keeps) <= set("WIO") or len(set(level.keeps)) < len(level.keeps):
        raise InputError(f'{level.name}: keeps = "{level.keeps}" is made of W, I and O, each once')
    if level.bits is not None and level.bits < 1:
        raise InputError(f"{level.name}: bits is 1 or more")
    if level.energy is not None and level.energy < 0:
        raise InputError(f"{level.name}: an access costs 0 or more")
    given = [getattr(level, key) for key in ("bandwidth", "read_bandwidth", "write_bandwidth")]
    if any(value is not None and value <= 0 for value in given):
        raise InputError(f"{level.name}: a bandwidth is more than 0 bytes per cycle")
    if given[0] is not None and (given[1] is not None or given[2] is not None):
        raise InputError(
            f"{level.name}: bandwidth is for both directions together, so it contradicts read_bandwidth and write_bandwidth:"
            " give one or the others"
        )
    if level != accelerator.level[0] and level.capacity is None:
        raise InputError(f"{level.name} has no capacity: only the first level is without")
    covered = "".join(level.capacity) if isinstance(level.capacity, dict) else level.keeps
    if sorted(covered) != sorted(level.keeps):
        raise InputError(f'{level.name}: the parts of its capacity are for "{covered}", and it keeps "{level.keeps}"')
    for tensors, held in accelerator.capacities(level.name):
        if held < len(tensors):
            raise InputError(
                f"{level.name} holds {held} element{'s' * (held != 1)} for {tensors}, and needs room for one of each tensor"
            )


def expressible(accelerator: Accelerator, dataflow: str) -> None:
    """Raise `InputError` where the accelerator's registers cannot keep what the dataflow leaves in them."""
    if dataflow not in DATAFLOWS:
        raise InputError(f"no dataflow is called {dataflow!r}: there are {', '.join(DATAFLOWS)}")
    if dataflow == "flexible":
        return
    kept = {tensor for level in accelerator.level if level.inside for tensor in level.keeps}
    missing = sorted(set(KEEPS[dataflow]) - kept)
    if missing:
        raise InputError(
            f"{accelerator.name} cannot run {dataflow} ({DATAFLOWS[dataflow]}): no level inside its processing elements keeps"
            f" {', '.join(missing)}"
        )


def allowed(accelerator: Accelerator, dataflow: str) -> tuple[str, ...]:
    """The dataflows that a request stands for: itself, or all that the accelerator can run."""
    if dataflow == "all":
        return accelerator.dataflows
    expressible(accelerator, dataflow)
    if dataflow not in accelerator.dataflows:
        raise InputError(f"{accelerator.name} runs {', '.join(accelerator.dataflows)}, not {dataflow} ({DATAFLOWS[dataflow]})")
    return (dataflow,)
