"""Laws for filters: the built-in ones keep them all, and each wrong filter of the zoo is caught by the law meant for it."""

from __future__ import annotations

import asyncio
import inspect
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass, field
from typing import Any

import pytest
from pydantic import BaseModel, Field
from right_filters import RIGHT, out_of_reach
from zoo import ZOO, Animal
from zoo_careless import CARELESS, clean_up
from zoo_mixing import MIXING, CachedBody, Crossing, Grudge, LateLoser, Racer, traced

from pipebus import LifecycleError, Message, Pipeline, PipelineError, Subject, Transform, branch, transform, when
from pipebus.filters import (
    CircuitBreaker,
    Dedupe,
    Enrich,
    Expire,
    Fallback,
    Log,
    Redeliver,
    Reroute,
    Retry,
    SetHeaders,
    Tap,
    Timeout,
    Validate,
)
from pipebus.testing import Harness, LawBroken, check_filter
from pipebus.testing.laws.laws import LAWS
from tables import table

WRONG = {**ZOO, **MIXING, **CARELESS}


class Order(BaseModel):
    id: int = Field(gt=0)
    sku: str = Field(min_length=1, pattern="^[a-z]+$")
    note: str | None = None


orders = Subject[Order]("orders.new")
NAMES = tuple(law.name for law in LAWS)
ON_LOOPS = frozenset({"works on every loop", "blocks no loop"})
SOMETIMES = ON_LOOPS | {"is the same in both colours", "keeps its word", "settings round-trip"}
ALWAYS = set(NAMES) - SOMETIMES


def ignore(message: Message) -> None:
    """A function for a tap."""


def ignored(message: Message, call_next: Any) -> Any:
    return call_next(message)


BUILT_IN: dict[str, tuple[Any, dict[str, Any]]] = {
    "circuit-breaker": (CircuitBreaker(failures=2, cool_down=1.0), {}),
    "circuit-breaker-delivery": (CircuitBreaker(), {"at": "delivery"}),
    "dedupe": (Dedupe(), {}),
    "dedupe-delivery": (Dedupe(window="1m"), {"at": "delivery"}),
    "enrich": (Enrich({"seen": True}), {"messages": [{"id": 1, "sku": "tea"}, {"id": 2, "sku": "milk"}]}),
    "expire": (Expire(60.0), {}),
    "fallback": (Fallback(value=0, on=BufferError), {"at": "delivery"}),
    "fallback-subject": (Fallback(subject="later", on=KeyError), {}),
    "log": (Log(body=True, headers=True), {}),
    "log-delivery": (Log(), {"at": "delivery"}),
    "reroute": (Reroute("sku.{body.sku}"), {"messages": orders}),
    "retry": (Retry(attempts=3), {}),
    "retry-delivery": (Retry(attempts=2, wait=0), {"at": "delivery"}),
    "set-headers": (SetHeaders({"seen": "yes", "id": lambda message: message.id}), {}),
    "tap": (Tap(ignore), {}),
    "timeout": (Timeout(2.0), {}),
    "timeout-abandon": (Timeout("2s", abandon=True), {"at": "delivery"}),
    "validate": (Validate({"orders.>": Order}), {"messages": orders}),
    "chain": (
        Pipeline(Log(), when("orders.>", Validate({">": Order}), SetHeaders({"a": "b"})), branch("audit.>", Tap(ignore))),
        {"messages": [Message(orders, {"id": 1, "sku": "tea"}), Message("audit.seen", {"id": 1})]},
    ),
}


@pytest.mark.parametrize(("filter", "options"), BUILT_IN.values(), ids=BUILT_IN)
@pytest.mark.thorough
def test_every_built_in_filter_keeps_every_law(filter: Any, options: dict[str, Any]) -> None:
    """Built-in filters have no privilege: they must keep every law that yours must keep."""
    assert set(check_filter(filter, **options, examples=4)) >= ALWAYS


@pytest.fixture(scope="module", autouse=True)
def cleaned_up() -> Iterator[None]:
    """What wrong filters leave behind ends with these tests."""
    yield
    clean_up()


@pytest.mark.parametrize("animal", WRONG.values(), ids=WRONG)
@pytest.mark.few(3)
def test_s41_each_wrong_filter_is_caught_by_the_law_meant_for_it(animal: Animal) -> None:
    """Guarantee 41: the message names the law, says what was found, and what to do."""
    with pytest.raises(LawBroken) as caught:
        check_filter(animal.make, animal.messages, at=animal.at, examples=4)  # type: ignore[arg-type]
    assert caught.value.law == animal.law
    assert f'law "{animal.law}" is broken' in str(caught.value)
    assert animal.says in str(caught.value)


