"""
Types that pydantic checks, and its errors in a person's words. pydantic is imported when the first type is asked for.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from pipebus.errors import Rejected


def validator(type_: Any) -> Callable[[Any], Any]:
    """
    A function that returns a value as `type_`, or raises `pydantic.ValidationError`.

    Classes that pydantic knows nothing of are checked with isinstance.

    Raises:
        pydantic.PydanticUserError, NameError: the type cannot be understood.
    """
    from pydantic import ConfigDict, PydanticUserError, TypeAdapter

    try:
        adapter = TypeAdapter(type_, config=ConfigDict(arbitrary_types_allowed=True))
    except PydanticUserError:  # a model or dataclass, which has a configuration of its own
        adapter = TypeAdapter(type_)
    adapter.rebuild(raise_errors=True)  # a name that leads nowhere is told now, not with the first message
    return adapter.validate_python


def refusal() -> type[Exception]:
    """The exception class to catch around a validator."""
    from pydantic import ValidationError

    return ValidationError


def rejected(by: str | None, error: Any) -> Rejected:
    """A `pydantic.ValidationError` as `Rejected`: one reason for each of its errors, without the values."""
    return Rejected(by, [_reason(detail) for detail in error.errors(include_url=False, include_input=False)])


def _reason(detail: dict[str, Any]) -> str:
    where = ".".join(str(part) for part in detail["loc"])
    text = detail["msg"].removeprefix("Value error, ").removeprefix("Assertion failed, ")
    return f"{where}: {text}" if where else str(text)
