"""What a handler's parameters get (guarantees 11, 19): by annotation, decided when the handler is subscribed."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Annotated, Any, Literal, Optional

import pytest
from pydantic import BaseModel, BeforeValidator, Field, PositiveInt
from typing_extensions import TypeAliasType

from flow_helpers import WAIT, Ear, running
from loop_helpers import Way, every_way_to_run
from pipebus import Actor, Bus, Delivery, Handlers, Message, SubscriptionError
from pipebus.events import Died
from pipebus.testing import run_handler
from tables import table


class Cat(BaseModel):
    kind: Literal["cat"]
    lives: PositiveInt = 9


class Dog(BaseModel):
    kind: Literal["dog"]


# --- annotations with conditions -----------------------------------------------------------------------------------------


def positive(count: PositiveInt) -> Any:
    return count


def with_field(count: Annotated[int, Field(gt=0)]) -> Any:
    return count


def keyword(*, count: Annotated[int, Field(gt=0)]) -> Any:
    return count


def whole_message(message: Message[PositiveInt]) -> Any:
    return message.body


def noted_message(message: Annotated[Message[Annotated[int, Field(gt=0)]], "a note"]) -> Any:
    return message.body


def noted_delivery(count: PositiveInt, delivery: Annotated[Delivery, "a note"], bus: Annotated[Bus, "a note"]) -> Any:
    return count * delivery.attempt if bus.state == "started" else None


Mail = TypeAliasType("Mail", Message[PositiveInt])


def aliased_message(message: Mail) -> Any:
    return message.body


async def awaits(count: PositiveInt) -> Any:
    return count


def without_unit(weight: Annotated[float, BeforeValidator(lambda text: text.removesuffix(" kg")), Field(gt=0)]) -> Any:
    return weight


def by_kind(animal: Annotated[Cat | Dog, Field(discriminator="kind")]) -> Any:
    return type(animal)


CONDITIONS: dict[str, tuple[Callable[..., Any], Any, Any, Any]] = {
    "PositiveInt": (positive, "3", 3, -5),
    "Field": (with_field, 3, 3, -5),
    "keyword only": (keyword, 3, 3, 0),
    "a whole message": (whole_message, 3, 3, -5),
    "a message with a note": (noted_message, 3, 3, -5),
    "an alias of a message": (aliased_message, 3, 3, -5),
    "objects of the bus with notes": (noted_delivery, 3, 3, -5),
    "async": (awaits, 3, 3, -5),
    "BeforeValidator": (without_unit, "3 kg", 3.0, "-5 kg"),
    "discriminated union": (by_kind, {"kind": "dog"}, Dog, {"kind": "bird"}),
    "a member of the union": (by_kind, {"kind": "cat"}, Cat, {"kind": "cat", "lives": 0}),
}


@table(("handler", "good", "value", "bad"), CONDITIONS.values(), ids=CONDITIONS)
def test_s19_the_conditions_of_an_annotation_are_kept(handler: Callable[..., Any], good: Any, value: Any, bad: Any) -> None:
    """A body that breaks a condition never reaches the handler: the message becomes a dead letter at once."""
    bus = Bus()
    ear = Ear(bus)
    bus.subscribe("s", handler, to="values")
    values = bus.subscribe("values")
    with running(bus):
        bus.publish("s", bad)
        bus.publish("s", good)
        assert values.receive(timeout=WAIT).body == value

    (died,) = ear.of(Died)
    assert died.message.body == bad
    assert died.error.startswith("Rejected")


def test_s19_conditions_hold_for_actors_and_collected_handlers() -> None:
    """`spawn` and `include` read annotations as `on` does."""

    class Counter(Actor):
        def on_message(self, count: PositiveInt) -> None: ...

    handlers = Handlers()
    handlers.on("s")(positive)
    bus = Bus()
    bus.include(handlers)
    counter = bus.spawn(Counter())
    with running(bus):
        bus.publish("s", -1)
        bus.publish(counter, -1)
        bus.drain(WAIT)
        assert len(bus.dead_letters) == 2


def test_s11_a_subclass_of_the_bus_is_given_like_the_bus() -> None:
    """A program that derives its own bus may annotate its handlers with that."""

    class Shop(Bus):
        pass

    given: list[Any] = []
    shop = Shop()

    @shop.on("s")
    def handle(count: int, bus: Shop) -> None:
        given.append((count, bus))

    with running(shop):
        shop.publish("s", 1)
        shop.drain(WAIT)
    assert given == [(1, shop)]


# --- what is always given cannot be optional -----------------------------------------------------------------------------


def optional_message(message: Optional[Message]) -> None: ...  # noqa: UP045


def message_or_none(message: Message | None = None) -> None: ...


def typed_message_or_none(message: Message[int] | None) -> None: ...


def message_or_body(message: Annotated[Message | dict[str, Any], "a note"]) -> None: ...


def optional_delivery(order: int, delivery: Delivery | None) -> None: ...


def optional_bus(order: int, bus: Bus | None = None) -> None: ...


UNIONS: dict[str, tuple[Callable[..., Any], str]] = {
    "Optional": (optional_message, "annotate it as Message alone"),
    "default": (message_or_none, "annotate it as Message alone"),
    "typed": (typed_message_or_none, "annotate it as Message alone"),
    "body": (message_or_body, "annotate it as Message alone"),
    "delivery": (optional_delivery, "annotate it as Delivery alone"),
    "bus": (optional_bus, "annotate it as Bus alone"),
}


@table(("handler", "remedy"), UNIONS.values(), ids=UNIONS)
def test_s11_a_union_with_what_the_bus_gives_is_refused(handler: Callable[..., Any], remedy: str) -> None:
    """Otherwise the union would be validated as the type of the body, and every message would die."""
    with pytest.raises(SubscriptionError, match=remedy) as refused:
        Bus().subscribe("s", handler)
    assert handler.__name__ in str(refused.value)
    assert __file__.rsplit("/", 1)[1] in str(refused.value)


# --- no parameters -------------------------------------------------------------------------------------------------------


@every_way_to_run
def test_s11_a_handler_needs_no_parameters(way: Way) -> None:
    """`def tick(): …` is called once for each message, and its value is published or is the reply."""
    bus = Bus()
    calls: list[str] = []

    def tick() -> int:
        calls.append("tick")
        return len(calls)

    with way.running(bus):
        subscription = way.subscribe(bus, "tick", tick)
        assert bus.request("tick", timeout=WAIT).body == 1
        bus.publish("tick", {"ignored": True})
        bus.drain(WAIT)
        assert subscription.stats()["acknowledged"] == 2
    assert calls == ["tick", "tick"]


def test_s11_methods_and_objects_need_no_parameters_either() -> None:
    """It is the same for an actor's `on_message`, for an object with `__call__`, and under a filter."""
    calls: list[str] = []

    class Clock(Actor):
        def on_message(self) -> None:
            calls.append("actor")

    class Called:
        def __call__(self) -> None:
            calls.append("object")

    bus = Bus()
    clock = bus.spawn(Clock())
    bus.subscribe("tick", Called(), filters=[lambda message, call_next: call_next(message)])
    with running(bus):
        bus.publish(clock)
        bus.publish("tick")
        bus.drain(WAIT)
    assert sorted(calls) == ["actor", "object"]


