"""
Random chains of random filters, run by the bus and by `interpreter.py`, must tell the same story.

A story is: every filter entered (with the message it saw), every predicate called, every outcome or error that came back to a
filter, in order; then the outcome, or the very error object; and what the mailboxes hold. The same story must come out of the
sync and of the async build, by `publish` and by `apublish`, and around a handler.
"""

from __future__ import annotations

import asyncio
import itertools
import logging
import re
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import replace
from typing import Any

import msgspec
import pytest
from hypothesis import HealthCheck, Phase, event, example, given, settings
from hypothesis import strategies as st

from pipebus import (
    Around,
    Bus,
    Dropped,
    Handled,
    MailboxFull,
    Message,
    Pipeline,
    PipelineError,
    Receipt,
    Ref,
    Transform,
    branch,
    otherwise,
    switch,
    when,
)
from scale_helpers import examples
from semantics import interpreter as told

PROFILE = settings(
    max_examples=examples(40, 400), derandomize=True, database=None, deadline=None, suppress_health_check=list(HealthCheck),
    phases=(Phase.explicit, Phase.generate, Phase.shrink),
)  # fmt: skip


@pytest.fixture(scope="module", autouse=True)
def _quiet() -> Iterator[None]:
    """Hundreds of dead letters are logged here, and would bury a failure's own text."""
    log = logging.getLogger("pipebus")
    log.disabled = True
    yield
    log.disabled = False


# --- descriptions at random --------------------------------------------------------------------------------------------

HABITS: dict[str, dict[str, Any]] = {
    "passes on": {},
    "sets a header": {"header": ("h", "1")},
    "sets another value": {"header": ("h", "2")},
    "sets the body": {"body": "new"},
    "short-circuits": {"passes": 0, "end": "drop"},
    "answers itself": {"passes": 0, "end": "answer"},
    "fails on the way in": {"failures": 1000},
    "fails on the way out": {"end": "raise"},
    "fails at first": {"failures": 1},
    "fails twice": {"failures": 2},
    "swallows errors": {"on_error": "swallow", "end": "drop"},
    "swallows errors and answers": {"on_error": "swallow", "end": "answer"},
    "swallows errors and has nothing to return": {"on_error": "swallow"},
    "calls on twice": {"passes": 2},
    "calls on three times": {"passes": 3},
    "calls on twice, whatever happens": {"passes": 2, "on_error": "swallow"},
    "retries": {"passes": 3, "on_error": "retry"},
    "retries and changes": {"passes": 2, "on_error": "retry", "header": ("h", "2"), "body": "again"},
    "drops what was accepted": {"end": "drop"},
    "replaces the outcome": {"end": "answer"},
    "returns nothing": {"end": "nothing"},
    "hands on junk": {"junk": True},
}
ODD = tuple(HABITS)
PATTERNS = ("a.>", "a.*", "a.1", "b.>", "*.1", "a.1.x")
OBJECT = Ref(object())
SUBJECTS = ("a.1", "a.2", "b.1", "a.1.x", "c", OBJECT)
NEW_SUBJECTS = ("a.1", "a.2", "b.1", "a.1.x", "d.1")
UNIVERSE = told.every_subject("abd1x", 3)  # each token of the patterns, and one that none of them has, as deep as they go
SHAPES = {
    "sync": ("sync", "transform", "around"),
    "async": ("async", "transform", "around"),
    "both": ("transform", "around"),
    "mixed": ("sync", "async", "sync", "async", "transform"),
}


@st.composite
def chains(draw: Any, colour: str, rulings: tuple[str | None, ...], reroute: bool = False, size: int = 4) -> told.Chain:
    """A chain of up to `size` nodes, some of which hold chains; names are numbers in reading order."""
    numbers = itertools.count(1)
    values: list[Any] = []  # nodes that may appear in a second place: a chain is a value

    def filter_() -> told.Filter:
        habit = HABITS[draw(st.sampled_from(ODD))] if draw(st.integers(0, 2)) else {}
        shape = draw(st.sampled_from(SHAPES[colour]))
        subject = draw(st.sampled_from(NEW_SUBJECTS)) if reroute and draw(st.integers(0, 6)) == 0 else None
        return told.Filter(name=f"F{next(numbers)}", shape=shape, **habit, subject=subject)

    def test() -> Any:
        if draw(st.booleans()):
            return draw(st.sampled_from(PATTERNS))
        return told.Predicate(f"P{next(numbers)}", "h", draw(st.sampled_from(("1", "1", "2", "2", "boom"))))

    def chain(size: int) -> told.Chain:
        return tuple(node(size - 1) for _ in range(draw(st.integers(1, size))))

    def node(size: int) -> Any:
        kind = draw(st.sampled_from("ffffwbpvs")) if size > 0 else "f"
        if kind == "v" and values:
            return draw(st.sampled_from(values))
        if kind == "w":
            made: Any = told.When(test(), chain(size))
        elif kind == "b":
            made = told.Branch(test(), chain(size))
        elif kind == "s":
            cases = [told.When(test(), chain(size)) for _ in range(draw(st.integers(1, 3)))]
            last = [told.Otherwise(chain(size))] if draw(st.booleans()) else []
            made = told.Switch((*cases, *last))
        elif kind == "p":
            made = told.Pipeline(chain(size), draw(st.sampled_from(rulings)))
        else:
            made = filter_()
        values.append(made)
        return made

    return chain(size)


