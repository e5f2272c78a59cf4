"""Networks of transformers from small configs made of numbers: counts by formula, causal attention, generation steps."""

import json
from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("transformers", reason="needs transformers: make peers", exc_type=ImportError)

from lamina.cost import causal
from lamina.errors import InputError, LaminaError
from lamina.sources import resolve
from lamina.workload import Layer, Workload

D, FF, HEADS, GROUPS, LAYERS, WORDS, S = 64, 96, 4, 2, 3, 100, 32
HEAD = D // HEADS
LLAMA = {"hidden_size": D, "intermediate_size": FF, "num_hidden_layers": LAYERS, "num_attention_heads": HEADS}
LLAMA |= {"num_key_value_heads": GROUPS, "vocab_size": WORDS, "head_dim": HEAD}
BERT = {
    "hidden_size": D,
    "intermediate_size": FF,
    "num_hidden_layers": LAYERS,
    "num_attention_heads": HEADS,
    "vocab_size": WORDS,
}
GPT2 = {"n_embd": D, "n_layer": LAYERS, "n_head": HEADS, "vocab_size": WORDS}
T5 = {"d_model": D, "d_kv": HEAD, "d_ff": FF, "num_layers": LAYERS, "num_heads": HEADS, "vocab_size": WORDS}
MARIAN = {"d_model": D, "encoder_layers": LAYERS, "decoder_layers": 2, "vocab_size": WORDS, "pad_token_id": 99}
MARIAN |= {f"{side}_{what}": n for side in ("encoder", "decoder") for what, n in (("attention_heads", HEADS), ("ffn_dim", FF))}
VIT = {k: BERT[k] for k in BERT if k != "vocab_size"} | {"image_size": 32, "patch_size": 8}
EXPERTS, CHOSEN, MOE_FF, SHARED_FF = 8, 2, 24, 40
QKVO = 2 * D * D + 2 * D * GROUPS * HEAD  # weights of a layer's attention with grouped queries


def write(folder: Path, kind: str, architecture: str | None, numbers: dict[str, Any]) -> str:
    named = {"model_type": kind} | numbers | ({"architectures": [architecture]} if architecture else {})
    (folder / "config.json").write_text(json.dumps(named), encoding="utf-8")
    return f"hf:{folder}"


def attention(work: Workload) -> list[Layer]:
    return [layer for layer in work.layers if layer.op == "scaled_dot_product_attention"]


def llama_macs(tokens: int, keys: int | None = None) -> int:
    products = 2 * HEADS * HEAD * tokens * (keys or tokens)
    return LAYERS * (tokens * (QKVO + 3 * D * FF) + products) + tokens * D * WORDS


@pytest.mark.parametrize(
    ("kind", "architecture", "more"),
    [
        ("llama", "LlamaForCausalLM", {}),
        ("mistral", "MistralForCausalLM", {"sliding_window": 4096}),
        ("mistral", "MistralForCausalLM", {"sliding_window": 8}),
        ("qwen2", "Qwen2ForCausalLM", {}),
        ("qwen3", "Qwen3ForCausalLM", {}),
    ],
)
def test_llama_and_its_kin(tmp_path, kind, architecture, more):
    source = resolve(write(tmp_path, kind, architecture, LLAMA | more))
    work = source.workload({None: (1, S)})
    assert work.total().macs == llama_macs(S)
    extra = {"qwen2": LAYERS * (D + 2 * GROUPS * HEAD), "qwen3": LAYERS * 2 * HEAD}.get(kind, 0)
    assert work.total().parameters == LAYERS * (QKVO + 3 * D * FF + 2 * D) + D + 2 * D * WORDS + extra
    window = more.get("sliding_window", 4096)
    assert [layer.attributes["causal"] for layer in attention(work)] == [True] * LAYERS
    assert [layer.attributes.get("window", S) for layer in attention(work)] == [min(window, S)] * LAYERS
    assert work.coverage.unknown == ()
    past = source.workload(past=S)
    assert past.total().macs == llama_macs(1, min(S + 1, window))
    assert past.inputs[0].shape == (1, 1)


