"""How fast mappings are found, and how good they are beside those of zigzag-dse and AccelForge on the same hierarchy.

python benchmarks/mapping.py                     AlexNet and ResNet-50, one core
python benchmarks/mapping.py --peers             and both peers (in .mapping and .accelforge: make mapping)
python benchmarks/mapping.py --peers --record    and write benchmarks/records/mapping.json

Beside a peer everything is the same: the layers, the memories, the array, and the price of an access. Its best mapping is also
counted by our model: what is left between the two counts of one mapping is a difference of the models, and what is left
between the two mappings in one count is a difference of the searches.
"""

import os

os.environ.setdefault("OMP_NUM_THREADS", "1")  # one core, also of NumPy's libraries

import argparse
import json
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

HERE = Path(__file__).resolve().parent
LIMIT = 1200  # seconds for one call of a peer
# The resources of rs_256. Neither peer prices the way between the buffer and an element.
HIERARCHY = """
name = "hierarchy"
array = [16, 16]
dataflows = ["flexible"]
network_energy = 0
[[level]]
name = "DRAM"
[[level]]
name = "buffer"
capacity = "128K"
[[level]]
name = "registers"
inside = true
capacity = 512
"""
# What AccelForge maps in minutes: matrix products (N, M, C). A convolution of one axis (M 16, C 8, Q 12, S 3) takes it longer.
SHAPES = {
    "square": (128, 128, 128),
    "wide": (64, 128, 256),
    "narrow": (32, 96, 64),
    "tall": (1024, 16, 64),
    "larger than the buffer": (512, 512, 512),
    "prime sizes": (61, 83, 127),
    "LeNet-5's f6, batch 2": (2, 84, 120),
    "LeNet-5's f6, batch 16": (16, 84, 120),
    "ResNet-50's classifier": (1, 1000, 2048),
    "ViT-B/16's projection": (197, 768, 768),
}


def main() -> None:
    import record

    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--peers", action="store_true")
    parser.add_argument("--only", choices=PEERS, help="this peer alone")
    parser.add_argument("--record", action="store_true", help="write benchmarks/records/mapping.json (with --peers)")
    options = parser.parse_args()
    if options.record and not options.peers:
        parser.error("--record needs --peers: the record has both")
    origin = record.provenance()
    print(f"load of the machine {os.getloadavg()[0]:.1f}; CPU seconds of this process, and seconds by the clock")
    found = {"speed": [] if options.only else list(speed()), "rows": []}
    for name, peer in PEERS.items():
        if options.peers or options.only == name:
            found["rows"] += peer()
    if options.record and (missing := [row["refusal"] for row in found["rows"] if "refusal" in row]):
        sys.exit(f"not recorded: {missing[0]}")
    if options.record:
        record.write("mapping", origin, **found)


# ---- speed ------------------------------------------------------------------------------------------------------------


def timed(model: str, device: str, objective: Any = "energy", dataflow: str = "all") -> dict[str, Any]:
    from lamina.cli import network
    from lamina.hardware import accelerator
    from lamina.hardware.fit import fit

    workload = network.find(model).trace()
    cpu, clock = time.process_time(), time.perf_counter()
    found = fit(workload, accelerator.load(device), objective, dataflow)
    cpu, clock = time.process_time() - cpu, time.perf_counter() - clock
    print(f"{model:10} {device:10} {objective:7} {cpu:7.2f} s {clock:7.2f} s   energy {found.energy:.4g}, cycles"
          f" {found.cycles:.4g}")  # fmt: skip
    return {"model": model, "accelerator": device, "objective": objective, "seconds": round(cpu, 2)}


def speed() -> Iterator[dict[str, Any]]:
    """The two networks that the time of a search is judged by."""
    for objective in ("energy", "cycles"):
        yield timed("alexnet", "eyeriss", objective)
    for objective in ("energy", "cycles"):
        yield timed("resnet50", "flexible", objective, "flexible")


# ---- beside peers -----------------------------------------------------------------------------------------------------


def zigzag() -> list[dict[str, Any]]:
    """The layers of AlexNet (torchvision's)."""
    from lamina.cli import network
    from lamina.hardware.fit import shapes

    nests = shapes(network.find("alexnet_owt").trace())
    names = [" ".join(f"{dim}{bound}" for dim, bound in nest.bounds.items() if bound > 1) for nest in nests]
    asked = [{"bounds": nest.bounds, "stride": nest.stride} for nest in nests]
    found = beside("zigzag-dse", names, nests, peer(".mapping", "mapping_zigzag.py", {"nests": asked}))
    print("It lays output and input channels on the sides of the array, as its default.yaml says; ours lays any loops.")
    return found


def accelforge() -> list[dict[str, Any]]:
    """One layer a call."""
    from lamina.hardware.nest import Nest

    nests = [Nest(N=N, M=M, C=C) for N, M, C in SHAPES.values()]

    def answers() -> Iterator[dict[str, Any]]:
        for nest in nests:
            bounds = {dim: bound for dim, bound in nest.bounds.items() if bound > 1}
            yield from peer(".accelforge", "mapping_accelforge.py", {"nest": bounds, "stride": [1, 1]})

    names = [f"{name}: {' x '.join(map(str, sizes))}" for name, sizes in SHAPES.items()]
    found = beside("AccelForge", names, nests, answers())
    print("It splits by divisors, ours by ceilings.")
    return found


