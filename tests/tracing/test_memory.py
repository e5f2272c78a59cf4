"""Memory and the backward pass, held to real training steps."""

import itertools
import subprocess
import sys

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn
from torch.utils.flop_counter import FlopCounterMode

import lamina
from lamina.cost import memory
from lamina.errors import InputError
from lamina.zoo import registry
from tests.saved import Watch, saved_bytes

OPTIMIZERS = {
    "sgd": lambda p: torch.optim.SGD(p, lr=0.1),
    "momentum": lambda p: torch.optim.SGD(p, lr=0.1, momentum=0.9),
    "adam": lambda p: torch.optim.Adam(p),
    "adamw": lambda p: torch.optim.AdamW(p),
}


class Small(nn.Module):
    """Strided, grouped and transposed convolutions, a norm, attention."""

    def __init__(self, groups: int = 4) -> None:
        super().__init__()
        self.conv, self.bn = nn.Conv2d(3, 8, 3, 2, 1), nn.BatchNorm2d(8)
        self.grouped, self.up = nn.Conv2d(8, 8, 3, 1, 1, groups=groups), nn.ConvTranspose2d(8, 6, 2, 2)
        self.qkv, self.head = nn.Linear(6, 18), nn.Linear(6, 5)

    def forward(self, x):
        x = self.up(torch.relu(self.grouped(torch.relu(self.bn(self.conv(x))))))
        q, k, v = self.qkv(x.flatten(2).transpose(1, 2)).chunk(3, -1)
        y = (q @ k.transpose(1, 2)).softmax(-1) @ v
        return self.head(y[:, 0])


def step(module, x, optimizer):
    """A real training step: bytes of gradients, optimizer states, and storages saved for the backward pass."""
    saved = saved_bytes(module, x)
    parameters = [p for p in module.parameters() if p.requires_grad]
    optim = OPTIMIZERS[optimizer](parameters)
    loss = module(x).square().sum()
    loss.backward()
    optim.step()
    states = itertools.chain.from_iterable(state.values() for state in optim.state.values())
    gradients = sum(p.grad.nbytes for p in parameters if p.grad is not None)
    return gradients, sum(s.nbytes for s in states if isinstance(s, torch.Tensor)), saved


@pytest.mark.parametrize("optimizer", OPTIMIZERS)
def test_a_training_step_takes_the_bytes_that_we_say(optimizer):
    module, x = Small().train(), torch.randn(2, 3, 16, 16)
    said = memory.training(lamina.trace(module, x), optimizer)
    gradients, states, saved = step(module, x, optimizer)
    assert (said.gradients, said.states) == (gradients, states)
    assert said.weights == sum(p.nbytes for p in module.parameters()) and said.master == 0
    assert said.saved == saved
    assert said.total == said.weights + gradients + states + said.saved


@pytest.mark.parametrize("optimizer", OPTIMIZERS)
def test_the_optimizers_step_allocates_what_we_say(optimizer):
    """A wide layer and few activations: then it decides the peak (a Linear of 64x64, whose 16,384 bytes Adam has twice)."""
    module, x = nn.Sequential(nn.Linear(64, 64), nn.Linear(64, 3)), torch.randn(1, 64)
    optim = OPTIMIZERS[optimizer](module.parameters())
    for _ in range(2):  # the states come with the first
        module(x).sum().backward()
        own = [y for p in module.parameters() for y in (p, p.grad, *optim.state[p].values()) if isinstance(y, torch.Tensor)]
        watch = Watch({y.untyped_storage()._cdata for y in own})
        with watch:
            optim.step()
    said = memory.training(lamina.trace(module, x), optimizer)
    assert said.temporaries == (2 * 64 * 64 * 4 if "adam" in optimizer else 0)
    assert said.temporaries <= watch.peak <= said.temporaries + 64  # and numbers: the steps' corrections
    assert said.total == said.weights + said.gradients + said.states + max(said.saved, said.temporaries)
    gpu = memory.training(lamina.trace(module, x, device="cuda"), optimizer)
    assert gpu.temporaries == (said.weights if "adam" in optimizer else 0)


