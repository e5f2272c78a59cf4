"""Networks side by side, and the layer diff of two versions of one."""

import pytest
import torch
from torch import nn

import lamina
from lamina.cost import memory
from lamina.cost.compare import compare, describe, diff
from lamina.errors import InputError
from lamina.zoo import registry


def trace(name):
    return lamina.trace(registry.assemble(name).eval(), *registry.example(name), name=name)


def stack(*layers, name="net", shape=(1, 8)):
    return lamina.trace(nn.Sequential(*layers).eval(), torch.empty(shape), name=name)


def statuses(a, b):
    return [(c.status, c.before.name if c.before else None, c.after.name if c.after else None) for c in diff(a, b)]


def test_rows():
    a, b = trace("lenet5"), trace("alexnet")
    found = lamina.compare(a, b)
    assert [row["network"] for row in found.rows] == ["lenet5", "alexnet"]
    row = found.rows[1]
    total = b.total()
    assert (row["parameters"], row["macs"], row["activations"]) == (total.parameters, total.macs, total.activations)
    assert row["inference_bytes"] == memory.inference_bytes(b) and row["training_bytes"] == memory.training(b).total
    assert row["input"] == [[1, 3, 227, 227]]
    assert found.shared == 0 and len(found.differences) == len(found.changes)
    assert compare(a, b, a).changes == ()
    with pytest.raises(InputError, match="at least two"):
        compare(a)


def test_equal_networks_have_no_differences():
    found = compare(trace("resnet18"), trace("resnet18"))
    assert found.differences == () and found.shared == 1
    assert {c.status for c in found.changes} == {"same"}


def test_versions_of_resnet50_differ_where_the_stride_moved():
    found = compare(trace("resnet50"), trace("resnet50_v1_5"))
    assert {c.status for c in found.differences} == {"changed"}
    names = [c.before.name for c in found.differences if c.before]
    assert names == [f"layer{i}.0.{layer}" for i in (2, 3, 4) for layer in ("conv1", "bn1", "relu", "conv2")]
    assert describe(found.differences[0]) == (
        "output 1x128x28x28 → 1x128x56x56; stride 2x2 → 1x1; MACs 25,690,112 → 102,760,448"
    )
    assert found.shared == pytest.approx(1 - 12 / len(found.changes))


def test_batch_norm_added():
    found = compare(trace("vgg11"), trace("vgg11_bn"))
    added = [c.after for c in found.changes if c.status == "added" and c.after]
    assert len(added) == 8 and {layer.op for layer in added} == {"batch_norm"}
    assert not [c for c in found.changes if c.status in ("removed", "changed")]


def test_added_removed_changed_renamed():
    a = stack(nn.Linear(8, 8), nn.ReLU(), nn.Linear(8, 4))
    assert statuses(a, stack(nn.Linear(8, 8), nn.ReLU(), nn.Linear(8, 4), nn.Sigmoid()))[-1] == ("added", None, "3")
    assert statuses(a, stack(nn.Linear(8, 8), nn.ReLU()))[-1] == ("removed", "2", None)
    assert statuses(a, stack(nn.Linear(8, 8), nn.ReLU(), nn.Linear(8, 5)))[-1] == ("changed", "2", "2")
    shifted = statuses(a, stack(nn.Tanh(), nn.Linear(8, 8), nn.ReLU(), nn.Linear(8, 4)))
    assert [s for s, _, _ in shifted] == ["added", "renamed", "renamed", "renamed"]
    renamed = diff(a, stack(nn.Tanh(), nn.Linear(8, 8), nn.ReLU(), nn.Linear(8, 4)))[1]
    assert describe(renamed) == "now 1"


@pytest.mark.parametrize(("a", "b"), [("resnet34", "resnet50"), ("alexnet", "vit_ti_16"), ("googlenet", "googlenet_bn")])
def test_every_layer_is_in_the_diff_once_and_in_order(a, b):
    first, second = trace(a), trace(b)
    changes = diff(first, second)
    assert [c.before for c in changes if c.before] == [x for x in first.layers if x.kind != "view"]
    assert [c.after for c in changes if c.after] == [x for x in second.layers if x.kind != "view"]
    for change in changes:
        assert (change.before is None) == (change.status == "added")
        assert (change.after is None) == (change.status == "removed")
        assert describe(change) or change.status == "same"
