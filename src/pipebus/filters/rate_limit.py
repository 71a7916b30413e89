"""RateLimit: let at most so many messages pass in a time."""

from __future__ import annotations

import functools
import math
import threading
from collections.abc import Callable, Hashable
from contextlib import suppress
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal

from pipebus.clock import SYSTEM, Clock
from pipebus.errors import AlreadySettled, PipelineError, Rejected
from pipebus.filters.gcra import Gcra
from pipebus.filters.keys import Key, check_key, key_of
from pipebus.foreign.objects import shown
from pipebus.message.message import Message
from pipebus.message.outcomes import Dropped
from pipebus.pipeline import state
from pipebus.pipeline.shapes import Around, Context, Pause, Steps
from pipebus.values import quantities
from pipebus.values.quantities import Duration, Seconds
from pipebus.waiting.locks import free


@dataclass(eq=False)
class RateLimit(Around):
    """
    Let at most so many messages pass in a time: all together, or for each key.

    Args:
        rate: Messages that pass in `per`, if there are always some, >= 1.
        per: The time that `rate` is about, in seconds, > 0.
        burst: Most messages that pass at once after a quiet time, >= 1; by default `rate`. With 1 they pass evenly.
        key: A plain function of the message. Each key has a limit of its own; it is anything hashable, or None for no limit.
        on_limit: What happens to a message that comes too early. "wait": it waits. Around a handler it goes back to its mailbox
            until its time, and no attempt is counted. A publisher waits. "drop": it is dropped. "reject": it is refused; around
            a handler, it becomes a dead letter.
        max_wait: Longest wait of a publisher in seconds, >= 0. Around a handler a message may wait longer.
        size: Most keys, and most places for messages that wait, >= 1. A key is forgotten when its whole burst is available
            again, and not earlier. If there are too many keys, a message with a new one comes too early: around a handler it
            comes again after `per`; a publisher is refused.

    Drops:
        `Dropped("rate limit")`, with "drop".

    Raises:
        Rejected: with "reject"; and with "wait" in a publish chain, if the wait would be too long.
        ContractError: the key function failed, or its result is not hashable. A `Rejected` that it raises passes.

    A delivery that goes back has a place in the line of its key, so it comes again about once, and new messages do not overtake
    it. The place is lost a second after its time, and when the program ends; a message that comes later queues again. The
    filters around this one get `Dropped("returned")`, which does not count as a drop. The limit belongs to the object: if it is
    used in several chains, they share it. It also belongs to this process; several processes that use one store each have one.
    In any time of t seconds, never more than `burst + rate * t / per` messages pass it.

    With `Retry`: `Retry(…), RateLimit(…)` counts each run; a further run of a delivery waits in place, whatever `max_wait` is.
    `RateLimit(…), Retry(…)` counts each message.

    Source:
        GCRA (ITU-T I.371), which is a token bucket that stores one time for each key; see `gcra.py`.
    """

    rate: int
    per: Seconds = 1.0
    burst: int | None = None
    key: Callable[[Message[Any]], Hashable] | None = None
    on_limit: Literal["wait", "drop", "reject"] = "wait"
    max_wait: Seconds = 30.0
    size: int = 100_000
    may_drop = True
    sees_delivery = True
    provides = ("rate-limited",)

    if TYPE_CHECKING:  # a duration may be given as text

        def __init__(
            self, rate: int, per: Duration = ..., burst: int | None = ..., key: Key | None = ...,
            on_limit: Literal["wait", "drop", "reject"] = ..., max_wait: Duration = ..., size: int = ...,
        ) -> None: ...  # fmt: skip

    def __post_init__(self) -> None:
        for name, least in (("rate", self.rate), ("burst", 1 if self.burst is None else self.burst), ("size", self.size)):
            if not quantities.is_whole(least, 1):
                raise PipelineError(f"RateLimit.{name}={shown(least)}: it is a whole number of messages, at least 1")
        self.per = quantities.seconds(self.per, "RateLimit.per", above=0.0)
        check_key(self.key, "RateLimit.key", "to limit all messages together")
        self.follows = {"verified": "a forged message uses up the limit of the key that it names"} if self.key else {}
        if self.on_limit not in ("wait", "drop", "reject"):
            raise PipelineError(f'RateLimit.on_limit={shown(self.on_limit)}: it is "wait", "drop" or "reject"')
        self.max_wait = quantities.seconds(self.max_wait, "RateLimit.max_wait")
        self.waits = self.on_limit == "wait"
        self._clock: Clock = SYSTEM
        self._lock = threading.RLock()
        self._limit = self._fresh()

    def start(self, context: Context) -> None:
        if context.clock is not self._clock:  # the times of another clock say nothing
            self._clock, self._limit = context.clock, self._fresh()

    def stats(self, place: str) -> dict[str, int]:
        """Of all its chains: `keys` that it remembers; messages that `passed`, were `limited`, and are `waiting` in a line."""
        limit = self._limit
        return {"keys": len(limit.lines), "passed": limit.passed, "limited": limit.limited, "waiting": limit.waiting}

    def at(self, place: str) -> Callable[[Message[Any]], Steps]:
        return functools.partial(self.around, place=place)

    def around(self, message: Message[Any], /, *, place: str = "publish") -> Steps:
        key = self.key and key_of(message, self.key, "RateLimit.key", "limit messages", "one that is not limited")
        if self.key is not None and key is None:
            return (yield message)
        if self.waits and place != "publish":
            delivery = state.delivery.get()
            while wait := self._ask(key, (place, message.id)):
                wait = self.per if wait == math.inf else wait
                if delivery is None or self not in delivery.passed:
                    if delivery is not None:
                        with suppress(AlreadySettled):
                            delivery.retry(wait, count=False)
                    return Dropped("returned")
                yield Pause(wait)  # a further run: given back, it would begin with the first run again, without end
            if delivery is not None:
                delivery.passed = (*delivery.passed, self)
            return (yield message)
        ticket, longest = (object(), self.max_wait) if self.waits else (None, 0.0)
        try:
            while (wait := self._ask(key, ticket, longest)) > 0:
                if wait > longest:
                    if self.on_limit == "drop":
                        return Dropped("rate limit")
                    raise Rejected("rate limit")
                yield Pause(wait)
        except BaseException:
            self._withdraw(key, ticket)
            raise
        return (yield message)

    def _fresh(self) -> Gcra:
        return Gcra(self.rate, self.per, self.rate if self.burst is None else self.burst, self.size)

    def _ask(self, key: Hashable, ticket: Hashable, longest: float = math.inf) -> float:
        with free(self._lock):  # raises in a signal handler or finaliser that has interrupted a change
            return self._limit.ask(key, self._clock.monotonic(), ticket, longest)

    def _withdraw(self, key: Hashable, ticket: Hashable) -> None:
        if not self._lock._is_owned():  # type: ignore[attr-defined]  # else a finaliser interrupts: the place is lost in time
            with self._lock:
                self._limit.withdraw(key, ticket)