def test_several_tokens_after_a_past_see_all_of_it_and_their_own_half(tmp_path):
    source = resolve(write(tmp_path, "llama", "LlamaForCausalLM", LLAMA))
    past, new = S, 4
    work = source.workload({None: (1, new)}, past=past)
    assert work.total().macs == llama_macs(new, past + new)
    pairs = sum(past + i for i in range(1, new + 1))  # the mask lies in the bottom right corner
    assert causal.exact(work).total().macs == llama_macs(new, past + new) - LAYERS * 2 * HEADS * HEAD * (
        new * (past + new) - pairs
    )


@pytest.mark.parametrize(
    ("kind", "architecture", "more"),
    [("llama", "LlamaForCausalLM", {}), ("mistral", "MistralForCausalLM", {"sliding_window": 8})],
)
def test_one_token_after_a_past_sees_all_keys(tmp_path, kind, architecture, more):
    """Also where heads that share their keys are laid out as queries."""
    work = resolve(write(tmp_path, kind, architecture, LLAMA | more)).workload(past=S)
    assert [layer.attributes["causal"] for layer in attention(work)] == [False] * LAYERS
    assert causal.exact(work).total().macs == work.total().macs


def test_twice_the_tokens_are_more_than_twice_the_work(tmp_path):
    source = resolve(write(tmp_path, "llama", "LlamaForCausalLM", LLAMA))
    short, long = (source.workload({"input_ids": (1, n)}).total().macs for n in (S, 2 * S))
    assert long - 2 * short == LAYERS * 2 * HEADS * HEAD * (4 - 2) * S * S
    assert source.workload({None: (3, S)}).total().macs == 3 * short
    assert source.workload(dtype="bfloat16").layers[-1].outputs[0].dtype == "bfloat16"


@pytest.mark.parametrize(
    ("kind", "architecture", "more", "ffn", "shared"),
    [
        ("mixtral", "MixtralForCausalLM", {"num_local_experts": EXPERTS}, FF, 0),
        (
            "qwen2_moe",
            "Qwen2MoeForCausalLM",
            {"num_experts": EXPERTS, "moe_intermediate_size": MOE_FF, "shared_expert_intermediate_size": SHARED_FF},
            MOE_FF,
            3 * D * SHARED_FF + D,  # and the shared expert's gate
        ),
        ("qwen3_moe", "Qwen3MoeForCausalLM", {"num_experts": EXPERTS, "moe_intermediate_size": MOE_FF}, MOE_FF, 0),
    ],
)
def test_mixture_of_experts(tmp_path, kind, architecture, more, ffn, shared):
    source = resolve(write(tmp_path, kind, architecture, LLAMA | more | {"num_experts_per_tok": CHOSEN}))
    work = source.workload({None: (1, S)})
    block = QKVO + D * EXPERTS + 3 * D * ffn * CHOSEN + shared
    assert work.total().macs == LAYERS * (S * block + 2 * D * S * S) + S * D * WORDS
    experts = [layer for layer in work.layers if "experts" in layer.attributes]
    assert {layer.attributes["experts"] for layer in experts} == {(EXPERTS, CHOSEN)}
    assert sum(layer.macs for layer in experts) == LAYERS * S * 3 * D * ffn * CHOSEN
    assert sum(layer.parameters for layer in experts) == LAYERS * 3 * D * ffn * EXPERTS


def test_gpt2_with_its_tied_head(tmp_path):
    source = resolve(write(tmp_path, "gpt2", "GPT2LMHeadModel", GPT2))
    work = source.workload({None: (1, S)})
    assert work.total().macs == LAYERS * (S * 12 * D * D + 2 * D * S * S) + S * D * WORDS
    assert work.total().parameters == LAYERS * (12 * D * D + 13 * D) + 2 * D + (WORDS + 1024) * D
    assert [layer.attributes["causal"] for layer in attention(work)] == [True] * LAYERS
    assert source.workload(past=S).total().macs == LAYERS * (12 * D * D + 2 * D * (S + 1)) + D * WORDS


