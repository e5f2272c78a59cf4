"""Text: the byte-pair encoding, corpora, hold-outs and batches."""

import gzip
import unicodedata

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from lamina.data import parallel_text
from lamina.data.pairs import hold_out, normal, without_near
from lamina.data.text import END, PAD, START, Codec
from lamina.errors import InputError, LaminaError
from lamina.train.recipe import read
from lamina.train.tasks import IGNORED
from lamina.train.translation import Translation, make_batch
from tests import training

SENTENCES = [sentence for pair in training.sentences(200) for sentence in pair]


@pytest.fixture(scope="module")
def codec() -> Codec:
    return Codec.learn(SENTENCES, 400)


@settings(max_examples=200)
@given(st.text(st.characters(codec="utf-8")))
def test_any_text_comes_back(codec, text):
    """In NFC, without the spaces at its ends; special tokens in a text are text."""
    text = unicodedata.normalize("NFC", text).strip()
    (ids,) = codec.encode([text])
    assert not {PAD, START, END} & set(ids)
    if not any(token in text for token in ("<pad>", "<s>", "</s>")):
        assert codec.decode(ids) == text


def test_special_tokens_in_a_text_are_text(codec):
    (ids,) = codec.encode(["a </s> b <pad><s>"])
    assert not {PAD, START, END} & set(ids)
    assert codec.decode(ids).replace("\u2009", "") == "a </s> b <pad><s>"


def test_learning_is_deterministic(codec):
    assert Codec.learn(iter(SENTENCES), 400).dump() == codec.dump()
    assert Codec.learn(SENTENCES[:50], 400).dump() != codec.dump()
    again = Codec.read(codec.dump())
    assert again.encode(SENTENCES) == codec.encode(SENTENCES) and again.size == codec.size <= 400


def test_merges_shorten(codec):
    ids = codec.encode(["Ich habe keine Zeit."])[0]
    assert len(ids) < 12 < len(codec.encode(["Qx#7_zÜ~|"])[0]) + 4
    assert codec.decode(ids) == "Ich habe keine Zeit."


def test_bad_codecs():
    with pytest.raises(LaminaError, match="a vocabulary of 200 does not hold the 256 bytes and 3 special tokens"):
        Codec.learn(SENTENCES, 200)
    with pytest.raises(LaminaError, match="the tokenizer is damaged"):
        Codec.read("{}")


# ---- corpora ----------------------------------------------------------------------------------------------------------


def test_a_folder(tmp_path):
    training.write_corpus(tmp_path, train=20, test=4)
    train = parallel_text.load(tmp_path, "train", "de", "en")
    assert train == training.sentences(24)[:20]
    assert parallel_text.load(tmp_path, "test", "en", "de") == [(en, de) for de, en in training.sentences(24)[20:]]
    assert parallel_text.load(tmp_path, "validation", "de", "en") == []


def test_a_tab_separated_file(tmp_path):
    pairs = training.sentences(60)
    path = tmp_path / "pairs.tsv"
    path.write_text("".join(f"{s}\t{t}\tattribution\r\n" for s, t in pairs) + "\n", encoding="utf-8-sig")
    train, test = (parallel_text.load(path, split, "de", "en") for split in ("train", "test"))
    assert len(test) == 6 and sorted(train + test) == sorted(pairs)


def test_the_same_sentence_is_held_out_in_all_its_writings():
    pairs = [("Ja.", "Yes."), ("ja", "Yeah."), ("JA!!", "Yep."), ("Nein.", "No."), ("Doch.", "Yes."), ("doch", "But yes.")]
    for seed in range(20):
        rest, held = hold_out(pairs, 2, seed)
        assert len({normal(s) for s, _ in held}) == len(held) == 2
        assert not {normal(s) for s, _ in rest} & {normal(s) for s, _ in held}
        assert hold_out(pairs, 2, seed) == (rest, held)
    with pytest.raises(InputError, match="3 sentences held out of 3 different ones"):
        hold_out(pairs, 3, 0)


