"""docs/serving.md: its curl lines and its Python block, run against a server."""

import json
import re
import shlex
import shutil
import subprocess
from pathlib import Path

import pytest

from lamina.serve.models import wanted

from .serving import serving

CHECKOUT = Path(__file__).resolve().parents[2]
GUIDE = (CHECKOUT / "docs/serving.md").read_text(encoding="utf-8")
CURLS = re.findall(r"^    (curl (?:.*\\\n)*.*)$", GUIDE, re.M)


@pytest.fixture(scope="module")
def server():
    with serving(*wanted(["vit_mnist", "transformer_de_en"], threads=1), token=None) as found:
        yield found


@pytest.mark.skipif(shutil.which("curl") is None, reason="needs curl")
@pytest.mark.parametrize("line", CURLS)
def test_curl(server, line):
    words = shlex.split(line.replace("\\\n", "").replace("127.0.0.1:8000", f"127.0.0.1:{server.port}"))
    done = subprocess.run([*words, "-sS", "--fail-with-body"], cwd=CHECKOUT, capture_output=True, text=True, timeout=60)
    assert done.returncode == 0, done.stdout + done.stderr
    answer = json.loads(done.stdout)
    if "/images/" in line:
        assert [row["predictions"][0]["label"] for row in answer] == ["7", "1"][: len(answer)]
    elif "/translate/" in line:
        assert all(row["target"] for row in answer)


def test_there_are_curl_lines_of_every_kind():
    assert len(CURLS) >= 8 and {"/images/", "/translate/", "/v2/models/", "/v2/health/"} <= set(
        re.findall(r"/images/|/translate/|/v2/models/|/v2/health/", " ".join(CURLS))
    )


def test_python(server):
    (block,) = re.findall(r"^```python\n(.*?)^```", GUIDE, re.M | re.S)
    names: dict = {}
    exec(block.replace("127.0.0.1:8000", f"127.0.0.1:{server.port}"), names)
    assert names["client"].infer("vit_mnist", [names["value"]]).as_numpy("output").shape == (1, 10)
    names["client"].close()
