"""Verify: refuse messages that `Sign` has not signed with one of the keys."""

from __future__ import annotations

import functools
import weakref
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from pipebus.clock import SYSTEM, Clock
from pipebus.errors import PipelineError, Rejected
from pipebus.filters.replays import Replays
from pipebus.filters.seen import memory_of, went_well
from pipebus.filters.signing import checked_key, checked_names, genuine
from pipebus.foreign.objects import said, shown, visible
from pipebus.message.codec import prepare
from pipebus.message.message import Message
from pipebus.message.outcomes import Dropped
from pipebus.pipeline import state
from pipebus.pipeline.shapes import Around, Context, Memory, Steps
from pipebus.values import quantities
from pipebus.values.quantities import Duration, Seconds, Secret

if TYPE_CHECKING:
    from pydantic import SecretBytes, SecretStr


@dataclass(eq=False)
class Verify(Around):
    """
    Refuse messages that `Sign` has not signed with one of the keys, or not lately, or that come again.

    Args:
        keys: The secrets, of at least 16 bytes each. While a key is replaced: the new one and the old one.
        window: Seconds, > 0, that the time of a message may differ from the clock, in either direction.
        headers: Names of the signed headers, as in `Sign`. None: all.
        size: Most ids remembered, >= 1. With more genuine messages than this in a window, it becomes shorter: the ids of the
            oldest messages are forgotten, and messages as old as these are refused.
        durable: Also remember in the transport's store: for all processes that use it, and across restarts.

    Raises:
        Rejected: always with the same reason, "not verified": the signature is missing or wrong, the message is too old or too
            new, or its id has passed before.
        UnsupportedCapability: at start, if `durable` is set and the transport has no memory for filters.

    As in `Dedupe`, an id has passed while its message runs, and once its run has ended well. After an error, a drop or a
    cancellation it may come again, and so may a delivery that its handler gives back. There is one memory for publishing, and
    one for the handler of each subscription. Of a dead letter that is replayed to its handler, only the signature counts.

    With `Retry`: in front of it. With `Redeliver`: each attempt is verified, so the window has to be longer than its waits.

    Logs:
        `message.not_verified`, at level debug: filter, subject, id, why.

    Source:
        The timestamp and nonce of OAuth 1.0: RFC 5849, section 3.3.
    """

    keys: list[Secret]
    window: Seconds = 300.0
    headers: list[str] | None = None
    size: int = 100_000
    durable: bool = False
    may_drop = True
    sees_delivery = True
    provides = ("verified",)

    if TYPE_CHECKING:  # keys may be plain texts or bytes, and a duration a text

        def __init__(
            self, keys: Sequence[SecretStr | SecretBytes | str | bytes], window: Duration = ...,
            headers: list[str] | None = ..., size: int = ..., durable: bool = ...,
        ) -> None: ...  # fmt: skip

    def __post_init__(self) -> None:
        if not isinstance(self.keys, (list, tuple)) or not self.keys:
            raise PipelineError("Verify.keys: it is a list of at least one key, as in [new, old]")
        self.keys = [checked_key(key, f"Verify.keys[{number}]") for number, key in enumerate(self.keys)]
        self.headers = checked_names(self.headers, "Verify.headers")
        self.window = quantities.seconds(self.window, "Verify.window", above=0.0)
        if not quantities.is_whole(self.size, 1):
            raise PipelineError(f"Verify.size={shown(self.size)}: it is a whole number of messages, at least 1")
        self.wants_memory = self.durable
        self._clock: Clock = SYSTEM
        self._context: Any = None
        self._store: Memory | None = None
        self._published = Replays()
        # Weak, because subscriptions come and go. The chain of a subscription holds its memory.
        self._handled: weakref.WeakValueDictionary[str, Replays] = weakref.WeakValueDictionary()

    def start(self, context: Context) -> None:
        prepare()
        self._clock, self._context = context.clock, context
        if self.durable:
            self._store = memory_of(context, "Verify")

    def stats(self, place: str) -> dict[str, int]:
        return (self._published if place == "publish" else self._handled.get(place, Replays())).stats()

    def at(self, place: str) -> Callable[[Message[Any]], Steps]:
        if place == "publish":
            return self.around
        return functools.partial(self.around, memory=self._handled.setdefault(place, Replays()), place=place)

    def around(self, message: Message[Any], /, *, memory: Replays | None = None, place: str = "publish") -> Steps:
        # In a publish chain these variables are those of the delivery in hand, which is another message.
        delivery = None if memory is None else state.delivery.get()
        replayed = memory is not None and state.replayed.get()
        memory = self._published if memory is None else memory
        id, time, now, key = message.id, message.time, self._clock.now(), f"verify:{message.id}"
        if not genuine(message, self.keys, self.headers):
            raise self._refused(message, memory, "signature")
        if abs(now - time) > self.window and not replayed:
            raise self._refused(message, memory, "time")
        claim = (delivery,) if replayed else memory.enter(id, time, delivery, now - self.window)
        if claim is None:
            return self._again(message, memory, delivery, handled=id in memory)
        fine = known = False
        try:
            known = self._store is not None and not replayed and self._store.seen(place, key)
            if known:
                return self._again(message, memory, delivery, handled=True)
            outcome = yield message
            fine = bool(outcome)
        finally:
            well = not known and went_well(delivery, fine)
            memory.leave(id, time, claim, well, self.size)
            if well and self._context is not None:
                self._context.if_undone(functools.partial(memory.undo, id))
            if well and self._store is not None:  # a message from the future stays in the window for twice its length
                self._store.learn(place, key, 2 * self.window)
        return outcome

    def _again(self, message: Message[Any], memory: Replays, delivery: Any, handled: bool) -> Dropped:
        """Refuse a replay. If the store itself repeats what has been handled, that makes no dead letter."""
        error = self._refused(message, memory, "replay")
        if handled and delivery is not None and delivery.redelivered:
            return Dropped(*error.reasons)
        raise error

    def _refused(self, message: Message[Any], memory: Replays, why: str) -> Rejected:
        memory.refuse()
        subject, id = visible(said(message.subject))[:200], visible(message.id)[:200]
        with suppress(Exception):  # a logger that fails must not affect the message, nor must a filter without a bus
            self._context.log.debug("message.not_verified", subject=subject, id=id, why=why)
        return Rejected("not verified")
