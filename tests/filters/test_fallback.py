"""Fallback: an error that is named has another outcome, once, and every other error passes unchanged."""

from __future__ import annotations

import asyncio
import random
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from flow_helpers import WAIT, InThread
from pipebus import (
    Bus,
    BusClosed,
    Delivery,
    Dropped,
    Handled,
    Message,
    Pipeline,
    PipelineError,
    Receipt,
    Rejected,
    around,
    when,
)
from pipebus.errors import ContractError, NoSubscriber, SubjectError
from pipebus.filters import CircuitBreaker, Dedupe, Fallback, Redeliver, Retry, Tap
from pipebus.testing import FilterBench, Harness, run_filter
from pipebus.testing.logs import captured_logs
from scale_helpers import seeded, share
from tables import table


class Boom(Exception):
    """The error of these tests."""


@pytest.fixture
def logs() -> Iterator[list[Any]]:
    """The log lines of a test."""
    with captured_logs() as entries:
        yield entries


def fail(message: Message) -> None:
    raise Boom("down")


def coloured(colour: str, handle: Callable[[Message], object]) -> Any:
    async def ahandle(message: Message) -> object:
        return handle(message)

    return handle if colour == "sync" else ahandle


def figures(bus: Bus, place: str = "s") -> dict[str, Any]:
    found: dict[str, Any] = bus.stats()["filters"][place]["Fallback"]
    return found


# --- random messages ----------------------------------------------------------------------------------------------------

ENDS: dict[str, Callable[[], Any]] = {
    "works": lambda: None, "is dropped": lambda: Dropped("no"), "Boom": Boom, "OSError": OSError, "BusClosed": BusClosed,
    "ConnectionError": ConnectionError, "Rejected": lambda: Rejected("no"), "ContractError": lambda: ContractError("no"),
}  # fmt: skip
ON: dict[str, tuple[Any, set[str]]] = {
    "Boom": (Boom, {"Boom"}),
    "OSError": (OSError, {"OSError", "ConnectionError"}),
    "two": ((Rejected, Boom), {"Rejected", "Boom"}),
    "all": (Exception, {"Boom", "OSError", "ConnectionError", "Rejected"}),
}


@seeded(30, share(10_000))
def test_it_does_what_the_oracle_says(seeds: range) -> None:
    """Handlers end in all ways, and the message is handled, goes elsewhere, is dropped or dies, exactly as the settings say."""
    for seed in seeds:
        pick = random.Random(seed).choice
        on, caught = ON[pick(list(ON))]
        by_value, colour = pick([True, False]), pick(["sync", "async"])
        fallback = Fallback(value="instead", on=on) if by_value else Fallback(subject="later", on=on)
        wanted: dict[str, list[Any]] = {"later": [], "values": [], "dead": [], "dropped": []}
        later: list[Message] = []
        values: list[Message] = []

        @around
        def rest(message: Message) -> Any:
            end = ENDS[message.body["end"]]()
            if isinstance(end, Exception):
                raise end
            return end if end is not None else (yield message)

        with Harness(fail_fast=False) as harness:
            handler = coloured(colour, lambda message: "handled")
            harness.bus.subscribe("a", handler, name="s", to="values", filters=[fallback, rest])
            harness.bus.subscribe("later", later.append)
            harness.bus.subscribe("values", values.append)
            bus = harness.start()
            for number in range(8):
                end = pick(list(ENDS))
                bus.publish("a", {"number": number, "end": end})
                if end in caught:
                    wanted["values" if by_value else "later"].append("instead" if by_value else (number, end))
                elif end == "works":
                    wanted["values"].append("handled")
                else:
                    wanted["dropped" if end == "is dropped" else "dead"].append(number)
            harness.drain()
            assert [(message.body["number"], message.headers["fallback"]) for message in later] == [
                (number, f"Fallback: {end}") for number, end in wanted["later"]
            ], f"seed {seed}"
            assert [message.body for message in values] == wanted["values"], f"seed {seed}"
            assert [letter.message.body["number"] for letter in bus.dead_letters.list()] == wanted["dead"], f"seed {seed}"
            assert bus.stats()["subscriptions"]["s"]["dropped"].get("no", 0) == len(wanted["dropped"]), f"seed {seed}"
            assert figures(bus) == {"fallbacks": len(wanted["later"]) + wanted["values"].count("instead")}, f"seed {seed}"


