"""The Transformer: counts to the unit, the paper's formulas, masks and the cache."""

import itertools
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
from lamina.zoo import transformer

LEDGER = json.loads(Path(__file__).with_name("counts_transformers.json").read_text())
REFERENCE = {name: LEDGER["networks"][name] for name in ("transformer_base", "transformer_big")}
OTHERS = [(name, key) for name in REFERENCE for key in REFERENCE[name]["other_configurations"]]
SMALL = transformer.Config(2, 2, d_model=16, d_ff=24, n_heads=4, vocabulary=11, dropout=0.0, max_length=20)
FORMS = {
    "paper": SMALL,
    "pre": replace(SMALL, norm="pre", positions="opennmt"),
    "marian": replace(SMALL, attention_bias=True, output_bias=True, activation="silu", positions="halves"),
    "untied": replace(SMALL, tie=False, target_vocabulary=7, output_bias=True, encoder_layers=1, decoder_layers=3),
}


@pytest.fixture(autouse=True, scope="module")
def one_thread():
    """Networks this small only wait for further threads."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


def small(form: str = "paper", **changes: object) -> transformer.Net:
    """A network made as the registry makes it, its biases and norms no longer trivial."""
    with torch.device("meta"):
        net = transformer.Net(replace(FORMS[form], **changes))
    net.to_empty(device="cpu")
    torch.manual_seed(0)
    net.init_weights()
    for name, parameter in net.named_parameters():
        if parameter.dim() == 1:
            nn.init.normal_(parameter, mean=float("norm.weight" in name), std=0.3)
    return net


def traced(config: transformer.Config) -> Workload:
    """One pass over a source and a target of 128 tokens."""
    with torch.device("meta"):
        net = transformer.Net(config).eval()
        return trace(net, torch.empty(1, 128, dtype=torch.long), torch.empty(1, 128, dtype=torch.long))


def counts(work: Workload) -> dict[str, int]:
    total = work.total()
    linear = [layer for layer in work.layers if layer.kind == "linear"]
    weights = {w.names: math.prod(w.shape) for layer in linear for w in layer.weights if w.part == "weight"}
    return {
        "parameters": total.parameters,
        "weights": total.weights,
        "biases": total.biases,
        "norm": total.norm,
        "conv_weights": 0,
        "fc_weights": sum(n for names, n in weights.items() if "embedding.weight" not in names),
        "conv_macs": sum(layer.macs for layer in work.layers if layer.kind == "conv"),
        "fc_macs": sum(layer.macs for layer in linear),
        "attention_macs": sum(layer.macs for layer in work.layers if layer.kind == "matmul"),
        "macs": total.macs,
        "conv_layers": sum(layer.kind == "conv" for layer in work.layers),
        "fc_layers": len(linear),
    }


# ---- counts -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", REFERENCE)
def test_counts(name):
    work = traced(transformer.VARIANTS[name])
    assert counts(work) == REFERENCE[name]["counts"]
    assert work.coverage.unknown == ()


@pytest.mark.parametrize(("name", "key"), OTHERS)
def test_other_configurations(name, key):
    vocabulary, bias = {
        "tied_V37000_no_attention_bias": (37000, False),
        "tied_V37000_attention_bias": (37000, True),
        "tied_V32768_attention_bias": (32768, True),
    }[key]
    config = replace(transformer.VARIANTS[name], vocabulary=vocabulary, attention_bias=bias)
    assert counts(traced(config)) == REFERENCE[name]["other_configurations"][key]
    body = REFERENCE[name]["non_embedding_params"]["attention_bias" if bias else "no_attention_bias"]
    with torch.device("meta"):
        assert sum(p.numel() for k, p in transformer.Net(config).named_parameters() if "embedding" not in k) == body


def test_marian_count():
    with torch.device("meta"):
        net = transformer.Net(transformer.MARIAN)
    expected = LEDGER["marian"]["opus_mt_en_de"]
    assert transformer.MARIAN.vocabulary == expected["vocabulary"]
    assert sum(p.numel() for k, p in net.named_parameters() if k != "output_bias") == expected["parameters"]


def test_transformer_de_en_count():
    # ours: 3 + 3 layers, d_model 192, d_ff 768, a vocabulary of 4,000, norms before the sub-layers and behind each stack
    d, d_ff, length = 192, 768, 128
    attention, feed_forward = 4 * d * d, 2 * d * d_ff
    work = counts(traced(transformer.VARIANTS["transformer_de_en"]))
    assert work["norm"] == (3 * 2 + 3 * 3 + 2) * 2 * d
    assert work["biases"] == 6 * (d_ff + d)
    assert work["weights"] == 4000 * d + 3 * (attention + feed_forward) + 3 * (2 * attention + feed_forward)
    assert work["attention_macs"] == (3 + 3 + 3) * 2 * length * length * d
    assert work["fc_macs"] == length * (3 * (attention + feed_forward) + 3 * (2 * attention + feed_forward) + 4000 * d)


def test_masks_are_traced():
    with torch.device("meta"):
        net = transformer.Net(SMALL).eval()
        ids, mask = torch.empty(2, 5, dtype=torch.long), torch.empty(2, 5, dtype=torch.bool)
        work = trace(net, ids, ids, mask, mask)
        assert work.coverage.unknown == () and work.total().macs == trace(net, ids, ids).total().macs


# ---- the paper's formulas ---------------------------------------------------------------------------------------------


def test_positions():
    """Vaswani et al. 2017, section 3.5, number by number; and the two other forms."""
    table = transformer.positions(7, 6)
    halves = transformer.positions(7, 6, "halves")
    opennmt = transformer.positions(7, 6, "opennmt")
    for p, i in itertools.product(range(7), range(3)):
        angle, other = p / 10000 ** (2 * i / 6), (p + 1) / 10000 ** (i / 2)
        assert table[p, 2 * i : 2 * i + 2].tolist() == pytest.approx([math.sin(angle), math.cos(angle)], abs=1e-6)
        assert halves[p, [i, 3 + i]].tolist() == pytest.approx([math.sin(angle), math.cos(angle)], abs=1e-6)
        assert opennmt[p, [i, 3 + i]].tolist() == pytest.approx([math.sin(other), math.cos(other)], abs=1e-6)
    for form in ("interleaved", "halves", "opennmt"):
        torch.testing.assert_close(transformer.positions(3, 6, form, start=4), transformer.positions(7, 6, form)[4:])


def theirs_from(layer: transformer.EncoderLayer | transformer.DecoderLayer, target: nn.Module) -> None:
    """Copy the weights of one of our layers into torch's."""
    attentions = [("self_attn", layer.self_attention)]
    norms = [layer.self_norm, layer.ff_norm]
    if isinstance(layer, transformer.DecoderLayer):
        attentions.append(("multihead_attn", layer.cross_attention))
        norms.insert(1, layer.cross_norm)
    state = {}
    for name, attention in attentions:
        parts = (attention.query, attention.key, attention.value)
        state[f"{name}.in_proj_weight"] = torch.cat([p.weight for p in parts])
        state[f"{name}.in_proj_bias"] = torch.cat([p.bias for p in parts])
        state |= {f"{name}.out_proj.{k}": v for k, v in attention.out.state_dict().items()}
    for name, module in (("linear1", layer.fc1), ("linear2", layer.fc2), *((f"norm{i}", n) for i, n in enumerate(norms, 1))):
        state |= {f"{name}.{k}": v for k, v in module.state_dict().items()}
    target.load_state_dict(state)


