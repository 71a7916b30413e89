"""
Guarantee 39, in one process and virtual time: a named schedule has slots on a grid that all processes share, and publishes each
once. What several processes do to each other is in `transports/test_slots.py`.
"""

from __future__ import annotations

import logging
from collections.abc import Iterator
from datetime import UTC, datetime
from typing import Any
from zoneinfo import ZoneInfo

import pytest

from flow_helpers import running
from pipebus import Bus, Dropped, Message, Pipeline, PipelineError
from pipebus.bus.bus import engine_of
from pipebus.filters import Tap
from pipebus.message.slot import Slot
from pipebus.publishing.timetable import Cron, Intervals, timetable_of
from pipebus.testing import FakeClock, Harness

NOON = datetime(2026, 6, 1, 12, tzinfo=UTC).timestamp()
BERLIN = ZoneInfo("Europe/Berlin")


@pytest.fixture
def harness() -> Iterator[Harness]:
    """It begins 20 seconds after a slot of each minute and hour."""
    with Harness(start=NOON + 20.0) as harness:
        yield harness


def slots(harness: Harness) -> list[float]:
    """The slots of the published messages, in seconds after noon."""
    return [float(message.headers["pipebus-slot"]) - NOON for message in harness.published]


def at(*when: int) -> float:
    """A time of the day in Berlin."""
    return datetime(*when, tzinfo=BERLIN).timestamp()  # type: ignore[arg-type,misc]


# --- slots -------------------------------------------------------------------------------------------------------------


def test_s39_slots_are_multiples_of_the_interval_whenever_the_bus_started(harness: Harness) -> None:
    """The message carries its slot in its id and in headers that a handler can read."""
    with running(harness.bus) as bus:
        news = bus.subscribe("news")
        schedule = bus.every("1m", "news", {"n": 1}, name="news", headers={"a": "b"})
        harness.advance(0)
        assert schedule.stats()["due_in"] == 40.0
        harness.advance(160.0)

        assert slots(harness) == [60.0, 120.0, 180.0]
        message = news.receive(timeout=0)
        assert message.id == f"news@{NOON + 60:.0f}"
        assert message.time == NOON + 60
        assert dict(message.headers) == {
            "a": "b", "pipebus-schedule": "news", "pipebus-slot": f"{NOON + 60:.0f}", "pipebus-timetable": "every 60 s",
        }  # fmt: skip


@pytest.mark.parametrize("seconds", [0.1, 0.3, 1.0, 7.0, 60.0, 86400.0, 1e9])
def test_s39_every_process_computes_the_same_slots(seconds: float) -> None:
    """From a slot itself, and from times close to it, the slots before and after are the ones that a count from 1970 gives."""
    timetable = Intervals(seconds)
    number = int(NOON / seconds)
    for k in range(number, number + 50):
        slot = k * seconds
        assert timetable.last(slot) == slot
        assert timetable.next(slot) == (k + 1) * seconds
        assert timetable.last(slot + seconds / 3) == slot
        assert timetable.next(slot - seconds / 3) == slot
    assert timetable.count(number * seconds, (number + 50) * seconds) == 50


CHANGES = {
    "a time in the hour that is skipped comes at its end": (
        "30 2 * * *", at(2026, 3, 28, 12), [(2026, 3, 29, 3, 0), (2026, 3, 30, 2, 30)],
    ),
    "a time in the hour that is repeated comes once": (
        "30 2 * * *", at(2026, 10, 24, 12), [(2026, 10, 25, 2, 30), (2026, 10, 26, 2, 30)],
    ),
    "working days": ("0 3 * * 1-5", at(2026, 6, 5, 12), [(2026, 6, 8, 3, 0), (2026, 6, 9, 3, 0)]),
    "with seconds": ("30 0 12 * * *", at(2026, 6, 5, 12), [(2026, 6, 5, 12, 0, 30), (2026, 6, 6, 12, 0, 30)]),
}  # fmt: skip


@pytest.mark.parametrize(("expression", "begin", "wanted"), CHANGES.values(), ids=CHANGES)
def test_s39_cron_follows_the_clock_of_its_time_zone(expression: str, begin: float, wanted: list[Any]) -> None:
    """The offset of the zone changes twice a year, and people expect the time of day to stay."""
    timetable = Cron(expression, "Europe/Berlin")
    times = [timetable.next(begin)]
    times.append(timetable.next(times[0]))

    assert times == [at(*moment) for moment in wanted]


