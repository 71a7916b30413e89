"""The spans of filters and handlers: what each one did to a message."""

from __future__ import annotations

import asyncio
from typing import Any, Literal

import pytest
from telemetry_helpers import Emitted, facts, id_of, parent

from flow_helpers import Boom
from pipebus import Actor, Bus, Dropped, Message, Pipeline, Receipt, Rejected, around, branch, transform, when
from pipebus.filters import Dedupe, Retry, SetHeaders, Timeout, Validate
from pipebus.testing import Harness
from state_helpers import Door


@transform
def same(message: Message) -> Message:
    return message


@transform
def judge(message: Message) -> Message | Dropped:
    match message.body:
        case "drop":
            return Dropped("not wanted")
        case "refuse":
            raise Rejected("wrong")
        case "fail":
            raise ValueError("broken")
        case "change":
            return message.with_headers(seen="yes")
        case _:
            return message


def plain(message: Message, call_next: Any) -> Any:
    if message.body == "answer":
        return Receipt(0)
    if message.body == "drop here":
        return Dropped("plainly")
    return call_next(message)


async def aplain(message: Message, call_next: Any) -> Any:
    return plain(message, lambda message: None) if message.body in ("answer", "drop here") else await call_next(message)


@around
def wrap(message: Message) -> Any:
    yield message


def verdicts(emitted: Emitted) -> dict[str, Any]:
    return {
        span.name.removeprefix("filter "): facts(span)["messaging.pipebus.verdict"]
        for span in emitted.spans
        if span.name.startswith("filter ")
    }


VERDICTS = {
    "pass": {"wrap": "passed", "P": "passed", "judge": "passed", "same": "passed"},
    "change": {"wrap": "passed", "P": "passed", "judge": "changed", "same": "passed"},
    "drop": {"wrap": "passed", "P": "passed", "judge": "dropped"},
    "refuse": {"wrap": "passed", "P": "passed", "judge": "refused"},
    "fail": {"wrap": "passed", "P": "passed", "judge": "failed"},
    "answer": {"wrap": "passed", "P": "answered"},
    "drop here": {"wrap": "passed", "P": "dropped"},
}


@pytest.mark.parametrize("body", VERDICTS)
@pytest.mark.parametrize("colour", ["sync", "async"])
def test_each_filter_has_a_span_with_its_verdict(body: str, colour: str, emitted: Emitted) -> None:
    """A reader of a trace sees which filter changed, dropped or refused a message, and which ones only let it pass."""
    bus = emitted.watch(Bus(), spans="filters")
    bus.use(wrap, plain if colour == "sync" else aplain, judge, same)

    def publish() -> None:
        if colour == "sync":
            bus.publish("a", body)
        else:
            asyncio.run(apublish())

    async def apublish() -> None:
        await bus.apublish("a", body)

    with bus:
        if body in ("refuse", "fail"):
            with pytest.raises((Rejected, ValueError)):
                publish()
        else:
            publish()
    name = "plain" if colour == "sync" else "aplain"
    assert verdicts(emitted) == {name if one == "P" else one: verdict for one, verdict in VERDICTS[body].items()}
    filters = [span for span in emitted.spans if span.name.startswith("filter ")]
    assert [parent(span) for span in filters] == [id_of(span) for span in [emitted.one("send a"), *filters[:-1]]]


def test_the_spans_of_filters_and_handlers_say_of_which_message(emitted: Emitted) -> None:
    """A search for a message finds what each filter did to it; the address of a reply is as secret as elsewhere."""
    bus = emitted.watch(Bus(), spans="filters")
    bus.use(wrap)
    bus.subscribe("ask", lambda message: 42, name="ask")
    with bus:
        bus.request("ask")
    asked, answered = emitted.all("filter wrap")
    for span in (asked, emitted.one("handle handler")):
        assert facts(span)["messaging.message.id"] == facts(emitted.one("send ask"))["messaging.message.id"]
        assert facts(span)["messaging.destination.name"] == "ask"
    assert "messaging.destination.name" not in facts(answered)
    assert facts(answered)["messaging.destination.temporary"] is True


def test_of_two_filters_with_one_name_the_right_one_has_refused(emitted: Emitted) -> None:
    bus = emitted.watch(Bus(), spans="filters")
    bus.use(Validate({"a": str}), Validate({"a": Literal["fine"]}))
    with bus, pytest.raises(Rejected):
        bus.publish("a", "bad")
    found = [facts(span)["messaging.pipebus.verdict"] for span in emitted.all("filter Validate")]
    assert found == ["changed", "refused"]  # the first has replaced the body by the one that it validated


@pytest.mark.parametrize("awaited", [False, True])
def test_filters_of_an_async_chain_are_in_the_trace_of_a_publisher_that_waits(awaited: bool, emitted: Emitted) -> None:
    """`publish` runs such a chain on the bus's own loop, and `apublish` on that of the caller."""
    bus = emitted.watch(Bus(), spans="filters")
    bus.use(aplain)

    async def apublish() -> None:
        await bus.apublish("a")

    with bus, emitted.tracer.start_as_current_span("request"):
        if awaited:
            asyncio.run(apublish())
        else:
            bus.publish("a")
    assert emitted.children(emitted.one("request")) == ["send a"]
    assert emitted.children(emitted.one("send a")) == ["filter aplain"]


def test_detours_have_spans_only_where_they_are_taken(emitted: Emitted) -> None:
    """Filters in `when`, `branch` and pipelines are spans like others; those that a message does not meet are not there."""
    bus = emitted.watch(Bus(), spans="filters")
    bus.use(when("b", SetHeaders({"x": "1"})), Pipeline(judge, on_error="drop"), branch("a", wrap), same)
    with bus:
        bus.publish("a", "fail")
        bus.publish("a", "pass")
    assert [span.name for span in emitted.spans] == ["send a", "filter judge", "send a", "filter judge", "filter wrap"]


