"""How fast mappings are found, beside zigzag-dse, and every network of the zoo on every accelerator.

python benchmarks/mapping.py                 AlexNet and ResNet-50, one core
python benchmarks/mapping.py --peers         AlexNet beside zigzag-dse (in .mapping: make mapping)
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
# zigzag-dse's eyeriss_like.yaml: 14 x 12 elements of 8 bits, registers of 64, 64 and 16 bytes, 64 KB for weights, 1 MB for
# inputs and outputs, DRAM of 64 bits per cycle. Its picojoules per 8 bits of an access, read and write averaged, over the 0.5
# of a multiply-accumulate. It has a further 8 KB for outputs between registers and the 1 MB, which ours cannot express.
EYERISS_LIKE = """
name = "eyeriss_like of zigzag-dse"
array = [14, 12]
bits = 8
dataflows = ["flexible"]
network_energy = 0
[[level]]
name = "DRAM"
energy = 250
bandwidth = 8
[[level]]
name = "sram_64KB"
keeps = "W"
capacity = "64K"
energy = 2.8
[[level]]
name = "sram_1M"
keeps = "IO"
capacity = "1M"
energy = 4.8
[[level]]
name = "rf_64B"
keeps = "WI"
inside = true
capacity = { W = 64, I = 64 }
energy = 2.5
[[level]]
name = "rf_16B"
keeps = "O"
inside = true
capacity = 16
energy = 1.2
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
    """AlexNet (torchvision's) on zigzag-dse's eyeriss_like, there and here, from one run."""
    from lamina.cli import network
    from lamina.hardware import accelerator
    from lamina.hardware.fit import fit

    workload = network.find("alexnet_owt").trace()
    device = accelerator.parse(EYERISS_LIKE, "eyeriss_like")
    clock, cpu = time.perf_counter(), time.process_time()
    found = fit(workload, device, "energy", "flexible")
    clock, cpu = time.perf_counter() - clock, time.process_time() - cpu
    energy = 0.5 * found.of_nests("energy")
    print(f"ours   {clock:8.2f} s on the clock {cpu:8.2f} CPU seconds   {energy:.4g} pJ, {found.of_nests('cycles'):.4g} cycles")
    if not PEERS.exists():
        return print(f"no zigzag-dse: {PEERS} is missing; make mapping")
    done = subprocess.run([str(PEERS), str(HERE / "mapping_peers.py")], capture_output=True, text=True, check=False)
    if done.returncode:
        return print(f"zigzag-dse failed: {done.stderr.strip().splitlines()[-1]}")
    theirs = json.loads(done.stdout.strip().splitlines()[-1])
    print(f"zigzag {theirs['clock']:8.2f} s on the clock {theirs['cpu']:8.2f} CPU seconds   {theirs['energy']:.4g} pJ,"
          f" {theirs['cycles']:.4g} cycles (zigzag-dse {theirs['version']})")  # fmt: skip
    times = f"{theirs['clock'] / clock:8.1f} in time, {theirs['cpu'] / cpu:.1f} in CPU time"
    print(f"ratio  {times}, {theirs['energy'] / energy:.3f} in energy")
    print("why they differ: 24-bit sums and a level for outputs more there, C and M alone on the array, any mapping divides;"
          " our sums are 8 bits")  # fmt: skip


if __name__ == "__main__":
    sys.path.insert(0, str(HERE.parent))
    main()
