"""Weight files: found, read, fitted, refused."""

import hashlib
import json

import pytest
import torch
from safetensors.torch import save_file

import lamina
from lamina.data import imagenet
from lamina.errors import InputError, LaminaError
from lamina.infer import session
from lamina.zoo import registry, weights


@pytest.fixture
def resnet(tmp_path):
    """A ResNet-20 of random weights, and its file as the public ones are: wrapped, prefixed, its last layer "linear"."""
    torch.manual_seed(0)
    net = lamina.build("resnet20_cifar").eval()
    state = {f"module.{k.replace('fc.', 'linear.')}": v for k, v in net.state_dict().items() if "num_batches" not in k}
    path = tmp_path / "resnet20.th"
    torch.save({"state_dict": state, "best_prec1": 91.7}, path)
    return net, path


def same_outputs(a, b, shape):
    x = torch.randn(shape)
    with torch.no_grad():
        torch.testing.assert_close(a(x), b(x))


def test_round_trip(resnet, tmp_path):
    net, path = resnet
    same_outputs(net, lamina.load("resnet20_cifar", path), (2, 3, 32, 32))
    save_file(net.state_dict(), tmp_path / "own.safetensors")
    loaded = lamina.load("resnet20_cifar", tmp_path / "own.safetensors")
    same_outputs(net, loaded, (2, 3, 32, 32))
    assert not loaded.training
    assert all(p.requires_grad for p in loaded.parameters())


def test_caffe_keys(tmp_path):
    """The key map renames every key of the public GoogLeNet, and of its auxiliary heads."""
    net = lamina.build("googlenet", aux=True)
    rules = registry.published()["naming"]["caffe_googlenet"]["keys"]
    caffe = {}
    for ours, value in net.state_dict().items():
        path = ours.removesuffix(".weight").removesuffix(".bias")
        for plain, name in {
            "conv1.conv": "conv1/7x7_s2",
            "reduce2.conv": "conv2/3x3_reduce",
            "conv2.conv": "conv2/3x3",
            "fc": "loss3/classifier",
        }.items():
            if path == plain:
                path = name
        for plain, name in {
            ".branch1.conv": "/1x1",
            ".reduce3.conv": "/3x3_reduce",
            ".branch3.conv": "/3x3",
            ".reduce5.conv": "/5x5_reduce",
            ".branch5.conv": "/5x5",
            ".project.conv": "/pool_proj",
        }.items():
            path = path.replace(plain, name)
        for i in "12":
            for plain, name in {"conv.conv": "conv", "fc1": "fc", "fc2": "classifier"}.items():
                path = f"loss{i}/{name}" if path == f"aux{i}.{plain}" else path
        caffe[f"{path}.{ours.rsplit('.', 1)[1]}"] = value
    assert not set(caffe) & set(net.state_dict())
    assert {weights.rename(key, rules) for key in caffe} == set(net.state_dict())
    torch.save(caffe, tmp_path / "googlenet.pt")
    file = weights.find("googlenet", tmp_path / "googlenet.pt")
    assert (file.image["channels"], file.image["scale"], file.classes) == ("BGR", 1, "imagenet")
    same_outputs(net.eval(), lamina.load("googlenet", file, aux=True), (1, 3, 224, 224))


def test_files_that_do_not_fit(resnet, tmp_path):
    _, path = resnet
    with pytest.raises(
        InputError, match=r"does not fit resnet32_cifar; missing: layer1.3.conv1.weight, .* more. It fits resnet20"
    ):
        lamina.load("resnet32_cifar", path)
    with pytest.raises(InputError, match=r"fits resnet20_cifar and plain20_cifar"):
        lamina.load("resnet56_cifar", path)
    with pytest.raises(InputError, match="does not fit alexnet"):
        lamina.load("alexnet", path)
    with pytest.raises(InputError, match=r"of another shape: fc.weight \(10x64 for 7x64\)"):
        lamina.load("resnet20_cifar", path, num_classes=7)
    extra = dict(lamina.build("lenet5_dense").state_dict()) | {"more": torch.zeros(1)}
    save_file(extra, tmp_path / "extra.safetensors")
    with pytest.raises(InputError, match="left over: more"):
        lamina.load("lenet5_dense", tmp_path / "extra.safetensors")


