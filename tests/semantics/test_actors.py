"""
SEMANTICS 28 and 25: actors. Objects with mail of their own, one message at a time, on every sort of worker, until they stop.
"""

from __future__ import annotations

import asyncio
import contextvars
import dataclasses
import gc
import json
import re
import threading
import weakref
from collections.abc import Callable
from typing import Any

import pytest

from actor_helpers import AsyncNotes, AsyncPassingNotes, Notes, PassingNotes, Sort, every_sort
from flow_helpers import (
    LONG,
    WAIT,
    Ear,
    HandClock,
    Hold,
    InThread,
    assert_conserved,
    boom,
    every_way,
    fine,
    hasty_threads,
    running,
    wait_until,
)
from pipebus import (
    Actor,
    Bus,
    BusClosed,
    Delivery,
    Dropped,
    LifecycleError,
    MailboxFull,
    Message,
    NoResponder,
    PipelineError,
    Receipt,
    Ref,
    Rejected,
    RequestFailed,
    Subject,
    SubjectError,
    SubscriptionError,
    Transform,
    UnsupportedCapability,
    around,
    transform,
    when,
)
from pipebus.events import Acknowledged, Discarded, Taken

# --- mail by reference and by name -------------------------------------------------------------------------------------


@every_sort
@every_way
def test_s28_mail_addressed_to_an_actor_reaches_it_alone(sort: Sort, way: Any) -> None:
    """Its subject is the object: no pattern matches it, no other actor of its class gets it."""
    with running() as bus:
        everything, tokens = bus.subscribe(">"), bus.subscribe("*")
        greeter, other = sort.spawn(bus), sort.spawn(bus)

        assert way(bus, greeter, "Ada") == Receipt(1)
        bus.drain(WAIT)

        assert greeter.given == ["Ada"]
        assert greeter.mail[0].subject is greeter
        assert other.given == []
        assert_conserved(everything, tokens, accepted=0)


@every_sort
@every_way
def test_s28_a_named_actor_is_reached_by_its_name_too(sort: Sort, way: Any) -> None:
    """The name is a subject like any other: patterns match it, and others may listen to it."""
    with running() as bus:
        everything = bus.subscribe("greeters.>")
        greeter = sort.spawn(bus, "greeters.first")

        assert way(bus, "greeters.first", "by name") == Receipt(2)
        assert way(bus, greeter, "by reference") == Receipt(1)
        assert way(bus, Subject[str]("greeters.first"), "by typed name") == Receipt(2)
        bus.drain(WAIT)

        assert greeter.given == ["by name", "by reference", "by typed name"]
        assert [message.subject for message in greeter.mail] == ["greeters.first", greeter, "greeters.first"]
        assert [everything.receive(timeout=0).body for _ in range(2)] == ["by name", "by typed name"]


@every_way
def test_s28_filters_under_a_pattern_do_not_see_mail_to_an_actor(way: Any) -> None:
    """`>` included, at both ends; filters without a pattern see it, and so do predicates."""
    seen: list[tuple[str, Any]] = []

    class See(Transform):
        def __init__(self, name: str) -> None:
            self.name = name

        def transform(self, message: Message) -> Message:
            seen.append((self.name, message.subject))
            return message

    bus = Bus()
    for at in ("publish", "delivery"):
        bus.use(when(">", See(f"{at} >")), when("greeter", See(f"{at} name")), See(at), at=at)
        bus.use(when(lambda message: isinstance(message.subject, Actor), See(f"{at} predicate")), at=at)
    with running(bus):
        greeter = bus.spawn(Notes("greeter"))

        way(bus, greeter)
        bus.drain(WAIT)

        assert seen == [(name, greeter) for name in ("publish", "publish predicate", "delivery", "delivery predicate")]
        seen.clear()
        way(bus, "greeter")
        bus.drain(WAIT)

        assert [name for name, _ in seen] == [
            "publish >", "publish name", "publish", "delivery >", "delivery name", "delivery",
        ]  # fmt: skip


def test_s28_a_model_under_a_pattern_does_not_judge_mail_to_an_actor() -> None:
    """`Validate({">": int})` refuses a text on a named subject, and lets the actor have it."""
    from pipebus.filters import Validate

    bus = Bus()
    bus.use(Validate({">": int}))
    with running(bus):
        greeter = bus.spawn(Notes("greeter"))

        with pytest.raises(Rejected):
            bus.publish("greeter", "a text")
        bus.publish(greeter, "a text")
        bus.drain(WAIT)

        assert greeter.given == ["a text"]


@pytest.mark.parametrize("first", ["actor", "filter-actor", "subscription"])
def test_s28_two_of_one_name_are_an_error(first: str) -> None:
    """The text says where the first one is; the second is not spawned; a name that was given up can be taken again."""
    with running() as bus:
        if first == "subscription":
            taken = bus.subscribe("elsewhere", fine, name="greeter")
            give_up: Callable[[], None] = taken.unsubscribe
        else:
            actor = bus.spawn((Notes if first == "actor" else PassingNotes)("greeter"))
            give_up = actor.stop
        second = Notes("greeter")

        with pytest.raises(SubscriptionError, match=r'"greeter" \(at .*test_actors.py:\d+\) exists already \(at .*test_actors'):
            bus.spawn(second)
        with pytest.raises(LifecycleError, match="not spawned"):
            second.bus
        with pytest.raises(SubscriptionError, match="exists already"):
            bus.subscribe("elsewhere", fine, name="greeter")

        give_up()
        bus.spawn(second)
        bus.publish("greeter", "hello")
        bus.drain(WAIT)
        assert second.given == ["hello"]


@every_sort
def test_s28_where_messages_are_encoded_an_actor_needs_a_name(sort: Sort) -> None:
    """Only its name can be written down: mail to the object, and an actor without a name, are refused with the remedy."""
    with running(Bus("memory:?wire=json")) as bus:
        with pytest.raises(UnsupportedCapability, match=rf"give {sort.cls.__name__} a name"):
            sort.spawn(bus)
        greeter = sort.spawn(bus, "greeter")

        with pytest.raises(UnsupportedCapability, match="is an object"):
            bus.publish(greeter, "by reference")
        body = {"to": ["Ada"]}
        assert bus.publish("greeter", body) == Receipt(1)
        bus.drain(WAIT)

        assert greeter.given == [body]
        assert greeter.given[0] is not body


def test_s28_mail_to_an_actor_that_is_not_spawned_reaches_nobody() -> None:
    """As with any subject that nobody listens to: a Receipt of 0 mailboxes, before it is spawned and after it stopped."""
    with running() as bus:
        greeter = Notes("greeter")
        assert bus.publish(greeter) == Receipt(0)
        bus.spawn(greeter)
        assert bus.publish(greeter) == Receipt(1)
        bus.drain(WAIT)
        greeter.stop()

        assert bus.publish(greeter) == Receipt(0)
        assert bus.publish("greeter") == Receipt(0)


