"""
What users see through a type checker. Never run: `tests/test_typing.py` gives it to mypy and pyright in strict mode.

Each function is a promise. What must be flagged carries a `type: ignore` with mypy's code; an ignore that is not needed is an
error too, so a mistake that is no longer found fails the test just as a false alarm does.
"""

from __future__ import annotations

import sqlite3
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from typing import Any, assert_type

from pipebus import (
    Actor,
    Around,
    Bus,
    Call,
    Delivery,
    Dropped,
    Filter,
    Handled,
    Handlers,
    Message,
    Pause,
    Pipeline,
    Publisher,
    Receipt,
    Receiver,
    Ref,
    Schedule,
    StopReport,
    Subject,
    Subscription,
    Transform,
    around,
    branch,
    transform,
    when,
)
from pipebus.filters import (
    CircuitBreaker,
    Concurrency,
    Dedupe,
    Expire,
    Fallback,
    Log,
    RateLimit,
    Redeliver,
    Retry,
    SetEnvelope,
    Sign,
    SizeLimit,
    Timeout,
    Verify,
)


@dataclass
class Order:
    id: int


@dataclass
class RushOrder(Order):
    minutes: int


@dataclass
class Invoice:
    number: str


CREATED = Subject[Order]("orders.created")
BILLED = Subject[Order, Invoice]("orders.bill")
LAST = Subject[None, Order]("orders.last")
TICK = Subject[None]("tick")


# --- messages ----------------------------------------------------------------------------------------------------------


def a_message_knows_the_type_of_its_body() -> None:
    """`Message(subject, body)` is a message of that body, without an annotation."""
    message = Message("orders.created", Order(1))
    assert_type(message, Message[Order])
    assert_type(message.body, Order)
    message.body.number  # type: ignore[attr-defined]


def a_message_without_a_body_needs_no_annotation() -> None:
    """`Message("tick")` alone is enough, even if it is assigned to a name for later."""
    message = Message("tick")
    assert_type(message.id, str)
    assert_type(message.time, float)


def with_body_changes_the_type() -> None:
    """`with_body` gives a message of the new body."""
    changed = Message("orders.created", Order(1)).with_body(Invoice("7"))
    assert_type(changed, Message[Invoice])
    assert_type(changed.body.number, str)


def with_headers_keeps_the_type() -> None:
    """`with_headers` gives a message of the same body."""
    changed = Message("orders.created", Order(1)).with_headers({"a": "b"}, c="d")
    assert_type(changed, Message[Order])


def replace_knows_the_fields() -> None:
    """`replace` gives a message of the new body, or of the same; a wrong field is found before the program runs."""
    message = Message("orders.created", Order(1), {"a": "b"}, ttl="5s", key="k")
    assert_type(message.replace(body=Invoice("7"), ttl="200ms"), Message[Invoice])
    assert_type(message.replace(headers={"a": "c"}, key=None), Message[Order])
    assert_type(message.replace(ttl=3).ttl, float | None)
    message.replace(colour="red")  # type: ignore[call-overload]


def a_message_is_read_only() -> None:
    """A field cannot be assigned to."""
    message = Message("orders.created", Order(1))
    message.body = Order(2)  # type: ignore[misc]
    message.id = "7"  # type: ignore[misc]


def message_stands_without_brackets(message: Message) -> None:
    """Plain `Message` is a complete annotation where the body's type does not matter."""
    assert_type(message.body, Any)


def header_values_are_strings() -> None:
    """A number among the headers is found before the program runs."""
    Message("orders.created").with_headers(tries=3)  # type: ignore[arg-type]


# --- outcomes ----------------------------------------------------------------------------------------------------------


def an_outcome_is_a_receipt_or_dropped(bus: Bus) -> None:
    """`publish` and `send` return a `Receipt` or a `Dropped`."""
    assert_type(bus.publish("orders.created", 1), Receipt | Dropped)
    assert_type(bus.send(Message("orders.created", 1)), Receipt | Dropped)


async def an_awaited_outcome_is_the_same(bus: Bus) -> None:
    """`apublish` and `asend` return the same as their sync versions."""
    assert_type(await bus.apublish("orders.created", 1), Receipt | Dropped)
    assert_type(await bus.asend(Message("orders.created", 1)), Receipt | Dropped)


