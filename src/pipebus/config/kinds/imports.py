"""From a name in a file to its object. Nothing is imported that the program has not allowed."""

from __future__ import annotations

import importlib
import inspect
from collections.abc import Callable, Iterable
from typing import Any

from pipebus.config.kinds.objects import FORM, NAME, home_of
from pipebus.config.problems import Bad
from pipebus.config.wording import guess
from pipebus.errors import PipelineError
from pipebus.foreign.objects import text_of


class Imports:
    """
    The imports that a file may make.

    Args:
        allowed: Packages, or modules in them. "shop" allows "shop.billing", but not "shopify".
    """

    def __init__(self, allowed: Iterable[str] | None = ()) -> None:
        if isinstance(allowed, str):
            raise PipelineError(f"allow_imports={allowed!r}: it is a list of package names, as in [{allowed!r}]")
        self.allowed = tuple(allowed or ())
        self._failed: dict[str, str] = {}  # modules that cannot be imported, and why
        for one in self.allowed:
            if not isinstance(one, str) or not all(part.isidentifier() for part in one.split(".")):
                raise PipelineError(f"allow_imports: {one!r} is not the name of a package")

    def find(self, name: str, problem: Callable[[Any], str | None], homes: tuple[str, ...] = ()) -> Any:
        """
        Return the object that a name refers to.

        Args:
            problem: Returns what is wrong with an object, or None.
            homes: Modules, besides the allowed ones, that may define the object.

        Raises:
            Bad: the object may not be imported, cannot be imported, or is not defined in an allowed package.
        """
        if not isinstance(name, str) or NAME.fullmatch(name) is None:
            raise Bad(FORM)
        module_name, _, path = name.partition(":")
        if not self.allows(module_name) and module_name not in homes:
            root = module_name.partition(".")[0]
            near = guess(root, self.allowed)
            begin = f"{near} Otherwise pass" if near else "; pass"
            raise Bad(f'package "{root}" is not allowed{begin} allow_imports=["{root}"], or --allow {root}')
        module = self._module(module_name)
        try:
            return self._checked(module, module_name, path, problem, homes)
        except (Bad, KeyboardInterrupt):
            raise
        except BaseException as error:  # an object may be a proxy that fails when it is used
            raise Bad(f"cannot be read: {text_of(error)}") from None

    def _checked(
        self, found: Any, module_name: str, path: str, problem: Callable[[Any], str | None], homes: tuple[str, ...]
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
                # Stop before asking this module for an attribute: a module may run code then.
                raise _defined_elsewhere(found.__name__, module_name)
        wrong = problem(found)
        if wrong is not None:
            raise Bad(wrong)
        home = home_of(found)
        bound = getattr(found, "__func__", None)
        if bound is not None and self.allows(home):  # a method that may be inherited from another package
            home = home_of(bound)
        # A filter object or chain that an allowed module made of one of pipebus's own classes.
        ours = not isinstance(found, type) and not inspect.isroutine(found) and home.startswith("pipebus.")
        if not (self.allows(home) or home in homes or ours):
            raise _defined_elsewhere(home or "nowhere", module_name)
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
        except BaseException as error:  # a module may raise anything, even SystemExit
            missing = isinstance(error, ModuleNotFoundError) and error.name == name.partition(".")[0]
            remedy = "; add the folder that contains it to sys.path" if missing else ""
            self._failed[name] = f"cannot import {name}: {text_of(error)}{remedy}"
            raise Bad(self._failed[name]) from None


class Everything(Imports):
    """Allows every import: of what a program has imported already."""

    def allows(self, module: str) -> bool:
        return True


def _defined_elsewhere(home: str, module: str) -> Bad:
    return Bad(f"it is defined in {home}, which is not in an allowed package; define it in {module}")
