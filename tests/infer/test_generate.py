"""Greedy and beam search: against every sequence there is, step by step, and batches against their rows."""

import itertools
import math

import pytest
import torch

from lamina.errors import InputError
from lamina.infer import generate
from lamina.zoo import transformer
from tests.zoo.test_transformer import one_thread, small

__all__ = ["one_thread"]  # a fixture for this file too

END = 0


def ranked(net: transformer.Net, source: torch.Tensor, penalty: float) -> list[tuple[tuple[int, ...], float]]:
    """Every sequence of 1 or 2 tokens and the end, and of 3 without it, by score, best first."""
    every = list(itertools.product(range(1, 7), repeat=3))
    target = torch.tensor([[3, *ids[:2]] for ids in every])
    logits = net(source.expand(len(every), -1), target)  # (216, 3, 7)
    logits[:, 0, END] = -math.inf  # min_length is 1
    logs = logits.log_softmax(-1)
    found = {}
    for row, ids in zip(logs, every, strict=True):
        for tokens in (ids, (*ids[:1], END), (*ids[:2], END)):
            total = sum(row[place, token].item() for place, token in enumerate(tokens))
            found[tuple(i for i in tokens if i != END)] = total / len(tokens) ** penalty
    return sorted(found.items(), key=lambda item: -item[1])


@torch.no_grad()
@pytest.mark.parametrize("penalty", [0.0, 0.6, 1.0])
def test_a_wide_beam_finds_the_best_of_all(penalty):
    net = small("untied").eval()
    source = torch.randint(11, (1, 5))
    expected = ranked(net, source, penalty)
    assert len(expected) == 6 + 6**2 + 6**3
    (found,) = generate.beam_search(net, source, 3, END, beams=60, hypotheses=1, max_length=3, length_penalty=penalty)
    assert found[0].ids == expected[0][0]
    assert found[0].score == pytest.approx(expected[0][1], abs=1e-5)


@torch.no_grad()
def test_greedy_takes_the_likeliest():
    net = small("untied").eval()
    source, padding = torch.randint(11, (4, 6)), torch.arange(6) >= torch.tensor([[6], [4], [1], [3]])
    found = generate.greedy(net, source, 3, END, padding, max_length=12)
    for row, mask, hypothesis in zip(source, padding, found, strict=True):
        ids, total, count = [3], 0.0, 0
        while count < 12 and (count == 0 or ids[-1] != END):
            scores = net(row[None], torch.tensor([ids]), mask[None])[0, -1]
            scores[END] = scores[END] if count else -math.inf  # min_length is 1
            value, token = scores.log_softmax(-1).max(-1)
            ids, total, count = [*ids, int(token)], total + float(value), count + 1
        assert hypothesis.ids == tuple(i for i in ids[1:] if i != END)
        assert hypothesis.score == pytest.approx(total / count, abs=1e-5)


@torch.no_grad()
def test_a_batch_is_its_rows():
    net = small("untied").eval()
    sequences = [[3, 1, 4, 1, 5, 9], [2, 6], [5, 3, 5, 8]]
    source, padding = generate.pad(sequences)
    assert source.shape == (3, 6) and padding.sum(1).tolist() == [0, 4, 2]
    together = generate.beam_search(net, source, 3, END, padding, beams=3, hypotheses=3, max_length=10)
    for sequence, found in zip(sequences, together, strict=True):
        (alone,) = generate.beam_search(net, torch.tensor([sequence]), 3, END, beams=3, hypotheses=3, max_length=10)
        assert [h.ids for h in found] == [h.ids for h in alone]
        assert [h.score for h in found] == pytest.approx([h.score for h in alone], abs=1e-5)
        assert [h.score for h in found] == sorted((h.score for h in found), reverse=True)
        assert all(END not in h.ids and len(h.ids) <= 10 for h in found)


@torch.no_grad()
@pytest.mark.parametrize("search", ["greedy", "beam"])
def test_banned_tokens_are_never_said(search):
    """As if the network could not say them: their probability goes to the others."""
    net = small("untied").eval()
    source = torch.randint(11, (6, 5))

    def ask(**options):
        if search == "greedy":
            return generate.greedy(net, source, 3, END, max_length=8, **options)
        rows = generate.beam_search(net, source, 3, END, beams=3, hypotheses=3, max_length=8, **options)
        return [h for row in rows for h in row]

    free = ask()
    counts = torch.bincount(torch.tensor([i for h in free for i in h.ids]), minlength=7)
    banned = counts.topk(2).indices.tolist()
    found = ask(banned=banned)
    assert any(set(h.ids) & set(banned) for h in free) and not any(set(h.ids) & set(banned) for h in found)
    net.output_bias[banned] = -math.inf
    expected = ask()
    assert [h.ids for h in found] == [h.ids for h in expected]
    assert [h.score for h in found] == pytest.approx([h.score for h in expected], abs=1e-6)


def test_search_refusals():
    net, source = small().eval(), torch.zeros(1, 2, dtype=torch.long)
    with pytest.raises(InputError, match="5 hypotheses of 4 beams"):
        generate.beam_search(net, source, 1, END, hypotheses=5)
    for wrong in ({"max_length": 0, "min_length": 0}, {"min_length": 3, "max_length": 2}, {"min_length": -1}):
        with pytest.raises(InputError, match="0 <= min_length <= max_length"):
            generate.greedy(net, source, 1, END, **wrong)
    for wrong in ([END], [-1]):
        with pytest.raises(InputError, match="the end token 0 is none of them"):
            generate.beam_search(net, source, 1, END, banned=wrong)
    with pytest.raises(InputError, match="banned token of 11: the vocabulary has 11"):
        generate.greedy(net, source, 1, END, banned=[11])
    with pytest.raises(InputError, match="every sequence needs a token"):
        generate.pad([[1], []])
    assert len(generate.greedy(net, source, 1, END, min_length=5, max_length=5)[0].ids) == 5
