"""Files whose bytes are changed at random: each is read, or refused in one line; none takes long."""

import random
import signal
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from lamina.errors import LaminaError

onnx = pytest.importorskip("onnx", reason="needs lamina[onnx]")

from onnx import helper  # noqa: E402

from lamina.onnx.graph import describe_inputs, read  # noqa: E402
from tests.onnx.test_onnx_graph import BOOL, INT64, MS, array, branch, counting, free, ints, loop, model, value  # noqa: E402

FILES = 1000
SECONDS = 10  # for one file; usual are milliseconds


def networks() -> list[Any]:
    """Small ones of several kinds: an image network, control flow, a recurrence, a quantised and a fused one, functions."""
    node = helper.make_node
    image = [
        node("Conv", ["x", "w", "b"], ["c"], "conv", pads=[1, 1, 1, 1]),
        node("Relu", ["c"], ["r"], "relu"),
        node("MaxPool", ["r"], ["p"], "pool", kernel_shape=[2, 2], strides=[2, 2]),
        node("Shape", ["p"], ["s"]), node("Slice", ["s", "zero", "one"], ["n"]), node("Concat", ["n", "rest"], ["t"], axis=0),
        node("Reshape", ["p", "t"], ["f"]), node("Gemm", ["f", "fc"], ["y"], "fc", transB=1),
    ]  # fmt: skip
    stored = [array("w", 4, 3, 3, 3), array("b", 4), array("fc", 5, 64), ints("zero", 0), ints("one", 1), ints("rest", -1)]
    small = branch("small", [node("Identity", ["x"], ["a"])], ["a"])
    large = branch("large", [node("MatMul", ["x", "w"], ["b"], "fc")], ["b"], [array("w", 4, 4)])
    choice = node("If", ["c"], ["y"], "choice", then_branch=small, else_branch=large)
    scan = helper.make_graph([node("MatMul", ["e", "w"], ["o"])], "body", [free("h"), free("e")], [free("h"), free("o")])
    scanned = node("Scan", ["h0", "x"], ["h", "y"], body=scan, num_scan_inputs=1)
    attention = node("MultiHeadAttention", ["q", "k", "v"], ["y"], domain=MS, num_heads=2)
    dense = helper.make_function(
        "mine", "Dense", ["a", "b"], ["r"], [node("MatMul", ["a", "b"], ["m"]), node("Relu", ["m"], ["r"])],
        [helper.make_opsetid("", 20)],
    )  # fmt: skip
    lstm = node("LSTM", ["x", "w", "r", "b"], ["y", "h", "c"], "lstm", hidden_size=5)
    quantised = [
        node("DynamicQuantizeLinear", ["x"], ["q", "scale", "shift"]),
        node("MatMulInteger", ["q", "w", "shift"], ["m"]), node("Cast", ["m"], ["f"], to=1), node("Mul", ["f", "scale"], ["y"]),
    ]  # fmt: skip
    x = value("x", 3, 4)
    return [
        model(image, [value("x", "n", 3, 8, 8)], ["y"], stored),
        model([choice], [value("c", dtype=BOOL), x], ["y"]),
        loop(7), loop(None), loop(3, grow=True), counting(9, "carried"),
        model([scanned], [value("h0", 3, 4), value("x", 9, 3, 4)], ["h", "y"], [array("w", 4, 4)]),
        model([lstm], [value("x", 7, 3, 6)], ["y"], [array("w", 1, 20, 6), array("r", 1, 20, 5), array("b", 1, 40)]),
        model(quantised, [x], ["y"], [array("w", 4, 8, dtype=np.int8)]),
        model([attention], [value("q", 2, 5, 8), value("k", 2, 6, 8), value("v", 2, 6, 8)], ["y"]),
        model([node("Einsum", ["x", "w"], ["y"], equation="ij,jk->ik")], [x], ["y"], [array("w", 4, 4)]),
        model([node("Dense", ["x", "w"], ["y"], domain="mine")], [x], ["y"], [array("w", 4, 4)], functions=[dense]),
        model([node("Gather", ["w", "x"], ["y"])], [value("x", 3, dtype=INT64)], ["y"], [array("w", 10, 4)]),
    ]  # fmt: skip


def mutated(data: bytes, chance: random.Random) -> bytes:
    """One to four bytes changed, put in or taken out, a piece moved, or the end cut off."""
    changed = bytearray(data)
    for _ in range(chance.randint(1, 4)):
        place = chance.randrange(len(changed))
        what = chance.randrange(6)
        if what == 0:
            changed[place] = chance.randrange(256)
        elif what == 1:
            changed[place] ^= 1 << chance.randrange(8)
        elif what == 2:
            changed.insert(place, chance.randrange(256))
        elif what == 3:
            del changed[place : place + chance.randint(1, 3)]
        elif what == 4:
            piece = changed[place : place + chance.randint(1, 16)]
            there = chance.randrange(len(changed))
            changed[there : there + len(piece)] = piece
        elif chance.random() < 0.1:
            del changed[place:]
        if not changed:
            return b"\0"
    return bytes(changed)


@pytest.fixture
def no_hang() -> Iterator[None]:
    def stop(*_: Any) -> None:
        raise TimeoutError(f"more than {SECONDS} s")

    before = signal.signal(signal.SIGALRM, stop)
    yield
    signal.alarm(0)
    signal.signal(signal.SIGALRM, before)


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore")  # NumPy's, of constants that overflow
def test_files_with_changed_bytes_are_read_or_refused(tmp_path: Path, no_hang: None) -> None:
    chance = random.Random(20)
    whole = [made.SerializeToString() for made in networks()]
    path = tmp_path / "net.onnx"
    read_, refused = 0, 0
    for number in range(FILES):
        path.write_bytes(mutated(whole[number % len(whole)], chance))
        signal.alarm(SECONDS)
        try:
            claims = describe_inputs(path).items()
            sizes = {name: tuple(s if isinstance(s, int) else 2 for s in claim) for name, claim in claims if claim}
            read(path, sizes)
            read_ += 1
        except LaminaError as error:
            assert str(error).isprintable() and (str(path) in str(error) or str(error).startswith("input "))
            refused += 1
        except Exception as error:
            raise AssertionError(f"file {number}: {type(error).__name__}: {error}") from error
    assert min(read_, refused) > FILES // 10


def test_names_that_are_not_text(tmp_path: Path) -> None:
    """Of a node, its operator, a tensor, and within a graph of a graph."""
    made = loop(3).SerializeToString()
    for name in (b"MatMul", b"loop", b"body", b"fc", b"h2"):
        assert made.count(name)
        (tmp_path / "net.onnx").write_bytes(made.replace(name, b"\xff" * len(name)))
        with pytest.raises(LaminaError, match=r"net.onnx: a name in it is not valid UTF-8$"):
            read(tmp_path / "net.onnx")