def a_publish_may_be_part_of_a_transaction_and_a_schedule_may_not(bus: Bus, connection: sqlite3.Connection) -> None:
    """Each tick of a schedule comes when no transaction of that time is open any more."""
    assert_type(bus.publish("orders.created", 1, within=connection), Receipt | Dropped)
    bus.every("1h", "orders.count", within=connection)  # type: ignore[call-overload]


async def durations_may_be_text(bus: Bus, delivery: Delivery) -> None:
    """Wherever seconds are taken, so is text with a unit."""
    bus.publish("orders.created", 1, ttl="5s", delay="200ms", strict=True)
    bus.request("orders.get", 1, timeout="2s")
    bus.subscribe("orders.created", overflow_timeout="1m").receive("10s")
    delivery.retry("1s")
    bus.every("1m", "tick")
    bus.drain("1m")
    assert_type(await bus.arun("30s"), StopReport)


def truth_tells_the_outcomes_apart(bus: Bus) -> None:
    """The outcome is a `Receipt` after `if outcome`, and `Dropped` after `else`."""
    outcome = bus.publish("orders.created", 1)
    if outcome:
        assert_type(outcome.mailboxes, int)
    else:
        assert_type(outcome.reason, str)
        assert_type(outcome.by, str | None)


def a_class_tells_the_outcomes_apart(bus: Bus) -> None:
    """Both `isinstance` and `match` narrow the type."""
    match bus.publish("orders.created", 1):
        case Receipt(mailboxes=count):
            assert_type(count, int)
        case Dropped(reason=reason):
            assert_type(reason, str)


# --- subjects ----------------------------------------------------------------------------------------------------------


def a_subject_is_a_string() -> None:
    """A `Subject` can be used wherever a string can."""
    name: str = CREATED
    assert_type(name.split("."), list[str])
    assert_type(CREATED, Subject[Order])


def the_right_body_is_accepted(bus: Bus) -> None:
    """A `Subject[Order]` takes an `Order` and its subclasses."""
    bus.publish(CREATED, Order(1))
    bus.publish(CREATED, RushOrder(1, 5), key="7", headers={"a": "b"})


def the_wrong_body_is_flagged(bus: Bus) -> None:
    """A `Subject[Order]` takes only an `Order`."""
    bus.publish(CREATED, Invoice("7"))  # type: ignore[misc]
    bus.publish(CREATED, body={"id": 1})  # type: ignore[misc]


def a_missing_body_is_flagged(bus: Bus) -> None:
    """A `Subject[Order]` requires an `Order`; a `Subject[None]` needs no body."""
    bus.publish(TICK)
    bus.publish(CREATED)  # type: ignore[arg-type]


async def apublish_follows_a_subject_too(bus: Bus) -> None:
    """The version for coroutines is as strict."""
    await bus.apublish(CREATED, Order(1))
    await bus.apublish(CREATED, Invoice("7"))  # type: ignore[misc]


def a_string_takes_any_body(bus: Bus, name: str) -> None:
    """A subject without a type takes any body."""
    bus.publish("orders.created", Invoice("7"))
    bus.publish("orders.created")
    bus.publish(name, Order(1))
    bus.publish(f"orders.{name}", 5)
    bus.publish(Subject[Any]("orders.created"), 5)


def an_object_is_wrapped_as_a_ref(bus: Bus) -> None:
    """Mail to an object goes to `Ref(obj)`; the bare object is flagged."""
    bus.publish(Ref(object()), 5)
    bus.publish(5, 5)  # type: ignore[call-overload]
    bus.publish(None, 5)  # type: ignore[call-overload]


# --- requests ----------------------------------------------------------------------------------------------------------


def a_reply_has_the_expected_type(bus: Bus) -> None:
    """`reply` is the type of the reply's body; without it, any body is."""
    assert_type(bus.request("orders.bill", 5, reply=Invoice), Message[Invoice])
    assert_type(bus.request("orders.all", reply=list[Order], timeout=1.0).body, list[Order])
    assert_type(bus.request(CREATED, Order(1), reply=Invoice).body.number, str)
    assert_type(bus.request("orders.bill", 5), Message[Any])
    assert_type(bus.request("orders.bill", 5, reply=Invoice | Order), Message[Any])
    assert_type(bus.request(CREATED, Order(1)), Message[Any])


