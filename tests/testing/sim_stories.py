"""Scenarios for `simulate`: small apps of a user's, right and wrong."""

from __future__ import annotations

import asyncio
import queue
import random
import threading
from typing import Any

from pipebus import Actor, Bus, Dropped, MailboxFull, Message, Transform, events
from pipebus.filters import Retry
from pipebus.testing import Harness


class Shop:
    """A shop that sells what it has; with two workers it looks and takes in two steps."""

    def __init__(self, stock: int) -> None:
        self.stock = stock
        self.sold: list[Any] = []

    def sell(self, message: Message) -> None:
        left = self.stock
        if left > 0:
            self.stock = left - 1
            self.sold.append(message.body)

    async def asell(self, message: Message) -> None:
        left = self.stock
        if left > 0:
            await asyncio.sleep(0)
            self.stock = left - 1
            self.sold.append(message.body)


def two_buy(harness: Harness, bus: Bus) -> None:
    for buyer in ("ada", "bob"):
        harness.thread(bus.publish, "orders.placed", buyer, name=buyer)
    harness.drain()


def sells_twice(harness: Harness) -> None:
    shop, bus = Shop(1), Bus()
    bus.subscribe("orders.placed", shop.sell, name="sell", workers=2)
    two_buy(harness, harness.start(bus))
    assert shop.sold in (["ada"], ["bob"]), f"sold to {shop.sold}"


def sells_whole_messages(harness: Harness) -> None:
    shop, bus = Shop(1), Bus()
    bus.subscribe("orders.placed", shop.sell, name="sell", workers=2)
    sold: list[Message] = []
    bus.observe(lambda event: sold.append(event.message) if isinstance(event, events.Acknowledged) else None)
    two_buy(harness, harness.start(bus))
    assert len(shop.sold) == 1, f"sold {sold}"


def sells_once(harness: Harness) -> None:
    shop, bus = Shop(1), Bus()
    bus.subscribe("orders.placed", shop.sell, name="sell")
    two_buy(harness, harness.start(bus))
    assert shop.sold in (["ada"], ["bob"]), f"sold to {shop.sold}"


class Counter:
    """A filter that counts in two lines."""

    count = 0

    def __call__(self, message: Message, call_next: Any) -> Any:
        seen = self.count
        self.count = seen + 1
        return call_next(message)


def counts_by_two_lines(harness: Harness) -> None:
    counter, bus = Counter(), Bus()
    bus.use(counter)
    two_buy(harness, harness.start(bus))
    assert counter.count == 2, f"counted {counter.count}"


def sells_twice_async(harness: Harness) -> None:
    shop, bus = Shop(1), Bus()
    bus.subscribe("orders.placed", shop.asell, name="sell", workers=2)
    two_buy(harness, harness.start(bus))
    assert shop.sold in (["ada"], ["bob"]), f"sold to {shop.sold}"


class Quota(Transform):
    """A filter that every publisher's thread is in at once."""

    left = 1

    def transform(self, message: Message) -> Message | Dropped:
        left = self.left
        if left <= 0:
            return Dropped("used up")
        self.left = left - 1
        return message


class QuotaActor(Actor):
    """The same as a filter actor: one at a time."""

    left = 1

    def filter(self, message: Message) -> Message | Dropped:
        left = self.left
        if left <= 0:
            return Dropped("used up")
        self.left = left - 1
        return message


def _quota(harness: Harness, filter: Any) -> None:
    bus = Bus()
    bus.use(filter)
    got: list[Any] = []
    bus.subscribe("orders.placed", lambda message: got.append(message.body))
    two_buy(harness, harness.start(bus))
    assert len(got) == 1, f"{len(got)} passed a quota of 1"


def passes_a_quota_twice(harness: Harness) -> None:
    _quota(harness, Quota())


def passes_a_quota_once(harness: Harness) -> None:
    _quota(harness, QuotaActor("quota"))


def waits_for_itself(harness: Harness) -> None:
    """One handler reads a mailbox that only it could fill."""
    bus = Bus()
    inbox = bus.subscribe("answers")

    def ask(message: Message) -> None:
        inbox.receive()
        bus.publish("answers", 1)

    bus.subscribe("questions", ask)
    harness.start(bus).publish("questions")
    harness.drain()


def goes_round(harness: Harness) -> None:
    while True:
        pass


def counts_everything(harness: Harness) -> None:
    """
    Each message is handled, dropped, dead or left over, whatever goes wrong. (A publish that the stop refuses may have reached
    one of its mailboxes before: then it is handled, and was never accepted.)
    """
    harness.allow(MailboxFull)
    bus = Bus()
    handled: list[Any] = []
    bus.subscribe("work", lambda message: handled.append(message.body), name="work", filters=[Retry(attempts=2, wait=0.1)])
    bus.subscribe("work", lambda message: None, name="narrow", overflow="drop_newest", mailbox=3)
    harness.start(bus)

    def publish(me: str) -> None:
        for number in range(3):
            bus.publish("work", (me, number))

    for me in ("ada", "bob"):
        harness.thread(publish, me, name=me)
    harness.drain()
    harness.join(quietly=True)
    accepted = {message.body for message in harness.published}
    stats = bus.stats()["subscriptions"]["work"]
    lost = stats["pending"] + stats["in_flight"] + sum(stats["dropped"].values()) + stats["dead"]
    assert stats["acknowledged"] + lost == stats["accepted"]
    assert stats["acknowledged"] <= len(set(handled))
    assert len(accepted - set(handled)) <= lost


