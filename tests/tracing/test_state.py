"""A trace changes nothing that was there before it: buffers, tensors among the attributes, global ones, inputs."""

from collections.abc import Callable
from itertools import product

import pytest
import torch
from torch import nn

from lamina.errors import InputError
from lamina.tracing.tracer import trace

Write = Callable[[torch.Tensor, torch.Tensor], object]
GLOBAL = torch.zeros(3)

WRITES: dict[str, Write] = {
    "add": lambda state, x: state.add_(1),
    "first": lambda state, x: state.__setitem__(0, 5),
    "view": lambda state, x: state[1:].add_(2),
    "column": lambda state, x: state.view(3, 1).mul_(2),
    "row": lambda state, x: state.unsqueeze(0).fill_(3),
    "input": lambda state, x: state.copy_(x[0]),
    "part of input": lambda state, x: state.__setitem__(slice(0, 2), x[0, :2]),
    "data": lambda state, x: state.data.__setitem__(0, 9),
    "out": lambda state, x: torch.add(state, 1, out=state),
    "index": lambda state, x: state.index_fill_(0, torch.tensor([1]), 4),
    "mask": lambda state, x: state.masked_fill_(state == 0, 7),
    "random": lambda state, x: state.random_(),
    "chain": lambda state, x: state.mul_(2).add_(1).zero_().add_(1),
}


class Stateful(nn.Module):
    def __init__(self, *writes: Write):
        super().__init__()
        self.buffer = nn.Buffer(torch.zeros(3))
        self.attribute = torch.zeros(3)
        self.writes = writes

    def forward(self, x, ids):
        states = (self.buffer, self.attribute, GLOBAL, ids)
        for state, write in product(states, self.writes):
            write(state, x)
        return sum(states, x)


@pytest.mark.parametrize("first", WRITES)
def test_pairs_of_writes_leave_all_state_alone(first):
    for second in WRITES.values():
        module, ids = Stateful(WRITES[first], second), torch.zeros(3, dtype=torch.long)
        trace(module, torch.rand(2, 3), ids)
        for state in (module.buffer, module.attribute, GLOBAL, ids):
            assert state.tolist() == [0, 0, 0]


def test_the_forward_reads_what_it_wrote():
    """In place on an input of integers, through views that were there before and after, and on a buffer."""

    class Writes(nn.Module):
        def __init__(self):
            super().__init__()
            self.steps = nn.Buffer(torch.tensor(0))

        def forward(self, x, lengths):
            early = lengths[1:]
            lengths.add_(1)
            lengths[0] = 7
            lengths[1:].add_(1)
            steps = self.steps.add_(2)
            assert (lengths.tolist(), early.tolist(), int(lengths[1]), int(steps)) == ([7, 4], [4], 4, 2)
            return x[: int(lengths[0])], x[: int(self.steps)]

    module, lengths = Writes(), torch.tensor([1, 2])
    work = trace(module, torch.empty(9, 2), lengths)
    assert [x.shape for layer in work.layers[-3:] for x in layer.outputs if len(x.shape) == 2] == [(7, 2), (2, 2)]
    assert (lengths.tolist(), int(module.steps)) == ([1, 2], 0)


def test_a_copy_on_write_is_no_memory_of_its_own():
    """Two maps of 4 float32, and the input of 3 int64 once."""
    work = trace(lambda x, ids: (ids.add_(1), x * 2)[1], torch.empty(4), torch.tensor([1, 2, 3]))
    assert sum(life.bytes for life in work.lifetimes) == 2 * 16 + 24


def test_a_buffer_with_unknown_values_is_not_read():
    class Peeks(nn.Module):
        def __init__(self):
            super().__init__()
            self.seen = nn.Buffer(torch.zeros(3))

        def forward(self, x):
            self.seen.copy_(x)
            return x if self.seen[0] > 0 else -x

    with pytest.raises(InputError, match="decides the way"):
        trace(Peeks(), torch.empty(3))
