"""Fitting the tensors of a weight file to a network: other people's names, other numbers of classes, channels, pixels.

The names are tables of `zoo/published/FAMILY.toml`. A file that has a key that `marker` fits is renamed by `keys` (the first
rule that fits a key alone); `axes` then groups the axes of tensors into new ones (`[[1], [0]]` transposes a matrix), `join`
concatenates what is one matrix here, and `optional` are keys that may be left over. Tables are tried in the file's order, and
one may lead to the names of a later one.
"""

import math
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields
from typing import TYPE_CHECKING, Any

from lamina import units
from lamina.errors import InputError
from lamina.zoo import registry

if TYPE_CHECKING:
    from torch import Tensor, nn

SHOWN = 4  # keys named in an error before it only counts
ADAPTABLE = ("num_classes", "in_channels", "img_size")  # changes that leave the rest of the weights valid
Shapes = Mapping[str, tuple[int, ...]]


@dataclass(frozen=True)
class Report:
    """What of a network is not the file's own: weights that were reinitialised, and weights that were adapted."""

    reinitialised: tuple[str, ...] = ()
    adapted: tuple[str, ...] = ()

    def __str__(self) -> str:
        parts = (("reinitialised", self.reinitialised), ("adapted", self.adapted))
        return "; ".join(f"{what}: {', '.join(keys)}" for what, keys in parts if keys) or "all weights are the file's own"


def naming(entry: registry.Spec, state: Mapping[str, Any]) -> Mapping[str, Any]:
    """The family's naming whose marker the file's keys show; empty where they are ours."""
    return next((table for table in _namings(entry) if _marked(table, state)), {})


def _namings(entry: registry.Spec) -> list[Mapping[str, Any]]:
    tables = registry.published(entry.family).get("naming", {}).values()
    return [t for t in tables if t.get("network", entry.name) == entry.name]


def _marked(table: Mapping[str, Any], state: Mapping[str, Any]) -> bool:
    return any(re.search(table["marker"], key) for key in state)


def fit(name: str, module: "nn.Module", state: Mapping[str, "Tensor"], source: str) -> Report:
    """Load `state` into `module`, a form of the network `name`, in place.

    The state must be whole for the module, or for the network without the changes of `ADAPTABLE`; an `InputError` lists what
    is missing, left over or of another shape. Where `num_classes`, `in_channels` or `img_size` were changed, convolutions
    over the image are adapted (summed for one channel, else repeated and scaled), position embeddings are resized, and what
    else depends on the change is reinitialised by torch's default rule.
    """
    import torch

    entry = registry.spec(name)
    wanted = module.state_dict()
    for table in _namings(entry):  # in their order: one may lead to the names of another
        if _marked(table, state):
            state = translate(table, state, wanted)
    state = dict(state)
    own = {k: tuple(v.shape) for k, v in wanted.items()}
    given = {k: tuple(v.shape) for k, v in state.items()}
    whole = {k: s for k, s in own.items() if k in given or not k.endswith("num_batches_tracked")} == given
    base = own if whole else _base_shapes(entry, module, wanted)  # a changed network's own file is whole as it is
    state = {k: torch.zeros((), dtype=torch.long) for k in base if k.endswith("num_batches_tracked")} | state
    _check(entry, state, base, source)
    adapted: list[str] = []
    fresh: dict[str, Tensor] = {}
    for key, value in wanted.items():
        if value.shape != state[key].shape:
            other = adapt(key, state[key], tuple(value.shape))
            if other is None:
                fresh |= _reinitialised(module, key)
            else:
                state[key] = other
                adapted.append(key)
    state |= fresh
    module.load_state_dict({k: state[k].to(v.dtype) for k, v in wanted.items()}, strict=True, assign=True)
    return Report(tuple(k for k in wanted if k in fresh), tuple(adapted))


def translate(table: Mapping[str, Any], state: Mapping[str, "Tensor"], wanted: Mapping[str, Any]) -> dict[str, "Tensor"]:
    """The state under our names."""
    import torch

    state = {rename(key, table.get("keys", [])): value for key, value in state.items()}
    for pattern, groups in table.get("axes", []):
        state |= {key: regroup(value, groups) for key, value in state.items() if re.search(pattern, key)}
    for whole, parts in table.get("join", {}).items():
        for key in [k for k in state if f".{parts[0]}." in k]:
            pieces = [key.replace(parts[0], part) for part in parts]
            if all(piece in state and state[piece].shape[1:] == state[key].shape[1:] for piece in pieces):
                state[key.replace(parts[0], whole)] = torch.cat([state.pop(piece) for piece in pieces])
    if "optional" in table:  # auxiliary heads, which the network may be built without
        state = {k: v for k, v in state.items() if k in wanted or not re.search(table["optional"], k)}
    return state


