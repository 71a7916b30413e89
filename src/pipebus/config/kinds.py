"""
Kinds of values: how a file writes what a setting takes, read from the setting's own annotation.

A kind reads a value of a file (`read`), writes one for a file (`write`) and tells editors about it (`schema`, JSON Schema
draft-07). `annotations.kind_of` finds the kind of a setting; those that name Python objects are in `names`.
"""

from __future__ import annotations

import collections.abc
import datetime
import enum
import functools
import json
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import Any, ClassVar, Final, Protocol

from pipebus.config.imports import Imports
from pipebus.config.problems import BROKEN, LONGEST, Bad, Told, Unexportable, guess
from pipebus.errors import PipebusError
from pipebus.foreign.objects import text_of
from pipebus.values import quantities

Schema = dict[str, Any]

ALL: Final = (str, bool, int, float, list, dict, Told, datetime.datetime, datetime.date, datetime.time)
"""Types of values in a file."""

LARGE: Final = 2**63
"""Whole numbers of a file are below it."""


@dataclass(eq=False)
class Loading:
    """What reading may ask for: allowed imports, and what the program hands in."""

    imports: Imports
    handlers: Mapping[str, Any]
    filters: Mapping[str, Any]


class Kind(Protocol):
    """
    Attributes:
        takes: Types of a file's values that may be meant for it.
    """

    @property
    def takes(self) -> tuple[type, ...]: ...

    def read(self, value: Any, loading: Loading) -> Any:
        """
        Raises:
            Bad
        """
        ...

    def write(self, value: Any) -> Any:
        """
        Raises:
            Unexportable
        """
        ...

    def schema(self) -> Schema: ...


class Simple:
    """Kinds that a file and Python write alike."""

    what: ClassVar[str]
    kind: ClassVar[Schema]
    takes: tuple[type, ...] = (Told,)

    def read(self, value: Any, loading: Loading) -> Any:
        if isinstance(value, Told):
            value = self.of_text(value)
        if not self.fits(value):
            raise Bad(f"it has to be {self.what}")
        return value

    def of_text(self, text: Told) -> Any:
        """What a text that was interpolated says."""
        return text

    def fits(self, value: Any) -> bool:
        raise NotImplementedError

    def write(self, value: Any) -> Any:
        if not self.fits(value):
            raise Unexportable(f"{brief(value)} is not {self.what}")
        check_plain(value)
        return value

    def schema(self) -> Schema:
        return dict(self.kind)


class Text(Simple):
    what = "text"
    kind: ClassVar[Schema] = {"type": "string"}
    takes = (str, Told)

    def fits(self, value: Any) -> bool:
        return isinstance(value, str)

    def read(self, value: Any, loading: Loading) -> str:
        # A plain one: nothing may depend on where it came from.
        return str.__str__(super().read(value, loading))


class Flag(Simple):
    what = "true or false"
    kind: ClassVar[Schema] = {"type": "boolean"}
    takes = (bool, Told)

    def fits(self, value: Any) -> bool:
        return isinstance(value, bool)

    def of_text(self, text: Told) -> Any:
        return {"true": True, "false": False}.get(text.lower(), text)


class Number(Simple):
    what = "a number"
    kind: ClassVar[Schema] = {"type": "number"}
    takes = (int, float, Told)

    def fits(self, value: Any) -> bool:
        return isinstance(value, (int, float)) and not isinstance(value, bool)

    def of_text(self, text: Told) -> Any:
        try:
            return float(text)
        except ValueError:
            return text


@dataclass(frozen=True)
class Whole(Simple):
    least: int | None = None
    what: ClassVar[str] = "a whole number"
    takes: ClassVar[tuple[type, ...]] = (int, Told)  # type: ignore[misc]

    def fits(self, value: Any) -> bool:
        return isinstance(value, int) and not isinstance(value, bool)

    def of_text(self, text: Told) -> Any:
        try:
            return int(text)
        except ValueError:
            return text

    def read(self, value: Any, loading: Loading) -> Any:
        found = super().read(value, loading)
        if self.least is not None and found < self.least:
            raise Bad(f"it has to be at least {self.least}")
        if not -LARGE <= found < LARGE:
            raise Bad("it is too large a number")
        return found

    def schema(self) -> Schema:
        return {"type": "integer"} | ({} if self.least is None else {"minimum": self.least})


