"""Weight files: found, read, fitted, refused."""

import hashlib
import json
import re
import subprocess
import tomllib
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import save_file

import lamina
from lamina.data import cifar10, imagenet, mnist
from lamina.data import registry as data_sets
from lamina.data.image import from_pixels
from lamina.errors import InputError, LaminaError
from lamina.files import cache_dir
from lamina.infer import session, translate
from lamina.train.recipe import read
from lamina.weights import describing, finding, fitting, loading, reading
from lamina.weights.hub import hub_image
from lamina.zoo import registry


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
    rules = registry.published("googlenet")["naming"]["caffe_googlenet"]["keys"]
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
    file = finding.find("googlenet", tmp_path / "googlenet.pt")
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
    row = {"network": "resnet50_v1_5", "tag": "X", "source": "torchvision's resnet50", "sha256": describing.sha256(path)}
    monkeypatch.setitem(registry.published("resnet"), "weights", [row])
    with pytest.raises(InputError, match="torchvision's resnet50: its weights are resnet50_v1_5's, not resnet50's"):
        lamina.load("resnet50", path)


@pytest.mark.parametrize(
    ("key", "text", "words"),
    [
        ("image", "{", "image is not a JSON object: '{'"),
        ("image", "[1]", "image is not a JSON object"),
        ("image", '{"size": "wide"}', "image is damaged: image size: "),
        ("image", '{"colour": 1}', "image is damaged: an image specification has no colour"),
        ("changes", "{'num_classes': 3}", "changes is not a JSON object"),
        ("changes", "null", "changes is not a JSON object"),
        ("score_scale", "a half", "score_scale is not a number: 'a half'"),
        ("score_scale", "nan", "score_scale is not a number: 'nan'"),
    ],
)
def test_damaged_metadata_are_one_line(key, text, words, tmp_path):
    metadata = {"image": json.dumps({"size": 32, "resize": 32}), "changes": "{}", "score_scale": "1"} | {key: text}
    path = tmp_path / "net.safetensors"
    save_file(lamina.build("resnet20_cifar").state_dict(), path, metadata)
    with pytest.raises(LaminaError) as raised:
        lamina.load("resnet20_cifar", path)
    assert str(raised.value).startswith(f"{path}: its metadata's {words}") and "\n" not in str(raised.value)


@pytest.mark.parametrize("changes", ['{"depths": 5}', '{"num_classes": true}', '{"widths": [1]}', '{"self": 1}'])
def test_metadata_of_no_network_are_one_line(changes, tmp_path):
    path = tmp_path / "net.safetensors"
    image = json.dumps({"size": 32, "resize": 32})
    save_file(lamina.build("resnet20_cifar").state_dict(), path, {"image": image, "changes": changes})
    with pytest.raises(LaminaError) as raised:
        lamina.load("resnet20_cifar", path)
    assert "\n" not in str(raised.value)


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
    hint = r"put it at /.*/resnet18-f37072fd\.pth or give --weights FILE"
    with pytest.raises(LaminaError, match=rf"resnet18: https://download.pytorch.org/.* cannot be fetched.*{hint}"):
        lamina.load("resnet18")


def test_fetched_weights_are_checked(tmp_path, monkeypatch, resnet):
    """Through a file: URL: the digest is checked, the file kept in the cache, and a wrong one not kept."""
    net, path = resnet
    digest = hashlib.sha256(path.read_bytes()).hexdigest()
    row = {"network": "resnet20_cifar", "tag": "T", "url": path.as_uri(), "sha256": digest[:8], "source": "a test"}
    monkeypatch.setitem(registry.published("resnet"), "weights", [row])
    same_outputs(net, lamina.load("resnet20_cifar", "T"), (1, 3, 32, 32))
    kept = cache_dir() / "weights" / path.name
    assert kept.read_bytes() == path.read_bytes()
    kept.unlink()
    row["sha256"] = "00000000"
    with pytest.raises(LaminaError, match=f"has SHA-256 {digest}, not 00000000: not kept"):
        lamina.load("resnet20_cifar", "T")
    assert list(kept.parent.iterdir()) == []


