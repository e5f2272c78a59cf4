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
from lamina.zoo import fitting, registry, weights


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
    assert {fitting.rename(key, rules) for key in caffe} == set(net.state_dict())
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
    save_file(lamina.build("resnet20_cifar", num_classes=7).state_dict(), tmp_path / "seven.safetensors")
    with pytest.raises(InputError, match=r"of another shape: fc.weight \(7x64 for 10x64\)"):
        lamina.load("resnet20_cifar", tmp_path / "seven.safetensors")
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


# ---- other classes, channels, pixels; the hub; features -----------------------------------------------------------------


def saved(name: str, path, **changes):
    """A network with weights of no initialisation, and its file."""
    torch.manual_seed(0)
    net = lamina.build(name, **changes).eval()
    for parameter in net.parameters():
        parameter.data.add_(0.02 * torch.randn_like(parameter))
    save_file(net.state_dict(), path)
    return net


def test_another_number_of_classes(tmp_path, caplog):
    net = saved("resnet20_cifar", tmp_path / "n.safetensors")
    new, report = weights.load_reported("resnet20_cifar", tmp_path / "n.safetensors", num_classes=7)
    assert report == fitting.Report(reinitialised=("fc.weight", "fc.bias"))
    x = torch.randn(2, 3, 32, 32)
    with torch.no_grad():
        assert new(x).shape == (2, 7) and new(x).isfinite().all()
        same = lamina.features(net, x, ["avgpool"]), lamina.features(new, x, ["avgpool"])
    torch.testing.assert_close(same[0], same[1])
    lamina.load("resnet20_cifar", tmp_path / "n.safetensors", num_classes=7)
    assert "re-initialised: fc.weight, fc.bias" in caplog.text


def test_a_changed_network_s_own_file_loads(tmp_path):
    for name, changes in (("resnet20_cifar", {"num_classes": 7}), ("vit_ti_16", {"img_size": 32, "in_channels": 1})):
        net = saved(name, tmp_path / "own.safetensors", **changes)
        loaded, report = weights.load_reported(name, tmp_path / "own.safetensors", **changes)
        assert report == fitting.Report()
        assert all(torch.equal(v, loaded.state_dict()[k]) for k, v in net.state_dict().items())


@pytest.mark.parametrize("channels", [1, 2, 4, 6])
def test_other_input_channels(tmp_path, channels):
    net = saved("resnet20_cifar", tmp_path / "n.safetensors")
    new, report = weights.load_reported("resnet20_cifar", tmp_path / "n.safetensors", in_channels=channels)
    assert report == fitting.Report(adapted=("conv1.weight",))
    grey = torch.randn(2, 1, 32, 32)
    with torch.no_grad():
        expected = net(grey.expand(-1, 3, -1, -1))
        found = new(grey.expand(-1, channels, -1, -1))
    if channels % 3 == 0 or channels == 1:  # a grey picture gives the same answer, however many channels carry it
        torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-4)
    assert found.isfinite().all()


def test_another_image_size(tmp_path):
    net = saved("vit_ti_16", tmp_path / "n.safetensors")
    new, report = weights.load_reported("vit_ti_16", tmp_path / "n.safetensors", img_size=96)
    assert report == fitting.Report(adapted=("position_embedding",))
    assert new.position_embedding.shape == (1, 37, 192)
    assert torch.equal(new.position_embedding[:, 0], net.position_embedding[:, 0])
    with torch.no_grad():
        assert new(torch.randn(1, 3, 96, 96)).isfinite().all()
    with pytest.raises(InputError, match="not a multiple of the patch size"):
        lamina.load("vit_ti_16", tmp_path / "n.safetensors", img_size=100)


def test_without_a_head(tmp_path):
    net = saved("resnet20_cifar", tmp_path / "n.safetensors")
    headless = lamina.load("resnet20_cifar", tmp_path / "n.safetensors", head=None)
    x = torch.randn(2, 3, 32, 32)
    with torch.no_grad():
        torch.testing.assert_close(headless(x), lamina.features(net, x, ["avgpool"])["avgpool"].flatten(1))
    widths = {"alexnet": 4096, "vgg11": 4096, "googlenet": 1024, "densenet121": 1024, "vit_b_16": 768, "inception_v4": 1536}
    for name, width in widths.items():
        module = lamina.build(name, device="meta", head=None).eval()
        assert module(torch.empty(1, *lamina.spec(name).input, device="meta")).shape == (1, width)
    with torch.no_grad():
        assert lamina.build("vit_ti_16", head=None).eval()(torch.randn(1, 3, 224, 224)).shape == (1, 192)
    for name in ("lenet5", "transformer_base"):
        with pytest.raises(InputError, match="no linear head"):
            lamina.build(name, head=None)


