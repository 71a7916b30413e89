"""
`[[tests]]` of a config file, run on the real bus in virtual time: by `pipebus test`, by pytest (one item each), by programs.

    for test in file_tests("pipebus.toml", allow_imports=["shop"]):
        assert not (result := test.run()).differences, result
"""

from __future__ import annotations

import builtins
import copy
import functools
import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from typing import Any, Final, Literal

from pipebus.bus.bus import Bus
from pipebus.config.beside import beside
from pipebus.config.cases import Case, StandIn
from pipebus.config.catalogue import word
from pipebus.config.files import read
from pipebus.config.matchers import NOTHING, told
from pipebus.config.problems import one_line, shown
from pipebus.config.reader import Replace
from pipebus.delivery.subscription import Subscription
from pipebus.errors import ConfigError, DrainTimeout, ReceiveTimeout, Rejected
from pipebus.events import Acknowledged, Taken
from pipebus.foreign.objects import text_of
from pipebus.message.message import Dropped, Message
from pipebus.outcomes.dead_letters import PUBLISH
from pipebus.pipeline.shapes import transform
from pipebus.testing.harness.faults import InjectedError
from pipebus.testing.harness.harness import Harness
from pipebus.values.expressions import plain

PATIENCE: Final = 86_400.0
"""Seconds of virtual time in which all has to come to an end."""

SHOWN: Final = 5
"""Most messages that a difference shows."""


@dataclass
class Result:
    """
    What came of a test.

    Args:
        differences: Between what was expected and what was found, each with the line of the expectation; none: it has passed.
        story: All that happened, a line a moment.
    """

    name: str
    file: str
    line: int
    differences: list[str] = field(default_factory=list)
    story: str = ""

    @property
    def passed(self) -> bool:
        return not self.differences

    def __str__(self) -> str:
        lines = [f"{self.file}:{self.line}: {self.name}: {'passed' if self.passed else 'failed'}"]
        return "\n".join(lines + [f"  {one}" for one in self.differences])


class FileTest:
    """One test of a file; made by `file_tests`."""

    def __init__(self, case: Case, load: Callable[..., tuple[Bus, list[Case]]], store: Literal["memory", "temporary"]) -> None:
        self.case = case
        self._load = load
        self._store = store

    @property
    def name(self) -> str:
        return self.case.name

    def run(self) -> Result:
        """
        Load the file anew, with what the test replaces, and see.

        Raises:
            ConfigError: the file cannot be loaded, or not with what the test puts in place of others.
        """
        case = self.case
        try:
            return self._run()
        except ConfigError:
            raise
        except Exception as error:  # a filter that cannot start, a schedule that never ends
            return Result(case.name, case.file, case.line, [one_line(f"{case.file}:{case.line}: {text_of(error)}")])

    def _run(self) -> Result:
        case = self.case
        with beside(case.file), Harness(fail_fast=False, told=False, store=self._store) as harness:
            bus, cases = self._load(
                replace=Replace(
                    {name: functools.partial(_handler, name, one) for name, one in case.handlers.items()},
                    {name: _filter(name, one) for name, one in case.filters.items()},
                )
            )
            given = Given()
            bus.observe(given.see)
            harness.start(bus)
            outcomes = []
            for publish in copy.deepcopy(case.publishes):  # a handler may change a body
                after = publish.pop("after")
                if after:
                    harness.advance(after)
                outcomes.append(_published(harness, bus, publish.pop("subject"), publish.pop("json"), publish))
            try:
                harness.drain(PATIENCE + case.advance)
                if case.advance:
                    harness.advance(case.advance)
                    harness.drain(PATIENCE)
                undone = []
            except DrainTimeout as error:
                undone = [f"{case.file}:{case.line}: {error}"]
            differences = [*_differences(case, Found(outcomes, harness, bus, given)), *undone]
            redacted = cases[0].redacted
            told = [one_line(redacted(one)) for one in differences]
            result = Result(case.name, case.file, case.line, told, redacted(harness.story))
            harness.forget()
        return result

    def check(self) -> None:
        """
        Run it.

        Raises:
            AssertionError: with every difference.
        """
        result = self.run()
        if not result.passed:
            raise AssertionError(str(result))

    def __repr__(self) -> str:
        return f"<FileTest {self.case.file}:{self.case.line} {self.name!r}>"


def file_tests(
    path: str | os.PathLike[str],
    *,
    allow_imports: Sequence[str] = (),
    handlers: Mapping[str, Callable[..., Any]] | None = None,
    filters: Mapping[str, Any] | None = None,
    store: Literal["memory", "temporary"] = "memory",
) -> list[FileTest]:
    """
    The tests of a file.

    Args:
        path, allow_imports, handlers, filters: As for `Bus.from_config`.
        store: What keeps messages in place of the file's own transport, which its tests never touch; as for `Harness`.

    Raises:
        ConfigError: all that is wrong with the file.
    """

    def load(replace: Replace | None = None) -> tuple[Bus, list[Case]]:
        return read(path, allow_imports=allow_imports, handlers=handlers, filters=filters, replace=replace, tests=True)

    with beside(path):
        return [FileTest(case, load, store) for case in load()[1]]


