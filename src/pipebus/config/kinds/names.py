"""Names of Python objects in a file: `"shop.billing:bill"`, a type, an exception."""

from __future__ import annotations

import typing
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Final

from pipebus.config.kinds.base import Loading, Reader
from pipebus.config.kinds.draft7 import Schema
from pipebus.config.kinds.objects import DATA, FORM, PATTERN, PLAIN, exception_type, plain_type
from pipebus.config.problems import Bad
from pipebus.config.wording import Interpolated


@dataclass(frozen=True, eq=False)
class Named(Reader):
    """
    An object, by "module:name".

    Args:
        problem: Returns what is wrong with an object, or None.
        short: Returns the object of a name without a module.
        words: The names without a module.
        homes: Modules, besides the allowed ones, that may define the object.
    """

    problem: Callable[[Any], str | None] = lambda found: None
    form: str = FORM
    short: Callable[[str], Any] | None = None
    words: tuple[str, ...] = ()
    homes: tuple[str, ...] = ()

    def read(self, value: Any, loading: Loading) -> Any:
        if not isinstance(value, str):
            raise Bad(self.form)
        if isinstance(value, Interpolated):
            raise Bad("a name to import cannot contain ${…}: text from outside would become code")
        if self.short is not None and ":" not in value:
            return self.short(value)
        return loading.imports.find(value, self.problem, self.homes)

    def schema(self) -> Schema:
        long = {"type": "string", "pattern": PATTERN}
        return {"anyOf": [{"enum": list(self.words)}, long]} if self.words else {"type": "string"} if self.short else long


def _not_callable(found: Any) -> str | None:
    return None if callable(found) else "it is not a function"


def _no_handler(found: Any) -> str | None:
    return (
        "it is a class; give a function, or an object that can be called" if isinstance(found, type) else _not_callable(found)
    )


def _no_type(found: Any) -> str | None:
    named = hasattr(found, "__supertype__") or type(found).__name__ == "TypeAliasType"  # NewType; type X = …
    return None if isinstance(found, type) or typing.get_origin(found) is not None or named else "it is not a type"


def _no_exception(found: Any) -> str | None:
    return None if isinstance(found, type) and issubclass(found, BaseException) else "it is not a class of exceptions"


_EXCEPTION: Final = 'it has to be the name of an exception, as in "ConnectionError" or "shop.errors:Busy"'
_TYPE: Final = 'it has to be a type, as in "shop.models:Order" or "int"'
OBJECT: Final = Named()
FUNCTION: Final = Named(_not_callable)
HANDLER: Final = Named(_no_handler)
TYPE: Final = Named(_no_type, _TYPE, lambda name: plain_type(name, _TYPE), PLAIN, DATA)
EXCEPTION: Final = Named(_no_exception, _EXCEPTION, exception_type)
