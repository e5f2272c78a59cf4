"""Multi30k: 29,000 captions of photographs, 1,014 for validation, and the 1,000 of the test set test_2016_flickr, in de, en
and fr. Elliott et al. 2016, arXiv 1605.00459; for non-commercial research and education, as Flickr30k."""

from lamina.data.files import obtain
from lamina.data.pairs import Pair, join_lines, read_lines
from lamina.errors import InputError

HOME = "https://raw.githubusercontent.com/multi30k/dataset/master/data/task1/raw/"
FILES = {"train": "train", "validation": "val", "test": "test_2016_flickr"}
LANGUAGES = ("de", "en", "fr")
SHA256 = {  # of the .gz files
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


def load(split: str, source: str, target: str) -> list[Pair]:
    """The (source, target) sentences of the split "train", "validation" or "test"."""
    name = FILES[split]
    sides = []
    for language in (source, target):
        if language not in LANGUAGES:
            raise InputError(f"multi30k has de, en and fr, not {language}")
        file = f"{name}.{language}"
        sides.append(read_lines(obtain("multi30k", file, f"{HOME}{file}.gz", SHA256[file])))
    return join_lines(*sides, where=f"multi30k's {name}")