def test_s28_a_reference_to_an_actor_is_not_the_actor() -> None:
    """`Ref(obj)` wraps any object; the actor itself is addressed bare."""
    with running() as bus:
        greeter = bus.spawn(Notes("greeter"))
        listener = bus.subscribe(Ref(greeter))

        assert bus.publish(Ref(greeter), 1) == Receipt(1)
        assert bus.publish(greeter, 2) == Receipt(1)
        bus.drain(WAIT)

        assert greeter.given == [2]
        assert listener.receive(timeout=0).body == 1


def test_s28_others_may_listen_to_an_actors_mail() -> None:
    """`subscribe(actor)` is a subscription to what is addressed to it."""
    with running() as bus:
        greeter = bus.spawn(Notes())
        spy = bus.subscribe(greeter)

        assert bus.publish(greeter, "psst") == Receipt(2)
        bus.drain(WAIT)

        assert greeter.given == ["psst"]
        assert spy.receive(timeout=0).body == "psst"


# --- spawn -------------------------------------------------------------------------------------------------------------


@every_sort
@pytest.mark.parametrize("when_spawned", ["before-start", "after-start", "stopped"])
def test_s26_spawn_is_effective_when_it_returns(sort: Sort, when_spawned: str) -> None:
    """Before start, after start and on a stopped bus: from then on its mail reaches it. The actor itself is returned."""
    bus = Bus()
    if when_spawned == "stopped":
        with bus:
            pass
    if when_spawned != "after-start":
        greeter = sort.spawn(bus, "greeter")
    with running(bus):
        if when_spawned == "after-start":
            greeter = sort.spawn(bus, "greeter")
        assert bus.publish(greeter, 1) == Receipt(1)
        assert bus.publish("greeter", 2) == Receipt(1)
        bus.drain(WAIT)

    assert type(greeter) is sort.cls
    assert greeter.given == [1, 2]


def test_s26_a_route_that_is_in_use_learns_of_a_new_actor() -> None:
    """Its name was published to before: the next message reaches it as well, and none after it stopped."""
    with running() as bus:
        log = bus.subscribe("greeter")
        assert bus.publish("greeter", 1) == Receipt(1)
        greeter = bus.spawn(Notes("greeter"))
        assert bus.publish("greeter", 2) == Receipt(2)
        bus.drain(WAIT)
        greeter.stop()
        assert bus.publish("greeter", 3) == Receipt(1)

        assert greeter.given == [2]
        assert_conserved(log, accepted=3)


@pytest.mark.parametrize(
    ("run", "cls", "thread"),
    [
        ("pool", Notes, r"pipebus-\d+"),
        (None, Notes, r"pipebus-\d+"),
        ("thread", Notes, r"pipebus-greeter"),
        ("loop", Notes, r"pipebus-loop"),
        (None, AsyncNotes, r"pipebus-loop"),
        ("loop", AsyncNotes, r"pipebus-loop"),
        (None, AsyncPassingNotes, r"pipebus-loop"),
    ],
)
def test_s26_an_actor_runs_where_it_was_told_to(run: Any, cls: type[Notes], thread: str) -> None:
    """On the pool (what a `def` gets), on a thread of its own, or on an event loop (what an `async def` gets)."""
    threads: list[str] = []
    with running() as bus:
        bus.spawn(cls("greeter", lambda message: threads.append(threading.current_thread().name)), run=run)
        bus.publish("greeter")
        bus.drain(WAIT)

    assert len(threads) == 1
    assert re.fullmatch(thread, threads[0])


def test_s26_inside_async_with_an_async_actor_runs_on_the_callers_loop() -> None:
    """As an async handler does; `spawn`, `publish` of no chain, and `stop` do not stop that loop."""

    async def main() -> None:
        here: list[bool] = []
        async with Bus() as bus:
            loop = asyncio.get_running_loop()
            greeter = bus.spawn(AsyncNotes("greeter", lambda message: here.append(asyncio.get_running_loop() is loop)))
            bus.publish(greeter, 1)
            await bus.apublish("greeter", 2)
            await bus.adrain(WAIT)
            greeter.stop()
            assert await bus.apublish(greeter, 3) == Receipt(0)

            assert here == [True, True]
            assert greeter.given == [1, 2]

    asyncio.run(main())


def test_s26_an_actors_options_are_those_of_a_subscription() -> None:
    """Its own filters, where its answers go, how large its mailbox is and what happens when that is full, how many attempts."""

    @transform
    def double(message: Message) -> Message:
        return message.with_body(message.body * 2)

    with running() as bus:
        answers = bus.subscribe("answers")
        hold = Hold()
        greeter = bus.spawn(
            Notes("greeter", lambda message: (hold(message), message.body)[1]),
            filters=[double], to="answers", mailbox=2, overflow="reject", attempts=7,
        )  # fmt: skip
        bus.publish(greeter, 1)
        bus.publish(greeter, 2)
        with pytest.raises(MailboxFull, match="greeter"):
            bus.publish(greeter, 3)
        hold.open()
        bus.drain(WAIT)

        assert greeter.given == [2, 4]
        assert [answers.receive(timeout=0).body for _ in range(2)] == [2, 4]
        described = next(one for one in bus.describe()["subscriptions"] if one["name"] == "greeter")
        assert described["attempts"] == 7
        assert described["mailbox"] == {"size": 2, "overflow": "reject", "timeout": 5.0}
        assert described["to"] == "answers"
        assert [one["filter"] for one in described["filters"]] == ["double"]


def test_s26_an_actor_returned_as_often_as_allowed_is_dead() -> None:
    """`attempts` holds for an actor's mail."""

    class Never(Actor):
        def on_message(self, message: Message, delivery: Delivery) -> None:
            delivery.retry()

    with running() as bus:
        never = bus.spawn(Never(), attempts=2)
        bus.publish(never)
        bus.drain(WAIT)

        assert [letter.attempts for letter in bus.dead_letters.list()] == [2]


@pytest.mark.parametrize("cls", [Notes, PassingNotes])
@pytest.mark.parametrize(
    ("overflow", "given", "dropped"),
    [("drop_newest", [1, 2], {"overflow": 2}), ("drop_oldest", [1, 4], {"overflow": 2})],
)
def test_s22_an_actors_mailbox_is_bounded(cls: type[Notes], overflow: Any, given: list[int], dropped: dict[str, int]) -> None:
    """Its overflow rule decides what goes when it is full."""
    with running() as bus:
        hold = Hold()
        greeter = bus.spawn(cls("greeter", hold), mailbox=2, overflow=overflow)
        bus.publish(greeter, 1)
        hold.wait_started()
        for body in (2, 3, 4):
            bus.publish(greeter, body)
        hold.open()
        bus.drain(WAIT)

        assert hold.given == given
        assert greeter.subscription.stats()["dropped"] == dropped


@pytest.mark.parametrize("cls", [Notes, PassingNotes])
def test_s22_block_waits_for_room_in_an_actors_mailbox(cls: type[Notes]) -> None:
    """A publisher waits until the actor has taken its next message, and is let in."""
    with running() as bus:
        hold = Hold()
        greeter = bus.spawn(cls("greeter", hold), mailbox=1, overflow_timeout=LONG)
        bus.publish(greeter, 1)
        hold.wait_started()
        waits = InThread(bus.publish, greeter, 2)
        ear = greeter.subscription.mailbox
        wait_until(lambda: ear.rare is not None and len(ear.rare.waiters) == 1, "the publisher stands in line")
        hold.open()

        assert waits.result() == Receipt(1)
        bus.drain(WAIT)
        assert hold.given == [1, 2]