SHIPPED = {"lenet5": "top1", "resnet20_cifar": "top1", "vit_mnist": "top1", "transformer_de_en": "bleu"}  # by measure


@pytest.mark.parametrize("name", SHIPPED)
def test_shipped_weights_say_where_they_are_from(name):
    """The file's own metadata: how it was made, and what was measured; the card beside it has the same figure."""
    file, measure = finding.find(name), SHIPPED[name]
    metadata = reading.read_metadata(file.path)
    recipe = tomllib.loads(metadata["recipe"])
    assert recipe["network"] == metadata["network"] == name and str(recipe["seed"]) == metadata["seed"]
    made = json.loads(metadata.get("provenance", "{}"))
    assert re.fullmatch("[0-9a-f]{40}", made.get("commit") or metadata["commit"])
    result = json.loads(metadata["result"])
    assert result["model"] == name
    card = (file.path.parent / "README.md").read_text()
    assert f"{result[measure]:.2f}" in next(line for line in card.splitlines() if file.path.name in line)
    assert recipe["image"] == dict(file.image) if "image" in recipe else True
    assert file.score_scale == recipe["loss"]["scale"]


@pytest.mark.parametrize("name", [name for name in SHIPPED if name != "transformer_de_en"])  # whose commit was not recorded
def test_the_recipe_in_the_file_is_that_of_its_commit(name, tmp_path):
    metadata = reading.read_metadata(finding.find(name).path)
    commit, recipe = json.loads(metadata["provenance"])["commit"], finding.find(name).path.stem
    clone = Path(__file__).resolve().parents[2]
    old = ["git", "-C", str(clone), "show", f"{commit}:lamina/train/recipes/{recipe}.toml"]
    found = subprocess.run(old, capture_output=True, text=True, check=False)
    if found.returncode:
        pytest.skip("this copy of the project has no history")
    (tmp_path / "then.toml").write_text(found.stdout)
    (tmp_path / "file.toml").write_text(metadata["recipe"])
    assert read(tmp_path / "then.toml") == read(tmp_path / "file.toml")


@pytest.mark.parametrize("name", SHIPPED)
def test_show_prints_where_shipped_weights_are_from(name, ok):
    file, measure = finding.find(name), SHIPPED[name]
    metadata = reading.read_metadata(file.path)
    (found,) = json.loads(ok(f"show {name} --json"))["provenance"]
    assert found["file"] == file.path.name and found["recipe"] == metadata["recipe"]
    made = json.loads(metadata.get("provenance", "{}"))
    assert found["commit_of"] == ("training" if made else "stamping")
    assert found["commit"] == made.get("commit", metadata.get("commit"))
    shown = ok(f"show {name}").split(f"\n{file.path.name}\n")[1]
    assert f"{json.loads(metadata['result'])[measure]:.2f}" in shown and f"seed {metadata['seed']}" in shown
    assert ("not recorded" in shown) == (not made) and found["commit"][:12] in shown
    # The recipe by its name, and what it was changed to; of text also the result on what training has not seen.
    recipes = {"lenet5": "lenet5_mnist", "resnet20_cifar": "resnet20_cifar10", "vit_mnist": "vit_mnist"}
    recipe = recipes.get(name, "transformer_de_en_tatoeba with data=tatoeba")
    assert f"recipe  {recipe}, seed" in shown
    for file_name, digest in made.get("data_sha256", {}).items():
        assert f"{file_name} {digest[:8]}" in shown
    assert ("60.46 on the 614" in shown) == (name == "transformer_de_en")
    assert [row.get("top1") for row in json.loads(ok(f"show {name} --json"))["weights"] if "file" in row] == [
        json.loads(metadata["result"]).get("top1")
    ]
    assert ("held out for validation" in shown) == (name in ("resnet20_cifar", "transformer_de_en"))


