"""`lamina train`, and what is done with a run's weights, as a person meets them."""

import errno
import json
import os
import re
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from PIL import Image

from lamina.extras import install_command
from lamina.train.recipe import names, read
from tests import training
from tests.train.test_train_recipes import write_pictures


@pytest.fixture
def run(run, monkeypatch, tmp_path):
    """`run("train tiny.toml")` in a folder with made data gives (exit code, standard output, standard error)."""
    training.write_mnist(tmp_path / "data")
    (tmp_path / "tiny.toml").write_text(training.TINY)
    (tmp_path / "text.toml").write_text(training.TINY_TEXT)
    monkeypatch.setenv("LAMINA_DATA", str(tmp_path / "data"))
    monkeypatch.chdir(tmp_path)
    return run


@pytest.fixture
def refused(run):
    def call(line: str, code: int) -> str:
        found, out, err = run(line)
        assert found == code, (out, err)
        assert out == ""
        assert (
            err.startswith("lamina: ") and err.count("\n") == 1 and "Traceback" not in err and "lamina: unexpected " not in err
        )
        return err.removeprefix("lamina: ").rstrip()

    return call


def test_the_list(run):
    code, out, err = run("train")
    assert (code, err) == (0, "")
    assert all(re.search(rf"^{name} +{read(name).network} on ", out, re.M) for name in names())
    rows = json.loads(run("train --json")[1])
    assert [row["recipe"] for row in rows] == names() and set(rows[0]) == {"recipe", "network", "data"}


def test_a_run_and_what_it_leaves(run, tmp_path):
    code, out, err = run("train tiny.toml --set validation=10 --tensorboard")
    assert (code, err) == (0, "")
    epochs = out.splitlines()[:2]
    for number, line in enumerate(epochs, 1):
        shape = rf"epoch +{number}  loss [\d.]+  validation loss [\d.]+  top1 [\d.]+ %  validation top1 [\d.]+ %  \(.*/s\)"
        assert re.fullmatch(shape, line), line
    assert re.search(r"^test top1 [\d.]+$", out, re.M) and "weights, curves and metrics in runs/tiny" in out
    folder = tmp_path / "runs/tiny"
    kinds = {"config.toml", "metrics.jsonl", "curves.png", "result.json", "weights.safetensors", "checkpoints", "tensorboard"}
    assert {p.name for p in folder.iterdir()} == kinds | {"lock", "provenance.json"}
    with Image.open(folder / "curves.png") as picture:
        assert picture.size[0] > 1000 and len(picture.convert("RGB").getcolors(1 << 20)) > 50
    assert any(p.stat().st_size > 100 for p in (folder / "tensorboard").iterdir())
    result = json.loads((folder / "result.json").read_text())
    assert result["epochs"] == 2 and result["step"] == 6 and result["test"]["count"] == 30
    # Its weights are measured and used like any others.
    code, out, _ = run("eval vit_mnist --data mnist --weights runs/tiny/weights.safetensors --json")
    assert code == 0 and json.loads(out)["top1"] == result["test"]["top1"]


def test_one_json_document(run):
    code, out, err = run("train tiny.toml --json --set epochs=1")
    assert (code, err) == (0, "")
    assert {"network", "data", "epochs", "step", "seconds", "test", "folder"} <= set(json.loads(out))


def test_the_published_mark_stands_beside(run):
    mark = 'mark.measure=top1 --set mark.value=99.5 --set "mark.source=a paper"'
    code, out, _ = run(f"train tiny.toml --set epochs=1 --set {mark}")
    assert code == 0 and re.search(r"^test top1 [\d.]+   published: 99.5 \(a paper\)$", out, re.M)
    assert json.loads(Path("runs/tiny/result.json").read_text())["published"]["value"] == 99.5


