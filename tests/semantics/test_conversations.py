"""
A conversation is inherited: what is published while a message is in hand has its correlation id, and its id as causation id. A
hop count ends loops.
"""

from __future__ import annotations

import asyncio
import sys
import threading
import types
from collections.abc import Iterator
from typing import Any

import msgspec
import pytest
import structlog

from flow_helpers import WAIT, wait_until
from pipebus import Actor, Bus, HeaderError, Message, PipelineError, around, transform
from pipebus.filters import Log, Redeliver, Tap

RUNS = ("pool", "thread", "loop", "async")


def subscribed(bus: Bus, subject: str, handler: Any, run: str, **options: Any) -> None:
    """Subscribe a plain function, or a coroutine function that calls it on the loop."""

    async def on_loop(message: Message) -> Any:
        await asyncio.sleep(0)
        return handler(message)

    bus.subscribe(subject, on_loop if run == "async" else handler, run=None if run == "async" else run, **options)  # type: ignore[arg-type]


def follows(message: Message, cause: Message) -> None:
    """The first of a conversation caused the second."""
    assert message.correlation_id == (cause.correlation_id or cause.id)
    assert message.causation_id == cause.id
    assert message.id != cause.id


# --- who inherits ------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("run", RUNS)
@pytest.mark.parametrize("url", ["memory:", "memory:?wire=json"])
def test_s37_what_a_handler_publishes_belongs_to_its_message(run: str, url: str) -> None:
    """All ways to publish, and what it returns, through several handlers; the ids are text on every carrier."""
    got: dict[str, Message] = {}

    def first(message: Message) -> int:
        got["first"] = message
        bus.publish("published", 1)
        bus.publish("optional", 1, key="k")
        bus.send(Message("sent", 1))
        return 1

    def keep(message: Message) -> None:
        got[message.subject] = message
        if message.subject == "published":
            bus.publish("second", 1)

    with Bus(url) as bus:
        subscribed(bus, "first", first, run, to="returned")
        subscribed(bus, ">", keep, run)
        bus.publish("first")
        bus.drain(WAIT)
    assert (got["first"].correlation_id, got["first"].causation_id) == (None, None)
    for subject in ("published", "optional", "sent", "returned"):
        follows(got[subject], got["first"])
    follows(got["second"], got["published"])
    assert got["second"].correlation_id == got["first"].id


@pytest.mark.parametrize("run", RUNS)
def test_s37_requests_and_their_replies_belong_to_it(run: str) -> None:
    """A request that a handler makes, and each reply, follow the message that they answer."""
    seen: list[Message] = []

    def ask(message: Message) -> Any:
        reply = bus.request("inner", timeout=WAIT)
        seen.extend((message, reply))
        return reply.body

    async def aask(message: Message) -> Any:
        reply = await bus.arequest("inner", timeout=WAIT)
        seen.extend((message, reply))
        return reply.body

    def inner(message: Message) -> int:
        seen.append(message)
        return 5

    with Bus() as bus:
        bus.subscribe("outer", aask if run in ("loop", "async") else ask, run=None if run == "async" else run)  # type: ignore[arg-type]
        bus.subscribe("inner", inner)
        answer = bus.request("outer", timeout=WAIT)
    question, outer, reply = seen
    follows(question, outer)
    follows(reply, question)
    follows(answer, outer)


@pytest.mark.parametrize("colour", ["sync", "async"])
@pytest.mark.parametrize("side", ["publish", "delivery"])
def test_s37_what_a_filter_publishes_belongs_to_its_message(side: Any, colour: str) -> None:
    """On both sides, also for an actor that filters; afterwards the publisher has nothing in hand."""
    got: dict[str, Message] = {}

    class Copies(Actor):
        def filter(self, message: Message) -> Message:
            if message.subject == "a":
                self.bus.publish("copied", 1)
            return message

    def tell(message: Message, call_next: Any) -> Any:
        if message.subject == "a":
            bus.publish("told", 1)
        return call_next(message)

    async def atell(message: Message, call_next: Any) -> Any:
        if message.subject == "a":
            await bus.apublish("told", 1)
        return await call_next(message)

    def keep(message: Message) -> None:
        got[message.subject] = message

    async def akeep(message: Message) -> None:
        keep(message)

    def also(message: Message) -> None:
        if message.subject == "a":
            bus.publish("tapped", 1)

    bus = Bus()
    if colour == "sync":
        bus.use(tell, Tap(also), bus.spawn(Copies()), at=side)
    else:
        bus.use(atell, at=side)
    bus.subscribe(">", keep if colour == "sync" else akeep)
    with bus:
        bus.publish("a")
        bus.publish("after")
        bus.drain(WAIT)
    for subject in ("told", "tapped", "copied") if colour == "sync" else ("told",):
        follows(got[subject], got["a"])
    assert got["after"].causation_id is None


