"""
Filter actors: actors that messages pass through. A chain puts a question into the actor's mailbox, in line with its mail, and
waits for the answer. Guarantees 2, 3, 10, 12, 14, 17 to 19, 23, 25 and 28 hold as for any filter and any actor.
"""

from __future__ import annotations

import asyncio
import dataclasses
import json
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from actor_helpers import (
    Answers,
    Asked,
    AskedSort,
    AsyncAsked,
    AsyncFilter,
    AsyncMail,
    Notes,
    at_rest,
    every_asked_sort,
    every_free_sort,
    patient,
)
from flow_helpers import (
    LONG,
    WAIT,
    Boom,
    Ear,
    Hold,
    InThread,
    assert_conserved,
    bus_of,
    every_road,
    every_way,
    fine,
    hasty_threads,
    running,
)
from pipebus import (
    Actor,
    Bus,
    Call,
    ContractError,
    Dropped,
    Handled,
    LifecycleError,
    Message,
    Pipeline,
    PipelineError,
    Receipt,
    Rejected,
    SubjectChanged,
    SubjectError,
    SubscriptionError,
    Transform,
    UnsupportedCapability,
    around,
    branch,
    transform,
    when,
)
from pipebus.events import Refused
from pipebus.testing import FakeClock

both_colours = pytest.mark.parametrize("colour", ["sync", "async"])
"""Run a test once with a plain handler and once with an async one."""


def handler(colour: str, call: Callable[[Message], Any]) -> Any:
    """`call` as a handler of a colour; a `Hold` is waited for on another thread."""

    async def ahandle(message: Message) -> Any:
        return await asyncio.to_thread(call, message) if isinstance(call, Hold) else call(message)

    return ahandle if colour == "async" else call


# --- what an answer means ----------------------------------------------------------------------------------------------


@every_asked_sort
@every_road
@every_way
def test_s02_a_message_that_a_filter_actor_returns_goes_on(sort: AskedSort, road: str, way: Any) -> None:
    """The actor filters the message before anybody gets it, in chains of both colours, from threads and from loops."""
    bus = bus_of(road)
    before: list[int] = []
    reader = bus.subscribe("s")

    def look(message: Message) -> Message:
        before.append(reader.stats()["accepted"])
        return message

    actor = sort.use(bus, answer=look)
    with running(bus):
        assert way(bus, "s", "x", headers={"a": "b"}) == Receipt(1)

        message = reader.receive(timeout=0)
        assert (message.body, message.headers["a"]) == ("x", "b")
        assert (actor.questions, before) == (["x"], [0])


@every_asked_sort
@every_road
@every_way
def test_s15_a_changed_copy_goes_on_instead(sort: AskedSort, road: str, way: Any) -> None:
    """Later filters and the mailboxes see the copy; the publisher's message stays as it was."""
    behind: list[Any] = []

    @transform
    def after(message: Message) -> Message:
        behind.append(message.body)
        return message

    bus = bus_of(road)
    actor = sort.use(bus, answer=lambda message: message.with_body(message.body * 2))
    bus.use(after)
    with running(bus):
        reader = bus.subscribe("s")
        way(bus, "s", "x")

        assert (actor.questions, behind, reader.receive(timeout=0).body) == (["x"], ["xx"], "xx")


@every_asked_sort
@every_road
@every_way
@pytest.mark.parametrize("by", [None, "somebody"])
def test_s02_dropped_ends_a_message(sort: AskedSort, road: str, way: Any, by: str | None) -> None:
    """Nobody gets the message, no error is raised, and the outcome names the actor unless the actor names somebody else."""
    bus = bus_of(road)
    sort.use(bus, answer=lambda message: Dropped("enough", by))
    with running(bus):
        reader = bus.subscribe("s")

        assert way(bus, "s") == Dropped("enough", by or "asked")
        assert_conserved(reader, accepted=0)
        assert bus.stats()["dropped"] == {by or "asked": {"enough": 1}}


@every_asked_sort
@every_road
@every_way
def test_s03_an_error_of_a_filter_actor_is_raised_to_the_publisher(sort: AskedSort, road: str, way: Any) -> None:
    """The publisher gets the same error object, nobody gets the message, and the actor filters the next one."""
    error = Boom("no")

    def fail(message: Message) -> Message:
        if message.body == "bad":
            raise error
        return message

    bus = bus_of(road)
    ear = Ear(bus)
    sort.use(bus, answer=fail)
    with running(bus):
        reader = bus.subscribe("s")

        with pytest.raises(Boom) as caught:
            way(bus, "s", "bad")

        assert caught.value is error
        assert [(event.error, event.by) for event in ear.of(Refused)] == [(error, "asked")]
        assert way(bus, "s", "good") == Receipt(1)
        assert_conserved(reader, accepted=1)
        assert bus.stats()["errors"] == {"Boom": 1}


