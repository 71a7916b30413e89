"""What belongs to a message: subjects and their patterns, keys, headers, handlers, and tests of a message."""

from __future__ import annotations

import re
from typing import Any, ClassVar, Final

from pipebus.config.kinds.base import Loading
from pipebus.config.kinds.containers import TableOf
from pipebus.config.kinds.functions import Function
from pipebus.config.kinds.names import Imported
from pipebus.config.kinds.plain import Text
from pipebus.config.problems import Bad, Unexportable
from pipebus.config.wording import Interpolated, shown
from pipebus.errors import HeaderError, MessageError, SubjectError
from pipebus.message.fields import check_fields
from pipebus.message.headers import check_headers
from pipebus.message.subject import check_pattern, check_subject

_LIKE_AN_EXPRESSION: Final = re.compile(r"[=!<>]=|[<>]\s*[0-9`'-]|&&|\|\||[`'()\[\]]")
_FUNCTION: Final = Function(text=False, condition=True)


class _Checked(Text):
    """Text that a function of `pipebus.message` checks."""

    check: ClassVar[Any]

    def read(self, value: Any, loading: Loading) -> str:
        text = super().read(value, loading)
        try:
            self.check(text)
        except (SubjectError, MessageError) as error:
            raise Bad(str(error)) from None
        return text


class Patterns(_Checked):
    """A pattern of subjects."""

    check = staticmethod(check_pattern)


class Literal(_Checked):
    """A subject without wildcards, to which a message can be published."""

    check = staticmethod(check_subject)


class Key(_Checked):
    """The key of a message."""

    check = staticmethod(lambda text: check_fields(text, None, None, None))


class Headers(TableOf):
    """Headers of a message: texts by name."""

    def __init__(self) -> None:
        super().__init__(Text())

    def read(self, value: Any, loading: Loading) -> Any:
        found = super().read(value, loading)
        problems: list[tuple[str | int, Any, Bad]] = []
        for name, text in found.items():
            try:
                check_headers({name: text})
            except HeaderError as error:
                problems.append((name, value[name], Bad(str(error))))
        if problems:
            raise Bad.inside(problems)
        return found


class HandlerName(Imported):
    """A function that handles messages."""

    def problem(self, found: Any) -> str | None:
        if isinstance(found, type):
            return "it is a class; give a function, or an object that can be called"
        return super().problem(found)


class Match:
    """What `match`, `when` and `branch` accept: a pattern, or a function of the message."""

    takes = (str, dict, Interpolated)

    def read(self, value: Any, loading: Loading) -> Any:
        if isinstance(value, str):
            if _LIKE_AN_EXPRESSION.search(value):
                raise Bad(f"it is not a pattern of subjects; an expression is written {{ expr = {shown(value)} }}")
            try:
                return Patterns().read(value, loading)
            except Bad as bad:
                raise Bad(f"{bad.text}; an expression is written {{ expr = … }}" if " " in value else bad.text) from None
        try:
            return _FUNCTION.read(value, loading)
        except Bad as bad:
            form = _FUNCTION.form
            raise Bad(
                f'it has to be a pattern, as in "orders.>", {form}' if bad.text == f"it has to be {form}" else bad.text
            ) from None

    def write(self, value: Any) -> Any:
        if isinstance(value, str) and _LIKE_AN_EXPRESSION.search(value):
            raise Unexportable(f"{shown(value)} would be read as an expression")
        return value if isinstance(value, str) else _FUNCTION.write(value)

    def schema(self) -> dict[str, Any]:
        return {"anyOf": [{"type": "string"}, *_FUNCTION.schema()["anyOf"]]}
