"""Pairs of sentences: reading them from text files, and holding some out."""

import re
import unicodedata
from collections.abc import Sequence
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
        raise LaminaError(f"{path} is no UTF-8 text ({error.reason} at byte {error.start})") from error


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


def normal(sentence: str) -> str:
    """What two spellings of a sentence share: letters and digits, without case."""
    return " ".join(re.findall(r"\w+", unicodedata.normalize("NFKC", sentence).casefold()))
