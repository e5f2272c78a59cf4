"""Parallel text: a data set by name, or a corpus of one's own: a folder with train.SOURCE and train.TARGET (val.* and test.*
beside them, .gz or not), or a tab-separated file of source and target."""

from pathlib import Path

from lamina.data import registry
from lamina.data.pairs import Pair, hold_out, join_lines, read_columns, read_lines
from lamina.errors import InputError

FILES = {"train": "train", "validation": "val", "test": "test"}
TEST, SEED = 1000, 2017  # sentences held out of a file, of a small one a tenth, and by which seed


def load(corpus: str | Path, split: str, source: str, target: str) -> list[Pair]:
    """The (source, target) sentences of the split "train", "validation" (empty where the corpus has none) or "test"."""
    if source == target:
        raise InputError(f"a translation from {source} to {target}: give two languages")
    known = registry.names("text")
    if corpus in known:
        return registry.DATASETS[str(corpus)].load(split, source, target)
    path = Path(corpus)
    if path.is_dir():
        return _folder(path, split, source, target)
    if path.is_file():
        pairs = read_columns(path)
        train, test = hold_out(pairs, min(TEST, max(1, len(pairs) // 10)), SEED)
        return {"train": train, "validation": [], "test": test}[split]
    raise InputError(f"{corpus}: no such corpus; give {', '.join(known)}, a folder with train.{source} or a tab-separated file")


def _folder(folder: Path, split: str, source: str, target: str) -> list[Pair]:
    name = FILES[split]
    paths = []
    for language in (source, target):
        places = [folder / f"{name}.{language}{suffix}" for suffix in ("", ".gz")]
        path = next((p for p in places if p.is_file()), None)
        if path is None:
            if split == "validation":
                return []
            raise InputError(f"{folder} has no {name}.{language} nor {name}.{language}.gz")
        paths.append(path)
    return join_lines(*map(read_lines, paths), where=f"{folder}/{name}")