def a_subject_may_know_the_type_of_its_replies(bus: Bus) -> None:
    """The second type of a `Subject` is that of the replies' bodies."""
    assert_type(bus.request(BILLED, Order(1)), Message[Invoice])
    assert_type(bus.request(LAST, timeout=1.0).body.id, int)
    bus.request(BILLED, Order(1)).body.id  # type: ignore[attr-defined]


def a_wrong_question_is_flagged(bus: Bus) -> None:
    """A `Subject` with a type for replies is as strict about the question."""
    bus.request(BILLED, Invoice("7"))  # type: ignore[misc]
    bus.request(BILLED)  # type: ignore[arg-type]
    bus.request(CREATED, Invoice("7"), reply=Invoice)  # type: ignore[misc]
    bus.publish(BILLED, Invoice("7"))  # type: ignore[misc]


async def arequest_is_typed_too(bus: Bus) -> None:
    """The version for coroutines gives the same types."""
    assert_type(await bus.arequest("orders.bill", 5, reply=Invoice), Message[Invoice])
    assert_type(await bus.arequest(BILLED, Order(1)), Message[Invoice])
    assert_type(await bus.arequest(LAST), Message[Order])
    assert_type(await bus.arequest("orders.bill", 5), Message[Any])
    await bus.arequest(BILLED, Invoice("7"))  # type: ignore[misc]


# --- handlers ----------------------------------------------------------------------------------------------------------


def a_decorated_function_is_unchanged(bus: Bus) -> None:
    """`on` returns the function with the same parameter names and the same result."""

    @bus.on("orders.created", name="billing", workers=4)
    def bill(order: Order) -> int:
        return order.id

    assert_type(bill(order=Order(1)), int)
    bill(Invoice("7"))  # type: ignore[arg-type]


async def a_decorated_coroutine_function_is_unchanged(bus: Bus, sent: Message[Order], attempt: Delivery) -> None:
    """This holds for `async def` too."""

    @bus.on(["orders.created", "orders.changed"])
    async def watch(message: Message[Order], delivery: Delivery) -> str:
        return message.id

    assert_type(await watch(message=sent, delivery=attempt), str)


def a_handler_of_the_subjects_body_is_accepted(bus: Bus) -> None:
    """Every form of handler fits a typed subject: one for the body, one for the message, or one without annotations."""

    @bus.on(CREATED, name="a")
    def takes_body(order: Order) -> int:
        return order.id

    @bus.on(CREATED)
    def takes_message(message: Message[Order]) -> None: ...

    @bus.on(CREATED)
    def takes_any_message(message: Message[Any]) -> None: ...

    @bus.on(CREATED)
    def takes_anything(body: object) -> None: ...

    @bus.on(CREATED)
    def takes_more(order: Order, delivery: Delivery, bus: Bus) -> None: ...

    @bus.on(CREATED)
    def takes_the_delivery_first(delivery: Delivery, order: Order) -> None: ...

    @bus.on(CREATED)
    def takes_the_bus_first(bus: Bus, message: Message[Order]) -> None: ...

    @bus.on(CREATED)
    async def awaits(order: Order) -> None: ...

    assert_type(takes_body(Order(1)), int)


def a_handler_needs_no_parameters(bus: Bus) -> None:
    """A handler without parameters fits every subject, and keeps its type."""

    @bus.on(CREATED)
    def tick() -> int:
        return 1

    assert_type(tick(), int)
    bus.subscribe(CREATED, tick)


def a_handler_of_another_body_is_flagged(bus: Bus) -> None:
    """The type of `Subject[Order]` is checked against the handler."""

    @bus.on(CREATED)  # type: ignore[arg-type]
    def bill(invoice: Invoice) -> None: ...

    @bus.on(CREATED)  # type: ignore[arg-type]
    def watch(message: Message[Invoice]) -> None: ...

    @bus.on(CREATED)  # type: ignore[arg-type]
    def rush(order: RushOrder) -> None: ...


def subscribe_follows_a_subject_too(bus: Bus) -> None:
    """`subscribe` is as strict as `on`."""

    def bill(order: Order) -> None: ...
    def file(invoice: Invoice) -> None: ...
    def read(message: Message[Invoice]) -> None: ...

    assert_type(bus.subscribe(CREATED, bill), Subscription[Order])
    bus.subscribe(CREATED, lambda message: message.body.id)
    bus.subscribe(CREATED, file)  # type: ignore[arg-type]
    bus.subscribe(CREATED, read)  # type: ignore[arg-type]