mails = st.builds(
    told.Mail,
    subject=st.sampled_from(SUBJECTS),
    body=st.sampled_from((None, "old")),
    headers=st.sampled_from(((), (("h", "1"),), (("h", "2"),))),
)

# --- the same chains, real ---------------------------------------------------------------------------------------------


class Boom(Exception):
    """An error with its number in this run."""


class Workshop:
    """Makes real filters from descriptions; the filters record what happens to them."""

    def __init__(self, side: str) -> None:
        self.side = side
        self.trace: list[tuple[Any, ...]] = []
        self.calls: Counter[str] = Counter()
        self.booms: list[Boom] = []
        self.made: dict[Any, Any] = {}

    def chain(self, chain: told.Chain) -> list[Any]:
        return [self.node(node) for node in chain]

    def node(self, node: Any) -> Any:
        """Returns one object for each description, wherever the description appears."""
        if node not in self.made:
            match node:
                case told.Filter():
                    self.made[node] = self.filter(node)
                case told.When():
                    self.made[node] = when(self.test(node.test), *self.chain(node.inside))
                case told.Branch():
                    self.made[node] = branch(self.test(node.test), *self.chain(node.inside))
                case told.Switch():
                    self.made[node] = switch(*self.chain(node.inside))
                case told.Otherwise():
                    self.made[node] = otherwise(*self.chain(node.inside))
                case told.Pipeline():
                    self.made[node] = Pipeline(*self.chain(node.inside), on_error=node.on_error)
        return self.made[node]

    def test(self, test: str | told.Predicate) -> Any:
        if isinstance(test, str):
            return test

        def predicate(message: Message) -> bool:
            self.trace.append((test.name, "asked", mail_of(message)))
            if test.value == "boom":
                raise self.boom()
            return message.headers.get(test.header) == test.value

        predicate.__name__ = test.name
        return predicate

    def filter(self, it: told.Filter) -> Any:
        make = {"sync": self.sync, "async": self.asynchronous, "transform": self.transform, "around": self.around}
        made = make[it.shape](it)
        if it.subject is not None:
            made.reroutes = True
        return made

    def sync(self, it: told.Filter) -> Any:
        def plain(message: Message, call_next: Callable[[Any], Any]) -> Any:
            self.enter(it, message)
            outcome = None
            for turn in range(1, it.passes + 1):
                try:
                    outcome = call_next(self.handed_on(it, message))
                except Exception as error:
                    if self.gives_up(it, turn, error):
                        raise
                else:
                    if self.content(it, outcome):
                        break
            return self.end(it, outcome)

        plain.__name__ = it.name
        return plain

    def asynchronous(self, it: told.Filter) -> Any:
        async def plain(message: Message, call_next: Callable[[Any], Any]) -> Any:
            self.enter(it, message)
            outcome = None
            for turn in range(1, it.passes + 1):
                try:
                    outcome = await call_next(self.handed_on(it, message))
                except Exception as error:
                    if self.gives_up(it, turn, error):
                        raise
                else:
                    if self.content(it, outcome):
                        break
            return self.end(it, outcome)

        plain.__name__ = it.name
        return plain

    def around(self, it: told.Filter) -> Around:
        workshop = self

        class Made(Around):
            name = it.name

            def around(self, message: Message, /) -> Iterator[Any]:
                workshop.enter(it, message)
                outcome = None
                for turn in range(1, it.passes + 1):
                    try:
                        outcome = yield workshop.handed_on(it, message)
                    except Exception as error:
                        if workshop.gives_up(it, turn, error):
                            raise
                    else:
                        if workshop.content(it, outcome):
                            break
                return workshop.end(it, outcome)

        return Made()

    def transform(self, it: told.Filter) -> Transform:
        workshop = self

        class Made(Transform):
            name = it.name

            def transform(self, message: Message, /) -> Any:
                workshop.enter(it, message)
                return workshop.handed_on(it, message) if it.end == "last" else workshop.end(it, None)

        return Made()

    def enter(self, it: told.Filter, message: Message) -> None:
        self.calls[it.name] += 1
        self.trace.append((it.name, "in", mail_of(message)))
        if self.calls[it.name] <= it.failures:
            raise self.boom()

    def handed_on(self, it: told.Filter, message: Message) -> Any:
        if it.junk:
            return "junk"
        if it.header:
            message = message.with_headers(dict([it.header]))
        if it.body is not None:
            message = message.with_body(it.body)
        return msgspec.structs.replace(message, subject=it.subject) if it.subject else message

    def gives_up(self, it: told.Filter, turn: int, error: Exception) -> bool:
        self.trace.append((it.name, "error", self.label(error)))
        return it.on_error == "raise" or (it.on_error == "retry" and turn == it.passes)

    def content(self, it: told.Filter, outcome: Any) -> bool:
        self.trace.append((it.name, "back", self.label(outcome)))
        return it.on_error == "retry"

    def end(self, it: told.Filter, outcome: Any) -> Any:
        if it.end == "raise":
            raise self.boom()
        own = Receipt(7) if self.side == "publish" else Handled(it.name)
        return {"last": outcome, "drop": Dropped(f"{it.name} says so"), "answer": own, "nothing": None}[it.end]

    def explain(self, bus: Bus, mail: told.Mail) -> tuple[str, str]:
        """Explain the subject and the message, and forget what predicates recorded meanwhile."""
        message = Message(mail.subject, mail.body, headers=dict(mail.headers))
        explained = bus.explain(mail.subject), bus.explain(message)
        self.trace.clear()
        self.booms.clear()
        return explained

    def boom(self) -> Boom:
        self.booms.append(Boom(len(self.booms) + 1))
        return self.booms[-1]

    def label(self, found: object) -> Any:
        """The interpreter's label of an outcome or error; a Boom has one only if it is the very object that was raised."""
        match found:
            case Receipt(mailboxes=mailboxes):
                return ("receipt", mailboxes)
            case Handled(value=value):
                return ("handled", value)
            case Dropped(reason=reason, by=by):
                return ("dropped", reason.partition(":")[0], by)  # "drop: Boom" is what a pipeline says
            case Boom(args=(number,)) if self.booms[number - 1] is found:
                return ("boom", number)
            case MailboxFull():
                return ("full",)
            case PipelineError():
                return ("contract",)
        return found