def test_s22_an_actor_that_fills_its_own_mailbox_is_told_at_once() -> None:
    """It would wait for itself."""
    errors: list[str] = []

    def write_to_myself(message: Message) -> None:
        try:
            bus.publish(greeter, message.body)
        except MailboxFull as error:
            errors.append(str(error))

    with running() as bus:
        greeter = bus.spawn(Notes("greeter", write_to_myself), mailbox=1, overflow_timeout=LONG)
        bus.publish(greeter)
        bus.drain(WAIT)

    assert len(errors) == 1
    assert "greeter" in errors[0]


@pytest.mark.parametrize("cls", [Notes, PassingNotes])
def test_s33_mail_to_an_actor_may_be_delayed_and_may_expire(cls: type[Notes]) -> None:
    """`delay` holds it until its time has come, `ttl` drops what waited too long."""
    clock = HandClock()
    with running(Bus(clock=clock)) as bus:
        hold = Hold()
        greeter = bus.spawn(cls("greeter", hold))
        bus.publish(greeter, "first")
        hold.wait_started()
        bus.publish(greeter, "late", delay=60.0)
        bus.publish(greeter, "stale", ttl=10.0)
        clock.wait_until_waited_for()
        clock.advance(30.0)
        hold.open()
        wait_until(lambda: greeter.subscription.stats()["dropped"] == {"expired": 1}, "the stale one is dropped")
        clock.advance(30.0)
        hold.wait_started()
        bus.drain(WAIT)

        assert hold.given == ["first", "late"]
        assert_conserved(greeter.subscription, accepted=3)


# --- what on_message is given ------------------------------------------------------------------------------------------


@dataclasses.dataclass
class Order:
    id: int


class TakesMessage(Notes):
    def on_message(self, message: Message) -> None:
        self.found = message


class TakesTypedMessage(Notes):
    def on_message(self, message: Message[Order]) -> None:
        self.found = message.body


class TakesBody(Notes):
    def on_message(self, order: Order) -> None:
        self.found = order


class TakesNothingSaid(Notes):
    def on_message(self, message):
        self.found = message


class TakesAll(Notes):
    def on_message(self, order: Order, message: Message, *, delivery: Delivery, bus: Bus) -> None:
        self.found = (order, message.subject, delivery.attempt, bus)


class AsyncTakesBody(Notes):
    async def on_message(self, order: Order, bus: Bus) -> None:
        self.found = (order, bus)


@pytest.mark.parametrize("filters", [[], [transform(lambda message: message)]], ids=["bare", "filtered"])
@pytest.mark.parametrize(
    ("cls", "expected"),
    [
        (TakesMessage, lambda actor, bus, message: message),
        (TakesTypedMessage, lambda actor, bus, message: Order(1)),
        (TakesBody, lambda actor, bus, message: Order(1)),
        (TakesNothingSaid, lambda actor, bus, message: message),
        (TakesAll, lambda actor, bus, message: (Order(1), actor, 1, bus)),
        (AsyncTakesBody, lambda actor, bus, message: (Order(1), bus)),
    ],
    ids=lambda value: getattr(value, "__name__", ""),
)
def test_s28_parameters_of_on_message_are_filled_by_annotation(cls: Any, expected: Any, filters: list[Any]) -> None:
    """The message, its body as the type says, the delivery, the bus: as for any handler. Each actor is given its own."""
    with running() as bus:
        actors = [bus.spawn(cls(), filters=filters) for _ in range(3)]
        messages = [Message(actor, {"id": 1}) for actor in actors]
        for message in messages:
            bus.send(message)
        bus.drain(WAIT)

        assert bus.dead_letters.list() == []
        for actor, message in zip(actors, messages, strict=True):
            assert actor.found == expected(actor, bus, message)


def test_s19_a_body_that_an_actors_type_refuses_is_a_dead_letter_at_once() -> None:
    """Refused for good, with the actor's class in the text; the state is untouched and the next mail is handled."""
    with running() as bus:
        picky = bus.spawn(TakesBody("picky"))
        bus.publish(picky, {"id": "no number"})
        bus.publish(picky, {"id": 2})
        bus.drain(WAIT)

        (letter,) = bus.dead_letters.list()
        assert letter.subscription == "picky"
        assert letter.error.startswith("Rejected")
        assert picky.found == Order(2)


def test_s28_on_message_may_be_an_attribute_of_the_object() -> None:
    """Set in `__init__` on each object: each of them is called, in its own form, and not that of another one of its class."""

    class Flexible(Actor):
        def __init__(self, handler: Any) -> None:
            super().__init__()
            self.on_message = handler

    given: list[Any] = []

    def takes_order(order: Order) -> None:
        given.append(order)

    async def takes_message(message: Message) -> None:
        given.append(message.body)

    with running() as bus:
        for handler in (takes_order, takes_message):
            bus.publish(bus.spawn(Flexible(handler)), {"id": 5})
            bus.drain(WAIT)

    assert given == [Order(5), {"id": 5}]


def test_s28_on_message_may_be_inherited() -> None:
    """Classes that share it do not share each other's `__class__` or state."""

    class Base(Actor):
        def on_message(self, message: Message) -> None:
            self.found = (type(self).__name__, message.body)

    class Left(Base):
        pass

    class Right(Base):
        pass

    with running() as bus:
        left, right = bus.spawn(Left()), bus.spawn(Right())
        bus.publish(left, 1)
        bus.publish(right, 2)
        bus.drain(WAIT)

        assert (left.found, right.found) == (("Left", 1), ("Right", 2))
        assert {one.name for one in bus.subscriptions} == {"Left#1", "Right#2"}


def test_s20_what_an_actor_settles_itself_stands() -> None:
    """A `Delivery` parameter acknowledges, retries and rejects, as in any handler."""

    class Settles(Actor):
        def on_message(self, message: Message, delivery: Delivery) -> None:
            verbs = {"ack": delivery.ack, "reject": lambda: delivery.reject("no"), "retry": delivery.retry}
            if message.body == "retry" and delivery.redelivered:
                return
            verbs[message.body]()

    with running() as bus:
        actor = bus.spawn(Settles("settles"))
        for verb in ("ack", "reject", "retry"):
            bus.publish(actor, verb)
        bus.drain(WAIT)

        stats = actor.subscription.stats()
        assert (stats["acknowledged"], stats["dead"], stats["accepted"]) == (2, 1, 3)
        assert [letter.error for letter in bus.dead_letters.list()] == ["Rejected: rejected by settles: no"]


# --- one at a time -----------------------------------------------------------------------------------------------------


