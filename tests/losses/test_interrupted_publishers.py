"""
A signal handler runs between any two steps of the main thread, a finaliser between any two of any thread. If it calls the bus
while it has interrupted the bus, the call works, or it raises at once and names `request_stop`; it never hangs.

Most tests here interrupt a call at each of its steps in turn: a tracing function runs the handler there, as the interpreter
would run a signal's. The last ones take real signals, and real finalisers.
"""

from __future__ import annotations

import os
import subprocess
import sys
import threading
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest

import pipebus
from flow_helpers import WAIT, Hold, InThread, running, wait_until
from pipebus import Actor, Bus, Dropped, LifecycleError, Message, Receipt
from pipebus.bus.bus import engine_of
from pipebus.errors import NoResponder
from pipebus.transports.sqlite.writer import Writer

PACKAGE = os.path.dirname(pipebus.__file__)


class Interrupted:
    """
    Runs a call, and interrupts it at its n-th step inside the package.

    Args:
        handler: What runs there, like a signal's handler: on the same thread, between two steps.
        opcodes: A step is an instruction of the interpreter instead of a line.
    """

    def __init__(self, at: int, handler: Callable[[], object], *, opcodes: bool = False) -> None:
        self.left = at
        self.handler = handler
        self.opcodes = opcodes

    def run(self, call: Callable[[], object]) -> bool:
        """Run the call; False if it has fewer steps."""
        before = sys.gettrace()
        sys.settrace(self._enter)
        try:
            call()
        finally:
            sys.settrace(before)
        return self.left <= 0

    def _enter(self, frame: Any, event: str, argument: Any) -> Any:
        if not frame.f_code.co_filename.startswith(PACKAGE):
            return None
        frame.f_trace_opcodes = self.opcodes
        return self._step

    def _step(self, frame: Any, event: str, argument: Any) -> Any:
        if event in ("line", "opcode"):
            self.left -= 1
            if self.left == 0:
                self.handler()  # nothing in it is traced
        return self._step


def at_each_step(call: Callable[[], object], handler: Callable[[], object], *, opcodes: bool = False) -> int:
    """Run the call again and again, interrupt it one step later each time, and return the number of its steps."""

    def every_step() -> int:
        at = 1
        while Interrupted(at, handler, opcodes=opcodes).run(call):
            at += 1
        return at - 1

    return int(InThread(every_step).result(6 * WAIT))


@dataclass
class Calls:
    """The calls that a handler tried: its receipts, and the refusals that name `request_stop`."""

    receipts: int = 0
    refusals: int = 0
    bodies: list[Any] = field(default_factory=list)

    def publish(self, bus: Bus, subject: str) -> None:
        """Publish a new body, and keep it if there is a Receipt."""
        body = f"{subject} {len(self.bodies) + self.refusals}"
        if self.tried(lambda: bus.publish(subject, body)):
            self.bodies.append(body)

    def tried(self, call: Callable[[], object]) -> bool:
        try:
            call()
        except LifecycleError as error:
            if "request_stop" not in str(error):
                raise
            self.refusals += 1
            return False
        self.receipts += 1
        return True


# --- publishing -----------------------------------------------------------------------------------------------------------


WAYS: dict[str, dict[str, Any]] = {
    "one worker": {},
    "two workers": {"workers": 2},
    "a small mailbox": {"mailbox": 500, "overflow": "reject"},
    "a thread of its own": {"run": "thread"},
    "a loop": {"run": "loop"},
}


def urls(tmp_path: Path) -> dict[str, str]:
    return {"memory": "memory:", "wire": "memory:?wire=json", "sqlite": f"sqlite:///{tmp_path / 'bus.db'}?durability=process"}


@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize("store", ["memory", "wire"])
@pytest.mark.few(4)
def test_a_publish_from_a_handler_that_interrupts_a_publish_works_or_is_refused(store: str, way: str, tmp_path: Path) -> None:
    """Each Receipt, of the handler and of the interrupted publisher, is for one message that is handled once."""
    handled: list[Any] = []
    calls = Calls()
    with running(Bus(urls(tmp_path)[store])) as bus:
        bus.subscribe("s", lambda message: handled.append(message.body), name="s", **WAYS[way])
        bus.subscribe("t", lambda message: handled.append(message.body), name="t", **WAYS[way])
        outer: list[str] = []

        def publish() -> None:
            outer.append(f"outer {len(outer)}")
            bus.publish("s", outer[-1])

        def handler() -> None:
            calls.publish(bus, "s")
            calls.publish(bus, "t")

        steps = at_each_step(publish, handler, opcodes=store == "memory")
        bus.drain(WAIT)

        assert steps > 10
        assert calls.receipts
        assert sorted(handled) == sorted([*outer, *calls.bodies])