def subscribe_checks_the_answer(bus: Bus) -> None:
    """A handler of a `Subject[Order, Invoice]` returns an Invoice, or None if it answers later or not at all."""

    def bill(order: Order) -> Invoice:
        return Invoice(str(order.id))

    async def abill(message: Message[Order], delivery: Delivery) -> Invoice | None:
        return None

    def later(order: Order) -> None: ...
    def wrong(order: Order) -> list[str]:
        return []

    async def awrong(message: Message[Order]) -> int:
        return 1

    assert_type(bus.subscribe(BILLED, bill), Subscription[Order])
    bus.subscribe(BILLED, abill)
    bus.subscribe(BILLED, later)
    bus.subscribe(BILLED, lambda message: Invoice(message.id))
    bus.subscribe(BILLED, wrong)  # type: ignore[arg-type]
    bus.subscribe(BILLED, awrong)  # type: ignore[arg-type]


def subscribe_takes_any_handler_of_a_string(bus: Bus) -> None:
    """Any function may handle the messages of a subject without a type."""

    def file(invoice: Invoice) -> None: ...

    found: list[object] = []
    bus.subscribe("invoices.>", file, workers=2)
    bus.subscribe(["a", "b.*"], file)
    bus.subscribe("invoices.>", found.append)
    bus.subscribe("invoices.>", lambda message: message.body)
    bus.subscribe(Ref(bus), found.append)


def a_handler_is_callable(bus: Bus) -> None:
    """An object that cannot be called is flagged."""
    bus.subscribe("orders.created", 5)  # type: ignore[call-overload]
    bus.on("orders.created")(5)  # type: ignore[type-var]


def options_are_checked(bus: Bus) -> None:
    """A misspelt option or policy is flagged."""
    bus.subscribe("orders.created", overflow="blok")  # type: ignore[call-overload]
    bus.subscribe("orders.created", worker=2)  # type: ignore[call-overload]
    bus.on("orders.created", mailbox="big")  # type: ignore[call-overload]


# --- reading -----------------------------------------------------------------------------------------------------------


def a_read_message_is_a_message(bus: Bus) -> None:
    """A reader gets messages in a `with` block, in a loop, or by delivery."""
    with bus.subscribe("ticks") as sub:
        assert_type(sub, Subscription)
        assert_type(sub.receive(timeout=1.0), Message[Any])
        with sub.delivery(timeout=1.0) as delivery:
            assert_type(delivery, Delivery)
            assert_type(delivery.message, Message[Any])
        for message in sub:
            assert_type(message, Message[Any])


async def an_awaited_message_is_a_message(bus: Bus) -> None:
    """This also holds on an event loop."""
    async with bus.subscribe("ticks") as sub:
        assert_type(await sub.areceive(timeout=1.0), Message[Any])
        async with sub.adelivery() as delivery:
            assert_type(delivery, Delivery)
        async for message in sub:
            assert_type(message, Message[Any])


def a_reader_of_a_typed_subject_gets_its_type(bus: Bus) -> None:
    """A `Subscription[Order]` gives messages with an `Order`."""
    with bus.subscribe(CREATED) as sub:
        assert_type(sub, Subscription[Order])
        assert_type(sub.receive(timeout=1.0), Message[Order])
        with sub.delivery() as delivery:
            assert_type(delivery.message.body.id, int)
        for message in sub:
            assert_type(message.body, Order)
            message.body.number  # type: ignore[attr-defined]


async def an_awaiting_reader_of_a_typed_subject_gets_its_type(bus: Bus) -> None:
    """This also holds on an event loop."""
    async with bus.subscribe(CREATED, name="reader") as sub:
        assert_type(await sub.areceive(), Message[Order])
        async with sub.adelivery() as delivery:
            assert_type(delivery, Delivery[Order])
        async for message in sub:
            assert_type(message, Message[Order])


# --- filters -----------------------------------------------------------------------------------------------------------


def plain(message: Message[Any], call_next: Callable[[Message[Any]], Any]) -> Any:
    return call_next(message)


async def aplain(message: Message[Any], call_next: Callable[[Message[Any]], Awaitable[Any]]) -> Any:
    return await call_next(message)


class Counted:
    """A filter that is an object."""

    def __call__(self, message: Message[Any], call_next: Any, /) -> Any:
        return call_next(message)


