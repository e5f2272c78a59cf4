"""The lecture's claims as one HTML document that needs nothing else: no request, no font, no library.

All that comes from data is escaped, except the SVG of figures, which is inserted as it is, with ids of its own.
"""

import re
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from html import escape
from importlib.resources import files
from string import Template
from typing import Any

# The verdicts in the order of the tally, with their CSS classes.
VERDICTS = {"confirmed": "confirmed", "refuted": "refuted", "explained": "explained", "not testable here": "untestable"}


@dataclass(frozen=True)
class Figure:
    """An `<svg>` element (see `lamina.report.plot`) and the line below it, which is also its text for screen readers."""

    svg: str
    caption: str


@dataclass(frozen=True)
class Table:
    """Rows of text under column titles; the first column names the rows."""

    caption: str
    columns: Sequence[str]
    rows: Sequence[Sequence[str]]


@dataclass(frozen=True)
class Section:
    """One slide. A claim maps slide, claim, lecture, lamina, verdict, why and command to text; `text` has paragraphs
    parted by blank lines."""

    title: str
    text: str
    claims: Sequence[Mapping[str, str]]
    figures: Sequence[Figure] = ()
    tables: Sequence[Table] = ()


def render(title: str, intro: str, table: Mapping[str, Any], sections: Sequence[Section]) -> str:
    """The document.

    `table` is {"columns": [{"key", "title"}], "rows": [{"network", "cells": {key: {"lecture", "exact", "note"}}}],
    "notes": [text]}; notes count from 1. In prose (not in claims) `backticks` make code. An unknown verdict is a KeyError.
    """
    counts = Counter(claim["verdict"] for section in sections for claim in section.claims)
    buttons = [_button("all", "", "claims", counts.total())]
    buttons += [_button(style, verdict, verdict, counts[verdict]) for verdict, style in VERDICTS.items()]
    columns, rows = table["columns"], table["rows"]
    cells = {c["key"]: [row["cells"].get(c["key"]) for row in rows] for c in columns}
    numeric = {key: all(isinstance(cell["exact"], (int, float)) for cell in column if cell) for key, column in cells.items()}
    figures = iter(range(1, 1 + sum(len(section.figures) for section in sections)))
    return Template(files(__name__).joinpath("page.html").read_text("utf-8")).substitute(
        title=escape(title),
        intro=_paragraphs(intro),
        bar="".join(f'<i class="{VERDICTS[v]}" style="flex:{counts[v]}"></i>' for v in VERDICTS if counts[v]),
        tally="\n".join(buttons),
        contents="\n".join(_entry(number, section) for number, section in enumerate(sections, 1)),
        head="".join(f'<th scope="col"{_number(numeric[c["key"]])}>{escape(c["title"])}</th>' for c in columns),
        rows="\n".join(
            f'<tr><th scope="row">{escape(row["network"])}</th>'
            + "".join(_cell(row["cells"].get(key), numeric[key]) for key in cells)
            + "</tr>"
            for row in rows
        ),
        notes="\n".join(f'<li id="note-{number}">{_prose(note)}</li>' for number, note in enumerate(table["notes"], 1)),
        sections="\n".join(_section(number, section, figures) for number, section in enumerate(sections, 1)),
    )


def _button(style: str, verdict: str, label: str, count: int) -> str:
    pressed = "false" if verdict else "true"
    return (
        f'<button type="button" class="{style}" data-verdict="{verdict}" aria-pressed="{pressed}">'
        f"<strong>{count}</strong> {label}</button>"
    )


def _entry(number: int, section: Section) -> str:
    dots = "".join(f'<i class="{VERDICTS[claim["verdict"]]}"></i>' for claim in section.claims)
    return f'<li><a href="#slide-{number}">{escape(section.title)}<span class="dots" aria-hidden="true">{dots}</span></a></li>'


