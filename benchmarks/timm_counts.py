"""Lamina's MACs of timm's networks against an independent count, one line a network.

make peers, or .parity/bin/python benchmarks/timm_counts.py [--each 6] [--all] [--only SUBSTRING] [--record]

The other count is torch's own FlopCounterMode over the operators of a run on the meta device, with attention taken apart
into its two products: FLOPs / 2. It counts nothing but convolutions and matrix products. By default of each of timm's
files that define networks some names, evenly spaced in the alphabet. `--record` writes benchmarks/records/timm_counts.json.
"""

import argparse
import fnmatch
import sys
import time
from collections import defaultdict
from collections.abc import Iterator

import record
import timm
import torch
from torch import nn
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils.flop_counter import FlopCounterMode

from lamina.errors import LaminaError
from lamina.sources import resolve

# Where the two may differ, by name: why.
EXPLAINED: dict[str, str] = {}


def chosen(each: int) -> list[str]:
    """At most `each` of the networks of every file of timm's, from the first to the last in the alphabet."""
    files: dict[str, list[str]] = defaultdict(list)
    for name in timm.list_models():
        files[timm.models.model_entrypoint(name).__module__].append(name)
    return [name for _, names in sorted(files.items()) for name in spaced(names, each)]


def spaced(names: list[str], count: int) -> Iterator[str]:
    if len(names) <= count:
        yield from names
    else:
        yield from (names[round(i * (len(names) - 1) / (count - 1))] for i in range(count))


def independent(module: nn.Module, shape: tuple[int, ...]) -> int:
    counter = FlopCounterMode(display=False)
    module.requires_grad_(False)  # or torch's counter wants a gradient of a class token
    with torch.no_grad(), sdpa_kernel(SDPBackend.MATH), counter:
        module(torch.empty(shape, device="meta"))
    flops = counter.get_total_flops()
    assert flops % 2 == 0
    return flops // 2


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--each", type=int, default=6, metavar="N", help="networks of each file of timm's")
    parser.add_argument("--all", action="store_true", help="all networks")
    parser.add_argument("--only", default="", metavar="SUBSTRING", help="the names that have this in them")
    parser.add_argument("--record", action="store_true", help="write benchmarks/records/timm_counts.json")
    options = parser.parse_args()
    torch.set_num_threads(1)
    torch.backends.mha.set_fastpath_enabled(False)
    names = [n for n in chosen(10**6 if options.all else options.each) if options.only in n]
    print(f"timm {timm.__version__}, torch {torch.__version__}, {len(names)} networks", flush=True)
    line = "{:<44}{:>14}{:>18}{:>18}  {}".format
    print(line("network", "parameters", "Lamina MACs", "FLOPs / 2", ""))
    tally: dict[str, list[str]] = defaultdict(list)
    start = time.perf_counter()
    for name in names:
        why = next((text for pattern, text in EXPLAINED.items() if fnmatch.fnmatch(name, pattern)), "")
        parameters, ours, theirs = 0, 0, 0
        try:
            source = resolve(f"timm:{name}")
            work = source.workload()
            parameters, ours = work.total().parameters, work.total().macs
            assert parameters == sum(p.numel() for p in source.module.parameters()), "parameters differ"
            theirs = independent(source.module, source.input)
            verdict = "equal" if ours == theirs else "explained" if why else "DIFFERENT"
            notes = [] if ours == theirs else [why or f"{ours - theirs:+,}"]
            notes += [f"unknown: {', '.join(sorted({u.op for u in work.coverage.unknown}))}"] if work.coverage.unknown else []
        except Exception as error:
            side = "not traced" if isinstance(error, LaminaError) or not ours else "not counted by torch"
            verdict = f"{side}: explained" if why else side.upper()
            notes = [why or f"{type(error).__name__}: {(str(error).splitlines() or [''])[0][:200]}"]
        tally[verdict].append(name)
        print(line(name, f"{parameters:,}", f"{ours:,}", f"{theirs:,}", "; ".join([verdict, *notes])), flush=True)
    print(
        f"{len(names)} networks in {time.perf_counter() - start:.0f} s: " + ", ".join(f"{len(v)} {k}" for k, v in tally.items())
    )
    for verdict, found in tally.items():
        if verdict != "equal":
            print(f"  {verdict}: {', '.join(found)}")
    if options.record:
        found = {
            "networks": len(names),
            "equal": len(tally["equal"]),
            "others": {k: v for k, v in tally.items() if k != "equal"},
        }
        record.write("timm_counts", record.provenance(packages=("timm",)), **found)
    return 1 if any(verdict.isupper() for verdict in tally) else 0


if __name__ == "__main__":
    sys.exit(main())