def test_a_retry_shows_each_pass(emitted: Emitted) -> None:
    """One attempt at a delivery may run the handler several times; each run is a span of its own."""
    bus = emitted.watch(Bus(), spans="filters")
    bus.use(Retry(attempts=3, wait=0.0, jitter=0.0), at="delivery")
    runs: list[int] = []

    @bus.on("a", name="a", filters=[Timeout(5.0, abandon=True), same])
    def handle(message: Message) -> None:
        runs.append(1)
        if len(runs) < 3:
            raise ValueError("not yet")

    with bus:
        bus.publish("a")
    runs_seen = emitted.all("handle handle")
    assert [[event.name for event in span.events] for span in runs_seen] == [["exception"], ["exception"], []]
    stack = dict(runs_seen[0].events[0].attributes or {})["exception.stacktrace"]
    assert "in handle\n" in str(stack)
    assert "/src/pipebus/" not in str(stack)
    assert emitted.children(emitted.one("filter Retry")) == ["filter Timeout"] * 3
    assert emitted.children(emitted.one("process a"))[0] == "filter Retry"
    assert facts(emitted.one("filter Retry"))["messaging.pipebus.passes"] == 3
    assert [facts(span).get("error.type") for span in emitted.all("filter Timeout")] == ["ValueError", "ValueError", None]
    assert {facts(span)["messaging.pipebus.verdict"] for span in emitted.all("filter Timeout")} == {"passed"}
    assert [parent(span) for span in emitted.all("filter same")] == [id_of(span) for span in emitted.all("filter Timeout")]


class Quota(Actor):
    left = 1

    def filter(self, message: Message) -> Any:
        self.left -= 1
        return message.with_headers(quota="yes") if self.left >= 0 else Dropped("used up")


def test_a_filter_actor_is_a_filter_like_others(emitted: Emitted) -> None:
    """Its span is in the trace of the message, although it runs in a mailbox of its own."""
    bus = emitted.watch(Bus(), spans="filters")
    bus.use(wrap, Quota("quota"), same)
    with bus:
        bus.publish("a")
        bus.publish("a")
    first, second = emitted.all("filter wrap")
    assert [facts(span)["messaging.pipebus.verdict"] for span in (first, second)] == ["passed", "passed"]
    assert [facts(span)["messaging.pipebus.verdict"] for span in emitted.all("filter quota")] == ["changed", "dropped"]
    assert "messaging.pipebus.passes" not in facts(first)
    assert emitted.children(first) == ["filter quota", "filter same"]


def test_a_message_that_a_filter_publishes_has_a_trace_below_that_filter(emitted: Emitted) -> None:
    """The chain of the second message says nothing about the filters of the first."""
    bus = emitted.watch(Bus(), spans="filters")

    @bus.use
    def audit(message: Message, call_next: Any) -> Any:
        if message.subject != "audit":
            bus.publish("audit", message.body)
        return call_next(message)

    with bus:
        bus.publish("a", "pass")
    outer = emitted.all("filter audit")[0]
    assert emitted.children(outer) == ["send audit"]
    assert facts(outer)["messaging.pipebus.verdict"] == "passed"
    assert "messaging.pipebus.passes" not in facts(outer)


def test_the_span_of_a_filter_has_its_state_after_the_run(emitted: Emitted) -> None:
    """A reader of a trace sees that the breaker was open then; of a filter around several handlers, the state at this one."""

    class Counter(Door):
        def transform(self, message: Message) -> Message:
            self.figures = {"seen": message.body, "state": "x" * 1000, "odd": None}
            return message

    bus = emitted.watch(Bus(), spans="filters")
    bus.use(Counter(name="counter"), Door(Boom(), name="bad"), same)
    around_all = Door(state="open")
    bus.use(around_all, at="delivery")
    bus.subscribe("a", lambda message: None, name="till")
    with bus:
        bus.publish("a", 7)
    prefix = "messaging.pipebus.filter."
    shown = {
        span.name: {name.removeprefix(prefix): value for name, value in facts(span).items() if name.startswith(prefix)}
        for span in emitted.spans
    }
    counter = shown.pop("filter counter")
    assert (counter.pop("seen"), len(str(counter.pop("state"))), counter) == (7, 200, {})
    assert {name: found for name, found in shown.items() if found} == {"filter Door": {"state": "open"}}
    assert around_all.places == ["till"]
    assert verdicts(emitted) == {"counter": "passed", "bad": "passed", "same": "passed", "Door": "passed"}


@pytest.mark.parametrize("spans", ["messages", None])
def test_nobody_asks_for_the_state_of_filters_without_their_spans(spans: Any, emitted: Emitted) -> None:
    """A bus that does not emit them pays nothing for the filters that could say something."""
    bus, door = Bus(), Door(state="open")
    if spans is not None:
        emitted.watch(bus, spans=spans)
    bus.use(door)
    with bus:
        bus.publish("a")
    assert door.places == []


def test_the_story_of_the_harness_and_spans_of_filters_get_on(emitted: Emitted) -> None:
    """Both look at filters through the same hook: neither replaces the other."""
    for first in ("harness", "telemetry"):
        emitted.exporter.clear()
        with Harness() as harness:
            bus = Bus()
            bus.use(Dedupe())
            bus.subscribe("a", lambda message: None, name="a")
            if first == "telemetry":
                emitted.watch(bus, spans="filters")
            harness.attach(bus)
            if first == "harness":
                emitted.watch(bus, spans="filters")
            harness.start(bus)
            bus.publish("a")
            harness.drain()
            assert "Dedupe" in harness.story
            assert emitted.children(emitted.one("send a")) == ["filter Dedupe"]
