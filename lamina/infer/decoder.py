"""The zoo's Transformer prepared for decoding: the same function with fewer and larger products.

Queries, keys and values are one product; the keys and values of the encoder's output are kept once per sentence, and its
beams are so many queries of one attention; linear layers are in oneDNN's packed form (`infer.packed`).
"""

from collections.abc import Callable
from functools import partial

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from lamina.infer import packed
from lamina.infer.generate import EncoderDecoder
from lamina.zoo import transformer

ROWS = 64  # that the packed products expect: sentences times beams


def prepare(net: nn.Module) -> EncoderDecoder:
    """The zoo's network prepared, itself left as it is; another one, or one that is not on the CPU in fp32, unchanged."""
    ready = isinstance(net, transformer.Net) and packed.available()
    if not ready or any(p.dtype != torch.float32 or p.device.type != "cpu" for p in net.parameters()):
        return net  # type: ignore[return-value]
    return Prepared(net)  # type: ignore[arg-type]


Product = Callable[[Tensor], Tensor]


def _product(*linears: nn.Linear, activation: str = "none") -> Product:
    """Linear layers of one input as one."""
    weight = torch.cat([layer.weight.detach() for layer in linears])
    return _packed(weight, [layer.bias for layer in linears], activation)


def _packed(weight: Tensor, biases: list[Tensor | None], activation: str = "none") -> Product:
    made = nn.Linear(weight.shape[1], weight.shape[0], bias=False)
    made.weight = nn.Parameter(weight, requires_grad=False)
    if all(bias is not None for bias in biases):
        made.bias = nn.Parameter(torch.cat([b.detach() for b in biases if b is not None]), requires_grad=False)
    return packed.Linear(made, (ROWS, made.in_features), activation)


class _Layer:
    """What an encoder and a decoder layer do, on rows (R, T, d)."""

    def __init__(self, layer: transformer.Layer):
        attention = layer.self_attention
        self.pre, self.self_norm, self.ff_norm, self.n_heads = layer.pre, layer.self_norm, layer.ff_norm, attention.n_heads
        self.qkv = _product(attention.query, attention.key, attention.value)
        self.out = _product(attention.out)
        self.fc1 = _product(layer.fc1, activation="relu" if isinstance(layer.act, nn.ReLU) else "swish")
        self.fc2 = _product(layer.fc2)
        self.cross: _Cross | None = _Cross(layer) if isinstance(layer, transformer.DecoderLayer) else None

    def residual(self, x: Tensor, norm: nn.Module, sublayer: Product) -> Tensor:
        return x + sublayer(norm(x)) if self.pre else norm(x + sublayer(x))

    def heads(self, x: Tensor) -> tuple[Tensor, ...]:
        """(R, T, d) to queries, keys and values, (R, heads, T, d / heads) each."""
        return self.qkv(x).unflatten(-1, (3, self.n_heads, -1)).permute(2, 0, 3, 1, 4).unbind(0)

    def feed_forward(self, x: Tensor) -> Tensor:
        return self.residual(x, self.ff_norm, lambda y: self.fc2(self.fc1(y)))


class _Cross:
    """Attention of a decoder layer to the encoder's output."""

    def __init__(self, layer: transformer.DecoderLayer):
        attention = layer.cross_attention
        self.norm, self.n_heads = layer.cross_norm, attention.n_heads
        self.width = attention.query.out_features // attention.n_heads
        self.query, self.out = _product(attention.query), _product(attention.out)
        self.keys_values = _product(attention.key, attention.value)

    def memory(self, memory: Tensor) -> tuple[Tensor, ...]:
        """(B, S, d) to keys and values, (B, heads, S, d / heads) each."""
        return self.keys_values(memory).unflatten(-1, (2, self.n_heads, -1)).permute(2, 0, 3, 1, 4).unbind(0)


