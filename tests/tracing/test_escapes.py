"""What reaches no function of torch in the forward's own thread is seen: scripted functions and modules, other threads. What
cannot be counted is named in the coverage."""

import warnings
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from functools import lru_cache
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from torch import nn
from torch.nn import functional as F
from torch.nn.attention.bias import causal_lower_right

from lamina.tracing.tracer import trace
from lamina.workload import Workload


def attention(q: torch.Tensor, k: torch.Tensor, v: torch.Tensor) -> torch.Tensor:
    return torch.softmax(q @ k.transpose(-1, -2), -1) @ v


def accumulate(x: torch.Tensor) -> None:
    x.add_(x @ x)


def project(x: torch.Tensor, w: torch.Tensor) -> torch.Tensor:
    return F.linear(x, w)


def scripted(function: Any) -> Any:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)
        return torch.jit.script(function)


class Projects(nn.Module):
    def __init__(self, function: Callable[..., torch.Tensor]):
        super().__init__()
        self.function = function
        self.w = nn.Parameter(torch.empty(5, 2))

    def forward(self, x):
        return self.function(x, self.w)


def unknown(work: Workload) -> list[tuple[str, str]]:
    return [(x.op, x.layer) for x in work.coverage.unknown]


# ---- scripted ----------------------------------------------------------------------------------------------------------


def test_a_scripted_function_is_counted():
    """Attention of 4 tokens of 2 floats: 4·4·2 MACs for the scores, as many for the values, and a softmax between."""
    function = scripted(attention)
    work = trace(lambda x: function(x, x, x) + 1, torch.empty(4, 2))
    assert (work.macs, work.coverage.unknown) == (64, ())
    assert [layer.kind for layer in work.layers] == ["view", "matmul", "softmax", "matmul", "elementwise"]
    assert [layer.op for layer in work.layers] == ["transpose", "mm", "softmax", "mm", "add"]


def test_a_scripted_function_has_the_modules_weights():
    """Real ones among stand-ins: 4·2·5 MACs, and as many for the gradient of the weight; the input needs none."""
    work = trace(Projects(scripted(project)), torch.empty(4, 2))
    assert (work.macs, work.total().backward_macs, work.parameters_unused) == (40, 40, 0)


def test_a_scripted_function_that_returns_nothing_is_counted():
    work = trace(scripted(accumulate), torch.empty(3, 3))
    assert (work.macs, [layer.op for layer in work.layers]) == (27, ["mm", "add"])


@pytest.mark.parametrize("training", [False, True])
def test_a_scripted_module_is_counted_as_its_original(training):
    plain = nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4), nn.ReLU(), nn.Flatten(), nn.Linear(64, 2), nn.Linear(2, 2))
    x = torch.empty(2, 3, 6, 6)
    expected = trace(plain.train(training), x).total()
    for times in range(3):  # torch rewrites what it has run a few times
        module = scripted(plain)
        for _ in range(times):
            module(torch.rand(2, 3, 6, 6)).sum().backward()
        for form in (module, nn.Sequential(module)):
            total = trace(form, x).total()
            for figure in ("macs", "backward_macs", "parameters", "norm", "biases"):
                assert getattr(total, figure) == getattr(expected, figure)
    if not training:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", DeprecationWarning)
            followed: Any = torch.jit.trace(plain, x)
        assert trace(followed, x).macs == expected.macs


def test_a_subclass_beside_a_scripted_function():
    """Under the mode that sees scripted functions torch makes no such mask: without that mode, what escapes is named."""
    function = scripted(attention)

    def forward(x):
        return F.scaled_dot_product_attention(x, x, x, attn_mask=causal_lower_right(4, 4)) + function(x, x, x)

    work = trace(forward, torch.empty(1, 1, 4, 2))
    assert (work.macs, unknown(work)) == (64, [("work outside the trace", "add")])


# ---- threads -----------------------------------------------------------------------------------------------------------


class Parallel(nn.Module):
    def __init__(self, pool: ThreadPoolExecutor):
        super().__init__()
        self.pool, self.parts = pool, nn.ModuleList(nn.Sequential(nn.Linear(2, 2), nn.ReLU()) for _ in range(8))

    def forward(self, x):
        return sum(self.pool.map(lambda part: part(x), self.parts))


@pytest.mark.parametrize("device", ["cpu", "meta"])
def test_modules_in_threads_are_counted(device):
    """Eight layers of 4·2·2 MACs in two threads, and afterwards the threads compute."""
    with ThreadPoolExecutor(2) as pool:
        module = Parallel(pool).to(device)
        for _ in range(3):
            work = trace(module, torch.empty(4, 2))
            assert (work.macs, work.total().backward_macs, unknown(work)) == (128, 128, [])
            assert sorted(x.name for x in work.layers if x.module) == sorted(f"parts.{i}.{j}" for i in range(8) for j in (0, 1))
        assert [pool.submit(torch.ones, 2).result().tolist() for _ in range(4)] == [[1, 1]] * 4
        if device == "cpu":
            assert module(torch.ones(4, 2)).device.type == "cpu"


def test_functions_in_threads_are_named():
    with ThreadPoolExecutor(2) as pool:
        work = trace(lambda x: sum(pool.map(lambda y: y @ y.T, [x, x])), torch.empty(4, 2))
        assert unknown(work) == [("work outside the trace", "add"), ("work outside the trace", "add:1")]
        work = trace(lambda x: pool.submit(torch.relu, x).result(), torch.empty(4, 2))
        assert unknown(work) == [("work outside the trace", "the output")]
        assert work.coverage.unknown[0].outputs == ((4, 2),)


# ---- what was there before is no work ----------------------------------------------------------------------------------

MASK = torch.empty(2, device="meta")


@lru_cache
def remembered(n: int) -> torch.Tensor:
    return torch.empty(n, device="meta")


def twice(x):
    return MASK + x + remembered(2)


class Constants(nn.Module):
    def __init__(self, closed: torch.Tensor):
        super().__init__()
        self.table, self.nested = torch.empty(2, device="meta"), [SimpleNamespace(x=torch.empty(2, device="meta"))]
        self.function = lambda x: closed + x

    def forward(self, x, cache):
        return twice(self.function(x + self.table + self.nested[0].x)) + cache.keys[0] + x[:, [0, 1]]


def test_constants_on_the_meta_device_are_no_work():
    """A global one, one in a closure, attributes, a cache among the arguments, one that a function remembers, indices."""
    remembered(2)
    cache = SimpleNamespace(keys=[torch.empty(2, device="meta")])
    work = trace(Constants(torch.empty(2, device="meta")), torch.empty(3, 2), cache)
    assert unknown(work) == []