def test_features_leave_the_module_alone():
    net = lamina.build("resnet20_cifar").eval()
    x = torch.randn(1, 3, 32, 32)
    with torch.no_grad():
        found = lamina.features(net, x, ["layer1", "layer2.0.conv1", "relu"])
    assert {k: tuple(v.shape) for k, v in found.items()} == {
        "layer1": (1, 16, 32, 32),
        "layer2.0.conv1": (1, 32, 16, 16),
        "relu": (1, 16, 32, 32),
    }
    assert all(not m._forward_hooks for m in net.modules())
    with pytest.raises(InputError, match=r"nearest are layer3, "):
        lamina.features(net, x, ["layer4"])
    with pytest.raises(RuntimeError):
        lamina.features(net, torch.randn(1, 1, 32, 32), ["layer1"])
    assert all(not m._forward_hooks for m in net.modules())


def hub(home, repository: str, files: dict[str, bytes]):
    """A cache of huggingface_hub as the library lays it out."""
    folder = home / f"models--{repository.replace('/', '--')}"
    (folder / "refs").mkdir(parents=True)
    (folder / "refs" / "main").write_text("abc")
    (folder / "snapshots" / "abc").mkdir(parents=True)
    for name, content in files.items():
        (folder / "snapshots" / "abc" / name).write_bytes(content)


HF_VIT = {  # ours to Hugging Face's, in this order
    "patch_embed.": "vit.embeddings.patch_embeddings.projection.",
    "class_token": "vit.embeddings.cls_token",
    "position_embedding": "vit.embeddings.position_embeddings",
    "head.": "classifier.",
    "blocks.": "vit.encoder.layer.",
    ".norm1.": ".layernorm_before.",
    ".norm2.": ".layernorm_after.",
    ".attention.out.": ".attention.output.dense.",
    ".fc1.": ".intermediate.dense.",
    ".fc2.": ".output.dense.",
}


def test_the_hub(tmp_path, monkeypatch):
    """From the hub's cache, without a network: Hugging Face's names and its preprocessing."""
    import huggingface_hub.constants

    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_CACHE", str(tmp_path))
    ours = saved("vit_ti_16", tmp_path / "own.safetensors")
    theirs = {}
    for key, value in ours.state_dict().items():
        pieces = {key: value}
        if ".attention.qkv." in key:
            parts = zip(("query", "key", "value"), value.chunk(3), strict=True)
            pieces = {key.replace("attention.qkv", f"attention.attention.{part}"): p.clone() for part, p in parts}
        for name, piece in pieces.items():
            name = f"vit.layer{name}" if name.startswith("norm.") else name
            for old, new in HF_VIT.items():
                name = name.replace(old, new)
            theirs[name] = piece
    save_file(theirs, tmp_path / "hf.safetensors")
    settings = {"image_mean": [0.5] * 3, "image_std": [0.5] * 3, "size": {"height": 224, "width": 224}, "resample": 2}
    files = {"model.safetensors": (tmp_path / "hf.safetensors").read_bytes()}
    hub(tmp_path, "someone/vit-tiny", files | {"preprocessor_config.json": json.dumps(settings).encode()})
    file = weights.find("vit_ti_16", "someone/vit-tiny")
    assert (file.image["mean"], file.image["resize"], file.image["squash"]) == ((0.5, 0.5, 0.5), 224, True)
    same_outputs(ours, lamina.load("vit_ti_16", file), (1, 3, 224, 224))
    with pytest.raises(InputError, match=r"does not fit vit_s_16.* It fits vit_ti_16"):
        lamina.load("vit_s_16", "someone/vit-tiny")
    with pytest.raises(LaminaError, match=r"someone/nothing is not in .*models--someone--nothing and cannot be fetched"):
        lamina.load("vit_ti_16", "someone/nothing")


def test_timm_s_image_specification():
    half = {"mean": [0.5] * 3, "std": [0.5] * 3}
    found = weights.hub_image(
        {"pretrained_cfg": {"input_size": [3, 224, 224], "crop_pct": 0.9, "interpolation": "bicubic", **half}}
    )
    assert (found["size"], found["resize"], found["interpolation"]) == (224, 248, "bicubic")
    assert weights.hub_image({}) == {}


@pytest.mark.parametrize("name", [n for n in lamina.names() if any(w.get("url") for w in lamina.spec(n).weights)])
def test_public_files_are_described(name):
    """Every published file has an address, a digest that its name carries, a source, and a specification that can be made."""
    from lamina.data.image import ImageSpec

    for row in lamina.spec(name).weights:
        assert row["source"]
        if "url" in row:
            assert row["url"].startswith("https://") and len(row["sha256"]) >= 8 and row["sha256"] in row["url"]
        image = row.get("image") or weights.default_image(lamina.spec(name))
        assert ImageSpec.of(image).size == lamina.spec(name).input[1]
