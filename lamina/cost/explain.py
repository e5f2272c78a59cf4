"""Which convention gives a published figure: every way of counting that is in use, tried on one network."""

import re
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from decimal import Decimal
from typing import Any, Literal

from lamina.cost import conventions, tools
from lamina.errors import InputError
from lamina.workload import Workload

Quantity = Literal["operations", "parameters", "activations"]
PREFIX = {"": 0, "k": 3, "K": 3, "M": 6, "G": 9, "B": 9, "T": 12, "P": 15}
UNITS: dict[str, tuple[Quantity, ...]] = {
    "": ("operations", "parameters", "activations"),
    **dict.fromkeys(("MAC", "MACs", "MACS", "FLOP", "FLOPs", "FLOPS", "Flops", "flops", "OPs", "mult-adds"), ("operations",)),
    **dict.fromkeys(("params", "parameters", "Params"), ("parameters",)),
    "activations": ("activations",),
}
FORM = re.compile(r"\s*([0-9][0-9,_]*(?:\.[0-9]+)?)(?:[eE]\+?([0-9]{1,2}))?\s*([kKMGBTP]?)\s*([A-Za-z-]*)\s*")


@dataclass(frozen=True, slots=True)
class Published:
    """A figure as it was printed: `value`, the size of its last printed digit, and what it can be a count of."""

    text: str
    value: Decimal
    digit: Decimal
    quantities: tuple[Quantity, ...]

    def is_rounded(self, exact: int) -> bool:
        """Whether `exact` rounds to the figure; a half goes either way."""
        return abs(exact - self.value) <= self.digit / 2 if self.digit > 1 else exact == self.value

    def is_cut(self, exact: int) -> bool:
        """Whether the figure is `exact` with its further digits left off."""
        return 0 <= exact - self.value < self.digit


@dataclass(frozen=True, slots=True)
class Convention:
    name: str
    quantity: Quantity
    value: int


@dataclass(frozen=True, slots=True)
class Explanation:
    """The conventions that give the figure to its last printed digit, by rounding or by cutting off; if there is none,
    `nearest` comes closest. `error` is that one's difference in percent of the figure."""

    published: Published
    rounded: tuple[Convention, ...]
    cut: tuple[Convention, ...]
    nearest: Convention
    error: float


def parse(text: str) -> Published:
    """ "4.11G", "25.6M", "8.2 GFLOPs", "3.8e9 MACs", "25,557,032 parameters"; B is billion."""
    match = FORM.fullmatch(text)
    if match is None or match[4] not in UNITS:
        raise InputError(f"{text!r} is not a published figure: write it as printed, such as 4.11G, 25.6M or '8.2 GFLOPs'")
    mantissa = Decimal(match[1].replace(",", "").replace("_", ""))
    scale = Decimal(10) ** (int(match[2] or 0) + PREFIX[match[3]])
    exponent = mantissa.as_tuple().exponent
    digit = scale * Decimal(10) ** exponent if isinstance(exponent, int) else scale
    if not mantissa:
        raise InputError(f"{text!r}: a network's count is not zero")
    return Published(text.strip(), mantissa * scale, digit, UNITS[match[4]])


def candidates(workload: Workload, auxiliary: Workload | None = None) -> list[Convention]:
    """Every convention's figure for the network; `auxiliary` is the same network with its auxiliary heads."""
    found = _operations(workload) + _parameters(workload)
    outputs = "activations: outputs of convolutions, linear layers and products"
    found.append(Convention(outputs, "activations", workload.total().activations))
    if auxiliary is not None:
        total = auxiliary.total()
        found.append(Convention("MACs, with the auxiliary heads", "operations", total.macs))
        found.append(Convention("FLOPs (2 per MAC), with the auxiliary heads", "operations", total.flops))
        found.append(Convention("parameters, with the auxiliary heads", "parameters", total.parameters))
    found = _distinct(found)
    for tool in conventions.VIEWS if conventions.sees_modules(workload) else ():
        figure = conventions.view(workload, tool)
        counts: dict[str, tuple[Quantity, int | None]] = {
            f"{tool} (count)": ("operations", figure.macs),
            f"{tool} (FLOPs)": ("operations", figure.flops),
            f"{tool} (activations)": ("activations", figure.activations),
            f"{tool} (parameters)": ("parameters", figure.parameters),
        }
        found += [Convention(name, quantity, value) for name, (quantity, value) in counts.items() if value is not None]
    return found