@pytest.mark.parametrize("expression", ["30 2 * * *", "0 3 * * 1-5", "*/20 * * * *", "0 */2 * * *", "59 1,2 * * *"])
@pytest.mark.parametrize("month", [3, 10], ids=["skipped-hour", "repeated-hour"])
def test_s39_what_comes_next_and_what_came_last_agree(expression: str, month: int) -> None:
    """For each quarter of an hour around a change of the clock: there is no slot between the two, and none comes twice."""
    timetable = Cron(expression, "Europe/Berlin")
    begin = at(2026, month, 23 if month == 3 else 19)
    known = [timetable.last(begin)]
    while known[-1] < begin + 9 * 86400:
        known.append(timetable.next(known[-1]))

    assert known == sorted(set(known))
    for quarter in range(8 * 96):
        time = begin + 900 * quarter
        assert timetable.last(time) == max(slot for slot in known if slot <= time)
        assert timetable.next(time) == min(slot for slot in known if slot > time)
    assert timetable.count(known[0], known[-1]) == len(known) - 1


def test_s39_half_past_every_hour_comes_in_both_hours_that_the_clock_shows_twice() -> None:
    """A `*` for the hour is an interval: it follows the time that passes, not the clock."""
    timetable = Cron("30 * * * *", "Europe/Berlin")

    first = timetable.next(at(2026, 10, 25, 2))
    assert timetable.next(first) - first == 3600.0


@pytest.mark.parametrize("text", ["every 0.1 s", "every 604800 s", "cron 0 3 * * 1-5 Europe/Berlin", "cron 0 0 29 2 * UTC"])
def test_s39_a_timetable_can_be_made_of_its_text(text: str) -> None:
    """The text is what a store keeps; `pipebus schedules` computes the next slot of it."""
    timetable = timetable_of(text)

    assert timetable.text == text
    assert timetable_of(timetable.text).next(NOON) == timetable.next(NOON)


def test_s39_cron_ticks_on_a_bus(harness: Harness) -> None:
    """Without a name each process ticks, so its message has an ordinary id."""
    with running(harness.bus) as bus:
        bus.cron("0 3 * * *", "report", name="report", timezone="Europe/Berlin")
        bus.cron("30 14 * * *", "tea", timezone="Europe/Berlin")
        harness.advance("24h")

        named, plain = sorted(harness.published, key=lambda message: str(message.subject))[:2]
        assert named.id == f"report@{at(2026, 6, 2, 3):.0f}"
        assert ("@" in plain.id, plain.time) == (False, at(2026, 6, 1, 14, 30))
        assert len(harness.published) == 2


# --- the start ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", [None, "news"])
def test_s39_now_publishes_at_the_start(harness: Harness, name: str | None) -> None:
    """A named schedule publishes the present slot; one without a name begins its intervals."""
    with running(harness.bus) as bus:
        bus.every("1m", "news", name=name, now=True)
        harness.advance(0)
        assert len(harness.published) == 1
        harness.advance(60.0)

        assert len(harness.published) == 2
        if name:
            assert slots(harness) == [0.0, 60.0]


def test_s39_now_does_not_repeat_a_slot_after_a_restart(harness: Harness) -> None:
    """Somebody has published it already, so the next message is the one of the next slot."""
    bus = harness.bus
    bus.every("1m", "news", name="news", now=True)
    for _ in range(3):
        with running(bus):
            harness.advance(10.0)
    with running(bus):
        harness.advance(10.0)

    assert slots(harness) == [0.0, 60.0]


@pytest.mark.parametrize(
    ("options", "wanted"),
    [
        ({}, [60.0, 600.0]),
        ({"missed": "skip"}, [60.0, 600.0]),
        ({"missed": "once"}, [60.0, 540.0, 600.0]),
        ({"now": True}, [0.0, 60.0, 540.0, 600.0]),
    ],
    ids=["default", "skip", "once", "now"],
)
def test_s39_missed_decides_about_the_slots_of_a_time_without_a_process(
    harness: Harness, options: dict[str, Any], wanted: list[float]
) -> None:
    """After 8 missed minutes comes nothing, or one message for all of them: that of the last one."""
    bus = harness.bus
    bus.every("1m", "news", name="news", **options)
    with running(bus):
        harness.advance(80.0)
    harness.clock.advance(480.0)
    with running(bus):
        harness.advance(20.0)

    assert slots(harness) == wanted


def test_s39_a_new_schedule_has_missed_nothing(harness: Harness) -> None:
    """Its first start is its beginning, also with missed="once"; what it misses from then on, it has missed."""
    bus = harness.bus
    bus.every("1h", "news", name="news", missed="once")
    with running(bus):
        harness.advance(10.0)
    assert slots(harness) == []
    harness.clock.advance(7200.0)
    with running(bus):
        harness.advance(0)

    assert slots(harness) == [7200.0]


