"""Whether a trained network is the flow that the theory says it is: what can come out false.

The order of convergence is no evidence, since any Lipschitz network has it. Evidence is how large the first error of a
refinement is, how much accuracy one split or one coarsening costs, how smooth the weights are over the layers (raw, and with
hidden units brought into the same order: independent layers are sqrt(2) apart), how large the branches and their Jacobians
are, and for tokens whether they stay apart, with a control that leaves the shortcuts out.

M. Sander et al., arXiv 2205.14612 (smoothness); Y. Dong, J. Cordonnier, A. Loukas, arXiv 2103.03404 (rank of tokens without
shortcuts); O. Roy, M. Vetterli, "The effective rank" (EUSIPCO 2007).
"""

from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from itertools import pairwise
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn.attention import SDPBackend, sdpa_kernel

from lamina.errors import InputError
from lamina.scale.families import describe
from lamina.scale.growth import grow, shrink
from lamina.scale.structure import Family, Stack
from lamina.scale.verify import Batch, difference, outputs, score

POWER_STEPS = 12  # of the power iteration for a Jacobian's norm
SAMPLES = 8  # of the batch, for Jacobians
ALIGNED = 1024  # hidden units at most: bringing them into order takes their number to the third


@dataclass(frozen=True)
class BlockFigures:
    """`branch` over `state` is the root mean square of F(x) over that of x. `jacobian` is the largest singular value of dF/dx
    at a sample (the mean over samples). `change` is the distance of the weights to the next block's, relative to their norm;
    `aligned` the same after bringing the next block's hidden units into this one's order."""

    block: str
    state: float
    branch: float
    jacobian: float | None = None
    change: float | None = None
    aligned: float | None = None


@dataclass(frozen=True)
class TokenFigures:
    """Of the tokens that leave a block: mean cosine of pairs, root mean square distance from the mean token over the tokens'
    own root mean square, effective rank; and the same where every block's shortcut is left out."""

    block: str
    cosine: float
    spread: float
    rank: float
    cosine_without: float | None = None
    spread_without: float | None = None
    rank_without: float | None = None


@dataclass(frozen=True)
class Refinement:
    """One split, or one coarsening, of all blocks that can be: the mean change of the outputs relative to the largest, and
    (before, after) of loss and accuracy."""

    operator: str
    difference: float | None = None
    loss: tuple[float, float] | None = None
    accuracy: tuple[float, float] | None = None
    refused: str | None = None


@dataclass(frozen=True)
class Diagnosis:
    network: str
    blocks: tuple[BlockFigures, ...]
    tokens: tuple[TokenFigures, ...]
    refinements: tuple[Refinement, ...]

    def document(self) -> dict[str, Any]:
        def clean(value: Any) -> Any:
            if isinstance(value, dict):
                return {k: clean(v) for k, v in value.items() if v is not None}
            return [clean(v) for v in value] if isinstance(value, list | tuple) else value

        return clean(asdict(self))


@dataclass
class Seen:
    """What one block was called with and gave."""

    path: str
    block: nn.Module
    arguments: tuple[Any, ...]
    keywords: dict[str, Any]
    output: Tensor

    def branch(self, x: Tensor) -> Tensor:
        """F(x) = block(x) - x."""
        return first(self.block(x, *self.arguments[1:], **self.keywords)) - x


def diagnose(model: nn.Module, batch: Batch, targets: Tensor | None = None) -> Diagnosis:
    """The figures of a residual network or Transformer on `batch`, in evaluation mode. Raises `InputError` for networks without
    residual blocks."""
    family = describe(model)
    stacks = family.rows()
    inputs = (batch,) if isinstance(batch, Tensor) else tuple(batch)
    training = model.training
    try:
        model.eval()
        seen = watch(model, stacks, inputs)
        blocks = figures(family, stacks, seen)
        tokens = tuple(t for stack in stacks for t in of_tokens([s for s in seen if s.path.startswith(f"{stack.path}.")]))
        refinements = tuple(refine(model, name, apply, inputs, targets) for name, apply in REFINEMENTS)
    finally:
        model.train(training)
    return Diagnosis(family.name, blocks, tokens, refinements)


