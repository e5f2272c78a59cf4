"""How a trace sees the modules that are called: hooks, subclasses, forwards and functions of somebody's own, other threads,
traces within traces, errors; and nothing of it is left."""

import subprocess
import sys
import threading

import pytest
import torch
from torch import nn
from torch.nn import functional as F

from lamina.errors import InputError
from lamina.tracing.tracer import trace


def hooks() -> dict[str, list[int]]:
    """The process's global module hooks."""
    return {name: list(table) for name, table in vars(nn.modules.module).items() if name.startswith("_global") and table}


class Doubles(nn.Linear):
    def forward(self, x):
        return super().forward(x) + super().forward(x)


def test_what_modules_do_is_seen_whoever_wrote_it(monkeypatch):
    """A subclass, a hook, a forward or a function of somebody's own."""
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
    before = hooks()
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
    (layer,) = trace(Slow(), torch.empty(2, 4)).layers
    other.join()
    assert (layer.name, layer.call, layer.macs) == ("inner", 0, 32)
    assert hooks() == before
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
    before = hooks()
    work = trace(Asks(), torch.empty(2, 4))
    assert [(layer.name, layer.call) for layer in work.layers if layer.module] == [("inner.0", 0), ("inner.1", 0)]
    assert work.macs == 32 and seen == [48]
    assert hooks() == before


def test_a_raised_error_leaves_torch_as_it_was():
    before = hooks()
    with pytest.raises(InputError, match=r"^0 \(Linear\): takes 4 features, got 5"):
        trace(nn.Sequential(nn.Linear(4, 4)), torch.empty(2, 5))
    assert hooks() == before


class Fails(nn.Module):
    def __init__(self, error: type[BaseException] = RuntimeError):
        super().__init__()
        self.error = error

    def forward(self, x):
        raise self.error("no such head")


class Catches(nn.Module):
    """Goes another way where a module fails."""

    def __init__(self, error: type[BaseException]):
        super().__init__()
        self.first, self.second = nn.Sequential(Fails(error)), nn.Linear(4, 4)

    def forward(self, x):
        try:
            return self.first(x)
        except BaseException:
            return self.second(x) @ self.second.weight


class Adds(nn.Sequential):
    def forward(self, x):
        return super().forward(x) + 1


def test_an_error_that_the_forward_catches_ends_the_calls_it_left():
    work = trace(Adds(Catches(RuntimeError)), torch.empty(2, 4))
    assert [layer.name for layer in work.layers] == ["0.second", "0/matmul", "add"]
    work = trace(
        Adds(Catches(KeyboardInterrupt)), torch.empty(2, 4)
    )  # no hook is called at this one: the next call's end tells
    assert work.layers[-1].name == "add"


def test_an_error_names_the_innermost_module_that_it_left():
    with pytest.raises(InputError, match=r"^1\.0 \(Fails\): RuntimeError: no such head; at test_calls\.py:\d+"):
        trace(nn.Sequential(nn.Linear(4, 4), nn.Sequential(Fails())), torch.empty(2, 4))


def test_a_compiled_part_is_called_once_where_its_original_stands():
    """torch warns that global hooks see both modules: nobody who traces has to know."""
    plain = nn.Sequential(nn.Sequential(nn.Linear(4, 4), nn.ReLU()), nn.Linear(4, 4))
    compiled = nn.Sequential(*[torch.compile(part, backend="eager") for part in plain])
    assert trace(compiled, torch.empty(2, 4)) == trace(plain, torch.empty(2, 4))


def test_a_module_made_in_the_forward_has_a_path():
    class Makes(nn.Module):
        def forward(self, x):
            return nn.Sequential(nn.ReLU())(x)

    (layer,) = trace(nn.Sequential(Makes()), torch.empty(2, 4)).layers
    assert (layer.name, layer.module_type) == ("0.Sequential.ReLU", "ReLU")
