"""Greedy and beam search beside searches written here with lists, on networks that are a table of chances; and what the
translator makes of them with the weights that ship."""

import hashlib
import itertools
import math
import random
from collections.abc import Iterator, Sequence
from dataclasses import replace

import pytest
import torch
from torch import Tensor

from lamina.infer import generate
from lamina.infer.translate import Translator, translator
from lamina.zoo.transformer import Cache

START, END, VOCABULARY = 1, 2, 6
Found = list[tuple[tuple[int, ...], float]]


@pytest.fixture(autouse=True, scope="module")
def one_thread() -> Iterator[None]:
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


class Chances:
    """An encoder-decoder without weights: what follows a prefix is a draw that the source and the prefix decide.

    It is only told the newest token, so that it must find the others in the cache: a search that mixes up its beams' caches
    gets other answers. `lure` makes the end likelier.
    """

    def __init__(self, lure: float = 0.0):
        self.lure, self.calls = lure, 0

    def logits(self, source: tuple[int, ...], prefix: tuple[int, ...]) -> list[float]:
        draw = random.Random(hashlib.sha256(repr((source, prefix)).encode()).digest())
        row = [draw.gauss(0, 1.5) for _ in range(VOCABULARY)]
        row[END] += self.lure
        return row

    def encode(self, source: Tensor, source_padding: Tensor | None = None) -> Tensor:
        return (source if source_padding is None else source.masked_fill(source_padding, -1))[:, :, None].double()

    def decode(
        self,
        target: Tensor,
        memory: Tensor,
        source_padding: Tensor | None = None,
        target_padding: Tensor | None = None,
        cache: Cache | None = None,
    ) -> Tensor:
        assert cache is not None and target.shape[1] == 1
        self.calls += 1
        history, _ = cache.extend(0, target[:, None, :, None].double(), target[:, None, :, None].double())
        rows = []
        for ids, source in zip(history[:, 0, :, 0].long().tolist(), memory[:, :, 0].long().tolist(), strict=True):
            rows.append(self.logits(tuple(i for i in source if i != -1), tuple(ids)))
        return torch.tensor(rows)[:, None]


def logs(net: Chances, source: tuple[int, ...], ids: tuple[int, ...], banned: Sequence[int]) -> dict[int, float]:
    """The logarithm of each token's chance behind `ids`, those of `banned` excluded."""
    row = {token: x for token, x in enumerate(net.logits(source, (START, *ids))) if token not in banned}
    total = math.log(sum(math.exp(x) for x in row.values()))
    return {token: x - total for token, x in row.items()}


def every(net: Chances, source: tuple[int, ...], longest: int, penalty: float, shortest: int = 1) -> Found:
    """All sequences of up to `longest` tokens, the end among them, by score: the sum of the logarithms over
    length ** penalty, where the end counts."""
    found = []
    tokens = [t for t in range(VOCABULARY) if t != END]
    for count in range(longest + 1):
        for ids in itertools.product(tokens, repeat=count):
            if count < shortest and count < longest:
                continue
            whole = ids if count == longest else (*ids, END)
            total = 0.0
            for place, token in enumerate(whole):
                total += logs(net, source, whole[:place], [END] if place < shortest else [])[token]
            found.append((ids, total / len(whole) ** penalty))
    return sorted(found, key=lambda item: -item[1])


def beams_of(
    net: Chances, source: tuple[int, ...], beams: int, wanted: int, longest: int, penalty: float, shortest: int = 1
) -> tuple[Found, int]:
    """The best `wanted`, and the steps taken, of a beam search as the docstring of `beam_search` has it: of the best `beams`
    candidates those that end are finished, and the places of all `beams` go to the best open candidates; it stops with `beams`
    finished ones (without a penalty, once one has led, with as many as are wanted)."""
    open_: Found = [((), 0.0)]
    finished: Found = []
    led, step = False, 0
    for step in range(1, longest + 1):
        candidates: Found = []
        for ids, total in open_:
            row = logs(net, source, ids, [END] if step <= shortest else [])
            candidates += [((*ids, token), total + value) for token, value in row.items()]
        candidates.sort(key=lambda item: -item[1])
        for place, (ids, total) in enumerate(candidates[:beams]):
            if ids[-1] == END or step == longest:
                led |= place == 0
                finished.append((tuple(i for i in ids if i != END), total / step**penalty))
        if len(finished) >= (wanted if penalty == 0 and led else beams):
            break
        # An end among the best is replaced, in its place, by the best open candidate behind them.
        top, spare = candidates[:beams], [c for c in candidates[beams : 2 * beams] if c[0][-1] != END]
        open_ = [c if c[0][-1] != END else spare.pop(0) for c in top if c[0][-1] != END or spare]
    return sorted(finished, key=lambda item: -item[1])[:wanted], step


