"""How loop nests are laid over a processing array. So far: the spatial part, for three fixed dataflows."""

import math
from collections.abc import Mapping
from dataclasses import dataclass

from lamina.workload import Loops

ARRAY = (12, 14)  # rows, columns: Eyeriss, Chen et al., IEEE JSSC 52(1), 2017


@dataclass(frozen=True)
class Dataflow:
    """The loop that runs along the array's rows and the one along its columns; all others run in time."""

    name: str
    rows: str
    columns: str


# The fixed dataflows of Chen, Emer, Sze, ISCA 2016, in the simplest form of each.
WEIGHT_STATIONARY = Dataflow("weight stationary", "C", "M")
OUTPUT_STATIONARY = Dataflow("output stationary", "P", "Q")
ROW_STATIONARY = Dataflow("row stationary", "R", "P")
DATAFLOWS = (WEIGHT_STATIONARY, OUTPUT_STATIONARY, ROW_STATIONARY)


@dataclass(frozen=True)
class Spatial:
    """A nest on the array: the processing elements in use, and the share of all element-cycles that do a MAC."""

    used: int
    utilisation: float


def bounds(nest: Loops) -> Mapping[str, int]:
    """The nest's loop bounds by letter; an axis it does not have is 1."""
    P, Q = (*nest.output, 1, 1)[:2]
    R, S = (*nest.filter, 1, 1)[:2]
    return {"N": nest.N, "G": nest.G, "M": nest.M, "C": nest.C, "P": P, "Q": Q, "R": R, "S": S}


def spatial(nest: Loops, dataflow: Dataflow, array: tuple[int, int] = ARRAY) -> Spatial:
    """Without replication: a loop of bound D takes f = min(D, side) elements and ceil(D / f) passes, so the utilisation is
    the product over both sides of D / (ceil(D / f) f) times the share of elements in use."""
    used, share = 1, 1.0
    for letter, side in ((dataflow.rows, array[0]), (dataflow.columns, array[1])):
        size = bounds(nest)[letter]
        f = min(size, side)
        used *= f
        share *= size / (math.ceil(size / f) * f)
    return Spatial(used, share * used / (array[0] * array[1]))