@pytest.mark.parametrize("name", ["lenet5", "lenet5_dense", "resnet20_cifar"])
def test_zoo_networks_train_in_the_bytes_that_we_say(name):
    module = registry.build(name).train()
    x = torch.randn(2, *registry.spec(name).input)
    said = memory.training(lamina.trace(module, x), "adamw")
    gradients, states, saved = step(module, x, "adamw")
    assert (said.gradients, said.states, said.saved) == (gradients, states, saved)


def test_mixed_precision_takes_sixteen_bytes_a_parameter():
    module = nn.Linear(10, 7, bias=False, dtype=torch.bfloat16)
    work = lamina.trace(module, torch.empty(1, 10, dtype=torch.bfloat16))
    said = memory.training(work, "adam", master=True)
    assert said.weights + said.gradients + said.states + said.master == 16 * 70 + 4  # and the step's counter
    assert memory.training(work, "adam").states == 4 * 70 + 4
    with pytest.raises(InputError, match="16-bit"):
        memory.training(lamina.trace(nn.Linear(2, 2), torch.empty(1, 2)), "adam", master=True)
    with pytest.raises(InputError, match="no optimizer"):
        memory.training(work, "lion")


def counted_backward(module, x):
    with FlopCounterMode(display=False) as counter:
        loss = module(x).sum()
        forward = counter.get_total_flops()
        loss.backward()
    return (counter.get_total_flops() - forward) // 2


def test_backward_macs_are_those_of_a_real_backward_pass():
    module, x = Small(groups=1).train(), torch.randn(2, 3, 16, 16)
    assert lamina.trace(module, x).total().backward_macs == counted_backward(module, x)
    # FlopCounterMode counts the gradient of a grouped filter once a group.
    module, work = Small(groups=4).train(), lamina.trace(Small(groups=4).train(), x)
    grouped = next(layer.macs for layer in work.layers if layer.name == "grouped")
    assert work.total().backward_macs == counted_backward(module, x) - 3 * grouped


@pytest.mark.parametrize("name", ["resnet18", "vgg11", "densenet121"])
def test_backward_macs_of_the_zoo(name):
    """FlopCounterMode on the meta device; it counts the gradients of grouped convolutions wrongly, so none is here."""
    module = registry.assemble(name).train()
    x = torch.empty(1, *registry.spec(name).input, device="meta")
    assert lamina.trace(module, x).total().backward_macs == counted_backward(module, x)


def test_backward_of_fused_attention_is_its_two_products_twice():
    class Attention(nn.Module):
        def __init__(self):
            super().__init__()
            self.qkv = nn.Linear(8, 24)

        def forward(self, x):
            return nn.functional.scaled_dot_product_attention(*self.qkv(x).unflatten(-1, (3, 2, 4)).permute(2, 0, 3, 1, 4))

    work = lamina.trace(Attention(), torch.empty(1, 5, 8))
    linear, attention = 5 * 8 * 24, 2 * 2 * 5 * 5 * 4
    assert work.total().macs == linear + attention
    assert work.layers[0].backward_macs == linear  # no gradient of the input
    assert work.total().backward_macs == linear + 2 * attention


def test_nothing_flows_back_through_frozen_layers():
    module = nn.Sequential(nn.Linear(4, 4), nn.Linear(4, 4), nn.Linear(4, 4))
    module[0].requires_grad_(False)
    work = lamina.trace(module, torch.empty(1, 4))
    assert [layer.backward_macs for layer in work.layers] == [0, 16, 32]
    work = lamina.trace(module.requires_grad_(False), torch.empty(1, 4))
    assert work.total().backward_macs == 0 and memory.training(work).total == memory.weight_bytes(work)


def test_fusion_keeps_only_what_kernels_exchange():
    chain = nn.Sequential(nn.Conv2d(4, 4, 1), nn.BatchNorm2d(4), nn.SiLU(), nn.Conv2d(4, 4, 1), nn.GELU()).eval()
    map_bytes = 4 * 4 * 8 * 8
    work = lamina.trace(chain, torch.empty(1, 4, 8, 8))
    assert memory.fused_peak_bytes(work) == 3 * map_bytes  # the caller's input, a convolution's input and its output
    assert work.peak_activation_bytes == 3 * map_bytes

    class Residual(nn.Module):
        def __init__(self):
            super().__init__()
            self.a, self.b = nn.Conv2d(4, 4, 1), nn.Conv2d(4, 4, 1)

        def forward(self, x):
            x = self.a(x)
            return torch.relu(x + self.b(x))

    work = lamina.trace(Residual(), torch.empty(1, 4, 8, 8))
    # x is read as a whole by b, so b's result cannot take its place: input, x, result.
    assert memory.fused_peak_bytes(work) == 3 * map_bytes
    assert work.peak_activation_bytes == 4 * map_bytes


