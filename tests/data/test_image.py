"""Pictures of every kind, good and bad, become what a network expects or one clear line."""

import struct
import zlib

import numpy as np
import pytest
import torch
from PIL import Image

from lamina.data.image import MAX_PIXELS, ImageSpec, decode, from_pixels, prepare
from lamina.errors import InputError, LaminaError

RNG = np.random.default_rng(0)
PICTURE = Image.fromarray(RNG.integers(0, 256, (30, 40, 3), dtype=np.uint8))
PLAIN = ImageSpec(size=16, mean=(0, 0, 0), std=(1, 1, 1), scale=1)


def png(width: int, height: int) -> bytes:
    """A PNG that claims to be of that size."""

    def chunk(kind: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    head = struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", head) + chunk(b"IDAT", zlib.compress(bytes(1000))) + chunk(b"IEND", b"")


def test_bad_files(tmp_path):
    whole = tmp_path / "whole.jpg"
    PICTURE.save(whole)
    cases = {
        "cut.jpg": (whole.read_bytes()[:700], "damaged or cut short"),
        "text.png": (b"hello", "not an image in a format"),
        "empty.png": (b"", "not an image in a format"),
        "huge.png": (png(40_000, 40_000), "more than 100,000,000 pixels"),
        "large.png": (png(MAX_PIXELS // 10_000 + 1, 10_000), "more than 100,000,000 pixels"),
        "lies.png": (png(50, 50), "damaged or cut short"),
    }
    for name, (content, message) in cases.items():
        path = tmp_path / name
        path.write_bytes(content)
        with pytest.raises(LaminaError, match=message) as error:
            prepare(path, PLAIN)
        assert name in str(error.value) and "\n" not in str(error.value)
    PICTURE.save(tmp_path / "other.tiff")
    with pytest.raises(LaminaError, match=r"format Lamina reads \(JPEG, PNG"):
        prepare(tmp_path / "other.tiff", PLAIN)
    with pytest.raises(LaminaError, match="no such file"):
        prepare(tmp_path / "none.png", PLAIN)
    with pytest.raises(LaminaError, match="is a folder"):
        prepare(tmp_path, PLAIN)


@pytest.mark.parametrize("cut", range(100, 900, 100))
def test_a_file_cut_anywhere_is_refused(tmp_path, cut):
    path = tmp_path / "whole.png"
    PICTURE.save(path)
    path.write_bytes(path.read_bytes()[:cut])
    with pytest.raises(LaminaError):
        decode(path)


def test_modes(tmp_path):
    grey = Image.fromarray(np.arange(16, dtype=np.uint8).reshape(4, 4) * 16)
    for mode in ("L", "LA", "P", "RGB", "RGBA", "1", "CMYK"):
        path = tmp_path / f"{mode}.{'jpg' if mode == 'CMYK' else 'png'}"
        grey.convert("RGB").convert(mode).save(path)
        image = decode(path)
        assert (image.mode, image.size) == ("RGB", (4, 4))
        if mode not in ("1", "CMYK", "P"):
            assert np.array_equal(np.asarray(image)[..., 0], np.asarray(grey))
        assert decode(path, "L").mode == "L"


def test_sixteen_bit_grey_is_scaled_not_clipped(tmp_path):
    values = np.array([[0, 256, 32768, 65535]], dtype=np.uint16)
    Image.fromarray(values).save(tmp_path / "deep.png")
    assert np.asarray(decode(tmp_path / "deep.png", "L")).tolist() == [[0, 1, 128, 255]]


def test_transparency_is_laid_over_white_or_black(tmp_path):
    clear = Image.new("RGBA", (2, 2), (255, 0, 0, 0))
    clear.save(tmp_path / "clear.png")
    assert decode(tmp_path / "clear.png").getpixel((0, 0)) == (255, 255, 255)
    assert decode(tmp_path / "clear.png", "L").getpixel((0, 0)) == 0
    palette = Image.new("P", (2, 2), 1)
    palette.putpalette([0, 0, 0, 9, 9, 9])
    palette.save(tmp_path / "palette.png", transparency=1)
    assert decode(tmp_path / "palette.png").getpixel((0, 0)) == (255, 255, 255)


def test_exif_rotation_is_undone(tmp_path):
    exif = Image.Exif()
    exif[0x0112] = 6  # the camera was turned: show it a quarter to the right
    PICTURE.save(tmp_path / "turned.png", exif=exif)
    assert decode(tmp_path / "turned.png").size == (30, 40)
    assert np.array_equal(np.asarray(decode(tmp_path / "turned.png")), np.rot90(np.asarray(PICTURE), -1))


def test_preparation_is_torchvision_s(tmp_path):
    """Resize of the shorter side, centre crop and normalisation as torchvision's ImageClassification does them."""
    PICTURE.save(tmp_path / "p.png")
    spec = ImageSpec(size=16, resize=20)
    resized = PICTURE.resize((26, 20), Image.Resampling.BILINEAR)  # 20 * 40 / 30, cut
    crop = np.asarray(resized.crop((5, 2, 21, 18)), dtype=np.float32) / 255
    expected = (crop - spec.mean) / spec.std
    torch.testing.assert_close(prepare(tmp_path / "p.png", spec), torch.tensor(expected).permute(2, 0, 1).float())


def test_preparation_is_caffe_s(tmp_path):
    PICTURE.save(tmp_path / "p.png")
    spec = ImageSpec(size=16, resize=20, squash=True, channels="BGR", scale=1, mean=(104, 117, 123), std=(1, 1, 1))
    resized = PICTURE.resize((20, 20), Image.Resampling.BILINEAR).crop((2, 2, 18, 18))
    expected = np.asarray(resized, dtype=np.float32)[..., ::-1] - np.array([104, 117, 123])
    torch.testing.assert_close(prepare(tmp_path / "p.png", spec), torch.tensor(expected.copy()).permute(2, 0, 1).float())


def test_pixels_are_padded_before_they_are_normalised():
    spec = ImageSpec(size=6, pad=2, channels="L", mean=(0.1 / 1.275,), std=(1 / 1.275,))
    x = from_pixels(torch.full((1, 1, 2, 2), 255, dtype=torch.uint8), spec)
    assert x.shape == (1, 1, 6, 6)
    assert x.min().item() == pytest.approx(-0.1) and x.max().item() == pytest.approx(1.175)
    with pytest.raises(InputError, match="3-channel images"):
        from_pixels(torch.zeros(1, 3, 2, 2, dtype=torch.uint8), spec)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"channels": "XYZ"}, "RGB, BGR, L"),
        ({"interpolation": "nearest"}, "bilinear, bicubic"),
        ({"size": 0}, "cannot be made"),
        ({"std": (0, 1, 1)}, "cannot be made"),
        ({"mean": (0,)}, "wants 3 means"),
        ({"size": "224"}, "^image size: expected `int`, got `str`$"),
        ({"size": 224.5}, "^image size: expected `int`, got `float`$"),
        ({"std": [1, 1, "a"]}, r"^image std\[2\]: expected `float`, got `str`$"),
        ({"mean": [0, 0, float("nan")]}, "cannot be made"),
        ({"std": []}, "cannot be made"),
        ({"size": 224, "resize": 200}, "a crop of 224 does not fit"),
    ],
)
def test_specifications_that_cannot_be(settings, message):
    with pytest.raises(InputError, match=message):
        ImageSpec.of(settings)
    with pytest.raises(InputError, match="has no colour; it has size"):
        ImageSpec.of({"colour": 1})
