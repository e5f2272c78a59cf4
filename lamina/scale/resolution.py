"""Resolution of convolutions: kernels between an image grid and one of half its pixels a side.

The coarse operator is the Galerkin product K_H = R K_h P: prolong, convolve on the fine grid, restrict (E. Haber et al.,
arXiv 1703.02009, section 3). R averages pairs of pixels; P copies each pixel (constant) or interpolates (bilinear, columns
[1 3 3 1] / 4). Row by row K_H is a convolution again, and on kernels the product is a small linear map, the same for both
axes: theta_H = A theta_h A^T. Restriction applies A, prolongation its inverse, which amplifies rough kernels up to 16 times
(bilinear, 3x3); damping bounds that. A dilated kernel, with a pixel left out between its taps, does on an image whose pixels
are copied exactly what the old kernel did on the original.

K_H's rows are the kernel as torch applies it (cross-correlation); its columns hold the mirrored kernel.
"""

import copy
import math
from collections.abc import Iterable
from dataclasses import fields, is_dataclass, replace
from typing import Any, Literal

import torch
from torch import Tensor, nn

from lamina.errors import InputError

Prolongation = Literal["constant", "bilinear"]
OPERATORS = ("dilated", "bilinear", "constant", "same")
DAMPING = 0.0
# P's column: the weights of the fine pixels around coarse pixel J, from pixel 2J - 1 (bilinear) or 2J (constant) on.
COLUMNS: dict[str, dict[int, float]] = {"constant": {0: 1.0, 1: 1.0}, "bilinear": {-1: 0.25, 0: 0.75, 1: 0.75, 2: 0.25}}


def galerkin(size: int, kind: Prolongation = "bilinear") -> Tensor:
    """A of one axis, (coarse, size) in float64: a kernel of 3 taps to 3, of 5 or 7 to 5. A[D, m] is half the sum over the two
    fine pixels a of a coarse one of P's weight for fine pixel a + m in coarse pixel D."""
    if size % 2 == 0:
        raise InputError(f"a kernel of {size} taps has no middle: only odd ones are restricted")
    if size == 1:
        return torch.ones(1, 1, dtype=torch.float64)
    half, coarse = size // 2, 1 if size == 3 else 1 + (size - 1) // 4
    column = COLUMNS[kind]
    rows = [
        [sum(column.get(a + m - 2 * place, 0.0) for a in (0, 1)) / 2 for m in range(-half, half + 1)]
        for place in range(-coarse, coarse + 1)
    ]
    return torch.tensor(rows, dtype=torch.float64)


def restrict_kernel(weight: Tensor, kind: Prolongation = "bilinear") -> Tensor:
    """(O, I, k, k) on the fine grid to the coarse one: k is 1 (copied), 3, or 5 and 7 (to 5)."""
    a, b = (galerkin(k, kind).to(weight.device) for k in weight.shape[-2:])
    return (a @ weight.double() @ b.T).to(weight.dtype)


def prolong_kernel(weight: Tensor, kind: Prolongation = "bilinear", damping: float = DAMPING) -> Tensor:
    """(O, I, 3, 3) or (O, I, 1, 1) on the coarse grid to the fine one: the kernel whose restriction is `weight`, or with
    `damping` the one that minimises |A theta - weight|^2 + damping |theta|^2 (Tikhonov)."""
    height, width = weight.shape[-2:]
    if not {height, width} <= {1, 3, 5}:
        raise InputError(f"kernels of {height}x{width} are not prolonged: 1x1, 3x3 and 5x5 are")
    a = torch.kron(galerkin(height, kind), galerkin(width, kind)).to(weight.device)
    flat = weight.double().flatten(2)  # (O, I, k k)
    eye = torch.eye(a.shape[1], dtype=torch.float64, device=weight.device)
    inverse = torch.linalg.inv(a) if damping == 0 else torch.linalg.solve(a.T @ a + damping * eye, a.T)
    return (flat @ inverse.T).reshape(weight.shape).to(weight.dtype)


