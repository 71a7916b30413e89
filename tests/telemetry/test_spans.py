"""The spans of a bus in memory: which there are, what they say, and how they belong together."""

from __future__ import annotations

import asyncio
import gc
import time
import weakref
from collections.abc import Callable
from typing import Any

import opentelemetry.semconv._incubating.attributes.messaging_attributes as conventions
import opentelemetry.semconv._incubating.metrics.messaging_metrics as conventional_metrics
import pytest
from opentelemetry import baggage, trace
from opentelemetry.context import attach, detach
from opentelemetry.semconv.schemas import Schemas
from opentelemetry.trace import SpanKind, StatusCode
from telemetry_helpers import Emitted, facts, id_of, links, parent, trace_of

from pipebus import (
    Actor,
    Bus,
    Delivery,
    Dropped,
    MailboxFull,
    Message,
    Pipeline,
    Ref,
    Rejected,
    RequestFailed,
    Subscription,
    around,
    transform,
)
from pipebus.errors import LifecycleError, PipelineError
from pipebus.filters import Redeliver, Retry, Timeout, Validate
from pipebus.telemetry import destinations, instrument, names
from pipebus.testing import Harness

HANDLERS = [pytest.param(run, awaited, id=f"{run}, {awaited or 'def'}") for run, awaited in
            [("pool", ""), ("thread", ""), ("loop", ""), ("loop", "async")]]  # fmt: skip


def test_a_message_has_a_span_where_it_is_sent_one_where_it_is_handled_and_one_where_it_is_settled(emitted: Emitted) -> None:
    """Attributes, kinds and links are those of the conventions."""
    bus = emitted.watch(Bus(name="shop"))
    bus.subscribe("orders.*", lambda message: None, name="billing")
    with bus:
        bus.send(Message("orders.new", {"id": 1}, id="m1", correlation_id="c1"))

    send, process, settle = emitted.one("send orders.*"), emitted.one("process orders.*"), emitted.one("settle orders.*")
    common = {
        "messaging.system": "pipebus",
        "messaging.pipebus.bus": "shop",
        "messaging.destination.name": "orders.new",
        "messaging.destination.template": "orders.*",
        "messaging.message.id": "m1",
        "messaging.message.conversation_id": "c1",
    }
    assert facts(send) == common | {
        "messaging.operation.name": "send", "messaging.operation.type": "send",
        "messaging.pipebus.verdict": "accepted", "messaging.pipebus.mailboxes": 1,
    }  # fmt: skip
    assert facts(process) == common | {
        "messaging.operation.name": "process", "messaging.operation.type": "process",
        "messaging.consumer.group.name": "billing", "messaging.pipebus.attempt": 1, "messaging.pipebus.verdict": "handled",
    }  # fmt: skip
    assert facts(settle) == common | {
        "messaging.operation.name": "settle", "messaging.operation.type": "settle",
        "messaging.consumer.group.name": "billing", "messaging.pipebus.attempt": 1,
        "messaging.pipebus.verdict": "acknowledged",
    }  # fmt: skip
    assert (send.kind, process.kind, settle.kind) == (SpanKind.PRODUCER, SpanKind.CONSUMER, SpanKind.CLIENT)
    assert (parent(send), parent(process), parent(settle)) == (None, None, id_of(process))
    assert (links(send), links(process), links(settle)) == ([], [id_of(send)], [id_of(send)])
    assert {span.status.status_code for span in emitted.spans} == {StatusCode.UNSET}
    scope = send.instrumentation_scope
    assert scope is not None
    assert (scope.name, scope.schema_url) == ("pipebus", "https://opentelemetry.io/schemas/1.44.0")


def test_every_name_is_one_of_the_conventions_or_has_our_prefix() -> None:
    """A name that the conventions do not have would be lost in every tool that knows them."""
    known = {value for name, value in vars(conventions).items() if name.startswith("MESSAGING_") and isinstance(value, str)}
    ours = {value for value in vars(names).values() if isinstance(value, str) and value.startswith("messaging.")}
    measured = {value for name, value in vars(conventional_metrics).items() if name.startswith("MESSAGING_")}
    assert {name for name in ours if not name.startswith("messaging.pipebus.")} <= known | measured
    assert names.SCHEMA_URL in {schema.value for schema in Schemas}


