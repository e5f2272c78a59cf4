"""GPT-2 and Llama of the transformers library, built by their own class from a changed config."""

import copy
from collections.abc import Sequence
from typing import Any

from torch import nn

from lamina.scale.plan import Step, mapped
from lamina.scale.structure import Attention, Block, Family, FeedForward, Matrix, Stack, Stream
from lamina.scale.tokens import stretch


class Transformers(Family):
    """What both share. `inner` is where the bare model lies in one with a head."""

    inner = ""

    def __init__(self, module: nn.Module):
        super().__init__(module)
        self.prefix = f"{self.inner}." if hasattr(module, self.inner) else ""
        self.tied = bool(self.prefix) and bool(getattr(self.config, "tie_word_embeddings", False))

    def build(self) -> nn.Module:
        """With transformers' own first weights, and with the buffers that no state dict has."""
        return type(self.module)(self.config)

    def finish(self, module: nn.Module) -> None:
        if self.tied:
            module.tie_weights()  # type: ignore[operator]
        if getattr(self.module, "generation_config", None) is not None:
            module.generation_config = copy.deepcopy(self.module.generation_config)  # type: ignore[assignment]

    def changed(self, **values: Any) -> Family:
        config = copy.deepcopy(self.config)
        for name, value in values.items():
            setattr(config, name, value)
        return self.clone(config)


class GPT2(Transformers):
    inner = "transformer"

    def __init__(self, module: nn.Module):
        super().__init__(module)
        if self.config.add_cross_attention:
            raise self.refusal("layers", f"{self.prefix}h.0 has cross-attention")

    def block(self, i: int) -> str:
        return f"{self.prefix}h.{i}"

    @staticmethod
    def conv1d(path: str) -> Matrix:
        return Matrix(path, rows=1, columns=0)

    @property
    def inner_width(self) -> int:
        return self.config.n_inner or 4 * self.config.n_embd

    def stacks(self) -> list[Stack]:
        if self.config.scale_attn_by_inverse_layer_idx:
            raise self.refusal("depth", f"{self.block(0)}.attn is scaled by its layer's number")

        def last(path: str) -> tuple[str, ...]:
            return tuple(f"{path}.{layer}.{kind}" for layer in ("attn.c_proj", "mlp.c_proj") for kind in ("weight", "bias"))

        blocks = (Block(self.block(i), last(self.block(i))) for i in range(self.config.n_layer))
        return [Stack(f"{self.prefix}h", tuple(blocks), "pre")]

    def feed_forwards(self) -> list[FeedForward]:
        paths = [self.block(i) for i in range(self.config.n_layer)]
        return [
            FeedForward(p, (self.conv1d(f"{p}.mlp.c_fc"),), self.conv1d(f"{p}.mlp.c_proj"), self.inner_width) for p in paths
        ]

    def attentions(self) -> list[Attention]:
        c = self.config
        head_width = getattr(self, "head_width", None) or c.n_embd // c.n_head
        return [
            Attention(
                path,
                ((self.conv1d(f"{path}.c_attn"), ("query", "key", "value")),),
                self.conv1d(f"{path}.c_proj"),
                c.n_head,
                c.n_head,
                head_width,
            )
            for path in (f"{self.block(i)}.attn" for i in range(c.n_layer))
        ]

    def stream(self) -> Stream:
        p = self.prefix
        if not p:
            raise self.refusal("model_width", "a bare model's output is the stream itself", "grow it with its head")
        writers: list[tuple[str, int]] = [(f"{p}wte.weight", 1), (f"{p}wpe.weight", 1)]
        readers = []
        for path in (self.block(i) for i in range(self.config.n_layer)):
            writers += [(f"{path}.{norm}.{kind}", 0) for norm in ("ln_1", "ln_2") for kind in ("weight", "bias")]
            writers += self.conv1d(f"{path}.attn.c_proj").producers + self.conv1d(f"{path}.mlp.c_proj").producers
            readers += [self.conv1d(f"{path}.attn.c_attn"), self.conv1d(f"{path}.mlp.c_fc")]
        head = (f"{p}ln_f.weight", f"{p}ln_f.bias")
        writers += [(name, 0) for name in head]
        if self.tied:
            return Stream(self.config.n_embd, (*writers, ("lm_head.weight", 1)), tuple(readers), head)
        readers.append(Matrix("lm_head", bias=False))
        return Stream(self.config.n_embd, tuple(writers), tuple(readers))

    def with_depths(self, depths: Sequence[int]) -> Family:
        return self.changed(n_layer=depths[0])

    def with_feed_forward(self, width: int) -> Family:
        return self.changed(n_inner=width)

    def with_heads(self, n_heads: int, n_kv: int, head_width: int) -> Family:
        other = self.changed(n_head=n_heads)
        other.head_width = head_width  # type: ignore[attr-defined]
        return other

    def with_context(self, factor: int) -> tuple[Family, Step]:
        """Learnt positions, 1 / factor apart."""
        name = f"{self.prefix}wpe.weight"
        origin = mapped(name, lambda t: stretch(t, factor))
        step = Step("tokens", "interpolate", "approximate", {name: origin}, (name.rpartition(".")[0],))
        return self.changed(n_positions=self.config.n_positions * factor), step

    def with_model_width(self, width: int, padded: bool) -> Family:
        other = self.changed(n_embd=width, n_inner=self.inner_width)
        other.head_width = getattr(self, "head_width", None) or self.config.n_embd // self.config.n_head  # type: ignore[attr-defined]
        return other

    def check(self) -> None:
        c = self.config
        if getattr(self, "head_width", None) not in (None, c.n_embd / c.n_head):
            raise self.refusal(
                "heads",
                f"{self.block(0)}.attn would have {c.n_head} heads of {self.attentions()[0].head_width} and a model width of "
                f"{c.n_embd}, and its config has model width = heads x head width",
                "grow model_width together with heads or head_width by the same factor",
            )


