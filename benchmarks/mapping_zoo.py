"""Every network of the zoo at batch 1 and 16 on every accelerator that ships, in one run on one core, with the time of each.

    python benchmarks/mapping_zoo.py                      prints a line per network, batch and accelerator
    python benchmarks/mapping_zoo.py --record             and writes benchmarks/records/mapping_zoo.json
    python benchmarks/mapping_zoo.py --networks lenet5    only these

A loop nest that networks share is searched once for each accelerator: the time of a network is that of its new nests.
"""

import os

os.environ.setdefault("OMP_NUM_THREADS", "1")  # one core, also of NumPy's libraries

import argparse
import sys
import time
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[1]
BATCHES = (1, 16)


def row(workload: Any, device: Any, known: dict[Any, Any]) -> dict[str, Any]:
    """One network on one accelerator; `known` are the nests that others have had."""
    from lamina.errors import LaminaError
    from lamina.hardware.fit import fit, shapes

    new, cpu = sum(nest not in known for nest in shapes(workload)), time.process_time()
    try:
        found = fit(workload, device, known=known)
        figures = {"energy": found.energy, "cycles": found.cycles, "utilisation": round(found.utilisation, 6)}
    except LaminaError as error:
        figures = {"refusal": str(error)}
    return {"new_nests": new, "cpu_seconds": round(time.process_time() - cpu, 3), **figures}


def rows(networks: list[str]) -> list[dict[str, Any]]:
    """All of them, printed as they come."""
    from lamina.cli import network
    from lamina.hardware import accelerator

    found: list[dict[str, Any]] = []
    known: dict[str, dict[Any, Any]] = {device: {} for device in accelerator.names()}
    for model in networks:
        net = network.find(model)
        for batch in BATCHES:
            workload = net.trace(net.resized("batch", batch))
            for device in accelerator.names():
                one = row(workload, accelerator.load(device), known[device])
                found.append({"model": model, "batch": batch, "accelerator": device, **one})
                text = one.get("refusal") or "energy {energy:.4g} cycles {cycles:.4g} utilisation {utilisation:.3f}".format(
                    **one
                )
                print(
                    f"{model:24} {batch:3} {device:12} {one['new_nests']:4} nests {one['cpu_seconds']:7.2f} s   {text}",
                    flush=True,
                )
    return found


def main() -> None:
    import record

    from lamina.zoo import registry

    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--networks", nargs="*", default=None)
    parser.add_argument("--record", action="store_true")
    options = parser.parse_args()
    origin, clock, cpu = record.provenance(), time.perf_counter(), time.process_time()
    found = rows(options.networks or list(registry.counts()))
    clock, cpu = time.perf_counter() - clock, time.process_time() - cpu
    slowest = max(found, key=lambda one: one["cpu_seconds"])
    named = "{model}, batch {batch}, {accelerator}".format(**slowest)
    nests = sum(one["new_nests"] for one in found)
    print(f"{len(found)} networks on accelerators, {nests} different nests, in {cpu:.0f} CPU seconds ({clock:.0f} s by the"
          f" clock); the slowest: {named}, {slowest['cpu_seconds']:.1f} s")  # fmt: skip
    if options.record:
        record.write(
            "mapping_zoo", origin, cpu_seconds=round(cpu), clock_seconds=round(clock), nests=nests, slowest=named,
            slowest_cpu_seconds=slowest["cpu_seconds"], rows=found,
        )  # fmt: skip


if __name__ == "__main__":
    sys.path.insert(0, str(ROOT))
    main()