# --- while it runs -----------------------------------------------------------------------------------------------------


def test_s39_a_slot_that_comes_during_a_slow_publish_waits_for_its_end(harness: Harness) -> None:
    """Ticks do not overlap. Of several slots that wait, the last one is published, and the others are skipped."""

    def slow(message: Message, call_next: Any) -> Any:
        if not harness.published:
            harness.clock.sleep(150.0)
        return call_next(message)

    harness.bus.use(slow)
    with running(harness.bus) as bus:
        schedule = bus.every("1m", "news", name="news")
        harness.advance(220.0)

        assert slots(harness) == [60.0, 180.0, 240.0]
        assert (schedule.stats()["published"], schedule.stats()["skipped"]) == (3, 1)
        assert [message.time - NOON for message in harness.published] == [60.0, 210.0, 240.0]


def test_s39_after_a_jump_of_the_clock_the_last_slot_is_published() -> None:
    """As when a laptop wakes up. A clock that is set back repeats no slot."""
    clock = FakeClock(start=NOON + 20.0)
    bus = Bus(clock=clock)
    with running(bus):
        news = bus.subscribe("news")
        schedule = bus.every("1m", "news", name="news")
        clock.wait_until_waited_for()
        clock.advance(3600.0)
        first = news.receive(timeout=10.0)

        assert first.id == f"news@{NOON + 3600:.0f}"
        assert schedule.stats()["skipped"] == 59


def test_s39_what_a_filter_drops_is_dropped_for_the_group(harness: Harness) -> None:
    """The slot is over: it is not missed at the next start, and no other process publishes it."""
    passed = []

    def drop(message: Message, call_next: Any) -> Any:
        passed.append(message.id)
        return Dropped("not today")

    bus = harness.bus
    bus.use(drop)
    bus.every("1m", "news", name="news", missed="once")
    with running(bus):
        harness.advance(40.0)
    with running(bus):
        harness.advance(0)

    assert passed == [f"news@{NOON + 60:.0f}"]


def test_s39_a_slot_whose_publish_fails_is_still_missed(harness: Harness) -> None:
    """Nobody has published it, so a restart with missed="once" does."""
    fails = [True]

    def fail(message: Message, call_next: Any) -> Any:
        if fails:
            raise ConnectionError(fails.pop())
        return call_next(message)

    harness.allow(ConnectionError)
    bus = harness.bus
    bus.use(fail)
    schedule = bus.every("1m", "news", name="news", missed="once")
    with running(bus):
        harness.advance(40.0)
        assert schedule.stats()["failed"] == 1
    with running(bus):
        harness.advance(0)

    assert slots(harness) == [60.0]


def test_s39_a_slot_that_is_a_dead_letter_can_be_replayed() -> None:
    """The slot is over, and the message of the letter is an ordinary one, which the store keeps."""
    fails = [True]

    def fail(message: Message, call_next: Any) -> Any:
        if fails:
            raise ConnectionError(fails.pop())
        return call_next(message)

    with Harness(start=NOON + 20.0, store="temporary") as harness:
        harness.allow(ConnectionError)
        bus = harness.attach(Bus("sqlite:///bus.db"))
        bus.use(Pipeline(fail, on_error="dead_letter"))
        news = bus.subscribe("news", name="news")
        with running(bus):
            bus.every("1m", "news", name="news")
            harness.advance(50.0)
            [letter] = bus.dead_letters
            bus.dead_letters.replay(letter)

            assert news.receive(timeout=1.0).id == f"news@{NOON + 60:.0f}"
            assert letter.message.headers["pipebus-slot"] == f"{NOON + 60:.0f}"


def test_s39_two_buses_of_one_store_publish_each_slot_once() -> None:
    """Both are in time for the first slot; from then on the one that was too late looks a little later."""
    with Harness(start=NOON + 20.0, store="temporary") as harness:
        buses = [harness.attach(Bus("sqlite:///bus.db", name=name)) for name in ("one", "two")]
        passes: list[str] = []
        for bus in buses:
            bus.use(Tap(lambda message, bus=bus: passes.append(bus.name)))
        news = buses[0].subscribe("news", name="news")
        with running(buses[0]), running(buses[1]):
            both = [bus.every("1m", "news", name="news") for bus in buses]
            harness.advance(240.5)
            ids = [news.receive(timeout=1.0).id for _ in range(4)]

            assert ids == [f"news@{NOON + 60 * number:.0f}" for number in range(1, 5)]
            figures = [schedule.stats() for schedule in both]
            assert [one["published"] + one["elsewhere"] for one in figures] == [4, 4]
            assert sum(one["published"] for one in figures) == 4
            assert len(passes) <= 5


