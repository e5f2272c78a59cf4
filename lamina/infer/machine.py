"""What this machine attains: a matrix product's operations per second, and a copy's bytes per second.

`lamina.hardware` takes these as a function, so that it needs no torch.
"""

import time
from collections.abc import Callable

import torch

from lamina.infer.turns import take_turns

SIDE = 2048  # of the matrices; large enough for the peak, and 50 MB in all
COPY = 1 << 28  # bytes: several times the last cache of a server's processor


def measure(dtype: torch.dtype = torch.float32, seconds: float = 1.0) -> tuple[float, float, str]:
    """Operations per second of a square matrix product (2 n^3), bytes per second of a copy (read and written, as STREAM's
    copy counts them), and how. The best of the repeats in `seconds` each, with torch's threads as they are set."""
    a, b = torch.rand(SIDE, SIDE).to(dtype), torch.rand(SIDE, SIDE).to(dtype)
    product = 2 * SIDE**3 / best(lambda: torch.mm(a, b), seconds)
    source = torch.ones(COPY // 4)
    target = torch.empty_like(source)
    bandwidth = 2 * COPY / best(lambda: target.copy_(source), seconds)
    threads = f"torch {torch.__version__}, {torch.get_num_threads()} threads"
    how = f"{threads}: a {SIDE}x{SIDE} matrix product, a copy of {COPY >> 20} MiB"
    return product, bandwidth, how


def reading_seconds(count: int, clock: Callable[[], float] = time.perf_counter) -> float:
    """The seconds, by `clock`, that reading so many bytes once takes, from memory: a sum over them, the best of five. A fully
    connected layer at a batch of 1 is not faster."""
    values = torch.ones(max(1, count // 4))
    return min(take_turns({"read": values.sum}, 0.0, clock=clock)["read"])


def network_seconds(module: torch.nn.Module, inputs: tuple[torch.Tensor, ...], seconds: float = 2.0) -> float:
    """The median time of a forward pass in evaluation mode, without gradients; at least three after one to warm up."""
    module = module.eval()
    with torch.inference_mode():
        times = repeat(lambda: module(*inputs), seconds)
    return sorted(times)[len(times) // 2]


def best(function: Callable[[], object], seconds: float) -> float:
    return min(repeat(function, seconds))


def repeat(function: Callable[[], object], seconds: float) -> list[float]:
    """The times of several calls, after one that is not counted."""
    function()
    times, end = [], time.perf_counter() + seconds
    while len(times) < 3 or time.perf_counter() < end:
        start = time.perf_counter()
        function()
        times.append(time.perf_counter() - start)
    return times
