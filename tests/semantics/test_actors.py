"""
Guarantee 28: actors are objects with mail of their own; they get one message at a time, on every kind of worker.
"""

from __future__ import annotations

import asyncio
import contextvars
import dataclasses
import re
import threading
from collections.abc import Callable
from typing import Any

import pytest

from actor_helpers import AsyncNotes, AsyncPassingNotes, Notes, PassingNotes, Sort, at_rest, every_sort
from flow_helpers import (
    LONG,
    WAIT,
    Ear,
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
    Handlers,
    LifecycleError,
    MailboxFull,
    Message,
    NoResponder,
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
from pipebus.events import Acknowledged, Taken
from pipebus.testing import Harness
from tables import table

# --- mail by reference and by name -------------------------------------------------------------------------------------


@every_sort
@every_way
def test_s28_mail_addressed_to_an_actor_reaches_it_alone(sort: Sort, way: Any) -> None:
    """The subject is the actor object: no pattern matches it, and no other actor of its class gets the mail."""
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
    """The actor's name is a subject like any other: patterns match it, and others may subscribe to it."""
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


@every_sort
@every_way
@pytest.mark.parametrize("url", ["memory:", "memory:?wire=json"])
def test_s28_an_actor_may_listen_to_subjects_and_patterns_too(url: str, sort: Sort, way: Any) -> None:
    """What comes on them is handled in turn with its other mail, and once, also if several of them match."""
    hold = Hold()
    with running(Bus(url)) as bus:
        greeter = sort.spawn(bus, "greeter", hold, subjects=["jobs.>", "jobs.*", Subject[int]("ticks"), "greeter"])
        for number, subject in enumerate(("greeter", "jobs.done", "ticks", "jobs.a.b", "others")):
            assert way(bus, subject, number) == Receipt(int(subject != "others"))
        hold.wait_started()
        assert len(greeter.mail) == 1
        hold.open()
        at_rest(bus)
        assert [(message.subject, message.body) for message in greeter.mail] == [
            ("greeter", 0), ("jobs.done", 1), ("ticks", 2), ("jobs.a.b", 3),
        ]  # fmt: skip
        greeter.stop()
        assert way(bus, "jobs.done") == Receipt(0)


def test_s28_a_filter_actor_may_listen_to_what_passes_through_it() -> None:
    """The chain asks it about each message, and it gets those on its subjects as mail."""
    bus = Bus()
    bus.use(bus.spawn(quota := PassingNotes("quota"), subjects="jobs.>"))
    with running(bus):
        assert (bus.publish("jobs.done", 1), bus.publish("others", 2)) == (Receipt(1), Receipt(0))
        at_rest(bus)
    assert quota.given == [1]


def test_s28_a_bad_subject_of_an_actor_is_refused_and_leaves_nothing() -> None:
    """The error is that of a subscription, and the actor can be spawned afterwards."""
    bus, greeter = Bus(), Notes("greeter")
    with pytest.raises(SubjectError, match="empty token"):
        bus.spawn(greeter, subjects=["jobs..done"])
    with pytest.raises(SubjectError, match="spawn is given the function fine"):
        bus.spawn(greeter, subjects=fine)  # type: ignore[arg-type]
    assert bus.spawn(greeter).subscription.name == "greeter"


AS_HANDLER: list[Callable[[Bus, Any, Handlers], object]] = [
    lambda bus, actor, handlers: bus.subscribe("jobs.>", actor),
    lambda bus, actor, handlers: bus.subscribe("jobs.>", actor.on_message),
    lambda bus, actor, handlers: bus.on("jobs.>")(actor.on_message),
    lambda bus, actor, handlers: (handlers.on("jobs.>")(actor.on_message), bus.include(handlers)),
]


@pytest.mark.parametrize("subscribe", AS_HANDLER, ids=["actor", "method", "on", "include"])
def test_s28_an_actor_is_not_the_handler_of_a_subscription(subscribe: Callable[[Bus, Any, Handlers], object]) -> None:
    """Another mailbox would give it a second message at the same time; the error says how it gets both."""
    bus = Bus()
    with pytest.raises(
        SubscriptionError, match=r"<Notes greeter> .* one message at a time.*spawn\(Notes.*, subjects='jobs.>'\)"
    ):
        subscribe(bus, bus.spawn(Notes("greeter")), Handlers())
    assert list(bus.stats()["subscriptions"]) == ["greeter"]


@every_way
def test_s28_filters_under_a_pattern_do_not_see_mail_to_an_actor(way: Any) -> None:
    """No pattern matches mail to an actor, not even `>`, at either end; filters without a pattern and predicates see it."""
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
    """The error says where the first actor is, and the second one is not spawned; a name is free again after a stop."""
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
    """Only a name can be encoded: mail to a named actor is mail to its name, and actors without one are refused."""
    with running(Bus("memory:?wire=json")) as bus:
        with pytest.raises(UnsupportedCapability, match=rf"give {sort.cls.__name__} a name"):
            sort.spawn(bus)
        greeter = sort.spawn(bus, "greeter")
        assert greeter.subscription.patterns == ("greeter",)

        with pytest.raises(UnsupportedCapability, match=f"give .*{sort.cls.__name__}.* a name, its address there"):
            bus.publish(sort.cls(), "to nobody")
        body = {"to": ["Ada"]}
        assert bus.publish("greeter", body) == bus.publish(greeter, "by reference") == Receipt(1)
        bus.drain(WAIT)

        assert greeter.given == [body, "by reference"]
        assert greeter.given[0] is not body
        assert [message.subject for message in greeter.mail] == ["greeter", "greeter"]


def test_s28_mail_to_an_actor_that_is_not_spawned_reaches_nobody() -> None:
    """Before the spawn and after the stop, mail gets a Receipt of 0 mailboxes, as on any subject without subscribers."""
    with running() as bus:
        greeter = Notes("greeter")
        assert bus.publish(greeter) == Receipt(0)
        bus.spawn(greeter)
        assert bus.publish(greeter) == Receipt(1)
        bus.drain(WAIT)
        greeter.stop()

        assert bus.publish(greeter) == Receipt(0)
        assert bus.publish("greeter") == Receipt(0)


def test_s28_what_is_no_subject_cannot_be_published_to() -> None:
    """The class of an actor is not a subject, and neither is any other object without a `Ref`."""
    with running() as bus:
        bus.spawn(Notes())
        for subject in (Notes, 5, None, object()):
            with pytest.raises(SubjectError, match="cannot be published to"):
                bus.publish(subject)


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
    """`subscribe(actor)` subscribes to the messages that are addressed to the actor."""
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
    """`spawn` returns the actor, and from then on its mail reaches it, whether the bus is new, started or stopped."""
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
    """If a subject is already in use, the next message reaches the new actor of that name, and none does after its stop."""
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


@table(
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
    """An actor runs on the pool (the default of a `def`), on its own thread, or on an event loop (that of an `async def`)."""
    threads: list[str] = []
    with running() as bus:
        bus.spawn(cls("greeter", lambda message: threads.append(threading.current_thread().name)), run=run)
        bus.publish("greeter")
        bus.drain(WAIT)

    assert len(threads) == 1
    assert re.fullmatch(thread, threads[0])


def test_s26_inside_async_with_an_async_actor_runs_on_the_callers_loop() -> None:
    """It runs there like an async handler; `spawn`, `publish` and `stop` do not block the loop."""

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
    """An actor has its own filters, reply target, mailbox size, overflow rule and number of attempts."""

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


def test_s26_actors_of_one_class_may_have_different_options() -> None:
    """Each actor has its own options, and the next one of its class is not affected by them."""

    @transform
    def double(message: Message) -> Message:
        return message.with_body(message.body * 2)

    with running() as bus:
        answers = bus.subscribe("answers")
        plain = bus.spawn(Notes(act=lambda message: "plain"))
        doubled = bus.spawn(Notes(act=lambda message: "doubled"), filters=[double])
        answering = bus.spawn(Notes(act=lambda message: "answering"), to="answers")
        small = bus.spawn(Notes(), mailbox=1)
        threaded = bus.spawn(Notes(), run="thread")
        again = bus.spawn(Notes())
        for actor in (plain, doubled, answering, small, threaded, again):
            bus.publish(actor, 5)
        bus.drain(WAIT)

        assert [actor.given for actor in (plain, doubled, answering, small, threaded, again)] == [[5], [10], [5], [5], [5], [5]]
        assert answers.receive(timeout=0).body == "answering"
        assert_conserved(answers, accepted=1)
        sizes = [actor.subscription.plan.size for actor in (plain, small, again)]
        assert sizes == [10_000, 1, 10_000]
        assert [actor.subscription.plan.run_on for actor in (plain, threaded, again)] == ["pool", "thread", "pool"]


def test_s26_an_actor_returned_as_often_as_allowed_is_dead() -> None:
    """`attempts` bounds how often an actor may return a message."""

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
    """When the mailbox is full, its overflow rule decides what is dropped."""
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
    """The publisher waits until the actor takes its next message, and then gets in."""
    with running() as bus:
        hold = Hold()
        greeter = bus.spawn(cls("greeter", hold), mailbox=1, overflow_timeout=LONG)
        bus.publish(greeter, 1)
        hold.wait_started()
        waits = InThread(bus.publish, greeter, 2)
        ear = greeter.subscription
        wait_until(lambda: ear.rare is not None and len(ear.rare.waiters) == 1, "the publisher stands in line")
        hold.open()

        assert waits.result() == Receipt(1)
        bus.drain(WAIT)
        assert hold.given == [1, 2]


def test_s22_an_actor_that_fills_its_own_mailbox_is_told_at_once() -> None:
    """Waiting for room would be waiting for itself, so its publish raises `MailboxFull` at once."""
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
def test_s33_mail_to_an_actor_may_be_delayed_and_may_expire(harness: Harness, cls: type[Notes]) -> None:
    """`delay` holds the mail until it is due, and `ttl` drops mail that has waited too long."""
    times: list[tuple[float, Any]] = []

    def act(message: Message) -> None:
        times.append((harness.elapsed, message.body))
        if message.body == "first":
            harness.clock.sleep(30.0)

    with running(harness.bus) as bus:
        greeter = bus.spawn(cls("greeter", act))
        bus.publish(greeter, "first")
        harness.advance(0)
        bus.publish(greeter, "late", delay=60.0)
        bus.publish(greeter, "stale", ttl=10.0)
        harness.advance(30.0)
        assert greeter.subscription.stats()["dropped"] == {"expired": 1}
        harness.drain()

        assert times == [(0.0, "first"), (60.0, "late")]
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
    """Each actor gets the message, its body as the type says, the delivery and the bus, like any handler."""
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
    """The body is rejected, and the text names the actor's class; the state stays as it was, and the next mail is handled."""
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
    """If `__init__` sets `on_message` on each object, the bus calls each one in its own form."""

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
    """Subclasses that inherit `on_message` do not share each other's `__class__` or state."""

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
    """An actor may acknowledge, retry or reject through a `Delivery` parameter, like any handler."""

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
    """Fifty threads publish to an actor: it counts without a lock and loses none, and the order of each thread is kept."""

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
        assert ("questions" in actor.subscription.stats()) is ("filter" in sort.name)
        for thread in range(50):
            assert [number for writer, number in actor.given if writer == thread] == list(range(20))
        assert_conserved(actor.subscription, accepted=1000)


def test_s24_an_async_actor_takes_its_next_message_when_the_last_one_has_ended() -> None:
    """While the actor's coroutine waits, the next message waits too."""

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
    """While one actor does not return, a hundred others get their mail."""
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
    """Before the spawn, reading `bus` or `subscription` raises an error that says what to do."""
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
    """Two actors pass a ball a thousand times, and `drain` waits until it rests."""

    class Player(Notes):
        other: Any = None

        def on_message(self, message: Message) -> None:
            self.mail.append(message)
            if message.body:
                self.bus.publish(self.other, message.body - 1)

    with running(Bus(max_hops=1000)) as bus:
        ping, pong = bus.spawn(Player("ping")), bus.spawn(Player())
        ping.other, pong.other = pong, "ping"

        bus.publish(ping, 1000)
        bus.drain(WAIT)

        assert ping.given == list(range(1000, -1, -2))
        assert pong.given == list(range(999, 0, -2))


def test_s28_an_async_actor_publishes_with_apublish() -> None:
    """Messages that it publishes reach the other actors on its loop and elsewhere."""

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
    """A chain of actors finishes what it began, while publishers from outside are refused."""
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
    """An actor may spawn actors in `on_message`, and publish to them at once."""
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


# --- delivery filters --------------------------------------------------------------------------------------------------


@every_sort
def test_s28_delivery_filters_stand_around_on_message(sort: Sort) -> None:
    """The bus's delivery filters come first, then the actor's own, and their outcome is the outcome of the delivery."""
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
    """A filter may change the subject neither to another one nor from the object to its name."""

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
    """Observers see each mail taken and acknowledged, under the actor's name."""
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
    """`explain` shows the actor for its name and for the object."""
    bus = Bus()
    greeter = bus.spawn(Notes("greeter"))

    for subject in ("greeter", greeter):
        text = bus.explain(subject)
        assert "greeter on <Notes greeter>, greeter" in text
        assert "-> Notes" in text
    assert "nobody listens" in bus.explain(Notes())


@pytest.mark.parametrize("name", ["publish", "zero\u200bwidth"], ids=["reserved", "unprintable"])
def test_s28_an_actors_name_has_to_be_one_that_a_subscription_may_have(name: str) -> None:
    """An actor cannot have the reserved name "publish" or an unprintable name, and neither can a subscription."""
    bus = Bus()
    with pytest.raises(SubscriptionError, match="name"):
        bus.spawn(Notes(name))

    assert not bus.subscriptions


# --- errors ------------------------------------------------------------------------------------------------------------


@every_sort
@pytest.mark.parametrize("name", ["greeter", None], ids=["named", "unnamed"])
def test_s19_an_actors_error_is_a_dead_letter_with_its_name(sort: Sort, name: str | None) -> None:
    """The dead letter can be replayed into the actor's mailbox, and the actor handles its next message."""
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
    """A filter actor does not need `on_message`; mail to such an actor becomes a dead letter that says what to do."""

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


def test_s35_sys_exit_in_an_actor_ends_the_program_and_returns_the_message(capfd: pytest.CaptureFixture[str]) -> None:
    """`sys.exit()` in `on_message` does the same as in any handler."""

    def leave(message: Message) -> None:
        raise SystemExit(3)

    with running(drain=False) as bus:
        actor = bus.spawn(Notes("greeter", leave))
        bus.publish(actor, 1)
        wait_until(lambda: bus.stopping, "a stop is requested")
        wait_until(lambda: actor.subscription.stats()["pending"] == 1, "the message has gone back")

        with pytest.raises(SystemExit, match="3"):
            bus.stop(WAIT, drain=False)
        assert bus.stop().left == {"greeter": 1}
        assert "the handler of greeter called sys.exit(3)" in capfd.readouterr().err


# --- answers -----------------------------------------------------------------------------------------------------------


@every_sort
@pytest.mark.parametrize("asked", ["by-reference", "by-name"])
def test_s29_an_actor_may_be_asked(sort: Sort, asked: str) -> None:
    """The reply of `request(actor, …)` is the value of `on_message`; its error raises RequestFailed."""
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
    """Such a request would wait for itself, so it raises at once, by reference and by name."""
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
    """Fifty actors each ask the one before them, and all get their answers on a pool of one."""

    class Link(Actor):
        def __init__(self, before: Any) -> None:
            self.before = before

        def on_message(self, message: Message) -> int:
            return 1 + (self.bus.request(self.before, timeout=WAIT).body if self.before is not None else 0)

    with running(Bus(pool=1, max_hops=50)) as bus:
        last = None
        for _ in range(50):
            last = bus.spawn(Link(last))

        assert bus.request(last, timeout=WAIT).body == 50


def test_s29_answers_may_go_to_an_actor() -> None:
    """With `reply_to=actor` or `to=actor`, the value of a handler is mail for that actor, with the question's id."""
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