def test_a_run_goes_on_by_its_own_recipe(run, refused):
    assert run("train tiny.toml --set epochs=1")[0] == 0
    assert "runs/tiny holds a run: --resume goes on with it, --out FOLDER starts another" in refused("train tiny.toml", 2)
    error = refused("train tiny.toml --resume", 2)
    assert "runs/tiny holds a run of another recipe (epochs is 1 there and 2 here): give what it was started with" in error
    assert run("train runs/tiny/config.toml --out runs/tiny --resume")[0] == 0
    assert "runs/none holds no run to go on with" in refused("train tiny.toml --out runs/none --resume", 2)


def test_pictures_in_folders(run, tmp_path):
    write_pictures(tmp_path / "pictures/train", 12)
    write_pictures(tmp_path / "pictures/val", 8)
    small = "--set image.size=28 --set image.resize=32 --set augmentation.crop=0 --set data=image_folder --set epochs=1"
    grey = "--set 'image.mean=[0.5]' --set 'image.std=[0.5]'"
    code, _, err = run(f"train tiny.toml --data pictures {small} {grey} --set 'augmentation.area=[0.3, 1.0]'")
    assert (code, err) == (0, "")
    assert json.loads((tmp_path / "runs/tiny/result.json").read_text())["test"]["count"] == 8


def test_a_translator_from_a_run(run, refused, tmp_path):
    training.write_corpus(tmp_path / "corpus")
    code, out, err = run("train text.toml --data corpus --set epochs=1 --set validation=5")
    assert (code, err) == (0, ""), err
    assert re.search(r"^test bleu [\d.]+$", out, re.M) and re.search(r"^test bleu_greedy [\d.]+$", out, re.M)
    weights = "--weights runs/text/weights.safetensors"
    code, out, err = run(f"translate transformer_de_en {weights} 'Ich sehe das Haus.' 'Du magst Brot.' --json")
    assert (code, err) == (0, "")
    rows = json.loads(out)
    assert [row["source"] for row in rows] == ["Ich sehe das Haus.", "Du magst Brot."]
    assert all(isinstance(row["target"], str) and row["score"] <= 0 for row in rows)
    (tmp_path / "de.txt").write_text("Ich sehe das Haus.\n\nDu magst Brot.\n")
    code, out, err = run(f"translate transformer_de_en {weights} --file de.txt --beams 1")
    assert code == 0 and out.count("\n") == 3  # the empty line stays
    assert "give a sentence" in refused(f"translate transformer_de_en {weights}", 2)
    assert "sentence 1 is empty" in refused(f"translate transformer_de_en {weights} ' '", 2)
    assert "--beams is 1 or more, not 0" in refused(f"translate transformer_de_en {weights} --beams 0 Ja", 2)
    assert "takes 1024: cut it" in refused(f"translate transformer_de_en {weights} '{'Zug ' * 1100}'", 2)
    assert "none.txt cannot be read" in refused(f"translate transformer_de_en {weights} --file none.txt", 2)
    (tmp_path / "latin.txt").write_bytes(b"\xe9")
    assert "cannot be read as UTF-8" in refused(f"translate transformer_de_en {weights} --file latin.txt", 2)
    code, out, err = run(f"eval transformer_de_en --data corpus {weights} --json")
    row = json.loads(out)
    assert code == 0 and row["count"] == 8 and {"bleu", "bleu_greedy"} <= set(row)


def test_bleu_on_the_named_corpora(run, data, tmp_path, monkeypatch):
    """The whole way on real corpora, cut to a few sentences."""
    from lamina.data import parallel_text

    inner = parallel_text.load
    monkeypatch.setattr(parallel_text, "load", lambda *args: inner(*args)[:400])
    for corpus in ("tatoeba", "multi30k"):
        code, _, err = run(
            f"train text.toml --set data={corpus} --set steps=2 --set samples=60 --set validation=5 --out {corpus}"
        )
        assert (code, err) == (0, "")
        monkeypatch.setattr(parallel_text, "load", lambda *args: inner(*args)[:5])
        code, out, err = run(f"eval transformer_de_en --data {corpus} --weights {corpus}/weights.safetensors --json")
        assert (code, err) == (0, "") and json.loads(out)["count"] == 5
        monkeypatch.setattr(parallel_text, "load", lambda *args: inner(*args)[:400])


