"""Files of CTranslate2: the format, networks there and back, and a trained model letter for letter."""

import json
import struct
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from torch import nn

import lamina
from lamina.errors import LaminaError
from lamina.infer import generate
from lamina.weights import ctranslate2 as ctranslate2_file
from lamina.weights.vocabulary import read_tokens, read_vocabulary
from lamina.zoo import transformer
from tests.zoo.test_transformer import one_thread, small

__all__ = ["one_thread"]  # a fixture for this file too


def text(value: str) -> bytes:
    return struct.pack("<H", len(value) + 1) + value.encode() + b"\0"


def packed(version: int, variables: dict[str, torch.Tensor], aliases: dict[str, str] | None = None) -> bytes:
    """A model.bin, written by the description of the format in `ctranslate2_file`."""
    kinds = [torch.float32, torch.int8, torch.int16, torch.int32, torch.float16, torch.bfloat16]
    data = struct.pack("<I", version) + text("TransformerBase") + struct.pack("<II", 2, len(variables))
    for name, value in variables.items():
        raw = value.reshape(-1).view(torch.uint8).numpy().tobytes()
        data += text(name) + struct.pack(f"<B{value.dim()}I", value.dim(), *value.shape)
        data += (
            struct.pack("<BI", kinds.index(value.dtype), len(raw))
            if version >= 4
            else struct.pack("<BI", value.itemsize, value.numel())
        )
        data += raw
    if version >= 3:
        data += struct.pack("<I", len(aliases or {})) + b"".join(text(a) + text(b) for a, b in (aliases or {}).items())
    return data


@pytest.mark.parametrize("version", [2, 3, 4, 6])
def test_variables_are_read_and_dequantised(version, tmp_path):
    torch.manual_seed(0)
    values = torch.randn(3, 4)
    scale = 127 / values.abs().amax(1)
    variables = {
        "a/weight": (values * scale[:, None]).round().to(torch.int8),
        "a/weight_scale": scale,
        "b/weight": (values * 1000).round().to(torch.int16),
        "c/bias": values[0],
        "d": torch.tensor(3, dtype=torch.int8),
    }
    if version >= 4:
        variables["e/bias"] = values[1].half()
    path = tmp_path / "model.bin"
    path.write_bytes(packed(version, variables, {"f/weight": "a/weight"}))
    file = ctranslate2_file.read(tmp_path)
    assert (file.version, file.spec, file.revision) == (version, "TransformerBase", 2)
    torch.testing.assert_close(file.variables["a/weight"], values, rtol=0, atol=float(0.51 / scale.min()))
    torch.testing.assert_close(file.variables["b/weight"], values, rtol=0, atol=0.00051)
    assert torch.equal(file.variables["c/bias"], values[0]) and file.variables["d"] == 3
    assert "a/weight_scale" not in file.variables
    assert ("f/weight" in file.variables) == (version >= 3)
    whole = path.read_bytes()
    for wrong, words in (
        (whole[:-1], "cut short"),
        (whole[:100], "cut short"),
        (whole + b"\0", "1 bytes follow its end"),
        (struct.pack("<I", 9) + whole[4:], "binary version 2 to 6"),
        (b"", "cut short"),
    ):
        path.write_bytes(wrong)
        with pytest.raises(LaminaError, match=words):
            ctranslate2_file.read(path)
    with pytest.raises(LaminaError, match="no such CTranslate2 model"):
        ctranslate2_file.read(tmp_path / "nowhere.bin")


def as_ctranslate2(net: transformer.Net) -> dict[str, torch.Tensor]:
    """The variables of a network as a converter names and joins them."""
    result = {}

    def put(name: str, parts: list[nn.Module]) -> None:
        ends = ("gamma", "beta") if isinstance(parts[0], nn.LayerNorm) else ("weight", "bias")
        result[f"{name}/{ends[0]}"] = torch.cat([p.weight.detach() for p in parts])
        if getattr(parts[0], "bias", None) is not None:
            result[f"{name}/{ends[1]}"] = torch.cat([p.bias.detach() for p in parts])

    put("encoder/embeddings", [net.embedding])
    put("decoder/embeddings", [net.target_embedding])
    result |= {"decoder/projection/weight": net.output_weight.detach(), "decoder/projection/bias": net.output_bias.detach()}
    for side, layers in (("encoder", net.encoder), ("decoder", net.decoder)):
        if net.config.norm == "pre":
            put(f"{side}/layer_norm", [getattr(net, f"{side}_norm")])
        for i, layer in enumerate(layers):
            base, own = f"{side}/layer_{i}", layer.self_attention
            put(f"{base}/self_attention/linear_0", [own.query, own.key, own.value])
            put(f"{base}/self_attention/linear_1", [own.out])
            put(f"{base}/self_attention/layer_norm", [layer.self_norm])
            put(f"{base}/ffn/linear_0", [layer.fc1])
            put(f"{base}/ffn/linear_1", [layer.fc2])
            put(f"{base}/ffn/layer_norm", [layer.ff_norm])
            if side == "decoder":
                cross = layer.cross_attention
                put(f"{base}/attention/linear_0", [cross.query])
                put(f"{base}/attention/linear_1", [cross.key, cross.value])
                put(f"{base}/attention/linear_2", [cross.out])
                put(f"{base}/attention/layer_norm", [layer.cross_norm])
    return result


