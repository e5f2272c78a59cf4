"""Where a trace stands in for torch's call of a module: the same record as the long way, and nothing of it seen outside."""

import subprocess
import sys
import threading
from unittest import mock

import pytest
import torch
from torch import nn
from torch.nn import functional as F

from lamina.errors import InputError
from lamina.tracing import calls, rules
from lamina.tracing.rules.modules import MODULES
from lamina.tracing.tracer import trace

SHORT = {
    "conv1d": (nn.Conv1d(4, 6, 3, stride=2, bias=False), (2, 4, 9)),
    "conv2d": (nn.Conv2d(4, 6, (3, 1), padding=(1, 0), dilation=2, groups=2), (2, 4, 9, 9)),
    "conv2d same": (nn.Conv2d(4, 6, 4, padding="same"), (2, 4, 9, 9)),
    "conv2d reflect": (nn.Conv2d(4, 6, 3, padding=1, padding_mode="reflect"), (2, 4, 9, 9)),
    "conv2d unbatched": (nn.Conv2d(4, 6, 3), (4, 9, 9)),
    "conv3d": (nn.Conv3d(2, 3, 2), (1, 2, 4, 4, 4)),
    "batch norm 1d": (nn.BatchNorm1d(4), (3, 4)),
    "batch norm": (nn.BatchNorm2d(4), (2, 4, 5, 5)),
    "batch norm, nothing learnt": (nn.BatchNorm2d(4, affine=False), (2, 4, 5, 5)),
    "batch norm, nothing tracked": (nn.BatchNorm2d(4, track_running_stats=False), (2, 4, 5, 5)),
    "batch norm 3d": (nn.BatchNorm3d(2), (1, 2, 3, 3, 3)),
    "linear": (nn.Linear(4, 6), (2, 3, 4)),
    "linear without bias": (nn.Linear(4, 6, bias=False), (4,)),
    "layer norm": (nn.LayerNorm((3, 4), bias=False), (2, 3, 4)),
    "layer norm, nothing learnt": (nn.LayerNorm(4, elementwise_affine=False), (2, 3, 4)),
    "relu": (nn.ReLU(), (2, 3)),
    "relu in place": (nn.Sequential(nn.Linear(3, 3), nn.ReLU(inplace=True)), (2, 3)),
    "silu": (nn.SiLU(), (2, 3)),
    "hardswish": (nn.Hardswish(), (2, 3)),
    "gelu": (nn.GELU("tanh"), (2, 3)),
    "sigmoid": (nn.Sigmoid(), (2, 3)),
    "tanh": (nn.Tanh(), (2, 3)),
    "dropout": (nn.Dropout(0.3), (2, 3)),
    "dropout in place": (nn.Sequential(nn.Linear(3, 3), nn.Dropout(0.3, inplace=True)), (2, 3)),
}


def the_long_way(module: nn.Module, *inputs: torch.Tensor):
    with mock.patch.object(rules, "shortcuts", dict):
        return trace(module, *inputs)


@pytest.mark.parametrize("training", [False, True])
@pytest.mark.parametrize("name", SHORT)
def test_the_short_way_is_torch_s(name, training):
    module, shape = SHORT[name]
    module = module.train(training)
    assert trace(module, torch.empty(shape)) == the_long_way(module, torch.empty(shape))


def test_every_short_way_is_tried():
    tried = {type(part) for module, _ in SHORT.values() for part in module.modules()}
    assert set(MODULES) <= tried and len(rules.shortcuts()) == len(MODULES)


class Doubles(nn.Linear):
    def forward(self, x):
        return super().forward(x) + super().forward(x)


