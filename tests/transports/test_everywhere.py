"""One program, on every transport: what a subscriber sees must not depend on what carries the messages."""

from __future__ import annotations

import asyncio
import contextlib
import threading
import time
from collections import defaultdict
from collections.abc import Callable
from typing import Any

import pytest
from pydantic import BaseModel

from pipebus import (
    Bus,
    BusClosed,
    CodecError,
    DeadLetterError,
    Delivery,
    Dropped,
    Message,
    PipelineError,
    Receipt,
    ReceiveTimeout,
    Ref,
    Rejected,
    UnsupportedCapability,
    events,
    transform,
    when,
)
from pipebus.bus.bus import engine_of
from pipebus.clock import SystemClock
from pipebus.filters import Enrich, Reroute, SetHeaders, Validate

MakeBus = Callable[..., Bus]


class Order(BaseModel):
    id: int
    price: float = 0.0


class Collector:
    """A handler that keeps what it is given."""

    def __init__(self) -> None:
        self.messages: list[Message] = []

    def __call__(self, message: Message) -> None:
        self.messages.append(message)

    @property
    def bodies(self) -> list[Any]:
        return [message.body for message in self.messages]


class ShiftedClock(SystemClock):
    """The computer's clock, some seconds ahead for envelopes."""

    ahead = 0.0

    def now(self) -> float:  # type: ignore[override]
        return time.time() + self.ahead


def law(bus: Bus) -> dict[str, bool]:
    """Return, for each subscription, whether every delivery is accounted for."""
    return {
        name: s["accepted"] == s["acknowledged"] + sum(s["dropped"].values()) + s["dead"] + s["pending"] + s["in_flight"]
        for name, s in bus.stats()["subscriptions"].items()
    }


# --- subjects and envelopes --------------------------------------------------------------------------------------------


def test_every_subscription_whose_pattern_matches_gets_one_copy(bus: Bus) -> None:
    """Wildcards mean the same everywhere, and two patterns of one subscription never give two copies."""
    seen: dict[str, list[str]] = defaultdict(list)
    patterns: dict[str, Any] = {
        "literal": "orders.created",
        "star": "orders.*",
        "tail": "orders.>",
        "everything": ">",
        "twice": ["orders.>", "*.created"],
        "other": "bills.>",
    }
    for name, pattern in patterns.items():
        bus.subscribe(pattern, lambda m, name=name: seen[name].append(m.subject), name=name)
    with bus:
        receipts = [bus.publish(subject) for subject in ("orders.created", "orders.eu.created", "bills.created", "stock")]
        bus.drain(timeout=10)
    assert receipts == [Receipt(5), Receipt(3), Receipt(3), Receipt(1)]
    assert seen == {
        "literal": ["orders.created"],
        "star": ["orders.created"],
        "tail": ["orders.created", "orders.eu.created"],
        "everything": ["orders.created", "orders.eu.created", "bills.created", "stock"],
        "twice": ["orders.created", "orders.eu.created", "bills.created"],
        "other": ["bills.created"],
    }


def test_the_envelope_arrives_as_it_was_sent(bus: Bus) -> None:
    """Id, headers, key, time to live, reply address, correlation id and time survive the way."""
    handler = Collector()
    body = {"text": "grüße", "list": [1, 2.5, None, True]}
    bus.subscribe("a.b", handler)
    with bus:
        bus.publish(
            "a.b", body, headers={"tenant": "acme", "größe": "→"}, key="k", id="id-1", ttl=60.0, reply_to="answers",
            correlation_id="c-1",
        )  # fmt: skip
        bus.drain(timeout=10)
    (message,) = handler.messages
    assert (message.subject, message.id, message.key, message.ttl) == ("a.b", "id-1", "k", 60.0)
    assert (message.reply_to, message.correlation_id) == ("answers", "c-1")
    assert message.headers == {"tenant": "acme", "größe": "→"}
    assert message.body == body
    assert abs(message.time - time.time()) < 60


def test_bytes_come_back_as_bytes(bus: Bus) -> None:
    """A body of raw bytes is not text on any transport."""
    handler = Collector()
    bus.subscribe("a", handler)
    with bus:
        bus.publish("a", b"\x00\xff raw")
        bus.drain(timeout=10)
    assert handler.bodies == [b"\x00\xff raw"]