def mail_of(message: Message) -> told.Mail:
    return told.Mail(message.subject, message.body, tuple(sorted(message.headers.items())))


# --- publish chains ----------------------------------------------------------------------------------------------------

MAILBOXES = (("all", ">"), ("a", "a.>"), ("object", OBJECT))
Send = Callable[[Bus, told.Mail], Any]


def tell_publish(chain: told.Chain, mail: told.Mail, room: int) -> tuple[told.Interpreter, Any, dict[str, list[told.Mail]]]:
    """What should happen: the story, the end (an outcome or a Failure), and the messages in the mailboxes."""
    boxes: dict[str, list[told.Mail]] = {name: [] for name, _ in MAILBOXES}
    story = told.Interpreter("publish")

    def deliver(mail: told.Mail) -> told.Outcome:
        reached = [name for name, pattern in MAILBOXES if listens(pattern, mail.subject)]
        full = [name for name in reached if len(boxes[name]) >= room]
        for name in reached:
            if name not in full:
                boxes[name].append(mail)
        if full:
            raise told.Failure(("full",), None)
        return ("receipt", len(reached))

    try:
        return story, story.run(chain, mail, deliver, deliver), boxes
    except told.Failure as failure:
        return story, failure, boxes


def assert_publish(chain: told.Chain, mail: told.Mail, room: int, *sends: Send) -> None:
    """Check that each way to send gives the story that the interpreter gives."""
    for send in sends:
        story, end, boxes = tell_publish(chain, mail, room)
        workshop = Workshop("publish")
        bus = Bus()
        if not registered(lambda bus=bus, workshop=workshop: bus.use(*workshop.chain(chain)), (chain, UNIVERSE)):
            return
        subscriptions = {name: bus.subscribe(p, name=name, mailbox=room, overflow="reject") for name, p in MAILBOXES}
        with bus:
            explained = workshop.explain(bus, mail)
            try:
                found: Any = send(bus, mail)
            except Exception as error:
                found = error
            stats = bus.stats()
            received = {name: take_all(subscription) for name, subscription in subscriptions.items()}
            letters = [(letter.subscription, letter.by) for letter in bus.dead_letters.list()]

        assert workshop.trace == story.trace
        assert received == boxes
        if isinstance(end, told.Failure):
            assert workshop.label(found) == end.label
            assert end.label != ("contract",) or f"filter {end.origin} " in str(found)
            assert (stats["accepted"], stats["dropped"], sum(stats["errors"].values())) == (0, {}, 1)
        else:
            assert workshop.label(found) == end
            dropped = {end[2]: {found.reason: 1}} if end[0] == "dropped" else {}
            assert (stats["accepted"], stats["dropped"], stats["errors"]) == (int(not dropped), dropped, {})
        assert letters == [("publish", origin) for origin, _ in story.letters]
        assert_explained(explained, workshop, chain)
        event(f"ends as {end.label[0] if isinstance(end, told.Failure) else end[0]}")


