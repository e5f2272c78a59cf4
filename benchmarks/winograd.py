"""One 3x3 convolution with padding and ReLU on one core, three ways: torch (channels-last), ONNX Runtime, Winograd's algorithm.

    python benchmarks/winograd.py [--rounds 15] [--record]

The ways take turns; the least time of each counts. The difference is Winograd's to torch's in float64, of the largest value.
`--record` writes benchmarks/records/winograd.json.
"""

import argparse
import time
from collections.abc import Callable
from pathlib import Path
from tempfile import TemporaryDirectory

import onnxruntime
import record
import tables
import torch
from torch import Tensor, nn

from lamina.infer.winograd import Winograd

SEED = 0
# Images, input and output channels, side of the map: VGG's layers.
LAYERS = [(1, 64, 64, 224), (1, 64, 128, 112), (1, 128, 128, 112), (1, 256, 256, 56), (1, 512, 512, 28), (1, 512, 512, 14),
          (8, 256, 256, 56)]  # fmt: skip


def onnx_session(conv: nn.Conv2d, x: Tensor, folder: Path) -> Callable[[], object]:
    path = folder / "layer.onnx"
    torch.onnx.export(nn.Sequential(conv, nn.ReLU()).eval(), (x,), path, dynamo=True, verbose=False)
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = options.inter_op_num_threads = 1
    session = onnxruntime.InferenceSession(path, options, providers=["CPUExecutionProvider"])
    name = session.get_inputs()[0].name
    array = x.numpy()
    return lambda: session.run(None, {name: array})


@torch.inference_mode()
def measure(images: int, channels: int, filters: int, side: int, rounds: int) -> dict[str, object]:
    torch.manual_seed(SEED)
    conv = nn.Conv2d(channels, filters, 3, padding=1).eval()
    x = torch.randn(images, channels, side, side)
    exact = nn.Conv2d(channels, filters, 3, padding=1, dtype=torch.float64)
    exact.load_state_dict(conv.state_dict())
    right = exact(x.double()).relu()
    with TemporaryDirectory() as folder:
        with torch.inference_mode(False), torch.no_grad():
            by_onnx = onnx_session(conv, x.clone(), Path(folder))
        direct = conv.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
        last, fast = x.contiguous(memory_format=torch.channels_last), Winograd(conv, relu=True)
        ways = {"torch": lambda: direct(last).relu_(), "onnxruntime": by_onnx, "winograd": lambda: fast(last)}
        least = dict.fromkeys(ways, float("inf"))
        for _ in range(rounds + 1):
            for name, call in ways.items():
                start = time.perf_counter()
                call()
                least[name] = min(least[name], 1e3 * (time.perf_counter() - start))
    difference = float((fast(last).double() - right).abs().max() / right.abs().max())
    several = {1: "", 8: "eight images: "}[images]
    return {
        "layer": f"{several}{channels} to {filters}, {side}x{side}",
        "milliseconds": {name: round(ms, 3) for name, ms in least.items()},
        "difference": difference,
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=15)
    parser.add_argument("--record", action="store_true", help="write benchmarks/records/winograd.json")
    options = parser.parse_args()
    torch.set_num_threads(1)
    rows = [measure(*layer, options.rounds) for layer in LAYERS]
    print(tables.winograd(rows))
    if options.record:
        made = record.provenance(seed=SEED, packages=("onnxruntime",))
        record.write("winograd", made, rounds=options.rounds, rows=rows)


if __name__ == "__main__":
    main()
