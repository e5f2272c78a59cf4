"""`grow` and `shrink`: trained networks with more or fewer blocks, hidden units, heads, channels, pixels or tokens.

Factors multiply. Each axis has an operator with a declared class: `exact` computes the same function to rounding,
`consistent` one that comes nearer as the steps shrink, `approximate` neither. `exactness` refuses weaker ones.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal, NamedTuple

import torch
from torch import Tensor, nn

from lamina.errors import InputError
from lamina.scale import depth as depths
from lamina.scale import optimizer as optimizers
from lamina.scale import resolution as resolutions
from lamina.scale import tokens as grids
from lamina.scale import width
from lamina.scale.families import check_bare, describe
from lamina.scale.plan import STRENGTH, Class, Plan, Step
from lamina.scale.structure import Family
from lamina.scale.verify import Batch, Verification, verify

Exactness = Literal["exact", "consistent", "any"]
NEEDED: dict[Exactness, int] = {"exact": 2, "consistent": 1, "any": 0}
DEFAULTS = {"depth": "split", "model_width": "duplicate", "tokens": "interpolate", "patch": "bilinear", "resolution": ""}


@dataclass(frozen=True)
class Report:
    """What was done. `lift` makes the grown network's input from the old one's, where they differ; `optimizer` is the grown
    network's, where one was given."""

    steps: tuple[Step, ...]
    exactness: Class  # the weakest of the operators
    old: Mapping[str, int]  # parameters
    new: Mapping[str, int]
    lift: Callable[[Tensor], Tensor] | None = None
    optimizer: torch.optim.Optimizer | None = None
    float64: bool = True  # whether the network computes in float64 where its weights are of that type

    @property
    def operators(self) -> list[dict[str, str]]:
        """{"layer", "operator", "class"} for each layer that changed."""
        return [
            {"layer": layer, "operator": f"{step.axis}:{step.operator}", "class": step.exactness}
            for step in self.steps
            for layer in step.layers
        ]

    def __str__(self) -> str:
        done = ", ".join(f"{s.axis} by {s.operator} ({s.exactness})" for s in self.steps)
        return f"{done}: {self.old['parameters']:,} to {self.new['parameters']:,} parameters"


class Grown(NamedTuple):
    module: nn.Module
    report: Report


class Change(NamedTuple):
    """One axis at work: the family after it, what it does, and what it does to the inputs."""

    family: Family
    step: Step
    lift: Callable[[Tensor], Tensor] | None = None


def grow(
    model: nn.Module,
    *,
    depth: int | Sequence[int] = 1,
    feed_forward: int = 1,
    heads: int = 1,
    head_width: int = 1,
    model_width: int = 1,
    channels: int = 1,
    resolution: int = 1,
    patch: int | None = None,
    tokens: int = 1,
    operator: Mapping[str, str] | None = None,
    optimizer: torch.optim.Optimizer | None = None,
    exactness: Exactness = "any",
) -> Grown:
    """A larger network with what `model` has learnt, and a report; `model` is left as it was.

    `depth` may be a number of blocks for each stack or stage. `resolution` and `tokens` multiply the side of images, of the
    token grid or the length of a context; `patch` is the new patch size in pixels. `operator` chooses by axis, as in
    {"depth": "zero"}. Raises `InputError` naming the layer that has no sound operator.
    """
    chosen = _operators(operator)
    factors = {
        "depth": depth, "channels": channels, "feed_forward": feed_forward, "heads": heads, "head_width": head_width,
        "model_width": model_width, "tokens": tokens, "resolution": resolution,
    }  # fmt: skip
    _check_factors(factors, patch)
    rescaled = _rescaled(model, resolution, chosen, finer=True) if resolution > 1 else None
    work: list[Callable[[Family], Change]] = []
    if depth != 1:
        work.append(lambda f: Change(*depths.deepen(f, depth, chosen.get("depth", "split"))))
    simple: list[tuple[int, Any]] = [
        (channels, width.widen_channels), (feed_forward, width.widen_feed_forward), (heads, width.add_heads),
        (head_width, width.widen_heads),
    ]  # fmt: skip
    work += [lambda f, n=n, o=o: Change(*o(f, n)) for n, o in simple if n > 1]
    if model_width > 1:
        work.append(lambda f: Change(*width.widen_model(f, model_width, chosen.get("model_width", "duplicate"))))
    if patch is not None:
        work.append(lambda f: Change(*grids.change_patch(f, patch, chosen.get("patch", "bilinear"))))  # type: ignore[arg-type]
    if tokens > 1:
        work.append(lambda f: Change(*grids.more_tokens(f, tokens, chosen.get("tokens", "interpolate"))))
    return _run(model, work, rescaled, optimizer, exactness)


