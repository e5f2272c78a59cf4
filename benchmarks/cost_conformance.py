"""Who counts right: Lamina and six other counters on cases that are known to go wrong, against arithmetic.

make peers, or .parity/bin/python benchmarks/cost_conformance.py [--only SUBSTRING] [--cases] [--record]

Every case is a small network, given alike to all, and the exact number, worked out here from its sizes: multiply-accumulates
of convolutions, linear layers and matrix products. A counter that speaks of FLOPs is halved. A row's cell says how many of
its cases were right, or the number that was given instead; cases of parameters are none of a counter's that gives none.

The rows were chosen by Lamina's developers: from complaints in the counters' issue trackers (`SOURCES` names the issue), from
what Lamina itself once got wrong, and because others get them right and Lamina does not (`BEHIND`, with why). What the others
cannot enter at all is `APART` and not part of the score. `--record` writes benchmarks/records/cost_conformance.json.
"""

import argparse
import contextlib
import copy
import inspect
import io
import math
import multiprocessing
import sys
import tempfile
import threading
import warnings
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import calflops
import fvcore.nn
import ptflops
import record
import tables
import thop
import torch
import torchinfo
import torchvision
import transformers
from torch import Tensor, nn
from torch.nn import functional as F
from torch.utils.checkpoint import checkpoint
from torch.utils.flop_counter import FlopCounterMode

from lamina.errors import LaminaError
from lamina.tracing.tracer import trace

Counts = tuple[int, int | None]  # MACs, parameters where the counter gives them


# ---- the counters -----------------------------------------------------------------------------------------------


def lamina(module: nn.Module, *inputs: Tensor) -> Counts:
    try:
        work = trace(module, *inputs)
    except LaminaError:
        if "values" not in inspect.signature(trace).parameters:
            raise
        work = trace(module, *inputs, values=True)  # type: ignore[call-arg]  # what shapes do not decide, on real values
    if work.coverage.unknown:
        raise NotImplementedError(f"listed as unknown: {work.coverage.unknown[0].op}")
    return work.macs, sum(weight.numel for weight in work.weights)


def flop_counter(module: nn.Module, *inputs: Tensor) -> Counts:
    with torch.no_grad(), FlopCounterMode(display=False) as counter:
        module(*inputs)
    return counter.get_total_flops() // 2, None


def by_fvcore(module: nn.Module, *inputs: Tensor) -> Counts:
    analysis = fvcore.nn.FlopCountAnalysis(module, inputs)
    macs = int(analysis.total())  # which it calls FLOPs
    if any("lamina_conformance" in op for op in analysis.unsupported_ops()):
        raise NotImplementedError("listed as unknown")
    return macs, fvcore.nn.parameter_count(module)[""]


def by_ptflops(module: nn.Module, *inputs: Tensor) -> Counts:
    named = dict(zip(argument_names(module), inputs, strict=False))
    result = ptflops.get_model_complexity_info(
        module, (1,), as_strings=False, print_per_layer_stat=False, input_constructor=lambda _: named
    )
    if result[0] is None:
        raise ValueError("it gives no count")
    return int(result[0]), int(result[1])


def by_thop(module: nn.Module, *inputs: Tensor) -> Counts:
    macs, parameters = thop.profile(module, inputs=inputs, verbose=False)
    return int(macs), int(parameters)


def by_torchinfo(module: nn.Module, *inputs: Tensor) -> Counts:
    result = torchinfo.summary(module, input_data=list(inputs), verbose=0)
    return int(result.total_mult_adds), int(result.total_params)


def by_calflops(module: nn.Module, *inputs: Tensor) -> Counts:
    _, macs, parameters = calflops.calculate_flops(
        module, args=list(inputs), print_results=False, print_detailed=False, output_as_string=False
    )
    return int(macs), int(parameters)


TOOLS: dict[str, Callable[..., Counts]] = {
    "Lamina": lamina,
    "FlopCounterMode": flop_counter,
    "fvcore": by_fvcore,
    "ptflops": by_ptflops,
    "thop": by_thop,
    "torchinfo": by_torchinfo,
    "calflops": by_calflops,
}


def argument_names(module: nn.Module) -> list[str]:
    return list(inspect.signature(module.forward).parameters)


# ---- the cases --------------------------------------------------------------------------------------------------


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


@torch.jit.script
def scripted(x: Tensor, w: Tensor) -> Tensor:
    return (x @ w).relu()


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
BEHIND: dict[str, str] = {
    VALUES: "a trace sees shapes, and says in one line that it would need values",
    MAPPED: "torch.vmap is refused in one line",
}
# Rows that most of the others cannot enter: shown apart, and not counted.
APART = ("ConvTranspose2d's backward pass", "ONNX: Loop, If, 1-D MaxPool, DynamicQuantizeLinear")


# ---- cases that are no number -----------------------------------------------------------------------------------


def snapshot(module: nn.Module) -> tuple[Any, ...]:
    hooks = [[len(v) for k, v in m.__dict__.items() if "hooks" in k and hasattr(v, "__len__")] for m in module.modules()]
    attributes = [sorted(m.__dict__) for m in module.modules()]
    types = [(type(m), getattr(m.forward, "__func__", m.forward)) for m in module.modules()]
    return list(module.state_dict()), hooks, attributes, types, [m.training for m in module.modules()]


