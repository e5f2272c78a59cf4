"""The Vision Transformer: counts to the unit, shapes, that it computes and learns, attention maps and other image sizes."""

import json
import math
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from torch import nn
from torch.nn import functional as F

from lamina.tracing.tracer import trace
from lamina.workload import Workload
from lamina.zoo import vit

REFERENCE = json.loads(Path(__file__).with_name("counts_transformers.json").read_text())["networks"]
OTHERS = [(name, key) for name in vit.VARIANTS for key in REFERENCE.get(name, {}).get("other_configurations", ())]
SMALL = vit.Config(patch=4, depth=2, width=12, mlp=20, n_heads=3, num_classes=7, in_channels=2, img_size=12)


def traced(config: vit.Config) -> Workload:
    with torch.device("meta"):
        net = vit.Net(config).eval()
    return trace(net, torch.empty(1, config.in_channels, config.img_size, config.img_size, device="meta"))


def counts(work: Workload) -> dict[str, int]:
    total = work.total()
    kinds = {kind: [layer for layer in work.layers if layer.kind == kind] for kind in ("conv", "linear", "matmul")}
    weights = {k: sum(math.prod(w.shape) for x in v for w in x.weights if w.part == "weight") for k, v in kinds.items()}
    return {
        "parameters": total.parameters,
        "weights": total.weights,
        "biases": total.biases,
        "norm": total.norm,
        "conv_weights": weights["conv"],
        "fc_weights": weights["linear"],
        "conv_macs": sum(layer.macs for layer in kinds["conv"]),
        "fc_macs": sum(layer.macs for layer in kinds["linear"]),
        "attention_macs": sum(layer.macs for layer in kinds["matmul"]),
        "macs": total.macs,
        "conv_layers": len(kinds["conv"]),
        "fc_layers": len(kinds["linear"]),
    }


def small(config: vit.Config = SMALL, scale: float = 1.0) -> vit.Net:
    """A network made as the registry makes it, its head no longer zero so that outputs say something."""
    with torch.device("meta"):
        net = vit.Net(config)
    net.to_empty(device="cpu")
    torch.manual_seed(0)
    net.init_weights()
    nn.init.normal_(net.head.weight, std=scale)
    nn.init.normal_(net.class_token, std=scale)
    return net


# ---- counts -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", [name for name in vit.VARIANTS if name in REFERENCE])
def test_counts(name):
    work = traced(vit.VARIANTS[name])
    assert counts(work) == REFERENCE[name]["counts"]
    assert work.coverage.unknown == ()


@pytest.mark.parametrize(("name", "key"), OTHERS)
def test_other_configurations(name, key):
    changes = {"img_size": int(key)} if key.isdigit() else {"num_classes": 21843, "representation": 768}
    assert counts(traced(replace(vit.VARIANTS[name], **changes))) == REFERENCE[name]["other_configurations"][key]


@pytest.mark.parametrize(
    ("name", "d", "mlp", "depth", "patches", "pixels", "classes"),
    [
        # Dosovitskiy et al. 2020, Table 1, Large: 24 layers, D = 1024, MLP 4096; 224 / 14 = 16 patches a side
        ("vit_l_14", 1024, 4096, 24, 16 * 16, 3 * 14 * 14, 1000),
        ("vit_mnist", 64, 128, 6, 7 * 7, 4 * 4, 10),  # ours: 28 / 4 = 7 patches a side, grey
    ],
)
def test_counts_by_hand(name, d, mlp, depth, patches, pixels, classes):
    tokens = patches + 1  # the class token
    block = 3 * d * d + d * d + 2 * d * mlp  # queries, keys, values; output; the two of the MLP
    biases = depth * (3 * d + d + mlp + d) + d + classes
    work = counts(traced(vit.VARIANTS[name]))
    assert work["norm"] == (2 * depth + 1) * 2 * d
    assert work["biases"] == biases
    assert work["weights"] == pixels * d + d + tokens * d + depth * block + d * classes
    assert work["parameters"] == work["weights"] + work["biases"] + work["norm"]
    assert work["conv_macs"] == patches * pixels * d
    assert work["attention_macs"] == depth * 2 * tokens * tokens * d
    assert work["fc_macs"] == depth * tokens * block + d * classes