def test_a_recorded_commit_is_told_from_a_stamped_one(tmp_path):
    from lamina.weights.provenance import lines, provenance

    made = {"commit": "a" * 40, "dirty": True}
    metadata = {"data": "mnist", "seed": "1", "epochs": "2", "torch": "2.13.0", "commit": "b" * 40}
    save_file({"x": torch.zeros(1)}, tmp_path / "new.safetensors", metadata | {"provenance": json.dumps(made)})
    found = provenance(tmp_path / "new.safetensors")
    assert (found["commit"], found["commit_of"], found["dirty"]) == ("a" * 40, "training", True)
    assert lines(found)[-1] == "  code    commit aaaaaaaaaaaa with changes, torch 2.13.0"


def test_shipped_weights_are_small():
    folder = finding.find("lenet5").path.parent
    assert sum(path.stat().st_size for path in folder.iterdir()) < 25_000_000


@pytest.mark.parametrize("name", ["lenet5", "vit_mnist"])
def test_shipped_weights_read_digits(name, data):
    """A quick look at 1,000 of the test digits; the whole set's figure is in the metadata."""
    net = session.Session(name)
    pixels, labels = mnist.load("test")
    right = (net.scores(from_pixels(pixels[:1000], net.image)).argmax(1) == labels[:1000]).sum()
    assert int(right) >= 970  # the first thousand are the harder half's


def test_shipped_weights_see_pictures(data):
    net = session.Session("resnet20_cifar")
    pixels, labels = cifar10.load("test")
    right = (net.scores(from_pixels(pixels[:1000], net.image)).argmax(1) == labels[:1000]).sum()
    assert int(right) >= 890


def test_shipped_weights_translate():
    net = translate.translator("transformer_de_en")
    answers = [row["target"] for row in net.translate(["Ich habe keine Zeit.", "Wo ist der Bahnhof?"])]
    assert answers[0] in ("I don't have time.", "I have no time.") and "station" in answers[1]


def test_class_names():
    classes = imagenet.classes()
    assert len(classes) == 1000
    assert [wnid for wnid, _ in classes] == sorted(wnid for wnid, _ in classes)
    assert classes[0] == ("n01440764", "tench, Tinca tinca")
    assert data_sets.DATASETS["imagenet"].classes[0] == "tench, Tinca tinca"


@pytest.mark.parametrize(
    ("network", "data", "label"), [("lenet5_dense", "fashion_mnist", "ankle boot"), ("resnet20_cifar", "cifar100", "bottle")]
)
def test_answers_have_the_class_names_of_the_data_set(network, data, label, tmp_path):
    changes = {"num_classes": len(data_sets.DATASETS[data].classes)}
    module = registry.build(network, **changes)
    metadata = {
        "image": json.dumps(describing.default_image(registry.spec(network))),
        "data": data,
        "changes": json.dumps(changes),
    }
    save_file(module.state_dict(), tmp_path / "net.safetensors", metadata)
    net = session.Session(network, tmp_path / "net.safetensors")
    scores = torch.zeros(len(net.classes))
    scores[9] = 1
    assert net.ranked(scores, 1)[0]["label"] == label


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
    new, report = loading.load_reported("resnet20_cifar", tmp_path / "n.safetensors", num_classes=7)
    assert report == fitting.Report(reinitialised=("fc.weight", "fc.bias"))
    x = torch.randn(2, 3, 32, 32)
    with torch.no_grad():
        assert new(x).shape == (2, 7) and new(x).isfinite().all()
        same = lamina.features(net, x, ["avgpool"]), lamina.features(new, x, ["avgpool"])
    torch.testing.assert_close(same[0], same[1])
    lamina.load("resnet20_cifar", tmp_path / "n.safetensors", num_classes=7)
    assert "reinitialised: fc.weight, fc.bias" in caplog.text


def test_a_changed_network_s_own_file_loads(tmp_path):
    for name, changes in (("resnet20_cifar", {"num_classes": 7}), ("vit_ti_16", {"img_size": 32, "in_channels": 1})):
        net = saved(name, tmp_path / "own.safetensors", **changes)
        loaded, report = loading.load_reported(name, tmp_path / "own.safetensors", **changes)
        assert report == fitting.Report()
        assert all(torch.equal(v, loaded.state_dict()[k]) for k, v in net.state_dict().items())


