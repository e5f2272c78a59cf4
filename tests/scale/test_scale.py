import pytest
import torch

import lamina
from lamina.errors import InputError


def trained(name: str, **changes):
    """A network whose weights and statistics are those of no initialisation."""
    torch.manual_seed(0)
    net = lamina.build(name, **changes).train()
    side = 32 if name.endswith("cifar") else 64
    for parameter in net.parameters():
        parameter.data.add_(0.05 * torch.randn_like(parameter))
    with torch.no_grad():
        net(torch.randn(4, 3, side, side))
    return net.eval(), side


@pytest.mark.parametrize(
    ("name", "depths"),
    [
        ("resnet50", (4, 5, 7, 4)),
        ("resnet18", (2, 3, 2, 5)),
        ("resnet20_cifar", (3, 4, 6)),
        ("resnet50_v1_5", (3, 4, 8, 3)),
    ],
)
def test_zero_insertion_is_exact(name, depths):
    net, side = trained(name)
    before = {k: v.clone() for k, v in net.state_dict().items()}
    grown = lamina.grow(net, depths)
    x = torch.randn(2, 3, side, side)
    with torch.no_grad():
        expected, found = net(x), grown(x)
    assert (expected - found).abs().max() <= 1e-5 * expected.abs().max()
    assert grown.config.depths == depths
    assert sum(p.numel() for p in grown.parameters()) > sum(p.numel() for p in net.parameters())
    assert all(torch.equal(before[k], v) for k, v in net.state_dict().items())


def test_the_new_block_learns():
    net, side = trained("resnet20_cifar")
    grown = lamina.grow(net, (3, 3, 4)).train()
    grown(torch.randn(4, 3, side, side)).square().mean().backward()
    new = grown.layer3[3]
    assert new.last_norm.weight.grad.abs().max() > 0


def test_an_inserted_block_that_is_not_zero_changes_the_output():
    """The check can fail: with the usual scale of one the function is another."""
    net, side = trained("resnet20_cifar")
    grown = lamina.grow(net, (4, 3, 3))
    torch.nn.init.ones_(grown.layer1[3].last_norm.weight)
    x = torch.randn(2, 3, side, side)
    with torch.no_grad():
        assert (net(x) - grown(x)).abs().max() > 1e-3


def test_refusals():
    with pytest.raises(InputError, match="needs residual blocks"):
        lamina.grow(lamina.build("plain20_cifar"), (4, 4, 4))
    with pytest.raises(InputError, match="needs residual blocks"):
        lamina.grow(lamina.build("lenet5"), (4,))
    net = lamina.build("resnet20_cifar")
    for wrong in ((2, 3, 3), (3, 3), (3, 3, 3, 3)):
        with pytest.raises(InputError, match="at least as many"):
            lamina.grow(net, wrong)
