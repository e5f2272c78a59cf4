"""How the papers look at a test image: one crop, ten, 144, or the whole of it at several scales.

Each protocol turns an image into the mean of the class probabilities over its views. What a published error took is as much
its protocol's as its network's: `macs` says how many MACs an image costs.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from torch import Tensor, fx, nn

from lamina.data.image import ImageSpec, decode, from_pixels
from lamina.errors import InputError
from lamina.infer.forms import RELUS
from lamina.infer.session import Session
from lamina.tracing.tracer import trace

PROTOCOLS = ("1-crop", "10-crop", "144-crop", "dense")
SIDES = (256, 288, 320, 352)  # of the shorter side: Szegedy et al., arXiv 1409.4842, section 7
SCALES = (256, 384, 512)  # of the shorter side: Simonyan and Zisserman, arXiv 1409.1556, section 4.2


@dataclass(frozen=True)
class Protocol:
    """`name` is one of `PROTOCOLS`; `scales` are the shorter sides of dense evaluation."""

    name: str
    scales: tuple[int, ...] = ()

    def __post_init__(self) -> None:
        if self.name not in PROTOCOLS:
            raise InputError(f"there is no protocol {self.name!r}: there are {', '.join(PROTOCOLS)}")
        if self.scales and self.name != "dense":
            raise InputError(f"--scale is for the dense protocol: {self.name} has scales of its own")
        if any(scale < 1 for scale in self.scales):
            raise InputError("a scale is a positive number of pixels")

    def describe(self, spec: ImageSpec) -> str:
        resized = f"resized to {spec.resize}, " if spec.resize else ""
        sides = ", ".join(map(str, self.scales or SCALES))
        return {
            "1-crop": f"{resized}1 centre crop of {spec.inner}",
            "10-crop": f"{resized}4 corners and the centre, {spec.inner} wide, and their mirror images",
            "144-crop": f"144 crops of {spec.inner}: 4 sizes ({', '.join(map(str, SIDES))}), 3 squares, 6 views, mirrored",
            "dense": f"the whole image, its shorter side {sides}, and its mirror image",
        }[self.name]


class Viewer:
    """A network under a protocol: probabilities of an image, and the MACs that it takes."""

    def __init__(self, net: Session, protocol: Protocol):
        self.net, self.protocol, self.spec = net, protocol, net.image
        self.spent: list[int] = []  # MACs of each image so far
        crop = net.network.example[0].shape
        if protocol.name == "10-crop" and (not self.spec.resize or self.spec.resize <= self.spec.inner):
            raise InputError(
                f"{net.name} takes whole images of {self.spec.inner}: there are no corners to crop; see --image resize="
            )
        self.dense = convolutional(net.module) if protocol.name == "dense" else None
        self.macs = cache(lambda shape: trace(self.dense or net.module, torch.empty(shape, device="meta")).macs)
        self.crop = (1, *crop[1:])

    @torch.inference_mode()
    def probabilities(self, path: Path) -> Tensor:
        """(classes,): the mean over the image's views."""
        scale = self.net.score_scale
        if self.dense is None:
            crops = torch.stack(list(self._crops(decode(path, self.spec.channels))))
            self.spent.append(len(crops) * self.macs(self.crop))
            return (scale * self.net.scores(crops)).softmax(1).mean(0)
        found, macs = [], 0
        for x in whole(decode(path, self.spec.channels), self.spec, self.protocol.scales or SCALES):
            for view in (x, x.flip(-1)):
                scores = self.dense(view.to(self.net.device)).cpu()  # (1, classes), or with a map of them
                scores = scores.mean((2, 3)) if scores.dim() == 4 else scores
                found.append((scale * scores).softmax(1))
                macs += self.macs(tuple(view.shape))
        self.spent.append(macs)
        return torch.cat(found).mean(0)

    def _crops(self, image: Image.Image) -> Iterator[Tensor]:
        views = {"1-crop": one, "10-crop": ten, "144-crop": many}[self.protocol.name]
        for view in views(image, self.spec):
            yield from_pixels(_pixels(view), self.spec)[0]

    @property
    def macs_per_image(self) -> int:
        return round(sum(self.spent) / len(self.spent)) if self.spent else 0


def _pixels(image: Image.Image) -> Tensor:
    return torch.from_numpy(np.array(image)).reshape(1, image.height, image.width, -1).permute(0, 3, 1, 2)


