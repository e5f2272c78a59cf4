"""torch.vmap, torch.func.grad and what is made of them: the products that run, forward and backward, by arithmetic and by an
independent count on real tensors."""

from typing import Any

import pytest
import torch
from torch import nn
from torch.func import functional_call, grad, grad_and_value, hessian, jacfwd, jacrev, jvp, stack_module_state, vjp, vmap

from lamina.errors import InputError
from lamina.tracing.tracer import trace
from tests import real_counts

# torch's own: jvp scripts its decompositions, vmap takes turns where it has no rule of its own.
pytestmark = [
    pytest.mark.filterwarnings("ignore:.torch.jit.script. is deprecated:DeprecationWarning"),
    pytest.mark.filterwarnings("ignore:There is a performance drop"),
]
S, D, M, H = 3, 4, 5, 6  # rows, features in and out, hidden


class Call(nn.Module):
    """A function of the input and of two weights."""

    def __init__(self, function: Any):
        super().__init__()
        self.function = function
        self.w, self.v = nn.Parameter(torch.randn(D, M)), nn.Parameter(torch.randn(M, H))

    def forward(self, x):
        return self.function(x, self.w, self.v)


def squared(x, w):
    return (x @ w).square().sum()


def two(x, w, v):
    return (torch.tanh(x @ w) @ v).sum()


# By name: the function, the input's shape, the MACs.
FUNCTIONS: dict[str, tuple[Any, tuple[int, ...], int]] = {
    "vmap": (lambda x, w, v: vmap(lambda r: r @ w)(x), (S, D), S * D * M),
    "vmap, another axis": (lambda x, w, v: vmap(lambda r: r @ w, in_dims=1, out_dims=1)(x), (D, S), S * D * M),
    "vmap of the weight": (lambda x, w, v: vmap(lambda c: x @ c, in_dims=1)(w), (S, D), S * D * M),
    "vmap in chunks": (lambda x, w, v: vmap(lambda r: r @ w, chunk_size=2)(x), (7, D), 7 * D * M),
    "vmap of vmap": (lambda x, w, v: vmap(vmap(lambda r: r @ w))(x), (2, S, D), 2 * S * D * M),
    "vmap of two": (lambda x, w, v: vmap(torch.dot, in_dims=(0, None))(x, x[0]), (S, D), S * D),
    "vmap of an einsum": (lambda x, w, v: vmap(lambda r: torch.einsum("i,ij->j", r, w))(x), (S, D), S * D * M),
    "vmap and then": (lambda x, w, v: vmap(torch.relu)(x @ w) @ v, (S, D), S * D * M + S * M * H),
    # The forward product and the input's gradient; the weight's is not asked for.
    "grad": (lambda x, w, v: grad(squared)(x, w), (S, D), 2 * S * D * M),
    "grad of the weight": (lambda x, w, v: grad(squared, argnums=1)(x, w.detach()), (S, D), 2 * S * D * M),
    "grad of both": (lambda x, w, v: grad(squared, argnums=(0, 1))(x, w.detach())[0], (S, D), 3 * S * D * M),
    "grad of two layers": (lambda x, w, v: grad(two)(x, w, v), (S, D), 2 * (S * D * M + S * M * H)),
    "grad and value": (lambda x, w, v: grad_and_value(squared)(x, w)[0], (S, D), 2 * S * D * M),
    "grad of each row": (lambda x, w, v: vmap(grad(squared), (0, None))(x, w), (S, D), 2 * S * D * M),
    "vjp": (lambda x, w, v: vjp(lambda y: y @ w, x)[1](torch.ones(S, M, device=x.device))[0], (S, D), 2 * S * D * M),
    # The product of the values and those of both factors' derivatives: torch multiplies by the weight's too, which are zeros.
    "jvp": (lambda x, w, v: jvp(lambda y: y @ w, (x,), (torch.ones_like(x),))[1], (S, D), 3 * S * D * M),
    # One vector: its product, and one of each output's derivatives.
    "jacrev": (lambda x, w, v: jacrev(lambda y: y @ w)(x), (D,), D * M + M * D * M),
    "jacrev in chunks": (lambda x, w, v: jacrev(lambda y: y @ w, chunk_size=2)(x), (D,), D * M + M * D * M),
    "jacfwd": (lambda x, w, v: jacfwd(lambda y: y @ w)(x), (D,), 2 * D * M + D * D * M),
    # Forward (x w, t v) and backward (g vᵀ, d wᵀ); that backward's own needs d's gradient and that of x w.
    "grad of grad": (lambda x, w, v: grad(lambda y: grad(two)(y, w, v).sum())(x), (S, D), 4 * S * D * M + 2 * S * M * H),
}


