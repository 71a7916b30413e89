"""
Waiting for room: the mailboxes in `MailboxFull.accepted` have the message, whatever happens to others during the wait.

"impatient" is a full mailbox with a short timeout, "patient" is a full one with a long timeout, and "roomy" has room.
"""

from __future__ import annotations

import asyncio
import threading
from collections import Counter
from collections.abc import Callable
from typing import Any

import pytest

from pipebus import Bus, BusClosed, MailboxFull, Message, Receipt, Subscription, events
from pipebus.filters import Retry

LONG = 20.0
SHORT = 0.02
carriers = pytest.mark.parametrize("carrier", ["memory:", "memory:?wire=json"])


def subscribe(bus: Bus, *names: str) -> list[Subscription]:
    made = []
    for name in names:
        size, timeout = 10 if name == "roomy" else 1, SHORT if name == "impatient" else LONG
        made.append(bus.subscribe("work", name=name, mailbox=size, overflow_timeout=timeout))
    return made


def outcome_of(call: Callable[[], Any]) -> Any:
    try:
        return call()
    except Exception as error:
        return error


def publish_meanwhile(bus: Bus, acts: dict[tuple[str, int], Callable[[], object]], **options: Any) -> Any:
    """
    Publish on a thread, and act here when that publish begins to wait.

    Args:
        acts: Maps (name of the mailbox that it waits for, number of the wait) to the function to call then.
    """
    began: dict[tuple[str, int], threading.Event] = {moment: threading.Event() for moment in acts}
    seen: Counter[str] = Counter()

    def hear(event: Any) -> None:
        if isinstance(event, events.Overflowed):
            seen[event.subscription] += 1
            moment = (event.subscription, seen[event.subscription])
            if moment in began:
                began[moment].set()

    bus.observe(hear)
    outcomes: list[Any] = []
    publisher = threading.Thread(target=lambda: outcomes.append(outcome_of(lambda: bus.publish("work", "new", **options))))
    publisher.start()
    for moment, act in acts.items():
        assert began[moment].wait(LONG)
        act()
    publisher.join(LONG)
    return outcomes[0]


@carriers
@pytest.mark.parametrize("delay", [0.0, 0.001])
def test_a_mailbox_that_was_unsubscribed_during_the_wait_has_not_accepted(carrier: str, delay: float) -> None:
    """If one mailbox refuses and another is unsubscribed during the wait, only the third has the message."""
    bus = Bus(carrier)
    _, patient, _ = subscribe(bus, "impatient", "patient", "roomy")
    with bus:
        bus.publish("work", "old")
        error = publish_meanwhile(bus, {("patient", 1): patient.unsubscribe}, delay=delay)
    assert isinstance(error, MailboxFull)
    assert error.accepted == ("roomy",)
    assert error.refused == ("impatient",)


@carriers
def test_a_mailbox_that_took_the_message_late_has_accepted(carrier: str) -> None:
    """If one mailbox refuses and another gets room during the wait, the latter has the message."""
    bus = Bus(carrier)
    _, patient = subscribe(bus, "impatient", "patient")
    with bus:
        bus.publish("work", "old")
        error = publish_meanwhile(bus, {("patient", 1): lambda: patient.receive(LONG)})
        assert isinstance(error, MailboxFull)
        assert error.accepted == ("patient",)
        assert patient.receive(LONG).body == "new"


@carriers
def test_retry_publishes_again_what_no_mailbox_has(carrier: str) -> None:
    """A Retry on the publish side tries again while no mailbox has the message, so it is not lost."""
    bus = Bus(carrier)
    bus.use(Retry(attempts=1000, wait=0))
    impatient, patient = subscribe(bus, "impatient", "patient")
    with bus:
        bus.publish("work", "old")
        acts = {("patient", 1): patient.unsubscribe, ("impatient", 2): lambda: impatient.receive(LONG)}
        assert publish_meanwhile(bus, acts) == Receipt(1)
        assert impatient.receive(LONG).body == "new"