def _resized(image: Image.Image, side: int, spec: ImageSpec, squash: bool = False) -> Image.Image:
    """The shorter side `side` (the longer one truncated), or both."""
    filter = Image.Resampling.BICUBIC if spec.interpolation == "bicubic" else Image.Resampling.BILINEAR
    short = min(image.size)
    size = (side, side) if squash else (side * image.width // short, side * image.height // short)
    return image if size == image.size else image.resize(size, filter)


def _square(image: Image.Image, left: int, top: int, side: int) -> Image.Image:
    return image.crop((left, top, left + side, top + side))


def _mirrored(images: Sequence[Image.Image]) -> list[Image.Image]:
    return [*images, *(image.transpose(Image.Transpose.FLIP_LEFT_RIGHT) for image in images)]


def one(image: Image.Image, spec: ImageSpec) -> list[Image.Image]:
    """The centre, as `lamina.data.image.prepare` takes it."""
    image, side = _resized(image, spec.resize or spec.inner, spec, spec.squash), spec.inner
    return [_square(image, round((image.width - side) / 2), round((image.height - side) / 2), side)]


def ten(image: Image.Image, spec: ImageSpec) -> list[Image.Image]:
    """Krizhevsky et al. 2012, section 4.1: of the central square the four corners and the centre, and their mirror images."""
    assert spec.resize is not None
    image = _resized(image, spec.resize, spec, spec.squash)
    square = _square(image, round((image.width - spec.resize) / 2), round((image.height - spec.resize) / 2), spec.resize)
    return _mirrored(_five(square, spec.inner))


def _five(square: Image.Image, side: int) -> list[Image.Image]:
    far, middle = square.width - side, round((square.width - side) / 2)
    return [_square(square, x, y, side) for x, y in ((0, 0), (far, 0), (0, far), (far, far), (middle, middle))]


def many(image: Image.Image, spec: ImageSpec) -> list[Image.Image]:
    """Szegedy et al., arXiv 1409.4842, section 7: the shorter side at four sizes; of each the left, centre and right square
    (top, centre and bottom of an upright one); of each square five crops and the whole resized; and their mirror images."""
    found: list[Image.Image] = []
    for side in SIDES:
        large = _resized(image, side, spec)
        spare_x, spare_y = large.width - side, large.height - side
        for share in (0, 1, 2):
            square = _square(large, spare_x * share // 2, spare_y * share // 2, side)
            found += [*_five(square, spec.inner), _resized(square, spec.inner, spec, squash=True)]
    return _mirrored(found)


def whole(image: Image.Image, spec: ImageSpec, scales: Sequence[int]) -> Iterator[Tensor]:
    """The uncropped image at each scale: (1, C, H, W)."""
    for scale in scales:
        yield from_pixels(_pixels(_resized(image, scale, spec)), spec)


# ---- fully convolutional -------------------------------------------------------------------------------------------


def convolutional(module: nn.Module) -> nn.Module:
    """The network with its fully connected layers as convolutions (Sermanet et al., arXiv 1312.6229, section 3.5; VGG, section
    3.2): (B, C, H, W), of any size that its features take, to a map of scores (B, classes, H', W').

    A network that averages its last map over its pixels is returned as it is: the mean of a linear layer's outputs is its
    output on the mean. Raises `InputError` for what is neither.
    """
    pools = [layer for layer in module.modules() if isinstance(layer, nn.AdaptiveAvgPool2d)]
    if pools and all(pool.output_size in (1, (1, 1)) for pool in pools):
        return module
    name = type(module).__module__.rpartition(".")[2]
    try:
        graph = fx.symbolic_trace(module).eval()
    except Exception as error:
        raise InputError(f"{name}: its fully connected layers cannot be found, so it has no dense form") from error
    flat = [node for node in graph.graph.nodes if node.target in ("flatten", torch.flatten)]
    after = _after(graph, flat[0]) if len(flat) == 1 else []
    lines = [node for node, layer in after if isinstance(layer, nn.Linear)]
    last = _last_convolution(graph)
    if not lines or last is None or not all(isinstance(layer, POINTWISE) for _, layer in after):
        raise InputError(f"{name} has no dense form: convolutions, then one flattening, then fully connected layers have one")
    channels = last.out_channels
    side = round((graph.get_submodule(str(lines[0].target)).in_features / channels) ** 0.5)  # type: ignore[operator]
    if channels * side * side != graph.get_submodule(str(lines[0].target)).in_features:
        raise InputError(f"{name} has no dense form: its first fully connected layer does not read a square map")
    flat[0].replace_all_uses_with(flat[0].args[0])
    graph.graph.erase_node(flat[0])
    for i, node in enumerate(lines):
        linear = graph.get_submodule(str(node.target))
        assert isinstance(linear, nn.Linear)
        graph.add_submodule(f"dense{i}", _as_convolution(linear, side if i == 0 else 1))
        node.target = f"dense{i}"
    graph.delete_all_unused_submodules()
    graph.recompile()
    return graph


POINTWISE = (nn.Linear, nn.ReLU, nn.Dropout, nn.Identity)  # what may follow the flattening


def _after(graph: fx.GraphModule, flat: fx.Node) -> list[tuple[fx.Node, nn.Module | None]]:
    """The operations after the flattening; None for one that is no layer."""
    nodes = list(graph.graph.nodes)
    rest = [node for node in nodes[nodes.index(flat) + 1 :] if node.op != "output" and node.target not in RELUS]
    return [(node, graph.get_submodule(str(node.target)) if node.op == "call_module" else None) for node in rest]


def _last_convolution(graph: fx.GraphModule) -> nn.Conv2d | None:
    layers = [graph.get_submodule(str(node.target)) for node in graph.graph.nodes if node.op == "call_module"]
    return next((layer for layer in reversed(layers) if isinstance(layer, nn.Conv2d)), None)


def _as_convolution(linear: nn.Linear, side: int) -> nn.Conv2d:
    conv = nn.Conv2d(linear.in_features // side**2, linear.out_features, side, bias=linear.bias is not None, device="meta")
    conv.weight = nn.Parameter(linear.weight.detach().view(linear.out_features, -1, side, side), requires_grad=False)
    if linear.bias is not None:
        conv.bias = nn.Parameter(linear.bias.detach(), requires_grad=False)
    return conv
