"""
Guarantees 25 and 27 for processes: signals end `bus.run()`, a forked child cannot use the bus that it inherits, and two buses
in one process share nothing.
"""

from __future__ import annotations

import asyncio
import os
import signal
import subprocess
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

import pipebus
from flow_helpers import WAIT, Hold, InThread, Passing, boom, fine, running
from loop_helpers import until
from pipebus import Bus, Receipt, StopReport, events

# --- signals -----------------------------------------------------------------------------------------------------------

PROGRAM = """
import signal, sys, threading
from pipebus import Bus, BusClosed, events

handled, refused = [], []
bus = Bus()

@bus.observe
def tell(event):
    if isinstance(event, events.StateChanged):
        print(event.new, flush=True)
        if event.new == "started":
            for number in range(20):
                bus.publish("jobs", number)

@bus.on("jobs", name="jobs")
def handle(message):
    if message.body == 0:
        print("working", flush=True)
        sys.stdin.readline()
        bus.publish("results", "from a handler")
    handled.append(message.body)

bus.subscribe("results", lambda message: handled.append(message.body), name="results")

def outsider():
    try:
        bus.publish("jobs", "from outside")
    except BusClosed:
        refused.append("from outside")

@bus.observe
def publish_while_draining(event):
    if isinstance(event, events.StateChanged) and event.new == "draining":
        thread = threading.Thread(target=outsider)
        thread.start()
        thread.join()

report = bus.run(timeout=60.0)
print("drained", report.drained, "left", report.left, "abandoned", len(report.abandoned))
print("handled", len(handled), "refused", refused)
print("restored", signal.getsignal(signal.SIGTERM) is signal.SIG_DFL)
"""


QUIET = """
import logging
logging.getLogger("pipebus").addHandler(logging.NullHandler())
"""
"""These tests ignore the log lines of the bus; any other line on standard error is a failure."""


class Program:
    """A Python program in a process of its own."""

    def __init__(self, text: str) -> None:
        path = os.pathsep.join([str(Path(pipebus.__file__).parents[1]), os.environ.get("PYTHONPATH", "")])
        self.process = subprocess.Popen(
            [sys.executable, "-c", QUIET + text],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            env={**os.environ, "PYTHONPATH": path},
        )
        self.lines: list[str] = []

    def wait_for(self, line: str) -> None:
        """Read the program's output up to a line."""
        assert self.process.stdout is not None
        while not self.lines or self.lines[-1] != line:
            read = self.process.stdout.readline()
            assert read, f"it ended without {line!r}: {self.lines}, {self.process.stderr.read()}"  # type: ignore[union-attr]
            self.lines.append(read.rstrip("\n"))

    def say(self, line: str) -> None:
        assert self.process.stdin is not None
        self.process.stdin.write(line + "\n")
        self.process.stdin.flush()

    def end(self) -> list[str]:
        """All lines that the program has written, once it has ended well and written nothing to standard error."""
        out, errors = self.process.communicate(timeout=2 * WAIT)
        self.lines += out.splitlines()
        assert (self.process.returncode, errors) == (0, ""), f"{self.process.returncode}, {errors}"
        return self.lines


@contextmanager
def program(text: str) -> Iterator[Program]:
    started = Program(text)
    with started.process:
        try:
            yield started
        finally:
            started.process.kill()


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM], ids=lambda number: number.name)
@pytest.mark.few(1)
def test_s25_a_signal_drains_and_ends_run(number: signal.Signals) -> None:
    """After Ctrl-C or SIGTERM, publishers from outside are refused, accepted messages are handled, and the exit is clean."""
    with program(PROGRAM) as job:
        job.wait_for("working")
        job.process.send_signal(number)
        job.wait_for("draining")
        job.say("go on")

        assert job.end()[-4:] == [
            "stopped",
            "drained True left {} abandoned 0",
            "handled 21 refused ['from outside']",
            "restored True",
        ]


