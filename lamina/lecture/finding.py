"""What we find on a claim."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal

Verdict = Literal["confirmed", "refuted", "explained", "not testable here"]


@dataclass(frozen=True)
class Finding:
    lamina: str
    verdict: Verdict
    why: str = ""


Findings = Mapping[str, Finding]
