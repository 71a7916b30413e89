"""Fields: change the fields of bodies and headers without code."""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any, Literal

import msgspec

from pipebus.errors import PipelineError, Rejected
from pipebus.filters.changing import Changing
from pipebus.filters.field_casts import LosesDigits, cast_to
from pipebus.filters.field_paths import ABSENT, Path, change, check_header, header_text, parsed, pop, put, written
from pipebus.message.headers import frozen_headers
from pipebus.message.message import Message
from pipebus.pipeline.callables import is_plain
from pipebus.pipeline.contract import finished
from pipebus.values.expressions import Expression

Types = Literal["text", "int", "float", "bool", "decimal", "datetime", "date"]


@dataclass(eq=False)
class Fields(Changing):
    """
    Rename, cast, set and remove fields, in this order. All renames happen at the same time.

    A path names a field: "body.customer.name", "headers.tenant". Each table on the way is a mapping with text keys. One "[]"
    means each element of a list: "body.commits[].author.email"; not in `rename`. Redact removes fields by name at any depth.
    The original message does not change.

    Args:
        rename: Old path -> new path. Missing tables are created, and an existing field at the new path is replaced.
        cast: Path in the body -> "text", "int", "float", "bool", "decimal", "datetime" or "date". Texts and numbers are read as
            this type: "42" as 42, "true" as True, "2026-11-25T04:00:00Z" (or seconds since 1970) as a time.
        set: Path -> value, or a function of the message that returns it (in a config file an expression). "body" alone is the
            whole body. Numbers in headers are written as text.
        remove: Paths. A path without a field is ignored.
        missing: What happens to a message without a field to rename or cast (of a list: in each element): "reject" it, or
            "skip" the field.

    Raises:
        Rejected: with every field that could not be renamed, cast, set or removed, and why. This happens after a `Validate`
            that replaces bodies by models: put Fields in front of it.

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
        self._rename = [(parsed(old, "rename"), parsed(new, "rename")) for old, new in _items(self.rename, "rename")]
        self._cast = [(parsed(path, "cast"), cast_to(path, to)) for path, to in _items(self.cast, "cast")]
        self._set = [(parsed(path, "set", alone=True), value) for path, value in _items(self.set, "set")]
        self._remove = [parsed(path, "remove") for path in self.remove or ()]
        for path, value in self._set:
            if callable(value) and not is_plain(value):
                raise PipelineError(
                    f'Fields.set["{written(path)}"] is async or a generator; it is a value, or a plain function'
                )
            if path[0] == "headers" and not callable(value):
                check_header(path, header_text(value), "set")
        for _, new in self._rename:
            if new[0] == "headers":
                check_header(new, "", "rename")
        if not (self._rename or self._cast or self._set or self._remove):
            raise PipelineError("Fields: nothing to do; give rename, cast, set or remove")

    def transform(self, message: Message[Any], /) -> Message[Any]:
        draft = {"body": message.body, "headers": dict(message.headers)}
        problems = [*self._rename_fields(draft)]
        for path, cast in self._cast:
            problems += self._cast_field(draft, path, cast)
        problems += self._set_fields(draft, message, calling=not problems)
        for path in self._remove:
            problems += pop(draft, path, "removed")[0]
        if problems:
            raise Rejected(*problems)
        return _changed(message, draft)

    def _rename_fields(self, draft: dict[str, Any]) -> Iterator[str]:
        """Read all fields, then write all, so that two fields can change places."""
        taken: list[tuple[Path, Any]] = []
        for old, new in self._rename:
            blocked, value = pop(draft, old, "renamed")
            yield from blocked
            if value is not ABSENT:
                taken.append((new, value))
            elif not blocked and self.missing == "reject":
                yield f"there is no {written(old)} to rename"
        for new, value in taken:
            yield from put(draft, new, value)

    def _cast_field(self, draft: dict[str, Any], path: Path, cast: Callable[[Any], Any]) -> Iterable[str]:
        problems: dict[str, None] = {}

        def act(value: Any) -> Any:
            if value is ABSENT:
                if self.missing == "reject":
                    problems[f"there is no {written(path)} to cast"] = None
                return value
            try:
                return cast(value)
            except (ValueError, TypeError, ArithmeticError, OSError) as error:  # without the value, which may be a secret
                fault = "would lose digits as" if isinstance(error, LosesDigits) else "is not of type"
                problems[f"{written(path)} {fault} {cast.__name__}"] = None
                return value

        return [*change(draft, path, "cast", act), *problems]

    def _set_fields(self, draft: dict[str, Any], message: Message[Any], calling: bool) -> Iterator[str]:
        for path, value in self._set:
            if callable(value) and not (calling or isinstance(value, Expression)):
                continue  # a function may rely on a field that could not be renamed or cast
            try:
                found = finished(value(_changed(message, draft))) if callable(value) else copy.deepcopy(value)
            except Rejected as refused:  # an expression that does not apply to this message
                yield from refused.reasons
                continue
            yield from put(draft, path, found)


def _items(given: Any, name: str) -> list[tuple[str, Any]]:
    if given is None:
        return []
    if not isinstance(given, Mapping):
        raise PipelineError(f"Fields.{name}={given!r}: it maps paths, as in {{'body.total': …}}")
    return list(given.items())


def _changed(message: Message[Any], draft: dict[str, Any]) -> Message[Any]:
    """The message with all changes so far, which were checked when they were made."""
    if draft["headers"] != message.headers:
        message = msgspec.structs.replace(message, headers=frozen_headers(draft["headers"]))
    return message if draft["body"] is message.body else message.with_body(draft["body"])
