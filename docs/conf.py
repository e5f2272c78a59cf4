"""The documentation site: `make docs` builds it into docs/_site."""

import sys
from pathlib import Path
from typing import Any

HERE = Path(__file__).parent
sys.path[:0] = [str(HERE), str(HERE.parent)]

import lamina  # noqa: E402

project, author = "Lamina", "the Lamina authors"
release = version = lamina.__version__
extensions = ["myst_nb", "sphinx.ext.autodoc", "sphinx.ext.napoleon", "sphinx_copybutton"]
myst_enable_extensions = ["dollarmath", "amsmath"]
myst_heading_anchors = 3
exclude_patterns = ["_site", "papers", "templates"]  # papers/ is in the families' pages
suppress_warnings = ["myst.header"]

html_theme = "furo"
html_title = "Lamina"
html_theme_options = {"source_edit_link": ""}
html_copy_source = False
copybutton_prompt_text = "$ "

nb_execution_mode = "force"  # each build runs the notebooks
nb_execution_timeout = 300
nb_execution_raise_on_error = True

autodoc_member_order = "bysource"
autodoc_typehints = "signature"
default_role = "code"


def setup(app: Any) -> None:
    import generate

    app.connect("builder-inited", lambda app: generate.write(HERE))
