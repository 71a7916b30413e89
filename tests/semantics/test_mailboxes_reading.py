"""
Guarantee 30: the owner of a subscription without a handler reads it, from any thread or event loop.
"""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from flow_helpers import (
    WAIT,
    Boom,
    DropAll,
    InThread,
    assert_conserved,
    bus_of,
    every_road,
    every_way,
    fine,
    running,
    wait_until,
)
from pipebus import (
    Bus,
    BusClosed,
    BusNotStarted,
    Dropped,
    LifecycleError,
    Message,
    PipebusError,
    PipelineError,
    ReceiveTimeout,
    Subject,
    Subscription,
    SubscriptionError,
    around,
    transform,
)
from tables import table

# --- receive, for, delivery: from threads ------------------------------------------------------------------------------


@every_way
@every_road
def test_s30_receive_hands_a_message_over_and_acknowledges_it(road: str, way: Any) -> None:
    """A message that `receive` returns counts as acknowledged."""
    with running(bus_of(road)) as bus:
        subscription = bus.subscribe("s.>")
        way(bus, "s.a.b", {"id": 1}, headers={"x": "y"})

        message = subscription.receive(timeout=0)

        assert (message.subject, message.body, message.headers) == ("s.a.b", {"id": 1}, {"x": "y"})
        assert subscription.stats()["acknowledged"] == 1


def test_s30_every_reader_goes_on_when_a_paused_subscription_is_resumed() -> None:
    """Each waiting reader gets one of the messages that came meanwhile, and none of them sleeps while there is one for it."""
    with running() as bus:
        subscription = bus.subscribe("s")
        subscription.pause()
        readers = [InThread(subscription.receive, timeout=10 * WAIT) for _ in range(3)]
        in_line = subscription.inbox._readers  # there is no public way to see that somebody waits
        wait_until(lambda: len(in_line) == 3, "three readers wait")
        for number in range(3):
            bus.publish("s", number)
        wait_until(lambda: len(in_line) == 3, "they have looked, and wait again")

        subscription.resume()

        assert sorted(reader.result().body for reader in readers) == [0, 1, 2]


def test_s30_for_reads_message_after_message() -> None:
    """Each step of the loop acknowledges one message, and never more than it has handed over."""
    with running() as bus:
        subscription = bus.subscribe("s")
        for body in range(5):
            bus.publish("s", body)

        seen = []
        for message in subscription:
            seen.append(message.body)
            if message.body == 2:
                break

        assert seen == [0, 1, 2]
        assert (subscription.stats()["acknowledged"], subscription.stats()["pending"]) == (3, 2)


@pytest.mark.parametrize("timeout", [0, 0.001])
def test_s30_with_nothing_there_in_time_receive_raises_a_timeout(timeout: float) -> None:
    """The error is a `TimeoutError`, and names the subscription and the time."""
    with running() as bus:
        subscription = bus.subscribe("s", name="inbox")
        assert issubclass(ReceiveTimeout, TimeoutError)

        with pytest.raises(ReceiveTimeout, match=f"inbox.* {timeout:g} s"):
            subscription.receive(timeout=timeout)
        with pytest.raises(ReceiveTimeout), subscription.delivery(timeout=timeout):
            raise AssertionError("there was nothing to deliver")

        bus.publish("s", "after the time-outs")
        assert subscription.receive(timeout=0).body == "after the time-outs"


@every_way
def test_s30_a_waiting_reader_is_woken_by_a_publish(way: Any) -> None:
    """`receive` without a timeout waits until a message comes."""
    with running() as bus:
        subscription = bus.subscribe("s")
        reader = InThread(subscription.receive)

        way(bus, "s", "x")

        assert reader.result().body == "x"


def test_s30_many_readers_share_the_messages() -> None:
    """If ten threads read one subscription, each message goes to one of them, and none waits while there is a message."""
    with running() as bus:
        subscription = bus.subscribe("s")
        readers = [InThread(subscription.receive) for _ in range(10)]
        for body in range(10):
            bus.publish("s", body)

        assert sorted(reader.result().body for reader in readers) == list(range(10))
        assert_conserved(subscription, accepted=10)


