"""
Read and write a field by its path, as "body.customer.name": the part of `Fields` that knows where fields are.

A draft holds the body and the headers that are being changed. Tables on the way to a field are copied before they are changed.
"""

from __future__ import annotations

import copy
import decimal
import re
from collections.abc import Callable, Mapping
from typing import Any, Final

from pipebus.errors import HeaderError, PipelineError, Rejected
from pipebus.foreign.objects import json_type, plain_text
from pipebus.message.fields import plain_number
from pipebus.message.headers import check_headers, fault_in

Path = tuple[str, ...]
"""The names of a field and of the tables around it; EACH after the name of a list."""

EACH: Final = "[]"
"""In a path: each element of the list, as in "body.commits[].author"."""

ABSENT: Final[Any] = object()
"""In place of the value of a field that does not exist."""

_UNNAMED: Final = re.compile(r"[][*]")


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
    parts = [part for one in text.split(".") for part in _steps(one)] if isinstance(text, str) else []
    fine = bool(parts) and all(parts) and (len(parts) == 2 if parts[0] == "headers" else parts[0] == "body")
    if not fine or (len(parts) == 1 and not alone):
        raise PipelineError(
            f'Fields.{name}: {text!r} is not a field; write "body.NAME" (deeper with more dots) or "headers.NAME"'
        )
    if name == "rename" and EACH in parts:
        raise PipelineError(
            f"Fields.rename: {text!r}: a field is renamed once, not in each element; use an expression in `set`"
        )
    if parts.count(EACH) > 1 or any(part != EACH and _UNNAMED.search(part) for part in parts):
        raise PipelineError(
            f'Fields.{name}: {text!r}: a path may have one "[]" after the name of a list, as in "body.commits[].author.email", '
            "and no other [ ] or *; the filter `redact` finds fields by name at any depth"
        )
    if parts[0] == "headers" and name == "cast":
        raise PipelineError(f"Fields.{name}: {text!r}: headers are texts and stay texts; cast fields of the body")
    return tuple(parts)


def _steps(part: str) -> tuple[str, ...]:
    """A part of a path between two dots: a name, or the name of a list and EACH."""
    name = part.removesuffix(EACH)
    return (name,) if name == part else (name, EACH)


def written(path: Path) -> str:
    """The path as its author wrote it."""
    return ".".join(path).replace(f".{EACH}", EACH)


def check_header(path: Path, text: str | None, name: str) -> None:
    """
    Check a header that a setting of `Fields` will write.

    Raises:
        PipelineError: the name or the text cannot be a header's.
    """
    if text is None:
        raise PipelineError(f"Fields.{name}: {written(path)}: headers are texts, numbers, true or false")
    try:
        check_headers({path[1]: text})
    except HeaderError as error:
        raise PipelineError(f"Fields.{name}: {written(path)}: {error}") from None


def header_text(value: Any) -> str | None:
    """A value as a header's text; None if it has no such form."""
    if isinstance(value, str):
        text: str = plain_text(value)
        return text
    if isinstance(value, bool):
        return "true" if value else "false"
    return str(plain_number(value)) if isinstance(value, (int, float, decimal.Decimal)) else None


def needed_text(what: str, value: Any, empty: bool = False) -> str:
    """
    A value as a text of an envelope, such as a header.

    Args:
        empty: It may be empty.

    Raises:
        Rejected: `what` has no value, one that is not a text, or characters that cannot be in it.
    """
    text = header_text(value)
    if text is None or not (text or empty):
        problem = "there is no value" if value is None or text == "" else f"it is {json_type(value)}, not text"
        raise Rejected(f"{what}: {problem}")
    if fault := fault_in(text):
        raise Rejected(f"{what} {fault}")
    return text


def change(
    draft: dict[str, Any], path: Path, word: str, act: Callable[[Any], Any], create: bool = False, before: Path = ()
) -> list[str]:
    """
    Replace the field at a path, or with EACH in it one field for each element.

    Tables and lists on the way are copied, unless nothing in them changes.

    Args:
        word: What is done to the field, for errors: "cast".
        act: Old value -> new value; ABSENT for a field that does not exist, or is removed.
        create: Make tables that do not exist.
        before: In place of the first name of the path, for errors.

    Returns:
        Sentences: what is in the way. After `Validate(replace=True)`, for example, the body is a model.
    """
    if EACH in path:
        return _change_each(draft, path, word, act, create)
    tables = []
    value: Any = draft
    for depth, part in enumerate(path):
        if value is None or value is ABSENT:
            if not create:
                act(ABSENT)
                return []
            value = {}
        elif not isinstance(value, Mapping):
            return [_obstacle((*before, *path[1:]) if before else path, depth - len(path), word, value, "table")]
        tables.append(value)
        value = value.get(part, ABSENT)
    new = act(value)
    if new is value:
        return []
    for part, table in zip(reversed(path), reversed(tables), strict=True):
        changed = draft if table is draft else {**table}
        if new is ABSENT:
            del changed[part]
        else:
            changed[part] = new
        new = changed
    return []


def _change_each(draft: dict[str, Any], path: Path, word: str, act: Callable[[Any], Any], create: bool) -> list[str]:
    at = path.index(EACH)
    problems: dict[str, None] = {}  # not one for each element

    def each(rows: Any) -> Any:
        if rows is None or rows is ABSENT:
            act(ABSENT)
            return rows
        if not isinstance(rows, (list, tuple)):
            problems[_obstacle(path, at - len(path), word, rows, "list")] = None
            return rows
        made = []
        for row in rows:
            cell = {"": row}
            problems.update(dict.fromkeys(change(cell, ("", *path[at + 1 :]), word, act, create, path[: at + 1])))
            made.append(cell.get("", ABSENT))
        same = all(new is old for new, old in zip(made, rows, strict=True))
        return rows if same else [row for row in made if row is not ABSENT]

    problems.update(dict.fromkeys(change(draft, path[:at], word, each)))
    return list(problems)


def _obstacle(path: Path, end: int, word: str, found: Any, wanted: str) -> str:
    return f"{written(path)} cannot be {word}: {written(path[:end])} is {json_type(found)}, not a {wanted}"


def pop(draft: dict[str, Any], path: Path, word: str) -> tuple[list[str], Any]:
    """Remove a field; returns what `change` returns, and the value, or ABSENT if there was none."""
    found = ABSENT

    def act(value: Any) -> Any:
        nonlocal found
        found = value
        return ABSENT

    return change(draft, path, word, act), found


def put(draft: dict[str, Any], path: Path, value: Any) -> list[str]:
    """Write a field; returns a sentence if that is impossible."""
    if path[0] == "headers":
        text = header_text(value)
        if text is None:
            return [f"{written(path)}: it is {json_type(value)}, and a header is text"]
        try:
            check_headers({path[1]: text})
        except HeaderError as error:
            return [f"{written(path)}: {error}"]
        value = text
    act = (lambda old: copy.deepcopy(value)) if EACH in path else (lambda old: value)  # elements do not share it
    return change(draft, path, "set", act, create=True)