class Stamp(Transform):
    def transform(self, message: Message[Any]) -> Message[Any] | Dropped:
        return message.with_headers(seen="yes") if message.key else Dropped("no key")


class Twice(Around):
    def around(self, message: Message[Any]) -> Any:
        yield message
        yield Pause(0.5)
        yield Call(message, timeout=2.0)
        return Handled(5)


def every_plain_filter_is_a_filter() -> None:
    """Functions, coroutine functions and objects fit the `Filter` protocol."""
    filters: list[Filter] = [plain, aplain, Counted()]
    assert_type(filters[0], Filter)


def what_is_no_filter_is_flagged() -> None:
    """A function of the message alone, or a class in place of its instance, is no `Filter`."""

    def alone(message: Message[Any]) -> Message[Any]:
        return message

    lonely: Filter = alone  # type: ignore[assignment]
    unmade: Filter = Counted  # type: ignore[assignment]
    assert_type((lonely, unmade), tuple[Filter, Filter])


def use_returns_its_filter_unchanged(bus: Bus) -> None:
    """`use` as a decorator keeps the function's type; so it does for objects of all shapes."""

    @bus.use
    def stamp(message: Message[Any], call_next: Callable[[Message[Any]], Receipt]) -> Receipt:
        return call_next(message)

    assert_type(stamp(message=Message("x"), call_next=lambda message: Receipt(1)), Receipt)
    assert_type(bus.use(Stamp()), Stamp)
    assert_type(bus.use(Log(), at="delivery"), Log)


def chains_are_values(bus: Bus) -> None:
    """`Pipeline`, `when` and `branch` take filters of every shape, and go wherever a filter goes."""
    chain = Pipeline(plain, Stamp(), Twice(), when("orders.>", plain), branch(lambda message: bool(message.key), Log()))
    assert_type(bus.use(chain), Pipeline)
    bus.use(Log(), chain, at="delivery")
    bus.subscribe("orders.>", print, filters=chain)
    bus.subscribe("orders.>", print, filters=[chain, Stamp()])


def filters_take_durations_as_text() -> None:
    """A duration may be text with a unit, and is a float afterwards; other settings keep their types."""
    assert_type(Expire("5s").ttl, float)
    assert_type(Retry(5, wait="10ms", max_wait="1m", on=(OSError, TimeoutError)).max_wait, float)
    assert_type(Redeliver(wait="10ms", max_wait=60, on=OSError).wait, float)
    assert_type(RateLimit(10, per="1m", on_limit="drop", key=lambda message: message.key).per, float)
    assert_type(Concurrency(2, timeout="1m").timeout, float)
    assert_type(Timeout("2s", abandon=True).seconds, float)
    assert_type(Dedupe(lambda message: message.body, window="1m").window, float)
    assert_type(CircuitBreaker(window="1m", cool_down="10s", on=(OSError, TimeoutError)).cool_down, float)
    assert_type(SizeLimit("64KiB").bytes, int)
    assert_type(Verify(["a new secret of ours", b"an old secret of ours"], window="5m").window, float)
    Sign("a new secret of ours", headers=["tenant"])
    Fallback(value={"price": 0}, on=ConnectionError)
    Fallback(subject="orders.later")
    SetEnvelope(key="k", ttl="5s")
    SetEnvelope(id=lambda message: message.body, ttl=lambda message: "5s")
    Expire()  # type: ignore[call-arg]
    Expire(["5s"])  # type: ignore[arg-type]
    Retry("5")  # type: ignore[arg-type]
    Redeliver(tries=5)  # type: ignore[call-arg]
    RateLimit(10, on_limit="block")  # type: ignore[arg-type]
    Concurrency("2")  # type: ignore[arg-type]
    Dedupe(window=None)  # type: ignore[arg-type]
    RateLimit()  # type: ignore[call-arg]
    CircuitBreaker(5, cooldown="10s")  # type: ignore[call-arg]
    SizeLimit(None)  # type: ignore[arg-type]
    Sign(5)  # type: ignore[arg-type]
    Verify(5)  # type: ignore[arg-type]


def a_misspelt_side_is_flagged(bus: Bus) -> None:
    """A filter has only two sides to be on."""
    bus.use(Stamp(), at="deliver")  # type: ignore[call-overload]


