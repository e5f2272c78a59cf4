"""What a run was made with is recorded when it starts, and is what its weight file says at the end."""

import gzip
import hashlib
import json
import platform
import subprocess

import pytest
import torch

from lamina.data import files as data_files
from lamina.errors import LaminaError
from lamina.train import launch, provenance
from lamina.train.finish import finish
from lamina.train.recipe import dump, read
from lamina.weights.reading import read_metadata
from tests import training


@pytest.fixture
def recipe(tmp_path, monkeypatch):
    training.write_mnist(tmp_path / "data")
    monkeypatch.setenv("LAMINA_DATA", str(tmp_path / "data"))
    path = tmp_path / "tiny.toml"
    path.write_text(training.TINY)
    return path


@pytest.fixture
def repository(tmp_path, monkeypatch):
    """A checkout in place of Lamina's own, and a function that commits to it."""
    folder = tmp_path / "checkout"
    folder.mkdir()

    def git(*arguments):
        identity = ("-c", "user.name=x", "-c", "user.email=x@example.org")
        return subprocess.run(["git", "-C", folder, *identity, *arguments], check=True, capture_output=True, text=True).stdout

    def commit(text):
        (folder / "__init__.py").write_text(text)
        git("add", ".")
        git("commit", "-m", text)
        return git("rev-parse", "HEAD").strip()

    git("init")
    monkeypatch.setattr(provenance, "PACKAGE", folder)
    return commit


def test_the_weights_have_the_record_of_the_start(recipe, repository, tmp_path):
    """Also where the checkout has moved on while the run was at work."""
    out, plan, first = tmp_path / "run", read(recipe), repository("first")
    launch.train(plan, out, log=lambda row: repository(f"after epoch {row['epoch']}"))
    assert provenance.code()["commit"] != first
    finish(plan, out)
    made = json.loads((out / "provenance.json").read_text())
    metadata = read_metadata(out / "weights.safetensors")
    assert json.loads(metadata["provenance"]) == made
    assert json.loads(metadata["result"])["count"] == 30
    assert (made["commit"], made["dirty"]) == (first, False)
    assert made["recipe_sha256"] == hashlib.sha256(metadata["recipe"].encode()).hexdigest()
    assert metadata["recipe"] == dump(plan) == (out / "config.toml").read_text()
    assert (made["torch"], made["python"]) == (torch.__version__, platform.python_version())
    images = (tmp_path / "data/mnist/train-images-idx3-ubyte").read_bytes()
    assert made["data_sha256"]["mnist/train-images-idx3-ubyte"] == hashlib.sha256(images).hexdigest()
    assert sorted(made["data_sha256"]) == ["mnist/train-images-idx3-ubyte", "mnist/train-labels-idx1-ubyte"]


def test_a_changed_checkout_is_dirty_and_another_s_is_none(repository, tmp_path, monkeypatch):
    commit = repository("first")
    (tmp_path / "checkout" / "__init__.py").write_text("changed")
    assert provenance.code() | {"commit": commit, "dirty": True} == provenance.code()
    (tmp_path / "checkout" / "installed").mkdir()  # a package that lies in a repository and is not part of it
    monkeypatch.setattr(provenance, "PACKAGE", tmp_path / "checkout" / "installed")
    assert provenance.code().keys() == {"lamina", "torch", "python"}


def test_a_resumed_run_says_with_what_it_went_on(recipe, repository, tmp_path):
    out, first = tmp_path / "run", repository("first")
    launch.train(read(recipe), out)
    launch.train(read(recipe), out, resume=True)
    assert "resumed" not in provenance.read(out)  # the same code
    second = repository("second")
    launch.train(read(recipe), out, resume=True)
    made = provenance.read(out)
    assert made["commit"] == first and [row["commit"] for row in made["resumed"]] == [second]
    assert json.loads(read_metadata(out / "weights.safetensors")["provenance"]) == made


def test_a_run_without_a_record_goes_on(recipe, repository, tmp_path):
    """Runs of earlier versions have none: no commit is claimed for their beginning."""
    out, commit = tmp_path / "run", repository("first")
    launch.train(read(recipe), out)
    (out / "provenance.json").unlink()
    launch.train(read(recipe), out, resume=True)
    made = provenance.read(out)
    assert made.keys() == {"resumed"} and made["resumed"][0]["commit"] == commit


def test_other_data_are_refused(recipe, tmp_path):
    out, path = tmp_path / "run", tmp_path / "data/mnist/train-images-idx3-ubyte"
    launch.train(read(recipe), out)
    content = path.read_bytes()
    path.with_name(f"{path.name}.gz").write_bytes(gzip.compress(content))
    path.unlink()  # the same content, compressed
    launch.train(read(recipe), out, resume=True)
    path.write_bytes(content[:-1] + bytes([content[-1] ^ 1]))
    with pytest.raises(LaminaError, match=r"started with other data: mnist/train-images-idx3-ubyte is not what it was$"):
        launch.train(read(recipe), out, resume=True)


def test_contents_are_noted_within_the_block_alone(tmp_path):
    path = tmp_path / "a"
    path.write_bytes(b"x")
    with data_files.recorded() as outer:
        data_files.read(path)
    data_files.read(path)
    assert outer == {f"{tmp_path.name}/a": hashlib.sha256(b"x").hexdigest()}
