"""The vocabularies that lie in the folder of a CTranslate2 model: text to the numbers of its tokens and back."""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from lamina.errors import LaminaError, first_line
from lamina.weights.ctranslate2 import read_settings


def read_tokens(path: str | Path) -> list[str]:
    """The tokens of a `*_vocabulary.txt` or `.json`, in the order of their ids. Where the embedding has one row more than
    that, the last is of unknown tokens."""
    try:
        text = Path(path).read_text(encoding="utf-8")
        # not splitlines: a token may be a sign that it takes for the end of a line
        tokens = json.loads(text) if str(path).endswith(".json") else text.removesuffix("\n").split("\n")
    except (OSError, ValueError, RecursionError) as error:
        raise LaminaError(f"{path} cannot be read as a vocabulary ({first_line(error)})") from error
    if not isinstance(tokens, list) or not all(isinstance(token, str) for token in tokens):
        raise LaminaError(f"{path} is not a list of tokens")
    return tokens


@dataclass(frozen=True)
class Vocabulary:
    """Text as the tokens of a model, by their numbers. Where every token is one letter a text is split into its letters, else
    at its spaces: a model's folder holds no tokenizer, and CTranslate2 takes tokens too."""

    numbers: Mapping[str, int]  # of the source's tokens
    tokens: Sequence[str]  # of the target
    unknown: int  # the source's number of all other tokens
    before: tuple[int, ...]  # what the model wants around a source
    after: tuple[int, ...]
    start: int  # of a target
    end: int
    pad: int = 0

    @property
    def letters(self) -> bool:
        return all(len(token) == 1 or token.startswith("<") for token in self.numbers)

    def sources(self, sentences: Sequence[str]) -> list[list[int]]:
        texts = [list(text) if self.letters else text.split() for text in sentences]
        return [[*self.before, *(self.numbers.get(t, self.unknown) for t in text), *self.after] for text in texts]

    def decode(self, ids: Sequence[int]) -> str:
        tokens = [self.tokens[i] if i < len(self.tokens) else "<unk>" for i in ids]
        return ("" if self.letters else " ").join(tokens)


def read_vocabulary(path: str | Path) -> Vocabulary:
    """The vocabulary of a model's folder: `source_vocabulary` and `target_vocabulary`, or `shared_vocabulary` for both."""
    settings = read_settings(path)
    source, target = (_find_vocabulary(Path(path), side) for side in ("source", "target"))
    numbers = {token: number for number, token in enumerate(source)}

    def number(side: list[str], key: str, default: str) -> int:
        token = settings.get(key, default)
        if token not in side:
            raise LaminaError(f"{path}: its vocabulary lacks the {key.replace('_', ' ')} {token!r}")
        return side.index(token)

    return Vocabulary(
        numbers=numbers,
        tokens=target,
        unknown=numbers.get(str(settings.get("unk_token", "<unk>")), len(source)),
        before=(number(source, "bos_token", "<s>"),) if settings.get("add_source_bos") else (),
        after=(number(source, "eos_token", "</s>"),) if settings.get("add_source_eos") else (),
        start=number(target, "decoder_start_token", "<s>"),
        end=number(target, "eos_token", "</s>"),
    )


def _find_vocabulary(folder: Path, side: str) -> list[str]:
    names = [f"{which}_vocabulary.{suffix}" for which in (side, "shared") for suffix in ("json", "txt")]
    for name in names:
        if (folder / name).is_file():
            return read_tokens(folder / name)
    raise LaminaError(f"{folder} has no vocabulary: none of {', '.join(names)}")
