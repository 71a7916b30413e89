"""Values made of values: any data, lists, tables, and alternatives."""

from __future__ import annotations

import collections.abc
import datetime
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import Any, ClassVar

from pipebus.config.kinds.base import ALL, Kind, Loading, Schema, check_plain
from pipebus.config.kinds.functions import is_function
from pipebus.config.problems import BROKEN, Bad, Unexportable
from pipebus.config.wording import Interpolated, brief


class Anything:
    """Any data that TOML can express and JSON can hold."""

    takes = ALL

    def read(self, value: Any, loading: Loading) -> Any:
        if isinstance(value, dict):
            return {key: self.read(inner, loading) for key, inner in value.items()}
        if isinstance(value, list):
            return [self.read(inner, loading) for inner in value]
        if value is BROKEN:
            raise Bad
        return str.__str__(value) if isinstance(value, Interpolated) else value

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
        raise Unexportable(f"{brief(value)} ({type(value).__name__}) is not data that a file can hold")

    def schema(self) -> Schema:
        return {}


@dataclass(frozen=True)
class ListOf:
    """
    Args:
        make: Turns the list into the value of the setting.
        least: The smallest number of items.
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
            raise Unexportable(f"{brief(value)} is not a list")
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
            raise Unexportable(f"{brief(value)} is not a table whose keys are texts")
        for key in value:
            check_plain(key)
        return {key: self.inner.write(one) for key, one in value.items()}

    def schema(self) -> Schema:
        return {"type": "object", "additionalProperties": self.inner.schema()}


def _each(items: Iterable[tuple[Any, Any]], kind: Kind, loading: Loading) -> list[tuple[Any, Any]]:
    """Read every item, and report all that are wrong together."""
    found: list[tuple[Any, Any]] = []
    problems: list[tuple[Any, Any, Bad]] = []
    for key, value in items:
        try:
            if value is BROKEN:
                raise Bad
            found.append((key, kind.read(value, loading)))
        except Bad as bad:
            problems.append((key, value, bad))
    if problems:
        raise Bad.inside(problems)
    return found


@dataclass(frozen=True)
class OneOf:
    """Several kinds, of which the first that accepts a value reads it."""

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
        deep = next((bad for bad in bads if bad.details), None)
        if deep is not None:  # this kind accepted the outer value, so its details help most
            raise deep
        texts = list(dict.fromkeys(bad.text for bad in bads))
        rest = [text.removeprefix("it has to be ").removeprefix("it is ") for text in texts[1:]]
        raise Bad(texts[0] + "".join(f", {text}" if " or " in text else f", or {text}" for text in rest))

    def write(self, value: Any) -> Any:
        if is_function(value) and any(hasattr(kind, "expr") for kind in self.kinds):
            raise Unexportable(f"{brief(value)}: in a file, a table with this one key denotes a function")
        refusals: list[tuple[bool, str]] = []
        for kind in self.kinds:
            try:
                return kind.write(value)
            except Unexportable as error:
                refusals.append((type(value) in kind.takes, str(error)))
        raise Unexportable(next((text for fits, text in refusals if fits), refusals[-1][1]))

    def schema(self) -> Schema:
        return {"anyOf": [kind.schema() for kind in self.kinds]}