def test_a_known_file_of_another_variant_is_named(resnet, tmp_path, monkeypatch):
    """v1 and v1.5 have the same keys and shapes: only the file's digest tells them apart."""
    _, path = resnet
    row = {"network": "resnet50_v1_5", "tag": "X", "source": "torchvision's resnet50", "sha256": weights.sha256(path)}
    monkeypatch.setitem(registry.published(), "weights", [row])
    with pytest.raises(InputError, match="torchvision's resnet50: its weights are resnet50_v1_5's, not resnet50's"):
        lamina.load("resnet50", path)


@pytest.mark.parametrize("keep", [0, 10, 1000, 100_000])
def test_files_cut_short(resnet, tmp_path, keep):
    net, path = resnet
    short = tmp_path / "short.th"
    short.write_bytes(path.read_bytes()[:keep])
    with pytest.raises(LaminaError, match=r"short\.th"):
        lamina.load("resnet20_cifar", short)
    save_file(net.state_dict(), tmp_path / "whole.safetensors")
    cut = tmp_path / "cut.safetensors"
    cut.write_bytes((tmp_path / "whole.safetensors").read_bytes()[:keep])
    with pytest.raises(LaminaError, match=r"cut.safetensors is cut short"):
        lamina.load("resnet20_cifar", cut)


def test_code_is_never_unpickled(tmp_path):
    path = tmp_path / "module.pt"
    torch.save(torch.nn.Linear(2, 2), path)
    with pytest.raises(LaminaError, match="does not unpickle code"):
        lamina.load("lenet5_dense", path)
    torch.save([1, 2], tmp_path / "list.pt")
    with pytest.raises(LaminaError, match="no state dict"):
        lamina.load("lenet5_dense", tmp_path / "list.pt")


def test_names_that_are_neither_file_nor_tag(tmp_path):
    with pytest.raises(InputError, match="its tags are mnist"):
        lamina.load("lenet5", "imagenet")
    with pytest.raises(InputError, match="no such weight file"):
        lamina.load("lenet5", tmp_path / "none.pt")
    with pytest.raises(InputError, match="is not a file"):
        lamina.load("lenet5", tmp_path)
    with pytest.raises(InputError, match="give a file"):
        lamina.load("plain18")


def test_without_a_network_the_error_says_what_to_do():
    with pytest.raises(LaminaError, match=r"resnet18: https://download.pytorch.org/.* cannot be fetched.*--weights FILE"):
        lamina.load("resnet18")


def test_fetched_weights_are_checked(tmp_path, monkeypatch, resnet):
    """Through a file: URL: the digest is checked, the file kept in the cache, and a wrong one not kept."""
    net, path = resnet
    digest = hashlib.sha256(path.read_bytes()).hexdigest()
    row = {"network": "resnet20_cifar", "tag": "T", "url": path.as_uri(), "sha256": digest[:8], "source": "a test"}
    monkeypatch.setitem(registry.published(), "weights", [row])
    same_outputs(net, lamina.load("resnet20_cifar", "T"), (1, 3, 32, 32))
    kept = weights.cache_dir() / "weights" / path.name
    assert kept.read_bytes() == path.read_bytes()
    kept.unlink()
    row["sha256"] = "00000000"
    with pytest.raises(LaminaError, match=f"has SHA-256 {digest}, not 00000000: not kept"):
        lamina.load("resnet20_cifar", "T")
    assert list(kept.parent.iterdir()) == []


def test_the_shipped_lenet5():
    file = weights.find("lenet5")
    metadata = weights.read_metadata(file.path)
    assert metadata["recipe"] == "lenet5_mnist" and float(metadata["test_top1"]) >= 99.0
    assert json.loads(metadata["image"]) == file.image
    assert (file.classes, file.score_scale) == ("mnist", 0.25)
    assert file.path.with_suffix(".md").read_text().count("99.30") == 1


def test_class_names():
    classes = imagenet.classes()
    assert len(classes) == 1000
    assert [wnid for wnid, _ in classes] == sorted(wnid for wnid, _ in classes)
    assert classes[0] == ("n01440764", "tench, Tinca tinca")
    assert session.class_names("cifar10")[3] == "cat"
    assert session.class_names("") == ()
