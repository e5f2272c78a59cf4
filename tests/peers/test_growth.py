"""Growing timm's ViT and transformers' GPT-2 and Llama, in the environment of the peers."""

import copy
from typing import Any

import pytest
import torch

from lamina.errors import InputError
from lamina.scale.growth import check, grow, shrink

ZERO = {"depth": 2, "operator": {"depth": "zero"}}
IDS = torch.randint(0, 50, (2, 7), generator=torch.Generator().manual_seed(0))


def stirred(module: Any) -> Any:
    torch.manual_seed(0)
    for parameter in module.parameters():
        parameter.data.add_(0.05 * torch.randn_like(parameter))
    return module.double().eval()


def vit(**options: Any) -> Any:
    timm = pytest.importorskip("timm")
    return stirred(
        timm.models.VisionTransformer(
            img_size=28, patch_size=7, in_chans=3, num_classes=10, embed_dim=32, depth=3, num_heads=4, **options
        )
    )


def gpt2(**options: Any) -> Any:
    transformers = pytest.importorskip("transformers")
    ends = {"bos_token_id": 0, "eos_token_id": 0}
    config = transformers.GPT2Config(vocab_size=50, n_positions=16, n_embd=32, n_layer=3, n_head=4, **ends, **options)
    return stirred(transformers.GPT2LMHeadModel(config))


def llama(n_kv: int = 4, tied: bool = False) -> Any:
    transformers = pytest.importorskip("transformers")
    sizes = {"hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 3, "num_attention_heads": 4, "vocab_size": 50}
    config = transformers.LlamaConfig(**sizes, num_key_value_heads=n_kv, tie_word_embeddings=tied)
    return stirred(transformers.LlamaForCausalLM(config))


@pytest.mark.parametrize("change", [ZERO, {"feed_forward": 2}, {"heads": 3}, {"head_width": 2}], ids=str)
@pytest.mark.parametrize("options", [{}, {"init_values": 0.1}, {"qkv_bias": False}], ids=str)
def test_timms_vit(options: dict[str, Any], change: dict[str, Any]) -> None:
    net = vit(**options)
    x = torch.randn(2, 3, 28, 28).double()
    before = copy.deepcopy(net.state_dict())
    grown = grow(net, **change, exactness="exact")
    assert check(net, grown, x).passed and type(grown.module) is type(net)
    assert all(torch.equal(before[k], v) for k, v in net.state_dict().items())
    assert check(net, shrink(grow(net, feed_forward=2).module, feed_forward=2), x).max_difference < 1e-5


def test_what_timms_vit_refuses() -> None:
    with pytest.raises(InputError, match=r"blocks.0.attn has a q_norm"):
        grow(vit(qk_norm=True), heads=2)
    with pytest.raises(InputError, match="model_width"):
        grow(vit(), model_width=2)


WIDE = [{"model_width": 2, "heads": 2}, {"model_width": 2, "head_width": 2, "feed_forward": 2}]


@pytest.mark.parametrize("change", [ZERO, {"feed_forward": 2}, {"depth": 2}, *WIDE], ids=str)
def test_gpt2(change: dict[str, Any]) -> None:
    net = gpt2()
    grown = grow(net, **change)
    assert check(net, grown, IDS).passed
    assert grown.module.lm_head.weight is grown.module.transformer.wte.weight
    again = type(net)(grown.module.config).double().eval()
    again.load_state_dict(grown.module.state_dict())
    assert torch.equal(again(IDS).logits, grown.module(IDS).logits)


def test_what_gpt2_refuses() -> None:
    for change in ({"heads": 2}, {"model_width": 2}):
        with pytest.raises(InputError, match="model width = heads x head width"):
            grow(gpt2(), **change)
    with pytest.raises(InputError, match="scaled by its layer"):
        grow(gpt2(scale_attn_by_inverse_layer_idx=True), depth=2)
    with pytest.raises(InputError, match="the stream itself"):
        grow(gpt2().transformer, model_width=2, heads=2)
    longer = grow(gpt2(), tokens=2)
    assert longer.module.config.n_positions == 32 and longer.report.exactness == "approximate"
    longer.module(torch.zeros(1, 32, dtype=torch.long))


@pytest.mark.parametrize("tied", [False, True])
@pytest.mark.parametrize("n_kv", [1, 2, 4])
@pytest.mark.parametrize(
    "change",
    [ZERO, {"feed_forward": 2}, {"heads": 2}, {"model_width": 2}, {"model_width": 3, "operator": {"model_width": "pad"}}],
    ids=str,
)
def test_llama(change: dict[str, Any], n_kv: int, tied: bool) -> None:
    net = llama(n_kv, tied)
    grown = grow(net, **change, exactness="exact")
    assert check(net, grown, IDS).passed
    if "heads" in change:
        assert grown.module.config.num_key_value_heads == (8 if n_kv == 4 else n_kv)


def test_what_llama_refuses() -> None:
    with pytest.raises(InputError, match="rotary"):
        grow(llama(), head_width=2)
    with pytest.raises(InputError, match=r"4 query heads for 2 key and value heads"):
        shrink(llama(2), heads=4)
    longer = grow(llama(), tokens=2).module
    assert longer.config.rope_parameters["factor"] == 2 and longer.config.max_position_embeddings == 4096
    # Position 2 p of the longer context is turned as position p was.
    rotary, old = longer.model.rotary_emb, llama().model.rotary_emb
    x = torch.zeros(1, 1, 8).double()
    new_turn, old_turn = rotary(x, torch.tensor([[6]])), old(x, torch.tensor([[3]]))
    assert torch.allclose(new_turn[0], old_turn[0]) and torch.allclose(new_turn[1], old_turn[1])