def test_s30_a_reader_that_gives_up_takes_no_message_and_no_wake_up_with_it() -> None:
    """While impatient readers come and go next to a patient one, every message reaches one of them."""
    with running() as bus:
        subscription = bus.subscribe("s")
        read: list[int] = []

        def impatient() -> None:
            for _ in range(200):
                try:
                    read.append(subscription.receive(timeout=0.0001).body)
                except ReceiveTimeout:
                    continue

        def patient() -> None:
            while (body := subscription.receive().body) != "end":
                read.append(body)

        impatient_ones = [InThread(impatient) for _ in range(3)]
        patient_one = InThread(patient)
        for body in range(300):
            bus.publish("s", body)
        for reader in impatient_ones:
            reader.result()
        bus.publish("s", "end")
        patient_one.result()

        assert sorted(read) == list(range(300))


def test_s30_a_subscription_used_as_a_block_ends_with_it() -> None:
    """After `with bus.subscribe(…) as sub:` the subscription has ended, and unread messages are counted."""
    with running() as bus:
        with bus.subscribe("s") as subscription:
            bus.publish("s", "read")
            bus.publish("s", "unread")
            assert subscription.receive(timeout=0).body == "read"

        assert bus.publish("s").mailboxes == 0
        assert subscription.stats()["dropped"] == {"unsubscribed": 1}
        assert_conserved(subscription, accepted=2)


# --- event loops -------------------------------------------------------------------------------------------------------


def test_s30_a_coroutine_reads_with_the_a_twins() -> None:
    """`areceive`, `async for` and `adelivery` do the same on a loop as their twins in a thread."""
    with running() as bus:
        subscription = bus.subscribe("s")

        async def read() -> list[Any]:
            for body in range(6):
                bus.publish("s", body)
            found = [(await subscription.areceive(timeout=0)).body]
            async for message in subscription:
                found.append(message.body)
                if message.body == 2:
                    break
            async with subscription.adelivery(timeout=0) as delivery:
                found.append(delivery.message.body)
            with pytest.raises(Boom):
                async with subscription.adelivery(timeout=0):
                    raise Boom
            return found

        assert asyncio.run(read()) == [0, 1, 2, 3]
        assert (subscription.stats()["acknowledged"], subscription.stats()["pending"]) == (4, 2)


def test_s30_a_waiting_coroutine_is_woken_from_another_thread() -> None:
    """A message published by a thread wakes `areceive` on its loop, and the loop is free until then."""
    with running() as bus:
        subscription = bus.subscribe("s")

        async def read() -> Any:
            reader = asyncio.create_task(subscription.areceive())
            await asyncio.sleep(0)
            await asyncio.to_thread(bus.publish, "s", "x")
            return (await asyncio.wait_for(reader, WAIT)).body

        assert asyncio.run(read()) == "x"


def test_s30_areceive_raises_a_timeout_too() -> None:
    """If nothing comes in time, `areceive` and `adelivery` raise ReceiveTimeout."""
    with running() as bus:
        subscription = bus.subscribe("s")

        async def read() -> None:
            with pytest.raises(ReceiveTimeout):
                await subscription.areceive(timeout=0.001)
            with pytest.raises(ReceiveTimeout):
                async with subscription.adelivery(timeout=0.001):
                    raise AssertionError("there was nothing to deliver")

        asyncio.run(read())


def test_s30_a_reader_that_is_cancelled_loses_no_message() -> None:
    """A cancelled `areceive` takes no message; if it had been woken, another reader is woken instead."""
    with running() as bus:
        subscription = bus.subscribe("s")

        async def read() -> list[Any]:
            cancelled = asyncio.create_task(subscription.areceive())
            patient = asyncio.create_task(subscription.areceive())
            await asyncio.sleep(0)
            bus.publish("s", "x")  # wakes the first reader, which is cancelled before it runs
            cancelled.cancel()
            with pytest.raises(asyncio.CancelledError):
                await cancelled
            return [(await asyncio.wait_for(patient, WAIT)).body]

        assert asyncio.run(read()) == ["x"]
        assert_conserved(subscription, accepted=1)


