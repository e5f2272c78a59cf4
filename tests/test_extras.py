"""What a message says to install: it has to work in a clone, too."""

import importlib.metadata
import json
from pathlib import Path

import pytest

from lamina import extras
from lamina.extras import install_command


class Distribution:
    def __init__(self, record: dict | None):
        self.record = record

    def read_text(self, name: str) -> str | None:
        return json.dumps(self.record) if self.record is not None and name == "direct_url.json" else None


def test_in_a_clone(monkeypatch, tmp_path):
    clone = Path(extras.__file__).parent.parent
    monkeypatch.chdir(tmp_path)
    assert install_command("text") == f"pip install -e '{clone}[text]'"
    monkeypatch.chdir(clone)
    assert install_command("text") == "pip install -e '.[text]'"


@pytest.mark.parametrize(
    ("record", "command"),
    [
        (None, "pip install 'lamina[onnx]'"),  # from an index
        ({"url": "https://host/lamina.whl", "archive_info": {}}, "pip install 'lamina[onnx]'"),
        ({"url": "file:///a%20place/lamina", "dir_info": {}}, "pip install '/a place/lamina[onnx]'"),
        ({"url": "file:///a/lamina", "dir_info": {"editable": True}}, "pip install -e '/a/lamina[onnx]'"),
    ],
)
def test_installed(record, command, monkeypatch, tmp_path):
    monkeypatch.setattr(extras, "__file__", str(tmp_path / "site-packages/lamina/extras.py"))
    monkeypatch.setattr(importlib.metadata, "distribution", lambda _name: Distribution(record))
    assert install_command("onnx") == command


def test_not_installed_at_all(monkeypatch, tmp_path):
    def missing(name: str) -> None:
        raise importlib.metadata.PackageNotFoundError(name)

    monkeypatch.setattr(extras, "__file__", str(tmp_path / "lamina/extras.py"))
    monkeypatch.setattr(importlib.metadata, "distribution", missing)
    assert install_command("onnx") == "pip install 'lamina[onnx]'"
