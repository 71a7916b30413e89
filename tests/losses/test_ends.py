"""
The table of the ways in which a program may end, and of what happens to its messages.

Three messages are published, and the first one's handler does one thing when the program ends in one way. Where messages
outlive the program, the next program shows which were kept, and how often each was taken. Every message that survives
`kill -9` survives each gentler end too.
"""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

import pytest

from pipebus import Bus, Delivery, Message

sys.path.append(str(Path(__file__).parents[1] / "transports"))

TIMEOUT = 0.3
"""Seconds for a stop in these tests; the handlers end as soon as it begins, or never end by themselves."""

WAIT = 60.0

BY_ITSELF = ("ends", "writes")  # ends when it sees that the bus stops
WAITING = ("asks", "pauses", "full", "awaits", "finally")  # waits for the bus, or on a loop: a stop breaks that off
STUCK = ("sleeps", "computes", "asked")  # nobody can end it: its thread is left behind
DOINGS = (*BY_ITSELF, *WAITING, *STUCK)
ON_A_LOOP = ("awaits", "finally")


class End(NamedTuple):
    """
    One way to end.

    Args:
        code: The exit code of the program; a negative number is the signal that has killed it.
        drains: In memory, waiting messages are handled first.
        hurries: The stop waits for nothing.
    """

    code: int
    drains: bool = False
    hurries: bool = False


ENDS = {
    "leaving the block": End(0, drains=True),
    "stop": End(0, drains=True),
    "run: SIGINT": End(0, drains=True),
    "run: SIGTERM": End(0, drains=True),
    "run: SIGHUP": End(0, drains=True),
    "run: SIGINT twice": End(0, drains=True, hurries=True),
    "sys.exit in a handler": End(3, drains=True),
    "sys.exit(0) in a handler": End(1, drains=True),
    "an error out of the block": End(1),
    "block: SIGINT": End(-signal.SIGINT),
    "block: SIGINT twice": End(-signal.SIGINT, hurries=True),
    "sys.exit in main": End(5),
    "sys.exit in a filter": End(4),
    "asyncio.run cancelled": End(-signal.SIGINT),
    "the loop closed": End(0),
    "no stop": End(0),
    "SIGKILL": End(-signal.SIGKILL),
}
UNASKED = ("no stop", "SIGKILL")
"""Ends that the bus does not notice."""


class Row(NamedTuple):
    """
    What happens to the messages 0 (in the handler), 1 and 2 (waiting).

    Args:
        code: The exit code.
        handled: The messages that the ending program has handled.
        left: The messages that its report counts as left over; None: there is no report.
        abandoned: Threads that it leaves behind.
        again: The messages in the next program, each with its attempt; None: no message outlives the program.
    """

    code: int
    handled: tuple[int, ...]
    left: int | None
    abandoned: int
    again: dict[int, int] | None


def row(place: str, end: str, doing: str) -> Row | None:
    """A row of the table; None if this end and this handler do not go together."""
    how, memory = ENDS[end], place == "memory"
    if doing == "writes" and place != "sqlite":
        return None  # only SQLite has transactions
    if doing == "writes" and end.endswith("in a handler"):
        return None  # while it has the store to itself, nobody else may be handed a message, and so none can exit
    if doing == "full" and not memory:
        return None  # a store accepts every message, so nobody waits for room
    if (end == "the loop closed") is not (doing in ON_A_LOOP) and end == "the loop closed":
        return None  # this end only affects handlers on that loop
    if how.hurries and doing in BY_ITSELF:
        return None  # it may end before or after the second signal
    if end == "block: SIGINT twice" and doing in STUCK:
        return None  # the second one may come just before `stop` waits for a thread, and is seen only after that
    if end in UNASKED:
        # In memory all is lost. From a store all of it comes again. What was in hand has been taken once; what this process
        # had at hand besides may count as taken, too.
        return Row(how.code, (), None, 0, None if memory else {0: 2, 1: 1, 2: 1})
    waiting = () if memory and how.drains else (1, 2)
    if doing in BY_ITSELF:
        done = tuple({0, 1, 2} - set(waiting))
        return Row(how.code, done, len(waiting) if memory else 0, 0, None if memory else dict.fromkeys(waiting, 1))
    abandoned = int(doing in STUCK)
    goes_back = doing in WAITING or doing == "asked"  # then it is the filter actor that is left behind
    left = (3 if goes_back else 2) if memory else int(goes_back)
    return Row(how.code, (), left, abandoned, None if memory else {0: 1, 1: 1, 2: 1})