def test_a_typed_handler_gets_its_type(bus: Bus) -> None:
    """A model that was sent, or a mapping that fits, arrives as the handler's model."""
    orders: list[Order] = []

    def handle(order: Order) -> None:
        orders.append(order)

    bus.subscribe("orders", handle)
    with bus:
        bus.publish("orders", Order(id=1, price=2.5))
        bus.publish("orders", {"id": "2"})
        bus.drain(timeout=10)
    assert orders == [Order(id=1, price=2.5), Order(id=2)]


def test_one_publisher_s_messages_keep_their_order(bus: Bus) -> None:
    """First deliveries to a subscription with one worker come in the order of publishing."""
    handler = Collector()
    bus.subscribe("a", handler)
    with bus:
        for number in range(300):
            bus.publish("a", number)
        bus.drain(timeout=10)
    assert handler.bodies == list(range(300))


def test_messages_of_equal_key_keep_their_order_with_several_workers(bus: Bus) -> None:
    """Four workers share the work, and still each key's messages are handled one after the other, in order."""
    seen: dict[str, list[int]] = defaultdict(list)

    def handle(message: Message) -> None:
        assert message.key is not None
        seen[message.key].append(message.body)

    bus.subscribe("a", handle, workers=4)
    with bus:
        for number in range(200):
            bus.publish("a", number, key=f"k{number % 5}")
        bus.drain(timeout=10)
    assert seen == {f"k{key}": list(range(key, 200, 5)) for key in range(5)}


def test_nobody_listening_is_a_receipt_and_an_event(bus: Bus) -> None:
    """A message without a subscriber is not an error, but a receipt and an event report it."""
    heard: list[Any] = []
    bus.observe(heard.append)
    with bus:
        assert bus.publish("nowhere") == Receipt(0)
        assert bus.stats()["unrouted"] == 1
    assert [e.message.subject for e in heard if isinstance(e, events.Unrouted)] == ["nowhere"]


# --- filters -----------------------------------------------------------------------------------------------------------


def test_filters_on_both_chains_run_everywhere(bus: Bus) -> None:
    """Publish filters see what the publisher sent, delivery filters what arrived; both do their work."""
    handler = Collector()

    @transform
    def seen_by_delivery(message: Message) -> Message:
        return message.with_headers(seen=message.headers["stamp"])

    bus.use(SetHeaders({"stamp": "published"}), when("orders.>", Enrich({"tax": 7})))
    bus.use(seen_by_delivery, at="delivery")
    bus.subscribe(">", handler, filters=[when("orders.>", SetHeaders({"own": "yes"}))])
    with bus:
        bus.publish("orders.created", {"id": 1})
        bus.publish("bills.created", {"id": 2})
        bus.drain(timeout=10)
    orders, bills = handler.messages
    assert (orders.body, orders.headers) == ({"id": 1, "tax": 7}, {"stamp": "published", "seen": "published", "own": "yes"})
    assert (bills.body, bills.headers) == ({"id": 2}, {"stamp": "published", "seen": "published"})


def test_what_a_publish_filter_refuses_or_drops_never_travels(bus: Bus) -> None:
    """`Rejected` is raised to the publisher, `Dropped` returned; no subscriber sees either."""
    orders: list[Order] = []

    def handle(order: Order) -> None:
        orders.append(order)

    @transform
    def no_spam(message: Message) -> Message | Dropped:
        return Dropped("spam") if message.headers.get("spam") else message

    bus.use(Validate({"orders": Order}), no_spam)
    bus.subscribe("orders", handle)
    with bus:
        with pytest.raises(Rejected):
            bus.publish("orders", {"id": "none"})
        assert bus.publish("orders", {"id": 1}, headers={"spam": "yes"}) == Dropped("spam", "no_spam")
        bus.publish("orders", {"id": 2})
        bus.drain(timeout=10)
        assert bus.stats()["accepted"] == 1
    assert orders == [Order(id=2)]


