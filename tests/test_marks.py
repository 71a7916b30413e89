"""
Modules mark themselves: to be left out of tracebacks, to be explored by the seeded scheduler. A module that is renamed
takes its mark along; one that loses its mark fails here.
"""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

import pipebus
from pipebus import Around, Bus, Message, around, transform, when
from pipebus.testing.simulation import watch


def plain(message, call_next):  # type: ignore[no-untyped-def]
    return call_next(message)


async def aplain(message, call_next):  # type: ignore[no-untyped-def]
    return await call_next(message)


@transform
def transformed(message: Message) -> Message:
    return message


@around
def wrapped(message: Message):  # type: ignore[no-untyped-def]
    yield message


def boom(message: Message) -> None:
    raise LookupError("boom")


async def aboom(message: Message) -> None:
    raise LookupError("boom")


@pytest.mark.parametrize(
    ("handler", "run"), [(boom, "pool"), (boom, "thread"), (aboom, "loop")], ids=["pool", "thread", "loop"]
)
@pytest.mark.parametrize("workers", [1, 2])
def test_no_frame_of_ours_is_in_a_dead_letter(handler: object, run: str, workers: int) -> None:
    """Whatever runs a handler and whatever filters surround it, the traceback shows only the user's functions."""
    bus = Bus(pool=4)
    filters = [wrapped, transformed, when(lambda message: True, wrapped)]
    filters.append(aplain if run == "loop" else plain)
    bus.subscribe("a", handler, name="one", run=run, workers=workers, filters=filters)  # type: ignore[arg-type]
    with bus:
        bus.publish("a")
        bus.drain(10.0)
        [letter] = bus.dead_letters.list()
    assert "in boom" in letter.traceback or "in aboom" in letter.traceback
    assert "/pipebus/" not in letter.traceback


def test_no_frame_of_ours_is_in_an_error_that_reaches_the_publisher_from_a_filter() -> None:
    def fail(message: Message, call_next: object) -> None:
        raise LookupError("boom")

    bus = Bus()
    bus.use(plain, wrapped, transformed, when("a", fail))
    with bus, pytest.raises(LookupError) as raised:
        bus.publish("a")
    modules = [entry.frame.f_globals["__name__"] for entry in raised.traceback]
    assert "pipebus.bus.bus" not in {name for name in modules if name != modules[1]}
    assert modules[-1] == __name__


def test_the_scheduler_explores_what_threads_share() -> None:
    """Every module of mailboxes, of their workers, and of slots is explored: a lost mark would make simulations blind."""
    package = Path(pipebus.__file__).parent
    watched = {file: lines for file, lines in watch.by_line().items() if file not in watch.PLANTED}
    files = {Path(file).relative_to(package).as_posix(): lines for file, lines in watched.items()}
    by_bytecode = {name for name, lines in files.items() if not lines}
    there = {f"{folder}/{path.name}" for folder in ("mailbox", "running") for path in (package / folder).glob("*.py")}
    assert by_bytecode == {name for name in there if not name.endswith("__init__.py")} | {
        "filters/slots.py", "waiting/elsewhere.py", "waiting/latch.py",
    }  # fmt: skip
    assert files.keys() - by_bytecode == {
        "bus/bus.py", "bus/engine.py", "bus/filter_lives.py", "bus/lifecycle.py", "bus/opening.py", "bus/registry.py",
        "bus/signals.py", "bus/stopping.py", "delivery/chain.py", "delivery/delivery.py", "delivery/settling.py",
        "delivery/subscription.py", "delivery/verdicts.py", "publishing/fan_out.py", "publishing/room.py",
        "publishing/route.py", "publishing/router.py", "publishing/sender.py",
    }  # fmt: skip


def test_every_module_that_runs_between_a_users_functions_is_marked() -> None:
    """The frames of ours that a handler finds below itself are all in marked modules."""
    found: list[str] = []

    class Look(Around):
        def around(self, message: Message):  # type: ignore[no-untyped-def]
            yield message

    def look(message: Message) -> None:
        frame = sys._getframe(1)
        while frame is not None:
            name = frame.f_globals.get("__name__", "")
            if name.startswith("pipebus.") and frame.f_globals.get("PLUMBING") is not True:
                found.append(name)
            frame = frame.f_back  # type: ignore[assignment]

    bus = Bus()
    bus.use(Look(), plain, transformed)
    bus.use(Look(), transformed, at="delivery")
    bus.subscribe("a", look)
    bus.subscribe("a", look, workers=2)
    bus.subscribe("a", look, run="thread")
    with bus:
        bus.publish("a")
        bus.drain(10.0)
    assert found == []
