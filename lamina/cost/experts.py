"""Mixtures of experts: the parameters that one token meets."""

from collections.abc import Iterator, Sequence

from lamina.workload import Weight, Workload


def active_parameters(workload: Workload) -> int:
    """Parameters that one token meets. In a mixture of experts a router chooses k of E experts (a layer with the attributes
    `k` and `of`): of the experts beside it, E modules in a list or weights stacked to E, k/E count; of everything else
    all. A network without routers is active as a whole."""
    share: dict[int, tuple[int, int]] = {}
    for layer in workload.layers:
        k, experts = layer.attributes.get("k"), layer.attributes.get("of")
        if isinstance(k, int) and isinstance(experts, int) and k < experts:
            for storage in _nearest(workload.weights, layer.module, experts):
                share[storage] = (k, experts)
    counts = [(w.numel, *share.get(w.storage, (1, 1))) for w in workload.weights]
    return sum(numel * k // experts for numel, k, experts in counts)


def _nearest(weights: Sequence[Weight], router: str, experts: int) -> set[int]:
    """The storages of the nearest group of so many experts: in the router's module, or the two modules around it."""
    scope = router.split(".") if router else []
    for depth in range(len(scope), max(-1, len(scope) - 3), -1):
        inside = [(w, parts) for w in weights if (parts := w.names[0].split("."))[:depth] == scope[:depth]]
        found = set(_listed(inside, depth, experts)) or set(_stacked(inside, experts))
        if found:
            return found
    return set()


def _listed(weights: Sequence[tuple[Weight, list[str]]], depth: int, experts: int) -> Iterator[int]:
    """Experts that are modules of a list: the weights of lists of so many members."""
    lists: dict[tuple[str, ...], dict[str, set[int]]] = {}
    for weight, parts in weights:
        place = next((i for i, part in enumerate(parts[depth:], depth) if part.isdigit()), None)
        if place is not None:
            lists.setdefault(tuple(parts[:place]), {}).setdefault(parts[place], set()).add(weight.storage)
    for members in lists.values():
        if len(members) == experts:
            for storages in members.values():
                yield from storages


def _stacked(weights: Sequence[tuple[Weight, list[str]]], experts: int) -> Iterator[int]:
    """Experts whose weights are stacked along a first axis: (E, ., .), and what follows of length E in the same module."""
    homes: set[tuple[str, ...]] = set()
    for weight, parts in weights:
        if weight.shape and weight.shape[0] == experts:
            home = tuple(parts[:-1])
            if len(weight.shape) == 3 or home in homes:
                homes.add(home)
                yield weight.storage
