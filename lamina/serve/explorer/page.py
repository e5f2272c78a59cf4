"""The explorer's page as one HTML document that needs nothing else: no request, no font, no library from elsewhere.

Its script and style come from `web/` (`npm ci && npm run build` writes `static/`). The page's policy lets these two run, by
their hashes, and nothing besides: no attribute of style, no request.
"""

import base64
import hashlib
import json
from collections.abc import Mapping, Sequence
from functools import cache
from html import escape
from importlib.resources import files
from typing import Any

from lamina import __version__

ICON = (  # three thin layers
    "PHN2ZyB4bWxucz0iaHR0cDovL3d3dy53My5vcmcvMjAwMC9zdmciIHZpZXdCb3g9IjAgMCAxNiAxNiI+PGcgZmlsbD0iIzJmN2ZjMSI+PHBhdGggZD0iTTggMSAx"
    "NSA0LjUgOCA4IDEgNC41eiIvPjxwYXRoIGQ9Ik04IDkuNiAxMy40IDYuOSAxNSA3LjcgOCAxMS4yIDEgNy43IDIuNiA2Ljl6IiBvcGFjaXR5PSIuNzUiLz48cGF0"
    "aCBkPSJNOCAxMi44IDEzLjQgMTAuMSAxNSAxMC45IDggMTQuNCAxIDEwLjkgMi42IDEwLjF6IiBvcGFjaXR5PSIuNSIvPjwvZz48L3N2Zz4="
)


@cache
def part(name: str) -> str:
    """A built file: "explorer.js" or "explorer.css"."""
    return files("lamina.serve.explorer").joinpath("static", name).read_text(encoding="utf-8")


def data(
    networks: Sequence[Mapping[str, Any]],
    comparisons: Mapping[str, Any],
    machines: Sequence[Mapping[str, Any]],
    accelerators: Sequence[str],
    zoo: Sequence[Mapping[str, Any]],
    served: bool = False,
    lecture: bool = False,
) -> dict[str, Any]:
    """What a page begins with. `networks` are documents (lamina.serve.explorer.document), the first of them is shown;
    `comparisons` are those of `lamina.cost.compare` by "one other"."""
    return {
        "version": __version__,
        "served": served,
        "lecture": lecture,
        "networks": networks,
        "comparisons": comparisons,
        "machines": machines,
        "accelerators": accelerators,
        "zoo": zoo,
    }


# Of the page that its server gives: its own files and answers, and what it makes itself (`blob:`).
POLICY = (
    "default-src 'none'; script-src 'self'; style-src 'self'; connect-src 'self'; img-src 'self' data: blob:; "
    "base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
)


def served(values: Mapping[str, Any]) -> str:
    """The page of `values` that its server gives, with `POLICY` in the header of the answer."""
    style = '<link rel="stylesheet" href="explorer.css">'
    return _html("Lamina", "", style, values, '<script src="explorer.js"></script>')


def policy(script: str, style: str) -> str:
    """What the page may do: run these sources and draw. (The files that it saves are made of `blob:` addresses.)"""
    return (
        f"default-src 'none'; script-src {script}; style-src {style}; img-src data: blob:; base-uri 'none'; form-action 'none'"
    )


def document(values: Mapping[str, Any], title: str) -> str:
    """The self-contained page of `values`, which are `data`'s."""
    script, style = part("explorer.js"), part("explorer.css")
    meta = f'<meta http-equiv="Content-Security-Policy" content="{policy(_hash(script), _hash(style))}">\n'
    return _html(title, meta, f"<style>{style}</style>", values, f"<script>{script}</script>")


def _html(title: str, head: str, style: str, values: Mapping[str, Any], script: str) -> str:
    # Within a script element "<" alone could end it, or begin a comment.
    embedded = json.dumps(values, separators=(",", ":"), ensure_ascii=False).replace("<", "\\u003c")
    return f"""<!DOCTYPE html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<meta name="color-scheme" content="light dark">
{head}<title>{escape(title)}</title>
<link rel="icon" type="image/svg+xml" href="data:image/svg+xml;base64,{ICON}">
{style}
</head>
<body>
<div id="explorer"><noscript>The explorer draws by JavaScript; <code>lamina cost --html</code> needs
none.</noscript></div>
<script type="application/json" id="data">{embedded}</script>
{script}
</body>
</html>
"""


def _hash(text: str) -> str:
    return f"'sha256-{base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()}'"