class Llama(Transformers):
    inner = "model"
    float64 = False  # transformers' RMS norms compute in float32

    def block(self, i: int) -> str:
        return f"{self.prefix}layers.{i}"

    def matrix(self, path: str) -> Matrix:
        bias = self.config.mlp_bias if ".mlp." in path else self.config.attention_bias
        return Matrix(path, bias=bias)

    def stacks(self) -> list[Stack]:
        def last(path: str) -> tuple[str, ...]:
            outs = (self.matrix(f"{path}.self_attn.o_proj"), self.matrix(f"{path}.mlp.down_proj"))
            return tuple(name for out in outs for name, _ in out.producers)

        blocks = (Block(self.block(i), last(self.block(i))) for i in range(self.config.num_hidden_layers))
        return [Stack(f"{self.prefix}layers", tuple(blocks), "pre")]

    def feed_forwards(self) -> list[FeedForward]:
        found = []
        for path in (f"{self.block(i)}.mlp" for i in range(self.config.num_hidden_layers)):
            up = (self.matrix(f"{path}.gate_proj"), self.matrix(f"{path}.up_proj"))
            found.append(FeedForward(path, up, self.matrix(f"{path}.down_proj"), self.config.intermediate_size))
        return found

    def attentions(self) -> list[Attention]:
        c = self.config
        found = []
        for path in (f"{self.block(i)}.self_attn" for i in range(c.num_hidden_layers)):
            q, k, v = (self.matrix(f"{path}.{name}_proj") for name in "qkv")
            projections = ((q, ("query",)), (k, ("key",)), (v, ("value",)))
            out = self.matrix(f"{path}.o_proj")
            found.append(
                Attention(path, projections, out, c.num_attention_heads, c.num_key_value_heads, c.head_dim, rotary=True)  # type: ignore[arg-type]
            )
        return found

    def stream(self) -> Stream:
        p = self.prefix
        if not p:
            raise self.refusal("model_width", "a bare model's output is the stream itself", "grow it with its head")
        norms = [f"{self.block(i)}.{n}.weight" for i in range(self.config.num_hidden_layers) for n in NORMS]
        norms.append(f"{p}norm.weight")
        writers: list[tuple[str, int]] = [(f"{p}embed_tokens.weight", 1), *((name, 0) for name in norms)]
        readers = []
        for path in (self.block(i) for i in range(self.config.num_hidden_layers)):
            for out in (f"{path}.self_attn.o_proj", f"{path}.mlp.down_proj"):
                writers += self.matrix(out).producers
            readers += [self.matrix(f"{path}.self_attn.{n}_proj") for n in "qkv"]
            readers += [self.matrix(f"{path}.mlp.{n}_proj") for n in ("gate", "up")]
        if self.tied:
            writers.append(("lm_head.weight", 1))
            return Stream(self.config.hidden_size, tuple(writers), tuple(readers), (f"{p}norm.weight",), tuple(norms))
        readers.append(Matrix("lm_head", bias=False))
        return Stream(self.config.hidden_size, tuple(writers), tuple(readers), norms=tuple(norms))

    def with_depths(self, depths: Sequence[int]) -> Family:
        return self.changed(num_hidden_layers=depths[0])

    def with_feed_forward(self, width: int) -> Family:
        return self.changed(intermediate_size=width)

    def with_heads(self, n_heads: int, n_kv: int, head_width: int) -> Family:
        return self.changed(num_attention_heads=n_heads, num_key_value_heads=n_kv, head_dim=head_width)

    def with_context(self, factor: int) -> tuple[Family, Step]:
        """Rotary positions, 1 / factor apart (position interpolation, arXiv 2306.15595)."""
        rope = dict(self.config.rope_parameters)
        if rope["rope_type"] not in ("default", "linear"):
            raise self.refusal("tokens", f"its rotary positions are scaled already ({rope['rope_type']})")
        rope |= {"rope_type": "linear", "factor": float(rope.get("factor", 1.0) * factor)}
        longer = self.changed(rope_parameters=rope, max_position_embeddings=self.config.max_position_embeddings * factor)
        return longer, Step("tokens", "interpolate", "approximate", {}, (f"{self.prefix}rotary_emb",))

    def with_model_width(self, width: int, padded: bool) -> Family:
        c = self.config
        eps = c.rms_norm_eps * c.hidden_size / width if padded else c.rms_norm_eps
        return self.changed(hidden_size=width, rms_norm_eps=eps)


NORMS = ("input_layernorm", "post_attention_layernorm")
