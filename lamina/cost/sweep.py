"""Cost as a function of size: tables over resolutions, batches or sequence lengths, and the largest that fits a limit.

Nothing here knows how a network is traced: `measure` is a function of the size that gives a `Workload`, or raises an
`InputError` where the network refuses the size.
"""

import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

from lamina import units
from lamina.cost import memory
from lamina.cost.memory import Training
from lamina.errors import InputError, LaminaError
from lamina.workload import Workload

Axis = Literal["resolution", "batch", "sequence"]
Measure = Callable[[int], Workload]
AXES: tuple[Axis, ...] = ("resolution", "batch", "sequence")
LARGEST = 1 << 24  # no resolution, batch or sequence beyond this is tried
MOST = 1000  # rows of one sweep
STEPS = (1, 2, 4, 7, 8, 14, 16, 28, 32, 64)  # between sizes that a network takes: patches and windows are of these


@dataclass(frozen=True, slots=True)
class Sweep:
    axis: Axis
    sizes: tuple[int, ...]


@dataclass(frozen=True, slots=True)
class Point:
    """The network at one size: its workload, or in `refusal` why it takes no input of that size."""

    size: int
    workload: Workload | None
    refusal: str = ""


@dataclass(frozen=True, slots=True)
class Limit:
    """A bound on MACs, or on bytes of memory."""

    quantity: Literal["MACs", "B"]
    value: int


@dataclass(frozen=True, slots=True)
class Fit:
    """The largest size within the limit and its figure; the next size, which goes beyond, or is refused (figure None)."""

    size: int
    figure: int
    next_size: int
    next_figure: int | None


def parse(text: str) -> Sweep:
    """ "resolution=128:512:32" (first, last, step; the step is 1 by default), "batch=1,2,4" or "sequence=128"."""
    axis, equals, values = text.partition("=")
    if axis not in AXES or not equals:
        raise InputError(f"--sweep {text}: write {', '.join(AXES)} and sizes, such as resolution=128:512:32 or batch=1,2,4")
    if re.fullmatch(r"\d{1,9}(,\d{1,9})*", values):
        sizes = tuple(dict.fromkeys(map(int, values.split(","))))
    elif re.fullmatch(r"\d{1,9}:\d{1,9}(:\d{1,9})?", values):
        first, last, step = (*map(int, values.split(":")), 1)[:3]
        if step < 1 or last < first:
            raise InputError(f"--sweep {text}: the range {values} has no sizes; write FIRST:LAST:STEP with a positive step")
        if (last - first) // step >= MOST:
            raise InputError(f"--sweep {text}: {(last - first) // step + 1:,} sizes; at most {MOST:,} are traced at once")
        sizes = tuple(range(first, last + 1, step))
    else:
        raise InputError(f"--sweep {text}: {values!r} is neither FIRST:LAST:STEP nor a list such as 128,192,256")
    if min(sizes) < 1:
        raise InputError(f"--sweep {text}: sizes are positive")
    if len(sizes) > MOST:
        raise InputError(f"--sweep {text}: {len(sizes):,} sizes; at most {MOST:,} are traced at once")
    return Sweep(axis, sizes)  # type: ignore[arg-type]


def resize(shape: tuple[int, ...], axis: Axis, size: int, tokens: bool) -> tuple[int, ...]:
    """The input's shape at another size: the batch comes first, an image's height and width last; a sequence is the
    second axis of (batch, tokens) or of (batch, tokens, features)."""
    if axis == "batch":
        return (size, *shape[1:])
    if axis == "resolution":
        if tokens or len(shape) < 4:
            raise InputError(f"a {units.shape(shape)} input has no resolution; sweep batch or sequence")
        return (*shape[:2], *(size for _ in shape[2:]))
    if not tokens and len(shape) != 3:
        raise InputError(f"a {units.shape(shape)} input is not a sequence; sweep batch or resolution")
    return (shape[0], size, *shape[2:])


def run(sweep: Sweep, measure: Measure) -> list[Point]:
    """One point per size; a size that the network refuses is a point that says so. If every one is refused, the first
    refusal is raised."""
    points = []
    for size in sweep.sizes:
        try:
            points.append(Point(size, measure(size)))
        except InputError as error:
            points.append(Point(size, None, str(error)))
    if all(point.workload is None for point in points):
        raise InputError(points[0].refusal)
    return points