def test_a_rerouted_message_arrives_at_its_new_subject(bus: Bus) -> None:
    """The subscribers of the new subject get it, those of the old one do not."""
    old, new = Collector(), Collector()
    bus.use(Reroute("flights.{body.origin}"))
    bus.subscribe("raw", old)
    bus.subscribe("flights.>", new)
    with bus:
        assert bus.publish("raw", {"origin": "JFK"}) == Receipt(1)
        bus.drain(timeout=10)
    assert old.messages == []
    assert [message.subject for message in new.messages] == ["flights.JFK"]


def test_a_delivery_filter_that_drops_settles_the_delivery(bus: Bus) -> None:
    """A message that is dropped on the way to its handler counts with its reason, and does not come again."""
    handler = Collector()

    @transform
    def only_even(message: Message) -> Message | Dropped:
        return message if message.body % 2 == 0 else Dropped("odd")

    bus.subscribe("a", handler, name="s", filters=[only_even])
    with bus:
        for number in range(5):
            bus.publish("a", number)
        bus.drain(timeout=10)
        stats = bus.stats()["subscriptions"]["s"]
    assert handler.bodies == [0, 2, 4]
    assert (stats["acknowledged"], stats["dropped"], stats["pending"]) == (3, {"odd": 2}, 0)


# --- settling ----------------------------------------------------------------------------------------------------------


def test_a_delivery_that_is_retried_comes_again_with_its_number(bus: Bus) -> None:
    """`retry` brings the message back: `attempt` counts its deliveries, and `redelivered` is true from the second one on."""
    seen: list[tuple[str, int, bool]] = []

    def handle(message: Message, delivery: Delivery) -> None:
        seen.append((message.id, delivery.attempt, delivery.redelivered))
        if delivery.attempt < 3:
            delivery.retry(delay=0.001 if delivery.attempt == 2 else 0.0)

    bus.subscribe("a", handle, name="s")
    with bus:
        bus.publish("a", id="m")
        bus.drain(timeout=10)
        stats = bus.stats()["subscriptions"]["s"]
    assert seen == [("m", 1, False), ("m", 2, True), ("m", 3, True)]
    assert (stats["accepted"], stats["acknowledged"], stats["dead"]) == (1, 1, 0)
    assert law(bus) == {"s": True}


def test_a_delivery_is_dead_when_its_attempts_are_used_up(bus: Bus) -> None:
    """With `attempts=2`, the message is delivered twice, and then becomes a dead letter that says so."""
    taken: list[int] = []

    def handle(message: Message, delivery: Delivery) -> None:
        taken.append(delivery.attempt)
        delivery.retry()

    bus.subscribe("a", handle, name="s", attempts=2)
    with bus:
        bus.publish("a", {"id": 1})
        bus.drain(timeout=10)
        (letter,) = bus.dead_letters.list()
    assert taken == [1, 2]
    assert (letter.subscription, letter.attempts, letter.message.body) == ("s", 2, {"id": 1})
    assert letter.error.startswith("AttemptsExhausted")


def test_a_loop_of_handlers_ends_in_a_dead_letter(bus: Bus) -> None:
    """
    Two handlers whose values go to each other stop after 32 hops: the last message is a dead letter, with the reason. A message
    that was passed on once has no extra header.
    """
    seen: list[Message] = []

    def count(message: Message) -> int:
        seen.append(message)
        return message.body + 1  # type: ignore[no-any-return]

    bus.subscribe("ping", count, name="ping", to="pong")
    bus.subscribe("pong", count, name="pong", to="ping")
    with bus:
        bus.publish("ping", 0, id="first")
        bus.drain(timeout=30)
        stats = bus.stats()["subscriptions"]
        (letter,) = bus.dead_letters.list()
    assert [message.body for message in seen] == list(range(33))
    assert {message.correlation_id for message in seen[1:]} == {"first"}
    assert [dict(message.headers) for message in seen[:3]] == [{}, {}, {"pipebus-hops": "2"}]
    assert (letter.subscription, letter.message.body, stats["ping"]["dead"]) == ("ping", 32, 1)
    assert letter.error.startswith("TooManyHops: handlers have passed this conversation on 32 times")
    assert law(bus) == {"ping": True, "pong": True}