PEERS = {"zigzag": zigzag, "accelforge": accelforge}


def peer(environment: str, script: str, more: dict[str, Any]) -> Iterator[dict[str, Any]]:
    """The lines that a peer's script prints; an error in place of those that do not come."""
    from lamina.hardware import accelerator

    device, python = accelerator.parse(HIERARCHY, "hierarchy"), HERE.parent / environment / "bin" / "python"
    if not python.exists():
        yield {"error": f"{python.relative_to(HERE.parent)} is missing (make mapping; AccelForge needs Python 3.12): left out"}
        return
    levels = [
        {"name": level.name, "energy": int(device.cost(level.name)), "inside": level.inside,
         "elements": sum(held for _, held in device.capacities(level.name)) or None}
        for level in device.level
    ]  # fmt: skip
    asked = json.dumps({"levels": levels, "array": device.array, "bits": device.bits} | more)
    command = [str(python), "-W", "ignore", str(HERE / script)]
    try:
        done = subprocess.run(command, input=asked, capture_output=True, text=True, check=False, timeout=LIMIT)
    except subprocess.TimeoutExpired:
        yield {"error": f"not done after {LIMIT} s"}
        return
    yield from (json.loads(line) for line in done.stdout.splitlines() if line.startswith("{"))
    if done.returncode:
        yield {"error": (done.stderr.strip().splitlines() or ["failed"])[-1]}


def beside(name: str, titles: list[str], nests: list[Any], answers: Iterator[dict[str, Any]]) -> list[dict[str, Any]]:
    """A row for each layer. All energies in multiply-accumulates."""
    from lamina.hardware import accelerator
    from lamina.hardware.search import search

    device, rows = accelerator.parse(HIERARCHY, "hierarchy"), []
    print(f"\n{name}: its mapping by its count, by ours with the reads below | ours by the same two, by ours | CPU seconds")
    for title, nest, theirs in zip(titles, nests, answers, strict=False):
        cpu = time.process_time()
        found = search(nest, device).evaluation
        cpu = time.process_time() - cpu
        row = {"peer": name, "layer": title, "ours": with_reads_below(found, device), "own_energy": found.energy,
               "own_seconds": round(cpu, 3)}  # fmt: skip
        if "error" in theirs:
            rows.append(row | {"refusal": f"{name}, {title}: {theirs['error']}"})
            print(f"{title:40} {theirs['error']}; ours {found.energy:.6g} in {cpu:.2f} s")
            continue
        row |= {"version": theirs["version"], "energy": theirs["energy"], "seconds": round(theirs["cpu"], 2)}
        row |= counted(nest, theirs, device)
        rows.append(row)
        shown = f"{row['counted']:11.6g}" if "counted" in row else f"({row['why']})"
        print(f"{title:40} {row['energy']:11.6g} {shown} | {row['ours']:11.6g} {found.energy:11.6g} | {ratios([row])}")
    done = [row for row in rows if "energy" in row]
    print(f"{'all':40} {ratios(done) if done else 'nothing'}")
    return rows


def ratios(rows: list[dict[str, Any]]) -> str:
    theirs, ours, seconds, own = (sum(row[key] for row in rows) for key in ("energy", "ours", "seconds", "own_seconds"))
    return f"{seconds:7.2f} {own:5.2f} | energy {theirs / ours:.4f}, time {seconds / max(own, 1e-3):.0f}"


def counted(nest: Any, theirs: dict[str, Any], device: Any) -> dict[str, Any]:
    """A peer's mapping by our count with the reads below; `why` there is none."""
    from lamina.errors import LaminaError
    from lamina.hardware.mapping import evaluate

    if not theirs["mapping"]:
        return {"why": "no loop nest in our form"}
    try:
        return {"counted": with_reads_below(evaluate(nest, tiling(theirs["mapping"]), device), device)}
    except LaminaError as error:
        return {"why": str(error)}


def with_reads_below(found: Any, device: Any) -> float:
    """The energy when an output that goes up is also read from the memory that it leaves: both peers charge that, Timeloop and
    we do not."""
    energy = found.energy + found.accesses["DRAM"]["O"].updates * device.cost("buffer")
    if "O" in found.accesses.get("registers", {}):
        energy += found.accesses["network"]["O"].reads * device.cost("registers")
    return energy


def tiling(nodes: list[dict[str, Any]]) -> Any:
    """A peer's mapping as ours."""
    from lamina.hardware.mapping import Loop, Tier, Tiling

    tiers: list[Any] = []
    for node in nodes:
        if "keeps" in node:
            tiers.append(Tier(*node["keeps"]))
        else:
            tiers[-1] = Tier(tiers[-1].level, tiers[-1].keeps, (*tiers[-1].loops, Loop(*node["loop"])))
    return Tiling(tuple(tiers))


if __name__ == "__main__":
    sys.path.insert(0, str(HERE.parent))
    main()
