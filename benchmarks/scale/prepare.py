"""One file with the data of the experiments, for a machine that has nothing else.

    LAMINA_DATA=DIR python benchmarks/scale/prepare.py runs/scale_data.npz
    LAMINA_DATA=DIR python benchmarks/scale/prepare.py runs/scale_small.npz 200     # so many of each, for a trial

Whole MNIST; 25,000 training and all 10,000 test images of CIFAR-10, averaged to 16x16; and the sentences of Tatoeba's
English-German pairs as one text. Pixels are bytes; the file is compressed without loss.
"""

import sys
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from lamina.data import cifar10, mnist, parallel_text
from lamina.scale.resolution import downsample

CIFAR_TRAIN = 25_000


def halved(pixels: Tensor) -> np.ndarray:
    return downsample(pixels.float()).round().to(torch.uint8).numpy()


def text() -> np.ndarray:
    """Sentences of both languages in the corpus's order, a line each, as bytes of their 96 most frequent characters."""
    pairs = parallel_text.load("tatoeba", "train", "en", "de")
    lines = "\n".join(dict.fromkeys(sentence for pair in pairs for sentence in pair))
    counts = {c: lines.count(c) for c in set(lines)}
    known = {c: i for i, c in enumerate(sorted(counts, key=lambda c: -counts[c])[:96])}
    return np.array([known[c] for c in lines if c in known], dtype=np.uint8)


def main(target: Path, count: int | None = None) -> None:
    arrays: dict[str, np.ndarray] = {}
    for split in ("train", "test"):
        pixels, labels = mnist.load(split)
        arrays |= {f"mnist_{split}_pixels": pixels.numpy(), f"mnist_{split}_labels": labels.numpy().astype(np.uint8)}
        pixels, labels = cifar10.load(split)
        if split == "train":
            pixels, labels = pixels[:CIFAR_TRAIN], labels[:CIFAR_TRAIN]
        arrays |= {f"cifar_{split}_pixels": halved(pixels), f"cifar_{split}_labels": labels.numpy().astype(np.uint8)}
    arrays = {key: values[:count] for key, values in arrays.items()}
    arrays["text"] = text()[: None if count is None else 300 * count]
    target.parent.mkdir(parents=True, exist_ok=True)
    np.savez_compressed(target, **arrays)
    print(f"{target}: {target.stat().st_size / 1e6:.1f} MB")


if __name__ == "__main__":
    main(Path(sys.argv[1]), int(sys.argv[2]) if len(sys.argv) > 2 else None)
