"""Handlers and filters that a test of a config file puts in place of the real ones."""

import builtins
import copy
import itertools
from collections.abc import Callable
from contextlib import suppress
from typing import Any

from pipebus import errors
from pipebus.config.vocabulary import Filtering, Handling
from pipebus.errors import Rejected
from pipebus.message.message import Message
from pipebus.message.outcomes import Dropped
from pipebus.pipeline.shapes import transform
from pipebus.testing.harness.strikes import InjectedError


def handler(name: str, stand_in: Handling) -> Any:
    raises = _raising(stand_in)

    def handle(message: Message[Any]) -> Any:
        raises()
        return copy.deepcopy(stand_in.returns)

    handle.__name__ = name
    return handle


def filter_of(name: str, stand_in: Filtering) -> Any:
    raises = _raising(stand_in)

    def stand(message: Message[Any]) -> Message[Any] | Dropped:
        if not raises():
            return message
        if stand_in.rejects is not None:
            raise Rejected(stand_in.rejects)
        return message if stand_in.drops is None else Dropped(stand_in.drops)

    stand.__name__ = name
    return transform(stand)


def _raising(stand_in: Handling | Filtering) -> Callable[[], bool]:
    """A function that raises the stand-in's error, if it has one; False: it has done what it does as often as it says."""
    calls = itertools.count(1)

    def raises() -> bool:
        if stand_in.times is not None and next(calls) > stand_in.times:
            return False
        if stand_in.raises is not None:
            raise _error(stand_in.raises)
        return True

    return raises


def _error(text: str) -> Exception:
    """The error for a text such as "ConnectionError: down" or "Rejected: no"; for other texts, an InjectedError."""
    name, _, rest = text.partition(":")
    found = getattr(builtins, name.strip(), None) or getattr(errors, name.strip(), None)
    if isinstance(found, type) and issubclass(found, Exception):
        with suppress(TypeError):  # it cannot be made from a text
            return found(rest.strip())
    return InjectedError(text)