def test_a_corpus_without_a_test_part(run, tmp_path):
    training.write_corpus(tmp_path / "corpus", test=0)
    code, out, err = run("train text.toml --data corpus --set epochs=1")
    assert (code, err) == (0, "") and not re.search(r"^test ", out, re.M)


def test_recipes_that_cannot_be(run, refused, tmp_path):
    assert "no network is called 'lenet6'; the nearest are " in refused("train tiny.toml --set network=lenet6 --out a", 2)
    error = refused("train tiny.toml --set 'changes={dept=2}' --out b", 2)
    assert "vit_mnist has no dept; what can be changed: " in error and "depth" in error
    assert "recipe: data is one of mnist, " in refused("train tiny.toml --set data=emnist --out c", 2)
    assert "50 validation and 1 training samples of 50" in refused("train tiny.toml --set validation=50 --out d", 2)
    assert "no such recipe" in refused("train tony", 2)
    assert "it has the form KEY=VALUE" in refused("train tiny.toml --set lr", 2)
    assert "epochs: expected a whole number" in refused("train tiny.toml --set epochs=two", 2)


def test_data_that_do_not_fit_the_network(run, refused, tmp_path):
    training.write_cifar10(tmp_path / "data")
    error = refused("train resnet20_cifar10 --set data=mnist --out a", 2)
    assert error == "recipe: mnist has images of 28x28; image.size = 32 with image.pad = 0 does not fit"
    error = refused("train lenet5_mnist --set image.size=28 --set image.pad=0 --out b", 2)
    assert error.startswith("recipe: lenet5 does not take inputs of 1x28x28 (")
    error = refused("train tiny.toml --set changes.num_classes=4 --out c", 2)
    assert error == "recipe: the data have 10 classes, and vit_mnist 4: set changes.num_classes"
    error = refused(
        "train resnet20_cifar10 --set validation=0 --set data=mnist --set image.size=28 --set image.resize=28 --out d", 2
    )
    assert error == "1-channel images for a network that takes RGB"
    grey = "--set validation=0 --set image.channels=L --set 'image.mean=[0.5]' --set 'image.std=[0.5]'"
    assert "cifar10 has colours, and image.channels is L" in refused(f"train resnet20_cifar10 {grey} --out e", 2)
    training.write_corpus(tmp_path / "corpus")
    error = refused("train text.toml --data corpus --set changes.vocabulary=100 --out f", 2)
    assert "an embedding of fewer than the 300 tokens of the encoding" in error
    assert not list(tmp_path.glob("?/checkpoints"))  # all of it before the first step


def test_data_that_are_not_there(run, refused, tmp_path):
    assert "say where the images are, as in --data FOLDER" in refused("train resnet50_imagenet --out a", 2)
    assert "say where the corpus is, as in --data FOLDER with train.de and train.en" in refused("train text.toml --out b", 2)
    (tmp_path / "empty").mkdir()
    assert "empty holds no images" in refused("train resnet50_imagenet --data empty --out c", 2)
    assert "none: no such folder" in refused("train resnet50_imagenet --data none --out d", 2)
    assert "--data is for image_folder" in refused("train tiny.toml --data empty --out e", 2)
    write_pictures(tmp_path / "pictures", 8)
    for name in ("class0/0.jpg", "class2/2.jpg"):
        (tmp_path / "pictures" / name).write_bytes(b"")
    error = refused("train resnet50_imagenet --data pictures --out f", 1)
    assert error == "2 images are empty or cannot be read: pictures/class0/0.jpg, pictures/class2/2.jpg"
    for name in ("class0/0.jpg", "class2/2.jpg"):
        (tmp_path / "pictures" / name).write_bytes(b"no picture")
    small = "--set image.size=32 --set image.resize=36 --set batch=8"
    error = refused(f"train resnet50_imagenet --data pictures {small} --out g", 1)
    assert "class0/0.jpg is not an image" in error


