"""Width: hidden units, heads, head width, model width, channels. All copy what writes and share out what reads.

Width is an ensemble, not a mesh: a hidden unit copied r times whose readers' weights sum to the old one's gives the same
function (T. Chen, I. Goodfellow, J. Shlens, "Net2Net", arXiv 1511.05641, section 2.2; C. Chen et al., "bert2BERT", arXiv
2110.07143, for heads and the model's width). Every operator here is exact. Equal copies would stay equal for ever: the
shares differ, and a random part that sums to zero over the copies sets the readers' columns apart (`plan.SHARES`, `NOISE`).

Shrinking takes the mean of what writes and the sum of what reads over runs of r: the left inverse, approximate on others.
"""

from collections.abc import Mapping, Sequence
from typing import Literal

import torch
from torch import Tensor

from lamina.errors import InputError
from lamina.scale.plan import NOISE, Origin, Select, Step, duplicated, select, shares
from lamina.scale.structure import Attention, Family, Role


def widen_feed_forward(family: Family, factor: int, noise: float = NOISE) -> tuple[Family, Step]:
    """Hidden units of the position-wise layers x factor; of a gated one in both branches."""
    layers = family.feed_forwards()
    other = family.with_feed_forward(layers[0].width * factor)
    origins: dict[str, Origin] = {}
    for layer in layers:
        index = duplicated(layer.width, factor)
        weights = shares(factor).repeat(layer.width)
        for up in layer.up:
            origins |= {name: select(name, Select(dim, index, None, weights)) for name, dim in up.producers}
        down = layer.down
        taken = Select(down.columns, index, weights)
        origins[down.weight] = select(down.weight, taken, noise, factor)
    return other, Step("feed_forward", "duplicate", "exact", origins, tuple(layer.path for layer in layers))


def add_heads(family: Family, factor: int, noise: float = NOISE) -> tuple[Family, Step]:
    """Heads x factor at the same head width. Grouped queries share keys and values as before: only queries are copied."""
    layers = family.attentions()
    a = layers[0]
    grouped = a.n_kv != a.n_heads
    n_kv = a.n_kv if grouped else a.n_kv * factor
    other = family.with_heads(a.n_heads * factor, n_kv, a.head_width)
    index, share = _units(a.n_heads, a.head_width, factor, "head")
    own = (torch.arange(a.n_kv * a.head_width), torch.ones(a.n_kv * a.head_width)) if grouped else (index, share)
    rows: dict[Role, Rows] = {"query": (index, None, share), "key": (own[0], None, own[1]), "value": (own[0], None, own[1])}
    return other, _attention_step("heads", layers, rows, (index, share), factor, a.head_width, noise)


def widen_heads(family: Family, factor: int, noise: float = NOISE) -> tuple[Family, Step]:
    """Head width x factor: each query and key dimension is copied, and sqrt(factor) times its share makes up for the wider
    softmax's scale."""
    layers = family.attentions()
    a = layers[0]
    if a.rotary:
        raise family.refusal(
            "head_width", f"{a.path} turns pairs of dimensions (rotary positions), each at a rate of its own", "heads can grow"
        )
    other = family.with_heads(a.n_heads, a.n_kv, a.head_width * factor)
    index, share = _units(a.n_heads, a.head_width, factor, "width")
    kv_index, kv_share = _units(a.n_kv, a.head_width, factor, "width")
    root = factor**0.5
    rows: dict[Role, Rows] = {
        "query": (index, root * share, torch.full_like(share, 1 / root)),
        "key": (kv_index, None, kv_share),
        "value": (kv_index, None, kv_share),
    }
    return other, _attention_step("head_width", layers, rows, (index, share), factor, 1, noise)


Rows = tuple[Tensor, Tensor | None, Tensor | None]  # index, scale, gradient


def _units(heads: int, width: int, factor: int, copied: Literal["head", "width"]) -> tuple[Tensor, Tensor]:
    """The rows of `heads` heads, each head or each of its dimensions `factor` times in a row, and the copies' shares."""
    if copied == "width":
        return duplicated(heads * width, factor), shares(factor).repeat(heads * width)
    index = torch.arange(heads * width).reshape(heads, 1, width).expand(heads, factor, width).flatten()
    return index, shares(factor).repeat(heads).repeat_interleave(width)


def _attention_step(
    axis: str,
    layers: Sequence[Attention],
    rows: Mapping[Role, Rows],
    out: tuple[Tensor, Tensor],
    factor: int,
    run: int,
    noise: float,
) -> Step:
    """`run` rows in a row of the output projection belong to one copy."""
    origins: dict[str, Origin] = {}
    for layer in layers:
        for matrix, roles in layer.projections:
            taken = _stacked(layer, roles, rows)
            for name, dim in matrix.producers:
                origins[name] = select(name, Select(dim, *taken))
        name = layer.out.weight
        origins[name] = select(name, Select(layer.out.columns, *out), noise, factor, run)
    return Step(axis, "duplicate", "exact", origins, tuple(layer.path for layer in layers))


