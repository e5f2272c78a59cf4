"""Sentences from one language into another, and BLEU."""

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from itertools import islice
from pathlib import Path
from typing import Any, Protocol

import torch
from torch import nn

from lamina.data import parallel_text
from lamina.data.text import Codec
from lamina.errors import InputError, LaminaError
from lamina.extras import install_command
from lamina.infer.decoder import prepare
from lamina.infer.generate import EncoderDecoder, Hypothesis, beam_search, greedy, pad
from lamina.progress import track
from lamina.weights import ctranslate2, finding, loading, reading, trained
from lamina.weights.vocabulary import read_vocabulary

BATCH = 64  # sentences decoded together
WINDOW = 8 * BATCH  # sentences read ahead and sorted by length
LENGTH = 2.0, 10  # a translation has at most this many tokens for each of the source, and so many more


class Encoding(Protocol):
    """Text as the numbers of tokens: `lamina.data.text.Codec`, or the vocabulary of a CTranslate2 model."""

    @property
    def pad(self) -> int: ...
    @property
    def start(self) -> int:
        """The token that a target begins with."""
        ...

    @property
    def end(self) -> int: ...

    def sources(self, sentences: Sequence[str]) -> list[list[int]]:
        """Each sentence as the encoder takes it, with the tokens that it wants around it."""
        ...

    def decode(self, ids: Sequence[int]) -> str: ...


@dataclass(frozen=True)
class Translator:
    """A network of the Transformer's family with the encoding that it was trained with."""

    name: str
    weights: str
    module: nn.Module
    codec: Encoding
    source: str  # languages, "" where nobody says
    target: str
    device: torch.device
    trained_on: str = ""  # the corpus that its file names, "" where nobody says

    @cached_property
    def net(self) -> EncoderDecoder:
        """The network prepared for decoding (`infer.decoder`)."""
        return prepare(self.module)

    def translate(
        self, sentences: Sequence[str], beams: int = 5, length_penalty: float = 1.0, offset: int = 0
    ) -> list[dict[str, Any]]:
        """[{"source", "target", "score"}], the score being the mean log-probability of a token, or the sum over what
        `generate.penalty` gives. One beam is greedy. Raises `InputError` for a sentence that cannot be translated."""
        for number, sentence in enumerate(sentences, 1):
            if not sentence.strip():
                raise InputError(f"sentence {number} is empty: there is nothing to translate")
        found = list(track(self.stream(sentences, beams, length_penalty, offset), "sentences", len(sentences)))
        for number, row in enumerate(found, 1):
            if "error" in row:
                raise InputError(f"sentence {number} {row['error']}")
        return found

    def stream(
        self, sentences: Iterable[str], beams: int = 5, length_penalty: float = 1.0, offset: int = 0
    ) -> Iterator[dict[str, Any]]:
        """As `translate`, in order, while `sentences` are still being read; what cannot be translated has "error" in place of
        "target" and "score", and an empty sentence has an empty target. Of so many at a time as `WINDOW`, those of like length
        are decoded together."""
        if beams < 1:
            raise InputError(f"--beams is 1 or more, not {beams}")
        waiting = iter(sentences)
        while window := list(islice(waiting, WINDOW)):
            rows: list[dict[str, Any]] = [{"source": sentence} for sentence in window]
            ids = self._encoded(rows)
            order = sorted(ids, key=lambda i: len(ids[i]))  # alike in length, together
            for start in range(0, len(order), BATCH):
                part = order[start : start + BATCH]
                best = self._decoded([ids[i] for i in part], beams, length_penalty, offset)
                for i, hypothesis in zip(part, best, strict=True):
                    rows[i] |= {"target": self.codec.decode(hypothesis.ids), "score": round(hypothesis.score, 4)}
            yield from rows

    def _encoded(self, rows: list[dict[str, Any]]) -> dict[int, list[int]]:
        """The tokens of each row's source, by its number; a row of too many gets its "error", and one of none is done."""
        bound: int = self.module.config.max_length  # type: ignore
        full = [i for i, row in enumerate(rows) if row["source"].strip()]
        ids = dict(zip(full, self.codec.sources([rows[i]["source"] for i in full]), strict=True))
        for i, row in enumerate(rows):
            if i not in ids:
                row |= {"target": "", "score": 0.0}
            elif len(ids[i]) > bound:
                short = row["source"][:40]
                row["error"] = f"has {len(ids.pop(i))} tokens, and {self.name} takes {bound}: cut it ({short} ...)"
        return ids

    def _decoded(self, ids: Sequence[Sequence[int]], beams: int, length_penalty: float, offset: int) -> list[Hypothesis]:
        source, padding = pad(ids, self.codec.pad)
        longest = min(self.module.config.max_length, int(LENGTH[0] * source.shape[1]) + LENGTH[1])  # type: ignore
        where = (source.to(self.device), self.codec.start, self.codec.end, padding.to(self.device))
        options: dict[str, Any] = {"max_length": longest, "length_penalty": length_penalty, "offset": offset}
        if beams == 1:
            return greedy(self.net, *where, **options)
        return [row[0] for row in beam_search(self.net, *where, beams=beams, **options)]