def a_decorated_transform_can_still_be_called() -> None:
    """`@transform` gives a filter that is still the function of a message."""

    @transform
    def upper(message: Message[Any]) -> Message[Any] | Dropped:
        return message.with_body(str(message.body).upper())

    assert_type(upper(Message("x", "y")), Message[Any] | Dropped)
    shapes: list[Transform] = [upper]
    assert_type(shapes[0], Transform)


def a_transform_returns_messages() -> None:
    """A function that returns something else is flagged where it is decorated."""

    @transform  # type: ignore[arg-type]
    def wrong(message: Message[Any]) -> str:
        return message.id


def a_decorated_around_is_an_around() -> None:
    """`@around` gives a filter of the third shape."""

    @around
    def twice(message: Message[Any]) -> Any:
        yield message
        yield message

    shapes: list[Around] = [twice]
    assert_type(shapes[0], Around)


# --- actors ------------------------------------------------------------------------------------------------------------


class Greeter(Actor):
    def on_message(self, message: Message[Any]) -> None:
        self.bus.publish("greetings", f"hello {message.body}")


class Quota(Actor):
    def __init__(self, name: str, left: int) -> None:
        super().__init__(name)
        self.left = left

    def filter(self, message: Message[Any]) -> Message[Any] | Dropped:
        self.left -= 1
        return message if self.left >= 0 else Dropped("quota used up")


@dataclass(eq=False)
class Gate(Actor):
    width: int
    name: str | None = "gate"

    async def filter(self, message: Message[Any]) -> Message[Any]:
        return message


def an_actor_keeps_its_class(bus: Bus) -> None:
    """`spawn` and `use` return the object that they were given, and its constructor keeps its own parameters."""
    assert_type(bus.spawn(Greeter("greeter")), Greeter)
    assert_type(bus.spawn(Greeter(), run="thread", mailbox=5), Greeter)
    assert_type(bus.use(Quota("quota", 100)), Quota)
    assert_type(Gate(5), Gate)
    assert_type(bus.spawn(Greeter(), subjects=CREATED), Greeter)
    bus.spawn(Greeter(), subjects=["jobs.>", CREATED])
    bus.spawn(Greeter(), subjects=5)  # type: ignore[arg-type]
    Greeter(5)  # type: ignore[arg-type]
    Quota("quota")  # type: ignore[call-arg]
    Gate("wide")  # type: ignore[arg-type]


def what_is_no_actor_is_flagged(bus: Bus) -> None:
    """A class, another object, an unknown way to run and an unknown option are flagged."""
    bus.spawn(Greeter)  # type: ignore[type-var]
    bus.spawn(5)  # type: ignore[type-var]
    bus.spawn(Greeter(), run="process")  # type: ignore[arg-type]
    bus.spawn(Greeter(), workers=2)  # type: ignore[call-arg]


def an_actor_is_a_subject(bus: Bus, greeter: Greeter) -> None:
    """An actor can be published to, requested and subscribed to, and may be the address of answers."""
    assert_type(bus.publish(greeter, "Ada", key="7"), Receipt | Dropped)
    assert_type(bus.request(greeter, "Ada", timeout=1.0), Message[Any])
    bus.subscribe(greeter, print, to=greeter)
    bus.publish("doubled", 5, reply_to=greeter)
    bus.every(60.0, greeter)


def an_actors_handler_may_take_what_any_handler_may() -> None:
    """It may take the message, the body, the delivery and the bus, sync or async."""

    class TakesBody(Actor):
        def on_message(self, order: Order) -> None: ...

    class TakesTypedMessage(Actor):
        def on_message(self, message: Message[Order]) -> int:
            return message.body.id

    class TakesMore(Actor):
        def on_message(self, order: Order, delivery: Delivery, bus: Bus) -> None: ...

    class Awaits(Actor):
        async def on_message(self, order: Order) -> None: ...

    assert_type((TakesBody(), TakesMore()), tuple[TakesBody, TakesMore])
    assert_type((TakesTypedMessage(), Awaits()), tuple[TakesTypedMessage, Awaits])


def an_actor_knows_its_bus(greeter: Greeter) -> None:
    """`self.bus` is a `Bus`, and is as strict as one."""
    assert_type(greeter.bus, Bus)
    assert_type(greeter.subscription, Subscription)
    greeter.bus.publish(CREATED, Invoice("7"))  # type: ignore[misc]


