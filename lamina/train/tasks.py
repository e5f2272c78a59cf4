"""What there is to learn: the samples, the batches, the loss and its measures. The loop knows only this interface."""

import os
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import Any, Protocol

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from lamina.data import folder, registry
from lamina.data.augment import Plan, generator
from lamina.data.image import ImageSpec, from_pixels, random_crop
from lamina.errors import InputError, LaminaError, first_line
from lamina.train.recipe import Recipe


@dataclass(frozen=True)
class Batch:
    """What a network takes, and the right answers; an answer of `IGNORED` does not count."""

    inputs: tuple[Tensor, ...]
    targets: Tensor


IGNORED = -100  # torch's own


class Task(Protocol):
    measure: str  # of the validation part: "top1" or "token_accuracy", both in percent
    classes: int  # answers are below it
    largest: int  # the number of the sample that asks most of the network

    def batches(self, epoch: int) -> Sequence[Tensor]:
        """The numbers of the samples in each batch of an epoch; every epoch has as many batches."""
        ...

    def count(self, index: Tensor) -> int:
        """How many answers these samples have together: a picture has one, a sentence its tokens."""
        ...

    def batch(self, index: Tensor, epoch: int, device: torch.device) -> Batch: ...

    def stream(self, parts: Iterable[Tensor], epoch: int, device: torch.device) -> Iterator[Batch]:
        """`batch` of each part in turn, made ahead where that is quicker."""
        ...

    def validation(self, device: torch.device, rank: int, ranks: int) -> Iterator[Batch]:
        """This process's share of the validation part, which is no part of the training samples."""
        ...


def split(count: int, held: int, seed: int, samples: int | None = None) -> tuple[Tensor, Tensor]:
    """Numbers of the training and of the validation samples among `count`: a permutation by seed, `held` from its front."""
    if held + (samples or 1) > count:
        raise InputError(f"{held} validation and {samples or 1} training samples of {count}: take fewer")
    order = torch.randperm(count, generator=generator(seed, 0))
    kept = order[held:] if samples is None else order[held : held + samples]
    return kept.sort().values, order[:held].sort().values


def shuffled(count: int, batch: int, seed: int, epoch: int) -> tuple[Tensor, ...]:
    return torch.randperm(count, generator=generator(seed, epoch, 2)).split(batch)