@pytest.mark.parametrize("norm", ["post", "pre"])
@pytest.mark.parametrize("activation", ["relu", "silu"])
def test_layers_are_torchs(norm, activation):
    """The same weights in torch's own encoder and decoder layers give the same numbers, paddings included."""
    net = small("marian", norm=norm, activation=activation)
    options = {"dropout": 0.0, "activation": getattr(F, activation), "batch_first": True, "norm_first": norm == "pre"}
    encoder, decoder = (kind(16, 4, 24, **options) for kind in (nn.TransformerEncoderLayer, nn.TransformerDecoderLayer))
    theirs_from(net.encoder[1], encoder)
    theirs_from(net.decoder[1], decoder)
    x, y = torch.randn(2, 5, 16), torch.randn(2, 4, 16)
    padding = torch.tensor([[False] * 5, [False] * 3 + [True] * 2])
    mask = ~padding[:, None, None, :]
    torch.testing.assert_close(net.encoder[1](x, mask), encoder(x, src_key_padding_mask=padding))
    torch.testing.assert_close(
        net.decoder[1](y, x, None, True, mask, None),
        decoder(y, x, tgt_mask=torch.ones(4, 4).triu(1).bool(), memory_key_padding_mask=padding),
    )


def test_the_whole_is_the_papers_figure():
    """Figure 1: scaled embeddings and positions, the two stacks, and the embedding once more as the output."""
    net = small().eval()
    source, target = torch.tensor([[3, 1, 4, 1, 5]]), torch.tensor([[2, 7, 1]])
    x = net.embedding.weight[source] * 4 + transformer.positions(5, 16)
    y = net.embedding.weight[target] * 4 + transformer.positions(3, 16)
    for layer in net.encoder:
        x = layer(x, None)
    for layer in net.decoder:
        y = layer(y, x, None, True, None, None)
    torch.testing.assert_close(net(source, target), y @ net.embedding.weight.T)