@torch.no_grad()
@pytest.mark.parametrize(("norm", "activation", "bias"), [("pre", "relu", True), ("post", "silu", False)])
def test_a_network_comes_back_from_its_file(norm, activation, bias, tmp_path):
    net = small("untied", norm=norm, activation=activation, attention_bias=bias, positions="opennmt").eval()
    flags = {"pre_norm": norm == "pre", "activation": 2 * (activation == "silu"), "scale_embeddings": True, "alibi": False}
    scalars = {
        f"{side}/{k}": torch.tensor(int(v), dtype=torch.int8) for side in ("encoder", "decoder") for k, v in flags.items()
    }
    variables = as_ctranslate2(net) | scalars | {"num_heads": torch.tensor(4, dtype=torch.int8)}
    (tmp_path / "model.bin").write_bytes(packed(4, variables))
    again = ctranslate2_file.load(tmp_path)
    assert again.config == replace(net.config, max_length=again.config.max_length)
    source, target = torch.randint(11, (2, 6)), torch.randint(7, (2, 5))
    assert torch.equal(again(source, target), net(source, target)) and not again.training
    for name, value, words in (
        ("decoder/alibi", torch.tensor(1, dtype=torch.int8), "the model's decoder/alibi is 1"),
        ("decoder/scale_embeddings", torch.tensor(0, dtype=torch.int8), "decoder/scale_embeddings is 0"),
        ("decoder/scale_embeddings", torch.tensor(3.0), "decoder/scale_embeddings is 3"),
        ("decoder/num_heads", torch.tensor(8, dtype=torch.int8), "num_heads is"),
        ("decoder/embeddings_merge", torch.tensor(float("nan")), "embeddings_merge is nan"),
        ("encoder/layer_0/self_attention/linear_0/weight", torch.zeros(47, 16), "has 47 rows, which are to be 3 matrices"),
        ("encoder/layer_0/ffn/linear_0/bias", torch.zeros(25), r"damaged: encoder\.0\.fc1\.bias is 25, not"),
        ("encoder/activation", torch.tensor(3, dtype=torch.int8), "activation"),
        ("encoder/position_encodings/encodings", torch.zeros(5, 16), "position_encodings/encodings has no place"),
    ):
        (tmp_path / "model.bin").write_bytes(packed(4, variables | {name: value}))
        with pytest.raises(LaminaError, match=words):
            ctranslate2_file.load(tmp_path)
    (tmp_path / "model.bin").write_bytes(packed(4, variables | {"num_heads": torch.tensor(0, dtype=torch.int8)}))
    with pytest.raises(LaminaError, match="the model's number of heads is 0"):
        ctranslate2_file.load(tmp_path)
    lacking = {k: v for k, v in variables.items() if k != "decoder/layer_1/ffn/linear_0/bias"}
    (tmp_path / "model.bin").write_bytes(packed(4, lacking))
    with pytest.raises(LaminaError, match=r"missing or left over are decoder\.1\.fc1\.bias"):
        ctranslate2_file.load(tmp_path)


