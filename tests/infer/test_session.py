"""Sessions: every engine gives torch's answers, on any batch, from several threads; auto measures, checks and remembers."""

import json
from concurrent.futures import ThreadPoolExecutor

import pytest
import torch
from torch import nn

import lamina
from lamina.errors import InputError, LaminaError
from lamina.infer import auto, engines, forms, winograd
from lamina.infer.session import Session


class Small(nn.Module):
    """(B, 3, 12, 12) to (B, 5): each rewrite has something to do in it."""

    def __init__(self):
        super().__init__()
        self.conv1, self.norm, self.relu = nn.Conv2d(3, 8, 3, padding=1), nn.BatchNorm2d(8), nn.ReLU()
        self.response, self.conv2, self.drop = nn.LocalResponseNorm(5, 0.1), nn.Conv2d(8, 8, 3), nn.Dropout(0.5)
        self.head = nn.Linear(8, 5)

    def forward(self, x):
        x = self.response(self.relu(self.norm(self.conv1(x))))
        return self.head(self.drop(self.conv2(x).mean((2, 3))))


@pytest.fixture
def net() -> nn.Module:
    torch.manual_seed(0)
    made = Small()
    made.norm.running_mean.normal_()
    return made.eval()


X = torch.randn(3, 3, 12, 12, generator=torch.Generator().manual_seed(1))


@pytest.mark.parametrize("engine", [name for name in engines.ENGINES if name != "compile"])
@pytest.mark.parametrize("rewrite", [True, False])
def test_engines_agree(net, engine, rewrite):
    if engine not in engines.installed():
        pytest.skip(f"{engine} is not installed")
    session = Session(net, example=(X[:1],), engine=engine, rewrite=rewrite, threads=1)
    for batch in (1, 2, 3):
        with torch.inference_mode():
            assert auto.difference(session.run(X[:batch]), [net(X[:batch])]) < 1e-5
    assert auto.difference(session.run(X.numpy()), session.run(X)) == 0


@pytest.mark.slow
def test_compile_agrees(net):
    session = Session(net, example=(X,), engine="compile")
    with torch.inference_mode():
        assert auto.difference(session.run(X), [net(X)]) < 1e-5
        assert auto.difference(session.run(X[:2]), [net(X[:2])]) < 1e-5


@pytest.mark.parametrize("engine", ["torch", "onnxruntime"])
def test_several_threads(net, engine):
    session = Session(net, example=(X,), engine=engine, threads=1)
    with torch.inference_mode():
        expected = [net(X + i) for i in range(8)]
    with ThreadPoolExecutor(4) as pool:
        found = list(pool.map(lambda i: session.run(X + i), range(8)))
    assert all(auto.difference(ours, [theirs]) < 1e-5 for ours, theirs in zip(found, expected, strict=True))
    assert torch.get_num_threads() == THREADS


THREADS = torch.get_num_threads()


def test_auto_takes_the_fastest_that_is_right(net, monkeypatch):
    """A fast engine whose answers are wrong, one that does not start, and one that is slow and right."""

    class Wrong:
        def run(self, inputs):
            return [net(*inputs) * 1.001]

    class Right:
        def run(self, inputs):
            for _ in range(20):
                y = net(*inputs)
            return [y]

    def start(name, program):
        if name == "broken":
            raise LaminaError("it does not start")
        return {"wrong": Wrong(), "slow": Right(), "torch": real("torch", program)}[name]

    real = engines.start
    monkeypatch.setattr(engines, "start", start)
    program = auto.Program("small", (X,), net)
    _, trials = auto.choose(program, ["wrong", "broken", "slow", "torch"])
    by = {trial.engine: trial for trial in trials}
    assert by["wrong"].refused.startswith("its answers differ by")
    assert by["broken"].refused == "it does not start"
    assert not by["slow"].refused
    assert by["torch"].median_s < by["slow"].median_s
    with pytest.raises(LaminaError, match="no engine runs it: wrong: its answers differ"):
        auto.choose(program, ["wrong"])


def test_auto_remembers(net, monkeypatch):
    tried = []
    real = auto.choose
    monkeypatch.setattr(auto, "choose", lambda *a, **k: tried.append(1) or real(*a, **k))
    first = Session(net, example=(X,), engine="auto")
    again = Session(net, example=(X,), engine="auto")
    assert (first.engine, len(tried)) == (again.engine, 1)
    Session(net, example=(X[:1],), engine="auto")  # another batch: measured anew
    assert len(tried) == 2
    monkeypatch.setattr(auto, "versions", lambda: {"torch": "0"})
    Session(net, example=(X,), engine="auto")  # other versions
    assert len(tried) == 3


