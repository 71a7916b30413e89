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
    # Before the path changes: a package without `__init__.py` looks for itself anew when it does.
    homes = {name: _home(module) for name, module in list(sys.modules.items()) if "." not in name}
    for folder in _looked:
        if folder in sys.path:
            del sys.path[len(sys.path) - 1 - sys.path[::-1].index(folder)]  # ours: the last
    _looked[:] = [folder for folder in wanted if folder not in sys.path]
    sys.path += _looked
    _known.update(_looked)
    for name, home in homes.items():
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
    """The folder that a module, or a package, lies in; without waking a module that is loaded when it is used."""
    try:
        names = object.__getattribute__(module, "__dict__")
        path = next(iter(names["__path__"]), None) if "__path__" in names else names["__file__"]
    except (AttributeError, KeyError, TypeError):
        return None
    return os.path.dirname(path) if isinstance(path, str) else None


def _has(folder: str, name: str) -> bool:
    package = os.path.join(folder, name)
    return os.path.isfile(f"{package}.py") or (
        os.path.isdir(package) and any(entry.endswith(".py") for entry in os.listdir(package))
    )
