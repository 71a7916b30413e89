"""
Filter actors that ask: `request` and `arequest` inside `filter`, with the actor itself in the way of the answer.

Each wait here is bounded by `LONG`. A call that waits until then ends in a time-out, which is not the error that the test
expects.
"""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from carriers import made

from pipebus import Actor, Bus, Message, NoResponder, PipelineError, RequestFailed, transform

LONG = 20.0
CARRIERS = ["memory:", "memory:?wire=json", "sqlite"]
carriers = pytest.mark.parametrize("carrier", CARRIERS)
WAYS = ["pool", "thread", "loop"]
ways = pytest.mark.parametrize("run", WAYS)


class Asker(Actor):
    """A filter actor that asks another subject about each message of some subjects, and adds the answer."""

    filter_timeout = LONG

    def __init__(self, name: str, subject: str, about: Callable[[Message], bool]) -> None:
        super().__init__(name)
        self.subject = subject
        self.about = about
        self.seen: list[Any] = []

    def filter(self, message: Message) -> Message:
        self.seen.append(message.subject)
        if not self.about(message):
            return message
        return message.with_headers(answer=str(self.bus.request(self.subject, message.body, timeout=LONG).body))

    def on_message(self, message: Message) -> Any:
        return self.bus.request(self.subject, message.body, timeout=LONG).body


class AsyncAsker(Asker):
    """An Asker on an event loop."""

    async def filter(self, message: Message) -> Message:  # type: ignore[override]
        self.seen.append(message.subject)
        if not self.about(message):
            return message
        reply = await self.bus.arequest(self.subject, message.body, timeout=LONG)
        return message.with_headers(answer=str(reply.body))

    async def on_message(self, message: Message) -> Any:
        return (await self.bus.arequest(self.subject, message.body, timeout=LONG)).body


def named(*subjects: str) -> Callable[[Message], bool]:
    return lambda message: message.subject in subjects


def asker(run: str, name: str, subject: str, about: Callable[[Message], bool]) -> Asker:
    return (AsyncAsker if run == "loop" else Asker)(name, subject, about)


def handler(run: str, function: Callable[[Message], Any]) -> Any:
    if run != "loop":
        return function

    async def handle(message: Message) -> Any:
        return function(message)

    return handle


@carriers
@ways
@pytest.mark.parametrize("at", ["publish", "delivery"])
def test_a_filter_actor_gets_the_answer_to_its_own_request(carrier: str, run: Any, at: Any, tmp_path: Path) -> None:
    """A filter actor under no pattern asks a subject: neither the request nor the reply has to pass that actor."""
    seen: list[str] = []
    with made(carrier, tmp_path) as bus:
        actor = asker(run, "asker", "answers", named("work"))
        bus.spawn(actor, run=run)
        bus.use(actor, at=at)
        bus.subscribe("answers", handler(run, lambda m: m.body + 1), name="answers", run=run)
        bus.subscribe("work", handler(run, lambda m: seen.append(m.headers["answer"])), name="work", run=run)
        with bus:
            for number in range(3):
                bus.publish("work", number)
            bus.drain(LONG)
            assert not bus.dead_letters.list()
    assert seen == ["1", "2", "3"]


@ways
def test_control_mail_may_ask_too(run: Any) -> None:
    """A request that the actor makes while it handles mail is answered as well."""
    actor = asker(run, "asker", "answers", named())
    bus = Bus()
    bus.spawn(actor, run=run)
    bus.use(actor)
    bus.subscribe("answers", lambda m: m.body + 1)
    with bus:
        assert bus.request("asker", 1, timeout=LONG).body == 2
        assert bus.request(actor, 2, timeout=LONG).body == 3


@ways
def test_the_answers_to_others_still_pass_the_actor(run: Any) -> None:
    """The actor skips only its own replies: it still filters the replies to other requesters."""
    actor = asker(run, "asker", "answers", named())
    bus = Bus()
    bus.spawn(actor, run=run)
    bus.use(actor)
    bus.subscribe("answers", lambda m: m.body + 1)
    with bus:
        assert bus.request("answers", 1, timeout=LONG).body == 2
    assert len(actor.seen) == 2
    assert actor.seen[0] == "answers"


@carriers
@ways
def test_two_filter_actors_may_ask_one_after_the_other(carrier: str, run: Any, tmp_path: Path) -> None:
    """Two filter actors that ask different handlers about the same message both get their answers."""
    seen: list[Any] = []
    with made(carrier, tmp_path) as bus:
        first, second = (asker(run, name, f"{name}.answers", named("work")) for name in ("first", "second"))
        for actor in (first, second):
            bus.spawn(actor, run=run)
            bus.use(actor)
            bus.subscribe(f"{actor.name}.answers", lambda m: m.body + 1, name=f"{actor.name}.answers")
        bus.subscribe("work", lambda m: seen.append(m.body), name="work")
        with bus:
            bus.publish("work", 1)
            bus.drain(LONG)
    assert seen == [1]


@ways
def test_two_filter_actors_that_ask_about_each_other_s_questions_raise_at_once(run: Any) -> None:
    """If two filter actors ask about each other's requests, the second request is refused, and nobody waits for a time-out."""
    first = asker(run, "first", "first.answers", named("work", "second.answers"))
    second = asker(run, "second", "second.answers", named("work", "first.answers"))
    bus = Bus()
    for actor in (first, second):
        bus.spawn(actor, run=run)
        bus.use(actor)
        bus.subscribe(f"{actor.name}.answers", lambda m: m.body)
    with bus, pytest.raises(PipelineError, match="wait for each other"):
        bus.publish("work", 1)