def test_s37_tasks_and_threads_that_the_handler_waits_for_inherit() -> None:
    """Publishes at the same time, each with filters, each from its own message; a sync chain on a thread as well."""
    got: list[Message] = []

    @around
    def tell(message: Message) -> Any:
        outcome = yield message
        if message.subject == "out":
            bus.publish("told", message.body)
        return outcome

    async def spread(message: Message) -> None:
        await asyncio.gather(*(bus.apublish("out", number) for number in range(4)))
        await asyncio.gather(*(asyncio.to_thread(bus.publish, "out", number) for number in range(4, 8)))

    bus = Bus()
    bus.use(tell)
    bus.subscribe("in", spread)
    bus.subscribe("out", got.append)
    bus.subscribe("told", got.append)
    with bus:
        bus.publish("in", id="in")
        bus.drain(WAIT)
    out = {message.body: message for message in got if message.subject == "out"}
    assert sorted(out) == list(range(8))
    for message in got:
        assert message.correlation_id == "in"
        assert message.causation_id == ("in" if message.subject == "out" else out[message.body].id)


@pytest.mark.parametrize("run", RUNS)
def test_s37_many_at_the_same_time_are_not_mixed_up(run: str) -> None:
    """Each of many messages on several workers causes its own."""
    got: list[Message] = []

    def handle(message: Message) -> None:
        for _ in range(3):
            bus.publish("out", message.id)

    with Bus(pool=4) as bus:
        for number in range(4):
            subscribed(bus, f"in.{number}", handle, run, workers=1 + number % 2)
        bus.subscribe("out", got.append)
        for number in range(400):
            bus.publish(f"in.{number % 4}")
        bus.drain(WAIT)
    assert len(got) == 1200
    assert all(message.causation_id == message.correlation_id == message.body for message in got)


@pytest.mark.parametrize("run", RUNS)
def test_s37_a_further_attempt_has_the_same_message_in_hand(run: str) -> None:
    """So what it publishes has the same causation id, however often it is tried."""
    got: list[Message] = []

    def fail(message: Message) -> None:
        bus.publish("out")
        raise ValueError("again")

    with Bus() as bus:
        subscribed(bus, "in", fail, run, attempts=3, filters=[Redeliver(wait=0.001)])
        bus.subscribe("out", got.append)
        bus.publish("in", id="in")
        bus.drain(WAIT)
    assert [message.causation_id for message in got] == ["in"] * 3


# --- who begins ---------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("run", RUNS)
def test_s37_what_is_left_behind_begins_a_conversation(run: str) -> None:
    """A thread or task that goes on after its handler, the publisher, and a reader have no message in hand."""
    got: list[Message] = []
    go = threading.Event()

    def later() -> None:
        assert go.wait(WAIT)
        bus.publish("out", "left behind")

    async def alater() -> None:
        await asyncio.to_thread(go.wait, WAIT)
        bus.publish("out", "left behind")

    def handle(message: Message) -> None:
        if run == "async":
            kept.append(asyncio.ensure_future(alater()))
        else:
            kept.append(threading.Thread(target=later))
            kept[-1].start()

    kept: list[Any] = []
    with Bus() as bus:
        subscribed(bus, "in", handle, run)
        bus.subscribe("out", got.append)
        reader = bus.subscribe("in")
        bus.publish("in")
        reader.receive(WAIT)
        bus.publish("out", "reader")
        wait_until(lambda: bus.stats()["subscriptions"], "it is handled")
        bus.drain(WAIT)
        go.set()
        wait_until(lambda: len(got) == 2, "both have come")
    assert [(message.correlation_id, message.causation_id) for message in got] == [(None, None)] * 2


def test_s37_each_tick_of_a_schedule_begins_a_conversation(harness: Any) -> None:
    """Its filters have its message in hand."""
    got: list[Message] = []
    bus = harness.bus
    bus.use(Tap(lambda message: bus.publish("tapped") and None if message.subject == "tick" else None))
    bus.subscribe(">", got.append)
    bus.every(60.0, "tick")
    harness.start()
    harness.advance(120.0)
    ticks = [message for message in got if message.subject == "tick"]
    assert [(message.correlation_id, message.causation_id) for message in ticks] == [(None, None)] * 2
    assert [message.causation_id for message in got if message.subject == "tapped"] == [tick.id for tick in ticks]