@pytest.mark.parametrize("kept", [False, True], ids=["memory", "sqlite"])
def test_s13_a_reader_cancelled_with_a_delivery_returns_it_without_a_counted_attempt(kept: bool, tmp_path: Path) -> None:
    """The message comes again as if it had not been taken, however often its readers are cancelled."""
    bus = Bus(f"sqlite:///{tmp_path}/bus.db") if kept else Bus()
    jobs = bus.subscribe("jobs", name="jobs", attempts=1)

    async def read() -> list[int]:
        attempts = []

        async def work_too_long() -> None:
            async with asyncio.timeout(None) as limit, jobs.adelivery(WAIT) as delivery:
                attempts.append(delivery.attempt)
                limit.reschedule(0)
                await asyncio.Event().wait()

        await bus.astart()
        await bus.apublish("jobs", "render")
        for _ in range(2):
            with pytest.raises(TimeoutError):
                await work_too_long()
        async with jobs.adelivery(WAIT) as delivery:
            attempts.append(delivery.attempt)
        await bus.astop(WAIT)
        return attempts

    assert asyncio.run(read()) == [1, 1, 1]
    assert len(bus.dead_letters) == 0
    assert_conserved(jobs, accepted=1)


def test_s13_a_reader_that_raises_a_cancellation_of_its_own_has_failed() -> None:
    """Nobody has cancelled it, so the attempt counts."""
    with running() as bus:
        jobs = bus.subscribe("jobs", attempts=1)
        bus.publish("jobs", "render")

        async def read() -> None:
            async with jobs.adelivery(WAIT):
                raise asyncio.CancelledError

        with pytest.raises(asyncio.CancelledError):
            asyncio.run(read())
        assert jobs.stats()["dead"] == 1


def test_s13_ctrl_c_in_a_readers_block_returns_the_message_without_a_counted_attempt() -> None:
    """An interrupt is not a failure of the message in hand."""
    with running() as bus:
        jobs = bus.subscribe("jobs", attempts=1)
        bus.publish("jobs", "render")
        with pytest.raises(KeyboardInterrupt), jobs.delivery(WAIT):
            raise KeyboardInterrupt
        with jobs.delivery(WAIT) as delivery:
            assert delivery.attempt == 1


BLOCKING: dict[str, tuple[Callable[[Bus, Subscription], object], str]] = {
    "receive": (lambda bus, sub: sub.receive(timeout=0), "areceive"),
    "for": (lambda bus, sub: next(iter(sub)), "areceive"),
    "delivery": (lambda bus, sub: sub.delivery(timeout=0).__enter__(), "adelivery"),
    "stop": (lambda bus, sub: bus.stop(), "astop"),
    "unsubscribe": (lambda bus, sub: sub.unsubscribe(), "aunsubscribe"),
    "drain": (lambda bus, sub: bus.drain(), "adrain"),
}


@table("name", list(BLOCKING))
def test_s30_a_blocking_call_on_a_running_loop_raises_and_names_its_twin(name: str) -> None:
    """Such a call would block the loop; the error names its twin that does not, and that twin exists."""
    call, twin = BLOCKING[name]
    with running() as bus:
        subscription = bus.subscribe("s")
        bus.publish("s", "x")

        async def on_loop() -> None:
            call(bus, subscription)

        with pytest.raises((PipelineError, LifecycleError), match=rf"\b{twin}\b"):
            asyncio.run(on_loop())

        assert callable(getattr(subscription, twin, None) or getattr(bus, twin, None))
        assert subscription.receive(timeout=0).body == "x"


# --- filters around readers --------------------------------------------------------------------------------------------


@transform
def shout(message: Message) -> Message:
    return message.with_body(message.body.upper())


def test_s30_bus_wide_delivery_transforms_apply_to_readers_too() -> None:
    """Transforms also change the messages of readers: first those of the bus, then those of the subscription."""

    @transform
    def exclaim(message: Message) -> Message:
        return message.with_body(f"{message.body}!")

    bus = Bus()
    bus.use(shout, at="delivery")
    with running(bus):
        subscription = bus.subscribe("s", filters=[exclaim])
        bus.publish("s", "hello")
        bus.publish("s", "again")

        assert subscription.receive(timeout=0).body == "HELLO!"
        with subscription.delivery(timeout=0) as delivery:
            assert delivery.message.body == "AGAIN!"


def test_s30_other_bus_wide_delivery_filters_wrap_handlers_only() -> None:
    """Plain filters and Arounds do not run for a reader, which has nothing to wrap, and `explain` says so."""
    ran: list[str] = []

    def plain(message: Message, call_next: Any) -> Any:
        ran.append("plain")
        return call_next(message)

    @around
    def generator(message: Message) -> Any:
        ran.append("around")
        yield message

    bus = Bus()
    bus.use(plain, generator, shout, at="delivery")
    with running(bus):
        subscription = bus.subscribe("s", name="reader")
        bus.publish("s", "hello")

        assert subscription.receive(timeout=0).body == "HELLO"
        assert ran == []
        assert "not for readers" in bus.explain("s")


