"""What `mapping.py --peers` runs with .accelforge/bin/python: AccelForge's best mapping of one layer on a hierarchy.

Reads one JSON document from standard input (`asked` in mapping.py), and prints one line of JSON: the energy in
multiply-accumulates, the seconds, and the mapping as nodes from the outermost inwards, each {"keeps": [level, tensors]} or
{"loop": [dimension, bound, spatial]}.
"""

import importlib.metadata
import json
import logging
import sys
import tempfile
import time
from typing import Any

import accelforge as af
import yaml
from accelforge.frontend.mapping import Spatial, Storage, Temporal
from accelforge.mapper.FFM.main import map_workload_to_arch


class Tagged(dict):
    """A node of the architecture with its YAML tag."""


def memory(level: dict[str, Any], bits: int) -> Tagged:
    action = {"energy": level["energy"], "bits_per_action": bits, "throughput": "inf"}
    kept = {"keep": "Nothing", "may_keep": "All"} if level["inside"] else {"keep": "All"}  # our registers may be passed by, too
    size = level["elements"] * bits if level["elements"] else "inf"
    actions = [{"name": name} | action for name in ("read", "write")]
    return Tagged(tag="!Memory", name=level["name"], size=size, leak_power=0, area=0, tensors=kept, actions=actions)


def specification(asked: dict[str, Any]) -> str:
    bits, nodes = asked["bits"], []
    for level in asked["levels"]:
        if level["inside"] and not any(node["tag"] == "!Container" for node in nodes):
            sides = [{"name": name, "fanout": side} for name, side in zip("XY", asked["array"], strict=True)]
            nodes.append(Tagged(tag="!Container", name="array", spatial=sides))
        nodes.append(memory(level, bits))
    compute = {"name": "compute", "energy": 1, "throughput": 1}
    nodes.append(Tagged(tag="!Compute", name="multiplier", leak_power=0, area=0, actions=[compute]))
    nest = {dim.lower(): bound for dim, bound in asked["nest"].items()}

    def some(dims: str) -> list[str]:
        return [dim for dim in dims if dim in nest]

    windows = [
        f"{name}: {p} * {stride} + {r}" if r in nest else f"{name}: {p} * {stride}"
        for name, p, r, stride in (("H", "p", "r", asked["stride"][0]), ("W", "q", "s", asked["stride"][1]))
        if p in nest
    ]
    output, inputs, weights = (", ".join(dims) for dims in (some("ngmpq"), some("ngc") + windows, some("gmcrs")))
    equation = f"O[{output}] = I[{inputs}] * W[{weights}]"
    names = {"output": "O", "input": "I", "weight": "W"}
    accesses = [{"name": name, "source": tensor, "expected_count": 1} for name, tensor in names.items()]
    space = [f"0 <= {dim} < {bound}" for dim, bound in nest.items()]
    return yaml.dump({
        "arch": {"nodes": nodes},
        "renames": {"einsums": [{"name": "default", "tensor_accesses": accesses}]},
        "workload": {"bits_per_value": {"All": bits},
                     "einsums": [{"einsum": equation, "iteration_space_shape": space, "renames": names}]},
    })  # fmt: skip


yaml.add_representer(
    Tagged, lambda dumper, node: dumper.represent_mapping(node["tag"], {k: v for k, v in node.items() if k != "tag"})
)


def nodes(mapping: Any, nest: dict[str, int]) -> list[dict[str, Any]]:
    """The mapping, outermost node first."""
    found: list[dict[str, Any]] = []
    tile = {dim.lower(): bound for dim, bound in nest.items()}
    for node in mapping.nodes:
        if isinstance(node, Storage):
            found.append({"keeps": [str(node.component), "".join(map(str, node.tensors))]})
        elif isinstance(node, Temporal | Spatial):
            dim, inner = str(node.rank_variable), int(node.tile_shape)
            found.append({"loop": [dim.upper(), -(-tile[dim] // inner), isinstance(node, Spatial)]})
            tile[dim] = inner
    return found


def main() -> None:
    logging.disable(logging.CRITICAL)
    asked = json.load(sys.stdin)
    af.set_n_parallel_jobs(1)
    with tempfile.NamedTemporaryFile("w", suffix=".yaml") as file:
        file.write(specification(asked))
        file.flush()
        spec = af.Spec.from_yaml(file.name)
    spec.mapper.metrics = af.Metrics.ENERGY
    clock, cpu = time.perf_counter(), time.process_time()
    found = map_workload_to_arch(spec, print_progress=False, eval_in_detail=False)  # the mapper alone, without its drawing
    clock, cpu = time.perf_counter() - clock, time.process_time() - cpu
    row = found.data.iloc[0]
    energy = float(row["Total<SEP>energy"])
    version = importlib.metadata.version("accelforge")
    mapping = nodes(row["Total<SEP>mapping"](), asked["nest"])
    print(json.dumps({"version": version, "energy": energy, "clock": clock, "cpu": cpu, "mapping": mapping}))


if __name__ == "__main__":
    main()
