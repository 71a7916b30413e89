"""
Read and write a field by its path, as "body.customer.name": the part of `Fields` that knows where fields are.

A draft holds the body and the headers that are being changed. Tables on the way to a field are copied before they are changed.
"""

from __future__ import annotations

import decimal
from collections.abc import Mapping
from typing import Any

from pipebus.errors import HeaderError, PipelineError
from pipebus.foreign.objects import plain_text
from pipebus.message.fields import plain_number
from pipebus.message.headers import check_headers

Path = tuple[str, ...]


def parsed(text: Any, name: str, alone: bool = False) -> Path:
    """
    The parts of a path.

    Args:
        name: The setting of `Fields` that it belongs to, for errors.
        alone: "body" alone is a path too.

    Raises:
        PipelineError: it is not a path.
    """
    text = plain_text(text)
    parts = tuple(text.split(".")) if isinstance(text, str) else ()
    fine = bool(parts) and all(parts) and (len(parts) == 2 if parts[0] == "headers" else parts[0] == "body")
    if not fine or (len(parts) == 1 and not alone):
        raise PipelineError(
            f'Fields.{name}: {text!r} is not a field; write "body.NAME" (deeper with more dots) or "headers.NAME"'
        )
    if parts[0] == "headers" and name == "cast":
        raise PipelineError(f"Fields.cast: {text!r}: headers are texts and stay texts; cast fields of the body")
    return parts


def check_header(path: Path, text: str | None, name: str) -> None:
    """
    Check a header that a setting of `Fields` will write.

    Raises:
        PipelineError: the name or the text cannot be a header's.
    """
    if text is None:
        raise PipelineError(f"Fields.{name}: {'.'.join(path)}: headers are texts, numbers, true or false")
    try:
        check_headers({path[1]: text})
    except HeaderError as error:
        raise PipelineError(f"Fields.{name}: {'.'.join(path)}: {error}") from None


def header_text(value: Any) -> str | None:
    """A value as a header's text; None if it has no such form."""
    if isinstance(value, str):
        text: str = plain_text(value)
        return text
    if isinstance(value, bool):
        return "true" if value else "false"
    return str(plain_number(value)) if isinstance(value, (int, float, decimal.Decimal)) else None


def get(draft: Any, path: Path) -> Any:
    for part in path:
        draft = draft[part]
    return draft


def has(draft: Any, path: Path) -> bool:
    for part in path:
        if not isinstance(draft, Mapping) or part not in draft:
            return False
        draft = draft[part]
    return True


def obstacle(draft: Any, path: Path, change: str) -> list[str]:
    """A sentence if a value on the way is not a table. After `Validate(replace=True)`, for example, the body is a model."""
    for depth, part in enumerate(path):
        if draft is None or (isinstance(draft, Mapping) and part not in draft):
            return []
        if not isinstance(draft, Mapping):
            at = ".".join(path[:depth])
            return [f"{'.'.join(path)} cannot be {change}: {at} is {type(draft).__name__}, not a table"]
        draft = draft[part]
    return []


def put(draft: dict[str, Any], path: Path, value: Any) -> list[str]:
    """Write a field; returns a sentence if that is impossible."""
    if path[0] == "headers":
        text = header_text(value)
        if text is None:
            return [f"{'.'.join(path)}: {type(value).__name__} is not a text, and headers are texts"]
        try:
            check_headers({path[1]: text})
        except HeaderError as error:
            return [f"{'.'.join(path)}: {error}"]
        value = text
    problems = obstacle(draft, path, "set")
    if problems:
        return problems
    table: dict[str, Any] = draft
    for part in path[:-1]:
        table[part] = inner = dict(table.get(part) or {})
        table = inner
    table[path[-1]] = value
    return []


def pop(draft: dict[str, Any], path: Path) -> Any:
    """Remove a field and return its value; None if it was not there."""
    if not has(draft, path):
        return None
    table: dict[str, Any] = draft
    for part in path[:-1]:
        table[part] = inner = dict(table[part])
        table = inner
    return table.pop(path[-1])