# What ctranslate2 4.8.5 (PyPI; compute_type="float32") gives for each name: greedy (beam_size=1) and the best of beam_size=4
# with its score, at its defaults (length_penalty=1, max_decoding_length=256).
TRANSLITERATED = (
    ("آتزمون", "atzmon", "atzmon", -0.15167),
    ("برلين", "berlin", "berlin", -0.16857),
    ("سليمان", "sleman", "sliman", -0.19815),
    ("محمد", "mahmad", "mahmad", -0.30162),
    ("أحمد", "ahmad", "ahmad", -0.13147),
    ("فاطمة", "fatma", "fatma", -0.18894),
    ("القاهرة", "qahra", "qahra", -0.33994),
    ("لندن", "lenden", "lenden", -0.16642),
    ("باريس", "barris", "barris", -0.28544),
    ("نيويورك", "newiork", "newiork", -0.32858),
    ("عبد", "abd", "abd", -0.31060),
    ("الله", "lah", "lah", -0.14135),
    ("خالد", "khald", "khald", -0.13594),
    ("يوسف", "yosf", "yosf", -0.24345),
    ("مريم", "merim", "merim", -0.33562),
    ("إبراهيم", "ibrahim", "ibrahim", -0.13285),
    ("الخرطوم", "khartom", "khartom", -0.15405),
    ("موسكو", "mosco", "mosco", -0.24113),
    ("شكسبير", "schaxber", "schaxber", -0.36771),
    ("واشنطن", "washenten", "washenten", -0.21611),
    ("مصطفى", "mastafa", "mastafa", -0.22335),
    ("غرناطة", "granata", "granata", -0.14087),
    ("زينب", "zenb", "zinb", -0.30299),
    ("جورج", "jorg", "jorg", -0.31483),
    ("طرابلس", "trabels", "trabels", -0.17590),
    ("بيتهوفن", "bethoffffen", "bethoven", -0.26412),
    ("كوبنهاغن", "kobenhaghan", "kobenhaghan", -0.30000),
    ("أينشتاين", "ainstein", "instein", -0.28622),
    ("ذو", "dhow", "dhow", -0.40969),
    ("القرنين", "qranin", "qranin", -0.31956),
    ("مؤمن", "mouman", "mouman", -0.24704),
)
# The same package's hypotheses of beam_size=4 by length penalty.
HYPOTHESES = {
    ("سليمان", 0.0): (("sliman", -1.38708), ("sleman", -1.62519), ("saliman", -3.16357)),
    ("سليمان", 0.6): (("sliman", -0.43156), ("sleman", -0.50564)),
    ("سليمان", 1.0): (("sliman", -0.19815), ("sleman", -0.23217), ("saliman", -0.39545), ("seliman", -0.39863)),
    ("بيتهوفن", 0.0): (("bethoven", -2.37707), ("bethofffen", -3.4839), ("bethofffin", -3.72735)),
    ("بيتهوفن", 0.6): (("bethoven", -0.63606), ("bethofffen", -0.82648)),
    ("باريس", 0.0): (("baris", -1.856), ("barris", -1.99806), ("bares", -2.56619)),
    ("باريس", 0.6): (("barris", -0.62165), ("baris", -0.63341)),
    ("باريس", 1.0): (("barris", -0.28544), ("baris", -0.30933), ("barres", -0.38304), ("bares", -0.4277)),
}


class Transliteration:
    """The trained model of the shared data, with its letters."""

    def __init__(self, folder: Path):
        self.net = ctranslate2_file.load(folder)
        self.source = read_tokens(folder / "source_vocabulary.txt")
        self.target = read_tokens(folder / "target_vocabulary.txt")
        self.start, self.end = self.target.index("<s>"), self.target.index("</s>")

    def ids(self, names: list[str]) -> tuple[torch.Tensor, torch.Tensor]:
        unknown = len(self.source)  # the embedding's last row
        return generate.pad([[self.source.index(c) if c in self.source else unknown for c in name] for name in names])

    def text(self, hypothesis: generate.Hypothesis) -> str:
        return "".join(self.target[i] for i in hypothesis.ids)


@pytest.fixture(scope="module")
def transliteration(shared: Path) -> Transliteration:
    folder = shared / "data" / "weights" / "transliteration"
    if not folder.is_dir():
        pytest.skip(f"needs the transliteration model, and there is no {folder}")
    return Transliteration(folder)


def test_the_ways_in(transliteration, shared, ok, run):
    """`lamina translate`, `lamina cost` and `lamina.load` take the folder in place of a network's name."""
    folder = str(shared / "data" / "weights" / "transliteration")
    for name, _, best, score in TRANSLITERATED[:3]:
        (answer,) = json.loads(ok(f"translate {folder} {name} --beams 4 --json"))
        assert (answer["source"], answer["target"]) == (name, best)
        assert answer["score"] == pytest.approx(score, abs=1e-4)
    assert ok(f"translate {folder} آتزمون برلين") == "atzmon\nberlin\n"
    totals = json.loads(ok(f"cost {folder} --input 1x7 --json"))["totals"]
    assert totals["parameters"] == 182731
    tokens, d, ff = 7, 32, 128
    stacks = 6 * (tokens * (4 * d * d + 2 * d * ff) + 2 * d * tokens**2) + 6 * (
        tokens * (8 * d * d + 2 * d * ff) + 4 * d * tokens**2
    )
    assert totals["macs"] == stacks + tokens * d * 43
    net = lamina.load(folder)
    assert all(torch.equal(a, b) for a, b in zip(net.parameters(), transliteration.net.parameters(), strict=True))
    for line in (f"translate {folder} برلين --weights tatoeba", f"eval {folder} --data tatoeba"):
        code, out, err = run(line)
        assert (code, out, err.count("\n")) == (2, "", 1), line