def test_a_handler_continues_the_trace_if_that_is_asked(emitted: Emitted) -> None:
    """With parent="child", one trace holds a message from its publisher to its last handler."""
    bus = emitted.watch(Bus(), parent="child")
    bus.subscribe("a", lambda message: bus.publish("b"), name="a")
    bus.subscribe("b", lambda message: None, name="b")
    with bus, emitted.tracer.start_as_current_span("request"):
        bus.publish("a")

    assert len({trace_of(span) for span in emitted.spans}) == 1
    assert emitted.children(emitted.one("request")) == ["send a"]
    assert "process a" in emitted.children(emitted.one("send a"))
    assert emitted.children(emitted.one("process a")) == ["send b", "settle a"]
    assert links(emitted.one("process b")) == [id_of(emitted.one("send b"))]


@pytest.mark.parametrize(("run", "awaited"), HANDLERS)
def test_a_handler_s_own_spans_are_children_of_its_process_span(run: str, awaited: str, emitted: Emitted) -> None:
    """On pool threads, threads of its own and event loops, the context is current while the handler runs."""
    bus = emitted.watch(Bus())
    seen: list[Any] = []

    def work(message: Message) -> None:
        seen.append(baggage.get_baggage("tenant"))
        with emitted.tracer.start_as_current_span("work"):
            bus.publish("b")

    async def awork(message: Message) -> None:
        await asyncio.sleep(0)
        work(message)
        await bus.apublish("b")

    bus.subscribe("a", awork if awaited else work, name="a", run=run)  # type: ignore[arg-type]
    token = attach(baggage.set_baggage("tenant", "t1"))
    try:
        with bus:
            bus.publish("a")
            bus.publish("a")
    finally:
        detach(token)

    assert seen == ["t1", "t1"]
    for process in emitted.all("process a"):
        assert "work" in emitted.children(process)
    assert len(emitted.all("work")) == 2
    assert all(parent(span) is not None for span in emitted.all("send b"))


def test_what_a_handler_returns_is_sent_within_its_trace(emitted: Emitted) -> None:
    """The send to `to`, and that of the reply, are children of the handling, which has ended by then."""
    bus = emitted.watch(Bus())
    bus.subscribe("a", lambda message: "for to", name="a", to="b")
    bus.subscribe("b", lambda message: None, name="b")

    @bus.on("ask", name="ask")
    async def answer(message: Message) -> int:
        return 42

    with bus:
        bus.publish("a")
        assert bus.request("ask").body == 42

    assert emitted.children(emitted.one("process a")) == ["send b", "settle a"]
    assert emitted.children(emitted.one("process ask")) == ["send (reply)", "settle ask"]
    assert links(emitted.one("process b")) == [id_of(emitted.one("send b"))]


def test_each_attempt_is_a_span_of_its_own(emitted: Emitted) -> None:
    """A message that is returned twice and then fails has three process spans; the settle spans say what became of each."""
    bus = emitted.watch(Bus())

    @bus.on("a", name="a")
    def fail(message: Message, delivery: Delivery) -> None:
        if delivery.attempt < 3:
            delivery.retry()
        else:
            raise ValueError("down")

    with bus:
        bus.publish("a")
        bus.drain()
        [letter] = bus.dead_letters
        bus.dead_letters.replay(letter.id)

    send, processes, settles = emitted.one("send a"), emitted.all("process a"), emitted.all("settle a")
    assert [facts(one)["messaging.pipebus.attempt"] for one in processes[:3]] == [1, 2, 3]
    assert all(links(one) == [id_of(send)] for one in processes)
    assert [facts(one)["messaging.pipebus.verdict"] for one in settles[:3]] == ["returned", "returned", "dead"]
    failed = processes[2]
    assert (failed.status.status_code, failed.status.description) == (StatusCode.ERROR, "down")
    assert facts(failed)["error.type"] == "ValueError"
    [event] = failed.events
    assert (event.name, dict(event.attributes or {})["exception.message"]) == ("exception", "down")
    assert "/src/pipebus/" not in str(dict(event.attributes or {})["exception.stacktrace"])
    assert len(processes) == 6  # the replay has three attempts of its own