# --- schedules ---------------------------------------------------------------------------------------------------------


def every_gives_a_schedule(bus: Bus) -> None:
    """`every` takes seconds or a text, and the options of `publish`."""
    assert_type(bus.every(60.0, "headlines.fetch"), Schedule)
    assert_type(bus.every("5m", "headlines.fetch", 5, headers={"a": "b"}, ttl=60.0), Schedule)
    bus.every(None, "headlines.fetch")  # type: ignore[call-overload]
    bus.every(60.0, "headlines.fetch", bodi=5)  # type: ignore[call-overload]
    bus.every("5m", "headlines.fetch", name="headlines", now=True, missed="once")
    bus.every("5m", "headlines.fetch", name="headlines", missed="twice")  # type: ignore[call-overload]
    assert_type(bus.cron("0 3 * * 1-5", "report", name="report", timezone="Europe/Berlin", key="k"), Schedule)


def every_follows_a_subject_too(bus: Bus) -> None:
    """A `Subject[Order]` takes an `Order` each time."""
    bus.every(60.0, CREATED, Order(1))
    bus.every(60.0, TICK)
    bus.every(60.0, CREATED, Invoice("7"))  # type: ignore[misc]
    bus.cron("0 3 * * *", CREATED, Invoice("7"))  # type: ignore[misc]


# --- handlers written down, publishers, receivers ----------------------------------------------------------------------


def handlers_are_as_strict_as_the_bus(bus: Bus) -> None:
    """`handlers.on` returns the function unchanged, and follows a typed subject; `include` takes Handlers."""
    handlers = Handlers()

    @handlers.on("orders.created", name="billing", workers=4)
    def bill(order: Order) -> int:
        return order.id

    @handlers.on(CREATED)
    def watch(order: Order) -> int:
        return order.id

    @handlers.on(CREATED)  # type: ignore[arg-type]
    def file(invoice: Invoice) -> None: ...

    assert_type(bill(order=Order(1)), int)
    assert_type(watch(Order(1)), int)
    handlers.on("orders.created", wokers=4)  # type: ignore[call-overload]
    bus.include(handlers, Handlers())
    bus.include(bill)  # type: ignore[arg-type]


def a_bus_is_a_publisher(bus: Bus) -> None:
    """A function that only sends takes a `Publisher`, which follows subjects as the bus does."""

    def send(publisher: Publisher) -> None:
        assert_type(publisher.publish(CREATED, Order(1), key="7"), Receipt | Dropped)
        publisher.publish("orders.created", 5, headers={"a": "b"})
        publisher.publish(TICK)
        publisher.publish(CREATED, Invoice("7"))  # type: ignore[misc]
        publisher.publish("orders.created", ttl=["5s"])  # type: ignore[call-overload]

    send(bus)
    send(Handlers())  # type: ignore[arg-type]


async def a_subscription_is_a_receiver(bus: Bus) -> None:
    """A function that only reads takes a `Receiver`."""

    async def read(receiver: Receiver) -> None:
        assert_type(receiver.receive(timeout=1.0), Message[Any])
        assert_type(await receiver.areceive(), Message[Any])
        for message in receiver:
            assert_type(message, Message[Any])
        async for message in receiver:
            assert_type(message, Message[Any])

    def count(orders: Receiver[Order]) -> int:
        return orders.receive().body.id

    await read(bus.subscribe("ticks"))
    await read(bus)  # type: ignore[arg-type]
    count(bus.subscribe(CREATED))
    count(bus.subscribe(Subject[Invoice]("invoices")))  # type: ignore[arg-type]


# --- the bus -----------------------------------------------------------------------------------------------------------


def a_bus_in_a_with_block_is_a_bus() -> None:
    """`with Bus() as bus` keeps its type, and `stop` returns a report."""
    with Bus() as bus:
        assert_type(bus, Bus)
    assert_type(bus.stop(), StopReport)


async def a_bus_in_an_async_with_block_is_a_bus() -> None:
    """This holds for `async with` too."""
    async with Bus() as bus:
        assert_type(bus, Bus)
        assert_type(await bus.astop(), StopReport)


def an_observer_is_unchanged(bus: Bus) -> None:
    """`observe` returns the function unchanged."""

    @bus.observe
    def watch(event: object) -> int:
        return 1

    assert_type(watch(event=5), int)
