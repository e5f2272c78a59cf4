"""Numbers and their units, as text and back. Decimal prefixes throughout, also for bytes (1 MB = 1,000,000 bytes)."""

import re
from collections.abc import Iterable

_PREFIXES = ((10**15, "P"), (10**12, "T"), (10**9, "G"), (10**6, "M"), (10**3, "k"))


def si(value: float, digits: int = 3) -> str:
    """3857973248 to "3.86 G": `digits` significant ones, never fewer than the integer part has."""
    for scale, prefix in _PREFIXES:
        # 999,600 is 1.00 M rather than 1000 k
        if abs(value) >= scale * (1 - 0.5 * 10**-digits):
            return f"{f'{value / scale:#.{digits}g}'.rstrip('.')} {prefix}"
    return f"{value:.0f}" if float(value).is_integer() else f"{value:.{digits}g}"


def macs(value: float) -> str:
    return f"{si(value)}{'' if abs(value) >= 1000 else ' '}MACs"


def per_second(value: float, unit: str) -> str:
    """ "19.5 TFLOP/s"; nothing for none."""
    return f"{si(value)}{'' if abs(value) >= 1000 else ' '}{unit}/s" if value else ""


def bytes_(value: float) -> str:
    return f"{si(value)}{'' if abs(value) >= 1000 else ' '}B"


def percent(value: float, signed: bool = False) -> str:
    """81.4 -> "81.4 %", 3762 -> "3,762 %", 0.0004 -> "0.0004 %"."""
    sign = "+" if signed else ""
    digits = f"{value:{sign},.0f}" if abs(value) >= 100 else f"{value:{sign}.3g}"
    return f"{digits} %"


def parse(text: str) -> float:
    """ "5G", "5 GMACs", "8GB", "30M", "1.5e9" to a number; decimal prefixes."""
    match = re.fullmatch(r"\s*([0-9.]+(?:e[0-9]+)?)\s*([kKMGTP]?)(?:MACs|FLOPs|B|)\s*", text)
    if match is None:
        raise ValueError(f"{text!r} is not a number with a unit, such as 5G, 30M or 8GB")
    scale = {prefix: scale for scale, prefix in _PREFIXES} | {"": 1, "K": 1000}
    return float(match[1]) * scale[match[2]]


def shape(sizes: Iterable[object]) -> str:
    """(1, 3, 224, 224) to "1x3x224x224"; a size may have a name, as in "Bx3x224x224". Of a scalar it is empty."""
    return "x".join(map(str, sizes))


def parse_shape(text: str) -> tuple[int, ...]:
    """ "1x3x224x224" to (1, 3, 224, 224)."""
    parts = re.split(r"[x,]", text)
    if not all(part.isdigit() and int(part) > 0 for part in parts):
        raise ValueError(f"{text!r} is not a valid shape: write positive sizes joined by x, such as 1x3x224x224")
    return tuple(int(part) for part in parts)