@pytest.mark.parametrize("animal", WRONG.values(), ids=WRONG)
@pytest.mark.thorough
def test_each_wrong_filter_breaks_that_law_alone(animal: Animal) -> None:
    """A filter is broken in one way only: without that law it keeps the others."""
    if animal.law == "leaves nothing behind":
        pytest.skip("it would leave a thread or a file each time that it is started")
    skip = {animal.law: "the zoo's"}
    if animal.law == "keeps messages apart":
        skip["is safe under concurrency"] = "what it keeps, it keeps without a lock"
    if "sleep(" in inspect.getsource(animal.make):
        skip["blocks no loop"] = "the wait makes its race likely, and is wrong in an async chain"
    held = check_filter(animal.make, animal.messages, at=animal.at, skip=skip, examples=1)  # type: ignore[arg-type]
    assert set(held) >= ALWAYS - skip.keys()


@pytest.mark.parametrize("filter", RIGHT.values(), ids=RIGHT)
@pytest.mark.few(1)
def test_no_law_complains_of_a_filter_that_is_right(filter: Any) -> None:
    """Locks, pools, threads, memories, counters, restored context variables and waits break no law."""
    assert set(check_filter(filter, examples=4)) >= ALWAYS


@pytest.mark.thorough
def test_the_story_of_a_race_shows_its_lines() -> None:
    """The story shows the lines of the filter, and which message was interrupted where."""
    with pytest.raises(LawBroken) as caught:
        check_filter(Racer, [{"name": "ada"}, {"name": "bob"}])
    story = str(caught.value).partition("each on a thread of its own")[2]
    assigned, called, slept = (story.index(part) for part in ("self.current = message", "return call_next", "put to sleep"))
    assert assigned < called < slept < story.index("message 2 |") < story.rindex("message 1 |")


def test_the_story_of_a_deadlock_names_the_locks_and_where_each_thread_waits() -> None:
    """Each message says which lock it waits for and who holds it, in the words of the filter's own lines."""
    with pytest.raises(LawBroken) as caught:
        check_filter(Crossing, [1])
    text = str(caught.value)
    assert "main waits for the end of message 1" in text
    assert "held by message 2 at zoo_mixing.py" in text
    assert "-- waits for `self.locks = [threading.Lock(), threading.Lock()]` of zoo_mixing.py" in text
    assert [noise for noise in ("Over", "BEFORE_WITH", "in the bus", "given \n") if noise in text] == []


class Turnstile:
    """Keeps its lock if the rest fails."""

    def __init__(self) -> None:
        self.lock = asyncio.Lock()

    async def __call__(self, message: Message, call_next: Any) -> Any:
        await self.lock.acquire()
        outcome = await call_next(message)
        self.lock.release()
        return outcome


@pytest.mark.thorough
def test_a_coroutine_that_waits_forever_is_blamed_on_the_line_where_it_waits() -> None:
    """It is not blamed on a context that it could not restore, nor on a variable of the kit."""
    with pytest.raises(LawBroken) as caught:
        check_filter(Turnstile, [1])
    assert caught.value.law == "keeps messages apart"
    assert "message 2 waits for something that never comes" in str(caught.value)
    assert "in __call__: await self.lock.acquire()" in str(caught.value)
    assert "context" not in str(caught.value)


def test_what_happens_again_and_again_is_shown_twice() -> None:
    """The story of a filter that never stops says how often, and that the test has ended it."""

    def never_stops(message: Message, call_next: Any) -> Any:
        while True:
            with suppress(Exception):
                return call_next(message)

    with pytest.raises(LawBroken) as caught:
        check_filter(never_stops, [1])
    text = str(caught.value)
    assert text.count("raises ForeignError") == 2
    assert "… 48 more times" in text
    assert "raises KeyboardInterrupt: after 50 times the test ends it" in text


def test_a_filter_that_cannot_be_registered_is_refused_at_the_tests_own_line() -> None:
    """The place in the error is the caller's, not one in the library."""
    with pytest.raises(PipelineError, match=r"of check_filter at .*test_laws\.py:\d+\) settles deliveries"):
        check_filter(Redeliver(), [1])


@pytest.mark.thorough
def test_a_race_is_the_same_each_time() -> None:
    """The same filter has the same story: no chance and no clock decides where threads change places."""

    def story() -> str:
        with pytest.raises(LawBroken) as caught:
            check_filter(LateLoser, [{"name": "ada"}, {"name": "bob"}])
        return str(caught.value)

    assert story() == story()


def test_a_filter_that_is_wrong_twice_over_is_judged_with_what_comes_first() -> None:
    """A filter that goes wrong one after the other is not called unsafe under concurrency: that would mislead."""
    with pytest.raises(LawBroken) as caught:
        check_filter(CachedBody, [{"name": "ada"}, {"name": "bob"}], at="delivery")
    assert caught.value.law == "keeps messages apart"