def test_folders_that_cannot_be_written(run, refused, tmp_path, monkeypatch):
    (tmp_path / "file").write_text("")
    assert "file cannot be written: " in refused("train tiny.toml --out file", 1)
    assert "file/x cannot be written: Not a directory" in refused("train tiny.toml --out file/x", 1)
    (tmp_path / "fixed").mkdir()
    inner = Path.open

    def opened(path: Path, *args: Any, **kwargs: Any) -> Any:  # of a disk that is mounted read-only
        if path.is_relative_to(Path("fixed")):
            raise OSError(errno.EROFS, os.strerror(errno.EROFS))
        return inner(path, *args, **kwargs)

    monkeypatch.setattr(Path, "open", opened)
    assert "fixed cannot be written: Read-only file system" in refused("train tiny.toml --out fixed", 1)


def test_two_runs_in_one_folder(run, refused, tmp_path):
    from lamina.train import launch

    with launch.held(tmp_path / "runs/tiny", resume=False):
        assert refused("train tiny.toml", 1) == "a run is going on in runs/tiny: wait for it, or give another --out"
    assert run("train tiny.toml --set epochs=1")[0] == 0
    with launch.held(tmp_path / "runs/tiny", resume=True):
        assert "a run is going on" in refused("train tiny.toml --set epochs=1 --resume", 1)


def test_a_loss_that_is_not_finite(run, tmp_path):
    code, _, err = run("train tiny.toml --set optimizer.lr=1e30 --set epochs=9 --set save_steps=1")
    assert code == 1 and err.count("\n") == 1
    what = r"(loss is nan|loss is inf|weights are no longer finite)"
    assert re.match(rf"lamina: the {what} in step \d+ \(epoch \d\), at learning rate [\d.e+]+: a lower one, ", err), err
    assert re.search(r"(step-\d+ is left|there is no checkpoint before it)$", err.strip())


def test_devices_and_machines(refused):
    if not torch.cuda.is_available():
        assert "--device cuda: this machine, or this torch, has none" in refused("train tiny.toml --device cuda", 2)
    assert "--nodes: say where the machines meet" in refused("train tiny.toml --nodes 2", 2)
    assert "--shard spreads a network over processes" in refused("train tiny.toml --shard", 2)
    assert "greater than or equal to 1" in refused("train tiny.toml --nproc 0", 2)


def test_without_the_packages_for_text_and_events(run, refused, monkeypatch, tmp_path):
    monkeypatch.setitem(sys.modules, "tensorboard", None)
    monkeypatch.delitem(sys.modules, "torch.utils.tensorboard", raising=False)
    assert install_command("logging") in refused("train tiny.toml --tensorboard", 1)
    training.write_corpus(tmp_path / "corpus")
    monkeypatch.setitem(sys.modules, "tokenizers", None)
    assert install_command("text") in refused("train text.toml --data corpus", 1)


@pytest.mark.slow
def test_compiled(run, tmp_path):
    """`torch.compile` by flag gives the same curve but for rounding (it needs a C++ compiler)."""
    for out, flag in (("eager", "false"), ("compiled", "true")):
        log = tmp_path / out
        line = f"train {tmp_path}/tiny.toml --out {tmp_path}/{out}-run --set compile={flag} --set epochs=1 --json"
        assert training.call(training.command, line, dict(os.environ), log) == 0, log.with_suffix(".err").read_text()
    one, two = (training.metrics(tmp_path / f"{out}-run")[0] for out in ("eager", "compiled"))
    assert two == pytest.approx(one, rel=1e-3)
