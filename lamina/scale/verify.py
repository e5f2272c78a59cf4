"""Whether a claim holds: two networks on the same inputs.

`exact` means equal to rounding, relative to the largest output: 1e-12 in float64 and 1e-5 in float32. Weights in float32
are rounded when they are shared out, so that their networks differ by more than 1e-12 in float64 too. `consistent` means that
the difference falls with the step at the stated order, which only shows for small steps: the new network is refined further
until two differences in a row give the order. A trained network's steps may be far from small; then its blocks are tried at
a half, a quarter, ... of their step: the error of a split of each falls with one order more than that of a refinement.
"""

import copy
import math
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from lamina.errors import LaminaError
from lamina.scale.plan import Class

EXACT = {torch.float64: 1e-12, torch.float32: 1e-5}  # relative to the largest output
REFINEMENTS = 4  # doublings of the depth at most
HALVINGS = 12  # of the step at most
ORDER_WITHIN = 0.1

Batch = Tensor | Sequence[Tensor]


class ClaimError(LaminaError):
    """The measured difference is larger than the operator's class allows."""


@dataclass(frozen=True)
class Verification:
    """Differences are relative to the old network's largest output. `loss` and `accuracy` (percent) are (before, after), where
    there are labels."""

    exactness: Class
    passed: bool
    max_difference: float  # in float32
    mean_difference: float
    max_difference_fp64: float
    loss: tuple[float, float] | None = None
    accuracy: tuple[float, float] | None = None
    order: float | None = None
    order_by: str | None = None  # "refinement", or "smaller steps"
    differences: tuple[float, ...] = ()  # of each refinement, for a consistent operator

    def document(self) -> dict[str, Any]:
        return {("class" if k == "exactness" else k): v for k, v in asdict(self).items() if v not in (None, ())}


def verify(
    old: nn.Module,
    new: nn.Module,
    batch: Batch,
    *,
    claim: Class = "exact",
    order: int = 1,
    targets: Tensor | None = None,
    lift: Callable[[Tensor], Tensor] | None = None,
    refine: Callable[[nn.Module], nn.Module] | None = None,
    at_step: Callable[[float], tuple[nn.Module, nn.Module]] | None = None,
    float64: bool = True,
    check: bool = True,
) -> Verification:
    """Measure the claim on `batch` (a tensor, or one for each of the network's inputs), in evaluation mode. `lift` makes the
    new network's input where it differs; `refine` applies a consistent operator once more, and `at_step` gives both
    networks with blocks of that step; `float64` is whether the network
    computes in that type at all (transformers' RMS norms do not). Raises `ClaimError` unless
    `check` is False."""
    inputs = (batch,) if isinstance(batch, Tensor) else tuple(batch)
    lifted = tuple(lift(x) for x in inputs) if lift is not None else inputs
    before, after = outputs(old, inputs, torch.float32), outputs(new, lifted, torch.float32)
    exactly = outputs(old, inputs, torch.float64), outputs(new, lifted, torch.float64)
    largest, mean = difference(before, after)
    largest64 = difference(*exactly)[0]
    loss = accuracy = None
    if targets is not None:
        (loss0, accuracy0), (loss1, accuracy1) = score(before, targets), score(after, targets)
        loss, accuracy = (loss0, loss1), (accuracy0, accuracy1)
    measured, steps, how = None, (), None
    passed = all(math.isfinite(d) for d in (largest, largest64))
    if claim == "exact":
        weights = torch.float64 if float64 and all(p.dtype == torch.float64 for p in new.parameters()) else torch.float32
        passed = largest <= EXACT[torch.float32] and largest64 <= EXACT[weights]
    elif claim == "consistent" and refine is not None:
        measured, steps = convergence(exactly, new, lifted, refine, order)
        how, passed = "refinement", near(measured, order)
        if not passed and at_step is not None:
            measured, steps = local_convergence(inputs, at_step, order)
            how, passed = "smaller steps", near(measured, order)
    result = Verification(claim, passed, largest, mean, largest64, loss, accuracy, measured, how, steps)
    if check and not passed:
        what = f"order {order}, and it is {'not reached' if measured is None else f'{measured:.2f}'}"
        shown = what if claim == "consistent" else f"equal outputs, and they differ by {largest:.1e} (float64: {largest64:.1e})"
        raise ClaimError(f"the claim {claim!r} does not hold: it says {shown}")
    return result