@pytest.mark.parametrize("shape", ["plain", "around"])
def test_s30_a_readers_own_filters_must_be_transforms(shape: str) -> None:
    """A filter that wraps the rest is refused where the subscription is made, and the error says what to do."""

    def plain(message: Message, call_next: Any) -> Any:
        return call_next(message)

    @around
    def generator(message: Message) -> Any:
        yield message

    with running() as bus, pytest.raises(PipelineError, match="make it a Transform"):
        bus.subscribe("s", filters=[plain if shape == "plain" else generator])


class _EndsSome(DropAll):
    def transform(self, message: Message) -> Any:
        if message.body == "drop":
            return Dropped("unwanted")
        if message.body == "fail":
            raise Boom
        return message


@pytest.mark.parametrize("at", ["bus-wide", "own"])
def test_s30_what_a_readers_filter_ends_is_settled_and_receive_goes_on(at: str) -> None:
    """A dropped and a failed message are counted as such, and the reader gets the next one."""
    bus = Bus()
    if at == "bus-wide":
        bus.use(_EndsSome(), at="delivery")
    with running(bus):
        subscription = bus.subscribe("s", filters=[_EndsSome()] if at == "own" else [])
        for body in ("drop", "fail", "good", "drop"):
            bus.publish("s", body)

        assert subscription.receive(timeout=0).body == "good"
        with pytest.raises(ReceiveTimeout):
            subscription.receive(timeout=0)
        stats = subscription.stats()
        assert (stats["acknowledged"], stats["dropped"], stats["dead"]) == (1, {"unwanted": 2}, 1)


# --- bodies of a type: see also tests/transports/test_typed.py ----------------------------------------------------------


@dataclass
class Order:
    id: int


@pytest.mark.parametrize("at", ["bus-wide", "own", "none"])
def test_s30_a_typed_readers_filters_run_first(at: str) -> None:
    """What the Transforms make of a body is validated as the subject's type; what does not fit is counted as dead."""

    @transform
    def parse(message: Message) -> Message:
        return message.with_body({"id": message.body} if at != "none" else message.body)

    bus = Bus()
    if at == "bus-wide":
        bus.use(parse, at="delivery")
    with running(bus):
        orders = bus.subscribe(Subject[Order]("s"), name="orders", filters=[parse] if at == "own" else [])
        for body in ("none", "1"):
            bus.publish("s", body if at != "none" else {"id": body})

        assert orders.receive(timeout=0).body == Order(1)
        (letter,) = bus.dead_letters.list()
        assert (letter.subscription, letter.error.partition(": id")[0]) == ("orders", "Rejected: rejected by orders")
        assert_conserved(orders, accepted=2)


def test_s30_a_body_of_the_subjects_type_is_read_as_it_is() -> None:
    """In memory, a typed reader gets the very message that was sent."""
    sent = Message("s", Order(1))
    with running() as bus:
        orders = bus.subscribe(Subject[Order]("s"))
        bus.send(sent)

        assert orders.receive(timeout=0) is sent


@pytest.mark.parametrize("subject", ["s", Subject("s"), Subject[Any]("s"), [Subject[Order]("s")]], ids=repr)
def test_s30_a_reader_of_a_subject_without_a_type_gets_what_was_sent(subject: Any) -> None:
    """A plain name, a `Subject[Any]` and a list say nothing about bodies."""
    with running() as bus:
        reader = bus.subscribe(subject)
        bus.publish("s", {"id": "1"})

        assert reader.receive(timeout=0).body == {"id": "1"}


def test_s30_a_type_that_cannot_be_validated_is_refused() -> None:
    """The error names the subscription, its place and the type."""
    with running() as bus, pytest.raises(SubscriptionError, match=r"subscription inbox \(at .*\): cannot validate .*Unknown"):
        bus.subscribe(Subject["Unknown"]("s"), name="inbox")  # type: ignore[name-defined]


# --- what ends a wait --------------------------------------------------------------------------------------------------