# ---- it computes ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("form", FORMS)
def test_forward_and_backward(form):
    net = small(form).train()
    source, target = torch.randint(11, (3, 6)), torch.randint(7, (3, 5))
    source_padding, target_padding = (
        torch.arange(6) >= torch.tensor([[6], [4], [1]]),
        torch.arange(5) >= torch.tensor([[5], [2], [3]]),
    )
    y = net(source, target, source_padding, target_padding)
    assert y.shape == (3, 5, 7 if form == "untied" else 11) and y.isfinite().all()
    F.cross_entropy(y.flatten(0, 1), target.flatten()).backward()
    for name, parameter in net.named_parameters():
        assert parameter.grad is not None and parameter.grad.isfinite().all(), name
        if not name.endswith("key.bias"):  # adds the same to every score of a row: softmax does not see it
            assert parameter.grad.abs().sum() > 0, name


@pytest.mark.parametrize("form", ["paper", "marian"])
def test_export(form):
    net = small(form).eval()
    source, target = torch.randint(11, (2, 6)), torch.randint(11, (2, 5))
    padding = torch.arange(6) >= torch.tensor([[6], [4]])
    program = torch.export.export(net, (source, target, padding))
    torch.testing.assert_close(program.module()(source, target, padding), net(source, target, padding))


def test_dropout_stands_where_the_paper_says():
    """Section 5.4: on each sub-layer's output and on the sums of embeddings and positions."""
    net = small(dropout=0.9).train()
    zeros = (net.embed(net.embedding, torch.randint(11, (8, 20)), 0) == 0).float().mean().item()
    assert zeros == pytest.approx(0.9, abs=0.03)
    x = torch.randn(2, 5, 16)
    for norm in ("post", "pre"):  # with every sub-layer dropped, the residual path is left
        net = small(norm=norm, dropout=1.0).train()
        encoder, decoder = net.encoder[0], net.decoder[0]
        left = encoder.ff_norm(encoder.self_norm(x)) if norm == "post" else x
        torch.testing.assert_close(encoder(x, None), left)
        left = decoder.ff_norm(decoder.cross_norm(decoder.self_norm(x))) if norm == "post" else x
        torch.testing.assert_close(decoder(x, x, None, True, None, None), left)
    assert transformer.VARIANTS["transformer_base"].dropout == 0.1 and transformer.VARIANTS["transformer_big"].dropout == 0.3


@pytest.mark.parametrize("form", FORMS)
def test_no_token_sees_padding_or_the_future(form):
    net = small(form).eval()
    source, target = torch.randint(11, (1, 6)), torch.randint(7, (1, 5))
    padding = torch.arange(6)[None] >= 4
    expected = net(source[:, :4], target)
    torch.testing.assert_close(net(source, target, padding), expected)
    assert not torch.allclose(net(source, target), expected)
    later = target.clone()
    later[0, 3:] = (later[0, 3:] + 1) % 7
    torch.testing.assert_close(net(source, later, padding)[:, :3], expected[:, :3])
    torch.testing.assert_close(net(source, later, padding, torch.arange(5)[None] >= 3)[:, :3], expected[:, :3])
    behind = net(source, target, padding, torch.arange(5)[None] == 1)  # a hole in the target is not looked at
    assert not torch.allclose(behind[:, 2:], expected[:, 2:])