@pytest.mark.parametrize(
    ("given", "expected"),
    [
        ({"correlation_id": "mine"}, ("mine", "in", {})),
        ({"correlation_id": "talk"}, ("talk", "in", {"pipebus-hops": "2"})),
        ({"causation_id": "other"}, (None, "other", {})),
        ({"headers": {"a": "b"}}, ("talk", "in", {"a": "b", "pipebus-hops": "2"})),
    ],
    ids=["another conversation", "the same one", "another cause", "headers"],
)
@pytest.mark.parametrize("way", ["publish", "send"])
def test_s37_unless_it_says_otherwise(way: str, given: dict[str, Any], expected: Any) -> None:
    """A conversation of its own has a hop count of its own."""
    got: list[Message] = []

    def handle(message: Message) -> None:
        if way == "publish":
            bus.publish("out", 1, **given)
        else:
            bus.send(Message("out", 1, **given))

    with Bus() as bus:
        bus.subscribe("in", handle)
        bus.subscribe("out", got.append)
        bus.publish("in", id="in", correlation_id="talk")
        bus.drain(WAIT)
    (message,) = got
    assert (message.correlation_id, message.causation_id, dict(message.headers)) == expected


def test_s37_a_message_that_is_sent_on_stays_as_it_is() -> None:
    """A handler that is the `send` of another bus is a bridge: the message there equals the message here."""
    got: list[Message] = []
    there = Bus()
    there.subscribe("a", got.append)
    with there, Bus() as here:
        here.subscribe("a", there.send)
        here.send(sent := Message("a", 1, correlation_id="talk"))
        here.drain(WAIT)
        there.drain(WAIT)
    assert got == [sent]


# --- log lines ------------------------------------------------------------------------------------------------------------


@pytest.fixture
def lines() -> Iterator[list[dict[str, Any]]]:
    """What a program's structlog writes, with its context variables."""
    written: list[dict[str, Any]] = []

    def keep(_: Any, __: str, line: Any) -> Any:
        written.append(dict(line))
        raise structlog.DropEvent

    structlog.configure(processors=[structlog.contextvars.merge_contextvars, keep])
    yield written
    structlog.reset_defaults()


def test_s37_a_message_is_handled_while_another_thread_imports_structlog(monkeypatch: pytest.MonkeyPatch) -> None:
    """Python shows a module before its names are there; the first log line of a program imports it."""
    with Bus() as bus:
        subscription = bus.subscribe("in", lambda message: None)
        monkeypatch.setitem(sys.modules, "structlog", types.ModuleType("structlog"))
        bus.publish("in")
        bus.drain(WAIT)
        monkeypatch.undo()
        assert subscription.stats()["acknowledged"] == 1


@pytest.mark.parametrize("run", RUNS)
def test_s37_a_handlers_own_log_lines_carry_the_conversation(run: str, lines: list[dict[str, Any]]) -> None:
    """The lines of each attempt, and none outside of a handler."""

    def handle(message: Message) -> None:
        structlog.get_logger().info("mine")
        if message.correlation_id is None:
            bus.publish("in", correlation_id="talk", id="second")
            raise ValueError("again")

    with Bus() as bus:
        subscribed(bus, "in", handle, run, name="s", attempts=2, filters=[Redeliver(wait=0.001)])
        bus.publish("in", id="first")
        bus.drain(WAIT)
        structlog.get_logger().info("mine")
    mine = [line for line in lines if line.pop("event") == "mine"]
    facts = {"subject": "in", "subscription": "s"}
    assert sorted(mine, key=lambda line: (str(line.get("message_id")), line.get("attempt", 0))) == [
        {},
        facts | {"message_id": "first", "correlation_id": "first", "attempt": 1},
        facts | {"message_id": "first", "correlation_id": "first", "attempt": 2},
        facts | {"message_id": "second", "correlation_id": "talk", "attempt": 1},
        *([facts | {"message_id": "second", "correlation_id": "talk", "attempt": 1}]),
    ]


@pytest.mark.parametrize("run", RUNS)
def test_s37_log_shows_the_conversation(run: str, lines: list[dict[str, Any]]) -> None:
    """On both sides; where nothing binds context variables, the line is the same."""
    bus = Bus()
    bus.use(Log())
    subscribed(bus, "in", lambda message: None, run, name="s", filters=[Log()])
    with bus:
        bus.publish("in", id="m", correlation_id="talk")
        bus.drain(WAIT)
        structlog.configure(processors=structlog.get_config()["processors"][1:])
        bus.publish("in", id="m", correlation_id="talk")
        bus.drain(WAIT)
    found = [{k: v for k, v in line.items() if k not in ("ms", "bus")} for line in lines if line["event"] == "message.passed"]
    facts = {"event": "message.passed", "subject": "in", "message_id": "m", "correlation_id": "talk"}
    for line in ({"mailboxes": 1}, {"subscription": "s", "attempt": 1}):
        assert found.count(facts | line) == 2


