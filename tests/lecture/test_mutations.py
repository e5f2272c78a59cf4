"""Every claim's verdict can fail: a change of a network, a published figure or a constant under which it is another one."""

import json
from collections.abc import Callable
from dataclasses import fields, replace
from typing import Any

import pytest
import torch

from lamina.lecture import claims, degradation, facts, fit, multiscale, slides, summary
from lamina.lecture.slides import networks, trends
from lamina.zoo import registry
from tests.lecture.test_lecture import DEGRADED, LEARNT, made

Mutation = tuple[str, Callable[[pytest.MonkeyPatch, claims.Said], claims.Said | None]]
WORKLOAD, SPEC = facts.workload, registry.spec


def network(name: str, other: str = "", **changes: Any) -> Mutation:
    """`other` in the place of the network `name`, or the same with a changed configuration."""

    def mutate(patch: pytest.MonkeyPatch, said: claims.Said) -> None:
        def workload(asked: str, train: bool = False, batch: int = 1, **more: Any) -> Any:
            if asked != name:
                return WORKLOAD(asked, train, batch, **more)
            known = {field.name for field in fields(SPEC(other or name).config)}
            wanted = {key: value for key, value in (changes | more).items() if key in known}
            return WORKLOAD(other or name, train, batch, **wanted)

        patch.setattr(facts, "workload", workload)

    shown = ", ".join(f"{key} = {value}" for key, value in changes.items())
    return f"{other} in place of {name}" if other else f"{name} with {shown}", mutate


def published(name: str, figure: str, protocol: str, /, **changes: Any) -> Mutation:
    """Another published figure of a network."""

    def mutate(patch: pytest.MonkeyPatch, said: claims.Said) -> None:
        def spec(asked: str) -> registry.Spec:
            found = SPEC(asked)
            wanted = (name, figure, protocol)
            rows = tuple(
                {**row, **changes} if (asked, row["figure"], row["protocol"]) == wanted else row for row in found.figures
            )
            return replace(found, figures=rows)

        patch.setattr(registry, "spec", spec)

    shown = ", ".join(f"{key} {value}" for key, value in changes.items())
    return f"published {figure} of {name} ({protocol}): {shown}", mutate


def constant(module: Any, name: str, value: Any, shown: str = "") -> Mutation:
    return f"{name} = {shown or value}", lambda patch, said: patch.setattr(module, name, value)


def paper(id: str, shown: str, **figures: Any) -> Mutation:
    """Other figures of the paper that a claim rests on."""
    return f"paper: {shown}", lambda patch, said: {**said, id: replace(said[id], paper={**said[id].paper, **figures})}


def digits(train: int = 60_000, test: int = 10_000, side: int = 28) -> Mutation:
    def mutate(patch: pytest.MonkeyPatch, said: claims.Said) -> None:
        def load(split: str) -> Any:
            count = {"train": train, "test": test}[split]
            return torch.zeros(1, dtype=torch.uint8).expand(count, 1, side, side), torch.arange(count) % 10

        patch.setattr("lamina.lecture.slides.data.mnist.load", load)

    return f"{train:,} and {test:,} digits of {side}x{side}", mutate


def measured(shown: str, *args: Any, **norms: Any) -> Mutation:
    return shown, lambda patch, said: patch.setattr(degradation, "measured", lambda: made(*args, **norms))


UNGROUPED = network("alexnet", groups=(1, 1, 1, 1, 1))
DENSE = network("lenet5", "lenet5_dense")
VGG19 = network("vgg16", "vgg19")
NARROW = network("alexnet", "vgg16")
BATCH_NORM = network("googlenet", "googlenet_bn")
BN_INCEPTION = network("googlenet", "bn_inception")
RESNET101 = network("resnet50", "resnet101")

RECORD = fit.record


def a_fifth_lost() -> dict[str, Any]:
    """The record of dataflows with row stationary a fifth behind the best on one network."""
    found = json.loads(json.dumps(RECORD()))
    found["networks"][-1]["dataflows"]["rs"] |= {"energy_ratio": 1.2}
    return found


def growing(shown: str, change: Callable[[dict[str, Any]], None]) -> Mutation:
    """Other figures of the experiments of growing."""

    def mutate(patch: pytest.MonkeyPatch, said: claims.Said) -> None:
        found = json.loads(json.dumps(multiscale.measured()))
        change(found)
        patch.setattr(multiscale, "measured", lambda: found)

    return shown, mutate