def document(
    asked: Sweep,
    points: Sequence[Point],
    model: str,
    inputs: Mapping[int, str],
    training: Callable[[int], Training] | None = None,
) -> dict[str, Any]:
    """The points as {"model", "axis", "points"}, one row per size: its input (`inputs`, as it is written), its counts and its
    bytes for inference and, with `training`, a function of the size, for a training step; None where it is refused."""
    rows = []
    for point in points:
        row: dict[str, Any] = {asked.axis: point.size, "input": inputs[point.size]}
        row |= dict.fromkeys(("macs", "parameters", "activations", "peak_activation_bytes", "inference_bytes"))
        if training is not None:
            row["training_bytes"] = None
        if (work := point.workload) is not None:
            row |= {key: getattr(work.total(), key) for key in ("macs", "parameters", "activations")}
            row |= {"peak_activation_bytes": work.peak_activation_bytes, "inference_bytes": memory.inference_bytes(work)}
            if training is not None:
                row["training_bytes"] = training(point.size).total
        rows.append(row | {"refusal": point.refusal.removeprefix(f"{model} on {row['input']}: ")})
    return {"model": model, "axis": asked.axis, "points": rows}


def fit_document(found: Fit, axis: Axis, limit: Limit, model: str, shape: Sequence[int]) -> dict[str, Any]:
    """`shape` is the first input's at the size found."""
    document = {"model": model, "axis": axis, "limit": limit.value, "quantity": limit.quantity, "size": found.size}
    return document | {
        "input": shape,
        "figure": found.figure,
        "next_size": found.next_size,
        "next_figure": found.next_figure,
    }


def parse_fit(text: str, tokens: bool) -> tuple[Axis, Limit]:
    """ "5GMACs" is a limit for the largest input (resolution, or length of a sequence), "8GB" for the largest batch;
    "batch=5GMACs", "resolution=8GB" say which."""
    axis, equals, limit = text.rpartition("=")
    if equals and axis not in AXES:
        raise InputError(f"--fit-under {text}: {axis!r} is not one of {', '.join(AXES)}")
    bound = parse_limit(limit)
    plain: Axis = "batch" if bound.quantity == "B" else "sequence" if tokens else "resolution"
    return (axis if equals else plain), bound  # type: ignore[return-value]


def parse_limit(text: str) -> Limit:
    """ "5GMACs", "5G" (MACs), "10 GFLOPs" (two per MAC) or "8GB"."""
    match = re.fullmatch(r"\s*([0-9.]+(?:e[0-9]+)?\s*[kKMGTP]?)\s*(MACs?|FLOPs?|B|)\s*", text)
    try:
        value = units.parse(match[1]) if match else 0.0
    except ValueError:
        value = 0.0
    if match is None or value < 1:
        raise InputError(f"{text!r} is not a limit: write multiply-accumulates or bytes, such as 5GMACs or 8GB")
    if match[2] == "B":
        return Limit("B", int(value))
    return Limit("MACs", int(value / 2 if match[2].startswith("FLOP") else value))


def largest(measure: Measure, figure: Callable[[Workload], int], limit: int, start: int, what: str) -> Fit:
    """The largest size whose `figure` is at most `limit`; `start` is a size that the network takes. Every trial is an
    exact trace. Sizes go in the smallest steps that the network takes (a vision transformer: its patch). Doubling, then
    bisection, on the premise that cost grows with size; above `start` a refused size counts as too large, below as too
    small. The result is verified: it is within the limit, and the next size is not, or is refused."""
    search = _Search(measure, figure)
    if search.cost(start) is None:
        raise InputError(search.refusals[start])
    step = next((s for s in STEPS if search.cost(start + s) is not None), 0)
    low, high = 0, start
    if search.within(start, limit):
        low, high = start, start + step
        while step and search.within(high, limit):
            if high > LARGEST:
                raise LaminaError(f"every {what} up to {high:,} fits")
            low, high = high, (2 * high - start % step) // step * step + start % step
    step = step or start
    while high - low > step:
        middle = low + (high - low) // step // 2 * step
        middle += (start - middle) % step
        too_small = middle < start and search.cost(middle) is None
        low, high = (middle, high) if too_small or search.within(middle, limit) else (low, middle)
    found = search.cost(low) if low else None
    if found is None or found > limit:
        least = min(size for size, cost in search.tried.items() if cost is not None)
        raise InputError(f"nothing fits: {what} {least} takes {search.tried[least]:,}, and the limit is {limit:,}")
    return Fit(low, found, high if high > low else low + step, search.cost(high) if high > low else None)


class _Search:
    """The sizes tried so far: what each costs, None where it is refused."""

    def __init__(self, measure: Measure, figure: Callable[[Workload], int]):
        self.measure, self.figure = measure, figure
        self.tried: dict[int, int | None] = {}
        self.refusals: dict[int, str] = {}

    def cost(self, size: int) -> int | None:
        if size not in self.tried:
            try:
                self.tried[size] = self.figure(self.measure(size))
            except InputError as error:
                self.tried[size] = None
                self.refusals[size] = str(error)
        return self.tried[size]

    def within(self, size: int, limit: int) -> bool:
        found = self.cost(size)
        return found is not None and found <= limit
