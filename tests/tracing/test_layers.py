"""Layers that are not what they seem: lazy before their first call, pruned, sparse, nested, sharded."""

import copy
from typing import Any

import pytest
import torch
from torch import nn
from torch.nn import functional as F
from torch.nn.utils import prune

from lamina.errors import InputError
from lamina.tracing.tracer import trace

# ---- lazy --------------------------------------------------------------------------------------------------------------


def lazy() -> nn.Module:
    return nn.Sequential(
        nn.LazyConv2d(4, 3), nn.LazyBatchNorm2d(), nn.ReLU(), nn.Flatten(), nn.LazyLinear(5), nn.Linear(5, 2, bias=False)
    )


# 3 channels of 6·6 become 4 of 4·4; then 64 features, 5, 2.
LAZY_MACS = 2 * (16 * 4 * 27 + 64 * 5 + 5 * 2)
LAZY_PARAMETERS = 4 * 27 + 4 + 8 + 64 * 5 + 5 + 10


@pytest.mark.parametrize("values", [False, True])
def test_lazy_layers_get_their_shapes_from_the_input(values):
    module, x = lazy(), torch.randn(2, 3, 6, 6)
    work = trace(module, x, values=values)
    assert (work.macs, work.total().parameters, work.coverage.unknown) == (LAZY_MACS, LAZY_PARAMETERS, ())
    assert [layer.module_type for layer in work.layers[:2]] == ["Conv2d", "BatchNorm2d"]
    assert isinstance(module[0].weight, nn.UninitializedParameter)
    assert type(module[1]) is nn.LazyBatchNorm2d
    other = trace(module, torch.randn(2, 5, 6, 6), values=values)  # as if nothing had been
    assert other.macs == 2 * (16 * 4 * 45 + 64 * 5 + 5 * 2)
    module(x)
    assert trace(module, x, values=values).layers == work.layers


class Unused(nn.Module):
    def __init__(self):
        super().__init__()
        self.used, self.unused = nn.LazyLinear(3), nn.LazyLinear(3)

    def forward(self, x):
        return self.used(x)


def test_a_lazy_layer_that_is_never_called_is_named():
    with pytest.raises(InputError, match=r"^unused.weight has no shape, and the call that is traced gives it none$"):
        trace(Unused(), torch.randn(2, 4))


# ---- pruned ------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("device", ["cpu", "meta"])
@pytest.mark.parametrize("values", [False, True])
def test_pruned_layers_run_dense(device, values):
    if device == "meta" and values:
        pytest.skip("values are the CPU's")
    module = nn.Sequential(nn.Conv2d(3, 4, 3), nn.ReLU(), nn.Flatten(), nn.Linear(64, 5))
    prune.ln_structured(module[0], "weight", 0.5, n=2, dim=0)
    prune.l1_unstructured(module[3], "weight", 0.3)
    prune.random_unstructured(module[3], "bias", 0.3)
    module = module.to(device)
    work = trace(module, torch.randn(2, 3, 6, 6), values=values)
    assert (work.macs, work.coverage.unknown) == (2 * (16 * 4 * 27 + 64 * 5), ())
    assert work.total().parameters == 4 * 27 + 4 + 64 * 5 + 5
    assert work.buffers == 4 * 27 + 64 * 5 + 5  # the masks
    assert work.total().backward_macs == 2 * (16 * 4 * 27 + 2 * 64 * 5)


# ---- sparse ------------------------------------------------------------------------------------------------------------

N, F_ = 6, 5


def matrix(layout: str) -> torch.Tensor:
    """Six by six with nine elements (nine blocks of two by two where they are stored in blocks)."""
    dense = torch.zeros(N, N)
    dense[[0, 0, 1, 2, 3, 3, 4, 5, 5], [1, 5, 0, 2, 3, 4, 1, 0, 5]] = 1.0
    if layout == "bsr":
        return dense.to_sparse_bsr((2, 2))
    return getattr(dense, f"to_sparse_{layout}")() if layout != "coo" else dense.to_sparse()


class Graph(nn.Module):
    """A · x · w with an adjacency matrix."""

    def __init__(self, adjacency: torch.Tensor, way: str):
        super().__init__()
        self.register_buffer("adjacency", adjacency)
        self.layer, self.way = nn.Linear(F_, 3), way

    def forward(self, x):
        a: Any = self.adjacency
        ways = {
            "mm": lambda: torch.sparse.mm(a, x), "@": lambda: a @ x, "torch.mm": lambda: torch.mm(a, x),
            "addmm": lambda: torch.addmm(x, a, x), "sparse.addmm": lambda: torch.sparse.addmm(x, a, x),
            "mv": lambda: torch.stack([torch.mv(a, column) for column in x.T], 1),
        }  # fmt: skip
        return self.layer(ways[self.way]())


