"""The outcome of a message is always a value: `Receipt`, `Handled` or `Dropped`."""

from __future__ import annotations

import copy
import pickle
from collections.abc import Callable, Iterator
from typing import Any

import pytest

from pipebus import Bus, Dropped, Handled, Message, PipebusError, Receipt, transform
from tables import table

OUTCOMES = [
    Receipt(2, duplicate=True),
    Handled({"id": 1}, forward=Message("later", {"id": 1})),
    Dropped("too old", by="Expire"),
]
"""One of each kind, nothing left at its default."""

each_outcome = pytest.mark.parametrize("outcome", OUTCOMES, ids=lambda outcome: type(outcome).__name__)


@pytest.fixture
def bus() -> Iterator[Bus]:
    """A bus that is not started yet."""
    bus = Bus()
    yield bus
    bus.stop()


# --- truth -------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("receipt", [Receipt(), Receipt(0), Receipt(3), Receipt(0, duplicate=True)], ids=repr)
def test_a_receipt_is_true(receipt: Receipt) -> None:
    """A receipt is true, even if nobody listens or the message was known already."""
    assert receipt
    assert bool(receipt) is True


@table("value", [None, 0, False, "", [], "x"], ids=repr)
def test_handled_is_true_whatever_its_value(value: Any) -> None:
    """A handler that returns None, or something empty, has handled."""
    assert Handled(value)
    assert Handled()


@pytest.mark.parametrize("dropped", [Dropped("x"), Dropped("x", by="Sieve"), Dropped("")], ids=repr)
def test_dropped_is_false(dropped: Dropped) -> None:
    """`if not bus.publish(…)` is true when a filter ended the message."""
    assert not dropped
    assert bool(dropped) is False


# --- values --------------------------------------------------------------------------------------------------------------


def test_defaults() -> None:
    """The defaults are: nobody listens, nothing is returned, and the chain fills in who dropped a message."""
    assert (Receipt().mailboxes, Receipt().duplicate) == (0, False)
    assert Handled().value is None
    assert Dropped("x").by is None


def test_dropped_needs_a_reason() -> None:
    """A drop without a reason could not be counted under one."""
    with pytest.raises(TypeError, match="reason"):
        Dropped()


@table("wrong", [["too", "late"], {"age": 12}, None, 5, b"old"], ids=lambda wrong: type(wrong).__name__)
def test_a_reason_is_a_text(wrong: Any) -> None:
    """Drops are counted under their reason, so a reason that is not a text is refused where it is written."""
    with pytest.raises((PipebusError, TypeError), match="reason"):
        Dropped(wrong)


@each_outcome
def test_an_outcome_cannot_be_changed(outcome: Any) -> None:
    """All publishes of a route may share one receipt, so nobody may change it."""
    for field in type(outcome).__match_args__:
        with pytest.raises(AttributeError):
            setattr(outcome, field, None)
        with pytest.raises(AttributeError):
            delattr(outcome, field)
    with pytest.raises(AttributeError):
        outcome.note = "x"


@pytest.mark.parametrize(
    "twin",
    [copy.copy, copy.deepcopy, lambda outcome: pickle.loads(pickle.dumps(outcome))],
    ids=["copy", "deepcopy", "pickle"],
)
@each_outcome
def test_a_copied_outcome_is_equal(outcome: Any, twin: Callable[[Any], Any]) -> None:
    """Outcomes may be kept, copied and sent elsewhere."""
    again = twin(outcome)
    assert again == outcome
    assert type(again) is type(outcome)
    assert bool(again) is bool(outcome)


def test_outcomes_are_equal_by_what_they_say() -> None:
    """Two outcomes are equal if they have the same kind and the same fields."""
    assert Receipt(2) == Receipt(2)
    assert Receipt(2) != Receipt(3)
    assert Receipt(2) != Receipt(2, duplicate=True)
    assert Handled(1) == Handled(1)
    assert Handled(1) != Handled(2)
    assert Dropped("x", "a") == Dropped("x", "a")
    assert Dropped("x", "a") != Dropped("x", "b")
    assert Dropped("x") != Dropped("y")
    assert Receipt(0) != Handled(0)
    assert Handled() != Receipt()