@pytest.mark.parametrize("channels", [1, 2, 4, 6])
def test_other_input_channels(tmp_path, channels):
    net = saved("resnet20_cifar", tmp_path / "n.safetensors")
    new, report = loading.load_reported("resnet20_cifar", tmp_path / "n.safetensors", in_channels=channels)
    assert report == fitting.Report(adapted=("conv1.weight",))
    grey = torch.randn(2, 1, 32, 32)
    with torch.no_grad():
        expected = net(grey.expand(-1, 3, -1, -1))
        found = new(grey.expand(-1, channels, -1, -1))
    if channels % 3 == 0 or channels == 1:  # a grey image gives the same answer, however many channels carry it
        torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-4)
    assert found.isfinite().all()


def test_another_image_size(tmp_path):
    net = saved("vit_ti_16", tmp_path / "n.safetensors")
    new, report = loading.load_reported("vit_ti_16", tmp_path / "n.safetensors", img_size=96)
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
    file = finding.find("vit_ti_16", "someone/vit-tiny")
    assert (file.image["mean"], file.image["resize"], file.image["squash"]) == ((0.5, 0.5, 0.5), 224, True)
    same_outputs(ours, lamina.load("vit_ti_16", file), (1, 3, 224, 224))
    with pytest.raises(InputError, match=r"does not fit vit_s_16.* It fits vit_ti_16"):
        lamina.load("vit_s_16", "someone/vit-tiny")
    with pytest.raises(LaminaError, match=r"someone/nothing is not in .*models--someone--nothing and cannot be fetched"):
        lamina.load("vit_ti_16", "someone/nothing")


# ---- other libraries' names ----------------------------------------------------------------------------------------------


def statistics(net):
    """Running statistics that differ from those of a fresh network, so that exchanged ones show."""
    for name, buffer in net.named_buffers():
        if "running" in name:
            buffer.uniform_(0.5, 1.5)
    return net.eval()


def hf_resnet_names(depths, layers, projected):
    """Hugging Face's names, in the order of its ResNetForImageClassification; ours beside them."""
    parts = (".weight", ".bias", ".running_mean", ".running_var", ".num_batches_tracked")
    pairs = [("resnet.embedder.embedder", "conv1", "bn1")]
    for stage, depth in enumerate(depths):
        for block in range(depth):
            theirs, ours = f"resnet.encoder.stages.{stage}.layers.{block}", f"layer{stage + 1}.{block}"
            if block == 0 and stage >= projected:
                pairs.append((f"{theirs}.shortcut", f"{ours}.downsample.0", f"{ours}.downsample.1"))
            pairs += [(f"{theirs}.layer.{i}", f"{ours}.conv{i + 1}", f"{ours}.bn{i + 1}") for i in range(layers)]
    names = {"classifier.1.weight": "fc.weight", "classifier.1.bias": "fc.bias"}
    for theirs, conv, norm in pairs:
        names[f"{theirs}.convolution.weight"] = f"{conv}.weight"
        names |= {f"{theirs}.normalization{part}": f"{norm}{part}" for part in parts}
    return names


@pytest.mark.parametrize(
    ("name", "depths", "layers", "projected", "count"),
    [("resnet18", (2, 2, 2, 2), 2, 1, 122), ("resnet50_v1_5", (3, 4, 6, 3), 3, 0, 320)],  # keys as transformers 5.23 has them
)
def test_hugging_face_resnets(tmp_path, name, depths, layers, projected, count):
    torch.manual_seed(0)
    net = statistics(lamina.build(name))
    names = hf_resnet_names(depths, layers, projected)
    assert len(names) == count
    for key in (
        "resnet.embedder.embedder.normalization.running_var",
        "resnet.encoder.stages.1.layers.0.shortcut.convolution.weight",
    ):
        assert key in names
    state = net.state_dict()
    save_file({theirs: state[ours] for theirs, ours in names.items()}, tmp_path / "hf.safetensors")
    loaded, report = loading.load_reported(name, tmp_path / "hf.safetensors")
    assert report == fitting.Report()
    same_outputs(net, loaded, (2, 3, 64, 64))


