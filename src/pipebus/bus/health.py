"""
What `Bus.health` finds out, from what the parts of the bus know already.

It is asked each second, from threads, loops and signal handlers. So it waits for nothing: it asks no store, no server and no
loop for an answer, and takes no lock but the router's, which nobody holds for long. A loop is given a call to make, and the
next look sees whether it has made it. None of this costs anything per message.
"""

from __future__ import annotations

import asyncio
import contextvars
import math
import time
from collections.abc import Callable, Iterator
from typing import Any, Final

from pipebus.bus.filter_stats import broken, held, pausing
from pipebus.errors import LifecycleError
from pipebus.foreign.objects import said, text_of
from pipebus.mailbox.rare import USER
from pipebus.running.pool import Pool
from pipebus.transports.health import Health, dead, together, worse

UNANSWERED: Final = 30.0
"""Seconds after which a loop that has not made a call counts as stuck."""
RECENT: Final = 60.0
"""Seconds for which an error of an observer counts."""
LONG: Final = 0.01
SHARE: Final = 100
"""A scan of the mailboxes that takes longer (seconds), as one of a hundred thousand does, may take that share of the time."""
NAMED: Final = 3
"""The most mailboxes of a kind that are named."""


class Watch:
    """
    What looks at one bus, with what it remembers from one look to the next.

    Args:
        engine: The parts of the bus.
    """

    def __init__(self, engine: Any) -> None:
        self._parts = engine
        self._asked: dict[asyncio.AbstractEventLoop, float] = {}  # loops that have a call to make, and since when
        self._failed = (0, -math.inf)  # errors of observers so far, and when there were more than before
        self._found: list[Health] = []  # what the last scan of the mailboxes has found
        self._again = 0.0  # when to scan them again

    def look(self) -> Health:
        """`Bus.health`."""
        try:
            self._parts.check_process()  # in a child nothing works, and the locks may be held forever
        except LifecycleError as error:
            return dead(str(error))
        state = self._parts.state
        if state == "new":
            return Health(ready=False, reasons=("the bus is not started",))
        if state != "started":
            return Health(ready=False, reasons=(f"the bus is {'stopping' if state == 'draining' else 'stopped'}",))
        looks = (
            self._stop, self._threads, self._loops, self._transport, self._pool, self._publish, self._mailboxes,
            self._observers,
        )  # fmt: skip
        return together(part for look in looks for part in _without_errors(look))

    def _stop(self) -> Iterator[Health]:
        if self._parts.lifecycle.stop_wanted:
            yield Health(ready=False, reasons=("a stop was requested",))

    def _threads(self) -> Iterator[Health]:
        engine = self._parts
        if engine.timers.died:
            yield dead(f"the thread {engine.name}-timer has died: nothing that is delayed comes; start the program again")
        if engine.loop_thread.died:
            yield dead(f"the thread {engine.name}-loop has died: no coroutine runs; start the program again")
        yield from _workers(engine.pool)

    def _loops(self) -> Iterator[Health]:
        engine = self._parts
        now = engine.clock.monotonic()
        loops = [loop for loop in (engine.loop_thread.running, engine.loops.running) if loop is not None]
        for loop in [loop for loop in self._asked if loop not in loops]:
            self._asked.pop(loop, None)
        for loop in dict.fromkeys(loops):
            if loop.is_closed():
                yield dead("the event loop that the bus was started on is closed; start it with `async with bus`")
                continue
            since = self._asked.setdefault(loop, now)
            if since == now:
                loop.call_soon_threadsafe(self._asked.pop, loop, None, context=contextvars.Context())
            elif now - since > UNANSWERED:
                yield dead(
                    f"an event loop of the bus has not answered for {now - since:,.0f} s: a coroutine on it blocks; make the "
                    "call that takes so long in a plain `def`, which runs on a worker thread"
                )

    def _transport(self) -> Iterator[Health]:
        yield self._parts.transport.health()

    def _pool(self) -> Iterator[Health]:
        pool = self._parts.pool
        if pool.full and pool.ready:
            yield worse(
                f"all {pool.size} workers of the pool are busy, and {_mailboxes(len(pool.ready))} for one; if that lasts, give "
                "the bus a larger pool, or handlers that take long threads of their own"
            )

    def _publish(self) -> Iterator[Health]:
        for filter in broken(self._parts.filter_stats.published()):
            yield worse(f"the publish chain is interrupted by {filter}")

    def _mailboxes(self) -> Iterator[Health]:
        began = time.perf_counter()
        if began >= self._again:
            self._found = list(self._scanned())
            took = time.perf_counter() - began
            self._again = began + took * SHARE if took > LONG else 0.0
        yield from self._found

    def _scanned(self) -> Iterator[Health]:
        full: list[str] = []
        paused: list[str] = []
        waits: dict[str, list[str]] = {}  # by what their filters say
        for one in self._parts.router.subscriptions():
            if one.box is None and one.rare is None and one.lanes is None and one.plan.pool is None:
                continue  # nearly all of a million
            if one.plan.pool is not None:
                yield from _workers(one.plan.pool)
            if one.rare is not None and one.rare.pauses & USER:
                paused.append(one.name)
            if held(one):
                by = " and ".join(pausing(self._parts.filter_stats.around(one)))
                waits.setdefault(by, []).append(one.name)
            if (one.count() or 0) >= one.plan.size:
                full.append(f"{one.name} ({one.plan.size:,} messages)")
        if full:
            yield worse(f"{_are(full, 'mailbox', 'mailboxes')} full: {_some(full)}")
        if paused:
            yield worse(f"{_are(paused, 'subscription', 'subscriptions')} paused: {_some(paused)}")
        for by, names in waits.items():
            yield worse(f"{_are(names, 'subscription', 'subscriptions')} paused by {by}: {_some(names)}")

    def _observers(self) -> Iterator[Health]:
        now, count = self._parts.clock.monotonic(), self._parts.ledger.observer_errors
        if count > self._failed[0]:
            self._failed = (count, now)
        if now - self._failed[1] < RECENT:
            yield worse(
                f"observers have raised {count:,} errors, the last one less than {RECENT:g} s ago; look for observer.failed "
                "in the log"
            )


def _without_errors(look: Callable[[], Iterator[Health]]) -> list[Health]:
    """What a look finds. If it fails itself, as a transport of others may, that is what it finds."""
    found: list[Health] = []
    try:
        found += look()
    except Exception as error:
        found.append(worse(f"the health of the {look.__name__[1:]} cannot be told: {text_of(error)}"))
    return found


def _workers(pool: Pool) -> Iterator[Health]:
    gone = pool.died
    if gone and (len(gone) == len(pool.workers) or any(worker.woken for worker in gone)):
        yield dead(f"the thread {gone[0].name} has died, and no other takes its messages; start the program again")
    elif gone:
        yield worse(f"the thread {gone[0].name} has died, and {len(pool.workers) - len(gone)} others go on")


def _mailboxes(count: int) -> str:
    return "1 mailbox waits" if count == 1 else f"{count:,} mailboxes wait"


def _are(names: list[str], one: str, several: str) -> str:
    return f"a {one} is" if len(names) == 1 else f"{len(names):,} {several} are"


def _some(names: list[str]) -> str:
    more = len(names) - NAMED
    return ", ".join(map(said, names[:NAMED])) + (f" and {more:,} more" if more > 0 else "")
