"""A parallel corpus as a training task: pairs of sentences, bucketed by length."""

from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path

import torch
from torch import Tensor

from lamina.data import parallel_text, registry
from lamina.data.augment import generator
from lamina.data.pairs import Pair, hold_out
from lamina.data.text import END, PAD, START, Codec
from lamina.errors import InputError
from lamina.train.recipe import Recipe
from lamina.train.tasks import IGNORED, Batch


class Translation:
    """Pairs of sentences as token ids. A batch holds as many pairs of like length as `recipe.batch` tokens allow."""

    measure = "token_accuracy"

    def __init__(self, recipe: Recipe, data: Path | None):
        text = recipe.text
        assert text is not None
        self.recipe = recipe
        if data is None and recipe.data not in registry.names("text"):
            raise InputError(f"say where the corpus is, as in --data FOLDER with train.{text.source} and train.{text.target}")
        corpus = data if data is not None else recipe.data
        pairs = parallel_text.load(corpus, "train", text.source, text.target)
        held: list[Pair] = []
        if recipe.validation:
            pairs, held = hold_out(pairs, recipe.validation, recipe.seed)
        if recipe.samples is not None:
            if recipe.samples > len(pairs):
                raise InputError(f"recipe: {recipe.samples} training pairs of {len(pairs)}")
            chosen = torch.randperm(len(pairs), generator=generator(recipe.seed, 0))[: recipe.samples]
            pairs = [pairs[i] for i in chosen.sort().values.tolist()]
        self.codec = Codec.learn((sentence for pair in pairs for sentence in pair), text.vocabulary)
        sources, targets = self._encode(pairs)
        self.sources, self.targets = self._short(sources, targets)
        if not self.sources:
            raise InputError(f"recipe: no pair of the corpus has less than {text.max_length} tokens")
        self.held = self._short(*self._encode(held))
        if held and not self.held[0]:
            raise InputError(f"recipe: no pair held out for validation has less than {text.max_length} tokens")
        # Each with its end token. In the order of lengths the batches' bounds are the same in every epoch.
        self.lengths = torch.tensor([1 + max(len(s), len(t)) for s, t in zip(self.sources, self.targets, strict=True)])
        self.answers = torch.tensor([1 + len(t) for t in self.targets])
        self.classes, self.largest = self.codec.size, int(self.lengths.argmax())
        self.sizes = self._sizes(sorted(self.lengths.tolist()))
        self.metadata = {"tokenizer": self.codec.dump(), "source": text.source, "target": text.target}

    def _encode(self, pairs: Sequence[Pair]) -> tuple[list[list[int]], list[list[int]]]:
        return self.codec.encode([s for s, _ in pairs]), self.codec.encode([t for _, t in pairs])

    def _short(self, sources: list[list[int]], targets: list[list[int]]) -> tuple[list[list[int]], list[list[int]]]:
        """The pairs that fit into `max_length` tokens, the start or end token included."""
        assert self.recipe.text is not None
        longest = self.recipe.text.max_length
        kept = [i for i in range(len(sources)) if max(len(sources[i]), len(targets[i])) < longest]
        return [sources[i] for i in kept], [targets[i] for i in kept]

    def _sizes(self, lengths: list[int]) -> list[int]:
        """How many pairs each batch takes, the shortest first: rows times the longest stay within `recipe.batch` tokens."""
        sizes, rows = [], 0
        for length in lengths:
            if rows and (rows + 1) * length > self.recipe.batch:
                sizes.append(rows)
                rows = 0
            rows += 1
        return [*sizes, rows]

    def batches(self, epoch: int) -> Sequence[Tensor]:
        """Pairs of one length meet in an order of chance, and so do the batches."""
        random = generator(self.recipe.seed, epoch, 2)
        shuffle = torch.randperm(len(self.lengths), generator=random)
        order = shuffle[self.lengths[shuffle].argsort(stable=True)]
        parts = order.split(self.sizes)
        return [parts[i] for i in torch.randperm(len(parts), generator=random).tolist()]

    def count(self, index: Tensor) -> int:
        return int(self.answers[index].sum())

    def batch(self, index: Tensor, epoch: int, device: torch.device) -> Batch:
        rows = index.tolist()
        return make_batch([self.sources[i] for i in rows], [self.targets[i] for i in rows], device)

    def stream(self, parts: Iterable[Tensor], epoch: int, device: torch.device) -> Iterator[Batch]:
        return (self.batch(part, epoch, device) for part in parts)

    def validation(self, device: torch.device, rank: int, ranks: int) -> Iterator[Batch]:
        sources, targets = (part[rank::ranks] for part in self.held)
        for start in range(0, len(sources), 100):
            yield make_batch(sources[start : start + 100], targets[start : start + 100], device)


def make_batch(sources: Sequence[Sequence[int]], targets: Sequence[Sequence[int]], device: torch.device) -> Batch:
    """((source (B, S), target (B, T), source padding (B, S)), answers (B, T)): the source ends with the end token, the target
    begins with the start token, and the answers are the target one token further on."""
    source = fill([[*s, END] for s in sources], PAD)
    target = fill([[START, *t] for t in targets], PAD)
    answers = fill([[*t, END] for t in targets], IGNORED)
    return Batch((source.to(device), target.to(device), (source == PAD).to(device)), answers.to(device))


def fill(rows: Sequence[Sequence[int]], value: int) -> Tensor:
    longest = max(map(len, rows))
    return torch.tensor([[*row, *[value] * (longest - len(row))] for row in rows])
