"""What `mapping.py --peers` runs with .mapping/bin/python: the best mappings that zigzag-dse finds on a hierarchy.

Reads one JSON document from standard input (`asked` in mapping.py), and prints one line of JSON for each nest: the energy in
multiply-accumulates, the cycles, the seconds, and the mapping as nodes from the outermost inwards, each
{"keeps": [level, tensors]} or {"loop": [dimension, bound, spatial]}.
"""

import importlib.metadata
import json
import logging
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import yaml
import zigzag.api

DIMS = {"N": "B", "G": "G", "M": "K", "C": "C", "P": "OY", "Q": "OX", "R": "FY", "S": "FX"}
LETTERS = {name: letter for letter, name in DIMS.items()}
OPERANDS = {"W": "I2", "I": "I1", "O": "O"}


class EveryRead(zigzag.api.MainStage):
    """Its pipeline, in which every multiply-accumulate reads its operands from the registers, as ours and AccelForge's do. Its
    own setting charges no read where an operand stays the same from one cycle to the next."""

    def __init__(self, **settings: Any):
        super().__init__(**settings | {"access_same_data_considered_as_no_access": False})


def memory(level: dict[str, Any], bits: int) -> dict[str, Any]:
    """One port for everything. An access moves one element: zigzag-dse rounds accesses down, so a wide port would lose some.
    (Its cycles are then those of so narrow a port, and are not compared.)"""
    ways = [f"{operand}, {way}" for operand in ("I1", "I2") for way in ("fh", "tl")]
    ways += [f"O, {way}" for way in ("fh", "tl", "fl", "th")]
    port = {"name": "rw_port_1", "type": "read_write", "bandwidth_min": bits, "bandwidth_max": bits, "allocation": ways}
    size, energy = level["elements"] * bits if level["elements"] else 10**12, level["energy"]
    return {
        "size": size, "r_cost": energy, "w_cost": energy, "area": 0, "latency": 1,
        "operands": ["I1", "I2", "O"], "ports": [port], "served_dimensions": [] if level["inside"] else ["D1", "D2"],
    }  # fmt: skip


def accelerator(asked: dict[str, Any]) -> dict[str, Any]:
    levels = {level["name"]: memory(level, asked["bits"]) for level in reversed(asked["levels"])}
    array = {"unit_energy": 1, "unit_area": 0, "dimensions": ["D1", "D2"], "sizes": asked["array"]}
    return {"name": "hierarchy", "memories": levels, "operational_array": array}


def layer(place: int, nest: dict[str, Any], bits: int) -> dict[str, Any]:
    size = {DIMS[dim]: bound for dim, bound in nest["bounds"].items()}
    (down, across), (P, Q) = nest["stride"], (size["OY"], size["OX"])
    inputs = [(Q - 1) * across + size["FX"], (P - 1) * down + size["FY"]]
    return {
        "id": place, "name": f"layer{place}", "operator_type": "Conv",
        "equation": "O[b][g][k][oy][ox]+=W[g][k][c][fy][fx]*I[b][g][c][iy][ix]",
        "loop_dims": list(size), "loop_sizes": list(size.values()),
        "dimension_relations": [f"ix={across}*ox+1*fx", f"iy={down}*oy+1*fy"],
        "operand_precision": {"W": bits, "I": bits, "O": bits, "O_final": bits}, "operand_source": {"W": place, "I": place},
        "pr_loop_dims": ["IX", "IY"], "pr_loop_sizes": inputs, "padding": [[0, 0], [0, 0]],
    }  # fmt: skip


def nodes(found: Any, levels: list[str]) -> list[dict[str, Any]] | None:
    """The mapping, outermost node first; None where a tensor's buffer tile is smaller than what another keeps in registers."""
    temporal = found.temporal_mapping.mapping_dic_stationary
    loops = [loop for level in next(iter(temporal.values())) for loop in level]  # innermost first, the same for all tensors
    below: dict[tuple[str, str], int] = {}  # for each level and tensor how many loops it holds
    for operand, parts in temporal.items():
        held = 0
        for level, part in zip(reversed(levels), parts, strict=True):
            held += len(part)
            below[level, str(operand)] = held
    inside = max(held for (level, _), held in below.items() if level == levels[-1])
    if any(held < inside for (level, _), held in below.items() if level != levels[-1]):
        return None
    spread = [
        {"loop": [LETTERS[str(dim)], round(factor), True]}
        for some in found.spatial_mapping.spatial_loop_dim_size for dim, factor in [some]
    ]  # fmt: skip
    result: list[dict[str, Any]] = [{"keeps": [levels[0], "WIO"]}]
    for held in range(len(loops), -1, -1):
        for level in levels[1:]:
            kept = "".join(tensor for tensor in "WIO" if below[level, tensor] == held)
            if level == levels[-1] and held == inside:
                result += spread
            if kept:
                result.append({"keeps": [level, kept]})
        if held:
            dim, bound = loops[held - 1]
            result.append({"loop": [LETTERS[str(dim)], round(bound), False]})
    return result


def main() -> None:
    logging.disable(logging.CRITICAL)
    zigzag.api.MainStage = EveryRead
    asked = json.load(sys.stdin)
    links = {tensor: operand for tensor, operand in OPERANDS.items()}
    sides = {"D1": [f"K, {asked['array'][0]}"], "D2": [f"C, {asked['array'][1]}"]}  # as in its own default.yaml
    levels = [level["name"] for level in asked["levels"]]
    with tempfile.TemporaryDirectory() as folder:
        for name, content in (
            ("hardware", accelerator(asked)),
            ("mapping", [{"name": "default", "spatial_mapping": sides, "memory_operand_links": links}]),
        ):
            (Path(folder) / f"{name}.yaml").write_text(yaml.safe_dump(content, sort_keys=False))
        for place, nest in enumerate(asked["nests"]):
            clock, cpu = time.perf_counter(), time.process_time()
            energy, cycles, found = zigzag.api.get_hardware_performance_zigzag(
                [layer(place, nest, asked["bits"])], f"{folder}/hardware.yaml", f"{folder}/mapping.yaml", opt="energy",
                dump_folder=f"{folder}/out", loma_show_progress_bar=False,
            )  # fmt: skip
            clock, cpu = time.perf_counter() - clock, time.process_time() - cpu
            one = found[0][1][0][0]
            row = {"energy": float(energy), "cycles": float(cycles), "clock": clock, "cpu": cpu}
            print(
                json.dumps(row | {"version": importlib.metadata.version("zigzag-dse"), "mapping": nodes(one, levels)}),
                flush=True,
            )


if __name__ == "__main__":
    main()