TABLE = [
    (place, end, doing, found)
    for place in ("memory", "sqlite", "nats")
    for end in ENDS
    for doing in DOINGS
    if (found := row(place, end, doing)) is not None
]

SHORT = {
    ("memory", "leaving the block", "ends"), ("memory", "run: SIGTERM", "asks"), ("memory", "block: SIGINT", "pauses"),
    ("memory", "sys.exit(0) in a handler", "ends"), ("memory", "an error out of the block", "full"),
    ("memory", "the loop closed", "awaits"),
    ("sqlite", "leaving the block", "ends"), ("sqlite", "run: SIGHUP", "asks"), ("sqlite", "run: SIGINT twice", "sleeps"),
    ("sqlite", "sys.exit in a handler", "finally"), ("sqlite", "asyncio.run cancelled", "awaits"),
    ("sqlite", "stop", "writes"), ("sqlite", "SIGKILL", "asks"), ("nats", "run: SIGTERM", "asks"),
}  # fmt: skip
"""Rows for the quick run; the other rows are for `-m thorough`."""


def tried(place: str, end: str, doing: str) -> bool:
    """
    Half of the table, like the black squares of a chessboard: each end meets each handler either in memory or on SQLite, and
    each place meets every end and every handler.
    """
    places = ("memory", "sqlite", "nats")
    return (places.index(place) + list(ENDS).index(end) + DOINGS.index(doing)) % 2 == 0 or (place, end, doing) in SHORT


ON_NATS = {"run: SIGTERM", "leaving the block", "an error out of the block", "run: SIGINT twice", "sys.exit in a handler"}


def rows() -> Iterator[Any]:
    for place, end, doing, found in TABLE:
        if place == "nats" and (end not in ON_NATS or doing in ("computes", "pauses", "finally")):
            continue
        if not tried(place, end, doing):
            continue
        marks = [] if (place, end, doing) in SHORT else [pytest.mark.thorough]
        yield pytest.param(place, end, doing, found, id=f"{place}, {end}, {doing}", marks=marks)


@pytest.fixture
def url(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[str]:
    place = request.node.callspec.params["place"]
    if place == "nats":
        from nats_server import NatsStage

        stage = NatsStage(request.getfixturevalue("server"))
        yield stage.url
        stage.wipe()
    else:
        yield "memory:" if place == "memory" else f"sqlite:///{tmp_path}/bus.db"


def as_started_by_a_person() -> None:
    """Reset the signals to their defaults, because the tests may run where some are ignored."""
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, signal.SIG_DFL)


def next_program(url: str) -> dict[int, int]:
    """The messages that the agent of the next program gets, with their attempts."""
    found: dict[int, int] = {}
    bus = Bus(url)

    def handle(message: Message, delivery: Delivery) -> None:
        found[message.body] = delivery.attempt

    bus.subscribe("task", handle, name="agent")
    with bus:
        bus.drain(WAIT)
    return found


@pytest.mark.parametrize(("place", "end", "doing", "expected"), list(rows()))
@pytest.mark.few(2)
def test_what_becomes_of_messages_when_the_program_ends(place: str, end: str, doing: str, expected: Row, url: str) -> None:
    """For each end and each handler, the table says what is handled, returned, counted and reported, and the exit code."""
    timeout = WAIT if ENDS[end].hurries or doing in BY_ITSELF else TIMEOUT
    done = subprocess.run(
        [sys.executable, str(Path(__file__).with_name("ends_child.py")), url, end, doing, str(timeout)],
        capture_output=True, text=True, timeout=WAIT, preexec_fn=as_started_by_a_person, env=dict(os.environ), check=False,
    )  # fmt: skip

    report = json.loads(done.stdout.splitlines()[-1]) if done.stdout else {"left": None, "abandoned": 0, "handled": []}
    again = None if place == "memory" else next_program(url)
    if again is not None and end in UNASKED:
        assert set(again.values()) <= {1, 2}
        again = {body: attempt if body == 0 else 1 for body, attempt in again.items()}
    found = Row(done.returncode, tuple(report["handled"]), report["left"], report["abandoned"], again)
    assert found == expected, done.stderr
    assert report.get("dead", 0) == 0
    if "in a handler" in end:
        assert "the handler of exits called sys.exit(" in done.stderr
    if end == "sys.exit(0) in a handler":
        assert "the exit code is 1" in done.stderr