def test_a_delayed_message_links_to_the_span_that_sent_it(emitted: Emitted, harness: Harness) -> None:
    bus = emitted.watch(harness.bus)
    bus.subscribe("a", lambda message: None, name="a")
    harness.start()
    with emitted.tracer.start_as_current_span("request") as request:
        bus.publish("a", delay=3600)
    harness.advance(4000)
    assert parent(emitted.one("send a")) == request.get_span_context().span_id
    assert links(emitted.one("process a")) == [id_of(emitted.one("send a"))]


def test_a_schedule_begins_a_trace_each_time(emitted: Emitted, harness: Harness) -> None:
    """A tick does not belong to the request in which the schedule was registered."""
    bus = emitted.watch(harness.bus)
    bus.subscribe("tick", lambda message: None, name="a")
    with emitted.tracer.start_as_current_span("request"):
        bus.every(60, "tick")
        harness.start()
    harness.advance(125)
    assert [parent(span) for span in emitted.all("send tick")] == [None, None]
    assert len({trace_of(span) for span in emitted.all("send tick")}) == 2


def test_a_reader_has_a_receive_span_for_each_message(emitted: Emitted) -> None:
    """Reading is a span in the reader's own trace, with a link to the sender's."""
    bus = emitted.watch(Bus())
    bus.use(Retry(attempts=2), at="delivery")  # which does not apply to readers
    inbox = bus.subscribe("a", name="inbox")
    with bus:
        for _ in range(4):
            bus.publish("a")
        with emitted.tracer.start_as_current_span("job") as job:
            inbox.receive(timeout=5)
        inbox.receive(timeout=5)
        with inbox.delivery(timeout=5):
            pass
        asyncio.run(areceive(inbox))

    sends, receives, settles = emitted.all("send a"), emitted.all("receive a"), emitted.all("settle a")
    assert [links(one) for one in receives] == [[id_of(one)] for one in sends]
    assert [parent(one) for one in receives] == [job.get_span_context().span_id, None, None, None]
    assert [parent(one) for one in settles] == [job.get_span_context().span_id, *map(id_of, receives[1:])]
    assert {one.kind for one in receives} == {SpanKind.CLIENT}
    assert facts(receives[0])["messaging.consumer.group.name"] == "inbox"
    assert emitted.all("process a") == []


async def areceive(inbox: Subscription) -> None:
    async with inbox.adelivery(timeout=5):
        pass


@pytest.mark.parametrize("name", ["traceparent", "Traceparent"])
def test_a_context_that_a_message_has_already_is_kept(name: str, emitted: Emitted) -> None:
    """What a program or a replay has put into the headers stays; `send` links to it, and so does `process`."""
    theirs = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"
    bus = emitted.watch(Bus())
    seen: list[Any] = []
    bus.subscribe("a", lambda message: seen.append(dict(message.headers)), name="a")
    with bus:
        bus.publish("a", headers={name: theirs})

    assert seen == [{name: theirs}]
    send, process = emitted.one("send a"), emitted.one("process a")
    assert send.kind == SpanKind.CLIENT
    assert links(send) == links(process) == [0xB7AD6B7169203331]


def test_a_publish_that_is_replayed_keeps_the_context_of_the_first(emitted: Emitted) -> None:
    """A dead letter of the publish chain has the headers that the message had there."""
    bus, down = emitted.watch(Bus()), [True]

    @transform
    def fail_once(message: Message) -> Message:
        if down:
            raise ConnectionError(down.pop())
        return message

    bus.use(Pipeline(fail_once, on_error="dead_letter"))
    bus.subscribe("a", lambda message: None, name="a")
    with bus:
        bus.publish("a")
        [letter] = bus.dead_letters
        bus.dead_letters.replay(letter.id)

    first, second = emitted.all("send a")
    assert (first.kind, second.kind) == (SpanKind.PRODUCER, SpanKind.CLIENT)
    assert links(second) == links(emitted.one("process a")) == [id_of(first)]


