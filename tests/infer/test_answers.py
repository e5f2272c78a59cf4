"""What the weights that ship answer, and how answers are counted, beside the networks' formulas and counts written here.

The only data are the hundred digits that come with Lamina, made ones, and generated images: this runs on any machine.
"""

import json
import math
from collections.abc import Callable, Iterator
from importlib.resources import files
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.torch import load_file, save_file
from torch import Tensor
from torch.nn import functional as F

import lamina
from lamina.infer import session
from tests import training
from tests.zoo.test_details import lenet5, lenet5_dense, linear, random_state, residual

State = dict[str, Tensor]
DIGITS = sorted(Path(str(files("lamina.data") / "digits")).glob("*.png"))


@pytest.fixture(autouse=True, scope="module")
def one_thread() -> Iterator[None]:
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


def shipped(file: str) -> State:
    return {k: v.double() for k, v in load_file(str(files("lamina.zoo") / "pretrained" / f"{file}.safetensors")).items()}


def pixels(paths: list[Path]) -> Tensor:
    """(B, 1, 28, 28), 0 to 255."""
    return torch.stack([torch.from_numpy(np.array(Image.open(p).convert("L"))).double()[None] for p in paths])


def layer_norm(s: State, name: str, x: Tensor, eps: float) -> Tensor:
    mean, var = x.mean(-1, keepdim=True), x.var(-1, keepdim=True, unbiased=False)
    return (x - mean) / (var + eps).sqrt() * s[f"{name}.weight"] + s[f"{name}.bias"]


def attend(q: Tensor, k: Tensor, v: Tensor, heads: int, seen: Tensor | None = None) -> Tensor:
    """Vaswani et al. 2017, equation 1, for (B, T, D) in `heads` slices."""
    parts = []
    for q_, k_, v_ in zip(q.chunk(heads, -1), k.chunk(heads, -1), v.chunk(heads, -1), strict=True):
        scores = q_ @ k_.transpose(1, 2) / math.sqrt(q_.shape[-1])
        if seen is not None:
            scores = scores.masked_fill(~seen, -math.inf)
        weights = scores.exp() / scores.exp().sum(-1, keepdim=True)
        parts.append(weights @ v_)
    return torch.cat(parts, -1)


def vit_mnist(s: State, x: Tensor, training: bool = False) -> Tensor:
    """Dosovitskiy et al. 2020, equations 1 to 4: patches of 4, six blocks, four heads, norms of eps 1e-6."""
    patches = x.unfold(2, 4, 4).unfold(3, 4, 4).flatten(4).permute(0, 2, 3, 1, 4).flatten(3).flatten(1, 2)
    x = patches @ s["patch_embed.weight"].flatten(1).T + s["patch_embed.bias"]
    x = torch.cat([s["class_token"].expand(len(x), -1, -1), x], 1) + s["position_embedding"]
    for i in range(6):
        block = f"blocks.{i}"
        q, k, v = linear(s, f"{block}.attention.qkv", layer_norm(s, f"{block}.norm1", x, 1e-6)).chunk(3, -1)
        x = x + linear(s, f"{block}.attention.out", attend(q, k, v, 4))
        y = linear(s, f"{block}.fc1", layer_norm(s, f"{block}.norm2", x, 1e-6))
        x = x + linear(s, f"{block}.fc2", y * (1 + torch.erf(y / math.sqrt(2))) / 2)  # GELU, exact
    return linear(s, "head", layer_norm(s, "norm", x, 1e-6)[:, 0])