def _ends_for(subscription: Subscription) -> str:
    for message in subscription:
        raise AssertionError(f"there was nothing to read, but {message}")
    return "ended"


ENDS: dict[str, Callable[[Bus, Subscription], object]] = {
    "stop": lambda bus, sub: bus.stop(timeout=WAIT),
    "stop-without-draining": lambda bus, sub: bus.stop(timeout=WAIT, drain=False),
    "request_stop": lambda bus, sub: bus.request_stop(),
    "unsubscribe": lambda bus, sub: sub.unsubscribe(),
}


@pytest.mark.parametrize("end", list(ENDS))
def test_s30_a_stop_ends_every_wait_for_a_message(end: str) -> None:
    """A blocked `receive` or `delivery` raises BusClosed, and a `for` loop ends; their twins on a loop do the same."""
    with running(drain=False) as bus:
        subscription = bus.subscribe("s")
        in_for = threading.Event()

        def read_in_for() -> str:
            in_for.set()
            return _ends_for(subscription)

        async def read_on_loop() -> str:
            with pytest.raises(BusClosed):
                await subscription.areceive()
            async for message in subscription:
                raise AssertionError(f"there was nothing to read, but {message}")
            return "ended"

        receiving = [InThread(subscription.receive) for _ in range(3)]
        delivering = InThread(lambda: subscription.delivery().__enter__())
        looping = InThread(read_in_for)
        on_loop = InThread(lambda: asyncio.run(read_on_loop()))
        assert in_for.wait(WAIT)

        ENDS[end](bus, subscription)

        for reader in (*receiving, delivering):
            with pytest.raises(BusClosed):
                reader.result()
        assert looping.result() == "ended"
        assert on_loop.result() == "ended"


def test_s30_what_is_there_can_still_be_read_when_a_stop_was_requested() -> None:
    """A request to stop ends the wait and not the reading: unread messages come first, and then the end."""
    with running() as bus:
        subscription = bus.subscribe("s")
        for body in range(3):
            bus.publish("s", body)
        bus.request_stop()

        assert [message.body for message in subscription] == [0, 1, 2]
        with pytest.raises(BusClosed):
            subscription.receive()


def test_s30_reading_after_a_stop_raises() -> None:
    """A stopped bus hands out no message, and the message waits for the next start."""
    with running(drain=False) as bus:
        subscription = bus.subscribe("s")
        bus.publish("s", "kept")
        assert list(bus.stop(timeout=WAIT).left.values()) == [1]
        with pytest.raises(BusClosed):
            subscription.receive(timeout=0)

        bus.start()

        assert subscription.receive(timeout=0).body == "kept"
        reader = InThread(subscription.receive)
        bus.publish("s", "new")
        assert reader.result().body == "new"


# --- what cannot be ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("read", ["receive", "delivery", "__iter__"])
def test_s30_a_subscription_with_a_handler_cannot_be_read(read: str) -> None:
    """The error says that the subscription has a handler."""
    with running() as bus:
        subscription = bus.subscribe("s", fine, name="handled")

        with pytest.raises(PipebusError, match="handled has a handler"):
            getattr(subscription, read)()


@pytest.mark.parametrize("options", [{"workers": 2}, {"to": "results"}], ids=["workers", "to"])
def test_s30_settings_for_handlers_are_refused_without_one(options: dict[str, Any]) -> None:
    """`workers` and `to` mean nothing without a handler, so they are a mistake."""
    (name,) = options

    with running() as bus, pytest.raises(SubscriptionError, match=name):
        bus.subscribe("s", **options)


@pytest.mark.parametrize("timeout", [None, 0.0, 5.0])
def test_s27_reading_before_the_start_is_refused(timeout: float | None) -> None:
    """Nothing could come, so a reader that forgot the start would wait forever; the error says what to write."""
    bus = Bus()
    inbox = bus.subscribe("a", name="inbox")

    async def read() -> None:
        await inbox.areceive(timeout)

    says = "not started, so nothing comes for inbox; use `with bus:`, `async with bus:` or bus.start()"
    for call in (lambda: inbox.receive(timeout), lambda: asyncio.run(read()), lambda: next(iter(inbox))):
        with pytest.raises(BusNotStarted, match=says):
            call()
    with running(bus):
        bus.publish("a", 1)
        assert inbox.receive(timeout=WAIT).body == 1