# --- a value ------------------------------------------------------------------------------------------------------------


def test_the_value_is_the_outcome(colour: Any, logs: list[Any]) -> None:
    """The filters around it see a handled message, and the log says which error it was."""
    run = run_filter(Fallback(value=0), Message("a", id="m"), next=Boom("down"), at="delivery", colour=colour)
    assert run.outcome == Handled(0)
    (line,) = run.logs
    assert (line["event"], line["log_level"], line["filter"]) == ("fallback.used", "warning", "Fallback")
    assert (line["subject"], line["id"], line["error"]) == ("a", "m", "Boom: down")


def test_a_function_of_the_message_and_the_error_makes_the_value(colour: Any) -> None:
    fallback = Fallback(value=lambda message, error: {"for": message.body, "because": str(error)})
    run = run_filter(fallback, Message("a", 1), next=Boom("down"), at="delivery", colour=colour)
    assert run.outcome == Handled({"for": 1, "because": "down"})


def test_each_message_has_a_copy_of_the_value() -> None:
    """A handler that changes the value of one message does not change that of the next."""
    with FilterBench(Fallback(value={"rates": []}), Boom, at="delivery") as bench:
        bench.send(1).outcome.value["rates"].append(1)
        assert bench.send(2).outcome == Handled({"rates": []})


@pytest.mark.parametrize("way", ["a reply", "to"])
def test_the_value_goes_where_that_of_the_handler_goes(harness: Harness, colour: Any, way: str) -> None:
    """A requester gets it as the reply, and a subscription with `to` publishes it."""
    seen: list[Any] = []
    to = "b" if way == "to" else None
    harness.bus.subscribe("a", coloured(colour, fail), name="s", to=to, filters=[Fallback(value="none")])
    harness.bus.subscribe("b", lambda message: seen.append(message.body))
    bus = harness.start()
    if way == "to":
        bus.publish("a")
        harness.drain()
    else:
        seen.append(bus.request("a", timeout=5).body)
    assert seen == ["none"]


# --- a subject, around handlers ---------------------------------------------------------------------------------------------


def going_to(harness: Harness, colour: str, *filters: Any, handler: Any = fail, **options: Any) -> tuple[Bus, list[Message]]:
    """A started bus whose subscription `s` fails, and the messages that come on `later`."""
    seen: list[Message] = []
    fallback = Fallback(subject="later")
    harness.bus.subscribe("a", coloured(colour, handler), name="s", filters=[fallback, *filters], **options)
    harness.bus.subscribe("later", seen.append, name="later")
    harness.allow(Boom, NoSubscriber)
    return harness.start(), seen


def test_the_message_goes_on_in_the_same_conversation(harness: Harness, colour: Any) -> None:
    """It is a new message with the body, the key, the headers and the `ttl` of the old one."""
    bus, seen = going_to(harness, colour)
    bus.publish("a", {"n": 1}, id="first", key="k", headers={"tenant": "x"}, ttl=60)
    harness.drain()
    (found,) = seen
    assert (found.body, found.key, dict(found.headers), found.ttl) == (
        {"n": 1}, "k", {"tenant": "x", "fallback": "Fallback: Boom"}, 60.0,
    )  # fmt: skip
    assert (found.id != "first", found.correlation_id, found.causation_id) == (True, "first", "first")
    stats = bus.stats()["subscriptions"]["s"]
    assert (stats["acknowledged"], stats["dead"], figures(bus)) == (1, 0, {"fallbacks": 1})


def test_it_is_sent_as_the_filters_outside_have_left_it(harness: Harness) -> None:
    """What filters inside have changed is not seen there."""

    @around
    def outside(message: Message) -> Any:
        yield message.with_body("outside")

    @around
    def inside(message: Message) -> Any:
        yield message.with_body("inside")

    seen: list[Any] = []
    harness.bus.subscribe("a", fail, filters=[outside, Fallback(subject="later"), inside])
    harness.bus.subscribe("later", lambda message: seen.append(message.body))
    harness.start().publish("a")
    harness.drain()
    assert seen == ["outside"]


def test_its_next_handler_answers_a_request(harness: Harness, colour: Any) -> None:
    """The requester does not notice that another handler has answered."""
    bus, _ = going_to(harness, colour)
    bus.subscribe("later", lambda message: f"late, but {message.body}")
    assert bus.request("a", "fine", timeout=5).body == "late, but fine"


