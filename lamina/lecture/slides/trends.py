"""The slides that look back: the winners, the summary table, the summary, and what theory may say."""

import itertools
import json
from collections.abc import Mapping
from typing import Any

import torch

from lamina.lecture import facts, fit, multiscale
from lamina.lecture import summary as summaries
from lamina.lecture.claims import Finding, Findings, Said, judge
from lamina.workload import Workload
from lamina.zoo import registry

SEVERAL_SCALES = "one network, dense, several scales"


def top5_error(name: str, protocol: str) -> float | None:
    """As published, percent; None where no paper prints it."""
    figures = registry.spec(name).figures
    return next((f["value"] for f in figures if (f["figure"], f["protocol"]) == ("top5_error", protocol)), None)


def ilsvrc(said: Said) -> Findings:
    errors = said["falling"].paper["errors"]
    values = list(errors.values())
    human = said["human"].paper["human"]
    deep, table = (top5_error(name, SEVERAL_SCALES) or 100.0 for name in ("resnet152", "resnet50"))
    return {
        "falling": judge(
            all(later < earlier for earlier, later in itertools.pairwise(values)),
            found=", ".join(f"{year}: {error}" for year, error in errors.items()),
        ),
        # Some networks are, one is not.
        "human": judge(
            said["human"].lecture == f"< {human} %" and max(deep, table, values[-1]) < human,
            said["human"].lecture == f"< {human} %" and max(deep, values[-1]) < human <= table,
            ensemble=values[-1],
            deep=deep,
            table=table,
            human=human,
        ),
    }


# ---- the summary table --------------------------------------------------------------------------------------------------


def table(said: Said) -> Findings:
    cells = {row["network"]: row["cells"] for row in summaries.document()["rows"]}

    def cell(network: str, column: str, explained: bool = False, **figures: object) -> Finding:
        exact = cells[network][column]["exact"]
        return judge(summaries.same(cells[network][column]["lecture"], exact), explained, exact=exact, **figures)

    google, vgg = facts.workload("googlenet"), facts.workload("vgg16")
    entering = facts.channels(facts.multiplying(google))
    shapes = [cells["ResNet-50"][column] for column in ("stride", "filter_sizes", "filters")]
    return {
        "vgg_layers": cell("VGG-16", "conv_layers", connected=len(facts.fully_connected(vgg))),
        "googlenet_channels": cell(
            "GoogLeNet",
            "channels",
            summaries.span(entering) == said["googlenet_channels"].lecture,
            connected=entering[-1],
            most=facts.channels(facts.convolutions(google))[-1],
        ),
        "googlenet_filters": cell("GoogLeNet", "filters", least=facts.filters(facts.convolutions(google))[0]),
        "resnet_shapes": judge(
            all(summaries.same(c["lecture"], c["exact"]) for c in shapes),
            found="; ".join(str(c["exact"]) for c in shapes),
        ),
        "lenet_conv": lenet_convolutions(said),
        "errors": errors(said),
    }


def lenet_convolutions(said: Said) -> Finding:
    sparse, dense = facts.workload("lenet5"), facts.workload("lenet5_dense")
    weights, macs = facts.weights(facts.convolutions(sparse)), facts.macs(facts.convolutions(sparse))
    dense_weights = facts.weights(facts.convolutions(dense))
    rest = facts.connections(sparse) - facts.weights(facts.fully_connected(sparse))
    printed = said["lenet_conv"].figures

    def agree(*counts: int) -> bool:
        return all(facts.agrees(figure, exact) for figure, exact in zip(printed, counts, strict=True))

    return judge(agree(weights, macs), agree(dense_weights, rest), weights=weights, macs=macs, dense=dense_weights, rest=rest)


def errors(said: Said) -> Finding:
    """The slide's errors against the published ones: VGG's is that of VGG-19, and each is of another protocol."""
    published = {name: top5_error(name, protocol) for name, protocol in summaries.PROTOCOLS.items()}
    nineteen = top5_error("vgg19", summaries.PROTOCOLS["vgg16"])
    right = all(
        value is not None and facts.agrees(figure, value)
        for figure, value in zip(said["errors"].figures, (published | {"vgg16": nineteen}).values(), strict=True)
    )
    alike = len(set(summaries.PROTOCOLS.values())) == 1
    return judge(right and alike, right, found=", ".join(map(str, published.values())))


