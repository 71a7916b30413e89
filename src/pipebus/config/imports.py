"""Names of Python objects in a file: "module:name". Nothing is imported that the program has not allowed."""

from __future__ import annotations

import builtins
import functools
import importlib
import inspect
import re
import sys
from collections.abc import Callable, Iterable
from typing import Any, Final

from pipebus.config.problems import Bad, Unexportable, guess, shown
from pipebus.errors import PipelineError
from pipebus.foreign.objects import text_of

FORM: Final = 'it has to be "module:name", as in "shop.billing:bill"'
PATTERN: Final = r"^[A-Za-z_]\w*(\.[A-Za-z_]\w*)*:[A-Za-z_]\w*(\.[A-Za-z_]\w*)*$"
PLAIN: Final = ("bool", "bytes", "dict", "float", "int", "list", "str")
"""Types that a file may name without a module."""

DATA: Final = ("builtins", "typing", "types", "datetime", "decimal", "enum", "uuid")
"""Where types of data are defined that an allowed module may give a name to."""

_NAME: Final = re.compile(PATTERN, re.ASCII)


class Imports:
    """
    What a file may name.

    Args:
        allowed: Packages (or modules in them). "shop" allows "shop.billing", and not "shopify".
    """

    def __init__(self, allowed: Iterable[str] | None = ()) -> None:
        if isinstance(allowed, str):
            raise PipelineError(f"allow_imports={allowed!r}: it is a list of package names, as in [{allowed!r}]")
        self.allowed = tuple(allowed or ())
        self._failed: dict[str, str] = {}
        for one in self.allowed:
            if not isinstance(one, str) or not all(part.isidentifier() for part in one.split(".")):
                raise PipelineError(f"allow_imports: {one!r} is no name of a package")

    def find(self, name: str, fits: Callable[[Any], str | None], homes: tuple[str, ...] = ()) -> Any:
        """
        The object.

        Args:
            fits: What is wrong with an object, or None.
            homes: Modules that it may be defined in besides.

        Raises:
            Bad: it may not be imported, cannot be, or is not defined in an allowed package.
        """
        if not isinstance(name, str) or _NAME.fullmatch(name) is None:
            raise Bad(FORM)
        module_name, _, path = name.partition(":")
        if not self.allows(module_name) and module_name not in homes:
            root = module_name.partition(".")[0]
            near = guess(root, self.allowed)
            begin = f"{near} Else pass" if near else "; pass"
            raise Bad(f'package "{root}" is not allowed{begin} allow_imports=["{root}"], or --allow {root}')
        module = self._module(module_name)
        try:
            return self._checked(module, module_name, path, fits, homes)
        except (Bad, KeyboardInterrupt):
            raise
        except BaseException as error:  # an object may be a proxy of what is not there yet
            raise Bad(f"cannot be read: {text_of(error)}") from None

    def _checked(
        self, found: Any, module_name: str, path: str, fits: Callable[[Any], str | None], homes: tuple[str, ...]
    ) -> Any:
        at = module_name
        for part in path.split("."):
            if part.startswith("__"):
                raise Bad(f'"{part}" is Python\'s own; name a function, class or object')
            try:
                found = getattr(found, part)
            except AttributeError:
                known = [name for name in dir(found) if isinstance(name, str) and name[:1] not in ("_", "")]
                raise Bad(f'{at} has no "{part}"{guess(part, known)}') from None
            at = f"{at}.{part}"
            if inspect.ismodule(found) and not self.allows(found.__name__) and found.__name__ not in homes:
                # Not a step further: a module may do something when it is asked for a name.
                raise Bad(f"it is defined in {found.__name__}, which is not in an allowed package; define it in {module_name}")
        problem = fits(found)
        if problem is not None:
            raise Bad(problem)
        home = home_of(found)
        bound = getattr(found, "__func__", None)
        if bound is not None and self.allows(home):  # made there, and perhaps inherited from elsewhere
            home = home_of(bound)
        # A filter object or a chain of our classes, made in the module that names it.
        ours = not isinstance(found, type) and not inspect.isroutine(found) and home.startswith("pipebus.")
        if not (self.allows(home) or home in homes or ours):
            raise Bad(f"it is defined in {home or 'nowhere'}, which is not in an allowed package; define it in {module_name}")
        return found

    def allows(self, module: str) -> bool:
        return any(module == one or module.startswith(f"{one}.") for one in self.allowed)

    def _module(self, name: str) -> Any:
        if name in self._failed:
            raise Bad(self._failed[name])
        try:
            return importlib.import_module(name)
        except KeyboardInterrupt:
            raise
        except BaseException as error:  # a module may raise what it likes, SystemExit too
            missing = isinstance(error, ModuleNotFoundError) and error.name == name.partition(".")[0]
            remedy = "; the folder that it lies in has to be in sys.path" if missing else ""
            self._failed[name] = f"cannot import {name}: {text_of(error)}{remedy}"
            raise Bad(self._failed[name]) from None


def home_of(found: Any) -> str:
    """The module that defines a function, class, method or the class of an object."""
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


def plain_type(name: str) -> Any:
    """A type that needs no module, or None."""
    return getattr(builtins, name) if name in PLAIN else None


def exception_type(name: str) -> Any:
    """
    One of Python's own exceptions.

    Raises:
        Bad
    """
    found = getattr(builtins, name, None)
    if isinstance(found, type) and issubclass(found, BaseException):
        return found
    known = [one for one, value in vars(builtins).items() if isinstance(value, type) and issubclass(value, BaseException)]
    raise Bad(f"Python has no exception {shown(name)}{guess(name, known) or '; others are written module:name'}")


def name_of(found: Any) -> str:
    """
    "module:name", as `Imports.find` takes it.

    Raises:
        Unexportable: no name leads to this object.
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
    if _NAME.fullmatch(name) is None:
        raise Unexportable(f"{path} (of {module}) has no name that leads to it; define it at the top of the module")
    at: Any = sys.modules.get(module)
    for part in path.split("."):
        at = getattr(at, part, None)
    if at is not found:
        raise Unexportable(f"{name} leads to another object; give each its own name at the top of its module")
    return name


__all__ = ["FORM", "PATTERN", "PLAIN", "Imports", "exception_type", "home_of", "name_of", "plain_type"]