def test_timm_vgg(tmp_path):
    """Its fully connected layers are convolutions, its others numbered as in torchvision's `features`."""
    torch.manual_seed(0)
    net = statistics(lamina.build("vgg11_bn", hidden=64))
    state, theirs, number = net.state_dict(), {}, 0
    for stage, depth in enumerate((1, 1, 2, 2, 2), 1):
        for i in range(1, depth + 1):
            for offset, layer in enumerate((f"conv{stage}_{i}", f"bn{stage}_{i}")):
                own = f"stage{stage}.{layer}."
                theirs |= {
                    f"features.{number + offset}.{k.removeprefix(own)}": v for k, v in state.items() if k.startswith(own)
                }
            number += 3  # with the rectifier
        number += 1  # the pool
    assert number == 29 and "features.26.running_mean" in theirs and "features.27.weight" not in theirs
    theirs |= {"pre_logits.fc1.weight": state["fc6.weight"].view(64, 512, 7, 7), "pre_logits.fc1.bias": state["fc6.bias"]}
    theirs |= {"pre_logits.fc2.weight": state["fc7.weight"].view(64, 64, 1, 1), "pre_logits.fc2.bias": state["fc7.bias"]}
    theirs |= {"head.fc.weight": state["fc8.weight"], "head.fc.bias": state["fc8.bias"]}
    save_file(theirs, tmp_path / "timm.safetensors")
    loaded, report = loading.load_reported("vgg11_bn", tmp_path / "timm.safetensors", hidden=64)
    assert report == fitting.Report()
    same_outputs(net, loaded, (1, 3, 224, 224))


def test_cadene_s_bn_inception(tmp_path):
    torch.manual_seed(0)
    net = statistics(lamina.build("bn_inception_caffe"))
    theirs = {}
    for key, value in net.state_dict().items():
        path, layer, part = key.rsplit(".", 2) if key.count(".") > 1 else ("", *key.split("."))
        if layer == "fc":
            theirs[f"last_linear.{part}"] = value
            continue
        for ours, name in (
            ("conv1", "conv1_7x7_s2"), ("reduce2", "conv2_3x3_reduce"), ("conv2", "conv2_3x3"), (".branch1", "_1x1"),
            (".reduce3", "_3x3_reduce"), (".branch3", "_3x3"), (".reduce_double", "_double_3x3_reduce"),
            (".double1", "_double_3x3_1"), (".double2", "_double_3x3_2"), (".project", "_pool_proj"),
        ):  # fmt: skip
            if path == ours or (ours[0] == "." and path.endswith(ours)):
                theirs[path.removesuffix(ours) + name + {"conv": ".", "bn": "_bn."}[layer] + part] = value
                break
    assert len(theirs) == 69 * 2 + 69 * 5 + 2
    assert {"inception_3c_double_3x3_2_bn.running_var", "inception_5b_pool_proj.bias", "conv2_3x3_reduce_bn.weight"} <= set(
        theirs
    )
    torch.save(theirs, tmp_path / "bn_inception.pth")
    file = finding.find("bn_inception_caffe", tmp_path / "bn_inception.pth")
    assert file.image["channels"] == "BGR" and list(file.image["mean"]) == [104, 117, 128]
    assert (file.image["scale"], list(file.image["std"]), file.classes) == (1, [1, 1, 1], "imagenet")
    same_outputs(net, lamina.load("bn_inception_caffe", file), (1, 3, 224, 224))
    with pytest.raises(InputError, match="It fits bn_inception_caffe"):
        lamina.load("bn_inception", tmp_path / "bn_inception.pth")