REFINEMENTS: tuple[tuple[str, Callable[[nn.Module], nn.Module]], ...] = (
    ("split", lambda m: grow(m, depth=2, operator={"depth": "split"}).module),
    ("coarsen", lambda m: shrink(m, depth=2).module),
)


@torch.no_grad()
def watch(model: nn.Module, stacks: Sequence[Stack], inputs: Sequence[Tensor]) -> list[Seen]:
    """Run once, and keep what each block that keeps the shape sees."""
    seen: list[Seen] = []
    handles = []
    for stack in stacks:
        for block in stack.blocks:
            if block.fixed:
                continue

            def hook(module: nn.Module, args: Any, kwargs: Any, output: Any, path: str = block.path) -> None:
                seen.append(Seen(path, module, args, kwargs, first(output)))

            handles.append(model.get_submodule(block.path).register_forward_hook(hook, with_kwargs=True))
    try:
        model(*inputs)
    finally:
        for handle in handles:
            handle.remove()
    if not seen:
        raise InputError(f"{type(model).__name__}: no block keeps the shape of what it takes")
    return seen


def first(output: Any) -> Tensor:
    return output if isinstance(output, Tensor) else output[0]


def figures(family: Family, stacks: Sequence[Stack], seen: Sequence[Seen]) -> tuple[BlockFigures, ...]:
    changes = smoothness(family, stacks)
    found = []
    for one in seen:
        x = one.arguments[0]
        change, aligned = changes.get(one.path, (None, None))
        branch = rms(one.output - x)
        found.append(BlockFigures(one.path, rms(x), branch, jacobian(one), change, aligned))
    return tuple(found)


def rms(x: Tensor) -> float:
    return float(x.double().square().mean().sqrt())


def jacobian(one: Seen) -> float:
    """The largest singular value of dF/dx, by power iteration with products from the left and the right; the mean over
    samples, each with a vector of its own."""
    x = one.arguments[0][:SAMPLES].detach()
    rest = [
        a[:SAMPLES] if isinstance(a, Tensor) and a.dim() and a.shape[0] == len(one.output) else a for a in one.arguments[1:]
    ]
    cut = Seen(one.path, one.block, (x, *rest), one.keywords, one.output)
    axes = tuple(range(1, x.dim()))
    generator = torch.Generator().manual_seed(0)
    v: Tensor = torch.randn(x.shape, generator=generator).to(x)
    size = x.new_zeros(())
    with sdpa_kernel(SDPBackend.MATH):  # the only attention that can be differentiated twice
        for _ in range(POWER_STEPS):
            v = v / v.square().sum(axes, keepdim=True).sqrt()
            u: Tensor = torch.autograd.functional.jvp(cut.branch, x, v)[1]  # type: ignore[assignment]
            size = u.square().sum(axes).sqrt()
            v = torch.autograd.functional.vjp(cut.branch, x, u)[1]  # type: ignore[assignment]
    return float(size.mean())


# ---- weights over the layers ----------------------------------------------------------------------------------------


@torch.no_grad()
def smoothness(family: Family, stacks: Sequence[Stack]) -> dict[str, tuple[float, float | None]]:
    """For each block with a next one of the same shapes: |theta(k + 1) - theta(k)| / |theta(k)| over its matrices and filters,
    raw and aligned."""
    state = {k: v.double() for k, v in family.module.state_dict().items() if v.is_floating_point()}
    hidden = family.hidden()
    found = {}
    for stack in stacks:
        free = [b.path for b in stack.blocks if not b.fixed]
        for here, there in pairwise(free):
            names = [n.removeprefix(f"{here}.") for n, v in state.items() if n.startswith(f"{here}.") and v.dim() > 1]
            a = {n: state[f"{here}.{n}"] for n in names}
            b = {n: state[f"{there}.{n}"] for n in names}
            aligned = distance(a, align(a, b, hidden)) if hidden else None
            found[here] = distance(a, b), aligned
    return found


def distance(a: dict[str, Tensor], b: dict[str, Tensor]) -> float:
    gap = sum(float((a[n] - b[n]).square().sum()) for n in a)
    return (gap / sum(float(v.square().sum()) for v in a.values())) ** 0.5