def test_s39_a_handler_may_send_the_message_of_a_slot_again(harness: Harness) -> None:
    """The copy is an ordinary message, on every transport."""
    with running(harness.attach(Bus("sqlite:///bus.db"))) as bus:
        bus.subscribe("news", lambda message: bus.send(message.replace(subject="old", id="copy")), name="news")
        old = bus.subscribe("old", name="old")
        bus.every("1m", "news", name="news")
        harness.advance(40.0)

        assert old.receive(timeout=0).headers == {}


def test_s39_a_changed_timetable_is_told_at_the_start(harness: Harness, caplog: pytest.LogCaptureFixture) -> None:
    """Two programs may have the same name with different intervals, or a new version is rolled out: its own slots count."""
    caplog.set_level(logging.WARNING, "pipebus")
    bus = harness.bus
    with running(bus):
        old = bus.every("1m", "news", name="news")
        harness.advance(40.0)
        old.stop()
        bus.every("90s", "news", name="news")
        harness.advance(60.0)

    assert slots(harness) == [60.0, 90.0]
    assert "schedule.changed" in caplog.text
    assert "every 60 s" in caplog.text


def test_s39_a_clock_that_was_ahead_is_told_at_the_start(harness: Harness, caplog: pytest.LogCaptureFixture) -> None:
    """No slot is published until the time that another process has had; the log says why."""
    caplog.set_level(logging.WARNING, "pipebus")
    bus = harness.bus
    engine_of(bus).transport.skip_slot(Slot("news", NOON + 7200.0, "every 60 s"))
    with running(bus):
        schedule = bus.every("1m", "news", name="news")
        harness.advance("3h")

    assert slots(harness)[:2] == [7260.0, 7320.0]
    assert schedule.stats()["elsewhere"] == 120
    assert "schedule.ahead" in caplog.text
    assert "by=7180.0" in caplog.text


# --- bad input ---------------------------------------------------------------------------------------------------------

WRONG: dict[str, tuple[str, dict[str, Any], str]] = {
    "name": ("1m", {"name": "head lines"}, "name='head lines'; it is letters, digits"),
    "no name": ("1m", {"name": ""}, "name=''"),
    "missed": ("1m", {"name": "a", "missed": "all"}, 'missed=\'all\'; it is "skip" or "once"'),
    "missed without a name": ("1m", {"missed": "once"}, 'missed="once" needs a name'),
    "option": ("1m", {"nmae": "a"}, "unexpected keyword argument 'nmae'; there are name, now, missed, headers"),
    "now": ("1m", {"now": 1}, "now=1; it is True or False"),
    "expression": ("0 25 * * *", {}, "cron='0 25 * * *': Bad hour; it is minute, hour"),
    "fields": ("0 3", {}, "Wrong number of fields"),
    "never": ("* * 31 2 *", {}, "Bad day-of-month"),
    "not in 50 years": ("* * */20 * 1L", {}, "there is no such time"),
    "zone": ("0 3 * * *", {"timezone": "Europe/Berln"}, "timezone='Europe/Berln' is unknown"),
    "folder of zones": ("0 3 * * *", {"timezone": "Europe"}, "timezone='Europe' is unknown"),
    "no zone": ("0 3 * * *", {"timezone": None}, "timezone=None is unknown"),
}


@pytest.mark.parametrize(("given", "options", "text"), WRONG.values(), ids=WRONG)
def test_s39_bad_input_is_refused_at_once(given: str, options: dict[str, Any], text: str) -> None:
    """The error names the option, and nothing is registered."""
    bus = Bus()
    add = bus.every if given.endswith("m") else bus.cron
    with pytest.raises((PipelineError, TypeError)) as caught:
        add(given, "news", **options)

    assert text in str(caught.value)
    assert bus.stats()["schedules"] == []


def test_s39_two_schedules_of_one_name_are_an_error() -> None:
    """The error names the place of the first one. After `stop`, the name is free."""
    bus = Bus()
    first = bus.every("1m", "news", name="news")
    with pytest.raises(PipelineError, match=r'name="news" is the schedule of .*test_named_schedules.py:\d+'):
        bus.cron("0 3 * * *", "other", name="news")
    first.stop()

    assert bus.cron("0 3 * * *", "other", name="news").stats()["cron"] == "0 3 * * *"
