"""Fields: bodies and headers put into shape, without code."""

from __future__ import annotations

import copy
import datetime
import decimal
import math
import re
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any, Final, Literal

import msgspec

from pipebus.errors import HeaderError, PipelineError, Rejected
from pipebus.foreign.objects import plain_text
from pipebus.message.fields import plain_number
from pipebus.message.headers import check_headers, frozen_headers
from pipebus.message.message import Message
from pipebus.pipeline import blame
from pipebus.pipeline.callables import is_plain
from pipebus.pipeline.shapes import Transform
from pipebus.values.expressions import Expression

Path = tuple[str, ...]
Types = Literal["text", "int", "float", "bool", "decimal", "datetime", "date"]

_NUMBER: Final = re.compile(r"\s*[+-]?([0-9]+(\.[0-9]*)?|\.[0-9]+)([eE][+-]?[0-9]+)?\s*", re.ASCII)
_WORDS: Final[dict[str, bool]] = {"true": True, "false": False, "yes": True, "no": False, "1": True, "0": False}


@dataclass(eq=False)
class Fields(Transform):
    """
    Rename, cast, set and remove fields, in this order; of renames all at once.

    A field is named by its path: "body.customer.name", "headers.tenant"; each table on the way is a mapping with text keys. The
    message that came stays as it was.

    Args:
        rename: Old path -> new path. Tables that are not there are made; what stands at the new path is replaced.
        cast: Path in the body -> "text", "int", "float", "bool", "decimal", "datetime" or "date". Texts and numbers are read as
            that: "42" as 42, "true" as True, "2026-11-25T04:00:00Z" as a time (seconds since 1970 too).
        set: Path -> value, or a function of the message that returns it (in a config file an expression). "body" alone is the
            whole body. Numbers in headers are written as text.
        remove: Paths. What is not there is removed already.
        missing: What becomes of a message without a field that is to be renamed or cast: "reject", or "skip" that field.

    Raises:
        Rejected: with every field that could not be renamed, cast, set or removed, and why. So behind a `Validate` that
            replaces bodies by models: put Fields in front of it.

    Example:
        >>> from pipebus import Message
        >>> tidy = Fields(rename={"body.cust": "body.customer.id"}, cast={"body.total": "float"}, remove=["body.card"])
        >>> tidy.transform(Message("orders.created", {"cust": 7, "total": "12.50", "card": "4111"})).body
        {'total': 12.5, 'customer': {'id': 7}}
    """

    rename: Mapping[str, str] | None = None
    cast: Mapping[str, Types] | None = None
    set: Mapping[str, Any | Callable[[Message[Any]], Any]] | None = None
    remove: list[str] | None = None
    missing: Literal["reject", "skip"] = "reject"

    def __post_init__(self) -> None:
        if self.missing not in ("reject", "skip"):
            raise PipelineError(f'Fields.missing={self.missing!r}: it is "reject" or "skip"')
        if self.remove is not None and not isinstance(self.remove, (list, tuple)):
            raise PipelineError(f"Fields.remove={self.remove!r}: it is a list of paths, as in remove=['body.card']")
        self._rename = [(_path(old, "rename"), _path(new, "rename")) for old, new in _items(self.rename, "rename")]
        self._cast = [(_path(path, "cast"), _casts(path, to)) for path, to in _items(self.cast, "cast")]
        self._set = [(_path(path, "set", alone=True), value) for path, value in _items(self.set, "set")]
        self._remove = [_path(path, "remove") for path in self.remove or ()]
        for path, value in self._set:
            if callable(value) and not is_plain(value):
                raise PipelineError(
                    f'Fields.set["{".".join(path)}"] is async or a generator; it is a value, or a plain function'
                )
            if path[0] == "headers" and not callable(value):
                _check_header(path, _header(value), "set")
        for _, new in self._rename:
            if new[0] == "headers":
                _check_header(new, "", "rename")
        if not (self._rename or self._cast or self._set or self._remove):
            raise PipelineError("Fields: nothing to do; give rename, cast, set or remove")

    def transform(self, message: Message[Any], /) -> Message[Any]:
        work = {"body": message.body, "headers": dict(message.headers)}
        problems = [*self._renamed(work), *self._casted(work)]
        problems += self._setted(work, message, calling=not problems)
        for path in self._remove:
            problems += _in_the_way(work, path, "removed")
            _pop(work, path)
        if problems:
            raise Rejected(None, problems)
        return _changed(message, work)

    def _renamed(self, work: dict[str, Any]) -> Iterator[str]:
        """All are taken, then all are put: so two may change places."""
        taken: list[tuple[Path, Any]] = []
        for old, new in self._rename:
            if _has(work, old):
                taken.append((new, _pop(work, old)))
                continue
            blocked = _in_the_way(work, old, "renamed")
            yield from blocked
            if not blocked and self.missing == "reject":
                yield f"there is no {'.'.join(old)} to rename"
        for new, value in taken:
            yield from _put(work, new, value)

    def _casted(self, work: dict[str, Any]) -> Iterator[str]:
        for path, cast in self._cast:
            if not _has(work, path):
                blocked = _in_the_way(work, path, "cast")
                yield from blocked
                if not blocked and self.missing == "reject":
                    yield f"there is no {'.'.join(path)} to cast"
                continue
            try:
                found = cast(_get(work, path))
            except (ValueError, TypeError, ArithmeticError, OSError):
                yield f"{'.'.join(path)} is no {cast.__name__}"  # what it is may be a secret
                continue
            yield from _put(work, path, found)

    def _setted(self, work: dict[str, Any], message: Message[Any], calling: bool) -> Iterator[str]:
        for path, value in self._set:
            if callable(value) and not (calling or isinstance(value, Expression)):
                continue  # a function may count on what could not be renamed or cast
            try:
                found = blame.given(value(_changed(message, work))) if callable(value) else copy.deepcopy(value)
            except Rejected as refused:  # an expression that cannot be asked of it
                yield from refused.errors
                continue
            yield from _put(work, path, found)