def test_one_subscription_s_failure_is_its_own(bus: Bus) -> None:
    """A handler that raises makes a dead letter of its copy; the other subscription handles its own."""
    good = Collector()

    def bad(message: Message) -> None:
        raise ValueError("no")

    bus.subscribe("a", bad, name="bad")
    bus.subscribe("a", good, name="good")
    with bus:
        bus.publish("a", 1)
        bus.drain(timeout=10)
        stats = bus.stats()["subscriptions"]
        (letter,) = bus.dead_letters.list()
    assert good.bodies == [1]
    assert (stats["bad"]["dead"], stats["good"]["acknowledged"]) == (1, 1)
    assert (letter.subscription, letter.error) == ("bad", "ValueError: no")
    assert law(bus) == {"bad": True, "good": True}


def test_a_rejected_delivery_is_dead_at_once(bus: Bus) -> None:
    """`reject` is final: it takes one attempt, and leaves one dead letter with the handler's reason."""
    taken: list[int] = []

    def handle(message: Message, delivery: Delivery) -> None:
        taken.append(delivery.attempt)
        delivery.reject("unknown customer")

    bus.subscribe("a", handle, name="s", attempts=5)
    with bus:
        bus.publish("a")
        bus.drain(timeout=10)
        (letter,) = bus.dead_letters.list()
    assert taken == [1]
    assert "unknown customer" in letter.error


def test_a_body_that_the_handler_s_type_refuses_is_dead_at_once(bus: Bus) -> None:
    """A message that can never be handled is not tried again."""

    def handle(order: Order) -> None:
        raise AssertionError("it must not be called")

    bus.subscribe("orders", handle, name="s", attempts=5)
    with bus:
        bus.publish("orders", {"id": "none"})
        bus.drain(timeout=10)
        (letter,) = bus.dead_letters.list()
    assert (letter.attempts, letter.error.partition(":")[0]) == (1, "Rejected")


def test_a_dead_letter_can_be_replayed(bus: Bus) -> None:
    """It goes back to the subscription that failed, and only there."""
    broken = True
    handled, other = Collector(), Collector()

    def handle(message: Message) -> None:
        if broken:
            raise ValueError("broken")
        handled(message)

    bus.subscribe("a", handle, name="s")
    bus.subscribe("a", other, name="other")
    with bus:
        bus.publish("a", {"id": 1}, headers={"h": "v"}, id="m")
        bus.drain(timeout=10)
        broken = False
        (letter,) = bus.dead_letters.list()
        bus.dead_letters.replay(letter.id)
        bus.drain(timeout=10)
        stats = bus.stats()["subscriptions"]["s"]
    (message,) = handled.messages
    assert (message.id, message.body, message.headers) == ("m", {"id": 1}, {"h": "v"})
    assert len(other.messages) == 1
    assert (stats["acknowledged"], stats["dead"]) == (1, 0)
    assert law(bus) == {"s": True, "other": True}


def test_a_message_that_waited_too_long_is_not_handled(url: str, make_bus: MakeBus) -> None:
    """Its time to live runs out while the subscription is paused, and it is dropped as expired."""
    clock = ShiftedClock()
    bus = make_bus(url, clock=clock)
    handler = Collector()
    subscription = bus.subscribe("a", handler, name="s")
    with bus:
        subscription.pause()
        bus.publish("a", "short", ttl=5.0)
        bus.publish("a", "long", ttl=50.0)
        clock.ahead = 10.0
        subscription.resume()
        bus.drain(timeout=10)
        stats = bus.stats()["subscriptions"]["s"]
    assert handler.bodies == ["long"]
    assert stats["dropped"] == {"expired": 1}


# --- publishing from handlers ------------------------------------------------------------------------------------------


def test_drain_waits_for_what_handlers_publish(bus: Bus) -> None:
    """`drain` waits until a chain of handlers, each of which publishes to the next, has finished."""
    last = Collector()

    def onward(message: Message, bus: Bus) -> None:
        bus.publish(f"step.{message.body + 1}", message.body + 1)

    for step in range(20):
        bus.subscribe(f"step.{step}", onward)
    bus.subscribe("step.20", last)
    with bus:
        bus.publish("step.0", 0)
        bus.drain(timeout=10)
        assert last.bodies == [20]


