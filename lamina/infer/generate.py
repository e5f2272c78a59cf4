"""Text out of an encoder-decoder: greedy and beam search over a key and value cache."""

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol

import torch
from torch import Tensor

from lamina.errors import InputError
from lamina.zoo.transformer import Cache


class EncoderDecoder(Protocol):
    """What the searches need, in evaluation mode: `lamina.zoo.transformer.Net` is one."""

    def encode(self, source: Tensor, source_padding: Tensor | None = None) -> Tensor:
        """Token ids (B, S) to the memory (B, S, d); the mask is True on padding."""
        ...

    def decode(
        self,
        target: Tensor,
        memory: Tensor,
        source_padding: Tensor | None = None,
        target_padding: Tensor | None = None,
        cache: Cache | None = None,
    ) -> Tensor:
        """The new tokens (B, T) to logits (B, T, V) of those that follow, extending the cache."""
        ...


class Decoding(Protocol):
    """A decoder at work on some sentences, each in as many rows as there are beams."""

    def step(self, tokens: Tensor) -> Tensor:
        """The newest token of each row (R,) to logits (R, V) of those that follow."""
        ...

    def keep(self, rows: Tensor, sentences: Tensor) -> None:
        """Go on with these rows in place of those before, and with these of the sentences: both are indices. The rows of a
        sentence stay together."""
        ...


class _Plain:
    """An `EncoderDecoder` with its cache."""

    def __init__(self, net: EncoderDecoder, source: Tensor, padding: Tensor | None, beams: int):
        rows = torch.arange(len(source), device=source.device).repeat_interleave(beams)
        self.net, self.cache, self.memory = net, Cache(), net.encode(source, padding)[rows]  # (R, S, d)
        self.padding = None if padding is None else padding[rows]

    def step(self, tokens: Tensor) -> Tensor:
        return self.net.decode(tokens[:, None], self.memory, self.padding, cache=self.cache)[:, -1]

    def keep(self, rows: Tensor, sentences: Tensor) -> None:
        self.cache = self.cache.select(rows)
        if len(rows) < len(self.memory):  # the beams of a sentence have one memory
            self.memory = self.memory[rows]
            self.padding = None if self.padding is None else self.padding[rows]


def begin(net: EncoderDecoder, source: Tensor, padding: Tensor | None, beams: int = 1) -> Decoding:
    """The net's own way to decode step by step (`infer.decoder`), or the plain one."""
    return net.begin(source, padding, beams) if hasattr(net, "begin") else _Plain(net, source, padding, beams)  # type: ignore[attr-defined]


@dataclass(frozen=True)
class Hypothesis:
    """A finished sequence without its start and end tokens. `score` is the sum of the tokens' log-probabilities, that of the
    end token included, over `penalty` of its length, which counts the end token too (as CTranslate2 does)."""

    ids: tuple[int, ...]
    score: float


def penalty(length: int, exponent: float, offset: int = 0) -> float:
    """What a sequence's sum of log-probabilities is divided by: ((offset + length) / (offset + 1)) ** exponent. With an offset
    of 5 that is the rule of Wu et al., arXiv 1609.08144, equation 14, which the Transformer's paper takes with beams of 4 and
    an exponent of 0.6; with 0 it is CTranslate2's and transformers'."""
    return ((offset + length) / (offset + 1)) ** exponent


def pad(sequences: Sequence[Sequence[int]], padding: int = 0) -> tuple[Tensor, Tensor]:
    """Token ids of different lengths as (B, S), filled up with `padding`, and the mask (B, S) that is True there."""
    if not sequences or not all(sequences):
        raise InputError("nothing to pad: every sequence needs a token at least")
    longest = max(map(len, sequences))
    ids = torch.tensor([[*row, *[padding] * (longest - len(row))] for row in sequences])
    lengths = torch.tensor([len(row) for row in sequences])
    return ids, torch.arange(longest) >= lengths[:, None]


