"""Sentences from one language into another, and BLEU."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import torch
from torch import nn

from lamina.data import parallel_text
from lamina.data.text import Codec
from lamina.errors import InputError, LaminaError
from lamina.extras import install_command
from lamina.infer.generate import Hypothesis, beam_search, greedy, pad
from lamina.progress import track
from lamina.weights import ctranslate2, finding, loading, reading, trained
from lamina.weights.vocabulary import read_vocabulary

BATCH = 64  # sentences decoded together
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

    def translate(self, sentences: Sequence[str], beams: int = 5, length_penalty: float = 1.0) -> list[dict[str, Any]]:
        """[{"source", "target", "score"}], the score being the mean log-probability of a token. One beam is greedy."""
        if beams < 1:
            raise InputError(f"--beams is 1 or more, not {beams}")
        for number, sentence in enumerate(sentences, 1):
            if not sentence.strip():
                raise InputError(f"sentence {number} is empty: there is nothing to translate")
        ids = self.codec.sources(sentences)
        bound: int = self.module.config.max_length  # type: ignore
        for sentence, row in zip(sentences, ids, strict=True):
            if len(row) > bound:
                raise InputError(
                    f"a sentence of {len(row)} tokens, and {self.name} takes {bound}: cut it ({sentence[:40]} ...)"
                )
        order = sorted(range(len(ids)), key=lambda i: len(ids[i]))  # alike in length, together
        parts = [order[i : i + BATCH] for i in range(0, len(order), BATCH)]
        found: dict[int, Hypothesis] = {}
        for part in track(parts, "sentences"):
            source, padding = pad([ids[i] for i in part], self.codec.pad)
            longest = min(bound, int(LENGTH[0] * source.shape[1]) + LENGTH[1])
            where = (source.to(self.device), self.codec.start, self.codec.end, padding.to(self.device))
            if beams == 1:
                best = greedy(self.module, *where, max_length=longest, length_penalty=length_penalty)  # type: ignore[arg-type]
            else:
                rows = beam_search(self.module, *where, beams=beams, max_length=longest, length_penalty=length_penalty)  # type: ignore[arg-type]
                best = [row[0] for row in rows]
            found |= dict(zip(part, best, strict=True))
        return [
            {"source": sentence, "target": self.codec.decode(found[i].ids), "score": round(found[i].score, 4)}
            for i, sentence in enumerate(sentences)
        ]


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
