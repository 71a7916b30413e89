"""Python objects and the names by which a file refers to them: "module:name"."""

from __future__ import annotations

import builtins
import functools
import inspect
import re
import sys
from typing import Any, Final

from pipebus.config.problems import Bad, Unexportable
from pipebus.config.wording import guess, shown

FORM: Final = 'it has to be "module:name", as in "shop.billing:bill"'
PATTERN: Final = r"^[A-Za-z_]\w*(\.[A-Za-z_]\w*)*:[A-Za-z_]\w*(\.[A-Za-z_]\w*)*$"
NAME: Final = re.compile(PATTERN, re.ASCII)
PLAIN: Final = ("bool", "bytes", "dict", "float", "int", "list", "str")
"""Types that a file may name without a module."""

DATA: Final = ("builtins", "typing", "types", "datetime", "decimal", "enum", "uuid")
"""Modules that define types of data: a file may use them where an allowed module gives them a name."""


def home_of(found: Any) -> str:
    """Return the module that defines a function, a class, a method, or the class of an object."""
    while isinstance(found, functools.partial):
        found = found.func
    if inspect.ismodule(found):
        return str(found.__name__)
    if isinstance(found, type) or inspect.isroutine(found):
        owner = getattr(found, "__self__", None)
        if owner is not None and not inspect.ismodule(owner):  # a bound method
            return home_of(owner)
        return str(getattr(found, "__module__", None) or "")
    return str(getattr(found, "__module__", None) or type(found).__module__)


def plain_type(name: str, form: str) -> Any:
    """
    Return a type that needs no module.

    Raises:
        Bad: with `form`, because there is no such type.
    """
    if name not in PLAIN:
        raise Bad(form + guess(name, PLAIN))
    return getattr(builtins, name)


def exception_type(name: str) -> Any:
    """
    Return one of Python's own exceptions.

    Raises:
        Bad: Python has no such exception.
    """
    known = {
        one: value for one, value in vars(builtins).items() if isinstance(value, type) and issubclass(value, BaseException)
    }
    if name not in known:
        raise Bad(f"Python has no exception {shown(name)}{guess(name, known) or '; others are written module:name'}")
    return known[name]


def short_name_of(found: Any) -> str:
    """Return the name without a module of a type or exception that needs none; "module:name" for anything else."""
    name = getattr(found, "__name__", "")
    known = isinstance(found, type) and (name in PLAIN or issubclass(found, BaseException))
    return name if known and getattr(builtins, name, None) is found else name_of(found)


def name_of(found: Any) -> str:
    """
    Return the "module:name" by which `Imports.find` finds this object.

    Raises:
        Unexportable: it has no such name.
    """
    owner = getattr(found, "__self__", None)
    module = getattr(found, "__module__", None)
    path = getattr(found, "__qualname__", None) or getattr(found, "__name__", None)
    if isinstance(found, functools.partial) or not module or not path or (owner is not None and not inspect.isbuiltin(found)):
        raise Unexportable(f"{found!r} has no name that leads to it; define it at the top of a module")
    name = f"{module}:{path}"
    if "<lambda>" in path:
        raise Unexportable(f"a lambda (of {module}) has no name that leads to it; make it a function at the top of a module")
    if module == "__main__":
        raise Unexportable(f"{path} is defined in the program itself, which no other can import; move it to a module")
    if NAME.fullmatch(name) is None:
        raise Unexportable(f"{path} (of {module}) has no name that leads to it; define it at the top of the module")
    at: Any = sys.modules.get(module)
    for part in path.split("."):
        at = getattr(at, part, None)
    if at is not found:
        raise Unexportable(f"{name} leads to another object; give each its own name at the top of its module")
    return name
