"""
What the reference pages say is made here, from the code, when the site is built.

A page holds fences such as "```{config} Bus"; each is replaced by the Markdown that the function of that name in `MADE`
returns, given what follows the name and what is in the fence. To add a kind of fence, write its function and a line in `MADE`.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import Any, Final

from made import api, commands, config, docstrings, urls

FENCE: Final = re.compile(r"^```\{(\w+)\} ?(.*)\n((?:.*\n)*?)```$", re.MULTILINE)
MADE: Final[dict[str, Callable[[str, str], str]]] = {
    "api": api.objects,
    "commands": commands.commands,
    "config": config.table_of_keys,
    "event": api.each_event,
    "filter": config.one_filter,
    "promises": api.promises,
    "remedy": api.remedy,
    "tree": api.tree_of_errors,
    "url": urls.options,
}


def page(text: str) -> str:
    """The text of a page, with what is made in the place of its fences."""
    return FENCE.sub(lambda found: MADE[found[1]](found[2], found[3]) if found[1] in MADE else found[0], text)


def setup(app: Any) -> dict[str, bool]:
    """Called by Sphinx."""
    app.connect("source-read", lambda app, name, source: source.__setitem__(0, page(source[0])))
    app.connect("autodoc-process-docstring", docstrings.tidy, priority=400)  # before napoleon
    app.connect("autodoc-process-signature", docstrings.tidy_signature)
    return {"parallel_read_safe": True}
