"""
Strangers: objects that a program may hand to a bus and whose own methods raise, lie or refuse.

`ERRORS` are makers of exceptions, `THINGS` makers of bodies, keys and the like. Only the things that the interpreter itself
needs work: an exception can be raised, and a callable can be called.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from typing import Any, NoReturn


class Touched(Exception):
    """The error that a stranger's own method raises."""


def refuse(*_: Any, **__: Any) -> NoReturn:
    raise Touched("a method of a stranger was called")


def leave(*_: Any, **__: Any) -> NoReturn:
    raise SystemExit("a method of a stranger was called")


DUNDERS = (
    "__str__", "__repr__", "__format__", "__eq__", "__ne__", "__lt__", "__hash__", "__bool__", "__len__", "__iter__",
    "__contains__", "__getitem__", "__getattr__", "__setattr__", "__delattr__", "__reduce__", "__reduce_ex__", "__getstate__",
    "__dir__", "__copy__", "__deepcopy__", "__sizeof__", "__int__", "__float__", "__index__", "__enter__", "__exit__",
    "__fspath__", "__bytes__", "__instancecheck__",
)  # fmt: skip


def touchy(base: type, **more: Any) -> Any:
    """A class whose every dunder method raises, and whose `__class__` raises too."""
    body = dict.fromkeys(DUNDERS, refuse) | {"__class__": property(refuse)} | more
    return type("Stranger", (base,), body)


# --- errors --------------------------------------------------------------------------------------------------------------


@dataclasses.dataclass(frozen=True)
class FrozenError(Exception):
    code: int = 0


class SlottedError(Exception):
    __slots__ = ()

    def __setattr__(self, name: str, value: object) -> None:
        raise Touched(f"{name} was set")


class UnreadableError(Exception):
    __str__ = __repr__ = refuse


class LeavingError(Exception):
    """An error whose text ends the program when it is read."""

    __str__ = __repr__ = leave


class LyingError(Exception):
    """An error that claims to be a request to end the program."""

    __class__ = property(lambda self: SystemExit)  # type: ignore[assignment]


class NotesError(Exception):
    add_note = with_traceback = refuse
    __notes__ = property(refuse)


class Meta(type):
    __name__ = property(refuse)  # type: ignore[assignment]


class NamelessError(Exception, metaclass=Meta):
    pass


class OddError(BaseException):
    """An error that is not an `Exception`, and not a request to end the program either."""


class TextError(Exception):
    """An error with a text that UTF-8 cannot encode."""

    def __str__(self) -> str:
        return "\udce9"


def cyclic() -> Exception:
    first, second = ValueError("first"), ValueError("second")
    first.__cause__, second.__cause__ = second, first
    return first


def from_a_module_whose_path_is_not_text() -> Exception:
    scope: dict[str, Any] = {}
    exec(compile("def fail():\n    raise ValueError('from afar')", "/srv/caf\udce9/shop.py", "exec"), scope)
    try:
        scope["fail"]()
    except ValueError as error:
        return error
    raise AssertionError("it did not fail")


def from_a_module_without_a_name() -> Exception:
    scope: dict[str, Any] = {"__name__": ["a", "list"]}
    exec("def fail():\n    raise ValueError('from nowhere')", scope)
    try:
        scope["fail"]()
    except ValueError as error:
        return error
    raise AssertionError("it did not fail")


def with_a_hostile_cause() -> Exception:
    error = ValueError("outside")
    error.__cause__ = FrozenError(1)
    error.__context__ = touchy(Exception)()
    return error


ERRORS: dict[str, Callable[[], BaseException]] = {
    "a frozen dataclass": FrozenError,
    "slots and no attributes": SlottedError,
    "a text that raises": UnreadableError,
    "a text that exits": LeavingError,
    "a lying class": LyingError,
    "notes that raise": NotesError,
    "no name": NamelessError,
    "no Exception": OddError,
    "not UTF-8": TextError,
    "a cycle": cyclic,
    "a path that is not UTF-8": from_a_module_whose_path_is_not_text,
    "a module without a name": from_a_module_without_a_name,
    "a hostile cause": with_a_hostile_cause,
    "a group": lambda: BaseExceptionGroup("many", [FrozenError(1), OddError()]),
    "every dunder raises": touchy(Exception),
    "every dunder raises, no Exception": touchy(BaseException),
}

# --- other things --------------------------------------------------------------------------------------------------------


class LyingText(str):
    """A str whose methods return something else, or raise."""

    __str__ = __repr__ = __format__ = refuse

    def __eq__(self, other: object) -> bool:
        raise Touched("compared")

    __hash__ = str.__hash__


THINGS: dict[str, Callable[[], Any]] = {
    "every dunder raises": touchy(object),
    "a dict whose dunders raise": touchy(dict),
    "a list whose dunders raise": touchy(list),
    "a lying text": lambda: LyingText("tea"),
    "an unhashable": lambda: [1],
}