def shrink(
    model: nn.Module,
    *,
    depth: int = 1,
    feed_forward: int = 1,
    heads: int = 1,
    channels: int = 1,
    resolution: int = 1,
    patch: int | None = None,
    tokens: int = 1,
    operator: Mapping[str, str] | None = None,
    exactness: Exactness = "any",
) -> Grown:
    """A smaller network; the factors divide. It undoes `grow` with the same factors (but for their random parts), and on other
    networks it loses: the report says what was done, `verify` how much. An optimizer starts anew."""
    chosen = _operators(operator)
    factors = {
        "depth": depth, "channels": channels, "feed_forward": feed_forward, "heads": heads, "tokens": tokens,
        "resolution": resolution,
    }  # fmt: skip
    _check_factors(factors, patch)
    rescaled = _rescaled(model, resolution, chosen, finer=False) if resolution > 1 else None
    work: list[Callable[[Family], Change]] = []
    if depth != 1:
        work.append(lambda f: Change(*depths.coarsen(f, depth, chosen.get("depth", "coarsen"))))
    simple: list[tuple[int, Any]] = [
        (channels, width.narrow_channels), (feed_forward, width.narrow_feed_forward), (heads, width.remove_heads),
    ]  # fmt: skip
    work += [lambda f, n=n, o=o: Change(*o(f, n)) for n, o in simple if n > 1]
    if patch is not None:
        work.append(lambda f: Change(*grids.change_patch(f, patch, chosen.get("patch", "bilinear"))))  # type: ignore[arg-type]
    if tokens > 1:
        work.append(lambda f: Change(*grids.fewer_tokens(f, tokens)))
    return _run(model, work, rescaled, None, exactness)


def check(model: nn.Module, grown: Grown, batch: Batch, targets: Tensor | None = None) -> Verification:
    """`verify` what `grow` or `shrink` claims."""
    report = grown.report
    operator = next((s.operator for s in report.steps if s.exactness == "consistent"), None)

    def refine(module: nn.Module) -> nn.Module:
        return grow(module, depth=2, operator={"depth": operator or "split"}).module

    def at_step(step: float) -> tuple[nn.Module, nn.Module]:
        family, change = depths.with_step(describe(model), step)
        smaller = materialise(family, Plan((change,)), model)
        return smaller, refine(smaller)

    return verify(
        model,
        grown.module,
        batch,
        claim=report.exactness,
        targets=targets,
        lift=report.lift,
        refine=refine if operator else None,
        at_step=at_step if operator else None,
        float64=report.float64,
    )


def _operators(operator: Mapping[str, str] | None) -> dict[str, str]:
    chosen = dict(operator or {})
    if unknown := sorted(set(chosen) - set(DEFAULTS)):
        raise InputError(f"operator: {unknown[0]!r} has no choice of operators; these have: {', '.join(DEFAULTS)}")
    return chosen


def _check_factors(factors: Mapping[str, Any], patch: int | None) -> None:
    for axis, factor in factors.items():
        values = factor if axis == "depth" and isinstance(factor, Sequence) and not isinstance(factor, str) else [factor]
        for value in values:
            if not isinstance(value, int) or isinstance(value, bool) or value < 1:
                raise InputError(f"{axis} is a positive whole number, not {value!r}")
    if factors["resolution"] not in (1, 2):
        raise InputError(f"resolution is 1 or 2, not {factors['resolution']}: change it twice for 4")
    if patch is None and all(f == 1 for f in factors.values()):
        raise InputError(f"nothing to change: give a factor for one of {', '.join(factors)}, or a patch size")


def _rescaled(model: nn.Module, factor: int, chosen: Mapping[str, str], finer: bool) -> Grown:
    """The network for other images: a ViT by its patches, convolutions by their kernels."""
    check_bare(model)
    _check_tied(model)
    config: Any = getattr(model, "config", None)
    if hasattr(config, "patch"):
        patch = config.patch * 2 if finer else config.patch // 2
        mode = {"patch": chosen["resolution"]} if chosen.get("resolution") else {}
        return (grow if finer else shrink)(model, patch=patch, operator=mode)
    operator = chosen.get("resolution") or ("dilated" if finer else "bilinear")
    shape = (config.in_channels, config.img_size, config.img_size) if hasattr(config, "img_size") else None
    module = resolutions.rescale(model, operator, finer=finer, shape=shape)
    claim: Class = "exact" if operator == "dilated" else "approximate"
    layers = tuple(path for path, m in model.named_modules() if isinstance(m, nn.Conv2d))
    norms = any(isinstance(m, nn.modules.batchnorm._BatchNorm) for m in model.modules())
    note = "batch norms' statistics are the old resolution's: recalibrate on data" if norms and claim != "exact" else ""
    step = Step("resolution", operator, claim, {}, layers, note=note)
    lift = resolutions.upsample if finer else resolutions.downsample
    return Grown(module, Report((step,), claim, _size(model), _size(module), lift))


