"""One function a slide: what we find on each of its claims. `claims.toml` holds the slides' own words and figures.

Long, because a finding is its figure, its verdict and its reason, and there are more than sixty of them.
"""

import tomllib
from collections.abc import Callable
from functools import cache
from importlib.resources import files
from typing import Any

import torch

from lamina import units
from lamina.hardware.fixed import ARRAY, DATAFLOWS, spatial
from lamina.lecture import degradation, facts, summary
from lamina.lecture.finding import Finding, Findings, Verdict
from lamina.workload import Layer
from lamina.zoo import registry


@cache
def claims() -> list[dict[str, Any]]:
    """The slides in order: {"key", "title", "claim": [{"id", "claim", "lecture", "command"}]}."""
    return tomllib.loads(files("lamina.lecture").joinpath("claims.toml").read_text())["slide"]


def document() -> list[dict[str, str]]:
    """[{"slide", "claim", "lecture", "lamina", "verdict", "why", "command"}] of all claims, in order."""
    rows = []
    for slide in claims():
        findings = SLIDES[slide["key"]]()
        for claim in slide["claim"]:
            finding = findings[claim["id"]]
            row = {"slide": slide["title"], "claim": claim["claim"], "lecture": claim["lecture"], "lamina": finding.lamina}
            rows.append(row | {"verdict": finding.verdict, "why": finding.why, "command": claim["command"]})
    return rows


def later(what: str) -> Finding:
    return Finding("", "not testable here", what)


def count(figure: str, exact: int, why: str = "", otherwise: str = "", verdict: Verdict = "explained") -> Finding:
    """A figure of the slide against an exact count: confirmed if it rounds to it, else `verdict` with `otherwise`."""
    if facts.agrees(figure, exact):
        return Finding(f"{exact:,}", "confirmed", why)
    return Finding(f"{exact:,}", verdict, otherwise)


def layers(conv: int, fc: int, name: str, why: str = "") -> Finding:
    work = facts.workload(name)
    ours = (len(facts.convolutions(work)), len(facts.fully_connected(work)))
    text = f"{ours[0]} CONV, {ours[1]} FC"
    return Finding(text, "confirmed" if ours == (conv, fc) else "explained", why)


def mnist() -> Findings:
    from lamina.data import files as data_files
    from lamina.data import mnist as data

    if any(data_files.find("mnist", file) is None for file in data.SHA256):
        missing = later("counted from the files where they are at hand: set LAMINA_DATA to a folder that holds mnist/")
        return {"size": missing, "count": missing}
    images, labels = data.load("train")
    test_images, test_labels = data.load("test")
    size = "x".join(map(str, images.shape[2:]))
    classes = len(set(labels.tolist()) | set(test_labels.tolist()))
    right = (size, classes) == ("28x28", 10)
    counts = (len(images), len(test_images))
    return {
        "size": Finding(f"{size}, {classes}", "confirmed" if right else "refuted", "counted from the files"),
        "count": Finding(
            f"{counts[0]:,} + {counts[1]:,}",
            "confirmed" if counts == (60000, 10000) else "refuted",
            "counted from the files",
        ),
    }


def imagenet() -> Findings:
    return {
        "size": later(
            "the data are not here; `lamina eval` takes a folder of them. The pictures have many sizes: 256x256 is the"
            " customary resizing"
        ),
        "metrics": Finding(
            "top-1, top-5",
            "confirmed",
            "the percent of pictures whose label is the best, or among the five best, of the scores; `lamina eval` computes"
            " both",
        ),
    }


def lenet5() -> Findings:
    work = facts.workload("lenet5")
    activations = {layer.op for layer in work.layers if layer.kind == "activation"}
    return {
        "layers": layers(
            2,
            2,
            "lenet5",
            "C5, a convolution whose filter covers its whole input, counts as fully connected; the RBF output has no weights",
        ),
        "weights": count("60k", work.total().parameters, "all trainable parameters, with the sparse C3 (60 of 96 links)"),
        "macs": Finding(
            f"{work.total().macs:,}",
            "explained",
            f"341k are the paper's {connections():,} connections, which count biases, subsampling and the RBF units",
        ),
        "sigmoid": Finding(
            "1.7159 tanh(2a/3)" if activations == {"tanh"} else ", ".join(sorted(activations)),
            "explained",
            "the paper's squashing function is a scaled hyperbolic tangent: a sigmoid shape, but odd",
        ),
    }


