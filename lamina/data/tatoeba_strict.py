"""Tatoeba with the test split of `tatoeba`, and a training split that has nothing near it: no German and no English sentence
that differs from a held-out one in at most one word. Of Tatoeba's sentences of two to eight words a third falls away."""

from lamina.data import tatoeba
from lamina.data.pairs import Pair, without_near


def load(split: str, source: str, target: str) -> list[Pair]:
    """The (source, target) sentences of the split "train", "validation" (which is empty) or "test"."""
    pairs = tatoeba.load(split, source, target)
    return without_near(pairs, tatoeba.load("test", source, target)) if split == "train" else pairs
