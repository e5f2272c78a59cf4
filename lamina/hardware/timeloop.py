"""A tiling as Timeloop v4 reads it: its own problem, and the mapping as factors and permutations for each level.

Timeloop's factors multiply to the bounds exactly. Where a tile does not divide its dimension, the problem that is written
is the padded one, and a comment says so.
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
    lines += ["problem:", "  version: 0.4", "  instance:"]
    lines += [f"    {dim}: {padded[dim]}" for dim in DIMS]
    lines += [f"    Hstride: {nest.stride[1]}", f"    Wstride: {nest.stride[0]}"]
    lines += [f"    Hdilation: {nest.dilation[1]}", f"    Wdilation: {nest.dilation[0]}"]
    lines += ["  shape:", "    name: grouped_conv2d", f"    dimensions: [{', '.join(DIMS)}]", "    coefficients:"]
    lines += [f"    - {{name: {name}, default: 1}}" for name in ("Wstride", "Hstride", "Wdilation", "Hdilation")]
    lines += ["    data_spaces:", *_spaces(nest), "mapping:"]
    for tier in reversed(tiling.tiers):
        keeps = [SPACES[tensor] for tensor in TENSORS if tensor in tier.keeps]
        bypass = [SPACES[tensor] for tensor in TENSORS if tensor not in tier.keeps]
        name = tier.level.replace(" ", "_")
        lines += [f"- target: {name}", "  type: datatype", f"  keep: [{', '.join(keeps)}]", f"  bypass: [{', '.join(bypass)}]"]
        for spatial in (True, False):
            loops = [loop for loop in tier.loops if loop.spatial == spatial]
            if loops or not spatial:
                lines += _factors(name, loops, spatial)
    return "\n".join(lines) + "\n"


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