def test_what_a_handler_returns_goes_to_its_addresses(bus: Bus) -> None:
    """It goes to the subscription's `to` and to the message's `reply_to`, with the question's id as its correlation id."""
    answers = Collector()
    bus.subscribe("question", lambda message: {"answer": message.body * 2}, to="log.answers")
    bus.subscribe(["log.answers", "asker"], answers)
    with bus:
        bus.publish("question", 21, id="q", reply_to="asker")
        bus.drain(timeout=10)
    assert sorted(message.subject for message in answers.messages) == ["asker", "log.answers"]
    assert {message.correlation_id for message in answers.messages} == {"q"}
    assert answers.bodies == [{"answer": 42}] * 2


def test_apublish_travels_as_publish_does(bus: Bus) -> None:
    """A coroutine publishes through sync and async filters alike."""
    handler = Collector()

    async def stamp(message: Message, call_next: Any) -> Any:
        return await call_next(message.with_headers(stamp="async"))

    bus.use(when("stamped.>", stamp))
    bus.subscribe(">", handler)

    async def program() -> list[Any]:
        return [await bus.apublish("stamped.a", 1), await bus.apublish("plain", 2)]

    with bus:
        assert asyncio.run(program()) == [Receipt(1), Receipt(1)]
        bus.drain(timeout=10)
    assert [(message.body, dict(message.headers)) for message in handler.messages] == [(1, {"stamp": "async"}), (2, {})]


# --- reading -----------------------------------------------------------------------------------------------------------


def test_a_reader_gets_messages_and_what_it_returns_comes_again(bus: Bus) -> None:
    """`receive` acknowledges when it returns the message, `delivery` when its block ends well."""
    subscription = bus.subscribe("a", name="s")
    with bus:
        for number in range(3):
            bus.publish("a", number)
        assert subscription.receive(timeout=10).body == 0
        attempts: list[tuple[int, int]] = []

        def fail() -> None:
            with subscription.delivery(timeout=10) as delivery:
                attempts.append((delivery.message.body, delivery.attempt))
                raise ValueError("not today")

        with pytest.raises(ValueError, match="not today"):
            fail()
        for _ in range(2):
            with subscription.delivery(timeout=10) as delivery:
                attempts.append((delivery.message.body, delivery.attempt))
        with pytest.raises(ReceiveTimeout):
            subscription.receive(timeout=0)
        stats = subscription.stats()
    assert sorted(attempts) == [(1, 1), (1, 2), (2, 1)]
    assert (stats["accepted"], stats["acknowledged"], stats["pending"], stats["in_flight"]) == (3, 3, 0, 0)


def test_a_waiting_reader_is_woken(bus: Bus) -> None:
    """A reader that waits before anything is published gets it."""
    subscription = bus.subscribe("a")
    found: list[Any] = []
    with bus:
        reader = threading.Thread(target=lambda: found.append(subscription.receive(timeout=10).body))
        reader.start()
        bus.publish("a", "late")
        reader.join(10)
        assert found == ["late"]


def test_drain_does_not_wait_for_unread_or_paused_mailboxes(bus: Bus) -> None:
    """A drain does not wait for messages that nobody will handle, and they stay where they are."""
    handler = Collector()
    unread = bus.subscribe("a", name="unread", mailbox=1)
    paused = bus.subscribe("a", handler, name="paused")
    with bus:
        paused.pause()
        bus.publish("a", 1)
        bus.drain(timeout=10)
        assert handler.bodies == []
        assert unread.receive(timeout=10).body == 1
        paused.resume()
        bus.drain(timeout=10)
        assert handler.bodies == [1]


# --- lifecycle ---------------------------------------------------------------------------------------------------------


def test_leaving_the_block_handles_what_was_accepted(bus: Bus) -> None:
    """No accepted message is lost, and no handler runs afterwards."""
    handler = Collector()
    bus.subscribe("a", handler, name="s")
    with bus:
        for number in range(100):
            bus.publish("a", number)
    assert handler.bodies == list(range(100))
    assert law(bus) == {"s": True}
    with pytest.raises(BusClosed):
        bus.publish("a", 100)


