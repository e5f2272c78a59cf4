"""How long one count takes, warm and in one process: Lamina and the counters whose number is right.

make peers, or .parity/bin/python benchmarks/cost_speed.py [--rounds 5] [--only SUBSTRING] [--record]

The modules are torchvision's, with their weights; each counter has its own, of the same weights, because some leave buffers
and hooks behind. Counters take turns, round by round, and each one's least time counts: processor time of one thread, so
that other work of the machine does not. A counter that gives another number than the arithmetic here and in
`conformance_cases.py`, to the unit, is timed once and not compared with. `--record` writes benchmarks/records/cost_speed.json.
"""

import argparse
import contextlib
import copy
import io
import sys
import time
import warnings
from collections.abc import Callable

import conformance_cases as cases
import cost_conformance as conformance
import record
import torch
import torchvision
from torch import nn


def resnet(depths: tuple[int, ...]) -> int:
    macs, channels, side = 112 * 112 * 64 * 3 * 49, 64, 56
    for stage, depth in enumerate(depths):
        width = 64 * 2**stage
        for block in range(depth):
            inner, side = side, side // 2 if block == 0 and stage else side
            macs += inner**2 * channels * width + side**2 * (9 * width * width + 4 * width * width)
            macs += side**2 * channels * 4 * width if block == 0 else 0
            channels = 4 * width
    return macs + 2048 * 1000


def densenet(depths: tuple[int, ...], growth: int = 32, channels: int = 64) -> int:
    macs, side = 112 * 112 * channels * 3 * 49, 56
    for stage, depth in enumerate(depths):
        for _ in range(depth):
            macs += side**2 * (channels * 4 * growth + 4 * growth * growth * 9)
            channels += growth
        if stage < 3:
            macs += side**2 * channels * channels // 2
            channels, side = channels // 2, side // 2
    return macs + channels * 1000


CALLS = 3
NETWORKS: dict[str, tuple[Callable[[], nn.Module], int]] = {
    "ResNet-50": (torchvision.models.resnet50, resnet((3, 4, 6, 3))),
    "ResNet-152": (torchvision.models.resnet152, resnet((3, 8, 36, 3))),
    "DenseNet-201": (torchvision.models.densenet201, densenet((6, 12, 48, 32))),
    "ViT-L/16": (torchvision.models.vit_l_16, cases.vit_macs(1024, 24, 196)),
    "Swin-T": (torchvision.models.swin_t, cases.swin_macs()),
}


def on_meta(module: nn.Module, *inputs: torch.Tensor) -> tuple[int, None]:
    """torch's counter on the meta device, where it needs no weights either; attention is taken apart there."""
    return conformance.flop_counter(module, *(x.to("meta") for x in inputs))


def milliseconds(tool: Callable[..., tuple[int, int | None]], module: nn.Module, inputs: torch.Tensor) -> tuple[float, int]:
    """The least of three calls in a row: after another counter's turn the first finds the processor's caches cold."""
    with warnings.catch_warnings(), contextlib.redirect_stdout(io.StringIO()), contextlib.redirect_stderr(io.StringIO()):
        warnings.simplefilter("ignore")
        took = []
        for _ in range(CALLS):
            start = time.process_time()
            macs, _ = tool(module, inputs)
            took.append(1e3 * (time.process_time() - start))
        return min(took), macs


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--only", default="", metavar="SUBSTRING", help="the networks that have this in their name")
    parser.add_argument("--record", action="store_true", help="write benchmarks/records/cost_speed.json")
    options = parser.parse_args()
    torch.set_num_threads(1)
    tools = dict(conformance.TOOLS)
    tools["FlopCounterMode, meta"] = on_meta
    print(f"torch {torch.__version__}; least of {options.rounds} rounds, ms; * another number than the exact one")
    print(f"| network | MACs | {' | '.join(tools)} | fastest exact peer / Lamina |\n|---|---|{'---|' * (len(tools) + 1)}")
    slow, rows = 0, []
    for network, (make, right) in NETWORKS.items():
        if options.only not in network:
            continue
        real = make().eval()
        same = {id(x): x for x in (*real.parameters(), *real.buffers())}
        modules = {name: copy.deepcopy(real, dict(same)) for name in tools}
        with torch.device("meta"):
            modules["FlopCounterMode, meta"] = make().eval()
        picture = torch.randn(1, 3, 224, 224)
        least: dict[str, float] = {}
        exact: dict[str, bool] = {}
        for turn in range(options.rounds + 1):  # the first is not timed
            for name, tool in tools.items():
                if turn > 1 and not exact[name]:
                    continue
                try:
                    took, macs = milliseconds(tool, modules[name], picture)
                except Exception:
                    took, macs = float("nan"), -1
                exact[name] = macs == right
                least[name] = min(least.get(name, took), took) if turn else float("inf")
        peers = {name: ms for name, ms in least.items() if exact[name] and name != "Lamina"}
        fastest = min(peers, key=lambda name: peers[name])
        ratio = peers[fastest] / least["Lamina"]
        slow += ratio < 5 or not exact["Lamina"]
        rows.append(
            {"network": network, "macs": right, "milliseconds": {n: round(ms, 3) for n, ms in least.items()}, "exact": exact}
        )
        cells = " | ".join(f"{least[name]:.1f}{'' if exact[name] else ' *'}" for name in tools)
        print(f"| {network} | {right:,} | {cells} | {ratio:.1f} ({fastest}) |", flush=True)
    if options.record:
        made = record.provenance(packages=("torchvision", "calflops"))
        record.write("cost_speed", made, rounds=options.rounds, rows=rows)
    return 1 if slow else 0


if __name__ == "__main__":
    sys.exit(main())