def test_every_name_is_counted():
    assert set(vit.VARIANTS) - set(REFERENCE) == {"vit_l_14", "vit_mnist"}
    assert {name for name in REFERENCE if name.startswith("vit")} <= set(vit.VARIANTS)


@pytest.mark.parametrize(("name", "tokens", "width"), [("vit_b_16", 197, 768), ("vit_b_32", 50, 768), ("vit_h_14", 257, 1280)])
def test_stage_shapes(name, tokens, width):
    """Dosovitskiy et al. 2020, section 3.1 and Table 1: N = HW / P^2 patches and the class token, D wide throughout."""
    config = vit.VARIANTS[name]
    layers = {layer.name: layer.outputs[0].shape[1:] for layer in traced(config).layers}
    side = 224 // config.patch
    assert layers["patch_embed"] == (width, side, side)
    assert {layers[f"blocks.{i}.{part}"] for i in range(config.depth) for part in ("norm1", "attention.out", "fc2")} == {
        (tokens, width)
    }
    assert {layers[f"blocks.{i}.fc1"] for i in range(config.depth)} == {(tokens, 4 * width)}
    assert {layers[f"blocks.{i}.attention.qkv"] for i in range(config.depth)} == {(tokens, 3 * width)}
    assert layers["norm"] == (tokens, width) and layers["head"] == (1000,)


# ---- it computes ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("representation", [None, 5])
def test_forward_and_backward(representation):
    net = small(replace(SMALL, representation=representation)).train()
    y = net(torch.randn(4, 2, 12, 12))
    assert y.shape == (4, 7) and y.isfinite().all()
    y.square().mean().backward()
    for name, parameter in net.named_parameters():
        assert parameter.grad is not None and parameter.grad.isfinite().all(), name
        assert parameter.grad.abs().sum() > 0, name


def test_export():
    net = small().eval()
    x = torch.randn(2, 2, 12, 12)
    program = torch.export.export(net, (x,))
    torch.testing.assert_close(program.module()(x), net(x))


def test_a_block_is_a_pre_norm_transformer_layer():
    """The same weights in torch's own layer give the same numbers."""
    net = small()
    assert {m.eps for m in net.modules() if isinstance(m, nn.LayerNorm)} == {1e-6}
    block = net.blocks[0].eval()
    theirs = nn.TransformerEncoderLayer(12, 3, 20, 0.0, "gelu", layer_norm_eps=1e-6, batch_first=True, norm_first=True)
    theirs.load_state_dict(
        {
            "self_attn.in_proj_weight": block.attention.qkv.weight,
            "self_attn.in_proj_bias": torch.nn.init.normal_(block.attention.qkv.bias),
            **{f"self_attn.out_proj.{k}": v for k, v in block.attention.out.state_dict().items()},
            **{
                f"{a}.{k}": v
                for a, b in (("linear1", "fc1"), ("linear2", "fc2"))
                for k, v in getattr(block, b).state_dict().items()
            },
            **{f"{a}.{k}": v for a in ("norm1", "norm2") for k, v in getattr(block, a).state_dict().items()},
        }
    )
    x = torch.randn(2, 10, 12)
    torch.testing.assert_close(block(x), theirs.train()(x))  # in training mode torch takes no short cut


def test_dropout_stands_where_the_paper_says():
    """Appendix B.1: behind every linear layer but the queries', keys' and values', and on the patches with positions."""
    x = torch.randn(2, 10, 12)
    block = small(replace(SMALL, dropout=1.0)).blocks[0].train()
    assert torch.equal(block(x), x)
    net = small(replace(SMALL, dropout=0.5)).train()
    assert (net.tokens(torch.randn(20, 2, 12, 12)) == 0).float().mean().item() == pytest.approx(0.5, abs=0.05)
    assert sum(isinstance(m, nn.Dropout) for m in net.modules()) == 1 + SMALL.depth


def test_the_whole_is_the_papers_equations():
    """Equations 1 to 4: class token first, then the patches row by row, positions added to all, the norm at the end, and
    the class token's state classified."""
    net = small().eval()
    x = torch.randn(1, 2, 12, 12)
    tokens = [net.class_token[0, 0]]
    for row in range(3):
        for column in range(3):
            patch = x[0, :, 4 * row : 4 * row + 4, 4 * column : 4 * column + 4]
            tokens.append((net.patch_embed.weight * patch).sum((1, 2, 3)) + net.patch_embed.bias)
    z = torch.stack(tokens) + net.position_embedding[0]
    torch.testing.assert_close(net.tokens(x)[0], z)
    for block in net.blocks:
        z = block(z[None])[0]
    z = F.layer_norm(z[0], (12,), net.norm.weight, net.norm.bias, 1e-6)
    torch.testing.assert_close(net(x)[0], net.head.weight @ z + net.head.bias)