def leaves_no_trace(tool: Callable[..., Counts]) -> str:
    module = nn.Sequential(nn.Conv2d(3, 8, 3), nn.BatchNorm2d(8), nn.Dropout(), nn.ReLU()).train()
    before, state = snapshot(module), {k: v.clone() for k, v in module.state_dict().items()}
    tool(module, picture(8))
    if snapshot(module) != before:
        return "leaves attributes or hooks"
    same = all(torch.equal(v, state[k]) for k, v in module.state_dict().items())
    return "right" if same else "changes running statistics"


def counts_again(tool: Callable[..., Counts]) -> str:
    module = Around("plain").eval()
    first, second = tool(module, picture(16))[0], tool(module, picture(16))[0]
    return "right" if first == second else f"{first:,}, then {second:,}"


def counts_in_threads(tool: Callable[..., Counts]) -> str:
    """Two threads count one network again and again, at once."""
    module, inputs = torchvision.models.squeezenet1_1().eval(), picture(64)
    alone = tool(copy.deepcopy(module), inputs)[0]
    found: list[int | str] = []
    barrier = threading.Barrier(2)

    def work() -> None:
        barrier.wait()
        for _ in range(3):
            try:
                found.append(tool(module, inputs)[0])
            except Exception as error:
                found.append(type(error).__name__)

    threads = [threading.Thread(target=work) for _ in range(2)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    wrong = [x for x in found if x != alone]
    return "right" if not wrong else f"{len(wrong)} of {len(found)} wrong"


def counts_backward(tool: Callable[..., Counts]) -> str:
    """Of transposed convolutions, grouped and depthwise: a product for the weight's gradient and one for the input's, which
    only the first layer does without."""
    net = nn.Sequential(
        nn.Conv2d(3, 8, 1), nn.ConvTranspose2d(8, 12, 3, 2, groups=2), nn.ConvTranspose2d(12, 12, 4, 2, 1, groups=12)
    )
    right, x = 100 * 24 + 2 * 100 * 8 * 12 // 2 * 9 + 2 * 21 * 21 * 12 * 16, picture(10)
    if tool is lamina:
        macs = trace(net, x).total().backward_macs
    elif tool is flop_counter:
        y = net(x)
        with FlopCounterMode(display=False) as counter:
            y.sum().backward()
        macs = counter.get_total_flops() // 2
    else:
        return "counts none"
    return "right" if macs == right else f"{macs:,} for {right:,}"


def lists_the_unknown(tool: Callable[..., Counts]) -> str:
    module = Call(torch.ops.lamina_conformance.product, D, D).eval()
    try:
        with torch.no_grad():
            macs, _ = tool(module, torch.randn(S, D))
    except NotImplementedError:
        return "right"
    return f"{macs:,}, silently"


def reads_onnx(tool: Callable[..., Counts]) -> str:
    """A Loop of eight steps around a product, an If around one, a 1-D MaxPool and DynamicQuantizeLinear."""
    if tool is not lamina:
        return "reads no ONNX"
    import onnx
    from onnx import TensorProto as P
    from onnx import helper as h

    from lamina.onnx.graph import read

    def value(name: str, shape: Iterable[int | str], kind: int = P.FLOAT) -> Any:
        return h.make_tensor_value_info(name, kind, list(shape))

    def constant(name: str, array: Tensor) -> Any:
        return onnx.numpy_helper.from_array(array.numpy(), name)

    square = constant("w", torch.zeros(4, 4))
    loop = h.make_graph(
        [h.make_node("MatMul", ["s", "w"], ["t"]), h.make_node("Identity", ["c"], ["d"])], "body",
        [value("i", [], P.INT64), value("c", [], P.BOOL), value("s", [3, 4])], [value("d", [], P.BOOL), value("t", [3, 4])],
    )  # fmt: skip
    branches = {
        f"{side}_branch": h.make_graph([h.make_node("MatMul", ["x", "w"], [side])], side, [], [value(side, [3, 4])])
        for side in ("then", "else")
    }
    graphs = {
        8 * 48: ([h.make_node("Loop", ["n", "", "x"], ["y"], body=loop)], [value("x", [3, 4])], [value("y", [3, 4])]),
        48: ([h.make_node("If", ["b"], ["y"], **branches)], [value("x", [3, 4]), value("b", [], P.BOOL)], [value("y", [3, 4])]),
        0: (
            [
                h.make_node("MaxPool", ["x"], ["p"], kernel_shape=[2], strides=[2]),
                h.make_node("DynamicQuantizeLinear", ["p"], ["q", "scale", "zero"]),
            ],
            [value("x", [1, 3, 8])],
            [value("q", [1, 3, 4], P.UINT8)],
        ),
    }
    for right, (nodes, inputs, outputs) in graphs.items():
        graph = h.make_graph(nodes, "g", inputs, outputs, [square, constant("n", torch.tensor(8))])
        with tempfile.TemporaryDirectory() as folder:
            path = Path(folder) / "net.onnx"
            onnx.save(h.make_model(graph, opset_imports=[h.make_opsetid("", 17)], ir_version=8), path)
            work = read(path, {})
        if work.total().macs != right or work.coverage.unknown:
            return f"{work.total().macs:,} for {right:,}"
    return "right"


CHECKS: dict[str, Callable[[Callable[..., Counts]], str]] = {
    "ConvTranspose2d's backward pass": counts_backward,
    "the network is left as it was": leaves_no_trace,
    "counting twice": counts_again,
    "counting in two threads": counts_in_threads,
    "an unknown operator is named": lists_the_unknown,
    "ONNX: Loop, If, 1-D MaxPool, DynamicQuantizeLinear": reads_onnx,
}


# ---- the table --------------------------------------------------------------------------------------------------


@contextlib.contextmanager
def quiet():
    with warnings.catch_warnings(), contextlib.redirect_stdout(io.StringIO()), contextlib.redirect_stderr(io.StringIO()):
        warnings.simplefilter("ignore")
        yield


def alone(function: Callable[[], str]) -> str:
    """The result of `function` in a process of its own: what a counter leaves behind spoils no other case."""
    receiver, sender = multiprocessing.Pipe(duplex=False)

    def work() -> None:
        try:
            with quiet():
                result = function()
        except BaseException as error:
            result = f"fails: {type(error).__name__}: {(str(error).splitlines() or [''])[0]}"
        sender.send(result)

    process = multiprocessing.get_context("fork").Process(target=work)
    process.start()
    sender.close()  # this end of it: where the process dies, as fvcore's does at times in two threads, no answer can come
    try:
        result = receiver.recv() if receiver.poll(300) else "fails: no answer in five minutes"
    except EOFError:
        result = "fails: its process died"
    process.kill()
    process.join()
    return result


def attempt(tool: Callable[..., Counts], case: Case) -> str:
    """ "right", the number given instead, or "gives none"."""
    torch.manual_seed(0)
    module, *inputs = case.make()
    counts = tool(module.eval(), *inputs)
    given = counts[1] if case.parameters else counts[0]
    return "gives none" if given is None else "right" if given == case.right else f"{given:,}"


def cell(results: list[str]) -> str:
    """A row's results in one tool's column, of the cases that the tool can enter."""
    results = [result for result in results if result != "gives none"] or results
    count = results.count("right")
    if count == len(results):
        return "**right**"
    return results[0].partition(":")[0] if len(results) == 1 else f"{count} of {len(results)}"


Rows = dict[str, dict[str, list[str]]]


def measure(only: str, shown: bool) -> Rows:
    """Each row's results by tool, of the rows that have `only` in their name; `shown`: every case is printed."""
    rows: Rows = {}
    for case in CASES:
        if only in case.row:
            for name, tool in TOOLS.items():
                result = alone(partial(attempt, tool, case))
                rows.setdefault(case.row, {}).setdefault(name, []).append(result)
                if shown:
                    print(f"{case.row} | {case.name} | {case.right:,} | {name}: {result}", flush=True)
    for row, function in CHECKS.items():
        if only in row:
            rows[row] = {name: [alone(partial(function, tool))] for name, tool in TOOLS.items()}
            if shown:
                print(*(f"{row} | {name}: {result}" for name, (result,) in rows[row].items()), sep="\n", flush=True)
    return rows


def table(rows: Rows) -> list[dict[str, Any]]:
    """The rows as they are shown and recorded."""
    exact = {case.row: f"{case.right:,}" for case in CASES if not case.name}
    return [
        {
            "row": row, "exact": exact.get(row, ""), "cells": [cell(cells[name]) for name in TOOLS],
            "results": [cells[name] for name in TOOLS], "apart": row in APART,
            "source": SOURCES.get(row, []), "behind": BEHIND.get(row, ""),
        }
        for row, cells in rows.items()
    ]  # fmt: skip


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--only", default="", metavar="SUBSTRING", help="the rows that have this in them")
    parser.add_argument("--cases", action="store_true", help="every case and every number, not only the table")
    parser.add_argument("--record", action="store_true", help="write benchmarks/records/cost_conformance.json")
    options = parser.parse_args()
    torch.set_num_threads(1)
    transformers.logging.set_verbosity_error()
    found = table(measure(options.only, options.cases))
    print(tables.conformance(list(TOOLS), found))
    if options.record:
        made = record.provenance(
            seed=0, packages=("fvcore", "ptflops", "thop", "torchinfo", "calflops", "torchvision", "transformers")
        )
        record.write("cost_conformance", made, tools=list(TOOLS), rows=found)
    wrong = [r["row"] for r in found if r["cells"][0] != "**right**" and not r["behind"]]
    mended = [r["row"] for r in found if r["cells"][0] == "**right**" and r["behind"]]
    for row in (*wrong, *mended):
        print(f"{row}: {'wrong' if row in wrong else 'right by now: take it out of BEHIND'}", file=sys.stderr)
    return 1 if wrong or mended else 0


if __name__ == "__main__":
    sys.exit(main())