def loses_what_fails(harness: Harness) -> None:
    """Asserts that every message is handled, which is false if the handler fails."""
    bus = Bus()
    handled: list[Any] = []
    bus.subscribe("work", lambda message: handled.append(message.body), name="work")
    harness.start(bus)
    for number in range(4):
        bus.publish("work", number)
    harness.drain()
    assert handled == [0, 1, 2, 3], f"handled {handled}"


def is_never_slow(harness: Harness) -> None:
    """Asserts that it takes no time."""
    bus = Bus()
    bus.subscribe("work", lambda message: None, name="work")
    harness.start(bus)
    for number in range(4):
        bus.publish("work", number)
    harness.drain()
    assert harness.elapsed == 0, f"took {harness.elapsed:g} s"


def always_has_room(harness: Harness) -> None:
    """Asserts that nothing is dropped when there is no room."""
    bus = Bus()
    bus.subscribe("work", lambda message: None, name="work", overflow="drop_newest")
    harness.start(bus)
    for number in range(3):
        bus.publish("work", number)
    harness.drain()
    lost = [event for event in harness.dropped if event.reason]
    assert not lost, f"lost {len(lost)}"


def is_never_stopped(harness: Harness) -> None:
    """Asserts that all is handled, which is false if the bus is stopped."""
    bus = Bus()
    bus.subscribe("work", lambda message: None, name="work")
    harness.start(bus)
    harness.thread(lambda: [bus.publish("work", number) for number in range(6)], name="publisher")
    harness.drain()
    assert bus.state == "started", f"the bus is {bus.state}"


seen: list[tuple[float, bool]] = []


def throws_dice(harness: Harness) -> None:
    seen.append((random.random(), isinstance(harness.start(), Bus)))


def raises_in_a_handler(harness: Harness) -> None:
    bus = Bus()

    def fails(message: Message) -> None:
        raise ValueError("nobody expected that")

    bus.subscribe("work", fails)
    harness.start(bus).publish("work")


def raises_in_a_thread(harness: Harness) -> None:
    def fails() -> None:
        raise ValueError("nobody expected that")

    harness.thread(fails)


def settles_everything(harness: Harness) -> None:
    """The harness's own records agree with what the observers hear."""
    shop, bus = Shop(5), Bus()
    bus.subscribe("orders.placed", shop.sell, name="sell")
    two_buy(harness, harness.start(bus))
    assert [type(event) for event in harness.events].count(events.Acknowledged) == 2


def charges_once(harness: Harness) -> None:
    """Asserts that an order is charged once, which is false if it is tried again after the charge."""
    bus = Bus()
    charged: list[Any] = []
    bus.subscribe("work", lambda message: charged.append(message.body), name="work", filters=[Retry(attempts=3, wait=0.1)])
    harness.start(bus).publish("work", 1)
    harness.drain()
    assert len(charged) <= 1, f"charged {len(charged)} times"


class Till:
    """A shop that sells what it has under a lock."""

    def __init__(self) -> None:
        self.lock = threading.Lock()
        self.stock = 1
        self.sold: list[Any] = []

    def sell(self, message: Message) -> None:
        with self.lock:
            left = self.stock
            if left > 0:
                self.stock = left - 1
                self.sold.append(message.body)


def sells_once_under_a_lock(harness: Harness) -> None:
    till, bus = Till(), Bus()
    bus.subscribe("orders.placed", till.sell, name="sell", workers=2)
    two_buy(harness, harness.start(bus))
    assert len(till.sold) == 1


def waits_for_a_queue_and_an_event(harness: Harness) -> None:
    """Queues and events of the standard library use the simulation's locks too."""
    parcels: queue.Queue[int] = queue.Queue()
    sent, bus = threading.Event(), Bus()
    got: list[int] = []

    def take(message: Message) -> None:
        got.append(parcels.get())
        sent.set()

    def give(message: Message) -> None:
        parcels.put(1)
        sent.wait()
        got.append(2)

    bus.subscribe("work", take)
    bus.subscribe("work", give)
    harness.start(bus).publish("work")
    harness.drain()
    assert sorted(got) == [1, 2]


EARLY = threading.Lock()


def takes_a_lock_from_before(harness: Harness) -> None:
    bus = Bus()

    def handle(message: Message) -> None:
        with EARLY:
            first = message.body
            message.headers.get(str(first))

    bus.subscribe("work", handle, workers=2)
    harness.start(bus)
    bus.publish("work", 1)
    bus.publish("work", 2)
    harness.drain()


async def is_a_coroutine(harness: Harness) -> None:
    shop, bus = Shop(1), Bus()
    bus.subscribe("orders.placed", shop.asell, name="sell", workers=2)
    async with bus:
        await asyncio.gather(*(bus.apublish("orders.placed", buyer) for buyer in ("ada", "bob")))
    assert len(shop.sold) == 1, f"sold to {shop.sold}"


def slips_to_another_failure(harness: Harness) -> None:
    """Fails in two ways, one of them with every seed that has the other."""
    shop, bus = Shop(1), Bus()
    order: list[Any] = []
    bus.subscribe("orders.placed", shop.sell, name="sell", workers=2)
    bus.subscribe("orders.placed", lambda message: order.append(message.body), name="log")
    two_buy(harness, harness.start(bus))
    assert len(shop.sold) == 1, "sold twice"
    assert order == ["ada", "bob"], "the other order"
