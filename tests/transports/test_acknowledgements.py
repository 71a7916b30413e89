"""What only a transport with bytes, leases and acknowledgements can show: `byte_transport.py`."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Callable
from typing import Any

import pytest
from byte_transport import ByteTransport

from pipebus import Bus, Delivery, Dropped, Message, MessageTooLarge, Pipeline, Receipt, events, transform, when
from pipebus.bus.bus import engine_of

MakeBus = Callable[..., Bus]
BYTES = "bytes:"


@pytest.fixture
def bus(make_bus: MakeBus) -> Bus:
    """A bus on the tests' own transport, not yet started."""
    return make_bus(BYTES)


def wire(bus: Bus) -> ByteTransport:
    found = engine_of(bus).transport
    assert isinstance(found, ByteTransport)
    return found


def figures(bus: Bus, name: str = "s") -> dict[str, Any]:
    found: dict[str, Any] = bus.stats()["subscriptions"][name]
    return found


# --- settlements -------------------------------------------------------------------------------------------------------


def test_each_ending_of_a_delivery_is_told_to_the_transport_once(bus: Bus) -> None:
    """The transport learns once whether it may forget the message, or gets it back."""

    @transform
    def no_spam(message: Message) -> Message | Dropped:
        return Dropped("spam") if message.body == "spam" else message

    def handle(message: Message, delivery: Delivery) -> None:
        match message.body:
            case "ack":
                delivery.ack()
            case "once more" if delivery.attempt == 1:
                delivery.retry()
            case "reject":
                delivery.reject("no")
            case "raise":
                raise ValueError("no")
            case "always again":
                delivery.retry()

    bus.subscribe("a", handle, name="s", filters=[no_spam], attempts=2)
    told = {}
    with bus:
        for body in ("return", "ack", "once more", "spam", "reject", "raise", "always again"):
            wire(bus).verdicts.clear()
            bus.publish("a", body)
            bus.drain(timeout=10)
            told[body] = list(wire(bus).verdicts)
    assert told == {
        "return": ["acknowledge"],
        "ack": ["acknowledge"],
        "once more": ["return", "acknowledge"],
        "spam": ["drop"],
        "reject": ["dead"],
        "raise": ["dead"],
        "always again": ["return", "dead"],
    }
    assert wire(bus).stale == 0


def test_what_handlers_settle_while_the_bus_stops_reaches_the_transport(bus: Bus) -> None:
    """A stop waits for a handler that is still running, and its settlement is carried out."""
    begun, closed = threading.Event(), threading.Event()
    bus.observe(lambda e: closed.set() if isinstance(e, events.StateChanged) and e.new == "stopped" else None)

    def handle(message: Message) -> None:
        begun.set()
        closed.wait(10)

    bus.subscribe("a", handle, name="s")
    bus.start()
    bus.publish("a")
    begun.wait(10)
    bus.stop(timeout=10, drain=False)
    assert (wire(bus).verdicts, wire(bus).stale) == (["acknowledge"], 0)


def test_messages_for_a_named_subscription_wait_for_the_next_start(bus: Bus) -> None:
    """What a stop left in the transport is delivered after the next start, once."""
    seen: list[Any] = []
    subscription = bus.subscribe("a", lambda message: seen.append(message.body), name="s")
    with bus:
        subscription.pause()
        for number in range(3):
            bus.publish("a", number)
        wire(bus).wait_for(arrivals=3)
        bus.stop(timeout=10, drain=False)
    assert (seen, wire(bus).verdicts) == ([], ["release"] * 3)
    subscription.resume()
    with bus:
        bus.drain(timeout=10)
    assert seen == [0, 1, 2]
    assert figures(bus)["acknowledged"] == 3


# --- lost deliveries ---------------------------------------------------------------------------------------------------


def test_a_lost_delivery_is_brought_again_as_its_second_attempt(bus: Bus) -> None:
    """A reader holds it too long, so another one gets it, and the late acknowledgement changes nothing."""
    subscription = bus.subscribe("a", name="s")
    with bus:
        bus.publish("a", id="m")
        with subscription.delivery(timeout=10) as first:
            wire(bus).lose()
            with subscription.delivery(timeout=10) as second:
                attempts = [(d.message.id, d.attempt, d.redelivered) for d in (first, second)]
        bus.drain(timeout=10)
    assert attempts == [("m", 1, False), ("m", 2, True)]
    assert (wire(bus).verdicts, wire(bus).stale) == (["acknowledge"], 1)


def test_a_delivery_that_is_lost_again_and_again_is_dead_in_the_end(bus: Bus) -> None:
    """A message that ends its reader on every read is not delivered forever: `attempts` bounds it."""
    subscription = bus.subscribe("a", name="s", attempts=2)
    died = threading.Event()
    bus.observe(lambda e: died.set() if isinstance(e, events.Died) else None)
    with bus:
        bus.publish("a", "poison")
        with subscription.delivery(timeout=10):
            wire(bus).lose()
            with subscription.delivery(timeout=10) as second:
                wire(bus).lose()
                assert died.wait(10)
        (letter,) = bus.dead_letters.list()
        bus.publish("a", "good")
        assert subscription.receive(timeout=10).body == "good"
    assert second.attempt == 2
    assert (letter.message.body, letter.subscription, letter.attempts) == ("poison", "s", 2)
    assert letter.error.startswith("AttemptsExhausted")