@every_asked_sort
@every_way
def test_s03_what_a_filter_actor_rejects_carries_its_name(sort: AskedSort, way: Any) -> None:
    """The bus fills in the actor's name in a `Rejected` without a `by`, and raises the same object."""
    error = Rejected("no stamp")

    def reject(message: Message) -> Message:
        raise error

    bus = Bus()
    sort.use(bus, answer=reject)
    with running(bus):
        with pytest.raises(Rejected, match="rejected by asked: no stamp") as caught:
            way(bus, "s")

        assert caught.value is error
        assert bus.stats()["rejected"] == {"asked": {"no stamp": 1}}


@every_asked_sort
@every_road
@every_way
@pytest.mark.parametrize("answer", [None, 5, Receipt(1), Handled(), "a text"], ids=repr)
def test_s12_any_other_answer_is_an_error_that_names_the_actor(sort: AskedSort, road: str, way: Any, answer: Any) -> None:
    """A filter actor must return a message or `Dropped`; a forgotten `return`, which gives None, is an error too."""
    bus = bus_of(road)
    sort.use(bus, answer=lambda message: answer)
    with running(bus):
        reader = bus.subscribe("s")

        with pytest.raises(ContractError, match=r"filter asked returned .* where a Message or Dropped\(reason\) is due"):
            way(bus, "s")
        assert_conserved(reader, accepted=0)


@every_asked_sort
@every_way
def test_s12_a_filter_actor_that_changes_the_subject_is_named(sort: AskedSort, way: Any) -> None:
    """Only a rerouter may change the subject."""
    bus = Bus()
    sort.use(bus, answer=lambda message: Message("elsewhere", message.body))
    with running(bus):
        elsewhere = bus.subscribe("elsewhere")

        with pytest.raises(SubjectChanged, match="filter asked changed the subject"):
            way(bus, "s")
        assert_conserved(elsewhere, accepted=0)


@every_asked_sort
@pytest.mark.parametrize("error", [KeyboardInterrupt("stop"), SystemExit(3), asyncio.CancelledError("stray")], ids=repr)
def test_s03_whatever_a_filter_raises_is_its_publishers_error(sort: AskedSort, error: BaseException) -> None:
    """Errors that are not an Exception count too: they end no thread and no loop, and the actor answers the next question."""

    def fail(message: Message) -> Message:
        if message.body == "bad":
            raise error
        return message

    bus = Bus()
    actor = sort.use(bus, answer=fail)
    with running(bus):
        with pytest.raises(type(error)) as caught:
            bus.publish("s", "bad")

        assert caught.value is error
        assert bus.publish("s", "good") == Receipt(0)
        assert actor.questions == ["bad", "good"]


def test_s16_the_traceback_shows_the_users_functions() -> None:
    """The traceback shows the publisher and the line in the actor that failed, and no frame of pipebus in between."""

    class Strict(Actor):
        def filter(self, message: Message) -> Message:
            return check(message)

    def check(message: Message) -> Message:
        raise Boom("no")

    bus = Bus()
    bus.use(Strict("strict"))
    with running(bus), pytest.raises(Boom) as caught:
        bus.publish("s")

    names = [(entry.path.name, entry.name) for entry in caught.traceback]
    here = Path(__file__).name
    assert [name for file, name in names if file == here][-2:] == ["filter", "check"]
    assert {file for file, _ in names} == {here, "bus.py"}


# --- waiting, one at a time --------------------------------------------------------------------------------------------


@every_free_sort
@every_way
def test_s20_a_publisher_waits_for_the_answer(sort: AskedSort, way: Any) -> None:
    """Nobody has the message until the answer comes, and messages that do not pass the actor are not held up."""
    bus = Bus()
    answer = Answers()
    bus.use(when("s", sort.make(bus, answer=answer)))
    with running(bus):
        reader = bus.subscribe("s")
        waits = InThread(way, bus, "s")
        answer.wait_started()

        assert bus.publish("other") == Receipt(0)
        assert waits.running
        assert_conserved(reader, accepted=0)
        answer.open()

        assert waits.result() == Receipt(1)


