"""A character-level GPT, and how a network of one's own is described to the growth operators."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

from torch import Tensor, nn
from torch.nn import functional as F

from lamina.scale import depth, width
from lamina.scale.growth import materialise
from lamina.scale.plan import Plan
from lamina.scale.structure import Attention, Block, Family, FeedForward, Matrix, Stack, Stream


@dataclass(frozen=True)
class Config:
    layers: int = 8
    width: int = 64
    mlp: int = 256
    n_heads: int = 4
    head_width: int = 16
    context: int = 64
    vocabulary: int = 96


class Layer(nn.Module):
    """Pre-norm, causal. (B, T, D) to the same."""

    def __init__(self, config: Config):
        super().__init__()
        self.n_heads = config.n_heads
        inner = config.n_heads * config.head_width
        self.norm1, self.norm2 = nn.LayerNorm(config.width), nn.LayerNorm(config.width)
        self.qkv, self.out = nn.Linear(config.width, 3 * inner), nn.Linear(inner, config.width)
        self.fc1, self.fc2 = nn.Linear(config.width, config.mlp), nn.Linear(config.mlp, config.width)

    def forward(self, x: Tensor) -> Tensor:
        q, k, v = self.qkv(self.norm1(x)).unflatten(-1, (3, self.n_heads, -1)).permute(2, 0, 3, 1, 4).unbind(0)
        x = x + self.out(F.scaled_dot_product_attention(q, k, v, is_causal=True).transpose(1, 2).flatten(2))
        return x + self.fc2(F.gelu(self.fc1(self.norm2(x))))


class Net(nn.Module):
    """Characters (B, T) to logits (B, T, vocabulary)."""

    def __init__(self, config: Config):
        super().__init__()
        self.config = config
        self.characters = nn.Embedding(config.vocabulary, config.width)
        self.positions = nn.Embedding(config.context, config.width)
        self.blocks = nn.Sequential(*(Layer(config) for _ in range(config.layers)))
        self.norm, self.head = nn.LayerNorm(config.width), nn.Linear(config.width, config.vocabulary)

    def init_weights(self) -> None:
        """GPT-2's, without its scaling of the last layers."""
        for module in self.modules():
            if isinstance(module, nn.Linear | nn.Embedding):
                nn.init.normal_(module.weight, std=0.02)
            if isinstance(module, nn.Linear):
                nn.init.zeros_(module.bias)
            elif isinstance(module, nn.LayerNorm):
                module.reset_parameters()

    def forward(self, ids: Tensor) -> Tensor:
        x = self.characters(ids) + self.positions.weight[: ids.shape[1]]
        return self.head(self.norm(self.blocks(x)))


class GPT(Family):
    config: Config

    def build(self) -> nn.Module:
        return Net(self.config)

    def paths(self) -> list[str]:
        return [f"blocks.{i}" for i in range(self.config.layers)]

    def stacks(self) -> list[Stack]:
        def last(path: str) -> tuple[str, ...]:
            return tuple(f"{path}.{layer}.{kind}" for layer in ("out", "fc2") for kind in ("weight", "bias"))

        return [Stack("blocks", tuple(Block(path, last(path)) for path in self.paths()), "pre")]

    def feed_forwards(self) -> list[FeedForward]:
        return [FeedForward(p, (Matrix(f"{p}.fc1"),), Matrix(f"{p}.fc2"), self.config.mlp) for p in self.paths()]

    def attentions(self) -> list[Attention]:
        c = self.config
        return [
            Attention(
                p,
                ((Matrix(f"{p}.qkv"), ("query", "key", "value")),),
                Matrix(f"{p}.out"),
                c.n_heads,
                c.n_heads,
                c.head_width,
            )
            for p in self.paths()
        ]

    def stream(self) -> Stream:
        norms = ["norm", *(f"{p}.{norm}" for p in self.paths() for norm in ("norm1", "norm2"))]
        writers = [("characters.weight", 1), ("positions.weight", 1)]
        writers += [(f"{norm}.{kind}", 0) for norm in norms for kind in ("weight", "bias")]
        writers += [named for p in self.paths() for layer in ("out", "fc2") for named in Matrix(f"{p}.{layer}").producers]
        readers = [Matrix(f"{p}.{layer}") for p in self.paths() for layer in ("qkv", "fc1")]
        return Stream(self.config.width, tuple(writers), (*readers, Matrix("head")))

    def with_depths(self, depths: Sequence[int]) -> Family:
        return self.clone(replace(self.config, layers=depths[0]))

    def with_feed_forward(self, width: int) -> Family:
        return self.clone(replace(self.config, mlp=width))

    def with_heads(self, n_heads: int, n_kv: int, head_width: int) -> Family:
        return self.clone(replace(self.config, n_heads=n_heads, head_width=head_width))

    def with_model_width(self, width: int, padded: bool) -> Family:
        return self.clone(replace(self.config, width=width))


def grow(net: nn.Module, factors: Mapping[str, int], operator: str = "split") -> nn.Module:
    """`lamina.grow` for this network: factors of depth, feed_forward, heads and model_width."""
    family: Family = GPT(net)
    plan = Plan()
    operators = {
        "depth": lambda f, n: depth.deepen(f, n, operator),
        "feed_forward": width.widen_feed_forward,
        "heads": width.add_heads,
        "model_width": width.widen_model,
    }
    for axis, factor in factors.items():
        family, step = operators[axis](family, factor)
        plan = plan.then(step)
    return materialise(family, plan, net)