def source_of(seed: int) -> tuple[tuple[int, ...], Tensor]:
    ids = tuple(random.Random(seed).choices(range(3, 20), k=4))
    return ids, torch.tensor([ids])


@pytest.mark.parametrize("penalty", [0.0, 0.7, 1.0, 1.6])
def test_a_beam_as_wide_as_the_tree_finds_the_best_of_all(penalty):
    """Every sequence of up to four tokens is on the beam, and none is finished so often that the search stops: with a penalty
    the result is the best of all. (Without one it stops where nothing better can follow.)"""
    for seed in range(4):
        net = Chances(lure=1.0)
        ids, source = source_of(seed)
        best = every(net, ids, 4, penalty)[0]
        (found,) = generate.beam_search(net, source, START, END, beams=1000, max_length=4, length_penalty=penalty)
        assert (found[0].ids, found[0].score) == (best[0], pytest.approx(best[1], abs=1e-5))


@pytest.mark.parametrize("shortest", [0, 1, 3])
@pytest.mark.parametrize("penalty", [0.0, 0.6, 1.0, 2.0])
def test_a_narrow_beam_is_the_one_written_with_lists(penalty, shortest):
    lengths = set()
    for seed, beams, lure in itertools.product(range(12), (2, 3, 5), (0.0, 2.0)):
        net = Chances(lure)
        ids, source = source_of(seed)
        options = {"beams": beams, "max_length": 9, "min_length": shortest, "length_penalty": penalty}
        for wanted in (1, 2):
            expected, steps = beams_of(net, ids, beams, wanted, 9, penalty, shortest)
            net.calls = 0
            (found,) = generate.beam_search(net, source, START, END, hypotheses=wanted, **options)
            assert [h.ids for h in found] == [row for row, _ in expected], (seed, beams)
            assert [h.score for h in found] == pytest.approx([score for _, score in expected], abs=1e-5)
            assert net.calls == steps
        lengths.add(len(found[0].ids))
    assert len(lengths) > 3 and min(lengths) >= shortest and max(lengths) <= 9


@pytest.mark.parametrize("penalty", [0.0, 0.5, 1.0, 2.0])
def test_greedy_is_the_likeliest_token_again_and_again(penalty):
    for seed in range(20):
        net = Chances(lure=1.0)
        ids, source = source_of(seed)
        chosen, total = (), 0.0
        while len(chosen) < 7 and END not in chosen:
            row = logs(net, ids, chosen, [END] if not chosen else [])
            token = max(row, key=row.__getitem__)
            chosen, total = (*chosen, token), total + row[token]
        (found,) = generate.greedy(net, source, START, END, max_length=7, length_penalty=penalty)
        assert found.ids == tuple(i for i in chosen if i != END)
        assert found.score == pytest.approx(total / len(chosen) ** penalty, abs=1e-5)


@pytest.mark.parametrize("beams", [1, 3])
def test_rows_of_a_batch_do_not_touch(beams):
    """Rows of several lengths, padded, of which some end early: each as if it were alone."""
    net, chance = Chances(lure=1.0), random.Random(5)
    rows = [tuple(chance.choices(range(3, 20), k=chance.randint(1, 6))) for _ in range(9)]
    source, padding = generate.pad(rows)

    def search(source: Tensor, padding: Tensor | None = None) -> list[generate.Hypothesis]:
        if beams == 1:
            return generate.greedy(net, source, START, END, padding, max_length=8)
        return [found[0] for found in generate.beam_search(net, source, START, END, padding, beams=beams, max_length=8)]

    together = search(source, padding)
    assert len({len(h.ids) for h in together}) > 2
    for row, found in zip(rows, together, strict=True):
        (alone,) = search(torch.tensor([row]))
        assert found.ids == alone.ids and found.score == pytest.approx(alone.score, abs=1e-6)


