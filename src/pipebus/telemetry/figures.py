"""
Figures: what `bus.stats()` counts, as rates and depths for people who watch.

All who watch share one look at the bus for each tick, so ten open pages cost as much as one; while nobody looks, nothing runs.
After a look that was much work, because there are very many subscriptions, the next one comes later: the looks take at most a
hundredth of one processor.
"""

from __future__ import annotations

import itertools
import threading
import time
from collections import deque
from operator import itemgetter
from typing import Any, Final

from pipebus.bus.bus import Bus, engine_of
from pipebus.bus.engine import Engine
from pipebus.bus.filter_stats import ByName, FilterStats, held, pausing
from pipebus.delivery.subscription import Subscription
from pipebus.foreign.objects import visible
from pipebus.mailbox import endings
from pipebus.telemetry.sampler import sampler_of

TICK: Final = 0.5
"""Seconds from one look at the bus to the next, at least."""
LEEWAY: Final = 0.05
"""Seconds by which a look may be early, since those who wait for a tick do not wake up exactly then."""
SHARE: Final = 100
"""From one look to the next, at least so many times the processor time that it took."""
WINDOW: Final = 2.0
"""Seconds over which rates are measured."""
STALE: Final = 60.0
"""Seconds after which an older look says nothing about the present rate."""
BUDGET: Final = 0.02
"""Seconds of a look that may pass before the subscriptions that are left have to wait for the next one."""
MOST: Final = 2_000
"""The most subscriptions that are shown one by one."""
REASONS: Final = 50
"""The most reasons that are shown for one filter or subscription; the others are summed up as "(other)"."""
TEXT: Final = 200
"""Characters of a reason."""


def watched(engine: Engine) -> dict[str, Subscription]:
    """The subscriptions that are shown, in the order of their names: all of them; if there are too many, those with a name."""
    found = engine.subscriptions
    if len(found) > MOST:
        found = list(itertools.islice((one for one in found if one.named), MOST))
    return dict(sorted([(one.name, one) for one in found], key=itemgetter(0)))


def shape_of(engine: Engine, found: dict[str, Subscription]) -> object:
    """A value that is another one after each change that `bus.describe()` may show."""
    return engine.state, tuple(zip(found, map(id, found.values()), strict=True)), len(engine.schedules)


class _Rates:
    """Counts of the last seconds, and how fast they grow."""

    __slots__ = ("_past", "now")

    def __init__(self) -> None:
        self._past: deque[tuple[float, tuple[int, ...]]] = deque()
        self.now: list[float] = []
        """Per second, at the last `add`."""

    def add(self, moment: float, *counts: int) -> list[float]:
        """Compare with the oldest counts of the window, or else with the last ones before it; without any, the rates are 0."""
        past = self._past
        if len(past) == 1 and past[0][1] == counts:  # nearly all of a thousand
            past[0] = (moment, counts)
            return self.now
        while len(past) > 1 and moment - past[1][0] >= WINDOW:
            past.popleft()
        if past and moment - past[0][0] > STALE:
            past.clear()
        past.append((moment, counts))
        since, before = past[0]
        # A count that has become smaller, because a store was replaced, has no rate.
        still = moment <= since or counts == before
        pairs = zip(counts, before, strict=True)
        self.now = [0.0 if still else round(max(0, one - other) / (moment - since), 2) for one, other in pairs]
        return self.now


class _Row:
    """What is known of one subscription."""

    __slots__ = ("ended", "figures", "filters", "rates")

    def __init__(self) -> None:
        self.figures: dict[str, Any] = {}
        self.filters: ByName = {}
        self.ended = 0
        self.rates = _Rates()

    def look(self, one: Subscription, filters: FilterStats) -> None:
        self.figures = figures = one.stats()
        self.filters = filters.around(one)
        self.ended = endings.ended(figures)
        self.rates.add(time.monotonic(), figures["accepted"], self.ended)


