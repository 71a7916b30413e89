"""Which files have the own lines of what is tested."""

from __future__ import annotations

import functools
import os
import sys
import types
from collections.abc import Iterator
from typing import Any, Final

from pipebus.testing.harness.simulate import is_own
from pipebus.testing.simulation.locks import BETWEEN

PACKAGE: Final = os.path.join(os.path.dirname(sys.modules["pipebus"].__file__ or ""), "")
BUILT_IN: Final = os.path.join(PACKAGE, "filters", "")
LIBRARY: Final = os.path.join(os.path.dirname(os.__file__), "")


def own_files(*tested: Any) -> dict[str, bool]:
    """The files of these filters or handlers, and of the modules of your own that they use: none of them by whole lines."""
    files = {file for one in tested for function in _functions(one) if _counts(file := function.__code__.co_filename)}
    modules = [module for module in list(sys.modules.values()) if getattr(module, "__file__", None) in files]
    for module in modules:
        for value in list(vars(module).values()):
            other = value if isinstance(value, types.ModuleType) else sys.modules.get(getattr(value, "__module__", None) or "")
            file = getattr(other, "__file__", None)
            if file is not None and file not in files and is_own(file):
                files.add(file)
                modules.append(other)  # type: ignore[arg-type]
    return dict.fromkeys(files, False)


def _counts(file: str) -> bool:
    if file in BETWEEN or file.startswith(PACKAGE):
        return file.startswith(BUILT_IN)
    return not file.startswith(LIBRARY) or "site-packages" in file


def _functions(filter: Any) -> Iterator[Any]:
    """The functions of a filter or handler, and those that its decorators wrap."""
    while isinstance(filter, functools.partial):
        filter = filter.func
    candidates = [filter, getattr(filter, "function", None), getattr(filter, "__func__", None)]
    for cls in type(getattr(filter, "__self__", filter)).__mro__:
        candidates += vars(cls).values()
    for one in candidates:
        while one is not None:
            if isinstance(one, types.FunctionType):
                yield one
            one = getattr(one, "__wrapped__", None)