def jax_vit(net, width, heads):
    """The arrays of a ViT as its authors' code writes them: Flax's names and axes."""
    state = {key: value.numpy() for key, value in net.state_dict().items()}
    arrays = {
        "cls": state["class_token"],
        "Transformer/posembed_input/pos_embedding": state["position_embedding"],
        "embedding/kernel": state["patch_embed.weight"].transpose(2, 3, 1, 0),  # (height, width, channels, filters)
        "embedding/bias": state["patch_embed.bias"],
        "Transformer/encoder_norm/scale": state["norm.weight"],
        "Transformer/encoder_norm/bias": state["norm.bias"],
        "head/kernel": state["head.weight"].T,
        "head/bias": state["head.bias"],
    }
    if "pre_logits.0.weight" in state:
        arrays |= {"pre_logits/kernel": state["pre_logits.0.weight"].T, "pre_logits/bias": state["pre_logits.0.bias"]}
    for i in range(len(net.blocks)):
        ours, theirs = f"blocks.{i}.", f"Transformer/encoderblock_{i}/"
        for norm, number in (("norm1", 0), ("norm2", 2)):
            arrays[f"{theirs}LayerNorm_{number}/scale"] = state[f"{ours}{norm}.weight"]
            arrays[f"{theirs}LayerNorm_{number}/bias"] = state[f"{ours}{norm}.bias"]
        for layer, number in (("fc1", 0), ("fc2", 1)):
            arrays[f"{theirs}MlpBlock_3/Dense_{number}/kernel"] = state[f"{ours}{layer}.weight"].T
            arrays[f"{theirs}MlpBlock_3/Dense_{number}/bias"] = state[f"{ours}{layer}.bias"]
        attention = f"{theirs}MultiHeadDotProductAttention_1/"
        for place, part in enumerate(("query", "key", "value")):
            rows = slice(place * width, (place + 1) * width)
            kernel, bias = state[f"{ours}attention.qkv.weight"][rows].T, state[f"{ours}attention.qkv.bias"][rows]
            arrays[f"{attention}{part}/kernel"] = kernel.reshape(width, heads, -1)
            arrays[f"{attention}{part}/bias"] = bias.reshape(heads, -1)
        arrays[f"{attention}out/kernel"] = state[f"{ours}attention.out.weight"].T.reshape(heads, -1, width)
        arrays[f"{attention}out/bias"] = state[f"{ours}attention.out.bias"]
    return arrays


def test_the_vit_authors_files(tmp_path, monkeypatch):
    """Of fine-tuning, and of pre-training with its hidden layer; as a path without a folder too."""
    changes = {"depth": 2, "num_classes": 30, "representation": 192}
    for extra in ({}, changes):
        net = saved("vit_ti_16", tmp_path / "own.safetensors", **extra)
        np.savez(tmp_path / "ViT-Ti_16.npz", **jax_vit(net, 192, 3))
        monkeypatch.chdir(tmp_path)
        file = finding.find("vit_ti_16", "ViT-Ti_16.npz")
        assert list(file.image["mean"]) == list(file.image["std"]) == [0.5] * 3 and file.classes == "imagenet"
        loaded, report = loading.load_reported("vit_ti_16", file, **extra)
        assert report == fitting.Report()
        same_outputs(net, loaded, (1, 3, 224, 224))
    with pytest.raises(InputError, match=r"of another shape: .*patch_embed.weight \(192x3x16x16 for 384x3x16x16\)"):
        lamina.load("vit_s_16", "ViT-Ti_16.npz", depth=2, representation=384)


def test_archives_hold_numbers_only(tmp_path):
    np.savez(tmp_path / "code.npz", **{"head/kernel": np.array([{"a": 1}], dtype=object)})
    np.savez(tmp_path / "text.npz", **{"head/kernel": np.array(["a"])})
    (tmp_path / "cut.npz").write_bytes((tmp_path / "code.npz").read_bytes()[:100])
    (tmp_path / "empty.npz").write_bytes(b"")
    for name, words in (
        ("code", "does not unpickle code"),
        ("text", "other things than numbers"),
        ("cut", "cut"),
        ("empty", "cut short"),
    ):
        with pytest.raises(LaminaError, match=rf"{name}\.npz .*{words}"):
            lamina.load("vit_ti_16", tmp_path / f"{name}.npz")


