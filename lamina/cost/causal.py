"""Causal attention counted exactly: only the pairs of query and key that its mask leaves."""

from lamina.workload import Layer, Workload, replace


def exact(workload: Workload) -> Workload:
    """The same network with causal attention counted exactly: S·(S+1)/2 pairs of S². In the two nests of such a layer N then
    runs over these pairs.

    Only attention that says it is causal changes (the `is_causal` of torch's function, whose mask lies in the top left
    corner, or `CausalBias`); a mask that is given as a tensor stays dense, for its values are not known. `attention` of
    the result says "causal".
    """
    return replace(workload, layers=tuple(_exact(layer) for layer in workload.layers), attention="causal")


def _exact(layer: Layer) -> Layer:
    if not layer.attributes.get("causal") or len(layer.loops) != 2:
        return layer
    scores, values = layer.loops
    count = pairs(scores.N, scores.M, layer.attributes.get("aligned") == "bottom right")
    return replace(layer, loops=(replace(scores, N=count, M=1), replace(values, N=count, C=1)))


def pairs(length: int, span: int, bottom_right: bool = False) -> int:
    """How many (query, key) pairs a causal mask of `length` queries and `span` keys leaves.

    Query i sees keys 0 … i where the mask lies in the top left corner (torch's `is_causal`), and 0 … i + span - length
    where it lies in the bottom right (the last query sees every key: a key/value cache). For length = span = S both are
    S·(S+1)/2.
    """
    shift = span - length if bottom_right else 0
    first = max(0, -shift)  # queries before it see nothing
    last = max(first, min(length, span - shift))  # queries from it on see every key
    return (first + last + 1 + 2 * shift) * (last - first) // 2 + (length - last) * span