class Uncopied:
    """Has something that belongs to it alone, as a connection does."""

    def __init__(self) -> None:
        self.numbers = (number for number in range(10))

    def __call__(self, message: Message, call_next: Any) -> Any:
        return call_next(message)


def recalling() -> Any:
    """A filter that shows the first message that came, which it keeps in a closure."""
    seen: list[Any] = []

    @transform
    def recall(message: Message) -> Message:
        seen.append(message.body["name"])
        return message.with_headers(first=seen[0])

    return recall


@dataclass
class Recalling:
    """The same with a field."""

    seen: list[Any] = field(default_factory=list)

    def __call__(self, message: Message, call_next: Any) -> Any:
        self.seen.append(message.body["name"])
        return call_next(message.with_headers(first=self.seen[0]))


@pytest.mark.parametrize(
    "filter",
    [Recalling(), recalling(), Pipeline(Dedupe(), Recalling()), when("test", recalling()), Recalling().__call__],
    ids=["field", "closure", "chain", "detour", "method"],
)
def test_each_run_has_a_new_filter(filter: Any) -> None:
    """A filter that is in a chain, or keeps its state in a closure, is copied too, so no run sees what another one left."""
    with pytest.raises(LawBroken) as caught:
        check_filter(filter, [{"name": "ada"}, {"name": "bob"}])
    assert caught.value.law == "keeps messages apart"


@pytest.mark.parametrize("chained", [False, True], ids=["alone", "in a chain"])
def test_a_filter_that_cannot_be_copied_needs_a_function_that_makes_it(chained: bool) -> None:
    """With one filter for all runs, most laws would prove nothing."""
    with pytest.raises(PipelineError, match=r"Uncopied cannot be copied .*give a class or a function that makes one"):
        check_filter(Pipeline(Uncopied()) if chained else Uncopied(), [1])
    check_filter(lambda: Pipeline(Uncopied()) if chained else Uncopied(), [1], skip=dict.fromkeys(NAMES, "is made"))


def test_what_is_left_in_a_thread_local_is_blamed_on_the_message_that_left_it() -> None:
    """Each later message on the thread comes with it, through whatever filter; a race is not what is wrong."""
    with pytest.raises(LawBroken, match="that is of message 1, which another filter got before") as caught:
        check_filter(traced, [{"name": "ada"}, {"name": "bob"}])
    assert caught.value.law == "keeps messages apart"


class Steady(Transform):
    """Gives its word."""

    deterministic = True

    def transform(self, message: Message) -> Message:
        return message


async def on_loops(message: Message, call_next: Any) -> Any:
    return await call_next(message)


@pytest.mark.parametrize(
    ("filter", "tried"),
    [
        (ignored, frozenset()),
        (on_loops, ON_LOOPS),
        (Steady, SOMETIMES - {"settings round-trip"}),
        (Expire(60.0), SOMETIMES - {"keeps its word"}),
    ],
    ids=["sync", "async", "gives its word", "has settings"],
)
@pytest.mark.few(1)
def test_a_law_that_says_nothing_about_a_filter_is_not_among_those_that_were_tried(filter: Any, tried: frozenset[str]) -> None:
    """The names say what is known about the filter, and no more."""
    assert set(check_filter(filter, [1])) == ALWAYS | tried


def test_the_messages_before_are_shown() -> None:
    """What goes wrong with a later message cannot be understood without those before it."""
    with pytest.raises(LawBroken) as caught:
        check_filter(Grudge, [{"name": "ada"}])
    text = str(caught.value)
    assert "of 7 messages, one after the other, message 2 was given the error of message 1" in text
    assert text.count("run_filter(Grudge), given test") == 2


def test_the_smallest_message_is_shown() -> None:
    """Hypothesis shrinks the message as far as possible, and the filter's story follows."""
    with pytest.raises(LawBroken) as caught:
        check_filter(ZOO["mutator"].make)
    assert caught.value.message is not None
    assert caught.value.message.body == {}
    text = str(caught.value)
    assert "it was {}, and is {'seen': True}" in text
    assert "smallest message: Message('test', {})" in text
    assert "Mutator  is given" in text


def test_a_law_that_is_skipped_needs_a_known_name() -> None:
    """A misspelt name would leave out nothing, and nobody would notice."""
    with pytest.raises(PipelineError, match="there is no law 'lets error through'; there are leaves nothing behind"):
        check_filter(Log(), skip={"lets error through": "on purpose"})


@pytest.mark.thorough
def test_a_filter_that_lets_nothing_through_was_not_tried() -> None:
    """A filter that refuses every message keeps no law."""
    with pytest.raises(LawBroken, match="no message came through to the rest, so most laws were not tried"):
        check_filter(Validate({">": Order}), examples=5)
    assert check_filter(Validate({">": Order}), examples=5, skip={"is tried": "everything is refused here"})