def _distinct(found: list[Convention]) -> list[Convention]:
    """The plainest convention of each value: where there is no norm, "+ norms" says nothing."""
    first: dict[tuple[Quantity, int], Convention] = {}
    for convention in found:
        first.setdefault((convention.quantity, convention.value), convention)
    return list(first.values())


def _operations(workload: Workload) -> list[Convention]:
    layers = workload.layers
    macs, biases = workload.total().macs, tools.biases(layers)
    norms = sum(2 * layer.outputs[0].numel for layer in layers if layer.kind == "norm" and layer.outputs)
    last = next((layer for layer in reversed(layers) if layer.kind == "linear"), None)
    attention = tools.attention_macs(workload)
    convolutions = sum(layer.macs for layer in layers if layer.kind == "conv")
    arithmetic = 2 * macs + sum(sum(layer.ops.values()) for layer in layers)
    counts = {
        "MACs": macs,
        "MACs + biases": macs + biases,
        "MACs + the last layer's biases (pycls)": macs + (tools.biases([last]) if last else 0),
        "MACs + norms (2 per element)": macs + norms,
        "MACs + biases + norms": macs + biases + norms,
        "MACs without attention's products": macs - attention,
        "MACs of convolutions only": convolutions,
        "FLOPs (2 per MAC)": 2 * macs,
        "FLOPs (2 per MAC) + biases": 2 * macs + biases,
        "FLOPs (2 per MAC) + biases + norms": 2 * macs + biases + norms,
        "FLOPs (2 per MAC) without attention's products": 2 * (macs - attention),
        "FLOPs (2 per MAC) of convolutions only": 2 * convolutions,
        "FLOPs (2 per MAC) and all other arithmetic": arithmetic,
    }
    return [Convention(name, "operations", value) for name, value in counts.items()]


def _parameters(workload: Workload) -> list[Convention]:
    total = workload.total()
    counts = {
        "parameters": total.parameters,
        "parameters, trainable only": sum(w.numel for w in workload.weights if w.trainable),
        "parameters without norms": total.weights + total.biases,
        "weights only (no biases, no norms)": total.weights,
        "parameters that the call uses": total.parameters - workload.parameters_unused,
        "parameters of convolutions only": _convolution_parameters(workload),
        "parameters and running statistics": total.parameters + tools.running_statistics(workload),
        "parameters and all buffers (the state_dict)": total.parameters + workload.buffers,
    }
    return [Convention(name, "parameters", value) for name, value in counts.items()]


def _convolution_parameters(workload: Workload) -> int:
    used = {w.storage: w.numel for layer in workload.layers if layer.kind == "conv" for w in layer.weights}
    return sum(used.values())


def explain(workload: Workload, text: str, auxiliary: Workload | None = None) -> Explanation:
    """Which conventions give the published figure `text` for this network and input, the plain ones before the tools.
    Other input sizes are not tried."""
    published = parse(text)
    tried = [c for c in candidates(workload, auxiliary) if c.quantity in published.quantities and c.value]
    if not tried:
        raise InputError(f"{workload.name} has nothing of that kind to count")
    rounded = tuple(c for c in tried if published.is_rounded(c.value))
    cut = tuple(c for c in tried if published.is_cut(c.value) and c not in rounded)
    nearest = min(tried, key=lambda c: abs(c.value - published.value))
    error = float(100 * (nearest.value - published.value) / published.value)
    return Explanation(published, rounded, cut, nearest, error)


def document(found: Explanation, model: str, shape: Sequence[int]) -> dict[str, Any]:
    return {
        "model": model,
        "input": shape,
        "published": found.published.text,
        "rounded": [asdict(c) for c in found.rounded],
        "cut": [asdict(c) for c in found.cut],
        "nearest": asdict(found.nearest),
        "nearest_error_percent": found.error,
    }
