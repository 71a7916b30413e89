"""Names of Python objects in a file: `"shop.billing:bill"`, a type, an exception."""

from __future__ import annotations

import typing
from typing import Any

from pipebus.config.kinds.base import Loading, Schema
from pipebus.config.kinds.objects import DATA, FORM, PATTERN, PLAIN, exception_type, name_of, plain_type
from pipebus.config.problems import Bad
from pipebus.config.wording import Interpolated, guess


class Named:
    """Any object, by "module:name"."""

    what = "object"
    form = FORM
    takes = (str, Interpolated)

    def read(self, value: Any, loading: Loading) -> Any:
        if not isinstance(value, str):
            raise Bad(self.form)
        if isinstance(value, Interpolated):
            raise Bad("a name to import cannot contain ${…}: text from outside would become code")
        return self.find(value, loading)

    def find(self, name: str, loading: Loading) -> Any:
        return loading.imports.find(name, self.problem)

    def fits(self, found: Any) -> bool:
        return True

    def problem(self, found: Any) -> str | None:
        """Return what is wrong with an object, or None."""
        return None if self.fits(found) else f"it is not a {self.what}"

    def write(self, value: Any) -> Any:
        return name_of(value)

    def schema(self) -> Schema:
        return {"type": "string", "pattern": PATTERN}


class Imported(Named):
    """Any callable object."""

    what = "function"

    def fits(self, found: Any) -> bool:
        return callable(found)


class TypeName(Named):
    """A type to validate with."""

    what = "type"
    form = 'it has to be a type, as in "shop.models:Order" or "int"'

    def find(self, name: str, loading: Loading) -> Any:
        if ":" not in name and plain_type(name) is None:
            raise Bad(self.form + guess(name, PLAIN))
        return plain_type(name) or loading.imports.find(name, self.problem, DATA)

    def fits(self, found: Any) -> bool:
        named = hasattr(found, "__supertype__") or type(found).__name__ == "TypeAliasType"  # NewType; type X = …
        return isinstance(found, type) or typing.get_origin(found) is not None or named

    def write(self, value: Any) -> Any:
        return value.__name__ if isinstance(value, type) and plain_type(value.__name__) is value else name_of(value)

    def schema(self) -> Schema:
        return {"anyOf": [{"enum": list(PLAIN)}, super().schema()]}


class ExceptionName(Named):
    """A class of exceptions. Python's own need no module."""

    what = "class of exceptions"
    form = 'it has to be the name of an exception, as in "ConnectionError" or "shop.errors:Busy"'

    def find(self, name: str, loading: Loading) -> Any:
        return loading.imports.find(name, self.problem) if ":" in name else exception_type(name)

    def fits(self, found: Any) -> bool:
        return isinstance(found, type) and issubclass(found, BaseException)

    def write(self, value: Any) -> Any:
        own = isinstance(value, type) and value.__module__ == "builtins"
        return value.__name__ if own else name_of(value)

    def schema(self) -> Schema:
        return {"type": "string"}