@torch.no_grad()
def greedy(
    net: EncoderDecoder,
    source: Tensor,
    start: int,
    end: int,
    source_padding: Tensor | None = None,
    *,
    min_length: int = 1,
    max_length: int = 256,
    length_penalty: float = 1.0,
    offset: int = 0,
    banned: Sequence[int] = (),
) -> list[Hypothesis]:
    """The likeliest next token, again and again until `end`: one hypothesis for each row of `source` (B, S).

    Before `min_length` tokens no sequence ends; at `max_length` it is cut. A net with a bound of its own raises if that is
    smaller. No sequence has a token of `banned` (Marian's "bad words": the padding token); the others share its probability.
    """
    _check(min_length, max_length, end, banned)
    decoding = begin(net, source, source_padding)
    last = torch.full((len(source),), start, device=source.device)
    ids: list[list[int]] = [[] for _ in range(len(source))]
    sums, lengths = [0.0] * len(source), [0] * len(source)
    alive = list(range(len(source)))
    for step in range(max_length):
        logits = decoding.step(last)
        values, tokens = _best(logits, 1, [*banned, end] if step < min_length else banned)
        going = []
        for row, (sequence, value, token) in enumerate(zip(alive, values[:, 0].tolist(), tokens[:, 0].tolist(), strict=True)):
            sums[sequence] += value
            lengths[sequence] += 1
            if token != end:
                ids[sequence].append(token)
                going.append(row)
        if not going:
            break
        rows = torch.tensor(going, device=source.device)
        if len(going) < len(alive):
            alive = [alive[row] for row in going]
            decoding.keep(rows, rows)
        last = tokens[rows, 0]
    scales = [penalty(length, length_penalty, offset) for length in lengths]
    return [Hypothesis(tuple(row), total / scale) for row, total, scale in zip(ids, sums, scales, strict=True)]


@torch.no_grad()
def beam_search(
    net: EncoderDecoder,
    source: Tensor,
    start: int,
    end: int,
    source_padding: Tensor | None = None,
    *,
    beams: int = 4,
    hypotheses: int = 1,
    min_length: int = 1,
    max_length: int = 256,
    length_penalty: float = 1.0,
    offset: int = 0,
    banned: Sequence[int] = (),
) -> list[list[Hypothesis]]:
    """The best `hypotheses` of a search with `beams` open sequences for each row of `source` (B, S), best first.

    A sequence that ends among the best `beams` candidates is set aside and its place goes to the next open one. A row is
    done with `beams` finished sequences; without a length penalty, once its leading one and as many as asked for have finished.
    `min_length`, `max_length` and `banned` are those of `greedy`.
    """
    _check(min_length, max_length, end, banned)
    if not 1 <= hypotheses <= beams:
        raise InputError(f"{hypotheses} hypotheses of {beams} beams: from 1 to as many as beams")
    device, batch = source.device, len(source)
    decoding = begin(net, source, source_padding, beams)
    history = torch.full((batch, beams, 1), start, device=device)
    totals = torch.full((batch, beams), -math.inf, device=device)
    totals[:, 0] = 0.0  # the beams are alike at first: one of them is enough
    searches = [_Search(hypotheses if length_penalty == 0 else beams) for _ in range(batch)]
    alive = searches
    for step in range(max_length):
        logits = decoding.step(history[:, :, -1].flatten())  # (alive * beams, V)
        candidates = _candidates(logits, totals, [*banned, end] if step < min_length else banned)
        cut, scale = step + 1 == max_length, penalty(step + 1, length_penalty, offset)
        ended = [search.set_aside(history[row], *c, end, cut, scale) for row, (search, *c) in _rows(alive, candidates)]
        going = [row for row, search in enumerate(alive) if not cut and not search.done(beams)]
        if not going:
            break
        best, origin, token = candidates
        open_ = [_replace(beams, ended[row], token[row].tolist(), end) for row in going]
        chosen, places = torch.tensor(going, device=device), torch.tensor(open_, device=device)
        totals = best[chosen].gather(1, places)
        parents = origin[chosen].gather(1, places)  # (alive, beams)
        history = torch.cat((history[chosen[:, None], parents], token[chosen].gather(1, places)[:, :, None]), dim=2)
        decoding.keep((chosen[:, None] * beams + parents).flatten(), chosen)
        alive = [alive[row] for row in going]
    return [sorted(search.finished, key=lambda h: h.score, reverse=True)[:hypotheses] for search in searches]


