"""Dedupe: handle a message once, even if it comes twice."""

from __future__ import annotations

import functools
import weakref
from collections.abc import Callable, Hashable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar

from pipebus.clock import SYSTEM, Clock
from pipebus.errors import PipelineError
from pipebus.filters.keys import check_key, key_of
from pipebus.filters.seen import Seen, as_text, memory_of, went_well
from pipebus.foreign.objects import shown
from pipebus.message.message import Message
from pipebus.message.outcomes import Dropped
from pipebus.pipeline import state
from pipebus.pipeline.shapes import Around, Context, Memory, Steps
from pipebus.values import quantities
from pipebus.values.quantities import Duration, Seconds


@dataclass(eq=False)
class Dedupe(Around):
    """
    Drop a message that has been seen before.

    A message counts as seen while it runs, and for `window` after its run ended well. A run that ends in an error, a drop or a
    cancellation is forgotten, so that the message can come again; so is a delivery that its handler gives back or rejects. A
    dropped duplicate does not extend the window. A replayed dead letter passes.

    Args:
        key: A plain function of the message. Messages with equal keys are duplicates; a key is anything hashable, or None for a
            message without duplicates. By default it is the id, so a publisher that tries again must use the same `id`.
        window: Seconds for which a message is remembered, > 0.
        size: Most messages remembered, >= 1; the oldest are forgotten first. Messages that are running are not counted.
        durable: Also remember in the transport's store: for all processes that use it, and across restarts. Keys are then text,
            bytes, numbers, or tuples of these.

    Drops:
        `Dropped("duplicate")`.

    Raises:
        ContractError: the key function failed, or its result is not hashable. A `Rejected` that it raises passes.
        UnsupportedCapability: at start, if `durable` is set and the transport has no memory for filters.

    The memory belongs to this process (unless `durable`) and to one chain: one for publishing, and one around the handler of
    each subscription, so that each of two subscribers gets a copy. A duplicate that comes while the first message is running is
    dropped, even if the first fails later. A publish that some mailboxes accepted and others refused has failed: if it is
    published again, the first ones get it twice, unless they have a Dedupe themselves. A process does not know what is running
    in others: of two copies that run in two processes at the same moment, both run.

    With `Retry`: `Dedupe(…), Retry(…)`. The message then counts as running until the last run. In the opposite order it is
    forgotten between two runs; a copy may run meanwhile, and the next run is dropped as its duplicate.

    Source:
        The duplicate window of NATS JetStream (2 minutes) and the deduplication interval of Amazon SQS (5 minutes): the same
        idea, but here it begins at the end of the run.

    Example:
        >>> by_order = Dedupe(key=lambda message: message.body["order"], window="1h")
        >>> by_order.window
        3600.0
    """

    key: Callable[[Message[Any]], Hashable] | None = None
    window: Seconds = 600.0
    size: int = 100_000
    durable: bool = False
    may_drop = True
    follows: ClassVar = {
        "verified": "while a forged message runs, the genuine one is dropped as its duplicate",
    }
    precedes: ClassVar = {
        "repeated": "now a message is forgotten between two runs, and a copy of it may run meanwhile",
        "rate-limited": "now duplicates use up the limit",
    }

    if TYPE_CHECKING:  # a duration may be given as text

        def __init__(
            self, key: Callable[[Message[Any]], Hashable] | None = ..., window: Duration = ..., size: int = ...,
            durable: bool = ...,
        ) -> None: ...  # fmt: skip

    def __post_init__(self) -> None:
        check_key(self.key, "Dedupe.key", "to use the message's id")
        self.wants_memory = self.durable
        self.window = quantities.seconds(self.window, "Dedupe.window", above=0.0)
        if not quantities.is_whole(self.size, 1):
            raise PipelineError(f"Dedupe.size={shown(self.size)}: it is a whole number of messages, at least 1")
        self._clock: Clock = SYSTEM
        self._store: Memory | None = None  # remembers the keys, if `durable`
        self._if_undone: Callable[[Callable[[], object]], object] = lambda call: None
        self._published = Seen()
        # Weak, because subscriptions come and go. The chain of a subscription holds its memory.
        self._handled: weakref.WeakValueDictionary[str, Seen] = weakref.WeakValueDictionary()

    def start(self, context: Context) -> None:
        self._clock = context.clock
        self._if_undone = context.if_undone
        if self.durable:
            self._store = memory_of(context, "Dedupe")

    def at(self, place: str) -> Callable[[Message[Any]], Steps]:
        if place == "publish":
            return self.around
        return functools.partial(self.around, memory=self._handled.setdefault(place, Seen()), place=place)

    def around(self, message: Message[Any], /, *, memory: Seen | None = None, place: str = "publish") -> Steps:
        delivery = state.delivery.get() if memory is not None else None
        memory = memory if memory is not None else self._published
        key = self._key_of(message)
        if key is None:
            return (yield message)
        replayed = state.replayed.get()  # it passes, and is remembered like any other
        stored = "" if self._store is None else as_text(key)
        if not replayed and not memory.enter(key, delivery, self._clock, self.window):
            return Dropped("duplicate")
        fine = False
        known = False
        try:
            known = self._store is not None and not replayed and self._store.seen(place, stored)
            if known:
                return Dropped("duplicate")
            outcome = yield message
            fine = bool(outcome)
        finally:
            well = went_well(delivery, fine)
            memory.leave(key, delivery, well, self._clock, self.size)
            if well:
                self._if_undone(functools.partial(memory.forget, key))
            if well and self._store is not None and not known:
                self._store.learn(place, stored, self.window)
        return outcome

    def _key_of(self, message: Message[Any]) -> Hashable:
        if self.key is None:
            return message.id
        return key_of(message, self.key, "Dedupe.key", "recognise duplicates", "one that has no duplicates")