def connections() -> int:
    """LeNet-5's connections as its paper counts them (section II.B): every output pixel's inputs and its bias."""
    total = 0
    for layer in facts.workload("lenet5").layers:
        pixels = layer.outputs[0].numel
        if layer.loops:  # C1, C3, C5, F6: one connection a MAC, and one bias an output
            total += layer.macs + pixels
        elif layer.op.startswith("avg_pool"):  # S2, S4: four inputs and a bias
            total += 5 * pixels
    return total + 10 * 84  # RBF: every unit sees the 84 states


def alexnet() -> Findings:
    work = facts.workload("alexnet")
    ops = [layer.op for layer in work.layers]
    activations = {layer.op for layer in work.layers if layer.kind == "activation"}
    found: dict[str, Finding] = {
        "layers": layers(5, 3, "alexnet"),
        "weights": count("61M", work.total().weights, "without biases, with groups in layers 2, 4 and 5"),
        "macs": count("724M", work.total().macs, "without biases, with groups and a first map of 55x55"),
        "relu": Finding(
            f"{ops.count('relu')} ReLU layers",
            "confirmed" if activations == {"relu"} else "refuted",
            "behind every layer but the last",
        ),
        "lrn": Finding(
            f"{ops.count('local_response_norm')} LRN layers",
            "confirmed" if "local_response_norm" in ops else "refuted",
            "behind the first two layers: k = 2, n = 5, alpha = 1e-4 on the sum of squares, beta = 0.75",
        ),
    }
    for row in summary.alexnet_layers():
        printed = row["lecture"]
        shape = all(row[key] == printed[key] for key in ("filter", "filters", "channels", "stride"))
        counts = all(facts.agrees(printed[key], row[key]) for key in ("weights", "macs") if key in printed)
        grouped = " a group" if row["channels"] in (48, 192) else ""
        text = (
            f"{row['filters']} of {row['filter']} over {row['channels']}{grouped}, stride {row['stride']}; {row['weights']:,},"
            f" {row['macs']:,}"
        )
        cut = "34,848 weights are cut to 34k, not rounded" if row["layer"] == 1 else ""
        completes = "" if "weights" in printed else "the slides give no counts for this layer: these complete the table"
        found[f"layer{row['layer']}"] = Finding(text, "confirmed" if shape and counts else "refuted", cut or completes)
    return found


def vgg() -> Findings:
    work = facts.workload("vgg16")
    example = summary.stacked_filters()
    fields, weights = example["receptive_fields"], (example["one_5x5"], example["two_3x3"])
    conv19 = facts.convolutions(facts.workload("vgg19"))
    return {
        "layers": layers(13, 3, "vgg16"),
        "weights": count("138M", work.total().parameters, f"{work.total().weights:,} without biases"),
        "macs": count("15.5G", work.total().macs),
        "stacked": Finding(
            f"{weights[0]} -> {weights[1]}",
            "confirmed" if weights == (25, 18) else "refuted",
            "a channel; a rectifier stands between them",
        ),
        "field": Finding(
            f"{fields[0]}x{fields[0]} and {fields[1]}x{fields[1]}",
            "confirmed" if fields[0] == fields[1] else "refuted",
            "on the slide's 5x5 input the 5x5 filter takes {} MACs; the two 3x3 filters take {} for its one output, because"
            " nothing is shared with neighbours: on large maps they take 18 to the pixel".format(*example["macs_on_5x5_input"]),
        ),
        "vgg19": Finding(f"{len(conv19)} CONV, 3 FC", "confirmed" if len(conv19) + 3 == 19 else "refuted", "configuration E"),
    }


