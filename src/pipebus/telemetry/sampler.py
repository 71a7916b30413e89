"""
Samples of the deliveries of a running bus: recent messages, and how long handlers take.

Each look asks for the next sample: the first `SAMPLE` attempts that begin after it are noted, and all others take the bus's
usual path. So the price is the same at any rate, and nothing is paid when nobody looks. A bus with few messages is seen whole.
"""

from __future__ import annotations

import sys
import threading
import time
from collections import deque
from dataclasses import dataclass
from itertools import islice
from typing import Any, Final

from pipebus.bus.bus import Bus, engine_of
from pipebus.message.message import Message

SAMPLE: Final = 200
"""The most attempts that are noted after each look."""

RECENT: Final = 2_000
"""The most messages that are kept, and the most subscriptions whose handling is known: a bus may have a million actors."""

ROOM: Final = 16 * 1024 * 1024
"""The most bytes that the bodies of these messages have together, by an estimate."""

PLAIN: Final = 64
"""The bytes of a number, or of an object without what it holds."""

SOME: Final = 8
"""So many items of a container stand for all of them."""

REST: Final = 60.0
"""Seconds without a look, after which the messages are forgotten."""

DURATIONS: Final = 256
"""The durations of a subscription from which its quantiles are taken: its last ones."""


@dataclass(frozen=True, slots=True)
class Seen:
    """
    A message that handlers or readers took.

    Args:
        number: Counts up; a message that another subscription takes later gets a new number.
        time: When it was last taken, in seconds since 1970.
        subscriptions: The names of those that took it, in that order.
    """

    number: int
    time: float
    message: Message[Any]
    subscriptions: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Handling:
    """How long a handler takes with its filters, in seconds: quantiles of its last `samples` attempts."""

    samples: int
    p50: float
    p99: float


class Sampler:
    """The one sampler of a bus: `sampler_of`. Workers call `began` and `ended`, from any thread."""

    def __init__(self, bus: Bus) -> None:
        self._report, self._later = engine_of(bus).ledger.sample, engine_of(bus).timers.after
        self._lock = threading.Lock()  # held for a few lines, which run no code of the program
        self._left = 0
        self._noted = 0
        self._recent: dict[str, Seen] = {}  # by id, the latest last
        self._weights: dict[str, int] = {}  # of their bodies, in bytes
        self._weight = 0  # of all of them
        self._looks = 0
        self._waits = False  # `_rested` is on its way
        self._took: dict[str, deque[float]] = {}
        self._handling: dict[str, Handling] = {}  # as of the last question; `ended` removes what is stale
        self.sampled = False
        """Whether the last sample left messages out."""

    def look(self) -> None:
        """Begin the next sample."""
        with self._lock:
            self.sampled = self._noted > 0 and self._left <= 0
            self._left = SAMPLE
            self._looks += 1
            waits, self._waits = self._waits, True
        self._report(True)
        if not waits:
            self._rest()

    @property
    def seen(self) -> int:
        """How many attempts were noted so far."""
        return self._noted

    def recent(self, after: int = 0) -> list[Seen]:
        """The messages with a higher number, in the order of their numbers."""
        with self._lock:
            found = []
            for one in reversed(self._recent.values()):
                if one.number <= after:
                    break
                found.append(one)
        return found[::-1]

    def handling(self, subscription: str) -> Handling | None:
        """None: no attempt of this subscription was noted yet."""
        with self._lock:
            known = self._handling.get(subscription)
            if known is None and (took := self._took.get(subscription)):
                ordered = sorted(took)
                last = len(ordered) - 1
                known = Handling(len(ordered), ordered[round(last * 0.5)], ordered[round(last * 0.99)])
                self._handling[subscription] = known
            return known

    def _rest(self) -> None:
        looks = self._looks

        def rested() -> None:
            if self._looks != looks:
                self._rest()
                return
            with self._lock:
                self._recent, self._weights, self._weight, self._waits, self._left = {}, {}, 0, False, 0

        self._later(REST, rested)

    # --- called by workers -----------------------------------------------------------------------------------------------

    def began(self, subscription: str, message: Message[Any]) -> float:
        """An attempt begins. Returns the time, for `ended`; 0: it does not belong to the sample."""
        weight = weight_of(message.body)
        with self._lock:
            if self._left <= 0:  # workers notice the end of a sample one by one
                self._report(False)
                return 0.0
            self._left -= 1
            self._noted += 1
            known = self._recent.pop(message.id, None)
            names = known.subscriptions if known is not None else ()
            if subscription not in names:
                names = (*names, subscription)
            self._recent[message.id] = Seen(self._noted, time.time(), message, names)
            self._weight += weight - self._weights.pop(message.id, 0)
            self._weights[message.id] = weight
            while len(self._recent) > RECENT or (self._weight > ROOM and len(self._recent) > 1):
                oldest = next(iter(self._recent))
                del self._recent[oldest]
                self._weight -= self._weights.pop(oldest)
        return time.perf_counter()

    def ended(self, subscription: str, began: float) -> None:
        """An attempt of the sample has ended, well or not."""
        took = time.perf_counter() - began
        with self._lock:
            known = self._took.get(subscription)
            if known is None:
                known = self._took[subscription] = deque(maxlen=DURATIONS)
                if len(self._took) > RECENT:
                    oldest = next(iter(self._took))
                    del self._took[oldest]
                    self._handling.pop(oldest, None)
            known.append(took)
            self._handling.pop(subscription, None)


def weight_of(body: Any, depth: int = 5) -> int:
    """About how many bytes a body has, by the first items of its containers. It runs no code of the program."""
    if type(body) in (str, bytes):
        return sys.getsizeof(body)
    try:
        if type(body) not in (dict, list, tuple):
            body = object.__getattribute__(body, "__dict__")
        first = list(islice(body.items() if type(body) is dict else body, SOME))
    except (AttributeError, RuntimeError, TypeError):  # no such attribute; a handler changes it at this moment
        return PLAIN
    if not depth or not first:
        return PLAIN
    return PLAIN + len(body) * sum(weight_of(one, depth - 1) for one in first) // len(first)


_making: Final = threading.Lock()


def sampler_of(bus: Bus) -> Sampler:
    """The sampler of a bus, made when it is first asked for."""
    ledger = engine_of(bus).ledger
    with _making:
        if not isinstance(ledger.sampler, Sampler):
            ledger.sampler = Sampler(bus)
        return ledger.sampler
