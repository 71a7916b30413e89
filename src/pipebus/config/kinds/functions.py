"""Functions of a message, as a file writes them: `{ expr = "…" }`, `{ python = "module:name" }`."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar

from pipebus.config.kinds.base import Loading, Schema
from pipebus.config.kinds.names import Imported
from pipebus.config.kinds.objects import FORM, PATTERN, name_of
from pipebus.config.problems import BROKEN, Bad, Unexportable
from pipebus.config.wording import Interpolated, brief, shown
from pipebus.errors import PipebusError
from pipebus.values.expressions import Condition, Expression


@dataclass(frozen=True)
class Function:
    """
    A function of a message: `{ expr = "…" }`, `{ python = "module:name" }`.

    Args:
        text: Accept "module:name" by itself. False for settings that also take text.
        expr: Accept an expression. False for functions whose argument is not a message.
        condition: The function must return true or false.
    """

    text: bool = True
    expr: bool = True
    condition: bool = False
    takes: ClassVar[tuple[type, ...]] = (str, dict, Interpolated)

    def read(self, value: Any, loading: Loading) -> Any:
        if isinstance(value, str) and self.text:
            if self.expr and ":" not in value and not isinstance(value, Interpolated):
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
        if isinstance(source, Interpolated):
            raise Bad("an expression cannot contain ${…}: text from outside would become code")
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
                raise Unexportable(f"{brief(value)} is not a Condition, as a file requires: write Condition({value.text!r})")
            return {"expr": value.text}
        if not callable(value):
            raise Unexportable(f"{brief(value)} is not a function")
        return name_of(value) if self.text else {"python": name_of(value)}

    def schema(self) -> Schema:
        forms: list[Schema] = [_one_key("python", {"type": "string", "pattern": PATTERN})]
        if self.expr:
            forms.insert(0, _one_key("expr", {"type": "string"}))
        if self.text:
            forms.insert(0, {"type": "string", "pattern": PATTERN})
        return {"anyOf": forms}


def is_function(value: Any) -> bool:
    """True for a table that denotes a function: `{ expr = "…" }`, `{ python = "…" }`."""
    return isinstance(value, dict) and len(value) == 1 and next(iter(value)) in ("expr", "python")


def _one_key(key: str, value: Schema) -> Schema:
    return {"type": "object", "properties": {key: value}, "required": [key], "additionalProperties": False}
