"""Decoding images safely, and turning them into what a network expects."""

import math
import warnings
from collections.abc import Mapping
from dataclasses import dataclass, fields
from functools import cache
from pathlib import Path
from typing import Any, BinaryIO

import msgspec
import numpy as np
import torch
from PIL import Image, ImageOps
from torch import Tensor
from torch.nn import functional as F

from lamina.errors import InputError, LaminaError

FORMATS = ("JPEG", "PNG", "WEBP", "BMP", "GIF")
MAX_PIXELS = 100_000_000  # a 100-megapixel camera; 300 MB once decoded


@dataclass(frozen=True)
class ImageSpec:
    """What a weight file expects of its input; every step is done in the order of the fields.

    `resize` is the side in pixels before the crop: the shorter side, or both with `squash`. `pad` pixels of value 0 are
    added on each side. A pixel 0..255 becomes (pixel / scale - mean) / std in the order of `channels`.
    """

    size: int = 224
    resize: int | None = None
    squash: bool = False
    interpolation: str = "bilinear"  # or "bicubic"
    pad: int = 0
    channels: str = "RGB"  # or "BGR" or "L"
    scale: float = 255.0
    mean: tuple[float, ...] = (0.485, 0.456, 0.406)  # of ImageNet, as torchvision's training has it
    std: tuple[float, ...] = (0.229, 0.224, 0.225)

    def __post_init__(self) -> None:
        for key, values in (("channels", ("RGB", "BGR", "L")), ("interpolation", ("bilinear", "bicubic"))):
            if getattr(self, key) not in values:
                raise InputError(f"image {key} is one of {', '.join(values)}, not {getattr(self, key)!r}")
        finite = all(map(math.isfinite, (self.scale, *self.std, *self.mean)))
        if self.inner < 1 or self.pad < 0 or self.scale <= 0 or min(self.std, default=0) <= 0 or not finite:
            raise InputError(
                f"an image of size {self.size}, pad {self.pad}, scale {self.scale}, mean {self.mean}, std {self.std} cannot "
                "be made"
            )
        if self.resize is not None and self.resize < self.inner:
            raise InputError(f"a crop of {self.inner} does not fit into images resized to {self.resize}")
        if not len(self.mean) == len(self.std) == len(self.channels):
            raise InputError(
                f"{self.channels} wants {len(self.channels)} means and standard deviations, not {self.mean}, {self.std}"
            )

    @property
    def inner(self) -> int:
        """The side of the crop, before padding."""
        return self.size - 2 * self.pad

    @classmethod
    def of(cls, table: Mapping[str, Any]) -> "ImageSpec":
        """From a table of a TOML file."""
        known = [f.name for f in fields(cls)]
        if unknown := sorted(set(table) - set(known)):
            raise InputError(f"an image specification has no {', '.join(unknown)}; it has {', '.join(known)}")
        try:
            return msgspec.convert(dict(table), cls)
        except msgspec.ValidationError as error:
            if isinstance(error.__cause__, InputError):
                raise error.__cause__ from None
            text, _, place = str(error).rpartition(" - at `$.")
            raise InputError(f"image {place.rstrip('`')}: {text.replace('Expected', 'expected')}") from error


def decode(path: str | Path | BinaryIO, channels: str = "RGB", limit: int = MAX_PIXELS) -> Image.Image:
    """The image at `path`, or in an open file, of at most `limit` pixels, in mode RGB or L, upright, with transparency laid
    over white (over black in mode L)."""
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", Image.DecompressionBombWarning)  # our own limit follows
            file = Image.open(path, formats=FORMATS)
        with file:
            if file.width * file.height > limit:
                raise Image.DecompressionBombError
            image = ImageOps.exif_transpose(file)  # a loaded copy
    except FileNotFoundError:
        raise LaminaError(f"{path}: no such file") from None
    except IsADirectoryError:
        raise LaminaError(f"{path} is a folder, not an image") from None
    except Image.DecompressionBombError:
        raise LaminaError(f"{path} has more than {limit:,} pixels: scale it down first") from None
    except Image.UnidentifiedImageError:
        raise LaminaError(f"{path} is not an image in a format Lamina reads ({', '.join(FORMATS)})") from None
    except (OSError, ValueError, SyntaxError, EOFError) as error:
        raise LaminaError(f"{path} is damaged or cut short ({error})") from error
    if image.mode.startswith("I"):  # 16-bit grey; Pillow's own conversion clips at 255
        image = Image.fromarray((np.asarray(image).astype(np.uint32) >> 8).astype(np.uint8))
    if image.has_transparency_data:
        image = image.convert("RGBA")
        ground = Image.new("RGBA", image.size, (0, 0, 0) if channels == "L" else (255, 255, 255))
        image = Image.alpha_composite(ground, image)
    return image.convert("L" if channels == "L" else "RGB")


