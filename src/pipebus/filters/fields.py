"""Fields: bodies and headers put into shape, without code."""

from __future__ import annotations

import datetime
import decimal
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any, Final, Literal

import msgspec

from pipebus.errors import HeaderError, PipelineError, Rejected
from pipebus.message import Message, check_headers
from pipebus.pipeline import Transform, is_async

Path = tuple[str, ...]
Types = Literal["text", "int", "float", "bool", "decimal", "datetime", "date"]

_WORDS: Final[dict[str, bool]] = {"true": True, "false": False, "yes": True, "no": False, "1": True, "0": False}


@dataclass(eq=False)
class Fields(Transform):
    """
    Rename, cast, set and remove fields, in this order.

    A field is named by its path: "body.customer.name", "headers.tenant"; each table on the way is a mapping with text keys. The
    message that came stays as it was.

    Args:
        rename: Old path -> new path. Tables that are not there are made; what stands at the new path is replaced.
        cast: Path in the body -> "text", "int", "float", "bool", "decimal", "datetime" or "date". Texts and numbers are read as
            that: "42" as 42, "true" as True, "2026-11-25T04:00:00Z" as a time (seconds since 1970 too). Nothing is rounded.
        set: Path -> value, or a function of the message that returns it (in a config file an expression). "body" alone is the
            whole body. Numbers in headers are written as text.
        remove: Paths. What is not there is removed already.
        missing: What becomes of a message without a field that is to be renamed or cast: "reject", or "skip" that field.

    Raises:
        Rejected: with every field that could not be renamed, cast or set, and why.

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
        if isinstance(self.remove, str):
            raise PipelineError(f"Fields.remove={self.remove!r}: it is a list of paths, as in remove=[{self.remove!r}]")
        self._rename = [(_path(old, "rename"), _path(new, "rename")) for old, new in _items(self.rename, "rename")]
        self._cast = [(_path(path, "cast"), _casts(path, to)) for path, to in _items(self.cast, "cast")]
        self._set = [(_path(path, "set", alone=True), value) for path, value in _items(self.set, "set")]
        self._remove = [_path(path, "remove") for path in self.remove or ()]
        for path, value in self._set:
            if callable(value) and is_async(value):
                raise PipelineError(
                    f'Fields.set["{".".join(path)}"] is async; it is a value, or a plain function of the message'
                )
        if not (self._rename or self._cast or self._set or self._remove):
            raise PipelineError("Fields: nothing to do; give rename, cast, set or remove")

    def transform(self, message: Message[Any], /) -> Message[Any]:
        work = {"body": message.body, "headers": dict(message.headers)}
        problems = [*self._renamed(work), *self._casted(work), *self._setted(work, message)]
        if problems:
            raise Rejected(None, problems)
        for path in self._remove:
            _pop(work, path)
        if work["headers"] != message.headers:
            message = _with_only(message, work["headers"])
        return message if work["body"] is message.body else message.with_body(work["body"])

    def _renamed(self, work: dict[str, Any]) -> Iterator[str]:
        for old, new in self._rename:
            if not _has(work, old):
                if self.missing == "reject":
                    yield f"there is no {'.'.join(old)} to rename"
                continue
            value = _pop(work, old)
            problem = _put(work, new, value)
            if problem:
                yield problem

    def _casted(self, work: dict[str, Any]) -> Iterator[str]:
        for path, cast in self._cast:
            if not _has(work, path):
                if self.missing == "reject":
                    yield f"there is no {'.'.join(path)} to cast"
                continue
            try:
                _put(work, path, cast(_get(work, path)))
            except (ValueError, TypeError, ArithmeticError):
                yield f"{'.'.join(path)} is no {cast.__name__}"  # what it is may be a secret

    def _setted(self, work: dict[str, Any], message: Message[Any]) -> Iterator[str]:
        for path, value in self._set:
            found = value(_as_it_is(message, work)) if callable(value) else value
            problem = _put(work, path, found)
            if problem:
                yield problem


def _items(given: Any, name: str) -> list[tuple[str, Any]]:
    if given is None:
        return []
    if not isinstance(given, Mapping):
        raise PipelineError(f"Fields.{name}={given!r}: it maps paths, as in {{'body.total': …}}")
    return list(given.items())


def _path(text: Any, name: str, alone: bool = False) -> Path:
    parts = tuple(text.split(".")) if isinstance(text, str) else ()
    fine = bool(parts) and all(parts) and (len(parts) == 2 if parts[0] == "headers" else parts[0] == "body")
    if not fine or (len(parts) == 1 and not alone):
        raise PipelineError(f'Fields.{name}: {text!r} is no field; write "body.NAME" (deeper with more dots) or "headers.NAME"')
    if parts[0] == "headers" and name == "cast":
        raise PipelineError(f"Fields.cast: {text!r}: headers are texts and stay texts; cast fields of the body")
    return parts


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


def _put(work: dict[str, Any], path: Path, value: Any) -> str | None:
    """Set it; what is in the way is returned as a sentence."""
    if path[0] == "headers":
        try:
            value = _header(value)
        except TypeError:
            return f"{'.'.join(path)}: {type(value).__name__} is no text, and headers are texts"
    table: dict[str, Any] = work
    for depth, part in enumerate(path[:-1], 1):
        inner = table.get(part)
        if inner is not None and not isinstance(inner, Mapping):
            return f"{'.'.join(path)} cannot be set: {'.'.join(path[:depth])} is {type(inner).__name__}, no table"
        table[part] = copy = dict(inner or {})
        table = copy
    table[path[-1]] = value
    return None


def _pop(work: dict[str, Any], path: Path) -> Any:
    if not _has(work, path):
        return None
    table: dict[str, Any] = work
    for part in path[:-1]:
        table[part] = copy = dict(table[part])
        table = copy
    return table.pop(path[-1])


def _header(value: Any) -> str:
    if isinstance(value, str):
        return value
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, (int, float, decimal.Decimal)):
        return str(value)
    raise TypeError


def _as_it_is(message: Message[Any], work: dict[str, Any]) -> Message[Any]:
    """The message with what has been done so far."""
    if work["headers"] != message.headers:
        message = _with_only(message, work["headers"])
    return message if work["body"] is message.body else message.with_body(work["body"])


def _with_only(message: Message[Any], headers: dict[str, str]) -> Message[Any]:
    try:
        return msgspec.structs.replace(message, headers=check_headers(headers))
    except HeaderError as error:
        raise Rejected(None, str(error)) from None


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
        return str(value)
    raise TypeError


def _int(value: Any) -> int:
    if isinstance(value, bool) or not isinstance(value, (str, int, float, decimal.Decimal)):
        raise TypeError
    found = int(value)
    if not isinstance(value, str) and found != value:
        raise ValueError  # it would be rounded
    return found


def _float(value: Any) -> float:
    if isinstance(value, bool) or not isinstance(value, (str, int, float, decimal.Decimal)):
        raise TypeError
    return float(value)


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
    return decimal.Decimal(str(value))


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