def test_axes_are_regrouped():
    value = torch.arange(24).view(2, 3, 4)
    found = fitting.regroup(value, [[1, 2], [0]])
    assert found.shape == (12, 2) and all(found[3 * 0 + k, i] == value[i, 0, k] for i in range(2) for k in range(4))
    assert fitting.regroup(value, [[1], [0]]) is value  # of another number of axes: for the shapes to be refused


@pytest.mark.parametrize(
    ("config", "fits"),
    [
        ({"model_type": "resnet"}, "resnet50_v1_5"),  # transformers: the default is v1.5
        ({"model_type": "resnet", "downsample_in_bottleneck": False}, "resnet50_v1_5"),
        ({"model_type": "resnet", "downsample_in_bottleneck": True}, "resnet50"),
        ({"architecture": "resnet50"}, "resnet50_v1_5"),  # timm
    ],
)
def test_the_hub_tells_v1_from_v1_5(tmp_path, monkeypatch, config, fits):
    """Their keys and shapes are the same."""
    import huggingface_hub.constants

    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_CACHE", str(tmp_path))
    hub(tmp_path, "someone/net", {"model.safetensors": b"", "config.json": json.dumps(config).encode()})
    other = "resnet50" if fits == "resnet50_v1_5" else "resnet50_v1_5"
    assert finding.find(fits, "someone/net").name == "someone/net"
    with pytest.raises(InputError, match=rf"someone/net does not fit {other}: these fit {fits}$"):
        lamina.load(other, "someone/net")
    assert finding.find("resnet18", "someone/net").name == "someone/net"  # no bottlenecks: one network


def test_published_hub_weights_are_tags(tmp_path, monkeypatch):
    import huggingface_hub.constants

    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_CACHE", str(tmp_path))
    rows = [(n, w) for n in lamina.names() for w in lamina.spec(n).weights if "hub" in w]
    assert ("vit_b_16", "google/vit-base-patch16-224") in [(n, w["hub"]) for n, w in rows] and len(rows) > 5
    for name, row in rows:
        hub(tmp_path, row["hub"], {"model.safetensors": b""})
        assert row["tag"] == row["hub"] == finding.find(name, row["tag"]).name
    assert finding.find("vit_ti_16").name == "timm/vit_tiny_patch16_224.augreg_in21k_ft_in1k"  # its only ones: the default


@pytest.mark.parametrize("name", lamina.names())
def test_every_network_of_pictures_has_an_image_specification(name):
    from lamina.data.image import ImageSpec

    entry = lamina.spec(name)
    if entry.family != "transformer":
        assert ImageSpec.of(describing.default_image(entry)).size == entry.input[1]


def test_timm_s_image_specification():
    half = {"mean": [0.5] * 3, "std": [0.5] * 3}
    found = hub_image({"pretrained_cfg": {"input_size": [3, 224, 224], "crop_pct": 0.9, "interpolation": "bicubic", **half}})
    assert (found["size"], found["resize"], found["interpolation"]) == (224, 248, "bicubic")
    assert hub_image({}) == {}


@pytest.mark.parametrize("size", [224, {"shortest_edge": 224}])
def test_transformers_resnet_pictures_are_cropped(size):
    """Its ConvNextImageProcessor: the shorter side to 224 / .875, then the middle."""
    settings = {"image_mean": [0.4] * 3, "image_std": [0.2] * 3, "size": size, "crop_pct": 0.875, "resample": 3}
    found = hub_image(settings)
    assert (found["size"], found["resize"], found["interpolation"]) == (224, 256, "bicubic") and "squash" not in found


@pytest.mark.parametrize("name", [n for n in lamina.names() if any(w.get("url") for w in lamina.spec(n).weights)])
def test_public_files_are_described(name):
    """Every published file has an address, a digest that its name carries, a source, and a specification that can be made."""
    from lamina.data.image import ImageSpec

    for row in lamina.spec(name).weights:
        assert row["source"]
        if "url" in row:
            assert row["url"].startswith("https://") and len(row["sha256"]) >= 8 and row["sha256"] in row["url"]
        image = row.get("image") or describing.default_image(lamina.spec(name))
        assert ImageSpec.of(image).size == lamina.spec(name).input[1]
