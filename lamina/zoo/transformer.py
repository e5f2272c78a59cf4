"""The Transformer. A. Vaswani et al., "Attention is all you need", arXiv 1706.03762: Figure 1, sections 3 and 5, Table 3
(rows "base" and "big").

Norms follow the residual sums, attention has no biases, and one matrix serves both embeddings and the output. The
paper gives two sizes of vocabulary: about 37,000 tokens shared for English-German is the one here. `MARIAN` is the form of
the public opus-mt models; their decoder starts from the padding token.
"""

import math
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Literal

import torch
from torch import Tensor, nn
from torch.nn import functional as F

Positions = Literal["interleaved", "halves", "opennmt"]


@dataclass(frozen=True)
class Config:
    encoder_layers: int = 6
    decoder_layers: int = 6
    d_model: int = 512
    d_ff: int = 2048
    n_heads: int = 8
    head_width: int | None = None  # None: d_model over the heads, as in the paper; another one after growing
    vocabulary: int = 37000
    target_vocabulary: int | None = None  # None: the same, as it must be with `tie`
    tie: bool = True  # one matrix for source embedding, target embedding and output (section 3.4)
    norm: Literal["post", "pre"] = "post"  # "pre" adds a norm at the end of each stack
    attention_bias: bool = False
    output_bias: bool = False
    activation: Literal["relu", "silu"] = "relu"
    positions: Positions = "interleaved"
    dropout: float = 0.1
    max_length: int = 1024  # longer sequences are refused; the sinusoids know no bound


@dataclass
class Cache:
    """What a decoder keeps between steps, one entry per layer: the keys and values (B, heads, length, d_model / heads) of the
    target so far and of the memory. A fresh one is empty; `Net.decode` fills and extends it."""

    keys: list[Tensor] = field(default_factory=list)
    values: list[Tensor] = field(default_factory=list)
    memory_keys: list[Tensor] = field(default_factory=list)
    memory_values: list[Tensor] = field(default_factory=list)

    @property
    def length(self) -> int:
        """How many target positions are kept."""
        return self.keys[0].shape[2] if self.keys else 0

    def extend(self, layer: int, keys: Tensor, values: Tensor) -> tuple[Tensor, Tensor]:
        """Append to a layer's keys and values, and return all of them."""
        if layer == len(self.keys):
            self.keys.append(keys)
            self.values.append(values)
        else:
            self.keys[layer] = torch.cat((self.keys[layer], keys), dim=2)
            self.values[layer] = torch.cat((self.values[layer], values), dim=2)
        return self.keys[layer], self.values[layer]

    def select(self, rows: Tensor) -> "Cache":
        """The cache of the sequences `rows`, an index into the batch: a search reorders and drops its beams with it."""
        parts = (self.keys, self.values, self.memory_keys, self.memory_values)
        return Cache(*([t.index_select(0, rows) for t in part] for part in parts))


def positions(
    length: int, d_model: int, form: Positions = "interleaved", start: int = 0, device: torch.device | None = None
) -> Tensor:
    """Sinusoids of the positions `start` ... `start + length - 1`, as (length, d_model), in float32.

    "interleaved" is section 3.5: PE(p, 2i) = sin(p / 10000^(2i / d)), PE(p, 2i + 1) = cos(the same). "halves" has all sines
    first and then all cosines (Marian). "opennmt" has halves too, but the last wavelength is 10000 * 2 pi itself and the
    first position is 1 (OpenNMT-tf, and CTranslate2 where a file has no table of its own).
    """
    half = d_model // 2
    place = torch.arange(start, start + length, device=device, dtype=torch.float32)
    index = torch.arange(half, device=device, dtype=torch.float32)
    if form == "opennmt":
        place, steps = place + 1.0, max(half - 1, 1)
    else:
        steps = half
    angle = place[:, None] * torch.exp(index * (-math.log(10000.0) / steps))  # (length, d_model / 2)
    if form == "interleaved":
        return torch.stack((angle.sin(), angle.cos()), dim=-1).flatten(1)
    return torch.cat((angle.sin(), angle.cos()), dim=1)