def head_to_coarse(weight: Tensor, side: int) -> Tensor:
    """A linear head behind flattened maps, (classes, C side side), for maps of half the side: W P with P constant."""
    maps = weight.reshape(weight.shape[0], -1, side // 2, 2, side // 2, 2)
    return maps.sum((3, 5)).flatten(1)


def head_to_fine(weight: Tensor, side: int) -> Tensor:
    """The same for maps of twice the side: W R, each fine pixel a quarter of the coarse one's weight."""
    maps = weight.reshape(weight.shape[0], -1, side, 1, side, 1) / 4
    return maps.expand(-1, -1, -1, 2, -1, 2).flatten(1)


def upsample(x: Tensor, factor: int = 2) -> Tensor:
    """Each pixel of (B, C, H, W) `factor` times along both axes."""
    return x.repeat_interleave(factor, -2).repeat_interleave(factor, -1)


def downsample(x: Tensor, factor: int = 2) -> Tensor:
    """The mean of squares of pixels: R."""
    return x.unflatten(-1, (-1, factor)).mean(-1).unflatten(-2, (-1, factor)).mean(-2)


def rescale(
    module: nn.Module,
    operator: str,
    *,
    finer: bool,
    shape: tuple[int, int, int] | None = None,
    damping: float = DAMPING,
) -> nn.Module:
    """A copy of `module` for images of twice the side, or of half of it where not `finer`. `shape` is (C, H, W) of the old
    images, needed to see odd maps and flattened heads.

    Raises `InputError` naming the layer for what changes the resolution itself: a strided convolution's product has 4 taps
    (bilinear) or loses rank (constant), and a pool would see other pixels.
    """
    if operator not in OPERATORS:
        raise InputError(f"resolution: no operator {operator!r}; there are {', '.join(OPERATORS)}")
    other = copy.deepcopy(module)
    maps = _maps(other, shape) if shape is not None else {}
    for path, layer in other.named_modules():
        if operator != "same":
            _check(path, layer, maps, finer)
        if isinstance(layer, nn.Conv2d) and operator != "same":
            _rescale_conv(layer, operator, finer, damping, path)
        elif isinstance(layer, nn.Linear) and path in maps:
            _rescale_head(layer, maps[path], finer, path)
    _set_config(other, operator, finer)
    return other


def _check(path: str, layer: nn.Module, maps: dict[str, Any], finer: bool) -> None:
    instead = 'keep the change of resolution in the stem, or take operator "same", which keeps all weights (approximate)'
    if isinstance(layer, nn.Conv2d):
        if layer.stride != (1, 1):
            raise InputError(
                f"{path} has a stride of {layer.stride[0]}: its Galerkin product is not one of its kind; {instead}"
            )
        same = tuple(d * (k - 1) // 2 for d, k in zip(layer.dilation, layer.kernel_size, strict=True))
        if layer.padding not in (same, "same") or layer.padding_mode != "zeros":
            raise InputError(f"{path} does not keep its map's size, as padding with {same} zeros would: it cannot be rescaled")
        if not finer and path in maps and any(side % 2 for side in maps[path][-2:]):
            height, width = maps[path][-2:]
            raise InputError(
                f"{path} has an odd map of {height}x{width}, whose pixels do not pair: pad the images by one pixel"
            )
    elif isinstance(layer, nn.MaxPool2d | nn.AvgPool2d | nn.ConvTranspose2d):
        raise InputError(f"{path} is a {type(layer).__name__}, which changes the resolution itself; {instead}")


def _rescale_conv(layer: nn.Conv2d, operator: str, finer: bool, damping: float, path: str) -> None:
    if operator == "dilated":
        dilation, padding = layer.dilation, layer.padding
        assert not isinstance(padding, str)
        if not finer and any(d % 2 for d, k in zip(dilation, layer.kernel_size, strict=True) if k > 1):
            raise InputError(f'{path} is not dilated, and cannot be less so: take operator "bilinear" or "constant"')
        by = (lambda n: 2 * n) if finer else (lambda n: n // 2)
        if max(layer.kernel_size) > 1:
            layer.dilation = (by(dilation[0]), by(dilation[1]))
            layer.padding = (by(padding[0]), by(padding[1]))
        return
    kind: Prolongation = "constant" if operator == "constant" else "bilinear"
    if layer.dilation != (1, 1):
        raise InputError(f'{path} is dilated: its Galerkin product is not a dilated kernel; take operator "dilated"')
    weight = prolong_kernel(layer.weight, kind, damping) if finer else restrict_kernel(layer.weight, kind)
    layer.weight = nn.Parameter(weight.detach(), requires_grad=layer.weight.requires_grad)
    layer.kernel_size = (weight.shape[2], weight.shape[3])
    layer.padding = (weight.shape[2] // 2, weight.shape[3] // 2)


def _rescale_head(layer: nn.Linear, side: tuple[int, int], finer: bool, path: str) -> None:
    if side[0] != side[1]:
        raise InputError(f"{path} reads flattened maps of {side[0]}x{side[1]}: only square ones are rescaled")
    if not finer and side[0] % 2:
        raise InputError(f"{path} reads odd maps of {side[0]}x{side[1]}, whose pixels do not pair: pad the images by one pixel")
    weight = (head_to_fine if finer else head_to_coarse)(layer.weight, side[0])
    layer.weight = nn.Parameter(weight.detach(), requires_grad=layer.weight.requires_grad)
    layer.in_features = weight.shape[1]


@torch.no_grad()
def _maps(module: nn.Module, shape: tuple[int, int, int]) -> dict[str, Any]:
    """For each convolution the shape it takes; for each linear layer that reads flattened maps, their height and width."""
    seen: dict[str, Any] = {}
    last: list[tuple[int, ...]] = [shape]
    handles = []

    def watch(path: str) -> Any:
        def hook(layer: nn.Module, args: Any, output: Any) -> None:
            given = args[0]
            if isinstance(layer, nn.Conv2d):
                seen[path] = tuple(given.shape[1:])
            flat = math.prod(last[0])
            if isinstance(layer, nn.Linear) and given.dim() == 2 and given.shape[1] == flat and math.prod(last[0][1:]) > 1:
                seen[path] = last[0][1:]
            if isinstance(output, Tensor) and output.dim() == 4:
                last[0] = tuple(output.shape[1:])

        return hook

    for path, layer in module.named_modules():
        if not list(layer.children()):
            handles.append(layer.register_forward_hook(watch(path)))
    training = module.training
    try:
        parameter = next(module.parameters())
        module.eval()(torch.zeros(1, *shape, device=parameter.device, dtype=parameter.dtype))
    finally:
        module.train(training)
        for handle in handles:
            handle.remove()
    return seen


def _set_config(module: nn.Module, operator: str, finer: bool) -> None:
    """The configuration of a zoo's network, so that it can be built again."""
    config: Any = getattr(module, "config", None)
    if not is_dataclass(config) or isinstance(config, type):
        return
    known = {f.name for f in fields(config)}
    changes: dict[str, Any] = {}
    for name in ["img_size"] + (["dilation"] if operator == "dilated" else []):
        if name not in known:
            raise InputError(f"{type(module).__name__} cannot say its {name}: take another operator than {operator}")
        value = getattr(config, name)
        changes[name] = value * 2 if finer else value // 2
    module.config = replace(config, **changes)  # type: ignore[assignment]


@torch.no_grad()
def recalibrate(module: nn.Module, batches: Iterable[Tensor]) -> nn.Module:
    """Set the running statistics of all batch norms to those of `batches`, in place: after a change of resolution the old
    ones are wrong. The mean over batches, each weighing the same."""
    norms = [m for m in module.modules() if isinstance(m, nn.modules.batchnorm._BatchNorm) and m.running_mean is not None]
    momenta, modes = [n.momentum for n in norms], [n.training for n in norms]
    training = module.training
    module.eval()
    for norm in norms:
        norm.reset_running_stats()
        norm.momentum = None  # torch's cumulative mean
        norm.train()
    try:
        for batch in batches:
            module(batch)
    finally:
        module.train(training)
        for norm, momentum, mode in zip(norms, momenta, modes, strict=True):
            norm.momentum = momentum
            norm.train(mode)
    return module
