"""Small networks of transformers, from the library's own configurations made small: `NETWORKS`, and their inputs."""

from dataclasses import dataclass, field
from typing import Any

import torch

# Sizes that configurations have under one of these names; what a configuration does not have is left out.
SIZES: dict[str, int] = {
    **dict.fromkeys(("hidden_size", "d_model", "n_embd", "dim", "emb_dim", "embed_dim"), 32),
    **dict.fromkeys(("num_hidden_layers", "num_layers", "n_layer", "n_layers", "encoder_layers", "decoder_layers"), 2),
    **dict.fromkeys(("num_decoder_layers", "encoder_num_layers"), 2),
    **dict.fromkeys(("num_attention_heads", "n_head", "n_heads", "num_heads"), 4),
    **dict.fromkeys(("encoder_attention_heads", "decoder_attention_heads"), 4),
    **dict.fromkeys(
        ("intermediate_size", "n_inner", "d_ff", "ffn_dim", "encoder_ffn_dim", "decoder_ffn_dim", "hidden_dim"), 48
    ),
    **dict.fromkeys(("max_position_embeddings", "n_positions"), 64),
    **dict.fromkeys(("head_dim", "d_kv"), 8),
    **dict.fromkeys(("num_experts", "num_local_experts", "n_routed_experts"), 4),
    **{"num_key_value_heads": 2, "moe_intermediate_size": 24, "num_experts_per_tok": 2, "n_group": 1, "topk_group": 1},
    **{"vocab_size": 100, "image_size": 32, "patch_size": 8},
    **{"pad_token_id": 0, "bos_token_id": 1, "eos_token_id": 2, "decoder_start_token_id": 1},
}


@dataclass(frozen=True)
class Small:
    """A model type, what its configuration says otherwise than `SIZES`, and the automatic class that makes the network."""

    kind: str
    more: dict[str, Any] = field(default_factory=dict)
    auto: str = "AutoModel"

    @property
    def name(self) -> str:
        return self.kind if self.auto == "AutoModel" else f"{self.kind}-{self.auto.removeprefix('AutoModel')}"

    def config(self) -> Any:
        import transformers

        kind: Any = type(transformers.AutoConfig.for_model(self.kind))
        known = kind().to_dict()
        plain = {k: v for k, v in SIZES.items() if k in known and not isinstance(known[k], list | tuple | dict)}
        return kind(**{**plain, **self.more})

    def module(self) -> Any:
        """The network with random weights, in evaluation mode."""
        import transformers

        torch.manual_seed(0)
        return getattr(transformers, self.auto).from_config(self.config()).eval()


def inputs(module: Any) -> dict[str, torch.Tensor]:
    """Real inputs by name: 16 tokens (8 for a decoder), an image, or a quarter of a second of speech."""
    config, name = module.config, module.main_input_name
    torch.manual_seed(1)
    given: dict[str, torch.Tensor] = {}
    if name == "input_ids":
        given[name] = torch.randint(3, 90, (1, 16))
    elif name == "pixel_values":
        side = getattr(config, "image_size", 64)
        sides = (side, side) if isinstance(side, int) else tuple(side)
        frames = [config.num_frames] if hasattr(config, "num_frames") else []
        given[name] = torch.randn(1, *frames, getattr(config, "num_channels", 3), *sides)
    elif name == "input_features":
        given[name] = torch.randn(1, config.num_mel_bins, 2 * config.max_source_positions)
    else:
        given[name] = torch.randn(1, 4000)
    if config.is_encoder_decoder and name != "pixel_values":
        given["decoder_input_ids"] = torch.randint(3, 90, (1, 8))
    return given