def googlenet() -> Findings:
    work = facts.workload("googlenet")
    total, floor = work.total(), facts.workload("googlenet", ceil_mode=False)
    example = summary.bottleneck()
    reduce = [layer for layer in work.layers if layer.kind == "conv" and ".reduce" in layer.module]
    batch = 32
    training = {name: training_bytes(name, batch) for name in ("googlenet", "alexnet")}
    gigabytes = {name: f"{size / 1e9:.1f} GB" for name, size in training.items()}
    return {
        "depth": count(
            "21", facts.longest_path(work), "the most convolutions on a path from input to output, found on the graph"
        ),
        "total": count("57", len(facts.convolutions(work)), "without the two auxiliary heads"),
        "fc": count("1", len(facts.fully_connected(work)), "without the two auxiliary heads, which have two each"),
        "weights": count(
            "7.0M",
            total.weights,
            "without biases and auxiliary heads; with heads and biases"
            f" {facts.workload('googlenet', aux=True, train=True).total().parameters:,}",
        ),
        "macs": Finding(
            f"{total.macs:,}",
            "explained",
            f"pools that round down give {facts.macs(facts.convolutions(floor)):,} in convolutions, the slide's 1.43G; the"
            " paper's map sizes need rounding up",
        ),
        "bottleneck": Finding(
            f"{len(reduce)} reductions",
            "confirmed" if example["reduced"] < example["direct"] else "refuted",
            f"inception 3b of the real network: {example['network']:,} MACs, {example['direct']:,} without its 1x1 reductions",
        ),
        "example": Finding(
            f"{example['direct']:,} -> {example['reduced']:,}",
            (
                "explained"
                if facts.agrees("854M", example["direct"]) and facts.agrees("358M", example["with_3x3_twice"])
                else "refuted"
            ),
            f"the 854M are right; 358M ({example['with_3x3_twice']:,}) comes only if the 3x3 branch is counted twice",
        ),
        "one_gpu": Finding(
            gigabytes["googlenet"],
            "confirmed" if training["googlenet"] < GPU_2013 else "refuted",
            f"weights, gradients, momentum and saved activations of batch {batch} with both auxiliary heads, against 12 GB of a"
            f" Tesla K40 (2013); AlexNet, trained on two 3 GB cards with batch 128, needs {gigabytes['alexnet']} at batch"
            f" {batch} and {training_bytes('alexnet', 128) / 1e9:.1f} GB at 128",
        ),
    }


GPU_2013 = 12_000_000_000  # bytes of NVIDIA's Tesla K40, its product brief


def training_bytes(name: str, batch: int) -> int:
    """What a step of SGD with momentum holds in fp32: weights, gradients, momentum, input, saved activations."""
    changes = {"aux": True} if name == "googlenet" else {}
    work = facts.workload(name, train=True, batch=batch, **changes)
    inputs = sum(t.bytes for t in work.inputs)
    return 3 * sum(w.bytes for w in work.weights) + work.saved_bytes + inputs


def resnet() -> Findings:
    work = facts.workload("resnet50")
    r34, r50 = facts.workload("resnet34").total(), work.total()
    depths = {n: registry.counts()[n]["parameters"] for n in ("resnet34", "resnet152", "resnet1202_cifar")}
    path = facts.longest_path(work)
    return {
        **degradation.findings(degradation.measured()),
        "bottleneck": Finding(
            f"{r34.macs:,} -> {r50.macs:,} MACs",
            "confirmed" if abs(r50.macs / r34.macs - 1) < 0.1 else "refuted",
            f"{100 * (r50.macs / r34.macs - 1):.1f} % more MACs, {100 * (r50.parameters / r34.parameters - 1):.1f} % more"
            " parameters",
        ),
        "layers": Finding(
            f"{len(facts.convolutions(work))} CONV, {len(facts.fully_connected(work))} FC",
            "explained" if path == 49 else "refuted",
            f"{path} on the longest path, and the four projections of the shortcuts besides",
        ),
        "weights": count("25.5M", r50.weights, "without batch norm's scales and shifts"),
        "macs": count(
            "3.9G",
            r50.macs,
            f"v1, stride in the first 1x1 convolution; v1.5 has {facts.workload('resnet50_v1_5').total().macs:,}",
        ),
        "depths": Finding(
            ", ".join(f"{n} {p:,}" for n, p in depths.items()),
            "confirmed",
            "parameters; the 1202-layer network is for CIFAR-10, 32x32",
        ),
    }


# Top-5 errors of the winners, percent: Russakovsky et al., arXiv 1409.0575, Table 2 and the winners' papers. AlexNet's and
# GoogLeNet's were read in the source, the others written down from memory.
ILSVRC = {2010: 28.2, 2011: 25.8, 2012: 16.4, 2013: 11.7, 2014: 6.67, 2015: 3.57}
HUMAN = 5.1  # Russakovsky et al., section 6.4: one trained annotator


def ilsvrc() -> Findings:
    errors = list(ILSVRC.values())
    best = next(f for f in registry.spec("resnet152").figures if f["figure"] == "top5_error" and "scales" in f["protocol"])
    single = next(f for f in registry.spec("resnet50").figures if f["figure"] == "top5_error" and "scales" in f["protocol"])
    return {
        "falling": Finding(
            ", ".join(f"{year}: {e}" for year, e in ILSVRC.items()),
            "confirmed" if errors == sorted(errors, reverse=True) else "refuted",
            "published figures, not measured here; 2012 and 2014 were read in their papers, the other years are from memory",
        ),
        "human": Finding(
            f"{ILSVRC[2015]} (ensemble), {best['value']} (ResNet-152)",
            "explained" if best["value"] < HUMAN < single["value"] else "refuted",
            "published, not measured here: ensembles and ResNet-152 at several scales are below one trained annotator's 5.1;"
            f" ResNet-50 alone, the table's network, is not ({single['value']})",
        ),
    }


