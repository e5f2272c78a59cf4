"""The prepared Transformer decodes what the plain one does, token by token and score by score."""

import pytest
import torch

import lamina
from lamina.infer import decoder, generate
from lamina.infer.translate import WINDOW, translator

WORDS, END, PAD = 60, 0, 59
FORMS = {
    "paper": {},
    "marian": {"attention_bias": True, "output_bias": True, "activation": "silu", "positions": "halves"},
    "pre": {"norm": "pre", "tie": False, "target_vocabulary": WORDS, "head_width": 24},
}


def small(**changes):
    sizes = {"vocabulary": WORDS, "d_model": 32, "encoder_layers": 2, "decoder_layers": 2, "n_heads": 2, "d_ff": 48}
    torch.manual_seed(0)
    net = lamina.build("transformer_base", **sizes, **changes).eval()
    with torch.no_grad():
        for p in net.parameters():
            p.copy_(0.8 * torch.randn_like(p) if p.dim() == 2 else p + 0.3 * torch.randn_like(p))
    return net


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("beams", [1, 4])
def test_same_tokens_and_scores(form, beams):
    net = small(**FORMS[form])
    fast = decoder.prepare(net)
    assert isinstance(fast, decoder.Prepared)
    source, mask = generate.pad([[*range(3, 3 + n), END] for n in (1, 4, 9, 2, 17)], PAD)
    with torch.inference_mode():
        assert (fast.encode(source, mask) - net.encode(source, mask))[~mask].abs().max() < 1e-4

    endless = generate.greedy(net, source, 1, END, mask, min_length=12, max_length=12)
    end = endless[0].ids[4]  # an end that one sentence comes to, and others do not, or elsewhere

    def search(one):
        options = {"max_length": 12, "banned": (PAD,), "length_penalty": 0.6}
        if beams == 1:
            return [[h] for h in generate.greedy(one, source, 1, end, mask, **options)]
        return generate.beam_search(one, source, 1, end, mask, beams=beams, hypotheses=beams, **options)

    ours, theirs = search(fast), search(net)
    assert [[h.ids for h in row] for row in ours] == [[h.ids for h in row] for row in theirs]
    for a, b in zip(ours, theirs, strict=True):
        assert [h.score for h in a] == pytest.approx([h.score for h in b], abs=1e-4)
    assert len({len(row[0].ids) for row in ours}) > 1  # some ended before others, so that rows were dropped


def test_what_is_not_prepared():
    assert not isinstance(decoder.prepare(small().double()), decoder.Prepared)
    other = torch.nn.Linear(2, 2)
    assert decoder.prepare(other) is other


def test_the_papers_length_penalty():
    """Wu et al., equation 14: of 7 tokens and 0.6, (12 / 6) ** 0.6; CTranslate2's, 7 ** 0.6."""
    assert generate.penalty(7, 0.6, 5) == pytest.approx(2**0.6)
    assert generate.penalty(7, 0.6) == pytest.approx(7**0.6)


def test_a_stream_keeps_the_order_and_names_the_bad_lines():
    net = translator("transformer_de_en")
    sentences = ["Ich habe keine Zeit.", "", "Hallo!", "Tom " * 6000, "Ich bin müde."]
    rows = list(net.stream(iter(sentences), beams=1))
    assert [row["source"] for row in rows] == sentences
    assert rows[1]["target"] == "" and "error" not in rows[1]
    assert rows[3]["error"].startswith("has ") and "cut it" in rows[3]["error"]
    alone = [net.translate([sentences[i]], beams=1)[0] for i in (0, 2, 4)]
    assert [rows[i]["target"] for i in (0, 2, 4)] == [row["target"] for row in alone]


def test_a_stream_answers_before_it_has_read_everything():
    net, read = translator("transformer_de_en"), []

    def lines():
        for number in range(WINDOW + 1):
            read.append(number)
            yield "Ja." if number % WINDOW else "Ich habe Hunger."

    first = next(net.stream(lines(), beams=1))
    assert first["source"] == "Ich habe Hunger." and len(read) == WINDOW


def test_lines_of_a_file(ok, run, tmp_path):
    def refused(line, wanted):
        code, _, err = run(line)
        assert code == wanted
        return err

    file = tmp_path / "lines.txt"
    file.write_text("Hallo!\nIch habe keine Zeit.\n", encoding="utf-8")
    lines = ok(f"translate transformer_de_en --file {file} --beams 1").splitlines()
    assert lines == [ok(f"translate transformer_de_en --beams 1 '{s}'").strip() for s in ("Hallo!", "Ich habe keine Zeit.")]
    file.write_text(f"Hallo!\n\n{'Zug ' * 6000}\nHallo!\n", encoding="utf-8")
    code, out, err = run(f"translate transformer_de_en --file {file} --beams 1")
    assert code == 1 and "line 3 has" in err and out.splitlines() == [lines[0], "", "", lines[0]]
    file.write_bytes(b"\xff\xfe\xfa")
    assert "cannot be read as UTF-8" in refused(f"translate transformer_de_en --file {file}", 2)
    assert "exclude each other" in refused(f"translate transformer_de_en Hallo! --file {file}", 2)