@dataclass(frozen=True)
class Quantity:
    """A duration or a size: a number, or text with a unit."""

    convert: Callable[[Any, str], Any]
    units: Mapping[str, Any]
    text: str
    number: str
    takes: ClassVar[tuple[type, ...]] = (str, int, float, Told)

    def read(self, value: Any, loading: Loading) -> Any:
        told = isinstance(value, Told)
        if told:
            value = Whole().of_text(value) if self.number == "integer" else Number().of_text(value)
        try:
            return self.convert(value, "")
        except PipebusError as error:
            if told and isinstance(value, str):  # the reason would tell a part of it
                raise Bad(f"it has to be a {self.text}: a number, or with a unit of {', '.join(self.units)}") from None
            raise Bad(reason(str(error), "", value)) from None

    def write(self, value: Any) -> Any:
        try:
            found = self.convert(value, "")
        except PipebusError:
            raise Unexportable(f"{brief(value)} is no {self.text}") from None
        check_plain(found)
        return found

    def schema(self) -> Schema:
        pattern = rf"^\s*[0-9]+(\.[0-9]+)?\s*({'|'.join(self.units)})\s*$|\$\{{"
        return {"anyOf": [{"type": self.number, "minimum": 0}, {"type": "string", "pattern": pattern}]}


DURATION: Final = Quantity(quantities.seconds, quantities.SECONDS, "duration", "number")
INTERVAL: Final = Quantity(functools.partial(quantities.seconds, above=0.0), quantities.SECONDS, "duration above 0", "number")
SIZE: Final = Quantity(quantities.size, quantities.BYTES, "size", "integer")


@dataclass(frozen=True)
class Choice:
    """One of some values: a `Literal`, or an `Enum` by value."""

    values: tuple[Any, ...]
    make: Callable[[Any], Any] | None = None
    where: str = ""
    takes: ClassVar[tuple[type, ...]] = (str, bool, int, float, Told)

    def read(self, value: Any, loading: Loading) -> Any:
        for one in self.values:
            told = str(one).lower() if isinstance(one, bool) else str(one)
            if told == str(value) if isinstance(value, Told) else type(one) is type(value) and one == value:
                return one if self.make is None else self.make(one)
        names = [str(one) for one in self.values]
        near = guess(value, names) if isinstance(value, str) and not isinstance(value, Told) else ""
        raise Bad(f"it has to be {' or '.join(filter(None, [', '.join(names[:-1]), names[-1]]))}{self.where}{near}")

    def write(self, value: Any) -> Any:
        plain = value.value if isinstance(value, enum.Enum) else value
        if not any(type(one) is type(plain) and one == plain for one in self.values):
            raise Unexportable(f"{brief(value)} is none of {', '.join(map(str, self.values))}")
        return plain

    def schema(self) -> Schema:
        return {"enum": list(self.values)}


class Anything:
    """Data: what TOML can say and JSON can hold."""

    takes = ALL

    def read(self, value: Any, loading: Loading) -> Any:
        if isinstance(value, dict):
            return {key: self.read(inner, loading) for key, inner in value.items()}
        if isinstance(value, list):
            return [self.read(inner, loading) for inner in value]
        if value is BROKEN:
            raise Bad
        return str.__str__(value) if isinstance(value, Told) else value

    def write(self, value: Any) -> Any:
        if isinstance(value, Mapping) and all(isinstance(key, str) for key in value):
            for key in value:
                check_plain(key)
            return {key: self.write(inner) for key, inner in value.items()}
        if isinstance(value, (list, tuple)):
            return [self.write(inner) for inner in value]
        if type(value) in (str, int, float, bool, datetime.datetime, datetime.date, datetime.time):
            check_plain(value)
            return value
        raise Unexportable(f"{brief(value)} ({type(value).__name__}) is no data that a file can hold")

    def schema(self) -> Schema:
        return {}


