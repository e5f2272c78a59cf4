"""How fast mappings are found, and how good they are beside those of zigzag-dse and AccelForge on the same hierarchy.

python benchmarks/mapping.py                 AlexNet and ResNet-50, one core
python benchmarks/mapping.py --peers         and both peers (in .mapping and .accelforge: make mapping)

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
# What AccelForge maps in minutes: matrix products. A convolution of one axis (M 16, C 8, Q 12, S 3) took it more than five.
SHAPES = {
    "matrix product 64 x 128 x 256": {"N": 64, "M": 128, "C": 256},
    "matrix product 32 x 96 x 64": {"N": 32, "M": 96, "C": 64},
    "LeNet-5's f6, batch 16": {"N": 16, "M": 84, "C": 120},
}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--peers", action="store_true")
    parser.add_argument("--only", choices=("zigzag", "accelforge"), help="this peer alone")
    options = parser.parse_args()
    print(f"load of the machine {os.getloadavg()[0]:.1f}; CPU seconds of this process, and seconds by the clock")
    if not options.only:
        speed()
    if options.peers or options.only:
        for peer in (zigzag, accelforge):
            if options.only in (None, peer.__name__):
                peer()


# ---- speed ------------------------------------------------------------------------------------------------------------


def timed(name: str, model: str, device: str, objective: Any = "energy", dataflow: str = "all") -> None:
    from lamina.cli import network
    from lamina.hardware import accelerator
    from lamina.hardware.fit import fit

    workload = network.find(model).trace()
    cpu, clock = time.process_time(), time.perf_counter()
    found = fit(workload, accelerator.load(device), objective, dataflow)
    cpu, clock = time.process_time() - cpu, time.perf_counter() - clock
    print(f"{name:34} {cpu:7.2f} s {clock:7.2f} s   energy {found.energy:.4g}, cycles {found.cycles:.4g}")


def speed() -> None:
    """The two networks that the time of a search is judged by."""
    timed("AlexNet, Eyeriss, least energy", "alexnet", "eyeriss")
    timed("AlexNet, Eyeriss, fewest cycles", "alexnet", "eyeriss", "cycles")
    timed("ResNet-50, flexible, least energy", "resnet50", "flexible", "energy", "flexible")
    timed("ResNet-50, flexible, fewest cycles", "resnet50", "flexible", "cycles", "flexible")


# ---- beside peers -----------------------------------------------------------------------------------------------------


def zigzag() -> None:
    """The layers of AlexNet (torchvision's)."""
    from lamina.cli import network
    from lamina.hardware.fit import shapes

    nests = shapes(network.find("alexnet_owt").trace())
    names = [" ".join(f"{dim}{bound}" for dim, bound in nest.bounds.items() if bound > 1) for nest in nests]
    asked = [{"bounds": nest.bounds, "stride": nest.stride} for nest in nests]
    beside("zigzag-dse", names, nests, peer(".mapping", "mapping_zigzag.py", {"nests": asked}))
    print("It lays output and input channels on the sides of the array, as its default.yaml says; ours lays any loops.")


def accelforge() -> None:
    """One layer a call."""
    from lamina.hardware.nest import Nest

    def answers() -> Iterator[dict[str, Any]]:
        for bounds in SHAPES.values():
            yield from peer(".accelforge", "mapping_accelforge.py", {"nest": bounds, "stride": [1, 1]})

    beside("AccelForge", list(SHAPES), [Nest(**bounds) for bounds in SHAPES.values()], answers())
    print("It splits by divisors, ours by ceilings; it may give each tensor's register tile a depth of its own, ours does not.")


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


def beside(name: str, titles: list[str], nests: list[Any], answers: Iterator[dict[str, Any]]) -> None:
    """A row for each layer. All energies in multiply-accumulates."""
    from lamina.hardware import accelerator
    from lamina.hardware.search import search

    device, total = accelerator.parse(HIERARCHY, "hierarchy"), [0.0] * 4
    print(f"\n{name}: its mapping by its count, by ours with the reads below, by ours | ours by these two | CPU seconds")
    for title, nest, theirs in zip(titles, nests, answers, strict=False):
        cpu = time.process_time()
        found = search(nest, device).evaluation
        cpu = time.process_time() - cpu
        if "error" in theirs:
            print(f"{title:36} {theirs['error']}; ours {found.energy:.6g} in {cpu:.2f} s")
            continue
        ours = with_reads_below(found, device)
        print(f"{title:36} {theirs['energy']:11.6g} {counted(nest, theirs, device)} | {ours:11.6g} {found.energy:11.6g}"
              f" | {ratios(theirs['energy'], ours, theirs['cpu'], cpu)}")  # fmt: skip
        total = [x + y for x, y in zip(total, (theirs["energy"], ours, theirs["cpu"], cpu), strict=True)]
    print(f"{'all':36} {total[0]:11.6g} | {total[1]:11.6g} | {ratios(*total)}")


def ratios(theirs: float, ours: float, their_seconds: float, seconds: float) -> str:
    return f"{their_seconds:7.2f} {seconds:5.2f} | energy {theirs / ours:.3f}, time {their_seconds / max(seconds, 1e-9):.0f}"


def counted(nest: Any, theirs: dict[str, Any], device: Any) -> str:
    """A peer's mapping by our two counts, and how its own count differs from the first."""
    from lamina.errors import LaminaError
    from lamina.hardware.mapping import evaluate

    if not theirs["mapping"]:
        return "(no loop nest in ours)"
    try:
        found = evaluate(nest, tiling(theirs["mapping"]), device)
    except LaminaError as error:
        return f"({error})"
    energy = with_reads_below(found, device)
    return f"{energy:11.6g} ({100 * (theirs['energy'] / energy - 1):+.2f} %) {found.energy:11.6g}"


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