# ---- the summary --------------------------------------------------------------------------------------------------------


def summary(said: Said) -> Findings:
    works = {title: facts.workload(name) for title, name in facts.NETWORKS.items()}
    return {**shapes(works), **operations(works), "flexible": flexible()}


def listed(values: Mapping[str, object]) -> str:
    return ", ".join(f"{title} {value}" for title, value in values.items())


def shapes(works: dict[str, Workload]) -> Findings:
    depth = {title: facts.longest_path(work) + len(facts.fully_connected(work)) for title, work in works.items()}
    convolutions = {title: facts.convolutions(work) for title, work in works.items()}
    small = {
        title: facts.macs(layer for layer in found if layer.loops[0].filter[0] <= 3) / facts.macs(found)
        for title, found in convolutions.items()
    }
    points = {title: sum(layer.loops[0].filter == (1, 1) for layer in found) for title, found in convolutions.items()}
    return {
        "deeper": judge(list(depth.values()) == sorted(set(depth.values())), found=listed(depth)),
        "small_filters": judge(
            small["AlexNet"] < min(small["VGG-16"], small["GoogLeNet"], small["ResNet-50"]),
            found=listed({title: f"{100 * share:.0f} %" for title, share in small.items()}),
        ),
        "one_by_one": judge(
            min(points["GoogLeNet"], points["ResNet-50"]) > max(points["AlexNet"], points["VGG-16"]), found=listed(points)
        ),
    }


def operations(works: dict[str, Workload]) -> Findings:
    ops = {title: [layer.op for layer in work.layers] for title, work in works.items()}
    joins = {title: sum(op in ("cat", "add") for op in names) for title, names in ops.items() if title != "LeNet-5"}
    response = {title: names.count("local_response_norm") for title, names in ops.items()}
    batch = {title: ops[title].count("batch_norm") for title in ("GoogLeNet", "ResNet-50")}
    later = [response[title] for title in ("VGG-16", "GoogLeNet", "ResNet-50")]
    return {
        "paths": judge(min(joins["GoogLeNet"], joins["ResNet-50"]) > 0, found=listed(joins)),
        "lrn": judge(
            response["AlexNet"] > 0 and not any(later), found=listed({title: n for title, n in response.items() if n})
        ),
        "batch_norm": judge(batch["GoogLeNet"] > 0, found=listed(batch)),
    }


def flexible() -> Finding:
    energy, cycles = (fit.worst(goal) for goal in ("energy", "cycles"))
    shown = "; ".join(
        f"{title}: up to {energy[key][0]:.2f} x energy ({energy[key][1]}), {cycles[key][0]:.2f} x cycles ({cycles[key][1]})"
        for key, title in fit.FIXED.items()
    )
    loses = all(max(energy[key][0], cycles[key][0]) > fit.NOTABLE for key in fit.FIXED)
    return judge(loses, found=shown, networks=len(fit.record()["networks"]))


# ---- multiscale theory --------------------------------------------------------------------------------------------------

OPERATOR = "zero"  # how blocks are added: with a last batch norm of zero, so that they change nothing at first
TOLERANCE = 1e-5  # relative, of float32 outputs


def theory(said: Said) -> Findings:
    lost, blocks, top1 = refined()
    found = multiscale.measured()
    return {
        "depth": multiscale.depth(found, lost, TOLERANCE, before=blocks[0], after=blocks[1], top1=top1),
        "resolution": multiscale.resolution(found),
        "transformer": multiscale.transformer(found, TOLERANCE),
    }


def refined() -> tuple[float, tuple[int, int], float]:
    """The trained ResNet-20 that ships, with twice its blocks: the largest difference of its outputs, relative; its blocks
    before and after; and the accuracy it was trained to, percent."""
    from lamina.scale.growth import grow
    from lamina.weights import finding, loading, reading

    network = "resnet20_cifar"
    trained: Any = loading.load(network)
    deeper: Any = grow(trained, depth=2, operator={"depth": OPERATOR}).module.eval()
    images = torch.randn(16, 3, 32, 32, generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        before, after = trained(images), deeper(images)
    lost = float((before - after).abs().max() / before.abs().max())
    blocks = [sum(module.config.depths) for module in (trained, deeper)]
    recorded = json.loads(reading.read_metadata(finding.find(network).path)["result"])
    return lost, (blocks[0], blocks[1]), recorded["top1"]
