"""Concurrency: let at most so many messages be in the rest of the chain at once."""

from __future__ import annotations

import functools
import random
from collections.abc import Callable, Hashable
from contextlib import suppress
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar, Final

from pipebus.errors import AlreadySettled, PipelineError, Rejected
from pipebus.filters.keys import check_key, key_of
from pipebus.filters.slots import Slots, Visit
from pipebus.foreign.objects import shown
from pipebus.message.message import Message
from pipebus.message.outcomes import Dropped
from pipebus.pipeline import state
from pipebus.pipeline.shapes import Around, Pause, Steps
from pipebus.values import quantities
from pipebus.values.quantities import Duration, Seconds

AGAIN: Final = 1.0
"""Longest time in seconds after which a delivery that was given back comes again; at random at least half of it."""


@dataclass(eq=False)
class Concurrency(Around):
    """
    Let at most so many messages be in the rest of the chain at once: all together, or for each key.

    A message that finds no slot waits for one, and gives up its worker's slot meanwhile; the first in line is the next. A slot
    is free again when the rest of the chain ends, in any way: with an outcome, an error, or a cancellation.

    Args:
        limit: Most messages in the rest of the chain, >= 1; with `key`, for each key.
        key: A plain function of the message. Each key has its own slots; a key is anything hashable, or None for a message that
            is not limited.
        queue: Most messages that wait, for all keys together, >= 0. With 0 the filter never waits, and can be used in a publish
            chain on a running event loop.
        timeout: Longest wait in seconds, > 0.

    Raises:
        Rejected: in a publish chain, if the queue is full, or no slot was free in time.
        ContractError: the key function failed, or its result is not hashable. A `Rejected` that it raises passes.

    Around a handler, a delivery for which the queue is full, or that has waited too long, goes back to its mailbox. The attempt
    does not count, unless its handler has run in it, and it comes again after 0.5 to 1 second. The filters around this one get
    `Dropped("returned")`, which does not count as a drop.

    Slots belong to the object: if it is used in several chains, they share its limit. They also belong to this process; other
    processes have a limit of their own. A handler that has a slot and publishes through the same object may wait for itself,
    until the timeout.

    With `Retry`: `Retry(…), Concurrency(…)` gives up the slot between two runs, and gets in line again for the next one;
    `Concurrency(…), Retry(…)` keeps it for all runs and the waits between them.

    With `Timeout(…, abandon=True)`: `Timeout(…), Concurrency(…)` keeps the slot until a run that was left behind has ended; the
    wait for the slot counts for the timeout. `Concurrency(…), Timeout(…)` frees the slot at the timeout, so the run that was
    left behind is one more than the limit.

    Source:
        The bulkhead of M. Nygard, "Release It!", 2007.
    """

    limit: int
    key: Callable[[Message[Any]], Hashable] | None = None
    queue: int = 100
    timeout: Seconds = 30.0
    may_drop = True
    sees_delivery = True
    precedes: ClassVar = {"guarded": "now a message that has waited for its turn still calls a dependency that is down"}

    if TYPE_CHECKING:  # a duration may be given as text

        def __init__(
            self, limit: int, key: Callable[[Message[Any]], Hashable] | None = ..., queue: int = ..., timeout: Duration = ...
        ) -> None: ...  # fmt: skip

    def __post_init__(self) -> None:
        if not quantities.is_whole(self.limit, 1):
            raise PipelineError(f"Concurrency.limit={shown(self.limit)}: it is a whole number of messages, at least 1")
        check_key(self.key, "Concurrency.key", "to count all messages together")
        self.follows = {"verified": "a forged message takes a place of the key that it names"} if self.key else {}
        if not quantities.is_whole(self.queue, 0):
            raise PipelineError(f"Concurrency.queue={shown(self.queue)}: it is a whole number of messages, at least 0")
        self.timeout = quantities.seconds(self.timeout, "Concurrency.timeout", above=0.0)
        self.waits = self.queue > 0
        self._slots = Slots(self.limit, self.queue)
        self._random = random.Random()

    def stats(self, place: str) -> dict[str, int]:
        """Of all its chains: `keys` that have a slot in use, messages that are `running`, and those `waiting` for a slot."""
        return self._slots.figures()

    def at(self, place: str) -> Callable[[Message[Any]], Steps]:
        return self.around if place == "publish" else functools.partial(self.around, published=False)

    def around(self, message: Message[Any], /, *, published: bool = True) -> Steps:
        delivery = None if published else state.delivery.get()
        key = None if self.key is None else key_of(
            message, self.key, "Concurrency.key", "limit messages", "one that is not limited"
        )  # fmt: skip
        if key is None and self.key is not None:
            return (yield message)
        visit = Visit()
        try:
            has_slot = self._slots.enter(key, visit)
            why = "queue full" if has_slot is None else f"no slot in {self.timeout:g} s"
            if has_slot or (has_slot is not None and (yield Pause(self.timeout, until=visit))):
                if delivery is not None:
                    delivery.passed = (*delivery.passed, self)
                return (yield message)
        finally:
            self._slots.leave(visit)
        if published:
            raise Rejected(f"concurrency limit: {why}")
        if delivery is not None:
            with suppress(AlreadySettled):  # then its handler or a filter around this one has decided
                # A further run that was not counted would begin with the first run again, without end.
                delivery.retry(AGAIN * (1 - self._random.random() / 2), count=self in delivery.passed)
        return Dropped("returned")
