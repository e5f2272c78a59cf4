"""What whole networks of transformers and torchvision keep for the backward pass in training mode on a CPU, to the byte,
beside what torch saves of a real forward pass."""

import pytest
import torch

import lamina
from tests.saved import saved_bytes

torchvision = pytest.importorskip("torchvision", reason="needs torchvision: make peers", exc_type=ImportError)
transformers = pytest.importorskip("transformers", reason="needs transformers: make peers", exc_type=ImportError)

IDS = torch.arange(2 * 48).view(2, 48) % 100
IMAGE = torch.zeros(2, 3, 32, 32)
WORDS = {"vocab_size": 200}
TEXT = {"hidden_size": 64, "num_hidden_layers": 2, "num_attention_heads": 4, "intermediate_size": 128, **WORDS}
GROUPED = {**TEXT, "num_attention_heads": 8, "num_key_value_heads": 2}
VISION = {**TEXT, "image_size": 32, "patch_size": 8}

NETWORKS = {
    "GPT2LMHeadModel": ("GPT2Config", {"n_layer": 2, "n_embd": 64, "n_head": 4, **WORDS}),
    "BertForMaskedLM": ("BertConfig", TEXT),
    "T5ForConditionalGeneration": (
        "T5Config",
        {"d_model": 64, "d_kv": 16, "num_layers": 2, "num_heads": 4, "d_ff": 128, **WORDS},
    ),
    "LlamaForCausalLM": ("LlamaConfig", GROUPED),
    "MistralModel": ("MistralConfig", GROUPED),
    "Qwen3Model": ("Qwen3Config", {**GROUPED, "head_dim": 16}),
    "Gemma2Model": ("Gemma2Config", {**GROUPED, "head_dim": 16}),
    "GPTNeoXModel": ("GPTNeoXConfig", TEXT),
    "OPTModel": ("OPTConfig", {**TEXT, "ffn_dim": 128, "word_embed_proj_dim": 64, "max_position_embeddings": 64}),
    "RobertaModel": ("RobertaConfig", TEXT),
    "ElectraModel": ("ElectraConfig", {**TEXT, "embedding_size": 64}),
    "AlbertModel": ("AlbertConfig", {**TEXT, "embedding_size": 32}),
    "DistilBertModel": ("DistilBertConfig", {"dim": 64, "n_layers": 2, "n_heads": 4, "hidden_dim": 128, **WORDS}),
    "ModernBertForMaskedLM": ("ModernBertConfig", {**TEXT, "num_hidden_layers": 4, "pad_token_id": 0}),
    "ViTForImageClassification": ("ViTConfig", VISION),
    "CLIPVisionModel": ("CLIPVisionConfig", VISION),
    "SwinModel": (
        "SwinConfig",
        {"image_size": 32, "patch_size": 2, "embed_dim": 16, "depths": [2, 2], "num_heads": [2, 4], "window_size": 4},
    ),
    "ConvNextModel": ("ConvNextConfig", {"hidden_sizes": [16, 32, 64, 64], "depths": [1, 1, 2, 1]}),
}  # fmt: skip
# With the side of the image: none of them computes for a second.
TORCHVISION = {
    "alexnet": 96, "vgg11": 64, "resnet18": 64, "resnext50_32x4d": 64, "googlenet": 96, "densenet121": 64, "squeezenet1_1": 64,
    "mobilenet_v2": 64, "mobilenet_v3_small": 64, "mnasnet0_5": 64, "shufflenet_v2_x0_5": 64, "efficientnet_b0": 64,
    "regnet_y_400mf": 64, "convnext_tiny": 64, "vit_b_32": 224, "swin_t": 64, "swin_v2_t": 64,
    "segmentation.deeplabv3_mobilenet_v3_large": 64, "segmentation.lraspp_mobilenet_v3_large": 64, "video.mc3_18": 0,
}  # fmt: skip


@pytest.mark.parametrize("name", NETWORKS)
def test_a_network_of_transformers_keeps_what_torch_keeps(name):
    config, numbers = NETWORKS[name]
    module = getattr(transformers, name)(getattr(transformers, config)(**numbers)).train()
    inputs = {module.main_input_name: IMAGE if module.main_input_name == "pixel_values" else IDS}
    if module.config.is_encoder_decoder:
        inputs["decoder_input_ids"] = IDS[:, :32]
    work = lamina.trace(module, **inputs)
    assert work.saved_bytes == saved_bytes(module, **inputs)


@pytest.mark.parametrize("name", TORCHVISION)
def test_a_network_of_torchvision_keeps_what_torch_keeps(name):
    options = {"weights_backbone": None} if name.startswith("segmentation") else {}
    if name == "googlenet":
        options["init_weights"] = False
    side = TORCHVISION[name]
    module = torchvision.models.get_model(name.rpartition(".")[2], weights=None, **options).train()
    image = torch.zeros(2, 3, side, side) if side else torch.zeros(1, 3, 8, 32, 32)
    assert lamina.trace(module, image).saved_bytes == saved_bytes(module, image)
