"""A folder of labelled images: one folder per class, or files named INDEX_anything."""

import re
from pathlib import Path

from lamina.data import imagenet
from lamina.errors import InputError

SUFFIXES = (".jpg", ".jpeg", ".png", ".webp", ".bmp", ".gif")


def load(folder: str | Path) -> tuple[list[Path], list[int]]:
    """The images of a folder and the index of each one's class.

    Class folders are numbered in alphabetical order, as torchvision does; if all are ImageNet's ids (n01440764), by the
    order of all 1,000. Without class folders the file name's leading number is the class: 207_n02099601.jpg.
    """
    root = Path(folder)
    folders = _class_folders(root)
    if folders:
        ids = {wnid: index for index, (wnid, _) in enumerate(imagenet.classes())}
        known = all(p.name in ids for p in folders)
        pairs = [
            (path, ids[p.name] if known else number)
            for number, p in enumerate(folders)
            for path in sorted(p.rglob("*"))
            if path.suffix.lower() in SUFFIXES
        ]
    else:
        images = sorted(p for p in root.iterdir() if p.suffix.lower() in SUFFIXES)
        numbers = [re.match(r"(\d+)_", p.name) for p in images]
        if unnumbered := [p.name for p, m in zip(images, numbers, strict=True) if m is None]:
            raise InputError(f"{root}: {unnumbered[0]} does not begin with its class, as in 207_{unnumbered[0]}")
        pairs = [(p, int(m[1])) for p, m in zip(images, numbers, strict=True) if m]
    if not pairs:
        raise InputError(f"{root} holds no images ({', '.join(SUFFIXES)})")
    return [path for path, _ in pairs], [label for _, label in pairs]


def classes(folder: str | Path) -> list[str]:
    """The names of the classes that `load` numbers: the class folders', or ImageNet's; empty without class folders."""
    names = [p.name for p in _class_folders(Path(folder))]
    known = dict(imagenet.classes())
    return list(known.values()) if names and all(name in known for name in names) else names


def _class_folders(root: Path) -> list[Path]:
    if not root.is_dir():
        raise InputError(f"{root} is not a folder of images" if root.exists() else f"{root}: no such folder or data set")
    return sorted(p for p in root.iterdir() if p.is_dir() and not p.name.startswith("."))