class Till:
    def bill(self, count: int) -> None: ...

    async def abill(self, count: int) -> None: ...

    @staticmethod
    def total(count: int) -> None: ...

    def whole(self: Message) -> None: ...


REGISTER: dict[str, Callable[[Any], object]] = {
    "on": lambda handler: Bus().on("s")(handler),
    "subscribe": lambda handler: Bus().subscribe("s", handler),
    "handlers": lambda handler: Handlers().on("s")(handler),
}


@pytest.mark.parametrize("register", REGISTER.values(), ids=REGISTER)
def test_s11_a_method_without_its_object_is_refused_where_it_is_registered(register: Callable[[Any], object]) -> None:
    """As under `@bus.on` in the body of its class, where its `self` would be the message. The bound method is taken."""
    for method in (Till.bill, Till.abill):
        with pytest.raises(SubscriptionError, match=rf"handler {method.__name__} .*class Till.*, till\.{method.__name__}\)$"):
            register(method)
    for handler in (Till().bill, Till().abill, Till.total, Till.whole):
        register(handler)


def test_s11_a_default_does_not_make_a_handler_without_parameters() -> None:
    """The author of `message=None` means to get the message, so the mistake is named."""

    def handle(message=None):  # type: ignore[no-untyped-def]
        return message

    with pytest.raises(SubscriptionError, match="takes no message; remove the default"):
        Bus().subscribe("s", handle)


def test_run_handler_calls_a_handler_without_parameters() -> None:
    """The test kit takes what the bus takes."""
    assert run_handler(lambda: 5).value == 5


# --- annotations that cannot be read ---------------------------------------------------------------------------------------


if TYPE_CHECKING:
    from decimal import Decimal


def test_s11_the_annotation_of_the_result_is_not_read() -> None:
    """It may name what only type checkers import; the parameters are read all the same."""

    def total(numbers: list[PositiveInt]) -> Decimal:
        return sum(numbers)  # type: ignore[return-value]

    with running() as bus:
        bus.subscribe("s", total)
        assert bus.request("s", ["1", 2], timeout=WAIT).body == 3


def for_checkers_alone(first: Message, second: Decimal) -> None: ...


def no_attribute(first: Message, second: Cat.Kitten) -> None: ...  # type: ignore[name-defined]


def no_expression(first: Message, second: "list[") -> None: ...  # type: ignore[syntax]  # noqa: F722


@pytest.mark.parametrize("handler", [for_checkers_alone, no_attribute, no_expression])
def test_s11_the_parameter_whose_annotation_cannot_be_read_is_named(handler: Callable[..., None]) -> None:
    with pytest.raises(SubscriptionError, match=rf"handler {handler.__name__} .*: the annotation of second cannot be read"):
        Bus().subscribe("s", handler)