def test_if_nobody_listens_there_the_message_is_dead(harness: Harness, colour: Any) -> None:
    """A misspelt subject loses nothing."""
    harness.allow(NoSubscriber)
    harness.bus.subscribe("a", coloured(colour, fail), name="s", filters=[Fallback(subject="nobody")])
    bus = harness.start()
    bus.publish("a")
    harness.drain()
    (letter,) = bus.dead_letters.list()
    assert letter.error.startswith("NoSubscriber: nobody listens to nobody")


def test_an_error_of_the_second_publish_is_that_of_the_delivery(harness: Harness, colour: Any) -> None:
    harness.bus.use(when("later", Tap(lambda message: 1 / 0)))
    harness.allow(ZeroDivisionError)
    bus, seen = going_to(harness, colour)
    bus.publish("a")
    harness.drain()
    assert ([letter.error for letter in bus.dead_letters.list()], seen) == (["ZeroDivisionError: division by zero"], [])


def test_only_a_message_can_be_forwarded(harness: Harness, colour: Any) -> None:
    """A filter of your own may forward a message too; anything else is its mistake."""

    @around
    def forwards(message: Message) -> Any:
        yield message
        return Handled(forward=message.body or message.replace(subject="b"))

    seen: list[Any] = []
    harness.allow(ContractError)
    harness.bus.subscribe("a", coloured(colour, lambda message: None), filters=[forwards])
    harness.bus.subscribe("b", seen.append)
    bus = harness.start()
    for body in (None, "no message"):
        bus.publish("a", body)
    harness.drain()
    assert len(seen) == 1
    (letter,) = bus.dead_letters.list()
    assert letter.error.endswith("gave Handled(forward='no message'); what it forwards is a Message")


def test_a_message_falls_back_to_a_subject_once(harness: Harness, colour: Any) -> None:
    """A handler of both subjects fails again, and this time the error counts."""
    harness.allow(Boom)
    harness.bus.subscribe("a.*", coloured(colour, fail), name="s", filters=[Fallback(subject="a.later")])
    bus = harness.start()
    bus.publish("a.now")
    harness.drain()
    assert ([letter.message.subject for letter in bus.dead_letters.list()], figures(bus)) == (["a.later"], {"fallbacks": 1})


def test_two_that_fall_back_to_each_other_end(harness: Harness) -> None:
    """A message that has fallen back once does not again, so the second error makes a dead letter."""
    harness.allow(Exception)
    for mine, other in (("a", "b"), ("b", "a")):
        harness.bus.subscribe(mine, fail, name=mine, filters=[Fallback(subject=other)])
    bus = harness.start()
    bus.publish("a")
    harness.drain()
    (letter,) = bus.dead_letters.list()
    assert (letter.subscription, letter.error) == ("b", "Boom: down")


@pytest.mark.parametrize("how", ["ack", "retry", "reject"])
def test_what_the_handler_has_settled_stays_settled(harness: Harness, how: str) -> None:
    """The message is not sent elsewhere, and the error is only logged."""

    def handle(message: Message, delivery: Delivery) -> None:
        if delivery.attempt == 1:
            delivery.reject("no") if how == "reject" else getattr(delivery, how)()
            raise Boom

    seen: list[Message] = []
    harness.bus.subscribe("a", handle, name="s", filters=[Fallback(subject="later")])
    harness.bus.subscribe("later", seen.append)
    harness.allow(Boom, Rejected)
    bus = harness.start()
    bus.publish("a")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("pipebus.testing.harness.unexpected.LOUD", ())
        harness.drain()
    assert (seen, figures(bus)) == ([], {"fallbacks": 0})


def test_after_the_last_attempt_of_redeliver(harness: Harness, colour: Any) -> None:
    """`Fallback(…), Redeliver(…)` tries three times, then gives up in favour of the other subject."""
    bus, seen = going_to(harness, colour, Redeliver(wait=1.0, jitter=0.0), attempts=3)
    bus.publish("a")
    harness.drain()
    assert (harness.elapsed, len(seen), len(bus.dead_letters)) == (3.0, 1, 0)


# --- a subject, in publish chains -------------------------------------------------------------------------------------------


