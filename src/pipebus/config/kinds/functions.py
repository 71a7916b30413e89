"""Functions of a message, as a file writes them: `{ expr = "…" }`, `{ python = "module:name" }`."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from pipebus.config.kinds.base import Loading, Reader
from pipebus.config.kinds.draft7 import Schema
from pipebus.config.kinds.names import FUNCTION
from pipebus.config.kinds.objects import FORM
from pipebus.config.problems import BROKEN, Bad
from pipebus.config.wording import Interpolated, shown
from pipebus.errors import PipebusError
from pipebus.values.expressions import Condition, Expression


@dataclass(frozen=True, eq=False)
class Function(Reader):
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

    def read(self, value: Any, loading: Loading) -> Any:
        if isinstance(value, str) and self.text:
            if self.expr and ":" not in value and not isinstance(value, Interpolated):
                raise Bad(f"{FORM}; an expression is written {{ expr = {shown(value)} }}")
            return FUNCTION.read(value, loading)
        if not is_function(value):
            raise Bad(f"it has to be {self.form}")
        [(how, source)] = value.items()
        if source is BROKEN:
            raise Bad
        if how == "python":
            return FUNCTION.read(source, loading)
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

    def schema(self) -> Schema:
        forms = {"expr": {"type": "string"}} if self.expr else {}
        tables = [
            {"type": "object", "properties": {key: inner}, "required": [key], "additionalProperties": False}
            for key, inner in {**forms, "python": FUNCTION.schema()}.items()
        ]
        return {"anyOf": [FUNCTION.schema()] * self.text + tables}


def is_function(value: Any) -> bool:
    """True for a table that denotes a function: `{ expr = "…" }`, `{ python = "…" }`."""
    return isinstance(value, dict) and len(value) == 1 and next(iter(value)) in ("expr", "python")