def test_a_fused_sum_writes_over_a_shortcut_that_nobody_needs():
    class Bottleneck(nn.Module):
        def __init__(self):
            super().__init__()
            self.wide, self.down, self.up = nn.Conv2d(4, 16, 1), nn.Conv2d(16, 4, 1), nn.Conv2d(4, 16, 1)

        def forward(self, x):
            x = self.wide(x)
            return torch.relu(self.up(self.down(x)) + x)

    work = lamina.trace(Bottleneck(), torch.empty(1, 4, 8, 8))
    narrow, wide = 4 * 4 * 64, 4 * 16 * 64
    assert memory.fused_peak_bytes(work) == narrow + wide + narrow  # input, shortcut, the bottleneck's map


@pytest.mark.parametrize("name", ["resnet50", "densenet121", "googlenet", "vit_ti_16", "transformer_base", "lenet5"])
@pytest.mark.parametrize("training", [False, True])
def test_the_fused_peak_lies_between_one_product_and_eager_order(name, training):
    work = lamina.trace(registry.assemble(name).train(training), *registry.example(name))
    largest = (
        max(
            sum(t.bytes for t in {t.storage: t for t in layer.inputs}.values()) + sum(t.bytes for t in layer.outputs)
            for layer in work.layers
            if layer.kind == "conv"
        )
        if any(layer.kind == "conv" for layer in work.layers)
        else 0
    )
    assert largest <= memory.fused_peak_bytes(work) <= work.peak_activation_bytes
    assert max(work.live_bytes) == work.peak_activation_bytes


@given(st.lists(st.sampled_from(["conv", "relu", "add", "norm", "sigmoid", "pool"]), min_size=1, max_size=8))
@settings(max_examples=40, deadline=None)
def test_random_stacks(kinds):
    class Stack(nn.Module):
        def __init__(self):
            super().__init__()
            self.convs = nn.ModuleList(nn.Conv2d(2, 2, 3, padding=1) for k in kinds if k == "conv")
            self.norm = nn.BatchNorm2d(2)

        def forward(self, x):
            first, convs = x, iter(self.convs)
            for kind in kinds:
                x = (
                    next(convs)(x) if kind == "conv" else torch.relu(x) if kind == "relu" else self.norm(x) if kind == "norm"
                    else torch.sigmoid(x) if kind == "sigmoid" else x + first if kind == "add"
                    else nn.functional.max_pool2d(x, 3, 1, 1)
                )  # fmt: skip
            return x

    module = Stack().eval()
    work = lamina.trace(module, torch.empty(1, 2, 6, 6))
    one = 4 * 2 * 36
    assert 2 * one <= memory.fused_peak_bytes(work) <= work.peak_activation_bytes
    convolutions = kinds.count("conv")
    needs = [2] * convolutions
    if convolutions and "norm" not in kinds[: kinds.index("conv")]:
        needs[0] = 1  # the first has no gradient to give its input
    assert work.total().backward_macs == sum(n * 2 * 2 * 9 * 36 for n in needs)


def test_intensity_counts_two_flops_a_mac():
    work = lamina.trace(nn.Linear(10, 10, bias=False), torch.empty(1, 10))
    assert work.layers[0].intensity == work.total().intensity == 200 / (40 + 400 + 40)
    assert memory.inference_bytes(work) == 400 + 80
    empty = lamina.trace(nn.Identity(), torch.empty(1, 10))
    assert empty.total().intensity == 0 and memory.fused_peak_bytes(empty) == 0


def test_the_first_trace_of_a_process_is_like_the_next():
    """What torch imports at a first call leaves cycles, which would keep the caller's tensors alive."""
    code = (
        "import lamina\nfrom lamina.zoo import registry\n"
        "net = registry.build('transformer_base', device='meta').eval()\n"
        "works = [lamina.trace(net, *registry.example('transformer_base')) for _ in range(2)]\n"
        "assert works[0].lifetimes == works[1].lifetimes"
    )
    subprocess.run([sys.executable, "-c", code], check=True)
