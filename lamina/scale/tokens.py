"""Tokens: attention is a quadrature over the tokens' measure, not a stencil, so that no attention weight depends on the grid.
Only the patch and position embeddings do, and a class token, which weighs against all patches together.

L. Beyer et al., "FlexiViT" (arXiv 2212.08013, section 3.4) for the patches.

| operator | what | class |
|---|---|---|
| patch | patches of another size, read by the pseudo-inverse of the resizing | exact on patches so enlarged |
| duplicate | each token m times; log m on the class token's logit | exact on images whose patches are repeated |
| interpolate | position embeddings of a finer grid by interpolation | approximate |
| context | positions n / n' apart (rotary: S. Chen et al., arXiv 2306.15595; learnt: interpolated) | approximate |
"""

from typing import Any, Literal

import torch
from torch import Tensor
from torch.nn import functional as F

from lamina.errors import InputError
from lamina.scale.plan import Origin, Step, mapped
from lamina.scale.structure import Family

Resize = Literal["bilinear", "nearest"]


def resize_matrix(old: int, new: int, mode: Resize = "bilinear") -> Tensor:
    """(new, old) in float64: how one axis of a patch is resized."""
    eye = torch.eye(old, dtype=torch.float64)[:, None]  # as rows of images of one channel
    if mode == "nearest":
        return F.interpolate(eye, size=new, mode="nearest")[:, 0].T
    return F.interpolate(eye, size=new, mode="linear", align_corners=False)[:, 0].T


def resize_patch(weight: Tensor, new: int, mode: Resize = "bilinear") -> Tensor:
    """A patch embedding (D, C, p, p) for patches of new x new pixels. A larger one gives a patch enlarged by `mode` the token
    of the original; a smaller one gives a patch the token that the old one gives it enlarged."""
    old = weight.shape[-1]
    larger = new >= old
    one = torch.linalg.pinv(resize_matrix(old, new, mode)).T if larger else resize_matrix(new, old, mode).T  # (new, p)
    one = one.to(weight.device)
    return (one @ weight.double() @ one.T).to(weight.dtype)


def resize_patches(x: Tensor, old: int, new: int, mode: Resize = "bilinear") -> Tensor:
    """Images (B, C, H, W) with each patch of old x old pixels resized on its own."""
    matrix = resize_matrix(old, new, mode).to(x.device, x.dtype)
    grid = x.unflatten(-1, (-1, old)).unflatten(-3, (-1, old))  # (B, C, h, old, w, old)
    return torch.einsum("ai,bchiwj,dj->bchawd", matrix, grid, matrix).flatten(4, 5).flatten(2, 3)


def repeat_patches(x: Tensor, patch: int, copies: int) -> Tensor:
    """Images (B, C, H, W) with each patch copies x copies times, side by side."""
    grid = x.unflatten(-1, (-1, patch)).unflatten(-3, (-1, patch))  # (B, C, h, p, w, p)
    grid = grid.repeat_interleave(copies, 2).repeat_interleave(copies, 4)
    return grid.flatten(4, 5).flatten(2, 3)


def repeat_positions(embedding: Tensor, grid: int, copies: int) -> Tensor:
    """A position embedding (1, 1 + grid^2, D) for each patch copies x copies times."""
    token, patches = embedding[:, :1], embedding[:, 1:].unflatten(1, (grid, grid))
    patches = patches.repeat_interleave(copies, 1).repeat_interleave(copies, 2)
    return torch.cat((token, patches.flatten(1, 2)), 1)


def stretch(embedding: Tensor, factor: float) -> Tensor:
    """Learnt positions (n, D), read 1 / factor apart: (n factor, D). Those beyond the last are the last."""
    n = embedding.shape[0]
    place = (torch.arange(round(n * factor), dtype=torch.float64, device=embedding.device) / factor).clamp(max=n - 1)
    low = place.floor().long()
    share = (place - low).to(embedding.dtype)[:, None]
    return embedding[low] * (1 - share) + embedding[(low + 1).clamp(max=n - 1)] * share


def change_patch(family: Family, patch: int, mode: Resize = "bilinear") -> tuple[Family, Step, Any]:
    """Patches of another size on the same grid: the images change by the same factor."""
    weight, _ = _patches(family)
    old = family.config.patch
    size = family.config.img_size * patch / old
    if patch < 1 or patch == old or size != int(size):
        raise InputError(f"{weight}: patches of {old} become patches of another whole number of pixels, not {patch}")
    other = family.with_image(int(size), patch, family.config.copies)
    claim = "exact" if patch > old else "approximate"
    step = Step(
        "patch", mode, claim, {weight: mapped(weight, lambda w: resize_patch(w, patch, mode))}, (weight.rpartition(".")[0],)
    )
    return other, step, lambda x: resize_patches(x, old, patch, mode)


def more_tokens(family: Family, factor: int, operator: str = "interpolate") -> tuple[Family, Step, Any]:
    """A token grid, or a context, of `factor` times the side."""
    if family.patches() is None:
        if operator not in ("interpolate", "context"):
            raise InputError(f"tokens: {family.name} has a context, whose positions are interpolated, not {operator}d")
        return *family.with_context(factor), None
    if operator not in ("interpolate", "duplicate"):
        raise InputError(f"tokens: no operator {operator!r}; there are interpolate, duplicate")
    _, positions = _patches(family)
    c = family.config
    grid, layer = c.img_size // c.patch, (positions,)
    if operator == "duplicate":
        other = family.with_image(c.img_size * factor, c.patch, c.copies * factor**2)
        origin = mapped(positions, lambda e: repeat_positions(e, grid, factor))
        return (
            other,
            Step("tokens", operator, "exact", {positions: origin}, layer),
            lambda x: repeat_patches(x, c.patch, factor),
        )
    other = family.with_image(c.img_size * factor, c.patch, c.copies)
    return (
        other,
        Step("tokens", operator, "approximate", {positions: interpolated(positions, grid, grid * factor)}, layer),
        None,
    )


def _patches(family: Family) -> tuple[str, str]:
    found = family.patches()
    if found is None:
        raise family.refusal("tokens", "it does not cut images into patches")
    return found


def fewer_tokens(family: Family, factor: int) -> tuple[Family, Step, Any]:
    """A token grid of one `factor`-th of the side: position embeddings by interpolation."""
    _, positions = _patches(family)
    c = family.config
    grid = c.img_size // c.patch
    if grid % factor:
        raise InputError(f"{positions} is of a grid of {grid}x{grid}, which is not divisible by {factor}")
    other = family.with_image(c.img_size // factor, c.patch, c.copies)
    origins = {positions: interpolated(positions, grid, grid // factor)}
    return other, Step("tokens", "interpolate", "approximate", origins, (positions,)), None


def interpolated(name: str, old: int, new: int) -> Origin:
    from lamina.zoo.vit import resize_positions

    return mapped(name, lambda e: resize_positions(e, old, new, mode="bilinear", align_corners=False))
