"""Pairs of sentences: reading them from text files, and holding some out."""

import re
import unicodedata
from collections.abc import Iterable, Sequence
from pathlib import Path

import torch

from lamina.data.augment import generator
from lamina.data.files import read
from lamina.errors import InputError, LaminaError

Pair = tuple[str, str]


def read_lines(path: Path) -> list[str]:
    """The lines of a UTF-8 text file, compressed or not."""
    try:
        return read(path).decode("utf-8-sig").removesuffix("\n").split("\n")
    except UnicodeDecodeError as error:
        raise LaminaError(f"{path} is not UTF-8 text ({error.reason} at byte {error.start})") from error


def read_columns(path: Path) -> list[Pair]:
    """The first two columns of a tab-separated file."""
    pairs = []
    for number, line in enumerate(read_lines(path), 1):
        row = [part.strip() for part in line.split("\t")]
        if line.strip() and (len(row) < 2 or not row[0] or not row[1]):
            raise LaminaError(f"{path}, line {number}: not two sentences with a tab between them")
        if line.strip():
            pairs.append((row[0], row[1]))
    return pairs


def join_lines(sources: list[str], targets: list[str], where: str) -> list[Pair]:
    """The pairs of two texts that belong together line by line, without those that have an empty side."""
    if len(sources) != len(targets):
        raise LaminaError(
            f"{where}: {len(sources):,} source lines and {len(targets):,} target lines; they belong together one by one"
        )
    pairs = [(s.strip(), t.strip()) for s, t in zip(sources, targets, strict=True)]
    return [(s, t) for s, t in pairs if s and t]


def hold_out(pairs: Sequence[Pair], count: int, seed: int) -> tuple[list[Pair], list[Pair]]:
    """(the rest, `count` held out): `count` different source sentences by seed, each with one of its translations.

    No pair of the rest has a source sentence of theirs, whatever its case, punctuation and spacing.
    """
    groups: dict[str, list[int]] = {}
    for number, (sentence, _) in enumerate(pairs):
        groups.setdefault(normal(sentence), []).append(number)
    if count >= len(groups):
        raise InputError(f"{count} sentences held out of {len(groups)} different ones: take fewer")
    random = generator(seed, 4)
    keys = list(groups)
    chosen = [keys[i] for i in torch.randperm(len(keys), generator=random)[:count].tolist()]
    held = [pairs[groups[key][int(torch.randint(len(groups[key]), (), generator=random))]] for key in chosen]
    out = {number for key in chosen for number in groups[key]}
    return [pair for number, pair in enumerate(pairs) if number not in out], held


def without_near(pairs: Sequence[Pair], held: Sequence[Pair]) -> list[Pair]:
    """The pairs of which neither side is near the same side of any pair in `held`: in `normal` form equal, or different in one
    word (another one, one more or one less)."""
    near = [_Neighbours(side) for side in zip(*held, strict=True)]
    return [pair for pair in pairs if not any(side in there for side, there in zip(pair, near, strict=True))]


class _Neighbours:
    """Which sentences differ in at most one word from one of `sentences`. Two of equal length do where they are equal once the
    words of one place are left blank; one is longer by a word where it is the other once that word is left out."""

    def __init__(self, sentences: Iterable[str]):
        words = [tuple(normal(sentence).split()) for sentence in sentences]
        self.whole = set(words)
        self.blank = {form for row in words for form in _blank(row)}
        self.shorter = {form for row in words for form in _shorter(row)}

    def __contains__(self, sentence: str) -> bool:
        words = tuple(normal(sentence).split())
        if words in self.whole or words in self.shorter:
            return True
        return not self.blank.isdisjoint(_blank(words)) or not self.whole.isdisjoint(_shorter(words))


def _blank(words: tuple[str, ...]) -> list[tuple[str, ...]]:
    return [(*words[:i], "", *words[i + 1 :]) for i in range(len(words))]


def _shorter(words: tuple[str, ...]) -> list[tuple[str, ...]]:
    return [(*words[:i], *words[i + 1 :]) for i in range(len(words))]


def normal(sentence: str) -> str:
    """What two spellings of a sentence share: letters and digits, without case."""
    return " ".join(re.findall(r"\w+", unicodedata.normalize("NFKC", sentence).casefold()))
