"""What there is to learn: the samples, the batches, the loss and its measures. The loop knows only this interface."""

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Protocol

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from lamina import units
from lamina.data.augment import generator
from lamina.errors import InputError, first_line
from lamina.train.recipe import Recipe


@dataclass(frozen=True)
class Batch:
    """What a network takes, and the right answers; an answer of `IGNORED` does not count."""

    inputs: tuple[Tensor, ...]
    targets: Tensor


IGNORED = -100  # torch's own


class Task(Protocol):
    measure: str  # of the validation split: "top1" or "token_accuracy", both in percent
    classes: int  # answers are below it
    largest: int  # the number of the sample that asks most of the network

    def batches(self, epoch: int) -> Sequence[Tensor]:
        """The numbers of the samples in each batch of an epoch; every epoch has as many batches."""
        ...

    def count(self, index: Tensor) -> int:
        """How many answers these samples have together: an image has one, a sentence its tokens."""
        ...

    def batch(self, index: Tensor, epoch: int, device: torch.device) -> Batch: ...

    def stream(self, parts: Iterable[Tensor], epoch: int, device: torch.device) -> Iterator[Batch]:
        """`batch` of each micro-batch in turn, made ahead where that is quicker."""
        ...

    def validation(self, device: torch.device, rank: int, ranks: int) -> Iterator[Batch]:
        """This process's share of the validation split, which has none of the training samples."""
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
        shape = units.shape(batch.inputs[0].shape[1:])
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
