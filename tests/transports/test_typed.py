"""Bodies of one type, whatever carries the messages: what a reader gets of a `Subject[T]`, and what a request expects."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from flow_helpers import wait_until
from pipebus import Bus, Message, RequestFailed, Subject, Subscription
from pipebus.testing.contract.stage import UrlStage

WAIT = 10.0


@dataclass(frozen=True)
class Order:
    id: int


@dataclass(frozen=True)
class Price:
    cents: int


ORDERS = Subject[Order]("orders.new")
PRICE = Subject[str, Price]("prices.get")


@pytest.fixture(params=["memory:", "memory:?wire=json", "sqlite", pytest.param("nats", marks=pytest.mark.thorough)])
def bus(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Bus]:
    """A bus on each engine, not yet started."""
    if request.param == "nats":
        pytest.importorskip("nats")
        stage = request.getfixturevalue("stage")
    else:
        stage = UrlStage(f"sqlite:///{tmp_path}/bus.db" if request.param == "sqlite" else request.param)
    yield stage.open()
    stage.wipe()


# --- reading -----------------------------------------------------------------------------------------------------------


def receive(orders: Subscription[Order]) -> Message[Order]:
    return orders.receive(timeout=WAIT)


def areceive(orders: Subscription[Order]) -> Message[Order]:
    return asyncio.run(orders.areceive(timeout=WAIT))


def delivery(orders: Subscription[Order]) -> Message[Order]:
    with orders.delivery(timeout=WAIT) as found:
        return found.message


def adelivery(orders: Subscription[Order]) -> Message[Order]:
    async def read() -> Message[Order]:
        async with orders.adelivery(timeout=WAIT) as found:
            return found.message

    return asyncio.run(read())


def iteration(orders: Subscription[Order]) -> Message[Order]:
    return next(iter(orders))


def aiteration(orders: Subscription[Order]) -> Message[Order]:
    async def read() -> Message[Order]:
        return await anext(aiter(orders))

    return asyncio.run(read())


every_way_to_read = pytest.mark.parametrize("read", [receive, areceive, delivery, adelivery, iteration, aiteration])


@every_way_to_read
def test_a_reader_gets_bodies_of_the_subjects_type(bus: Bus, read: Callable[[Subscription[Order]], Message[Order]]) -> None:
    """An object that was sent, and a mapping that fits, arrive as that type."""
    orders = bus.subscribe(ORDERS, name="orders")
    with bus:
        bus.publish(ORDERS, Order(1))
        bus.publish("orders.new", {"id": "2"}, headers={"a": "b"})
        first, second = read(orders), read(orders)
    assert (first.body, second.body) == (Order(1), Order(2))
    assert (second.subject, second.headers) == ("orders.new", {"a": "b"})


@every_way_to_read
def test_a_body_that_does_not_fit_is_a_dead_letter(bus: Bus, read: Callable[[Subscription[Order]], Message[Order]]) -> None:
    """It is dead at once, with the reason, and the reader gets the next message."""
    orders = bus.subscribe(ORDERS, name="orders", attempts=5)
    with bus:
        bus.publish("orders.new", {"id": "none"})
        bus.publish(ORDERS, Order(2))
        assert read(orders).body == Order(2)
        wait_until(bus.dead_letters.list, "the store has the letter")
        (letter,) = bus.dead_letters.list()
    assert letter.error.startswith("Rejected: rejected by orders: id: Input should be a valid integer")
    assert (letter.attempts, letter.message.body) == (1, {"id": "none"})


# --- requests ----------------------------------------------------------------------------------------------------------


def request(bus: Bus, item: str, **options: Any) -> Any:
    return bus.request(options.pop("subject", "prices.get"), item, timeout=WAIT, **options)


def arequest(bus: Bus, item: str, **options: Any) -> Any:
    return asyncio.run(bus.arequest(options.pop("subject", "prices.get"), item, timeout=WAIT, **options))


def answer(item: str) -> Any:
    return {"tea": Price(420), "honey": {"cents": "750"}}.get(item, item)


@pytest.mark.parametrize("said", [{"reply": Price}, {"subject": PRICE}], ids=["reply", "Subject[T, A]"])
@pytest.mark.parametrize("ask", [request, arequest])
def test_a_reply_is_of_the_expected_type(bus: Bus, ask: Callable[..., Message[Price]], said: dict[str, Any]) -> None:
    """An object that the handler returns, and a mapping that fits, arrive as that type; any other reply is an error."""
    bus.subscribe("prices.get", answer, name="prices")
    with bus:
        assert [ask(bus, item, **said).body for item in ("tea", "honey")] == [Price(420), Price(750)]
        with pytest.raises(RequestFailed, match="its reply is not of type Price: Input should be a dictionary"):
            ask(bus, "gold", **said)