@pytest.mark.parametrize("values", [False, True])
@pytest.mark.filterwarnings("ignore:Sparse")
@pytest.mark.parametrize("layout", ["coo", "csr", "csc", "bsr"])
def test_a_sparse_matrix_times_a_dense_one(layout, values):
    """Each stored element meets each column."""
    adjacency = matrix(layout)
    stored = adjacency._nnz() * (4 if layout == "bsr" else 1)
    for way in ("mm", "@", "torch.mm", "addmm", "sparse.addmm", "mv"):
        if layout in ("csc", "bsr") and way in ("sparse.addmm", "addmm", "mv"):
            continue  # torch has none of these either
        work = trace(Graph(adjacency, way), torch.randn(N, F_), values=values)
        assert (work.macs, work.coverage.unknown) == (stored * F_ + N * F_ * 3, ())
        assert work.total().backward_macs == N * F_ * 3


def test_a_sparse_input():
    work = trace(lambda a, x: a @ x, matrix("csr"), torch.randn(N, F_))
    assert work.macs == 9 * F_


def test_what_shapes_do_not_say_of_a_sparse_tensor():
    def scaled(x):
        return torch.sparse.mm(x.to_sparse() * 2, x)

    x = torch.eye(N)
    with pytest.raises(InputError, match=r"to_sparse: what it computes of a sparse tensor.*values=True.*at test_layers.py"):
        trace(scaled, x)
    work = trace(scaled, x, values=True)
    assert work.macs == N * N


# ---- nested ------------------------------------------------------------------------------------------------------------


class Ragged(nn.Module):
    """Self-attention of two heads over sequences of unequal length."""

    def __init__(self, made: bool):
        super().__init__()
        self.norm, self.made = nn.LayerNorm(8), made
        self.query, self.key, self.value = (nn.Linear(8, 8) for _ in range(3))
        self.out = nn.Linear(8, 4)

    def forward(self, x, y=None):
        x = torch.nested.nested_tensor([x, y], layout=torch.jagged) if self.made else x
        h = self.norm(x)
        q, k, v = (f(h).unflatten(-1, [2, 4]).transpose(1, 2) for f in (self.query, self.key, self.value))
        z = self.out(F.scaled_dot_product_attention(q, k, v).transpose(1, 2).flatten(2) + x)
        return torch.nested.to_padded_tensor(z, 0.0) if self.made else z


@pytest.mark.filterwarnings("ignore:The PyTorch API of nested tensors")
def test_jagged_tensors_are_counted_with_values():
    """Eight rows in all; attention within sequences of three and of five: 2·8·(9 + 25)."""
    a, b = torch.randn(3, 8), torch.randn(5, 8)
    layers, scores = 8 * 8 * 24 + 8 * 8 * 4, 2 * 8 * (9 + 25)
    for work in (
        trace(Ragged(False), torch.nested.nested_tensor([a, b], layout=torch.jagged), values=True),
        trace(Ragged(True), a, b, values=True),
    ):
        total = work.total()
        assert (total.macs, total.backward_macs) == (layers + scores, 2 * (layers + scores))
        assert work.coverage.unknown == ()


@pytest.mark.parametrize("layout", [torch.strided, torch.jagged])
@pytest.mark.filterwarnings("ignore:The PyTorch API of nested tensors")
def test_nested_tensors_are_refused_in_one_line(layout):
    def padded(x, y):
        return torch.nested.to_padded_tensor(torch.nested.nested_tensor([x, y], layout=layout), 0.0)

    a, b = torch.randn(3, 4), torch.randn(2, 4)
    with pytest.raises(
        InputError, match=r"^function.*nested.*the lengths in a nested tensor are values.*--run.*at test_layers"
    ):
        trace(padded, a, b)
    with pytest.raises(InputError, match=r"^Linear \(Linear\): an input: the lengths in a nested tensor are values"):
        trace(nn.Linear(4, 5), torch.nested.nested_tensor([a, b], layout=layout), values=layout is torch.strided)


# ---- sharded -----------------------------------------------------------------------------------------------------------


def test_fsdp1_is_refused_by_name():
    """Its class alone: the real one wants a process group."""

    class FullyShardedDataParallel(nn.Module):
        def __init__(self, module):
            super().__init__()
            self._fsdp_wrapped_module = module

    with pytest.raises(InputError, match=r"^body \(FullyShardedDataParallel\).*before it is wrapped.*fully_shard"):
        trace(nn.ModuleDict({"body": FullyShardedDataParallel(nn.Linear(2, 2))}), torch.randn(1, 2))


def test_the_module_is_left_as_it_was():
    module = lazy()
    before = copy.deepcopy(list(vars(module[0])))
    trace(module, torch.randn(2, 3, 6, 6))
    assert list(vars(module[0])) == before