def align(a: dict[str, Tensor], b: dict[str, Tensor], hidden: Sequence[tuple[str, str]]) -> dict[str, Tensor]:
    """`b` with the hidden units between each pair of matrices (rows of the first, columns of the second) in the order in which
    they are nearest to `a`'s."""
    moved = dict(b)
    for up, down in hidden:
        if up not in a or a[up].shape[0] > ALIGNED:
            continue
        units = [torch.cat((t[up].flatten(1), t[down].transpose(0, 1).flatten(1)), 1) for t in (a, b)]
        order = torch.from_numpy(assign(-(units[0] @ units[1].T).cpu().numpy())).to(a[up].device)
        moved[up], moved[down] = b[up][order], b[down][:, order]
    return moved


def assign(cost: np.ndarray) -> np.ndarray:
    """For each row the column of a cheapest assignment (the Hungarian method with shortest augmenting paths, R. Jonker, A.
    Volgenant 1987)."""
    n = len(cost)
    u, v = np.zeros(n + 1), np.zeros(n + 1)
    row_of = np.zeros(n + 1, dtype=int)  # row of each column; 0 is none, and column 0 a place to begin
    for row in range(1, n + 1):
        row_of[0], column = row, 0
        least, before = np.full(n + 1, np.inf), np.zeros(n + 1, dtype=int)
        used = np.zeros(n + 1, dtype=bool)
        while row_of[column]:
            used[column] = True
            reduced = cost[row_of[column] - 1] - u[row_of[column]] - v[1:]
            better = ~used[1:] & (reduced < least[1:])
            least[1:][better], before[1:][better] = reduced[better], column
            open_ = np.where(used[1:], np.inf, least[1:])
            nearest = int(open_.argmin()) + 1
            step = least[nearest]
            u[row_of[used]] += step
            v[used] -= step
            least[~used] -= step
            column = nearest
        while column:
            row_of[column] = row_of[before[column]]
            column = before[column]
    order = np.empty(n, dtype=int)
    order[row_of[1:] - 1] = np.arange(n)
    return order


# ---- tokens ------------------------------------------------------------------------------------------------------------


@torch.no_grad()
def of_tokens(seen: Sequence[Seen]) -> list[TokenFigures]:
    """For each block of a stack whose states are (B, N, D); nothing for maps of an image."""
    if not seen or seen[0].output.dim() != 3:
        return []
    without: Tensor = seen[0].arguments[0]
    found = []
    for one in seen:
        without = one.branch(without)
        without = without * (one.output.square().mean().sqrt() / without.square().mean().sqrt().clamp(min=1e-30))
        alone = spread(without)
        found.append(TokenFigures(one.path, *spread(one.output), *alone))
    return found


def spread(x: Tensor) -> tuple[float, float, float]:
    """Mean cosine of pairs of tokens, root mean square distance from the mean token over their own root mean square, and the
    effective rank (the exponential of the entropy of the singular values' shares); means over the batch."""
    x = x.double()
    n = x.shape[1]
    unit = x / x.norm(dim=2, keepdim=True).clamp(min=1e-30)
    cosine = ((unit @ unit.transpose(1, 2)).sum((1, 2)) - n) / (n * (n - 1))
    apart = (x - x.mean(1, keepdim=True)).square().sum((1, 2)) / x.square().sum((1, 2))
    values = torch.linalg.svdvals(x)
    share = values / values.sum(1, keepdim=True)
    rank = torch.exp(-(share * share.clamp(min=1e-30).log()).sum(1))
    return float(cosine.mean()), float(apart.sqrt().mean()), float(rank.mean())


def refine(
    model: nn.Module, name: str, apply: Callable[[nn.Module], nn.Module], inputs: Sequence[Tensor], targets: Tensor | None
) -> Refinement:
    try:
        other = apply(model)
    except InputError as error:
        return Refinement(name, refused=str(error))
    before, after = outputs(model, inputs, torch.float32), outputs(other, inputs, torch.float32)
    loss = accuracy = None
    if targets is not None:
        (loss0, accuracy0), (loss1, accuracy1) = score(before, targets), score(after, targets)
        loss, accuracy = (loss0, loss1), (accuracy0, accuracy1)
    return Refinement(name, difference(before, after)[1], loss, accuracy)
