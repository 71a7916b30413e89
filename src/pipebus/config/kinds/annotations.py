"""The kind of a setting, from its annotation."""

from __future__ import annotations

import collections.abc
import enum
import types
import typing
from collections.abc import Mapping, Sequence
from typing import Any, Final

from pipebus.config.kinds.base import Kind
from pipebus.config.kinds.containers import Anything, ListOf, OneOf, TableOf
from pipebus.config.kinds.functions import Function
from pipebus.config.kinds.names import ExceptionName, TypeName
from pipebus.config.kinds.other import Other
from pipebus.config.kinds.plain import DURATION, SIZE, Choice, Flag, Number, Text, Whole
from pipebus.message.message import Message

_MARKS: Final[dict[str, Kind]] = {"seconds": DURATION, "bytes": SIZE, "type": TypeName(), "condition": Function(condition=True)}
_PLAIN: Final[dict[Any, Kind]] = {str: Text(), bool: Flag(), int: Whole(), float: Number(), Any: Anything(), object: Anything()}


def kind_of(hint: Any) -> Kind:
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
    kinds.sort(key=lambda kind: isinstance(kind, (Anything, Other)))  # last, because they accept almost everything
    return kinds[0] if len(kinds) == 1 else OneOf(tuple(kinds))