def test_a_publish_that_meets_the_stop_is_handled_or_refused(url: str, make_bus: MakeBus) -> None:
    """The stop begins while publishers are inside the chain: each gets a receipt and is handled, or is refused."""
    for _ in range(5):
        bus = make_bus(url)
        handler, receipts = Collector(), []
        inside, draining = threading.Barrier(9), threading.Event()

        def hold(message: Message, call_next: Any, inside: Any = inside, draining: Any = draining) -> Any:
            inside.wait(10)
            draining.wait(10)
            return call_next(message)

        def publish(number: int, bus: Bus = bus, receipts: list[int] = receipts) -> None:
            with contextlib.suppress(BusClosed):
                bus.publish("a", number)
                receipts.append(number)

        def on_event(event: Any, draining: Any = draining) -> None:
            if isinstance(event, events.StateChanged) and event.new == "draining":
                draining.set()

        bus.use(hold)
        bus.observe(on_event)
        bus.subscribe("a", handler, name="s")
        publishers = [threading.Thread(target=publish, args=(number,)) for number in range(8)]
        with bus:
            for thread in publishers:
                thread.start()
            inside.wait(10)
        for thread in publishers:
            thread.join(10)
        assert (law(bus), bus.stats()["accepted"]) == ({"s": True}, len(receipts))
        if not engine_of(bus).transport.local:  # a store keeps messages that came too late for this run
            with bus:
                bus.drain(timeout=10)
        assert sorted(handler.bodies) == sorted(receipts)


def test_handlers_may_publish_while_the_bus_drains(bus: Bus) -> None:
    """A stop lets handlers finish their work, including what they publish."""
    last = Collector()
    draining = threading.Event()
    bus.observe(lambda e: draining.set() if isinstance(e, events.StateChanged) and e.new == "draining" else None)

    def onward(message: Message, bus: Bus) -> None:
        draining.wait(10)
        bus.publish("b", message.body + 1)

    bus.subscribe("a", onward)
    bus.subscribe("b", last)
    with bus:
        bus.publish("a", 1)
    assert last.bodies == [2]


def test_a_stop_without_draining_loses_and_repeats_nothing(bus: Bus) -> None:
    """A message that was not begun when the bus stopped is handled once after the next start, and no attempt was counted."""
    seen: list[tuple[int, int]] = []
    begun, closed = threading.Event(), threading.Event()
    bus.observe(lambda e: closed.set() if isinstance(e, events.StateChanged) and e.new == "stopped" else None)

    def handle(message: Message, delivery: Delivery) -> None:
        begun.set()
        closed.wait(10)
        seen.append((message.body, delivery.attempt))

    bus.subscribe("a", handle, name="s")
    bus.start()
    for number in range(5):
        bus.publish("a", number)
    begun.wait(10)
    bus.stop(timeout=10, drain=False)
    assert seen == [(0, 1)]

    with bus:
        bus.publish("a", 5)
        bus.drain(timeout=10)
    assert seen == [(number, 1) for number in range(6)]


def test_a_stopped_bus_goes_on_after_the_next_start(bus: Bus) -> None:
    """Subscriptions, filters and figures are still there."""
    handler = Collector()
    bus.use(SetHeaders({"h": "v"}))
    bus.subscribe("a", handler, name="s")
    for number in range(3):
        with bus:
            bus.publish("a", number)
    assert [(message.body, message.headers["h"]) for message in handler.messages] == [(0, "v"), (1, "v"), (2, "v")]
    assert bus.stats()["subscriptions"]["s"]["acknowledged"] == 3


def test_a_subscription_made_on_a_started_bus_is_effective_when_it_returns(bus: Bus) -> None:
    """The very next message reaches it."""
    with bus:
        for number in range(50):
            handler = Collector()
            with bus.subscribe("a", handler):
                bus.publish("a", number)
                bus.drain(timeout=10)
            assert handler.bodies == [number]


def test_unsubscribe_is_final_when_it_returns(bus: Bus) -> None:
    """No handler starts afterwards, and the other subscriptions continue."""
    gone, stays = Collector(), Collector()
    subscription = bus.subscribe("a", gone)
    bus.subscribe("a", stays)
    with bus:
        bus.publish("a", 1)
        bus.drain(timeout=10)
        subscription.unsubscribe()
        assert bus.publish("a", 2) == Receipt(1)
        bus.drain(timeout=10)
    assert (gone.bodies, stays.bodies) == ([1], [1, 2])