def test_a_transport_that_cannot_settle_does_not_stop_the_bus(bus: Bus) -> None:
    """A failed settlement is left to the lease, and handlers continue."""
    seen: list[Any] = []
    settle, failures = wire(bus).settle, [ConnectionError("gone")]

    def unsteady(token: Any, verdict: Any, delay: float = 0.0, why: Any = "") -> None:
        if failures:
            raise failures.pop()
        settle(token, verdict, delay, why)

    wire(bus).settle = unsteady  # type: ignore[method-assign]
    two = threading.Event()

    def handle(message: Message) -> None:
        seen.append(message.body)
        if len(seen) == 2:
            two.set()

    bus.subscribe("a", handle, name="s")
    with bus:
        bus.publish("a", 1)
        bus.publish("a", 2)
        assert two.wait(10)
        wire(bus).lose()
        bus.drain(timeout=10)
    assert (sorted(set(seen)), failures) == ([1, 2], [])


# --- bytes that are not a message --------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "data",
    [
        pytest.param(b"\x80\x04\x95 pickled?", id="no JSON"),
        pytest.param(b'["a list"]', id="no object"),
        pytest.param(b'{"specversion": "1.0"}', id="no subject"),
        pytest.param(b'{"specversion": "1.0", "id": "x", "type": "a..b"}', id="an impossible subject"),
        pytest.param(b'{"specversion": "1.0", "id": "x", "type": "a", "pipebusversion": 99}', id="another version"),
        pytest.param(b"", id="nothing"),
    ],
)
def test_bytes_that_are_no_message_are_a_dead_letter_and_later_messages_flow(bus: Bus, data: bytes) -> None:
    """The raw bytes are kept for a person to look at, and the next message is handled."""
    seen: list[Any] = []
    bus.subscribe("a.>", lambda message: seen.append(message.body), name="s")
    with bus:
        wire(bus).inject("a.b", data)
        bus.publish("a.b", "fine")
        bus.drain(timeout=10)
        (letter,) = bus.dead_letters.list()
    assert seen == ["fine"]
    assert (letter.subscription, letter.message.body, letter.attempts) == ("s", data, 1)
    assert letter.error.startswith("CodecError")
    assert wire(bus).verdicts == ["dead", "acknowledge"]
    stats = figures(bus)
    assert (stats["accepted"], stats["acknowledged"], stats["dead"]) == (2, 1, 1)


def test_undecodable_bytes_can_be_discarded(bus: Bus) -> None:
    """A person who has looked at them can discard them, and the figures add up."""
    bus.subscribe("a", lambda message: None, name="s")
    with bus:
        wire(bus).inject("a", b"junk")
        bus.drain(timeout=10)
        bus.dead_letters.discard(bus.dead_letters.list()[0].id)
        stats = figures(bus)
    assert (stats["accepted"], stats["dropped"], stats["dead"]) == (1, {"discarded": 1}, 0)


def test_a_message_from_another_program_meets_the_delivery_chain_only(bus: Bus) -> None:
    """The publish chain guards this process's publishers; what arrives is guarded by the delivery chain."""
    met: list[str] = []

    def tap(name: str) -> Any:
        return transform(lambda message: (met.append(name), message)[1])

    bus.use(tap("publish"))
    bus.use(when("a.>", tap("delivery")), at="delivery")
    bus.subscribe("a.>", lambda message: met.append(message.body), name="s")
    with bus:
        wire(bus).inject(
            "a.b", b'{"specversion": "1.0", "id": "x", "type": "a.b", "source": "x", "time": "2013-01-01T00:00:00Z", "data": 1}'
        )
        bus.drain(timeout=10)
    assert met == ["delivery", 1]


# --- flow --------------------------------------------------------------------------------------------------------------


def test_a_full_mailbox_makes_the_transport_hold_and_offer_again(bus: Bus) -> None:
    """A mailbox with room for one does not keep the publisher waiting, and all messages arrive in order."""
    seen: list[int] = []
    go = threading.Event()

    def handle(message: Message) -> None:
        go.wait(10)
        seen.append(message.body)

    bus.subscribe("a", handle, name="s", mailbox=1)
    with bus:
        receipts = [bus.publish("a", number) for number in range(20)]
        go.set()
        bus.drain(timeout=10)
    assert receipts == [Receipt(1)] * 20
    assert seen == list(range(20))
    assert figures(bus)["acknowledged"] == 20


def test_a_full_mailbox_holds_up_nobody_else(bus: Bus) -> None:
    """The transport continues with the other subscriptions."""
    seen: list[int] = []
    all_seen, go = threading.Event(), threading.Event()

    def quick(message: Message) -> None:
        seen.append(message.body)
        if len(seen) == 20:
            all_seen.set()

    bus.subscribe("a", lambda message: go.wait(10), name="slow", mailbox=1)
    bus.subscribe("a", quick, name="quick")
    with bus:
        for number in range(20):
            bus.publish("a", number)
        assert all_seen.wait(10)
        go.set()
        bus.drain(timeout=10)
    assert figures(bus, "slow")["acknowledged"] == 20


