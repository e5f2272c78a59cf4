"""The lecture's claims, slide by slide, and its summary table as one HTML document."""

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from lamina.report import page
from lamina.report.page import Figure

# The verdicts in the order of the tally, with their CSS classes.
VERDICTS = {"confirmed": "confirmed", "refuted": "refuted", "explained": "explained", "not testable here": "untestable"}


@dataclass(frozen=True)
class Table:
    """Rows of text under column titles; the first column names the rows."""

    caption: str
    columns: Sequence[str]
    rows: Sequence[Sequence[str]]


@dataclass(frozen=True)
class Section:
    """One slide. A claim maps claim, lecture, lamina, verdict, why and command to text, and view to the
    address that shows it, if there is one; `text` has paragraphs, with blank
    lines between them. In prose `backticks` make code."""

    title: str
    text: str
    claims: Sequence[Mapping[str, str]]
    figures: Sequence[Figure] = ()
    tables: Sequence[Table] = ()


def render(title: str, intro: str, table: Mapping[str, Any], sections: Sequence[Section]) -> str:
    """The document.

    `table` is {"columns": [{"key", "title"}], "rows": [{"network", "cells": {key: {"lecture", "exact", "note"}}}],
    "notes": [text]}; notes count from 1. An unknown verdict is a KeyError.
    """
    counts = Counter(claim["verdict"] for section in sections for claim in section.claims)
    if unknown := set(counts) - set(VERDICTS):
        raise KeyError(*unknown)
    columns = [
        {**column, "numeric": all(isinstance(row["cells"][column["key"]]["exact"], int | float) for row in table["rows"])}
        for column in table["columns"]
    ]
    return page.render(
        "lecture.html",
        title=title,
        intro=intro,
        styles=VERDICTS,
        tally={verdict: counts[verdict] for verdict in VERDICTS},
        columns=columns,
        rows=table["rows"],
        notes=table["notes"],
        sections=sections,
    )