def registered(use: Callable[[], object], *chains: tuple[told.Chain, frozenset[str]]) -> bool:
    """
    True if the bus accepts the chains, each of which is for certain subjects. If it refuses, check the reason: a chain has a
    node that no message can reach, or lets a message meet a plain sync filter and an async one.
    """
    try:
        use()
    except PipelineError as error:
        refusal = str(error)
    else:
        return True
    event("refused at build")
    idle: list[Any] = []
    for chain, subjects in chains:
        told.flow(chain, subjects, UNIVERSE, idle)
    assert idle or any(mixed(chain, subjects) for chain, subjects in chains), f"refused, though all can run: {refusal}"
    return False


def mixed(chain: told.Chain, subjects: frozenset[str]) -> bool:
    """Can one message meet a sync and an async plain filter? Looks at two filters at a time, without the others."""
    names: dict[str, set[str]] = {"sync": set(), "async": set()}
    for it in told.filters_of(chain):
        names.setdefault(it.shape, set()).add(it.name)
    for pair in itertools.product(names["sync"], names["async"]):
        road = told.without_others(chain, set(pair))
        if any(set(pair) <= told.met(road, subject, UNIVERSE) for subject in subjects):
            return True
    return False


def listens(pattern: Any, subject: Any) -> bool:
    return subject is pattern or (isinstance(pattern, str) and told.matches(pattern, subject))


def take_all(subscription: Any) -> list[told.Mail]:
    return [mail_of(subscription.receive(timeout=0)) for _ in range(subscription.stats()["pending"])]


def assert_explained(texts: tuple[str, ...], workshop: Workshop, *chains: told.Chain) -> None:
    """`explain` has a line that begins with the name of each filter that ran, and does not call it skipped."""
    places = Counter(it.name for chain in chains for it in told.filters_of(chain))
    for text in texts:
        skipped = ", ".join(re.findall(r"^ +\((.*)\) +skipped", text, re.MULTILINE)).split(", ")
        for name in workshop.calls:
            assert re.search(rf"^ +(-> )?{name}\b(?!,| \()", text, re.MULTILINE), f"{name} ran, and is not in\n{text}"
            # A filter in two places may run in one and be skipped in the other.
            assert places[name] > 1 or name not in skipped, f"{name} ran, and is called skipped in\n{text}"


def publish(bus: Bus, mail: told.Mail) -> Any:
    return bus.publish(mail.subject, mail.body, headers=dict(mail.headers))


@pytest.fixture(scope="module")
def apublish() -> Iterator[Send]:
    """Send messages with `apublish` on a running loop."""
    with asyncio.Runner() as runner:
        yield lambda bus, mail: runner.run(bus.apublish(mail.subject, mail.body, headers=dict(mail.headers)))


# Chains that once went wrong are examples below, made of these.
F1, F2 = (told.Filter(name, shape="transform") for name in ("F1", "F2"))
SYNC, ASYNC = told.Filter("S", shape="sync"), told.Filter("A", shape="async")
HAS_H = told.Predicate("P", "h", "1")
TO_B1 = told.Filter("R", shape="transform", subject="b.1")
ON_A1 = told.Mail("a.1")
SHARED = told.Pipeline((told.Filter("F1", end="raise"),))
rooms = st.sampled_from((100, 100, 2, 1))
RULINGS = (None, None, "reject", "dead_letter", "drop")


