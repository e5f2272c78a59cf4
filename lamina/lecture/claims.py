"""The lecture's claims, as claims.toml has them, and what we find on each.

The file holds every text: the slide's own figure or words, and, by verdict, what Lamina says of it. The functions in `slides`
compute the verdict and the figures that fill the texts.
"""

import tomllib
from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cache
from importlib.resources import files
from typing import Any, Literal

from lamina.lecture import facts

Verdict = Literal["confirmed", "refuted", "explained", "not testable here"]


@dataclass(frozen=True)
class Claim:
    """One claim. `lecture` is the slide's figure; `lamina` the form of ours; `why` has a reason by verdict, or one for "any";
    `parts` are pieces of reasons, by name and case. A claim that `rests_on` papers alone has their figures in `paper`, with a
    `source`."""

    id: str
    claim: str
    lecture: str
    lamina: str
    command: str
    why: Mapping[str, str]
    parts: Mapping[str, Mapping[str, str]] = field(default_factory=dict)
    rests_on: Literal["", "paper"] = ""
    paper: Mapping[str, Any] = field(default_factory=dict)

    @property
    def figures(self) -> list[str]:
        """The slide's figures one by one: "34k, 105M" is ["34k", "105M"]."""
        return self.lecture.split(", ")


@dataclass(frozen=True)
class Slide:
    key: str
    title: str
    claims: Mapping[str, Claim]
    text: str = ""  # a paragraph of the page


@dataclass(frozen=True)
class Finding:
    """A verdict, the `figures` that fill the claim's texts, and which case of each of its `parts` holds."""

    verdict: Verdict
    figures: Mapping[str, Any] = field(default_factory=dict)
    parts: Mapping[str, str] = field(default_factory=dict)


Said = Mapping[str, Claim]  # a slide's claims, by id
Findings = Mapping[str, Finding]


@cache
def slides() -> tuple[Slide, ...]:
    """In the lecture's order."""
    rows = tomllib.loads(files("lamina.lecture").joinpath("claims.toml").read_text(encoding="utf-8"))["slide"]
    return tuple(
        Slide(row["key"], row["title"], {c["id"]: Claim(**c) for c in row["claim"]}, row.get("text", "").strip())
        for row in rows
    )


def slide(key: str) -> Slide:
    return next(slide for slide in slides() if slide.key == key)


def row(title: str, claim: Claim, finding: Finding) -> dict[str, str]:
    """{"slide", "claim", "lecture", "lamina", "verdict", "why", "command"}."""
    figures = dict(finding.figures)
    for name, case in finding.parts.items():
        figures[name] = claim.parts[name][case].format_map(figures)
    return {
        "slide": title,
        "claim": claim.claim,
        "lecture": claim.lecture,
        "lamina": claim.lamina.format_map(figures) if figures else "",
        "verdict": finding.verdict,
        "why": (claim.why.get(finding.verdict) or claim.why.get("any") or UNEXPECTED[finding.verdict]).format_map(figures),
        "command": claim.command,
    }


# What is said where claims.toml has no reason for a verdict, because the networks as they are do not come to it.
UNEXPECTED: Mapping[Verdict, str] = {
    "confirmed": "",
    "refuted": "the lecture's figure and ours differ",
    "explained": "the figures differ, by another way of counting",
    "not testable here": "what it needs is not here",
}


# ---- verdicts -----------------------------------------------------------------------------------------------------------


def judge(holds: bool, explained: bool = False, **figures: Any) -> Finding:
    """Confirmed if the claim `holds`; else explained if the figure that the slide prints was arrived at in a way that we could
    follow to its digits (`explained`); else refuted."""
    return Finding("confirmed" if holds else "explained" if explained else "refuted", figures)


def count(claim: Claim, exact: float, other: float | None = None, **figures: Any) -> Finding:
    """The slide's figure against an exact count; `other` is a count of something else that may explain it."""
    explained = other is not None and facts.agrees(claim.lecture, other)
    return judge(facts.agrees(claim.lecture, exact), explained, exact=exact, **figures)


def untestable(**figures: Any) -> Finding:
    return Finding("not testable here", figures)