# --- what stands in ------------------------------------------------------------------------------------------------------


def _handler(name: str, stand_in: StandIn) -> Any:
    raises = _raising(name, stand_in)

    def handle(message: Message[Any]) -> Any:
        raises()
        return copy.deepcopy(stand_in.returns)

    handle.__name__ = name
    return handle


def _filter(name: str, stand_in: StandIn) -> Any:
    raises = _raising(name, stand_in)
    times = [0]

    def stand(message: Message[Any]) -> Message[Any] | Dropped:
        raises()
        times[0] += 1
        if stand_in.times is not None and times[0] > stand_in.times:
            return message
        if stand_in.rejects is not None:
            raise Rejected(None, stand_in.rejects)
        return message if stand_in.drops is None else Dropped(stand_in.drops)

    stand.__name__ = name
    return transform(stand)


def _raising(name: str, stand_in: StandIn) -> Callable[[], None]:
    """Raises as often as it is to."""
    times = [0]

    def raises() -> None:
        times[0] += 1
        if stand_in.raises is not None and (stand_in.times is None or times[0] <= stand_in.times):
            raise _error(stand_in.raises)

    return raises


def _error(text: str) -> Exception:
    """As in "ConnectionError: down", or any text."""
    name, _, rest = text.partition(":")
    found = getattr(builtins, name.strip(), None)
    if isinstance(found, type) and issubclass(found, Exception):
        with suppress(TypeError):  # one that is not made of a text
            return found(rest.strip())
    return InjectedError(text)


# --- what was found ------------------------------------------------------------------------------------------------------


@dataclass
class Outcome:
    """What became of one publish."""

    word: str
    by: str | None = None
    reason: str | None = None


def _published(harness: Harness, bus: Bus, subject: str, body: Any, options: dict[str, Any]) -> Outcome:
    try:
        outcome = bus.publish(subject, body, **{key: value for key, value in options.items() if value is not None})
    except Rejected as error:
        return Outcome("rejected", error.by, "; ".join(error.errors))
    except Exception as error:
        by = next((event.by for event in reversed(harness.refused) if event.error is error), None)
        return Outcome("failed", by, text_of(error))
    if isinstance(outcome, Dropped):
        return Outcome("dropped", outcome.by, outcome.reason)
    return Outcome("accepted" if outcome.mailboxes else "unrouted")


class Given:
    """Bodies as they were when a delivery began; a handler may change what it is given."""

    def __init__(self) -> None:
        self._bodies: dict[tuple[str, int], tuple[Any, Any]] = {}  # subscription, id -> the body (kept, for its id), a copy

    def see(self, event: Any) -> None:
        if isinstance(event, Taken) and isinstance(event.message.body, (dict, list)):
            with suppress(Exception):  # something in it cannot be copied
                body = event.message.body
                self._bodies.setdefault((event.subscription, id(body)), (body, copy.deepcopy(body)))

    def as_it_was(self, event: Acknowledged) -> Message[Any]:
        _, body = self._bodies.get((event.subscription, id(event.message.body)), (None, event.message.body))
        return event.message.with_body(body)


class Found:
    """What a test is held against."""

    def __init__(self, outcomes: list[Outcome], harness: Harness, bus: Bus, given: Given) -> None:
        self.outcomes = outcomes
        self.messages: dict[str, list[Message[Any]]] = {one.name: [] for one in bus.subscriptions}
        for event in harness.delivered:
            self.messages.setdefault(event.subscription, []).append(given.as_it_was(event))
        for one in bus.subscriptions:
            if one.inbox is not None:  # read by the program, which is not here
                self.messages[one.name] = list(_waiting(one))
        self.dead = [(event.place, event.error, event.exception) for event in harness.dead]
        self.letters = bus.dead_letters.list()
        self.discarded = [event for event in harness.dropped if event.place != PUBLISH]
        told = [event.exception for event in harness.dead] + [event.error for event in harness.refused]
        self.errors = [error for error in harness.errors if not any(error is other for other in told)]

    @property
    def ends(self) -> list[tuple[str | None, str]]:
        """Who has ended a message, and why: where it was published, else where it was handled."""
        ends = [(one.by, one.reason or "") for one in self.outcomes if one.by is not None or one.reason is not None]
        ends += [(event.by, event.reason) for event in self.discarded]
        return ends + [(letter.by, letter.error) for letter in self.letters]


