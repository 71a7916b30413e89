"""Retry: try again after a temporary failure, but never after a refusal or once the message has had its effect."""

from __future__ import annotations

import functools
import itertools
import random
from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar

from pipebus.errors import PipelineError
from pipebus.filters.backoff import NEVER, Errors, checked_classes, checked_waits, ended_by_stop, log_failure
from pipebus.filters.effect import Effect
from pipebus.foreign.objects import is_a
from pipebus.message.message import Message
from pipebus.pipeline import blame
from pipebus.pipeline.shapes import Around, Context, Pause, Steps
from pipebus.values.quantities import Duration, Seconds, is_whole


@dataclass(eq=False)
class Retry(Around):
    """
    Run the rest of the chain again when it fails, after waits that double.

    Args:
        attempts: Runs in total, >= 1.
        wait: Seconds before the second run, >= 0; doubled for each further run. With 0 it never waits, and can be used in a
            publish chain on a running event loop.
        max_wait: Longest wait in seconds, >= `wait`.
        jitter: Fraction, 0 to 1, by which a wait may be shortened at random, to spread out runs that failed together.
        on: Which errors lead to another run: an exception class, or a tuple of them.

    Raises:
        The last error, as the same object. It raises at once, whatever `on` says: a refusal (`Rejected`, `CodecError`,
        `MessageTooLarge`, …), a mistake in a chain (`PipelineError`), the stop of the bus (`LifecycleError`, and errors that
        the handler raises because of one), and anything that is not an `Exception`, such as a cancellation.

    A message that has had its effect is not sent again. In a publish chain, that is a message which a mailbox or the store has
    accepted, even if others refused it or a filter failed on the way back; messages that later filters publish themselves
    count too. Around a handler, it is a delivery that the handler has settled. A drop is an outcome, not an error. A handler
    may have done half of its work before it failed, so it must tolerate being run twice.

    A wait gives up its worker's slot. Around a handler, the next message of the mailbox waits too unless `workers` > 1; for
    waits of minutes, `delivery.retry(delay=…)` gives the message back instead. `attempt` and `attempts` of a delivery count
    how often it was taken from the mailbox, not how often it was run.

    Logs:
        `attempt.failed`, before each further run: filter, subject, id, attempt, wait (seconds), error.

    Source:
        Exponential backoff with jitter: M. Brooker, "Exponential Backoff And Jitter", AWS Architecture Blog, 2015. A jitter
        of 1 is its "full jitter", 0.5 its "equal jitter".
    """

    attempts: int = 3
    wait: Seconds = 0.1
    max_wait: Seconds = 10.0
    jitter: float = 0.2
    on: Errors = Exception
    repeats = True
    provides = ("repeated",)
    follows: ClassVar = {"verified": "now each run is verified again, and between two runs a copy may pass"}
    precedes: ClassVar = {
        "time-limited": "now the limit covers all runs and the waits between them; if that is meant, leave it",
        "rate-limited": "now only the first run counts against the limit, and the others exceed it",
        "guarded": "now all runs count as one failure, so the circuit opens late",
    }

    if TYPE_CHECKING:  # a duration may be given as text

        def __init__(
            self, attempts: int = ..., wait: Duration = ..., max_wait: Duration = ..., jitter: float = ..., on: Errors = ...
        ) -> None: ...

    def __post_init__(self) -> None:
        if not is_whole(self.attempts, 1):
            raise PipelineError(f"Retry.attempts={self.attempts!r}: it is a whole number of runs, at least 1")
        self.wait, self.max_wait = checked_waits(self.wait, self.max_wait, self.jitter, "Retry")
        self._on = checked_classes(self.on, "Retry.on")
        self.waits = self.wait > 0
        self.passes = self.attempts
        self._random = random.Random()
        self._context: Context | None = None

    def start(self, context: Context) -> None:
        self._context = context

    def at(self, place: str) -> Callable[[Message[Any]], Steps]:
        return self.around if place == "publish" else functools.partial(self.around, published=False)

    def around(self, message: Message[Any], /, *, published: bool = True) -> Steps:
        effect = Effect(published)
        wait = self.wait
        try:
            for attempt in itertools.count(1):
                try:
                    return (yield message)
                except self._on as error:
                    if attempt >= self.attempts or is_a(error, NEVER) or effect or ended_by_stop(self._context, error):
                        raise
                    seconds = wait * (1 - self.jitter * self._random.random())
                    wait = min(wait * 2, self.max_wait)
                    log_failure(self._context, "attempt.failed", message, attempt, seconds, error)
                    if self.waits:
                        step = blame.signed(error)
                        yield Pause(seconds)
                        if effect:  # accepted or settled meanwhile, on another thread
                            if step is not None:
                                blame.blame(error, step, message)  # the wait has removed the signature
                            raise
        finally:
            effect.end()