def test_a_context_that_cannot_be_read_is_replaced(emitted: Emitted) -> None:
    """Headers from anywhere may hold anything."""
    bus = emitted.watch(Bus())
    bus.subscribe("a", lambda message: None, name="a")
    with bus:
        bus.publish("a", headers={"traceparent": "<script>", "baggage": "\x01=="})
    assert links(emitted.one("process a")) == [id_of(emitted.one("send a"))]


class Ending(Actor):
    async def on_message(self, message: Message) -> None:
        tasks.add(asyncio.current_task())
        self.stop()


tasks: set[Any] = set()


@pytest.mark.parametrize("spans", ["messages", "filters"])
def test_nothing_is_kept_of_what_has_ended(spans: Any, emitted: Emitted) -> None:
    """Stopped actors are collected, and the workers of a loop go on with the contexts that they have."""
    tasks.clear()
    with emitted.watch(Bus(), spans=spans) as bus:
        actors = [bus.spawn(Ending(f"actor-{number}")) for number in range(5)]
        for actor in actors:
            bus.publish(actor)
            bus.drain(timeout=10)
        seen = [weakref.ref(actor) for actor in actors]
        del actor, actors
        emitted.exporter.clear()
        deadline = time.monotonic() + 10
        while any(one() is not None for one in seen) and time.monotonic() < deadline:
            gc.collect()
            time.sleep(0.01)
        assert [one() for one in seen] == [None] * 5
    assert len(tasks) == 1


# --- where it goes, in few words -----------------------------------------------------------------------------------------


class Greeter(Actor):
    def on_message(self, message: Message) -> None: ...


def test_objects_and_replies_have_no_name_but_a_kind(emitted: Emitted) -> None:
    """Addresses that exist for one object or one conversation would make as many span names."""
    bus = emitted.watch(Bus())
    greeter, thing = bus.spawn(Greeter()), Ref(frozenset())
    bus.subscribe(thing, lambda message: None)
    with bus:
        bus.publish(greeter)
        bus.publish(thing)

    for name in ("send (Greeter)", "process (Greeter)", "send (frozenset)", "process (frozenset)"):
        assert facts(emitted.one(name))["messaging.destination.anonymous"] is True
        assert "messaging.destination.name" not in facts(emitted.one(name))
        assert "messaging.consumer.group.name" not in facts(emitted.one(name))


def test_the_secret_of_a_reply_address_is_in_no_span(emitted: Emitted) -> None:
    """Any reader of traces could otherwise answer requests."""
    bus = emitted.watch(Bus("memory:?wire=json"), spans="filters")
    secrets: list[str] = []

    @bus.on("ask", name="ask")
    def answer(message: Message) -> int:
        secrets.append(message.reply_to)
        return 42

    with bus:
        bus.request("ask")
    assert secrets[0].startswith("_reply.")
    assert not [span for span in emitted.spans if secrets[0] in span.to_json()]
    assert {span.name for span in emitted.spans} == {"send ask", "process ask", "handle answer", "send (reply)", "settle ask"}
    assert facts(emitted.one("send (reply)"))["messaging.destination.temporary"] is True


def test_after_a_thousand_subjects_names_hold_no_further_ones(emitted: Emitted, monkeypatch: pytest.MonkeyPatch) -> None:
    """A publisher that makes subjects of ids cannot flood the tools that group by name."""
    monkeypatch.setattr(destinations, "MOST", 2)
    bus = emitted.watch(Bus())
    with bus:
        for number in range(4):
            bus.publish(f"orders.{number}")
    assert [span.name for span in emitted.spans] == ["send orders.0", "send orders.1", "send", "send"]
    assert facts(emitted.spans[-1])["messaging.destination.name"] == "orders.3"
    assert [point.attributes.get("messaging.destination.name") for point in emitted.points(names.SENT_MESSAGES)] == [
        "orders.0", "orders.1", None
    ]  # fmt: skip


