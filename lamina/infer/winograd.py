"""3x3 convolutions of stride 1 by Winograd's minimal filtering F(4x4, 3x3): a quarter of the multiplications.

A. Lavin and S. Gray, "Fast algorithms for convolutional neural networks", arXiv 1509.09308, section 4.3. The transforms and
the products between them are a small C++ file (`winograd.cpp`), compiled once for this machine into the user's cache; without a
compiler `available()` is false and networks keep their direct convolutions. Memory: the transformed filters are four times
the filters.
"""

import ctypes
import hashlib
import os
import platform
import shutil
import subprocess
import tempfile
from functools import cache
from importlib.resources import files
from pathlib import Path

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from lamina.errors import LaminaError
from lamina.files import cache_dir

# 24 times G of section 4.3, for filters; the other two matrices are in winograd.cpp.
G24 = ((6, 0, 0), (-4, -4, -4), (-4, 4, -4), (1, 2, 4), (1, -2, 4), (0, 0, 24))
WORKING_SET = 1 << 20  # bytes of transformed tiles at a time and thread: what stays in the caches is faster
OPTIONS = ("-O3", "-march=native", "-fno-math-errno", "-fno-trapping-math", "-fopenmp", "-shared", "-fPIC", "-std=c++17")


def available() -> bool:
    """Whether this machine has what the transforms need: a C++ compiler, or the library that one made earlier."""
    return library() is not None


@cache
def library() -> ctypes.CDLL | None:
    """The compiled transforms; None where they cannot be had."""
    source = files("lamina.infer").joinpath("winograd.cpp").read_bytes()
    compiler = os.environ.get("CXX") or shutil.which("g++") or shutil.which("clang++")
    key = hashlib.sha256(source + repr((OPTIONS, compiler, _processor())).encode()).hexdigest()[:16]
    try:
        folder = cache_dir() / "kernels"
        folder.mkdir(parents=True, exist_ok=True)
    except (OSError, LaminaError):
        folder = Path(tempfile.mkdtemp(prefix="lamina-"))  # a cache that cannot be written: compiled again in each process
    path = folder / f"winograd-{key}.so"
    try:
        if not path.exists():
            if compiler is None:
                return None
            _compile(compiler, source, path)
        kernels = ctypes.CDLL(str(path))
    except (OSError, subprocess.SubprocessError):
        return None
    kernels.scratch_floats.argtypes, kernels.scratch_floats.restype = (ctypes.c_long, ctypes.c_long), ctypes.c_long
    return kernels


def _compile(compiler: str, source: bytes, path: Path) -> None:
    with tempfile.TemporaryDirectory(dir=path.parent) as scratch:
        made = Path(scratch) / path.name
        command = [compiler, *OPTIONS, "-x", "c++", "-", "-o", str(made)]
        subprocess.run(command, input=source, check=True, capture_output=True, timeout=120)
        made.replace(path)


def _processor() -> str:
    """What -march=native depends on: a cache may lie on a disk that several machines share."""
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
        return next(line for line in lines if line.startswith(("flags", "Features")))
    except (OSError, StopIteration):
        return platform.processor()


def fits(conv: nn.Conv2d) -> bool:
    """Whether the algorithm computes this convolution: 3x3, stride 1, one group, not dilated, zeros as padding, in fp32."""
    square = conv.kernel_size == (3, 3) and conv.stride == (1, 1) and conv.dilation == (1, 1) and conv.groups == 1
    return square and conv.padding_mode == "zeros" and conv.padding != "same" and conv.weight.dtype == torch.float32


def filters(weight: Tensor) -> Tensor:
    """Filters (M, C, 3, 3) transformed: (36, C, M)."""
    g = torch.tensor(G24, dtype=torch.float64) / 24
    moved = torch.einsum("ia,mcab,jb->ijcm", g, weight.detach().double(), g)
    return moved.flatten(0, 1).to(weight.dtype).contiguous()


