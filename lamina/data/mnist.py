"""MNIST: 60,000 and 10,000 handwritten digits, 28x28. LeCun, Cortes, Burges; usually given as CC BY-SA 3.0."""

import struct
from collections.abc import Mapping
from pathlib import Path

import torch
from torch import Tensor

from lamina.data.files import obtain, read
from lamina.errors import LaminaError

HOME = "https://ossci-datasets.s3.amazonaws.com/mnist/"  # the mirror of PyTorch; the original home no longer answers
SHA256 = {  # of the .gz files
    "train-images-idx3-ubyte": "440fcabf73cc546fa21475e81ea370265605f56be210a4024d2ca8f203523609",
    "train-labels-idx1-ubyte": "3552534a0a558bbed6aed32b30c495cca23d567ec52cac8be1a0730e8010255c",
    "t10k-images-idx3-ubyte": "8d422c7b0a1c1c79245a5bcf07fe86e33eeafee792b84584aec276f5a2dbc4e6",
    "t10k-labels-idx1-ubyte": "f7ae60f92e00ec6debd23a6088c31dbd2371eca3ffa0defaefb259924204aec6",
}
CLASSES = tuple("0123456789")


def load(
    split: str = "test", name: str = "mnist", home: str = HOME, sha256: Mapping[str, str] = SHA256
) -> tuple[Tensor, Tensor]:
    """The images (N, 1, 28, 28), uint8, ink 255, and the labels (N,), int64, of the split "train" or "test"; `name` is
    another set in the same format."""
    prefix = {"train": "train", "test": "t10k"}[split]
    images, labels = (
        _idx(obtain(name, file, f"{home}{file}.gz", sha256[file]))
        for file in (f"{prefix}-images-idx3-ubyte", f"{prefix}-labels-idx1-ubyte")
    )
    return images[:, None], labels.long()


def _idx(path: Path) -> Tensor:
    """An idx file: two zero bytes, the type (8 is unsigned byte), the number of axes, their sizes, the data."""
    data = read(path)
    axes = data[3] if data[:3] == b"\0\0\x08" and len(data) > 4 else 0
    start = 4 + 4 * axes
    shape = torch.Size(struct.unpack(f">{axes}I", data[4:start])) if len(data) > start else torch.Size()
    if not axes or len(data) - start != shape.numel():
        raise LaminaError(f"{path} is not a whole idx file of unsigned bytes: remove it, and it is fetched again")
    return torch.frombuffer(bytearray(data[start:]), dtype=torch.uint8).view(shape)
