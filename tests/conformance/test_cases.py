"""What other counters are known to get wrong, case by case. Each expected number is arithmetic, written out."""

import threading
import warnings

import pytest
import torch
from torch import nn
from torch.nn import functional as F
from torch.utils.checkpoint import checkpoint

import lamina
from lamina.cost import causal
from lamina.cost.experts import active_parameters
from lamina.tracing.tracer import trace
from lamina.workload import Workload


class Calls(nn.Module):
    """A module of one function."""

    def __init__(self, function):
        super().__init__()
        self.function = function

    def forward(self, *args, **kwargs):
        return self.function(*args, **kwargs)


def macs(function, *inputs, **kwargs) -> int:
    """The MACs of a call in which every operator is known."""
    work = trace(function if isinstance(function, nn.Module) else Calls(function), *inputs, **kwargs)
    assert work.coverage.unknown == ()
    return work.total().macs


def meta(*shape, dtype=torch.float32):
    return torch.empty(shape, dtype=dtype, device="meta")


# ---- attention ------------------------------------------------------------------------------------------------------


def test_scaled_dot_product_attention():
    q = torch.rand(1, 12, 64, 64)  # a real CPU tensor
    assert macs(F.scaled_dot_product_attention, q, q, q) == 2 * 12 * 64 * 64 * 64 == 6_291_456


