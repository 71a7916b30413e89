"""What happened in a test of a config file."""

import copy
from collections.abc import Iterator
from contextlib import suppress
from typing import Any, NamedTuple

from pipebus.bus.bus import Bus
from pipebus.delivery.subscription import Subscription
from pipebus.errors import ReceiveTimeout, Rejected
from pipebus.events import Acknowledged, Published, Taken
from pipebus.foreign.objects import text_of
from pipebus.message.message import Message
from pipebus.message.outcomes import Dropped
from pipebus.testing.harness.harness import Harness
from pipebus.testing.harness.tape import Tape


class Outcome(NamedTuple):
    """The outcome of one publish."""

    word: str
    by: str | None = None
    reason: str | None = None


def published(harness: Harness, bus: Bus, subject: str, body: Any, options: dict[str, Any]) -> Outcome:
    try:
        outcome = bus.publish(subject, body, **{key: value for key, value in options.items() if value is not None})
    except Exception as error:
        by = next((event.by for event in reversed(harness.refused) if event.error is error), None)
        return Outcome("rejected" if isinstance(error, Rejected) else "failed", *_refusal(error, by))
    if isinstance(outcome, Dropped):
        return Outcome("dropped", outcome.by, outcome.reason)
    return Outcome("accepted" if outcome.mailboxes else "unrouted")


def _refusal(error: BaseException, by: str | None) -> tuple[str | None, str]:
    """Which filter refused a message, and why."""
    return (error.by, "; ".join(error.reasons)) if isinstance(error, Rejected) else (by, text_of(error))


class Given:
    """
    Bodies as they were when their message was published, or their delivery began, because a handler may change its body.

    Attributes:
        published: What passed the publish chain.
    """

    def __init__(self, tape: Tape) -> None:
        self._tape = tape
        self.published: list[Message[Any]] = []
        self._bodies: dict[tuple[str, int], tuple[Any, Any]] = {}  # (subscription, id): the body, kept alive, and a copy

    def see(self, event: Any) -> None:
        if isinstance(event, Published):
            message = self._tape.accepted[-1]
            with suppress(Exception):  # it cannot be copied
                message = message.with_body(copy.deepcopy(message.body))
            self.published.append(message)
        if isinstance(event, Taken) and isinstance(event.message.body, (dict, list)):
            with suppress(Exception):  # it cannot be copied
                body = event.message.body
                self._bodies.setdefault((event.subscription, id(body)), (body, copy.deepcopy(body)))

    def as_it_was(self, event: Acknowledged) -> Message[Any]:
        _, body = self._bodies.get((event.subscription, id(event.message.body)), (None, event.message.body))
        return event.message.with_body(body)


class Found:
    """What happened, for comparison with what a test expects."""

    def __init__(self, outcomes: list[Outcome], harness: Harness, bus: Bus, given: Given) -> None:
        self.outcomes = outcomes
        self.published = given.published
        self.messages: dict[str, list[Message[Any]]] = {one.name: [] for one in bus.subscriptions}
        for event in harness.delivered:
            self.messages.setdefault(event.subscription, []).append(given.as_it_was(event))
        for one in bus.subscriptions:
            if one.inbox is not None:  # the program would read it, and it is not running
                self.messages[one.name] = list(_waiting(one))
        self.dead = [(event.place, event.error) for event in harness.dead]
        self.letters = bus.dead_letters.list()
        self.discarded = harness.dropped
        self.refused = harness.refused
        known = [event.exception for event in harness.dead] + [event.error for event in harness.refused]
        self.errors = [error for error in harness.errors if not any(error is other for other in known)]

    @property
    def ends(self) -> list[tuple[str | None, str]]:
        """What ended messages, and why: those of the test first, then those of schedules and handlers."""
        ends = [(one.by, one.reason or "") for one in self.outcomes if one.by is not None or one.reason is not None]
        ends += [(event.by, event.reason) for event in self.discarded]
        ends += [_refusal(event.error, event.by) for event in self.refused]
        return ends + [(letter.by, letter.error) for letter in self.letters]


def _waiting(subscription: Subscription) -> Iterator[Message[Any]]:
    """The messages that a reader would get, without those that its filters drop."""
    for _ in range(subscription.stats()["pending"]):
        with suppress(ReceiveTimeout):
            yield subscription.receive(timeout=0.0)
