"""Modules that lie beside a config file."""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, Final

_looked: Final[list[str]] = []
"""Folders that stand in `sys.path` for the sake of a file, now."""

_known: Final[set[str]] = set()
"""And those that ever did."""


def look_beside(*folders: str) -> None:
    """
    Have modules be looked for in these folders, in this order, and no longer in those of the file before.

    They come last: nothing there takes the place of a package that is installed. A module of another file's folder whose name
    is also one of these is imported anew, so that each file gets the one beside it.
    """
    wanted = list(dict.fromkeys(map(os.path.abspath, folders)))
    for folder in _looked:
        if folder in sys.path:
            sys.path.remove(folder)
    _looked[:] = [folder for folder in wanted if folder not in sys.path]
    sys.path += _looked
    _known.update(_looked)
    for name, module in list(sys.modules.items()):
        home = None if "." in name else _home(module)
        nearest = next((folder for folder in wanted if _has(folder, name)), home) if home in _known else home
        if nearest != home:
            for one in [one for one in sys.modules if one.partition(".")[0] == name]:
                del sys.modules[one]


@contextmanager
def beside(path: str | os.PathLike[str]) -> Iterator[None]:
    """In its block, modules are looked for beside this file first."""
    before = list(_looked)
    look_beside(os.path.dirname(os.path.abspath(path)), *before)
    try:
        yield
    finally:
        look_beside(*before)


def _home(module: Any) -> str | None:
    """The folder that a module, or a package, lies in."""
    file = getattr(module, "__file__", None)
    if not isinstance(file, str):
        return None
    return os.path.dirname(os.path.dirname(file) if hasattr(module, "__path__") else file)


def _has(folder: str, name: str) -> bool:
    return os.path.isfile(os.path.join(folder, f"{name}.py")) or os.path.isfile(os.path.join(folder, name, "__init__.py"))
