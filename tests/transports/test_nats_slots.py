"""The slots of schedules on NATS, where a message and the record of its slot are two steps."""

from __future__ import annotations

import itertools
from typing import Any

import pytest

pytest.importorskip("nats")

from nats_server import NatsStage

from pipebus import Bus, UnsupportedCapability
from pipebus.bus.bus import engine_of
from pipebus.message.slot import Slot
from pipebus.transports.nats.transport import NatsTransport


def life(stage: NatsStage, name: str = "hourly.news") -> tuple[dict[str, Any], list[Slot]]:
    """Start a bus whose schedule publishes the present slot; return its figures, and what the server has of all schedules."""
    bus = stage.open()
    schedule = bus.every("1h", "a", name=name, now=True)
    with bus:
        bus.drain()
        stats = schedule.stats()
    return stats, engine_of(bus).transport.schedules()


def test_a_process_killed_before_the_record_leaves_no_second_message(stage: NatsStage) -> None:
    """The server recognises the message of the slot, and the next process makes up for the record."""
    stats, [slot] = life(stage)
    assert (stats["published"], slot.schedule, slot.timetable) == (1, "hourly.news", "every 3600 s")
    transport: NatsTransport = engine_of(stage.open()).transport
    records = f"{transport.subjects.slots}>"
    transport.look(lambda link: link.api(f"STREAM.PURGE.{stage.stream}-DEAD", {"filter": records}))
    assert transport.schedules() == []

    stats, found = life(stage)

    assert (stats["published"], stats["elsewhere"], found) == (0, 1, [slot])
    assert life(stage)[0]["published"] == 0
    assert [one.schedule for one in life(stage, "daily")[1]] == ["daily", "hourly.news"]


def test_a_record_never_goes_back(stage: NatsStage) -> None:
    """Whatever the order in which processes write it, the latest slot stays."""
    bus = stage.open()
    transport = engine_of(bus).transport
    with bus:
        for order in itertools.permutations((1.0, 2.0, 3.0)):
            for time in order:
                transport.skip_slot(Slot("s", time, "every 1 s"))
            assert transport.slot("s") == 3.0
        assert transport.slot("t") is None


def test_core_nats_keeps_no_schedules(stage: NatsStage) -> None:
    """It keeps nothing, so a name is refused where it is given."""
    with pytest.raises(UnsupportedCapability, match='core=yes keeps no schedules, so name="s" would not help'):
        Bus(f"{stage.server.url}?core=yes").every("1h", "a", name="s")