class Pictures:
    """Labelled pictures in memory, augmented whole batches at a time on the training device."""

    measure = "top1"

    def __init__(self, recipe: Recipe):
        pixels, labels = registry.DATASETS[recipe.data].load("train")
        self.recipe, self.spec = recipe, ImageSpec.of(recipe.image)
        if self.spec.channels == "L" and pixels.shape[1] != 1:
            raise InputError(f"recipe: {recipe.data} has colours, and image.channels is L")
        side, pad, size = pixels.shape[-1], self.spec.pad, self.spec.size
        if side + 2 * pad != size:
            raise InputError(
                f"recipe: {recipe.data} has pictures of {side}x{side}; image.size = {size} with image.pad = {pad} does not fit"
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


class PictureFiles:
    """A folder of pictures by class, decoded by threads (Pillow lets go of the interpreter while it decodes)."""

    measure = "top1"

    def __init__(self, recipe: Recipe, root: Path, workers: int = 4):
        train = root / "train" if (root / "train").is_dir() else root
        paths, labels = folder.load(train)
        if empty := [path for path in paths if not os.access(path, os.R_OK) or not path.stat().st_size]:
            raise LaminaError(f"{len(empty)} pictures are empty or cannot be read: {_few(empty)}")
        self.recipe, self.spec = recipe, ImageSpec.of(recipe.image)
        self.classes, self.largest = 1 + max(labels), 0
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

        def picture(number: int) -> Tensor:
            random = generator(self.recipe.seed, epoch, 3, number)
            return random_crop(self.paths[number], self.spec, random, options.area, options.flip)

        numbers = self.kept[index]
        return Batch((self._decoded(picture, numbers).to(device),), self.labels[numbers].to(device))

    def stream(self, parts: Iterable[Tensor], epoch: int, device: torch.device) -> Iterator[Batch]:
        """A batch is decoded while the one before it is trained on."""
        with ThreadPoolExecutor(1) as ahead:
            coming: deque[Future[Batch]] = deque()
            for part in parts:
                coming.append(ahead.submit(self.batch, part, epoch, device))
                if len(coming) > 1:
                    yield coming.popleft().result()
            yield from (batch.result() for batch in coming)

    def _decoded(self, picture: Callable[[int], Tensor], numbers: Tensor) -> Tensor:
        """The pictures by `picture`, in threads. All that cannot be read are named."""

        def decode(number: int) -> Tensor | LaminaError:
            try:
                return picture(number)
            except LaminaError as error:
                return error

        found = list(self.threads.map(decode, numbers.tolist()))
        errors = [e for e in found if isinstance(e, LaminaError)]
        if errors:
            raise LaminaError("; ".join(map(str, errors[:5])) + (f"; and {len(errors) - 5} more" if len(errors) > 5 else ""))
        return torch.stack([x for x in found if isinstance(x, Tensor)])

    def validation(self, device: torch.device, rank: int, ranks: int) -> Iterator[Batch]:
        from lamina.data.image import prepare

        for numbers in self.held[rank::ranks].split(100):
            if len(numbers):
                pictures = self._decoded(lambda n: prepare(self.paths[n], self.spec), numbers)
                yield Batch((pictures.to(device),), self.labels[numbers].to(device))


def _few(paths: Sequence[Path]) -> str:
    return ", ".join(map(str, paths[:5])) + (", ..." if len(paths) > 5 else "")


@torch.no_grad()
def check(module: nn.Module, task: Task, recipe: Recipe) -> None:
    """Try the network on one sample, in evaluation mode: what does not fit is an `InputError` before the first step."""
    batch = task.batch(torch.tensor([task.largest]), 0, torch.device("cpu"))
    module.eval()
    try:
        output = module(*batch.inputs)
    except IndexError:
        raise InputError(
            f"recipe: {recipe.network} has an embedding of fewer than the {task.classes} tokens of the encoding: lower "
            "text.vocabulary, or set changes.vocabulary"
        ) from None
    except (RuntimeError, ValueError, TypeError) as error:
        shape = "x".join(map(str, batch.inputs[0].shape[1:]))
        raise InputError(f"recipe: {recipe.network} does not take inputs of {shape} ({first_line(error)})") from error
    finally:
        module.train()
    scores = output[0] if isinstance(output, tuple) else output
    if scores.shape[-1] < task.classes:
        key = "num_classes" if recipe.text is None else "vocabulary"
        raise InputError(
            f"recipe: the data have {task.classes} classes, and {recipe.network} {scores.shape[-1]}: set changes.{key}"
        )


def loss(module: nn.Module, batch: Batch, recipe: Recipe) -> tuple[Tensor, Tensor, Tensor]:
    """Sums over the batch's answers: the loss to follow backwards, the cross-entropy without label smoothing, and how many
    answers were right. A network that returns further scores (auxiliary heads) is trained on all of them."""
    output = module(*batch.inputs)
    scores, further = (output[0], output[1:]) if isinstance(output, tuple) else (output, ())
    targets = batch.targets.flatten()
    flat = _flat(scores, recipe)
    total, plain = _cross_entropy(flat, targets, recipe.loss.label_smoothing)
    for part in further:
        total = total + recipe.loss.aux * _cross_entropy(_flat(part, recipe), targets, recipe.loss.label_smoothing)[0]
    with torch.no_grad():
        right = (flat.argmax(1) == targets).sum()
    return total, plain.detach(), right


def _flat(scores: Tensor, recipe: Recipe) -> Tensor:
    if recipe.loss.scale != 1:
        scores = recipe.loss.scale * scores
    return scores.flatten(0, -2).float()


def _cross_entropy(scores: Tensor, targets: Tensor, smoothing: float) -> tuple[Tensor, Tensor]:
    """Sums with and without label smoothing, from one softmax (`F.cross_entropy` does the same with the first)."""
    logs = F.log_softmax(scores, 1)
    plain = F.nll_loss(logs, targets, ignore_index=IGNORED, reduction="sum")
    if not smoothing:
        return plain, plain
    even = -logs.sum(1).masked_fill(targets == IGNORED, 0).sum()
    return (1 - smoothing) * plain + even * (smoothing / scores.shape[1]), plain


def task(recipe: Recipe, data: Path | None = None) -> Any:
    """The recipe's data: a data set by name, a folder of pictures, or a parallel corpus."""
    if recipe.text is not None:
        from lamina.train.translation import Translation

        return Translation(recipe, data)
    known = registry.names("images")
    if recipe.data in known:
        if data is not None:
            raise InputError(f"{recipe.data} is looked for in $LAMINA_DATA; --data is for image_folder and for corpora")
        return Pictures(recipe)
    if recipe.data == "image_folder":
        if data is None:
            raise InputError(f"{recipe.network}: say where the pictures are, as in --data FOLDER (one folder a class)")
        return PictureFiles(recipe, data)
    raise InputError(
        f"recipe: data is one of {', '.join(known)}, image_folder or, with a [text] table, a corpus; not {recipe.data!r}"
    )