def prepare(path: str | Path | BinaryIO, spec: ImageSpec, limit: int = MAX_PIXELS) -> Tensor:
    """The image at `path`, or in an open file, as the network takes it: (C, size, size), float32."""
    image = decode(path, spec.channels, limit)
    inner = spec.inner
    filter = Image.Resampling.BICUBIC if spec.interpolation == "bicubic" else Image.Resampling.BILINEAR
    side = spec.resize or inner
    if spec.squash:
        shape = (side, side)
    else:  # the longer side is truncated, as torchvision has it
        short = min(image.size)
        shape = (side * image.width // short, side * image.height // short)
    if shape != image.size:
        image = image.resize(shape, filter)
    left, top = round((image.width - inner) / 2), round((image.height - inner) / 2)
    image = image.crop((left, top, left + inner, top + inner))
    pixels = torch.from_numpy(np.array(image)).reshape(inner, inner, -1).permute(2, 0, 1)
    return from_pixels(pixels[None], spec)[0]


def from_pixels(pixels: Tensor, spec: ImageSpec) -> Tensor:
    """A data set's uint8 pixels (B, C, H, W), RGB or grey, padded and normalised: (B, C, H + 2 pad, W + 2 pad), float32."""
    if pixels.shape[1] != len(spec.channels):
        raise InputError(f"{pixels.shape[1]}-channel images for a network that takes {spec.channels}")
    if spec.channels == "BGR":
        pixels = pixels.flip(1)
    if spec.pad:
        pixels = F.pad(pixels, [spec.pad] * 4)
    x = pixels / spec.scale  # float32, in memory of its own, which the rest is done in
    return x.sub_(_by_channel(spec.mean, x.device)).div_(_by_channel(spec.std, x.device))


@cache
def _by_channel(values: tuple[float, ...], device: torch.device) -> Tensor:
    return torch.tensor(values, dtype=torch.float32, device=device)[:, None, None]


def random_crop(
    path: str | Path, spec: ImageSpec, random: torch.Generator, area: tuple[float, float] | None, flip: bool
) -> Tensor:
    """A training view of the image at `path`: a crop of a random share of its area, within `area`, and of a random shape
    between 3:4 and 4:3, resized to what the network takes; mirrored half of the time with `flip`. (C, size, size), float32.

    Szegedy et al. 2014, section 6, for `area` (0.08, 1). Without `area` the crop is `prepare`'s.
    """
    if area is None:
        x = prepare(path, spec)
    else:
        image = decode(path, spec.channels)
        width, height = image.size
        share, shape, left, top = torch.rand(4, generator=random).tolist()
        pixels = (area[0] + (area[1] - area[0]) * share) * width * height
        ratio = math.exp(math.log(3 / 4) + math.log(16 / 9) * shape)  # 3/4 to 4/3, as likely wide as high
        w, h = min(width, round(math.sqrt(pixels * ratio)) or 1), min(height, round(math.sqrt(pixels / ratio)) or 1)
        x0, y0 = round(left * (width - w)), round(top * (height - h))
        filter = Image.Resampling.BICUBIC if spec.interpolation == "bicubic" else Image.Resampling.BILINEAR
        image = image.resize((spec.inner, spec.inner), filter, box=(x0, y0, x0 + w, y0 + h))
        pixels = torch.from_numpy(np.array(image)).reshape(spec.inner, spec.inner, -1).permute(2, 0, 1)
        x = from_pixels(pixels[None], spec)[0]
    return x.flip(-1) if flip and torch.rand((), generator=random) < 0.5 else x
