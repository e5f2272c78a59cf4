"""The backward pass goes where gradients go: its products beside those that autograd really makes, which torch counts."""

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import nn
from torch.utils.flop_counter import FlopCounterMode

from lamina.errors import InputError
from lamina.tracing.tracer import trace


class Calls(nn.Module):
    """Two linear layers and a tensor of weights, used as the function says."""

    def __init__(self, function: Callable[..., Any]):
        super().__init__()
        self.a, self.b = nn.Linear(4, 4), nn.Linear(4, 4)
        self.w = nn.Parameter(torch.rand(4, 3, 2))
        self.function = function

    def forward(self, x):
        return self.function(self, x)


def frozen(module: nn.Module) -> nn.Module:
    module.a.requires_grad_(False)
    return module


def in_view(m: Calls, x: torch.Tensor) -> torch.Tensor:
    y = m.a(x)
    y[0].add_(m.b(x)[0])
    return y


def in_parts(m: Calls, x: torch.Tensor) -> torch.Tensor:
    y = x.new_empty(2, 8)
    y[:, :4].copy_(m.a(x))
    y[:, 4:].copy_(x)
    return y @ torch.cat((m.b.weight, m.b.weight), 0)


def heads(m: Calls, x: torch.Tensor) -> dict[str, torch.Tensor]:
    hidden = m.a(x)
    return {"last": hidden, "pooled": m.b(hidden)}


def steps(m: Calls, x: torch.Tensor) -> torch.Tensor:
    return torch.einsum("ibnd,jbnd->bnij", torch.einsum("ibh,hnd->ibnd", x, m.w), torch.ones(2, 3, 3, 2, dtype=x.dtype))


X, STEPS = torch.rand(2, 4), torch.rand(4, 3, 6)
# Module, input, the backward pass's MACs; each product of Linear(4, 4) on two rows takes 32.
WAYS: dict[str, tuple[Callable[[], nn.Module], torch.Tensor, int]] = {
    "detach": (lambda: Calls(lambda m, x: m.b(m.a(x).detach())), X, 32),
    "data": (lambda: Calls(lambda m, x: m.b(m.a(x).data)), X, 32),
    "detach_": (lambda: Calls(lambda m, x: m.b(m.a(x).detach_())), X, 32),
    "detached weight": (lambda: Calls(lambda m, x: m.a(x) @ m.b.weight.detach()), X, 64),
    "both ways": (lambda: Calls(lambda m, x: m.b(m.a(x).detach()) + m.a(x)), X, 64),
    "unused": (lambda: Calls(lambda m, x: (m.a(x), m.b(x))[0]), X, 32),
    "write to a view": (lambda: Calls(in_view), X, 64),
    "parts": (lambda: Calls(in_parts), X, 32 + 2 * 2 * 8 * 4),  # of `y` by a weight of 8x4 both factors' gradients
    "input": (lambda: frozen(Calls(lambda m, x: m.b(m.a(x)))), X.clone().requires_grad_(), 96),
    "frozen": (lambda: frozen(Calls(lambda m, x: m.b(m.a(x)))), X, 32),
    "einsum": (lambda: Calls(lambda m, x: torch.einsum("ij,jkl->ikl", x, m.w)), X, 2 * 4 * 6),
    # 4·3·4·6 MACs for the weight; of the second product only the first factor's gradient: 3·3·4·2·2.
    "two einsums": (lambda: Calls(steps), torch.rand(4, 3, 4), 4 * 3 * 4 * 6 + 3 * 3 * 4 * 2 * 2),
    # Every gate of 5 units: 12 rows by 6 and by 5 weights for these, 9 rows by 5 for the states after the first.
    "lstm": (lambda: nn.LSTM(6, 5), STEPS, 20 * (12 * 6 + 12 * 5 + 9 * 5)),
    "gru": (lambda: nn.GRU(6, 5), STEPS, 15 * (12 * 6 + 12 * 5 + 9 * 5)),
    "rnn": (lambda: nn.RNN(6, 5), STEPS, 5 * (12 * 6 + 12 * 5 + 9 * 5)),
    "one step": (lambda: nn.LSTM(6, 5), STEPS[:1], 20 * (3 * 6 + 3 * 5)),
    "two layers, both ways": (
        lambda: nn.LSTM(6, 5, 2, bidirectional=True),
        STEPS,
        2 * 20 * (12 * 6 + 12 * 5 + 9 * 5) + 2 * 20 * (2 * 12 * 10 + 12 * 5 + 9 * 5),
    ),
}  # fmt: skip


def real(module: nn.Module, x: torch.Tensor) -> int:
    """The MACs of the products in autograd's backward pass from all results."""
    x = x.detach().double().requires_grad_(x.requires_grad)  # in single precision oneDNN's LSTM is one operator
    with FlopCounterMode(display=False) as forward:
        found = module.double()(x)
    results = [y for y in (found if isinstance(found, tuple) else (found,)) if isinstance(y, torch.Tensor)]
    with FlopCounterMode(display=False) as backward:
        torch.autograd.backward(results, [torch.ones_like(y) for y in results])
    assert forward.get_total_flops() > 0
    return backward.get_total_flops() // 2


@pytest.mark.parametrize("way", WAYS)
def test_backward_macs_are_those_of_autograd(way):
    build, x, expected = WAYS[way]
    module = build()
    assert trace(module, x).total().backward_macs == expected == real(module, x)


def test_packed_sequences():
    """Of 4, 2 and 1 steps: 7 rows by 6 and by 5 weights a gate; forward the first step's 3 rows have given states, backward
    the last step's one."""
    packed = nn.utils.rnn.pack_padded_sequence(STEPS, torch.tensor([4, 2, 1]))

    def run(module: nn.Module) -> int:
        return trace(module, packed).total().backward_macs

    assert run(nn.LSTM(6, 5)) == 20 * (7 * 6 + 7 * 5 + 4 * 5)
    assert run(nn.LSTM(6, 5, bidirectional=True)) == 20 * (7 * 6 + 7 * 5 + 4 * 5) + 20 * (7 * 6 + 7 * 5 + 6 * 5)


def test_the_loss_says_where_the_backward_pass_begins():
    """All results by default; the pooler beside a loss on the last hidden state is not part of it."""
    module = Calls(heads)
    assert trace(module, X).total().backward_macs == 96
    assert trace(module, X, loss=lambda out: out["last"]).total().backward_macs == 32
    assert trace(module, X, loss=lambda out: [out["pooled"]]).total().backward_macs == 96
    with pytest.raises(InputError, match="loss= does not fit what the forward returns: KeyError: 'logits'"):
        trace(module, X, loss=lambda out: out["logits"])
    with pytest.raises(InputError, match="loss= picks no tensor"):
        trace(module, X, loss=lambda out: None)


def test_results_left_elsewhere():
    """A forward that returns nothing: all that it computes may be part of the loss."""
    kept: list[torch.Tensor] = []
    module = Calls(lambda m, x: kept.append(m.b(m.a(x))))
    assert trace(module, X).total().backward_macs == 96
