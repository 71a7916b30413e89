"""Redeliver: give a failed delivery back to the mailbox, and try it again later."""

from __future__ import annotations

import random
from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar

from pipebus.errors import AlreadySettled, PipelineError
from pipebus.filters.backoff import NEVER, Errors, checked_classes, checked_waits, ended_by_stop, log_failure
from pipebus.foreign.objects import is_a
from pipebus.message.message import Message
from pipebus.message.outcomes import Dropped
from pipebus.pipeline import state
from pipebus.pipeline.shapes import Around, Context, Steps
from pipebus.values.quantities import Duration, Seconds, is_whole


@dataclass(eq=False)
class Redeliver(Around):
    """
    Give a failed delivery back to its mailbox, for another attempt after a wait that doubles each time. Around handlers only.

    Meanwhile the worker is free, and so is the place in the mailbox if a store keeps waiting messages; there, the wait and the
    number of attempts survive a restart. `delivery.attempt` and `delivery.redelivered` show the handler which attempt it is.

    Args:
        attempts: Attempts in total, >= 1. None: as many as the subscription's own `attempts`; one that allows fewer is refused.
            The error of the last attempt becomes the reason of the dead letter.
        wait: Seconds before the second attempt, >= 0; doubled for each further one.
        max_wait: Longest wait in seconds, >= `wait`.
        jitter: Fraction, 0 to 1, by which a wait may be shortened at random, to spread out deliveries that failed together.
        on: Which errors lead to another attempt: an exception class, or a tuple of them.

    Raises:
        The handler's error, if there is no other attempt: this was the last one, the delivery is already settled, another
        attempt would fail in the same way (`Rejected`, `CodecError`, …: as for `Retry`), or the stop of the bus caused the
        error. In that last case the message goes back to the mailbox, and the attempt is not counted.

    Returns `Dropped("returned")` to the filters around it: this attempt is over, and nothing was handled. It does not count as
    a drop.

    With `Retry`: `Redeliver(…), Retry(…)` makes some quick runs in place, then gives the delivery back. The messages behind it
    overtake it meanwhile; only on a SQLite file do those with the same `key` wait for it.

    Logs:
        `delivery.returned`: filter, subject, id, attempt, wait (seconds), error.

    Source:
        Delayed negative acknowledgement, as in NATS JetStream (`nak` with delay) and Google Pub/Sub (retry with backoff).
    """

    attempts: int | None = None
    wait: Seconds = 1.0
    max_wait: Seconds = 300.0
    jitter: float = 0.2
    on: Errors = Exception
    wants_delivery = True
    may_drop = True
    provides = ("redelivered",)
    precedes: ClassVar = {
        "time-limited": "now a delivery that takes too long is not given back, but becomes a dead letter",
        "repeated": "now a delivery is given back at its first error, and is never run again in place",
        "guarded": "now errors that are given back do not count, so they never open the circuit",
    }

    if TYPE_CHECKING:  # a duration may be given as text

        def __init__(
            self, attempts: int | None = ..., wait: Duration = ..., max_wait: Duration = ..., jitter: float = ...,
            on: Errors = ...,
        ) -> None: ...  # fmt: skip

    def __post_init__(self) -> None:
        if self.attempts is not None and not is_whole(self.attempts, 1):
            raise PipelineError(f"Redeliver.attempts={self.attempts!r}: it is a whole number of attempts, at least 1")
        self.needs_attempts = self.attempts
        self.wait, self.max_wait = checked_waits(self.wait, self.max_wait, self.jitter, "Redeliver")
        self._on = checked_classes(self.on, "Redeliver.on")
        self._random = random.Random()
        self._context: Context | None = None

    def start(self, context: Context) -> None:
        self._context = context

    def around(self, message: Message, /) -> Steps:
        delivery = state.delivery.get()  # read it now: a generator may be closed in another context
        try:
            return (yield message)
        except self._on as error:
            if delivery is None or is_a(error, NEVER) or ended_by_stop(self._context, error):
                raise
            most = delivery.attempts if self.attempts is None else min(self.attempts, delivery.attempts)
            if delivery.attempt >= most:
                raise
            seconds = self._wait(delivery.attempt)
            try:
                delivery.retry(delay=seconds)
            except AlreadySettled:
                raise error from None
            log_failure(self._context, "delivery.returned", message, delivery.attempt, seconds, error)
            return Dropped("returned")

    def _wait(self, attempt: int) -> float:
        """Seconds to wait after this attempt."""
        wait = min(self.wait * 2.0 ** min(attempt - 1, 1000), self.max_wait)
        return wait * (1 - self.jitter * self._random.random())
