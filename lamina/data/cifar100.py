"""CIFAR-100: 50,000 and 10,000 colour pictures, 32x32, a hundred classes. A. Krizhevsky, "Learning multiple layers of
features from tiny images", 2009; the official binary layout (a coarse and a fine label byte, then the pixels). The label given
is the fine one."""

from torch import Tensor

from lamina.data.cifar10 import read_batches
from lamina.data.files import obtain

URL = "https://www.cs.toronto.edu/~kriz/cifar-100-binary.tar.gz"
SHA256 = "58a81ae192c23a4be8b1804d68e518ed807d710a4eb253b1f2a199162a40d8ec"


def load(split: str = "test") -> tuple[Tensor, Tensor]:
    """The pictures (N, 3, 32, 32), uint8, RGB, and the labels (N,), int64, of the split "train" or "test"."""
    if split not in ("train", "test"):
        raise KeyError(split)
    return read_batches([obtain("cifar100", f"{split}.bin", URL, SHA256)], labels=2)
