"""
Kinds of values: how a file writes what a setting takes, read from the setting's own annotation.

A kind reads a value of a file (`read`), writes one for a file (`write`) and tells editors about it (`schema`, JSON Schema
draft-07). `kind_of` finds the kind of an annotation; what it does not know is left to pydantic.
"""

from __future__ import annotations

import collections.abc
import datetime
import enum
import functools
import types
import typing
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar, Final, Protocol

from pipebus import settings
from pipebus.config.imports import DATA, FORM, PATTERN, PLAIN, Imports, exception_type, name_of, plain_type
from pipebus.config.problems import BROKEN, LONGEST, Bad, Told, Unexportable, guess
from pipebus.errors import PipebusError, text_of
from pipebus.expressions import Condition, Expression
from pipebus.message import Message

Schema = dict[str, Any]


@dataclass(eq=False)
class Loading:
    """What reading may ask for: allowed imports, and what the program hands in."""

    imports: Imports
    handlers: Mapping[str, Any]
    filters: Mapping[str, Any]


class Kind(Protocol):
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

    def read(self, value: Any, loading: Loading) -> Any:
        if isinstance(value, Told):
            value = self.of_text(value)
        if not self.fits(value):
            raise Bad(f"it is {self.what}")
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

    def fits(self, value: Any) -> bool:
        return isinstance(value, str)

    def read(self, value: Any, loading: Loading) -> str:
        # A plain one: nothing may depend on where it came from.
        return str.__str__(super().read(value, loading))


class Flag(Simple):
    what = "true or false"
    kind: ClassVar[Schema] = {"type": "boolean"}

    def fits(self, value: Any) -> bool:
        return isinstance(value, bool)

    def of_text(self, text: Told) -> Any:
        return {"true": True, "false": False}.get(text.lower(), text)


class Number(Simple):
    what = "a number"
    kind: ClassVar[Schema] = {"type": "number"}

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
            raise Bad(f"it is at least {self.least}")
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

    def read(self, value: Any, loading: Loading) -> Any:
        told = isinstance(value, Told)
        if told:
            value = Whole().of_text(value) if self.number == "integer" else Number().of_text(value)
        try:
            return self.convert(value, "")
        except PipebusError as error:
            if told and isinstance(value, str):  # the reason would tell a part of it
                raise Bad(f"it is a {self.text}: a number, or with a unit of {', '.join(self.units)}") from None
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


DURATION: Final = Quantity(settings.seconds, settings.SECONDS, "duration", "number")
INTERVAL: Final = Quantity(functools.partial(settings.seconds, above=0.0), settings.SECONDS, "duration above 0", "number")
SIZE: Final = Quantity(settings.size, settings.BYTES, "size", "integer")


@dataclass(frozen=True)
class Choice:
    """One of some values: a `Literal`, or an `Enum` by value."""

    values: tuple[Any, ...]
    make: Callable[[Any], Any] | None = None
    where: str = ""

    def read(self, value: Any, loading: Loading) -> Any:
        for one in self.values:
            same = type(one) is type(value) or isinstance(value, Told)
            if same and one == (type(one)(value) if isinstance(value, Told) and isinstance(one, str) else value):
                return one if self.make is None else self.make(one)
        names = [str(one) for one in self.values]
        near = guess(value, names) if isinstance(value, str) and not isinstance(value, Told) else ""
        raise Bad(f"it is {' or '.join(filter(None, [', '.join(names[:-1]), names[-1]]))}{self.where}{near}")

    def write(self, value: Any) -> Any:
        plain = value.value if isinstance(value, enum.Enum) else value
        if plain not in self.values:
            raise Unexportable(f"{brief(value)} is none of {', '.join(map(str, self.values))}")
        return plain

    def schema(self) -> Schema:
        return {"enum": list(self.values)}


class Anything:
    """Data: what TOML can say and JSON can hold."""

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

    def read(self, value: Any, loading: Loading) -> Any:
        if not isinstance(value, list):
            raise Bad("it is a list")
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

    def read(self, value: Any, loading: Loading) -> Any:
        if not isinstance(value, dict):
            raise Bad("it is a table")
        return dict(_each(value.items(), self.inner, loading))

    def write(self, value: Any) -> Any:
        if not isinstance(value, Mapping) or not all(isinstance(key, str) for key in value):
            raise Unexportable(f"{brief(value)} is no table of texts to values")
        return {key: self.inner.write(one) for key, one in value.items()}

    def schema(self) -> Schema:
        return {"type": "object", "additionalProperties": self.inner.schema()}


def _each(items: typing.Iterable[tuple[Any, Any]], kind: Kind, loading: Loading) -> list[tuple[Any, Any]]:
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


