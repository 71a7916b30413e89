"""
The bus does not keep what has ended: the filters of a subscription that is gone, its delayed messages, and stopped schedules.
None of these waits for the bus to stop, or for a time that is a day away. Messages that hold themselves are collected, too.
"""

from __future__ import annotations

import asyncio
import gc
import weakref
from collections.abc import Callable
from typing import Any

import pytest

from flow_helpers import WAIT, Hold, InThread, boom, fine, running, wait_until
from pipebus import Actor, Bus, Delivery, Message, Ref, Transform

DAY = 86_400.0


class Living(Transform):
    """A filter that counts its starts and stops."""

    def __init__(self) -> None:
        self.life: list[str] = []

    def start(self, context: Any) -> None:
        self.life.append("start")

    def stop(self) -> None:
        self.life.append("stop")

    def transform(self, message: Message) -> Message:
        return message


class AsyncLiving(Living):
    async def stop(self) -> None:  # type: ignore[override]
        await asyncio.sleep(0)
        self.life.append("stop")


class Body:
    """A body whose end the tests can see."""


def assert_collected(*references: weakref.ref[Any]) -> None:
    gc.collect()
    wait_until(lambda: gc.collect() >= 0 and all(one() is None for one in references), "it has been collected")


async def afine(message: Message) -> None:
    return None


# --- filters --------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", [Living, AsyncLiving])
@pytest.mark.parametrize(
    ("handler", "options"),
    [(fine, {}), (fine, {"workers": 2}), (fine, {"run": "thread"}), (afine, {}), (None, {})],
    ids=["pool", "two-workers", "thread", "loop", "pull"],
)
def test_a_filter_of_a_subscription_that_is_gone_is_stopped_and_collected(
    handler: Any, options: dict[str, Any], kind: type[Living]
) -> None:
    """When `unsubscribe` returns, the filter has stopped once, and the bus does not keep it alive."""
    with running() as bus:
        filter = kind()
        life = filter.life
        subscription = bus.subscribe("s", handler, filters=[filter], **options)
        bus.publish("s", 1)
        bus.drain(WAIT)
        subscription.unsubscribe()
        assert life == ["start", "stop"]

        reference = weakref.ref(filter)
        del filter, subscription
        assert_collected(reference)
    assert life == ["start", "stop"]


def test_a_filter_is_stopped_when_the_last_subscription_that_has_it_is_gone() -> None:
    """A filter of two subscriptions stops when the second one ends; a later subscription starts it again."""
    filter = Living()
    with running() as bus:
        first = bus.subscribe("a", fine, filters=[filter])
        second = bus.subscribe("b", fine, filters=[filter])
        first.unsubscribe()
        first.unsubscribe()
        assert filter.life == ["start"]
        second.unsubscribe()
        assert filter.life == ["start", "stop"]
        bus.subscribe("b", fine, filters=[filter])
        assert filter.life == ["start", "stop", "start"]
    assert filter.life == ["start", "stop"] * 2


def test_a_filter_that_the_bus_has_too_is_not_stopped_with_a_subscription() -> None:
    """The bus still uses the filter, so it stops only when the bus stops."""
    filter = Living()
    bus = Bus()
    bus.use(filter)
    with running(bus):
        bus.subscribe("a", fine, filters=[filter]).unsubscribe()
        assert filter.life == ["start"]
    assert filter.life == ["start", "stop"]


def test_a_filter_is_stopped_after_the_handler_that_runs_inside_it() -> None:
    """When a handler ends its own subscription, the filter around it stops once that handler has ended."""
    filter = Living()
    at_end: list[list[str]] = []

    def handle(message: Message) -> None:
        subscription.unsubscribe()
        at_end.append(list(filter.life))

    with running() as bus:
        subscription = bus.subscribe("s", handle, filters=[filter])
        bus.publish("s", 1)
        bus.drain(WAIT)
        wait_until(lambda: filter.life == ["start", "stop"], "the filter has stopped")

        assert at_end == [["start"]]
    assert filter.life == ["start", "stop"]


