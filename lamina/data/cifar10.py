"""CIFAR-10: 50,000 and 10,000 colour images, 32x32, ten classes. A. Krizhevsky, "Learning multiple layers of features
from tiny images", 2009; the official binary layout (a label byte, then 1,024 bytes each of red, green and blue)."""

from pathlib import Path

import torch
from torch import Tensor

from lamina.data.files import obtain, read
from lamina.errors import LaminaError

URL = "https://www.cs.toronto.edu/~kriz/cifar-10-binary.tar.gz"
SHA256 = "c4a38c50a1bc5f3a1c5537f2155ab9d68f9f25eb1ed8d9ddda3db29a59bca1dd"
CLASSES = ("airplane", "automobile", "bird", "cat", "deer", "dog", "frog", "horse", "ship", "truck")
PIXELS = 3 * 32 * 32


def load(split: str = "test") -> tuple[Tensor, Tensor]:
    """The images (N, 3, 32, 32), uint8, RGB, and the labels (N,), int64, of the split "train" or "test"."""
    parts = {"train": [f"data_batch_{i}.bin" for i in range(1, 6)], "test": ["test_batch.bin"]}[split]
    return read_batches([obtain("cifar10", part, URL, SHA256) for part in parts], labels=1)


def read_batches(paths: list[Path], labels: int) -> tuple[Tensor, Tensor]:
    """Images and labels from files of records: `labels` bytes, of which the last is the label, and the pixels."""
    records = []
    for path in paths:
        data = read(path)
        if not data or len(data) % (labels + PIXELS):
            raise LaminaError(f"{path} is not a whole CIFAR batch ({len(data)} bytes): remove it, and it is fetched again")
        records.append(torch.frombuffer(bytearray(data), dtype=torch.uint8).view(-1, labels + PIXELS))
    all = torch.cat(records)
    return all[:, labels:].reshape(-1, 3, 32, 32), all[:, labels - 1].long()
