"""
The programs of a journey (test_journey.py), each in a process of its own. They print "ready"; when their standard input ends
they do what is left to do, and print what they have found, as JSON.

    python journey_child.py bridge SQLITE NATS [DIES]

hands on what comes from the bus on SQLITE to the one on NATS, under the same ids; how many of these were known there. It kills
itself when so many messages are with the second bus, and the last of them is not acknowledged to the first.

    python journey_child.py totals NATS

adds up the departures.
"""

from __future__ import annotations

import itertools
import json
import os
import signal
import sys
import time
from typing import Any, Final

from pipebus import Bus, Message
from pipebus.demo import DEPARTURES, Delays
from pipebus.demo.flights import Departure
from pipebus.errors import PublishUnknown, TransportError
from pipebus.filters import Dedupe, Redeliver, Validate

BRIDGE: Final = "bridge"
TOTALS: Final = "totals"
PATIENT: Final = 1_000
"""Attempts for a message that cannot go on for a time."""


def until_told(bus: Bus, name: str) -> None:
    """
    Wait until the input has ended and nothing is left, not even what waits for its time, which a drain would not wait for.
    """
    sys.stdout.write("ready\n")
    sys.stdout.flush()
    sys.stdin.read()
    while (figures := bus.stats()["subscriptions"][name])["pending"] + figures["in_flight"]:
        time.sleep(0.02)


def bridge(here: str, there: str, dies: str = "0") -> None:
    source, target = Bus(here), Bus(there)
    taken = itertools.count(1)
    duplicates = 0

    def hand_on(message: Message[Any]) -> None:
        nonlocal duplicates
        receipt = target.send(message)
        duplicates += getattr(receipt, "duplicate", False)
        if next(taken) == int(dies):
            os.kill(os.getpid(), signal.SIGKILL)

    later = Redeliver(wait=0.05, max_wait=0.5, on=(TransportError, PublishUnknown))
    source.subscribe(DEPARTURES, hand_on, name=BRIDGE, attempts=PATIENT, filters=[later])
    with target, source:
        until_told(source, BRIDGE)
    sys.stdout.write(json.dumps({"duplicates": duplicates}))


def totals(url: str) -> None:
    bus, delays = Bus(url), Delays()
    # What was acknowledged when the server was killed comes again.
    bus.subscribe(DEPARTURES, delays.add, name=TOTALS, attempts=PATIENT, filters=[Dedupe(), Validate({DEPARTURES: Departure})])
    with bus:
        until_told(bus, TOTALS)
    found = {
        "accepted": sum(one.flights for one in delays.carriers.values()),
        "alerts": sum(one.alerts for one in delays.carriers.values()),
        "subjects": sorted(delays.subjects),
        "delays": {code: [one.flights, one.delay] for code, one in sorted(delays.carriers.items())},
    }
    sys.stdout.write(json.dumps(found))


if __name__ == "__main__":
    {"bridge": bridge, "totals": totals}[sys.argv[1]](*sys.argv[2:])
