"""The four metrics: what is counted and measured, and that no attribute has many values."""

from __future__ import annotations

import pytest
from telemetry_helpers import Emitted, facts

from pipebus import Bus, Dropped, MailboxFull, Message, Rejected, transform
from pipebus.filters import Validate

BUCKETS = (0.005, 0.01, 0.025, 0.05, 0.075, 0.1, 0.25, 0.5, 0.75, 1, 2.5, 5, 7.5, 10)


@transform
def only_paid(message: Message) -> Message | Dropped:
    return message if message.body else Dropped("not paid")


def lived(emitted: Emitted) -> None:
    """A bus with messages of all kinds."""
    bus = emitted.watch(Bus(name="shop"))
    bus.use(only_paid, Validate({"orders.n": int}))
    inbox = bus.subscribe("orders.*", name="inbox", mailbox=3, overflow="reject")

    @bus.on("orders.*", name="billing")
    def bill(message: Message) -> None:
        if message.body == 2:
            raise ValueError("two")

    with bus:
        for body in (1, 2, 0, 3):
            bus.publish("orders.a", body)
        with pytest.raises(Rejected):
            bus.publish("orders.n", "x")
        with pytest.raises(MailboxFull):
            bus.publish("orders.b", 4)
        inbox.receive(timeout=5)


WHERE = {"messaging.system": "pipebus", "messaging.pipebus.bus": "shop", "messaging.destination.template": "orders.*"}
SENT = WHERE | {"messaging.operation.name": "send"}
PROCESSED = WHERE | {"messaging.operation.name": "process", "messaging.consumer.group.name": "billing"}
RECEIVED = WHERE | {"messaging.operation.name": "receive", "messaging.consumer.group.name": "inbox"}


def measured(emitted: Emitted, metric: str) -> list[tuple[dict[str, object], int]]:
    found = [(dict(point.attributes), getattr(point, "count", getattr(point, "value", 0))) for point in emitted.points(metric)]
    return sorted(found, key=str)


def test_messages_are_counted_as_the_conventions_say(emitted: Emitted) -> None:
    """What a filter ended was never sent; what found no room was an attempt to send, with its error."""
    lived(emitted)
    sent, consumed, operations, processes = (
        measured(emitted, f"messaging.{name}")
        for name in ("client.sent.messages", "client.consumed.messages", "client.operation.duration", "process.duration")
    )
    assert sent == [(SENT | {"error.type": "MailboxFull"}, 1), (SENT, 3)]
    assert consumed == sorted([(PROCESSED, 3), (PROCESSED | {"error.type": "ValueError"}, 1), (RECEIVED, 1)], key=str)
    kind = {"messaging.operation.type": "send"}
    assert operations == sorted(
        [(SENT | kind, 4), (SENT | kind | {"error.type": "MailboxFull"}, 1), (SENT | kind | {"error.type": "Rejected"}, 1)],
        key=str,
    )
    assert processes == sorted([(PROCESSED, 3), (PROCESSED | {"error.type": "ValueError"}, 1)], key=str)


def test_durations_are_those_of_the_spans_in_the_buckets_of_the_conventions(emitted: Emitted) -> None:
    """A graph and a trace of one message say the same."""
    lived(emitted)
    for metric, name in (("client.operation.duration", "send orders.*"), ("process.duration", "process orders.*")):
        points = list(emitted.points(f"messaging.{metric}"))
        spans = emitted.all(name)
        assert sum(point.sum for point in points) == pytest.approx(
            sum((span.end_time or 0) - (span.start_time or 0) for span in spans) / 1e9
        )
        assert {point.explicit_bounds for point in points} == {BUCKETS}
        assert sum(point.count for point in points) == len(spans)


def test_an_error_is_called_the_same_in_spans_and_metrics(emitted: Emitted) -> None:
    lived(emitted)
    spans = {facts(span)["error.type"] for span in emitted.spans if "error.type" in facts(span)}
    points = [dict(point.attributes) for name in ("process", "client.operation") for point in
              emitted.points(f"messaging.{name}.duration")]  # fmt: skip
    assert (
        spans == {point["error.type"] for point in points if "error.type" in point} == {"MailboxFull", "ValueError", "Rejected"}
    )