@carriers
def test_retry_does_not_repeat_what_a_mailbox_has(carrier: str) -> None:
    """A publish that one mailbox accepted late and another refused is not sent again."""
    bus = Bus(carrier)
    bus.use(Retry(attempts=5, wait=0))
    _, patient = subscribe(bus, "impatient", "patient")
    with bus:
        bus.publish("work", "old")
        error = publish_meanwhile(bus, {("patient", 1): lambda: patient.receive(LONG)})
        assert isinstance(error, MailboxFull)
        assert patient.receive(LONG).body == "new"
        assert patient.stats()["pending"] == 0


@carriers
def test_a_stop_during_the_wait_says_how_many_had_taken_the_message(carrier: str) -> None:
    """If the bus stops during the wait for the last mailbox, the error counts all mailboxes that took the message."""
    bus = Bus(carrier)
    first, _, _ = subscribe(bus, "first", "second", "roomy")
    with bus:
        bus.publish("work", "old")
        acts = {("first", 1): lambda: first.receive(LONG), ("second", 1): lambda: bus.stop(timeout=0.0, drain=False)}
        error = publish_meanwhile(bus, acts)
    assert isinstance(error, BusClosed)
    assert "2 of 3 mailboxes had taken it" in str(error)


@carriers
def test_a_stop_during_the_wait_is_not_hidden_by_a_mailbox_that_refused(carrier: str) -> None:
    """If one mailbox refuses and then the bus stops, the publisher gets the error about the stop."""
    bus = Bus(carrier)
    subscribe(bus, "impatient", "patient")
    with bus:
        bus.publish("work", "old")
        error = publish_meanwhile(bus, {("patient", 1): lambda: bus.stop(timeout=0.0, drain=False)})
    assert isinstance(error, BusClosed)


# --- on loops ----------------------------------------------------------------------------------------------------------


@carriers
@pytest.mark.parametrize("action", ["unsubscribe", "receive", "stop"])
def test_on_a_loop_too_only_who_has_the_message_has_accepted(carrier: str, action: str) -> None:
    """`apublish`, which waits for all full mailboxes before its chain runs, reports the same."""

    async def run() -> Any:
        bus = Bus(carrier)
        _, patient, _ = subscribe(bus, "impatient", "patient", "roomy")
        async with bus:
            await bus.apublish("work", "old")
            publishing = asyncio.ensure_future(bus.apublish("work", "new"))
            await asyncio.sleep(0)  # it waits now
            if action == "unsubscribe":
                await patient.aunsubscribe()
            elif action == "receive":
                await patient.areceive(LONG)
            else:
                await bus.astop(timeout=0.0, drain=False)
            try:
                return await publishing
            except Exception as error:
                return error

    error = asyncio.run(run())
    if action == "stop":
        assert isinstance(error, BusClosed)
        return
    assert isinstance(error, MailboxFull)
    assert set(error.accepted) == ({"roomy"} if action == "unsubscribe" else {"roomy", "patient"})
    assert error.refused == ("impatient",)


@carriers
@pytest.mark.parametrize("call", ["publish", "apublish"])
@pytest.mark.parametrize("retrying", [False, True])
def test_a_mailbox_that_goes_while_the_chain_runs_has_not_accepted(carrier: str, call: str, retrying: bool) -> None:
    """A subscription that ends between the wait for room and the end of an async chain has not accepted the message."""
    bus = Bus(carrier)
    passes: list[Any] = []
    if retrying:
        bus.use(Retry(attempts=2, wait=0))

    @bus.use
    async def meanwhile(message: Message, call_next: Any) -> Any:
        passes.append(message.body)
        if passes.count("new") == 1 and message.body == "new":
            await gone.aunsubscribe()
        return await call_next(message)

    _, gone = subscribe(bus, "impatient", "gone")
    with bus:
        bus.publish("work", "old")

        def publish() -> Any:
            return bus.publish("work", "new") if call == "publish" else asyncio.run(bus.apublish("work", "new"))

        gone.receive(LONG)  # it has room
        error = outcome_of(publish)
    assert isinstance(error, MailboxFull)
    assert error.accepted == ()
    assert error.refused == ("impatient",)
    assert passes == ["old", "new", "new"] if retrying else ["old", "new"]