@pytest.mark.parametrize("second", [signal.SIGINT, signal.SIGTERM], ids=lambda number: number.name)
@pytest.mark.few(1)
def test_s25_a_second_signal_hurries(second: signal.Signals) -> None:
    """After a second signal the bus does not wait any longer, and reports what is left."""
    with program(PROGRAM) as job:
        job.wait_for("working")
        job.process.send_signal(signal.SIGTERM)
        job.wait_for("draining")
        job.process.send_signal(second)
        job.wait_for("handled 0 refused ['from outside']")  # before its end lets the handler go on

        assert "drained False left {'jobs': 19} abandoned 1" in job.end()


IDLE = """
from pipebus import Bus
bus = Bus()
bus.subscribe("s", lambda message: None)
bus.observe(lambda event: print(event.new, flush=True))
print(bus.run())
"""


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM], ids=lambda number: number.name)
@pytest.mark.few(1)
def test_s25_a_signal_ends_an_idle_run(number: signal.Signals) -> None:
    """A bus without traffic waits for nothing but the signal, and ends without a traceback."""
    with program(IDLE) as job:
        job.wait_for("started")
        job.process.send_signal(number)

        assert job.end() == ["started", "draining", "stopped", repr(StopReport(drained=True))]


EARLY = """
import os, signal, threading
from pipebus import Bus, Message, Transform

class Slow(Transform):
    def transform(self, message):
        return message

    def start(self, context):
        os.kill(os.getpid(), signal.SIGTERM)

bus = Bus()
bus.use(Slow())
print(bus.run().drained)
"""


def test_s25_a_signal_while_the_bus_starts_is_not_lost() -> None:
    """If a signal comes while the bus starts, the bus starts and then stops."""
    with program(EARLY) as job:
        assert job.end() == ["True"]


# --- run for coroutines ----------------------------------------------------------------------------------------------------


def as_arun(text: str) -> str:
    """The same program with `arun` in place of `run`."""
    prelude = "import asyncio\ndef run(bus, **options): return asyncio.run(bus.arun(**options))\n"
    return prelude + text.replace("bus.run(", "run(bus, ")


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM], ids=lambda number: number.name)
@pytest.mark.few(1)
def test_s25_a_signal_drains_and_ends_arun(number: signal.Signals) -> None:
    """`arun` ends as `run` does, also on Ctrl-C, which `asyncio.run` would turn into a cancellation."""
    with program(as_arun(PROGRAM)) as job:
        job.wait_for("working")
        job.process.send_signal(number)
        job.wait_for("draining")
        job.say("go on")

        assert job.end()[-4:] == [
            "stopped",
            "drained True left {} abandoned 0",
            "handled 21 refused ['from outside']",
            "restored True",
        ]


@pytest.mark.few(1)
def test_s25_a_second_signal_hurries_arun() -> None:
    """After a second signal the bus does not wait any longer, and reports what is left."""
    with program(as_arun(PROGRAM)) as job:
        job.wait_for("working")
        job.process.send_signal(signal.SIGTERM)
        job.wait_for("draining")
        job.process.send_signal(signal.SIGINT)
        job.wait_for("handled 0 refused ['from outside']")

        assert "drained False left {'jobs': 19} abandoned 1" in job.end()


@pytest.mark.parametrize("text", [IDLE, EARLY], ids=["idle", "early"])
@pytest.mark.few(1)
def test_s25_arun_waits_for_a_signal_and_misses_none(text: str) -> None:
    """A bus without traffic waits for the signal, and one that comes while the bus starts ends it at once."""
    with program(as_arun(text)) as job:
        if text is IDLE:
            job.wait_for("started")
            job.process.send_signal(signal.SIGTERM)

        assert job.end()[-1] in (repr(StopReport(drained=True)), "True")


def tell_start(bus: Bus) -> threading.Event:
    """Set whenever the bus has started."""
    started = threading.Event()

    @bus.observe
    def hear(event: events.Event) -> None:
        if isinstance(event, events.StateChanged) and event.new == "started":
            started.set()

    return started


