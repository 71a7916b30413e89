"""
Guarantees 11 and 28: the objects that cannot be spawned, and the ways in which an actor's class may be written.
"""

from __future__ import annotations

import dataclasses
import json
import threading
from collections.abc import Callable
from typing import Any

import pytest

from actor_helpers import AsyncNotes, Notes, PassingNotes
from flow_helpers import (
    WAIT,
    InThread,
    fine,
    hasty_threads,
    running,
)
from pipebus import (
    Actor,
    Bus,
    Message,
    PipelineError,
    Receipt,
    SubjectError,
    SubscriptionError,
    Transform,
)
from pipebus.mailbox.offering import closed_for_good
from tables import table

# --- bad input ---------------------------------------------------------------------------------------------------------


@dataclasses.dataclass
class ByValue(Actor):
    left: int = 0

    def on_message(self, message: Message) -> None: ...


class ByOwnEquality(Notes):
    def __eq__(self, other: object) -> bool:
        return True

    __hash__ = Actor.__hash__


class ByOwnHash(Notes):
    def __hash__(self) -> int:
        return 1


class TakesTwo(Actor):
    def on_message(self, first: Message, second: Message) -> None: ...


class Silent(Actor):
    """An actor that has neither `on_message` nor `filter`."""


BAD: dict[str, tuple[Callable[[], Any], dict[str, Any], type[Exception], str]] = {
    "a-class": (lambda: Notes, {}, SubscriptionError, r"write Notes\(\)"),
    "an-object": (object, {}, SubscriptionError, "derive its class from Actor"),
    "a-function": (lambda: fine, {}, SubscriptionError, "derive its class from Actor"),
    "a-name": (lambda: "greeter", {}, SubscriptionError, "derive its class from Actor"),
    "a-value": (ByValue, {}, SubscriptionError, r"ByValue .*dataclass\(eq=False\)"),
    "equality": (ByOwnEquality, {}, SubscriptionError, "__eq__"),
    "hash": (ByOwnHash, {}, SubscriptionError, "__hash__"),
    "two-messages": (TakesTwo, {}, SubscriptionError, "TakesTwo.*two parameters"),
    "empty-name": (lambda: Notes(""), {}, SubscriptionError, "actor name ''"),
    "no-text": (lambda: Notes(5), {}, SubscriptionError, "actor name 5"),
    "wildcard": (lambda: Notes("greeters.*"), {}, SubjectError, "wildcard"),
    "rest": (lambda: Notes(">"), {}, SubjectError, "wildcard"),
    "empty-token": (lambda: Notes("a..b"), {}, SubjectError, "empty token"),
    "white-space": (lambda: Notes("a b"), {}, SubjectError, "white space"),
    "async-on-pool": (AsyncNotes, {"run": "pool"}, SubscriptionError, 'run="pool"'),
    "async-on-thread": (AsyncNotes, {"run": "thread"}, SubscriptionError, 'run="thread"'),
    "unknown-run": (Notes, {"run": "process"}, SubscriptionError, "run='process'"),
    "no-room": (Notes, {"mailbox": 0}, SubscriptionError, "mailbox=0"),
    "overflow": (Notes, {"overflow": "burst"}, SubscriptionError, "overflow='burst'"),
    "attempts": (Notes, {"attempts": 0}, SubscriptionError, "attempts=0"),
    "overflow-timeout": (Notes, {"overflow_timeout": -1}, SubscriptionError, "overflow_timeout=-1"),
    "to": (Notes, {"to": "a.*"}, SubscriptionError, "wildcard"),
    "filters": (Notes, {"filters": [5]}, PipelineError, "not callable"),
    "colour": (AsyncNotes, {"filters": [lambda message, call_next: call_next(message)]}, PipelineError, "plain sync filter"),
    "silent": (Silent, {}, SubscriptionError, "on_message"),
}


@pytest.mark.parametrize(("make", "options", "error", "text"), BAD.values(), ids=BAD)
@pytest.mark.parametrize("started", [False, True], ids=["new", "started"])
def test_s11_what_cannot_be_spawned_is_told_at_once(
    make: Callable[[], Any], options: dict[str, Any], error: type[Exception], text: str, started: bool
) -> None:
    """The error names what is wrong; nothing is registered, and the actor stays as it was."""
    bus = Bus()
    if started:
        bus.start()
    actor = make()

    with pytest.raises(error, match=text):
        bus.spawn(actor, **options)

    assert bus.subscriptions == []
    assert getattr(actor, "_home", None) is None or isinstance(actor, type)
    bus.stop(WAIT)