@pytest.mark.parametrize("name", FUNCTIONS)
def test_transforms_are_counted(name):
    function, shape, macs = FUNCTIONS[name]
    module, x = Call(function), torch.randn(shape)
    real = real_counts.count(module, x)
    assert real.macs == macs
    for values in (False, True):
        work = trace(module, x, values=values)
        assert (work.macs, work.total().backward_macs, work.coverage.unknown) == (macs, real.backward_macs, ())


# ---- of whole networks --------------------------------------------------------------------------------------------------


class Through(nn.Module):
    """Two networks alike, and what is done with them."""

    def __init__(self, body: Any, way: Any):
        super().__init__()
        self.body, self.other, self.way = body(), body(), way

    def forward(self, x):
        return self.way(self, x)


def convolutional() -> nn.Module:
    return nn.Sequential(
        nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4), nn.GELU(), nn.MaxPool2d(2), nn.Flatten(), nn.Linear(16, 5), nn.LayerNorm(5),
        nn.SiLU(), nn.Linear(5, 2),
    )  # fmt: skip


def encoder() -> nn.Module:
    return nn.TransformerEncoderLayer(8, 2, 12, 0.0, batch_first=True)


def weights(net: nn.Module) -> dict[str, torch.Tensor]:
    return {name: weight.detach() for name, weight in net.named_parameters()}


def loss(given: Any, net: Any, x: torch.Tensor) -> torch.Tensor:
    return functional_call(net, given, (x,)).square().sum()


def ensemble(m: Any, x: torch.Tensor) -> torch.Tensor:
    stacked = stack_module_state([m.body, m.other])
    return vmap(lambda p, b, x: functional_call(m.body, (p, b), (x,)), (0, 0, None))(*stacked, x)


def pulled_back(m: Any, x: torch.Tensor) -> Any:
    result, back = vjp(m.body, x)
    return back(torch.ones_like(result))


WAYS = {
    "rows": lambda m, x: vmap(lambda r: m.body(r[None])[0])(x),
    "rows, no gradient": lambda m, x: vmap(lambda r: m.body(r[None]).detach())(x) + m.body(x)[:, None],
    "grad": lambda m, x: grad(lambda y: m.body(y).sum())(x),
    "grad of the weights": lambda m, x: grad(loss)(weights(m.body), m.body, x),
    "grad of the weights themselves": lambda m, x: grad(loss)(dict(m.body.named_parameters()), m.body, x),
    "grad of each row": lambda m, x: vmap(grad(lambda p, r: loss(p, m.body, r[None])), (None, 0))(weights(m.body), x),
    "ensemble": ensemble,
    "vjp": pulled_back,
    "jvp": lambda m, x: jvp(m.body, (x,), (torch.randn_like(x),)),
    "jacrev": lambda m, x: jacrev(lambda y: m.body(y[None])[0])(x[0]),
    "jacfwd": lambda m, x: jacfwd(lambda y: m.body(y[None])[0])(x[0]),
    "hessian": lambda m, x: hessian(lambda y: m.body(y[None]).sum())(x[0]),
}


@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize(("body", "shape"), [(convolutional, (3, 3, 6, 6)), (encoder, (3, 4, 8))])
def test_of_whole_networks(body, shape, way):
    """In evaluation: torch's own batch norm updates its statistics in place otherwise, which torch.func refuses."""
    module, x = Through(body, WAYS[way]).eval(), torch.randn(shape)
    state = {name: tensor.clone() for name, tensor in module.state_dict().items()}
    work = trace(module, x)
    real = real_counts.count(module, x)
    assert (work.macs, work.total().backward_macs, work.coverage.unknown) == (real.macs, real.backward_macs, ())
    assert all(torch.equal(tensor, state[name]) for name, tensor in module.state_dict().items())
    if body is convolutional or way not in ("jvp", "jacfwd", "hessian"):  # the CPU's attention has no such derivative
        assert trace(module, x, values=True).macs == real.macs


def test_what_a_transform_refuses_is_said():
    with pytest.raises(InputError, match=r"^Call.*vmap.*\.item\(\).*at test_transforms.py"):
        trace(Call(lambda x, w, v: vmap(lambda r: r * r.sum().item())(x)), torch.randn(S, D))
