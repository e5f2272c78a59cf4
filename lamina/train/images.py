"""Labelled images as a training task: a data set in memory, or a folder of files."""

import json
import os
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from itertools import islice
from pathlib import Path

import torch
from torch import Tensor

from lamina.data import files, folder, registry
from lamina.data.augment import Plan, generator
from lamina.data.image import ImageSpec, from_pixels, prepare, random_crop
from lamina.errors import InputError, LaminaError
from lamina.train.recipe import Recipe
from lamina.train.tasks import Batch, shuffled, split


class Images:
    """Labelled images in memory, augmented whole batches at a time on the training device."""

    measure = "top1"

    def __init__(self, recipe: Recipe):
        pixels, labels = registry.DATASETS[recipe.data].load("train")
        self.recipe, self.spec = recipe, ImageSpec.of(recipe.image)
        if self.spec.channels == "L" and pixels.shape[1] != 1:
            raise InputError(f"recipe: {recipe.data} has colours, and image.channels is L")
        side, pad, size = pixels.shape[-1], self.spec.pad, self.spec.size
        if (inner := size - 2 * pad) > 0 and side > inner and side % inner == 0:  # the coarse level of a multilevel run
            factor, side = side // inner, inner
            means = pixels.unflatten(3, (inner, factor)).unflatten(2, (inner, factor)).float().mean((3, 5))
            pixels = means.round().to(torch.uint8)
        if side + 2 * pad != size:
            raise InputError(
                f"recipe: {recipe.data} has images of {side}x{side}; image.size = {size} with image.pad = {pad} does not fit"
            )
        kept, held = split(len(labels), recipe.validation, recipe.seed, recipe.samples)
        self.classes, self.largest = 1 + int(labels.max()), 0
        self.pixels, self.labels = pixels[kept], labels[kept]
        self.held = pixels[held], labels[held]
        self.plan: tuple[int, Plan | None] = (-1, None)

    def batches(self, epoch: int) -> Sequence[Tensor]:
        return shuffled(len(self.labels), self.recipe.batch, self.recipe.seed, epoch)

    def count(self, index: Tensor) -> int:
        return len(index)

    def batch(self, index: Tensor, epoch: int, device: torch.device) -> Batch:
        self.pixels, self.labels = self.pixels.to(device), self.labels.to(device)
        if self.plan[0] != epoch:
            options, (height, width) = self.recipe.augmentation, self.pixels.shape[2:]
            plan = Plan(len(self.labels), (height, width), self.recipe.seed, epoch, options.crop, options.flip, options.cutout)
            self.plan = (epoch, plan)
        plan = self.plan[1]
        assert plan is not None
        pixels = self.pixels.index_select(0, index.to(device))  # whole rows: three times as quick as self.pixels[index]
        return Batch((from_pixels(plan.apply(pixels, index), self.spec),), self.labels[index])

    def stream(self, parts: Iterable[Tensor], epoch: int, device: torch.device) -> Iterator[Batch]:
        """Small batches are made several at once: between a small network's steps each operation begins with cold caches."""
        coming = iter(parts)
        while group := list(islice(coming, max(1, 1_000 // self.recipe.batch))):
            whole, sizes = self.batch(torch.cat(group), epoch, device), [len(part) for part in group]
            for pixels, labels in zip(whole.inputs[0].split(sizes), whole.targets.split(sizes), strict=True):
                yield Batch((pixels.clone(),), labels)  # in memory of its own: products may differ by how they are aligned

    def validation(self, device: torch.device, rank: int, ranks: int) -> Iterator[Batch]:
        pixels, labels = (part[rank::ranks] for part in self.held)
        for p, y in zip(pixels.split(500), labels.split(500), strict=True):
            if len(y):
                yield Batch((from_pixels(p.to(device), self.spec),), y.to(device))


class ImageFiles:
    """A folder of images by class, decoded by threads (Pillow lets go of the interpreter while it decodes)."""

    measure = "top1"

    def __init__(self, recipe: Recipe, root: Path, workers: int = 4):
        train = root / "train" if (root / "train").is_dir() else root
        paths, labels = folder.load(train)
        if empty := [path for path in paths if not os.access(path, os.R_OK) or not path.stat().st_size]:
            raise LaminaError(f"{len(empty)} images are empty or cannot be read: {_few(empty)}")
        listing = (f"{path.relative_to(train)} {path.stat().st_size}" for path in paths)
        files.note(f"{root.name}: names and sizes", "\n".join(listing).encode())
        self.recipe, self.spec = recipe, ImageSpec.of(recipe.image)
        self.classes, self.largest = 1 + max(labels), 0
        self.metadata = {"classes": json.dumps(folder.classes(train))}  # of the weight file
        kept, held = split(len(labels), recipe.validation, recipe.seed, recipe.samples)
        self.paths, self.labels = paths, torch.tensor(labels)
        self.kept, self.held = kept, held
        self.threads = ThreadPoolExecutor(workers)

    def batches(self, epoch: int) -> Sequence[Tensor]:
        return shuffled(len(self.kept), self.recipe.batch, self.recipe.seed, epoch)

    def count(self, index: Tensor) -> int:
        return len(index)

    def batch(self, index: Tensor, epoch: int, device: torch.device) -> Batch:
        options = self.recipe.augmentation

        def image(number: int) -> Tensor:
            random = generator(self.recipe.seed, epoch, 3, number)
            return random_crop(self.paths[number], self.spec, random, options.area, options.flip)

        numbers = self.kept[index]
        return Batch((self._decoded(image, numbers).to(device),), self.labels[numbers].to(device))

    def stream(self, parts: Iterable[Tensor], epoch: int, device: torch.device) -> Iterator[Batch]:
        """A batch is decoded while the one before it is trained on."""
        with ThreadPoolExecutor(1) as ahead:
            coming: deque[Future[Batch]] = deque()
            for part in parts:
                coming.append(ahead.submit(self.batch, part, epoch, device))
                if len(coming) > 1:
                    yield coming.popleft().result()
            yield from (batch.result() for batch in coming)

    def _decoded(self, image: Callable[[int], Tensor], numbers: Tensor) -> Tensor:
        """The images that `image` gives, in threads. All that cannot be read are named."""

        def decode(number: int) -> Tensor | LaminaError:
            try:
                return image(number)
            except LaminaError as error:
                return error

        found = list(self.threads.map(decode, numbers.tolist()))
        errors = [e for e in found if isinstance(e, LaminaError)]
        if errors:
            raise LaminaError("; ".join(map(str, errors[:5])) + (f"; and {len(errors) - 5} more" if len(errors) > 5 else ""))
        return torch.stack([x for x in found if isinstance(x, Tensor)])

    def validation(self, device: torch.device, rank: int, ranks: int) -> Iterator[Batch]:
        for numbers in self.held[rank::ranks].split(100):
            if len(numbers):
                images = self._decoded(lambda n: prepare(self.paths[n], self.spec), numbers)
                yield Batch((images.to(device),), self.labels[numbers].to(device))


def _few(paths: Sequence[Path]) -> str:
    return ", ".join(map(str, paths[:5])) + (", ..." if len(paths) > 5 else "")