async def connects(message: Message, call_next: Any) -> Any:
    await asyncio.open_connection("127.0.0.1", 80)
    return await call_next(message)


def test_an_error_that_every_message_ends_in_comes_first_and_whole() -> None:
    """What is wrong is the error and its advice, not the messages."""
    with pytest.raises(LawBroken) as caught:
        check_filter(connects, [1])
    first, second, *_ = str(caught.value).splitlines()
    assert first.startswith(
        "check_filter(connects): each message ended in an error, the first in NotImplementedError: an event loop"
    )
    assert first.endswith("or test this on a bus of its own")
    assert second.startswith("  so no message came through to the rest")


@dataclass
class Parcel:
    weight: float
    to: str = "Berlin"


@pytest.mark.parametrize("kind", [Order, Parcel])
@pytest.mark.parametrize("subject", [True, False], ids=["subject", "type"])
@pytest.mark.thorough
def test_bodies_of_a_model_or_dataclass_are_objects(kind: Any, subject: bool) -> None:
    """A filter gets what a publisher sends under such a subject, and not the data of which it is made."""
    seen: list[Any] = []
    check_filter(Tap(lambda message: seen.append(message.body)), Subject[kind]("parcels") if subject else kind, examples=3)
    assert {type(body) for body in seen} == {kind}


@pytest.mark.thorough
def test_a_filter_inside_that_no_message_comes_to_was_not_tried() -> None:
    """A detour that is never taken proves nothing about the filters in it."""
    with pytest.raises(LawBroken, match="no message came to Mutator, so it was not tried"):
        check_filter(when("orders.>", ZOO["mutator"].make()), examples=3)


@pytest.mark.parametrize("messages", [None, Subject[Order]("orders"), [1, 2]], ids=["any", "model", "list"])
@pytest.mark.thorough
def test_messages_have_the_same_ids_each_time(messages: Any) -> None:
    """So a filter that decides by the id of a message passes or fails in the same way each time."""

    def ids() -> list[str]:
        seen: list[str] = []
        check_filter(Tap(lambda message: seen.append(message.id)), messages, examples=2)
        return seen

    assert ids() == ids()


def test_messages_of_a_list_are_left_as_they_are() -> None:
    """A filter that writes into messages changes only copies of them."""
    message = Message("test", {"id": 1})
    with pytest.raises(LawBroken, match="mutates nothing"):
        check_filter(ZOO["mutator"].make, [message])
    assert message.body == {"id": 1}


@table(
    ("options", "says"),
    [
        ({"examples": 0}, "examples=0"),
        ({"skip": ["describes itself"]}, "it is a mapping, of laws to reasons"),
        ({"skip": {"describes itself": ""}}, "say why, in a text"),
        ({"messages": 5}, "messages=5: it is a Subject"),
        ({"messages": []}, r"messages=\[\]\): there is no message"),
    ],
    ids=["examples", "skip", "reason", "messages", "empty"],
)
def test_wrong_arguments_are_told(options: dict[str, Any], says: str) -> None:
    """The error names the argument, what was found and what it takes."""
    with pytest.raises(PipelineError, match=says):
        check_filter(Log(), **options)


def test_it_refuses_to_run_inside_a_harness() -> None:
    """There, threads change places only where they wait, so the race would not be found."""
    with Harness(), pytest.raises(LifecycleError, match="check_filter finds no races inside a Harness"):
        check_filter(Racer)


class Chained:
    """Stamps each message with the one before it, and has a race besides."""

    before = "none"

    def __call__(self, message: Message, call_next: Any) -> Any:
        self.current = message
        before, self.before = self.before, message.id
        return call_next(self.current.with_headers(before=before))


def test_a_filter_that_keeps_a_state_by_design_is_still_tried_for_races() -> None:
    """To skip one law does not switch off another."""
    with pytest.raises(LawBroken) as caught:
        check_filter(Chained, [{"name": "ada"}, {"name": "bob"}], skip={"keeps messages apart": "it is a chain"})
    assert caught.value.law == "is safe under concurrency"


@pytest.mark.thorough
def test_a_law_that_cannot_be_tried_is_not_among_those_that_were() -> None:
    """A lock out of reach is real, so a thread that waits for it cannot be interrupted: the filter may be right or wrong."""
    held = check_filter(lambda: out_of_reach, examples=1)
    assert set(held) == ALWAYS - {"is safe under concurrency"}


@pytest.mark.thorough
def test_messages_may_be_given() -> None:
    """A given list is tried completely, without hypothesis."""
    assert check_filter(Validate({">": Order}), [Message("test", {"id": 1, "sku": "tea"}), {"id": 2, "sku": "x"}])
