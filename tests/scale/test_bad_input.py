"""What cannot grow is refused by its name, with what would be possible instead."""

import re
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

import lamina
from lamina.errors import InputError
from lamina.scale.growth import grow, shrink
from lamina.scale.structure import Attention, Family, Matrix
from lamina.scale.width import add_heads, remove_heads
from lamina.zoo import wide_resnet
from tests.scale.networks import batch, error, network


def refused(message: str, change: Any, *arguments: Any, **named: Any) -> None:
    with pytest.raises(InputError, match=re.escape(message)) as caught:
        change(*arguments, **named)
    assert "\n" not in str(caught.value)


# ---- blocks that change stride or width ----------------------------------------------------------------------------------


@pytest.mark.parametrize("operator", ["split", "interpolate", "stack"])
@pytest.mark.parametrize("stem", [8, 4])  # layer1.0 keeps its width, or widens
def test_a_stage_of_one_block_that_changes_the_shape(operator: str, stem: int) -> None:
    net = wide_resnet.CifarNet(wide_resnet.Config((1, 1), (8, 16), stem, img_size=16)).eval()
    first = "layer1.0" if stem == 4 else "layer2.0"
    if stem == 4:
        message = f"{first} changes stride or width"
        refused(message, grow, net, depth=2, operator={"depth": operator})
        refused("zero insertion can follow any block", grow, net, depth=2)
    else:
        refused(f"layer2: {first} changes stride or width", grow, net, depth=(2, 2), operator={"depth": operator})
        assert grow(net, depth=2).module.config.depths == (2, 1)
    net.double()
    zero = grow(net, depth=2, operator={"depth": "zero"}).module  # what the message says is possible
    assert error(net, zero, batch(net)) < 1e-12


def test_a_stage_of_uneven_blocks_shrinks_by_none() -> None:
    message = "layer2 has 1 block after layer2.0, which changes the shape, and not a multiple of 2: grow it first"
    refused(message, shrink, network("wrn"), depth=2)


# ---- odd maps ------------------------------------------------------------------------------------------------------------


def test_odd_maps() -> None:
    net = wide_resnet.CifarNet(wide_resnet.Config((1,), (8,), 8, in_channels=1, img_size=15)).eval()
    refused("conv1 has an odd map of 15x15, whose pixels do not pair: pad the images by one pixel", shrink, net, resolution=2)
    padded = wide_resnet.CifarNet(wide_resnet.Config((1,), (8,), 8, in_channels=1, img_size=16)).eval()
    assert shrink(padded, resolution=2).module.config.img_size == 8
    refused("grid of 4x4, which is not divisible by 3", shrink, network("vit"), tokens=3)


def test_a_strided_stem() -> None:
    net = lamina.build("resnet20_cifar").eval()
    refused("layer2.0.conv1 has a stride of 2", grow, net, resolution=2)
    assert grow(net, resolution=2, operator={"resolution": "same"}).report.exactness == "approximate"


# ---- grouped queries -----------------------------------------------------------------------------------------------------


class Grouped(Family):
    """Eight query heads on two key and value heads, of width 3."""

    def attentions(self) -> list[Attention]:
        projections = ((Matrix("qkv", bias=False), ("query", "key", "value")),)
        return [Attention("layers.0.attention", projections, Matrix("out", bias=False), 8, 2, 3)]  # type: ignore[arg-type]

    def with_heads(self, n_heads: int, n_kv: int, head_width: int) -> Family:
        return self.clone((n_heads, n_kv, head_width))


def test_grouped_queries_that_do_not_divide() -> None:
    family = Grouped(nn.Module())
    message = "layers.0.attention has 8 query heads for 2 key and value heads: they are not divisible by {}"
    for factor in (3, 8):
        refused(message.format(factor) + "; heads can shrink by 2 or 4", remove_heads, family, factor)
    assert [remove_heads(family, n)[0].config for n in (2, 4)] == [(4, 2, 3), (2, 2, 3)]
    assert add_heads(family, 3)[0].config == (24, 2, 3)  # any number of queries can share a key


