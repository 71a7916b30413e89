"""Retry: what failed for a moment may be tried again; what was refused, or has had its effect, may not."""

from __future__ import annotations

import functools
import itertools
import random
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
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
from pipebus.foreign.objects import is_a, text_of
from pipebus.message.message import Message
from pipebus.pipeline import blame, state
from pipebus.pipeline.shapes import Around, Context, Pause, Steps
from pipebus.values import quantities
from pipebus.values.quantities import Seconds

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
"""What another run would meet again."""


@dataclass(eq=False)
class Retry(Around):
    """
    Run the rest of the chain again when it fails, after waits that double.

    Args:
        attempts: Runs in all, >= 1.
        wait: Seconds before the second run, >= 0; doubled for each further one. With 0 it never waits, and may stand in a
            publish chain that is used on a running event loop.
        max_wait: Longest wait in seconds, >= `wait`.
        jitter: Share, 0 to 1, by which a wait may be shorter, at random, so that what failed together comes back apart.
        on: What is tried again: an exception class, or a tuple of them.

    Raises:
        The last error, as the same object. At once, whatever `on` says: a refusal (`Rejected`, `CodecError`,
        `MessageTooLarge`, …), a mistake in a chain (`PipelineError`), a bus that stops (`LifecycleError`, and errors that
        the handler makes of one), and what is no `Exception`: a cancellation counts as no attempt.

    Nothing that has had its effect is repeated. In a publish chain that is a message which a mailbox or the store has
    accepted, also if others refused it or a filter failed on the way back; what filters behind this one publish by the way
    counts too. Around a handler it is a delivery that the handler has settled. A drop is an outcome, not an error. A handler
    may still have done half of its work before it failed: it must bear being run twice.

    A wait gives up its worker's slot. Around a handler, the mailbox's next message waits too unless `workers` > 1; for waits
    of minutes, `delivery.retry(delay=…)` gives the message back instead. `attempt` and `attempts` of a delivery count its
    takings from the mailbox, however often it is run.

    Logs:
        `attempt.failed`, before each further run: filter, subject, id, attempt, wait (seconds), error.

    Source:
        Exponential backoff with jitter: M. Brooker, "Exponential Backoff And Jitter", AWS Architecture Blog, 2015. A jitter
        of 1 is its "full", 0.5 its "equal" jitter.
    """

    attempts: int = 3
    wait: Seconds = 0.1
    max_wait: Seconds = 10.0
    jitter: float = 0.2
    on: type[Exception] | tuple[type[Exception], ...] = Exception
    repeats = True

    def __post_init__(self) -> None:
        if isinstance(self.attempts, bool) or not isinstance(self.attempts, int) or self.attempts < 1:
            raise PipelineError(f"Retry.attempts={self.attempts!r}: it is a whole number of runs, at least 1")
        self.wait, self.max_wait = waits(self.wait, self.max_wait, self.jitter, "Retry")
        self._on = classes(self.on)
        self.waits = self.wait > 0
        self.passes = self.attempts
        self._random = random.Random()
        self._context: Context | None = None

    def start(self, context: Context) -> None:
        self._context = context

    def at(self, place: str) -> Callable[[Message[Any]], Steps]:
        return self.around if place == "publish" else functools.partial(self.around, published=False)

    def around(self, message: Message[Any], /, *, published: bool = True) -> Steps:
        # The variables are read here, in the context of this message: a generator may be closed in any other.
        delivery = None if published else state.delivery.get()
        notes = state.accepted.get() if published else None
        token = None
        if published and (notes is None or getattr(notes, "over", False)):
            notes = _Notes()
            token = state.accepted.set(notes)
        before = len(notes) if notes is not None else 0

        def done() -> bool:
            if notes is not None:
                return len(notes) > before
            return delivery is not None and bool(delivery.settled)

        wait = self.wait
        try:
            for attempt in itertools.count(1):
                try:
                    return (yield message)
                except self._on as error:
                    if attempt >= self.attempts or is_a(error, NEVER) or done() or ended_by_stop(self._context, error):
                        raise
                    seconds = wait * (1 - self.jitter * self._random.random())
                    wait = min(wait * 2, self.max_wait)
                    self._tell(message, attempt, seconds, error)
                    if self.waits:
                        step = blame.signed(error)
                        yield Pause(seconds)
                        if done():  # meanwhile, on another thread
                            if step is not None:
                                blame.blame(error, step, message)  # the wait has taken its signature off
                            raise
        finally:
            if token is not None:
                notes.over = True  # type: ignore[union-attr]
                with suppress(ValueError):  # closed from elsewhere: its own context is gone
                    state.accepted.reset(token)

    def _tell(self, message: Message[Any], attempt: int, wait: float, error: Exception) -> None:
        context = self._context
        if context is None:
            return
        with suppress(Exception):  # nothing depends on this line
            context.log.warning(
                "attempt.failed", filter=context.name, subject=str(message.subject), id=message.id, attempt=attempt,
                wait=round(wait, 6), error=text_of(error),
            )  # fmt: skip


def ended_by_stop(context: Context | None, error: BaseException) -> bool:
    """Whether a filter that would try again meets an error which the stop of its bus has caused."""
    ask = getattr(context.bus, "ended_by_stop", None) if context is not None else None
    return ask is not None and bool(ask(error))


class _Notes(list[Any]):
    """
    What has been accepted in one publish. The outermost Retry makes it, those further in add to the same.

    What a filter starts in a copy of the context (a task, a thread) may live on and publish for ever: `over` says that these
    notes are about the past.
    """

    over = False

    def append(self, accepted: Any, /) -> None:
        if not self.over:
            super().append(accepted)


def waits(wait: Any, max_wait: Any, jitter: Any, name: str) -> tuple[float, float]:
    """
    The settings of waits that double, of a filter of that name: shortest and longest, in seconds.

    Raises:
        PipelineError
    """
    shortest, longest = quantities.seconds(wait, f"{name}.wait"), quantities.seconds(max_wait, f"{name}.max_wait")
    if longest < shortest:
        raise PipelineError(f"{name}.max_wait={longest:g} is shorter than {name}.wait={shortest:g}; raise it, or wait less")
    if isinstance(jitter, bool) or not isinstance(jitter, (int, float)) or not 0 <= jitter <= 1:
        raise PipelineError(f"{name}.jitter={jitter!r}: it is a share from 0 to 1")
    return shortest, longest


def classes(on: Any, what: str = "Retry.on") -> tuple[type[Exception], ...]:
    """
    The setting as a tuple.

    Raises:
        PipelineError
    """
    classes = tuple(on) if isinstance(on, (tuple, list)) else (on,)
    if not classes:
        raise PipelineError(f"{what}={on!r}: nothing would be tried again; name an exception class, or take the filter out")
    for one in classes:
        if not isinstance(one, type) or not issubclass(one, BaseException):
            raise PipelineError(f"{what}={on!r}: {one!r} is no exception class; write on=ConnectionError, or a tuple of them")
        if not issubclass(one, Exception):
            raise PipelineError(f"{what}={on!r}: {one.__name__} ends what runs and is never tried again; write on=Exception")
        if issubclass(one, NEVER):
            raise PipelineError(
                f"{what}={on!r}: {one.__name__} is never tried again, for it would only be raised again; take it out"
            )
    return classes