def test_s11_options_that_an_actor_does_not_have_are_refused() -> None:
    """An actor has one worker, and its own name is its only name."""
    for option in ("workers", "name", "deliver", "wokers"):
        with pytest.raises(TypeError, match=option):
            Bus().spawn(Notes(), **{option: 2})


def test_s11_an_actor_is_spawned_once() -> None:
    """Spawning it again, here or on another bus, raises an error with the place of the first spawn; the actor stays there."""
    with running() as bus, running() as elsewhere:
        actor = bus.spawn(Notes("greeter"))
        with pytest.raises(
            SubscriptionError, match=r"spawned already, on this bus \(at .*test_actors_classes.py:\d+\); stop it first"
        ):
            bus.spawn(actor)
        with pytest.raises(SubscriptionError, match="spawned already, on another bus"):
            elsewhere.spawn(actor)

        assert actor.bus is bus
        bus.publish(actor, 1)
        bus.drain(WAIT)
        assert actor.given == [1]
        assert elsewhere.subscriptions == []


@pytest.mark.parametrize("cls", [Notes, PassingNotes])
def test_s11_of_threads_that_spawn_one_actor_at_once_one_succeeds(cls: type[Notes]) -> None:
    """The other threads get an error; the actor has one mailbox and handles each mail once."""
    with running() as bus, hasty_threads():
        for _ in range(100):
            actor = cls()
            gate = threading.Barrier(4)

            def spawn(actor: Notes = actor, gate: threading.Barrier = gate) -> bool:
                gate.wait(WAIT)
                try:
                    bus.spawn(actor)
                except SubscriptionError:
                    return False
                return True

            assert sum(thread.result() for thread in [InThread(spawn) for _ in range(4)]) == 1
            assert bus.publish(actor) == Receipt(1)
            bus.drain(WAIT)
            assert len(actor.given) == 1
            actor.stop()


def test_s25_an_actor_that_is_stopped_while_it_is_being_spawned_is_not() -> None:
    """If one of its own filters stops the actor during its start, `spawn` raises, and the name is free."""

    class Stops(Transform):
        def start(self, context: Any) -> None:
            if stops:
                actor.stop()

        def transform(self, message: Message) -> Message:
            return message

    stops = True
    with running() as bus:
        actor = Notes("greeter")
        with pytest.raises(SubscriptionError, match="greeter was stopped while it was being spawned"):
            bus.spawn(actor, filters=[Stops()])
        assert bus.subscriptions == []

        stops = False
        bus.spawn(actor, filters=[Stops()])
        bus.publish("greeter", "hello")
        bus.drain(WAIT)
        assert actor.given == ["hello"]


def test_s11_a_spawn_that_failed_may_be_repeated() -> None:
    """Once the reason is gone, the same actor can be spawned, also if it was stopped before."""
    with running() as bus:
        taken, actor = bus.spawn(Notes("greeter")), Notes("greeter")
        for _ in range(2):
            with pytest.raises(SubscriptionError):
                bus.spawn(actor)
            taken.stop()
            bus.spawn(actor)
            actor.stop()
            bus.spawn(taken)

        assert bus.publish("greeter") == Receipt(1)
        assert closed_for_good(actor.subscription)


def test_s11_a_place_is_the_line_of_the_user() -> None:
    """`describe` gives the line where each actor was spawned."""
    bus = Bus()
    bus.spawn(Notes("greeter"))
    (described,) = bus.describe()["subscriptions"]

    assert described["place"].partition(":")[0].endswith("test_actors_classes.py")
    assert described["subjects"][-1] == "greeter"
    assert described["handler"] == "actor_helpers:Notes.on_message"
    assert (described["run"], described["workers"]) == ("pool", 1)
    json.dumps(bus.describe())


# --- classes of all kinds ----------------------------------------------------------------------------------------------


class WithoutSuper(Actor):
    """An actor whose `__init__` does not call `super().__init__`."""

    def __init__(self, start: int) -> None:
        self.count = start

    def on_message(self, message: Message) -> None:
        self.count += 1


class NamedWithoutSuper(WithoutSuper):
    def __init__(self, start: int) -> None:
        self.count = start
        self.name = "counter"


@dataclasses.dataclass(eq=False)
class AsDataclass(Actor):
    count: int
    name: str | None = None

    def on_message(self, message: Message) -> None:
        self.count += 1


