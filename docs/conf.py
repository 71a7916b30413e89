"""The site: `python -m sphinx -W docs docs/_build`."""

import re
import sys
from pathlib import Path

from docutils import nodes

from pipebus import __version__

sys.path.insert(0, str(Path(__file__).parent))  # for made

project = "pipebus"
author = copyright = "the pipebus authors"
version = release = __version__

extensions = ["myst_parser", "sphinx.ext.autodoc", "sphinx.ext.napoleon", "made"]
exclude_patterns = ["_build"]
myst_enable_extensions = ["attrs_inline"]
myst_heading_anchors = 3
default_role = "code"  # docstrings write code as `code`
add_module_names = False
smartquotes_action = "D"  # dashes only: docstrings quote what is typed
autodoc_member_order = "bysource"
autodoc_typehints_format = "short"
autodoc_preserve_defaults = False
python_maximum_signature_line_length = 68  # longer ones have one parameter a line
python_display_short_literal_types = True
toc_object_entries_show_parents = "hide"

html_theme = "furo"
pygments_dark_style = "github-dark"  # furo's own underlines modules like links
html_title = f"pipebus {version}"
html_static_path = ["_static"]
html_css_files = ["site.css"]
html_extra_path = ["llms.txt"]
html_copy_source = False
html_show_sphinx = False

ACCENTED = ("color-brand-primary", "color-brand-content", "color-brand-visited", "color-api-name", "color-api-pre-name")
html_theme_options = {  # with the accent colours of docs/pictures/draw.py
    "navigation_with_keys": True,
    "light_css_variables": dict.fromkeys(ACCENTED, "#0b746d"),
    "dark_css_variables": dict.fromkeys(ACCENTED, "#4fc7bb"),
}

PICTURE = re.compile(r"<picture>.*?<img alt=\"([^\"]+)\" src=\"([^\"]+)-light\.svg\".*?</picture>", re.DOTALL)
FILE = re.compile(r"^(`{3,})(\w+) (\S+\.\S+)$", re.MULTILINE)


def read(app, name, source):
    """
    Translate what MyST does not know.

    A `<picture>` follows the colours of the system. Here the page gets both, and the theme hides one, as the reader chooses.
    The name of a file, behind the language of its block, becomes a caption.
    """
    both = r"![\1](\2-light.svg){.only-light} ![\1](\2-dark.svg){.only-dark}"
    source[0] = FILE.sub(r"\1{code-block} \2\n:caption: '`\3`'\n", PICTURE.sub(both, source[0]))


def explicit_anchors(app, doctree):
    """Let links lead to `<a id="12"></a>`, as they do on GitHub: MyST knows the anchors of headings only."""
    slugs = app.env.metadata[app.env.docname].setdefault("myst_slugs", {})
    for node in doctree.findall(nodes.raw):
        for anchor in re.findall(r'<a id="([\w-]+)">', node.astext()):
            slugs.setdefault(anchor, (node.line, anchor, anchor))


def setup(app):
    app.connect("doctree-read", explicit_anchors)
    app.connect("source-read", read, priority=900)  # after what makes parts of pages
