"""How a file writes the values of an annotation."""

from __future__ import annotations

import collections.abc
import dataclasses
import enum
import functools
import operator
import types
import typing
from collections.abc import Iterable, Mapping, MutableMapping, Sequence
from typing import Annotated, Any, Final, Literal, Union

from pydantic import AfterValidator, BeforeValidator, Field, SecretStr, WrapValidator

from pipebus.config.kinds.base import Reader
from pipebus.config.kinds.data import Data
from pipebus.config.kinds.foreign import Foreign
from pipebus.config.kinds.functions import Function, is_function
from pipebus.config.kinds.names import EXCEPTION, TYPE
from pipebus.config.kinds.plain import Duration, Size, Whole
from pipebus.message.message import Message

_TYPE: Final = Annotated[Any, TYPE]
_MARKED: Final = {
    "seconds": Duration, "bytes": Size, "type": _TYPE, "condition": Annotated[Any, Function(condition=True)],
    "secret": Annotated[Any, Foreign(SecretStr)],
}  # fmt: skip
_PLAIN: Final[dict[Any, Any]] = {str: str, bool: bool, int: Whole, float: float, Any: Data, object: Data, type: _TYPE}
_SEQUENCES: Final = (list, tuple, set, frozenset, Sequence, Iterable, collections.abc.Set)


def type_of(hint: Any) -> Any:
    """Return the type that pydantic validates a file's values into, for an annotation."""
    origin, args = typing.get_origin(hint), typing.get_args(hint)
    if origin is Annotated:
        marks = [one for one in args[1:] if isinstance(one, str) and one in _MARKED]
        if marks:
            bounds = [one for one in args[1:] if not isinstance(one, str)]  # such as pydantic's Field(gt=0)
            return Annotated[(_MARKED[marks[0]], *bounds)] if bounds else _MARKED[marks[0]]
    if hint in _PLAIN:
        return _PLAIN[hint]
    if origin is Literal:
        return _literal(args)
    if isinstance(hint, type) and issubclass(hint, enum.Enum):
        return _made(_literal(tuple(one.value for one in hint)), hint)
    if origin in (Union, types.UnionType):
        return _union([type_of(one) for one in args if one is not type(None)])
    if hint is collections.abc.Callable or origin is collections.abc.Callable:
        return Annotated[Any, Function(expr=not args or _takes_a_message(args[0]))]
    if origin is type and args:
        is_exception = isinstance(args[0], type) and issubclass(args[0], BaseException)
        return Annotated[Any, EXCEPTION] if is_exception else _TYPE
    if origin in _SEQUENCES and args and (origin is not tuple or args[1:] == (...,)):
        items: Any = list[type_of(args[0])]  # type: ignore[misc]
        return _made(items, origin) if origin in (tuple, set, frozenset) else items
    if origin in (dict, Mapping, MutableMapping) and args[:1] == (str,):
        return dict[str, type_of(args[1])]  # type: ignore[misc]
    try:
        return Annotated[Any, Foreign(hint)]
    except Exception:  # pydantic does not know the annotation either
        return Data


def _made(type_: Any, make: Any) -> Any:
    def after(value: Any) -> Any:  # pydantic refuses the signatures of some classes
        return make(value)

    return Annotated[type_, AfterValidator(after)]


def _literal(values: tuple[Any, ...]) -> Any:
    def of_a_type(value: Any) -> Any:  # to pydantic, true equals 1
        return value if isinstance(value, str) or type(value) in map(type, values) else None

    return Annotated[Literal[values], BeforeValidator(of_a_type)]


def _takes_a_message(takes: Any) -> bool:
    """True for the parameters of a function of a message, and for `...`."""
    if not isinstance(takes, list):
        return True
    return len(takes) == 1 and (takes[0] in (Any, Message) or typing.get_origin(takes[0]) is Message)


def _union(members: list[Any]) -> Any:
    functions = [one for member in members for one in typing.get_args(member)[1:] if isinstance(one, Function)]
    if functions and (str in members or Data in members):
        functions = [dataclasses.replace(one, text=False) for one in functions]
        members = [one for one in members if not _reads(Function, one)] + [Annotated[Any, one] for one in functions]
    members.sort(key=lambda one: one == Data or _reads(Foreign, one))  # last, because they accept almost everything
    if len(members) == 1:
        return members[0]
    union: Any = functools.reduce(operator.or_, members)
    ordered = Annotated[union, Field(union_mode="left_to_right")]

    def functions_first(value: Any, handler: Any, info: Any) -> Any:
        return functions[0].read(value, info.context) if is_function(value) else handler(value)

    return Annotated[ordered, WrapValidator(functions_first)] if functions else ordered


def _reads(reader: type[Reader], member: Any) -> bool:
    return any(isinstance(one, reader) for one in typing.get_args(member)[1:])
