"""One function per slide: what we find on each of its claims (`lamina.lecture.claims`)."""

from collections.abc import Callable

from lamina.lecture import claims
from lamina.lecture.claims import Findings, Said
from lamina.lecture.slides import data, networks, successors, trends

SLIDES: dict[str, Callable[[Said], Findings]] = {
    "mnist": data.digits,
    "imagenet": data.photos,
    "lenet5": networks.lenet5,
    "alexnet": networks.alexnet,
    "vgg": networks.vgg,
    "googlenet": networks.googlenet,
    "resnet": networks.resnet,
    "ilsvrc": trends.ilsvrc,
    "table": trends.table,
    "densenet": successors.densenet,
    "wide_resnet": successors.wide_resnet,
    "resnext": successors.resnext,
    "transformer": successors.transformer,
    "summary": trends.summary,
    "theory": trends.theory,
}


def document() -> list[dict[str, str]]:
    """[{"slide", "claim", "lecture", "lamina", "verdict", "why", "command"}] of all claims, in order."""
    return [row for slide in claims.slides() for row in rows(slide.key, SLIDES[slide.key](slide.claims)).values()]


def rows(key: str, findings: Findings) -> dict[str, dict[str, str]]:
    """The rows of the slide's claims that `findings` has, by the claim's id."""
    slide = claims.slide(key)
    return {id: claims.row(slide.title, claim, findings[id]) for id, claim in slide.claims.items() if id in findings}