def table() -> Findings:
    cells = {row["network"]: row["cells"] for row in summary.document()["rows"]}

    def cell(network: str, column: str, why: str, off: Verdict) -> Finding:
        c = cells[network][column]
        same = summary.same(c["lecture"], c["exact"])
        return Finding(str(c["exact"]), "confirmed" if same else off, "" if same else why)

    shapes = [cells["ResNet-50"][k] for k in ("stride", "filter_sizes", "filters")]
    lenet = cells["LeNet-5"]
    errors = [cells[n]["top5_error"]["exact"] for n in ("AlexNet", "VGG-16", "GoogLeNet", "ResNet-50")]
    return {
        "vgg_layers": cell(
            "VGG-16", "conv_layers", "13 convolutions and 3 fully connected layers; its own slide has 13", "refuted"
        ),
        "googlenet_channels": cell(
            "GoogLeNet", "channels", "1,024 channels enter the fully connected layer; convolutions see 832 at most", "explained"
        ),
        "googlenet_filters": cell("GoogLeNet", "filters", "the 5x5 reductions of 3a and 4a have 16 filters", "refuted"),
        "resnet_shapes": Finding(
            "; ".join(str(c["exact"]) for c in shapes),
            "confirmed" if all(summary.same(c["lecture"], c["exact"]) for c in shapes) else "refuted",
        ),
        "lenet_conv": Finding(
            f"{lenet['conv_weights']['exact']:,}, {lenet['conv_macs']['exact']:,}",
            "explained",
            "2,550 weights are a dense C3's, 282,828 a remainder of the sparse network's connections: no single variant gives"
            " both",
        ),
        "errors": Finding(
            ", ".join(map(str, errors)),
            "explained",
            "published figures of mixed protocols: five networks, many crops of VGG-19, seven networks of 144 crops, one"
            " network at several scales",
        ),
    }


def published_error(name: str, protocol: str = "1 crop") -> float:
    """A network's top-1 error on ImageNet as printed, percent; the lowest where several sources print one."""
    figures = registry.spec(name).figures
    return min(f["value"] for f in figures if (f["figure"], f["protocol"]) == ("top1_error", protocol))


def beside(name: str) -> str:
    """Published error, parameters and MACs in a line."""
    entry = registry.spec(name)
    return f"{name} {published_error(name)} % ({units.si(entry.parameters)}, {units.macs(entry.macs)})"


def densenet() -> Findings:
    work = facts.workload("densenet121")
    joined = sum(layer.op == "cat" and len(layer.inputs) > 1 for layer in work.layers)
    pairs = [("densenet169", "resnet50"), ("densenet264", "resnet152")]
    better = all(
        published_error(dense) <= published_error(residual)
        and registry.spec(dense).macs < registry.spec(residual).macs
        and registry.spec(dense).parameters < registry.spec(residual).parameters
        for dense, residual in pairs
    )
    return {
        "concatenation": Finding(
            f"{joined} concatenations, {sum(layer.op == 'add' for layer in work.layers)} additions in DenseNet-121",
            "confirmed" if joined and not any(layer.op == "add" for layer in work.layers) else "refuted",
        ),
        "efficiency": Finding(
            "; ".join(f"{beside(dense)} against {beside(residual)}" for dense, residual in pairs),
            "confirmed" if better else "refuted",
            "our counts; single-crop top-1 errors as published by the DenseNet authors and for fb.resnet.torch, on whose code"
            " theirs is built",
        ),
    }