@pytest.mark.parametrize("architecture", ["BertModel", None, "BertForMaskedLM"])
def test_bert_sees_both_sides(tmp_path, architecture):
    source = resolve(write(tmp_path, "bert", architecture, BERT))
    work = source.workload({None: (1, S)})
    head = S * D * (D + WORDS) if architecture == "BertForMaskedLM" else D * D  # else the pooled first token's
    assert work.total().macs == LAYERS * (S * (4 * D * D + 2 * D * FF) + 2 * D * S * S) + head
    assert [layer.attributes["causal"] for layer in attention(work)] == [False] * LAYERS
    if architecture == "BertModel":
        with pytest.raises(InputError, match="BertModel generates no text: it has no past to continue"):
            source.workload(past=4)


@pytest.mark.parametrize(("kind", "architecture"), [("t5", "T5ForConditionalGeneration"), ("marian", "MarianMTModel")])
def test_encoder_and_decoder(tmp_path, kind, architecture):
    source = resolve(write(tmp_path, kind, architecture, T5 if kind == "t5" else MARIAN))
    decoders = LAYERS if kind == "t5" else 2
    length = 16
    work = source.workload({"input_ids": (1, S), "decoder_input_ids": (1, length)})
    dense = 4 * D * D + 2 * D * FF
    encoder = LAYERS * (S * dense + 2 * D * S * S)
    own = decoders * (length * (dense + 2 * D * D) + 2 * D * length**2)
    cross = decoders * (S * 2 * D * D + 2 * D * length * S)
    assert work.total().macs == encoder + own + cross + length * D * WORDS
    causal = [layer.attributes["causal"] for layer in attention(work)]
    assert causal == [False] * LAYERS + [True, False] * decoders
    step = source.workload({"input_ids": (1, S)}, past=length)  # the encoder and the keys of the source are known
    own = decoders * (dense + 2 * D * D + 2 * D * (length + 1))
    assert step.total().macs == own + decoders * 2 * D * S + D * WORDS
    assert source.workload({None: (1, S)}).inputs[1].shape == (1, S)


def test_whisper_hears_half_a_minute(tmp_path):
    numbers = MARIAN | {"num_mel_bins": 80, "max_source_positions": 1500, "vocab_size": WORDS}
    source = resolve(write(tmp_path, "whisper", "WhisperForConditionalGeneration", numbers))
    assert source.shapes() == {"input_features": (1, 80, 3000), "decoder_input_ids": (1, 128)}
    dense = 4 * D * D + 2 * D * FF
    heard = 3000 * 3 * 80 * D + 1500 * 3 * D * D + LAYERS * (1500 * dense + 2 * D * 1500**2)
    own = 2 * (128 * (dense + 2 * D * D) + 2 * D * 128**2)
    cross = 2 * (1500 * 2 * D * D + 2 * D * 128 * 1500)
    assert source.workload().total().macs == heard + own + cross + 128 * D * WORDS


def test_pictures(tmp_path):
    source = resolve(write(tmp_path, "vit", "ViTForImageClassification", VIT))
    tokens = 17
    encoder = LAYERS * (tokens * (4 * D * D + 2 * D * FF) + 2 * D * tokens**2)
    assert source.shapes() == {"pixel_values": (1, 3, 32, 32)}
    assert source.workload().total().macs == 16 * 3 * 64 * D + encoder + 2 * D  # two classes by default


def test_pictures_and_text(tmp_path):
    text = {k: v for k, v in BERT.items()} | {"max_position_embeddings": 77}
    source = resolve(write(tmp_path, "clip", "CLIPModel", {"text_config": text, "vision_config": VIT, "projection_dim": D}))
    assert source.shapes() == {"input_ids": (1, 77), "pixel_values": (1, 3, 32, 32)}
    work = source.workload()
    both = sum(LAYERS * (n * (4 * D * D + 2 * D * FF) + 2 * D * n * n) for n in (77, 17))
    assert work.total().macs == both + 16 * 3 * 64 * D + 2 * D * D + D
    assert sorted(layer.attributes["causal"] for layer in attention(work)) == [False] * LAYERS + [True] * LAYERS