@dataclasses.dataclass(eq=False)
class NamedDataclass(Actor):
    """An actor whose name is the first field and has no default."""

    name: str
    count: int

    def on_message(self, message: Message) -> None:
        self.count += 1


@dataclasses.dataclass(eq=False, frozen=True)
class FrozenDataclass(Actor):
    """An actor with frozen fields, which keeps its count in a list."""

    counts: list[int]
    name: str | None = None

    @property
    def count(self) -> int:
        return len(self.counts)

    def on_message(self, message: Message) -> None:
        self.counts.append(1)


@dataclasses.dataclass(eq=False, slots=True)
class AsSlottedDataclass(Actor):
    name: str | None
    count: int = 0

    def on_message(self, message: Message) -> None:
        self.count += 1


class Slotted(Actor):
    __slots__ = ("count",)

    def __init__(self, name: str | None, count: int = 0) -> None:
        super().__init__(name)
        self.count = count

    def on_message(self, message: Message) -> None:
        self.count += 1


WRITTEN = (
    "no-super", "no-super-named", "dataclass", "dataclass-named", "dataclass-name-first", "frozen", "frozen-named",
    "slotted-dataclass", "slots", "slots-named",
)  # fmt: skip


@table(
    ("make", "name"),
    [
        (lambda: WithoutSuper(0), None),
        (lambda: NamedWithoutSuper(0), "counter"),
        (lambda: AsDataclass(0), None),
        (lambda: AsDataclass(0, "counter"), "counter"),
        (lambda: NamedDataclass("counter", 0), "counter"),
        (lambda: FrozenDataclass([]), None),
        (lambda: FrozenDataclass([], "counter"), "counter"),
        (lambda: AsSlottedDataclass("counter"), "counter"),
        (lambda: Slotted(None), None),
        (lambda: Slotted("counter"), "counter"),
    ],
    ids=WRITTEN,
)
def test_s28_an_actors_class_may_be_written_in_any_way(make: Callable[[], Any], name: str | None) -> None:
    """A class without super().__init__(), a dataclass(eq=False) or a class with slots is an actor, and keeps its state."""
    with running() as bus:
        actor, other = bus.spawn(make()), make()
        if name is None:
            bus.spawn(other)
        bus.publish(actor)
        bus.publish(name or other)
        bus.drain(WAIT)

        assert actor.name == name
        assert (actor.count, other.count) == ((2, 0) if name else (1, 1))
        assert hasattr(actor, "__dict__") is ("Slot" not in type(actor).__name__)


class NamedInClass(Actor):
    """An actor with its name in the class."""

    name = "greeter"

    def on_message(self, message: Message) -> None:
        self.found = message.body


class NamedInClassToo(NamedInClass):
    """An actor with its name in the class, whose `__init__` does not call `super().__init__`."""

    def __init__(self) -> None:
        self.found = None


@pytest.mark.parametrize("cls", [NamedInClass, NamedInClassToo])
def test_s28_a_name_may_be_written_in_the_class(cls: Any) -> None:
    """The class may define the name, as for a filter; a name that is passed in wins."""
    with running() as bus:
        greeter = bus.spawn(cls())
        bus.publish("greeter", 1)
        bus.drain(WAIT)
        assert (greeter.name, greeter.found) == ("greeter", 1)

        other = bus.spawn(NamedInClass("other"))
        bus.publish("other", 2)
        bus.drain(WAIT)
        assert (other.name, other.found, greeter.found) == ("other", 2, 1)


def test_s28_an_actor_says_who_it_is() -> None:
    """The text of an actor has its class, and its name or number, or that it is not spawned."""
    bus = Bus()

    assert repr(Notes()) == "<Notes not spawned>"
    assert repr(Notes("greeter")) == "<Notes greeter>"
    assert repr(bus.spawn(Notes("greeter"))) == "<Notes greeter>"
    assert repr(bus.spawn(Notes())) == "<Notes#1>"


def test_an_actor_whose_own_filter_is_async_runs_on_a_loop_beside_another_of_its_class() -> None:
    """What is set on one actor says nothing about the others of its class, so they do not share their settings."""

    class Gate(Actor):
        def on_message(self, message: Message) -> None: ...

    async def ask(message: Message) -> Message:
        return message

    plain, asking = Gate(), Gate()
    plain.filter, asking.filter = (lambda message: message), ask  # type: ignore[attr-defined]
    bus = Bus()
    for actor in (plain, asking):
        bus.spawn(actor)

    assert [one["run"] for one in bus.describe()["subscriptions"]] == ["pool", "loop"]