def _stacked(layer: Attention, roles: Sequence[Role], rows: Mapping[Role, Rows]) -> Rows:
    """The rows of a matrix that stacks several roles."""
    sizes = {"query": layer.n_heads, "key": layer.n_kv, "value": layer.n_kv}
    index, scale, gradient, offset = [], [], [], 0
    for role in roles:
        i, s, g = rows[role]
        index.append(i + offset)
        scale.append(torch.ones(len(i), dtype=torch.float64) if s is None else s.double())
        gradient.append(torch.ones(len(i), dtype=torch.float64) if g is None else g.double())
        offset += sizes[role] * layer.head_width
    return torch.cat(index), torch.cat(scale), torch.cat(gradient)


def widen_model(family: Family, factor: int, operator: str = "duplicate", noise: float = NOISE) -> tuple[Family, Step]:
    """Features of the residual stream x factor. "duplicate" is exact through layer and RMS norms, since a mean and a mean
    square over copies are those over the originals; a head tied to the embedding needs 1 / factor. "pad" adds zeros, which
    RMS norms can make up for and layer norms cannot."""
    stream = family.stream()
    width = stream.width
    if operator not in ("duplicate", "pad"):
        raise InputError(f"model_width: no operator {operator!r}; there are duplicate, pad")
    other = family.with_model_width(width * factor, operator == "pad")
    if operator == "pad":
        if not stream.norms:
            raise family.refusal("model_width", "layer norms see the zeros in their mean", 'operator "duplicate" is exact')
        return other, _padded(family, width, factor, noise)
    index = duplicated(width, factor)
    even = torch.full((width * factor,), 1 / factor, dtype=torch.float64)
    origins: dict[str, Origin] = {}
    for name, dim in stream.writers:
        if name in stream.head:
            origins[name] = select(name, Select(dim, index, even, None))
        else:
            origins[name] = select(name, Select(dim, index, None, even))
    later: dict[str, Origin] = {}
    for reader in stream.readers:
        later[reader.weight] = select(reader.weight, Select(reader.columns, index, even), noise, factor)
    if shared := set(origins) & set(later):
        raise family.refusal("model_width", f"{min(shared)} both writes and reads the stream")
    return other, Step("model_width", "duplicate", "exact", origins | later, ("the residual stream",))


def _padded(family: Family, width: int, factor: int, noise: float) -> Step:
    stream = family.stream()
    more = width * (factor - 1)
    origins: dict[str, Origin] = {}

    def extend(name: str, dim: int, fill: Literal["zeros", "ones", "noise"], scale: float = 1.0) -> Origin:
        def value(t: Tensor) -> Tensor:
            shape = list(t.shape)
            shape[dim] = more
            extra = t.new_ones(shape) if fill == "ones" else t.new_zeros(shape)
            if fill == "noise":
                generator = torch.Generator().manual_seed(len(name))
                extra = torch.randn(shape, generator=generator, dtype=torch.float64).to(t) * (noise * t.square().mean().sqrt())
            return torch.cat((t, extra), dim) * scale

        def moment(power: int, t: Tensor) -> Tensor:
            shape = list(t.shape)
            shape[dim] = more
            return torch.cat((t / scale**power, t.new_zeros(shape)), dim)

        return Origin((name,), value, moment)

    for name, dim in stream.writers:
        if name in stream.norms:  # a mean square over `factor` times as many features, most of them zero
            origins[name] = extend(name, dim, "ones", factor**-0.5)
        else:
            origins[name] = extend(name, dim, "zeros")
    for reader in stream.readers:
        origins[reader.weight] = extend(reader.weight, reader.columns, "noise")
    return Step("model_width", "pad", "exact", origins, ("the residual stream",))


