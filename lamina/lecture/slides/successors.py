"""The slides on DenseNet, Wide ResNet, ResNeXt, the Transformer and ViT."""

from lamina import units
from lamina.lecture import facts
from lamina.lecture.claims import Findings, Said, judge
from lamina.zoo import registry


def published_error(name: str, protocol: str = "1 crop") -> float:
    """A network's top-1 error on ImageNet as printed, percent; the lowest where several sources print one."""
    figures = registry.spec(name).figures
    return min(f["value"] for f in figures if (f["figure"], f["protocol"]) == ("top1_error", protocol))


def beside(name: str) -> str:
    """Published error, parameters and MACs in a line."""
    total = facts.workload(name).total()
    return f"{name} {published_error(name)} % ({units.si(total.parameters)}, {units.macs(total.macs)})"


def densenet(said: Said) -> Findings:
    ops = [layer.op for layer in facts.workload("densenet121").layers if layer.op != "cat" or len(layer.inputs) > 1]
    pairs = [("densenet169", "resnet50"), ("densenet264", "resnet152")]
    totals = [tuple(facts.workload(name).total() for name in pair) for pair in pairs]
    fewer = all(dense.macs < other.macs and dense.parameters < other.parameters for dense, other in totals)
    right = all(published_error(dense) <= published_error(other) for dense, other in pairs)
    return {
        "concatenation": judge("cat" in ops and "add" not in ops, joined=ops.count("cat"), added=ops.count("add")),
        "efficiency": judge(fewer and right, found="; ".join(f"{beside(a)} against {beside(b)}" for a, b in pairs)),
    }


def wide_resnet(said: Said) -> Findings:
    wide, deep = facts.workload("wide_resnet50_2"), facts.workload("resnet152")
    steps = [facts.longest_path(work) + len(facts.fully_connected(work)) for work in (wide, deep)]
    each = [work.total().macs // n for work, n in zip((wide, deep), steps, strict=True)]
    alike = abs(wide.total().macs / deep.total().macs - 1) < 0.1
    return {
        "accuracy": judge(
            published_error("wide_resnet50_2") < published_error("resnet152"),
            wide=beside("wide_resnet50_2"),
            deep=beside("resnet152"),
        ),
        # More parallel by the counts; how much faster that is depends on the machine.
        "parallel": judge(
            False,
            alike and each[0] > 2 * each[1] and 2 * steps[0] < steps[1],
            wide=units.macs(each[0]),
            steps=steps[0],
            deep=units.macs(each[1]),
            deep_steps=steps[1],
        ),
    }


# Xie et al. 2016, Table 2: cardinality and width of a path at the complexity of ResNet-50.
CARDINALITIES = ((1, 64), (2, 40), (4, 24), (8, 14), (32, 4))


def resnext(said: Said) -> Findings:
    macs = {}
    for cardinality, width in CARDINALITIES:
        widths = tuple(cardinality * width * 2**stage for stage in range(4))
        changes = {"cardinality": cardinality, "widths": widths, "outputs": (256, 512, 1024, 2048), "stride_in": "3x3"}
        macs[f"{cardinality}x{width}d"] = facts.workload("resnet50", **changes).total().macs
    least, most = min(macs.values()), max(macs.values())
    error, plain = published_error("resnext50_32x4d"), published_error("resnet50")
    return {
        "cardinality": judge(
            most < 1.05 * least and error < plain,
            found=", ".join(f"{name} {units.macs(n)}" for name, n in macs.items()),
            spread=100 * (most / least - 1),
            error=error,
            plain=plain,
        )
    }


def transformer(said: Said) -> Findings:
    base, vit = facts.workload("transformer_base"), facts.workload("vit_b_16")
    attention = [layer for layer in base.layers if len(layer.loops) == 2]
    encoder, decoder = (sum(part in layer.module for layer in attention) for part in ("encoder", "decoder"))
    heads, _, width = attention[0].inputs[0].shape[-3:]
    patch = next(layer for layer in vit.layers if layer.kind == "conv").loops[0]
    mixing = [layer for layer in vit.layers if len(layer.loops) == 2]
    tokens = mixing[0].inputs[0].shape[-2]
    places = patch.output[0] * patch.output[1]
    return {
        # Vaswani et al. 2017, section 3: six layers each, d_model 512, eight heads
        "shapes": judge(
            (encoder, decoder, heads, width) == (6, 12, 8, 64), encoder=encoder, decoder=decoder, heads=heads, width=width
        ),
        "patches": judge(
            units.shape(patch.filter) == units.shape(patch.stride) == said["patches"].lecture and tokens == places + 1,
            patches=units.shape(patch.output),
            size=units.shape(patch.filter),
            tokens=tokens,
            share=100 * sum(layer.macs for layer in mixing) / vit.total().macs,
        ),
    }
