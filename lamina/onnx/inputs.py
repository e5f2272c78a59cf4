"""The inputs of an ONNX graph: the sizes that the file claims for them, and those that are set."""

from collections.abc import Mapping
from pathlib import Path

from onnx import GraphProto, ValueInfoProto

from lamina import units
from lamina.errors import InputError
from lamina.operators import Shape

Claim = tuple[int | str, ...]  # a size, or the name of a free one ("?" without a name)


def graph_inputs(graph: GraphProto) -> list[ValueInfoProto]:
    """Old files list their initializers among the inputs."""
    stored = {t.name for t in graph.initializer} | {t.values.name for t in graph.sparse_initializer}
    return [value for value in graph.input if value.name not in stored]


def claim(value: ValueInfoProto) -> Claim | None:
    """The sizes that the file states for a tensor. Some exporters write 0 or -1 for a free size."""
    if not value.type.HasField("tensor_type") or not value.type.tensor_type.HasField("shape"):
        return None
    return tuple(d.dim_value if d.dim_value > 0 else d.dim_param or "?" for d in value.type.tensor_type.shape.dim)


class Sizes:
    """The sizes of the inputs of one reading. A free size that several inputs share by its name is set once."""

    def __init__(self, path: Path):
        self.path = path
        self.symbols: dict[str, int] = {}

    def of(self, graph: GraphProto, given: Mapping[str, Shape]) -> dict[str, Shape | None]:
        """The shape of each input; None for one that is not a tensor."""
        values = {value.name: value for value in graph_inputs(graph)}
        claims = {name: claim(value) for name, value in values.items()}
        is_tensor = {name: value.type.HasField("tensor_type") for name, value in values.items()}
        for name, shape in given.items():
            if name not in values:
                raise InputError(f"{self.path} has no input {name!r}: its inputs are {', '.join(values) or 'none'}")
            if not is_tensor[name]:
                raise InputError(
                    f"{self.path}: the input {name} is not a tensor (a sequence or an optional one), and has no sizes"
                )
            self._check(name, tuple(shape), claims[name])
        shapes: dict[str, Shape | None] = {}
        for name, sizes in claims.items():
            shapes[name] = tuple(given[name]) if name in given else None if sizes is None else self.resolve(sizes)
        free = [name for name, shape in shapes.items() if shape is None and is_tensor[name]]
        if free:
            said = " and ".join(f"{name} ({' x '.join(map(str, claims[name] or ('any shape',)))})" for name in free)
            how = " ".join(f"--input {name}={_example(claims[name])}" for name in free)
            raise InputError(f"{self.path}: set the free sizes of the input{'s' if free[1:] else ''} {said}, as in {how}")
        return shapes

    def resolve(self, sizes: Claim) -> Shape | None:
        """With the free sizes that are set by now; None if one is not."""
        known = [s if isinstance(s, int) else self.symbols.get(s) for s in sizes]
        return None if any(s is None for s in known) else tuple(s for s in known if s is not None)

    def _check(self, name: str, shape: Shape, sizes: Claim | None) -> None:
        text = units.shape(shape)
        if any(not isinstance(s, int) or s < 1 for s in shape):
            raise InputError(f"input {name}: {text} is not a valid shape: sizes are 1 or more")
        if sizes is None:
            return
        if len(shape) != len(sizes):
            raise InputError(f"input {name} has {len(sizes)} axes ({' x '.join(map(str, sizes))}), got {text}")
        for size, wanted in zip(shape, sizes, strict=True):
            if isinstance(wanted, int) and size != wanted:
                raise InputError(f"input {name} is fixed to {' x '.join(map(str, sizes))} in {self.path}, got {text}")
            if isinstance(wanted, str) and wanted != "?" and self.symbols.setdefault(wanted, size) != size:
                raise InputError(f"input {name}: {wanted} is {size} here and {self.symbols[wanted]} in another input")


def _example(sizes: Claim | None) -> str:
    """Sizes to set: those that are fixed, 1 for the batch, the usual ones for images and sequences."""
    if sizes is None:
        return "1x3x224x224"
    usual = [1, 3, 224, 224] if len(sizes) == 4 else [1, *[128] * len(sizes)]
    return units.shape(s if isinstance(s, int) else usual[i] for i, s in enumerate(sizes))