def test_a_publish_from_a_handler_that_interrupts_a_publish_to_a_store_works_or_is_refused(tmp_path: Path) -> None:
    """This is true on SQLite too, where the interrupted thread may be the one that writes for all others."""
    handled: list[Any] = []
    calls = Calls()
    with running(Bus(urls(tmp_path)["sqlite"])) as bus:
        bus.subscribe("s", lambda message: handled.append(message.body), name="s")
        outer: list[str] = []

        def publish() -> None:
            outer.append(f"outer {len(outer)}")
            bus.publish("s", outer[-1])

        at_each_step(publish, lambda: calls.publish(bus, "s"))
        bus.drain(WAIT)

        assert calls.receipts
        assert calls.refusals
        assert sorted(handled) == sorted([*outer, *calls.bodies])


def test_a_publish_that_interrupts_one_in_line_is_the_one_that_leads_next(tmp_path: Path) -> None:
    """Both wait for the same leader, and only the inner one can go on when that ends."""
    handled: list[Any] = []
    leading, both = threading.Event(), threading.Event()
    with running(Bus(urls(tmp_path)["sqlite"])) as bus:
        bus.subscribe("s", lambda message: handled.append(message.body), name="s")
        writer = engine_of(bus).transport.file.writer

        def lead(store: Any) -> None:
            leading.set()
            assert both.wait(WAIT)

        def step(frame: Any, event: str, argument: Any) -> Any:
            if event == "line" and writer._line and not writer._lock._is_owned():
                sys.settrace(None)
                frame.f_trace = None
                bus.publish("s", "inner")
            return step

        def publish() -> None:
            sys.settrace(lambda frame, event, argument: step if frame.f_code is Writer.call.__code__ else None)
            bus.publish("s", "outer")

        leader = InThread(writer.call, lead)
        assert leading.wait(WAIT)
        publisher = InThread(publish)
        wait_until(lambda: len(writer._line) == 2, "both are in line")
        both.set()
        leader.result()
        publisher.result()
        bus.drain(WAIT)

        assert sorted(handled) == ["inner", "outer"]


@pytest.mark.parametrize("store", ["memory", "sqlite"])
@pytest.mark.few(1)
def test_a_publish_from_a_handler_that_interrupts_a_reader_works_or_is_refused(store: str, tmp_path: Path) -> None:
    """In a mailbox without a handler, each Receipt is for one message that can be read."""
    calls = Calls()
    with running(Bus(urls(tmp_path)[store])) as bus:
        inbox = bus.subscribe("s", name="inbox")
        read: list[Any] = []
        outer: list[str] = []

        def publish_and_read() -> None:
            outer.append(f"outer {len(outer)}")
            bus.publish("s", outer[-1])
            read.append(inbox.receive(timeout=WAIT).body)

        at_each_step(publish_and_read, lambda: calls.publish(bus, "s"))
        left = len(outer) + len(calls.bodies) - len(read)
        read += [inbox.receive(timeout=WAIT).body for _ in range(left)]

        assert calls.receipts
        assert sorted(read) == sorted([*outer, *calls.bodies])


def test_a_delayed_publish_can_interrupt_a_delayed_publish() -> None:
    """Both messages come in time, or the publish that interrupts is refused."""
    handled: list[Any] = []
    calls = Calls()
    with running() as bus:
        bus.subscribe("s", lambda message: handled.append(message.body))
        at_each_step(
            lambda: bus.publish("s", "outer", delay=0.001),
            lambda: calls.tried(lambda: bus.publish("s", "inner", delay=0.001)),
        )
        bus.drain(WAIT)

        assert calls.receipts
        assert handled.count("inner") == calls.receipts


# --- every other call -----------------------------------------------------------------------------------------------------


class Quiet(Actor):
    """An actor that does nothing."""

    def on_message(self, message: Message) -> None:
        return None


def refuse(message: Message, call_next: Any) -> Any:
    return Dropped("unwanted") if message.subject == "unwanted" else call_next(message)


def fail(message: Message) -> None:
    raise ValueError("no")