def test_a_handler_may_end_its_own_subscription(bus: Bus) -> None:
    """Unsubscribing from inside a handler takes effect when the handler ends."""
    seen: list[int] = []

    def handle(message: Message) -> None:
        seen.append(message.body)
        subscription.unsubscribe()

    subscription = bus.subscribe("a", handle, name="s")
    with bus:
        bus.publish("a", 1)
        bus.drain(timeout=10)
        bus.publish("a", 2)
        bus.drain(timeout=10)
    assert seen == [1]


def test_a_stop_leaves_no_thread_behind(bus: Bus) -> None:
    """Workers, timers, loops and the transport's own threads end with the bus."""
    before = set(threading.enumerate())
    bus.subscribe("a", lambda message: None)
    with bus:
        bus.publish("a")
    assert set(threading.enumerate()) <= before


# --- capabilities ------------------------------------------------------------------------------------------------------


def test_a_delayed_message_arrives_or_is_refused(bus: Bus) -> None:
    """A transport that promises `delay` honours it; one that does not says so, and nothing is sent."""
    handler = Collector()
    bus.subscribe("a", handler, name="s")
    with bus:
        if engine_of(bus).transport.capabilities.delay:
            assert bus.publish("a", "later", delay=0.05)
            assert asyncio.run(bus.apublish("a", "later", delay=0.05))
        else:
            with pytest.raises(UnsupportedCapability, match="delay"):
                bus.publish("a", "never", delay=0.05)
            with pytest.raises(UnsupportedCapability, match="delay"):
                asyncio.run(bus.apublish("a", "never", delay=0.05))
        bus.publish("a", "now")
        bus.drain(timeout=10)
        stats = bus.stats()["subscriptions"]["s"]
    late = ["later", "later"] if engine_of(bus).transport.capabilities.delay else []
    assert sorted(handler.bodies) == sorted(["now", *late])
    assert stats["accepted"] == len(handler.bodies)


def test_mail_for_objects_arrives_or_is_refused(bus: Bus) -> None:
    """An object has no address where messages are encoded: subscribing, publishing and answering to it are refused."""
    target = Ref(object())
    if engine_of(bus).transport.capabilities.objects:
        handler = Collector()
        bus.subscribe(target, handler)
        with bus:
            assert bus.publish(target, 1) == Receipt(1)
            bus.drain(timeout=10)
        assert [message.subject for message in handler.messages] == [target]
        return
    with pytest.raises(UnsupportedCapability):
        bus.subscribe(target, lambda message: None)
    bus.subscribe("a", lambda message: None)
    with bus:
        with pytest.raises(UnsupportedCapability):
            bus.publish(target, 1)
        with pytest.raises(UnsupportedCapability):
            bus.publish("a", 1, reply_to=target)
        assert bus.stats()["accepted"] == 0


def test_a_body_without_a_wire_form_is_refused_to_the_publisher(bus: Bus) -> None:
    """Memory carries anything; a transport that encodes refuses it to the publisher, and no mailbox gets part of it."""
    handler = Collector()
    bus.subscribe("a", handler)
    body = object()
    with bus:
        if engine_of(bus).transport.capabilities.objects:
            bus.publish("a", body)
        else:
            with pytest.raises(CodecError):
                bus.publish("a", body)
        bus.drain(timeout=10)
    assert handler.bodies == ([body] if engine_of(bus).transport.capabilities.objects else [])


def test_no_reader_sees_what_another_one_did_to_a_body(bus: Bus) -> None:
    """Each subscription has its own body where messages are encoded, and the publisher's body does not change."""
    bodies: list[dict[str, Any]] = []

    def mutate(message: Message) -> None:
        bodies.append(message.body)
        message.body["mine"] = True

    bus.subscribe("a", mutate)
    bus.subscribe("a", mutate)
    sent = {"id": 1}
    with bus:
        bus.publish("a", sent)
        bus.drain(timeout=10)
    assert bodies == [{"id": 1, "mine": True}] * 2
    shared = engine_of(bus).transport.capabilities.objects  # memory hands round the object itself: a documented limit
    assert ("mine" in sent, bodies[0] is bodies[1]) == (shared, shared)


