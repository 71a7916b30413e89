"""Fallback: another outcome in place of an error."""

from __future__ import annotations

import copy
import functools
import weakref
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from typing import Any, Final

import msgspec

from pipebus.errors import LifecycleError, PipelineError, Rejected
from pipebus.filters.backoff import Errors, checked_classes, ended_by_stop
from pipebus.filters.counting import Count
from pipebus.filters.effect import Effect
from pipebus.foreign.objects import class_name, is_a, plain_text, shown, text_of
from pipebus.message.headers import frozen_headers
from pipebus.message.message import Message
from pipebus.message.outcomes import Handled
from pipebus.message.patterns import Pattern
from pipebus.message.subject import check_subject
from pipebus.pipeline.callables import is_plain
from pipebus.pipeline.contract import finished
from pipebus.pipeline.shapes import Around, Context, Steps

HEADER: Final = "fallback"
NEVER: Final = (PipelineError, LifecycleError)
"""A mistake in a chain must be seen, and nothing helps against the stop of the bus."""
PRECEDES: Final = {
    "repeated": "now the fallback replaces the first error, and nothing is run again",
    "redelivered": "now the fallback replaces the first error, and nothing is given back",
    "guarded": "now errors that the fallback catches do not count, so they never open the circuit",
    "time-limited": "now a rest that takes too long has no fallback",
}


@dataclass(eq=False)
class Fallback(Around):
    """
    Give another outcome in place of an error: a value, or a message on another subject.

    `value` is for handlers: it is what the handler is taken to have returned, a reply or what goes to `to`. With `subject`, the
    message goes there with its body, key and headers, and the header `fallback`, such as "Fallback: ConnectionError". In a
    publish chain it is the same message, which continues in the rest of the chain as compiled for that subject, and its receipt
    is the outcome. Around a handler, the bus publishes it as a new message of the same conversation, then acknowledges the
    delivery; the handler there also answers a request.

    Args:
        value: Any value, copied for each message; or a plain function of the message and the error that returns it.
        subject: A literal subject. Give either this or `value`.
        on: Which errors have this outcome: an exception class, or a tuple of them. `Rejected` may be one, and belongs to
            `Exception`.

    Raises:
        The error, as the same object, if `on` does not name it; if it is a mistake in a chain (`PipelineError`) or the stop of
        the bus caused it; if the message has had its effect (a mailbox has accepted it, or the delivery is settled); or if the
        message has that subject, or the header, already, so it falls back to a subject once. Anything that is no `Exception`,
        such as a cancellation. The error of the second publish; around a handler also if nobody listens there.

    With `Retry`: `Fallback(…), Retry(…)` falls back after the last run; with `Redeliver`, in the same order, after the last
    attempt. If the program is killed between the second publish and the acknowledgement, both messages may come again.

    Logs:
        `fallback.used`: filter, subject, id, error.

    Source:
        The fallback strategy of Polly (value); the alternate exchanges of RabbitMQ (subject).

    Example:
        >>> Fallback(subject="orders.later", on=ConnectionError).subject
        'orders.later'
    """

    value: Any = None
    subject: str | None = None
    on: Errors = Exception
    sees_delivery = True

    def __post_init__(self) -> None:
        if (self.value is None) == (self.subject is None):
            found = "there is nothing to fall back on" if self.value is None else "there are both a value and a subject"
            raise PipelineError(f"Fallback.value={shown(self.value)}: {found}; give value=…, or subject=…")
        if callable(self.value) and not is_plain(self.value):
            raise PipelineError(f"Fallback.value={shown(self.value)}: it is a value, or a plain function of message and error")
        why = "because it is a mistake in a chain, or the end of the bus"
        self._on = checked_classes(self.on, "Fallback.on", "caught", NEVER, why)
        if issubclass(Rejected, self._on):
            self.follows = {"verified": "a forged message gets the fallback instead of being refused"}
        self.subject = plain_text(self.subject)
        self.precedes = PRECEDES
        if self.subject is not None:
            check_subject(self.subject)
            if "{" in self.subject:
                raise PipelineError(f"Fallback.subject={shown(self.subject)}: it is one subject, without braces; name it")
            self.reroutes = self.repeats = True
            self.precedes = {**PRECEDES, "signed": "now its message on the other subject no longer fits its signature"}
            self.reroutes_to = Pattern(self.subject)
            self.passes = 2
        self.wants_delivery = self.subject is None  # a publish has no value
        self._context: Context | None = None
        self._published = Count()
        self._handled: weakref.WeakValueDictionary[str, Count] = weakref.WeakValueDictionary()  # as in Dedupe

    def start(self, context: Context) -> None:
        self._context = context

    def stats(self, place: str) -> dict[str, int | float | str]:
        """`fallbacks`: how many errors had this outcome."""
        count = self._published if place == "publish" else self._handled.get(place)
        return {"fallbacks": count.value if count is not None else 0}

    def at(self, place: str) -> Callable[[Message[Any]], Steps]:
        if place == "publish":
            return self.around
        return functools.partial(self.around, count=self._handled.setdefault(place, Count()))

    def around(self, message: Message[Any], /, *, count: Count | None = None) -> Steps:
        effect = Effect(published=count is None)
        try:
            return (yield message)
        except self._on as error:
            again = self.subject and (message.subject == self.subject or HEADER in message.headers)
            if again or is_a(error, NEVER) or effect or ended_by_stop(self._context, error):
                raise
            instead = self._instead(message, error)
            (count or self._published).add()
            self._log(message, error)
        finally:
            effect.end()
        if isinstance(instead, Handled):
            return instead
        return (yield instead) if count is None else Handled(forward=instead)

    def _instead(self, message: Message[Any], error: Exception) -> Handled | Message[Any]:
        if self.subject is None:
            return Handled(finished(self.value(message, error)) if callable(self.value) else copy.deepcopy(self.value))
        name = self._context.name if self._context is not None else "Fallback"
        headers = frozen_headers({**message.headers, HEADER: f"{name}: {class_name(error)}"})
        return msgspec.structs.replace(message, subject=self.subject, headers=headers)

    def _log(self, message: Message[Any], error: Exception) -> None:
        if self._context is None:
            return
        with suppress(Exception):  # a logger that fails must not affect the message
            self._context.log.warning(
                "fallback.used", filter=self._context.name, subject=str(message.subject), id=message.id, error=text_of(error)
            )
