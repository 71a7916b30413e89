"""
Foreign objects: the user's errors, bodies, subjects and observers, whose own methods may raise, lie or be slow.

The bus signs, trims, counts and prints objects that it did not make. An error may be a frozen dataclass, refuse attributes or
have a `__str__` that raises. So each function here bypasses the object's own methods where it can, and falls back to the name
of the class where it cannot. None of them raises, except that a KeyboardInterrupt on the main thread passes through, because
there it comes from a person.
"""

from __future__ import annotations

import threading
import traceback
from collections.abc import Callable, Mapping
from decimal import Decimal
from types import TracebackType
from typing import Any, Final

attributes: Final[Callable[[BaseException], dict[str, Any]]] = BaseException.__dict__["__dict__"].__get__
"""An error's attributes, bypassing its own `__getattribute__` and `__setattr__`."""

_class_name: Final[Callable[[type], str]] = type.__dict__["__name__"].__get__
_traceback: Final[Any] = BaseException.__dict__["__traceback__"]
_cause: Final[Any] = BaseException.__dict__["__cause__"]
_code: Final[Any] = SystemExit.__dict__["code"]
_members: Final[Any] = BaseExceptionGroup.__dict__["exceptions"]
_context: Final[Any] = BaseException.__dict__["__context__"]


def is_a(thing: object, kind: type | tuple[type, ...]) -> bool:
    """`isinstance` by the object's real class, because its `__class__` may lie or raise."""
    return issubclass(type(thing), kind)


def class_name(thing: object) -> str:
    """The name of the object's class, as it was defined."""
    return printable(_class_name(type(thing)))


def json_type(value: object) -> str:
    """What a value is, in words for people who write JSON and no Python: "text", "a list"; otherwise the name of its class."""
    if value is None:
        return "nothing"
    if is_a(value, bool):
        return "true or false"
    words: dict[Any, str] = {str: "text", (list, tuple): "a list", Mapping: "a table", (int, float, Decimal): "a number"}
    return next((word for kinds, word in words.items() if is_a(value, kinds)), class_name(value))


def printable(text: str) -> str:
    """`text` as a plain `str` that UTF-8 can encode: lone surrogates are escaped."""
    plain = str.__str__(text)
    return plain if plain.isascii() else plain.encode("utf-8", "backslashreplace").decode()


def visible(text: str, but: str = "") -> str:
    """
    `text` with every character that is not printable escaped, so that it cannot forge a line, control a terminal or turn the
    direction of other text.

    Args:
        but: Characters that stay as they are.
    """
    return text if text.isprintable() else "".join(c if c.isprintable() or c in but else ascii(c)[1:-1] for c in text)


def plain_text(value: Any) -> Any:
    """
    A string of a subclass (a member of an Enum, a `Subject`) as the plain text that it holds; anything else unchanged.

    `str(value)` would call the subclass: a member of `class Topic(str, Enum)` returns its name. Strings are made plain where
    they come in, so that later code can compare, hash, split and write them without running methods of a subclass.
    """
    return str.__str__(value) if type(value) is not str and issubclass(type(value), str) else value


def spared(error: BaseException) -> None:
    """In an `except BaseException`: raise a person's Ctrl-C again, swallow what a foreign method raised."""
    if is_a(error, KeyboardInterrupt) and threading.current_thread() is threading.main_thread():
        raise error


def shown(thing: object) -> str:
    """`repr`, or the name of the class if that fails."""
    try:
        return printable(repr(thing))
    except BaseException as error:
        spared(error)
        return f"<{class_name(thing)}: its repr raises {class_name(error)}>"


def said(thing: object) -> str:
    """`str`, or `shown` if that fails."""
    try:
        return printable(thing if isinstance(thing, str) else str(thing))
    except BaseException as error:
        spared(error)
        return shown(thing)


def text_of(error: BaseException) -> str:
    """Class and text of an error, as in "KeyError: 'x'"; only the name of the class if the text cannot be read or is empty."""
    try:
        text = printable(str(error))
    except BaseException as failure:
        spared(failure)
        text = f"(its text cannot be read: {class_name(failure)})"
    return f"{class_name(error)}: {text}" if text else class_name(error)


def note(error: BaseException, text: str) -> None:
    """`add_note`, even on an error that refuses attributes."""
    notes = attributes(error).setdefault("__notes__", [])
    if type(notes) is list:
        notes.append(text)


def traceback_of(error: BaseException) -> TracebackType | None:
    found: TracebackType | None = _traceback.__get__(error)
    return found


def set_traceback(error: BaseException, trace: TracebackType | None) -> None:
    """`with_traceback`, even on an error that refuses attributes."""
    _traceback.__set__(error, trace)


def causes_of(error: BaseException) -> tuple[BaseException | None, BaseException | None]:
    """The error's `__cause__` and `__context__`."""
    return _cause.__get__(error), _context.__get__(error)


def comes_from(error: BaseException, kinds: type[BaseException] | tuple[type[BaseException], ...]) -> bool:
    """
    True if an error of these kinds has led to `error`: it is one, or one is in its group, among its causes, or among the errors
    during whose handling it was raised.
    """
    seen: set[int] = set()
    queue: list[BaseException | None] = [error]
    while queue:
        one = queue.pop()
        if one is None or id(one) in seen:
            continue
        seen.add(id(one))
        if is_a(one, kinds):
            return True
        queue += causes_of(one)
        if is_a(one, BaseExceptionGroup):
            queue += _members.__get__(one)
    return False


def exit_code(error: BaseException) -> object:
    """The argument of a SystemExit."""
    return _code.__get__(error)


def formatted(error: BaseException) -> str:
    """The error as Python prints it, with the last 20 frames of its traceback; with fewer details if it cannot be printed."""
    try:
        return printable("".join(traceback.format_exception(error, limit=-20)))
    except BaseException as failure:
        spared(failure)
    frames = ""
    for frame, line in list(traceback.walk_tb(traceback_of(error)))[-20:]:
        frames += f'  File "{frame.f_code.co_filename}", line {line}, in {frame.f_code.co_name}\n'
    return printable(f"Traceback (most recent call last):\n{frames}{text_of(error)}\n")


def places_of(error: BaseException) -> str:
    """File, function and line of each frame of the traceback; equal for errors from the same place."""
    return "".join(
        f"{frame.f_code.co_filename}:{frame.f_code.co_name}:{line};" for frame, line in traceback.walk_tb(traceback_of(error))
    )