@every_sort
def test_s24_an_actor_is_given_one_message_at_a_time(sort: Sort) -> None:
    """Fifty threads write to it: it counts without a lock and loses none, and each thread's messages keep their order."""

    class Counts:
        inside = 0
        most = 0

        def __call__(self, message: Message) -> None:
            self.inside += 1
            self.most = max(self.most, self.inside)
            self.inside -= 1

    counts = Counts()
    with running() as bus, hasty_threads():
        actor = sort.spawn(bus, "counter", counts)

        def write(thread: int) -> None:
            for number in range(20):
                bus.publish(actor if number % 2 else "counter", (thread, number), key=f"k{number % 3}" if number % 5 else None)

        for writer in [InThread(write, thread) for thread in range(50)]:
            writer.result()
        bus.drain(WAIT)

        assert counts.most == 1
        assert len(actor.given) == 1000
        for thread in range(50):
            assert [number for writer, number in actor.given if writer == thread] == list(range(20))
        assert_conserved(actor.subscription, accepted=1000)


def test_s24_an_async_actor_takes_its_next_message_when_the_last_one_has_ended() -> None:
    """Though its coroutine waits in between."""

    class Waits(Actor):
        inside = most = 0

        async def on_message(self, message: Message) -> None:
            self.inside += 1
            self.most = max(self.most, self.inside)
            await asyncio.sleep(0)
            self.inside -= 1

    with running() as bus:
        waits = bus.spawn(Waits())
        for _ in range(100):
            bus.publish(waits)
        bus.drain(WAIT)

        assert (waits.most, waits.subscription.stats()["acknowledged"]) == (1, 100)


@every_sort
def test_s14_each_mail_has_a_context_of_its_own(sort: Sort) -> None:
    """A context variable that is set while one message is handled is unset for the next."""
    variable = contextvars.ContextVar("variable", default="unset")
    found: list[str] = []

    def look(message: Message) -> None:
        found.append(variable.get())
        variable.set("set")

    with running() as bus:
        actor = sort.spawn(bus, act=look)
        for _ in range(3):
            bus.publish(actor)
        bus.drain(WAIT)

    assert found == ["unset"] * 3


def test_s23_an_actor_that_stands_still_delays_nobody_else() -> None:
    """A hundred others get their mail meanwhile."""
    with running(Bus(pool=2)) as bus:
        hold, free = Hold(), Hold(open=True)
        stuck = bus.spawn(Notes("stuck", hold))
        bus.publish(stuck)
        hold.wait_started()
        for number in range(100):
            bus.publish(bus.spawn(Notes(act=free)), number)
        free.wait_started(100)

        assert sorted(free.given) == list(range(100))


# --- self.bus ----------------------------------------------------------------------------------------------------------


@every_sort
def test_s28_an_actor_knows_its_bus_once_it_is_spawned(sort: Sort) -> None:
    """`bus` and `subscription` before that are an error that names the remedy."""
    actor = sort.cls()
    for look in (lambda: actor.bus, lambda: actor.subscription):
        with pytest.raises(LifecycleError, match=r"not spawned.*bus.spawn"):
            look()
    bus = Bus()
    with running(bus):
        bus.spawn(actor, run=sort.run)

        assert actor.bus is bus
        assert actor.subscription in bus.subscriptions


def test_s28_actors_publish_to_each_other() -> None:
    """Two of them pass a ball a thousand times; who drains waits until it rests."""

    class Player(Notes):
        other: Any = None

        def on_message(self, message: Message) -> None:
            self.mail.append(message)
            if message.body:
                self.bus.publish(self.other, message.body - 1)

    with running() as bus:
        ping, pong = bus.spawn(Player("ping")), bus.spawn(Player())
        ping.other, pong.other = pong, "ping"

        bus.publish(ping, 1000)
        bus.drain(WAIT)

        assert ping.given == list(range(1000, -1, -2))
        assert pong.given == list(range(999, 0, -2))


def test_s28_an_async_actor_publishes_with_apublish() -> None:
    """And what it publishes reaches the others on its loop and elsewhere."""

    class Relay(Actor):
        async def on_message(self, message: Message) -> None:
            await self.bus.apublish(sink, message.body + 1)
            await self.bus.apublish("out", message.body + 2)

    with running() as bus:
        sink = bus.spawn(AsyncNotes())
        out = bus.subscribe("out")
        bus.publish(bus.spawn(Relay()), 1)
        bus.drain(WAIT)

        assert sink.given == [2]
        assert out.receive(timeout=0).body == 3


@pytest.mark.parametrize("run", ["pool", "thread", "loop"])
def test_s25_actors_may_publish_while_the_bus_drains(run: Any) -> None:
    """A chain of actors finishes what it began, while outsiders are refused."""
    with running() as bus:
        hold = Hold()
        last = bus.spawn(Notes())
        second = bus.spawn(Notes(act=lambda message: bus.publish(last, message.body)), run=run)
        first = bus.spawn(Notes(act=lambda message: (hold(message), bus.publish(second, message.body))), run=run)
        bus.publish(first, "x")
        hold.wait_started()
        stop = InThread(bus.stop, WAIT)
        wait_until(lambda: bus.state == "draining", "the bus drains")
        with pytest.raises(BusClosed):
            bus.publish(last, "from outside")
        with pytest.raises(BusClosed):
            bus.spawn(Notes())
        hold.open()

        assert stop.result().drained
        assert last.given == ["x"]


def test_s28_an_actor_may_spawn_others() -> None:
    """And mail them at once."""
    children: list[Notes] = []

    def spawn_one(message: Message) -> None:
        child = bus.spawn(Notes(f"child.{message.body}"))
        children.append(child)
        bus.publish(child, message.body)

    with running() as bus:
        parent = bus.spawn(Notes("parent", spawn_one))
        for number in range(3):
            bus.publish(parent, number)
        bus.drain(WAIT)

        assert [child.given for child in children] == [[0], [1], [2]]


# --- stop --------------------------------------------------------------------------------------------------------------


@every_sort
def test_s25_stop_ends_an_actor_after_its_current_message(sort: Sort) -> None:
    """It does not wait; what was queued is dropped, counted as `stopped` and heard; later mail reaches nobody."""
    bus = Bus()
    ear = Ear(bus)
    with running(bus):
        hold = Hold()
        actor = sort.spawn(bus, "greeter", hold)
        for body in range(5):
            bus.publish(actor, body)
        hold.wait_started()

        actor.stop()

        assert actor not in [listener for one in bus.subscriptions for listener in one.patterns]
        assert bus.publish(actor, 5) == Receipt(0)
        assert bus.publish("greeter", 6) == Receipt(0)
        hold.open()
        ear.wait_for(Acknowledged)
        bus.drain(WAIT)
        assert hold.given == [0]
        stats = actor.subscription.stats()
        assert (stats["acknowledged"], stats["dropped"], stats["pending"]) == (1, {"stopped": 4}, 0)
        assert_conserved(actor.subscription, accepted=5)
        assert [(event.message.body, event.place, event.reason) for event in ear.of(Discarded)] == [
            (body, "greeter", "stopped") for body in range(1, 5)
        ]
        assert "greeter" not in bus.stats()["subscriptions"]


@every_sort
def test_s25_an_actor_may_stop_itself(sort: Sort) -> None:
    """From its own `on_message`: that message is handled to its end and acknowledged, the next is not begun."""
    hold = Hold()

    def stop_at_two(message: Message) -> None:
        if message.body == 2:
            actor.stop()

    with running() as bus:
        actor = sort.spawn(bus, "greeter", stop_at_two)
        actor.subscription.pause()
        for body in range(5):
            bus.publish(actor, body)
        actor.subscription.resume()
        bus.drain(WAIT)
        hold.open()

        assert actor.given == [0, 1, 2]
        stats = actor.subscription.stats()
        assert (stats["acknowledged"], stats["dropped"]) == (3, {"stopped": 2})
        assert_conserved(actor.subscription, accepted=5)