@ways
def test_two_filter_actors_that_ask_about_each_other_s_replies_raise_at_once(run: Any) -> None:
    """If the reply to one passes the other, which asks in turn, that is refused, and the request fails with that reason."""

    def a_reply(message: Message) -> bool:
        return not isinstance(message.subject, str)

    first = asker(run, "first", "first.answers", named("work"))
    second = asker(run, "second", "second.answers", a_reply)
    bus = Bus()
    for actor in (first, second):
        bus.spawn(actor, run=run)
        bus.use(actor)
        bus.subscribe(f"{actor.name}.answers", lambda m: m.body)
    with bus, pytest.raises(RequestFailed, match="wait for each other"):
        bus.publish("work", 1)


@ways
@pytest.mark.parametrize("call", ["publish", "request"])
def test_a_handler_that_publishes_through_the_actor_that_waits_for_it_raises_at_once(run: Any, call: str) -> None:
    """If the answering handler publishes something that must pass the waiting actor, that publish is refused at once."""
    bus = Bus()
    actor = asker(run, "asker", "answers", named("work"))
    bus.spawn(actor, run=run)
    bus.use(actor)

    def answers(message: Message) -> Any:
        bus.publish("audit") if call == "publish" else bus.request("audit", timeout=LONG)

    async def aanswers(message: Message) -> Any:
        await (bus.apublish("audit") if call == "publish" else bus.arequest("audit", timeout=LONG))

    bus.subscribe("answers", aanswers if run == "loop" else answers, run=run)
    bus.subscribe("audit", lambda m: 1)
    with bus, pytest.raises(RequestFailed, match="wait for each other"):
        bus.publish("work", 1)


@ways
def test_an_actor_that_asks_the_handler_that_waits_for_it_raises_at_once(run: Any) -> None:
    """A handler that publishes through an actor cannot answer a request of that actor, so that request is refused at once."""
    bus = Bus()
    actor = asker(run, "asker", "answers", named("work"))
    bus.spawn(actor, run=run)
    bus.use(actor)
    failures: list[BaseException] = []

    def answers(message: Message) -> None:
        try:
            bus.publish("work")
        except NoResponder as error:
            failures.append(error)

    async def aanswers(message: Message) -> None:
        try:
            await bus.apublish("work")
        except NoResponder as error:
            failures.append(error)

    bus.subscribe("answers", aanswers if run == "loop" else answers, run=run)
    with bus:
        bus.publish("answers")
        bus.drain(LONG)
    assert ["publish instead" in str(error) for error in failures] == [True]


@ways
def test_handlers_that_ask_each_other_in_a_circle_raise_at_once(run: Any) -> None:
    """Of two handlers that ask each other, the second request is refused."""
    bus = Bus()

    def ask(subject: str) -> Any:
        if run == "loop":

            async def aask(message: Message) -> Any:
                return (await bus.arequest(subject, timeout=LONG)).body

            return aask
        return lambda message: bus.request(subject, timeout=LONG).body

    bus.subscribe("one", ask("two"), run=run)
    bus.subscribe("two", ask("one"), run=run)
    with bus, pytest.raises(RequestFailed, match="publish instead"):
        bus.request("one", timeout=LONG)


@pytest.mark.parametrize("workers", [1, 2])
def test_where_somebody_else_can_answer_nobody_is_refused(workers: int) -> None:
    """If a second worker or a second subscription can answer, the request is not refused."""
    bus = Bus()

    def one(message: Message) -> Any:
        return message.body if message.body else bus.request("two", 1, timeout=LONG).body

    bus.subscribe("one", one, workers=workers)
    bus.subscribe("two", lambda m: bus.request("one", 1, timeout=LONG).body)
    if workers == 1:
        bus.subscribe("one", lambda m: "the other")
    with bus:
        assert bus.request("one", 0, timeout=LONG).body in (1, "the other")


def test_a_request_that_is_rerouted_is_not_refused() -> None:
    """Nobody knows beforehand which handler a rerouted request reaches, so it is not refused for one that it does not reach."""
    from pipebus.filters import Reroute

    bus = Bus()
    bus.use(Reroute(lambda message: "free" if message.subject == "one" and message.body == "again" else message.subject))
    bus.subscribe("one", lambda m: bus.request("two", timeout=LONG).body)
    bus.subscribe("two", lambda m: bus.request("one", "again", timeout=LONG).body)
    bus.subscribe("free", lambda m: "answered")
    with bus:
        assert bus.request("one", timeout=LONG).body == "answered"


@carriers
def test_many_who_publish_at_once_through_an_actor_that_asks_all_get_through(carrier: str, tmp_path: Path) -> None:
    """When publishers on threads and loops share a filter actor that asks, each message passes with its own answer."""
    seen: list[tuple[int, str]] = []
    with made(carrier, tmp_path) as bus:
        actor = Asker("asker", "answers", named("work"))
        bus.use(actor)
        bus.subscribe("answers", lambda m: m.body + 1, name="answers")
        bus.subscribe("work", lambda m: seen.append((m.body, m.headers["answer"])), name="work")

        @bus.use
        @transform
        def untouched(message: Message) -> Message:
            return message

        def publish(first: int) -> None:
            for number in range(first, first + 5):
                bus.publish("work", number)

        async def apublish(first: int) -> None:
            await asyncio.gather(*(bus.apublish("work", number) for number in range(first, first + 5)))

        with bus:
            threads = [threading.Thread(target=publish, args=(first,)) for first in (0, 5)]
            threads.append(threading.Thread(target=lambda: asyncio.run(apublish(10))))
            for thread in threads:
                thread.start()
            for thread in threads:
                thread.join(LONG)
            bus.drain(LONG)
    assert sorted(seen) == [(number, str(number + 1)) for number in range(15)]