def widen_channels(family: Family, factor: int, noise: float = NOISE) -> tuple[Family, Step]:
    """Channels of convolutions x factor (Net2Net)."""
    other = family.with_channels(factor)
    sizes = {name: tuple(value.shape) for name, value in family.build().state_dict().items()}
    origins: dict[str, Origin] = {}
    for part in family.channels():
        for name, dim in part.writers:
            index, share = _units(sizes[name][dim] // part.run, part.run, factor, "head")
            _compose(origins, name, select(name, Select(dim, index, None, share)))
        for reader in part.readers:
            name = reader.weight
            index, share = _units(sizes[name][reader.columns] // part.run, part.run, factor, "head")
            _compose(origins, name, select(name, Select(reader.columns, index, share), noise, factor, part.run))
    return other, Step("channels", "duplicate", "exact", origins, _layers(origins))


def _layers(origins: dict[str, Origin]) -> tuple[str, ...]:
    return tuple(dict.fromkeys(name.rpartition(".")[0] for name in origins))


def _compose(origins: dict[str, Origin], name: str, after: Origin) -> None:
    """A second map of the same tensor, along another axis."""
    before = origins.get(name)
    if before is None:
        origins[name] = after
        return
    first, first_moment, then = before.value, before.moment, after.moment
    moment = None
    if first_moment is not None and then is not None:
        moment = lambda power, *ts: then(power, first_moment(power, *ts))  # noqa: E731
    origins[name] = Origin(before.names, lambda *ts: after.value(first(*ts)), moment)


# ---- shrinking -------------------------------------------------------------------------------------------------------


def narrow_feed_forward(family: Family, factor: int) -> tuple[Family, Step]:
    layers = family.feed_forwards()
    if layers[0].width % factor:
        fits = [n for n in range(2, layers[0].width + 1) if layers[0].width % n == 0][:4]
        raise InputError(
            f"{layers[0].path} has {layers[0].width} hidden units, which are not divisible by {factor}; they are by "
            + ", ".join(map(str, fits))
        )
    other = family.with_feed_forward(layers[0].width // factor)
    origins: dict[str, Origin] = {}
    for layer in layers:
        for up in layer.up:
            origins |= {name: _merged_runs(name, dim, factor, 1, "mean") for name, dim in up.producers}
        origins[layer.down.weight] = _merged_runs(layer.down.weight, layer.down.columns, factor, 1, "sum")
    return other, Step("feed_forward", "merge", "approximate", origins, tuple(layer.path for layer in layers))


def remove_heads(family: Family, factor: int) -> tuple[Family, Step]:
    layers = family.attentions()
    a = layers[0]
    grouped = a.n_kv != a.n_heads
    heads = a.n_heads // factor
    if a.n_heads % factor or (grouped and heads % a.n_kv):
        kind = f" for {a.n_kv} key and value heads" if grouped else ""
        fewest = a.n_kv if grouped else 1
        fits = [n for n in range(2, a.n_heads // fewest + 1) if a.n_heads % n == 0 and (a.n_heads // n) % fewest == 0]
        instead = f"heads can shrink by {' or '.join(map(str, fits))}" if fits else "heads cannot shrink"
        raise InputError(f"{a.path} has {a.n_heads} query heads{kind}: they are not divisible by {factor}; {instead}")
    other = family.with_heads(heads, a.n_kv if grouped else heads, a.head_width)
    origins: dict[str, Origin] = {}

    def fold(name: str, dim: int, roles: Sequence[Role], how: Literal["mean", "sum"]) -> Origin:
        def value(t: Tensor) -> Tensor:
            parts = t.split([a.head_width * (a.n_heads if r == "query" else a.n_kv) for r in roles], dim)
            out = []
            for role, part in zip(roles, parts, strict=True):
                if grouped and role != "query":
                    out.append(part)
                    continue
                out.append(_merged_runs(name, dim, factor, a.head_width, how).value(part))
            return torch.cat(out, dim)

        return Origin((name,), value)

    for layer in layers:
        for matrix, roles in layer.projections:
            origins |= {name: fold(name, dim, roles, "mean") for name, dim in matrix.producers}
        origins[layer.out.weight] = fold(layer.out.weight, layer.out.columns, ("query",), "sum")
    return other, Step("heads", "merge", "approximate", origins, tuple(layer.path for layer in layers))


def narrow_channels(family: Family, factor: int) -> tuple[Family, Step]:
    other = family.with_channels(factor, shrink=True)
    origins: dict[str, Origin] = {}
    for part in family.channels():
        for name, dim in part.writers:
            _compose(origins, name, _merged_runs(name, dim, factor, part.run, "mean"))
        for reader in part.readers:
            _compose(origins, reader.weight, _merged_runs(reader.weight, reader.columns, factor, part.run, "sum"))
    return other, Step("channels", "merge", "approximate", origins, _layers(origins))


def _merged_runs(name: str, dim: int, copies: int, run: int, how: Literal["mean", "sum"]) -> Origin:
    """As `merged`, where copies are `run` entries in a row."""

    def value(t: Tensor) -> Tensor:
        grid = t.unflatten(dim, (-1, copies, run))
        return (grid.mean(dim + 1) if how == "mean" else grid.sum(dim + 1)).flatten(dim, dim + 1)

    return Origin((name,), value)