def scratch_is_level(experiment: str) -> Mutation:
    """Training from scratch ends as the best arm does."""

    def change(found: dict[str, Any]) -> None:
        arms, measure = found[experiment], multiscale.MEASURES[experiment]
        known = [arm for arm in multiscale.TIME if arm in arms]
        best = max(known, key=lambda arm: multiscale.against(found, experiment, arm)[0])
        arms["scratch"][measure] = list(arms[best][measure])

    return growing(f"{experiment}: from scratch as good as grown", change)


def scratch_is_behind(found: dict[str, Any]) -> None:
    """Training from scratch ends far behind, with every seed alike."""
    for experiment in ("resnet_cifar", "vit_mnist", "gpt_characters"):
        arms, measure = found[experiment], multiscale.MEASURES[experiment]
        far, step = (-50.0, 0.1) if measure == "top1" else (5.0, 0.001)
        arms["scratch"][measure] = [arms["split"][measure][0] + far + i * step for i in range(3)]
        arms["split"][measure] = [arms["split"][measure][0] + i * step for i in range(3)]


BEHIND = growing("from scratch far behind", scratch_is_behind)


def moved_kernels(found: dict[str, Any]) -> None:
    """One seed of one network where unchanged kernels are as good as dilated ones."""
    by = found["transfer"]["plain"]["finer"]["other"]
    by["same"]["plain"][0] = by["dilated"]["plain"][0]


MUTATIONS: dict[str, Mutation] = {
    "mnist.size": digits(side=32),
    "mnist.count": digits(train=50_000),
    "imagenet.size": paper("size", "14,197,122 training images", train=14_197_122),
    "imagenet.metrics": published("googlenet", "top5_error", "one network, 1 crop", figure="map_error"),
    "lenet5.layers": DENSE,
    "lenet5.weights": DENSE,
    "lenet5.macs": DENSE,
    "lenet5.sigmoid": network("lenet5", "lenet_caffe"),
    "alexnet.layers": network("alexnet", "vgg11"),
    "alexnet.weights": UNGROUPED,
    "alexnet.macs": UNGROUPED,
    "alexnet.relu": network("alexnet", "lenet5"),
    "alexnet.lrn": network("alexnet", lrn=False),
    "alexnet.layer1": network("alexnet", "alexnet_owt"),
    "alexnet.layer2": UNGROUPED,
    "alexnet.layer3": network("alexnet", filters=(96, 256, 256, 384, 256)),
    "alexnet.layer4": UNGROUPED,
    "alexnet.layer5": UNGROUPED,
    "vgg.layers": VGG19,
    "vgg.weights": VGG19,
    "vgg.macs": VGG19,
    "vgg.stacked": NARROW,
    "vgg.field": NARROW,
    "vgg.vgg19": network("vgg19", "vgg16"),
    "googlenet.depth": BN_INCEPTION,
    "googlenet.total": BN_INCEPTION,
    "googlenet.fc": network("googlenet", "vgg16"),
    "googlenet.weights": BN_INCEPTION,
    "googlenet.macs": network("googlenet", wide_filter=3),
    "googlenet.bottleneck": constant(summary, "EXAMPLE", replace(summary.EXAMPLE, reduced=512), "512 reductions each"),
    "googlenet.example": constant(summary, "EXAMPLE", replace(summary.EXAMPLE, n3=208), "208 3x3 filters"),
    "googlenet.one_gpu": constant(networks, "GPU_2013", 1_000_000_000),
    "resnet.degradation": measured("56 plain layers learn and are behind; 56 residual layers are not", DEGRADED),
    "resnet.gradients": measured("the fresh gradient shrinks to 0.01 of its norm", LEARNT, fresh=(0.01,)),
    "resnet.bottleneck": RESNET101,
    "resnet.layers": RESNET101,
    "resnet.weights": RESNET101,
    "resnet.macs": RESNET101,
    "resnet.depths": network("resnet152", "resnet101"),
    "ilsvrc.falling": paper("falling", "11.7 % in 2014", errors={"2012": 16.4, "2013": 11.7, "2014": 11.7, "2015": 3.57}),
    "ilsvrc.human": published("resnet152", "top5_error", trends.SEVERAL_SCALES, value=5.2),
    "table.vgg_layers": VGG19,
    "table.googlenet_channels": network("googlenet", "resnet50"),
    "table.googlenet_filters": network("googlenet", "alexnet_owt"),
    "table.resnet_shapes": network("resnet50", "vgg16"),
    "table.lenet_conv": DENSE,
    "table.errors": published("googlenet", "top5_error", "7 networks, 144 crops", value=7.9),
    "densenet.concatenation": network("densenet121", "resnet50"),
    "densenet.efficiency": network("densenet169", "densenet161"),
    "wide_resnet.accuracy": published("wide_resnet50_2", "top1_error", "1 crop", value=23.0),
    "wide_resnet.parallel": network("wide_resnet50_2", "resnet152"),
    "resnext.cardinality": published("resnext50_32x4d", "top1_error", "1 crop", value=24.1),
    "transformer.shapes": network("transformer_base", "transformer_big"),
    "transformer.patches": network("vit_b_16", "vit_b_32"),
    "summary.deeper": network("lenet5", "resnet152"),
    "summary.small_filters": NARROW,
    "summary.one_by_one": network("googlenet", "vgg16"),
    "summary.paths": network("resnet50", "plain34"),
    "summary.lrn": BATCH_NORM,
    "summary.batch_norm": BATCH_NORM,
    "summary.flexible": constant(fit, "record", a_fifth_lost, "row stationary loses a fifth on ViT"),
    "theory.depth": scratch_is_level("resnet_cifar"),
    "theory.resolution": growing("one seed with the same kernels as good", moved_kernels),
    "theory.transformer": BEHIND,
}
FURTHER: list[tuple[str, Mutation]] = [
    ("theory.depth", constant(trends, "OPERATOR", "random")),
    ("theory.resolution", constant(multiscale, "MOVED", ("constant", "bilinear"), "no dilation")),
    ("theory.transformer", constant(multiscale, "OPERATOR", "random")),
    ("theory.transformer", scratch_is_level("vit_mnist")),
    ("theory.transformer", scratch_is_level("gpt_characters")),
]
CLAIMS = [f"{slide.key}.{id}" for slide in claims.slides() for id in slide.claims]