def test_the_settings_of_a_folder(tmp_path):
    """A newer model's config.json names the tokens; whole words are taken at spaces."""
    (tmp_path / "shared_vocabulary.json").write_text(json.dumps(["<unk>", "<s>", "</s>", "good", "day", "guten", "Tag"]))
    words = read_vocabulary(tmp_path)
    assert words.sources(["good  day", "bad day"]) == [[3, 4], [0, 4]] and words.decode([5, 6, 9]) == "guten Tag <unk>"
    assert (words.start, words.end) == (1, 2)
    settings = {"add_source_bos": True, "add_source_eos": True, "decoder_start_token": "</s>"}
    (tmp_path / "config.json").write_text(json.dumps(settings))
    words = read_vocabulary(tmp_path)
    assert words.sources(["day"]) == [[1, 4, 2]] and (words.start, words.end) == (2, 2)
    for text, message in (
        ('{"eos_token": "<eos>"}', "lacks the eos token '<eos>'"),
        ("[]", "config.json is not a JSON object"),
        ("{", "config.json is not a JSON object"),
    ):
        (tmp_path / "config.json").write_text(text)
        with pytest.raises(LaminaError, match=message):
            read_vocabulary(tmp_path)
    (tmp_path / "config.json").unlink()
    (tmp_path / "shared_vocabulary.json").write_text('{"a": 1}')
    with pytest.raises(LaminaError, match="is not a list of tokens"):
        read_vocabulary(tmp_path)
    (tmp_path / "shared_vocabulary.json").unlink()
    with pytest.raises(LaminaError, match=r"has no vocabulary: none of source_vocabulary\.json"):
        read_vocabulary(tmp_path)


def test_transliteration_file(transliteration):
    config = transliteration.net.config
    assert (config.encoder_layers, config.decoder_layers, config.d_model, config.d_ff, config.n_heads) == (6, 6, 32, 128, 8)
    assert (config.vocabulary, config.target_vocabulary, config.norm, config.tie) == (51, 43, "pre", False)
    assert sum(p.numel() for p in transliteration.net.parameters()) == 182731  # its SOURCE.txt
    assert (len(transliteration.source), len(transliteration.target)) == (50, 42)  # one row less than the embeddings


def test_transliteration_letter_for_letter(transliteration):
    t = transliteration
    source, padding = t.ids([row[0] for row in TRANSLITERATED])
    greedy = generate.greedy(t.net, source, t.start, t.end, padding)
    beams = generate.beam_search(t.net, source, t.start, t.end, padding, beams=4)
    assert [t.text(h) for h in greedy] == [row[1] for row in TRANSLITERATED]
    assert [t.text(best) for (best,) in beams] == [row[2] for row in TRANSLITERATED]
    assert [best.score for (best,) in beams] == pytest.approx([row[3] for row in TRANSLITERATED], abs=2e-5)


@pytest.mark.parametrize(("name", "penalty"), HYPOTHESES)
def test_transliteration_hypotheses(transliteration, name, penalty):
    t, expected = transliteration, HYPOTHESES[name, penalty]
    source, padding = t.ids([name])
    options = {"hypotheses": len(expected), "length_penalty": penalty}
    (found,) = generate.beam_search(t.net, source, t.start, t.end, padding, **options)
    assert [t.text(h) for h in found] == [word for word, _ in expected]
    assert [h.score for h in found] == pytest.approx([score for _, score in expected], abs=2e-5)


def test_transliteration_at_its_edges(transliteration):
    """A sequence cut at max_length, and a letter that is in no vocabulary; again as ctranslate2 4.8.5 has them."""
    t = transliteration
    source, padding = t.ids(["بيتهوفن"])
    (found,) = generate.beam_search(t.net, source, t.start, t.end, padding, hypotheses=4, max_length=3)
    assert [t.text(h) for h in found] == ["bet", "pet", "bit", "pit"]
    assert [h.score for h in found] == pytest.approx([-0.26977, -0.56607, -0.62023, -0.94517], abs=2e-5)
    source, padding = t.ids(["پاريس", "برلپن"])
    found = generate.greedy(t.net, source, t.start, t.end, padding)
    assert [t.text(h) for h in found] == ["arims", "berlmen"]
    assert [h.score for h in found] == pytest.approx([-0.21376, -0.27191], abs=2e-5)