@every_sort
def test_s25_what_an_actor_returns_to_its_mailbox_after_its_stop_is_dropped(sort: Sort) -> None:
    """It retries the message that it stopped itself with: nobody is there to take it again, and it is counted."""

    class Returns(sort.cls):
        def on_message(self, message: Message, delivery: Delivery) -> None:
            self.stop()
            delivery.retry()

    class AsyncReturns(sort.cls):
        async def on_message(self, message: Message, delivery: Delivery) -> None:
            self.stop()
            delivery.retry()

    with running() as bus:
        cls: Any = AsyncReturns if issubclass(sort.cls, AsyncNotes) else Returns
        actor = bus.spawn(cls("greeter"), run=sort.run)
        bus.publish(actor)
        bus.drain(WAIT)

        assert actor.subscription.stats()["dropped"] == {"stopped": 1}
        assert_conserved(actor.subscription, accepted=1)


@every_sort
def test_s25_twenty_threads_and_the_actor_itself_may_stop_it_at_once(sort: Sort) -> None:
    """Idempotent: each message that waited is counted once."""
    with running() as bus, hasty_threads():
        for _ in range(20):
            hold = Hold()
            actor = sort.spawn(bus, "greeter", hold)
            for body in range(10):
                bus.publish(actor, body)
            hold.wait_started()
            for thread in [InThread(actor.stop) for _ in range(20)]:
                thread.result()
            hold.open()
            bus.drain(WAIT)

            stats = actor.subscription.stats()
            assert (stats["acknowledged"], stats["dropped"]) == (1, {"stopped": 9})


def test_s25_stop_on_a_running_loop_does_not_wait() -> None:
    """A coroutine stops an actor that is busy on a thread, and one that is busy on this very loop."""

    async def main() -> None:
        async with Bus() as bus:
            hold = Hold()
            threaded, here = bus.spawn(Notes("threaded", hold)), bus.spawn(AsyncNotes("here", hold))
            for actor in (threaded, here):
                bus.publish(actor, actor.name)
                bus.publish(actor, "waits")
            await asyncio.to_thread(hold.wait_started, 2)

            threaded.stop()
            here.stop()

            hold.open()
            await bus.adrain(WAIT)
            assert sorted(hold.given) == ["here", "threaded"]
            for actor in (threaded, here):
                wait_until(lambda actor=actor: actor.subscription.stats()["acknowledged"] == 1, "its message is handled")
                assert actor.subscription.stats()["dropped"] == {"stopped": 1}

    asyncio.run(main())


def test_s25_an_actor_may_be_stopped_by_another_one() -> None:
    """A supervisor ends a worker by mail."""
    with running() as bus:
        worker = bus.spawn(Notes("worker"))
        boss = bus.spawn(Notes("boss", lambda message: worker.stop()))
        bus.publish(worker, 1)
        bus.drain(WAIT)
        bus.publish(boss)
        bus.drain(WAIT)

        assert bus.publish(worker, 2) == Receipt(0)
        assert worker.given == [1]


@pytest.mark.parametrize("state", ["not-spawned", "new", "stopped"])
def test_s25_stop_is_callable_in_every_state(state: str) -> None:
    """Before it is spawned it does nothing; on a bus that is not started it ends there; twice is as good as once."""
    bus = Bus()
    actor = Notes("greeter")
    if state != "not-spawned":
        bus.spawn(actor)
    if state == "stopped":
        with bus:
            pass

    actor.stop()
    actor.stop()

    with running(bus):
        assert bus.publish("greeter") == Receipt(0)


@every_sort
def test_s25_a_stopped_actor_may_be_spawned_again(sort: Sort) -> None:
    """With its state, under its name, here or on another bus; its figures begin anew."""
    with running() as bus, running() as elsewhere:
        actor = sort.spawn(bus, "greeter")
        for home in (bus, bus, elsewhere, bus):
            if actor.given:
                home.spawn(actor, run=sort.run)
            assert actor.bus is home
            home.publish(actor, len(actor.given))
            home.drain(WAIT)
            assert_conserved(actor.subscription, accepted=1)
            actor.stop()

        assert actor.given == [0, 1, 2, 3]


def watched(hold: Hold, free: Hold, again: Callable[[], None], sort: Sort) -> Any:
    """An `on_message` that is never in two places; with "first" it calls `again` and stands still."""
    inside: list[Any] = []

    def begin(message: Message) -> None:
        assert inside == [], f"{message.body} came while {inside} was handled"
        inside.append(message.body)
        if message.body == "first":
            again()

    def handle(message: Message) -> None:
        begin(message)
        try:
            if message.body == "first":
                hold(message)
        finally:
            inside.clear()
        free(message)

    async def ahandle(message: Message) -> None:
        begin(message)
        try:
            if message.body == "first":
                await asyncio.to_thread(hold, message)
        finally:
            inside.clear()
        free(message)

    return ahandle if issubclass(sort.cls, AsyncNotes) else handle


@every_sort
@pytest.mark.parametrize("spawned_by", ["outside", "itself"])
def test_s24_an_actor_spawned_again_at_once_still_has_one_message_at_a_time(sort: Sort, spawned_by: str) -> None:
    """It was stopped while it was busy: its new mail waits until it is not, and a drain waits for that."""
    hold, free = Hold(), Hold(open=True)

    def again() -> None:
        actor.stop()
        bus.spawn(actor, run=sort.run)
        bus.publish(actor, "second")

    with running() as bus:
        actor = sort.spawn(bus, act=watched(hold, free, again if spawned_by == "itself" else lambda: None, sort))
        bus.publish(actor, "first")
        hold.wait_started()
        if spawned_by == "outside":
            again()
        draining = InThread(bus.drain, WAIT)
        assert actor.subscription.stats()["pending"] == 1
        assert draining.running
        hold.open()
        draining.result()

        assert free.given == ["first", "second"]
        assert bus.dead_letters.list() == []


@every_sort
def test_s24_a_pause_holds_for_an_actor_that_was_spawned_again_while_it_was_busy(sort: Sort) -> None:
    """Its last message ends: it is still paused."""
    hold, free = Hold(), Hold(open=True)
    with running() as bus:
        actor = sort.spawn(bus, act=watched(hold, free, lambda: None, sort))
        bus.publish(actor, "first")
        hold.wait_started()
        actor.stop()
        old = actor.subscription
        bus.spawn(actor, run=sort.run)
        actor.subscription.pause()
        bus.publish(actor, "second")
        hold.open()
        bus.drain(WAIT)
        assert (free.given, actor.subscription.paused) == (["first"], True)
        assert_conserved(old, accepted=1)
        actor.subscription.resume()
        bus.drain(WAIT)

        assert free.given == ["first", "second"]


