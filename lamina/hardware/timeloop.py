"""A tiling as Timeloop v4 reads it: its own problem, and the mapping as factors and permutations for each level.

Timeloop's factors multiply to the bounds exactly. Where a tile does not divide its dimension, the problem that is written
is the padded one, and a comment says so. A Timeloop level has one tile, in one place of a fixed order of levels. A tensor that
lies lower than what else its level keeps is written as a level of its own, named after both, and a comment says in which order
the architecture must have its levels for this mapping.
"""

import math

from lamina.hardware.accelerator import Accelerator
from lamina.hardware.mapping import Loop, Tiling
from lamina.hardware.nest import DIMS, TENSORS, Nest

SPACES = {"W": "Weights", "I": "Inputs", "O": "Outputs"}


def mapping(nest: Nest, tiling: Tiling, accelerator: Accelerator, title: str = "") -> str:
    """The YAML document: `problem` (its instance) and `mapping`."""
    padded = {dim: math.prod(loop.bound for loop in tiling.loops(dim)) for dim in DIMS}
    lines = [f"# {title}" if title else "# a mapping", f"# accelerator: {accelerator.name}"]
    grown = [f"{dim} {getattr(nest, dim)} to {padded[dim]}" for dim in DIMS if padded[dim] != getattr(nest, dim)]
    if grown:
        lines.append(f"# Timeloop's factors must multiply to the bounds, so these are padded: {', '.join(grown)}")
    if nest.transposed:
        lines.append("# a transposed convolution: P and Q walk over the input; Timeloop's convolution shape does not fit it")
    targets = _targets(tiling)
    if targets != [level.name.replace(" ", "_") for level in accelerator.level]:
        lines.append(f"# levels of the architecture, the outermost first: {', '.join(targets)}")
    for level in accelerator.level:
        parts = [target for target, tier in zip(targets, tiling.tiers, strict=True) if tier.level == level.name]
        lines += [f"# {' and '.join(parts)} share the capacity of {level.name}"] if len(parts) > 1 else []
    lines += ["problem:", "  version: 0.4", "  instance:"]
    lines += [f"    {dim}: {padded[dim]}" for dim in DIMS]
    lines += [f"    Hstride: {nest.stride[1]}", f"    Wstride: {nest.stride[0]}"]
    lines += [f"    Hdilation: {nest.dilation[1]}", f"    Wdilation: {nest.dilation[0]}"]
    lines += ["  shape:", "    name: grouped_conv2d", f"    dimensions: [{', '.join(DIMS)}]", "    coefficients:"]
    lines += [f"    - {{name: {name}, default: 1}}" for name in ("Wstride", "Hstride", "Wdilation", "Hdilation")]
    lines += ["    data_spaces:", *_spaces(nest), "mapping:"]
    for name, tier in reversed(list(zip(targets, tiling.tiers, strict=True))):
        keeps = [SPACES[tensor] for tensor in TENSORS if tensor in tier.keeps]
        bypass = [SPACES[tensor] for tensor in TENSORS if tensor not in tier.keeps]
        lines += [f"- target: {name}", "  type: datatype", f"  keep: [{', '.join(keeps)}]", f"  bypass: [{', '.join(bypass)}]"]
        for spatial in (True, False):
            loops = [loop for loop in tier.loops if loop.spatial == spatial]
            if loops or not spatial:
                lines += _factors(name, loops, spatial)
    return "\n".join(lines) + "\n"


def _targets(tiling: Tiling) -> list[str]:
    """A name for each tier: its level's, and for a further tier of a level also that of its tensors."""
    names: list[str] = []
    for tier in tiling.tiers:
        name = tier.level.replace(" ", "_")
        names.append(name if name not in names else "_".join([name, *(SPACES[tensor] for tensor in tier.keeps)]))
    return names


def _spaces(nest: Nest) -> list[str]:
    window = "[[[R, Wdilation], [P, Wstride]], [[S, Hdilation], [Q, Hstride]]]"[1:-1]
    plain = {X: ", ".join(f"[[{dim}]]" for dim in nest.plain[X]) for X in TENSORS}
    lines = []
    for tensor in TENSORS:
        projection = plain[tensor] + (f", {window}" if tensor == nest.windowed else "")
        lines += [f"    - name: {SPACES[tensor]}", f"      projection: [{projection}]"]
        if tensor == "O":
            lines.append("      read_write: true")
    return lines


def _factors(target: str, loops: list[Loop], spatial: bool) -> list[str]:
    """Factors of one level; the permutation has its innermost loop first, as Timeloop wants it."""
    bound = {dim: math.prod(loop.bound for loop in loops if loop.dim == dim) for dim in DIMS}
    inner = list(dict.fromkeys(loop.dim for loop in reversed(loops)))
    order = inner + [dim for dim in DIMS if dim not in inner]
    lines = [f"- target: {target}", f"  type: {'spatial' if spatial else 'temporal'}"]
    lines += [f"  factors: [{', '.join(f'{dim}={bound[dim]}' for dim in DIMS)}]", f"  permutation: [{', '.join(order)}]"]
    return lines
