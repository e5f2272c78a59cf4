"""torch.cond, torch.while_loop and FlexAttention: operators that take functions."""

import pytest
import torch
from torch import nn
from torch.nn.attention.flex_attention import create_block_mask, flex_attention

from lamina.errors import InputError
from lamina.tracing.tracer import trace

S, D, M = 3, 4, 5


class Branches(nn.Module):
    """A linear layer with bias to M features, or twice its first half: S·D·M MACs, or S·(D·D + D·M)."""

    def __init__(self):
        super().__init__()
        self.short, self.long = nn.Linear(D, M), nn.Sequential(nn.Linear(D, D), nn.Linear(D, M))

    def forward(self, x, short):
        return torch.cond(short(x) if callable(short) else short, self.short, self.long, (x,))


SHORT, LONG = S * D * M, S * (D * D + D * M)


def test_cond_takes_the_branch_that_is_known():
    module, x = Branches(), torch.randn(S, D)
    for short, macs in (
        (torch.tensor(True), SHORT),
        (torch.tensor(False), LONG),
        (True, SHORT),
        (lambda x: x.shape[0] > 7, LONG),
    ):
        work = trace(module, x, short)
        assert (work.macs, work.assumptions, work.coverage.unknown) == (macs, (), ())


def test_cond_takes_the_dearer_branch_of_two_and_says_so():
    module, x = Branches(), torch.randn(S, D)
    work = trace(module, x, lambda x: x.sum() > 0)
    assert work.macs == LONG
    assert {layer.module for layer in work.layers if layer.loops} == {"long.0", "long.1"}
    (said,) = work.assumptions
    assert f"torch.cond is counted by its dearer branch, the second: {LONG} MACs, the other {SHORT}" in said
    assert "test_control.py" in said
    assert trace(module, torch.ones(S, D), lambda x: x.sum() > 0, values=True).macs == SHORT
    assert work.total().backward_macs == S * D * D + 2 * S * D * M  # the input needs no gradient


def repeated(x, w, times):
    def body(i, y):
        return i + 1, y @ w

    return torch.while_loop(lambda i, y: i < times, body, (torch.tensor(0), x))[1]


@pytest.mark.parametrize("values", [False, True])
def test_while_loop_runs_as_often_as_its_counter_says(values):
    x, w = torch.randn(S, D), torch.randn(D, D)
    assert trace(repeated, x, w, 7, values=values).macs == 7 * S * D * D
    assert trace(repeated, x, w, torch.tensor(4), values=values).macs == 4 * S * D * D
    assert trace(repeated, x, w, 0, values=values).macs == 0


def halved(x):
    return torch.while_loop(lambda y: y.abs().sum() > 1, lambda y: (y @ torch.eye(D, device=y.device) / 2,), (x,))[0]


def test_while_loop_that_depends_on_values_needs_them():
    with pytest.raises(InputError, match=r"the value of a tensor decides the way.*values=True.*at test_control.py"):
        trace(halved, torch.full((S, D), 0.25))
    assert trace(halved, torch.full((S, D), 0.25), values=True).macs == 2 * S * D * D  # 3, 1.5, 0.75


def test_autograd_in_a_forward_is_refused():
    def forces(x):
        return torch.autograd.grad((x @ x.T).sum(), x)[0]

    with pytest.raises(InputError, match=r"torch.autograd.grad needs.*torch.func.grad.*at test_control.py"):
        trace(forces, torch.randn(S, D))
    with pytest.raises(InputError, match=r"backward needs.*torch.func.grad"):
        trace(lambda x: (x @ x.T).sum().backward(), torch.randn(S, D))


# ---- FlexAttention -----------------------------------------------------------------------------------------------------

B, HEADS, L, E = 2, 4, 256, 8


def causal(b, h, q, k):
    return q >= k


class Flex(nn.Module):
    def __init__(self, masked: bool, scored: bool = False, groups: int = 1):
        super().__init__()
        self.masked, self.groups = masked, groups
        self.q, self.kv = nn.Linear(E, HEADS * E), nn.Linear(E, 2 * HEADS // groups * E)
        self.score = (lambda s, b, h, q, k: s + (q - k)) if scored else None

    def forward(self, x):
        q = self.q(x).unflatten(-1, (HEADS, E)).transpose(1, 2)
        k, v = (t.unflatten(-1, (-1, E)).transpose(1, 2) for t in self.kv(x).chunk(2, -1))
        mask = create_block_mask(causal, None, None, L, L, device=x.device) if self.masked else None
        return flex_attention(q, k, v, score_mod=self.score, block_mask=mask, enable_gqa=self.groups > 1)


@pytest.mark.parametrize(
    ("masked", "scored", "groups"), [(False, False, 1), (True, False, 1), (False, True, 1), (True, False, 2)]
)
@pytest.mark.filterwarnings("ignore:flex_attention called without torch.compile")
def test_flex_attention_is_dense_and_says_so(masked, scored, groups):
    """Both products over all pairs, 2·B·H·L·L·E, beside the projections."""
    module, x = Flex(masked, scored, groups).requires_grad_(False), torch.randn(B, L, E)
    projections = B * L * E * (HEADS * E + 2 * HEADS // groups * E)
    work = trace(module, x)
    assert work.macs == projections + 2 * B * HEADS * L * L * E
    assert work.coverage.unknown == ()
    (said,) = work.assumptions
    assert "FlexAttention is counted dense" in said
    assert ("its mask asks for 3 of 4 blocks" in said) == masked
    assert trace(module, x, values=True).macs == work.macs