@every_sort
@pytest.mark.parametrize("meanwhile", ["stopped", "started-again"])
def test_s25_an_actor_spawned_again_while_it_was_busy_outlives_a_restart(sort: Sort, meanwhile: str) -> None:
    """Its last message outlives even the bus: what came for it since is handled after it, once the bus runs."""
    hold, free = Hold(), Hold(open=True)
    with running(drain=False) as bus:
        actor = sort.spawn(bus, act=watched(hold, free, lambda: None, sort))
        bus.publish(actor, "first")
        hold.wait_started()
        actor.stop()
        bus.spawn(actor, run=sort.run)
        bus.publish(actor, "second")
        bus.stop(timeout=0.01)
        if meanwhile == "stopped":
            hold.open()
            if sort.run != "loop" and not issubclass(sort.cls, AsyncNotes):
                free.wait_started()  # (on the loop it was cancelled)
            bus.start()
        else:
            bus.start()
            hold.open()
        bus.drain(WAIT)

        assert free.given[-1:] == ["second"]


def test_s25_a_request_that_waits_in_a_stopped_actors_mailbox_is_told_at_once() -> None:
    """It will not be answered: NoResponder, and not a time-out."""
    with running() as bus:
        hold = Hold()
        actor = bus.spawn(Notes("greeter", hold))
        bus.publish(actor)
        hold.wait_started()
        asks = InThread(bus.request, actor, timeout=LONG)
        wait_until(lambda: actor.subscription.stats()["pending"] == 1, "the request is queued")

        actor.stop()

        with pytest.raises(NoResponder, match="stopped"):
            asks.result()
        hold.open()


@every_sort
def test_s25_publishers_in_front_of_a_stopping_actors_full_mailbox_are_let_go(sort: Sort) -> None:
    """They waited for room: their message reaches nobody, at once."""
    with running() as bus:
        hold = Hold()
        actor = sort.spawn(bus, "greeter", hold, mailbox=1, overflow_timeout=LONG)
        bus.publish(actor)
        hold.wait_started()
        waits = InThread(bus.publish, actor)
        mailbox = actor.subscription.mailbox
        wait_until(lambda: mailbox.rare is not None and len(mailbox.rare.waiters) == 1, "the publisher stands in line")

        actor.stop()

        assert waits.result() == Receipt(0)
        hold.open()


def test_s25_the_thread_of_a_stopped_actor_ends() -> None:
    """run="thread": no thread is left, whether it was busy, idle or stopped itself."""
    with running() as bus:
        before = threading.active_count()
        hold = Hold()
        busy, idle, own = (
            bus.spawn(Notes(name, act), run="thread")
            for name, act in (("busy", hold), ("idle", None), ("own", lambda message: own.stop()))
        )
        for actor in (busy, idle, own):
            bus.publish(actor)
        hold.wait_started()
        wait_until(lambda: idle.subscription.stats()["acknowledged"] == 1, "the idle one is idle")
        busy.stop()
        idle.stop()
        hold.open()

        wait_until(lambda: threading.active_count() == before, "their threads have ended")


@every_sort
def test_s25_an_actor_may_be_unsubscribed_like_any_subscription(sort: Sort) -> None:
    """`actor.subscription.unsubscribe()` waits for the message in hand, and counts the rest as `unsubscribed`."""
    with running() as bus:
        hold = Hold()
        actor = sort.spawn(bus, "greeter", hold)
        for body in range(3):
            bus.publish(actor, body)
        hold.wait_started()
        leaving = InThread(actor.subscription.unsubscribe, WAIT)
        wait_until(lambda: actor.subscription.stats()["dropped"] == {"unsubscribed": 2}, "the rest is dropped")
        assert leaving.running
        hold.open()
        leaving.result()

        assert actor.subscription.stats()["acknowledged"] == 1
        bus.spawn(actor, run=sort.run)


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


class TakesNone(Actor):
    def on_message(self) -> None: ...


class Silent(Actor):
    """An actor that can do nothing at all."""