def test_s25_arun_ends_with_a_requested_stop_and_gives_the_report() -> None:
    """Handlers with run="loop" run on the loop that awaits `arun`; the signal handlers are as before; it can run again."""
    bus = Bus()
    started = tell_start(bus)
    loops: list[Any] = []

    @bus.on("s")
    async def handle() -> None:
        loops.append(asyncio.get_running_loop())
        bus.request_stop()

    async def main() -> None:
        before = [signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)]
        for _ in range(2):
            running = asyncio.ensure_future(bus.arun(timeout="10s"))
            await until(started)
            started.clear()
            await bus.apublish("s")
            assert await running == StopReport(drained=True)
            assert bus.state == "stopped"
        assert loops == [asyncio.get_running_loop()] * 2
        assert [signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)] == before

    asyncio.run(main())


def test_s25_a_cancelled_arun_stops_the_bus_without_draining() -> None:
    """It is like leaving `async with bus` through an exception."""
    bus = Bus()
    bus.subscribe("s", fine).pause()
    started = tell_start(bus)

    async def main() -> None:
        running = asyncio.ensure_future(bus.arun())
        await until(started)
        await bus.apublish("s")
        running.cancel()
        with pytest.raises(asyncio.CancelledError):
            await running
        assert bus.state == "stopped"

    asyncio.run(main())


# --- fork --------------------------------------------------------------------------------------------------------------

FORK = """
import asyncio, os, signal, sys, warnings
from pipebus import Bus, LifecycleError, Message

warnings.simplefilter("ignore")
bus = Bus()
seen = []
handled = bus.subscribe("s", lambda message: seen.append(message.body))
unread = bus.subscribe("s")
if START:
    bus.start()
    bus.publish("s", "before the fork")
    bus.drain(10)

calls = {
    "publish": lambda: bus.publish("s"),
    "publish-elsewhere": lambda: bus.publish("t"),
    "send": lambda: bus.send(Message("s")),
    "apublish": lambda: asyncio.run(bus.apublish("s")),
    "subscribe": lambda: bus.subscribe("s"),
    "start": bus.start,
    "stop": bus.stop,
    "drain": bus.drain,
    "receive": lambda: unread.receive(timeout=1),
    "unsubscribe": handled.unsubscribe,
}
child = os.fork()
if child == 0:
    signal.alarm(20)
    for name, call in calls.items():
        try:
            outcome = repr(call())
        except LifecycleError as error:
            outcome = "refused" if "fork" in str(error) else repr(error)
        except BaseException as error:
            outcome = repr(error)
        print(name, outcome, flush=True)
    with Bus() as own:
        mine = own.subscribe("s")
        own.publish("s", "in the child")
        print(mine.receive(timeout=1).body, flush=True)
    os._exit(0)
assert os.waitpid(child, 0)[1] == 0
with bus:
    bus.publish("s", "after the fork")
print("parent", seen)
"""


@pytest.mark.parametrize("start", [True, False], ids=["started", "not-yet-started"])
@pytest.mark.few(1)
def test_s27_a_bus_cannot_be_used_in_a_forked_child(start: bool) -> None:
    """Each use of the bus in a child raises, because its threads are in the parent; a new bus works in the child."""
    with program(f"START = {start}\n{FORK}") as job:
        lines = job.end()

    calls = [
        "publish",
        "publish-elsewhere",
        "send",
        "apublish",
        "subscribe",
        "start",
        "stop",
        "drain",
        "receive",
        "unsubscribe",
    ]
    assert lines[:-2] == [f"{name} refused" for name in calls]
    before = ["before the fork"] if start else []
    assert lines[-2:] == ["in the child", f"parent {[*before, 'after the fork']}"]


# --- two buses ---------------------------------------------------------------------------------------------------------


def test_s27_two_buses_share_nothing() -> None:
    """Two buses with the same names, subjects and filters each have their own traffic, figures, letters and life."""
    with running() as one, running() as other:
        hold = Hold(open=True)
        one.subscribe("s", boom, name="billing")
        other.subscribe("s", hold, name="billing")
        one.publish("s", 1)
        other.publish("s", 2)
        for bus in (one, other):
            bus.drain(WAIT)

        assert hold.given == [2]
        assert (len(one.dead_letters), len(other.dead_letters)) == (1, 0)
        assert one.stats()["subscriptions"]["billing"]["dead"] == 1
        assert other.stats()["subscriptions"]["billing"] == {
            "accepted": 1,
            "acknowledged": 1,
            "dropped": {},
            "dead": 0,
            "pending": 0,
            "in_flight": 0,
            "oldest": None,
        }
        one.stop(timeout=WAIT)
        assert other.publish("s", 3) == Receipt(1)
        other.drain(WAIT)
        assert hold.given == [2, 3]