class Attention(nn.Module):
    """Section 3.2.2: multi-head attention of (B, T, d_model) over given keys and values."""

    def __init__(self, config: Config):
        super().__init__()
        d, bias = config.d_model, config.attention_bias
        inner = config.n_heads * (config.head_width or d // config.n_heads)
        self.n_heads = config.n_heads
        self.query = nn.Linear(d, inner, bias=bias)
        self.key = nn.Linear(d, inner, bias=bias)
        self.value = nn.Linear(d, inner, bias=bias)
        self.out = nn.Linear(inner, d, bias=bias)

    def split(self, x: Tensor) -> Tensor:
        return x.unflatten(-1, (self.n_heads, -1)).transpose(1, 2)  # (B, heads, T, d_model / heads)

    def keys_values(self, x: Tensor) -> tuple[Tensor, Tensor]:
        return self.split(self.key(x)), self.split(self.value(x))

    def forward(self, x: Tensor, keys: Tensor, values: Tensor, mask: Tensor | None, causal: bool = False) -> Tensor:
        query = self.split(self.query(x))
        y = F.scaled_dot_product_attention(query, keys, values, attn_mask=mask, is_causal=causal)
        return self.out(y.transpose(1, 2).flatten(2))  # (B, T, d_model)


class Layer(nn.Module):
    """What encoder and decoder layers share: the position-wise network of section 3.3, and the residual form."""

    def __init__(self, config: Config):
        super().__init__()
        d = config.d_model
        self.pre = config.norm == "pre"
        self.self_attention = Attention(config)
        self.self_norm = nn.LayerNorm(d)
        self.fc1 = nn.Linear(d, config.d_ff)
        self.act = nn.ReLU() if config.activation == "relu" else nn.SiLU()
        self.fc2 = nn.Linear(config.d_ff, d)
        self.ff_norm = nn.LayerNorm(d)
        self.drop = nn.Dropout(config.dropout)

    def residual(self, x: Tensor, norm: nn.Module, sublayer: Callable[[Tensor], Tensor]) -> Tensor:
        """Section 5.4: dropout of a sub-layer's output before it is added (and normalised, in the paper's form)."""
        if self.pre:
            return x + self.drop(sublayer(norm(x)))
        return norm(x + self.drop(sublayer(x)))

    def feed_forward(self, x: Tensor) -> Tensor:
        return self.residual(x, self.ff_norm, lambda y: self.fc2(self.act(self.fc1(y))))


class EncoderLayer(Layer):
    """Figure 1, left. (B, S, d_model) to the same."""

    def forward(self, x: Tensor, mask: Tensor | None) -> Tensor:
        x = self.residual(x, self.self_norm, lambda y: self.self_attention(y, *self.self_attention.keys_values(y), mask))
        return self.feed_forward(x)


class DecoderLayer(Layer):
    """Figure 1, right. (B, T, d_model) to the same; `number` is its place in the cache."""

    def __init__(self, config: Config, number: int):
        super().__init__(config)
        self.number = number
        self.cross_attention = Attention(config)
        self.cross_norm = nn.LayerNorm(config.d_model)

    def forward(
        self, x: Tensor, memory: Tensor, mask: Tensor | None, causal: bool, memory_mask: Tensor | None, cache: Cache | None
    ) -> Tensor:
        def look_back(y: Tensor) -> Tensor:
            keys, values = self.self_attention.keys_values(y)
            if cache is not None:
                keys, values = cache.extend(self.number, keys, values)
            return self.self_attention(y, keys, values, mask, causal)

        keys, values = self.memory(memory, cache)
        x = self.residual(x, self.self_norm, look_back)
        x = self.residual(x, self.cross_norm, lambda y: self.cross_attention(y, keys, values, memory_mask))
        return self.feed_forward(x)

    def memory(self, memory: Tensor, cache: Cache | None) -> tuple[Tensor, Tensor]:
        """Keys and values of the encoder's output: those of the cache, once it has them."""
        if cache is not None and self.number < len(cache.memory_keys):
            return cache.memory_keys[self.number], cache.memory_values[self.number]
        keys, values = self.cross_attention.keys_values(memory)
        if cache is not None:
            cache.memory_keys.append(keys)
            cache.memory_values.append(values)
        return keys, values


class Net(nn.Module):
    """Token ids (B, S) and (B, T) to logits (B, T, target vocabulary). Masks are boolean and True on padding."""

    def __init__(self, config: Config):
        super().__init__()
        check(config)
        self.config = config
        d, target = config.d_model, config.target_vocabulary or config.vocabulary
        self.embedding = embedding(config.vocabulary, d)
        self.target_embedding = None if config.tie else embedding(target, d)
        self.encoder = nn.ModuleList(EncoderLayer(config) for _ in range(config.encoder_layers))
        self.decoder = nn.ModuleList(DecoderLayer(config, i) for i in range(config.decoder_layers))
        self.encoder_norm = nn.LayerNorm(d) if config.norm == "pre" else None
        self.decoder_norm = nn.LayerNorm(d) if config.norm == "pre" else None
        self.output_weight = None if config.tie else nn.Parameter(torch.empty(target, d))
        self.output_bias = nn.Parameter(torch.empty(target)) if config.output_bias else None
        self.drop = nn.Dropout(config.dropout)

    def init_weights(self) -> None:
        """The paper is silent: Glorot's uniform rule for the linear layers, and embeddings of standard deviation d_model^-1/2,
        which scaled by sqrt(d_model) match the sinusoids."""
        for module in self.modules():
            if isinstance(module, nn.Linear):
                nn.init.xavier_uniform_(module.weight)
                if module.bias is not None:
                    nn.init.zeros_(module.bias)
            elif isinstance(module, nn.LayerNorm):
                module.reset_parameters()
            elif isinstance(module, nn.Embedding):
                nn.init.normal_(module.weight, std=self.config.d_model**-0.5)
        if self.output_weight is not None:
            nn.init.normal_(self.output_weight, std=self.config.d_model**-0.5)
        if self.output_bias is not None:
            nn.init.zeros_(self.output_bias)

    def embed(self, table: nn.Module, ids: Tensor, start: int) -> Tensor:
        """Sections 3.4 and 3.5. (B, T) to (B, T, d_model)."""
        c = self.config
        end = start + ids.shape[1]
        if end > c.max_length:
            raise ValueError(f"the sequence has {end} tokens, more than max_length {c.max_length}")
        x = table(ids) * math.sqrt(c.d_model)
        return self.drop(x + positions(ids.shape[1], c.d_model, c.positions, start, ids.device).to(x.dtype))

    def encode(self, source: Tensor, source_padding: Tensor | None = None) -> Tensor:
        """(B, S) to the memory (B, S, d_model)."""
        x = self.embed(self.embedding, source, 0)
        mask = None if source_padding is None else ~source_padding[:, None, None, :]  # (B, 1, 1, S), True: may be seen
        for layer in self.encoder:
            x = layer(x, mask)
        return x if self.encoder_norm is None else self.encoder_norm(x)

    def decode(
        self,
        target: Tensor,
        memory: Tensor,
        source_padding: Tensor | None = None,
        target_padding: Tensor | None = None,
        cache: Cache | None = None,
    ) -> Tensor:
        """(B, T) and the memory (B, S, d_model) to logits (B, T, vocabulary) of the tokens that follow.

        With a cache `target` are only the tokens that are new since the last call; `target_padding`, if given, covers the
        old ones as well.
        """
        past = 0 if cache is None else cache.length
        x = self.embed(self.embedding if self.target_embedding is None else self.target_embedding, target, past)
        causal = past == 0 and target_padding is None
        mask = None
        if not causal and (target.shape[1] > 1 or target_padding is not None):
            mask = causal_mask(target.shape[1], past, target.device)  # (T, past + T)
            if target_padding is not None:
                mask = mask & ~target_padding[:, None, None, :]  # (B, 1, T, past + T)
        memory_mask = None if source_padding is None else ~source_padding[:, None, None, :]
        for layer in self.decoder:
            x = layer(x, memory, mask, causal, memory_mask, cache)
        x = x if self.decoder_norm is None else self.decoder_norm(x)
        return F.linear(x, self.embedding.weight if self.output_weight is None else self.output_weight, self.output_bias)

    def forward(
        self,
        source: Tensor,
        target: Tensor,
        source_padding: Tensor | None = None,
        target_padding: Tensor | None = None,
    ) -> Tensor:
        memory = self.encode(source, source_padding)  # (B, S, d_model)
        return self.decode(target, memory, source_padding, target_padding)


def embedding(vocabulary: int, d_model: int) -> nn.Embedding:
    """Without values: torch's own first draw from a normal on the meta device takes a second."""
    return nn.Embedding.from_pretrained(torch.empty(vocabulary, d_model), freeze=False)


def causal_mask(length: int, past: int, device: torch.device) -> Tensor:
    """True where position `past + i` may look at position j: j <= past + i. (length, past + length)."""
    place = torch.arange(past + length, device=device)
    return place <= place[past:, None]


def check(config: Config) -> None:
    if config.head_width is None and config.d_model % config.n_heads:
        raise ValueError(f"d_model {config.d_model} is not divisible by {config.n_heads} heads")
    if config.d_model % 2:
        raise ValueError(f"d_model {config.d_model} is odd: sines and cosines come in pairs")
    if config.tie and config.target_vocabulary not in (None, config.vocabulary):
        raise ValueError(
            f"one matrix cannot serve vocabularies of {config.vocabulary} and {config.target_vocabulary}: tie=False"
        )
    for name, value, known in (
        ("norm", config.norm, ("post", "pre")),
        ("activation", config.activation, ("relu", "silu")),
        ("positions", config.positions, ("interleaved", "halves", "opennmt")),
    ):
        if value not in known:
            raise ValueError(f"{name} is one of {', '.join(known)}, not {value!r}")


VARIANTS = {
    "transformer_base": Config(),
    "transformer_big": Config(d_model=1024, d_ff=4096, n_heads=16, dropout=0.3),
    # Ours, for short German sentences and their English translations: it ships trained.
    "transformer_de_en": Config(
        encoder_layers=3,
        decoder_layers=3,
        d_model=192,
        d_ff=768,
        n_heads=4,
        vocabulary=4000,
        norm="pre",
    ),
}

# The opus-mt models (Marian); the vocabulary is that of Helsinki-NLP/opus-mt-en-de.
MARIAN = Config(vocabulary=58101, attention_bias=True, output_bias=True, activation="silu", positions="halves", max_length=512)