@pytest.mark.parametrize(
    ("kind", "architecture", "numbers"),
    [
        ("wav2vec2", "Wav2Vec2Model", {"hidden_size": D, "num_attention_heads": HEADS, "num_hidden_layers": 2}),
        ("audio-spectrogram-transformer", "ASTForAudioClassification", {"num_hidden_layers": 2}),
        ("convnext", "ConvNextForImageClassification", {}),
        ("videomae", "VideoMAEForVideoClassification", {"num_hidden_layers": 2}),
        ("mamba", "MambaForCausalLM", {"hidden_size": D, "num_hidden_layers": 2, "vocab_size": WORDS}),
    ],
)
def test_an_input_is_made_for(tmp_path, kind, architecture, numbers):
    source = resolve(write(tmp_path, kind, architecture, numbers))
    assert source.workload().total().macs > 0


def test_seventy_billion_parameters(tmp_path):
    depth, d, heads, groups, ff, words, tokens = 80, 8192, 64, 8, 28672, 128256, 128
    numbers = {"hidden_size": d, "num_hidden_layers": depth, "num_attention_heads": heads, "num_key_value_heads": groups}
    numbers |= {"intermediate_size": ff, "vocab_size": words}
    source = resolve(write(tmp_path, "llama", "LlamaForCausalLM", numbers))
    work = source.workload(dtype="bfloat16")
    weights = depth * (2 * d * d + 2 * d * d * groups // heads + 3 * d * ff)
    assert work.total().parameters == weights + 2 * d * words + (2 * depth + 1) * d == 70_553_706_496
    assert work.total().macs == tokens * (weights + d * words) + depth * 2 * d * tokens**2
    assert [layer.attributes["causal"] for layer in attention(work)] == [True] * depth


@pytest.mark.parametrize(
    ("config", "line"),
    [
        (None, "there is no config.json in"),
        ("not json", "is not JSON"),
        ("[]", "knows no model_type None"),
        ('{"model_type": "lama"}', "knows no model_type 'lama' (config.json); the nearest are"),
        ('{"model_type": "mine", "auto_map": {"AutoConfig": "mine.Config"}}', "code of the repository's own, which is not run"),
        ('{"model_type": "llama", "architectures": ["LamaForCausalLM"]}', "has no architecture 'LamaForCausalLM'"),
        ('{"model_type": "llama", "architectures": ["AutoConfig"]}', "has no architecture 'AutoConfig'"),
        ('{"model_type": "llama", "hidden_size": "wide"}', "transformers cannot build llama"),
    ],
)
def test_a_bad_config_is_one_line(tmp_path, config, line):
    if config is not None:
        (tmp_path / "config.json").write_text(config)
    with pytest.raises(InputError) as raised:
        resolve(f"hf:{tmp_path}")
    assert line in str(raised.value) and "\n" not in str(raised.value)


def test_an_id_without_a_network_or_of_no_repository(tmp_path, monkeypatch):
    monkeypatch.setenv("HF_HUB_CACHE", str(tmp_path))
    with pytest.raises(LaminaError, match=r"is not in the cache and cannot be fetched \(there is no network|give hf:DIRECTORY"):
        resolve("hf:nobody/nothing")
    with pytest.raises(InputError, match="neither a directory nor the OWNER/NAME"):
        resolve("hf:a/b/c")


def test_the_library_is_left_as_it_was(tmp_path):
    import transformers

    before = transformers.logging.get_verbosity()
    source = resolve(write(tmp_path, "llama", "LlamaForCausalLM", LLAMA))
    assert transformers.logging.get_verbosity() == before
    assert source.workload() == source.workload() and source.workload(past=3) == source.workload(past=3)