class Stage:
    """A bus on which every public call has something to do."""

    def __init__(self, bus: Bus) -> None:
        self.bus = bus
        bus.use(refuse)
        self.sub = bus.subscribe("s", lambda message: None, name="s")
        self.two = bus.subscribe("two", lambda message: None, name="two", workers=2)
        self.inbox = bus.subscribe("pull", name="pull")
        bus.subscribe("fails", fail, name="fails")
        bus.subscribe("asks", lambda message: "answer", name="asks")
        self.everything: dict[str, Callable[[], object]] = {
            "publish": lambda: bus.publish("s", 1),
            "publish to two": lambda: bus.publish("two", 1),
            "publish to nobody": lambda: bus.publish("nobody", 1),
            "publish what is dropped": lambda: bus.publish("unwanted", 1),
            "send": lambda: bus.send(Message("s", 1)),
            "request": lambda: bus.request("asks", 1, timeout=WAIT),
            "stats": bus.stats,
            "stats of one": self.two.stats,
            "pause and resume": self.pause_and_resume,
            "subscribe and unsubscribe": self.subscribe_and_unsubscribe,
            "spawn and stop": self.spawn_and_stop,
            "every and stop": lambda: bus.every(60.0, "s").stop(),
            "describe": bus.describe,
            "explain": lambda: bus.explain("s"),
            "subscriptions": lambda: bus.subscriptions,
            "dead letters": bus.dead_letters.list,
            "replay": self.replay,
            "drain": lambda: bus.drain(WAIT),
            "receive": self.receive,
            "request a reply from nobody": self.ask_nobody,
        }

    def pause_and_resume(self) -> None:
        self.two.pause()
        self.two.resume()

    def subscribe_and_unsubscribe(self) -> None:
        self.bus.subscribe("s", lambda message: None).unsubscribe()

    def spawn_and_stop(self) -> None:
        self.bus.spawn(Quiet()).stop()

    def replay(self) -> None:
        letters = self.bus.dead_letters.list("fails")
        if letters:
            self.bus.dead_letters.discard(letters[0].id)

    def ask_nobody(self) -> None:
        with pytest.raises(NoResponder):
            self.bus.request("nobody", 1, timeout=WAIT)

    def receive(self) -> None:
        self.bus.publish("pull", 1)
        self.inbox.receive(timeout=WAIT)


INNER = list(Stage(Bus()).everything)
OUTER = (
    "publish", "publish to two", "publish what is dropped", "stats", "pause and resume", "subscribe and unsubscribe", "replay",
    "receive", "request",
)  # fmt: skip


@pytest.mark.parametrize("outer", OUTER)
@pytest.mark.few(3)
def test_no_call_from_a_handler_hangs_wherever_it_interrupts_the_bus(outer: str) -> None:
    """A handler that interrupts any line of a public call can make any other one: it works, or the error names request_stop."""
    calls = Calls()
    bus = Bus()
    stage = Stage(bus)
    with running(bus):
        bus.publish("fails", 1)
        bus.drain(WAIT)
        inner = list(stage.everything.values())

        def handler() -> None:
            for call in inner:
                calls.tried(call)

        at_each_step(stage.everything[outer], handler)
        for subscription in bus.subscriptions:
            subscription.resume()
        bus.drain(WAIT)

        assert calls.receipts
        assert isinstance(bus.publish("s", 1), Receipt)


@pytest.mark.parametrize("outer", ["publish", "publish to two", "subscribe and unsubscribe", "stats"])
@pytest.mark.thorough
def test_a_stop_from_a_handler_works_or_is_refused(outer: str) -> None:
    """The call stops the bus, or its error names request_stop; the interrupted call ends, too."""
    refusals = stops = 0

    def once(at: int) -> bool:
        nonlocal refusals, stops
        bus = Bus()
        stage = Stage(bus)
        bus.start()
        calls = Calls()

        def outer_call() -> None:
            if not calls.tried(stage.everything[outer]):
                raise AssertionError("the call itself was refused")

        try:
            more = Interrupted(at, lambda: calls.tried(lambda: bus.stop(timeout=WAIT))).run(outer_call)
        except (LifecycleError, AssertionError):
            more = True  # the bus has stopped under it
        refusals += calls.refusals
        stops += bus.state == "stopped"
        bus.stop(timeout=WAIT)
        return more

    def every_step() -> None:
        at = 1
        while once(at):
            at += 1

    InThread(every_step).result(6 * WAIT)

    assert stops


