"""
A day's departures on their way through three programs: from a bus on SQLite over a bridge to a bus on NATS, and there into
totals. Whatever is killed on the way, they are those that the file has.
"""

from __future__ import annotations

import csv
import json
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager
from itertools import islice
from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("nats")

import journey_child
from nats_server import NatsServer

from pipebus import Bus, Receipt, Rejected
from pipebus.demo import RAW
from pipebus.demo.flights import Flight, to_departure
from pipebus.demo.records import PACKAGED_DAY, Records
from pipebus.filters import Reroute, Validate

pytestmark = pytest.mark.thorough  # processes are killed

WAIT = 60.0
HALF = 420
"""Records that are published before anything happens."""
DIES = 150
"""The number of messages after which a bridge kills itself."""


@contextmanager
def program(*arguments: str) -> Iterator[subprocess.Popen[str]]:
    """Start one of the programs, and keep it running until the block ends."""
    command = [sys.executable, journey_child.__file__, *arguments]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as process:
        try:
            assert process.stdout is not None
            assert process.stdout.readline() == "ready\n", f"{arguments[0]} did not begin"
            yield process
        finally:
            process.kill()


def told(process: subprocess.Popen[str]) -> dict[str, Any]:
    """End a program, and return what it reports."""
    text, _ = process.communicate(timeout=WAIT)
    assert process.returncode == 0
    found: dict[str, Any] = json.loads(text)
    return found


def by_hand() -> dict[str, Any]:
    """The totals, computed from the file without a bus or a model."""
    delays: dict[str, list[int]] = {}
    subjects, rejected = set(), 0
    with PACKAGED_DAY.open(newline="") as file:
        for record in csv.DictReader(file):
            if "NA" in (record["dep_time"], record["arr_delay"]):
                rejected += 1
                continue
            delays.setdefault(record["carrier"], []).append(int(record["arr_delay"]))
            subjects.add(f"flights.{record['origin']}.{record['carrier']}")
    every = [minutes for found in delays.values() for minutes in found]
    assert (len(every), rejected, sum(minutes >= 60 for minutes in every), len(subjects)) == (831, 11, 62, 29)
    return {
        "accepted": len(every),
        "rejected": rejected,
        "alerts": sum(minutes >= 60 for minutes in every),
        "subjects": sorted(subjects),
        "delays": {code: [len(found), sum(found)] for code, found in sorted(delays.items())},
    }


class Journey:
    """
    The way from the file to the totals.

    Args:
        folder: For the file of the first bus, and the server's.
    """

    def __init__(self, folder: Path) -> None:
        self.server = NatsServer(folder / "server")
        self.here = f"sqlite:///{folder / 'bus.db'}?durability=process"
        self.there = f"{self.server.url}?lease=2s"  # what a server that was killed has forgotten comes when leases end
        self.bus = Bus(self.here)
        self.bus.use(Validate({RAW: Flight}), to_departure, Reroute("flights.{body.origin}.{body.carrier}"))
        self.rejected = 0
        self.records = iter(())

    def bridge(self, *more: str) -> AbstractContextManager[subprocess.Popen[str]]:
        return program("bridge", self.here, self.there, *more)

    def publish(self, count: int | None = None) -> None:
        """Publish this many more of the records; None: all that are left."""
        for number, record in islice(self.records, count):
            try:
                receipt = self.bus.publish(RAW, record, id=f"2013-01-01.{number}")
            except Rejected:
                self.rejected += 1
            else:
                assert receipt == Receipt(1)


@contextmanager
def journey(folder: Path) -> Iterator[Journey]:
    """A journey that is ready to start; at its end the totals must be right."""
    road = Journey(folder)
    with road.server, Records() as records, program("totals", road.there) as totals:
        with road.bus:
            road.records = enumerate(records, 1)
            yield road
        found = told(totals)
    assert found | {"rejected": road.rejected} == by_hand()


def test_all_arrive(tmp_path: Path) -> None:
    """Without a kill, every record arrives, and the bridge passes none on twice."""
    with journey(tmp_path) as road, road.bridge() as bridge:
        road.publish()
        assert told(bridge) == {"duplicates": 0}


def test_a_bridge_that_dies_between_its_two_buses(tmp_path: Path) -> None:
    """A message that it passed on but did not acknowledge comes again, and the other side recognises its id."""
    with journey(tmp_path) as road:
        with road.bridge(str(DIES)) as bridge:
            road.publish(HALF)
            assert bridge.wait(WAIT) == -signal.SIGKILL
        with road.bridge() as bridge:
            road.publish()
            assert told(bridge)["duplicates"] >= 1


def test_a_bridge_that_is_killed_at_any_moment(tmp_path: Path) -> None:
    """Another bridge continues where the killed one was."""
    with journey(tmp_path) as road:
        with road.bridge() as bridge:
            road.publish(HALF)
            bridge.kill()
            assert bridge.wait(WAIT) == -signal.SIGKILL
        road.publish(HALF // 2)
        with road.bridge() as bridge:
            road.publish()
            told(bridge)


@pytest.mark.parametrize("how", [signal.SIGTERM, signal.SIGKILL], ids=["stopped", "killed"])
def test_a_server_that_is_started_again(tmp_path: Path, how: signal.Signals) -> None:
    """The bridge retries while there is no server, and the totals continue without help."""
    with journey(tmp_path) as road, road.bridge() as bridge:
        road.publish(HALF // 2)
        road.server.stop(how)
        road.publish(HALF // 2)
        road.server.start()
        road.publish()
        told(bridge)