class Prepared:
    """An `EncoderDecoder` of one network; `begin` is what the searches use."""

    def __init__(self, net: transformer.Net):
        self.net, self.config = net, net.config
        self.encoder = [_Layer(layer) for layer in net.encoder]  # type: ignore[arg-type]
        self.decoder = [_Layer(layer) for layer in net.decoder]  # type: ignore[arg-type]
        weight = net.embedding.weight if net.output_weight is None else net.output_weight
        self.output = _packed(weight.detach(), [net.output_bias])
        self.target_embedding = net.embedding if net.target_embedding is None else net.target_embedding
        self.decode = net.decode

    def encode(self, source: Tensor, source_padding: Tensor | None = None) -> Tensor:
        x = self.net.embed(self.net.embedding, source, 0)
        mask = None if source_padding is None else ~source_padding[:, None, None, :]
        for layer in self.encoder:

            def attend(y: Tensor, layer: _Layer = layer) -> Tensor:
                return layer.out(_joined(F.scaled_dot_product_attention(*layer.heads(y), attn_mask=mask)))

            x = layer.feed_forward(layer.residual(x, layer.self_norm, attend))
        return x if self.net.encoder_norm is None else self.net.encoder_norm(x)

    def begin(self, source: Tensor, padding: Tensor | None, beams: int) -> "Steps":
        return Steps(self, self.encode(source, padding), padding, beams)


class Steps:
    """A `generate.Decoding`: the keys and values of the targets so far, (R, heads, T, d / heads), and of the memory."""

    def __init__(self, net: Prepared, memory: Tensor, padding: Tensor | None, beams: int):
        self.net, self.beams, self.length = net, beams, 0
        self.mask = None if padding is None else ~padding[:, None, None, :]  # (B, 1, 1, S)
        self.memory = [layer.cross.memory(memory) for layer in net.decoder if layer.cross is not None]
        self.keys: list[Tensor] = []
        self.values: list[Tensor] = []

    def step(self, tokens: Tensor) -> Tensor:
        x = self.net.net.embed(self.net.target_embedding, tokens[:, None], self.length)  # (R, 1, d)
        for number, layer in enumerate(self.net.decoder):
            cross = layer.cross
            assert cross is not None
            x = layer.residual(x, layer.self_norm, partial(self._look_back, layer, number))
            x = layer.residual(x, cross.norm, partial(self._look_across, cross, number))
            x = layer.feed_forward(x)
        self.length += 1
        x = x if self.net.net.decoder_norm is None else self.net.net.decoder_norm(x)
        return self.net.output(x[:, 0])

    def _look_back(self, layer: _Layer, number: int, x: Tensor) -> Tensor:
        query, key, value = layer.heads(x)
        if number == len(self.keys):
            self.keys.append(key)
            self.values.append(value)
        else:
            self.keys[number] = torch.cat((self.keys[number], key), dim=2)
            self.values[number] = torch.cat((self.values[number], value), dim=2)
        return layer.out(_joined(F.scaled_dot_product_attention(query, self.keys[number], self.values[number])))

    def _look_across(self, cross: _Cross, number: int, x: Tensor) -> Tensor:
        query = cross.query(x).view(-1, self.beams, cross.n_heads, cross.width).transpose(1, 2)
        y = F.scaled_dot_product_attention(query, *self.memory[number], attn_mask=self.mask)  # (B, heads, beams, d / heads)
        return cross.out(_joined(y).view(len(x), 1, -1))

    def keep(self, rows: Tensor, sentences: Tensor) -> None:
        self.keys = [t.index_select(0, rows) for t in self.keys]
        self.values = [t.index_select(0, rows) for t in self.values]
        if len(sentences) < len(self.memory[0][0]):
            self.memory = [tuple(t.index_select(0, sentences) for t in pair) for pair in self.memory]
            self.mask = None if self.mask is None else self.mask.index_select(0, sentences)


def _joined(x: Tensor) -> Tensor:
    """(R, heads, T, d / heads) to (R, T, d)."""
    return x.transpose(1, 2).flatten(2)