def test_attention_maps():
    net = small().eval()
    x = torch.randn(3, 2, 12, 12)
    maps = net.attention_maps(x)
    assert [m.shape for m in maps] == [(3, 3, 10, 10)] * 2
    for m in maps:
        torch.testing.assert_close(m.sum(-1), torch.ones(3, 3, 10))
    z = net.tokens(x)
    for block, weights in zip(net.blocks, maps, strict=True):  # the maps are what the fused attention has used
        attention, y = block.attention, block.norm1(z)
        v = attention.heads(y)[2]
        torch.testing.assert_close(attention.out((weights @ v).transpose(1, 2).flatten(2)), attention(y))
        z = block(z)
    assert not torch.allclose(maps[0], maps[1])


# ---- another image size -----------------------------------------------------------------------------------------------


def test_resize_positions():
    torch.manual_seed(0)
    embedding = torch.randn(1, 1 + 9, 5)
    assert vit.resize_positions(embedding, 3, 3) is embedding
    for mode in ("bicubic", "bilinear"):
        larger = vit.resize_positions(embedding, 3, 5, mode)
        assert larger.shape == (1, 26, 5) and torch.equal(larger[:, 0], embedding[:, 0])
        old, new = embedding[0, 1:].reshape(3, 3, 5), larger[0, 1:].reshape(5, 5, 5)
        torch.testing.assert_close(new[::2, ::2], old)  # aligned corners: every second point is an old one
    torch.testing.assert_close(new[1::2, ::2], (old[:-1] + old[1:]) / 2)  # linear: halfway between two
    rising = torch.cat((torch.zeros(1), torch.arange(16.0)))[None, :, None]  # rows differ by 4, columns by 1
    back = vit.resize_positions(rising, 4, 2, "bilinear", align_corners=False)
    torch.testing.assert_close(back[0, 1:, 0], torch.tensor([2.5, 4.5, 10.5, 12.5]))
    with pytest.raises(ValueError, match=r"a grid of 4x4 has \(1, 17, D\) positions"):
        vit.resize_positions(embedding, 4, 2)


def test_weights_move_to_another_image_size():
    net = small().eval()
    config = replace(SMALL, img_size=20)
    larger = small(config).eval()
    state = net.state_dict()
    state["position_embedding"] = vit.resize_positions(state["position_embedding"], SMALL.grid, config.grid)
    larger.load_state_dict(state)
    assert larger(torch.randn(1, 2, 20, 20)).isfinite().all()
    with pytest.raises(ValueError, match="built for images of 20x20, not 12x12"):
        larger(torch.randn(1, 2, 12, 12))


def test_refusals():
    for changes, words in (
        ({"img_size": 225}, "img_size 225 is not a multiple of the patch size 16"),
        ({"img_size": 8}, "img_size 8 is not a multiple"),
        ({"n_heads": 5}, "width 768 is not divisible by 5 heads"),
    ):
        with pytest.raises(ValueError, match=words), torch.device("meta"):
            vit.Net(replace(vit.VARIANTS["vit_b_16"], **changes))


def test_init_weights_covers_everything():
    config = replace(SMALL, width=96, mlp=384, representation=8)
    states = []
    for filling in (math.nan, 3.0):
        net = vit.Net(config)
        for parameter in net.parameters():
            nn.init.constant_(parameter, filling)
        torch.manual_seed(1)
        net.init_weights()
        states.append(net.state_dict())
    assert all(torch.equal(states[0][k], states[1][k]) and states[0][k].isfinite().all() for k in states[0])
    state = states[0]
    assert not state["head.weight"].any() and not state["class_token"].any()  # section 3.2
    assert state["position_embedding"].std().item() == pytest.approx(0.02, rel=0.1)
    bound = math.sqrt(6 / (96 + 96))  # Glorot's rule for each of the three matrices, not for their stack
    assert state["blocks.0.attention.qkv.weight"].abs().max().item() == pytest.approx(bound, rel=0.01)