@pytest.mark.parametrize(
    ("overflow", "kept"),
    [pytest.param("drop_newest", [1, 2], id="drop_newest"), pytest.param("drop_oldest", [1, 4], id="drop_oldest")],
)
def test_what_an_overflow_rule_drops_is_settled(bus: Bus, overflow: Any, kept: list[int]) -> None:
    """The transport learns about each dropped message, and keeps none of them."""
    seen: list[int] = []
    begun, go, two = threading.Event(), threading.Event(), threading.Semaphore(0)
    bus.observe(lambda e: two.release() if isinstance(e, events.Discarded) else None)

    def handle(message: Message) -> None:
        begun.set()
        go.wait(10)
        seen.append(message.body)

    bus.subscribe("a", handle, name="s", mailbox=2, overflow=overflow)
    with bus:
        bus.publish("a", 1)
        assert begun.wait(10)
        for number in (2, 3, 4):
            bus.publish("a", number)
        assert two.acquire(timeout=10)
        assert two.acquire(timeout=10)
        go.set()
        bus.drain(timeout=10)
    assert seen == kept
    assert (figures(bus)["dropped"], figures(bus)["acknowledged"]) == ({"overflow": 2}, 2)
    assert sorted(wire(bus).verdicts) == ["acknowledge", "acknowledge", "drop", "drop"]
    assert wire(bus).pending("s") == 0


def test_a_rejecting_mailbox_cannot_refuse_a_publisher_who_has_gone(bus: Bus) -> None:
    """The publisher of an `overflow="reject"` mailbox is gone, so the transport holds the message, as under "block"."""
    seen: list[int] = []
    go = threading.Event()

    def handle(message: Message) -> None:
        go.wait(10)
        seen.append(message.body)

    bus.subscribe("a", handle, name="s", mailbox=1, overflow="reject")
    with bus:
        for number in range(5):
            bus.publish("a", number)
        go.set()
        bus.drain(timeout=10)
    assert seen == list(range(5))


def test_what_an_ended_subscription_had_waiting_stays_in_the_store(bus: Bus) -> None:
    """Unsubscribing drops waiting messages here and counts them; a subscription with the same name gets them again."""
    seen: list[Any] = []
    subscription = bus.subscribe("a", lambda message: seen.append("first"), name="s")
    with bus:
        subscription.pause()
        bus.publish("a", 1)
        bus.publish("a", 2)
        wire(bus).wait_for(arrivals=2)
        subscription.unsubscribe()
        bus.subscribe("a", lambda message: seen.append(message.body), name="s")
        bus.drain(timeout=10)
    assert seen == [1, 2]


# --- publishing --------------------------------------------------------------------------------------------------------


def test_a_message_over_the_limit_is_refused_before_it_is_sent(make_bus: MakeBus) -> None:
    """`Bus(max_message_bytes=…)` is the transport's limit, and the publisher gets the error."""
    bus = make_bus(BYTES, max_message_bytes=1000)
    seen: list[Any] = []
    bus.subscribe("a", lambda message: seen.append(message.body), name="s")
    with bus:
        with pytest.raises(MessageTooLarge):
            bus.publish("a", "x" * 1000)
        bus.publish("a", "small")
        bus.drain(timeout=10)
        assert bus.stats()["errors"] == {"MessageTooLarge": 1}
    assert seen == ["small"]


def test_what_the_transport_raises_reaches_the_publisher_and_no_filter_is_blamed(bus: Bus) -> None:
    """The publisher gets an error of the engine as the same object, and no pipeline's `on_error` applies to it."""
    gone = ConnectionError("gone")

    def send(message: Message, delay: float) -> Receipt:
        raise gone

    wire(bus).send = send  # type: ignore[method-assign]
    bus.use(Pipeline(transform(lambda message: message), on_error="drop"))
    with bus:
        with pytest.raises(ConnectionError) as found:
            bus.publish("a")
        with pytest.raises(ConnectionError) as afound:
            asyncio.run(bus.apublish("a"))
    assert found.value is afound.value is gone


@pytest.mark.parametrize("chain", ["no filter", "sync", "transform", "async"])
def test_sending_never_stops_an_event_loop(bus: Bus, chain: str) -> None:
    """`send` may wait for a disk or a network, so it is never called on a loop, whatever the chain is made of."""

    async def asynchronous(message: Message, call_next: Any) -> Any:
        return await call_next(message)

    def plain(message: Message, call_next: Any) -> Any:
        return call_next(message)

    filters = {"no filter": (), "sync": (plain,), "transform": (transform(lambda m: m),), "async": (asynchronous,)}
    bus.use(*filters[chain])
    seen: list[Any] = []
    bus.subscribe("a", lambda message: seen.append(message.body), name="s")
    with bus:
        bus.publish("a", 1)
        assert asyncio.run(bus.apublish("a", 2)) == Receipt(1)
        bus.drain(timeout=10)
    assert seen == [1, 2]
    assert wire(bus).on_loops == 0
