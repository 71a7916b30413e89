"""
abxbus: events are pydantic models with a history and results; one event after the other is handled on an event loop.

Its middlewares see events change their state and do not pass them on, so it has no chain of filters.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from contextlib import asynccontextmanager
from typing import Any

from harness import SUBJECT, Guarantees
from loop_clocks import ACrowd, AHandler, APublish

WORDS = "typed events with results, time-outs and a history; one event at a time on a bus"
GUARANTEES = Guarantees(WORDS, "yes", "isolated, kept", "no", "yes, of all", package="abxbus")
MOST = 1_000  # messages: each takes about a millisecond, and longer the more subjects there are
SUBJECTS = 100


def open_bus() -> Any:
    """A bus that remembers only events in flight: by default it refuses more than 100."""
    from abxbus import EventBus

    return EventBus(max_history_size=0, warn_on_duplicate_handler_names=False)


def event_type(subject: str) -> Any:
    """An event class for a subject, named as events must be: an identifier."""
    from abxbus import BaseEvent

    name = subject.replace(".", "_")
    return type(name, (BaseEvent,), {"__annotations__": {"body": Any}, "__module__": __name__})


@asynccontextmanager
async def open_crowd(crowd: ACrowd) -> AsyncIterator[APublish]:
    """Handlers of event classes; `emit` puts an event into the queue of the bus."""
    bus = open_bus()
    events = {subject: event_type(subject) for subject, _ in crowd}
    for subject, handle in crowd:
        bus.on(events[subject], handle)

    async def publish(subject: str, body: Any) -> None:
        bus.emit(events[subject](body=body))

    yield publish
    await bus.wait_until_idle()
    await bus.destroy()


def open_flow(filters: Sequence[Any], handle: AHandler) -> Any:
    """One handler."""
    return open_crowd([(SUBJECT, handle)])


@asynccontextmanager
async def open_requests(answer: Callable[[Any], Awaitable[Any]]) -> AsyncIterator[Callable[[Any], Awaitable[Any]]]:
    """An event's result is what its handler returned."""
    bus = open_bus()
    question = event_type(SUBJECT)
    bus.on(question, answer)

    async def ask(body: Any) -> Any:
        event = await bus.emit(question(body=body)).now()
        return await event.event_result()

    yield ask
    await bus.destroy()
