"""Validation by pydantic, and its errors as reasons for people. pydantic is imported when it is first needed."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from pipebus.errors import Rejected
from pipebus.foreign.objects import shown


def validator(type_: Any) -> Callable[[Any], Any]:
    """
    Return a function that converts a value to `type_`, or raises `pydantic.ValidationError`.

    A class that pydantic does not know is checked with isinstance.

    Raises:
        pydantic.PydanticUserError, NameError: pydantic cannot use the type.
    """
    adapter = adapter_of(type_)
    adapter.rebuild(raise_errors=True)  # an unknown name in the type is an error now, not with the first message
    validate: Callable[[Any], Any] = adapter.validator.validate_python  # adapter.validate_python is a frame around it
    return validate


def adapter_of(type_: Any) -> Any:
    """Return a `pydantic.TypeAdapter` that checks unknown classes with isinstance."""
    from pydantic import ConfigDict, PydanticUserError, TypeAdapter

    try:
        return TypeAdapter(type_, config=ConfigDict(arbitrary_types_allowed=True))
    except PydanticUserError:  # a model or dataclass, which has a configuration of its own
        return TypeAdapter(type_)


def name_of_type(type_: Any) -> str:
    """How texts name a type: `Order`, `list[int]`."""
    return type_.__name__ if isinstance(type_, type) else shown(type_)


def refusal() -> type[Exception]:
    """Return the exception class to catch around a validator."""
    from pydantic import ValidationError

    return ValidationError


def rejected(error: Any) -> Rejected:
    """Return a `pydantic.ValidationError` as `Rejected`, with one reason for each of its errors, without the values."""
    return Rejected(*[_reason(detail) for detail in error.errors(include_url=False, include_input=False)])


def _reason(detail: dict[str, Any]) -> str:
    where = ".".join(str(part) for part in detail["loc"])
    text = detail["msg"].removeprefix("Value error, ").removeprefix("Assertion failed, ")
    return f"{where}: {text}" if where else str(text)