def test_init_weights_covers_everything():
    for form in FORMS:
        states = []
        for filling in (math.nan, 3.0):
            net = transformer.Net(FORMS[form])
            for parameter in net.parameters():
                nn.init.constant_(parameter, filling)
            torch.manual_seed(1)
            net.init_weights()
            states.append(net.state_dict())
        assert all(torch.equal(states[0][k], states[1][k]) and states[0][k].isfinite().all() for k in states[0]), form
    with torch.device("meta"):
        assert not list(transformer.Net(SMALL).buffers())
    net = small("untied", d_model=64, vocabulary=500)
    assert net.embedding.weight.std().item() == pytest.approx(1 / 8, rel=0.05)


def test_refusals():
    for changes, words in (
        ({"n_heads": 7}, "d_model 512 is not divisible by 7 heads"),
        ({"d_model": 9, "n_heads": 3}, "d_model 9 is odd"),
        ({"target_vocabulary": 5}, "one matrix cannot serve vocabularies of 37000 and 5"),
        ({"norm": "none"}, "norm is one of post, pre, not 'none'"),
        ({"activation": "gelu"}, "activation is one of relu, silu"),
        ({"positions": "learnt"}, "positions is one of interleaved, halves, opennmt"),
    ):
        with pytest.raises(ValueError, match=words), torch.device("meta"):
            transformer.Net(replace(transformer.Config(), **changes))
    net = small().eval()
    with pytest.raises(ValueError, match="the sequence has 21 tokens, more than max_length 20"):
        net(torch.zeros(1, 21, dtype=torch.long), torch.zeros(1, 2, dtype=torch.long))
    cache, memory = transformer.Cache(), net.encode(torch.zeros(1, 3, dtype=torch.long))
    net.decode(torch.zeros(1, 20, dtype=torch.long), memory, cache=cache)
    with pytest.raises(ValueError, match="the sequence has 21 tokens"):
        net.decode(torch.zeros(1, 1, dtype=torch.long), memory, cache=cache)


# ---- the cache --------------------------------------------------------------------------------------------------------


@torch.no_grad()
@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("chunks", [(1, 1, 1, 1, 1, 1), (3, 1, 2), (1, 5), (6,)])
def test_cache_gives_what_the_full_pass_gives(form, chunks):
    net = small(form).eval()
    source, target = torch.randint(11, (3, 6)), torch.randint(7, (3, 6))
    padding = torch.arange(6) >= torch.tensor([[6], [4], [1]])
    target_padding = torch.arange(6) >= torch.tensor([[6], [6], [2]])
    memory = net.encode(source, padding)
    for mask in (None, target_padding):
        cache, parts, done = transformer.Cache(), [], 0
        for n in chunks:
            seen = None if mask is None else mask[:, : done + n]
            parts.append(net.decode(target[:, done : done + n], memory, padding, seen, cache))
            done += n
            assert cache.length == done
        expected = net(source, target, padding, mask)
        torch.testing.assert_close(torch.cat(parts, dim=1), expected, rtol=0, atol=1e-5)


@torch.no_grad()
def test_cache_is_reordered_by_rows():
    net = small().eval()
    source, target = torch.randint(11, (3, 6)), torch.randint(11, (3, 4))
    rows = torch.tensor([2, 0, 0])
    cache, memory = transformer.Cache(), net.encode(source)
    net.decode(target[:, :3], memory, cache=cache)
    after = net.decode(target[rows, 3:], memory[rows], cache=cache.select(rows))
    torch.testing.assert_close(after, net(source[rows], target[rows])[:, 3:], rtol=0, atol=1e-5)
    assert cache.length == 3 and len(cache.memory_keys) == 2  # the one selected from stays as it was
