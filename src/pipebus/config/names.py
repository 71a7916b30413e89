"""Kinds of values that name Python objects, or stand for functions: `"shop.billing:bill"`, `{ expr = "…" }`."""

from __future__ import annotations

import typing
from dataclasses import dataclass
from typing import Any, ClassVar

from pipebus.config.imports import DATA, FORM, PATTERN, PLAIN, exception_type, name_of, plain_type
from pipebus.config.kinds import Loading, Schema, brief, is_function, one_key
from pipebus.config.problems import BROKEN, Bad, Told, Unexportable, guess, shown
from pipebus.errors import PipebusError
from pipebus.values.expressions import Condition, Expression


class Named:
    """What is named "module:name"."""

    what = "object"
    form = FORM
    takes = (str, Told)

    def read(self, value: Any, loading: Loading) -> Any:
        if not isinstance(value, str):
            raise Bad(self.form)
        if isinstance(value, Told):
            raise Bad("what is imported is not put together from ${…}: what comes from outside would become code")
        return self.find(value, loading)

    def find(self, name: str, loading: Loading) -> Any:
        return loading.imports.find(name, self.problem)

    def fits(self, found: Any) -> bool:
        return True

    def problem(self, found: Any) -> str | None:
        """What is wrong with an object."""
        return None if self.fits(found) else f"it is no {self.what}"

    def write(self, value: Any) -> Any:
        return name_of(value)

    def schema(self) -> Schema:
        return {"type": "string", "pattern": PATTERN}


class Imported(Named):
    """A function, of whatever."""

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
    """A class of exceptions; Python's own by name alone."""

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


@dataclass(frozen=True)
class Function:
    """
    A function of the message: `{ expr = "…" }`, `{ python = "module:name" }`.

    Args:
        text: "module:name" by itself means it too; not where text means itself.
        expr: An expression will do; not for functions of something else.
        condition: It is to be true or false.
    """

    text: bool = True
    expr: bool = True
    condition: bool = False
    takes: ClassVar[tuple[type, ...]] = (str, dict, Told)

    def read(self, value: Any, loading: Loading) -> Any:
        if isinstance(value, str) and self.text:
            if self.expr and ":" not in value and not isinstance(value, Told):
                raise Bad(f"{FORM}; an expression is written {{ expr = {shown(value)} }}")
            return Imported().read(value, loading)
        if not is_function(value):
            raise Bad(f"it has to be {self.form}")
        [(how, source)] = value.items()
        if source is BROKEN:
            raise Bad
        if how == "python":
            return Imported().read(source, loading)
        if not self.expr:
            raise Bad("an expression is about a message, and this is not; name a function: { python = … }")
        if not isinstance(source, str):
            raise Bad("expr is text")
        if isinstance(source, Told):
            raise Bad("an expression is not put together from ${…}: what comes from outside would become code")
        try:
            return Condition(source) if self.condition else Expression(source)
        except PipebusError as error:
            raise Bad(str(error)) from None

    @property
    def form(self) -> str:
        return " or ".join(['{ expr = "…" }'] * self.expr + ['{ python = "module:name" }'])

    def write(self, value: Any) -> Any:
        if isinstance(value, Expression):
            if self.condition and not isinstance(value, Condition):
                raise Unexportable(f"{brief(value)} is no Condition, and a file's are: write Condition({value.text!r})")
            return {"expr": value.text}
        if not callable(value):
            raise Unexportable(f"{brief(value)} is no function")
        return name_of(value) if self.text else {"python": name_of(value)}

    def schema(self) -> Schema:
        forms: list[Schema] = [one_key("python", {"type": "string", "pattern": PATTERN})]
        if self.expr:
            forms.insert(0, one_key("expr", {"type": "string"}))
        if self.text:
            forms.insert(0, {"type": "string", "pattern": PATTERN})
        return {"anyOf": forms}
