"""Tatoeba: 50,001 pairs of short English and German sentences, from Tatoeba.org by way of manythings.org/anki
(deu-eng.zip), CC BY 2.0 FR. The archive changes weekly, so that it has no checksum and is not fetched."""

from lamina.data.files import find, homes
from lamina.data.pairs import Pair, hold_out, read_columns
from lamina.errors import InputError, LaminaError

FILE, COLUMNS = "eng-deu.tsv", ("en", "de")
TEST, SEED = 1000, 2017  # source sentences that are held out, and by which seed


def load(split: str, source: str, target: str) -> list[Pair]:
    """The (source, target) sentences of the split "train", "validation" (which is empty) or "test"; the test split is
    `hold_out`'s, with one translation per sentence."""
    if {source, target} != set(COLUMNS):
        raise InputError(f"tatoeba has {' and '.join(COLUMNS)}, not {source} and {target}")
    path = find("tatoeba", FILE)
    if path is None:
        places = " or ".join(map(str, homes("tatoeba")))
        raise LaminaError(
            f"tatoeba: no {FILE}[.gz] here; put it into {places} (deu-eng.zip of manythings.org/anki holds it as deu.txt)"
        )
    first = COLUMNS.index(source)
    train, test = hold_out([(row[first], row[1 - first]) for row in read_columns(path)], TEST, SEED)
    return {"train": train, "validation": [], "test": test}[split]
