"""Redeliver: what failed goes back, and is taken again later."""

from __future__ import annotations

import random
from contextlib import suppress
from dataclasses import dataclass

from pipebus.errors import AlreadySettled, PipelineError
from pipebus.filters.retry import NEVER, classes, ended_by_stop, waits
from pipebus.foreign.objects import is_a, text_of
from pipebus.message.message import Message
from pipebus.message.outcomes import Dropped
from pipebus.pipeline import state
from pipebus.pipeline.shapes import Around, Context, Steps
from pipebus.values.quantities import Seconds


@dataclass(eq=False)
class Redeliver(Around):
    """
    Give a delivery that failed back, to be taken again after a wait that doubles each time. Around handlers only.

    The worker is free meanwhile, and so is the mailbox's place where a store holds what waits; there the wait, and the number
    of takings, outlive the program. `delivery.attempt` and `delivery.redelivered` tell the handler how often it was taken.

    Args:
        attempts: Takings in all, >= 1, and not more than the subscription's own `attempts`; None: as many as that. The last
            one's error is the reason of the dead letter.
        wait: Seconds before the second taking, >= 0; doubled for each further one.
        max_wait: Longest wait in seconds, >= `wait`.
        jitter: Share, 0 to 1, by which a wait may be shorter, at random, so that what failed together comes back apart.
        on: What is taken again: an exception class, or a tuple of them.

    Raises:
        The handler's error, where it is not taken again: it was the last attempt, the delivery is settled already, or another
        taking would meet the same (`Rejected`, `CodecError`, …: as for `Retry`), or the stop of the bus has caused it: then
        the message goes back, and no attempt is counted.

    Returns to the filters around it `Dropped("returned")`: this taking is over, and nothing was handled. It counts as no drop.

    With `Retry`: `Redeliver(…), Retry(…)`: first some quick runs in place, then back. Messages of one `key` wait for the one
    that was given back, on transports that keep their order; others pass it.

    Logs:
        `delivery.returned`: filter, subject, id, attempt, wait (seconds), error.

    Source:
        Delayed negative acknowledgement, as in NATS JetStream (`nak` with delay) and Google Pub/Sub (retry with backoff).
    """

    attempts: int | None = None
    wait: Seconds = 1.0
    max_wait: Seconds = 300.0
    jitter: float = 0.2
    on: type[Exception] | tuple[type[Exception], ...] = Exception
    wants_delivery = True
    may_drop = True

    def __post_init__(self) -> None:
        if self.attempts is not None and (
            isinstance(self.attempts, bool) or not isinstance(self.attempts, int) or self.attempts < 1
        ):
            raise PipelineError(f"Redeliver.attempts={self.attempts!r}: it is a whole number of takings, at least 1")
        self.wait, self.max_wait = waits(self.wait, self.max_wait, self.jitter, "Redeliver")
        self._on = classes(self.on, "Redeliver.on")
        self._random = random.Random()
        self._context: Context | None = None

    def start(self, context: Context) -> None:
        self._context = context

    def around(self, message: Message, /) -> Steps:
        delivery = state.delivery.get()  # in the context of this message: a generator may be closed in any other
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
            self._tell(message, delivery.attempt, seconds, error)
            return Dropped("returned")

    def _wait(self, attempt: int) -> float:
        """After so many takings."""
        wait = min(self.wait * 2.0 ** min(attempt - 1, 1000), self.max_wait)
        return wait * (1 - self.jitter * self._random.random())

    def _tell(self, message: Message, attempt: int, wait: float, error: Exception) -> None:
        context = self._context
        if context is None:
            return
        with suppress(Exception):  # nothing depends on this line
            context.log.warning(
                "delivery.returned", filter=context.name, subject=str(message.subject), id=message.id, attempt=attempt,
                wait=round(wait, 6), error=text_of(error),
            )  # fmt: skip
