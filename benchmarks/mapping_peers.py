"""What `mapping.py --peers` runs with .mapping/bin/python: one peer on AlexNet's convolutions, as JSON on its last line.

The hierarchy is `SHARED` of mapping.py: registers of 64, 64 and 16 bytes, buffers of 64, 512 and 512 KB, DRAM; every access of
an 8-bit element costs 1, 25 and 1000.
"""

import importlib.metadata
import json
import sys
import tempfile
import time
from pathlib import Path

import yaml

REGISTERS = {"I1": 64, "I2": 64, "O": 16}
BUFFERS = {"I1": 512 * 1024, "I2": 64 * 1024, "O": 512 * 1024}


def zigzag(shapes: dict[str, dict[str, int]]) -> dict[str, tuple[float, float]]:
    """zigzag-dse, its own spatial and temporal mapping, least energy."""
    import logging

    from zigzag.api import get_hardware_performance_zigzag

    logging.disable(logging.CRITICAL)
    folder = Path(tempfile.mkdtemp())
    (folder / "accelerator.yaml").write_text(yaml.safe_dump(zigzag_accelerator()))
    (folder / "mapping.yaml").write_text(yaml.safe_dump([{
        "name": "default", "spatial_mapping": {"D1": ["K, 14"], "D2": ["C, 12"]},  # as its own default mapping lays them
        "memory_operand_links": {"O": "O", "W": "I2", "I": "I1"},
    }]))  # fmt: skip
    found = {}
    for name, shape in shapes.items():
        layer = zigzag_layer(name, shape)
        clock = time.perf_counter()
        energy, *_ = get_hardware_performance_zigzag(
            [layer], str(folder / "accelerator.yaml"), str(folder / "mapping.yaml"), opt="energy",
            dump_folder=str(folder / name), loma_show_progress_bar=False,
        )  # fmt: skip
        found[name] = (float(energy) * shape["G"], time.perf_counter() - clock)
    return found


def zigzag_layer(name: str, shape: dict[str, int]) -> dict:
    """One group of a convolution."""
    stride = shape["stride"]
    return {
        "id": 0, "name": name, "operator_type": "Conv",
        "equation": "O[b][k][oy][ox]+=W[k][c][fy][fx]*I[b][c][iy][ix]",
        "dimension_relations": [f"ix={stride}*ox+1*fx", f"iy={stride}*oy+1*fy"],
        "loop_dims": ["B", "K", "C", "OY", "OX", "FY", "FX"],
        "loop_sizes": [shape[dim] for dim in ("N", "M", "C", "P", "Q", "R", "S")],
        "operand_precision": {"W": 8, "I": 8, "O": 8, "O_final": 8},
        "operand_source": {"I": 0, "W": 0},
    }  # fmt: skip


def zigzag_accelerator() -> dict:
    def port(name: str, kind: str, allocation: list[str]) -> dict:
        return {"name": name, "type": kind, "bandwidth_min": 8, "bandwidth_max": 1 << 16, "allocation": allocation}

    def memory(operand: str, size: int, cost: float, served: list[str]) -> dict:
        flows = {"O": (["O, tl", "O, th"], ["O, fh", "O, fl"])}.get(operand, ([f"{operand}, tl"], [f"{operand}, fh"]))
        ports = [port("r_port_1", "read", flows[0]), port("w_port_1", "write", flows[1])]
        return {"size": 8 * size, "r_cost": cost, "w_cost": cost, "area": 0, "latency": 1, "operands": [operand],
                "ports": ports, "served_dimensions": served}  # fmt: skip

    memories = {f"rf_{op}": memory(op, size, 1, []) for op, size in REGISTERS.items()}
    memories |= {f"sram_{op}": memory(op, size, 25, ["D1", "D2"]) for op, size in BUFFERS.items()}
    everything = [f"{op}, {way}" for op in ("I1", "I2") for way in ("fh", "tl")] + ["O, fh", "O, tl", "O, fl", "O, th"]
    memories["dram"] = {
        "size": 10**11, "r_cost": 1000, "w_cost": 1000, "area": 0, "latency": 1, "operands": ["I1", "I2", "O"],
        "ports": [port("rw_port_1", "read_write", everything)], "served_dimensions": ["D1", "D2"],
    }  # fmt: skip
    array = {"unit_energy": 0, "unit_area": 0, "dimensions": ["D1", "D2"], "sizes": [14, 12]}
    return {"name": "shared", "memories": memories, "operational_array": array}


if __name__ == "__main__":
    tool, shapes = sys.argv[1], json.loads(sys.argv[2])
    if tool == "zigzag":
        result, package = zigzag(shapes), "zigzag-dse"
    else:
        from mapping_accelforge import accelforge  # type: ignore[import-not-found]

        result, package = accelforge(shapes), "accelforge"
    print(json.dumps({"version": importlib.metadata.version(package), **result}))
