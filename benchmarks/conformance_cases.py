"""The cases of cost_conformance.py: small networks, and the exact number of each, worked out from its sizes.

The rows were chosen by Lamina's developers: from complaints in the counters' issue trackers (`SOURCES` names the issue), from
what Lamina itself once got wrong, and because others get them right and Lamina does not (`BEHIND`, with why). What the others
cannot enter at all is `APART` and not part of the score.
"""

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
import torchvision
import transformers
from torch import Tensor, nn
from torch.nn import functional as F
from torch.nn.attention.flex_attention import flex_attention
from torch.nn.utils import prune
from torch.utils.checkpoint import checkpoint


@dataclass(frozen=True)
class Case:
    row: str
    name: str
    make: Callable[[], tuple[Any, ...]]  # a module and its inputs
    right: int
    parameters: bool = False  # whether the number is of parameters


class Call(nn.Module):
    """A function of the input and, if any, of a weight."""

    def __init__(self, function: Callable[..., Tensor], *weight: int):
        super().__init__()
        self.function = function
        self.weight = nn.Parameter(torch.randn(weight))  # without sizes a number that nothing uses: some need a parameter

    def forward(self, x: Tensor) -> Tensor:
        return self.function(x, self.weight) if self.weight.dim() else self.function(x)


class Inside(nn.Module):
    """A layer in a network of its own: not all count a bare layer."""

    def __init__(self, layer: nn.Module):
        super().__init__()
        self.layer = layer

    def forward(self, x: Tensor) -> Tensor:
        y = self.layer(x)
        return y if isinstance(y, Tensor) else y[0]


S, D, HEADS, FF = 32, 64, 4, 96
BLOCK = 4 * S * D * D + 2 * S * S * D  # one attention: four projections, two products