def _items(given: Any, name: str) -> list[tuple[str, Any]]:
    if given is None:
        return []
    if not isinstance(given, Mapping):
        raise PipelineError(f"Fields.{name}={given!r}: it maps paths, as in {{'body.total': …}}")
    return list(given.items())


def _path(text: Any, name: str, alone: bool = False) -> Path:
    text = plain_text(text)
    parts = tuple(text.split(".")) if isinstance(text, str) else ()
    fine = bool(parts) and all(parts) and (len(parts) == 2 if parts[0] == "headers" else parts[0] == "body")
    if not fine or (len(parts) == 1 and not alone):
        raise PipelineError(f'Fields.{name}: {text!r} is no field; write "body.NAME" (deeper with more dots) or "headers.NAME"')
    if parts[0] == "headers" and name == "cast":
        raise PipelineError(f"Fields.cast: {text!r}: headers are texts and stay texts; cast fields of the body")
    return parts


def _check_header(path: Path, text: str | None, name: str) -> None:
    if text is None:
        raise PipelineError(f"Fields.{name}: {'.'.join(path)}: headers are texts, numbers, true or false")
    try:
        check_headers({path[1]: text})
    except HeaderError as error:
        raise PipelineError(f"Fields.{name}: {'.'.join(path)}: {error}") from None


# --- reading and writing by path: tables on the way are copied, never changed ---------------------------------------------


def _get(work: Any, path: Path) -> Any:
    for part in path:
        work = work[part]
    return work


def _has(work: Any, path: Path) -> bool:
    for part in path:
        if not isinstance(work, Mapping) or part not in work:
            return False
        work = work[part]
    return True


def _in_the_way(work: Any, path: Path, what: str) -> list[str]:
    """A sentence, if something stands on the way that is no table: behind Validate(replace=True) that is a model."""
    for depth, part in enumerate(path):
        if work is None or (isinstance(work, Mapping) and part not in work):
            return []
        if not isinstance(work, Mapping):
            at = ".".join(path[:depth])
            return [f"{'.'.join(path)} cannot be {what}: {at} is {type(work).__name__}, no table"]
        work = work[part]
    return []