def test_winograds_layers_are_remembered(net, monkeypatch):
    """A start from memory times no layer again, and takes Winograd's form where it was found to gain."""
    if not winograd.available():
        pytest.skip("needs a C++ compiler")
    monkeypatch.setattr(auto, "default", lambda program: ["torch"])
    monkeypatch.setattr(forms, "_both_times", lambda chain, made, pack: (2.0, 1.0 if chain.shape[1] == 8 else 3.0))
    first = Session(net, example=(X,), engine="auto")
    monkeypatch.setattr(forms, "_both_times", lambda *a: pytest.fail("a layer is timed again"))
    again = Session(net, example=(X,), engine="auto")
    for session in (first, again):
        found = [m for m in session._engine.module.modules() if isinstance(m, winograd.Winograd)]
        assert [m.filters.shape[2] for m in found] == [8]
    assert auto.difference(again.run(X), first.run(X)) < 1e-6


def test_a_network_with_named_outputs():
    """transformers' networks give a mapping, in which some values are not tensors."""

    class Named(nn.Module):
        def forward(self, x):
            return {"logits": x.mean((2, 3)), "loss": None, "hidden": (x,)}

    session = Session(Named(), example=(X[:1],))
    assert [tuple(y.shape) for y in session.run(X)] == [(3, 3)]


def test_a_cache_that_cannot_be_written(net, monkeypatch, tmp_path):
    file = tmp_path / "file"
    file.write_text("")
    monkeypatch.setenv("XDG_CACHE_HOME", str(file))  # a folder cannot be made below a file
    session = Session(net, example=(X,), engine="auto")
    with torch.inference_mode():
        assert auto.difference(session.run(X), [net(X)]) < 1e-5


def test_a_choice_that_is_damaged(net):
    program = auto.Program("Small", (X,), net)
    auto.remember(program, [auto.Trial("torch", median_s=1.0)])
    found = auto.remembered(program)
    assert found is not None and found.engine == "torch"
    file = next(auto._folder().iterdir())
    for text in ("{", "[]", json.dumps({"engine": "gone", "winograd": []}), json.dumps({"engine": 3, "winograd": []})):
        file.write_text(text)
        assert auto.remembered(program) is None


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"engine": "fast"}, "there is no engine 'fast': there are torch, compile, onnxruntime, openvino, and auto"),
        ({"batch": 0}, "--batch is a positive number"),
        ({"threads": 0}, "--threads is a positive number"),
        ({"example": None}, "a module says nothing of its inputs"),
    ],
)
def test_wrong_calls(net, options, message):
    with pytest.raises(InputError, match=message):
        Session(net, **{"example": (X,), **options})


def test_an_engine_that_is_not_installed(net, monkeypatch):
    monkeypatch.setattr(engines, "find_spec", lambda library: None)
    with pytest.raises(InputError, match=r"the engine openvino needs openvino: pip install .*\[openvino\]"):
        Session(net, example=(X,), engine="openvino")


def test_inputs_of_another_shape():
    session = Session("vit_mnist")
    with pytest.raises(InputError, match="vit_mnist takes Bx1x28x28, not 2x1x27x28"):
        session.run(torch.zeros(2, 1, 27, 28))
    with pytest.raises(InputError, match="vit_mnist takes 1 inputs, not 2"):
        session.run(torch.zeros(1, 1, 28, 28), torch.zeros(1))


def test_public_name():
    assert lamina.Session is Session


class Wide(nn.Module):
    """(B, 3, 8, 8) to (B, 7), with most of its weights in linear layers, as VGG."""

    def __init__(self):
        super().__init__()
        self.conv, self.fc1, self.fc2 = nn.Conv2d(3, 8, 3, padding=1), nn.Linear(512, 1024), nn.Linear(1024, 7)

    def forward(self, x):
        return self.fc2(self.fc1(self.conv(x).relu().flatten(1)).relu())


def test_large_weights_are_shared_at_a_batch_of_one():
    pytest.importorskip("onnxruntime")
    torch.manual_seed(0)
    net, x = Wide().eval(), torch.randn(3, 3, 8, 8)
    session = Session(net, example=(x[:1],), engine="onnxruntime", threads=1)
    assert list(session._engine.weights) == ["fc1.weight"]
    with torch.inference_mode():
        for batch in (1, 2, 3):
            assert auto.difference(session.run(x[:batch]), [net(x[:batch])]) < 1e-5
        net.fc1.weight.zero_()  # the engine reads them where they lie
        assert auto.difference(session.run(x), [net(x)]) < 1e-5
    assert not Session(net, example=(x,), engine="onnxruntime", threads=1)._engine.weights  # more rows: packing pays