def test_a_filter_is_stopped_when_an_unsubscribe_did_not_wait_for_the_handler() -> None:
    """If a handler outlives the time-out of `unsubscribe`, its filter stops when the handler ends."""
    filter, hold = Living(), Hold()
    with running() as bus:
        subscription = bus.subscribe("s", hold, filters=[filter])
        bus.publish("s", 1)
        hold.wait_started()
        with pytest.raises(TimeoutError):
            subscription.unsubscribe(timeout=0.0)
        assert filter.life == ["start"]
        hold.open()
        wait_until(lambda: filter.life == ["start", "stop"], "the filter has stopped")


def test_a_coroutine_that_unsubscribes_stops_the_filter_too() -> None:
    """When `aunsubscribe` returns, the filter has stopped."""
    filter = AsyncLiving()

    async def main() -> None:
        async with Bus() as bus:
            subscription = bus.subscribe("s", afine, filters=[filter])
            await bus.apublish("s", 1)
            await bus.adrain(WAIT)
            await subscription.aunsubscribe()
            assert filter.life == ["start", "stop"]

    InThread(asyncio.run, main()).result()
    assert filter.life == ["start", "stop"]


def test_a_filter_of_an_actor_is_stopped_with_it() -> None:
    """Actors come and go more often than other subscriptions, so their filters must go with them."""

    class Quiet(Actor):
        def on_message(self, message: Message) -> None:
            return None

    filter = Living()
    with running() as bus:
        actor = bus.spawn(Quiet(), filters=[filter])
        bus.publish(actor, 1)
        bus.drain(WAIT)
        actor.stop()
        wait_until(lambda: filter.life == ["start", "stop"], "the filter has stopped")
    assert filter.life == ["start", "stop"]


def test_a_filter_of_a_subscription_that_could_not_be_made_is_let_go() -> None:
    """If a second filter cannot start, the first one stops, and both are collected."""

    class Broken(Living):
        def start(self, context: Any) -> None:
            raise OSError("no")

    with running() as bus:
        first, second = Living(), Broken()
        life = first.life
        with pytest.raises(OSError, match="no"):
            bus.subscribe("s", fine, filters=[first, second])
        references = weakref.ref(first), weakref.ref(second)
        del first, second
        assert life == ["start", "stop"]
        assert_collected(*references)


# --- time -----------------------------------------------------------------------------------------------------------------


def end_by_unsubscribe(bus: Bus, body: Any) -> None:
    subscription = bus.subscribe("later", fine)
    bus.publish("later", body, delay=DAY)
    subscription.unsubscribe()


def end_two_workers(bus: Bus, body: Any) -> None:
    subscription = bus.subscribe("later", fine, workers=2)
    bus.publish("later", body, delay=DAY)
    subscription.unsubscribe()


def end_an_actor(bus: Bus, body: Any) -> None:
    class Late(Actor):
        def on_message(self, message: Message) -> None:
            return None

    actor = bus.spawn(Late())
    bus.publish(actor, body, delay=DAY)
    actor.stop()


def end_a_schedule(bus: Bus, body: Any) -> None:
    bus.every(DAY, "later", body).stop()


def end_a_retry(bus: Bus, body: Any) -> None:
    done: list[Any] = []

    def handle(message: Message, delivery: Delivery) -> None:
        delivery.retry(delay=DAY)
        done.append(1)

    subscription = bus.subscribe("later", handle)
    bus.publish("later", body)
    wait_until(lambda: bool(done), "it was given back")
    subscription.unsubscribe()


@pytest.mark.parametrize(
    "end", [end_by_unsubscribe, end_two_workers, end_an_actor, end_a_schedule, end_a_retry], ids=lambda end: end.__name__
)
def test_what_is_due_in_a_day_is_let_go_with_what_it_was_for(end: Callable[[Bus, Any], None]) -> None:
    """The body of a message is collected at once, and not when its time comes."""
    with running() as bus:
        body = Body()
        reference = weakref.ref(body)
        end(bus, body)
        del body
        assert_collected(reference)