def _cell(cell: Mapping[str, Any] | None, numeric: bool) -> str:
    if cell is None:
        return "<td></td>"
    lecture, exact, note = escape(str(cell["lecture"])), cell["exact"], cell.get("note")
    many = isinstance(exact, (list, tuple))
    ours = ", ".join(map(_value, exact)) if many else _value(exact)
    link = f'<sup><a href="#note-{note}" aria-label="note {note}">{note}</a></sup>' if note is not None else ""
    return (
        f'<td{_number(numeric)}><span class="lecture"><span class="unseen">lecture: </span>{lecture}</span>'
        f'<span class="ours{" list" if many else ""}"><span class="unseen">Lamina: </span>{escape(ours)}{link}</span></td>'
    )


def _value(value: Any) -> str:
    return f"{value:,}" if isinstance(value, int) else str(value)


def _number(numeric: bool) -> str:
    return ' class="number"' if numeric else ""


def _section(number: int, section: Section, figures: Iterator[int]) -> str:
    claims = "\n".join(_claim(claim, section.title) for claim in section.claims)
    parts = [f"<h2>{escape(section.title)}</h2>", _paragraphs(section.text)]
    parts += [f'<ol class="claims">\n{claims}\n</ol>'] if claims else []
    parts += [_table(table) for table in section.tables]
    parts += [_figure(next(figures), figure) for figure in section.figures]
    return f'<section class="slides" id="slide-{number}">\n' + "\n".join(parts) + "\n</section>"


def _claim(claim: Mapping[str, str], title: str) -> str:
    text = {key: escape(value) for key, value in claim.items()}
    slide = f'<span class="slide">{text["slide"]}</span>' if claim["slide"] not in ("", title) else ""
    command = f'<p class="command"><code>{text["command"]}</code></p>' if claim["command"] else ""
    why = f"<p>{_prose(claim['why'])}</p>" if claim["why"] else ""
    return f"""<li class="claim {VERDICTS[claim["verdict"]]}" data-verdict="{text["verdict"]}">
<div>{slide}<h3>{text["claim"]}</h3>{why}{command}</div>
<div class="result"><span class="badge">{text["verdict"]}</span>
<dl><dt>Lecture</dt><dd>{text["lecture"]}</dd><dt>Lamina</dt><dd class="ours">{text["lamina"]}</dd></dl></div>
</li>"""


def _table(table: Table) -> str:
    head = "".join(f'<th scope="col"{_number(at > 0)}>{escape(title)}</th>' for at, title in enumerate(table.columns))
    rows = "\n".join(
        f'<tr><th scope="row">{escape(name)}</th>'
        + "".join(f'<td class="number">{escape(cell)}</td>' for cell in cells)
        + "</tr>"
        for name, *cells in table.rows
    )
    return f"""<div class="scroll" role="region" aria-label="{escape(table.caption)}" tabindex="0">
<table class="summary">
<caption><span>{_prose(table.caption)}</span></caption>
<thead><tr>{head}</tr></thead>
<tbody>
{rows}
</tbody>
</table>
</div>"""


def _figure(number: int, figure: Figure) -> str:
    """The figure with ids that no other one has, and with a role and a name for screen readers."""
    svg = re.sub(r'(\sid="|href="#|url\(#)', rf"\g<1>figure{number}-", figure.svg)
    svg = svg.replace("<svg", f'<svg role="img" aria-label="{escape(figure.caption)}"', 1)
    return (
        f'<figure><div class="scroll" role="region" aria-label="Figure {number}" tabindex="0">{svg}</div>\n'
        f"<figcaption>{_prose(figure.caption)}</figcaption></figure>"
    )


def _paragraphs(text: str) -> str:
    return "\n".join(f"<p>{_prose(part.strip())}</p>" for part in re.split(r"\n\s*\n", text) if part.strip())


def _prose(text: str) -> str:
    return re.sub(r"`([^`]+)`", r"<code>\1</code>", escape(text))
