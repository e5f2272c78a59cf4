"""Augmentation of small images, a whole batch at a time, on the device where they lie.

What happens to an image depends on the seed, the epoch and its number in the data set alone: not on the batch it is in,
nor on how many processes share the work.
"""

import torch
from torch import Tensor
from torch.nn import functional as F


def generator(seed: int, *numbers: int) -> torch.Generator:
    """A generator of its own for each sequence of numbers (an epoch, a purpose)."""
    for number in numbers:  # a step of a linear congruential generator (Knuth's MMIX) keeps the streams apart
        seed = ((seed ^ (number + 1)) * 6364136223846793005 + 1442695040888963407) % 2**63
    return torch.Generator().manual_seed(seed)


class Plan:
    """The random choices of one epoch, for every image of the data set at once.

    `crop`: pixels that an image may move along each axis, zeros coming in; `flip`: mirrored, half of the time; `cutout`: the
    side of a square of zeros whose centre is anywhere in the image (DeVries and Taylor, arXiv 1708.04552).
    """

    def __init__(
        self, count: int, size: tuple[int, int], seed: int, epoch: int, crop: int = 0, flip: bool = False, cutout: int = 0
    ):
        random = generator(seed, epoch, 1)
        self.crop, self.cutout = crop, cutout
        self.move = torch.randint(0, 2 * crop + 1, (2, count), generator=random) if crop else None
        self.mirrored = torch.rand(count, generator=random) < 0.5 if flip else None
        self.centre = None
        if cutout:
            self.centre = torch.stack([torch.randint(0, side, (count,), generator=random) for side in size])

    def apply(self, pixels: Tensor, index: Tensor) -> Tensor:
        """The images (B, C, H, W) whose numbers are `index`, changed."""
        B, C, H, W = pixels.shape
        device = pixels.device
        if self.move is not None:
            # A view of the windows (H, W) that begin at each element, of which one per channel is copied: three times as
            # quick as an index in brackets.
            padded = F.pad(pixels, [self.crop] * 4)
            width, size = padded.shape[3], padded.shape[2] * padded.shape[3]
            windows = padded.as_strided((padded.numel() - (H - 1) * width - W + 1, H, W), (1, width, 1))
            dy, dx = self.move[:, index].to(device)
            begin = torch.arange(B * C, device=device).view(B, C) * size + (dy * width + dx)[:, None]
            pixels = windows.index_select(0, begin.flatten()).view(B, C, H, W)
        if self.mirrored is not None:
            turned = self.mirrored[index].nonzero()[:, 0].to(device)
            pixels = pixels.index_copy(0, turned, pixels[turned].flip(3))
        if self.centre is not None:
            rows, columns = torch.arange(H, device=device), torch.arange(W, device=device)
            cy, cx = self.centre[:, index].to(device)
            low, high = -(self.cutout // 2), self.cutout - self.cutout // 2
            in_y = (rows - cy[:, None] >= low) & (rows - cy[:, None] < high)
            in_x = (columns - cx[:, None] >= low) & (columns - cx[:, None] < high)
            pixels = pixels.masked_fill((in_y[:, :, None] & in_x[:, None, :])[:, None], 0)
        return pixels
