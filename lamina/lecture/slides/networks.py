"""The slides on LeNet-5, AlexNet, VGG-16, GoogLeNet and ResNet."""

import math
from fractions import Fraction
from typing import Any

import torch

from lamina.lecture import degradation, facts, summary
from lamina.lecture.claims import Claim, Finding, Findings, Said, count, judge
from lamina.workload import Workload
from lamina.zoo import lenet


def layers(claim: Claim, work: Workload, explained: bool = False, **figures: object) -> Finding:
    """The slide's "2 CONV, 2 FC" against the network's."""
    text = f"{len(facts.convolutions(work))} CONV, {len(facts.fully_connected(work))} FC"
    return judge(text == claim.lecture, explained, found=text, **figures)


# ---- LeNet-5 ------------------------------------------------------------------------------------------------------------


def lenet5(said: Said) -> Findings:
    work = facts.workload("lenet5")
    total, connections = work.total(), facts.connections(work)
    listed = ", ".join(sorted(facts.activations(work)))
    activations, (amplitude, slope, is_sigmoid) = facts.activations(work), squashing()
    return {
        "layers": layers(said["layers"], work),
        "weights": count(said["weights"], total.parameters, links=links(work), all_links=6 * 16),
        "macs": count(said["macs"], total.macs, connections, connections=connections),
        "sigmoid": judge(
            activations == {"sigmoid"},
            activations == {"tanh"} and is_sigmoid,
            found=f"{amplitude:.4f} tanh({slope.numerator}a/{slope.denominator})" if activations == {"tanh"} else listed,
        ),
    }


def links(work: Workload) -> int:
    """How many pairs of an input and an output map C3 joins."""
    layer = facts.convolutions(work)[1]
    return facts.weights([layer]) // math.prod(layer.loops[0].filter)


def squashing() -> tuple[float, Fraction, bool]:
    """The paper's function A tanh(S a): A, S, and whether it is a logistic sigmoid, scaled and moved to be odd."""
    a = torch.linspace(-8, 8, 1601, dtype=torch.float64)
    amplitude = float(lenet.squash(torch.tensor(100.0, dtype=torch.float64)))
    slope = float(torch.atanh(lenet.squash(torch.ones((), dtype=torch.float64)) / amplitude))
    moved = amplitude * (2 * torch.sigmoid(2 * slope * a) - 1)
    return amplitude, Fraction(slope).limit_denominator(100), bool((lenet.squash(a) - moved).abs().max() < 1e-12)


# ---- AlexNet ------------------------------------------------------------------------------------------------------------


def alexnet(said: Said) -> Findings:
    work = facts.workload("alexnet")
    ops = [layer.op for layer in work.layers]
    norms = [layer.attributes for layer in work.layers if layer.op == "local_response_norm"]
    constants = {(n["size"], n["k"], round(n["alpha"] / n["size"], 9), n["beta"]) for n in norms}
    found = {
        "layers": layers(said["layers"], work),
        "weights": count(said["weights"], work.total().weights),
        "macs": count(said["macs"], work.total().macs),
        "relu": judge(
            facts.activations(work) == {"relu"} and ops.count("relu") == len(facts.multiplying(work)) - 1,
            count=ops.count("relu"),
        ),
        "lrn": judge(constants == {(5, 2, 1e-4, 0.75)}, count=len(norms)),  # the paper's, section 3.3
    }
    rows = zip(summary.alexnet_layers(), facts.convolutions(work), strict=False)
    found |= {f"layer{row['layer']}": alexnet_layer(row, layer.loops[0].G) for row, layer in rows}
    return {id: found.get(id, Finding("refuted")) for id in said}


def alexnet_layer(row: dict[str, Any], groups: int) -> Finding:
    printed = row["lecture"]
    shape = all(row[key] == printed[key] for key in ("filter", "filters", "channels", "stride"))
    counts = all(facts.agrees(printed[key], row[key]) for key in ("weights", "macs") if key in printed)
    return Finding("confirmed" if shape and counts else "refuted", row, {"group": "yes" if groups > 1 else "no"})


# ---- VGG ----------------------------------------------------------------------------------------------------------------