# --- finalisers -----------------------------------------------------------------------------------------------------------


def test_a_finaliser_may_publish_wherever_it_runs() -> None:
    """Bodies may publish when they are garbage, whether a full mailbox, an unsubscribe or a worker drops them."""
    handled = Hold(open=True)
    gate, begun = threading.Event(), threading.Semaphore(0)
    last_words: list[Any] = []

    def wait(message: Message) -> None:
        begun.release()
        gate.wait(WAIT)

    class Body:
        def __del__(self) -> None:
            last_words.append(bus.publish("last", 1))

    with running() as bus:
        bus.subscribe("last", handled, workers=2)
        bus.subscribe("full", wait, mailbox=2, overflow="drop_oldest")
        gone = bus.subscribe("gone", wait)
        for _ in range(10):
            bus.publish("full", Body())
            bus.publish("gone", Body())
        assert begun.acquire(timeout=WAIT)
        assert begun.acquire(timeout=WAIT)
        thread = InThread(gone.unsubscribe)
        gate.set()
        thread.result()
        bus.drain(WAIT)
        wait_until(lambda: len(last_words) == 20, "each body has said its last word")
        bus.drain(WAIT)

        assert last_words == [Receipt(1)] * 20
        assert len(handled.given) == 20


# --- signals --------------------------------------------------------------------------------------------------------------

PROGRAM = """
import signal, sys, threading
from pipebus import Bus, LifecycleError

handled, told, tried = [], [0], [0]
bus = Bus(sys.argv[1])
bus.subscribe("s", lambda message: handled.append(message.body), name="s", **eval(sys.argv[2]))
bus.start()

def on_alarm(number, frame):
    tried[0] += 1
    try:
        bus.publish("s", "alarm")
        told[0] += 1
        bus.stats()
    except LifecycleError as error:
        assert "request_stop" in str(error), error
    signal.setitimer(signal.ITIMER_REAL, 0.0002)  # one at a time: else a slow machine is never done with them

signal.signal(signal.SIGALRM, on_alarm)
signal.setitimer(signal.ITIMER_REAL, 0.0002)
published = 0
while tried[0] < 500:
    bus.publish("s", "main")
    published += 1
    bus.stats()
signal.signal(signal.SIGALRM, signal.SIG_IGN)
bus.drain(30.0)
report = bus.stop()
assert handled.count("main") == published, (handled.count("main"), published)
assert handled.count("alarm") == told[0], (handled.count("alarm"), told)
print("fine", report.drained)
"""


@pytest.mark.parametrize(
    ("store", "options"),
    [("memory", "{}"), ("memory", "{'workers': 2}"), ("memory", "{'run': 'loop'}"), ("sqlite", "{}")],
    ids=["one worker", "two workers", "a loop", "sqlite"],
)
@pytest.mark.few(1)
def test_signals_interrupt_a_publisher_and_nothing_hangs_or_is_lost(store: str, options: str, tmp_path: Path) -> None:
    """A signal handler publishes and reads the figures while the main thread does the same."""
    done = subprocess.run(
        [sys.executable, "-X", "faulthandler", "-c", PROGRAM, urls(tmp_path)[store], options],
        capture_output=True, text=True, timeout=6 * WAIT, check=False, env=os.environ,
    )  # fmt: skip

    assert done.stdout == "fine True\n", done.stdout + done.stderr


IMPORTS = """
import sys
from pipebus import Bus
from pipebus.filters import Log

bus = Bus(sys.argv[1])
if sys.argv[2] == "Log":
    bus.use(Log())
with bus:
    bus.subscribe("s", lambda message: None, name="s")
    before = set(sys.modules)
    bus.publish("s", "body")
    bus.stats()
    print(sorted(set(sys.modules) - before))
"""


@pytest.mark.parametrize("store", ["memory", "sqlite"])
@pytest.mark.parametrize("chain", ["", "Log"])
@pytest.mark.few(1)
def test_a_publish_imports_nothing(store: str, chain: str, tmp_path: Path) -> None:
    """A signal handler that publishes in the middle of an import would wait for that import: on 3.11 forever."""
    done = subprocess.run(
        [sys.executable, "-c", IMPORTS, urls(tmp_path)[store], chain],
        capture_output=True, text=True, timeout=WAIT, check=False, env=os.environ,
    )  # fmt: skip

    assert done.stdout == "[]\n", done.stdout + done.stderr