def test_stopped_schedules_do_not_pile_up() -> None:
    """The bus keeps nothing of ten thousand schedules that come and go."""
    with running() as bus:
        kept = bus.every(DAY, "kept")

        def come_and_go(count: int) -> None:
            for _ in range(count):
                bus.every(DAY, "tick").stop()

        def objects() -> int:
            gc.collect()
            return len(gc.get_objects())

        come_and_go(1_000)
        before = objects()
        come_and_go(10_000)
        wait_until(lambda: objects() < before + 1_000, "what was stopped is let go")
        kept.stop()


def test_what_was_not_stopped_still_comes_in_its_time() -> None:
    """A schedule between a thousand stopped ones still publishes in time."""
    hold = Hold(open=True)
    with running() as bus:
        bus.subscribe("due", hold)
        for number in range(1_000):
            if number % 100 == 0:
                bus.publish("due", number, delay=0.01)
            bus.every(DAY, "tick").stop()
        bus.drain(WAIT)

        assert sorted(hold.given) == list(range(0, 1_000, 100))


def test_a_dead_letter_keeps_no_filter_from_being_stopped() -> None:
    """The dead letter stays, and still names its subscription."""
    filter = Living()
    with running() as bus:
        subscription = bus.subscribe("s", boom, name="fails", filters=[filter])
        bus.publish("s", 1)
        bus.drain(WAIT)
        subscription.unsubscribe()

        assert filter.life == ["start", "stop"]
        assert [letter.subscription for letter in bus.dead_letters] == ["fails"]


# --- messages that hold themselves ----------------------------------------------------------------------------------------


class Keeper(Actor):
    """An actor that keeps its mail."""

    def on_message(self, message: Message) -> None:
        self.kept = message


def mail_of_an_actor() -> weakref.ref[Any]:
    keeper = Keeper("keeper")
    with Bus() as bus:
        bus.spawn(keeper)
        bus.publish(keeper, "text")
        bus.drain(WAIT)
    assert keeper.kept.subject is keeper
    return weakref.ref(keeper)


def mail_to_an_object() -> weakref.ref[Any]:
    thing: Any = Body()
    thing.mail = Message(Ref(thing), "text")
    return weakref.ref(thing)


def an_answer_to_an_object() -> weakref.ref[Any]:
    thing: Any = Body()
    thing.mail = Message("ask", reply_to=Ref(thing))
    return weakref.ref(thing)


def received(body: Any) -> Message:
    with Bus() as bus, bus.subscribe("a") as subscription:
        bus.publish("a", body)
        message = subscription.receive(timeout=WAIT)
        assert message is not None
        return message


def a_dict_in_its_own_message(make: Callable[[Any], Message] = received) -> weakref.ref[Any]:
    witness = Body()
    body: dict[str, Any] = {"number": 1}  # plain data, which the collector ignores, until the message is made
    body |= {"message": make(body), "witness": witness}
    return weakref.ref(witness)


def a_dict_in_a_copy_of_a_plain_message() -> weakref.ref[Any]:
    return a_dict_in_its_own_message(Message("a", "text").with_body)


def a_list_in_its_own_message() -> weakref.ref[Any]:
    witness = Body()
    body: list[Any] = [witness]
    body.append(received(body))
    return weakref.ref(witness)


@pytest.mark.parametrize(
    "make",
    [
        mail_of_an_actor,
        mail_to_an_object,
        an_answer_to_an_object,
        a_dict_in_its_own_message,
        a_dict_in_a_copy_of_a_plain_message,
        a_list_in_its_own_message,
    ],
    ids=lambda make: make.__name__,
)
def test_a_message_that_holds_itself_is_collected(make: Callable[[], weakref.ref[Any]]) -> None:
    """The collector finds a message whose subject, reply_to or body refers to the message itself."""
    assert_collected(make())


def test_the_collector_never_visits_messages_of_plain_data() -> None:
    """A full mailbox of texts costs the collector nothing."""
    message = received("text")
    assert message.id
    copies = [message.with_body(b"bytes"), Message("a", 2.0, key="k", ttl=5)]
    assert not any(gc.is_tracked(each) for each in (message, *copies))