@dataclass(eq=False)
class _Search:
    """One sentence's: its finished sequences, of which `enough` end it once its leading one has been among them."""

    enough: int
    finished: list[Hypothesis] = field(default_factory=list)
    led: bool = False

    def set_aside(
        self, history: Tensor, best: list[float], origin: list[int], token: list[int], end: int, cut: bool, scale: float
    ) -> list[int]:
        """Keep those of the leading candidates that end here, or that are `cut`; which they are."""
        ended = [k for k in range(len(history)) if (token[k] == end or cut) and math.isfinite(best[k])]
        for k in ended:
            last = [] if token[k] == end else [token[k]]
            self.finished.append(Hypothesis((*history[origin[k], 1:].tolist(), *last), best[k] / scale))
        self.led |= 0 in ended
        return ended

    def done(self, beams: int) -> bool:
        return len(self.finished) >= (self.enough if self.led else beams)


def _rows(alive: list[_Search], candidates: Sequence[Tensor]) -> Iterator[tuple[int, tuple[Any, ...]]]:
    """Each search with its candidates as lists, numbered."""
    return enumerate(zip(alive, *(part.tolist() for part in candidates), strict=True))


def _candidates(logits: Tensor, totals: Tensor, banned: Sequence[int]) -> tuple[Tensor, Tensor, Tensor]:
    """Of logits (rows * beams, V) behind sequences of `totals` (rows, beams) the best, twice as many as beams: their sums,
    beams and tokens, (rows, 2 * beams) each. Should every beam's best token be the end, there are as many open ones left."""
    beams = totals.shape[1]
    values, tokens = _best(logits, 2 * beams, banned)  # no beam has more among the best of all
    each = values.shape[1]
    best, place = (values.unflatten(0, (-1, beams)) + totals[:, :, None]).flatten(1).topk(min(2 * beams, beams * each))
    return best, place // each, tokens.unflatten(0, (-1, beams)).flatten(1).gather(1, place)


def _replace(beams: int, ended: Sequence[int], tokens: Sequence[int], end: int) -> list[int]:
    """The candidates that stay open: the first `beams`, those that ended replaced in turn by the open ones behind."""
    spare = iter([k for k in range(beams, len(tokens)) if tokens[k] != end])
    return [next(spare, k) if k in ended else k for k in range(beams)]


def _best(logits: Tensor, count: int, banned: Sequence[int]) -> tuple[Tensor, Tensor]:
    """Of logits (R, V) the log-probabilities of the `count` best tokens that are not banned, in float32, and these tokens."""
    logits = logits.float()
    if banned:
        if max(banned) >= logits.shape[-1]:
            raise InputError(f"a banned token of {max(banned)}: the vocabulary has {logits.shape[-1]}, counted from 0")
        logits[:, list(banned)] = -math.inf
    values, tokens = logits.topk(min(count, logits.shape[-1]))
    return values - logits.logsumexp(dim=-1, keepdim=True), tokens


def _check(min_length: int, max_length: int, end: int, banned: Sequence[int]) -> None:
    if not 0 <= min_length <= max_length or max_length < 1:
        raise InputError(
            f"a sequence of {min_length} to {max_length} tokens: 0 <= min_length <= max_length and 1 <= max_length"
        )
    if end in banned or any(token < 0 for token in banned):
        raise InputError(f"banned tokens {list(banned)}: they are from 0 up, and the end token {end} is none of them")