def test_a_publish_ends_on_the_other_subject(harness: Harness, colour: Any) -> None:
    """It keeps its id, runs the rest of the chain for that subject, and the publisher gets that receipt."""
    mailboxes = {subject: harness.bus.subscribe(subject, name=subject) for subject in ("a", "later")}
    inside: list[str] = []
    harness.bus.use(Fallback(subject="later"), Tap(lambda message: inside.append(message.subject)), when("a", Tap(fail)))
    bus = harness.start()
    outcome = bus.publish("a", 1, id="m") if colour == "sync" else harness.run(bus.apublish("a", 1, id="m"))
    assert (outcome, inside, figures(bus, "publish")) == (Receipt(1), ["a", "later"], {"fallbacks": 1})
    assert (mailboxes["a"].stats()["pending"], mailboxes["later"].receive(timeout=1).id) == (0, "m")


def test_what_a_mailbox_has_accepted_is_not_sent_elsewhere(harness: Harness, colour: Any) -> None:
    """The error arose on the way back, so the message has had its effect."""

    @around
    def late(message: Message) -> Any:
        yield message
        raise Boom

    mailboxes = [harness.bus.subscribe(subject) for subject in ("a", "later")]
    harness.bus.use(Fallback(subject="later"), late)
    bus = harness.start()
    with pytest.raises(Boom):
        bus.publish("a") if colour == "sync" else harness.run(bus.apublish("a"))
    assert [mailbox.stats()["pending"] for mailbox in mailboxes] == [1, 0]


@pytest.mark.parametrize("second", [None, OSError("also down")], ids=["works", "fails"])
def test_the_rest_runs_once_more_and_its_error_passes(colour: Any, second: Any) -> None:
    fallback = Fallback(subject="later")
    run = run_filter(fallback, Message("a", headers={"x": "y"}), next=[Boom(), second or Receipt(2)], colour=colour)
    assert run.error is second
    assert [message.subject for message in run.forwards] == ["a", "later"]
    assert dict(run.forwards[1].headers) == {"x": "y", "fallback": "Fallback: Boom"}
    assert second is not None or run.outcome == Receipt(2)


def test_an_open_circuit_is_an_error_like_others(colour: Any) -> None:
    """`Fallback(…), CircuitBreaker(…)`: while the circuit is open, messages wait on another subject."""

    def end(message: Message) -> Receipt:
        if message.subject == "a":
            raise Boom
        return Receipt(1)

    chain = Pipeline(Fallback(subject="later"), when("a", CircuitBreaker(1)))  # which does not guard the other subject
    with FilterBench(chain, end, colour=colour) as bench:
        runs = [bench.send(Message("a")) for _ in range(2)]
    assert [run.outcome for run in runs] == [Receipt(1)] * 2
    assert [[message.subject for message in run.forwards] for run in runs] == [["a", "later"], ["later"]]


def test_retry_inside_comes_first(colour: Any) -> None:
    from pipebus import Pipeline

    run = run_filter(
        Pipeline(Fallback(subject="later"), Retry(attempts=3, wait=0)),
        Message("a"),
        colour=colour,
        next=[Boom(), Boom(), Boom(), Receipt(1)],
    )
    assert [message.subject for message in run.forwards] == ["a", "a", "a", "later"]


# --- what passes --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "error", [asyncio.CancelledError(), KeyboardInterrupt(), SystemExit(3), PipelineError("x"), BusClosed("x")],
    ids=lambda error: type(error).__name__,
)  # fmt: skip
def test_what_is_no_failure_passes(colour: Any, at: Any, error: BaseException) -> None:
    """Cancellations, interrupts, mistakes in a chain and the end of the bus have no other outcome."""
    fallback = Fallback(subject="later") if at == "publish" else Fallback(value=0)
    run = run_filter(fallback, Message("a"), next=error, colour=colour, at=at)
    assert isinstance(run.error, type(error))
    assert run.next_calls == 1


def test_a_stop_that_cancels_a_handler_is_no_failure(harness: Harness) -> None:
    """The message goes back, and is handled after the next start."""
    seen: list[int] = []

    async def handle(message: Message) -> None:
        seen.append(1)
        if len(seen) == 1:
            await asyncio.Event().wait()

    harness.bus.subscribe("a", handle, name="s", filters=[Fallback(value=0)])
    bus = harness.start()
    bus.publish("a")
    harness.advance(1.0)
    assert bus.stop(timeout=0, drain=False).left == {"s": 1}
    harness.start()
    harness.drain()
    assert (len(seen), figures(bus)) == (2, {"fallbacks": 0})


