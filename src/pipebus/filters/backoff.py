"""What `Retry`, `Redeliver` and `CircuitBreaker` share: which errors may be tried again, and waits that double."""

from __future__ import annotations

from contextlib import suppress
from typing import Any, Final

from pipebus.errors import (
    CodecError,
    HeaderError,
    LifecycleError,
    MessageError,
    MessageTooLarge,
    PipelineError,
    Rejected,
    SubjectError,
    UnsupportedCapability,
)
from pipebus.foreign.objects import text_of
from pipebus.message.message import Message
from pipebus.pipeline.shapes import Context
from pipebus.values import quantities

Errors = type[Exception] | tuple[type[Exception], ...]
NEVER: Final = (
    Rejected,
    PipelineError,
    LifecycleError,
    SubjectError,
    HeaderError,
    MessageError,
    MessageTooLarge,
    UnsupportedCapability,
    CodecError,
)
"""Errors that another run would raise again."""


def ended_by_stop(context: Context | None, error: BaseException) -> bool:
    """True if the stop of the bus caused this error, so that another run would fail too."""
    return context is not None and context.ended_by_stop(error)


def checked_waits(wait: Any, max_wait: Any, jitter: Any, name: str) -> tuple[float, float]:
    """
    Check the settings of waits that double, for the filter called `name`; returns the shortest and longest in seconds.

    Raises:
        PipelineError: a setting has an impossible value.
    """
    shortest, longest = quantities.seconds(wait, f"{name}.wait"), quantities.seconds(max_wait, f"{name}.max_wait")
    if longest < shortest:
        raise PipelineError(f"{name}.max_wait={longest:g} is shorter than {name}.wait={shortest:g}; raise it, or wait less")
    if isinstance(jitter, bool) or not isinstance(jitter, (int, float)) or not 0 <= jitter <= 1:
        raise PipelineError(f"{name}.jitter={jitter!r}: it is a fraction from 0 to 1")
    return shortest, longest


def checked_classes(
    on: Any, what: str, done: str = "tried again", never: tuple[type[Exception], ...] = NEVER,
    why: str = "because it would only be raised again",
) -> tuple[type[Exception], ...]:  # fmt: skip
    """
    The setting `on` as a tuple.

    Args:
        done: What is done with these errors.
        never: Classes of errors with which it is never done, and why.

    Raises:
        PipelineError: it is not a class of errors with which this can be done.
    """
    classes = tuple(on) if isinstance(on, (tuple, list)) else (on,)
    if not classes:
        raise PipelineError(f"{what}={on!r}: nothing would be {done}; name an exception class, or take the filter out")
    for one in classes:
        if not isinstance(one, type) or not issubclass(one, BaseException):
            raise PipelineError(
                f"{what}={on!r}: {one!r} is not an exception class; write on=ConnectionError, or a tuple of them"
            )
        if not issubclass(one, Exception):
            raise PipelineError(
                f"{what}={on!r}: {one.__name__} ends the program or task and is never {done}; write on=Exception"
            )
        if issubclass(one, never):
            raise PipelineError(f"{what}={on!r}: {one.__name__} is never {done}, {why}; take it out")
    return classes


def log_failure(
    context: Context | None, event: str, message: Message[Any], attempt: int, wait: float, error: Exception
) -> None:
    """Log that an attempt failed and when the next one follows."""
    if context is None:
        return
    with suppress(Exception):  # a logger that fails must not affect the message
        context.log.warning(
            event, filter=context.name, subject=str(message.subject), id=message.id, attempt=attempt, wait=round(wait, 6),
            error=text_of(error),
        )  # fmt: skip