# --- what goes wrong -----------------------------------------------------------------------------------------------------


@transform
def only_paid(message: Message) -> Message | Dropped:
    return message if message.body else Dropped("not paid")


def fails(message: Message) -> None:
    raise ValueError("down")


def refuses(message: Message, delivery: Delivery) -> None:
    delivery.reject("bad order")


ENDINGS: dict[str, tuple[Callable[..., Any], dict[str, Any], str, str | None, str, str]] = {
    "redelivered": (fails, {"filters": [Redeliver(wait=0)], "attempts": 2}, "returned", None, "ValueError", "down"),
    "rejected": (refuses, {}, "dead", "bad order", "Rejected", "rejected by a: bad order"),
    "refused further on": (lambda message: "x", {"to": "n"}, "dead", "n is not a number", "Rejected", "rejected by even: "),
    "in a loop": (lambda message: "x", {"to": "a"}, "dead", None, "TooManyHops", "handlers have passed"),
}


@around
def even(message: Message) -> Any:
    if message.subject == "n":
        raise Rejected("n is not a number")
    yield message


@pytest.mark.parametrize("ending", ENDINGS)
def test_a_delivery_that_an_error_has_ended_says_so_where_it_is_settled(ending: str, emitted: Emitted) -> None:
    """Its handler may have succeeded, or a filter may have caught the error; the message has failed nevertheless."""
    handler, options, verdict, reason, kind, text = ENDINGS[ending]
    bus = emitted.watch(Bus(max_hops=2))
    bus.use(even)
    bus.subscribe("a", handler, name="a", **options)
    with bus:
        bus.publish("a")
        bus.drain()

    settle = next(span for span in emitted.all("settle a") if facts(span)["messaging.pipebus.verdict"] == verdict)
    assert settle.status.status_code == StatusCode.ERROR
    assert facts(settle)["error.type"] == kind
    assert (settle.status.description or "").startswith(text)
    assert reason is None or facts(settle)["messaging.pipebus.reason"] == reason
    assert facts(settle)["messaging.pipebus.attempt"] == 1


@pytest.mark.parametrize("mode", ["link", "child"])
def test_what_is_dropped_without_an_attempt_is_in_the_trace_of_its_message(
    mode: Any, emitted: Emitted, harness: Harness
) -> None:
    """A message that expires, or makes room for another one, has nothing to do with what is current just then."""
    bus = emitted.watch(harness.bus, parent=mode)
    old = bus.subscribe("old", lambda message: None, name="old")
    bus.subscribe("many", name="many", mailbox=1, overflow="drop_oldest")
    harness.start()
    old.pause()
    bus.publish("old", ttl=1)
    harness.advance(2)
    old.resume()
    harness.drain()
    bus.publish("many")
    with emitted.tracer.start_as_current_span("request"):
        bus.publish("many")

    for name in ("old", "many"):
        send, settle = emitted.all(f"send {name}")[0], emitted.one(f"settle {name}")
        assert parent(settle) == (id_of(send) if mode == "child" else None)
        assert links(settle) == [id_of(send)]
        assert "" not in facts(settle).values()


def test_what_becomes_of_a_publish_is_in_its_span(emitted: Emitted) -> None:
    """Dropped is not an error; refused is one."""
    bus = emitted.watch(Bus())
    bus.use(only_paid, Validate({"n": int}))
    with bus:
        bus.publish("a", 0)
        with pytest.raises(Rejected):
            bus.publish("n", "x")

    dropped, refused = emitted.one("send a"), emitted.one("send n")
    assert facts(dropped)["messaging.pipebus.verdict"] == "dropped"
    assert facts(dropped)["messaging.pipebus.reason"] == "not paid"
    assert facts(dropped)["messaging.pipebus.by"] == "only_paid"
    assert (dropped.status.status_code, refused.status.status_code) == (StatusCode.UNSET, StatusCode.ERROR)
    assert facts(refused)["error.type"] == "Rejected"


