"""pykka: an actor is a thread with a queue; messages go by `tell`, questions by `ask`. It has no filters and no subjects."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import cache
from typing import Any

from clocks import Crowd
from harness import SUBJECT, Flow, Guarantees, Handler
from lives import Host, Tally
from simplest import Message

GUARANTEES = Guarantees("a thread and a queue.Queue an actor", "yes", "end its actor", "no", "yes", package="pykka")
MOST = 1_000  # actors, for each has a thread
TIMEOUT = 5.0


@cache
def member() -> Any:
    """The class of an actor that does one thing with each message."""
    import pykka

    class Member(pykka.ThreadingActor):
        def __init__(self, act: Callable[[Any], Any]) -> None:
            super().__init__()
            self.act = act

        def on_receive(self, message: Any) -> Any:
            return self.act(message)

    return Member


def stop() -> None:
    """End all actors when they have handled their messages."""
    from pykka import ActorRegistry

    ActorRegistry.stop_all()


def open_flow(filters: Sequence[Any], handle: Handler) -> Flow:
    """One actor, mailed by reference."""
    tell = member().start(handle).tell
    return Flow(lambda subject, body: tell(Message(subject, body)), stop)


def open_crowd(crowd: Crowd) -> Flow:
    """Actors by subject, in a dict of the program's own."""
    start = member().start
    members: dict[str, list[Any]] = {}
    for subject, handle in crowd:
        members.setdefault(subject, []).append(start(handle))

    def publish(subject: str, body: Any) -> None:
        message = Message(subject, body)
        for member in members[subject]:
            member.tell(message)

    return Flow(publish, stop)


def open_requests(answer: Callable[[Any], Any]) -> tuple[Callable[[Any], Any], Callable[[], Any]]:
    """One actor that is asked."""
    ask = member().start(answer).ask
    return lambda body: ask(Message(SUBJECT, body), timeout=TIMEOUT), stop


def open_host(tally: Tally) -> Host:
    """Actors that are mailed by reference; one that is stopped is waited for."""

    def act(message: Message) -> None:
        tally.seen()

    def add(subject: str) -> tuple[Any, Any]:
        reference = member().start(act)
        return reference, reference

    def publish(reference: Any, body: Any) -> None:
        reference.tell(Message("", body))

    return Host(add, publish, lambda reference: reference.stop(), stop)