def vgg(said: Said) -> Findings:
    work = facts.workload("vgg16")
    total, example = work.total(), summary.stacked_filters()
    weights, fields = (example["one_5x5"], example["two_3x3"]), example["receptive_fields"]
    one, two = example["macs_on_5x5_input"]
    e = facts.workload("vgg19")
    convolutions, connected = len(facts.convolutions(e)), len(facts.fully_connected(e))
    return {
        "layers": layers(said["layers"], work),
        "weights": count(said["weights"], total.parameters, weights=total.weights),
        "macs": count(said["macs"], total.macs),
        "stacked": judge(f"{weights[0]} -> {weights[1]}" == said["stacked"].lecture, one=weights[0], two=weights[1]),
        "field": judge(fields[0] == fields[1], one=fields[0], two=fields[1], macs=one, stacked_macs=two, pixel=weights[1]),
        "vgg19": judge(str(convolutions + connected) == said["vgg19"].lecture, convolutions=convolutions, connected=connected),
    }


# ---- GoogLeNet ----------------------------------------------------------------------------------------------------------

GPU_2013 = 12_000_000_000  # bytes of NVIDIA's Tesla K40, its product brief
BATCH = 32


def googlenet(said: Said) -> Findings:
    work = facts.workload("googlenet")
    floor = facts.macs(facts.convolutions(facts.workload("googlenet", ceil_mode=False)))
    with_heads = facts.workload("googlenet", aux=True, train=True).total().parameters
    reductions = [layer for layer in work.layers if layer.kind == "conv" and ".reduce" in layer.module]
    return {
        "depth": count(said["depth"], facts.longest_path(work)),
        "total": count(said["total"], len(facts.convolutions(work))),
        "fc": count(said["fc"], len(facts.fully_connected(work))),
        "weights": count(said["weights"], work.total().weights, with_heads=with_heads),
        "macs": count(said["macs"], work.total().macs, floor, floor=floor),
        **bottlenecks(said, len(reductions)),
        "one_gpu": one_gpu(),
    }


def bottlenecks(said: Said, reductions: int) -> Findings:
    example = summary.bottleneck()
    before, after = said["example"].lecture.split(" -> ")
    direct, reduced, twice = (example[key] for key in ("direct", "reduced", "with_3x3_twice"))
    right = facts.agrees(before, direct)
    fewer = reduced < direct and example["network"] < direct and facts.weights(summary.inception_3b()) < summary.EXAMPLE.weights
    return {
        "bottleneck": judge(reductions > 0 and fewer, count=reductions, network=example["network"], direct=direct),
        "example": judge(
            right and facts.agrees(after, reduced),
            right and facts.agrees(after, twice),
            direct=direct,
            reduced=reduced,
            twice=twice,
        ),
    }


def one_gpu() -> Finding:
    needed = facts.training_bytes("googlenet", BATCH, aux=True)
    return judge(
        needed < GPU_2013,
        needed=f"{needed / 1e9:.1f} GB",
        gpu=f"{GPU_2013 / 1e9:.0f} GB",
        batch=BATCH,
        alexnet=f"{facts.training_bytes('alexnet', BATCH) / 1e9:.1f} GB",
        alexnet_128=f"{facts.training_bytes('alexnet', 128) / 1e9:.1f} GB",
    )


# ---- ResNet -------------------------------------------------------------------------------------------------------------

DEPTHS = ("resnet34", "resnet152", "resnet1202_cifar")


def resnet(said: Said) -> Findings:
    work = facts.workload("resnet50")
    r34, r50 = facts.workload("resnet34").total(), work.total()
    path, convolutions = facts.longest_path(work), facts.convolutions(work)
    projections = [layer for layer in convolutions if "downsample" in layer.module]
    on_path = f"{path} CONV, {len(facts.fully_connected(work))} FC"
    all_counted = path + len(projections) == len(convolutions)
    networks = {name: facts.workload(name) for name in DEPTHS}
    depths = [facts.longest_path(network) + len(facts.fully_connected(network)) for network in networks.values()]
    return {
        **degradation.findings(degradation.measured()),
        "bottleneck": judge(
            abs(r50.macs / r34.macs - 1) < 0.1,
            before=r34.macs,
            after=r50.macs,
            macs=100 * (r50.macs / r34.macs - 1),
            parameters=100 * (r50.parameters / r34.parameters - 1),
        ),
        "layers": layers(
            said["layers"], work, on_path == said["layers"].lecture and all_counted, path=path, projections=len(projections)
        ),
        "weights": count(said["weights"], r50.weights),
        "macs": count(said["macs"], r50.macs, later=facts.workload("resnet50_v1_5").total().macs),
        "depths": judge(
            ", ".join(map(str, depths)) == said["depths"].lecture,
            found=", ".join(f"{name} {network.total().parameters:,}" for name, network in networks.items()),
        ),
    }
