"""The site: `python -m sphinx -W docs docs/_build`."""

import re

from docutils import nodes

from pipebus import __version__

project = "pipebus"
author = copyright = "the pipebus authors"
version = release = __version__

extensions = ["myst_parser", "sphinx.ext.autodoc", "sphinx.ext.napoleon"]
exclude_patterns = ["_build"]
myst_heading_anchors = 3
default_role = "code"  # docstrings write code as `code`
autodoc_member_order = "bysource"
autodoc_typehints = "description"
python_maximum_signature_line_length = 88

html_theme = "furo"
html_title = f"pipebus {version}"


def explicit_anchors(app, doctree):
    """Let links lead to `<a id="12"></a>`, as they do on GitHub: MyST knows the anchors of headings only."""
    slugs = app.env.metadata[app.env.docname].setdefault("myst_slugs", {})
    for node in doctree.findall(nodes.raw):
        for anchor in re.findall(r'<a id="([\w-]+)">', node.astext()):
            slugs.setdefault(anchor, (node.line, anchor, anchor))


def setup(app):
    app.connect("doctree-read", explicit_anchors)