def _put(work: dict[str, Any], path: Path, value: Any) -> list[str]:
    """Set it; what is in the way is returned as a sentence."""
    if path[0] == "headers":
        text = _header(value)
        if text is None:
            return [f"{'.'.join(path)}: {type(value).__name__} is no text, and headers are texts"]
        try:
            check_headers({path[1]: text})
        except HeaderError as error:
            return [f"{'.'.join(path)}: {error}"]
        value = text
    problems = _in_the_way(work, path, "set")
    if problems:
        return problems
    table: dict[str, Any] = work
    for part in path[:-1]:
        table[part] = inner = dict(table.get(part) or {})
        table = inner
    table[path[-1]] = value
    return []


def _pop(work: dict[str, Any], path: Path) -> Any:
    if not _has(work, path):
        return None
    table: dict[str, Any] = work
    for part in path[:-1]:
        table[part] = inner = dict(table[part])
        table = inner
    return table.pop(path[-1])


def _header(value: Any) -> str | None:
    if isinstance(value, str):
        text: str = plain_text(value)
        return text
    if isinstance(value, bool):
        return "true" if value else "false"
    return str(plain_number(value)) if isinstance(value, (int, float, decimal.Decimal)) else None


def _changed(message: Message[Any], work: dict[str, Any]) -> Message[Any]:
    """The message with what has been done so far; what was set was checked then."""
    if work["headers"] != message.headers:
        message = msgspec.structs.replace(message, headers=frozen_headers(work["headers"]))
    return message if work["body"] is message.body else message.with_body(work["body"])


# --- casts ----------------------------------------------------------------------------------------------------------------


def _casts(path: str, to: Any) -> Callable[[Any], Any]:
    found = _CASTS.get(to) if isinstance(to, str) else None
    if found is None:
        raise PipelineError(f'Fields.cast["{path}"]={to!r}: it is {", ".join(_CASTS)}')
    return found


def _text(value: Any) -> str:
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, (datetime.date, datetime.time)):
        return value.isoformat()
    if isinstance(value, (str, int, float, decimal.Decimal)):
        return str(plain_number(plain_text(value)))
    raise TypeError


def _int(value: Any) -> int:
    if isinstance(value, bool) or not isinstance(value, (str, int, float, decimal.Decimal)):
        raise TypeError
    _check_number(value)
    found = int(value)
    if not isinstance(value, str) and found != value:
        raise ValueError  # it would be rounded
    return found


def _float(value: Any) -> float:
    if isinstance(value, bool) or not isinstance(value, (str, int, float, decimal.Decimal)):
        raise TypeError
    _check_number(value)
    found = float(value)
    if not math.isfinite(found) or (isinstance(value, int) and found != value):
        raise ValueError  # JSON has no such number; or it would be rounded
    return found


def _check_number(value: Any) -> None:
    """Python reads "1_000" and the digits of all scripts; JSON does not."""
    if isinstance(value, str) and _NUMBER.fullmatch(value) is None:
        raise ValueError


def _bool(value: Any) -> bool:
    if isinstance(value, bool):
        return value
    if isinstance(value, (int, float)) and value in (0, 1):
        return bool(value)
    if isinstance(value, str) and value.lower() in _WORDS:
        return _WORDS[value.lower()]
    raise ValueError


def _decimal(value: Any) -> decimal.Decimal:
    if isinstance(value, bool) or not isinstance(value, (str, int, float, decimal.Decimal)):
        raise TypeError
    _check_number(value)
    found = decimal.Decimal(str(value))
    if not found.is_finite():
        raise ValueError
    return found


def _datetime(value: Any) -> datetime.datetime:
    if isinstance(value, datetime.datetime):
        return value
    if isinstance(value, bool):
        raise TypeError
    if isinstance(value, (int, float)):
        return datetime.datetime.fromtimestamp(value, datetime.UTC)
    return datetime.datetime.fromisoformat(value)


def _date(value: Any) -> datetime.date:
    if isinstance(value, datetime.datetime):
        return value.date()
    return value if isinstance(value, datetime.date) else datetime.date.fromisoformat(value)


_CASTS: Final[dict[str, Callable[[Any], Any]]] = {
    "text": _text, "int": _int, "float": _float, "bool": _bool, "decimal": _decimal, "datetime": _datetime, "date": _date,
}  # fmt: skip
for _name, _cast in _CASTS.items():
    _cast.__name__ = _name
