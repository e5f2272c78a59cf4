"""Text out of an encoder-decoder: greedy and beam search over a key and value cache."""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

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


@dataclass(frozen=True)
class Hypothesis:
    """A finished sequence without its start and end tokens. `score` is the sum of the tokens' log-probabilities, that of the
    end token included, over length ** length_penalty, where the length counts the end token too (as CTranslate2 does)."""

    ids: tuple[int, ...]
    score: float


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
    banned: Sequence[int] = (),
) -> list[Hypothesis]:
    """The likeliest next token, again and again until `end`: one hypothesis for each row of `source` (B, S).

    Before `min_length` tokens no sequence ends; at `max_length` it is cut. A net with a bound of its own raises if that is
    smaller. No sequence has a token of `banned` (Marian's "bad words": the padding token); the others share its probability.
    """
    _check(min_length, max_length, end, banned)
    memory = net.encode(source, source_padding)
    cache, last = Cache(), torch.full((len(source), 1), start, device=source.device)
    ids: list[list[int]] = [[] for _ in range(len(source))]
    sums, lengths = [0.0] * len(source), [0] * len(source)
    alive = list(range(len(source)))
    for step in range(max_length):
        logits = net.decode(last, memory, source_padding, cache=cache)
        scores = _log_probabilities(logits, [*banned, end] if step < min_length else banned)
        values, tokens = scores.max(dim=-1)
        going = []
        for row, (sequence, value, token) in enumerate(zip(alive, values.tolist(), tokens.tolist(), strict=True)):
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
            memory, cache = memory[rows], cache.select(rows)
            source_padding = None if source_padding is None else source_padding[rows]
        last = tokens[rows, None]
    return [
        Hypothesis(tuple(row), total / length**length_penalty) for row, total, length in zip(ids, sums, lengths, strict=True)
    ]


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
    rows = torch.arange(batch, device=device).repeat_interleave(beams)
    memory = net.encode(source, source_padding)[rows]  # (B * beams, S, d)
    source_padding = None if source_padding is None else source_padding[rows]
    cache, history = Cache(), torch.full((batch, beams, 1), start, device=device)
    totals = torch.full((batch, beams), -math.inf, device=device)
    totals[:, 0] = 0.0  # the beams are alike at first: one of them is enough
    alive, led = list(range(batch)), [False] * batch  # rows at work; rows whose leading sequence has once finished
    finished: list[list[Hypothesis]] = [[] for _ in range(batch)]
    for step in range(max_length):
        logits = net.decode(history[:, :, -1].reshape(-1, 1), memory, source_padding, cache=cache)
        scores = _log_probabilities(logits, [*banned, end] if step < min_length else banned)  # (alive * beams, V)
        best, origin, token = _candidates(scores.unflatten(0, (-1, beams)) + totals[:, :, None])
        keep: list[list[int]] = []
        going: list[int] = []
        for row, (sequence, values, tokens) in enumerate(zip(alive, best.tolist(), token.tolist(), strict=True)):
            cut = step + 1 == max_length
            ended = [k for k in range(beams) if (tokens[k] == end or cut) and math.isfinite(values[k])]
            for k in ended:
                last = [] if tokens[k] == end else [tokens[k]]
                ids = (*history[row, origin[row, k], 1:].tolist(), *last)
                finished[sequence].append(Hypothesis(ids, values[k] / (step + 1) ** length_penalty))
            led[sequence] |= 0 in ended
            enough = hypotheses if length_penalty == 0 and led[sequence] else beams
            if not cut and len(finished[sequence]) < enough:
                going.append(row)
                keep.append(_replace(beams, ended, tokens, end))
        if not going:
            break
        chosen, places = torch.tensor(going, device=device), torch.tensor(keep, device=device)
        totals = best[chosen].gather(1, places)
        parents = origin[chosen].gather(1, places)  # (alive, beams)
        history = torch.cat((history[chosen[:, None], parents], token[chosen].gather(1, places)[:, :, None]), dim=2)
        rows = (chosen[:, None] * beams + parents).flatten()
        cache, memory = cache.select(rows), memory[rows]
        source_padding = None if source_padding is None else source_padding[rows]
        alive = [alive[row] for row in going]
    return [sorted(row, key=lambda h: h.score, reverse=True)[:hypotheses] for row in finished]


def _candidates(scores: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Of scores (rows, beams, V) the best, twice as many as beams: their values, beams and tokens, (rows, 2 * beams) each.
    Should every beam's best token be the end, there are as many open ones left."""
    beams, vocabulary = scores.shape[1:]
    best, flat = scores.flatten(1).topk(min(2 * beams, beams * vocabulary))
    return best, flat // vocabulary, flat % vocabulary


def _replace(beams: int, ended: Sequence[int], tokens: Sequence[int], end: int) -> list[int]:
    """The candidates that stay open: the first `beams`, those that ended replaced in turn by the open ones behind."""
    spare = iter([k for k in range(beams, len(tokens)) if tokens[k] != end])
    return [next(spare, k) if k in ended else k for k in range(beams)]


def _log_probabilities(logits: Tensor, banned: Sequence[int]) -> Tensor:
    """(B, T, V) to the last position's log-probabilities (B, V) of the tokens that are not banned, in float32."""
    logits = logits[:, -1].float()
    if banned:
        if max(banned) >= logits.shape[-1]:
            raise InputError(f"a banned token of {max(banned)}: the vocabulary has {logits.shape[-1]}, counted from 0")
        logits[:, list(banned)] = -math.inf
    return logits.log_softmax(dim=-1)


def _check(min_length: int, max_length: int, end: int, banned: Sequence[int]) -> None:
    if not 0 <= min_length <= max_length or max_length < 1:
        raise InputError(
            f"a sequence of {min_length} to {max_length} tokens: 0 <= min_length <= max_length and 1 <= max_length"
        )
    if end in banned or any(token < 0 for token in banned):
        raise InputError(f"banned tokens {list(banned)}: they are from 0 up, and the end token {end} is none of them")