# --- the hop count ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("run", RUNS)
def test_s37_a_handlers_own_publishes_are_hops(run: str) -> None:
    """Handlers that publish to each other end like those whose values go to each other."""
    with Bus(max_hops=5) as bus:
        subscribed(bus, "a", lambda message: bus.publish("b") and None, run, name="a")
        subscribed(bus, "b", lambda message: bus.send(Message("a")) and None, run, name="b")
        bus.publish("a")
        bus.drain(WAIT)
        (letter,) = bus.dead_letters.list()
        handled = sum(one["acknowledged"] for one in bus.stats()["subscriptions"].values())
    assert letter.error.startswith("TooManyHops: handlers have passed this conversation on 5 times")
    assert handled == 5


def same(message: Message) -> Any:
    return message.body


def loop(bus: Bus, steps: int = 1) -> None:
    """Subscriptions whose values go round in a circle."""
    for number in range(steps):
        bus.subscribe(f"s{number}", same, name=f"s{number}", to=f"s{(number + 1) % steps}")


@pytest.mark.parametrize(("limit", "steps"), [(1, 1), (5, 1), (5, 2), (32, 3)])
def test_a_loop_ends_after_max_hops(limit: int, steps: int) -> None:
    """However many handlers are in the circle, `max_hops` of their values are published, and then one message is dead."""
    with Bus(max_hops=limit) as bus:
        loop(bus, steps)
        bus.publish("s0", "x")
        bus.drain(timeout=10)
        (letter,) = bus.dead_letters.list()
        handled = sum(one["acknowledged"] for one in bus.stats()["subscriptions"].values())
    assert letter.error.startswith(f"TooManyHops: handlers have passed this conversation on {limit} times")
    assert letter.by == "same"
    assert handled == limit


def test_a_chain_of_handlers_that_ends_is_left_alone() -> None:
    """As many handlers as `max_hops` may pass a value on, also many times, each time from the start."""
    last: list[Any] = []
    with Bus(max_hops=3) as bus:
        for number in range(3):
            bus.subscribe(f"s{number}", same, name=f"s{number}", to=f"s{number + 1}")
        bus.subscribe("s3", lambda message: last.append(message.body), name="last")
        for body in range(50):
            bus.publish("s0", body)
        bus.drain(timeout=10)
        assert len(bus.dead_letters) == 0
    assert last == list(range(50))


def test_a_value_for_an_ordinary_reply_address_counts_too() -> None:
    """A filter that gives each message a `reply_to` cannot make an endless loop."""

    @transform
    def come_back(message: Message) -> Message:
        return msgspec.structs.replace(message, reply_to="a")

    bus = Bus()
    bus.use(come_back)
    bus.subscribe("a", same, name="a")
    with bus:
        bus.publish("a", 1)
        bus.drain(timeout=10)
        assert any(letter.error.startswith("TooManyHops") for letter in bus.dead_letters.list())


def test_a_reply_to_a_request_is_not_a_hop() -> None:
    """The end of a long conversation can still be answered."""
    with Bus(max_hops=1) as bus:
        bus.subscribe("a", same, name="a")
        assert bus.request("a", 1, correlation_id="c").body == 1


def test_a_replayed_letter_dies_again_until_the_loop_is_gone() -> None:
    """The count stays with the message, so a replay does not start the loop again."""
    with Bus(max_hops=2) as bus:
        loop(bus)
        bus.publish("s0", "x")
        bus.drain(timeout=10)
        (letter,) = bus.dead_letters.list()
        bus.dead_letters.replay(letter.id)
        bus.drain(timeout=10)
        (again,) = bus.dead_letters.list()
    assert again.error.startswith("TooManyHops")


def test_a_publisher_cannot_set_the_count() -> None:
    """The header belongs to the bus."""
    with pytest.raises(HeaderError, match="reserved"):
        Message("a", headers={"pipebus-hops": "0"})


@pytest.mark.parametrize("limit", [0, -1, 1.5, "32", None, True])
def test_max_hops_is_a_whole_number(limit: Any) -> None:
    """The error names the option."""
    with pytest.raises(PipelineError, match="max_hops"):
        Bus(max_hops=limit)