class Block(nn.Module):
    """One encoder layer's arithmetic, with attention written by hand or as torch's function; the weights are those of
    `nn.TransformerEncoderLayer`."""

    def __init__(self, d: int, heads: int, inner: int, eager: bool):
        super().__init__()
        self.qkv, self.out = nn.Linear(d, 3 * d), nn.Linear(d, d)
        self.up, self.down = nn.Linear(d, inner), nn.Linear(inner, d)
        self.norm1, self.norm2 = nn.LayerNorm(d), nn.LayerNorm(d)
        self.heads, self.eager = heads, eager

    def forward(self, x):
        b, s, d = x.shape
        q, k, v = (y.view(b, s, self.heads, -1).transpose(1, 2) for y in self.qkv(x).chunk(3, -1))
        if self.eager:
            a = (q @ k.transpose(-2, -1) / (d // self.heads) ** 0.5).softmax(-1) @ v
        else:
            a = F.scaled_dot_product_attention(q, k, v)
        x = self.norm1(x + self.out(a.transpose(1, 2).reshape(b, s, d)))
        return self.norm2(x + self.down(F.relu(self.up(x))))


class Attention(nn.Module):
    """The same attention as `nn.MultiheadAttention`, then the same feed-forward."""

    def __init__(self, d: int, heads: int, inner: int, weights: bool):
        super().__init__()
        self.attention = nn.MultiheadAttention(d, heads, batch_first=True)
        self.up, self.down = nn.Linear(d, inner), nn.Linear(inner, d)
        self.norm1, self.norm2 = nn.LayerNorm(d), nn.LayerNorm(d)
        self.weights = weights

    def forward(self, x):
        x = self.norm1(x + self.attention(x, x, x, need_weights=self.weights)[0])
        return self.norm2(x + self.down(F.relu(self.up(x))))


def test_one_network_in_seven_spellings():
    b, s, d, heads, inner = 2, 10, 24, 4, 40
    rows = b * s
    # queries, keys and values; their two products; the output; the feed-forward
    right = rows * d * 3 * d + 2 * b * heads * s * s * (d // heads) + rows * d * d + 2 * rows * d * inner
    assert right == 94_080
    layer = nn.TransformerEncoderLayer(d, heads, inner, batch_first=True).eval()  # takes its fast path outside of a trace
    attention, first, second = layer.self_attn, layer.linear1, layer.linear2

    def fused(x):
        return torch._transformer_encoder_layer_fwd(
            x, d, heads, attention.in_proj_weight, attention.in_proj_bias, attention.out_proj.weight,
            attention.out_proj.bias, False, False, 1e-5, layer.norm1.weight, layer.norm1.bias, layer.norm2.weight,
            layer.norm2.bias, first.weight, first.bias, second.weight, second.bias,
        )  # fmt: skip

    spellings = [
        Block(d, heads, inner, eager=True).eval(),
        Block(d, heads, inner, eager=False).eval(),
        Attention(d, heads, inner, weights=True).eval(),
        Attention(d, heads, inner, weights=False).eval(),
        Attention(d, heads, inner, weights=False).train(),
        layer,
        nn.TransformerEncoder(layer, 1, enable_nested_tensor=False).eval(),
        Calls(fused),
    ]
    x = torch.rand(b, s, d)
    with torch.no_grad():
        assert torch.allclose(layer(x), fused(x), atol=1e-5)  # the fast path is this kernel
        assert [macs(module, x) for module in spellings] == [right] * 8


def test_the_native_attention_kernel():
    b, s, d, heads = 2, 7, 16, 4
    m = nn.MultiheadAttention(d, heads, batch_first=True).eval()

    def native(x):
        return torch._native_multi_head_attention(
            x, x, x, d, heads, m.in_proj_weight, m.in_proj_bias, m.out_proj.weight, m.out_proj.bias
        )

    x = torch.rand(b, s, d)
    right = b * s * d * 3 * d + 2 * b * heads * s * s * (d // heads) + b * s * d * d
    work = trace(Calls(native), x)
    assert work.total().macs == right == macs(m, x, x, x)
    with torch.no_grad():
        assert [t.shape for t in work.layers[0].outputs] == [tuple(t.shape) for t in native(x)]


def test_attention_to_other_keys_and_values():
    m = nn.MultiheadAttention(16, 4, kdim=12, vdim=20, batch_first=True, add_bias_kv=True)
    b, s, k = 2, 5, 9
    right = b * (s * 16 * 16 + k * 12 * 16 + k * 20 * 16 + 2 * s * (k + 1) * 16 + s * 16 * 16)  # one more key: the bias
    assert macs(m, torch.rand(b, s, 16), torch.rand(b, k, 12), torch.rand(b, k, 20)) == right


def test_grouped_queries():
    q, kv = meta(1, 32, 16, 64), meta(1, 8, 16, 64)
    assert macs(F.scaled_dot_product_attention, q, kv, kv, enable_gqa=True) == 2 * 32 * 16 * 16 * 64

    def repeated(q, k, v):
        return F.scaled_dot_product_attention(q, k.repeat_interleave(4, 1), v.repeat_interleave(4, 1))

    assert macs(repeated, q, kv, kv) == 2 * 32 * 16 * 16 * 64
    with pytest.raises(lamina.errors.InputError, match="do not"):
        trace(Calls(F.scaled_dot_product_attention), q, kv, kv)  # torch itself wants enable_gqa


def test_causal_attention_is_dense_and_exact_on_request():
    h, e = 4, 8

    def attend(q, k, v):
        return F.scaled_dot_product_attention(q, k, v, is_causal=True)

    for length, span in ((6, 6), (6, 9), (9, 6)):
        q, k, v = meta(1, h, length, e), meta(1, h, span, e), meta(1, h, span, e + 2)
        work = trace(Calls(attend), q, k, v)
        assert work.layers[0].attributes["causal"] is True
        assert work.attention == "dense"
        assert work.total().macs == h * length * span * (e + e + 2)
        exact = causal.exact(work)
        pairs = int(torch.ones(length, span).tril().sum())  # top left: what torch's is_causal means
        assert exact.attention == "causal"
        assert exact.total().macs == h * pairs * (e + e + 2)
        assert work.attention == "dense"  # a new record
        assert Workload.from_json(exact.to_json()) == exact
    q = meta(1, h, 6, e)
    assert causal.exact(trace(Calls(attend), q, q, q)).total().macs == 2 * h * e * 6 * 7 // 2
    plain = trace(Calls(F.scaled_dot_product_attention), q, q, q)
    assert causal.exact(plain).total() == plain.total()


def test_causal_attention_with_a_cache_lies_bottom_right():
    from torch.nn.attention.bias import causal_lower_right

    def attend(q, k, v):
        return F.scaled_dot_product_attention(q, k, v, attn_mask=causal_lower_right(3, 10))

    work = trace(Calls(attend), meta(1, 2, 3, 4), meta(1, 2, 10, 4), meta(1, 2, 10, 4))
    assert causal.exact(work).total().macs == 2 * 2 * 4 * (8 + 9 + 10)  # three new queries see all before them


@pytest.mark.parametrize("length", [1, 2, 5, 8])
@pytest.mark.parametrize("span", [1, 3, 5, 9])
def test_causal_pairs_by_counting(length, span):
    ones = torch.ones(length, span)
    assert causal.pairs(length, span) == int(ones.tril().sum())
    assert causal.pairs(length, span, bottom_right=True) == int(ones.tril(span - length).sum())


# ---- convolutions ---------------------------------------------------------------------------------------------------


def test_transposed_convolutions():
    # input pixels x C x M/G x R x S
    x = meta(2, 8, 5, 7)
    assert macs(nn.ConvTranspose2d(8, 6, 3, stride=2, output_padding=1, device="meta"), x) == 2 * 5 * 7 * 8 * 6 * 9
    assert macs(nn.ConvTranspose2d(8, 6, (2, 3), stride=3, groups=2, device="meta"), x) == 2 * 5 * 7 * 8 * 3 * 6
    assert macs(nn.ConvTranspose2d(8, 8, 4, stride=2, padding=1, groups=8, device="meta"), x) == 2 * 5 * 7 * 8 * 1 * 16
    assert macs(nn.ConvTranspose1d(8, 6, 5, stride=4, groups=2, device="meta"), meta(2, 8, 9)) == 2 * 9 * 8 * 3 * 5
    assert macs(nn.ConvTranspose3d(4, 2, 3, stride=2, dilation=2, device="meta"), meta(1, 4, 3, 4, 5)) == 60 * 4 * 2 * 27


def test_depthwise_and_grouped_convolutions():
    x = meta(2, 8, 5, 7)
    assert macs(nn.Conv2d(8, 8, 3, padding=1, groups=8, device="meta"), x) == 2 * 8 * 5 * 7 * 9
    assert macs(nn.Conv2d(8, 16, 3, stride=2, padding=1, groups=4, device="meta"), x) == 2 * 16 * 3 * 4 * 2 * 9
    assert macs(nn.Conv1d(8, 4, 3, padding="same", device="meta"), meta(2, 8, 9)) == 2 * 4 * 9 * 8 * 3
    assert macs(nn.Conv3d(4, 2, 3, device="meta"), meta(4, 5, 5, 5)) == 27 * 2 * 4 * 27  # no batch axis


# ---- recurrent networks ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize("batch_first", [False, True])
@pytest.mark.parametrize("directions", [1, 2])
def test_recurrent_networks(directions, batch_first):
    steps, batch, c, h, p = 5, 3, 8, 16, 6
    x = torch.rand((batch, steps, c) if batch_first else (steps, batch, c))
    both = {"bidirectional": directions == 2, "batch_first": batch_first}
    each = steps * batch * directions
    for kind, gates in ((nn.RNN, 1), (nn.GRU, 3), (nn.LSTM, 4)):
        # first layer, then one that takes both directions' states
        right = each * gates * h * (c + h) + each * gates * h * (directions * h + h)
        assert macs(kind(c, h, 2, **both), x) == right
    right = each * (4 * h * (c + p) + p * h) + each * (4 * h * (directions * p + p) + p * h)
    work = trace(nn.LSTM(c, h, 2, proj_size=p, **both), x)
    assert work.total().macs == right
    (layer,) = [layer for layer in work.layers if layer.loops]
    assert {nest.times for nest in layer.loops} == {1, steps - 1, steps}  # the first step is apart: its state is given
    assert (layer.outputs[0].shape[-1], layer.kind) == (directions * p, "linear")
    assert work.total().parameters == sum(w.numel() for w in nn.LSTM(c, h, 2, proj_size=p, **both).parameters())


def test_recurrent_cells():
    x, h = meta(3, 8), meta(3, 16)
    assert macs(nn.LSTMCell(8, 16, device="meta"), x, (h, h)) == 3 * 4 * 16 * (8 + 16)
    assert macs(nn.GRUCell(8, 16, device="meta"), x, h) == 3 * 3 * 16 * (8 + 16)
    assert macs(nn.RNNCell(8, 16, device="meta"), x, h) == 3 * 16 * (8 + 16)


def test_packed_sequences_cost_their_own_lengths():
    class Packed(nn.Module):
        def __init__(self):
            super().__init__()
            self.lstm = nn.LSTM(8, 16, bidirectional=True)

        def forward(self, x, lengths):
            packed = nn.utils.rnn.pack_padded_sequence(x, lengths)
            out, _ = self.lstm(packed)
            return nn.utils.rnn.pad_packed_sequence(out)[0]

    work = trace(Packed(), torch.rand(5, 3, 8), torch.tensor([5, 3, 2]))
    assert work.total().macs == 2 * (5 + 3 + 2) * 4 * 16 * (8 + 16)
    assert work.coverage.unknown == ()


# ---- products outside of modules ------------------------------------------------------------------------------------


def test_products_as_people_write_them():
    a, b, w = meta(2, 3, 4, 5), meta(2, 3, 5, 6), meta(7, 5)
    product = 2 * 3 * 4 * 5 * 6
    assert macs(lambda a, b: a @ b, a, b) == product
    assert macs(torch.matmul, a, b) == product
    assert macs(lambda a, b: torch.einsum("bhij,bhjk->bhik", a, b), a, b) == product
    assert macs(torch.bmm, a[0], b[0]) == product // 2
    assert macs(torch.baddbmm, meta(3, 4, 6), a[0], b[0]) == product // 2
    assert macs(torch.mm, a[0, 0], b[0, 0]) == 4 * 5 * 6
    assert macs(torch.addmm, meta(6), a[0, 0], b[0, 0]) == 4 * 5 * 6
    assert macs(torch.addbmm, meta(4, 6), a[0], b[0]) == 3 * 4 * 5 * 6
    assert macs(F.linear, a, w) == 2 * 3 * 4 * 5 * 7
    assert macs(torch.mv, w, meta(5)) == 7 * 5
    assert macs(torch.dot, meta(5), meta(5)) == 5
    assert macs(lambda a: torch.tensordot(a, w, dims=([3], [1])), a) == 2 * 3 * 4 * 5 * 7
    assert macs(lambda a: torch.einsum("bhij,kj->bhik", a, w), a) == 2 * 3 * 4 * 5 * 7
    assert macs(lambda a: a[0, 0] @ a[0, 0].T, a) == 4 * 4 * 5
    assert macs(nn.Bilinear(5, 6, 7, device="meta"), meta(3, 5), meta(3, 6)) == 3 * 7 * 5 * 6 + 3 * 7 * 5
    assert macs(lambda a, b: torch.linalg.multi_dot([a, b]), w, meta(5, 2)) == 7 * 5 * 2


def test_a_complex_product_is_four_real_ones():
    a = meta(3, 4, dtype=torch.complex64)
    assert macs(lambda a: a @ a.mT, a) == 4 * 3 * 3 * 4


def test_one_linear_called_four_times():
    class Four(nn.Module):
        def __init__(self):
            super().__init__()
            self.linear = nn.Linear(6, 6)

        def forward(self, x):
            for _ in range(4):
                x = self.linear(x)
            return x

    total = trace(Four(), meta(5, 6)).total()
    assert (total.parameters, total.macs) == (6 * 6 + 6, 4 * 5 * 6 * 6)


def test_tied_weights_are_one():
    class Tied(nn.Module):
        def __init__(self):
            super().__init__()
            self.embed, self.head = nn.Embedding(50, 8), nn.Linear(8, 50, bias=False)
            self.head.weight = self.embed.weight

        def forward(self, ids):
            return self.head(self.embed(ids))

    work = trace(Tied(), torch.zeros(2, 3, dtype=torch.long))
    assert work.weights[0].names == ("embed.weight", "head.weight")
    assert (work.total().parameters, work.total().macs) == (50 * 8, 2 * 3 * 8 * 50)


def test_an_embedding_gathers_rows():
    (layer,) = trace(nn.Embedding(1000, 16), torch.zeros(2, 7, dtype=torch.long)).layers
    assert (layer.kind, layer.macs, layer.bytes_written) == ("embedding", 0, 2 * 7 * 16 * 4)
    assert layer.bytes_read == 2 * 7 * 8 + 2 * 7 * 16 * 4  # the ids and the rows, not the table


def test_swin_t():
    """Shifted windows by formula: 4.49 GMACs at 224 pixels, as published."""
    work = trace(SwinT().eval(), meta(1, 3, 224, 224))
    right = 56 * 56 * 96 * 3 * 16  # patches of 4 x 4
    for depth, d, side in ((2, 96, 56), (2, 192, 28), (6, 384, 14), (2, 768, 7)):
        tokens = side * side
        linear = tokens * (3 * d * d + d * d + 2 * 4 * d * d)  # queries, keys, values; output; feed-forward
        right += depth * (linear + 2 * tokens * 49 * d)  # each token meets the 49 of its window, twice
        if d > 96:
            right += tokens * (2 * d) * d  # merging: four tokens of d/2 become one of d
    right += 768 * 1000
    assert work.total().macs == right
    assert round(right / 1e9, 2) == 4.49
    assert work.total().parameters == 28_288_354
    assert work.coverage.unknown == ()


class Window(nn.Module):
    """Swin's attention in 7x7 windows, shifted in every other block."""

    def __init__(self, d: int, heads: int, shift: int):
        super().__init__()
        self.heads, self.shift = heads, shift
        self.norm1, self.norm2 = nn.LayerNorm(d), nn.LayerNorm(d)
        self.qkv, self.out = nn.Linear(d, 3 * d), nn.Linear(d, d)
        self.up, self.down = nn.Linear(d, 4 * d), nn.Linear(4 * d, d)
        self.table = nn.Parameter(torch.zeros(13 * 13, heads))
        self.register_buffer("index", torch.zeros(49 * 49, dtype=torch.long))

    def forward(self, x):
        b, h, w, d = x.shape
        y = torch.roll(self.norm1(x), (-self.shift, -self.shift), (1, 2)) if self.shift else self.norm1(x)
        y = y.view(b, h // 7, 7, w // 7, 7, d).permute(0, 1, 3, 2, 4, 5).reshape(-1, 49, d)
        q, k, v = self.qkv(y).reshape(-1, 49, 3, self.heads, d // self.heads).permute(2, 0, 3, 1, 4)
        scores = q * (d // self.heads) ** -0.5 @ k.transpose(-2, -1)
        scores = scores + self.table[self.index].view(49, 49, -1).permute(2, 0, 1).unsqueeze(0)
        if self.shift:
            mask = x.new_zeros((h, w))
            for i, rows in enumerate((slice(0, -7), slice(-7, -self.shift), slice(-self.shift, None))):
                for j, columns in enumerate((slice(0, -7), slice(-7, -self.shift), slice(-self.shift, None))):
                    mask[rows, columns] = 3 * i + j
            mask = mask.view(h // 7, 7, w // 7, 7).permute(0, 2, 1, 3).reshape(-1, 49)
            mask = mask.unsqueeze(1) - mask.unsqueeze(2)
            mask = mask.masked_fill(mask != 0, -100.0)
            scores = scores.view(b, -1, self.heads, 49, 49) + mask.unsqueeze(1).unsqueeze(0)
            scores = scores.view(-1, self.heads, 49, 49)
        y = self.out((F.softmax(scores, dim=-1) @ v).transpose(1, 2).reshape(-1, 49, d))
        y = y.view(b, h // 7, w // 7, 7, 7, d).permute(0, 1, 3, 2, 4, 5).reshape(b, h, w, d)
        x = x + (torch.roll(y, (self.shift, self.shift), (1, 2)) if self.shift else y)
        return x + self.down(F.gelu(self.up(self.norm2(x))))


class SwinT(nn.Module):
    def __init__(self):
        super().__init__()
        with torch.device("meta"):
            self.patches, self.first = nn.Conv2d(3, 96, 4, 4), nn.LayerNorm(96)
            self.stages, self.merges = nn.ModuleList(), nn.ModuleList()
            for depth, d, heads in ((2, 96, 3), (2, 192, 6), (6, 384, 12), (2, 768, 24)):
                shifts = [3 * (i % 2) if d < 768 else 0 for i in range(depth)]  # the last stage is one window
                self.stages.append(nn.Sequential(*(Window(d, heads, shift) for shift in shifts)))
                if d < 768:
                    self.merges.append(nn.Sequential(nn.LayerNorm(4 * d), nn.Linear(4 * d, 2 * d, bias=False)))
            self.last, self.head = nn.LayerNorm(768), nn.Linear(768, 1000)

    def forward(self, x):
        x = self.first(self.patches(x).permute(0, 2, 3, 1))
        for i, stage in enumerate(self.stages):
            x = stage(x)
            if i < 3:
                parts = [x[:, 0::2, 0::2], x[:, 1::2, 0::2], x[:, 0::2, 1::2], x[:, 1::2, 1::2]]
                x = self.merges[i](torch.cat(parts, -1))
        return self.head(self.last(x).mean((1, 2)))


# ---- language models ------------------------------------------------------------------------------------------------


class Llama(nn.Module):
    """A Llama-like decoder: RoPE, RMS norm, grouped queries, gated feed-forward."""

    def __init__(self, depth: int, d: int, heads: int, groups: int, inner: int, vocabulary: int):
        super().__init__()
        self.embed = nn.Embedding(vocabulary, d)
        self.layers = nn.ModuleList(LlamaLayer(d, heads, groups, inner) for _ in range(depth))
        self.norm, self.head = nn.RMSNorm(d), nn.Linear(d, vocabulary, bias=False)

    def forward(self, ids):
        x = self.embed(ids)
        for layer in self.layers:
            x = layer(x)
        return self.head(self.norm(x))


class LlamaLayer(nn.Module):
    def __init__(self, d: int, heads: int, groups: int, inner: int):
        super().__init__()
        self.size = d // heads
        self.q, self.k = nn.Linear(d, d, bias=False), nn.Linear(d, groups * self.size, bias=False)
        self.v, self.o = nn.Linear(d, groups * self.size, bias=False), nn.Linear(d, d, bias=False)
        self.gate, self.up = nn.Linear(d, inner, bias=False), nn.Linear(d, inner, bias=False)
        self.down = nn.Linear(inner, d, bias=False)
        self.norm1, self.norm2 = nn.RMSNorm(d), nn.RMSNorm(d)

    def rotate(self, x):
        position = torch.arange(x.shape[2], device=x.device, dtype=torch.float32)
        frequency = 10000.0 ** (-torch.arange(0, self.size, 2, device=x.device, dtype=torch.float32) / self.size)
        angle = torch.outer(position, frequency).to(x.dtype)
        cos, sin = torch.cat((angle, angle), -1).cos(), torch.cat((angle, angle), -1).sin()
        a, b = x.chunk(2, -1)
        return x * cos + torch.cat((-b, a), -1) * sin

    def forward(self, x):
        b, s, d = x.shape
        y = self.norm1(x)
        q, k, v = (p(y).view(b, s, -1, self.size).transpose(1, 2) for p in (self.q, self.k, self.v))
        a = F.scaled_dot_product_attention(self.rotate(q), self.rotate(k), v, is_causal=True, enable_gqa=True)
        x = x + self.o(a.transpose(1, 2).reshape(b, s, d))
        y = self.norm2(x)
        return x + self.down(F.silu(self.gate(y)) * self.up(y))


def llama_macs(s, depth, d, heads, groups, inner, vocabulary):
    size = d // heads
    layer = s * (2 * d * d + 2 * d * groups * size + 3 * d * inner) + 2 * s * s * d
    return depth * layer + s * d * vocabulary


def test_a_longer_sequence_costs_more_than_in_proportion():
    shape = {"depth": 3, "d": 64, "heads": 8, "groups": 2, "inner": 96, "vocabulary": 100}
    with torch.device("meta"):
        model = Llama(**shape).eval()
    counts = [macs(model, torch.zeros(1, s, dtype=torch.long)) for s in (32, 64)]
    assert counts == [llama_macs(s, **shape) for s in (32, 64)]
    assert counts[1] - 2 * counts[0] == 3 * 2 * (64 * 64 - 2 * 32 * 32) * 64  # attention's share grows with the square
    exact = causal.exact(trace(model, torch.zeros(1, 32, dtype=torch.long)))
    assert counts[0] - exact.total().macs == 3 * 2 * (32 * 32 - 32 * 33 // 2) * 64


def test_seventy_billion_parameters():
    shape = {"depth": 80, "d": 8192, "heads": 64, "groups": 8, "inner": 28672, "vocabulary": 128256}
    with torch.device("meta"):
        model = Llama(**shape).eval().to(torch.bfloat16)
    work = trace(model, torch.zeros(1, 2048, dtype=torch.long))
    assert work.total().parameters == 70_553_706_496
    assert work.total().parameter_bytes == 2 * 70_553_706_496
    assert work.total().macs == llama_macs(2048, **shape)
    assert work.coverage.unknown == ()


class Experts(nn.Module):
    """A mixture of experts with one of three usual dispatches."""

    def __init__(self, d: int, inner: int, experts: int, k: int, how: str):
        super().__init__()
        self.k, self.experts, self.how = k, experts, how
        self.gate = nn.Linear(d, experts, bias=False)
        if how == "stacked":
            self.up, self.down = (nn.Parameter(torch.empty(experts, *shape)) for shape in ((d, inner), (inner, d)))
        else:
            make = (
                nn.Sequential(nn.Linear(d, inner, bias=False), nn.SiLU(), nn.Linear(inner, d, bias=False))
                for _ in range(experts)
            )
            self.mlps = nn.ModuleList(make)

    def forward(self, x):
        b, s, d = x.shape
        x = x.view(-1, d)
        weights, chosen = self.gate(x).softmax(-1).topk(self.k, -1)
        out = torch.zeros_like(x)
        if self.how == "stacked":
            order = chosen.flatten().argsort()
            ends = F.one_hot(chosen.flatten(), self.experts).sum(0).cumsum(0).to(torch.int32)
            y = torch._grouped_mm(x[order // self.k], self.up, offs=ends)
            y = torch._grouped_mm(F.silu(y), self.down, offs=ends) * weights.flatten()[order].unsqueeze(-1)
            out.index_add_(0, order // self.k, y)
        elif self.how == "where":
            mask = F.one_hot(chosen, self.experts).permute(2, 1, 0)
            for number in (mask.sum((-1, -2)) > 0).nonzero():
                place, token = torch.where(mask[number].squeeze(0))
                y = self.mlps[number](x[token]) * weights[token, place, None]
                out.index_add_(0, token, y.to(x.dtype))
        else:  # every expert sees every token
            for number, expert in enumerate(self.mlps):
                share = (weights * (chosen == number)).sum(-1, keepdim=True)
                out = out + share * expert(x)
        return out.view(b, s, d)


@pytest.mark.parametrize("how", ["where", "stacked", "dense"])
def test_mixture_of_experts(how):
    b, s, d, inner, experts, k = 2, 12, 16, 32, 8, 2
    dtype = torch.bfloat16
    with torch.device("meta"):
        model = Experts(d, inner, experts, k, how).to(dtype)
    work = trace(model, meta(b, s, d, dtype=dtype))
    one = 2 * d * inner  # an expert's parameters, and its MACs for a token
    used = experts if how == "dense" else k
    assert work.total().macs == b * s * (d * experts + used * one)
    assert work.total().parameters == d * experts + experts * one
    assert active_parameters(work) == d * experts + k * one
    assert work.coverage.unknown == ()
    assert bool(work.assumptions) == (how == "where")  # only there do values decide the way
    assert work.parameters_unused == 0


def test_only_the_chosen_experts_of_one_token_are_used():
    with torch.device("meta"):
        model = Experts(16, 32, 8, 2, "where")
    work = trace(model, meta(1, 1, 16))
    assert work.parameters_unused == 6 * 2 * 16 * 32
    assert active_parameters(work) == work.total().parameters - work.parameters_unused


# ---- ways of running ------------------------------------------------------------------------------------------------


def network() -> nn.Module:
    torch.manual_seed(0)
    return nn.Sequential(
        nn.Conv2d(3, 8, 3), nn.BatchNorm2d(8), nn.ReLU(), nn.Flatten(), nn.Linear(8 * 36, 10), nn.Dropout(), nn.Linear(10, 5)
    )


RIGHT = 2 * (8 * 36 * 27 + 8 * 36 * 10 + 10 * 5)


def test_inference_mode():
    x = torch.rand(2, 3, 8, 8)
    with torch.inference_mode():
        assert macs(network().eval(), x) == RIGHT
    assert macs(network().eval(), x) == RIGHT


def test_activation_checkpoints():
    class Checkpointed(nn.Module):
        def __init__(self, reentrant: bool):
            super().__init__()
            self.body, self.reentrant = network(), reentrant

        def forward(self, x):
            return checkpoint(self.body, x, use_reentrant=self.reentrant)

    x = torch.rand(2, 3, 8, 8)
    for reentrant in (False, True):
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # torch warns that no input asks for a gradient
            work = trace(Checkpointed(reentrant), x)
        assert work.total().macs == RIGHT
        assert [layer.name for layer in work.layers if layer.macs] == ["body.0", "body.4", "body.6"]


@pytest.mark.filterwarnings("ignore")
def test_compiled_modules():
    x, plain = torch.rand(2, 3, 8, 8), network()
    names = [layer.name for layer in trace(plain, x).layers]
    compiled = trace(torch.compile(network()), x)
    assert (compiled.total().macs, [layer.name for layer in compiled.layers]) == (RIGHT, names)
    inside = network()
    inside[4] = torch.compile(inside[4])  # one layer only
    work = trace(inside, x)
    assert (work.total().macs, [layer.name for layer in work.layers]) == (RIGHT, names)
    assert [w.names for w in work.weights] == [w.names for w in compiled.weights]
    inside[0].compile()  # in place
    assert trace(inside, x).total().macs == RIGHT


@pytest.mark.filterwarnings("ignore")
def test_scripted_modules():
    x = torch.rand(2, 3, 8, 8)
    for scripted in (torch.jit.script(network()), torch.jit.trace(network().eval(), x)):
        for module in (scripted, nn.Sequential(scripted)):
            assert trace(module, x).total().macs == RIGHT


def test_counting_changes_nothing():
    model = network()
    before = {k: v.clone() for k, v in model.state_dict().items()}
    x = torch.rand(2, 3, 8, 8)
    first = trace(model, x)
    assert trace(model, x) == first
    after = model.state_dict()
    assert list(after) == list(before)
    assert all(torch.equal(after[k], before[k]) for k in before)


def test_counting_in_two_threads():
    model, x, results = network(), torch.rand(2, 3, 8, 8), []
    threads = [threading.Thread(target=lambda: results.append(trace(model, x))) for _ in range(2)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert results == [trace(model, x)] * 2
    assert results[0].total().macs == RIGHT


def test_an_unknown_operator_is_listed_with_its_shapes_and_module():
    class Odd(nn.Module):
        def __init__(self):
            super().__init__()
            self.inner = Calls(torch.linalg.cholesky)

        def forward(self, x):
            return self.inner(x)

    (unknown,) = trace(Odd(), meta(4, 3, 3)).coverage.unknown
    assert "cholesky" in unknown.op
    assert unknown.layer.startswith("inner")
    assert (unknown.inputs, unknown.outputs[0]) == (((4, 3, 3),), (4, 3, 3))
