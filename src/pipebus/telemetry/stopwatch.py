"""How long handlers take, as a histogram: a filter around each of them."""

from __future__ import annotations

import threading
from bisect import bisect_left
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Final

from pipebus.clock import SYSTEM, Clock
from pipebus.message.message import Message
from pipebus.pipeline.shapes import Around, Context, Steps
from pipebus.telemetry.labels import Labels

BUCKETS: Final = (0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0, 60.0)
"""Upper bounds in seconds: from a handler that only computes to one that asks another service."""


class Durations:
    """The durations of one label, from all threads."""

    def __init__(self) -> None:
        self._lock = threading.Lock()  # held for two additions, which run no other code
        self._counts = [0] * (len(BUCKETS) + 1)
        self._sum = 0.0

    def add(self, seconds: float) -> None:
        bucket = bisect_left(BUCKETS, seconds)
        with self._lock:
            self._counts[bucket] += 1
            self._sum += seconds

    def read(self) -> tuple[list[tuple[str, float]], float]:
        """Each bound with the number of durations up to it, and the sum of all durations."""
        with self._lock:
            counts, total = [*self._counts], self._sum
        bounds = [*map(str, BUCKETS), "+Inf"]
        return [(bound, sum(counts[: index + 1])) for index, bound in enumerate(bounds)], total


@dataclass(eq=False)
class Stopwatch(Around):
    """
    Measures what is inside of it in the delivery chain: the filters after it, and the handler. An error is measured too, and a
    wait inside of it.

    It costs what an `Around` costs, some microseconds for each delivery.
    """

    def __post_init__(self) -> None:
        self.by_label: dict[str, Durations] = {}
        self.labels = Labels()
        self._clock: Clock = SYSTEM

    def start(self, context: Context) -> None:
        self._clock = context.clock

    def at(self, place: str) -> Callable[[Message[Any]], Steps]:
        durations = self.by_label.setdefault(self.labels.subscription(place), Durations())

        def around(message: Message[Any]) -> Steps:
            clock = self._clock
            began = clock.monotonic()
            try:
                yield message
            finally:
                durations.add(clock.monotonic() - began)

        return around
