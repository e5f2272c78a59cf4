"""Data sets: where they are looked for, what their bytes mean, and what is said when they are missing or damaged."""

import gzip
import hashlib
import io
import struct
import tarfile

import numpy as np
import pytest
import torch
from PIL import Image

from lamina import files as disk
from lamina.data import cifar10, files, folder, mnist
from lamina.errors import InputError, LaminaError


def idx(values: np.ndarray) -> bytes:
    return (
        b"\0\0\x08" + bytes([values.ndim]) + struct.pack(f">{values.ndim}I", *values.shape) + values.astype(np.uint8).tobytes()
    )


@pytest.fixture
def home(tmp_path, monkeypatch):
    monkeypatch.setenv("LAMINA_DATA", str(tmp_path))
    return tmp_path


def test_mnist(home):
    images, labels = np.arange(2 * 28 * 28).reshape(2, 28, 28) % 256, np.array([3, 7])
    (home / "mnist").mkdir()
    (home / "mnist" / "t10k-images-idx3-ubyte.gz").write_bytes(gzip.compress(idx(images)))
    (home / "mnist" / "t10k-labels-idx1-ubyte").write_bytes(idx(labels))
    x, y = mnist.load("test")
    assert x.shape == (2, 1, 28, 28) and x.dtype == torch.uint8
    assert np.array_equal(x[:, 0].numpy(), images) and y.tolist() == [3, 7]


@pytest.mark.parametrize("damage", [b"", b"\0\0\x08", b"\0\0\x08\x01\0\0\0\x05abc", b"\0\0\x0d\x01\0\0\0\x01abcd"])
def test_damaged_mnist(home, damage):
    (home / "mnist").mkdir()
    (home / "mnist" / "t10k-images-idx3-ubyte").write_bytes(damage)
    with pytest.raises(LaminaError, match="not a whole idx file"):
        mnist.load("test")
    (home / "mnist" / "t10k-images-idx3-ubyte").unlink()
    (home / "mnist" / "t10k-images-idx3-ubyte.gz").write_bytes(gzip.compress(bytes(5000))[:20])
    with pytest.raises(LaminaError, match="cannot be read"):
        mnist.load("test")


def test_cifar10(home):
    (home / "cifar10").mkdir()
    record = bytes([6]) + bytes(range(256)) * 12
    (home / "cifar10" / "test_batch.bin").write_bytes(record * 2)
    x, y = cifar10.load("test")
    assert x.shape == (2, 3, 32, 32) and y.tolist() == [6, 6]
    assert x[0, 1, 0, :3].tolist() == [0, 1, 2]  # green begins behind 1,024 bytes of red
    (home / "cifar10" / "test_batch.bin").write_bytes(record[:-1])
    with pytest.raises(LaminaError, match="not a whole CIFAR batch"):
        cifar10.load("test")


def test_a_missing_data_set_says_where_to_put_it(home):
    with pytest.raises(LaminaError) as error:
        mnist.load("test")
    text = str(error.value)
    assert str(home / "mnist") in text and str(files.cache_dir() / "mnist") in text
    assert "t10k-images-idx3-ubyte" in text and "https://" in text and "\n" not in text


def test_the_cache_is_second(home):
    cache = files.cache_dir() / "mnist"
    cache.mkdir(parents=True)
    (cache / "x").write_text("cache")
    assert files.find("mnist", "x") == cache / "x"
    (home / "mnist").mkdir()
    (home / "mnist" / "x.gz").write_text("home")
    assert files.find("mnist", "x") == home / "mnist" / "x.gz"


def test_an_archive_is_fetched_and_unpacked(tmp_path):
    archive = tmp_path / "set.tar.gz"
    with tarfile.open(archive, "w:gz") as tar:
        for name, content in {"inside/a.bin": b"AAA", "../b.bin": b"BBB", "inside/notes.html": b"no"}.items():
            member = tarfile.TarInfo(name)
            member.size = len(content)
            tar.addfile(member, io.BytesIO(content))
    digest = hashlib.sha256(archive.read_bytes()).hexdigest()
    path = files.obtain("made", "a.bin", archive.as_uri(), digest)
    assert path.read_bytes() == b"AAA"
    assert sorted(p.name for p in path.parent.iterdir()) == ["a.bin", "b.bin", "set.tar.gz"]  # nothing outside the folder
    with pytest.raises(LaminaError, match=r"holds no c\.bin"):
        files.obtain("made", "c.bin", archive.as_uri(), digest)


def test_a_failed_fetch_leaves_nothing(tmp_path, monkeypatch):
    source = tmp_path / "source"
    source.write_bytes(bytes(3 << 20))
    target = tmp_path / "cache" / "file"
    with pytest.raises(LaminaError, match="not kept"):
        disk.download(source.as_uri(), target, "abc")
    assert list(target.parent.iterdir()) == []

    def full(path):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(disk, "sync", full)
    with pytest.raises(LaminaError, match="No space left on device"):
        disk.download(source.as_uri(), target, hashlib.sha256(source.read_bytes()).hexdigest())
    assert list(target.parent.iterdir()) == []
    with pytest.raises(LaminaError, match="cannot be fetched"):
        disk.download((tmp_path / "none").as_uri(), target, "abc")


def picture(path):
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.new("RGB", (4, 4)).save(path)


def test_folders(tmp_path):
    for name in ("b/1.png", "a/2.jpg", "a/deeper/3.PNG", ".hidden/4.png", "a/notes.txt"):
        picture(tmp_path / "classes" / name) if not name.endswith("txt") else (tmp_path / "classes" / name).write_text("")
    paths, labels = folder.load(tmp_path / "classes")
    assert [(p.name, n) for p, n in zip(paths, labels, strict=True)] == [("2.jpg", 0), ("3.PNG", 0), ("1.png", 1)]
    picture(tmp_path / "ids" / "n02099601" / "x.jpg")  # golden retriever: class 207 of 1,000, though alone here
    assert folder.load(tmp_path / "ids")[1] == [207]
    picture(tmp_path / "flat" / "0012_n1.jpg")
    picture(tmp_path / "flat" / "3_x.png")
    assert folder.load(tmp_path / "flat")[1] == [12, 3]
    picture(tmp_path / "flat" / "cat.png")
    with pytest.raises(InputError, match=r"cat.png does not begin with its class"):
        folder.load(tmp_path / "flat")
    with pytest.raises(InputError, match="no such folder"):
        folder.load(tmp_path / "none")
    (tmp_path / "empty").mkdir()
    with pytest.raises(InputError, match="holds no images"):
        folder.load(tmp_path / "empty")
    with pytest.raises(InputError, match="is not a folder"):
        folder.load(tmp_path / "flat" / "cat.png")