def test_heads_and_hidden_units_that_do_not_divide() -> None:
    refused(
        "blocks.0.attention has 3 query heads: they are not divisible by 2; heads can shrink by 3",
        shrink,
        network("vit"),
        heads=2,
    )
    refused("40 hidden units, which are not divisible by 3; they are by 2, 4, 5, 8", shrink, network("vit"), feed_forward=3)


# ---- tied weights --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("change", [{"feed_forward": 2}, {"depth": 2}, {"patch": 14}])
def test_tied_weights(change: dict[str, int]) -> None:
    net: Any = network("vit")
    net.blocks[1].fc1.weight = net.blocks[0].fc1.weight
    message = "blocks.0.fc1.weight and blocks.1.fc1.weight are one tied weight: copy it into two parameters"
    refused(message, grow, net, **change)
    net.blocks[1].fc1.weight = nn.Parameter(net.blocks[0].fc1.weight.detach().clone())
    grow(net, **change)


def test_tied_convolutions_at_another_resolution() -> None:
    net = wide_resnet.CifarNet(wide_resnet.Config((2,), (8,), 8, img_size=16))
    net.layer1[1].conv1.weight = net.layer1[0].conv1.weight  # type: ignore[index, union-attr]
    for change in (grow, shrink):
        refused("layer1.0.conv1.weight and layer1.1.conv1.weight are one tied weight", change, net, resolution=2)


# ---- wrapped modules -----------------------------------------------------------------------------------------------------

CHANGES: list[dict[str, Any]] = [{"heads": 2}, {"depth": 2}, {"resolution": 2}]


@pytest.mark.parametrize("change", CHANGES, ids=str)
def test_a_distributed_module(tmp_path: Path, change: dict[str, Any]) -> None:
    store = torch.distributed.FileStore(str(tmp_path / "store"), 1)
    torch.distributed.init_process_group("gloo", store=store, rank=0, world_size=1)
    try:
        wrapped = nn.parallel.DistributedDataParallel(network("vit"))
        message = "DistributedDataParallel wraps the network: give its .module, and wrap the grown network again"
        refused(message, grow, wrapped, **change)
        grow(wrapped.module, **change)
    finally:
        torch.distributed.destroy_process_group()


@pytest.mark.parametrize("change", CHANGES, ids=str)
@pytest.mark.filterwarnings("ignore::DeprecationWarning")  # torch.compile's own
def test_a_compiled_module(change: dict[str, Any]) -> None:
    compiled: Any = torch.compile(network("vit"))
    message = "a compiled module is not grown: give its ._orig_mod, and compile the grown network again"
    refused(message, grow, compiled, **change)
    grow(compiled._orig_mod, **change)


def test_a_sharded_module() -> None:
    """`fully_shard` changes the module's class, whose base is then FSDPModule."""
    from torch.distributed.fsdp import FSDPModule

    net = network("vit")
    net.__class__ = type("FSDPNet", (FSDPModule, type(net)), {})
    refused("grow the network first, and shard the grown one", grow, net, heads=2)


# ---- optimizers ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", ["RMSprop", "Adagrad", "NAdam", "RAdam", "Adadelta", "ASGD", "Rprop", "Adamax"])
def test_an_optimizer_of_another_kind(kind: str) -> None:
    net = network("vit")
    optimizer = getattr(torch.optim, kind)(net.parameters(), lr=0.01)
    message = f"the state of {kind} is not carried over: it is for SGD, Adam, AdamW; grow without it"
    refused(message, grow, net, heads=2, optimizer=optimizer)
    grow(net, heads=2)


def test_an_optimizers_state_at_another_resolution() -> None:
    net = wide_resnet.CifarNet(wide_resnet.Config((1,), (8,), 8, img_size=16))
    optimizer = torch.optim.SGD(net.parameters(), lr=0.1)
    refused(
        "an optimizer's state is not carried over to other kernels; grow without it",
        grow,
        net,
        resolution=2,
        optimizer=optimizer,
    )