def test_a_publish_that_finds_no_room_has_one_span_with_the_error(emitted: Emitted) -> None:
    """Also from a coroutine, which waits for room before any filter runs."""
    bus = emitted.watch(Bus())
    bus.subscribe("a", name="a", mailbox=1, overflow="reject")

    async def publish() -> None:
        with pytest.raises(MailboxFull):
            await bus.apublish("a", 2)

    with bus:
        bus.publish("a", 1)
        asyncio.run(publish())
        with pytest.raises(MailboxFull):
            bus.publish("a", 3)
    assert [facts(span).get("error.type") for span in emitted.all("send a")] == [None, "MailboxFull", "MailboxFull"]


class Unprintable(Exception):
    def __str__(self) -> str:
        raise RuntimeError("no text")

    __repr__ = __str__


class BrokenProcessor:
    """A part of OpenTelemetry that fails whatever happens."""

    def __getattr__(self, name: str) -> Callable[..., Any]:
        def fail(*arguments: Any, **more: Any) -> Any:
            raise RuntimeError("broken")

        return fail


@pytest.mark.parametrize("spans", ["messages", "filters"])
def test_a_part_of_opentelemetry_that_fails_costs_only_its_spans(
    spans: Any, emitted: Emitted, caplog: pytest.LogCaptureFixture
) -> None:
    """Messages are handled, replies come, figures are right; the log says once what is wrong."""
    broken: Any = BrokenProcessor()
    emitted.tracers.add_span_processor(broken)
    bus = emitted.watch(Bus(), spans=spans)
    bus.use(Retry(attempts=2, wait=0.0), at="delivery")
    inbox = bus.subscribe("a", name="inbox")
    bus.subscribe("a", lambda message: 1 / 0, name="a")
    bus.subscribe("ask", lambda message: 42, name="ask")
    with bus:
        bus.publish("a")
        assert bus.request("ask").body == 42
        inbox.receive(timeout=5)
        bus.drain()
        assert not bus.health().degraded
        [letter] = bus.dead_letters
    assert bus.stats()["subscriptions"]["a"]["dead"] == 1
    assert bus.stats()["subscriptions"]["ask"]["acknowledged"] == 1
    assert bus.stats()["observer_errors"] == 0
    assert "observer.failed" not in caplog.text
    assert "broken" not in letter.traceback
    emitted.tracers._active_span_processor._span_processors = ()


def test_hostile_errors_are_spans_too(emitted: Emitted) -> None:
    """An error whose text cannot be read still ends its span, and its delivery."""
    bus = emitted.watch(Bus(), spans="filters")

    @bus.on("a", name="a")
    def fail(message: Message) -> None:
        raise Unprintable

    with bus:
        bus.publish("a")
    assert facts(emitted.one("process a"))["error.type"] == "Unprintable"
    assert bus.stats()["subscriptions"]["a"]["dead"] == 1


@pytest.mark.parametrize("text", ["bad \ud800", "x" * 10_000_000, "\ud800" * 4096], ids=["surrogate", "10 MB", "both"])
def test_texts_of_a_program_are_such_that_exporters_can_send_them(text: str, emitted: Emitted) -> None:
    """A text that UTF-8 cannot encode, or one of megabytes, would cost all spans of its batch."""
    bus = emitted.watch(Bus(), spans="filters")

    @bus.use
    @transform
    def drop(message: Message) -> Message | Dropped:
        return Dropped(text) if message.body == "drop" else message

    @bus.on("a", name="a")
    def fail(message: Message, delivery: Delivery) -> None:
        if message.body == "reject":
            delivery.reject(text)
        else:
            raise ValueError(text)

    with bus:
        for body in ("drop", "reject", "fail"):
            bus.publish("a", body)
        bus.publish("a", "reject", id="y" * 1_000_000)
    for span in emitted.spans:
        events = [dict(event.attributes or {}) for event in span.events]
        stacks = [str(event.pop("exception.stacktrace")) for event in events]
        texts = [span.status.description, *facts(span).values(), *(text for event in events for text in event.values())]
        assert max(len(text.encode()) for text in texts if isinstance(text, str)) < 4096 + len("…".encode())
        assert all(len(stack.encode()) < 64 * 1024 + len("…".encode()) for stack in stacks)


