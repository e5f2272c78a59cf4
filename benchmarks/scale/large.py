"""How long growing takes: Transformers of more than 100 million parameters doubled along each axis.

    python benchmarks/scale/large.py [--record]

Each in a process of its own with one thread: seconds, processor seconds, and the largest resident memory with both networks and
what is needed on the way, of the old one's weights. `--record` writes benchmarks/records/large_growth.json.
"""

import multiprocessing
import resource
import sys
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch

from lamina.scale.growth import grow
from lamina.zoo import transformer, vit

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))
import record
import tables

AXES = ("heads", "feed_forward", "head_width", "model_width", "depth")


def networks(axis: str) -> tuple[Any, Any]:
    """A pre-norm Transformer of more than 100M parameters, and a tiny one of its class. That of the paper cannot double its
    model width, since its sinusoids are not copies: then a Vision Transformer."""
    if axis == "model_width":
        config = vit.Config(width=896, mlp=3584, n_heads=14, dropout=0.0)
        return vit.Net(config), vit.Net(replace(config, width=16, mlp=16, n_heads=2, depth=1, img_size=16))
    large = transformer.Config(12, 6, d_model=640, d_ff=2560, n_heads=10, norm="pre", vocabulary=32000)
    return transformer.Net(large), transformer.Net(transformer.Config(1, 1, 16, 16, 2, 10, norm="pre"))


def doubled(axis: str) -> dict[str, Any]:
    """A row of the table."""
    torch.set_num_threads(1)
    net, small = networks(axis)
    net.init_weights()
    own = sum(p.numel() for p in net.parameters())
    arguments: dict[str, Any] = {axis: 2}
    grow(small, **arguments)  # imports
    start = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    begin, cpu = time.perf_counter(), time.process_time()
    module = grow(net, **arguments).module
    wall, cpu = time.perf_counter() - begin, time.process_time() - cpu
    more = 1024 * (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - start)
    new = sum(p.numel() for p in module.parameters())
    found = {"by": axis, "network": type(net).__module__.rpartition(".")[2], "parameters": own, "grown": new}
    memory = (more + 4 * own) / (4 * own)
    return found | {"seconds": round(wall, 3), "cpu_seconds": round(cpu, 3), "memory": round(memory, 3)}


def main() -> None:
    rows = []
    for axis in AXES:
        with multiprocessing.get_context("spawn").Pool(1) as pool:
            rows.append(pool.apply(doubled, (axis,)))
    print(tables.large_growth(rows))
    if "--record" in sys.argv[1:]:
        record.write("large_growth", record.provenance(), rows=rows)


if __name__ == "__main__":
    main()