def rename(key: str, rules: list[list[str]]) -> str:
    for pattern, replacement in rules:
        key, hits = re.subn(pattern, replacement, key)
        if hits:
            break
    return key


def regroup(value: "Tensor", groups: Sequence[Sequence[int]]) -> "Tensor":
    """The tensor with an axis for each group, into which the axes named there are merged: [[1, 2], [0]] makes (D, heads, d)
    to (heads * d, D). One of another number of axes is returned as it is: the shapes are compared later."""
    axes = [axis for group in groups for axis in group]
    if value.dim() != len(axes):
        return value
    return value.permute(axes).reshape([math.prod(value.shape[axis] for axis in group) for group in groups])


def _base_shapes(entry: registry.Spec, module: "nn.Module", wanted: Mapping[str, "Tensor"]) -> Shapes:
    """What a file must hold: the shapes of the module as if nothing adaptable had been changed."""
    published = entry.config
    changes = {f.name: getattr(module.config, f.name) for f in fields(published)}
    changes = {k: v for k, v in changes.items() if v != getattr(published, k)}
    if set(changes) & set(ADAPTABLE) or registry.is_headless(module):
        base = registry.assemble(entry.name, **{k: v for k, v in changes.items() if k not in ADAPTABLE}).state_dict()
        return {k: tuple(v.shape) for k, v in base.items()}
    return {k: tuple(v.shape) for k, v in wanted.items()}


def _check(entry: registry.Spec, state: Mapping[str, "Tensor"], base: Shapes, source: str) -> None:
    missing = [k for k in base if k not in state]
    left = [k for k in state if k not in base]
    wrong = [
        f"{k} ({units.shape(tuple(state[k].shape))} for {units.shape(shape)})"
        for k, shape in base.items()
        if k in state and tuple(state[k].shape) != shape
    ]
    kinds = (("missing", missing), ("left over", left), ("of another shape", wrong))
    if missing or left or wrong:
        parts = [f"{what}: {_some(keys)}" for what, keys in kinds if keys]
        hint = _who_fits(entry, state)
        raise InputError(f"{source} does not fit {entry.name}; {'; '.join(parts)}" + (f". It fits {hint}" if hint else ""))


def adapt(key: str, value: "Tensor", shape: tuple[int, ...]) -> "Tensor | None":
    """A weight for another number of input channels or another grid of patches; None where it cannot be carried over."""
    import torch

    if len(shape) == 4 and shape[0] == value.shape[0] and shape[2:] == value.shape[2:] and shape[1] != value.shape[1]:
        before, after = value.shape[1], shape[1]
        if after == 1:
            return value.sum(dim=1, keepdim=True)  # a grey image is the same in all channels
        repeated = torch.cat([value] * math.ceil(after / before), dim=1)[:, :after]
        return repeated * (before / after)
    if key == "position_embedding":
        from lamina.zoo.vit import resize_positions

        return resize_positions(value, math.isqrt(value.shape[1] - 1), math.isqrt(shape[1] - 1))
    return None


def _reinitialised(module: "nn.Module", key: str) -> dict[str, "Tensor"]:
    """The weights of the layer that `key` belongs to, by torch's default rule, under their names."""
    path, _, _ = key.rpartition(".")
    layer = module.get_submodule(path)
    layer.to_empty(device="cpu", recurse=False)
    layer.reset_parameters()  # type: ignore[operator]
    return {f"{path}.{name}": value for name, value in layer.state_dict().items()}


def _who_fits(entry: registry.Spec, state: Mapping[str, "Tensor"]) -> str:
    """The other networks of the family that take exactly these tensors."""

    def shapes(tensors: Mapping[str, "Tensor"]) -> Shapes:
        return {k: tuple(v.shape) for k, v in tensors.items() if not k.endswith("num_batches_tracked")}

    own = shapes(state)
    fitting = [n for n in registry.names(entry.family) if shapes(registry.assemble(n).state_dict()) == own]
    return " and ".join(fitting)


def _some(keys: list[str]) -> str:
    more = f" and {len(keys) - SHOWN} more" if len(keys) > SHOWN else ""
    return ", ".join(keys[:SHOWN]) + more