def translator(name: str, weights: str | Path | None = None, device: str = "cpu") -> Translator:
    """`name` and `weights` as in `lamina.load`; the file's metadata hold the encoding and the languages, the folder of a
    CTranslate2 model holds a vocabulary."""
    if ctranslate2.is_model(name):
        module = loading.load(name, weights, device=device)
        return Translator(name, name, module, read_vocabulary(name), "", "", torch.device(device))
    name, weights = trained.network(name, weights)
    file = finding.find(name, weights)
    metadata = reading.read_metadata(file.path)
    if not {"tokenizer", "source", "target"} <= set(metadata):
        raise InputError(f"{file.name} holds no tokenizer: translation takes weights that `lamina train` wrote for a corpus")
    module = loading.load(name, file, device=device)
    codec = Codec.read(metadata["tokenizer"])
    languages = metadata["source"], metadata["target"]
    return Translator(name, file.name, module, codec, *languages, torch.device(device), metadata.get("data", ""))


def bleu(
    name: str, corpus: str | Path, weights: str | Path | None = None, beams: int = 5, device: str = "cpu"
) -> dict[str, Any]:
    """{"model", "weights", "data", "protocol", "count", "bleu", "bleu_greedy", "unseen", "seen"} on a corpus's test split, by
    sacreBLEU (Post, arXiv 1804.08771): case and punctuation count, tokens as 13a has them, one reference per sentence.

    "unseen" and "seen" have {"count", "bleu", "bleu_greedy"} of the sentences whose reference is not, or is, verbatim among the
    targets that the weights were trained on: the training split of the corpus that their file names ("trained_on"), of `corpus`
    where it names none. They are absent where no reference is among them, or where that split is not at hand.
    """
    try:
        from sacrebleu.metrics.bleu import BLEU
    except ImportError as error:
        raise LaminaError(f"BLEU needs the sacrebleu package: {install_command('text')}") from error
    net = translator(name, weights, device)
    pairs = parallel_text.load(corpus, "test", net.source, net.target)
    references = [target for _, target in pairs]
    widths = {"bleu": beams, "bleu_greedy": 1}
    answers = {key: [row["target"] for row in net.translate([s for s, _ in pairs], width)] for key, width in widths.items()}
    measure = BLEU()

    def scores(rows: Sequence[int]) -> dict[str, float]:
        return {
            key: round(measure.corpus_score([texts[i] for i in rows], [[references[i] for i in rows]]).score, 4)
            for key, texts in answers.items()
        }

    whole = scores(range(len(pairs)))
    protocol = f"{net.source} to {net.target}, test split, one reference, beam {beams} and greedy; {measure.get_signature()}"
    result: dict[str, Any] = {"model": name, "weights": net.weights, "data": str(corpus), "protocol": protocol}
    result |= {"count": len(pairs)} | whole
    trained_on = net.trained_on or str(corpus)
    known = _training_targets(trained_on, net)
    seen = [i for i, text in enumerate(references) if text in known]
    unseen = [i for i, text in enumerate(references) if text not in known]
    if seen and unseen:
        result["trained_on"] = trained_on
        result["unseen"] = {"count": len(unseen)} | scores(unseen)
        result["seen"] = {"count": len(seen)} | scores(seen)
    return result


def _training_targets(corpus: str | Path, net: Translator) -> set[str]:
    try:
        return {target for _, target in parallel_text.load(corpus, "train", net.source, net.target)}
    except LaminaError:  # a corpus of which there is the test split alone
        return set()
