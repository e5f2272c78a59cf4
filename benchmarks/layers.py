"""One layer with what follows it, on one core, in each form: torch's own (also channels last), packed for oneDNN, Winograd's
algorithm where it fits, and ONNX Runtime.

    python benchmarks/layers.py [--rounds 15] [--record]

The forms take turns; the least processor time of each counts, so that other work of the machine matters less. The difference is
that of Lamina's forms to torch in float64, of the largest value. `--record` writes benchmarks/records/layers.json.
"""

import argparse
import copy
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import onnxruntime
import record
import tables
import torch
from torch import Tensor, nn

from lamina.infer.forms import Chain

SEED = 0
Ways = dict[str, Callable[[], Any]]


def convolution(channels: int, filters: int, side: int, kernel: int = 3, images: int = 1) -> tuple[nn.Module, tuple[int, ...]]:
    return nn.Conv2d(channels, filters, kernel, padding=kernel // 2), (images, channels, side, side)


LAYERS: dict[str, tuple[nn.Module, tuple[int, ...]]] = {
    **{f"3x3, {c} to {m}, {s}x{s}": convolution(c, m, s) for c, m, s in (  # VGG's, and the last two of ResNet's
        (64, 64, 224), (64, 128, 112), (128, 128, 112), (128, 256, 56), (256, 256, 56), (256, 512, 28), (512, 512, 28),
        (512, 512, 14), (256, 256, 14), (512, 512, 7))},
    "3x3, 256 to 256, 56x56, 8 images": convolution(256, 256, 56, images=8),
    "1x1, 64 to 256, 56x56, with a sum": convolution(64, 256, 56, kernel=1),
    "linear, 768 to 3072, 197 rows, GELU": (nn.Linear(768, 3072), (197, 768)),
    "linear, 4096 to 4096, 8 rows": (nn.Linear(4096, 4096), (8, 4096)),
}  # fmt: skip


class Layer(nn.Module):
    """The layer, the sum with another tensor where one is given, and the activation, as torch runs them."""

    def __init__(self, layer: nn.Module, activation: str):
        super().__init__()
        self.layer, self.activation = layer, nn.GELU() if activation == "gelu" else nn.ReLU()

    def forward(self, x: Tensor, other: Tensor | None = None) -> Tensor:
        y = self.layer(x)
        return self.activation(y if other is None else y + other)


def by_onnxruntime(layer: nn.Module, given: tuple[Tensor, ...], folder: Path) -> Callable[[], Any]:
    path = folder / "layer.onnx"
    torch.onnx.export(layer, tuple(x.clone() for x in given), path, dynamo=True, verbose=False)
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = options.inter_op_num_threads = 1
    session = onnxruntime.InferenceSession(path, options, providers=["CPUExecutionProvider"])
    arrays = {slot.name: x.numpy() for slot, x in zip(session.get_inputs(), given, strict=True)}
    return lambda: session.run(None, arrays)


def measure(name: str, rounds: int) -> dict[str, Any]:
    torch.manual_seed(SEED)
    made, shape = LAYERS[name]
    made = copy.deepcopy(made).eval().requires_grad_(False)
    activation = "gelu" if name.endswith("GELU") else "relu"
    x = torch.randn(shape)
    given: tuple[Tensor, ...] = (x, torch.randn_like(made(x))) if name.endswith("sum") else (x,)
    whole = Layer(made, activation)
    right = copy.deepcopy(whole).double()(*(t.double() for t in given))
    chain = Chain(made, [], shape, activation=activation)  # type: ignore[arg-type]
    with TemporaryDirectory() as folder:
        ways: Ways = {"torch": partial(whole, *given), "onnxruntime": by_onnxruntime(whole, given, Path(folder))}
        last = tuple(t.contiguous(memory_format=torch.channels_last) if t.dim() == 4 else t for t in given)
        if x.dim() == 4:
            ways["last"] = partial(chain.direct(False), *last)
        ours: Ways = {"packed": partial(chain.direct(True), *last)}
        if chain.transforms:
            ours["winograd"] = partial(chain.transformed(), *last)
        with torch.inference_mode():
            difference = max(float((run().double() - right).abs().max() / right.abs().max()) for run in ours.values())
            least = take_turns(ways | ours, rounds)
    return {"layer": name, "milliseconds": {k: round(1e3 * s, 3) for k, s in least.items()}, "difference": difference}


def take_turns(ways: Ways, rounds: int) -> dict[str, float]:
    least = dict.fromkeys(ways, float("inf"))
    for _ in range(rounds + 1):
        for name, run in ways.items():
            start = time.process_time()
            run()
            least[name] = min(least[name], time.process_time() - start)
    return least


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=15)
    parser.add_argument("--record", action="store_true", help="write benchmarks/records/layers.json")
    options = parser.parse_args()
    torch.set_num_threads(1)
    rows = [measure(name, options.rounds) for name in LAYERS]
    print(tables.layers(rows))
    if options.record:
        made = record.provenance(seed=SEED, packages=("onnxruntime",))
        record.write("layers", made, rounds=options.rounds, rows=rows)


if __name__ == "__main__":
    main()