@every_asked_sort
@every_way
def test_s10_a_filter_actor_is_asked_one_message_at_a_time(sort: AskedSort, way: Any) -> None:
    """Thirty threads publish through it and send it mail: it counts without a lock, and never runs twice at once."""
    inside = [0, 0, 0]  # now, most, in all

    def look(message: Message) -> Message:
        inside[0] += 1
        inside[1] = max(inside[:2])
        inside[2] += 1
        inside[0] -= 1
        return message

    bus = Bus()
    actor = sort.make(bus, answer=look, control=lambda message: (look(message), None)[1])
    bus.use(when("s", actor))

    def work(thread: int) -> None:
        for _ in range(5):
            way(bus, "s", thread)
            way(bus, actor, thread)

    with running(bus), hasty_threads():
        reader = bus.subscribe("s")
        for thread in [InThread(work, thread) for thread in range(30)]:
            thread.result()
        bus.drain(WAIT)

        assert inside == [0, 1, 300]
        assert_conserved(reader, accepted=150)
        assert_conserved(actor.subscription, accepted=150)
        assert actor.subscription.stats()["questions"] == 150


@every_asked_sort
def test_s24_mail_and_questions_stand_in_one_line(sort: AskedSort) -> None:
    """Mail and questions are handled in the order in which they came."""
    log: list[Any] = []

    def note(message: Message) -> Message:
        log.append(message.body)
        return message

    bus = Bus()
    actor = sort.make(bus, answer=note, control=lambda message: (note(message), None)[1])
    bus.use(when("s", actor))
    with running(bus):
        actor.subscription.pause()
        waiting = []
        for number in range(0, 10, 2):
            waiting.append(InThread(bus.publish, "s", number))
            actor.wait_for_line(questions=number // 2 + 1)
            bus.publish(actor, number + 1)
        actor.subscription.resume()
        for publisher in waiting:
            publisher.result()
        bus.drain(WAIT)

    assert log == list(range(10))


@every_asked_sort
@every_way
def test_s24_who_changes_the_actor_and_then_publishes_is_asked_about_with_the_change(sort: AskedSort, way: Any) -> None:
    """A caller that sends control mail and then a message sees the mail take effect on that message."""
    left = [0]

    def allow(message: Message) -> Any:
        return message if message.body <= left[0] else Dropped("quota used up")

    def set_quota(message: Message) -> None:
        left[0] = message.body

    bus = Bus()
    quota = sort.make(bus, "quota", allow, set_quota)
    bus.use(when("s", quota))
    with running(bus):
        for number in range(1, 50):
            assert way(bus, "s", number) == Dropped("quota used up", by="quota")
            way(bus, quota if number % 2 else "quota", number)
            assert way(bus, "s", number) == Receipt(0)


# --- its place in a chain ----------------------------------------------------------------------------------------------


@every_asked_sort
@every_way
def test_s06_a_filter_actor_may_stand_anywhere_in_a_chain(sort: AskedSort, way: Any) -> None:
    """In a detour, a branch or a pipeline, or in two places, it sees exactly the messages that pass that place."""
    bus = Bus()
    actor = sort.make(bus, answer=lambda message: message.with_body([*message.body, "asked"]))

    def note(name: str) -> Any:
        return transform(lambda message: message.with_body([*message.body, name]))

    bus.use(
        note("first"),
        when("orders.>", actor, note("orders")),
        when(lambda message: message.key == "twice", Pipeline(actor, note("predicate"))),
        branch("audit.>", actor),
        note("last"),
        when("orders.twice", actor),
    )
    expected = {
        "orders.created": ["first", "asked", "orders", "last"],
        "orders.twice": ["first", "asked", "orders", "asked", "predicate", "last", "asked"],
        "audit.log": ["first", "asked"],
        "bills": ["first", "last"],
    }
    with running(bus):
        reader = bus.subscribe(">")
        for subject, trail in expected.items():
            way(bus, subject, [], key="twice" if subject.endswith("twice") else None)
            assert reader.receive(timeout=0).body == trail


@every_asked_sort
@every_way
@pytest.mark.parametrize("on_error", ["reject", "drop", "dead_letter"])
def test_s19_on_error_rules_a_filter_actors_errors(sort: AskedSort, way: Any, on_error: Any) -> None:
    """The rule of a filter actor's own pipeline applies, and not the rule of one further in or out."""
    bus = Bus()

    def fail(message: Message) -> Message:
        raise Boom(f"cannot pass {message.body}")

    inner = sort.make(bus, "inner", fail)
    bus.use(when("ruled", Pipeline(inner, on_error=on_error)))
    bus.use(when("passes", Pipeline(fine_transform, on_error=on_error), inner))
    with running(bus):
        if on_error == "reject":
            with pytest.raises(Boom):
                way(bus, "ruled", "x")
        else:
            assert way(bus, "ruled", "x") == Dropped(f"{on_error}: Boom", by="inner")
        with pytest.raises(Boom):
            way(bus, "passes", "y")

        letters = bus.dead_letters.list()
        assert [(letter.by, letter.error) for letter in letters] == [("inner", "Boom: cannot pass x")] * (
            on_error == "dead_letter"
        )


@transform
def fine_transform(message: Message) -> Message:
    """A filter that passes each message on unchanged."""
    return message


@every_asked_sort
@both_colours
@pytest.mark.parametrize("whose", ["bus", "own"])
def test_s20_a_filter_actor_may_stand_around_handlers(sort: AskedSort, colour: str, whose: str) -> None:
    """The handler gets a message that passes, as the actor changed it; a drop or an error is the outcome of the delivery."""
    error = Boom("no")

    def judge(message: Message) -> Any:
        if message.body == "bad":
            raise error
        return Dropped("spam") if message.body == "spam" else message.with_body(message.body.upper())

    handled: list[Any] = []
    bus = Bus()
    actor = sort.make(bus, answer=judge)
    if whose == "bus":
        bus.use(actor, at="delivery")
    with running(bus):
        filters = [actor] if whose == "own" else []
        subscription = bus.subscribe("s", handler(colour, lambda m: handled.append(m.body)), name="h", filters=filters)
        neighbour = bus.subscribe("s")
        for body in ("good", "spam", "bad"):
            assert bus.publish("s", body) == Receipt(2)
        bus.drain(WAIT)

        assert handled == ["GOOD"]
        assert subscription.stats()["dropped"] == {"spam": 1}
        (letter,) = bus.dead_letters.list()
        assert (letter.subscription, letter.by, letter.error, letter.message.body) == ("h", "asked", "Boom: no", "bad")
        assert [neighbour.receive(timeout=0).body for _ in range(3)] == ["good", "spam", "bad"]
        assert actor.questions == ["good", "spam", "bad"]


@every_asked_sort
def test_s20_one_filter_actor_may_serve_both_ends_and_many_handlers(sort: AskedSort) -> None:
    """It filters the publish once, and each delivery once."""
    bus = Bus()
    actor = sort.use(bus)
    bus.use(actor, at="delivery")
    with running(bus):
        for colour in ("sync", "async", "sync"):
            bus.subscribe("s", handler(colour, fine), filters=[actor])
        bus.publish("s", "x")
        bus.drain(WAIT)

        assert actor.questions == ["x"] * (1 + 3 * 2)
        assert bus.dead_letters.list() == []


@every_asked_sort
@every_way
def test_s12_each_pass_asks_anew(sort: AskedSort, way: Any) -> None:
    """A filter that runs the rest twice makes it filter twice, and its second answer may differ."""

    @around
    def twice(message: Message) -> Any:
        yield message.with_body(1)
        yield message.with_body(2)

    bus = Bus()
    bus.use(twice)
    actor = sort.use(bus, answer=lambda message: message if message.body == 2 else Dropped("first"))
    with running(bus):
        reader = bus.subscribe("s")
        assert way(bus, "s") == Receipt(1)

        assert actor.questions == [1, 2]
        assert_conserved(reader, accepted=1)


@every_asked_sort
def test_s29_replies_pass_filter_actors_that_stand_under_no_pattern(sort: AskedSort) -> None:
    """Replies pass a filter actor as they pass other filters; one that is under a pattern does not see them."""
    bus = Bus()
    scoped = sort.make(bus, "scoped")
    bus.use(when(">", scoped))
    everything = sort.use(bus, "everything", lambda message: message.with_body(message.body + 1))
    with running(bus):
        bus.subscribe("double", lambda message: message.body * 2)
        bus.subscribe("adouble", handler("async", lambda message: message.body * 2))

        for subject in ("double", "adouble"):
            assert bus.request(subject, 1, timeout=WAIT).body == 5
        assert everything.questions == [1, 4] * 2
        assert scoped.questions == [1] * 2


def test_s30_a_filter_actor_stands_around_no_reader() -> None:
    """Readers skip a bus-wide filter actor, like any filter that is not a Transform; as a reader's own filter it is refused."""
    bus = Bus()
    actor = bus.use(Asked(), at="delivery")
    with running(bus):
        reader = bus.subscribe("s")
        with pytest.raises(PipelineError, match=r"filter asked .*make it a Transform"):
            bus.subscribe("s", filters=[actor])
        bus.publish("s", "x")

        assert reader.receive(timeout=0).body == "x"
        assert actor.questions == []
        assert "not for readers" in bus.explain("s")


# --- what it is never asked about --------------------------------------------------------------------------------------


@every_asked_sort
@every_road
@every_way
@pytest.mark.parametrize("at", ["publish", "delivery"])
def test_s28_a_filter_actor_is_never_asked_about_mail_addressed_to_it(sort: AskedSort, road: str, way: Any, at: str) -> None:
    """It does not filter its own mail, by object or by name; it filters mail to other actors."""
    bus = bus_of(road)
    actor = sort.use(bus, at=at, answer=lambda message: Dropped("no"))
    with running(bus):
        other = bus.spawn(Notes("other"))
        mailed = ["asked"] if road == "encoded" else ["asked", actor]
        for to in mailed:
            assert way(bus, to, "control") == Receipt(1)
        way(bus, "other", "about another")
        bus.drain(WAIT)

        assert actor.mail == ["control"] * len(mailed)
        assert (actor.questions, other.given) == (["about another"], [])


def test_s28_an_unnamed_filter_actor_is_asked_about_every_name() -> None:
    """It has no name that a subject could be equal to."""
    bus = Bus()
    actor = bus.use(Asked(None))
    with running(bus):
        bus.publish("None", 1)
        bus.publish(actor, 2)
        bus.drain(WAIT)

        assert (actor.questions, actor.mail) == ([1], [2])


PUBLISHES = ("publish", "publish-with-options", "send", "delayed", "asyncio-run", "apublish", "asend", "task", "to-thread")


@every_road
@pytest.mark.parametrize("means", PUBLISHES)
@pytest.mark.parametrize("while_it", ["is asked", "handles mail"])
def test_s28_a_filter_actor_is_never_asked_about_what_it_publishes(road: str, means: str, while_it: str) -> None:
    """However it publishes, from `filter` or from `on_message`, it does not see that message; another filter actor does."""
    bus = bus_of(road)

    def synchronous(message: Message) -> None:
        if means == "publish":
            bus.publish("own", "own")
        elif means == "publish-with-options":
            bus.publish("own", "own", headers={"a": "b"})
        elif means == "send":
            bus.send(Message("own", "own"))
        elif means == "delayed":
            bus.publish("own", "own", delay=0.001)
        else:
            asyncio.run(bus.apublish("own", "own"))

    async def asynchronous(message: Message) -> None:
        if means == "apublish":
            await bus.apublish("own", "own")
        elif means == "asend":
            await bus.asend(Message("own", "own"))
        elif means == "task":
            await asyncio.create_task(bus.apublish("own", "own"))
        else:
            await asyncio.to_thread(bus.publish, "own", "own")

    cls = AsyncAsked if means in ("apublish", "asend", "task", "to-thread") else Asked
    say: Any = asynchronous if cls is AsyncAsked else synchronous

    def answer(message: Message) -> Any:
        if while_it == "is asked":
            said = say(message)
            return _then(said, message) if said is not None else message
        return message

    actor = bus.use(cls("asked", answer, say if while_it == "handles mail" else fine))
    other = bus.use(Asked("other"))
    with running(bus):
        reader = bus.subscribe("own", mailbox=10)
        if while_it == "is asked":
            assert bus.publish("s", "question") == Receipt(0)
            expected = (["question"], ["own", "question"])
        else:
            bus.publish("asked", "mail")
            expected = ([], ["mail", "own"])
        bus.drain(WAIT)

        assert reader.receive(timeout=WAIT).body == "own"
        assert (actor.questions, other.questions) == expected
        assert bus.dead_letters.list() == []


async def _then(said: Any, message: Message) -> Message:
    await said
    return message


def test_s28_what_an_actor_publishes_behind_a_time_limit_is_its_own_too() -> None:
    """The bus knows who publishes, even if a filter runs the rest on a thread of its own."""

    @around
    def bounded(message: Message) -> Any:
        yield Call(message, timeout=LONG)

    bounded.bounds = bounded.abandon = True
    bus = Bus()
    bus.use(bounded)
    actor = bus.use(Asked(control=lambda message: bus.publish("own", "own")))
    with running(bus):
        bus.publish(actor, "mail")
        bus.drain(WAIT)

        assert (actor.questions, actor.mail) == ([], ["mail"])
        assert bus.dead_letters.list() == []


# --- two that would wait for each other --------------------------------------------------------------------------------


@pytest.mark.parametrize("first", [Asked, AsyncAsked])
@pytest.mark.parametrize("second", [Asked, AsyncAsked])
@every_way
def test_s23_filter_actors_that_publish_while_they_are_asked_are_told_at_once(first: Any, second: Any, way: Any) -> None:
    """Each would wait for the other: the error names both, in order, and nobody waits for a time-out."""
    bus = Bus()

    def publishing(name: str, cls: Any) -> Any:
        def answer(message: Message) -> Message:
            bus.publish(f"from.{name}")
            return message

        async def aanswer(message: Message) -> Message:
            await bus.apublish(f"from.{name}")
            return message

        actor = cls(name, aanswer if cls is AsyncAsked else answer)
        actor.filter_timeout = LONG
        return actor

    bus.use(publishing("a", first), publishing("b", second))
    with running(bus), pytest.raises(PipelineError, match=r"wait for each other \(b -> a -> b\)"):
        way(bus, "s")


@every_way
def test_s23_a_circle_of_filter_actors_is_told_by_its_whole_length(way: Any) -> None:
    """Of three actors that each publish while they filter, the last one would wait for the first."""
    bus = Bus(clock=FakeClock())  # it does not move, so no time-out ever comes
    for name, to in (("a", "b"), ("b", "c"), ("c", "a")):

        def answer(message: Message, to: str = to) -> Message:
            bus.publish(f"about.{to}")
            return message

        bus.use(when(f"about.{name}", patient(Asked(name, answer))))
    with running(bus), pytest.raises(PipelineError, match=r"wait for each other \(c -> a -> b -> c\)"):
        way(bus, "about.a")


def test_s23_filter_actors_may_ask_each_other_by_turns() -> None:
    """An actor that has its answer no longer waits for anybody, so the other one may ask it."""
    bus = Bus()
    a = Asked("a", control=lambda message: bus.publish("about.b"))
    b = Asked("b", control=lambda message: bus.publish("about.a"))
    bus.use(when("about.a", a), when("about.b", b))
    with running(bus):
        for _ in range(3):
            for actor in (a, b):
                bus.publish(actor)
                bus.drain(WAIT)

        assert bus.dead_letters.list() == []
        assert (len(a.questions), len(b.questions)) == (3, 3)


def _control_mail_that_publishes(bus: Bus) -> list[Any]:
    """`a` publishes while it handles mail, and `b` publishes while it filters that message."""
    a = Asked("a", control=lambda message: bus.publish("s"))
    b = Asked("b", lambda message: (bus.publish("audit"), message)[1])
    bus.use(when("s", b), when("audit", a))
    return [a]


def _two_that_publish_at_once(bus: Bus) -> list[Any]:
    """Both publish while they handle mail, and each would filter the message of the other."""
    gate = threading.Barrier(2)
    actors = [Asked(name, control=lambda message: (gate.wait(WAIT), bus.publish("s"))[1]) for name in "ab"]
    bus.use(when("s", *actors))
    return actors


def _mail_that_passes_the_other(bus: Bus) -> list[Any]:
    """Both filter for every handler, also for each other's `on_message`."""
    actors = [Asked(name) for name in "ab"]
    bus.use(*actors, at="delivery")
    return actors


PLOTS = [_control_mail_that_publishes, _two_that_publish_at_once, _mail_that_passes_the_other]


@pytest.mark.parametrize("plot", PLOTS, ids=lambda plot: plot.__name__.strip("_"))
def test_s23_filter_actors_that_would_wait_for_each_other_do_not_wait(plot: Any) -> None:
    """However they meet, everything comes to rest without a time-out, and an error names the circle."""
    bus = Bus(clock=FakeClock())  # it does not move, so no time-out ever comes
    actors = plot(bus)
    with running(bus):
        for actor in actors:
            actor.subscription.pause()
        for actor in actors:
            bus.publish(actor)
        for actor in actors:
            actor.subscription.resume()
        at_rest(bus)

        assert len(bus.dead_letters) <= 1
        for letter in bus.dead_letters.list():
            assert "wait for each other" in letter.error


# --- use ---------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("cls", [Asked, AsyncAsked])
@pytest.mark.parametrize("by", ["use", "use-nested", "use-delivery", "subscribe", "spawn"])
def test_s10_registering_a_filter_actor_spawns_it(cls: type[Asked], by: str) -> None:
    """`use` and a subscription's own filters spawn it; if it already has a mailbox, it keeps that one."""
    bus = Bus()
    actor = cls()
    for _ in range(2):
        if by == "use":
            assert bus.use(actor) is actor
        elif by == "use-nested":
            bus.use(when("s", Pipeline(actor), branch("s", actor)))
            break  # a second branch could never be reached
        elif by == "use-delivery":
            bus.use(actor, at="delivery")
        elif by == "subscribe":
            bus.subscribe("s", handler("async", fine), filters=[actor])
        else:
            bus.spawn(Notes(), filters=[actor])

    assert actor.bus is bus
    assert [one.name for one in bus.subscriptions if one.name == "asked"] == ["asked"]
    with running(bus):
        bus.publish(actor, "mail")
        bus.drain(WAIT)
        assert actor.mail == ["mail"]


@pytest.mark.parametrize("by", ["use", "subscribe"])
def test_s10_registering_a_stopped_filter_actor_spawns_it_again(by: str) -> None:
    """A stopped filter actor has no mailbox, so registering it spawns it, and it filters again."""
    bus = Bus()
    actor = bus.spawn(Asked())
    actor.stop()
    if by == "use":
        bus.use(actor)
    else:
        bus.subscribe("s", fine, filters=[actor])
    with running(bus):
        bus.publish("s", 1)
        bus.drain(WAIT)

        assert actor.questions == [1]
        assert actor.subscription in bus.subscriptions


def test_s08_a_subscription_that_comes_later_brings_its_filter_actor() -> None:
    """On a started bus, `subscribe` may bring a filter actor; `use` raises, and spawns nothing."""
    with running() as bus:
        actor, late = Asked(), Asked("late")
        bus.subscribe("s", fine, filters=[actor])
        bus.publish("s", "x")
        bus.drain(WAIT)
        assert actor.questions == ["x"]

        with pytest.raises(LifecycleError, match="frozen"):
            bus.use(late)
        with pytest.raises(LifecycleError, match="not spawned"):
            late.bus


def test_s10_threads_that_bring_the_same_filter_actor_at_once_share_it() -> None:
    """The first thread spawns it, and all of their subscriptions pass it."""
    with running() as bus, hasty_threads():
        for _ in range(50):
            actor = Asked()
            gate = threading.Barrier(4)

            def subscribe(actor: Asked = actor, gate: threading.Barrier = gate) -> Any:
                gate.wait(WAIT)
                return bus.subscribe("s", fine, filters=[actor])

            made = [thread.result() for thread in [InThread(subscribe) for _ in range(4)]]
            assert bus.publish("s", "x") == Receipt(4)
            bus.drain(WAIT)
            assert actor.questions == ["x"] * 4
            for subscription in made:
                subscription.unsubscribe()
            actor.stop()


@dataclasses.dataclass
class ByValue(Actor):
    left: int = 0

    def filter(self, message: Message) -> Message:
        return message


class NoFilter(Actor):
    def on_message(self, message: Message) -> None: ...


class TakesNothing(Actor):
    def filter(self) -> None: ...


class TakesCallNext(Actor):
    def filter(self, message: Message, call_next: Any) -> None: ...


BAD: dict[str, tuple[Callable[[], Any], type[Exception], str]] = {
    "a-class": (lambda: Asked, PipelineError, r"is a class, not an instance; write Asked\(\)"),
    "no-filter": (NoFilter, PipelineError, r"NoFilter .*no message can pass through.*def filter\(self, message\)"),
    "no-message": (TakesNothing, PipelineError, r"TakesNothing .*its form is filter\(message\)"),
    "call-next": (TakesCallNext, PipelineError, r"TakesCallNext .*its form is filter\(message\)"),
    "a-value": (ByValue, SubscriptionError, r"ByValue .*dataclass\(eq=False\)"),
    "taken": (lambda: Asked("taken"), SubscriptionError, r'"taken" .*exists already'),
    "wildcard": (lambda: Asked("a.*"), SubjectError, "wildcard"),
    "elsewhere": (lambda: Bus().spawn(Asked()), SubscriptionError, "on another bus"),
}


@pytest.mark.parametrize("by", ["use", "use-nested", "use-delivery", "subscribe"])
@pytest.mark.parametrize(("make", "error", "text"), BAD.values(), ids=BAD)
def test_s11_a_filter_actor_that_cannot_be_registered_is_told_at_once(
    make: Callable[[], Any], error: type[Exception], text: str, by: str
) -> None:
    """The error names the actor and the remedy; the chain, the other filters and the bus stay as they were."""
    bus = Bus()
    bus.subscribe("elsewhere", fine, name="taken")
    before, neighbour = bus.describe(), Asked("neighbour")
    actor = make()
    register: dict[str, Callable[[], object]] = {
        "use": lambda: bus.use(neighbour, actor),
        "use-nested": lambda: bus.use(when("s", Pipeline(neighbour, actor))),
        "use-delivery": lambda: bus.use(neighbour, actor, at="delivery"),
        "subscribe": lambda: bus.subscribe("s", fine, filters=[neighbour, actor]),
    }

    with pytest.raises(error, match=text):
        register[by]()

    assert bus.describe() == before
    with pytest.raises(LifecycleError, match="not spawned"):
        neighbour.bus
    with running(bus):
        assert bus.publish("s") == Receipt(0)


def test_s11_a_subscription_that_fails_leaves_no_filter_actor_behind() -> None:
    """If the name of the subscription is taken, its filter actor is not spawned."""
    with running() as bus:
        bus.subscribe("s", fine, name="taken")
        actor = Asked()
        with pytest.raises(SubscriptionError):
            bus.subscribe("s", fine, name="taken", filters=[actor])

        assert [one.name for one in bus.subscriptions] == ["taken"]
        assert bus.spawn(actor).bus is bus


def test_s11_a_subscription_whose_filter_cannot_start_leaves_no_filter_actor_behind() -> None:
    """On a started bus, filters start at once: a filter actor before one that fails is stopped again."""

    class Fails(Transform):
        def start(self, context: Any) -> None:
            raise Boom("no file")

        def transform(self, message: Message) -> Message:
            return message

    with running() as bus:
        actor = Asked()
        for _ in range(2):
            with pytest.raises(Boom):
                bus.subscribe("s", fine, name="mine", filters=[actor, Fails()])

        assert bus.subscriptions == []
        bus.subscribe("s", fine, name="mine", filters=[actor])
        assert actor.bus is bus


@pytest.mark.parametrize("run", ["pool", "thread"])
@pytest.mark.parametrize("cls", [AsyncFilter, AsyncMail, AsyncAsked])
def test_s11_an_async_filter_actor_runs_on_a_loop_only(cls: Any, run: Any) -> None:
    """A thread cannot await its filter, so spawning it with that way to run is refused."""
    with pytest.raises(SubscriptionError, match=f"run=\"{run}\"|run='{run}'"):
        Bus().spawn(cls(), run=run)


def test_s28_where_messages_are_encoded_a_filter_actor_needs_a_name() -> None:
    """`use` refuses an actor without a name, as `spawn` does, and the chain stays as it was."""
    bus = Bus("memory:?wire=json")
    with pytest.raises(UnsupportedCapability, match="give Asked a name"):
        bus.use(Asked(None))
    with running(bus):
        assert bus.publish("s") == Receipt(0)


def test_s11_use_of_an_actor_that_another_bus_has_is_told() -> None:
    """An actor works for one bus at a time; once it is stopped there, another bus may use it."""
    with running() as elsewhere:
        actor = elsewhere.spawn(Asked())
        bus = Bus()
        with pytest.raises(SubscriptionError, match="spawned already, on another bus"):
            bus.use(actor)
        actor.stop()
        bus.use(actor)
        with running(bus):
            bus.publish("s", 1)
            elsewhere.publish("s", 2)

        assert actor.questions == [1]
        assert actor.bus is bus


# --- delivery chains ---------------------------------------------------------------------------------------------------


@every_asked_sort
def test_s28_delivery_filters_stand_around_its_mail_and_never_around_its_answers(sort: AskedSort) -> None:
    """The bus's delivery filters and the actor's own see its mail, and not the messages that it filters."""
    trail: list[Any] = []

    def through(name: str) -> Any:
        @around
        def step(message: Message) -> Any:
            trail.append((name, message.body))
            yield message

        return step

    bus = Bus()
    bus.use(through("bus"), at="delivery")
    actor = bus.spawn(sort.cls(), run=sort.run, filters=[through("own")])
    bus.use(actor)
    with running(bus):
        bus.publish("s", "question")
        bus.publish(actor, "mail")
        bus.drain(WAIT)

        assert trail == [("bus", "mail"), ("own", "mail")]
        assert (actor.questions, actor.mail) == (["question"], ["mail"])


# --- looking at it -----------------------------------------------------------------------------------------------------


def test_s10_explain_and_describe_name_it_as_an_actor() -> None:
    """`explain` and `describe` call it an actor at every place in a chain."""
    bus = Bus()
    actor = bus.use(Asked())
    bus.use(when("s", Asked("second")))
    bus.use(actor, at="delivery")
    bus.subscribe("s", fine, filters=[Asked("own")])

    text = bus.explain("s")
    described = bus.describe()

    for name in ("asked", "second", "own"):
        assert any(name in line and "an actor: asked in its own mailbox" in line for line in text.splitlines())
    assert "no filter" not in text
    steps = [described["publish"][0], described["publish"][1]["filters"][0], described["delivery"][0]]
    steps += [step for one in described["subscriptions"] for step in one["filters"]]
    assert [(step["filter"], step["shape"], step["colour"]) for step in steps] == [
        (name, "actor", "both") for name in ("asked", "second", "asked", "own")
    ]
    assert {"asked", "second", "own"} <= {one["name"] for one in described["subscriptions"]}
    json.dumps(described)


def test_s10_a_dataclass_filter_actor_shows_its_settings() -> None:
    """`describe` lists the settings of a filter actor as it does for other filters."""

    @dataclasses.dataclass(eq=False)
    class Quota(Actor):
        left: int = 100
        name: str | None = "quota"

        def filter(self, message: Message) -> Any:
            self.left -= 1
            return message if self.left >= 0 else Dropped("quota used up")

        def on_message(self, left: int) -> None:
            self.left = left

    bus = Bus()
    quota = bus.use(Quota(2))
    assert "quota(left=2" in bus.explain("s")
    with running(bus):
        assert [bool(bus.publish("s")) for _ in range(3)] == [True, True, False]
        bus.publish(quota, 500)
        bus.publish("s")
        assert quota.left == 499