def transformer_de_en(s: State, source: Tensor, target: Tensor) -> Tensor:
    """Vaswani et al. 2017, Figure 1, with the norms before the sub-layers and one behind each stack; 192 wide, four heads."""
    width = 192

    def embed(ids: Tensor) -> Tensor:
        place, column = torch.arange(ids.shape[1])[:, None], torch.arange(width)
        angle = place / 10000 ** (2 * (column // 2) / width)
        return s["embedding.weight"][ids] * math.sqrt(width) + torch.where(column % 2 == 0, angle.sin(), angle.cos())

    def attention(name: str, x: Tensor, other: Tensor, seen: Tensor | None = None) -> Tensor:
        q, k, v = (y @ s[f"{name}.{part}.weight"].T for y, part in ((x, "query"), (other, "key"), (other, "value")))
        return attend(q, k, v, 4, seen) @ s[f"{name}.out.weight"].T

    def norm(name: str, x: Tensor) -> Tensor:
        return layer_norm(s, name, x, 1e-5)

    def feed_forward(name: str, x: Tensor) -> Tensor:
        return x + linear(s, f"{name}.fc2", linear(s, f"{name}.fc1", norm(f"{name}.ff_norm", x)).clamp(min=0))

    x = embed(source)
    for i in range(3):
        y = norm(f"encoder.{i}.self_norm", x)
        x = feed_forward(f"encoder.{i}", x + attention(f"encoder.{i}.self_attention", y, y))
    memory = norm("encoder_norm", x)
    x, seen = embed(target), torch.ones(target.shape[1], target.shape[1]).tril().bool()
    for i in range(3):
        y = norm(f"decoder.{i}.self_norm", x)
        x = x + attention(f"decoder.{i}.self_attention", y, y, seen)
        x = x + attention(f"decoder.{i}.cross_attention", norm(f"decoder.{i}.cross_norm", x), memory)
        x = feed_forward(f"decoder.{i}", x)
    return norm("decoder_norm", x) @ s["embedding.weight"].T


# How each file wants its images: LeCun et al. 1998, section II.B (white is -0.1 and ink 1.175, in 32x32); the mean and the
# deviation of MNIST's training pixels.
def as_lenet(x: Tensor) -> Tensor:
    return F.pad(x / 255, [2] * 4) * 1.275 - 0.1


def as_mnist(x: Tensor) -> Tensor:
    return (x / 255 - 0.1307) / 0.3081


READERS: dict[str, tuple[Callable[..., Tensor], Callable[[Tensor], Tensor], str, float]] = {
    # formula, preparation, file, what the scores are multiplied by before the softmax
    "lenet5": (lenet5, as_lenet, "lenet5_mnist", 0.25),
    "vit_mnist": (vit_mnist, as_mnist, "vit_mnist", 1.0),
}


@pytest.mark.parametrize("name", READERS)
def test_digits_by_formula(name):
    """`lamina.run` gives each digit the chances that the network's formula gives it, on pixels prepared by hand; and 97 of the
    hundred are read."""
    formula, prepare, file, scale = READERS[name]
    chances = (scale * formula(shipped(file), prepare(pixels(DIGITS)), False)).softmax(1)
    answers = lamina.run(name, DIGITS, top=10)
    assert [row["input"] for row in answers] == [str(path) for path in DIGITS]
    for row, expected in zip(answers, chances, strict=True):
        found = torch.zeros(10, dtype=torch.float64)
        for guess in row["predictions"]:
            assert guess["label"] == str(guess["index"])
            found[guess["index"]] = guess["probability"]
        torch.testing.assert_close(found, 100 * expected, rtol=0, atol=2e-2)
        order = [guess["probability"] for guess in row["predictions"]]
        assert order == sorted(order, reverse=True)
    labels = [int(path.name[0]) for path in DIGITS]
    right = sum(row["predictions"][0]["index"] == label for row, label in zip(answers, labels, strict=True))
    assert right == sum(int(row.argmax()) == label for row, label in zip(chances, labels, strict=True)) >= 97
    assert len(next(iter(lamina.run(name, DIGITS[:1])))["predictions"]) == 5  # by default


def test_the_hundred_digits_as_a_folder():
    """`lamina.eval` on the folder: files are named CLASS_NUMBER."""
    for name, (formula, prepare, file, _) in READERS.items():
        scores = formula(shipped(file), prepare(pixels(DIGITS)), False)
        labels = torch.tensor([int(path.name[0]) for path in DIGITS])
        ranks = (scores > scores.gather(1, labels[:, None])).sum(1)
        found = lamina.eval(name, DIGITS[0].parent)
        expected = {"top1": float((ranks < 1).sum()), "top5": float((ranks < 5).sum()), "count": 100}
        assert {k: found[k] for k in expected} == expected


def test_cifar_network_by_formula():
    """The ResNet-20 that ships, on generated images: the formula of He et al. 2015 on its weights, and on pixels from which the
    mean and the deviation of CIFAR-10's training pixels are taken, channel by channel (125.3, 123.0, 113.9 and 63.0, 62.1,
    66.7 in the code of Zagoruyko and Komodakis 2016)."""
    net = session.Session("resnet20_cifar")
    image = torch.randint(0, 256, (4, 3, 32, 32), generator=torch.Generator().manual_seed(0), dtype=torch.uint8)
    image[1, 0] = 255  # red, green and blue ones
    image[2, 1] = 255
    image[3, 2] = 255
    from lamina.data.image import from_pixels

    mean, std = (torch.tensor(v).double()[:, None, None] for v in ([0.4914, 0.4822, 0.4465], [0.2470, 0.2435, 0.2616]))
    x = (image.double() / 255 - mean) / std
    torch.testing.assert_close(from_pixels(image, net.image).double(), x, rtol=1e-5, atol=1e-5)
    expected = residual("A", (3, 3, 3), cifar=True)(shipped("resnet20_cifar10"), x, False)
    torch.testing.assert_close(net.scores(from_pixels(image, net.image)).double(), expected, rtol=1e-4, atol=1e-3)
    assert net.classes[0] == "airplane" and net.classes[9] == "truck"


def test_transformer_by_formula():
    net, state = lamina.load("transformer_de_en"), shipped("transformer_de_en")
    random = torch.Generator().manual_seed(0)
    source, target = (torch.randint(3, 4000, (2, n), generator=random) for n in (7, 6))
    with torch.no_grad():
        torch.testing.assert_close(net(source, target).double(), transformer_de_en(state, source, target), rtol=1e-4, atol=1e-3)


# ---- how answers are counted ------------------------------------------------------------------------------------------


@pytest.fixture
def guesser(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> tuple[Path, Tensor, Tensor]:
    """A network that guesses, in a file; and 300 made digits in `$LAMINA_DATA` with how it ranks their labels (0: first)."""
    training.write_mnist(tmp_path, 10, 300)
    monkeypatch.setenv("LAMINA_DATA", str(tmp_path))
    state = random_state(lamina.build("lenet5_dense").double())
    save_file({k: v.float() for k, v in state.items()}, tmp_path / "guess.safetensors")
    raw = (tmp_path / "mnist" / "t10k-images-idx3-ubyte").read_bytes()[16:]
    x = torch.frombuffer(bytearray(raw), dtype=torch.uint8).reshape(300, 1, 28, 28).double()
    labels = torch.arange(300) % 10
    scores = lenet5_dense(state, as_lenet(x), False)
    ranks = (scores > scores.gather(1, labels[:, None])).sum(1)
    return tmp_path / "guess.safetensors", ranks, scores


def test_top1_and_top5_by_ranks(guesser):
    """Russakovsky et al. 2014, section 4.1: right if the label is the best, or among the five best."""
    path, ranks, _ = guesser
    right = [100 * float((ranks < n).sum()) / 300 for n in (1, 2, 4, 5, 6)]
    assert len(set(right)) == 5, "ranks tell the first five apart"
    for batch in (7, 100, 300):
        found = lamina.eval("lenet5_dense", "mnist", path, batch=batch)
        assert (found["top1"], found["top5"]) == (pytest.approx(right[0], abs=1e-4), pytest.approx(right[3], abs=1e-4))
        assert found["count"] == 300


def test_the_command_counts_the_same(guesser, ok):
    path, ranks, _ = guesser
    found = json.loads(ok(f"eval lenet5_dense --data mnist --weights {path} --json"))
    assert found["top5"] == pytest.approx(100 * float((ranks < 5).sum()) / 300, abs=1e-4)
