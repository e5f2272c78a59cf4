"""timm's VisionTransformer, whose constructor's arguments no module remembers: a copy of it is refitted in place."""

import copy
from collections.abc import Sequence
from typing import Any

from torch import nn

from lamina.errors import InputError
from lamina.scale.structure import Attention, Block, Family, FeedForward, Matrix, Stack, Stream

PLAIN = ("Attention",)  # timm's other attentions share heads or add positions


class VisionTransformer(Family):
    def __init__(self, module: nn.Module):
        super().__init__(module)
        self.skeleton: Any = copy.deepcopy(module).to("meta")
        for path, block in self.skeleton.blocks.named_children():
            attention = getattr(block, "attn", None)
            if type(attention).__name__ not in PLAIN or type(block).__name__ != "Block":
                raise InputError(f"blocks.{path} is a {type(block).__name__}: only timm's plain Block is grown")

    def build(self) -> nn.Module:
        return copy.deepcopy(self.skeleton)

    def refitted(self) -> Any:
        other = copy.copy(self)
        other.skeleton = copy.deepcopy(self.skeleton)
        return other

    def blocks(self) -> list[tuple[str, Any]]:
        return [(f"blocks.{name}", block) for name, block in self.skeleton.blocks.named_children()]

    def matrix(self, path: str) -> Matrix:
        return Matrix(path, bias=self.skeleton.get_submodule(path).bias is not None)

    def stacks(self) -> list[Stack]:
        def last(path: str) -> tuple[str, ...]:
            layers = (self.matrix(f"{path}.attn.proj"), self.matrix(f"{path}.mlp.fc2"))
            return tuple(name for layer in layers for name, _ in layer.producers)

        return [Stack("blocks", tuple(Block(path, last(path)) for path, _ in self.blocks()), "pre")]

    def feed_forwards(self) -> list[FeedForward]:
        found = []
        for path, block in self.blocks():
            if not isinstance(getattr(block.mlp, "norm", nn.Identity()), nn.Identity):
                raise self.refusal("feed_forward", f"{path}.mlp normalises its hidden units")
            up, down = self.matrix(f"{path}.mlp.fc1"), self.matrix(f"{path}.mlp.fc2")
            found.append(FeedForward(path, (up,), down, block.mlp.fc1.out_features))
        return found

    def attentions(self) -> list[Attention]:
        found = []
        for path, block in self.blocks():
            attention = block.attn
            extra = [n for n in ("q_norm", "k_norm", "norm", "gate") if not _absent(getattr(attention, n, None))]
            if extra:
                raise self.refusal("heads", f"{path}.attn has a {extra[0]}")
            found.append(
                Attention(
                    f"{path}.attn",
                    ((self.matrix(f"{path}.attn.qkv"), ("query", "key", "value")),),
                    self.matrix(f"{path}.attn.proj"),
                    attention.num_heads,
                    attention.num_heads,
                    attention.head_dim,
                )
            )
        return found

    def stream(self) -> Stream:
        raise self.refusal(
            "model_width", "timm's module says its width in many places", "feed_forward, heads and depth can grow"
        )

    def with_depths(self, depths: Sequence[int]) -> Family:
        other = self.refitted()
        blocks = list(other.skeleton.blocks)
        other.skeleton.blocks = nn.Sequential(*(copy.deepcopy(blocks[min(i, len(blocks) - 1)]) for i in range(depths[0])))
        return other

    def with_feed_forward(self, width: int) -> Family:
        other = self.refitted()
        for _, block in other.blocks():
            _resize(block.mlp.fc1, out=width)
            _resize(block.mlp.fc2, into=width)
        return other

    def with_heads(self, n_heads: int, n_kv: int, head_width: int) -> Family:
        other = self.refitted()
        for _, block in other.blocks():
            attention = block.attn
            attention.num_heads, attention.head_dim, attention.attn_dim = n_heads, head_width, n_heads * head_width
            attention.scale = head_width**-0.5
            _resize(attention.qkv, out=3 * n_heads * head_width)
            _resize(attention.proj, into=n_heads * head_width)
        return other


def _absent(layer: Any) -> bool:
    return layer is None or isinstance(layer, nn.Identity)


def _resize(linear: nn.Linear, out: int | None = None, into: int | None = None) -> None:
    """Another size, in place, on the meta device."""
    linear.out_features, linear.in_features = out or linear.out_features, into or linear.in_features
    linear.weight = nn.Parameter(linear.weight.new_empty(linear.out_features, linear.in_features))
    if linear.bias is not None:
        linear.bias = nn.Parameter(linear.bias.new_empty(linear.out_features))