def test_a_bus_is_instrumented_once_and_before_it_starts(emitted: Emitted) -> None:
    """A mistake is said where it is made."""
    bus = Bus()
    with pytest.raises(PipelineError, match=r'instrument\(spans=\'all\'\): it is "messages" or "filters"'):
        instrument(bus, spans="all")  # type: ignore[arg-type]
    with pytest.raises(PipelineError, match="instrument takes a Bus, found 5"):
        instrument(5)  # type: ignore[arg-type]
    with pytest.raises(PipelineError, match=r"instrument\(tracer_provider=5\): it is a provider of OpenTelemetry"):
        instrument(bus, tracer_provider=5)  # type: ignore[arg-type]
    with pytest.raises(PipelineError, match=r"instrument\(meter_provider='x'\): .* with get_meter"):
        instrument(bus, meter_provider="x")  # type: ignore[arg-type]
    with bus, pytest.raises(LifecycleError, match=r"chains are frozen; call instrument\(\) before start\(\)"):
        emitted.watch(bus)
    emitted.watch(bus)  # it has stopped, and may be started again
    with pytest.raises(LifecycleError, match="is instrumented already"):
        emitted.watch(bus)
    bus.use(only_paid)
    bus.subscribe("a", lambda message: None, name="a")
    assert "  telemetry    " in bus.explain("a")
    assert [node["filter"] for node in bus.describe()["publish"]] == ["telemetry", "only_paid"]
    with bus:
        bus.publish("a", 1)
    assert facts(emitted.one("send a"))["messaging.pipebus.verdict"] == "accepted"


def test_without_a_provider_messages_stay_as_they_are() -> None:
    """The API without an SDK emits nothing, and adds no headers."""
    bus = Bus()
    instrument(bus, spans="filters", tracer_provider=trace.NoOpTracerProvider())
    seen: list[Any] = []
    bus.subscribe("a", lambda message: seen.append(dict(message.headers)), name="a")
    with bus:
        bus.publish("a")
    assert seen == [{}]


@pytest.mark.parametrize("url", ["memory:", "memory:?wire=json"])
def test_watching_changes_nothing(url: str, emitted: Emitted) -> None:
    """Outcomes, figures, what handlers see and dead letters are the same with telemetry and without."""

    def life(instrumented: bool) -> Any:
        bus = Bus(url)
        if instrumented:
            emitted.watch(bus, spans="filters")
        seen: list[Any] = []
        bus.use(only_paid, Validate({"n": int}))
        bus.use(Retry(attempts=2, wait=0.0, jitter=0.0), Timeout(5.0, abandon=True), at="delivery")
        inbox = bus.subscribe(["a", "b.>"], name="inbox")

        @bus.on(["a", "b.*"], name="a", to="c")
        def first(message: Message) -> Any:
            seen.append((message.subject, message.body))
            if message.body == 2:
                raise ValueError("two")
            return message.body

        bus.subscribe("c", lambda message: seen.append(("c", message.body)), name="c")

        @bus.on("ask", name="ask")
        async def ask(message: Message) -> Any:
            if message.body == "bad":
                raise ValueError("bad")
            return message.body

        outcomes: list[Any] = []
        with bus:
            for subject, body in [("a", 1), ("a", 0), ("b.x", 2), ("n", "x"), ("nobody", 1), ("b.y.z", 1)]:
                try:
                    outcomes.append(str(bus.publish(subject, body)))
                except Rejected as error:
                    outcomes.append(str(error))
            outcomes.append(bus.request("ask", 5).body)
            with pytest.raises(RequestFailed):
                bus.request("ask", "bad")
            outcomes += [inbox.receive(timeout=5).body for _ in range(3)]
            bus.drain()
            stats = bus.stats()
        return outcomes, sorted(seen), stats, [str(letter.error) for letter in bus.dead_letters]

    assert life(True) == life(False)
