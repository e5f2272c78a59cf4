"""What can be said for post-norm layers, y = LN(x + h F(x)): splitting one layer of random weights into ever more steps.

    python benchmarks/scale/post_norm.py [--record]

One row for each form of the layer: the difference between L and 2 L steps of 1 / L, relative, for L = 4, 8, ..., 64, and what a
layer with h = 0 changes. `--record` writes benchmarks/records/post_norm.json.
"""

import copy
import itertools
import sys
from pathlib import Path

import torch
from torch import Tensor, nn

from lamina.zoo import transformer

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))
import record
import tables


def layer(norm: str, affine: float) -> transformer.EncoderLayer:
    """A layer of random weights; `affine` is how far the norms' scales and shifts are from 1 and 0."""
    torch.manual_seed(0)
    net = transformer.Net(transformer.Config(1, 1, 64, 128, 4, vocabulary=10, norm=norm, dropout=0.0))  # type: ignore[arg-type]
    net.init_weights()
    found = net.encoder[0].double()
    with torch.no_grad():
        for path in (found.self_norm, found.ff_norm):
            path.weight.add_(affine * torch.randn_like(path.weight))
            path.bias.add_(affine * torch.randn_like(path.bias))
    return found  # type: ignore[return-value]


@torch.no_grad()
def flow(block: transformer.EncoderLayer, x: Tensor, steps: int, time: float = 1.0) -> Tensor:
    """`steps` copies of the layer, each with a step of time / steps."""
    block = copy.deepcopy(block)
    for linear in (block.self_attention.out, block.fc2):
        assert isinstance(linear, nn.Linear)
        for parameter in linear.parameters():
            parameter.mul_(time / steps)
    for _ in range(steps):
        x = block(x, None)
    return x


def differences(norm: str, affine: float) -> tuple[list[float], float]:
    block = layer(norm, affine)
    torch.manual_seed(1)
    x = nn.functional.layer_norm(torch.randn(4, 10, 64).double(), (64,))
    ends = [flow(block, x, n) for n in (4, 8, 16, 32, 64, 128)]
    largest = float(ends[-1].abs().max())
    gaps = [float((a - b).abs().mean()) / largest for a, b in itertools.pairwise(ends)]
    still = flow(block, x, 1, time=0.0)
    return gaps, float((still - x).abs().max() / x.abs().max())


if __name__ == "__main__":
    rows = []
    for norm, affine in (("pre", 0.0), ("pre", 0.2), ("post", 0.0), ("post", 0.2)):
        gaps, still = differences(norm, affine)
        name = f"{norm}-norm, scale and shift " + ("1 and 0" if affine == 0 else f"random ({affine})")
        rows.append({"layer": name, "differences": gaps, "still": still})
    print(tables.post_norm(rows))
    if "--record" in sys.argv[1:]:
        record.write("post_norm", record.provenance(seed=[0, 1]), rows=rows)
