"""Weights of fewer bits: a network that is quantised for inference by its weights alone (Dettmers et al. 2022, Frantar et al.
2023)."""

from lamina.workload import Weight, Workload, replace

TYPES = {"fp8": "float8_e4m3fn", "int8": "int8", "int4": "int4"}  # as the command line has them


def quantised(workload: Workload, dtype: str) -> Workload:
    """The same with the matrices and filters of all products in `dtype` (torch's name, as in `TYPES`), which are constant then;
    biases, norms, tables that are only looked up in, and activations stay as they are. Scales are not counted: they are a
    thousandth to a hundredth of the weights, as their blocks are wide."""
    factors = {w.storage for x in workload.layers if x.loops for w in x.weights if w.part == "weight" and len(w.shape) > 1}

    def small(weight: Weight) -> Weight:
        return replace(weight, dtype=dtype, trainable=False) if weight.storage in factors else weight

    made = {id(w): small(w) for w in workload.weights}
    layers = tuple(replace(x, weights=tuple(made.get(id(w)) or small(w) for w in x.weights)) for x in workload.layers)
    return replace(workload, layers=layers, weights=tuple(made[id(w)] for w in workload.weights))
