"""
Guarantee 31: `every` publishes again and again, the first time after one interval; missed ticks are not caught up, and no
tick begins before the last one has been published.
"""

from __future__ import annotations

import asyncio
import contextvars
import gc
import json
import logging
import threading
import weakref
from collections.abc import Callable
from contextlib import nullcontext
from typing import Any

import pytest

from actor_helpers import Asked, Notes, at_rest
from flow_helpers import (
    WAIT,
    Boom,
    DropAll,
    InThread,
    assert_conserved,
    boom,
    bus_of,
    every_road,
    fine,
    running,
    wait_until,
)
from pipebus import (
    Bus,
    BusClosed,
    Dropped,
    HeaderError,
    LifecycleError,
    Message,
    MessageError,
    PipelineError,
    ReceiveTimeout,
    Ref,
    Schedule,
    Subject,
    SubjectError,
    UnsupportedCapability,
    when,
)
from pipebus.bus.bus import engine_of
from pipebus.events import Unrouted
from pipebus.testing import FakeClock, Harness

START = 1_000_000_000.0
"""The time at which these tests begin."""


class Ticking:
    """
    A bus on a clock that jumps, as when a laptop slept; a harness would miss no tick. `pass_time` returns when the messages
    that are due have been published and handled.
    """

    def __init__(self, road: str = "bare", **options: Any) -> None:
        self.clock = FakeClock(start=START)
        self.bus = bus_of(road, clock=self.clock, **options)

    def move(self, seconds: float) -> None:
        """Move the clock, and wait until the timer has looked at it."""
        before = [(schedule, schedule.stats()["due_in"]) for schedule in engine_of(self.bus).schedules]
        self.clock.wait_until_waited_for()
        self.clock.advance(seconds)
        for schedule, due_in in before:
            if due_in is not None and due_in <= seconds:
                wait_until(lambda schedule=schedule: schedule.stats()["due_in"] not in (None, 0.0), "its timer has come")

    def pass_time(self, seconds: float) -> None:
        self.move(seconds)
        at_rest(self.bus)


def times(subscription: Any, began: float = START) -> list[float]:
    """The times at which the waiting messages were published, in seconds after the start."""
    stats = subscription.stats()
    return [round(subscription.receive(timeout=0).time - began, 3) for _ in range(stats["pending"])]


@pytest.fixture
def began(harness: Harness) -> float:
    """The time of day when the test begins."""
    return harness.clock.now()


def figures(schedule: Schedule) -> tuple[int, int, int]:
    stats = schedule.stats()
    return stats["published"], stats["skipped"], stats["failed"]


# --- when it ticks -----------------------------------------------------------------------------------------------------


@every_road
def test_s31_the_first_message_comes_after_one_interval_and_then_one_each_interval(
    harness: Harness, began: float, road: str
) -> None:
    """A schedule does not publish when it is made: it publishes after its interval, and then once for each interval."""
    with running(harness.attach(bus_of(road))) as bus:
        news = bus.subscribe("news")
        schedule = bus.every(60.0, "news", {"n": 1}, headers={"a": "b"})
        assert schedule.stats()["due_in"] == 60.0
        harness.advance(59.9)
        assert_conserved(news, accepted=0)
        for seconds in (0.1, 60.0, 30.0, 30.0):
            harness.advance(seconds)

        assert figures(schedule) == (3, 0, 0)
        messages = [news.receive(timeout=0) for _ in range(3)]
        assert [round(message.time - began, 3) for message in messages] == [60.0, 120.0, 180.0]
        assert [(message.body, message.headers["a"]) for message in messages] == [({"n": 1}, "b")] * 3
        assert len({message.id for message in messages}) == 3
        assert_conserved(news, accepted=3)