@dataclass(frozen=True)
class ListOf:
    """
    Args:
        make: What is made of the list.
        least: So many at least.
    """

    inner: Kind
    make: Callable[[list[Any]], Any] = list
    least: int = 0
    takes: ClassVar[tuple[type, ...]] = (list,)

    def read(self, value: Any, loading: Loading) -> Any:
        if not isinstance(value, list):
            raise Bad("it has to be a list")
        if len(value) < self.least:
            raise Bad("it is empty; give at least one")
        return self.make([one for _, one in _each(enumerate(value), self.inner, loading)])

    def write(self, value: Any) -> Any:
        if isinstance(value, (str, Mapping)) or not isinstance(value, collections.abc.Iterable):
            raise Unexportable(f"{brief(value)} is no list")
        unordered = isinstance(value, (set, frozenset))
        return [self.inner.write(one) for one in (sorted(value, key=str) if unordered else value)]

    def schema(self) -> Schema:
        return {"type": "array", "items": self.inner.schema()} | ({"minItems": self.least} if self.least else {})


@dataclass(frozen=True)
class TableOf:
    inner: Kind
    takes: ClassVar[tuple[type, ...]] = (dict,)

    def read(self, value: Any, loading: Loading) -> Any:
        if not isinstance(value, dict):
            raise Bad("it has to be a table")
        return dict(_each(value.items(), self.inner, loading))

    def write(self, value: Any) -> Any:
        if not isinstance(value, Mapping) or not all(isinstance(key, str) for key in value):
            raise Unexportable(f"{brief(value)} is no table of texts to values")
        for key in value:
            check_plain(key)
        return {key: self.inner.write(one) for key, one in value.items()}

    def schema(self) -> Schema:
        return {"type": "object", "additionalProperties": self.inner.schema()}


def _each(items: Iterable[tuple[Any, Any]], kind: Kind, loading: Loading) -> list[tuple[Any, Any]]:
    found: list[tuple[Any, Any]] = []
    problems: list[tuple[Any, Any, Bad]] = []
    for key, value in items:
        if value is BROKEN:
            problems.append((key, value, Bad()))
            continue
        try:
            found.append((key, kind.read(value, loading)))
        except Bad as bad:
            problems.append((key, value, bad))
    if problems:
        raise Bad.inside(problems)
    return found


@dataclass(frozen=True)
class OneOf:
    """The first that takes it."""

    kinds: tuple[Kind, ...]

    @property
    def takes(self) -> tuple[type, ...]:
        return tuple(one for kind in self.kinds for one in kind.takes)

    def read(self, value: Any, loading: Loading) -> Any:
        kinds = self.kinds
        if is_function(value):
            kinds = tuple(kind for kind in kinds if hasattr(kind, "expr")) or kinds
        shaped = [kind for kind in kinds if type(value) in kind.takes]
        bads: list[Bad] = []
        for kind in shaped or kinds:
            try:
                return kind.read(value, loading)
            except Bad as bad:
                bads.append(bad)
        deep = next((bad for bad in bads if bad.details), None)  # it got furthest
        if deep is not None:
            raise deep
        texts = list(dict.fromkeys(bad.text for bad in bads))
        rest = [text.removeprefix("it has to be ").removeprefix("it is ") for text in texts[1:]]
        raise Bad(texts[0] + "".join(f", {text}" if " or " in text else f", or {text}" for text in rest))

    def write(self, value: Any) -> Any:
        if is_function(value) and any(hasattr(kind, "expr") for kind in self.kinds):
            raise Unexportable(f"{brief(value)}: a table with this one key stands for a function in a file")
        refusals: list[tuple[bool, str]] = []
        for kind in self.kinds:
            try:
                return kind.write(value)
            except Unexportable as error:
                refusals.append((type(value) in kind.takes, str(error)))
        raise Unexportable(next((text for fits, text in refusals if fits), refusals[-1][1]))

    def schema(self) -> Schema:
        return {"anyOf": [kind.schema() for kind in self.kinds]}


