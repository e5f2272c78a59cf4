"""The 1,000 classes of ImageNet (ILSVRC 2012), in the order of their ids: the outputs of every network trained on it."""

from functools import cache
from importlib.resources import files


@cache
def classes() -> tuple[tuple[str, str], ...]:
    """(WordNet id, name) of each class; the names are WordNet 3.0's lemmas."""
    lines = files("lamina.data").joinpath("imagenet_classes.tsv").read_text(encoding="utf-8").splitlines()
    return tuple((wnid, name) for wnid, name in (line.split("\t") for line in lines if not line.startswith("#")))


CLASSES = tuple(name for _, name in classes())