# ---- the translator ---------------------------------------------------------------------------------------------------

GERMAN = [
    "Ich habe heute leider gar keine Zeit, dir bei der Arbeit zu helfen.",
    "Guten Morgen!",
    "Tom hat seiner Schwester ein neues Fahrrad gekauft.",
    "Wo?",
    "Wir gehen morgen ins Kino.",
    "Er liest ein Buch.",
]


@pytest.fixture(scope="module")
def shipped() -> Translator:
    pytest.importorskip("tokenizers")
    return translator("transformer_de_en")


@torch.no_grad()
def log_chance(net: Translator, sentence: str, answer: Sequence[int]) -> float:
    """The sum of the logarithms of the chances of an answer's tokens, the end among them, from one full pass."""
    source = torch.tensor([[*net.codec.encode([sentence])[0], END]])
    target = torch.tensor([[START, *answer]])
    rows = net.module(source, target)[0].log_softmax(-1)
    return float(sum(rows[i, token] for i, token in enumerate((*answer, END))))


@pytest.mark.parametrize("beams", [1, 4])
@pytest.mark.parametrize("penalty", [0.0, 0.6, 1.0, 2.0])
def test_scores_have_the_penalty_that_was_asked_for(shipped, beams, penalty):
    """A score is the answer's log-probability over (its tokens and the end) ** penalty."""
    for row in shipped.translate(GERMAN[1:4], beams, penalty):
        (ids,) = shipped.codec.encode([row["target"]])
        assert row["score"] == pytest.approx(log_chance(shipped, row["source"], ids) / (len(ids) + 1) ** penalty, abs=2e-4)


def test_the_penalty_chooses_among_translations(shipped):
    """What is returned is what the search with this penalty finds, and the penalties do not all find the same."""
    answers = {}
    for penalty in (0.0, 1.0, 3.0):
        answers[penalty] = shipped.translate(GERMAN, beams=5, length_penalty=penalty)
        for sentence, row in zip(GERMAN, answers[penalty], strict=True):
            source = torch.tensor([[*shipped.codec.encode([sentence])[0], END]])
            longest = 2 * source.shape[1] + 10
            options = {"beams": 5, "max_length": longest, "length_penalty": penalty}
            (found,) = generate.beam_search(shipped.module, source, START, END, **options)
            assert row["target"] == shipped.codec.decode(found[0].ids)
    texts = {penalty: [row["target"] for row in rows] for penalty, rows in answers.items()}
    assert texts[0.0] != texts[3.0]
    default = shipped.translate(GERMAN, beams=5)
    assert [row["target"] for row in default] == texts[1.0] and [r["score"] for r in default] == [
        r["score"] for r in answers[1.0]
    ]


def test_by_default_five_beams_and_the_mean(shipped, monkeypatch):
    asked = []

    def spy(*args, **options):
        asked.append((options["beams"], options["length_penalty"]))
        return generate.beam_search(*args, **options)

    monkeypatch.setattr("lamina.infer.translate.beam_search", spy)
    shipped.translate(GERMAN[:2])
    assert set(asked) == {(5, 1.0)}


@pytest.mark.parametrize("beams", [1, 3])
def test_translations_come_back_in_the_order_of_the_sentences(shipped, beams):
    rows = shipped.translate(GERMAN, beams)
    assert [row["source"] for row in rows] == GERMAN
    for sentence, row in zip(GERMAN, rows, strict=True):
        (alone,) = shipped.translate([sentence], beams)
        assert row["target"] == alone["target"] and row["score"] == pytest.approx(alone["score"], abs=1e-3)
    backwards = shipped.translate(GERMAN[::-1], beams)
    assert [row["target"] for row in backwards[::-1]] == [row["target"] for row in rows]


def test_known_translations(shipped):
    """What these sentences mean in English, as anybody who reads both can see."""
    meant = {
        "Er liest ein Buch.": ("He is reading a book.", "He's reading a book.", "He reads a book."),
        "Ich bin müde.": ("I'm tired.", "I am tired."),
        "Es regnet.": ("It's raining.", "It is raining."),
        "Wie spät ist es?": ("What time is it?",),
    }
    for row in shipped.translate(list(meant)):
        assert row["target"] in meant[row["source"]]