class Named:
    """What is named "module:name"."""

    what = "object"
    form = FORM

    def read(self, value: Any, loading: Loading) -> Any:
        if not isinstance(value, str):
            raise Bad(self.form)
        if isinstance(value, Told):
            raise Bad("what is imported is not put together from ${…}: what comes from outside would become code")
        return self.find(value, loading)

    def find(self, name: str, loading: Loading) -> Any:
        return loading.imports.find(name, self.problem)

    def fits(self, found: Any) -> bool:
        return True

    def problem(self, found: Any) -> str | None:
        """What is wrong with an object."""
        return None if self.fits(found) else f"it is no {self.what}"

    def write(self, value: Any) -> Any:
        return name_of(value)

    def schema(self) -> Schema:
        return {"type": "string", "pattern": PATTERN}


class Imported(Named):
    """A function, of whatever."""

    what = "function"

    def fits(self, found: Any) -> bool:
        return callable(found)


class TypeName(Named):
    """A type to validate with."""

    what = "type"

    form = 'it is a type, as in "shop.models:Order" or "int"'

    def find(self, name: str, loading: Loading) -> Any:
        if ":" not in name and plain_type(name) is None:
            raise Bad(self.form + guess(name, PLAIN))
        return plain_type(name) or loading.imports.find(name, self.problem, DATA)

    def fits(self, found: Any) -> bool:
        named = hasattr(found, "__supertype__") or type(found).__name__ == "TypeAliasType"  # NewType; type X = …
        return isinstance(found, type) or typing.get_origin(found) is not None or named

    def write(self, value: Any) -> Any:
        return value.__name__ if isinstance(value, type) and plain_type(value.__name__) is value else name_of(value)

    def schema(self) -> Schema:
        return {"anyOf": [{"enum": list(PLAIN)}, super().schema()]}


class ExceptionName(Named):
    """A class of exceptions; Python's own by name alone."""

    what = "class of exceptions"

    form = 'it is the name of an exception, as in "ConnectionError" or "shop.errors:Busy"'

    def find(self, name: str, loading: Loading) -> Any:
        return loading.imports.find(name, self.problem) if ":" in name else exception_type(name)

    def fits(self, found: Any) -> bool:
        return isinstance(found, type) and issubclass(found, BaseException)

    def write(self, value: Any) -> Any:
        own = isinstance(value, type) and value.__module__ == "builtins"
        return value.__name__ if own else name_of(value)

    def schema(self) -> Schema:
        return {"type": "string"}


@dataclass(frozen=True)
class Function:
    """
    A function of the message: `{ expr = "…" }`, `{ python = "module:name" }`.

    Args:
        text: "module:name" by itself means it too; not where text means itself.
        expr: An expression will do; not for functions of something else.
        condition: It is to be true or false.
    """

    text: bool = True
    expr: bool = True
    condition: bool = False

    @staticmethod
    def is_one(value: Any) -> bool:
        return isinstance(value, dict) and len(value) == 1 and next(iter(value)) in ("expr", "python")

    def read(self, value: Any, loading: Loading) -> Any:
        if isinstance(value, str) and self.text:
            return Imported().read(value, loading)
        if not self.is_one(value):
            raise Bad(f"it is {self.form}")
        [(how, source)] = value.items()
        if source is BROKEN:
            raise Bad
        if how == "python":
            return Imported().read(source, loading)
        if not self.expr:
            raise Bad("an expression is about a message, and this is not; name a function: { python = … }")
        if not isinstance(source, str):
            raise Bad("expr is text")
        if isinstance(source, Told):
            raise Bad("an expression is not put together from ${…}: what comes from outside would become code")
        try:
            return Condition(source) if self.condition else Expression(source)
        except PipebusError as error:
            raise Bad(str(error)) from None

    @property
    def form(self) -> str:
        return " or ".join(['{ expr = "…" }'] * self.expr + ['{ python = "module:name" }'])

    def write(self, value: Any) -> Any:
        if isinstance(value, Expression):
            if self.condition and not isinstance(value, Condition):
                raise Unexportable(f"{brief(value)} is no Condition, and a file's are: write Condition({value.text!r})")
            return {"expr": value.text}
        if not callable(value):
            raise Unexportable(f"{brief(value)} is no function")
        return name_of(value) if self.text else {"python": name_of(value)}

    def schema(self) -> Schema:
        forms: list[Schema] = [one_key("python", {"type": "string", "pattern": PATTERN})]
        if self.expr:
            forms.insert(0, one_key("expr", {"type": "string"}))
        if self.text:
            forms.insert(0, {"type": "string", "pattern": PATTERN})
        return {"anyOf": forms}


def one_key(key: str, value: Schema) -> Schema:
    return {"type": "object", "properties": {key: value}, "required": [key], "additionalProperties": False}