@PROFILE
@given(chain=chains("sync", RULINGS, reroute=True), mail=mails, room=rooms)
@example(chain=(told.Pipeline((SHARED,), "drop"), SHARED), mail=ON_A1, room=9)  # one value, inside and behind a ruling
@example(chain=(told.Pipeline((told.Pipeline((replace(F1, end="raise"),), "reject"),), "drop"),), mail=ON_A1, room=9)
def test_a_sync_publish_chain_does_what_semantics_says(chain: told.Chain, mail: told.Mail, room: int, apublish: Send) -> None:
    """A chain of plain functions, Transforms and Arounds is a plain call, for threads and for coroutines."""
    assert_publish(chain, mail, room, publish, apublish)


@PROFILE
@given(chain=chains("async", RULINGS, reroute=True), mail=mails, room=rooms)
def test_an_async_publish_chain_does_what_semantics_says(chain: told.Chain, mail: told.Mail, room: int, apublish: Send) -> None:
    """A chain with async filters means the same on the bus's own loop (`publish`) and on the caller's (`apublish`)."""
    assert_publish(chain, mail, room, publish, apublish)


@PROFILE
@given(chain=chains("both", RULINGS, reroute=True), mail=mails, room=rooms)
@example(chain=(told.When("a.>", (TO_B1, told.When("b.>", (F2,)))),), mail=ON_A1, room=9)
@example(chain=(TO_B1, told.Branch("a.>", (F1,)), F2), mail=ON_A1, room=9)
@example(chain=(told.Switch((told.When("a.>", (TO_B1,)), told.When("b.>", (F1,)))), F2), mail=ON_A1, room=9)
@example(chain=(told.Switch((told.When(HAS_H, (F1,)), told.When("a.>", (told.Branch("a.1", (F2,)),)))), F1), mail=ON_A1, room=9)
def test_one_source_gives_one_story_in_both_colours(chain: told.Chain, mail: told.Mail, room: int, apublish: Send) -> None:
    """Transforms and Arounds mean the same in a plain call and in an awaitable."""
    assert_publish(chain, mail, room, publish, apublish)


@PROFILE
@given(chain=chains("mixed", RULINGS, reroute=True), mail=mails)
@example(chain=(told.Pipeline((TO_B1, told.When("b.>", (ASYNC,)))),), mail=ON_A1)
@example(chain=(told.When("a.>", (SYNC,)), TO_B1, told.When("b.>", (ASYNC,))), mail=ON_A1)
@example(chain=(told.Branch("a.>", (TO_B1, SYNC)), ASYNC), mail=ON_A1)
@example(chain=(told.Switch((told.When("a.>", (SYNC,)), told.Otherwise((ASYNC,)))),), mail=ON_A1)
@example(chain=(told.Switch((told.When(HAS_H, (F1,)), told.When("a.>", (SYNC,)), told.Otherwise((ASYNC,)))),), mail=ON_A1)
@example(chain=(told.Switch((told.When("a.>", (TO_B1, SYNC)), told.When("b.>", (ASYNC,)))),), mail=ON_A1)
@example(chain=(told.Branch("a.>", (TO_B1,)), told.Branch("b.>", (SYNC,)), ASYNC), mail=ON_A1)
@example(chain=(told.When(HAS_H, (told.Branch("a.>", (SYNC,)), ASYNC)),), mail=ON_A1)
@example(chain=(told.Branch(HAS_H, (SYNC,)), ASYNC), mail=told.Mail("a.1", headers=(("h", "1"),)))
@example(chain=(told.When(HAS_H, (told.Branch("a.>", (SYNC,)),)), ASYNC), mail=told.Mail("a.1", headers=(("h", "1"),)))
def test_plain_filters_of_both_colours_are_told_apart_by_route(chain: told.Chain, mail: told.Mail, apublish: Send) -> None:
    """Sync and async plain filters may be in one chain if no message meets both; otherwise the bus refuses it."""
    assert_publish(chain, mail, 100, publish, apublish)


# --- delivery chains ---------------------------------------------------------------------------------------------------

