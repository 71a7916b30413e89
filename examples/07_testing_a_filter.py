"""
Testing: one filter alone, one handler alone, the whole app in virtual time, laws, and many orders of what happens at once.

    python -m pytest examples/07_testing_a_filter.py        # the fixtures come with the package
    python examples/07_testing_a_filter.py                  # the same without pytest

A shop adds the postage to small orders, sells tickets, and ships by way of a depot that is sometimes closed.
"""
# mypy: allow-untyped-defs, allow-untyped-calls
# pyright: basic

import inspect
from collections.abc import Callable
from contextlib import ExitStack, nullcontext
from dataclasses import dataclass
from typing import Any

from pydantic import BaseModel, Field

from pipebus import Bus, Message, Receipt, Rejected, Subject, Transform, when
from pipebus.filters import Retry, Validate
from pipebus.testing import Harness, SimulationFailed, check_filter, run_filter, run_handler, simulate

# --- the app -----------------------------------------------------------------------------------------------------------


class Order(BaseModel):
    item: str = Field(min_length=1)
    cents: int = Field(ge=0)


placed = Subject[Order]("orders.placed")


@dataclass(eq=False)
class Postage(Transform):
    """Orders below a limit pay for their parcel."""

    below: int
    cents: int

    def transform(self, message: Message) -> Message:
        order: Order = message.body
        if order.cents >= self.below:
            return message
        return message.with_body(order.model_copy(update={"cents": order.cents + self.cents}))


def ship(order: Order, bus: Bus) -> str:
    bus.publish("parcels.sent", order.item)
    return f"parcel with {order.item}"


class BoxOffice:
    """Sells tickets, one at a time as it thinks."""

    def __init__(self, tickets: int) -> None:
        self.tickets = tickets
        self.sold: list[str] = []

    def sell(self, message: Message) -> None:
        left = self.tickets
        if left > 0:
            self.tickets = left - 1
            self.sold.append(message.body)


def make_bus() -> Bus:
    bus = Bus()
    bus.use(Validate({placed: Order}), when(placed, Postage(below=2_000, cents=490)))
    bus.subscribe(placed, ship, name="ship", filters=[Retry(attempts=3, wait=0.5, jitter=0)])
    return bus


# --- one filter alone --------------------------------------------------------------------------------------------------


def test_a_small_order_pays_for_its_parcel(run_filter):
    run = run_filter(Postage(below=2_000, cents=490), Message(placed, Order(item="tea", cents=1_200)))
    assert run.forwarded.body.cents == 1_690


def test_a_retry_waits_longer_each_time(run_filter):
    closed = ConnectionError("the depot is closed")
    run = run_filter(Retry(attempts=3, wait=0.5, jitter=0), Message(placed), next=[closed, closed, Receipt(1)])
    assert run.outcome == Receipt(1)
    assert run.pauses == [0.5, 1.0]  # asked for, and not waited: no test sleeps here


# --- one handler alone -------------------------------------------------------------------------------------------------


def test_what_is_shipped_is_announced(run_handler):
    run = run_handler(ship, {"item": "tea", "cents": 1_200})
    assert run.value == "parcel with tea"
    assert [message.body for message in run.published] == ["tea"]


def test_an_order_for_nothing_is_rejected(run_handler):
    run = run_handler(ship, {"item": "", "cents": 1_200})
    assert isinstance(run.error, Rejected)
    assert run.settlement == "dead"


# --- the whole app, in virtual time --------------------------------------------------------------------------------------


def test_a_depot_that_is_closed_is_tried_again(harness):
    bus = harness.start(make_bus())
    harness.fail("ship", times=2, error=ConnectionError("the depot is closed"))
    bus.publish(placed, {"item": "tea", "cents": 1_200})
    harness.drain()  # waits for quiescence, never for time
    assert [order.body.cents for order in harness.delivered_to("ship")] == [1_690]
    assert harness.elapsed == 1.5


# --- laws, and many orders of what happens at once ---------------------------------------------------------------------


def test_the_postage_keeps_the_laws_of_filters():
    orders = [Message(placed, Order(item="tea", cents=cents)) for cents in (0, 1_999, 2_000)]
    check_filter(Postage(below=2_000, cents=490), orders)


def two_want_the_last_ticket(harness, workers):
    office, bus = BoxOffice(tickets=1), Bus()
    bus.subscribe("tickets", office.sell, name="office", workers=workers)
    harness.start(bus)
    for name in ("ada", "bob"):
        harness.thread(bus.publish, "tickets", name, name=name)
    harness.drain()
    assert len(office.sold) == 1, f"one ticket was sold to {' and '.join(office.sold)}"


def test_one_worker_sells_each_ticket_once():
    def one_worker(harness):
        two_want_the_last_ticket(harness, workers=1)

    simulate(one_worker, seeds=50)


def test_two_workers_would_sell_it_twice():
    def two_workers(harness):
        two_want_the_last_ticket(harness, workers=2)

    found = None
    try:
        simulate(two_workers, seeds=200)
    except SimulationFailed as error:
        found = error
    assert found is not None
    assert "one ticket was sold to" in found.why
    assert "left = self.tickets" in found.story  # where each thread was, line by line


# --- without pytest ----------------------------------------------------------------------------------------------------


KIT: dict[str, Callable[[], Any]] = {
    "run_filter": lambda: nullcontext(run_filter),
    "run_handler": lambda: nullcontext(run_handler),
    "harness": Harness,
}


def main():
    for name, test in list(globals().items()):
        if name.startswith("test_"):
            with ExitStack() as stack:
                test(*(stack.enter_context(KIT[wanted]()) for wanted in inspect.signature(test).parameters))
            print(f"ok  {name.removeprefix('test_').replace('_', ' ')}")


if __name__ == "__main__":
    main()