def test_only_what_is_exactly_torch_s_goes_the_short_way(monkeypatch):
    """A subclass, a hook, a forward or a function of somebody's own: what it does is seen."""
    x = torch.empty(2, 4)
    once = nn.Linear(4, 4)
    assert trace(once, x).macs == 32
    assert trace(Doubles(4, 4), x).macs == 64
    hooked = nn.Linear(4, 4)
    hooked.register_forward_hook(lambda module, args, output: F.linear(output, module.weight))
    assert trace(hooked, x).macs == 64
    before = nn.Linear(4, 4)
    before.register_forward_pre_hook(lambda module, args: (F.linear(args[0], module.weight),))
    assert trace(before, x).macs == 64
    own = nn.Linear(4, 4)
    own.forward = lambda x: F.linear(F.linear(x, own.weight), own.weight)
    assert trace(own, x).macs == 64
    handle = nn.modules.module.register_module_forward_hook(lambda module, args, output: output @ once.weight)
    try:
        assert trace(once, x).macs == 64
    finally:
        handle.remove()
    linear = F.linear
    with monkeypatch.context() as patch:
        patch.setattr(F, "linear", lambda x, w, b=None: linear(linear(x, w, b), w, b))
        assert trace(once, x).macs == 64
    with monkeypatch.context() as patch:
        patch.setattr(nn.Linear, "forward", lambda self, x: linear(linear(x, self.weight), self.weight))
        assert trace(once, x).macs == 64


def test_a_forward_replaced_before_lamina_was_imported():
    code = """
import torch
from torch import nn
from torch.nn import functional as F
nn.Linear.forward = lambda self, x: F.linear(F.linear(x, self.weight), self.weight)
import lamina
print(lamina.trace(nn.Linear(4, 4), torch.empty(2, 4)).macs)
"""
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout == "64\n"


def test_a_mode_within_the_forward_sees_the_function():
    seen = []

    class Notes(torch.overrides.TorchFunctionMode):
        def __torch_function__(self, func, types, args=(), kwargs=None):
            seen.append(func)
            return func(*args, **(kwargs or {}))

    class Watched(nn.Module):
        def __init__(self):
            super().__init__()
            self.inner = nn.Linear(4, 4)

        def forward(self, x):
            with Notes():
                return self.inner(x)

    assert trace(Watched(), torch.empty(2, 4)).macs == 32
    assert F.linear in seen


def test_a_module_compiled_in_place_has_its_path():
    module = nn.Sequential(nn.Sequential(nn.Linear(4, 4), nn.ReLU()))
    module[0].compile(backend="eager")
    compiled = module[0]._compiled_call_impl
    assert [layer.name for layer in trace(module, torch.empty(2, 4)).layers] == ["0.0", "0.1"]
    assert module[0]._compiled_call_impl is compiled


def test_other_threads_and_later_calls_compute():
    """While one thread traces, another's call of the same module gives numbers; afterwards torch is as it was."""
    before = nn.Module._call_impl
    module = nn.Linear(4, 4)
    started, done, found = threading.Event(), threading.Event(), []

    class Slow(nn.Module):
        def __init__(self):
            super().__init__()
            self.inner = module

        def forward(self, x):
            started.set()
            done.wait(30)
            return self.inner(x)

    def work() -> None:
        started.wait(30)
        found.append(module(torch.ones(1, 4)))
        done.set()

    other = threading.Thread(target=work)
    other.start()
    assert trace(Slow(), torch.empty(2, 4)).macs == 32
    other.join()
    assert nn.Module._call_impl is before and not calls._watchers
    assert found[0].device.type == "cpu" and torch.equal(found[0], module(torch.ones(1, 4)))


def test_a_trace_within_a_trace():
    class Asks(nn.Module):
        def __init__(self):
            super().__init__()
            self.inner = nn.Sequential(nn.Linear(4, 4), nn.ReLU())
            self.own = None

        def forward(self, x):
            self.own = seen.append(trace(self.inner, torch.empty(3, 4)).macs)
            return self.inner(x)

    seen: list[int] = []
    assert trace(Asks(), torch.empty(2, 4)).macs == 32 and seen == [48]
    assert not calls._watchers


def test_a_raised_error_leaves_torch_as_it_was():
    before = nn.Module._call_impl
    with pytest.raises(InputError, match=r"^0 \(Linear\): takes 4 features, got 5"):
        trace(nn.Sequential(nn.Linear(4, 4)), torch.empty(2, 5))
    assert nn.Module._call_impl is before and not calls._watchers