BAD: dict[str, tuple[Callable[[], Any], dict[str, Any], type[Exception], str]] = {
    "a-class": (lambda: Notes, {}, SubscriptionError, r"write Notes\(\)"),
    "an-object": (object, {}, SubscriptionError, "derive its class from Actor"),
    "a-function": (lambda: fine, {}, SubscriptionError, "derive its class from Actor"),
    "a-name": (lambda: "greeter", {}, SubscriptionError, "derive its class from Actor"),
    "a-value": (ByValue, {}, SubscriptionError, r"ByValue .*dataclass\(eq=False\)"),
    "equality": (ByOwnEquality, {}, SubscriptionError, "__eq__"),
    "hash": (ByOwnHash, {}, SubscriptionError, "__hash__"),
    "two-messages": (TakesTwo, {}, SubscriptionError, "TakesTwo.*two parameters"),
    "no-message": (TakesNone, {}, SubscriptionError, "TakesNone.*takes no message"),
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
    """The text names what is wrong; nothing is registered, and the actor is as it was."""
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
    """It has one worker and no name beside its own."""
    for option in ("workers", "name", "deliver", "wokers"):
        with pytest.raises(TypeError, match=option):
            Bus().spawn(Notes(), **{option: 2})


def test_s11_an_actor_is_spawned_once() -> None:
    """A second time, here or on another bus, is told with the place of the first; it stays where it is."""
    with running() as bus, running() as elsewhere:
        actor = bus.spawn(Notes("greeter"))
        with pytest.raises(SubscriptionError, match=r"spawned already, on this bus \(at .*test_actors.py:\d+\); stop it first"):
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
    """The others are told; it has one mailbox, and each mail is handled once."""
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


def test_s11_a_spawn_that_failed_may_be_repeated() -> None:
    """The reason is gone: the same actor is spawned, also if it was stopped before."""
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
        assert actor.subscription.mailbox.closed_for_good()


def test_s11_a_place_is_the_line_of_the_user() -> None:
    """`describe` says where each actor was spawned."""
    bus = Bus()
    bus.spawn(Notes("greeter"))
    (described,) = bus.describe()["subscriptions"]

    assert described["place"].partition(":")[0].endswith("test_actors.py")
    assert described["subjects"][-1] == "greeter"
    assert described["handler"] == "actor_helpers:Notes.on_message"
    assert (described["run"], described["workers"]) == ("pool", 1)
    json.dumps(bus.describe())


# --- classes of all kinds ----------------------------------------------------------------------------------------------


class WithoutSuper(Actor):
    """Its `__init__` has never heard of ours."""

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
    """The name comes first, and has no default."""

    name: str
    count: int

    def on_message(self, message: Message) -> None:
        self.count += 1


@dataclasses.dataclass(eq=False, frozen=True)
class FrozenDataclass(Actor):
    """What counts is not in its fields."""

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


@pytest.mark.parametrize(
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
    """Without super().__init__(), as a dataclass(eq=False), with slots: it is an actor, and keeps its state."""
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
    """Made without a thought of a name."""

    name = "greeter"

    def on_message(self, message: Message) -> None:
        self.found = message.body


class NamedInClassToo(NamedInClass):
    """Its `__init__` has never heard of ours."""

    def __init__(self) -> None:
        self.found = None


@pytest.mark.parametrize("cls", [NamedInClass, NamedInClassToo])
def test_s28_a_name_may_be_written_in_the_class(cls: Any) -> None:
    """As a filter's may; one that is given wins."""
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
    """Its text holds the class, the name or the number that it got, or that it is not spawned."""
    bus = Bus()

    assert repr(Notes()) == "<Notes not spawned>"
    assert repr(Notes("greeter")) == "<Notes greeter>"
    assert repr(bus.spawn(Notes("greeter"))) == "<Notes greeter>"
    assert repr(bus.spawn(Notes())) == "<Notes#1>"


# --- errors ------------------------------------------------------------------------------------------------------------


@every_sort
@pytest.mark.parametrize("name", ["greeter", None], ids=["named", "unnamed"])
def test_s19_an_actors_error_is_a_dead_letter_with_its_name(sort: Sort, name: str | None) -> None:
    """Which can be replayed into its mailbox; the actor goes on with its next message."""
    broken = True

    def fail(message: Message) -> None:
        if broken and message.body == "bad":
            boom(message)

    with running() as bus:
        actor = sort.spawn(bus, name, fail)
        for body in ("bad", "good"):
            bus.publish(actor, body)
        bus.drain(WAIT)

        (letter,) = bus.dead_letters.list()
        assert letter.subscription == actor.subscription.name == (name or f"{sort.cls.__name__}#1")
        assert (letter.by, letter.error) == (sort.cls.__name__, "Boom: cannot handle 'bad'")
        assert letter.message.subject is actor
        assert letter.summary()["subject"] == repr(actor)
        assert_conserved(actor.subscription, accepted=2)

        broken = False
        bus.dead_letters.replay(letter.id)
        bus.drain(WAIT)
        assert actor.given == ["bad", "good", "bad"]
        assert actor.subscription.stats()["acknowledged"] == 2


def test_s19_mail_to_an_actor_without_on_message_is_a_dead_letter_with_the_remedy() -> None:
    """A filter actor need not take mail; who writes to it is found in the dead letters."""

    class OnlyFilter(Actor):
        def filter(self, message: Message) -> Message:
            return message

    with running() as bus:
        actor = bus.spawn(OnlyFilter("only"))
        bus.publish(actor)
        bus.drain(WAIT)

        (letter,) = bus.dead_letters.list()
        assert letter.error.startswith("PipelineError")
        assert "define one" in letter.error


def test_s13_sys_exit_in_an_actor_requests_a_stop_and_returns_the_message() -> None:
    """As in any handler."""

    def leave(message: Message) -> None:
        raise SystemExit(3)

    with running(drain=False) as bus:
        actor = bus.spawn(Notes("greeter", leave))
        bus.publish(actor, 1)
        wait_until(lambda: bus.stopping, "a stop is requested")
        wait_until(lambda: actor.subscription.stats()["pending"] == 1, "the message has gone back")

        assert bus.stop(WAIT, drain=False).left == {"greeter": 1}


# --- answers -----------------------------------------------------------------------------------------------------------


@every_sort
@pytest.mark.parametrize("asked", ["by-reference", "by-name"])
def test_s29_an_actor_may_be_asked(sort: Sort, asked: str) -> None:
    """`request(actor, …)`: what `on_message` returns is the reply; its error is RequestFailed."""
    with running() as bus:
        actor = sort.spawn(bus, "adder", lambda message: message.body + 1)
        where: Any = actor if asked == "by-reference" else "adder"

        assert bus.request(where, 1, timeout=WAIT).body == 2
        with pytest.raises(RequestFailed, match="TypeError"):
            bus.request(where, "one", timeout=WAIT)

        async def ask() -> Any:
            return (await bus.arequest(where, 2, timeout=WAIT)).body

        assert asyncio.run(ask()) == 3


@every_sort
def test_s29_an_actor_that_asks_itself_is_told_at_once(sort: Sort) -> None:
    """It would wait for itself; by reference and by name."""
    errors: list[str] = []

    def ask_myself(message: Message) -> Any:
        try:
            bus.request(message.body, timeout=LONG)
        except NoResponder as error:
            errors.append(str(error))

    async def aask_myself(message: Message) -> Any:
        try:
            await bus.arequest(message.body, timeout=LONG)
        except NoResponder as error:
            errors.append(str(error))

    if sort.run == "loop":
        pytest.skip("request cannot be made on a loop")
    with running() as bus:
        actor = sort.spawn(bus, "me", aask_myself if issubclass(sort.cls, AsyncNotes) else ask_myself)
        bus.publish(actor, actor)
        bus.publish(actor, "me")
        bus.drain(WAIT)

    assert len(errors) == 2


def test_s29_actors_that_ask_each_other_get_their_answers() -> None:
    """Fifty actors each ask the one before them, on a pool of one."""

    class Link(Actor):
        def __init__(self, before: Any) -> None:
            self.before = before

        def on_message(self, message: Message) -> int:
            return 1 + (self.bus.request(self.before, timeout=WAIT).body if self.before is not None else 0)

    with running(Bus(pool=1)) as bus:
        last = None
        for _ in range(50):
            last = bus.spawn(Link(last))

        assert bus.request(last, timeout=WAIT).body == 50


def test_s29_answers_may_go_to_an_actor() -> None:
    """`reply_to=actor` and `to=actor`: what a handler returns is mail for it, with the question's id."""
    with running() as bus:
        sink = bus.spawn(Notes())
        bus.subscribe("doubled", lambda message: message.body * 2)
        bus.subscribe("squared", lambda message: message.body**2, to=sink)
        question = Message("doubled", 5, reply_to=sink)
        bus.send(question)
        bus.drain(WAIT)
        bus.publish("squared", 5)
        bus.drain(WAIT)

        assert sink.given == [10, 25]
        assert sink.mail[0].correlation_id == question.id


# --- the bus stops and starts ------------------------------------------------------------------------------------------


@every_sort
def test_s25_an_actor_outlives_a_restart_of_its_bus(sort: Sort) -> None:
    """Its state is kept, and mail that was left over is handled after the next start, once and in order."""
    bus = Bus()
    hold = Hold()
    with running(bus):
        actor = sort.spawn(bus, "greeter", hold)
        for body in range(5):
            bus.publish(actor, body)
        hold.wait_started()
        stop = InThread(bus.stop, WAIT, drain=False)
        wait_until(lambda: bus.state == "stopped", "the bus has stopped")
        hold.open()
        assert stop.result().left == {"greeter": 4}
        with pytest.raises(BusClosed):
            bus.publish(actor, 5)

        bus.start()
        bus.publish(actor, 5)
        bus.publish("greeter", 6)
        bus.drain(WAIT)

        assert hold.given == [0, 1, 2, 3, 4, 5, 6]
        assert_conserved(actor.subscription, accepted=7)


@every_sort
def test_s25_leaving_the_block_lets_actors_finish_their_mail(sort: Sort) -> None:
    """Everything accepted has been handled when `with` is over."""
    with Bus() as bus:
        actor = sort.spawn(bus)
        for body in range(200):
            bus.publish(actor, body)

    assert actor.given == list(range(200))
    assert_conserved(actor.subscription, accepted=200)


@every_sort
def test_s25_a_paused_actor_keeps_its_mail(sort: Sort) -> None:
    """`actor.subscription.pause()`: nothing is handled until `resume`; a drain does not wait for it."""
    with running() as bus:
        actor = sort.spawn(bus, "greeter")
        actor.subscription.pause()
        for body in range(3):
            bus.publish(actor, body)
        bus.drain(WAIT)
        assert actor.given == []
        assert actor.subscription.stats()["pending"] == 3

        actor.subscription.resume()
        bus.drain(WAIT)

        assert actor.given == [0, 1, 2]


@pytest.mark.parametrize("what", ["actor", "subscription"])
def test_s25_what_a_filters_start_spawns_on_a_thread_is_started_too(what: str) -> None:
    """A filter brings a helper of its own along: its first mail is handled."""
    hold = Hold(open=True)

    class Brings(Transform):
        def start(self, context: Any) -> None:
            if what == "actor":
                context.bus.spawn(Notes("helper", hold), run="thread")
            else:
                context.bus.subscribe("helper", hold, run="thread")

        def transform(self, message: Message) -> Message:
            return message

    bus = Bus()
    bus.use(Brings())
    with running(bus):
        bus.publish("helper", "hello")
        hold.wait_started()

        assert hold.given == ["hello"]


def test_s25_an_async_start_of_a_filter_may_spawn_and_subscribe() -> None:
    """It runs on the bus's loop, and finds the bus as ready as a plain one does."""
    hold = Hold(open=True)

    class Brings(Transform):
        async def start(self, context: Any) -> None:
            context.bus.spawn(Notes("helper", hold))
            context.bus.subscribe("helper", hold)

        def transform(self, message: Message) -> Message:
            return message

    bus = Bus()
    bus.use(Brings())
    starting = InThread(bus.start)
    starting.result()
    with running(bus):
        assert bus.publish("helper", "hello") == Receipt(2)
        hold.wait_started(2)


def test_s27_two_buses_share_no_actor_and_no_name() -> None:
    """The same name on two buses is two actors."""
    with running() as one, running() as two:
        here, there = one.spawn(Notes("greeter")), two.spawn(Notes("greeter"))
        one.publish("greeter", 1)
        two.publish("greeter", 2)
        assert two.publish(here, 3) == Receipt(0)
        one.drain(WAIT)
        two.drain(WAIT)

        assert (here.given, there.given) == ([1], [2])


# --- delivery filters --------------------------------------------------------------------------------------------------


@every_sort
def test_s28_delivery_filters_stand_around_on_message(sort: Sort) -> None:
    """The bus's first, then the actor's own; an outcome of theirs is the delivery's."""
    trail: list[str] = []

    def through(name: str) -> Any:
        @around
        def step(message: Message) -> Any:
            trail.append(f"{name} in")
            outcome = yield message
            trail.append(f"{name} out")
            return outcome

        return step

    @transform
    def no_spam(message: Message) -> Message | Dropped:
        return Dropped("spam") if message.body == "spam" else message

    bus = Bus()
    bus.use(through("bus"), at="delivery")
    with running(bus):
        actor = sort.spawn(bus, "greeter", filters=[through("own"), no_spam])
        bus.publish(actor, "spam")
        bus.publish("greeter", "hello")
        bus.drain(WAIT)

        assert actor.given == ["hello"]
        assert trail == ["bus in", "own in", "own out", "bus out"] * 2
        assert actor.subscription.stats()["dropped"] == {"spam": 1}


@pytest.mark.parametrize("name", ["greeter", None], ids=["named", "unnamed"])
def test_s28_a_delivery_filter_may_not_readdress_an_actors_mail(name: str | None) -> None:
    """Neither to another subject nor from the object to its name."""

    @transform
    def readdress(message: Message) -> Message:
        return Message("elsewhere", message.body)

    with running() as bus:
        actor = bus.spawn(Notes(name), filters=[readdress])
        bus.publish(actor)
        bus.drain(WAIT)

        assert actor.given == []
        (letter,) = bus.dead_letters.list()
        assert letter.by == "readdress"
        assert "SubjectChanged" in letter.error


def test_s18_observers_hear_an_actors_deliveries() -> None:
    """Taken, then acknowledged, under the actor's name."""
    bus = Bus()
    ear = Ear(bus)
    with running(bus):
        actor = bus.spawn(Notes("greeter"))
        bus.publish(actor, 1)
        bus.drain(WAIT)

        assert [(type(event), event.subscription) for event in ear.of(Taken, Acknowledged)] == [
            (Taken, "greeter"),
            (Acknowledged, "greeter"),
        ]


def test_s28_explain_shows_who_an_actor_is_reached_by() -> None:
    """By its name and by the object."""
    bus = Bus()
    greeter = bus.spawn(Notes("greeter"))

    for subject in ("greeter", greeter):
        text = bus.explain(subject)
        assert "greeter on <Notes greeter>, greeter" in text
        assert "-> Notes" in text
    assert "nobody listens" in bus.explain(Notes())


# --- memory ------------------------------------------------------------------------------------------------------------


@every_sort
@pytest.mark.parametrize("name", ["greeter", None], ids=["named", "unnamed"])
@pytest.mark.parametrize("mailed", [True, False], ids=["mailed", "silent"])
def test_s25_a_stopped_actor_that_nobody_holds_is_collected(sort: Sort, name: str | None, mailed: bool) -> None:
    """The bus, its workers and its routes forget it, though they run on."""
    with running() as bus:
        bus.subscribe(">", fine)
        actor = sort.spawn(bus, name)
        if mailed:
            bus.publish(actor, "hello")
            bus.drain(WAIT)
            actor.mail.clear()  # a message knows its subject
        seen = weakref.ref(actor)

        actor.stop()
        del actor

        wait_until(lambda: gc.collect() >= 0 and seen() is None, "it is collected")


def test_s25_an_actor_that_failed_to_spawn_is_collected_too() -> None:
    """Nothing is left of the attempt."""
    with running() as bus:
        bus.spawn(Notes("greeter"))
        actor = Notes("greeter")
        seen = weakref.ref(actor)
        with pytest.raises(SubscriptionError):
            bus.spawn(actor)
        del actor
        gc.collect()

        assert seen() is None


@pytest.mark.parametrize("named", [True, False], ids=["named", "unnamed"])
def test_s25_a_hundred_thousand_actors_live_in_one_process(named: bool) -> None:
    """Spawned, mailed and stopped: each got its mail, none is left, and there are no more threads than the pool has."""
    count = 100_000
    handled: list[int] = []
    append = handled.append

    class Tiny(Actor):
        __slots__ = ()

        def on_message(self, message: Message) -> None:
            append(message.body)

    gc.collect()
    before = threading.active_count()
    with Bus(pool=2) as bus:
        actors = [bus.spawn(Tiny(f"tiny.{number}" if named else None)) for number in range(count)]
        assert threading.active_count() == before
        for number, actor in enumerate(actors):
            bus.publish(f"tiny.{number}" if named else actor, number)
        bus.drain(LONG)
        assert threading.active_count() <= before + 2
        for actor in actors:
            actor.stop()

        assert sorted(handled) == list(range(count))
        assert bus.subscriptions == []
        assert bus.publish(actors[0]) == Receipt(0)