@pytest.mark.parametrize(
    ("required", "enough"),
    [
        pytest.param({}, True, id="nothing"),
        pytest.param({"survives": "nothing"}, True, id="survives nothing"),
        pytest.param({"order": "subject"}, True, id="order by subject"),
        pytest.param({"order": "key"}, True, id="order by key is less than by subject"),
        pytest.param({"order": "none", "delay": False}, True, id="asking for nothing"),
        pytest.param({"survives": "process"}, False, id="survives a process"),
        pytest.param({"survives": "power", "groups": True}, False, id="two that are missing"),
        pytest.param({"dedup_window": 60.0}, False, id="dedup"),
        pytest.param({"replay": True}, False, id="replay"),
        pytest.param({"max_size": 10_000_000}, True, id="no limit of size"),
    ],
)
def test_a_transport_that_promises_less_is_refused(url: str, make_bus: MakeBus, required: dict[str, Any], enough: bool) -> None:
    """`require=` is checked when the bus is made, and the error names each capability that is missing."""
    if enough:
        assert make_bus(url, require=required).url == url
        return
    with pytest.raises(UnsupportedCapability) as error:
        make_bus(url, require=required)
    assert all(name in str(error.value) for name in required)


@pytest.mark.parametrize("require", ["power", ["survives"], 5])
def test_what_is_not_a_dictionary_of_promises_is_refused(require: Any) -> None:
    with pytest.raises(PipelineError, match=r'require=.*: it is a dictionary of promises, as in \{"survives": "power"\}'):
        Bus(require=require)


def test_the_buss_own_subscription_for_replies_is_not_shown(bus: Bus) -> None:
    """`stats`, `describe` and `explain` list the subscriptions of the program, wherever replies go."""
    bus.subscribe("a", lambda message: 5, name="mine")
    with bus:
        assert bus.request("a").body == 5
        bus.drain(timeout=10)
        assert list(bus.stats()["subscriptions"]) == [one.name for one in bus.subscriptions] == ["mine"]
        assert [one["name"] for one in bus.describe()["subscriptions"]] == ["mine"]


def test_deliver_all_is_refused_where_nothing_is_kept(bus: Bus) -> None:
    """`deliver="all"` needs a transport that can read older messages again."""
    with pytest.raises(UnsupportedCapability, match="keeps no messages"):
        bus.subscribe("a", lambda message: None, deliver="all")


def test_describe_and_explain_name_the_transport_and_its_mailboxes(bus: Bus, url: str) -> None:
    """`describe` and `explain` work on every transport."""
    bus.subscribe("a", lambda message: None, name="billing")
    assert bus.describe()["transport"] == url
    assert "billing on a" in bus.explain("a")


def test_a_dead_letter_may_be_named_by_itself(bus: Bus) -> None:
    """`show`, `replay` and `discard` take a letter as well as its id; the error for anything else shows no body."""
    mended = threading.Event()

    def pay(card: str) -> None:
        if not mended.is_set():
            raise ConnectionError("down")

    bus.subscribe("a", pay, name="pay")
    with bus:
        for card in ("4111", "4112"):
            bus.publish("a", card)
        bus.drain(timeout=10)
        first, second = bus.dead_letters.list()
        assert bus.dead_letters.show(first) == first
        mended.set()
        bus.dead_letters.replay(first)
        bus.dead_letters.discard(second)
        bus.drain(timeout=10)
        assert bus.dead_letters.list() == []
        assert bus.stats()["subscriptions"]["pay"]["acknowledged"] == 1
        for act in (bus.dead_letters.show, bus.dead_letters.replay, bus.dead_letters.discard):
            with pytest.raises(DeadLetterError, match=f'no dead letter "{first.id}"'):
                act(first)
            with pytest.raises(DeadLetterError, match="a dead letter or its id is due, found Message") as caught:
                act(first.message)  # type: ignore[arg-type]
            assert "4111" not in str(caught.value)
