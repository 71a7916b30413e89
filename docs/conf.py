"""The site: `python -m sphinx -W docs docs/_build`."""

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