def test_bleu_is_sacrebleus(shipped, tmp_path, monkeypatch):
    """Case and punctuation count, tokens are 13a's, and answers are held to the references: sacreBLEU called by hand."""
    sacrebleu = pytest.importorskip("sacrebleu")
    from lamina.infer import translate
    from lamina.infer.translate import bleu

    monkeypatch.setattr(translate, "translator", lambda *args: replace(shipped, trained_on=str(tmp_path)))
    answers = {beams: [row["target"] for row in shipped.translate(GERMAN, beams)] for beams in (5, 1)}
    # References that differ from the answers by a word, by case and by how punctuation is joined.
    references = [answers[5][0].replace("today", "now"), "good morning .", answers[5][2].upper()]
    references += ['"Where is it?"', answers[5][4].replace("movie", "cinema"), 'He is reading a "book".']
    for part, rows in (("train", (GERMAN, references)), ("test", (GERMAN, references))):
        for language, lines in zip(("de", "en"), rows, strict=True):
            (tmp_path / f"{part}.{language}").write_text("".join(f"{line}\n" for line in lines), encoding="utf-8")

    def by_hand(answers: list[str], against: list[str], **options: object) -> float:
        return sacrebleu.corpus_bleu(answers, [against], **options).score

    expected = by_hand(answers[5], references, lowercase=False, tokenize="13a", smooth_method="exp")
    others = {
        "lower-cased": by_hand(answers[5], references, lowercase=True),
        "untokenised": by_hand(answers[5], references, tokenize="none"),
        "by characters": by_hand(answers[5], references, tokenize="char"),
        "against the sources": by_hand(answers[5], GERMAN),
        "the other way round": by_hand(references, answers[5]),
    }
    assert all(abs(expected - other) > 0.1 for other in others.values()), (expected, others)
    found = bleu("transformer_de_en", tmp_path)
    assert "seen" not in found and "unseen" not in found  # every reference is a target of the training split
    assert found["bleu"] == pytest.approx(expected, abs=1e-4)
    assert found["bleu_greedy"] == pytest.approx(by_hand(answers[1], references), abs=1e-4)
    assert found["count"] == len(GERMAN)


@pytest.mark.parametrize("named", [True, False])
def test_bleu_on_references_that_training_had_and_had_not(shipped, tmp_path, monkeypatch, named):
    """Each part is sacreBLEU's own figure on its sentences. What training had is what the weights' file says that they were
    trained on, whatever they are tested on; the corpus itself where the file says nothing."""
    sacrebleu = pytest.importorskip("sacrebleu")
    from lamina.infer import translate

    answers = [row["target"] for row in shipped.translate(GERMAN, 5)]
    references = [f"{answer} Really" if number % 3 else answer for number, answer in enumerate(answers)]
    targets = [text if number % 2 else "Something else." for number, text in enumerate(references)]
    trained, tested = tmp_path / "trained", tmp_path / "tested"
    for folder, had in ((trained, targets), (tested, ["Nothing of it."] * len(GERMAN) if named else targets)):
        folder.mkdir()
        for part, lines in (("train", had), ("test", references)):
            (folder / f"{part}.de").write_text("".join(f"{line}\n" for line in GERMAN), encoding="utf-8")
            (folder / f"{part}.en").write_text("".join(f"{line}\n" for line in lines), encoding="utf-8")
    assert shipped.trained_on == "tatoeba"
    known = replace(shipped, trained_on=str(trained) if named else "")
    monkeypatch.setattr(translate, "translator", lambda *args: known)
    found = translate.bleu("transformer_de_en", tested)
    assert found["trained_on"] == str(trained if named else tested)
    for key, rows in (("seen", range(1, len(GERMAN), 2)), ("unseen", range(0, len(GERMAN), 2))):
        expected = sacrebleu.corpus_bleu([answers[i] for i in rows], [[references[i] for i in rows]]).score
        assert found[key]["count"] == len(rows)
        assert found[key]["bleu"] == pytest.approx(expected, abs=1e-4)
    assert found["seen"]["bleu"] != found["unseen"]["bleu"]
