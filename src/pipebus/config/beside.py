"""Imports of modules in the folder of a config file."""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, Final

_looked: Final[list[str]] = []
"""Folders that are in `sys.path` because of a file, at present."""

_known: Final[set[str]] = set()
"""All folders that ever were in `sys.path` because of a file."""


def look_beside(*folders: str) -> None:
    """
    Make imports search these folders, in this order, instead of those of the previous file.

    They are searched last, so they cannot replace an installed package. If a module was imported from the folder of another
    file, and one of these folders has a module of that name, the next import loads that one.
    """
    wanted = list(dict.fromkeys(map(os.path.abspath, folders)))
    # Before the path changes, because a package without `__init__.py` searches for itself again afterwards.
    homes = {name: _home(module) for name, module in list(sys.modules.items()) if "." not in name}
    for folder in _looked:
        if folder in sys.path:
            del sys.path[len(sys.path) - 1 - sys.path[::-1].index(folder)]  # the last one is ours
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
    """In this block, search the folder of this file first."""
    before = list(_looked)
    look_beside(os.path.dirname(os.path.abspath(path)), *before)
    try:
        yield
    finally:
        look_beside(*before)


def _home(module: Any) -> str | None:
    """Return the folder that contains a module or package, without loading a lazy module."""
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