def test_receipts_and_drops_can_be_counted() -> None:
    """Outcomes are hashable, so a set or a Counter can hold them."""
    assert len({Receipt(1), Receipt(1), Receipt(2), Dropped("x"), Dropped("x")}) == 3


@pytest.mark.parametrize(
    ("outcome", "shown"),
    [
        (Receipt(2), "Receipt(mailboxes=2, duplicate=False)"),
        (Handled("x"), "Handled(value='x')"),
        (Handled(forward=Message("b", id="m")), "Handled(value=None, forward=Message('b', None, id='m'))"),
        (Dropped("too old", by="Expire"), "Dropped(reason='too old', by='Expire')"),
    ],
    ids=["Receipt", "Handled", "Handled with a message", "Dropped"],
)
def test_repr_shows_every_field(outcome: Any, shown: str) -> None:
    """A user's failing test shows what came instead."""
    assert repr(outcome) == shown


def told(outcome: object) -> str:
    match outcome:
        case Receipt(mailboxes=0):
            return "nobody"
        case Receipt(mailboxes=count):
            return f"{count} mailboxes"
        case Handled(value):
            return f"handled: {value}"
        case Dropped(reason, by):
            return f"{by}: {reason}"
    return "no outcome"


@pytest.mark.parametrize(
    ("outcome", "text"),
    [(Receipt(0), "nobody"), (Receipt(2), "2 mailboxes"), (Handled(5), "handled: 5"), (Dropped("old", "Sieve"), "Sieve: old")],
    ids=["unrouted", "accepted", "handled", "dropped"],
)
def test_outcomes_can_be_matched(outcome: object, text: str) -> None:
    """A `match` statement can name an outcome's fields or give them by position."""
    assert told(outcome) == text


# --- where they come from ------------------------------------------------------------------------------------------------


def test_a_publish_that_nobody_hears_is_a_receipt(bus: Bus) -> None:
    """The receipt is true, has no mailboxes, and counts as unrouted."""
    bus.start()
    outcome = bus.publish("nobody.listens", 1)
    assert outcome
    assert outcome == Receipt(0)
    assert bus.stats()["unrouted"] == 1


@pytest.mark.parametrize("count", [1, 2, 3])
def test_a_receipt_counts_the_mailboxes(bus: Bus, count: int) -> None:
    """The receipt counts one mailbox for each subscription whose pattern matches."""
    for _ in range(count):
        bus.subscribe("orders.*")
    bus.subscribe("invoices.*")
    bus.start()
    assert bus.publish("orders.created", 1) == Receipt(count)


def test_a_drop_is_signed_with_the_filters_name(bus: Bus) -> None:
    """A reader of the outcome sees who ended the message, and why."""

    @bus.use
    @transform
    def sieve(message: Message[Any]) -> Message[Any] | Dropped:
        return Dropped("too small")

    bus.start()
    outcome = bus.publish("orders.created", 1)
    assert outcome == Dropped("too small", by="sieve")
    assert not outcome


def test_a_drop_that_names_its_author_keeps_the_name(bus: Bus) -> None:
    """A filter may say who it is; the chain fills in only what is missing."""

    @bus.use
    def sieve(message: Message[Any], call_next: Any) -> Dropped:
        return Dropped("too small", by="rule 7")

    bus.start()
    assert bus.publish("orders.created", 1) == Dropped("too small", by="rule 7")


def test_a_delivery_filter_is_given_what_the_handler_returned(bus: Bus) -> None:
    """The outcome around a handler is `Handled(value)`, which is true even if the value is None."""
    outcomes: list[Any] = []

    def watch(message: Message[Any], call_next: Any) -> Any:
        outcomes.append(call_next(message))
        return outcomes[-1]

    bus.subscribe("a", lambda message: message.body, filters=[watch])
    bus.start()
    for body in (5, None):
        bus.publish("a", body)
        bus.drain(timeout=10)
    assert outcomes == [Handled(5), Handled(None)]
    assert all(outcomes)