def test_an_error_that_a_stop_causes_is_no_failure(harness: Harness, colour: Any) -> None:
    """What the handler raises because the bus stops has no other outcome: the message goes back."""

    def handle(message: Message) -> None:
        bus.request_stop()
        raise Boom from BusClosed("the bus stops")

    harness.bus.subscribe("a", coloured(colour, handle), name="s", filters=[Fallback(value=0)])
    bus = harness.start()
    bus.publish("a")
    harness.advance(0)
    assert (figures(bus), bus.stats()["subscriptions"]["s"]["acknowledged"]) == ({"fallbacks": 0}, 0)


# --- settings -----------------------------------------------------------------------------------------------------------


def test_a_publish_has_no_value() -> None:
    """A value is refused where the chain is registered; a subject is allowed on both sides."""
    with pytest.raises(PipelineError, match=r"Fallback .* settles deliveries, and there are none in a publish chain"):
        Bus().use(Fallback(value=0))
    bus = Bus()
    bus.use(Fallback(subject="later"))
    bus.use(Fallback(subject="later"), at="delivery")


def test_explain_does_not_say_that_a_delivery_changes_its_subject() -> None:
    bus = Bus()
    bus.subscribe("a", fail, filters=[Fallback(subject="later")])
    assert "may change the subject" not in bus.explain("a")
    bus.use(Fallback(subject="later"))
    assert "may change the subject" in bus.explain("a")


async def anything(message: Message, error: Exception) -> None: ...


@table(
    ("settings", "text"),
    [
        ({}, r"Fallback\.value=None: there is nothing to fall back on; give value=…, or subject=…"),
        ({"value": 0, "subject": "a"}, r"Fallback\.value=0: there are both a value and a subject"),
        ({"subject": "later.{body.id}"}, r"Fallback\.subject='later.{body.id}': it is one subject, without braces; name it"),
        ({"value": anything}, r"Fallback\.value=.*: it is a value, or a plain function of message and error"),
        ({"subject": "a", "on": ()}, r"Fallback\.on=\(\): nothing would be caught"),
        ({"subject": "a", "on": int}, r"Fallback\.on=.*int.* is not an exception class"),
        ({"subject": "a", "on": BaseException}, r"Fallback\.on=.*BaseException ends the program or task and is never caught"),
        ({"subject": "a", "on": ContractError}, r"Fallback\.on=.*ContractError is never caught, because it is a mistake"),
    ],
    ids=str,
)
def test_wrong_settings_are_refused_where_they_are_written(settings: dict[str, Any], text: str) -> None:
    """The error names the setting, what was found, and what to write."""
    with pytest.raises(PipelineError, match=text):
        Fallback(**settings)


@pytest.mark.parametrize("subject", ["", "a..b", "a.*", ">", 5], ids=str)
def test_a_subject_is_a_literal_one(subject: Any) -> None:
    with pytest.raises(SubjectError):
        Fallback(subject=subject)


# --- real threads and loops -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("way", ["memory", "sqlite", "loop"])
def test_on_real_threads_and_loops_each_message_goes_there_once(tmp_path: Path, way: str) -> None:
    """Four workers: what fails is on the other subject, what works is not, and the figure counts them exactly."""
    lock, seen = threading.Lock(), []

    def handle(message: Message) -> None:
        if message.body % 2:
            raise Boom

    def hear(message: Message) -> None:
        with lock:
            seen.append(message.body)

    bus = Bus(f"sqlite:///{tmp_path}/bus.db" if way == "sqlite" else "memory://", drain=True)
    handler = coloured("async" if way == "loop" else "sync", handle)
    bus.subscribe("a", handler, name="s", workers=4, filters=[Dedupe(), Fallback(subject="later", on=Boom)])
    bus.subscribe("later", hear, name="later")
    with bus:
        publishers = [InThread(lambda half=half: [bus.publish("a", n) for n in range(half, 80, 2)]) for half in (0, 1)]
        for publisher in publishers:
            publisher.result()
        bus.drain(timeout=WAIT)
        assert figures(bus) == {"fallbacks": 40}
        assert len(bus.dead_letters) == 0
    assert sorted(seen) == list(range(1, 80, 2))