def _waiting(subscription: Subscription) -> Iterator[Message[Any]]:
    """What a reader would get; not what its filters drop."""
    for _ in range(subscription.stats()["pending"]):
        with suppress(ReceiveTimeout):
            yield subscription.receive(timeout=0.0)


def _differences(case: Case, found: Found) -> Iterator[str]:
    """Everything that is not as expected, as a sentence."""

    def at(key: str) -> str:
        return f"{case.file}:{case.lines.get(key, case.line)}: "

    for index, (wanted, outcome) in enumerate(zip(case.outcomes or (), found.outcomes, strict=False)):
        if wanted != outcome.word:
            which = "outcome" if len(found.outcomes) == 1 else f"outcome[{index}]"
            why = f" (by {outcome.by}: {outcome.reason})" if outcome.by else f" ({outcome.reason})" if outcome.reason else ""
            yield at("outcome") + f"{which}: expected {shown(wanted)}, found {shown(outcome.word)}{why}"
    ends = found.ends
    if case.by is not None and not any(by is not None and word(by) == word(case.by) for by, _ in ends):
        others = ", ".join(dict.fromkeys(shown(by) for by, _ in ends if by is not None)) or "nobody"
        yield at("by") + f"by: expected {shown(case.by)}, found {others}"
    if case.reason is not None:
        reasons = [reason for by, reason in ends if case.by is None or (by is not None and word(by) == word(case.by))]
        yield from _best(at("reason"), "reason", case.reason, reasons or [reason for _, reason in ends])
    counts = {name: len(messages) for name, messages in found.messages.items()}
    yield from _counted(at("deliveries"), "deliveries", case.deliveries, counts)
    dead: dict[str, int] = {}
    for place, _, _ in found.dead:
        dead[place] = dead.get(place, 0) + 1
    yield from _counted(at("dead"), "dead", case.dead, dead, {place: error for place, error, _ in reversed(found.dead)})
    if case.error is not None:
        yield from _best(at("error"), "error", case.error, [error for _, error, _ in found.dead])
    if case.dead is None and case.error is None:
        for place, error, _ in found.dead:
            yield f"{case.file}:{case.line}: a message died in {place}: {error} (if it should: dead = {len(found.dead)})"
    for failed in found.errors:
        yield f"{case.file}:{case.line}: {text_of(failed)} (no message died of it)"
    for name, wanted_messages in case.received.items():
        yield from _received(at("received"), name, wanted_messages, found.messages.get(name, []))


def _best(at: str, what: str, wanted: Any, texts: list[str]) -> Iterator[str]:
    """The differences of the text that comes nearest."""
    tries = [list(wanted.differences(text, what)) for text in texts] or [list(wanted.differences(NOTHING, what))]
    for difference in min(tries, key=len):
        yield f"{at}{difference}"


def _counted(
    at: str, what: str, wanted: int | dict[str, int] | None, counts: dict[str, int], errors: Mapping[str, str] | None = None
) -> Iterator[str]:
    errors = errors or {}
    if isinstance(wanted, int):
        total = sum(counts.values())
        if total != wanted:
            each = ", ".join(f"{name} {count}" for name, count in counts.items() if count)
            why = next((f"; {place}: {error}" for place, error in errors.items()), "")
            yield f"{at}{what}: expected {wanted}, found {total}{f' ({each})' if each else ''}{why}"
    for name, count in (wanted if isinstance(wanted, dict) else {}).items():
        if counts.get(name, 0) != count:
            why = f"; {errors[name]}" if name in errors else ""
            yield f"{at}{what}.{name}: expected {count}, found {counts.get(name, 0)}{why}"


def _received(at: str, name: str, wanted: list[dict[str, Any]], messages: list[Message[Any]]) -> Iterator[str]:
    if len(wanted) != len(messages):
        count = f"{len(wanted)} message{'' if len(wanted) == 1 else 's'}"
        yield f"{at}received.{name}: expected {count}, found {len(messages)}{_bodies(messages)}"
        return
    for index, (expected, message) in enumerate(zip(wanted, messages, strict=True)):
        path = f"received.{name}" if len(wanted) == 1 else f"received.{name}[{index}]"
        for key, one in expected.items():
            for difference in one.differences(_field(message, key), f"{path}.{key}"):
                yield f"{at}{difference}"


def _bodies(messages: list[Message[Any]]) -> str:
    shown = [f"{message.subject} {told(_field(message, 'body'))}" for message in messages[:SHOWN]]
    return (": " if shown else "") + "; ".join(shown) + ("; …" if len(messages) > SHOWN else "")


def _field(message: Message[Any], key: str) -> Any:
    if key == "body":
        try:
            return plain(message.body)
        except ValueError:  # it is no data, and equal to none
            return message.body
    if key == "headers":
        return dict(message.headers)
    return str(message.subject) if key == "subject" else getattr(message, key)


__all__ = ["FileTest", "Result", "file_tests"]