class Attention(nn.Module):
    """Attention written out, or with torch's function."""

    def __init__(self, eager: bool, causal: bool = False):
        super().__init__()
        self.qkv, self.out, self.eager, self.causal = nn.Linear(D, 3 * D), nn.Linear(D, D), eager, causal

    def forward(self, x: Tensor) -> Tensor:
        q, k, v = (t.unflatten(-1, (HEADS, -1)).transpose(1, 2) for t in self.qkv(x).chunk(3, -1))
        if self.eager:
            y = (q @ k.transpose(-2, -1) / math.sqrt(D // HEADS)).softmax(-1) @ v
        else:
            y = F.scaled_dot_product_attention(q, k, v, is_causal=self.causal)
        return self.out(y.transpose(1, 2).flatten(2))


class SelfAttention(nn.Module):
    """torch's own layer, which takes its fast path in evaluation."""

    def __init__(self):
        super().__init__()
        self.layer = nn.MultiheadAttention(D, HEADS, batch_first=True)

    def forward(self, x: Tensor) -> Tensor:
        return self.layer(x, x, x, need_weights=False)[0]


class Repeated(nn.Module):
    def __init__(self, times: int, width: int):
        super().__init__()
        self.layer, self.times = nn.Linear(width, width), times

    def forward(self, x: Tensor) -> Tensor:
        for _ in range(self.times):
            x = self.layer(x)
        return x


class Tied(nn.Module):
    """A language model without a middle: the output's weight is the embedding's."""

    def __init__(self, words: int, width: int):
        super().__init__()
        self.table, self.head = nn.Embedding(words, width), nn.Linear(width, words, bias=False)
        self.head.weight = self.table.weight

    def forward(self, ids: Tensor) -> Tensor:
        return self.head(self.table(ids))


class Language(nn.Module):
    """A causal language model of one block."""

    def __init__(self, words: int):
        super().__init__()
        self.table, self.block, self.head = nn.Embedding(words, D), Attention(False, True), nn.Linear(D, words, bias=False)

    def forward(self, ids: Tensor) -> Tensor:
        return self.head(self.block(self.table(ids)))


class Around(nn.Module):
    """A small convolutional network called in a way of its own."""

    def __init__(self, way: str):
        super().__init__()
        self.body, self.head, self.way = nn.Sequential(nn.Conv2d(3, 8, 3), nn.ReLU(), nn.Conv2d(8, 8, 3)), nn.Linear(8, 5), way

    def forward(self, x: Tensor) -> Tensor:
        if self.way == "inference_mode":
            with torch.inference_mode():
                return self.head(self.body(x).mean((2, 3)))
        x = checkpoint(self.body, x, use_reentrant=False) if self.way == "checkpoint" else self.body(x)
        return self.head(x.mean((2, 3)))


class Functional(nn.Module):
    """A layer called with other weights than its own."""

    def __init__(self):
        super().__init__()
        self.layer, self.weight = nn.Linear(D, FF, bias=False), nn.Parameter(torch.randn(FF, D))

    def forward(self, x: Tensor) -> Tensor:
        return torch.func.functional_call(self.layer, {"weight": self.weight}, (x,))


class Graph(nn.Module):
    """One step over a ring: each of S nodes has two neighbours."""

    def __init__(self):
        super().__init__()
        ring = torch.eye(S).roll(1, 0) + torch.eye(S).roll(-1, 0)
        self.register_buffer("adjacency", ring.to_sparse_csr())
        self.scale = nn.Parameter(torch.ones(()))  # some need a parameter

    def forward(self, x: Tensor) -> Tensor:
        return self.scale * (self.adjacency @ x)


def pruned() -> nn.Module:
    """Half of the weights are zeros that are multiplied as all others are."""
    return Inside(prune.l1_unstructured(nn.Linear(D, FF), "weight", 0.5))


def energy(x: Tensor, w: Tensor) -> Tensor:
    return (x @ w).square().sum()


def four_turns(x: Tensor, w: Tensor) -> Tensor:
    return torch.while_loop(lambda i, y: i < 4, lambda i, y: (i + 1, y @ w), (torch.tensor(0), x))[1]


def either(x: Tensor, w: Tensor) -> Tensor:
    return torch.cond(torch.tensor(True), lambda y: y @ w, lambda y: y @ w + y @ w, (x,))


@torch.jit.script
def scripted(x: Tensor, w: Tensor) -> Tensor:
    return (x @ w).relu()


class Flex(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        return flex_attention(x, x, x)  # type: ignore[return-value]


def halves() -> Tensor:
    """Rows of which every other one begins with a positive number."""
    x = torch.rand(S, D) + 0.1
    x[::2] *= -1
    return x


def masked(x: Tensor, w: Tensor) -> Tensor:
    return x[x[:, 0] > 0] @ w


def nonzero(x: Tensor, w: Tensor) -> Tensor:
    return x[(x[:, 0] > 0).nonzero().flatten()] @ w


def largest(x: Tensor, w: Tensor) -> Tensor:
    return x[x[:, 0].topk(5).indices] @ w


AROUND = 14 * 14 * 8 * 27 + 12 * 12 * 8 * 72 + 40


@torch.library.custom_op("lamina_conformance::product", mutates_args=())
def product(a: Tensor, b: Tensor) -> Tensor:
    """A product that no counter can know."""
    return a @ b


@product.register_fake
def _(a: Tensor, b: Tensor) -> Tensor:
    return a.new_empty(a.shape[0], b.shape[1])


def picture(side: int) -> Tensor:
    return torch.randn(1, 3, side, side)


def words(length: int) -> Tensor:
    return torch.zeros(1, length, dtype=torch.long)


def resnet50_macs() -> int:
    macs, channels, side = 112 * 112 * 64 * 3 * 49, 64, 56
    for stage, depth in enumerate((3, 4, 6, 3)):
        width = 64 * 2**stage
        for block in range(depth):
            inner = side
            side = side // 2 if block == 0 and stage else side
            macs += inner**2 * channels * width + side**2 * width * width * 9 + side**2 * width * 4 * width
            macs += side**2 * channels * 4 * width if block == 0 else 0
            channels = 4 * width
    return macs + 2048 * 1000


def vit_macs(d: int, depth: int, patches: int) -> int:
    tokens = patches + 1
    return patches * 768 * d + depth * (12 * tokens * d * d + 2 * tokens**2 * d) + d * 1000


def swin_macs() -> int:
    macs, tokens, d = 56 * 56 * 48 * 96, 56 * 56, 96
    for stage, depth in enumerate((2, 2, 6, 2)):
        if stage:
            tokens, d = tokens // 4, 2 * d
            macs += tokens * 2 * d * d  # four patches of d/2 to one of d
        macs += depth * (12 * tokens * d * d + 2 * tokens * 49 * d)
    return macs + 768 * 1000


def mixtral(experts: int, chosen: int) -> tuple[nn.Module, Tensor]:
    """The weights of the experts that each token goes to are gathered: no loop that asks for values."""
    config = transformers.MixtralConfig(
        vocab_size=100, hidden_size=D, intermediate_size=FF, num_hidden_layers=1, num_attention_heads=HEADS,
        num_key_value_heads=HEADS, num_local_experts=experts, num_experts_per_tok=chosen, use_cache=False,
    )  # fmt: skip
    net = transformers.MixtralForCausalLM(config)
    net.set_experts_implementation("batched_mm")
    return Logits(net), words(S)


class Logits(nn.Module):
    """A language model that gives a plain tensor."""

    def __init__(self, net: nn.Module):
        super().__init__()
        self.net = net
        self.register_buffer("positions", torch.arange(S)[None])

    def forward(self, ids: Tensor) -> Tensor:
        return self.net(input_ids=ids, position_ids=self.positions).logits


def gates(count: int, width: int, hidden: int, projected: int = 0) -> int:
    """The products of one step of a recurrent layer."""
    state = projected or hidden
    return count * hidden * (width + state) + hidden * projected


X, H, P, T = 10, 12, 6, 7
ATTENTION = "attention: eager, SDPA, and torch's own layers"
OUTSIDE = "products outside a layer: @, matmul, bmm, baddbmm, einsum, F.linear"
RECURRENT = "LSTM, GRU: bidirectional, projected, batch first"
TRANSPOSED = "ConvTranspose2d: grouped, strided, depthwise"
AGAIN = "one layer called four times; tied weights"
MODES = "inference mode, checkpointing, compiled"
MOE = "mixture of experts: active MACs, all parameters"
LAYERS = "a layer alone; over tokens; in a network in a network; a weight of one's own"
SCRIPTED = "a scripted function inside a forward"
VALUES = "values decide: a boolean mask, nonzero, top-k as indices"
MAPPED = "torch.vmap, torch.func.functional_call"
GRADIENT = "gradients in a forward: torch.func.grad, vjp, jacrev"
CONTROL = "torch.cond, torch.while_loop"
UNUSUAL = "layers that are lazy, pruned, sparse"
CASES = [
    Case("ResNet-50", "", lambda: (torchvision.models.resnet50(), picture(224)), resnet50_macs()),
    Case("ViT-B/16", "", lambda: (torchvision.models.vit_b_16(), picture(224)), vit_macs(768, 12, 196)),
    Case("Swin-T", "", lambda: (torchvision.models.swin_t(), picture(224)), swin_macs()),
    Case(
        "scaled_dot_product_attention, q = k = v", "",
        lambda: (Call(lambda x: F.scaled_dot_product_attention(x, x, x)), torch.randn(1, 12, 64, 64)), 2 * 12 * 64**3,
    ),
    Case(ATTENTION, "eager", lambda: (Attention(True), torch.randn(1, S, D)), BLOCK),
    Case(ATTENTION, "SDPA", lambda: (Attention(False), torch.randn(1, S, D)), BLOCK),
    Case(ATTENTION, "MultiheadAttention", lambda: (SelfAttention(), torch.randn(1, S, D)), BLOCK),
    Case(
        ATTENTION, "TransformerEncoderLayer",
        lambda: (Inside(nn.TransformerEncoderLayer(D, HEADS, FF, batch_first=True)), torch.randn(1, S, D)),
        BLOCK + 2 * S * D * FF,
    ),
    Case(
        "grouped queries: 32 heads, 8 of keys", "",
        lambda: (
            Call(lambda x: F.scaled_dot_product_attention(x, x[:, :8], x[:, :8], enable_gqa=True)), torch.randn(1, 32, 16, 8)
        ),
        2 * 32 * 16 * 16 * 8,
    ),
    Case("causal attention, dense", "", lambda: (Attention(False, True), torch.randn(1, S, D)), BLOCK),
    Case(
        TRANSPOSED, "grouped, stride 2",
        lambda: (Inside(nn.ConvTranspose2d(8, 12, 3, 2, groups=2)), torch.randn(1, 8, 10, 10)), 100 * 8 * 12 // 2 * 9,
    ),
    Case(
        TRANSPOSED, "depthwise",
        lambda: (Inside(nn.ConvTranspose2d(8, 8, 4, 2, 1, groups=8)), torch.randn(1, 8, 10, 10)), 100 * 8 * 16,
    ),
    Case(
        RECURRENT, "LSTM, two layers, both ways", lambda: (Inside(nn.LSTM(X, H, 2, bidirectional=True)), torch.randn(T, 1, X)),
        2 * T * (gates(4, X, H) + gates(4, 2 * H, H)),
    ),
    Case(
        RECURRENT, "LSTM, projected", lambda: (Inside(nn.LSTM(X, H, batch_first=True, proj_size=P)), torch.randn(2, T, X)),
        2 * T * gates(4, X, H, P),
    ),
    Case(RECURRENT, "GRU", lambda: (Inside(nn.GRU(X, H, batch_first=True)), torch.randn(2, T, X)), 2 * T * gates(3, X, H)),
    Case(OUTSIDE, "@", lambda: (Call(lambda x, w: x @ w, D, FF), torch.randn(2, S, D)), 2 * S * D * FF),
    Case(OUTSIDE, "matmul", lambda: (Call(torch.matmul, 2, D, FF), torch.randn(2, S, D)), 2 * S * D * FF),
    Case(OUTSIDE, "bmm", lambda: (Call(torch.bmm, 2, D, FF), torch.randn(2, S, D)), 2 * S * D * FF),
    Case(
        OUTSIDE, "baddbmm", lambda: (Call(lambda x, w: torch.baddbmm(x[:, :, :1], x, w), 2, D, FF), torch.randn(2, S, D)),
        2 * S * D * FF,
    ),
    Case(
        OUTSIDE, "einsum", lambda: (Call(lambda x, w: torch.einsum("bsd,df->bsf", x, w), D, FF), torch.randn(2, S, D)),
        2 * S * D * FF,
    ),
    Case(OUTSIDE, "F.linear", lambda: (Call(F.linear, FF, D), torch.randn(2, S, D)), 2 * S * D * FF),
    Case(AGAIN, "MACs of four calls", lambda: (Repeated(4, D), torch.randn(1, D)), 4 * D * D),
    Case(AGAIN, "parameters of four calls", lambda: (Repeated(4, D), torch.randn(1, D)), D * D + D, True),
    Case(AGAIN, "parameters tied", lambda: (Tied(1000, D), words(S)), 1000 * D, True),
    Case(AGAIN, "MACs tied", lambda: (Tied(1000, D), words(S)), S * 1000 * D),
    Case("Embedding", "", lambda: (Inside(nn.Embedding(1000, D)), words(S)), 0),
    Case("language model, twice the tokens", "short", lambda: (Language(100), words(S)), BLOCK + S * D * 100),
    Case(
        "language model, twice the tokens", "long", lambda: (Language(100), words(2 * S)),
        8 * S * D * D + 8 * S * S * D + 2 * S * D * 100,
    ),
    Case(
        MOE, "active MACs", lambda: mixtral(8, 2), BLOCK + S * D * 8 + 2 * S * 3 * D * FF + S * D * 100,
    ),
    Case(MOE, "parameters", lambda: mixtral(8, 2), 4 * D * D + 8 * D + 8 * 3 * D * FF + 3 * D + 200 * D, True),
    Case(LAYERS, "a convolution alone", lambda: (nn.Conv2d(3, 8, 3), picture(16)), 14 * 14 * 8 * 27),
    Case(LAYERS, "a linear layer over tokens", lambda: (Inside(nn.Linear(D, FF)), torch.randn(2, S, D)), 2 * S * D * FF),
    Case(
        LAYERS, "in a network in a network",
        lambda: (Inside(nn.Sequential(nn.Sequential(nn.Conv2d(3, 8, 3)), nn.Conv2d(8, 8, 3))), picture(16)),
        14 * 14 * 8 * 27 + 12 * 12 * 8 * 72,
    ),
    Case(LAYERS, "parameters with a weight of one's own", lambda: (Call(torch.mul, D), torch.randn(1, D)), D, True),
    Case(SCRIPTED, "", lambda: (Call(scripted, D, FF), torch.randn(S, D)), S * D * FF),
    Case(VALUES, "a boolean mask", lambda: (Call(masked, D, FF), halves()), S // 2 * D * FF),
    Case(VALUES, "nonzero", lambda: (Call(nonzero, D, FF), halves()), S // 2 * D * FF),
    Case(VALUES, "top-k as indices", lambda: (Call(largest, D, FF), halves()), 5 * D * FF),
    Case(MAPPED, "vmap", lambda: (Call(lambda x, w: torch.vmap(lambda r: r @ w)(x), D, FF), torch.randn(S, D)), S * D * FF),
    Case(MAPPED, "functional_call", lambda: (Functional(), torch.randn(S, D)), S * D * FF),
    Case(
        MAPPED, "vmap of vmap",
        lambda: (Call(lambda x, w: torch.vmap(torch.vmap(lambda r: r @ w))(x), D, FF), torch.randn(2, S, D)), 2 * S * D * FF,
    ),
    Case(
        GRADIENT, "grad", lambda: (Call(lambda x, w: torch.func.grad(energy)(x, w), D, FF), torch.randn(S, D)), 2 * S * D * FF
    ),
    Case(
        GRADIENT, "grad of each row",
        lambda: (Call(lambda x, w: torch.vmap(torch.func.grad(energy), (0, None))(x, w), D, FF), torch.randn(S, D)),
        2 * S * D * FF,
    ),
    Case(
        GRADIENT, "vjp",
        lambda: (Call(lambda x, w: torch.func.vjp(lambda y: y @ w, x)[1](x @ w)[0], D, FF), torch.randn(S, D)), 3 * S * D * FF,
    ),
    Case(
        GRADIENT, "jacrev", lambda: (Call(lambda x, w: torch.func.jacrev(lambda y: y @ w)(x), D, FF), torch.randn(D)),
        D * FF + FF * D * FF,
    ),
    Case(CONTROL, "while_loop", lambda: (Call(four_turns, D, D), torch.randn(S, D)), 4 * S * D * D),
    Case(CONTROL, "cond", lambda: (Call(either, D, FF), torch.randn(S, D)), S * D * FF),
    Case(UNUSUAL, "lazy", lambda: (Inside(nn.LazyLinear(FF)), torch.randn(S, D)), S * D * FF),
    Case(UNUSUAL, "parameters, lazy", lambda: (Inside(nn.LazyLinear(FF)), torch.randn(S, D)), D * FF + FF, True),
    Case(UNUSUAL, "pruned", lambda: (pruned(), torch.randn(S, D)), S * D * FF),
    Case(UNUSUAL, "parameters, pruned", lambda: (pruned(), torch.randn(S, D)), D * FF + FF, True),
    Case(UNUSUAL, "sparse", lambda: (Graph(), torch.randn(S, D)), 2 * S * D),
    Case("FlexAttention", "", lambda: (Flex(), torch.randn(1, HEADS, S, D // HEADS)), 2 * S * S * D),
    Case(MODES, "inference_mode", lambda: (Around("inference_mode"), picture(16)), AROUND),
    Case(MODES, "checkpointing", lambda: (Around("checkpoint"), picture(16)), AROUND),
    Case(MODES, "compiled", lambda: (torch.compile(Around("plain"), backend="eager"), picture(16)), AROUND),
]  # fmt: skip


# Where a row comes from: an issue of a counter's tracker that it is made after.
SOURCES = {
    "ViT-B/16": ["TylerYep/torchinfo#226"],
    ATTENTION: ["sovrasov/flops-counter.pytorch#65"],
    OUTSIDE: ["MrYxJ/calculate-flops.pytorch#35"],
    AGAIN: ["Lyken17/pytorch-OpCounter#98"],
    LAYERS: ["Lyken17/pytorch-OpCounter#110", "TylerYep/torchinfo#39", "TylerYep/torchinfo#54", "TylerYep/torchinfo#77"],
    MODES: ["pytorch/pytorch#126268"],
    "an unknown operator is named": ["pytorch/pytorch#131041"],
}
# Rows that some other counter has right and Lamina has not: why. Where Lamina comes to be right, it is to go from here.
BEHIND: dict[str, str] = {}
# Rows that most of the others cannot enter: shown apart, and not counted.
APART = ("ConvTranspose2d's backward pass", "ONNX: Loop, If, 1-D MaxPool, DynamicQuantizeLinear")