def wide_resnet() -> Findings:
    wide, deep = facts.workload("wide_resnet50_2"), facts.workload("resnet152")
    steps = [facts.longest_path(work) + 1 for work in (wide, deep)]
    a_step = [work.total().macs // n for work, n in zip((wide, deep), steps, strict=True)]
    return {
        "accuracy": Finding(
            f"{beside('wide_resnet50_2')} against {beside('resnet152')}",
            "confirmed" if published_error("wide_resnet50_2") < published_error("resnet152") else "refuted",
            "our counts; single-crop top-1 errors as published by the authors and for fb.resnet.torch",
        ),
        "parallel": Finding(
            f"{units.macs(a_step[0])} in each of {steps[0]} steps against {units.macs(a_step[1])} in each of {steps[1]}",
            "explained" if a_step[0] > 2 * a_step[1] else "refuted",
            "at nearly the same MACs the wide network has a third of the layers that must wait for each other; measured times"
            " come with the benchmarks",
        ),
    }


# Xie et al. 2016, Table 2: cardinality and width of a path at the complexity of ResNet-50.
CARDINALITIES = ((1, 64), (2, 40), (4, 24), (8, 14), (32, 4))


def resnext() -> Findings:
    totals = {}
    for cardinality, width in CARDINALITIES:
        widths = tuple(cardinality * width * 2**stage for stage in range(4))
        changes = {"cardinality": cardinality, "widths": widths, "outputs": (256, 512, 1024, 2048), "stride_in": "3x3"}
        totals[f"{cardinality}x{width}d"] = facts.workload("resnet50", **changes).total()
    macs = [t.macs for t in totals.values()]
    errors = published_error("resnext50_32x4d"), published_error("resnet50")
    return {
        "cardinality": Finding(
            ", ".join(f"{name} {units.macs(t.macs)}" for name, t in totals.items()),
            "confirmed" if max(macs) < 1.05 * min(macs) and errors[0] < errors[1] else "refuted",
            f"MACs of 50 layers over cardinality: within {100 * (max(macs) / min(macs) - 1):.1f} %; published single-crop top-1"
            f" errors: 32x4d {errors[0]} %, ResNet-50 {errors[1]} %",
        )
    }


def transformer() -> Findings:
    base, vit = facts.workload("transformer_base"), facts.workload("vit_b_16")
    attention = [layer for layer in base.layers if len(layer.loops) == 2]
    where = [sum(part in layer.module for layer in attention) for part in ("encoder", "decoder")]
    heads = attention[0].inputs[0].shape
    patch = next(layer for layer in vit.layers if layer.kind == "conv")
    tokens = next(layer for layer in vit.layers if len(layer.loops) == 2).inputs[0].shape[-2]
    share = sum(layer.macs for layer in vit.layers if len(layer.loops) == 2) / vit.total().macs
    return {
        "shapes": Finding(
            f"{where[0]} attentions in the encoder, {where[1]} in the decoder; Q, K, V of {heads[-3]} heads, {heads[-1]} wide",
            "confirmed" if where == [6, 12] and heads[-3] * heads[-1] == 512 else "refuted",
            "transformer_base: each decoder layer attends to itself and to the encoder's output",
        ),
        "patches": Finding(
            f"{'x'.join(map(str, patch.loops[0].output))} patches of {'x'.join(map(str, patch.loops[0].filter))}, {tokens}"
            " tokens",
            "confirmed" if patch.loops[0].filter == patch.loops[0].stride == (16, 16) and tokens == 197 else "refuted",
            f"ViT-B/16 on 224x224, the class token included; attention's own two products are {100 * share:.1f} % of its MACs",
        ),
    }


def utilisations(name: str) -> tuple[list[Layer], list[list[float]]]:
    """The layers with loops, and for each dataflow the share of a 12x14 array at work in each of them."""
    chosen = [layer for layer in facts.workload(name).layers if layer.loops]

    def share(layer: Layer, dataflow: Any) -> float:
        total = sum(nest.macs for nest in layer.loops)  # several nests run one after the other
        return total / sum(nest.macs / spatial(nest, dataflow).utilisation for nest in layer.loops)

    return chosen, [[share(layer, dataflow) for layer in chosen] for dataflow in DATAFLOWS]


FIT = ("alexnet", "vgg16", "googlenet", "resnet50")


def summary_slide() -> Findings:
    works = {title: facts.workload(name) for title, name in facts.NETWORKS.items()}
    depth = {title: facts.longest_path(work) + len(facts.fully_connected(work)) for title, work in works.items()}
    smallest = {
        t: sum(m.macs for m in facts.convolutions(w) if m.loops[0].filter[0] <= 3) / facts.macs(facts.convolutions(w))
        for t, w in works.items()
    }
    points = {t: sum(layer.loops[0].filter == (1, 1) for layer in facts.convolutions(w)) for t, w in works.items()}
    joins = {t: sum(layer.op in ("cat", "add") for layer in w.layers) for t, w in works.items() if t != "LeNet-5"}
    ops = {t: [layer.op for layer in w.layers] for t, w in works.items()}
    norms = {t: names.count("batch_norm") for t, names in ops.items()}
    lrn = {t: names.count("local_response_norm") for t, names in ops.items()}
    wins, lows = [0] * len(DATAFLOWS), [1.0] * len(DATAFLOWS)
    for name in FIT:
        for column in zip(*utilisations(name)[1], strict=True):
            wins[max(range(len(column)), key=column.__getitem__)] += 1
            lows = [min(low, value) for low, value in zip(lows, column, strict=True)]
    fit = "; ".join(
        f"{d.name}: best in {w}, down to {100 * low:.1f} %" for d, w, low in zip(DATAFLOWS, wins, lows, strict=True)
    )
    return {
        "deeper": Finding(
            ", ".join(f"{t} {d}" for t, d in depth.items()),
            "confirmed" if list(depth.values()) == sorted(depth.values()) else "refuted",
            "convolutions and fully connected layers on the longest path",
        ),
        "small_filters": Finding(
            ", ".join(f"{t} {100 * s:.0f} %" for t, s in smallest.items()),
            (
                "confirmed"
                if smallest["AlexNet"] < min(smallest["VGG-16"], smallest["GoogLeNet"], smallest["ResNet-50"])
                else "refuted"
            ),
            "share of the convolutions' MACs in filters of 3x3 or smaller",
        ),
        "one_by_one": Finding(
            ", ".join(f"{t} {n}" for t, n in points.items()),
            (
                "confirmed"
                if min(points["GoogLeNet"], points["ResNet-50"]) > max(points["AlexNet"], points["VGG-16"])
                else "refuted"
            ),
            "1x1 convolutions in each network",
        ),
        "paths": Finding(
            ", ".join(f"{t} {n}" for t, n in joins.items()),
            "confirmed" if min(joins["GoogLeNet"], joins["ResNet-50"]) > 0 else "refuted",
            "places where paths meet again, by concatenation or addition",
        ),
        "lrn": Finding(
            ", ".join(f"{t} {n}" for t, n in lrn.items() if n),
            "refuted" if lrn["GoogLeNet"] else "confirmed",
            "LRN layers: GoogLeNet (v1) still has them; VGG and ResNet do not",
        ),
        "batch_norm": Finding(
            f"GoogLeNet {norms['GoogLeNet']}, ResNet-50 {norms['ResNet-50']}",
            "confirmed" if norms["GoogLeNet"] else "refuted",
            "batch norm layers: GoogLeNet (v1) has none and normalises by LRN; batch norm came with BN-Inception (arXiv"
            " 1502.03167)",
        ),
        "flexible": Finding(
            fit,
            "confirmed" if min(wins) > 0 else "refuted",
            f"layers of AlexNet, VGG-16, GoogLeNet and ResNet-50 on a {ARRAY[0]}x{ARRAY[1]} array without replication: each"
            " fixed dataflow is the best for some layers and poor in others",
        ),
    }


def theory() -> Findings:
    from lamina.scale.growth import grow

    generator_state = torch.random.get_rng_state()
    try:
        torch.manual_seed(0)
        module = registry.build("resnet50").eval()
        x = torch.randn(1, 3, 64, 64)
        with torch.no_grad():
            before, after = module(x), grow(module, depth=(3, 4, 7, 3), operator={"depth": "zero"}).module(x)
    finally:
        torch.random.set_rng_state(generator_state)
    difference = float((before - after).abs().max() / before.abs().max())
    return {
        "depth": Finding(
            f"largest relative difference {difference:.1e}",
            "confirmed" if difference < 1e-5 else "refuted",
            "ResNet-50 with a seventh block in stage 3 whose last batch norm is zero (zero insertion): the same outputs to"
            " rounding, on random weights and input. Splitting blocks, where the step size changes, comes with the scaling"
            " part",
        ),
        "resolution": later("Galerkin restriction and prolongation of kernels come with the scaling part"),
        "transformer": later(
            "the growth operators of the Transformer, and what can be said of them, come with the scaling part"
        ),
    }


SLIDES: dict[str, Callable[[], Findings]] = {
    "mnist": mnist,
    "imagenet": imagenet,
    "lenet5": lenet5,
    "alexnet": alexnet,
    "vgg": vgg,
    "googlenet": googlenet,
    "resnet": resnet,
    "ilsvrc": ilsvrc,
    "table": table,
    "densenet": densenet,
    "wide_resnet": wide_resnet,
    "resnext": resnext,
    "transformer": transformer,
    "summary": summary_slide,
    "theory": theory,
}