def convergence(
    exactly: tuple[Tensor, Tensor],
    new: nn.Module,
    inputs: Sequence[Tensor],
    refine: Callable[[nn.Module], nn.Module],
    order: int,
) -> tuple[float | None, tuple[float, ...]]:
    """The order by refinement: log2 of the ratio of two differences in a row, once it is near `order` (or the last one)."""
    differences = [difference(*exactly)[1]]
    outcome, module, measured = exactly[1], new, None
    for _ in range(REFINEMENTS):
        module = refine(module)
        finer = outputs(module, inputs, torch.float64)
        differences.append(difference(outcome, finer)[1])
        outcome = finer
        if differences[-1] == 0:
            break
        measured = math.log2(differences[-2] / differences[-1])
        if abs(measured - order) <= ORDER_WITHIN / 2:
            break
    return measured, tuple(differences)


def near(measured: float | None, order: int) -> bool:
    return measured is not None and abs(measured - order) <= ORDER_WITHIN


def local_convergence(
    inputs: Sequence[Tensor], at_step: Callable[[float], tuple[nn.Module, nn.Module]], order: int
) -> tuple[float | None, tuple[float, ...]]:
    """The order by smaller steps at the same depth: log2 of the ratio of two differences in a row, less one."""
    differences: list[float] = []
    measured = None
    for halving in range(HALVINGS):
        old, new = at_step(0.5**halving)
        differences.append(difference(outputs(old, inputs, torch.float64), outputs(new, inputs, torch.float64))[1])
        if differences[-1] == 0:
            break
        if halving:
            measured = math.log2(differences[-2] / differences[-1]) - 1
            if abs(measured - order) <= ORDER_WITHIN / 2:
                break
    return measured, tuple(differences)


@torch.no_grad()
def outputs(module: nn.Module, inputs: Sequence[Tensor], dtype: torch.dtype) -> Tensor:
    """What a copy of the network in `dtype` gives, in evaluation mode."""
    runner = module
    if module.training or any(p.dtype != dtype for p in module.parameters() if p.is_floating_point()):
        runner = copy.deepcopy(module).to(dtype)
    training = runner.training
    result = runner.eval()(*(x.to(dtype) if x.is_floating_point() else x for x in inputs))
    if runner is module:
        module.train(training)
    return first_tensor(result)


def first_tensor(output: Any) -> Tensor:
    """The scores, of a tensor, a tuple or transformers' record."""
    if isinstance(output, Tensor):
        return output
    if hasattr(output, "logits"):
        return output.logits
    if hasattr(output, "last_hidden_state"):
        return output.last_hidden_state
    return output[0]


def difference(a: Tensor, b: Tensor) -> tuple[float, float]:
    """The largest and the mean difference, relative to the largest of `a`."""
    if a.shape != b.shape:
        raise LaminaError(f"outputs of {tuple(a.shape)} and of {tuple(b.shape)} cannot be compared")
    gap, scale = (a.double() - b.double()).abs(), max(float(a.abs().max()), torch.finfo(torch.float64).tiny)
    return float(gap.max()) / scale, float(gap.mean()) / scale


def score(logits: Tensor, targets: Tensor) -> tuple[float, float]:
    """Mean cross-entropy and percent right."""
    flat, wanted = logits.flatten(0, -2).float(), targets.flatten()
    loss = F.cross_entropy(flat, wanted)
    return float(loss), 100 * float((flat.argmax(1) == wanted).float().mean())