handlers = st.builds(
    told.Filter, name=st.just("one"), failures=st.sampled_from((0, 0, 0, 1, 1000)), body=st.sampled_from((None, "done"))
)
DELIVERY_RULINGS = (None, None, "dead_letter", "drop")
AUDIENCES = (("a.1",), ("a.*",), ("b.1",), (">",), ("a.1", "b.>"), ("a.1", OBJECT), (OBJECT,))
addressed = st.sampled_from(
    [(patterns, subject) for patterns in AUDIENCES for subject in SUBJECTS if any(listens(p, subject) for p in patterns)]
    + [(AUDIENCES[0], "b.1"), (AUDIENCES[3], OBJECT)]
)  # who subscribes to what, and a subject; the last two are not heard


@PROFILE
@given(
    for_all=chains("sync", DELIVERY_RULINGS, size=3), own=chains("sync", DELIVERY_RULINGS, size=3), handler=handlers,
    address=addressed, mail=mails,
)  # fmt: skip
@example(for_all=(told.When("a.>", (F1,)),), own=(F2,), handler=told.Filter("one"), address=(("a.1", "b.>"), "a.1"), mail=ON_A1)
def test_a_delivery_chain_does_what_semantics_says(
    for_all: told.Chain, own: told.Chain, handler: told.Filter, address: Any, mail: told.Mail
) -> None:
    """The bus's delivery chain, the subscription's own and the handler form one chain, which settles the delivery."""
    patterns, mail = address[0], replace(mail, subject=address[1])
    heard = any(listens(pattern, mail.subject) for pattern in patterns)
    own = renamed(own, "own")
    story, end = tell_delivery(for_all, own, handler, mail) if heard else (told.Interpreter("delivery"), None)

    workshop = Workshop("delivery")
    bus = Bus()

    def handle(message: Message) -> str | None:
        workshop.enter(handler, message)
        return handler.body

    handle.__name__ = handler.name

    def register() -> Any:
        bus.use(*workshop.chain(for_all), at="delivery")
        return bus.subscribe(list(patterns), handle, name="one", filters=workshop.chain(own))

    audience = frozenset(subject for subject in UNIVERSE if any(listens(pattern, subject) for pattern in patterns))
    if not registered(register, (for_all, UNIVERSE), (own, audience)):
        return
    with bus:
        explained = workshop.explain(bus, mail)
        receipt = publish(bus, mail)
        bus.drain(timeout=10)
        stats = bus.stats()["subscriptions"]["one"]
        letters = bus.dead_letters.list()

    assert receipt == Receipt(int(heard))
    assert workshop.trace == story.trace
    found = {key: stats[key] for key in ("accepted", "acknowledged", "dropped", "dead")}
    expected: dict[str, Any] = {"accepted": int(heard), "acknowledged": 0, "dropped": {}, "dead": 0}
    if isinstance(end, told.Failure):
        expected["dead"] = 1
        (letter,) = letters
        assert (letter.by, mail_of(letter.message)) == (end.origin, mail)
        assert letter.error == f"Boom: {end.label[1]}" if end.label[0] == "boom" else f"filter {end.origin} " in letter.error
    elif end is not None and end[0] == "dropped":
        found["dropped"] = {reason.partition(":")[0]: count for reason, count in found["dropped"].items()}
        expected["dropped"] = {end[1]: 1}
    else:
        expected["acknowledged"] = int(heard)
    assert found == expected
    assert_explained(explained, workshop, for_all, own)
    event(f"ends as {end.label[0] if isinstance(end, told.Failure) else end[0] if end else 'unheard'}")


def tell_delivery(for_all: told.Chain, own: told.Chain, handler: told.Filter, mail: told.Mail) -> tuple[told.Interpreter, Any]:
    story = told.Interpreter("delivery")

    def handle(mail: told.Mail) -> told.Outcome:
        story.enter(handler, mail)
        return ("handled", handler.body)

    def inner(mail: told.Mail) -> told.Outcome:
        return story.run(own, mail, handle, handle)

    try:
        return story, story.run(for_all, mail, inner, inner)
    except told.Failure as failure:
        return story, failure


def renamed(chain: told.Chain, prefix: str) -> told.Chain:
    """The same chain with names of its own, so that it can be used next to another chain."""
    made: list[Any] = []
    for node in chain:
        if isinstance(node, told.Filter):
            made.append(replace(node, name=prefix + node.name))
            continue
        node = replace(node, inside=renamed(node.inside, prefix))
        if isinstance(getattr(node, "test", None), told.Predicate):
            node = replace(node, test=replace(node.test, name=prefix + node.test.name))
        made.append(node)
    return tuple(made)