@dataclass(frozen=True)
class OneOf:
    """The first that takes it."""

    kinds: tuple[Kind, ...]

    def read(self, value: Any, loading: Loading) -> Any:
        kinds = self.kinds
        if Function.is_one(value):
            kinds = tuple(kind for kind in kinds if isinstance(kind, Function)) or kinds
        shaped = [kind for kind in kinds if isinstance(kind, _SHAPES.get(type(value), ()))]
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
        rest = [text.removeprefix("it is ") for text in texts[1:]]
        raise Bad(texts[0] + "".join(f", {text}" if " or " in text else f", or {text}" for text in rest))

    def write(self, value: Any) -> Any:
        if Function.is_one(value) and any(isinstance(kind, Function) for kind in self.kinds):
            raise Unexportable(f"{brief(value)}: a table with this one key stands for a function in a file")
        refusals: list[str] = []
        for kind in self.kinds:
            try:
                return kind.write(value)
            except Unexportable as error:
                refusals.append(str(error))
        raise Unexportable(refusals[-1])

    def schema(self) -> Schema:
        return {"anyOf": [kind.schema() for kind in self.kinds]}


_SHAPES: Final[dict[type, tuple[type, ...]]] = {
    str: (Text, Quantity, Choice, Named, Function, Anything),
    Told: (Simple, Quantity, Choice, Named, Function, Anything),
    int: (Whole, Number, Quantity, Choice, Anything),
    float: (Number, Quantity, Choice, Anything),
    list: (ListOf, Anything),
    dict: (TableOf, Function, Anything),
}
"""What a value of a type may be meant for."""


class Other:
    """Whatever pydantic makes of an annotation."""

    def __init__(self, hint: Any) -> None:
        from pydantic import ConfigDict, PydanticUserError, TypeAdapter

        try:
            self.adapter: Any = TypeAdapter(hint, config=ConfigDict(arbitrary_types_allowed=True))
        except PydanticUserError:  # a model, which has a configuration of its own
            self.adapter = TypeAdapter(hint)

    def read(self, value: Any, loading: Loading) -> Any:
        from pydantic import ValidationError

        try:
            return self.adapter.validate_python(Anything().read(value, loading))
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
        return Anything().write(plain)

    def schema(self) -> Schema:
        from pipebus.config.draft7 import from_pydantic

        return from_pydantic(self.adapter)


# --- annotations -------------------------------------------------------------------------------------------------------

_MARKS: Final[dict[str, Kind]] = {"seconds": DURATION, "bytes": SIZE, "type": TypeName(), "condition": Function(condition=True)}
_PLAIN: Final[dict[Any, Kind]] = {str: Text(), bool: Flag(), int: Whole(), float: Number(), Any: Anything(), object: Anything()}


def kind_of(hint: Any) -> Kind:
    """The kind of a setting, from its annotation."""
    origin, args = typing.get_origin(hint), typing.get_args(hint)
    if origin is typing.Annotated:
        marks = [one for one in args[1:] if isinstance(one, str) and one in _MARKS]
        return _MARKS[marks[0]] if marks else Other(hint)
    if hint in _PLAIN:
        return _PLAIN[hint]
    if origin is typing.Literal:
        return Choice(args)
    if isinstance(hint, type) and issubclass(hint, enum.Enum):
        return Choice(tuple(one.value for one in hint), hint)
    if origin in (typing.Union, types.UnionType):
        return _union([one for one in args if one is not type(None)])
    if hint is collections.abc.Callable or origin is collections.abc.Callable:
        return Function(expr=_of_a_message(args)) if origin is not None else Function()
    if origin is type and args and isinstance(args[0], type) and issubclass(args[0], BaseException):
        return ExceptionName()
    if hint is type or origin is type:
        return TypeName()
    sequences = (list, tuple, set, frozenset, Sequence, collections.abc.Iterable, collections.abc.Set)
    if origin in sequences and (origin is not tuple or (len(args) == 2 and args[1] is Ellipsis)):
        make = origin if origin in (list, tuple, set, frozenset) else list
        return ListOf(kind_of(args[0]), make)
    if origin in (dict, Mapping, collections.abc.MutableMapping) and args[0] is str:
        return TableOf(kind_of(args[1]))
    return Other(hint)


def _of_a_message(args: tuple[Any, ...]) -> bool:
    takes = args[0] if args else ...
    if not isinstance(takes, list):
        return True
    return len(takes) == 1 and (takes[0] is Any or takes[0] is Message or typing.get_origin(takes[0]) is Message)


def _union(hints: list[Any]) -> Kind:
    kinds = [kind_of(hint) for hint in hints]
    if any(isinstance(kind, (Text, Anything)) for kind in kinds):
        kinds = [Function(text=False, expr=kind.expr) if isinstance(kind, Function) else kind for kind in kinds]
    kinds.sort(key=lambda kind: isinstance(kind, (Anything, Other)))  # they take almost everything
    return kinds[0] if len(kinds) == 1 else OneOf(tuple(kinds))


def check_plain(value: Any) -> None:
    """
    Raises:
        Unexportable: TOML has no way to write it.
    """
    if isinstance(value, int) and not -(2**63) <= value < 2**63:
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
            return text.removeprefix(prefix)
    return text
