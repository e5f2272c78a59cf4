"""How much of a fixed array of processing elements the lecture's networks keep at work, under three fixed dataflows."""

from lamina.hardware.fixed import ARRAY, DATAFLOWS, Dataflow, spatial
from lamina.lecture import facts
from lamina.workload import Layer

__all__ = ["ARRAY", "DATAFLOWS", "FIT", "compared", "utilisations"]

FIT = ("alexnet", "vgg16", "googlenet", "resnet50")


def utilisations(name: str) -> tuple[list[Layer], list[list[float]]]:
    """The layers with loops, and for each dataflow the share of the array at work in each of them."""
    chosen = facts.multiplying(facts.workload(name))

    def share(layer: Layer, dataflow: Dataflow) -> float:
        total = sum(nest.macs for nest in layer.loops)  # several nests run one after the other
        return total / sum(nest.macs / spatial(nest, dataflow).utilisation for nest in layer.loops)

    return chosen, [[share(layer, dataflow) for layer in chosen] for dataflow in DATAFLOWS]


def compared() -> tuple[dict[str, int], dict[str, float]]:
    """By dataflow: how many layers it is the best for, and the least share in any layer."""
    wins, lows = [0] * len(DATAFLOWS), [1.0] * len(DATAFLOWS)
    for name in FIT:
        for column in zip(*utilisations(name)[1], strict=True):
            wins[max(range(len(column)), key=column.__getitem__)] += 1
            lows = [min(low, value) for low, value in zip(lows, column, strict=True)]
    names = [dataflow.name for dataflow in DATAFLOWS]
    return dict(zip(names, wins, strict=True)), dict(zip(names, lows, strict=True))
