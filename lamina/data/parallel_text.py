"""Parallel text: Tatoeba's sentence pairs, Multi30k's captions, and corpora of one's own.

A corpus is a data set by name, a folder with train.SOURCE and train.TARGET (val.* and test.* beside them, .gz or not), or a
tab-separated file of source and target.
"""

import re
import unicodedata
from collections.abc import Sequence
from pathlib import Path

import torch

from lamina.data.augment import generator
from lamina.data.files import find, homes, obtain, read
from lamina.errors import InputError, LaminaError

Pair = tuple[str, str]

# Tatoeba.org's pairs by way of manythings.org/anki (deu-eng.zip), CC BY 2.0 FR. The archive changes weekly: no checksum.
TATOEBA, COLUMNS = "eng-deu.tsv", ("en", "de")
TATOEBA_TEST = 1000  # source sentences that are held out; of a small file of one's own a tenth
CORPORA = ("tatoeba", "multi30k")
SPLIT_SEED = 2017

# Elliott et al. 2016, arXiv 1605.00459; non-commercial research and education, as Flickr30k.
MULTI30K = "https://raw.githubusercontent.com/multi30k/dataset/master/data/task1/raw/"
MULTI30K_FILES = {"train": "train", "validation": "val", "test": "test_2016_flickr"}
MULTI30K_SHA256 = {
    "train.de": "726e39b2fa9eb9ffb6dc763fb35a179f80fae06ffc5d28b6ace5faa883de28a6",
    "train.en": "d79cfa999dd4c51d2cb42499b6796d5a882c3a8a961923c25a898c90f8bbd56f",
    "train.fr": "622e75069e9f4c577425c4f277116ce66e63a2401c0a2312d90073cb12379a3c",
    "val.de": "f0cba2f995189cf5770f29a8a9a537a3ad3f51657ad873405082ff6863a5e75a",
    "val.en": "14f7d25ddd868909a9213e361768460edcacdd6ab9d1e77b92560dc10c10dc28",
    "val.fr": "ca3106f1a72390591d25f6c45cb4cd39dec4cd3f123e099748a3ce5256c160e9",
    "test_2016_flickr.de": "9204244e408ccb38d2a55cfcd344df15005fc42a07a6e55ca6c52b6ababb8cc8",
    "test_2016_flickr.en": "611d361c6334bc7246101d48097c13cf5c4413c5befc793cc629934359d532d9",
    "test_2016_flickr.fr": "6d326e188d259fb1d04ac19eae3af956559b3a0b93d7635e56c90987c40c8b90",
}


def load(corpus: str | Path, split: str, source: str, target: str) -> list[Pair]:
    """The (source, target) sentences of the split "train", "validation" (empty where the corpus has none) or "test"."""
    if source == target:
        raise InputError(f"a translation from {source} to {target}: give two languages")
    if corpus == "tatoeba":
        return tatoeba(split, source, target)
    if corpus == "multi30k":
        return multi30k(split, source, target)
    path = Path(corpus)
    if path.is_dir():
        return _folder(path, split, source, target)
    if path.is_file():
        pairs = _tsv(path)
        train, test = hold_out(pairs, min(TATOEBA_TEST, max(1, len(pairs) // 10)), SPLIT_SEED)
        return {"train": train, "validation": [], "test": test}[split]
    raise InputError(f"{corpus}: no such corpus; give tatoeba, multi30k, a folder with train.{source} or a tab-separated file")


def tatoeba(split: str, source: str, target: str) -> list[Pair]:
    """50,001 short English and German sentences; the test part is `hold_out`'s, with one translation a sentence."""
    if {source, target} != set(COLUMNS):
        raise InputError(f"tatoeba has {' and '.join(COLUMNS)}, not {source} and {target}")
    path = find("tatoeba", TATOEBA)
    if path is None:
        places = " or ".join(map(str, homes("tatoeba")))
        raise LaminaError(
            f"tatoeba: no {TATOEBA}[.gz] here; put it into {places} (deu-eng.zip of manythings.org/anki holds it as deu.txt)"
        )
    first = COLUMNS.index(source)
    pairs = [(row[first], row[1 - first]) for row in _tsv(path)]
    train, test = hold_out(pairs, TATOEBA_TEST, SPLIT_SEED)
    return {"train": train, "validation": [], "test": test}[split]


def multi30k(split: str, source: str, target: str) -> list[Pair]:
    """29,000 captions of pictures, 1,014 for validation, and the test set test_2016_flickr of 1,000; de, en and fr."""
    name = MULTI30K_FILES[split]
    sides = []
    for language in (source, target):
        if language not in ("de", "en", "fr"):
            raise InputError(f"multi30k has de, en and fr, not {language}")
        file = f"{name}.{language}"
        sides.append(_lines(obtain("multi30k", file, f"{MULTI30K}{file}.gz", MULTI30K_SHA256[file])))
    return _zip(*sides, where=f"multi30k's {name}")


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
    """What two writings of a sentence share: letters and digits, without case."""
    return " ".join(re.findall(r"\w+", unicodedata.normalize("NFKC", sentence).casefold()))


def _folder(folder: Path, split: str, source: str, target: str) -> list[Pair]:
    name = {"train": "train", "validation": "val", "test": "test"}[split]
    paths = []
    for language in (source, target):
        places = [folder / f"{name}.{language}{suffix}" for suffix in ("", ".gz")]
        path = next((p for p in places if p.is_file()), None)
        if path is None:
            if split == "validation":
                return []
            raise InputError(f"{folder} has no {name}.{language} nor {name}.{language}.gz")
        paths.append(path)
    return _zip(*map(_lines, paths), where=f"{folder}/{name}")


def _lines(path: Path) -> list[str]:
    try:
        return read(path).decode("utf-8-sig").removesuffix("\n").split("\n")
    except UnicodeDecodeError as error:
        raise LaminaError(f"{path} is no UTF-8 text ({error.reason} at byte {error.start})") from error


def _zip(sources: list[str], targets: list[str], where: str) -> list[Pair]:
    if len(sources) != len(targets):
        raise LaminaError(
            f"{where}: {len(sources):,} source lines and {len(targets):,} target lines; they belong together one by one"
        )
    pairs = [(s.strip(), t.strip()) for s, t in zip(sources, targets, strict=True)]
    return [(s, t) for s, t in pairs if s and t]


def _tsv(path: Path) -> list[Pair]:
    pairs = []
    for number, line in enumerate(_lines(path), 1):
        row = [part.strip() for part in line.split("\t")]
        if line.strip() and (len(row) < 2 or not row[0] or not row[1]):
            raise LaminaError(f"{path}, line {number}: not two sentences with a tab between them")
        if line.strip():
            pairs.append((row[0], row[1]))
    return pairs
