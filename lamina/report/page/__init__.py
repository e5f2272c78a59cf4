"""HTML pages that need nothing else: no request, no font, no library. One template a page, in this folder; `base.html` holds
what every page has. All that comes from data is escaped, except the SVG of figures, which is inserted as it is.
"""

import base64
import hashlib
import itertools
import re
from dataclasses import dataclass
from functools import cache, partial
from html import escape
from typing import Any

import jinja2

from lamina import units


@dataclass(frozen=True)
class Figure:
    """An `<svg>` element (see `lamina.report.plot`) and the line below it, which is also its text for screen readers."""

    svg: str
    caption: str

    def inline(self, number: int) -> str:
        """The element as the page's figure of this number: with ids that no other one has, a role and a name."""
        svg = re.sub(r'(\sid="|href="#|url\(#)', rf"\g<1>figure{number}-", self.svg)
        return svg.replace("<svg", f'<svg role="img" aria-label="{escape(self.caption)}"', 1)


def render(template: str, **values: Any) -> str:
    """The document that the template of this name makes of `values`; one that it asks for and is not given is an error."""
    return _environment().get_template(template).render(values, next_figure=partial(next, itertools.count(1)))


@cache
def _environment() -> jinja2.Environment:
    environment = jinja2.Environment(
        loader=jinja2.PackageLoader(__name__, ""),
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters |= {
        "bytes": units.bytes_,
        "count": "{:,}".format,
        "digits": "{:.3g}".format,
        "shape": units.shape,
        "sha256": lambda text: base64.b64encode(hashlib.sha256(text.encode()).digest()).decode(),
    }
    return environment
