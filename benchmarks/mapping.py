"""How fast mappings are found, beside zigzag-dse and AccelForge, and every network of the zoo on every accelerator.

python benchmarks/mapping.py                 AlexNet and ResNet-50, one core
python benchmarks/mapping.py --peers         the same hierarchy in both peers (run by .mapping/bin/python: make mapping)
python benchmarks/mapping.py --all           every network at batch 1 and 16 on every accelerator, with times
"""

import os

os.environ.setdefault("OMP_NUM_THREADS", "1")  # one core, also of NumPy's libraries

import argparse
import json
import subprocess
import sys
import time
from pathlib import Path

HERE = Path(__file__).resolve().parent
PEERS = HERE.parent / ".mapping" / "bin" / "python"
# What zigzag-dse and AccelForge are given too: 14 x 12 elements, registers, one buffer for each tensor, DRAM. Energy per
# 8-bit element; 8-bit partial sums, so that the three count the same words.
SHARED = """
name = "eyeriss-like"
array = [14, 12]
bits = 8
dataflows = ["flexible"]
network_energy = 0
[[level]]
name = "DRAM"
energy = 1000
bandwidth = 8
[[level]]
name = "buffers"
capacity = { W = "64K", I = "512K", O = "512K" }
energy = 25
[[level]]
name = "registers"
inside = true
capacity = { W = 64, I = 64, O = 16 }
energy = 1
"""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--peers", action="store_true")
    parser.add_argument("--all", action="store_true")
    parser.add_argument("--networks", nargs="*", default=None, help="with --all: only these")
    options = parser.parse_args()
    print(f"load of the machine {os.getloadavg()[0]:.1f}; CPU seconds of this process, and seconds on the clock")
    if options.all:
        return everything(options.networks)
    speed()
    if options.peers:
        peers()


def timed(name: str, model: str, device: str, objective: str = "energy", dataflow: str = "all") -> float:
    from lamina.cli import network
    from lamina.hardware import accelerator
    from lamina.hardware.fit import fit

    workload = network.find(model).trace()
    cpu, clock = time.process_time(), time.perf_counter()
    found = fit(workload, accelerator.load(device), objective, dataflow)  # type: ignore[arg-type]
    cpu, clock = time.process_time() - cpu, time.perf_counter() - clock
    print(f"{name:34} {cpu:7.2f} s {clock:7.2f} s   energy {found.energy:.4g}, cycles {found.cycles:.4g}")
    return clock


def speed() -> None:
    """The two networks that the time of a search is judged by."""
    timed("AlexNet, Eyeriss, least energy", "alexnet", "eyeriss")
    timed("AlexNet, Eyeriss, fewest cycles", "alexnet", "eyeriss", "cycles")
    timed("ResNet-50, flexible, least energy", "resnet50", "flexible", "energy", "flexible")


def everything(networks: list[str] | None) -> None:
    """Every network at batch 1 and 16 on every accelerator. Shapes that networks share are searched once."""
    from lamina.cli import network
    from lamina.hardware import accelerator
    from lamina.hardware.fit import fit
    from lamina.zoo import registry

    slowest, known, began = (0.0, ""), {}, time.perf_counter()
    for model in networks or list(registry.counts()):
        net = network.find(model)
        for batch in (1, 16):
            workload = net.trace(net.resized("batch", batch))
            for device in accelerator.names():
                cpu = time.process_time()
                try:
                    found = fit(workload, accelerator.load(device), known=known.setdefault(device, {}))
                    text = f"energy {found.energy:.4g} cycles {found.cycles:.4g} utilisation {found.utilisation:.3f}"
                except Exception as error:
                    text = f"{type(error).__name__}: {error}"
                cpu = time.process_time() - cpu
                slowest = max(slowest, (cpu, f"{model}, batch {batch}, {device}"))
                print(f"{model:24} {batch:3} {device:12} {cpu:7.2f} s   {text}", flush=True)
    shapes = {device: len(found) for device, found in known.items()}
    print(
        f"{time.perf_counter() - began:.0f} s in all; slowest {slowest[1]} with {slowest[0]:.1f} CPU seconds; shapes {shapes}"
    )


def peers() -> None:
    """AlexNet's convolutions on one hierarchy in three tools."""
    from lamina.cli import network
    from lamina.hardware import accelerator
    from lamina.hardware.nest import from_loops
    from lamina.hardware.search import search

    device = accelerator.parse(SHARED, "shared")
    layers = [layer for layer in network.find("alexnet").trace().layers if layer.kind == "conv"]
    nests = {layer.name: from_loops(layer.loops[0]) for layer in layers}
    ours = {}
    for name, nest in nests.items():
        clock = time.perf_counter()
        found = search(nest, device, "energy", "flexible")
        ours[name] = (found.evaluation.energy - found.evaluation.macs, time.perf_counter() - clock)
    if not PEERS.exists():
        return print(f"no peers: {PEERS} is missing; make mapping")
    shapes = {name: nest.bounds | {"stride": nest.stride[0]} for name, nest in nests.items()}
    for tool in ("zigzag", "accelforge"):
        command = [str(PEERS), str(HERE / "mapping_peers.py"), tool, json.dumps(shapes)]
        done = subprocess.run(command, capture_output=True, text=True, check=False)
        if done.returncode:
            print(f"{tool}: {done.stderr.strip().splitlines()[-1] if done.stderr.strip() else 'failed'}")
            continue
        theirs = json.loads(done.stdout.strip().splitlines()[-1])
        print(f"{tool} {theirs.pop('version')}: memory energy in the same units")
        for name, (energy, seconds) in theirs.items():
            mine, clock = ours[name]
            print(f"  {name:8} ours {mine:.4g} in {clock:.2f} s, {tool} {energy:.4g} in {seconds:.1f} s:"
                  f" {energy / mine:.3f} of the energy, {seconds / clock:.0f} times the time")  # fmt: skip
        both = [sum(x[1] for x in ours.values()), sum(seconds for _, seconds in theirs.values())]
        print(f"  in all {both[0]:.2f} s and {both[1]:.1f} s: {both[1] / both[0]:.0f} times")


if __name__ == "__main__":
    sys.path.insert(0, str(HERE.parent))
    main()
