"""A trace with values counts what shapes cannot decide, by the same record, and changes nothing."""

import warnings

import pytest
import torch
from torch import nn

from lamina.errors import InputError
from lamina.tracing import emitter
from lamina.tracing.tracer import trace

X = torch.tensor([[1.0, -1.0, 2.0], [-3.0, 4.0, 5.0]])

# Four positive values in X; each way makes a product of n by n values for n of something that is only known by values.
DECIDED = {
    "mask": (lambda x: x[x > 0][:, None] @ x[x > 0][None], 16),
    "nonzero": (lambda x: x[x.nonzero()[:, 0]] @ torch.ones(3, 1), 18),
    "where": (lambda x: x[torch.where(x > 0)][None] @ x[x > 0][:, None], 4),
    "item": (lambda x: x[:, : int(x.max().item()) - 3] @ torch.ones(2, 2), 8),
    "bool": (lambda x: x @ x.T if x.sum() > 0 else x, 12),
    "unique": (lambda x: torch.unique(x.sign())[None] @ torch.ones(2, 1), 2),
    "masked_select": (lambda x: x.masked_select(x < 0)[None] @ torch.ones(2, 1), 2),
    "tolist": (lambda x: x[:, [int(n > 0) for n in x[0].tolist()]] @ torch.ones(3, 1), 6),
    "choices": (lambda x: x[torch.where(x.argmax(1) == 2)[0]] @ torch.ones(3, 1), 6),
}


@pytest.mark.parametrize("way", DECIDED)
def test_values_decide(way):
    function, macs = DECIDED[way]
    work = trace(function, X, values=True)
    assert (work.macs, work.coverage.unknown) == (macs, ())


class Net(nn.Module):
    def __init__(self):
        super().__init__()
        self.conv, self.norm = nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4)
        self.lstm, self.head = nn.LSTM(4, 5, batch_first=True), nn.Linear(5, 2)

    def forward(self, x):
        x = torch.relu_(self.norm(self.conv(x))).flatten(2).transpose(1, 2)
        x = nn.functional.interpolate(self.lstm(x)[0].transpose(1, 2), scale_factor=0.5).transpose(1, 2)
        return nn.functional.dropout(self.head(x), 0.5, self.training).softmax(-1)


@pytest.mark.parametrize("training", [False, True])
def test_the_record_is_that_of_shapes(training):
    module, x = Net().train(training), torch.rand(2, 3, 6, 6)
    state, seed = {n: t.clone() for n, t in module.state_dict().items()}, torch.get_rng_state()
    assert trace(module, x, values=True) == trace(module, x)
    assert all(torch.equal(state[n], t) for n, t in module.state_dict().items())
    assert torch.equal(torch.get_rng_state(), seed)


def picked(x: torch.Tensor) -> torch.Tensor:
    return x[x > 0]


def test_a_scripted_function_runs_on_values():
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)
        function = torch.jit.script(picked)
    work = trace(lambda x: function(x)[None] @ function(x)[:, None], X, values=True)
    assert (work.macs, work.coverage.unknown) == (4, ())


class Endless(nn.Module):
    """Looks for a word that its scores never choose."""

    def __init__(self):
        super().__init__()
        self.head = nn.Linear(2, 3)

    def forward(self, x):
        while self.head(x).argmax(-1) != 7:
            pass
        return x


@pytest.mark.parametrize(
    ("values", "said"), [(False, r"which a trace makes up; with values=True \(--run\)"), (True, "one turn")]
)
def test_a_loop_that_never_ends_is_ended(values, said, monkeypatch):
    monkeypatch.setattr(emitter, "CHOICES", 50)
    monkeypatch.setattr(emitter, "READS", 50)
    with pytest.raises(InputError, match=rf"^Endless \(Endless\): it may never end: 50 .*{said}.*at test_with_values.py"):
        trace(Endless(), torch.randn(2), values=values)


def test_numpy_needs_values():
    with pytest.raises(InputError, match=r"numpy needs the value of a tensor.*--run"):
        trace(lambda x: torch.from_numpy(x.detach().numpy()), X)
    assert trace(lambda x: torch.from_numpy(x.detach().numpy()) @ torch.ones(3, 1), X, values=True).macs == 6


def test_what_has_no_values_cannot_run():
    with pytest.raises(InputError, match=r"values=True runs the module, and its weight is on the meta device"):
        trace(nn.Linear(3, 3, device="meta"), X, values=True)


def test_without_values_the_error_says_how():
    with pytest.raises(InputError, match=r"needs the value of a tensor.*with values=True \(--run\) all do"):
        trace(DECIDED["mask"][0], X)