def _run(
    model: nn.Module,
    work: Sequence[Callable[[Family], Change]],
    rescaled: Grown | None,
    optimizer: torch.optim.Optimizer | None,
    exactness: Exactness,
) -> Grown:
    if exactness not in NEEDED:
        raise InputError(f"exactness is one of {', '.join(NEEDED)}, not {exactness!r}")
    start = rescaled.module if rescaled else model
    steps = list(rescaled.report.steps) if rescaled else []
    lifts = [rescaled.report.lift] if rescaled and rescaled.report.lift else []
    module, plan, family = start, Plan(), describe(start) if work else None
    for change in work:
        assert family is not None
        family, step, lift = change(family)
        steps.append(step)
        plan = plan.then(step)
        lifts += [lift] if lift else []
    for step in steps:
        if STRENGTH[step.exactness] < NEEDED[exactness]:
            raise InputError(
                f"{step.axis}: {step.operator} is {step.exactness}, and {exactness} was asked for" + _stronger(step)
            )
    if family is not None:
        family.check()
        module = materialise(family, plan, start)
    if optimizer is not None and rescaled:
        raise InputError("resolution: an optimizer's state is not carried over to other kernels; grow without it")
    other = optimizers.carry(optimizer, start, module, plan) if optimizer is not None else None
    weakest = steps[0].exactness
    for step in steps:
        weakest = min(weakest, step.exactness, key=STRENGTH.__getitem__)
    float64 = family is None or family.float64
    return Grown(module, Report(tuple(steps), weakest, _size(model), _size(module), _chain(lifts), other, float64))


def _stronger(step: Step) -> str:
    hints = {
        "depth": '; {"depth": "zero"} is exact',
        "tokens": '; {"tokens": "duplicate"} is exact on repeated patches',
        "resolution": '; {"resolution": "dilated"} is exact on images whose pixels are copied',
    }
    return hints.get(step.axis, "")


def _chain(lifts: Sequence[Callable[[Tensor], Tensor]]) -> Callable[[Tensor], Tensor] | None:
    if not lifts:
        return None

    def lift(x: Tensor) -> Tensor:
        for one in lifts:
            x = one(x)
        return x

    return lift


@torch.no_grad()
def materialise(family: Family, plan: Plan, old: nn.Module) -> nn.Module:
    """The network of the family's configuration with the plan's weights, on the old one's device and in its type. One that is
    built without memory of its own is given the new tensors themselves."""
    _check_tied(old)
    state = old.state_dict()
    like = next(old.parameters())
    module = family.build()
    bare = next(module.parameters()).is_meta
    if not bare:
        module = module.to(like.device)
    module = module.to(like.dtype) if like.is_floating_point() else module
    frozen = {n for n, p in old.named_parameters(remove_duplicate=False) if not p.requires_grad}
    parameters = dict(module.named_parameters(remove_duplicate=False))
    taken = {t.untyped_storage().data_ptr() for t in state.values()}
    for name, target in module.state_dict().items():
        value = plan.value(name, state)
        if value.shape != target.shape:
            raise InputError(f"{name} would have the shape {tuple(value.shape)}, and the network has {tuple(target.shape)}")
        if bare:
            own = value.untyped_storage().data_ptr() not in taken
            value = value.to(target.dtype).contiguous() if own else value.to(target.dtype, copy=True)
            _place(module, name, value)
        else:
            target.copy_(value)
    for name, parameter in module.named_parameters(remove_duplicate=False):
        sources = plan.sources(name)
        trains = parameters[name].requires_grad and not (sources and sources <= frozen)
        parameter.requires_grad_(trains)
    family.finish(module)
    return module.train(old.training)


def _place(module: nn.Module, name: str, value: Tensor) -> None:
    """Put a tensor in the place of a parameter or buffer on the meta device."""
    path, _, last = name.rpartition(".")
    module.get_submodule(path).load_state_dict({last: value}, strict=False, assign=True)


def _check_tied(module: nn.Module) -> None:
    """Refuse weights that two layers share where no family knows of it."""
    names: dict[int, list[str]] = {}
    for name, parameter in module.named_parameters(remove_duplicate=False):
        names.setdefault(id(parameter), []).append(name)
    for shared in names.values():
        known = any(name.endswith(("wte.weight", "embed_tokens.weight")) for name in shared)
        if len(shared) > 1 and not known:
            raise InputError(f"{' and '.join(shared)} are one tied weight: copy it into two parameters to grow them")


def _size(module: nn.Module) -> dict[str, int]:
    return {"parameters": sum(p.numel() for p in module.parameters())}