class Figures:
    """
    The figures of one bus, for all who watch it. Threads may share it.

    Args:
        bus: The bus; it may be stopped.

    Example:
        >>> from pipebus import Bus
        >>> from pipebus.telemetry.figures import Figures
        >>> Figures(Bus()).look()["messages"]["published"]
        0
    """

    def __init__(self, bus: Bus) -> None:
        self.bus = bus
        self.engine = engine_of(bus)
        self.sampler = sampler_of(bus)
        self.shape: object = None
        """Of the last look."""
        self._lock = threading.Lock()
        self._sampled = 0.0
        self._rates = _Rates()
        self._rows: dict[str, _Row] = {}
        self._turn = 0  # the subscription that is due first
        self._last: dict[str, Any] = {}
        self._due = 0.0

    def look(self) -> dict[str, Any]:
        """
        Return the figures, JSON-safe, at most a tick old. It may wait for a store or a server: call it off the event loop.

        Returns:
            Counts since the bus was made; rates in messages per second, over the last two seconds, 0 at the first look; times
            in seconds. The same object, not to be changed, for all callers of one tick.

        Raises:
            PipebusError: as `bus.stats()` does.
        """
        self.sample()
        with self._lock:
            begun = time.monotonic()
            if not self._last or begun >= self._due:
                work = time.thread_time()
                self._last = self._fresh(begun)
                self._due = begun + max(TICK - LEEWAY, SHARE * (time.thread_time() - work))
            return self._last

    def sample(self) -> None:
        """Begin the next sample of deliveries, if a tick has passed since the last one."""
        with self._lock:
            now = time.monotonic()
            if now - self._sampled >= TICK - LEEWAY:
                self._sampled = now
                self.sampler.look()

    def _fresh(self, moment: float) -> dict[str, Any]:
        engine = self.engine
        found = watched(engine)
        self.shape = shape_of(engine, found)
        with engine.transport.glancing():
            self._look(found)
        totals = engine.ledger.figures(engine.sender.composer.made())
        handled = sum(row.ended for row in self._rows.values())
        rates = self._rates.add(moment, totals["published"], totals["accepted"], handled)
        return {
            "time": time.time(),
            "state": engine.state,
            "health": health_of(self.bus),
            "messages": {
                **{name: totals[name] for name in ("published", "accepted", "unrouted")},
                **{name: _by_filter(totals[name]) for name in ("rejected", "dropped")},
                "errors": _top(totals["errors"]),
                "dead_letters": len(engine.dead_letters),
            },
            "filters": _seen(engine.filter_stats.published()),
            "rates": dict(zip(("published", "accepted", "handled"), rates, strict=True)),
            "subscriptions": [self._shown(name, one) for name, one in found.items()],
        }

    def _look(self, found: dict[str, Subscription]) -> None:
        """Look at as many subscriptions as there is time for: each asks a store. The others have their turn later."""
        self._rows = rows = {name: self._rows.get(name) or _Row() for name in found}
        order = list(found)
        first = self._turn % len(order) if order else 0
        self._turn = 0
        end = time.monotonic() + BUDGET
        for index, name in enumerate((*order[first:], *order[:first])):
            row = rows[name]
            if not row.figures or time.monotonic() < end:
                row.look(found[name], self.engine.filter_stats)
            elif not self._turn:
                self._turn = first + index

    def _shown(self, name: str, one: Subscription) -> dict[str, Any]:
        row, handling = self._rows[name], self.sampler.handling(name)
        figures, (into, out) = row.figures, row.rates.now
        return {
            "name": visible(name),
            "accepted": figures["accepted"],
            "acknowledged": figures["acknowledged"],
            "dead": figures["dead"],
            "pending": figures["pending"],
            "in_flight": figures["in_flight"],
            "dropped": _top(figures["dropped"]),
            "size": one.plan.size,
            "oldest": figures.get("oldest"),
            "paused": one.paused,
            "paused_by": [visible(by) for by in pausing(row.filters)] if held(one) else [],
            "filters": _seen(row.filters),
            "in": into,
            "out": out,
            "p50": None if handling is None else handling.p50,
            "p99": None if handling is None else handling.p99,
            "samples": 0 if handling is None else handling.samples,
        }


def health_of(bus: Bus) -> dict[str, Any]:
    """`bus.health()` as JSON."""
    found = bus.health()
    reasons = [visible(one)[:TEXT] for one in found.reasons]
    return {"live": found.live, "ready": found.ready, "degraded": found.degraded, "reasons": reasons}


def _seen(filters: ByName) -> ByName:
    """What filters show of their state, with texts that can be seen."""
    return {
        visible(name): {
            visible(figure): visible(value) if isinstance(value, str) else value for figure, value in figures.items()
        }
        for name, figures in filters.items()
    }


def _by_filter(found: dict[str, dict[str, int]]) -> dict[str, dict[str, int]]:
    return {visible(by): _top(reasons) for by, reasons in found.items()}


def _top(counts: dict[str, int]) -> dict[str, int]:
    """The most frequent ones, by a text that is short."""
    if not counts:
        return {}
    ordered = sorted(counts.items(), key=lambda one: -one[1])
    found: dict[str, int] = {}
    for reason, count in ordered[:REASONS]:
        name = visible(reason)[:TEXT]
        found[name] = found.get(name, 0) + count
    if len(ordered) > REASONS:
        found["(other)"] = found.get("(other)", 0) + sum(count for _, count in ordered[REASONS:])
    return found