def panels(filters: Tensor) -> Tensor:
    """Filters (36, C, M) as the products read them, with zeros for those that the last panel lacks: (36, panels, C, width)."""
    width = _kernels().panel_width()
    filled = F.pad(filters, (0, -filters.shape[2] % width))
    return filled.unflatten(2, (-1, width)).transpose(1, 2).contiguous()


class Winograd(nn.Module):
    """A convolution that `fits`, by Winograd's algorithm; then the sum with `other` where that is given, and if asked `relu` or
    a 2x2 maximum `pool` of stride 2.

    (B, C, H, W), with other (B, M, H', W') without a pool, to (B, M, H', W'), channels last. Inference only, on the CPU, in
    fp32.
    """

    filters: Tensor
    bias: Tensor

    def __init__(self, conv: nn.Conv2d, relu: bool = False, pool: bool = False):
        super().__init__()
        if not fits(conv):
            raise ValueError(f"{conv} is not a 3x3 convolution of stride 1 and one group")
        self.register_buffer("filters", panels(filters(conv.weight)))
        bias = torch.zeros(conv.out_channels) if conv.bias is None else conv.bias.detach()
        self.register_buffer("bias", bias)
        padding = (0, 0) if conv.padding == "valid" else conv.padding
        self.padding, self.relu, self.pool = (int(padding[0]), int(padding[1])), relu, pool

    def forward(self, x: Tensor, other: Tensor | None = None) -> Tensor:
        return convolve(x, self.filters, self.bias, other, *self.padding, self.relu, self.pool)


@torch.library.custom_op("lamina::winograd", mutates_args=())
def convolve(
    x: Tensor, filters: Tensor, bias: Tensor, other: Tensor | None, pad_y: int, pad_x: int, relu: bool, pool: bool
) -> Tensor:
    """x (N, C, H, W), filters (36, panels, C, width) of `panels`, bias (M,), other (N, M, H', W') or None, to
    (N, M, H', W'), channels last."""
    kernels = _kernels()
    x = x.contiguous(memory_format=torch.channels_last)
    (N, C, H, W), M = x.shape, len(bias)
    y = _result(x, filters, bias, other, pad_y, pad_x, relu, pool)
    term = None if other is None else other.contiguous(memory_format=torch.channels_last)
    rows, columns = -(-(H + 2 * pad_y - 2) // 4), -(-(W + 2 * pad_x - 2) // 4)
    breadth = filters.shape[1] * filters.shape[3]
    threads = torch.get_num_threads()
    # As many tiles at a time as the caches hold; more where the filters, which every block reads, are larger than that.
    most = max(WORKING_SET * threads, filters.nbytes // 2) // (36 * 4 * (C + breadth))
    parts = max(1, -(-N * rows * columns // max(1, most)))  # one of no tiles where there is no image
    block = -(-N * rows * columns // parts)
    given, made = (torch.empty(kernels.scratch_floats(block, channels)) for channels in (C, breadth))
    tensors = (x, filters, bias, term, y, given, made)
    numbers = (N, H, W, C, y.shape[2], y.shape[3], M, pad_y, pad_x, rows, columns, block, relu, pool, threads)
    kernels.convolve(*map(_at, tensors), *map(ctypes.c_long, numbers))
    return y


@convolve.register_fake
def _result(
    x: Tensor, filters: Tensor, bias: Tensor, other: Tensor | None, pad_y: int, pad_x: int, relu: bool, pool: bool
) -> Tensor:
    (N, _, H, W), M = x.shape, len(bias)
    height, width = H + 2 * pad_y - 2, W + 2 * pad_x - 2
    if pool:
        height, width = height // 2, width // 2
    return torch.empty((N, M, height, width), dtype=x.dtype, device=x.device, memory_format=torch.channels_last)


def _kernels() -> ctypes.CDLL:
    kernels = library()
    if kernels is None:
        raise LaminaError("Winograd's transforms need a C++ compiler: install g++ or clang++, or set CXX")
    return kernels


def _at(tensor: Tensor | None) -> ctypes.c_void_p:
    return ctypes.c_void_p(None if tensor is None else tensor.data_ptr())
