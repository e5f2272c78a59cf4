"""Text to numbers and back: one byte-pair encoding for both languages (Sennrich et al., arXiv 1508.07909), by `tokenizers`."""

from collections.abc import Iterable, Sequence
from typing import Any

from lamina.errors import LaminaError
from lamina.extras import install_command

PAD, START, END = 0, 1, 2  # the first tokens of every vocabulary made here
SPECIAL = ("<pad>", "<s>", "</s>")


def _library() -> Any:
    try:
        import tokenizers
    except ImportError as error:
        raise LaminaError(f"text needs the tokenizers package: {install_command('text')}") from error
    return tokenizers


class Codec:
    """A byte-level byte-pair encoding: no text is unknown to it, and `decode(encode(text))` is the text (in NFC)."""

    pad, start, end = PAD, START, END

    def __init__(self, tokenizer: Any):
        self.tokenizer = tokenizer

    @classmethod
    def learn(cls, sentences: Iterable[str], vocabulary: int) -> "Codec":
        """The encoding of at most `vocabulary` tokens, learnt from `sentences`; the same for the same sentences."""
        library = _library()
        if vocabulary < 256 + len(SPECIAL):
            raise LaminaError(f"a vocabulary of {vocabulary} does not hold the 256 bytes and {len(SPECIAL)} special tokens")
        tokenizer = library.Tokenizer(library.models.BPE())
        tokenizer.normalizer = library.normalizers.NFC()
        tokenizer.pre_tokenizer = library.pre_tokenizers.ByteLevel(add_prefix_space=True)
        tokenizer.decoder = library.decoders.ByteLevel()
        trainer = library.trainers.BpeTrainer(
            vocab_size=vocabulary,
            special_tokens=list(SPECIAL),
            initial_alphabet=sorted(library.pre_tokenizers.ByteLevel.alphabet()),
            show_progress=False,
        )
        tokenizer.train_from_iterator(sentences, trainer)
        return cls(tokenizer)

    @classmethod
    def read(cls, text: str) -> "Codec":
        """From what `dump` gave."""
        try:
            return cls(_library().Tokenizer.from_str(text))
        except LaminaError:
            raise
        except Exception as error:  # the library raises plain exceptions
            raise LaminaError(f"the tokenizer is damaged ({error})") from error

    def dump(self) -> str:
        return self.tokenizer.to_str()

    @property
    def size(self) -> int:
        return self.tokenizer.get_vocab_size()

    def encode(self, sentences: Sequence[str]) -> list[list[int]]:
        """Token ids of each sentence, without start and end. Special tokens written out in a text are text."""
        return [e.ids for e in self.tokenizer.encode_batch([_plain(s) for s in sentences], add_special_tokens=False)]

    def sources(self, sentences: Sequence[str]) -> list[list[int]]:
        """The same as an encoder takes it, with the end token."""
        return [[*row, END] for row in self.encode(sentences)]

    def decode(self, ids: Sequence[int]) -> str:
        return self.tokenizer.decode(list(ids), skip_special_tokens=True).strip()


def _plain(text: str) -> str:
    """The library takes "</s>" in a text for the token: a thin space within keeps it text."""
    for token in SPECIAL:
        text = text.replace(token, token[0] + "\u2009" + token[1:])
    return text