@pytest.mark.parametrize("late", [60.0, 119.0, 120.0, 600.0, 659.9])
def test_s31_what_was_missed_is_not_caught_up(late: float) -> None:
    """If the clock jumps, for instance because a laptop slept, one message comes, and the others are counted as skipped."""
    ticking = Ticking()
    with running(ticking.bus) as bus:
        news = bus.subscribe("news")
        schedule = bus.every(60.0, "news")
        ticking.pass_time(late)
        assert figures(schedule) == (1, int(late // 60) - 1, 0)
        due = 60.0 - late % 60
        assert schedule.stats()["due_in"] == pytest.approx(due, abs=1e-3)
        ticking.pass_time(due)  # the next is at a whole interval again

        assert times(news) == pytest.approx([late, late + due])


def test_s31_no_tick_begins_before_the_last_one_was_published(harness: Harness, began: float) -> None:
    """If a publish takes longer than an interval, the ticks meanwhile are skipped and counted."""
    begun: list[float] = []

    def slow(message: Message, call_next: Any) -> Any:
        begun.append(harness.elapsed)
        harness.clock.sleep(200.0)
        return call_next(message)

    harness.bus.use(slow)
    with running(harness.bus) as bus:
        news = bus.subscribe("news")
        schedule = bus.every(60.0, "news")
        harness.advance(259.0)
        assert figures(schedule) == (0, 3, 0)
        harness.advance(1.0)
        assert figures(schedule) == (1, 3, 0)
        harness.advance(40.0)
        schedule.stop()
        harness.advance(200.0)

        assert begun == [60.0, 300.0]
        assert figures(schedule) == (2, 3, 0)
        assert times(news, began) == [60.0, 300.0]
        assert_conserved(news, accepted=2)


def slow_news(harness: Harness, seconds: float) -> Any:
    """A filter that is slow with messages about "news"."""

    def slow(message: Message, call_next: Any) -> Any:
        if message.subject == "news":
            harness.clock.sleep(seconds)
        return call_next(message)

    return slow


SLOWNESS = ("slow-filter", "slow-filter-actor", "full-mailbox")


@pytest.mark.parametrize("slowness", SLOWNESS)
@pytest.mark.parametrize("pool", [None, 2])
def test_s31_a_schedule_that_waits_holds_no_other_up(harness: Harness, began: float, slowness: str, pool: int | None) -> None:
    """If one schedule waits for a slow filter, a filter actor or a full mailbox, the other one still ticks."""

    def takes_long(message: Message) -> Message:
        harness.clock.sleep(1_000.0)
        return message

    bus = harness.attach(Bus(pool=pool))
    if slowness == "slow-filter":
        bus.use(slow_news(harness, 1_000.0))
    elif slowness == "slow-filter-actor":
        actor = Asked("gate", takes_long)
        actor.filter_timeout = 1e6
        bus.use(when("news", actor))
    with running(bus):
        full = bus.subscribe("news", mailbox=1, overflow_timeout=1e6) if slowness == "full-mailbox" else None
        weather = bus.subscribe("weather")
        if full is not None:
            bus.publish("news")
        slow = bus.every(60.0, "news")
        quick = bus.every(60.0, "weather")
        harness.advance(240.0)

        assert figures(slow) == (0, 3, 0)
        assert figures(quick) == (4, 0, 0)
        assert times(weather, began) == [60.0, 120.0, 180.0, 240.0]
        slow.stop()
        if full is not None:
            full.receive(timeout=0)
        harness.advance(1_000.0)
        assert figures(slow) == (1, 3, 0)


def test_s31_every_schedule_has_its_own_time(harness: Harness, began: float) -> None:
    """Schedules may have different intervals, and may be made at different moments."""
    with running(harness.bus) as bus:
        readers = {name: bus.subscribe(name) for name in ("a", "b", "c")}
        bus.every(10.0, "a")
        harness.advance(5.0)
        bus.every(10.0, "b")
        bus.every("15s", "c")
        harness.advance(40.0)

        assert times(readers["a"], began) == [10.0, 20.0, 30.0, 40.0]
        assert times(readers["b"], began) == [15.0, 25.0, 35.0, 45.0]
        assert times(readers["c"], began) == [20.0, 35.0]


def test_s31_an_hour_of_ticks_does_not_drift() -> None:
    """The rounding errors of an interval like 0.1 s do not add up over 36,000 ticks."""
    ticking = Ticking()
    with running(ticking.bus) as bus:
        schedule = bus.every(0.1, "news")
        ticking.pass_time(3600.05)

        published, skipped, _ = figures(schedule)
        assert published + skipped == 36_000
        assert schedule.stats()["due_in"] == pytest.approx(0.05, abs=2e-3)


# --- start, stop, restart ----------------------------------------------------------------------------------------------


def test_s31_a_schedule_that_is_made_before_start_begins_with_the_start(harness: Harness, began: float) -> None:
    """Its first message comes one interval after the start, however long before the start it was made."""
    bus = harness.bus
    news = bus.subscribe("news")
    schedule = bus.every(60.0, "news")
    harness.clock.advance(1000.0)
    assert schedule.stats()["due_in"] is None
    with running(bus):
        assert schedule.stats()["due_in"] == 60.0
        harness.advance(60.0)

        assert times(news, began) == [1060.0]


@pytest.mark.parametrize("stopped_for", [0.0, 30.0, 600.0])
def test_s31_after_a_restart_it_begins_anew(harness: Harness, began: float, stopped_for: float) -> None:
    """A stopped bus has no ticks; after the next start the first one comes after one interval, and the figures continue."""
    with running(harness.bus) as bus:
        news = bus.subscribe("news")
        schedule = bus.every(60.0, "news")
        harness.advance(110.0)
        bus.stop(WAIT)
        assert schedule.stats()["due_in"] is None
        harness.advance(stopped_for)
        bus.start()
        harness.advance(59.0)
        assert figures(schedule) == (1, 0, 0)
        harness.advance(1.0)

        assert figures(schedule) == (2, 0, 0)
        assert times(news, began) == [60.0, 170.0 + stopped_for]


def test_s31_five_quick_restarts_make_one_message_an_interval(harness: Harness) -> None:
    """The timer of an earlier start does not tick any more."""
    bus = harness.bus
    news = bus.subscribe("news")
    schedule = bus.every(60.0, "news")
    for _ in range(5):
        with running(bus):
            harness.advance(1.0)
    with running(bus):
        harness.advance(60.0)
        assert figures(schedule) == (1, 0, 0)
        assert_conserved(news, accepted=1)


def test_s25_schedules_are_refused_while_the_bus_drains(harness: Harness) -> None:
    """As for other publishers from outside, nothing is published, and a tick is neither waited for nor an error."""
    with running(harness.bus) as bus:
        bus.subscribe("work", lambda message: harness.clock.sleep(600.0))
        news = bus.subscribe("news")
        schedule = bus.every(60.0, "news")
        bus.publish("work")
        harness.advance(1.0)
        stop = harness.thread(bus.stop, 1e9)
        harness.advance(0)
        assert (bus.state, schedule.stats()["due_in"]) == ("draining", None)
        assert stop.result().drained

        assert harness.elapsed == 600.0
        assert figures(schedule) == (0, 0, 0)
        assert_conserved(news, accepted=0)
        assert [message.subject for message in harness.published] == ["work"]


def test_s25_a_tick_that_is_under_way_when_the_bus_stops_is_waited_for(harness: Harness) -> None:
    """The stop waits until the tick has been published, and leaves no thread behind."""
    harness.bus.use(slow_news(harness, 100.0))
    with running(harness.bus) as bus:
        schedule = bus.every(60.0, "news")
        harness.advance(60.0)
        stop = harness.thread(bus.stop, 1e9)
        harness.advance(99.0)
        assert (bus.state, stop.ended) == ("draining", False)

        assert stop.result().abandoned == ()
        assert figures(schedule) == (1, 0, 0)
        assert harness.elapsed == 160.0


def test_s25_a_tick_that_the_stop_refuses_is_no_failure(harness: Harness) -> None:
    """When a tick reaches a mailbox that has just closed, the schedule counts neither a publish nor an error."""
    harness.bus.use(slow_news(harness, 100.0))
    with running(harness.bus, drain=False) as bus:
        news = bus.subscribe("news")
        schedule = bus.every(60.0, "news")
        harness.advance(60.0)
        stop = harness.thread(bus.stop, 1e9, drain=False)
        harness.advance(1.0)
        assert bus.state == "stopped"
        stop.result()

        assert harness.elapsed == 160.0
        assert figures(schedule) == (0, 0, 0)
        assert_conserved(news, accepted=0)


def test_s31_a_tick_that_found_no_worker_before_the_stop_does_not_come_after_the_next_start(
    harness: Harness, began: float
) -> None:
    """If the pool was busy, the old tick is not caught up, and the first one comes after one interval."""
    with running(harness.attach(Bus(pool=1)), drain=False) as bus:
        bus.subscribe("work", lambda message: harness.clock.sleep(61.0))
        news = bus.subscribe("news")
        schedule = bus.every(60.0, "news")
        bus.publish("work")
        harness.advance(60.0)
        assert bus.stop(timeout=0.0, drain=False).abandoned == ("pipebus-1",)
        bus.start()
        harness.advance(59.0)
        assert figures(schedule) == (0, 0, 0)
        harness.advance(1.0)

        assert figures(schedule) == (1, 0, 0)
        assert times(news, began) == [120.0]


def test_s25_a_drain_does_not_wait_for_ticks_that_are_not_due() -> None:
    """The ticks of a schedule never end, so a drain would wait forever."""
    with running() as bus:
        bus.every(3600.0, "news")
        bus.drain(0.0)


def test_s25_a_drain_waits_for_a_tick_that_is_being_published(harness: Harness) -> None:
    """A tick is a publish like any other, so a drain waits for it."""
    harness.bus.use(slow_news(harness, 50.0))
    with running(harness.bus) as bus:
        schedule = bus.every(60.0, "news")
        harness.advance(60.0)
        bus.drain(1e9)

        assert (figures(schedule), harness.elapsed) == ((1, 0, 0), 110.0)


def test_s31_a_schedule_may_be_made_while_the_bus_is_stopped_or_drains(harness: Harness) -> None:
    """Such a schedule begins with the next start."""
    with running(harness.bus) as bus:
        bus.subscribe("work", lambda message: harness.clock.sleep(600.0))
        bus.publish("work")
        stop = harness.thread(bus.stop, 1e9)
        harness.advance(1.0)
        assert bus.state == "draining"
        made = [bus.every(60.0, "news")]
        stop.result()
        made.append(bus.every(60.0, "news"))
        assert [schedule.stats()["due_in"] for schedule in made] == [None, None]
        bus.start()
        harness.advance(60.0)

        assert [figures(schedule) for schedule in made] == [(1, 0, 0)] * 2


@pytest.mark.parametrize("state", ["new", "started", "stopped"])
def test_s31_stop_ends_a_schedule(harness: Harness, state: str) -> None:
    """A stopped schedule publishes nothing more, and the bus forgets it; a second `stop` does nothing."""
    bus = harness.bus
    schedule = bus.every(60.0, "news")
    other = bus.every(60.0, "other")
    if state != "new":
        bus.start()
        harness.advance(60.0)
    if state == "stopped":
        bus.stop(WAIT)
    before = figures(schedule)

    schedule.stop()
    schedule.stop()

    assert schedule.stats()["due_in"] is None
    assert [one["subject"] for one in bus.stats()["schedules"]] == ["other"]
    assert [one["subject"] for one in bus.describe()["schedules"]] == ["other"]
    with running(bus):
        harness.advance(60.0)
        assert figures(schedule) == before
        assert figures(other)[0] == before[0] + 1


def test_s31_a_schedule_may_be_stopped_by_what_it_publishes(harness: Harness) -> None:
    """The handler of its message may stop it, and so may a filter that the message passes."""
    stopped = {}

    def by_filter(message: Message, call_next: Any) -> Any:
        if message.subject == "by-filter":
            stopped["by-filter"].stop()
        return call_next(message)

    harness.bus.use(by_filter)
    with running(harness.bus) as bus:
        bus.subscribe("by-handler", lambda message: stopped["by-handler"].stop())
        reader = bus.subscribe("by-filter")
        for name in ("by-handler", "by-filter"):
            stopped[name] = bus.every(60.0, name)
        harness.advance(60.0)
        assert not engine_of(bus).schedules
        harness.advance(60.0)

        assert [figures(one) for one in stopped.values()] == [(1, 0, 0)] * 2
        assert_conserved(reader, accepted=1)


def test_s31_a_schedule_that_is_stopped_while_its_tick_waits_for_a_worker_publishes_nothing(harness: Harness) -> None:
    """If the pool is busy and the schedule is stopped, its waiting tick publishes nothing."""
    with running(harness.attach(Bus(pool=1))) as bus:
        bus.subscribe("work", lambda message: harness.clock.sleep(100.0))
        news = bus.subscribe("news")
        schedule = bus.every(60.0, "news")
        bus.publish("work")
        harness.advance(60.0)
        schedule.stop()
        harness.advance(100.0)

        assert figures(schedule) == (0, 0, 0)
        assert_conserved(news, accepted=0)


class Interrupting(FakeClock):
    """A clock that calls something once, when the timer's thread looks at it for the n-th time."""

    def __init__(self) -> None:
        super().__init__(start=START)
        self._lock = threading.Lock()
        self._act: Callable[[], object] | None = None
        self._looks = 0

    def interrupt(self, look: int, act: Callable[[], object]) -> None:
        self._looks, self._act = look, act

    def disarm(self) -> None:
        """When this returns, the call has happened or will not happen."""
        with self._lock:
            self._act = None

    @property
    def armed(self) -> bool:
        return self._act is not None

    def monotonic(self) -> float:
        time = super().monotonic()
        if self._act is not None and threading.current_thread().name.endswith("-timer"):
            with self._lock:
                self._looks -= 1
                act = self._act
                if self._looks == 0 and act is not None:
                    act()
                    self._act = None
        return time


@pytest.mark.parametrize("look", range(1, 9))
@pytest.mark.parametrize("stops", ["schedule", "bus"])
def test_s31_a_stop_in_the_middle_of_a_tick_harms_nobody(look: int, stops: str) -> None:
    """Whatever the timer does at that moment, the other schedules and delayed messages still come in time."""
    clock = Interrupting()
    bus = Bus(clock=clock)
    with running(bus, drain=False):
        late = bus.subscribe("late")
        schedule, other = bus.every(60.0, "news"), bus.every(60.0, "other")
        bus.publish("late", delay=90.0)
        clock.wait_until_waited_for()
        stopping: list[InThread] = []
        # A stop of the bus waits for the timer's thread, so it is made on another one.
        clock.interrupt(
            look, schedule.stop if stops == "schedule" else lambda: stopping.append(InThread(bus.stop, WAIT, drain=False))
        )
        clock.advance(60.0)
        wait_until(lambda: not clock.armed or other.stats()["due_in"] == 60.0, "the ticks are over")
        clock.disarm()
        if stopping:
            stopping[0].result()
            assert schedule.stats()["due_in"] is None
            bus.start()
        clock.advance(60.0)

        assert late.receive(timeout=WAIT).subject == "late"
        wait_until(lambda: sum(figures(other)) >= 1, "the other one ticks on")


# --- what goes wrong ---------------------------------------------------------------------------------------------------


def _fails(bus: Bus) -> str:
    def fail(message: Message, call_next: Any) -> Any:
        if message.subject == "news":
            raise Boom("no news today")
        return call_next(message)

    bus.use(fail)
    return "Boom: no news today"


def _full(bus: Bus) -> str:
    bus.subscribe("news", name="full", mailbox=1, overflow="reject")
    return "MailboxFull: no room in the mailbox of full"


def _stopped_actor(bus: Bus) -> str:
    bus.use(Asked("gone")).stop()
    return "BusClosed: filter actor gone has stopped"


def _waits_for_itself(bus: Bus) -> str:
    def drain(message: Message, call_next: Any) -> Any:
        bus.drain(WAIT)
        return call_next(message)

    bus.use(drain)
    return "LifecycleError: drain in a handler"


def _is_cancelled(bus: Bus) -> str:
    def cancelled(message: Message, call_next: Any) -> Any:
        raise asyncio.CancelledError("stray")

    bus.use(cancelled)
    return "CancelledError: stray"


FAILURES = [_fails, _full, _stopped_actor, _waits_for_itself, _is_cancelled]


@pytest.mark.parametrize("failure", FAILURES, ids=lambda failure: failure.__name__.strip("_"))
def test_s21_a_publish_that_fails_is_counted_and_told_and_the_next_tick_comes(
    harness: Harness, failure: Callable[[Bus], str], caplog: pytest.LogCaptureFixture
) -> None:
    """Whatever the error is, the log names the schedule and the error, observers get an event, and the next tick comes."""
    caplog.set_level(logging.WARNING, "pipebus")
    harness.fail_fast = False  # a schedule that fails is what this is about
    bus = harness.attach(Bus(pool=1))
    text = failure(bus)
    with running(bus):
        for one in bus.subscriptions:
            if one.name == "full":
                bus.publish("news")
        schedule = bus.every(60.0, "news")
        harness.advance(180.0)

        assert figures(schedule) == (0, 0, 3)
        lines = [record.getMessage() for record in caplog.records if "schedule.failed" in record.getMessage()]
        assert len(lines) == 3
        assert "every 60 s: news" in lines[0]
        assert text in lines[0]
        assert len(harness.refused) == 3
        assert sum(bus.stats()["errors"].values()) == 3


def test_s21_a_tick_that_a_filter_drops_is_published_and_dropped(harness: Harness) -> None:
    """The schedule counts what it has published, as the bus does; the bus counts the drop under the filter."""

    def refuse(message: Message, call_next: Any) -> Any:
        return Dropped("unwanted")

    harness.bus.use(refuse)
    schedule = harness.bus.every(60.0, "tick")
    with running(harness.bus) as bus:
        harness.advance(60.0)

        assert schedule.stats()["published"] == bus.stats()["published"] == 1
        assert bus.stats()["dropped"] == {"refuse": {"unwanted": 1}}


@pytest.mark.parametrize("error", [SystemExit(3), KeyboardInterrupt()], ids=["exit", "interrupt"])
def test_s13_sys_exit_while_a_tick_is_published_requests_a_stop(harness: Harness, error: BaseException) -> None:
    """No worker is lost: other messages are handled, and the bus can stop."""

    def leave(message: Message, call_next: Any) -> Any:
        if message.subject == "news":
            raise error
        return call_next(message)

    harness.fail_fast = False  # a schedule that fails is what this is about
    bus = harness.attach(Bus(pool=1))
    bus.use(leave)
    exits = pytest.raises(SystemExit, match="3") if isinstance(error, SystemExit) else nullcontext()
    with exits, running(bus):
        bus.subscribe("work", fine, name="work")
        schedule = bus.every(60.0, "news")
        harness.advance(60.0)
        assert (bus.stopping, bus.state, figures(schedule)) == (True, "started", (0, 0, 1))
        bus.publish("work")
        harness.advance(0)
        assert len(harness.delivered_to("work")) == 1


def test_s31_a_message_that_reaches_nobody_was_published(harness: Harness) -> None:
    """A message without a subscriber is not a failure; the bus reports it as unrouted."""
    with running(harness.bus) as bus:
        schedule = bus.every(60.0, "nobody")
        harness.advance(60.0)
        assert figures(schedule) == (1, 0, 0)
        assert len([event for event in harness.events if isinstance(event, Unrouted)]) == 1


def test_s31_a_message_that_is_dropped_was_published(harness: Harness) -> None:
    """A message that a filter drops is not a failure of the schedule either."""
    harness.bus.use(DropAll())
    with running(harness.bus) as bus:
        schedule = bus.every(60.0, "news")
        harness.advance(60.0)
        assert figures(schedule) == (1, 0, 0)
        assert bus.stats()["dropped"] == {"DropAll": {"unwanted": 1}}


def test_s19_a_handler_that_fails_does_not_concern_the_schedule(harness: Harness) -> None:
    """The message was accepted, so its dead letter belongs to the handler and not to the schedule."""
    harness.allow(Boom)
    with running(harness.bus) as bus:
        bus.subscribe("news", boom)
        schedule = bus.every(60.0, "news")
        harness.advance(120.0)

        assert figures(schedule) == (2, 0, 0)
        assert len(bus.dead_letters) == 2


# --- what it publishes, and bad input ----------------------------------------------------------------------------------


def test_s31_a_tick_is_a_publish_with_all_its_options(harness: Harness) -> None:
    """`every` takes subject, body and envelope like `publish`, and each message is new."""
    with running(harness.bus) as bus:
        news = bus.subscribe("news")
        answers = bus.subscribe("answers")
        bus.subscribe("news", lambda message: message.body * 2)
        body = [1]
        bus.every(
            60.0, Subject[list]("news"), body, headers={"a": "b"}, key="k", ttl=10.0, reply_to="answers", correlation_id="c"
        )
        harness.advance(60.0)

        message = news.receive(timeout=0)
        assert message.body is body
        assert (message.headers["a"], message.key, message.ttl, message.reply_to, message.correlation_id) == (
            "b", "k", 10.0, "answers", "c",
        )  # fmt: skip
        assert answers.receive(timeout=0).body == [1, 1]


def test_s31_a_tick_may_be_delayed(harness: Harness, began: float) -> None:
    """A tick with a delay holds its place from the tick on, and comes when the delay is over."""
    with running(harness.bus) as bus:
        news = bus.subscribe("news")
        bus.every(60.0, "news", delay=5.0)
        harness.advance(60.0)
        assert news.stats()["pending"] == 1
        harness.advance(4.9)
        with pytest.raises(ReceiveTimeout):
            news.receive(timeout=0)
        harness.advance(0.1)

        assert times(news, began) == [60.0]


def test_s31_a_tick_may_be_mail_for_an_actor(harness: Harness) -> None:
    """A schedule may publish to an actor, given as the object or by its name."""
    with running(harness.bus) as bus:
        actor = bus.spawn(Notes("greeter"))
        by_reference = bus.every(60.0, actor, "by reference")
        bus.every(60.0, "greeter", "by name")
        harness.advance(60.0)

        assert sorted(actor.given) == ["by name", "by reference"]
        assert by_reference.stats()["subject"] == "<Notes greeter>"
        json.dumps(bus.stats())
        json.dumps(bus.describe())


@pytest.mark.parametrize(
    ("interval", "seconds"), [(60, 60.0), (0.5, 0.5), ("5m", 300.0), ("200ms", 0.2), ("1.5 h", 5400.0), (1e9, 1e9)], ids=str
)
def test_s31_an_interval_is_a_number_of_seconds_or_a_text(interval: Any, seconds: float) -> None:
    """An interval takes the same forms as a duration in the settings of a filter."""
    schedule = Bus().every(interval, "news")

    assert schedule.stats()["every"] == pytest.approx(seconds)


BAD: dict[str, tuple[tuple[Any, ...], dict[str, Any], type[Exception], str]] = {
    "zero": ((0, "news"), {}, PipelineError, "every=0: it is greater than 0"),
    "negative": ((-1.0, "news"), {}, PipelineError, "every=-1"),
    "no-number": ((float("nan"), "news"), {}, PipelineError, "every=nan"),
    "endless": ((float("inf"), "news"), {}, PipelineError, "every=inf"),
    "too-large": ((10**400, "news"), {}, PipelineError, "every=1000"),
    "text": (("often", "news"), {}, PipelineError, "every='often'"),
    "unit": (("5 fortnights", "news"), {}, PipelineError, "unknown unit"),
    "none": ((None, "news"), {}, PipelineError, "every=None"),
    "boolean": ((True, "news"), {}, PipelineError, "every=True"),
    "wildcard": ((1, "news.*"), {}, SubjectError, "wildcard"),
    "empty-token": ((1, "news..x"), {}, SubjectError, "empty token"),
    "empty": ((1, ""), {}, SubjectError, "empty"),
    "number": ((1, 5), {}, SubjectError, "5"),
    "list": ((1, ["news"]), {}, SubjectError, "news"),
    "object": ((1, object()), {}, SubjectError, "object"),
    "no subject": ((1,), {}, SubjectError, r"given no subject; write bus.every\(1, .*@bus.on"),
    "header": ((1, "news"), {"headers": {"a": 1}}, HeaderError, "string"),
    "header-name": ((1, "news"), {"headers": {"": "x"}}, HeaderError, "header"),
    "key": ((1, "news"), {"key": 5}, MessageError, "key"),
    "ttl": ((1, "news"), {"ttl": 0}, MessageError, "ttl"),
    "id": ((1, "news"), {"id": 5}, MessageError, "id"),
    "one-id-for-all": ((1, "news"), {"id": "mine"}, MessageError, "id of its own"),
    "delay": ((1, "news"), {"delay": -1}, MessageError, "delay"),
    "delay-text": ((1, "news"), {"delay": "soon"}, MessageError, "delay"),
    "strict": ((1, "news"), {"strict": "yes"}, MessageError, "strict"),
    "reply-to": ((1, "news"), {"reply_to": object()}, MessageError, "reply_to"),
    "reply-to-wildcard": ((1, "news"), {"reply_to": "a.*"}, SubjectError, "wildcard"),
    "correlation-id": ((1, "news"), {"correlation_id": 5}, MessageError, "correlation_id"),
    "option": ((1, "news"), {"bodi": 5}, TypeError, "bodi.*headers, key"),
}


@pytest.mark.parametrize(("given", "options", "error", "text"), BAD.values(), ids=BAD)
@pytest.mark.parametrize("started", [False, True], ids=["new", "started"])
def test_s31_bad_input_is_told_at_once(
    given: tuple[Any, ...], options: dict[str, Any], error: type[Exception], text: str, started: bool
) -> None:
    """`every` raises at once, not with the first tick, and schedules nothing."""
    bus = Bus()
    if started:
        bus.start()

    with pytest.raises(error, match=text):
        bus.every(*given, **options)

    assert bus.stats()["schedules"] == []
    bus.stop(WAIT)


def test_s31_where_messages_are_encoded_a_schedule_needs_a_named_subject() -> None:
    """`every` refuses such a subject at once."""
    bus = Bus("memory:?wire=json")

    for subject in (Ref(bus), Notes()):
        with pytest.raises(UnsupportedCapability):
            bus.every(1, subject)


# --- looking at it -----------------------------------------------------------------------------------------------------


def test_s31_a_schedule_tells_what_it_does(harness: Harness) -> None:
    """`stats` of the schedule and of the bus, `describe` and the text of the schedule show it."""
    with running(harness.bus) as bus:
        schedule = bus.every("1m", "news")
        harness.advance(60.0)
        harness.advance(15.0)
        expected = {
            "name": None, "every": 60.0, "subject": "news", "published": 1, "elsewhere": 0, "skipped": 0, "failed": 0,
            "due_in": 45.0,
        }  # fmt: skip

        assert schedule.stats() == expected
        assert bus.stats()["schedules"] == [expected]
        (described,) = bus.describe()["schedules"]
        assert (described["every"], described["subject"]) == (60.0, "news")
        assert described["place"].partition(":")[0].endswith("test_schedules.py")
        assert repr(schedule) == "<Schedule every 60 s: news>"
        assert isinstance(schedule, Schedule)
        json.dumps(bus.stats())


def test_s31_a_schedule_has_no_thread_of_its_own() -> None:
    """A hundred schedules share one timer."""
    before = threading.active_count()
    with running() as bus:
        for _ in range(100):
            bus.every(3600.0, "news")

        assert threading.active_count() == before + 1
    assert threading.active_count() == before


def test_s31_a_stopped_schedule_that_nobody_holds_is_collected() -> None:
    """It is collected when its timer is due, at the latest."""
    ticking = Ticking()
    with running(ticking.bus) as bus:
        schedule = bus.every(60.0, "news")
        ticking.pass_time(60.0)
        seen = weakref.ref(schedule)
        schedule.stop()
        del schedule
        other = bus.every(60.0, "other")
        ticking.clock.wait_until_waited_for()
        ticking.clock.advance(60.0)
        wait_until(lambda: figures(other)[0] == 1, "the timer has come by")
        at_rest(bus)

        wait_until(lambda: gc.collect() >= 0 and seen() is None, "it is collected")


def test_s27_a_bus_that_was_never_started_publishes_nothing(harness: Harness) -> None:
    """A schedule on a bus that never starts publishes nothing, even if the bus is stopped."""
    bus = harness.bus
    schedule = bus.every(60.0, "news")
    harness.clock.advance(600.0)
    bus.stop()

    assert figures(schedule) == (0, 0, 0)


def test_s14_each_tick_has_a_context_of_its_own(harness: Harness) -> None:
    """A variable that a filter sets during one tick is not set during the next one."""
    variable: contextvars.ContextVar[str] = contextvars.ContextVar("variable", default="unset")
    seen: list[str] = []

    def look(message: Message, call_next: Any) -> Any:
        seen.append(variable.get())
        variable.set("set")
        return call_next(message)

    bus = harness.attach(Bus(pool=1))
    bus.use(look)
    with running(bus):
        bus.every(60.0, "news")
        harness.advance(180.0)

    assert seen == ["unset"] * 3


def test_s25_a_stop_asked_for_while_a_tick_is_published_is_only_requested(harness: Harness) -> None:
    """`bus.stop()` in a filter that the tick passes only requests a stop."""
    bus = harness.bus
    found: list[Any] = []

    def stop(message: Message, call_next: Any) -> Any:
        found.append(bus.stop())
        return call_next(message)

    bus.use(stop)
    with running(bus):
        bus.every(60.0, "news")
        harness.advance(60.0)

        assert [report.drained for report in found] == [False]
        assert (bus.stopping, bus.state) == (True, "started")


def test_s31_errors_of_the_bus_itself_stay_what_they_are() -> None:
    """Publishers from outside still get `BusClosed`."""
    bus = Bus()
    with running(bus):
        bus.every(60.0, "news")
    with pytest.raises(BusClosed):
        bus.publish("news")
    with pytest.raises(LifecycleError):
        bus.publish("news")
