"""The papers' ways to look at a test image: which pixels each view has, and what dense evaluation equals."""

import json

import numpy as np
import pytest
import torch
from PIL import Image
from torch import nn

import lamina
from lamina.data.image import ImageSpec, prepare
from lamina.errors import InputError
from lamina.infer import protocols
from lamina.infer.protocols import Protocol, convolutional
from lamina.infer.session import Session

# resnet20_cifar: 16x3 to 16x16 filters at 32x32, 16 to 32 at 16x16, 32 to 64 at 8x8, a linear layer of 64 to 10.
MACS = 9 * (32**2 * (3 * 16 + 6 * 16 * 16) + 16**2 * (16 * 32 + 5 * 32 * 32) + 8**2 * (32 * 64 + 5 * 64 * 64)) + 640
SPEC = ImageSpec(size=224, resize=256)


def numbered(width: int, height: int) -> Image.Image:
    """An image of which the red is a column's low byte, the blue its high byte, and the green the row modulo 256."""
    rows, columns = np.mgrid[0:height, 0:width]
    return Image.fromarray(np.stack([columns % 256, rows % 256, columns // 256], 2).astype(np.uint8))


def corner(view: Image.Image) -> tuple[int, int, int]:
    """Column and row of the view's first pixel, and whether columns run backwards."""
    pixels = np.array(view).astype(int)
    columns = pixels[0, :, 0] + 256 * pixels[0, :, 2]
    return int(columns.min()), int(pixels[0, 0, 1]), int(columns[0] > columns[-1])


def test_ten_crops():
    """Of 256x256 the corners begin at 0 and 32, the centre at 16 (Krizhevsky et al. 2012, section 4.1)."""
    views = protocols.ten(numbered(256, 256), SPEC)
    assert {view.size for view in views} == {(224, 224)}
    places = {(x, y) for x in (0, 32) for y in (0, 32)} | {(16, 16)}
    assert {corner(view) for view in views} == {(x, y, m) for x, y in places for m in (0, 1)}


def test_144_crops():
    """4 sizes x 3 squares x 6 views x 2; the largest size of a wide image has squares at the left, the centre and the right."""
    views = protocols.many(numbered(704, 352), SPEC)
    assert len(views) == 144
    assert {view.size for view in views} == {(224, 224)}
    largest = [corner(view) for view in views[54:72]]  # 352x704: squares begin at column 0, 176 and 352
    for i, start in enumerate((0, 176, 352)):
        columns = [x for x, _, _ in largest[6 * i : 6 * i + 5]]
        assert columns == [start + x for x in (0, 128, 0, 128, 64)]


def test_one_crop_is_prepares(tmp_path):
    numbered(300, 260).save(tmp_path / "x.png")
    view = protocols.one(Image.open(tmp_path / "x.png"), SPEC)[0]
    assert torch.equal(protocols.from_pixels(protocols._pixels(view), SPEC)[0], prepare(tmp_path / "x.png", SPEC))


@pytest.mark.parametrize(("name", "size"), [("vgg11", 32), ("alexnet", 67)])
def test_dense_equals_the_network_on_its_own_size(name, size):
    torch.manual_seed(0)
    net = lamina.build(name, img_size=size, num_classes=7).eval()
    x = torch.randn(2, 3, size, size)
    with torch.inference_mode():
        dense, plain = convolutional(net)(x), net(x)
        assert dense.shape == (2, 7, 1, 1)
        assert torch.allclose(dense.flatten(1), plain, rtol=1e-4, atol=1e-5 * plain.abs().max().item())
        assert convolutional(net)(torch.randn(1, 3, size + 64, size + 32)).shape[2:] > (1, 1)


def test_a_dense_head_is_the_mean_of_its_windows():
    """On a map of 9x8 a head that reads 7x7 sees 3x2 windows; the mean of its scores is the mean over the windows' scores."""

    class Net(nn.Module):
        def __init__(self):
            super().__init__()
            self.conv, self.fc1, self.fc2 = nn.Conv2d(3, 4, 1), nn.Linear(4 * 49, 6), nn.Linear(6, 5)

        def forward(self, x):
            return self.fc2(torch.relu(self.fc1(self.conv(x).flatten(1))))

    torch.manual_seed(0)
    net, x = Net().eval(), torch.randn(1, 3, 9, 8)
    with torch.inference_mode():
        windows = [net(x[:, :, i : i + 7, j : j + 7]) for i in range(3) for j in range(2)]
        dense = convolutional(net)(x)
    assert dense.shape == (1, 5, 3, 2)
    assert torch.allclose(dense.mean((2, 3)), torch.stack(windows).mean(0), atol=1e-5)


def test_a_network_that_averages_its_map_is_dense_already():
    net = lamina.build("resnet18", device="meta")
    assert convolutional(net) is net


@pytest.mark.parametrize("name", ["lenet5", "vit_ti_16"])
def test_no_dense_form(name):
    with pytest.raises(InputError, match="dense form"):
        convolutional(lamina.build(name).eval())


def folder(root, count: int = 3) -> str:
    for i in range(count):
        numbered(40 + i, 36).save(root / f"{i}_x.png")
    return str(root)


def test_probabilities_are_means_over_views(tmp_path):
    """By hand: softmax of each view, then the mean."""
    torch.manual_seed(0)
    net = Session("resnet20_cifar", image={"resize": 36})
    numbered(40, 36).save(tmp_path / "x.png")
    viewer = protocols.Viewer(net, Protocol("10-crop"))
    views = protocols.ten(Image.open(tmp_path / "x.png").convert("RGB"), net.image)
    x = torch.cat([protocols.from_pixels(protocols._pixels(view), net.image) for view in views])
    with torch.inference_mode():
        expected = net.module(x).softmax(1).mean(0)
    assert torch.allclose(viewer.probabilities(tmp_path / "x.png"), expected, atol=1e-6)
    assert viewer.macs_per_image == 10 * lamina.trace(net.module, torch.empty(1, 3, 32, 32)).macs


def test_documents(ok, tmp_path):
    data = folder(tmp_path)
    found = json.loads(ok(f"eval resnet20_cifar --data {data} --protocol 10-crop --image resize=36 --json"))
    assert found["macs_per_image"] == 10 * MACS
    assert found["protocol"] == "resized to 36, 4 corners and the centre, 32 wide, and their mirror images"
    found = json.loads(ok(f"eval resnet20_cifar --data {data} --protocol dense --scale 32 --scale 48 --json"))
    assert found["count"] == 3
    several = f"eval resnet20_cifar --data {data} --weights cifar10 --weights cifar10 --json"
    found = json.loads(ok(several))
    assert found["protocol"].endswith("2 networks")
    assert found["macs_per_image"] == 2 * MACS


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ("--data {data} --protocol 12-crop", "there is no protocol '12-crop'"),
        ("--data {data} --protocol 10-crop", "takes whole images of 32"),
        ("--data {data} --scale 48", "--scale is for the dense protocol"),
        ("--data {data} --protocol dense --scale 0", "a scale is a positive number"),
        ("--data cifar10 --protocol 10-crop", "cifar10 is tested on whole images"),
    ],
)
def test_wrong_calls(run, tmp_path, options, message):
    code, out, err = run("eval resnet20_cifar " + options.format(data=folder(tmp_path, 1)))
    assert (code, out) == (2, "")
    assert message in err
