"""What belongs to a message: subjects and their patterns, keys, headers, and tests of a message."""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import Annotated, Any, Final

from pydantic import AfterValidator

from pipebus.config.kinds.base import Loading, Reader
from pipebus.config.kinds.draft7 import Schema
from pipebus.config.kinds.functions import Function
from pipebus.config.problems import Bad, Detail
from pipebus.config.wording import shown
from pipebus.errors import HeaderError, MessageError, SubjectError
from pipebus.message.fields import check_fields
from pipebus.message.headers import check_headers
from pipebus.message.subject import check_pattern, check_subject

_LIKE_AN_EXPRESSION: Final = re.compile(r"[=!<>]=|[<>]\s*[0-9`'-]|&&|\|\||[`'()\[\]]")
_FUNCTION: Final = Function(text=False, condition=True)


def _checked(check: Callable[[Any], object]) -> AfterValidator:
    def after(value: Any) -> Any:
        try:
            check(value)
        except (SubjectError, MessageError) as error:
            raise Bad(str(error)) from None
        return value

    return AfterValidator(after)


def _check_headers(headers: dict[str, str]) -> None:
    details = []
    for name, text in headers.items():
        try:
            check_headers({name: text})
        except HeaderError as error:
            details.append(Detail((name,), str(error)))
    if details:
        raise Bad("", details)


Pattern = Annotated[str, _checked(check_pattern)]
"""A pattern of subjects."""

Subject = Annotated[str, _checked(check_subject)]
"""A subject without wildcards, to which a message can be published."""

Key = Annotated[str, _checked(check_fields)]
Headers = Annotated[dict[str, str], _checked(_check_headers)]


class Match(Reader):
    """What `match`, `when` and `branch` accept: a pattern, or a function of the message."""

    def read(self, value: Any, loading: Loading) -> Any:
        if not isinstance(value, str):
            try:
                return _FUNCTION.read(value, loading)
            except Bad as bad:
                form = _FUNCTION.form
                text = bad.text.replace(f"it has to be {form}", f'it has to be a pattern, as in "orders.>", {form}')
                raise Bad(text) from None
        if _LIKE_AN_EXPRESSION.search(value):
            raise Bad(f"it is not a pattern of subjects; an expression is written {{ expr = {shown(value)} }}")
        try:
            check_pattern(value)
        except SubjectError as error:
            raise Bad(f"{error}; an expression is written {{ expr = … }}" if " " in value else str(error)) from None
        return str.__str__(value)

    def schema(self) -> Schema:
        return {"anyOf": [{"type": "string"}, *_FUNCTION.schema()["anyOf"]]}