@given(
    st.lists(st.tuples(st.text("aB .!ß", min_size=1), st.text("xy", min_size=1)), min_size=2, max_size=30), st.integers(0, 9)
)
def test_hold_out_is_a_partition(pairs, seed):
    groups = {normal(s) for s, _ in pairs}
    if len(groups) < 2:
        return
    rest, held = hold_out(pairs, len(groups) // 2, seed)
    assert len(held) == len(groups) // 2 and set(rest) | set(held) <= set(pairs)
    assert not {normal(s) for s, _ in rest} & {normal(s) for s, _ in held}
    assert {normal(s) for s, _ in rest} | {normal(s) for s, _ in held} == groups


def distance(one: list[str], other: list[str]) -> int:
    """In words, by the textbook's table (Wagner and Fischer 1974)."""
    row = list(range(len(other) + 1))
    for i, a in enumerate(one, 1):
        before, row = row, [i]
        for j, b in enumerate(other, 1):
            row.append(min(before[j] + 1, row[-1] + 1, before[j - 1] + (a != b)))
    return row[-1]


sentences_of_few_words = st.lists(st.sampled_from("abc"), min_size=1, max_size=5).map(" ".join)


@given(*[st.lists(st.tuples(sentences_of_few_words, sentences_of_few_words), min_size=1, max_size=12)] * 2)
def test_what_is_near_goes_and_nothing_else(pairs, held):
    def near(one: str, other: str) -> bool:
        return distance(one.split(), other.split()) <= 1

    kept = [(s, t) for s, t in pairs if not any(near(s, a) or near(t, b) for a, b in held)]
    assert without_near(pairs, held) == kept


def test_near_is_of_words_and_not_of_how_they_are_written():
    held = [("Ich habe keine Zeit.", "I have no time.")]
    far = ("Wir gehen jetzt nach Hause.", "We are going home.")
    for pair in (
        ("ICH habe keine Zeit!", "x y z"),
        ("Ich habe keine Zeit mehr.", "x y z"),
        ("Habe keine Zeit.", "x y z"),
        ("Er habe keine Zeit.", "x y z"),
        ("x y z", "I have no money."),
    ):
        assert without_near([pair, far], held) == [far]
    assert without_near([("Ich habe viel Geld.", "I have much money."), far], held)[1:] == [far]


def test_tatoeba_for_a_strict_reader(data):
    """The same test split, and nothing in training that a held-out sentence could be recognised by."""
    for pair in (("de", "en"), ("en", "de")):
        loose, strict = ({s: parallel_text.load(c, s, *pair) for s in ("train", "test")} for c in ("tatoeba", "tatoeba_strict"))
        assert strict["test"] == loose["test"]
        assert set(strict["train"]) < set(loose["train"])
        assert 30_000 < len(strict["train"]) < 36_000
        for side in (0, 1):
            known = {normal(row[side]) for row in strict["train"]}
            assert not known & {normal(row[side]) for row in strict["test"]}
    known = [row[0].split() for row in ((normal(s), t) for s, t in strict["train"][:2000])]
    for sentence, _ in strict["test"][:20]:
        assert all(distance(words, normal(sentence).split()) > 1 for words in known)


def test_tatoeba(data):
    train, test = (parallel_text.load("tatoeba", split, "de", "en") for split in ("train", "test"))
    assert len(test) == 1000 and len(train) + len(test) <= 50_001
    assert not {normal(s) for s, _ in train} & {normal(s) for s, _ in test}


def test_multi30k(data):
    counts = {split: len(parallel_text.load("multi30k", split, "de", "en")) for split in ("train", "validation", "test")}
    assert counts == {"train": 29_000, "validation": 1014, "test": 1000}


def test_bad_corpora(tmp_path):
    def refuse(message: str, corpus, split="train", source="de", target="en", kind=LaminaError):
        with pytest.raises(kind, match=message):
            parallel_text.load(corpus, split, source, target)

    refuse("no such corpus; give tatoeba, tatoeba_strict, multi30k, a folder with train.de", tmp_path / "none", kind=InputError)
    refuse("from de to de: give two languages", tmp_path, target="de", kind=InputError)
    refuse("tatoeba has en and de, not de and fr", "tatoeba", target="fr", kind=InputError)
    refuse("multi30k has de, en and fr, not cs", "multi30k", source="cs", kind=InputError)
    refuse(r"has no train\.de nor train\.de\.gz", tmp_path, kind=InputError)
    (tmp_path / "train.de").write_text("eins\nzwei\n")
    (tmp_path / "train.en").write_text("one\n")
    refuse("2 source lines and 1 target lines", tmp_path)
    (tmp_path / "train.en").write_bytes(b"one\n\xff\xfe\n")
    refuse("train.en is not UTF-8 text", tmp_path)
    (tmp_path / "train.en").unlink()
    (tmp_path / "train.en.gz").write_bytes(gzip.compress(b"one\ntwo\n")[:-9])
    refuse("train.en.gz cannot be read", tmp_path)
    tsv = tmp_path / "x.tsv"
    tsv.write_text("eins\tone\nzwei\n")
    refuse(r"x\.tsv, line 2: not two sentences with a tab between them", tsv)
    tsv.write_text("eins\tone\n\tzwei\n")
    refuse("line 2: not two", tsv)
    tsv.write_text("eins\tone\n")
    refuse("1 sentences held out of 1 different ones: take fewer", tsv)


# ---- batches ----------------------------------------------------------------------------------------------------------


def test_a_batch():
    batch = make_batch([[5], [6, 7]], [[8, 9], [3]], torch.device("cpu"))
    source, target, padding = batch.inputs
    assert source.tolist() == [[5, END, PAD], [6, 7, END]]
    assert target.tolist() == [[START, 8, 9], [START, 3, PAD]]
    assert batch.targets.tolist() == [[8, 9, END], [3, END, IGNORED]]
    assert padding.tolist() == [[False, False, True], [False, False, False]]


@pytest.fixture
def translation(tmp_path):
    def make(*settings: str, train: int = 60) -> Translation:
        recipe = tmp_path / "text.toml"
        recipe.write_text(training.TINY_TEXT)
        return Translation(read(recipe, settings), training.write_corpus(tmp_path / "corpus", train))

    return make


def test_batches_hold_every_pair_once_and_their_tokens(translation):
    task = translation()
    for epoch in range(3):
        batches = task.batches(epoch)
        assert sorted(torch.cat(list(batches)).tolist()) == list(range(60))
        assert len(batches) == len(task.batches(0))
        for index in batches:
            assert len(index) * int(task.lengths[index].max()) <= task.recipe.batch
            made = task.batch(index, epoch, torch.device("cpu"))
            assert int((made.targets != IGNORED).sum()) == task.count(index)
            assert max(made.inputs[0].shape[1], made.inputs[1].shape[1]) == int(task.lengths[index].max())
    first, second = task.batches(0), task.batches(1)
    assert [b.tolist() for b in first] != [b.tolist() for b in second]
    assert [b.tolist() for b in first] == [b.tolist() for b in translation().batches(0)]


def test_a_pair_longer_than_a_batch_is_one_of_its_own(translation):
    assert all(len(index) == 1 for index in translation("batch=1").batches(0))


def test_long_pairs_are_left_out(translation):
    task = translation("text.max_length=12", "validation=20")
    assert 0 < len(task.sources) < 40
    for part in ((task.sources, task.targets), task.held):
        assert all(len(s) < 12 and len(t) < 12 for s, t in zip(*part, strict=True))
    assert 0 < len(task.held[0]) < 20
    with pytest.raises(InputError, match="no pair of the corpus has less than 3 tokens"):
        translation("text.max_length=3")


def test_too_few_pairs(translation):
    with pytest.raises(InputError, match="60 sentences held out of 60 different ones: take fewer"):
        translation("validation=60")
    with pytest.raises(InputError, match="61 training pairs of 60"):
        translation("samples=61")