def verdicts(key: str, patch: pytest.MonkeyPatch, mutation: Mutation | None = None) -> dict[str, str]:
    """Of a slide's claims, on generated digits."""
    said = claims.slide(key).claims
    patch.setattr("lamina.lecture.slides.data.files.find", lambda *_: "here")
    digits()[1](patch, said)
    if mutation is not None:
        said = mutation[1](patch, said) or said
    return {id: row["verdict"] for id, row in slides.rows(key, slides.SLIDES[key](said)).items()}


@pytest.fixture(scope="module")
def found() -> dict[str, dict[str, str]]:
    with pytest.MonkeyPatch.context() as patch:
        return {slide.key: verdicts(slide.key, patch) for slide in claims.slides()}


def test_every_claim_has_a_mutation() -> None:
    assert list(MUTATIONS) == CLAIMS and len(CLAIMS) == 64


# A verdict that agrees with the slide is refuted; one that does not comes to agree, or to be one at all.
@pytest.mark.parametrize("claim", CLAIMS)
def test_the_verdict_changes_under_its_mutation(found, monkeypatch, claim) -> None:
    key, id = claim.split(".")
    before = found[key][id]
    after = verdicts(key, monkeypatch, MUTATIONS[claim])[id]
    wanted = {"confirmed": {"refuted"}, "explained": {"refuted"}, "refuted": {"confirmed"}}
    assert after in wanted.get(before, {"confirmed", "refuted"}), (before, after)


@pytest.mark.parametrize(("claim", "mutation"), FURTHER, ids=[f"{claim}: {shown}" for claim, (shown, _) in FURTHER])
def test_each_part_of_a_verdict_can_fail(monkeypatch, claim, mutation) -> None:
    """Where growing clearly pays, one part alone takes the verdict back."""
    key, id = claim.split(".")
    assert verdicts(key, monkeypatch, BEHIND)[id] == "confirmed"
    assert verdicts(key, monkeypatch, mutation)[id] == "refuted"


def test_claims_on_papers_say_so() -> None:
    resting = [claim for slide in claims.slides() for claim in slide.claims.values() if claim.rests_on]
    assert len(resting) == 6 and all(claim.rests_on == "paper" and claim.paper["source"] for claim in resting)


def test_digits_that_are_not_here(monkeypatch) -> None:
    monkeypatch.setattr("lamina.lecture.slides.data.files.find", lambda *_: None)
    rows = slides.rows("mnist", slides.SLIDES["mnist"](claims.slide("mnist").claims))
    assert {row["verdict"] for row in rows.values()} == {"not testable here"}
    assert all(row["lamina"] == "" and "LAMINA_DATA" in row["why"] for row in rows.values())