LATENT = {"qk_nope_head_dim": 8, "qk_rope_head_dim": 8, "v_head_dim": 8, "q_lora_rank": 16, "kv_lora_rank": 16}
ENCODERS = [
    "albert", "bert", "bert-generation", "big_bird", "camembert", "canine", "clip_text_model", "convbert", "data2vec-text",
    "deberta", "deberta-v2", "distilbert", "electra", "ernie", "esm", "flaubert", "fnet", "layoutlm", "longformer",
    "megatron-bert", "mobilebert", "modernbert", "mpnet", "nystromformer", "rembert", "roberta", "roc_bert", "roformer",
    "splinter", "xlm", "xlm-roberta", "xlnet",
]  # fmt: skip
DECODERS = [
    "apertus", "arcee", "biogpt", "bloom", "cohere", "ctrl", "diffllama", "ernie4_5", "exaone4", "falcon", "falcon_mamba",
    "gemma", "gemma2", "gemma3_text", "glm", "glm4", "gpt2", "gpt_bigcode", "gpt_neox", "granite", "helium", "imagegpt",
    "lfm2", "llama", "mamba", "mistral", "mpt", "nanochat", "nemotron", "olmo", "olmo2", "openai-gpt", "opt", "persimmon",
    "phi", "phi3", "qwen2", "qwen3", "smollm3", "stablelm", "starcoder2", "xglm",
]  # fmt: skip
EXPERTS = [
    "gpt_oss", "granitemoe", "mixtral", "olmoe", "phimoe", "qwen2_moe", "qwen3_moe", "switch_transformers", "nllb-moe",
]  # fmt: skip
BOTH = [
    "bart", "bigbird_pegasus", "blenderbot", "blenderbot-small", "fsmt", "led", "longt5", "m2m_100", "marian", "mbart",
    "mt5", "pegasus", "pegasus_x", "plbart", "prophetnet", "t5", "umt5", "whisper",
]  # fmt: skip
IMAGES = [
    "beit", "bit", "clip_vision_model", "conditional_detr", "cvt", "deit", "detr", "dinov2", "dinov2_with_registers",
    "dinov3_vit", "dpt", "focalnet", "glpn", "hgnet_v2", "hiera", "ijepa", "mobilenet_v2", "mobilevit", "poolformer", "pvt",
    "pvt_v2", "regnet", "resnet", "segformer", "siglip_vision_model", "swiftformer", "table-transformer", "vit", "vit_mae",
    "vit_msn", "vitdet",
]  # fmt: skip
SOUNDS = [
    "data2vec-audio", "hubert", "sew", "unispeech", "wav2vec2", "wav2vec2-conformer", "wavlm",
]  # fmt: skip
NETWORKS = [
    *map(Small, (*ENCODERS, *DECODERS, *EXPERTS, *BOTH, *IMAGES, *SOUNDS)),
    Small("codegen", {"rotary_dim": 8}),
    Small("gptj", {"rotary_dim": 8}),
    Small("squeezebert", {"embedding_size": 32}),
    Small("mamba2", {"num_heads": 8, "head_dim": 8}),
    Small("deepseek_v3", LATENT | {"num_key_value_heads": 4, "first_k_dense_replace": 1}),
    Small("yolos", {"image_size": [64, 64], "patch_size": 16}),
    Small("videomae", {"num_frames": 4, "tubelet_size": 2}),
    Small("vivit", {"num_frames": 4, "tubelet_size": [2, 8, 8]}),
    Small("timesformer", {"num_frames": 4}),
    *(Small(kind, auto="AutoModelForCausalLM") for kind in ("gpt2", "llama", "mistral", "qwen3", "gemma2", "mamba")),
    *(Small(kind, auto="AutoModelForSeq2SeqLM") for kind in ("t5", "bart")),
    *(Small(kind, auto="AutoModelForMaskedLM") for kind in ("bert", "modernbert")),
    Small("vit", auto="AutoModelForImageClassification"),
    Small("convnext", {"image_size": 64, "patch_size": 4}, "AutoModelForImageClassification"),
    Small(
        "swin", {"image_size": 128, "patch_size": 4, "window_size": 4, "embed_dim": 24, "hidden_size": 192},
        "AutoModelForImageClassification",
    ),
    Small("wav2vec2", auto="AutoModelForCTC"),
]  # fmt: skip
