"""Constants keep their values wherever a forward makes them; what it makes of them on the way to a result is recorded."""

import pytest
import torch

from lamina.tracing.tracer import trace

CONSTANTS = {
    "ones": lambda x: torch.ones(1, 7, device=x.device).all(),
    "zeros": lambda x: not torch.zeros(7, device=x.device).any(),
    "full": lambda x: (torch.full((7,), -1.0, device=x.device) < 0).all(),
    "eye": lambda x: torch.eye(3, device=x.device).sum() == 3,
    "linspace": lambda x: torch.linspace(0, 1, 5, device=x.device)[-1] == 1,
    "arange": lambda x: torch.arange(0.0, 3.0, device=x.device).max() == 2,
    "histc": lambda x: torch.histc(torch.tensor([0, 1, 1], dtype=torch.int32), 2, 0, 1).tolist() == [1, 2],
}


@pytest.mark.parametrize("device", ["cpu", "meta"])
@pytest.mark.parametrize("constant", CONSTANTS)
def test_a_constant_on_the_inputs_device_keeps_its_values(constant, device):
    """The product of 2x3 by 3x2 is on the way where the constant is as it should be."""
    holds = CONSTANTS[constant]
    work = trace(lambda x: x @ x.T if holds(x) else x, torch.empty(2, 3, device=device))
    assert (work.macs, work.coverage.unknown) == (12, ())


def test_a_constant_that_is_written_to_has_no_values():
    """A state of zeros is memory like any other: 2x3 floats, beside the input and the sum."""

    def forward(x):
        state = torch.zeros(2, 3, device=x.device)
        state[0] = x[0]
        return state + x

    work = trace(forward, torch.empty(2, 3))
    assert work.layers[-1].outputs[0].shape == (2, 3)
    assert work.peak_activation_bytes == 3 * 24


def test_a_mean_by_its_axis():
    (layer,) = trace(lambda x: torch.mean(x, axis=-1), torch.empty(2, 3)).layers
    assert layer.outputs[0].shape == (2,)