class Other:
    """Whatever pydantic makes of an annotation."""

    takes = ALL

    def __init__(self, hint: Any) -> None:
        from pydantic import ConfigDict, PydanticUserError, TypeAdapter

        try:
            self.adapter: Any = TypeAdapter(hint, config=ConfigDict(arbitrary_types_allowed=True))
        except PydanticUserError:  # a model, which has a configuration of its own
            self.adapter = TypeAdapter(hint)
        self.imports = _imports_by_itself(self.adapter.core_schema)

    def read(self, value: Any, loading: Loading) -> Any:
        from pydantic import ValidationError

        if self.imports:
            raise Bad(
                "this setting imports by itself (pydantic's ImportString), whatever is allowed; it cannot stand in a file"
            )
        plain = Anything().read(value, loading)
        try:
            if _has_told(value):  # its texts stand for whatever is due
                return self.adapter.validate_python(plain)
            return self.adapter.validate_json(json.dumps(plain, default=lambda time: time.isoformat()), strict=True)
        except ValidationError as error:
            details = [(tuple(one["loc"]), one["msg"]) for one in error.errors(include_url=False, include_input=False)]
            raise Bad("; ".join(f"{'.'.join(map(str, loc))}: {text}" if loc else text for loc, text in details)) from None
        except Bad:
            raise
        except Exception as error:
            raise Bad(text_of(error)) from None

    def write(self, value: Any) -> Any:
        try:
            plain = self.adapter.dump_python(value, mode="json", warnings="error", exclude_none=True)
        except Exception as error:
            raise Unexportable(f"{brief(value)} cannot be written: {text_of(error)}") from None
        written = Anything().write(plain)
        try:
            again = self.read(written, _NOTHING)
        except Bad:
            again = _NOTHING
        if not _same(again, value):
            raise Unexportable(f"{brief(value)} would come back from a file as something else")
        return written

    def schema(self) -> Schema:
        from pipebus.config.draft7 import from_pydantic

        return from_pydantic(self.adapter)


def is_function(value: Any) -> bool:
    """A table that stands for a function: `{ expr = "…" }`, `{ python = "…" }`."""
    return isinstance(value, dict) and len(value) == 1 and next(iter(value)) in ("expr", "python")


def one_key(key: str, value: Schema) -> Schema:
    return {"type": "object", "properties": {key: value}, "required": [key], "additionalProperties": False}


def _has_told(value: Any) -> bool:
    if isinstance(value, dict):
        return any(map(_has_told, value.values()))
    return any(map(_has_told, value)) if isinstance(value, list) else isinstance(value, Told)


def _imports_by_itself(schema: Any) -> bool:
    """Whether pydantic would import what a value names (its ImportString): told by what it has made of the annotation."""
    if isinstance(schema, Mapping):
        return any(map(_imports_by_itself, schema.values()))
    if isinstance(schema, (list, tuple)):
        return any(map(_imports_by_itself, schema))
    return getattr(schema, "__name__", "") == "import_string" and getattr(schema, "__module__", "").startswith("pydantic")


_NOTHING: Final = Loading(Imports(), {}, {})


def _same(a: Any, b: Any) -> bool:
    try:
        return bool(a == b)
    except Exception:  # a class's own __eq__
        return False


def check_plain(value: Any) -> None:
    """
    Raises:
        Unexportable: TOML has no way to write it.
    """
    if isinstance(value, int) and not -LARGE <= value < LARGE:
        raise Unexportable(f"{brief(value)} is too large a number for a file")
    if isinstance(value, str):
        try:
            value.encode()
        except UnicodeEncodeError:
            raise Unexportable(f"{brief(value)} has half a character, which no file can hold") from None
    if isinstance(value, datetime.time) and value.tzinfo is not None:
        raise Unexportable(f"{brief(value)}: a time of day has no zone in a file")
    offset = value.utcoffset() if isinstance(value, datetime.datetime) else None
    if offset is not None and offset.total_seconds() % 60:
        raise Unexportable(f"{brief(value)}: a file tells zones by whole minutes")


def brief(value: Any) -> str:
    """For an error about a value of Python's."""
    try:
        text = repr(value)
    except ValueError:  # a number of thousands of digits
        text = "a number of thousands of digits"
    return text if len(text) <= LONGEST else text[: LONGEST - 1] + "…"


def reason(text: str, what: str, value: Any) -> str:
    """The sentence of a setting's error, without its `what=value: `."""
    for prefix in (f"{what}={value!r}: ", f"{what}={value}: "):
        if text.startswith(prefix):
            return as_rule(text.removeprefix(prefix))
    return text


def as_rule(text: str) -> str:
    """A setting's "it is …", behind a value that is not like that."""
    return f"it has to be {text.removeprefix('it is ')}" if text.startswith("it is ") else text