def test_s27_a_handler_of_one_bus_is_an_outsider_to_another() -> None:
    """It may publish to the other bus, drain it and stop it, like any code outside."""
    done: list[object] = []
    with running() as one, running() as other:
        inbox = other.subscribe("s")

        def across(message: pipebus.Message) -> None:
            done.append(other.publish("s", "from the first bus"))
            other.drain(WAIT)
            done.append(other.stop(timeout=WAIT).drained)

        one.subscribe("s", across)
        one.publish("s")
        one.drain(WAIT)

        assert done == [Receipt(1), True]
        assert other.state == "stopped"
        assert inbox.stats()["pending"] == 1


FORK_WITH_SCHEDULES = """
import os, signal, sys, warnings
from pipebus import Actor, Bus, LifecycleError

class Greeter(Actor):
    def on_message(self, message): ...

warnings.simplefilter("ignore")
bus = Bus()
greeter = bus.spawn(Greeter("greeter"))
bus.start()
calls = {
    "every": lambda: bus.every(3600.0, "s"),
    "spawn": lambda: bus.spawn(Greeter()),
    "actor.stop": greeter.stop,
}
if os.fork() == 0:
    signal.alarm(20)
    for name, call in calls.items():
        try:
            outcome = repr(call())
        except LifecycleError as error:
            outcome = "refused" if "fork" in str(error) else repr(error)
        print(name, outcome, flush=True)
    os._exit(0)
os.wait()
print("parent", bus.stop(timeout=10).drained)
"""


def test_s27_a_forked_child_is_told_that_its_schedules_and_actors_are_not_its_own() -> None:
    """In the child a schedule never ticks, and an actor's lock may be held, so each call raises and says why."""
    path = os.pathsep.join([str(Path(pipebus.__file__).parents[1]), os.environ.get("PYTHONPATH", "")])
    done = subprocess.run(
        [sys.executable, "-c", FORK_WITH_SCHEDULES], env={**os.environ, "PYTHONPATH": path},
        capture_output=True, text=True, timeout=3 * WAIT,
        check=True,
    )  # fmt: skip

    assert done.stdout.splitlines() == ["every refused", "spawn refused", "actor.stop refused", "parent True"]
    assert done.stderr == ""


@pytest.mark.parametrize("way", ["run", "arun"])
def test_s25_run_in_another_thread_leaves_signals_alone(way: str) -> None:
    """Only the main thread can handle signals, so elsewhere `run` waits for `request_stop` and leaves them alone."""
    before = [signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)]
    with running() as bus:
        bus.subscribe("s", fine)
        run = InThread(bus.run, WAIT) if way == "run" else InThread(lambda: asyncio.run(bus.arun(WAIT)))
        assert [signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)] == before
        bus.request_stop()

        assert run.result() == StopReport(drained=True)


def test_s25_a_signal_that_comes_while_run_starts_is_heard() -> None:
    """If a signal comes before the bus is up, the bus starts completely and stops at once."""

    class Signalled(Passing):
        def start(self, context: Any) -> None:
            signal.raise_signal(signal.SIGTERM)
            super().start(context)

    signalled, rescued = Signalled(), threading.Event()
    bus = Bus()
    bus.use(signalled)

    def rescue() -> None:
        rescued.set()
        bus.request_stop()

    guard = threading.Timer(WAIT, rescue)
    guard.daemon = True
    guard.start()
    try:
        report = bus.run(timeout=WAIT)
    finally:
        guard.cancel()

    assert not rescued.is_set(), "the signal was lost"
    assert report == StopReport(drained=True)
    assert signalled.life == ["start", "stop"]
