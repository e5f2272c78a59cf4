"""Files are written whole or not at all, whatever fails on the way; the cache folder; the first line of an error."""

import os
import stat
from pathlib import Path

import pytest

from lamina import files
from lamina.errors import LaminaError, first_line, reason


def test_the_first_line_of_an_error():
    assert first_line(ValueError("\n  one\ntwo")) == "one"
    assert first_line(ValueError("")) == first_line(ValueError(" \n")) == "ValueError"
    assert reason(OSError(28, "No space left on device", "x")) == "No space left on device"
    assert reason(OSError("odd\nerror")) == "odd"


def test_writing_replaces_the_whole_file(tmp_path):
    path = tmp_path / "a.txt"
    files.write(path, "naïve")
    assert path.read_bytes() == "naïve".encode()
    files.write(path, b"new")
    assert path.read_bytes() == b"new" and list(tmp_path.iterdir()) == [path]
    mask = os.umask(0)
    os.umask(mask)
    assert stat.S_IMODE(path.stat().st_mode) == 0o666 & ~mask  # as any other file of the user's


@pytest.mark.parametrize("step", ["put", "sync", "rename"])
def test_an_older_file_stays_where_writing_fails(step, tmp_path, monkeypatch):
    path = tmp_path / "a.txt"
    path.write_text("old")

    def full(*_):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(files, step, full)
    with pytest.raises(LaminaError, match=r"^.*/a\.txt cannot be written: No space left on device$"):
        files.write(path, "new")
    assert path.read_text() == "old" and list(tmp_path.iterdir()) == [path]


def test_what_cannot_be_written_is_one_line(tmp_path):
    with pytest.raises(LaminaError, match=r"none/a cannot be written: No such file or directory$"):
        files.write(tmp_path / "none" / "a", b"")
    with pytest.raises(LaminaError, match=r"cannot be written: it is a folder$"):
        files.write(tmp_path, b"")


def test_a_device_is_written_to_as_it_is():
    files.write(Path(os.devnull), b"x")
    assert not Path(os.devnull).is_file()


def test_files_beside_the_one_replaced_come_before_it(tmp_path, monkeypatch):
    order = []
    rename = files.rename
    monkeypatch.setattr(files, "rename", lambda old, new: (order.append(new.name), rename(old, new)))
    with files.replacing(tmp_path / "net.onnx") as partial:
        for name in ("net.onnx", "net.onnx.data", "a"):
            partial.with_name(name).write_text(name)
        assert not list(tmp_path.glob("net*"))
    assert order == ["a", "net.onnx.data", "net.onnx"]
    assert sorted(p.name for p in tmp_path.iterdir()) == sorted(order)


def test_the_cache_folder_is_the_user_s(monkeypatch, tmp_path):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    assert files.cache_dir() == tmp_path / "cache" / "lamina"
    monkeypatch.delenv("XDG_CACHE_HOME")
    monkeypatch.setenv("HOME", str(tmp_path))
    assert files.cache_dir() == tmp_path / ".cache" / "lamina"
