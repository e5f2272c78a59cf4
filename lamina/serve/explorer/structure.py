"""The layers of a network as a tree of modules, for a graph that unfolds."""

from collections.abc import Sequence
from dataclasses import dataclass

from lamina.workload import Layer

MOST = 400  # children that one group shows at a time
CHUNK = 100  # consecutive children of a group that has more


@dataclass(frozen=True)
class Group:
    """A module that holds others. The first of a tree is the network itself, with the path "" and the parent -1; the others
    follow their parents. A path is a module's, or a module's with "#" and a number: a stretch of one that has too many
    children to show."""

    path: str
    label: str
    type: str
    parent: int


def tree(layers: Sequence[Layer]) -> tuple[list[Group], list[int], list[str]]:
    """The groups; and for each layer the place of its group, and what it is called there.

    A layer that is a leaf module belongs to the module around it, an operation to the module whose forward calls it.
    """
    homes = [_home(layer) for layer in layers]
    holders = {path for path, _ in homes}
    for path in list(holders):
        holders |= {path[:i] for i, letter in enumerate(path) if letter == "."}
    # what is called on its own and holds operations besides, such as a module that another one looks into
    homes = [(layer.module, layer.name) if layer.module in holders else home for layer, home in zip(layers, homes, strict=True)]
    types = {layer.module: layer.module_type for layer in reversed(layers) if layer.module in holders}
    groups, places = [Group("", "", types.get("", ""), -1)], {"": 0}
    for path, _ in homes:
        _add(path, types, groups, places)
    labels = [name[len(path) :].lstrip("./") or name.rpartition(".")[2] for path, name in homes]
    return _split(groups, [places[path] for path, _ in homes], labels)


def _home(layer: Layer) -> tuple[str, str]:
    """The path of the group that a layer belongs to, and the layer's name."""
    if not layer.module or layer.name.startswith(f"{layer.module}/"):
        return layer.module, layer.name
    return layer.module.rpartition(".")[0], layer.name


def _add(path: str, types: dict[str, str], groups: list[Group], places: dict[str, int]) -> None:
    if path in places:
        return
    above, _, label = path.rpartition(".")
    _add(above, types, groups, places)
    places[path] = len(groups)
    groups.append(Group(path, label, types.get(path, ""), places[above]))


def _split(groups: list[Group], of: list[int], labels: list[str]) -> tuple[list[Group], list[int], list[str]]:
    """The same tree with the children of each group that has more than `MOST` in stretches of `CHUNK`, in their order."""
    children: dict[int, dict[tuple[str, int], None]] = {}  # by group, in order: ("layer", place) or ("group", place)
    for layer, group in enumerate(of):
        child = ("layer", layer)
        while child not in children.setdefault(group, {}):
            children[group][child] = None
            child, group = ("group", group), groups[group].parent
            if group < 0:
                break
    moved: dict[tuple[str, int], int] = {}
    result = list(groups)
    for group, inside in children.items():
        if len(inside) <= MOST:
            continue
        members = list(inside)
        for start in range(0, len(members), CHUNK):
            some = members[start : start + CHUNK]
            moved |= dict.fromkeys(some, len(result))
            number = start // CHUNK
            label = f"{start + 1} to {start + len(some)}"
            result.append(Group(f"{groups[group].path}#{number}", label, "", group))
    result = [Group(g.path, g.label, g.type, moved.get(("group", i), g.parent)) for i, g in enumerate(result)]
    return result, [moved.get(("layer", i), group) for i, group in enumerate(of)], labels
